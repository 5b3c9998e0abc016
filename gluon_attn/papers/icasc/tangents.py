"""Directional derivatives of a graph, as a graph.

For every node, a rule says how small changes of its inputs change its output. The result is an
ordinary graph of forward operators, so that MXNet can differentiate it: the gradient of a
directional derivative is a second-order derivative, for which MXNet's convolution, batch-norm and
pooling have no gradient of their own (Pearlmutter, "Fast Exact Multiplication by the Hessian",
Neural Computation 1994).

Sums are add_n, never elemwise_add: with static memory, MXNet 1.9.1 gives wrong gradients, without a
word, behind an elemwise_add of which one operand needs no gradient (and directions need none).

Batch-norm is in :mod:`gluon_attn.papers.icasc.tangent_norm`. Where a function has a kink (ReLU,
maximum),
its side is held fixed, as automatic differentiation does.
"""

from __future__ import annotations

from gluon_attn.core.registry import Registry, unknown_name

RULES = Registry("operator with a directional derivative")


class Node:
    """What a rule sees of one node of the graph that is being built.

    Attributes:
        graph: Graph to which the rule adds its nodes.
        attrs: Attributes of the node.
        inputs: Entries of its inputs.
        output: Entry of its output.
        op: Name of its operator.
    """

    def __init__(self, graph, op, attrs, inputs, output):
        self.graph, self.op, self.attrs = graph, op, attrs
        self.inputs, self.output = inputs, output

    def add(self, op, *inputs, **attrs):
        """Add a node to the graph; return its entry."""
        return self.graph.add(op, *inputs, **attrs)

    def shape_of(self, entry):
        """Return ``entry`` for an input that only lends its shape: no gradient goes there."""
        return self.graph.add("BlockGrad", entry)

    def like(self, *inputs, **changes):
        """Add a node with this node's operator and attributes."""
        return self.graph.add(self.op, *inputs, **dict(self.attrs, **changes))


def tangent(node, changes):
    """Return the entry of the directional derivative of ``node``, or None where it is 0.

    Args:
        node: :class:`Node`.
        changes: For every input the entry of its directional derivative, or None for 0.

    Raises:
        ValueError: The operator has no rule, or the rule does not cover its settings.
    """
    if all(change is None for change in changes):
        return None
    if node.op not in RULES:
        raise ValueError(
            f"{unknown_name('operator with a directional derivative', node.op, RULES.names())}; "
            "use gradient=constant for this net"
        )
    return RULES.get(node.op)(node, changes)


def _rule(*names):
    def decorator(function):
        for name in names:
            RULES.register(name)(function)
        return function

    return decorator


# -- linear ------------------------------------------------------------------------------------


@_rule(
    "Flatten", "Reshape", "transpose", "expand_dims", "squeeze", "slice_axis", "slice", "mean",
    "sum", "_mul_scalar", "_div_scalar", "negative", "_copy", "identity", "SwapAxis",
    "UpSampling", "broadcast_axis", "broadcast_like", "reshape_like", "slice_like", "Cast", "Pad",
    "_contrib_AdaptiveAvgPooling2D",
)  # fmt: skip
def _linear(node, changes):
    if changes[0] is None:  # only the second input moves, which gives nothing but a shape
        return None
    return node.like(changes[0], *map(node.shape_of, node.inputs[1:]))


@_rule("_plus_scalar", "_minus_scalar")
def _shifted(node, changes):
    return changes[0]


@_rule("_rminus_scalar")
def _reflected(node, changes):
    return node.add("negative", changes[0])


@_rule("SliceChannel")  # the one operator here with several outputs
def _pieces(node, changes):
    return node.like(changes[0])


@_rule("BlockGrad", "ones_like", "zeros_like", "shape_array")
def _constant(node, changes):
    return None


@_rule("elemwise_add", "add_n", "_grad_add")
def _sum(node, changes):
    return added(node.graph, [change for change in changes if change is not None])


def added(graph, terms):
    """Add the sum of one or more entries."""
    return terms[0] if len(terms) == 1 else graph.add("add_n", *terms, num_args=len(terms))


@_rule("broadcast_add", "broadcast_sub", "elemwise_sub")
def _broadcast_sum(node, changes):
    left, right = changes
    if left is not None and right is not None:
        return node.like(left, right)
    change = left
    if left is None:
        change = right if node.op == "broadcast_add" else node.add("negative", right)
    return node.add("broadcast_like", change, node.shape_of(node.output))


@_rule("Concat", "stack")
def _concatenation(node, changes):
    pairs = zip(changes, node.inputs)
    return node.like(*[node.add("zeros_like", x) if t is None else t for t, x in pairs])


@_rule("Convolution", "FullyConnected")
def _layer(node, changes):
    _only_first(node, changes)
    return node.like(changes[0], node.inputs[1], no_bias=True)


def _only_first(node, changes):
    if any(change is not None for change in changes[1:]):
        raise ValueError(
            f"operator {node.op}: its parameters depend on the image, which has no rule; "
            "use gradient=constant for this net"
        )


# -- products and functions of one value ---------------------------------------------------------


@_rule("elemwise_mul", "broadcast_mul", "batch_dot", "dot")
def _product(node, changes):
    (left, right), terms = node.inputs, []
    if changes[0] is not None:
        terms.append(node.like(changes[0], right))
    if changes[1] is not None:
        terms.append(node.like(left, changes[1]))
    return added(node.graph, terms)


@_rule("elemwise_div", "broadcast_div")
def _quotient(node, changes):
    upper, lower = changes
    if lower is None:
        return node.like(upper, node.inputs[1])
    product = node.add("negative", node.add("broadcast_mul", node.output, lower))
    second = node.add("broadcast_div", product, node.inputs[1])
    if upper is None:
        return second
    return added(node.graph, [node.like(upper, node.inputs[1]), second])


def _relu(node):
    return node.add("_greater_scalar", node.output, scalar=0)


def _sigmoid(node):
    return node.add("elemwise_sub", node.output, node.add("square", node.output))


def _tanh(node):
    return node.add("_rminus_scalar", node.add("square", node.output), scalar=1)


def _softrelu(node):
    return node.add("sigmoid", node.inputs[0])


def _exp(node):
    return node.output


def _square(node):
    return node.add("_mul_scalar", node.inputs[0], scalar=2)


def _sqrt(node):
    return node.add("_rdiv_scalar", node.output, scalar=0.5)


def _inverse(node):  # c / x, also for c = 1
    return node.add("negative", node.add("elemwise_div", node.output, node.inputs[0]))


def _inverse_sqrt(node):
    share = node.add("elemwise_div", node.output, node.inputs[0])
    return node.add("_mul_scalar", share, scalar=-0.5)


def _log(node):
    return node.add("reciprocal", node.inputs[0])


SLOPES = {
    "relu": _relu, "sigmoid": _sigmoid, "tanh": _tanh, "softrelu": _softrelu, "exp": _exp,
    "square": _square, "sqrt": _sqrt, "log": _log, "reciprocal": _inverse,
    "_rdiv_scalar": _inverse, "rsqrt": _inverse_sqrt,
}  # fmt: skip


@_rule("Activation", *SLOPES)
def _function(node, changes):
    name = node.attrs.get("act_type", node.op)
    if name not in SLOPES:
        raise ValueError(unknown_name("activation with a directional derivative", name, SLOPES))
    return node.add("elemwise_mul", changes[0], SLOPES[name](node))


@_rule("softmax")
def _softmax(node, changes):
    axis = node.attrs.get("axis", "-1")
    weighted = node.add("elemwise_mul", node.output, changes[0])
    total = node.add("sum", weighted, axis=axis, keepdims=True)
    return node.add("broadcast_sub", weighted, node.add("broadcast_mul", node.output, total))


# -- pooling, maxima -----------------------------------------------------------------------------


@_rule("Pooling")
def _pooling(node, changes):
    kind = node.attrs.get("pool_type", "max")
    if kind == "avg":
        return node.like(changes[0])
    everywhere = node.attrs.get("global_pool") in ("True", "1")
    if kind == "max" and everywhere:
        largest = node.add("broadcast_like", node.output, node.shape_of(node.inputs[0]))
        return _mean_where_largest(
            node, node.inputs[0], largest, changes[0], lambda x: node.like(x, pool_type="avg")
        )
    windows = [_pair(node.attrs.get(name, default)) for name, default in
               (("kernel", "()"), ("stride", "(1, 1)"), ("pad", "(0, 0)"))]  # fmt: skip
    kernel, stride, pad = windows
    full = node.attrs.get("pooling_convention", "valid") != "valid"
    if kind != "max" or kernel != stride or pad != (0, 0) or full:
        raise ValueError(
            f"Pooling {kind}, kernel {kernel}, stride {stride}, pad {pad}: only averages and "
            "maxima over windows side by side have a directional derivative; use "
            "gradient=constant for this net"
        )
    return _first_of_largest(node, node.inputs[0], changes[0], kernel)


def _first_of_largest(node, values, change, kernel):
    """Return the change of the first largest value of every window.

    The first, because that is where pooling sends its gradient; behind a ReLU many windows hold
    nothing but zeros.
    """
    best, found, size = None, None, node.shape_of(node.output)
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            piece = {
                "begin": f"(None, None, {row}, {column})", "end": "(None, None, None, None)",
                "step": f"(None, None, {kernel[0]}, {kernel[1]})",
            }  # fmt: skip
            value, moved = (
                node.add("slice_like", node.add("slice", x, **piece), size, axes="(2, 3)")
                for x in (values, change)
            )
            if best is None:
                best, found = value, moved
                continue
            larger = node.add("broadcast_greater", value, best)
            best = node.add("broadcast_maximum", value, best)
            step = node.add("elemwise_mul", larger, node.add("broadcast_sub", moved, found))
            found = added(node.graph, [found, step])
    return found


@_rule("_maximum", "broadcast_maximum", "_minimum", "broadcast_minimum")
def _extreme(node, changes):
    greater = node.op.endswith("maximum")
    chosen = node.add("broadcast_greater" if greater else "broadcast_lesser", *node.inputs)
    terms = []
    for change, share in zip(changes, (chosen, node.add("_rminus_scalar", chosen, scalar=1))):
        if change is not None:
            terms.append(node.add("broadcast_mul", share, change))
    return added(node.graph, terms)


@_rule("_maximum_scalar", "_minimum_scalar")
def _bounded(node, changes):
    compare = "_greater_scalar" if node.op == "_maximum_scalar" else "_lesser_scalar"
    kept = node.add(compare, node.inputs[0], scalar=node.attrs["scalar"])
    return node.add("elemwise_mul", changes[0], kept)


@_rule("max")
def _maximum(node, changes):
    largest = node.inputs[0]
    over = {k: v for k, v in node.attrs.items() if k in ("axis", "exclude")}
    largest = node.add("max", node.inputs[0], **dict(over, keepdims=True))
    largest = node.add("broadcast_like", largest, node.shape_of(node.inputs[0]))

    def mean(x):
        return node.add("mean", x, **node.attrs)

    return _mean_where_largest(node, node.inputs[0], largest, changes[0], mean)


def _mean_where_largest(node, values, largest, change, mean):
    chosen = node.add("broadcast_equal", values, largest)
    total = mean(node.add("elemwise_mul", change, chosen))
    return node.add("broadcast_div", total, node.add("BlockGrad", mean(chosen)))


def _pair(text):
    return tuple(int(part) for part in text.strip("()[] ").split(",") if part.strip())
