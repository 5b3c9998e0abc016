"""Rules that replace nodes of an ONNX graph by plainer ones; see :mod:`.onnx_plain`.

Each is a function of a :class:`gluon_attn.export.onnx_plain.Rewriter` and a node. The numbers stay
the same up to rounding.

Legend: B batch, C channels, H W map size.
"""

from __future__ import annotations

from typing import Any, List, Optional, Set, Tuple, Union

import numpy as np

from gluon_attn.export.onnx_plain import BATCH, ELEMENTWISE, END, Rewriter, Shape

VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}  # the same numbers in another shape
PAIRED = {"Sum": "Add", "Max": "Max", "Min": "Min"}
GLOBAL_POOLS = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}
NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
ROUNDING = 1e-6  # of a factor

Result = Union[None, str, List[Any]]


def identity(graph: Rewriter, node: Any) -> Result:
    """Leave out what does nothing."""
    x, single = node.input[0], len(node.input) == 1
    if node.op_type == "Cast":
        same = graph.attribute(node, "to") == graph.graph.types.get(x)
    else:
        same = node.op_type == "Identity" or (single and node.op_type in ("Concat", *PAIRED))
    return x if same else None


def pairs(graph: Rewriter, node: Any) -> Result:
    """Write sums and maxima of many terms as those of two; OpenCV reads no more than two."""
    op, terms = PAIRED.get(node.op_type), list(node.input)
    if op is None or (len(terms) == 2 and op == node.op_type):
        return None
    shape, made = graph.shape(node.output[0]), []
    terms.sort(key=lambda term: graph.shape(term) != shape)  # those that are broadcast come last
    if graph.shape(terms[0]) != shape:
        return None
    total = terms[0]
    for number, term in enumerate(terms[1:], 2):
        output = node.output[0] if number == len(terms) else ""
        made.append(graph.make(op, [total, term], shape, output))
        total = made[-1].output[0]
    return made


def view(graph: Rewriter, node: Any) -> Result:
    """Join a chain of reshapes to one Flatten or Reshape with fixed sizes, or to none."""
    if node.op_type not in VIEWS:
        return None
    root, output = _root(graph, node.input[0]), node.output[0]
    shape = graph.shape(output)
    if graph.shape(root) == shape and None not in shape:
        return root
    new = _viewed(graph, root, shape, output)
    if new is None or (new.op_type == node.op_type and new.input == node.input):
        return None
    return [new]


def _root(graph: Rewriter, name: str) -> str:
    """Return the tensor that views were taken of, as far as its first axis is the batch."""
    made = graph.producer(name)
    while made.op_type in VIEWS and graph.shape(made.input[0])[:1] == (BATCH,):
        name = made.input[0]
        made = graph.producer(name)
    return name


def _viewed(graph: Rewriter, name: str, shape: Shape, output: str = "") -> Any:
    """Return a node that gives a tensor another shape; None if the batch is not its first axis."""
    rows, sizes = shape[:1], shape[1:]
    sizes_known = all(isinstance(size, int) for size in sizes)
    if rows != (BATCH,) or graph.shape(name)[:1] != (BATCH,) or not sizes_known:
        return None
    if len(sizes) == 1:
        return graph.make("Flatten", [name], shape, output)
    target = graph.graph.constant(np.array([0, *sizes], np.int64), "shape")
    return graph.make("Reshape", [name, target], shape, output)


def global_pool(graph: Rewriter, node: Any) -> Result:
    """Write the mean or the maximum of each channel as pooling; see :func:`_pooled`."""
    op = GLOBAL_POOLS.get(node.op_type)
    axes, rank = graph.attribute(node, "axes"), len(graph.shape(node.input[0]))
    if op is None or axes is None or rank not in (3, 4):
        return None
    if sorted(axis % rank for axis in axes) != list(range(2, rank)):
        return None
    return _pooled(graph, op, node)


def mean_as_product(graph: Rewriter, node: Any) -> Result:
    """Write (B, C, HW) times (HW, 1), all elements the same, as global average pooling."""
    if node.op_type != "MatMul":
        return None
    share, shape = graph.uniform(node.input[1]), graph.shape(node.input[0])
    if share is None or len(shape) != 3 or graph.shape(node.input[1])[-2:] != (shape[2], 1):
        return None
    return _pooled(graph, "GlobalAveragePool", node, share * shape[2])


def _pooled(graph: Rewriter, op: str, node: Any, factor: float = 1.0) -> Result:
    """Return nodes that pool (B, C, H, W) or a view (B, C, HW) of it, and give that a shape."""
    x, shape, made = node.input[0], graph.shape(node.input[0]), []
    if len(shape) == 3:
        x = _root(graph, x)
        if len(graph.shape(x)) != 4 or graph.shape(x)[:2] != shape[:2]:
            made.append(_viewed(graph, x, (*shape, 1)))
            x = made[0].output[0] if made[0] is not None else x
    wanted, pooled = graph.shape(node.output[0]), (*shape[:2], 1, 1)
    scaled = abs(factor - 1) > ROUNDING
    last = node.output[0] if wanted == pooled else ""
    made.append(graph.make(op, [x], pooled, "" if scaled else last))
    if scaled:
        factor = graph.graph.constant(np.array([factor], np.float32), "factor")
        made.append(graph.make("Mul", [*made[-1].output, factor], pooled, last))
    if not last:
        made.append(_viewed(graph, made[-1].output[0], wanted, node.output[0]))
    return None if None in made else made


def repetition(graph: Rewriter, node: Any) -> Result:
    """Let an elementwise operator broadcast, in place of repeating its operand before it."""
    if node.op_type not in ELEMENTWISE or len(node.input) != 2:
        return None
    for position, name in enumerate(node.input):
        other = node.input[1 - position]
        if graph.shape(other) != graph.shape(node.output[0]) or None in graph.shape(other):
            continue
        small, shape = _unrepeated(graph, name)
        if small is None:
            continue
        root, made = _root(graph, small), []
        if graph.shape(root) != shape:
            made.append(_viewed(graph, root, shape))
            if made[0] is None:
                continue
            root = made[0].output[0]
        inputs = [other, other]
        inputs[position] = root
        made.append(graph.make(node.op_type, inputs, graph.shape(other), node.output[0]))
        return made
    return None


def _unrepeated(graph: Rewriter, name: str) -> Tuple[Optional[str], Shape]:
    """Return the tensor that ``name`` repeats, and the shape in which it broadcasts to it."""
    shape = graph.shape(name)
    made = graph.producer(name)
    if made.op_type == "Expand":
        return made.input[0], graph.shape(made.input[0])
    if made.op_type == "Tile":
        sizes, times = graph.shape(made.input[0]), graph.numbers(made.input[1])
        if times is not None and all(n == 1 or size == 1 for n, size in zip(times, sizes)):
            return made.input[0], sizes
    product = graph.producer(_root(graph, name))
    if product.op_type != "MatMul":
        return None, ()
    whole = graph.shape(product.output[0])  # (B, C, n) from (B, C, 1) and (1, n), or the like
    if len(whole) != 3 or len(shape) < 3 or whole[:2] != shape[:2]:
        return None, ()
    left, right = product.input
    if graph.uniform(right) == 1 and graph.shape(left) == (*whole[:2], 1):
        return left, (*whole[:2], *[1] * (len(shape) - 2))
    if graph.uniform(left) == 1 and graph.shape(right) == (whole[0], 1, whole[2]):
        return right, (whole[0], 1, *shape[2:])
    return None, ()


def uniform_operand(graph: Rewriter, node: Any) -> Result:
    """Shrink a constant all of whose numbers are the same, and leave out + 0 and * 1."""
    if node.op_type not in ELEMENTWISE or len(node.input) != 2:
        return None
    for position, name in enumerate(node.input):
        value, other = graph.uniform(name), node.input[1 - position]
        if value is None or graph.shape(other) != graph.shape(node.output[0]):
            continue
        first_counts = node.op_type in ("Sub", "Div") and position == 0
        if value == NEUTRAL.get(node.op_type) and not first_counts:
            return other
        array = graph.numbers(name)
        if array.size > 1:
            inputs = [other, other]
            inputs[position] = graph.graph.constant(array.reshape(-1)[:1], f"{name}_scalar")
            return [graph.make(node.op_type, inputs, graph.shape(other), node.output[0])]
    return None


def channel_reduction(graph: Rewriter, node: Any) -> Result:
    """Write sums and maxima over the parts of a split, which are what trains fast, as reductions.

    Of (B, C, H, W) to (B, 1, H, W): the parts may have several channels, which a reduction then
    joins, and sums may be divided on the way.
    """
    if node.op_type in ("Add", "Max"):
        x, count = _whole(graph, node.output[0], node.op_type, node)
        if count == 1 or graph.shape(node.output[0])[1] != 1:
            return None
        return [_reduced(graph, "Sum" if node.op_type == "Add" else "Max", x, node.output[0])]
    if node.op_type in ("Mul", "Div"):
        total, factor = _scaled(graph, node)
        made = graph.producer(total)
        if made.op_type != "ReduceSum" or not _over_channels(graph, made):
            return None
        if abs(factor * graph.shape(made.input[0])[1] - 1) > ROUNDING:
            return None
        return [_reduced(graph, "Mean", made.input[0], node.output[0])]
    kind = node.op_type[len("Reduce") :]
    if node.op_type not in ("ReduceMax", "ReduceMean", "ReduceSum") or not _over_channels(graph, node):
        return None
    name, factor = node.input[0], 1.0
    if graph.shape(name)[1] == 1:
        return name
    if kind == "Mean":
        name, factor = _scaled(graph, graph.producer(name), name)
    x, count = _whole(graph, name, "Max" if kind == "Max" else "Add")
    if count == 1 or (kind == "Mean" and abs(factor * count - 1) > ROUNDING):
        return None
    return [_reduced(graph, kind, x, node.output[0])]


def _over_channels(graph: Rewriter, node: Any) -> bool:
    """Return whether a reduction is one over the channels that keeps the axis."""
    axes = graph.attribute(node, "axes")
    if axes is None:
        axes = graph.numbers(node.input[1]) if len(node.input) > 1 else None
    return axes is not None and list(axes) == [1] and graph.attribute(node, "keepdims", 1) == 1


def _scaled(graph: Rewriter, node: Any, name: str = "") -> Tuple[str, float]:
    """Return ``(tensor, factor)`` of a product or quotient with a number; else the name and 1."""
    if node.op_type == "Mul":
        for position in (0, 1):
            factor = graph.uniform(node.input[position])
            if factor is not None:
                return node.input[1 - position], factor
    if node.op_type == "Div" and graph.uniform(node.input[1]):
        return node.input[0], 1 / graph.uniform(node.input[1])
    return name, 1.0


def _whole(graph: Rewriter, name: str, op: str, node: Any = None) -> Tuple[str, int]:
    """Return ``(x, count)``: the tensor is ``op`` of all ``count`` parts of ``x`` along axis 1."""
    whole = 1
    x, parts, count = _parts(graph, name, op, node)
    while parts and len(parts) == count:
        whole, name = whole * count, x
        x, parts, count = _parts(graph, name, op)
    return name, whole


def _parts(graph: Rewriter, name: str, op: str, node: Any = None) -> Tuple[str, Set[int], int]:
    """Return ``(x, numbers, count)``: the tensor is ``op`` of these of ``count`` parts of ``x``."""
    node = graph.producer(name) if node is None else node
    if node.op_type == "Split" and graph.attribute(node, "axis", 0) == 1 and len(node.input) == 1:
        return node.input[0], {list(node.output).index(name)}, len(node.output)
    if node.op_type != op or len(node.input) != 2:
        return "", set(), 0
    (x, left, count), (y, right, _) = (_parts(graph, term, op) for term in node.input)
    return (x, left | right, count) if x == y and not left & right else ("", set(), 0)


def _reduced(graph: Rewriter, kind: str, x: str, output: str) -> Any:
    """Return the node that reduces the channels of ``x``."""
    inputs, axes = [x], {"axes": [1]}
    if kind == "Sum" and graph.graph.opset >= 13:
        inputs, axes = [x, graph.graph.constant(np.array([1], np.int64), "channels")], {}
    shape = graph.shape(x)
    return graph.make(f"Reduce{kind}", inputs, (shape[0], 1, *shape[2:]), output, keepdims=1, **axes)


def square(graph: Rewriter, node: Any) -> Result:
    """Write a square as a product: the exporter's exponent is an integer, which few engines take."""
    if node.op_type != "Pow" or graph.uniform(node.input[1]) != 2:
        return None
    x = node.input[0]
    if graph.shape(x) != graph.shape(node.output[0]):
        return None
    return [graph.make("Mul", [x, x], graph.shape(x), node.output[0])]


def softmax(graph: Rewriter, node: Any) -> Result:
    """Recognise exp(x) / sum(exp(x)), which overflows, as a softmax."""
    if node.op_type != "Div":
        return None
    power, total = graph.producer(node.input[0]), graph.producer(node.input[1])
    if power.op_type != "Exp" or total.op_type != "ReduceSum" or total.input[0] != node.input[0]:
        return None
    x, axes = power.input[0], graph.attribute(total, "axes")
    if axes is None:
        axes = graph.numbers(total.input[1]) if len(total.input) > 1 else ()
    if len(axes) != 1 or not graph.attribute(total, "keepdims", 1):
        return None
    rank = len(graph.shape(x))
    axis, last = int(axes[0]) % rank, rank - 1
    shape, output = graph.shape(x), node.output[0]
    if axis == last or graph.graph.opset >= 13:
        return [graph.make("Softmax", [x], shape, output, axis=axis)]
    # up to operator set 12 a softmax runs over all axes from one on
    order = list(range(rank))
    order[axis], order[last] = last, axis
    turned = tuple(shape[k] for k in order)
    before = graph.make("Transpose", [x], turned, perm=order)
    middle = graph.make("Softmax", before.output, turned, axis=last)
    return [before, middle, graph.make("Transpose", middle.output, shape, output, perm=order)]


def whole_slice(graph: Rewriter, node: Any) -> Result:
    """Leave out axes of which a slice takes everything."""
    if node.op_type != "Slice":
        return None
    given = [graph.numbers(name) for name in node.input[1:]]
    if any(numbers is None for numbers in given):
        return None
    shape = graph.shape(node.input[0])
    count = len(given[0])
    starts, ends, axes, steps = [*given, np.arange(count), np.ones(count, np.int64)][:4] if len(
        given
    ) < 3 else [*given, np.ones(count, np.int64)][:4]
    kept = []
    for k, axis in enumerate(axes):
        size = shape[axis]
        reaches = ends[k] >= (size if isinstance(size, int) else END)
        if starts[k] != 0 or steps[k] != 1 or not reaches:
            kept.append(k)
    if not kept:
        return node.input[0]
    if len(kept) == count:
        return None
    inputs = [
        graph.graph.constant(np.asarray(v, np.int64)[kept], f"{node.output[0]}_{what}")
        for v, what in zip((starts, ends, axes, steps), ("starts", "ends", "axes", "steps"))
    ]
    return [graph.make("Slice", [node.input[0], *inputs], graph.shape(node.output[0]), node.output[0])]


def resize(graph: Rewriter, node: Any) -> Result:
    """Give scales, not sizes: sizes would name the batch size."""
    if node.op_type != "Resize" or len(node.input) < 4:
        return None
    sizes, shape = graph.numbers(node.input[3]), graph.shape(node.input[0])
    if sizes is None or shape[0] != BATCH or None in shape:
        return None
    scales = np.ones(len(shape), np.float32)
    for axis, size in enumerate(shape[1:], 1):
        scales[axis] = np.float32(sizes[axis]) / np.float32(size)
        if int(np.floor(scales[axis] * np.float32(size))) != sizes[axis]:
            scales[axis] = np.nextafter(scales[axis], np.float32(np.inf))
    inputs = [*node.input[:2], graph.graph.constant(scales, "scales")]
    new = graph.make("Resize", inputs, graph.shape(node.output[0]), node.output[0])
    new.attribute.extend(node.attribute)
    return [new]


RULES = (
    identity, pairs, view, global_pool, mean_as_product, repetition, uniform_operand, square,
    channel_reduction, softmax, whole_slice, resize,
)  # fmt: skip
