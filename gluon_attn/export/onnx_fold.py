"""What does not depend on the numbers of the images becomes a constant of an ONNX graph.

The net is run in ONNX Runtime at two batch sizes. That tells the shape of every tensor, and the
value of everything that is computed from shapes. What differs between the two runs depends on the
batch size; it becomes a constant where the node that reads it takes one for all batch sizes.
"""

from __future__ import annotations

import collections
from typing import Any, Sequence

import numpy as np

from gluon_attn.export.backends import open_onnx_session
from gluon_attn.export.onnx_graph import BATCH, Graph, Shape
from gluon_attn.export.symbol import INPUT

BATCHES = (1, 2)  # sizes at which the net is looked at
END = 2**31 - 1  # end of a slice: wherever the tensor ends

BROADCASTING = {
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Where", "Equal", "Less", "Greater",
    "And", "Or", "PRelu",
}  # fmt: skip
SHAPE_READERS = {"Shape", "Size"}
RANDOM = {"RandomUniform", "RandomNormal", "RandomUniformLike", "RandomNormalLike", "Multinomial"}


def fold(graph: Graph) -> None:
    """Let nodes read constants in place of values that are the same for all images.

    Also enters the shapes of all tensors.

    Raises:
        ExportError: ONNX Runtime does not take the model.
        ImportError: onnxruntime is not installed.
    """
    fixed, derived = _fixed(graph)
    readers = collections.defaultdict(list)
    for node in graph.nodes:
        if not fixed & set(node.output):
            for position, name in enumerate(node.input):
                if name in fixed:
                    readers[name].append((node, position))
    found = _run(graph, list(readers))
    for name, places in readers.items():
        first, second = found[name]
        for node, position in places:
            value = _for_all_batches(graph, node, position, first, second)
            if value is not None:
                node.input[position] = graph.constant(value, f"{name}_value", name in derived)
            elif _same_rows(first, second) and first.dtype == np.float32:
                _fill(graph, node, position, first, fixed, name in derived)


def _fixed(graph: Graph) -> tuple[set[str], set[str]]:
    """Return the names of tensors that no image changes, and of those computed from weights."""
    varying, fixed, derived = {INPUT}, set(), set()
    for node in graph.nodes:
        read, shape_only = set(node.input), node.op_type in SHAPE_READERS
        if node.op_type in RANDOM or (varying & read and not shape_only):
            varying.update(node.output)
            continue
        fixed.update(node.output)
        if (graph.weights | derived) & read and not shape_only:
            derived.update(node.output)
    return fixed, derived


def _run(graph: Graph, wanted: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Return the values of ``wanted`` at both batch sizes, and enter all shapes."""
    probe = graph.onnx.ModelProto()
    probe.CopyFrom(graph.model)
    tensors = [INPUT, *(name for node in graph.nodes for name in node.output if name)]
    sizes = {graph.name(f"{name}_shape"): name for name in tensors}
    for output, name in sizes.items():
        probe.graph.node.append(graph.onnx.helper.make_node("Shape", [name], [output]))
    names = [*wanted, *sizes]
    probe.graph.ClearField("output")
    probe.graph.output.extend(graph.onnx.ValueInfoProto(name=name) for name in names)
    session = open_onnx_session(probe.SerializeToString(), optimize=False)
    image = [d.dim_value for d in graph.model.graph.input[0].type.tensor_type.shape.dim[1:]]
    runs = [session.run(names, {INPUT: np.zeros((b, *image), np.float32)}) for b in BATCHES]
    found = {name: [run[k] for run in runs] for k, name in enumerate(names)}
    for output, name in sizes.items():
        first, second = (value.tolist() for value in found.pop(output))
        graph.shapes[name] = tuple(map(_dimension, first, second))
    return found


def _dimension(first: int, second: int) -> int | str | None:
    return first if first == second else BATCH if (first, second) == BATCHES else None


def _for_all_batches(
    graph: Graph, node: Any, position: int, first: np.ndarray, second: np.ndarray
) -> np.ndarray | None:
    """Return what a node may read in place of a value at any batch size, or None.

    Args:
        graph: The graph.
        node, position: Who reads it, and as which input.
        first, second: The value at the two batch sizes.
    """
    if first.shape == second.shape and np.array_equal(first, second):
        return first
    shapes = [graph.shapes.get(name, ()) for name in node.input]
    if node.op_type in BROADCASTING or (node.op_type == "MatMul" and first.ndim > 2):
        # one row serves, if another operand says how many there are
        others = shapes[:position] + shapes[position + 1 :]
        given = any(len(shape) == first.ndim and shape[0] == BATCH for shape in others)
        return first if given and _same_rows(first, second) else None
    if first.shape != second.shape or first.ndim != 1:
        return None
    (places,) = np.nonzero(first != second)
    axes = _axes_of_entries(graph, node, len(first), shapes[0])
    batch = [k for k in places if axes and shapes[0][axes[k]] == BATCH]
    batch = [k for k in batch if (first[k], second[k]) == BATCHES]
    value, role = first.copy(), (node.op_type, position)
    if role == ("Reshape", 1) and len(places) == 1 and -1 not in first:
        value[places] = 0 if len(batch) == 1 else -1  # 0: as in the input
        return value
    if len(batch) < len(places):
        return None
    if role == ("Slice", 2):
        value[places] = END
        return value
    # Expanded to one row a batch stays as it is; for sizes see the rule for Resize.
    return value if role in (("Expand", 1), ("Resize", 3)) else None


def _axes_of_entries(graph: Graph, node: Any, count: int, shape: Shape) -> list[int]:
    """Return which axis of ``shape`` each entry of a vector of sizes is about; [] if unknown."""
    axes = list(range(count))
    if node.op_type == "Slice" and len(node.input) > 3:
        given = graph.numbers(node.input[3])
        axes = [] if given is None else [int(axis) % len(shape) for axis in given]
    elif node.op_type == "Expand":  # aligned at the last axis; an axis that is new is unknown
        axes = [axis - count + len(shape) for axis in axes]
    return axes if all(0 <= axis < len(shape) for axis in axes) else []


def _same_rows(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether a value is a batch of equal rows."""
    return first.shape == (1, *second.shape[1:]) and bool((first == second).all())


def _fill(
    graph: Graph, node: Any, position: int, row: np.ndarray, fixed: set[str], weight: bool
) -> None:
    """Let a node read a batch of equal rows: some tensor of that shape clipped to 0, plus the row.

    Args:
        graph: The graph.
        node, position: Who reads it, and as which input.
        row: ``(1, …)``.
        fixed: Names of tensors that no image changes.
        weight: Whether the row was computed from weights.
    """
    at = next(k for k, other in enumerate(graph.nodes) if other is node)
    names = (name for other in graph.nodes[:at] for name in other.output if name not in fixed)
    shape = (BATCH, *row.shape[1:])
    anchor = next((name for name in names if graph.shapes[name] == shape), None)
    if anchor is not None:
        zero = graph.constant(np.zeros((), np.float32), "zero")
        zeros = graph.node("Clip", [anchor, zero, zero], shape)
        constant = graph.constant(row, f"{node.input[position]}_row", weight)
        rows = graph.node("Add", [zeros.output[0], constant], shape)
        graph.nodes[at:at] = [zeros, rows]
        node.input[position] = rows.output[0]
