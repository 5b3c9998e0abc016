"""Rules that replace nodes of an ONNX graph by plainer ones; see :mod:`.onnx_plain`.

Each is a function of a :class:`gluon_attn.export.onnx_plain.Rewriter` and a node. The numbers stay
the same up to rounding.

Legend: B batch, C channels, H W map size.
"""

from __future__ import annotations

from typing import Any, List, Optional, Tuple, Union

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
    single = node.op_type in ("Concat", "Max", "Min", "Sum") and len(node.input) == 1
    return node.input[0] if node.op_type == "Identity" or single else None


def pairs(graph: Rewriter, node: Any) -> Result:
    """Write sums and maxima of many terms as those of two; OpenCV reads no more than two."""
    op, terms = PAIRED.get(node.op_type), list(node.input)
    if op is None or (len(terms) == 2 and op == node.op_type):
        return None
    shape, made = graph.shape(node.output[0]), []
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
    """Return the tensor that views were taken of."""
    while graph.producer(name).op_type in VIEWS:
        name = graph.producer(name).input[0]
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
    """Write the mean or the maximum of each channel, (B, C, H, W) to (B, C, 1, 1), as pooling."""
    op = GLOBAL_POOLS.get(node.op_type)
    if op is None or len(graph.shape(node.input[0])) != 4 or len(node.input) > 1:
        return None
    axes = graph.attribute(node, "axes", ())
    if sorted(axis % 4 for axis in axes) != [2, 3]:
        return None
    pooled = (*graph.shape(node.input[0])[:2], 1, 1)
    if graph.attribute(node, "keepdims", 1):
        return [graph.make(op, node.input, pooled, node.output[0])]
    pool = graph.make(op, node.input, pooled)
    flat = _viewed(graph, pool.output[0], pooled[:2], node.output[0])
    return None if flat is None else [pool, flat]


def mean_as_product(graph: Rewriter, node: Any) -> Result:
    """Write (B, C, HW) times (HW, 1), all elements the same, as global average pooling."""
    if node.op_type != "MatMul":
        return None
    x, share = node.input[0], graph.uniform(node.input[1])
    shape = graph.shape(x)
    count = shape[-1]
    if share is None or len(shape) != 3 or graph.shape(node.input[1])[-2:] != (count, 1):
        return None
    root, made = _root(graph, x), []
    if len(graph.shape(root)) != 4 or graph.shape(root)[:2] != shape[:2]:
        made.append(_viewed(graph, x, (*shape, 1)))
        if made[0] is None:
            return None
        root = made[0].output[0]
    pooled = (*shape[:2], 1, 1)
    made.append(graph.make("GlobalAveragePool", [root], pooled))
    if abs(share * count - 1) > ROUNDING:
        factor = graph.graph.constant(np.array([share * count], np.float32), "factor")
        made.append(graph.make("Mul", [made[-1].output[0], factor], pooled))
    last = _viewed(graph, made[-1].output[0], (*shape[:2], 1), node.output[0])
    return None if last is None else [*made, last]


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
    softmax, whole_slice, resize,
)  # fmt: skip
