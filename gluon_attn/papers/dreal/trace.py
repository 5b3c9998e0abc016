"""The graph of a net, with the places of its attention gates.

Part of DREAL (Deep Reinforced Attention Learning, Li and Chen, ECCV 2020), whose rewards ask what
the net would have said had one attention module done nothing.

An *entry* is ``(number of a node, number of its output)``, see :mod:`gluon_attn.nets.graphs`.
"""

from __future__ import annotations

import mxnet as mx

from gluon_attn.nets.graphs import Graph


class Trace:
    """What a net computes, as nodes.

    Args:
        net: HybridBlock of one input.
        modules: For each attention module the tuple of its gates, HybridBlocks that the net calls.

    Attributes:
        graph: :class:`gluon_attn.nets.graphs.Graph`; its variable ``data`` is the image.
        outputs: Entries of the net's outputs.
        modules: For each module the list of ``(entry of a gate's input, entry of its map)``.

    Raises:
        ValueError: The net does not call a gate exactly once.
    """

    def __init__(self, net, modules):
        symbols, found = _run(net, [gate for gates in modules for gate in gates])
        pairs = [symbol for pair in found for symbol in pair]
        self.graph, heads = Graph.of(symbols + pairs)
        self.outputs, places = heads[: len(symbols)], iter(heads[len(symbols) :])
        self.modules = [[(next(places), next(places)) for _ in gates] for gates in modules]

    @property
    def nodes(self):
        """The nodes of the graph."""
        return self.graph.nodes

    def inputs(self, number):
        """Return the entries that node ``number`` reads."""
        return self.nodes[number]["inputs"]

    def ancestors(self, entries):
        """Return the set of all nodes that ``entries`` depend on, their own included."""
        return set(self.graph.needed(entries))

    def descendants(self, numbers):
        """Return the set of all nodes that depend on one of ``numbers``, these included."""
        found = set(numbers)
        for number in range(len(self.nodes)):
            if any(node in found for node, _ in self.inputs(number)):
                found.add(number)
        return found

    def readers(self):
        """Return for every node the list of the nodes that read one of its outputs."""
        found = [[] for _ in self.nodes]
        for number in range(len(self.nodes)):
            for node, _ in self.inputs(number):
                found[node].append(number)
        return found


def _run(net, gates):
    """Call ``net`` on a symbol; return its outputs and, for each gate, its input and output."""
    found = [[] for _ in gates]
    hooks = [gate.register_forward_hook(_recorder(place)) for gate, place in zip(gates, found)]
    try:
        outputs = net(mx.sym.var("data", dtype="float32"))
    finally:
        for hook in hooks:
            hook.detach()
    for gate, calls in zip(gates, found):
        if len(calls) != 1:
            raise ValueError(
                f"{type(net).__name__} calls its gate {gate.name} {len(calls)} times; "
                "an attention module must be used exactly once"
            )
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    return outputs, [calls[0] for calls in found]


def _recorder(calls):
    """Return a forward hook that keeps the input and the output of every call."""

    def hook(gate, inputs, output):
        calls.append((inputs[0], output))

    return hook
