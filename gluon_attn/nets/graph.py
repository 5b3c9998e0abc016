"""The graph of a net as a list of nodes: the one place that records, cuts and rewrites it.

MXNet's symbols can be composed but not edited; their JSON form can.
"""

from __future__ import annotations

import json
from typing import Any, Callable, Container, Iterable, List, Mapping, NamedTuple, Optional, Tuple

import mxnet as mx
from mxnet import gluon

Entry = Tuple[int, int]  # a tensor: number of a node, number of its output


class Node(NamedTuple):
    """An operator, or with op 'null' a variable; inputs are entries."""

    op: str
    name: str
    attrs: dict[str, str]
    inputs: list[Entry]

    def flag(self, name: str, default: str = "False") -> bool:
        return self.attrs.get(name, default) in ("True", "1")

    def changed(self, **attrs: Any) -> Node:
        """Return the node with some attributes changed."""
        return self._replace(attrs={**self.attrs, **{k: str(v) for k, v in attrs.items()}})


# Called as change(target, number, node, inputs) before a node is copied; inputs are entries of the
# target. The node of the entry that it returns takes the place of the copy; None means "copy it".
Change = Callable[["Graph", int, Node, List[Entry]], Optional[Entry]]


class Graph:
    """Nodes in topological order."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._variables: dict[str, Entry] = {}

    @classmethod
    def of(cls, symbols: Iterable[mx.sym.Symbol]) -> tuple[Graph, list[Entry]]:
        """Return the graph of symbols with one output each, and their entries."""
        text = json.loads(mx.sym.Group(list(symbols)).tojson(remove_amp_cast=False))
        graph = cls()
        for number, node in enumerate(text["nodes"]):
            inputs = [(source, output) for source, output, *_ in node["inputs"]]
            graph.nodes.append(Node(node["op"], node["name"], dict(node.get("attrs", {})), inputs))
            if node["op"] == "null":
                graph._variables[node["name"]] = (number, 0)
        return graph, [(number, output) for number, output, *_ in text["heads"]]

    # -- writing -----------------------------------------------------------------------------------
    def variable(self, name: str) -> Entry:
        """Return the entry of a variable, new or not; new ones are float32."""
        return self.copy(Node("null", name, {"__dtype__": "0"}, []), [])

    def add(self, op: str, *inputs: Entry, **attrs: Any) -> Entry:
        """Append a node; return the entry of its first output."""
        name = f"added{len(self.nodes)}_{op.strip('_').lower()}"
        return self.copy(Node(op, name, {}, []).changed(**attrs), inputs)

    def copy(self, node: Node, inputs: Iterable[Entry]) -> Entry:
        """Append a node like ``node`` with other inputs; variables of one name stay one."""
        if node.op == "null" and node.name in self._variables:
            return self._variables[node.name]
        self.nodes.append(node._replace(attrs=dict(node.attrs), inputs=list(inputs)))
        entry = (len(self.nodes) - 1, 0)
        if node.op == "null":
            self._variables[node.name] = entry
        return entry

    def take(
        self, source: Graph, wanted: Iterable[Entry], known: dict[Entry, Entry],
        change: Change | None = None,
    ) -> list[Entry]:  # fmt: skip
        """Copy what ``wanted`` entries of another graph need; return the entries for them here.

        ``known`` maps entries of ``source`` to those that are here already, and receives the rest.
        """
        wanted = list(wanted)
        numbers = source.needed(wanted, known)
        read = {e for number in numbers for e in source.nodes[number].inputs} | set(wanted)
        outputs: dict[int, list[int]] = {}
        for number, output in sorted(read):
            outputs.setdefault(number, []).append(output)
        for number in numbers:
            node = source.nodes[number]
            inputs = [known[entry] for entry in node.inputs]
            entry = change(self, number, node, inputs) if change else None
            new = self.copy(node, inputs) if entry is None else entry
            for output in outputs.get(number, ()):
                # a node may be replaced by any output of another
                known.setdefault((number, output), (new[0], output or new[1]))
        return [known[entry] for entry in wanted]

    # -- reading -----------------------------------------------------------------------------------
    def needed(self, entries: Iterable[Entry], known: Container[Entry] = ()) -> list[int]:
        """Return the numbers of all nodes that ``entries`` need beside what is known, in order."""
        found, stack = set(), [entry for entry in entries if entry not in known]
        while stack:
            number = stack.pop()[0]
            if number not in found:
                found.add(number)
                stack.extend(e for e in self.nodes[number].inputs if e not in known)
        return sorted(found)

    def dependent(self, numbers: Iterable[int]) -> set[int]:
        """Return all nodes that depend on one of ``numbers``, these included."""
        found = set(numbers)
        for number, node in enumerate(self.nodes):
            if any(source in found for source, _ in node.inputs):
                found.add(number)
        return found

    def variables(self, entries: Iterable[Entry]) -> list[str]:
        """Return the names of the variables that ``entries`` need, in order."""
        nodes = (self.nodes[number] for number in self.needed(entries))
        return [node.name for node in nodes if node.op == "null"]

    def symbols(self, entries: Iterable[Entry]) -> list[mx.sym.Symbol]:
        entries = list(entries)
        kept = self.needed(entries)
        place = {old: new for new, old in enumerate(kept)}
        nodes = [self.nodes[old]._asdict() for old in kept]
        for node in nodes:
            node["inputs"] = [[place[source], output, 0] for source, output in node["inputs"]]
        text = {
            "nodes": nodes,
            "arg_nodes": [k for k, node in enumerate(nodes) if node["op"] == "null"],
            "heads": [[place[source], output, 0] for source, output in entries],
            "attrs": {"mxnet_version": ["int", 10901]},
        }
        group = mx.sym.load_json(json.dumps(text))
        return [group[k] for k in range(len(entries))]

    def shapes(
        self, entries: Iterable[Entry], **inputs: tuple[int, ...]
    ) -> dict[Entry, tuple[int, ...]]:
        """Return the shapes of ``entries`` and of all that they need; mx.MXNetError if they do not
        follow from those of the ``inputs``.
        """
        entries = set(entries)
        read = {e for number in self.needed(entries) for e in self.nodes[number].inputs}
        found = sorted(entries | read)
        return dict(zip(found, mx.sym.Group(self.symbols(found)).infer_shape(**inputs)[1]))


class GraphBlock(gluon.SymbolBlock):
    """A graph as a static block on the parameters of a net.

    Inputs and outputs are arrays in the order of ``takes`` and ``gives``; a single output comes
    bare. ``takes`` names the variables that are inputs; those that are not needed are dropped.
    """

    def __init__(
        self, graph: Graph, takes: Iterable[str], gives: Mapping[str, Entry],
        params: gluon.ParameterDict | None = None,
    ) -> None:  # fmt: skip
        present = set(graph.variables(gives.values()))
        names = tuple(name for name in takes if name in present)
        inputs = [mx.sym.var(name, dtype="float32") for name in names]
        super().__init__(graph.symbols(gives.values()), inputs, params=params)
        self.takes, self.gives = names, tuple(gives)
        self.hybridize(static_alloc=True, static_shape=True)

    def run(self, values: Mapping[str, mx.nd.NDArray]) -> dict[str, mx.nd.NDArray]:
        """Take the inputs from a dict by name; return the outputs as a dict."""
        outputs = self(*[values[name] for name in self.takes])
        return dict(zip(self.gives, outputs if isinstance(outputs, list) else [outputs]))


class Call(NamedTuple):
    """What a block inside a net read and gave: the first input and the first output."""

    block: gluon.HybridBlock
    read: Entry
    gave: Entry


class Record(NamedTuple):
    """A recorded net: its graph on the variable ``data``, its outputs by name, and calls inside."""

    graph: Graph
    outputs: dict[str, Entry]
    calls: list[Call]


def record(net: gluon.HybridBlock, blocks: Iterable[gluon.HybridBlock] = ()) -> Record:
    """Run a net of one input on a symbol; note the calls of ``blocks``, in order."""
    seen: list[tuple[Any, Any, Any]] = []

    def note(block: gluon.HybridBlock, inputs: Any, output: Any) -> None:
        seen.append((block, inputs[0], _listed(output)[0]))

    hooks = [block.register_forward_hook(note) for block in blocks]
    try:
        outputs = _listed(net(mx.sym.var("data", dtype="float32")))
    finally:
        for hook in hooks:
            hook.detach()
    graph, entries = Graph.of(outputs + [symbol for _, *pair in seen for symbol in pair])
    names, named = list(getattr(net, "output_names", ("logits",))), {}
    for k, entry in enumerate(entries[: len(outputs)]):
        name = names[k] if k < len(names) else f"output{k}"
        named[f"{name}_{k}" if name in named else name] = entry
    pairs = iter(entries[len(outputs) :])
    return Record(graph, named, [Call(block, next(pairs), next(pairs)) for block, *_ in seen])


def cut(
    source: Graph, given: Mapping[str, Entry], wanted: Mapping[str, Entry],
    params: gluon.ParameterDict, *, change: Change | None = None,
) -> GraphBlock:  # fmt: skip
    """Return what lies between the entries ``given`` and ``wanted`` of a graph, as a block."""
    graph = Graph()
    known = {entry: graph.variable(name) for name, entry in given.items()}
    entries = graph.take(source, wanted.values(), known, change)
    # MXNet cannot run a graph that is a variable
    entries = [graph.add("_copy", e) if graph.nodes[e[0]].op == "null" else e for e in entries]
    return GraphBlock(graph, given, dict(zip(wanted, entries)), params)


def frozen_view(net: gluon.HybridBlock) -> GraphBlock:
    """Return a block that computes ``net`` with batch-norm on its running statistics.

    It shares the parameters, so scale and shift learn through it; the statistics never change,
    whatever the mode, and samples of a batch do not influence one another.
    """
    graph, outputs, _ = record(net)
    given = {"data": graph.variable("data")}
    return cut(graph, given, outputs, net.collect_params(), change=freeze_norm)


def freeze_norm(target: Graph, number: int, node: Node, inputs: list[Entry]) -> Entry | None:
    """Change (see :data:`Change`) that puts batch-norm on its running statistics."""
    if node.op != "BatchNorm":
        return None
    return target.copy(node.changed(use_global_stats="True"), inputs)


def leaf(array: mx.nd.NDArray) -> mx.nd.NDArray:
    """Return an array on the same memory at which a new computation, and its gradient, begins."""
    start = array.detach()
    start.attach_grad()
    return start


def _listed(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
