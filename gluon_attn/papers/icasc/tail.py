"""The last stage and the head of a net, for training steps that pass through them several times.

A plain net is not made for that: every backward pass moves the running statistics of its
batch-norms once more, and every forward pass drops other features. Here

* batch-norm leaves the running statistics alone; :meth:`Tail.update_statistics` moves them once;
* dropout multiplies by masks that are inputs, so that all passes of a step drop the same features.

The parameters are those of the net.
"""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

import mxnet as mx

from gluon_attn.nets.graphs import Graph, GraphBlock, copy_into
from gluon_attn.papers.icasc.parts import cut_net
from gluon_attn.papers.icasc.tangent_norm import batch_mean, normalize, normalize_tangent
from gluon_attn.papers.icasc.tangents import Node, tangent

DIRECTIONS = ("true", "confusing")


class Statistics(NamedTuple):
    """One batch-norm: its parameters by name, and its momentum."""

    mean: str
    var: str
    momentum: float


class Mask(NamedTuple):
    """One dropout: the share that is dropped, axes that are dropped as a whole, and its input as a
    symbol of ``data``."""

    rate: float
    axes: tuple
    symbol: Any


class LinearHead(NamedTuple):
    """Global average pooling, perhaps dropout, one dense layer.

    The gradient of the scores ``v . logits`` with respect to the last map is the same at each of
    its Z positions: ``(v W) * mask / Z``, W being the weight of the dense layer.

    Attributes:
        weight: Name of W, ``(A, C)``.
        mask: Name of the dropout mask; '' if there is no dropout.
    """

    weight: str
    mask: str

    def gradient(self, vector, weight, last, mask=None):
        """Return the gradient with respect to the last map, ``(B, C, h, w)``.

        Args:
            vector: v ``(B, A)``.
            weight: W ``(A, C)``.
            last: The last map ``(B, C, h, w)``; only its shape counts.
            mask: The dropout mask, ``(B, C)`` or ``(B, C, 1, 1)``, or None.
        """
        rows = mx.nd.dot(vector, weight)
        if mask is not None:
            rows = rows * mask.reshape((0, -1))
        positions = last.shape[2] * last.shape[3]
        return (rows / positions).reshape((0, 0, 1, 1)).broadcast_to(last.shape)


def linear_head(cut, frozen=False):
    """Return the :class:`LinearHead` of a :class:`~gluon_attn.papers.icasc.parts.Cut`, or None.

    Args:
        cut: The cut.
        frozen: Whether dropout counts for nothing.
    """
    graph, entry, mask = cut.graph, cut.outputs["logits"], ""
    node = graph.nodes[entry[0]]
    if node["op"] != "FullyConnected":
        return None
    weight = graph.nodes[node["inputs"][1][0]]["name"]
    pooled = False
    entry = node["inputs"][0]
    while entry != cut.last:
        node = graph.nodes[entry[0]]
        if node["op"] == "Dropout" and not (mask or pooled):
            mask = f"mask{entry[0]}"
        elif node["op"] == "Pooling" and not pooled:
            attrs = node["attrs"]
            everywhere = attrs.get("global_pool") in ("True", "1")
            pooled = everywhere and attrs.get("pool_type") == "avg"
            if not pooled:
                return None
        elif node["op"] != "Flatten":
            return None
        entry = node["inputs"][0]
    return LinearHead(weight, "" if frozen else mask) if pooled else None


class Tail:
    """Trunk, and last stage and head prepared for several passes.

    Attributes:
        trunk: image to ``inner`` (and what else the head reads), the net's own layers.
        stage: to ``last``; :meth:`gluon_attn.nets.graphs.GraphBlock.run` by name.
        head: to ``logits``.
        layers: Names of the inner and the last feature layer.
        closed_form: :class:`LinearHead` if the head is global average pooling, perhaps dropout, and
            one dense layer; else None.

    Args:
        net: See :func:`gluon_attn.papers.icasc.parts.split_net`.
        ctx: List of MXNet contexts.
        frozen: Whether batch-norm works with its running statistics and nothing is dropped, as in
            inference. (In MXNet's own inference mode, gradients are wrong behind a max-pooling, and
            in static graphs that were trained before; so passes with a frozen tail, too, run in
            training mode.)

    Raises:
        ValueError: As :func:`~gluon_attn.papers.icasc.parts.split_net`; or the trunk shares
        parameters with
            what follows.
    """

    def __init__(self, net, ctx, frozen=False):
        self.cut, self.params, self.ctx = cut_net(net), net.collect_params(), list(ctx)
        self.frozen = frozen
        self.layers = self.cut.names
        self._statistics, self._masks, self._shapes, self._unused = {}, {}, {}, {}
        self.trunk = GraphBlock(self.cut.graph, ["data"], self.cut.passed, self.params)
        self._logits = {"logits": self.cut.outputs["logits"]}
        self.stage = self._part(self.cut.passed, self.cut.staged)
        self.head = self._part({**self.cut.staged, **self.cut.passed}, self._logits)
        self.closed_form = linear_head(self.cut, frozen)
        self._check()

    def _check(self):
        later = set(self.stage.collect_params()) | set(self.head.collect_params())
        shared = sorted(later & set(self.trunk.collect_params()) & set(self.params))
        if shared:
            raise ValueError(f"the trunk shares parameter '{shared[0]}' with what follows it")

    def _part(self, given, wanted):
        graph, extra = Graph(), {}
        known = {entry: graph.variable(name) for name, entry in given.items()}

        def change(number, node, inputs):
            return self._change(graph, extra, number, node, inputs)

        entries = copy_into(graph, self.cut.graph, list(wanted.values()), known, change)
        gives = {**dict(zip(wanted, entries)), **extra}
        return self._block(graph, list(given) + list(self._masks), gives)

    def _block(self, graph, takes, gives):
        block = GraphBlock(graph, takes, gives, self.params)
        for name, parameter in block.collect_params().items():
            if name not in self.params:
                parameter.shape = self._unused[name]
                parameter.initialize(init="zeros", ctx=self.ctx)
        return block

    def _change(self, graph, extra, number, node, inputs):
        """Return the entry that replaces a node, or None; collect what a pass gives ``extra``."""
        if node["op"] == "Dropout":
            return inputs[0] if self.frozen else self._dropout(graph, number, node, inputs)
        if node["op"] != "BatchNorm":
            return None
        if self.frozen or node["attrs"].get("use_global_stats") in ("True", "1"):
            node = dict(node, attrs=dict(node["attrs"], use_global_stats="True"))
            return graph.copy(node, inputs)
        self._remember(number, node)
        data = graph.add("BlockGrad", inputs[0])
        mean = batch_mean(graph, data)
        row = graph.add("Reshape", mean, shape="(1, -1, 1, 1)")
        var = batch_mean(graph, graph.add("square", graph.add("broadcast_sub", data, row)))
        extra.update({f"mean{number}": mean, f"var{number}": var})
        names = [f"{node['name']}_unused_{kind}" for kind in ("mean", "var")]
        self._unused.update(dict.fromkeys(names, self.params[self._name(node, 1)].shape))
        return graph.copy(node, inputs[:3] + [graph.variable(name) for name in names])

    def _name(self, node, position):
        return self.cut.graph.nodes[node["inputs"][position][0]]["name"]

    def _remember(self, number, node):
        names = self._name(node, 3), self._name(node, 4)
        self._statistics[number] = Statistics(*names, float(node["attrs"].get("momentum", 0.9)))

    def _dropout(self, graph, number, node, inputs):
        name = f"mask{number}"
        if name not in self._masks:
            axes = ast.literal_eval(node["attrs"].get("axes", "()"))
            (symbol,) = self.cut.graph.symbol([node["inputs"][0]])
            self._masks[name] = Mask(float(node["attrs"].get("p", 0.5)), tuple(axes), symbol)
        return graph.add("broadcast_mul", inputs[0], graph.variable(name))

    def directional(self):
        """Return the block that also gives directional derivatives of the logits.

        It takes what stage and head take, and ``inner_true``, ``inner_confusing`` (shaped like the
        inner map) and ``last_true``, ``last_confusing`` (like the last map): two directions. Beside
        ``logits``, ``last`` and the statistics it gives ``change_true`` and ``change_confusing``
        ``(B, A)``: how the logits change when both maps move in that direction.

        Raises:
            ValueError: A layer has no directional derivative.
        """
        graph, extra, moves = Graph(), {}, {}
        known = {entry: graph.variable(name) for name, entry in self.cut.passed.items()}
        moves[known[self.cut.inner]] = [graph.variable(f"inner_{d}") for d in DIRECTIONS]

        def change(number, node, inputs):
            if node["op"] == "null":
                return None
            changes = [[moves.get(e, (None, None))[k] for e in inputs] for k in range(2)]
            if all(c is None for row in changes for c in row):
                return self._change(graph, extra, number, node, inputs)
            entry, found = self._with_tangents(graph, extra, number, node, inputs, changes)
            if (number, 0) == self.cut.last:
                own = [graph.variable(f"last_{d}") for d in DIRECTIONS]
                # not elemwise_add, see the note in tangents
                found = [graph.add("add_n", a, b, num_args=2) for a, b in zip(found, own)]
            for output in range(int(node["attrs"].get("num_outputs", 1))):
                moves[entry[0], output] = [f and (f[0], output) for f in found]
            return entry

        wanted = {"logits": self._logits["logits"], "last": self.cut.last}
        entries = copy_into(graph, self.cut.graph, list(wanted.values()), known, change)
        gives = dict(zip(wanted, entries), **extra)
        gives.update({f"change_{d}": e for d, e in zip(DIRECTIONS, moves[gives["logits"]])})
        takes = list(self.cut.passed) + list(self._masks)
        takes += [f"{layer}_{d}" for layer in ("inner", "last") for d in DIRECTIONS]
        return self._block(graph, takes, gives)

    def _with_tangents(self, graph, extra, number, node, inputs, changes):
        if node["op"] == "BatchNorm":
            channels = self.params[self._name(node, 1)].shape[0]
            attrs = dict(node["attrs"], **({"use_global_stats": "True"} if self.frozen else {}))
            steps = normalize(graph, attrs, inputs, channels)
            if steps["mean"] is not None:
                self._remember(number, node)
                extra.update({f"mean{number}": steps["mean"], f"var{number}": steps["var"]})
            found = [normalize_tangent(graph, steps, c[0]) for c in changes]
            return steps["output"], found
        entry = self._change(graph, extra, number, node, inputs)
        if entry == inputs[0]:  # a dropout that drops nothing
            return entry, [row[0] for row in changes]
        entry = graph.copy(node, inputs) if entry is None else entry
        made = graph.nodes[entry[0]]
        seen = Node(graph, made["op"], made["attrs"], made["inputs"], entry)
        changes = [row + [None] * (len(made["inputs"]) - len(row)) for row in changes]
        return entry, [tangent(seen, row) for row in changes]

    def masks(self, shape, context):
        """Return new dropout masks as a dict by name, made for one step.

        Args:
            shape: Shape of the image batch.
            context: Device.
        """
        made = {}
        for name, mask in self._masks.items():
            if (name, shape) not in self._shapes:
                full = mask.symbol.infer_shape(data=shape)[1][0]
                full = tuple(1 if axis in mask.axes else n for axis, n in enumerate(full))
                self._shapes[name, shape] = full
            ones = mx.nd.ones(self._shapes[name, shape], ctx=context)
            made[name] = mx.nd.Dropout(ones, p=mask.rate)
        return made

    def update_statistics(self, outputs):
        """Move the running statistics of the batch-norms by one batch.

        Args:
            outputs: Dict that holds what the passes of the step gave.
        """
        for number, norm in self._statistics.items():
            for kind, name in (("mean", norm.mean), ("var", norm.var)):
                new = outputs[f"{kind}{number}"]
                running = self.params[name].data(new.context)
                running *= norm.momentum
                running += new * (1 - norm.momentum)
