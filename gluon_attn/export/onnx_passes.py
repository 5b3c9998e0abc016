"""ONNX graphs as the plain ones that every engine reads.

MXNet's exporter writes what MXNet computes, operator by operator. Some of that runs in few engines:
shapes that are read from tensors while the net runs, sums of many terms, sums over the parts of a
split (which is how the blocks of this package run fast), exponentials that overflow in place of a
softmax. So the graph is rewritten in two steps: what no image changes
becomes a constant (:func:`gluon_attn.export.onnx_graph.fold`), then small rules replace nodes by
plainer ones (:meth:`gluon_attn.export.onnx_graph.Graph.rewrite`). They are here.

Weights keep their names and numbers, and no rule looks at the numbers of a weight: the graph
depends on the net's structure alone. General simplifiers (onnxsim, onnxoptimizer) do neither step:
with a free batch size shapes are no constants to them, and they do not know such sums.

Legend: B batch, C channels, H W map size.
"""

from __future__ import annotations

from typing import Any, Iterable, NamedTuple

import numpy as np

from gluon_attn.export.onnx_graph import (
    BATCH,
    END,
    Graph,
    Result,
    Shape,
    fold,
    has_loops,
    infer,
    refill,
)

ROUNDING = 1e-6  # of a factor
ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"}  # of two, broadcast
VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}  # the same numbers in another shape
PAIRED = {"Sum": "Add", "Max": "Max", "Min": "Min"}
GLOBAL_POOLS = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}
NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}


def make_plain(onnx: Any, model: Any, weights: Iterable[str]) -> None:
    """Rewrite a model whose batch size is free in place, and enter the shapes of its tensors.

    ``weights`` names the initializers that are parameters of the net. An ExportError if ONNX
    Runtime does not take the model.
    """
    if has_loops(onnx, model):
        return
    graph = Graph(onnx, model, weights)
    fold(graph)
    graph.prune()
    graph.rewrite(RULES)
    graph.write()
    _record_shapes(graph)


def _record_shapes(graph: Graph) -> None:
    """Enter type and shape of every tensor, so that a reader need not infer them."""
    values = infer(graph.onnx, graph.model, strict_mode=True, data_prop=True).graph.value_info
    for value in values:
        shape, kind = graph.shapes[value.name], value.type.tensor_type.elem_type
        if None not in shape:  # onnx itself does not know the sizes behind some operators
            value.CopyFrom(graph.onnx.helper.make_tensor_value_info(value.name, kind, shape))
    refill(graph.model.graph, value_info=values)


def leave_out(graph: Graph, node: Any) -> Result:
    """Leave out what does nothing."""
    x, single = node.input[0], len(node.input) == 1
    if node.op_type == "Cast":
        nothing = graph.attribute(node, "to") == graph.types.get(x)
    else:
        nothing = node.op_type == "Identity" or (single and node.op_type in ("Concat", *PAIRED))
    return x if nothing else None


def pairs(graph: Graph, node: Any) -> Result:
    """Write sums and maxima of many terms as those of two: some engines read no more."""
    op, terms = PAIRED.get(node.op_type), list(node.input)
    if op is None or (len(terms) == 2 and op == node.op_type):
        return None
    shape = graph.shapes[node.output[0]]
    made: list[Any] = []
    terms.sort(key=lambda term: graph.shapes[term] != shape)  # those that are broadcast come last
    if graph.shapes[terms[0]] != shape:
        return None
    for number, term in enumerate(terms[1:], 2):
        total = made[-1].output[0] if made else terms[0]
        output = node.output[0] if number == len(terms) else ""
        made.append(graph.node(op, [total, term], shape, output))
    return made


def join_views(graph: Graph, node: Any) -> Result:
    """Write a chain of reshapes as one Flatten or Reshape with fixed sizes, or as none."""
    if node.op_type not in VIEWS:
        return None
    shape, chain = graph.shapes[node.output[0]], _chain(graph, node.input[0])
    same = next((name for name in chain if graph.shapes[name] == shape), None)
    if same and None not in shape:
        return same
    new = _view(graph, chain[-1], shape, node.output[0])
    if new is None or (new.op_type == node.op_type and new.input == node.input):
        return None
    return [new]


def _chain(graph: Graph, name: str) -> list[str]:
    """Return a tensor and those that it is a view of, as far as their first axis is the batch."""
    names, made = [name], graph.producer(name)
    while made.op_type in VIEWS and graph.shapes[made.input[0]][:1] == (BATCH,):
        names.append(made.input[0])
        made = graph.producer(names[-1])
    return names


def _view(graph: Graph, name: str, shape: Shape, output: str = "") -> Any:
    """Return a node that gives a tensor another shape; None if the batch is not its first axis."""
    rows, sizes = shape[:1], shape[1:]
    if rows != (BATCH,) or graph.shapes[name][:1] != rows:
        return None
    if any(not isinstance(size, int) for size in sizes):
        return None
    if len(sizes) == 1:
        return graph.node("Flatten", [name], shape, output)
    target = graph.constant(np.array([0, *sizes], np.int64), "shape")
    return graph.node("Reshape", [name, target], shape, output)


def pool_globally(graph: Graph, node: Any) -> Result:
    """Write the mean or the maximum of each channel as pooling."""
    op = GLOBAL_POOLS.get(node.op_type)
    axes, rank = graph.attribute(node, "axes"), len(graph.shapes[node.input[0]])
    if op is None or axes is None or rank not in (3, 4):
        return None
    x, whole = _map_of(graph, node.input[0]), list(range(2, rank))
    return _pooled(graph, op, x, node) if x and sorted(k % rank for k in axes) == whole else None


def _map_of(graph: Graph, x: str) -> str | None:
    """Return the map (B, C, H, W) that ``x`` is, or is the view (B, C, HW) of; None if neither."""
    root = _chain(graph, x)[-1]
    for name in (x, root):
        if len(graph.shapes[name]) == 4 and graph.shapes[name][:2] == graph.shapes[x][:2]:
            return name
    return None


def _pooled(graph: Graph, op: str, x: str, node: Any) -> Result:
    """Return nodes that pool the map ``x`` and give the result the shape of ``node``."""
    output, pooled = node.output[0], (*graph.shapes[x][:2], 1, 1)
    wanted = graph.shapes[output]
    made = [graph.node(op, [x], pooled, output if wanted == pooled else "")]
    if wanted != pooled:
        made.append(_view(graph, made[0].output[0], wanted, output))
    return None if None in made else made


def broadcast(graph: Graph, node: Any) -> Result:
    """Let an elementwise operator broadcast, in place of repeating its operand before it."""
    if node.op_type not in ELEMENTWISE or len(node.input) != 2:
        return None
    whole = graph.shapes[node.output[0]]
    for position, name in enumerate(node.input):
        other = node.input[1 - position]
        small = _unrepeated(graph, name)
        if small and graph.shapes[other] == whole and None not in whole:
            inputs = [small, other] if position == 0 else [other, small]
            return [graph.node(node.op_type, inputs, whole, node.output[0])]
    return None


def _unrepeated(graph: Graph, name: str) -> str:
    """Return the tensor that ``name`` repeats along axes of size 1, or ''."""
    made = graph.producer(name)
    if made.op_type == "Expand":
        return made.input[0]
    times = graph.numbers(made.input[1]) if made.op_type == "Tile" else None
    if times is None or not all(1 in pair for pair in zip(times, graph.shapes[made.input[0]])):
        return ""
    return made.input[0]


def shrink_constant(graph: Graph, node: Any) -> Result:
    """Write a constant all of whose numbers are the same as one number; leave out + 0 and * 1."""
    if node.op_type not in ELEMENTWISE or len(node.input) != 2:
        return None
    for position, name in enumerate(node.input):
        value, other = graph.uniform(name), node.input[1 - position]
        if value is None or graph.shapes[other] != graph.shapes[node.output[0]]:
            continue
        commutes = node.op_type in ("Add", "Mul")
        if value == NEUTRAL.get(node.op_type) and (commutes or position == 1):
            return other
        array = graph.constants[name]
        if array.size > 1:
            number = graph.constant(array.reshape(-1)[:1], f"{name}_number")
            inputs = [number, other] if position == 0 else [other, number]
            return [graph.node(node.op_type, inputs, graph.shapes[other], node.output[0])]
    return None


def square(graph: Graph, node: Any) -> Result:
    """Write a square as a product: few engines take the exporter's exponent, an integer."""
    if node.op_type != "Pow" or graph.uniform(node.input[1]) != 2:
        return None
    x, shape = node.input[0], graph.shapes[node.output[0]]
    return [graph.node("Mul", [x, x], shape, node.output[0])] if graph.shapes[x] == shape else None


def softmax(graph: Graph, node: Any) -> Result:
    """Write exp(x) / sum(exp(x)), which overflows, as a softmax."""
    if node.op_type != "Div":
        return None
    power, total = (graph.producer(name) for name in node.input)
    if power.op_type != "Exp" or total.op_type != "ReduceSum" or total.input[0] != node.input[0]:
        return None
    axes = axes_of(graph, total)
    if axes is None or len(axes) != 1 or not graph.attribute(total, "keepdims", 1):
        return None
    x, output = power.input[0], node.output[0]
    shape = graph.shapes[x]
    axis, last = axes[0] % len(shape), len(shape) - 1
    if axis == last or graph.opset >= 13:
        return [graph.node("Softmax", [x], shape, output, axis=axis)]
    order = list(range(len(shape)))  # before operator set 13 a softmax takes all axes from one on
    order[axis], order[last] = last, axis
    turned = tuple(shape[k] for k in order)
    before = graph.node("Transpose", [x], turned, perm=order)
    middle = graph.node("Softmax", before.output, turned, axis=last)
    return [before, middle, graph.node("Transpose", middle.output, shape, output, perm=order)]


def shorten_slice(graph: Graph, node: Any) -> Result:
    """Leave out the axes of which a slice takes everything."""
    if node.op_type != "Slice":
        return None
    found = [graph.numbers(name) for name in node.input[1:]]
    vectors = [vector for vector in found if vector is not None]
    if len(vectors) < len(found):
        return None
    count = len(vectors[0])
    vectors += [np.arange(count), np.ones(count, np.int64)][len(vectors) - 2 :]
    kept = []
    for entry in np.stack(vectors, axis=1).astype(np.int64).tolist():
        start, end, axis, step = entry
        size = graph.shapes[node.input[0]][axis]
        if start or step != 1 or end < (size if isinstance(size, int) else END):
            kept.append(entry)
    if not kept:
        return node.input[0]
    if len(kept) == count:
        return None
    inputs = [graph.constant(np.array(vector), "slice") for vector in zip(*kept)]
    shape = graph.shapes[node.output[0]]
    return [graph.node("Slice", [node.input[0], *inputs], shape, node.output[0])]


def resize_by_scales(graph: Graph, node: Any) -> Result:
    """Give a Resize its scales in place of sizes, among which would be the batch size."""
    if node.op_type != "Resize" or len(node.input) < 4:
        return None
    sizes, shape = graph.numbers(node.input[3]), graph.shapes[node.input[0]]
    if sizes is None or shape[0] != BATCH or None in shape:
        return None
    scales = np.ones(len(shape), np.float32)
    for axis in range(1, len(shape)):
        scales[axis] = sizes[axis] / shape[axis]
        if int(scales[axis] * np.float32(shape[axis])) < sizes[axis]:  # engines cut off as well
            scales[axis] = np.nextafter(scales[axis], np.float32(np.inf))
    inputs = [*node.input[:2], graph.constant(scales, "scales")]
    new = graph.node("Resize", inputs, graph.shapes[node.output[0]], node.output[0])
    new.attribute.extend(node.attribute)
    return [new]


def axes_of(graph: Graph, node: Any) -> list[int] | None:
    """Return the axes of a reduction, an attribute or an input; None if it has none."""
    axes = graph.attribute(node, "axes")
    if axes is None and len(node.input) > 1:
        axes = graph.numbers(node.input[1])
    return None if axes is None else [int(axis) for axis in axes]


def reduce_channels(graph: Graph, node: Any) -> Result:
    """Write sums and maxima over the parts of a split, which train fast, as reductions.

    On a CPU maxima and means over the channels train fast if a map is split into parts, which are
    compared and added elementwise, as the blocks of this package do.
    Parts of several channels are followed by a reduction of their own, and sums may be divided.
    """
    output, op = node.output[0], node.op_type
    _note(graph, node)
    if op in ("Add", "Max"):
        x, count = _whole(graph, output, op)
        alone = count > 1 and graph.shapes[output][1] == 1
        return [_reduced(graph, "Sum" if op == "Add" else "Max", x, output)] if alone else None
    if op in ("Mul", "Div"):
        total, factor = _scaled(graph, node)
        made = graph.producer(total)
        if made.op_type != "ReduceSum" or not _over_channels(graph, made):
            return None
        x = made.input[0]
        is_mean = abs(factor * graph.shapes[x][1] - 1) < ROUNDING
        return [_reduced(graph, "Mean", x, output)] if is_mean else None
    if op not in ("ReduceMax", "ReduceMean", "ReduceSum") or not _over_channels(graph, node):
        return None
    name, factor = node.input[0], 1.0
    if graph.shapes[name][1] == 1:
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
    """A tensor that is made from parts of another one."""

    x: str  # name of the other, which is split along its channels
    parts: int  # into how many parts of the same size
    numbers: frozenset[int]  # which of them
    op: str  # what joins them, Add or Max; '' for a single one


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
            graph.notes[node.output[0]] = Parts(left.x, left.parts, numbers, node.op_type)


def _whole(graph: Graph, name: str, op: str) -> tuple[str, int]:
    """Return ``(x, count)``: the tensor is ``op`` of all ``count`` parts of ``x`` along axis 1."""
    whole, parts = 1, graph.notes.get(name)
    while parts is not None and parts.op in ("", op) and len(parts.numbers) == parts.parts:
        whole, name = whole * parts.parts, parts.x
        parts = graph.notes.get(name)
    return name, whole


def _reduced(graph: Graph, kind: str, x: str, output: str) -> Any:
    shape = (graph.shapes[x][0], 1, *graph.shapes[x][2:])
    if kind == "Sum" and graph.opset >= 13:
        axes = graph.constant(np.array([1], np.int64), "channels")
        return graph.node("ReduceSum", [x, axes], shape, output, keepdims=1)
    return graph.node(f"Reduce{kind}", [x], shape, output, keepdims=1, axes=[1])


RULES = (
    leave_out, pairs, join_views, pool_globally, broadcast, shrink_constant,
    square, softmax, reduce_channels, shorten_slice, resize_by_scales,
)  # fmt: skip
