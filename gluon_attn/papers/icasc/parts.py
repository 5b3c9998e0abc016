"""A net cut at its last two feature layers: trunk, last stage, head.

    image -> trunk -> inner feature map -> stage -> last feature map -> head -> outputs

The *last* feature map is the output of the last stage, the *inner* one that of the stage before
(Sharpen Focus: Learning With Attention Separability and Consistency, Wang et al., ICCV 2019, takes
"the last convolutional layer" and that of "the penultimate block"). Any net whose stages are
:class:`gluon_attn.nets.taps.TappedStage` can be cut, whatever its head does: the head of VAA reads
the inner map as well, and that of VAA's released form an activation inside the trunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mxnet as mx

from gluon_attn.nets.graphs import Graph, GraphBlock, copy_into
from gluon_attn.nets.taps import TappedStage


class Cut(NamedTuple):
    """Where a traced net is cut.

    Attributes:
        graph: :class:`gluon_attn.nets.graphs.Graph` of the whole net; its input is ``data``.
        inner: Entry of the inner feature map.
        last: Entry of the last feature map.
        outputs: ``{name: entry}`` of the net's outputs, logits first.
        passed: ``{name: entry}`` of what crosses the cut in front of the stage: ``inner`` and
            activations of the trunk that the head reads.
        staged: ``{name: entry}`` of what leaves the stage: ``last`` and activations inside the
            stage that the head reads.
        names: Names of the two layers, such as ``('stage3_activation1', 'stage4_activation1')``.
    """

    graph: Any
    inner: tuple
    last: tuple
    outputs: dict
    passed: dict
    staged: dict
    names: tuple


class Parts(NamedTuple):
    """Three blocks on the parameters of one net.

    Each has ``takes`` and ``gives``, the names of its inputs and outputs, and ``run``, which takes
    and returns dicts.

    Attributes:
        trunk: image ``(B, 3, H, W)`` to the inner map ``(B, C, h, w)``; with ``passed`` activations
            behind it, a list.
        stage: inner to last map ``(B, C', h', w')``, or a list likewise.
        head: last map (and what else it ``takes``) to the outputs of the net.
        inner: Name of the inner feature layer.
        last: Name of the last feature layer.
    """

    trunk: GraphBlock
    stage: GraphBlock
    head: GraphBlock
    inner: str
    last: str

    def __call__(self, image):
        """Return the outputs of the net as a dict by name."""
        values = {"data": image}
        for part in (self.trunk, self.stage, self.head):
            values.update(part.run(values))
        return {name: values[name] for name in self.head.gives}


def split_net(net):
    """Cut a net at its last two stages.

    The parts share the net's parameters, also the running statistics of batch-norm, and are
    hybridized; their composition is the net. The net itself is left as it is.

    Args:
        net: HybridBlock of one input with at least two
            :class:`~gluon_attn.nets.taps.TappedStage`; its parameter shapes must be known.

    Returns:
        :class:`Parts`.

    Raises:
        ValueError: The net has fewer than two stages, or its last stage reads more than the output
            of the stage before.
    """
    cut, params = cut_net(net), net.collect_params()
    trunk = GraphBlock(cut.graph, ["data"], cut.passed, params)
    parts = []
    for given, wanted in ((cut.passed, cut.staged), ({**cut.staged, **cut.passed}, cut.outputs)):
        graph = Graph()
        known = {entry: graph.variable(name) for name, entry in given.items()}
        entries = copy_into(graph, cut.graph, list(wanted.values()), known)
        parts.append(GraphBlock(graph, list(given), dict(zip(wanted, entries)), params))
    return Parts(trunk, *parts, *cut.names)


def cut_net(net):
    """Trace a net and find its last two feature layers; see :func:`split_net`.

    Returns:
        :class:`Cut`.
    """
    seen, stages = [], []
    net.apply(lambda block: stages.append(block) if isinstance(block, TappedStage) else None)
    hooks = [s.register_forward_hook(lambda b, _, out: seen.append((b, out))) for s in stages]
    try:
        outputs = net(mx.sym.var("data", dtype="float32"))
    finally:
        for hook in hooks:
            hook.detach()
    if len(seen) < 2:
        raise ValueError(
            f"{type(net).__name__} has {len(seen)} stage(s) of type TappedStage; its last two "
            "feature layers cannot be found. Build it from two or more such stages"
        )
    features = [out[0] if isinstance(out, (list, tuple)) else out for _, out in seen[-2:]]
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    graph, entries = Graph.of(features + outputs)
    names = getattr(net, "output_names", ("logits",))
    outputs = dict(zip(names, entries[2:]))
    if "inner" in outputs or "last" in outputs:
        raise ValueError("an output of the net is called 'inner' or 'last'; rename it")
    number = len(seen)
    layers = tuple(
        f"stage{number - 1 + k}_activation{len(stage) - 1}"
        for k, (stage, _) in enumerate(seen[-2:])
    )
    passed, staged = _crossings(graph, entries[0], entries[1], list(outputs.values()), net)
    return Cut(graph, entries[0], entries[1], outputs, passed, staged, layers)


def _crossings(graph, inner, last, outputs, net):
    """Return what crosses the two cuts, as ``passed`` and ``staged`` of :class:`Cut`."""
    parameters = {number for number, node in enumerate(graph.nodes) if node["op"] == "null"}
    parameters -= {graph.variable("data")[0]}
    trunk = set(graph.needed([inner])) - parameters
    stage = set(graph.needed([last], known=(inner,))) - parameters
    if stage & trunk:
        name = graph.nodes[min(stage & trunk)]["name"]
        raise ValueError(
            f"the last stage of {type(net).__name__} reads more than the stage before it gives, "
            f"such as '{name}'; such a net cannot be cut between its last two stages"
        )
    head = set(graph.needed(outputs, known=(inner, last))) - trunk - stage - parameters
    read = {e for number in head for e in graph.nodes[number]["inputs"]} | set(outputs)
    passed, staged = {"inner": inner}, {"last": last}
    for entry in sorted(read - {inner, last}):
        if entry[0] in trunk:
            passed[f"trunk{len(passed) - 1}"] = entry
        elif entry[0] in stage:
            staged[f"stage{len(staged) - 1}"] = entry
    return passed, staged
