"""Opening the two files of an exported graph: MXNet's C code sees only what has been checked.

Its reader of parameters takes memory for whatever a file promises (see
``gluon_attn.core.reading``), and
a graph in which a layer takes output 7 of one that has a single output, or a convolution has no
groups, ends the process.
"""

from __future__ import annotations

import json
import re
from typing import Any

import mxnet as mx

from gluon_attn.core.errors import DamagedError, first_line, naming
from gluon_attn.core.reading import load_params
from gluon_attn.export.sidecar import ExportError


def load_graph(text: bytes, raw: bytes, where: Any) -> tuple:
    """Return ``(symbol, arrays)`` of a graph's JSON and of its parameter file.

    Args:
        text, raw: The contents of the two files.
        where: File or folder, for messages.

    Raises:
        ExportError: MXNet could not read one of them, or not without harm.
    """
    try:
        with naming(where, "{path}: MXNet cannot read it: {why}"):
            symbol = load_symbol(text)
            arrays = load_params(raw, "its parameters")
            if not isinstance(arrays, dict):
                raise DamagedError("its parameters have no names")
    except ValueError as error:
        raise ExportError(first_line(error)) from error
    return symbol, arrays


def load_symbol(text: bytes | str) -> mx.sym.Symbol:
    """Return the graph of a JSON text, once every reference in it is known to lead somewhere.

    Raises:
        ValueError, MXNetError, LookupError, TypeError: It is no graph.
    """
    graph = json.loads(text)
    _check(graph)
    return mx.sym.load_json(json.dumps(graph))


def _check(graph: dict) -> None:
    nodes, references = graph["nodes"], []
    for number, node in enumerate(nodes):
        for part in node.get("subgraphs", ()):
            _check(part)
        inputs = [_reference(entry, number) for entry in node["inputs"]]
        if inputs and node["op"] == "null":
            raise DamagedError(f"variable {number} of the graph has inputs")
        groups = node.get("attrs", {}).get("num_group", "1")
        if int(groups) < 1:  # by which MXNet divides
            raise DamagedError(f"node {number} of the graph has {groups} groups")
        references += inputs
    heads = [_reference(entry, len(nodes)) for entry in graph["heads"]]
    if not heads:
        raise DamagedError("the graph has no outputs")
    references += heads
    if any(place for _, place in references):
        counts = _count_outputs(graph)
        for source, place in references:
            if place >= counts[source]:
                name = nodes[source]["name"]
                raise DamagedError(f"output {place} of '{name}', which has {counts[source]}")


def _reference(entry: list, end: int) -> tuple:
    """Return which output of which node an entry names; the nodes before ``end`` are known."""
    if not isinstance(entry, list) or len(entry) not in (2, 3):
        raise DamagedError("a reference of the graph is none")
    if any(type(number) is not int or not 0 <= number < 1 << 31 for number in entry):
        raise DamagedError(f"the graph has the reference {entry}")
    if entry[0] >= end:
        raise DamagedError(f"node {entry[0]} of the graph is used before it is there")
    return entry[0], entry[1]


def _count_outputs(graph: dict) -> list:
    """Return how many outputs each node has, by asking MXNet with all references set to the first.

    The nodes are given names that tell their number.
    """
    probe = json.loads(json.dumps(graph))
    for number, node in enumerate(probe["nodes"]):
        node["name"] = f"n{number}"
        node["inputs"] = [[entry[0], 0, 0] for entry in node["inputs"]]
    probe["heads"] = [[number, 0, 0] for number in range(len(probe["nodes"]))]
    outputs = mx.sym.load_json(json.dumps(probe)).get_internals().list_outputs()
    counts = [0] * len(probe["nodes"])
    for name in outputs:
        counts[int(re.match(r"n(\d+)(?:_|$)", name)[1])] += 1
    return counts
