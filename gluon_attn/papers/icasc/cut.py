"""A net cut at its last two feature layers, for steps that pass through its end several times.

    image -> trunk -> inner feature map -> stage -> last feature map -> head -> logits

The *last* feature map is the output of the last stage, the *inner* one that of the last stage with
larger maps (Sharpen Focus: Learning With Attention Separability and Consistency, Wang et al., ICCV
2019, takes "the last convolutional layer" and that of "the penultimate block", which in a ResNet is
the stage before). Any net whose stages are :class:`gluon_attn.nets.taps.TappedStage` can be cut,
whatever its head does: the head of VAA reads the inner map as well, and that of VAA's released form
an activation inside the trunk.

A plain net is not made for several passes: every backward pass moves the running statistics of its
batch-norms once more, and every forward pass drops other features. Here

* batch-norm leaves the running statistics alone; :meth:`Tail.update_statistics` moves them once;
* dropout multiplies by masks that are inputs, so that all passes of a step drop the same features.
"""

from __future__ import annotations

import ast
from typing import Mapping, NamedTuple, Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock

from gluon_attn.nets.graph import Entry, Graph, GraphBlock, Node, freeze_norm, record
from gluon_attn.nets.resnet import GlobalMean
from gluon_attn.nets.taps import TappedStage
from gluon_attn.papers.icasc.tangents import (
    Tangents,
    added,
    batch_mean,
    normalize,
    normalize_tangent,
)

DIRECTIONS = ("true", "confusing")
Arrays = Mapping[str, mx.nd.NDArray]


class Cut(NamedTuple):
    """Where a recorded net is cut.

    ``layers`` names the inner and the last layer, as ``stage3_activation1``. ``passed`` is what
    crosses the cut in front of the stage: ``inner`` and what the head reads of the trunk;
    ``staged`` the same behind it: ``last`` and what the head reads inside the stage. ``means`` are
    the global averages that are no pooling, what they give and what they read.
    """

    graph: Graph
    logits: Entry
    layers: tuple[str, ...]
    passed: dict[str, Entry]
    staged: dict[str, Entry]
    means: dict[Entry, Entry]


def cut_net(net: HybridBlock) -> Cut:
    """Record a net and find its last two feature layers.

    Raises ValueError for a net with fewer than two stages, or whose last stage reads more than the
    output of the stage before.
    """
    found: list[HybridBlock] = []
    net.apply(found.append)
    stages = [block for block in found if isinstance(block, TappedStage)]
    averages = [block for block in found if isinstance(block, GlobalMean)]
    graph, outputs, calls = record(net, [*(s for s in stages if s.last_of_size), *averages])
    means = {call.gave: call.read for call in calls if call.block in averages}
    calls = [call for call in calls if call.block in stages]
    if len(calls) < 2:
        raise ValueError(
            f"{type(net).__name__} has {len(calls)} stage(s) of type TappedStage behind which "
            "the maps become smaller; two feature layers need two or more such stages"
        )
    inner, last = (call.gave for call in calls[-2:])
    logits, blocks = outputs["logits"], [call.block for call in calls[-2:]]
    layers = [f"stage{stages.index(b) + 1}_activation{len(b) - 1}" for b in blocks]
    data = graph.variable("data")[0]
    parameters = {k for k, node in enumerate(graph.nodes) if node.op == "null" and k != data}
    trunk = set(graph.needed([inner])) - parameters
    stage = set(graph.needed([last], known=(inner,))) - parameters
    if stage & trunk:
        name = graph.nodes[min(stage & trunk)].name
        raise ValueError(
            f"the last stage of {type(net).__name__} reads more than the stage before it gives, "
            f"such as '{name}'; such a net cannot be cut between its last two stages"
        )
    head = set(graph.needed([logits], known=(inner, last))) - trunk - stage - parameters
    passed, staged = {"inner": inner}, {"last": last}
    for entry in sorted({e for number in head for e in graph.nodes[number].inputs} - {inner, last}):
        if entry[0] in trunk:
            passed[f"trunk{len(passed) - 1}"] = entry
        elif entry[0] in stage:
            staged[f"stage{len(staged) - 1}"] = entry
    return Cut(graph, logits, tuple(layers), passed, staged, means)


class LinearHead(NamedTuple):
    """Names of weight W ``(A, C)`` and dropout mask ('': none) of a head of global average pooling,
    perhaps dropout, one dense layer.

    The gradient of the scores ``v . logits`` with respect to the last map is the same at each of
    its Z positions: ``(v W) * mask / Z``.
    """

    weight: str
    mask: str

    @classmethod
    def of(cls, cut: Cut) -> LinearHead | None:
        node, mask, pooled = cut.graph.nodes[cut.logits[0]], "", False
        if node.op != "FullyConnected":
            return None
        weight, entry = cut.graph.nodes[node.inputs[1][0]].name, node.inputs[0]
        while entry != cut.staged["last"]:
            if entry in cut.means and not pooled:
                entry, pooled = cut.means[entry], True
                continue
            node = cut.graph.nodes[entry[0]]
            average = node.flag("global_pool") and node.attrs.get("pool_type") == "avg"
            if node.op == "Dropout" and not (mask or pooled):
                mask = f"mask{entry[0]}"
            elif node.op == "Pooling" and average and not pooled:
                pooled = True
            elif node.op != "Flatten":
                return None
            entry = node.inputs[0]
        return cls(weight, mask) if pooled else None


class Tail:
    """Trunk, last stage and head of a net, on its own parameters; the net is left as it is.

    ``trunk`` takes the image to ``inner`` and what else the head reads, with the net's own layers;
    ``stage`` goes on to ``last`` and ``head`` to ``logits``, prepared for several passes. All run
    by name. ``closed_form`` is a :class:`LinearHead` if the head is one; else None.

    With ``frozen``, batch-norm works with its running statistics and nothing is dropped, as in
    inference. (In MXNet's own inference mode, gradients are wrong behind a max-pooling, and in
    static graphs that were trained before; so passes with a frozen tail run in training mode, too.)
    """

    def __init__(self, net: HybridBlock, ctx: Sequence[mx.Context], frozen: bool = False) -> None:
        self.cut, self.params, self.ctx = cut_net(net), net.collect_params(), list(ctx)
        self.frozen, self.layers = frozen, self.cut.layers
        self._norms: dict[int, Node] = {}
        # share that is dropped, axes that are dropped as a whole, and input of every dropout
        self._dropped: dict[str, tuple[float, tuple[int, ...], Entry]] = {}
        self._unused: dict[str, tuple[int, ...]] = {}  # shapes of parameters that nothing reads
        self._shapes: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = {}
        cut = self.cut
        self.trunk = GraphBlock(cut.graph, ["data"], cut.passed, self.params)
        self.stage = self._part(cut.passed, cut.staged)
        self.head = self._part({**cut.staged, **cut.passed}, {"logits": cut.logits})
        self.closed_form = LinearHead.of(cut)
        if self.closed_form and frozen:
            self.closed_form = self.closed_form._replace(mask="")
        later = set(self.stage.collect_params()) | set(self.head.collect_params())
        shared = sorted(later & set(self.trunk.collect_params()) & set(self.params))
        if shared:
            raise ValueError(f"the trunk shares parameter '{shared[0]}' with what follows it")

    def _part(self, given: dict[str, Entry], wanted: dict[str, Entry]) -> GraphBlock:
        graph = Graph()
        extra: dict[str, Entry] = {}
        known = {entry: graph.variable(name) for name, entry in given.items()}

        def change(target: Graph, number: int, node: Node, inputs: list[Entry]) -> Entry | None:
            return self._prepared(target, number, node, inputs, extra=extra)

        entries = graph.take(self.cut.graph, wanted.values(), known, change)
        gives = {**dict(zip(wanted, entries)), **extra}
        return self._block(graph, [*given, *self._dropped], gives)

    def _block(self, graph: Graph, takes: list[str], gives: dict[str, Entry]) -> GraphBlock:
        block = GraphBlock(graph, takes, gives, self.params)
        for name, parameter in block.collect_params().items():
            if name not in self.params:
                parameter.shape = self._unused[name]
                parameter.initialize(init="zeros", ctx=self.ctx)
        return block

    def _prepared(
        self, graph: Graph, number: int, node: Node, inputs: list[Entry], *,
        extra: dict[str, Entry],
    ) -> Entry | None:  # fmt: skip
        """Return what takes the place of a node, or None; ``extra`` receives batch statistics."""
        if node.op == "Dropout":
            return inputs[0] if self.frozen else self._dropout(graph, number, node, inputs[0])
        if node.op != "BatchNorm":
            return None
        if self.frozen or node.flag("use_global_stats"):
            return freeze_norm(graph, number, node, inputs)
        data = graph.add("BlockGrad", inputs[0])
        mean = batch_mean(graph, data)
        row = graph.add("Reshape", mean, shape="(1, -1, 1, 1)")
        var = batch_mean(graph, graph.add("square", graph.add("broadcast_sub", data, row)))
        self._norms[number] = node
        extra.update({f"mean{number}": mean, f"var{number}": var})
        unused = [f"{node.name}_unused_{kind}" for kind in ("mean", "var")]
        self._unused.update(dict.fromkeys(unused, self.params[self._read(node, 1)].shape))
        return graph.copy(node, inputs[:3] + [graph.variable(name) for name in unused])

    def _read(self, node: Node, position: int) -> str:
        return self.cut.graph.nodes[node.inputs[position][0]].name

    def _dropout(self, graph: Graph, number: int, node: Node, data: Entry) -> Entry:
        rate, axes = float(node.attrs.get("p", 0.5)), ast.literal_eval(node.attrs.get("axes", "()"))
        self._dropped[f"mask{number}"] = rate, tuple(axes), node.inputs[0]
        return graph.add("broadcast_mul", data, graph.variable(f"mask{number}"))

    def directional(self) -> GraphBlock:
        """Return the block that also gives directional derivatives of the logits.

        It takes what stage and head take, and ``inner_true``, ``inner_confusing`` (shaped like the
        inner map) and ``last_true``, ``last_confusing`` (like the last map): two directions. Beside
        ``logits``, ``last`` and the statistics it gives ``change_true`` and ``change_confusing``
        ``(B, A)``: how the logits change when both maps move in that direction.
        """
        graph, cut = Graph(), self.cut
        extra: dict[str, Entry] = {}
        known = {entry: graph.variable(name) for name, entry in cut.passed.items()}
        own = {
            layer: [graph.variable(f"{layer}_{d}") for d in DIRECTIONS]
            for layer in ("inner", "last")
        }
        tangents = Tangents(graph, {known[cut.passed["inner"]]: [*own["inner"]]})

        def change(target: Graph, number: int, node: Node, inputs: list[Entry]) -> Entry | None:
            moving, batch_norm = tangents.moving(inputs), node.op == "BatchNorm"
            if moving and batch_norm:
                entry = self._norm(target, number, node, inputs, tangents=tangents, extra=extra)
            else:
                new = self._prepared(target, number, node, inputs, extra=extra)
                entry = target.copy(node, inputs) if new is None else new
                if moving and entry not in inputs:  # as a dropout that drops nothing gives
                    tangents.push(entry)
            if (number, 0) == cut.staged["last"]:
                pairs = zip(tangents[entry], own["last"])
                tangents[entry] = [added(target, *pair) for pair in pairs]
            return entry

        logits, last = graph.take(cut.graph, [cut.logits, cut.staged["last"]], known, change)
        gives = {"logits": logits, "last": last, **extra}
        gives.update({f"change_{d}": e for d, e in zip(DIRECTIONS, tangents[logits]) if e})
        takes = [*cut.passed, *self._dropped]
        takes += [f"{layer}_{d}" for layer in own for d in DIRECTIONS]
        return self._block(graph, takes, gives)

    def _norm(
        self, graph: Graph, number: int, node: Node, inputs: list[Entry], *, tangents: Tangents,
        extra: dict[str, Entry],
    ) -> Entry:  # fmt: skip
        node = node.changed(use_global_stats=True) if self.frozen else node
        norm = normalize(graph, node, inputs, self.params[self._read(node, 1)].shape[0])
        if norm.mean and norm.var:
            self._norms[number] = node
            extra.update({f"mean{number}": norm.mean, f"var{number}": norm.var})
        tangents[norm.output] = [
            change and normalize_tangent(graph, norm, change) for change in tangents[inputs[0]]
        ]
        return norm.output

    # -- what a step needs -------------------------------------------------------------------------
    def masks(self, shape: tuple[int, ...], context: mx.Context) -> dict[str, mx.nd.NDArray]:
        """Return new dropout masks by name, for one step on an image batch of this shape."""
        made = {}
        for name, (rate, axes, entry) in self._dropped.items():
            if (name, shape) not in self._shapes:
                full = self.cut.graph.shapes([entry], data=shape)[entry]
                full = tuple(1 if axis in axes else n for axis, n in enumerate(full))
                self._shapes[name, shape] = full
            ones = mx.nd.ones(self._shapes[name, shape], ctx=context)
            made[name] = mx.nd.Dropout(ones, p=rate)
        return made

    def gradient_at_last(
        self, vector: mx.nd.NDArray, last: mx.nd.NDArray, masks: Arrays
    ) -> mx.nd.NDArray | None:
        """Return the gradient of the scores ``vector . logits`` at the last map in closed form."""
        if self.closed_form is None:
            return None
        weight, mask = self.closed_form
        rows = mx.nd.dot(vector, self.params[weight].data(vector.context))
        if mask:
            rows = rows * masks[mask].reshape((0, -1))
        positions = last.shape[2] * last.shape[3]
        return (rows / positions).reshape((0, 0, 1, 1)).broadcast_to(last.shape)

    def update_statistics(self, outputs: Arrays) -> None:
        """Move the running statistics of the batch-norms once, by what the passes gave."""
        for number, node in self._norms.items():
            momentum = float(node.attrs.get("momentum", 0.9))
            for kind, position in (("mean", 3), ("var", 4)):
                new = outputs[f"{kind}{number}"]
                running = self.params[self._read(node, position)].data(new.context)
                running *= momentum
                running += new * (1 - momentum)
