"""A traced net as a list of nodes that can be cut, changed and extended.

MXNet's symbols can be composed but not edited; their JSON form can. Everything that needs another
form of a net (one of its parts, its directional derivative) starts here.
"""

from __future__ import annotations

import json

import mxnet as mx
from mxnet import gluon


class Graph:
    """Nodes in topological order.

    An *entry* is ``(number of a node, number of its output)``.

    Attributes:
        nodes: List of dicts with ``op`` ('null' for variables), ``name``, ``attrs``, ``inputs``
            (entries).
    """

    def __init__(self):
        self.nodes = []
        self._variables = {}

    @classmethod
    def of(cls, symbols):
        """Return ``(graph, entries)`` of a list of symbols with one output each."""
        text = json.loads(mx.sym.Group(list(symbols)).tojson(remove_amp_cast=False))
        graph = cls()
        for node in text["nodes"]:
            graph.nodes.append(
                {
                    "op": node["op"], "name": node["name"], "attrs": dict(node.get("attrs", {})),
                    "inputs": [(source, output) for source, output, *_ in node["inputs"]],
                }
            )  # fmt: skip
        for number, node in enumerate(graph.nodes):
            if node["op"] == "null":
                graph._variables[node["name"]] = (number, 0)
        return graph, [(number, output) for number, output, *_ in text["heads"]]

    def variable(self, name):
        """Return the entry of the variable ``name``, new or not; new ones are float32."""
        if name not in self._variables:
            self._variables[name] = self._append("null", name, {"__dtype__": "0"}, [])
        return self._variables[name]

    def add(self, op, *inputs, **attrs):
        """Append a node; return the entry of its first output."""
        name = f"added{len(self.nodes)}_{op.strip('_').lower()}"
        return self._append(op, name, {key: str(value) for key, value in attrs.items()}, inputs)

    def copy(self, node, inputs):
        """Append a node like ``node`` with other inputs; return the entry of its first output."""
        if node["op"] == "null":
            if node["name"] not in self._variables:
                entry = self._append("null", node["name"], dict(node["attrs"]), [])
                self._variables[node["name"]] = entry
            return self._variables[node["name"]]
        return self._append(node["op"], node["name"], dict(node["attrs"]), inputs)

    def _append(self, op, name, attrs, inputs):
        self.nodes.append({"op": op, "name": name, "attrs": attrs, "inputs": list(inputs)})
        return len(self.nodes) - 1, 0

    def needed(self, entries, known=()):
        """Return the numbers of all nodes that ``entries`` need, in order.

        Args:
            entries: What is wanted.
            known: Entries that are given, so that what lies before them is not needed.
        """
        found, stack = set(), [entry for entry in entries if entry not in known]
        while stack:
            number = stack.pop()[0]
            if number not in found:
                found.add(number)
                stack.extend(e for e in self.nodes[number]["inputs"] if e not in known)
        return sorted(found)

    def symbol(self, entries):
        """Return a list of symbols, one for each entry."""
        kept = self.needed(entries)
        number = {old: new for new, old in enumerate(kept)}
        nodes = []
        for old in kept:
            node = dict(self.nodes[old])
            node["inputs"] = [[number[source], output, 0] for source, output in node["inputs"]]
            nodes.append(node)
        text = {
            "nodes": nodes,
            "arg_nodes": [k for k, node in enumerate(nodes) if node["op"] == "null"],
            "heads": [[number[source], output, 0] for source, output in entries],
            "attrs": {"mxnet_version": ["int", 10901]},
        }
        group = mx.sym.load_json(json.dumps(text))
        return [group[k] for k in range(len(entries))]

    def variables(self, entries):
        """Return the names of the variables that ``entries`` need, in order."""
        nodes = (self.nodes[number] for number in self.needed(entries))
        return [node["name"] for node in nodes if node["op"] == "null"]


def copy_into(target, source, wanted, known, change=None):
    """Copy what ``wanted`` entries of one graph need into another.

    Args:
        target: Graph that receives the nodes.
        source: Graph they come from.
        wanted: Entries of ``source``.
        known: ``{entry of source: entry of target}`` of what is there already; receives the rest.
        change: Function ``(number, node, inputs) -> entry or None``, called before a node is
            copied, ``inputs`` being entries of ``target``; the node of that entry takes its place,
            None copies it as it is.

    Returns:
        The entries of ``target`` that stand for ``wanted``.
    """
    numbers = source.needed(wanted, known)
    used = {e for number in numbers for e in source.nodes[number]["inputs"]} | set(wanted)
    outputs = {}
    for number, output in sorted(used):
        outputs.setdefault(number, set()).add(output)
    for number in numbers:
        node = source.nodes[number]
        inputs = [known[entry] for entry in node["inputs"]]
        entry = change(number, node, inputs) if change else None
        new = (target.copy(node, inputs) if entry is None else entry)[0]
        for output in outputs.get(number, ()):
            known.setdefault((number, output), (new, output))
    return [known[entry] for entry in wanted]


class GraphBlock(gluon.SymbolBlock):
    """A piece of a graph as a block on the parameters of the net that it comes from.

    Inputs and outputs are arrays in the order of ``takes`` and ``gives``; a single output comes
    bare.

    Args:
        graph: Graph.
        takes: Names of the variables that are inputs; those that are not needed are dropped.
        gives: ``{name: entry}`` of the outputs.
        params: ParameterDict of the net.
    """

    def __init__(self, graph, takes, gives, params):
        present = graph.variables(gives.values())
        self_takes = tuple(name for name in takes if name in present)
        inputs = [mx.sym.var(name, dtype="float32") for name in self_takes]
        super().__init__(graph.symbol(list(gives.values())), inputs, params=params)
        self.takes, self.gives = self_takes, tuple(gives)
        self.hybridize(static_alloc=True, static_shape=True)

    def run(self, values):
        """Take the inputs from a dict by name; return the outputs as a dict."""
        outputs = self(*[values[name] for name in self.takes])
        return dict(zip(self.gives, outputs if isinstance(outputs, list) else [outputs]))
