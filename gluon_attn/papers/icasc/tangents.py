"""Directional derivatives of a graph, as a graph.

For every node, a rule says how small changes of its inputs change its output. The result is an
ordinary graph of forward operators, so that MXNet can differentiate it: the gradient of a
directional derivative is a second-order derivative, for which MXNet's convolution, batch-norm and
pooling have no gradient of their own (Pearlmutter, "Fast Exact Multiplication by the Hessian",
Neural Computation 1994).

Sums are add_n, never elemwise_add: with static memory, MXNet 1.9.1 gives wrong gradients, and no
error, behind an elemwise_add of which one operand needs no gradient (and directions need none).

Where a function has a kink (ReLU, maximum), its side is held fixed, as automatic differentiation
does. Batch-norm has no rule: it is written in separate steps, see :func:`normalize`.
"""

from __future__ import annotations

import itertools
from typing import Any, Callable, Iterable, List, NamedTuple, Optional

from mxnet.gluon import HybridBlock

from gluon_attn.core.registry import Registry, unknown_name
from gluon_attn.nets.graph import Entry, Graph, Node, record

Changes = List[Any]  # entries; None where nothing changes
REMEDY = "use gradient=constant for this net"


class Step(NamedTuple):
    """What a rule sees of the node that it differentiates."""

    graph: Graph  # to which the rule adds its nodes
    node: Node
    output: Entry

    @property
    def inputs(self) -> list[Entry]:
        return self.node.inputs

    def attr(self, name: str, default: str = "") -> str:
        return self.node.attrs.get(name, default)

    def add(self, op: str, *inputs: Entry, **attrs: Any) -> Entry:
        return self.graph.add(op, *inputs, **attrs)

    def like(self, *inputs: Entry, **changed: Any) -> Entry:
        """Add a node with this node's operator and attributes."""
        return self.graph.add(self.node.op, *inputs, **{**self.node.attrs, **changed})

    def shape_of(self, entry: Entry) -> Entry:
        """Return ``entry`` for an input that only lends its shape: no gradient goes there."""
        return self.graph.add("BlockGrad", entry)


Rule = Callable[[Step, Changes], Optional[Entry]]
RULES = Registry("operator with a directional derivative")


class Tangents:
    """Changes of entries of a graph being written, ``{entry: change in each direction}``."""

    def __init__(self, graph: Graph, changes: dict[Entry, Changes]) -> None:
        self._graph, self._changes = graph, changes
        self._count = len(next(iter(changes.values())))

    def __getitem__(self, entry: Entry) -> Changes:
        return self._changes.get(entry, [None] * self._count)

    def __setitem__(self, entry: Entry, changes: Changes) -> None:
        self._changes[entry] = changes

    def moving(self, entries: Iterable[Entry]) -> bool:
        """Return whether any of ``entries`` changes."""
        return any(change is not None for entry in entries for change in self[entry])

    def push(self, entry: Entry) -> None:
        """Differentiate the node of ``entry``, which must be written already."""
        node = self._graph.nodes[entry[0]]
        if node.op not in RULES:
            kind = "operator with a directional derivative"
            raise ValueError(f"{unknown_name(kind, node.op, RULES.names())}; {REMEDY}")
        rule: Rule = RULES.get(node.op)
        step, found = Step(self._graph, node, entry), []
        for changes in zip(*map(self.__getitem__, node.inputs)):
            moves = any(change is not None for change in changes)
            found.append(rule(step, list(changes)) if moves else None)
        for output in range(int(node.attrs.get("num_outputs", 1))):
            self[entry[0], output] = [change and (change[0], output) for change in found]


def missing_rules(block: HybridBlock) -> list[str]:
    """Return what keeps exact ICASC from differentiating a block of one input, such as an attention
    block: one message for each operator that has no rule; empty if there is none."""
    source, outputs, _ = record(block)
    graph, messages = Graph(), []
    data = graph.variable("data")
    tangents = Tangents(graph, {data: [graph.variable("direction")]})

    def change(target: Graph, number: int, node: Node, inputs: list[Entry]) -> Entry | None:
        if not tangents.moving(inputs):
            return None
        entry = target.copy(node, inputs)
        if node.op not in ("BatchNorm", "Dropout"):  # which are rewritten first
            try:
                tangents.push(entry)
                return entry
            except ValueError as error:
                messages.append(str(error))
        for output in range(int(node.attrs.get("num_outputs", 1))):
            tangents[entry[0], output] = [inputs[0]]  # any change will do
        return entry

    graph.take(source, outputs.values(), {source.variable("data"): data}, change)
    return messages


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def decorator(function: Rule) -> Rule:
        for name in names:
            RULES.register(name)(function)
        return function

    return decorator


# -- linear ----------------------------------------------------------------------------------------
@_rule(
    "Flatten", "Reshape", "transpose", "expand_dims", "squeeze", "slice_axis", "slice", "mean",
    "sum", "_mul_scalar", "_div_scalar", "negative", "_copy", "identity", "SwapAxis",
    "UpSampling", "broadcast_axis", "broadcast_like", "reshape_like", "slice_like", "Cast", "Pad",
    "_contrib_AdaptiveAvgPooling2D", "SliceChannel",
)  # fmt: skip
def _linear(step: Step, changes: Changes) -> Entry | None:
    if changes[0] is None:  # only the second input moves, which gives nothing but a shape
        return None
    return step.like(changes[0], *map(step.shape_of, step.inputs[1:]))


_rule("_plus_scalar", "_minus_scalar")(lambda step, changes: changes[0])
_rule("_rminus_scalar")(lambda step, changes: step.add("negative", changes[0]))
_rule("BlockGrad", "ones_like", "zeros_like", "shape_array")(lambda step, changes: None)
_rule("elemwise_add", "add_n", "_grad_add")(lambda step, changes: added(step.graph, *changes))


def added(graph: Graph, *terms: Entry | None) -> Entry:
    """Add the sum of the terms that are not None, of which there must be one."""
    present = [term for term in terms if term is not None]
    return present[0] if len(present) == 1 else graph.add("add_n", *present, num_args=len(present))


@_rule("broadcast_add", "broadcast_sub", "elemwise_sub")
def _broadcast_sum(step: Step, changes: Changes) -> Entry | None:
    left, right = changes
    if left is not None and right is not None:
        return step.like(left, right)
    change = left
    if left is None:
        change = right if step.node.op == "broadcast_add" else step.add("negative", right)
    return step.add("broadcast_like", change, step.shape_of(step.output))


@_rule("Concat", "stack")
def _concatenation(step: Step, changes: Changes) -> Entry | None:
    pairs = zip(changes, step.inputs)
    return step.like(*[step.add("zeros_like", x) if t is None else t for t, x in pairs])


@_rule("Convolution", "FullyConnected")
def _layer(step: Step, changes: Changes) -> Entry | None:
    if any(change is not None for change in changes[1:]):
        raise ValueError(
            f"operator {step.node.op}: its parameters depend on the image, which has no rule; "
            f"{REMEDY}"
        )
    return step.like(changes[0], step.inputs[1], no_bias=True)


# -- products and functions of one value -----------------------------------------------------------
@_rule("elemwise_mul", "broadcast_mul", "batch_dot", "dot")
def _product(step: Step, changes: Changes) -> Entry | None:
    (left, right), (moved_left, moved_right) = step.inputs, changes
    return added(
        step.graph,
        None if moved_left is None else step.like(moved_left, right),
        None if moved_right is None else step.like(left, moved_right),
    )


@_rule("elemwise_div", "broadcast_div")
def _quotient(step: Step, changes: Changes) -> Entry | None:
    (_, divisor), (upper, lower), second = step.inputs, changes, None
    if lower is not None:
        product = step.add("negative", step.add("broadcast_mul", step.output, lower))
        second = step.add("broadcast_div", product, divisor)
    return added(step.graph, None if upper is None else step.like(upper, divisor), second)


def _over_input(step: Step) -> Entry:
    return step.add("elemwise_div", step.output, step.inputs[0])


SLOPES: dict[str, Callable[[Step], Entry]] = {
    "relu": lambda s: s.add("_greater_scalar", s.output, scalar=0),
    "sigmoid": lambda s: s.add("elemwise_sub", s.output, s.add("square", s.output)),
    "tanh": lambda s: s.add("_rminus_scalar", s.add("square", s.output), scalar=1),
    "softrelu": lambda s: s.add("sigmoid", s.inputs[0]),
    "exp": lambda s: s.output,
    "log": lambda s: s.add("reciprocal", s.inputs[0]),
    "square": lambda s: s.add("_mul_scalar", s.inputs[0], scalar=2),
    "sqrt": lambda s: s.add("_rdiv_scalar", s.output, scalar=0.5),
    "rsqrt": lambda s: s.add("_mul_scalar", _over_input(s), scalar=-0.5),
    "reciprocal": lambda s: s.add("negative", _over_input(s)),
    "_rdiv_scalar": lambda s: s.add("negative", _over_input(s)),  # c / x
    "_maximum_scalar": lambda s: s.add("_greater_scalar", s.inputs[0], scalar=s.attr("scalar")),
    "_minimum_scalar": lambda s: s.add("_lesser_scalar", s.inputs[0], scalar=s.attr("scalar")),
    "clip": lambda s: s.add(
        "elemwise_mul",
        s.add("_greater_equal_scalar", s.inputs[0], scalar=s.attr("a_min")),
        s.add("_lesser_equal_scalar", s.inputs[0], scalar=s.attr("a_max")),
    ),
}


@_rule("Activation", *SLOPES)
def _function(step: Step, changes: Changes) -> Entry | None:
    name = step.attr("act_type", step.node.op)
    if name not in SLOPES:
        raise ValueError(unknown_name("activation with a directional derivative", name, SLOPES))
    return step.add("elemwise_mul", changes[0], SLOPES[name](step))


@_rule("softmax")
def _softmax(step: Step, changes: Changes) -> Entry | None:
    weighted = step.add("elemwise_mul", step.output, changes[0])
    total = step.add("sum", weighted, axis=step.attr("axis", "-1"), keepdims=True)
    return step.add("broadcast_sub", weighted, step.add("broadcast_mul", step.output, total))


# -- pooling, maxima -------------------------------------------------------------------------------
@_rule("Pooling")
def _pooling(step: Step, changes: Changes) -> Entry | None:
    kind = step.attr("pool_type", "max")
    if kind == "avg":
        return step.like(changes[0])
    if kind == "max" and step.node.flag("global_pool"):
        largest = step.add("broadcast_like", step.output, step.shape_of(step.inputs[0]))
        return _mean_where(step, largest, changes[0], lambda x: step.like(x, pool_type="avg"))
    kernel, stride = _pair(step.attr("kernel")), _pair(step.attr("stride", "(1, 1)"))
    pad = _pair(step.attr("pad", "(0, 0)"))
    full = step.attr("pooling_convention", "valid") != "valid"
    if kind != "max" or kernel != stride or pad != (0, 0) or full:
        raise ValueError(
            f"Pooling {kind}, kernel {kernel}, stride {stride}, pad {pad}: only averages and "
            f"maxima over windows side by side have a directional derivative; {REMEDY}"
        )
    return _first_of_largest(step, changes[0], kernel)


def _first_of_largest(step: Step, change: Any, kernel: tuple[int, ...]) -> Entry | None:
    """Return the change of the first largest value of every window.

    The first, because that is where pooling sends its gradient; behind a ReLU many windows hold
    nothing but zeros.
    """
    size, best, found = step.shape_of(step.output), None, None
    for row, column in itertools.product(*map(range, kernel)):
        piece = {
            "begin": f"(None, None, {row}, {column})", "end": "(None, None, None, None)",
            "step": f"(None, None, {kernel[0]}, {kernel[1]})",
        }  # fmt: skip
        value, moved = (
            step.add("slice_like", step.add("slice", x, **piece), size, axes="(2, 3)")
            for x in (step.inputs[0], change)
        )
        if best is None or found is None:
            best, found = value, moved
            continue
        larger = step.add("broadcast_greater", value, best)
        best = step.add("broadcast_maximum", value, best)
        gain = step.add("elemwise_mul", larger, step.add("broadcast_sub", moved, found))
        found = added(step.graph, found, gain)
    return found


@_rule("_maximum", "broadcast_maximum", "_minimum", "broadcast_minimum")
def _extreme(step: Step, changes: Changes) -> Entry | None:
    compare = "greater" if step.node.op.endswith("maximum") else "lesser"
    chosen = step.add(f"broadcast_{compare}", *step.inputs)
    shares = chosen, step.add("_rminus_scalar", chosen, scalar=1)
    pairs = zip(shares, changes)
    return added(step.graph, *[t and step.add("broadcast_mul", s, t) for s, t in pairs])


@_rule("max")
def _maximum(step: Step, changes: Changes) -> Entry | None:
    attrs = step.node.attrs
    over = {k: v for k, v in attrs.items() if k in ("axis", "exclude")}
    largest = step.add("max", step.inputs[0], **over, keepdims=True)
    largest = step.add("broadcast_like", largest, step.shape_of(step.inputs[0]))
    return _mean_where(step, largest, changes[0], lambda x: step.add("mean", x, **attrs))


def _mean_where(step: Step, largest: Entry, change: Any, mean: Callable[[Entry], Entry]) -> Entry:
    """Return the mean change of all that are largest; ``mean`` adds a mean to the graph."""
    chosen = step.add("broadcast_equal", step.inputs[0], largest)
    total = mean(step.add("elemwise_mul", change, chosen))
    return step.add("broadcast_div", total, step.add("BlockGrad", mean(chosen)))


def _pair(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.strip("()[] ").split(",") if part.strip())


# -- batch-norm ------------------------------------------------------------------------------------
# A factor and a term per channel are applied by a 1x1 convolution with one group per channel: on a
# CPU, with its gradient, more than ten times faster than broadcast_mul. For the same reason a mean
# goes through a pooling.


class Norm(NamedTuple):
    """Batch-norm in separate steps; mean and var ``(C,)`` are constants, None if running."""

    output: Entry
    normal: Entry  # the normalised input
    slope: Entry  # gamma over the standard deviation, (C,)
    mean: Entry | None
    var: Entry | None
    channels: int


def normalize(graph: Graph, node: Node, inputs: list[Entry], channels: int) -> Norm:
    """Add a BatchNorm node, with its channels on axis 1, in separate steps."""
    if node.attrs.get("axis", "1") != "1":
        axis = node.attrs["axis"]
        raise ValueError(f"BatchNorm over axis {axis} has no directional derivative here; {REMEDY}")
    data, gamma, beta, mean, var = inputs
    frozen = node.flag("use_global_stats")
    mean = mean if frozen else batch_mean(graph, data)
    centred = graph.add("broadcast_sub", data, graph.add("Reshape", mean, shape="(1, -1, 1, 1)"))
    var = var if frozen else batch_mean(graph, graph.add("square", centred))
    eps = node.attrs.get("eps", "1e-3")
    scale = graph.add("rsqrt", graph.add("_plus_scalar", var, scalar=eps))
    normal = _affine(graph, centred, channels, scale)
    if node.flag("fix_gamma", "True"):
        gamma = graph.add("BlockGrad", graph.add("ones_like", gamma))
    output = _affine(graph, normal, channels, gamma, beta)
    slope = graph.add("elemwise_mul", scale, gamma)
    if frozen:
        return Norm(output, normal, slope, None, None, channels)
    mean, var = graph.add("BlockGrad", mean), graph.add("BlockGrad", var)
    return Norm(output, normal, slope, mean, var, channels)


def normalize_tangent(graph: Graph, norm: Norm, change: Entry) -> Entry:
    """Add the directional derivative of batch-norm.

    It counts how mean and variance of the batch depend on the input: with normalised input n, slope
    s and means over the batch and all positions, it is ``s (t - mean(t) - n mean(n t))``.
    """
    if norm.mean is None:
        return _affine(graph, change, norm.channels, norm.slope)
    opposite = graph.add("negative", norm.slope)
    shift = graph.add("broadcast_mul", opposite, batch_mean(graph, change))
    along = batch_mean(graph, graph.add("elemwise_mul", norm.normal, change))
    stretch = graph.add("broadcast_mul", opposite, along)
    moved = _affine(graph, change, norm.channels, norm.slope, shift)
    return added(graph, moved, _affine(graph, norm.normal, norm.channels, stretch))


def batch_mean(graph: Graph, entry: Entry) -> Entry:
    """Add the mean of each channel over batch and positions, ``(B, C, H, W)`` to ``(C,)``."""
    pooled = graph.add("Pooling", entry, pool_type="avg", global_pool=True, kernel="(1, 1)")
    return graph.add("Reshape", graph.add("mean", pooled, axis="(0,)"), shape="(-1,)")


def _affine(graph: Graph, entry: Entry, channels: int, factor: Entry, *term: Entry) -> Entry:
    """Add ``factor * entry + term``, factor and term ``(C,)``."""
    weight = graph.add("Reshape", factor, shape="(-1, 1, 1, 1)")
    return graph.add("Convolution", entry, weight, *term, kernel="(1, 1)", num_filter=channels,
                     num_group=channels, no_bias=not term)  # fmt: skip
