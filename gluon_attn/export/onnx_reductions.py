"""The rule for reductions over channels; see :mod:`gluon_attn.export.onnx_plain`.

Maxima and means over the channels train fast on a CPU if a map is split into parts, which are
compared and added elementwise (:func:`gluon_attn.blocks.gates.pool_channels`, for instance). In other
engines one reduction is as fast, and it is what they know.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gluon_attn.export.onnx_graph import Graph, Result

ROUNDING = 1e-6  # of a factor


def axes_of(graph: Graph, node: Any) -> list[int] | None:
    """Return the axes of a reduction, an attribute or an input; None if it has none."""
    axes = graph.attribute(node, "axes")
    if axes is None and len(node.input) > 1:
        axes = graph.numbers(node.input[1])
    return None if axes is None else [int(axis) for axis in axes]


def reduce_channels(graph: Graph, node: Any) -> Result:
    """Write sums and maxima over the parts of a split, which train fast, as reductions.

    Parts of several channels are followed by a reduction of their own, and sums may be divided.
    """
    output, op = node.output[0], node.op_type
    _note(graph, node)
    if op in ("Add", "Max"):
        x, count = _whole(graph, output, op)
        alone = count > 1 and graph.shape(output)[1] == 1
        return [_reduced(graph, "Sum" if op == "Add" else "Max", x, output)] if alone else None
    if op in ("Mul", "Div"):
        total, factor = _scaled(graph, node)
        made = graph.producer(total)
        if made.op_type != "ReduceSum" or not _over_channels(graph, made):
            return None
        x = made.input[0]
        is_mean = abs(factor * graph.shape(x)[1] - 1) < ROUNDING
        return [_reduced(graph, "Mean", x, output)] if is_mean else None
    if op not in ("ReduceMax", "ReduceMean", "ReduceSum") or not _over_channels(graph, node):
        return None
    name, factor = node.input[0], 1.0
    if graph.shape(name)[1] == 1:
        return name
    if op == "ReduceMean":
        name, factor = _scaled(graph, graph.producer(name), name)
    x, count = _whole(graph, name, "Max" if op == "ReduceMax" else "Add")
    if count == 1 or (op == "ReduceMean" and abs(factor * count - 1) > ROUNDING):
        return None
    return [_reduced(graph, op[len("Reduce") :], x, output)]


def _over_channels(graph: Graph, node: Any) -> bool:
    """Return whether a reduction is one over the channels that keeps their axis."""
    return axes_of(graph, node) == [1] and graph.attribute(node, "keepdims", 1) == 1


def _scaled(graph: Graph, node: Any, name: str = "") -> tuple[str, float]:
    """Return ``(tensor, factor)`` of a product or quotient with a number; else ``(name, 1)``."""
    if node.op_type not in ("Mul", "Div"):
        return name, 1.0
    left, right = (graph.uniform(term) for term in node.input)
    if right is not None:
        return node.input[0], right if node.op_type == "Mul" else 1 / (right or np.inf)
    return (node.input[1], left) if left is not None and node.op_type == "Mul" else (name, 1.0)


class Parts(NamedTuple):
    """A tensor that is made from parts of another one.

    Attributes:
        x: Name of the other, which is split along its channels.
        count: Into how many parts of the same size.
        numbers: Which of them.
        op: What joins them, Add or Max; '' for a single one.
    """

    x: str
    count: int
    numbers: frozenset[int]
    op: str


def _note(graph: Graph, node: Any) -> None:
    """Remember what the outputs of a node are made from."""
    if node.op_type == "Split":
        sizes = graph.attribute(node, "split")  # an input from operator set 13 on
        if graph.attribute(node, "axis", 0) == 1 and sizes is None and len(node.input) == 1:
            for number, name in enumerate(node.output):
                parts = Parts(node.input[0], len(node.output), frozenset([number]), "")
                graph.notes[name] = parts
    elif node.op_type in ("Add", "Max") and len(node.input) == 2:
        left, right = (graph.notes.get(name) for name in node.input)
        if left is None or right is None or left[:2] != right[:2]:
            return
        if {left.op, right.op} <= {"", node.op_type} and not left.numbers & right.numbers:
            numbers = left.numbers | right.numbers
            graph.notes[node.output[0]] = Parts(left.x, left.count, numbers, node.op_type)


def _whole(graph: Graph, name: str, op: str) -> tuple[str, int]:
    """Return ``(x, count)``: the tensor is ``op`` of all ``count`` parts of ``x`` along axis 1."""
    whole, parts = 1, graph.notes.get(name)
    while parts is not None and parts.op in ("", op) and len(parts.numbers) == parts.count:
        whole, name = whole * parts.count, parts.x
        parts = graph.notes.get(name)
    return name, whole


def _reduced(graph: Graph, kind: str, x: str, output: str) -> Any:
    """Return the node that reduces the channels of ``x``."""
    shape = (graph.shape(x)[0], 1, *graph.shape(x)[2:])
    if kind == "Sum" and graph.opset >= 13:
        axes = graph.constant(np.array([1], np.int64), "channels")
        return graph.node("ReduceSum", [x, axes], shape, output, keepdims=1)
    return graph.node(f"Reduce{kind}", [x], shape, output, keepdims=1, axes=[1])
