"""Genotypes: which operation stands on each of the ten edges of a high-order group attention.

Auto Learning Attention, Ma, Zhang, Xia, Tao, NeurIPS 2020 ("paper"), with the authors' code
("code").

The four groups x_1 … x_4 of the channels become four nodes, one after the other. Node i has one
edge from its own group, written as source 0, and one from each earlier node, written as source
j = 1 … i - 1: 1 + 2 + 3 + 4 = 10 edges. A genotype names the operation of each; all edges are kept.

Three ways to write one, all understood by :func:`find_genotype`:

* a name of :data:`GENOTYPES`, such as ``autola_cifar10``;
* a JSON file, see :func:`save_genotype`;
* a line: ``op@source``, edges of a node joined by ``+`` and nodes by ``/``, without spaces.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable, NamedTuple, Sequence, Tuple

from gluon_attn.core.files import json_text, write_text
from gluon_attn.core.registry import Registry, unknown_name
from gluon_attn.core.text import read_json

# In the order of the columns of the architecture parameters.
OPERATIONS = (
    "none",
    "skip_connect",
    "sep_conv_3x3",
    "dil_conv_3x3",
    "sep_conv_3x3_spatial",
    "dil_conv_3x3_spatial",
    "SE",
    "SE_A_M",
    "CBAM",
)
NODES = 4
EDGES = tuple((node, source) for node in range(1, NODES + 1) for source in range(node))

GENOTYPES = Registry("genotype")
Edge = Tuple[str, int]  # operation and source


class Genotype(NamedTuple):
    """The ten operations, node by node, sources ascending; make one with :func:`genotype`."""

    edges: tuple[Edge, ...]

    @property
    def operations(self) -> tuple[str, ...]:
        """The ten operation names in the order of ``EDGES``."""
        return tuple(operation for operation, _ in self.edges)

    @property
    def nodes(self) -> tuple[tuple[Edge, ...], ...]:
        """The edges of each of the four nodes."""
        return tuple(
            tuple(edge for edge, (owner, _) in zip(self.edges, EDGES) if owner == node)
            for node in range(1, NODES + 1)
        )

    def __str__(self) -> str:
        return "/".join("+".join(f"{op}@{source}" for op, source in node) for node in self.nodes)


def genotype(edges: Iterable[Any], where: str = "genotype") -> Genotype:
    """Check ten pairs ``(operation, source)``, node by node, and bring them into canonical order.

    The order inside a node is free: the code sorts by edge strength. ``where``, such as a file
    name, is what errors call it. A ValueError names the edge that is wrong.
    """
    pairs = [_pair(edge, number, where) for number, edge in enumerate(edges)]
    if len(pairs) != len(EDGES):
        raise ValueError(
            f"{where}: {len(pairs)} edges; valid are {len(EDGES)}: node i of {NODES} has i, one "
            "from its group (source 0) and one from each earlier node"
        )
    ordered: list[Edge] = []
    for node in range(1, NODES + 1):
        first = node * (node - 1) // 2
        own = pairs[first : first + node]
        for number, (operation, source) in enumerate(own, first):
            _check_source(source, node, [s for _, s in own], f"{where}: edge {number + 1}")
            if operation not in OPERATIONS:
                raise ValueError(
                    f"{where}: edge {number + 1} (into node {node}): "
                    f"{unknown_name('operation', operation, OPERATIONS)}"
                )
        ordered += sorted(own, key=lambda edge: edge[1])
    return Genotype(tuple(ordered))


def _pair(edge: Any, number: int, where: str) -> Edge:
    good = isinstance(edge, (list, tuple)) and len(edge) == 2
    if not good or not isinstance(edge[0], str) or type(edge[1]) is not int:
        raise ValueError(f"{where}: edge {number + 1} is {edge!r}; valid is [operation, source]")
    return edge[0], edge[1]


def _check_source(source: int, node: int, sources: Sequence[int], where: str) -> None:
    valid = ", ".join(map(str, range(node)))
    if source >= node:
        what = "its own output" if source == node else f"node {source}, which comes later"
        what += ": a cycle" if source <= NODES else " and does not exist"
        raise ValueError(f"{where}: node {node} reads {what}; valid sources are {valid}")
    if source < 0 or sources.count(source) > 1:
        what = "does not exist" if source < 0 else "is there twice"
        raise ValueError(f"{where}: source {source} of node {node} {what}; valid, once each, are "
                         f"{valid}")  # fmt: skip


def parse_genotype(line: str, where: str | None = None) -> Genotype:
    """Return the genotype that a line describes; errors name ``where`` or the line itself."""
    where = f"genotype '{line}'" if where is None else where
    nodes = [node.split("+") for node in line.split("/")]
    counts = [len(node) for node in nodes]
    if counts != list(range(1, NODES + 1)):
        raise ValueError(
            f"{where}: {'/'.join(map(str, counts))} edges; valid are 1/2/3/4, written "
            "op@0/op@0+op@1/…"
        )
    edges: list[Edge] = []
    for text in (edge for node in nodes for edge in node):
        operation, found, source = text.partition("@")
        if not found or not source.isdigit():
            raise ValueError(f"{where}: edge {len(edges) + 1} is '{text}'; write operation@source")
        edges.append((operation, int(source)))
    return genotype(edges, where)


def of_operations(operations: Iterable[str]) -> Genotype:
    """Return the genotype with these ten operations, in the order of ``EDGES``."""
    operations = tuple(operations)
    if len(operations) != len(EDGES):
        raise ValueError(f"{len(operations)} operations; a genotype has {len(EDGES)}")
    return genotype((op, source) for op, (_, source) in zip(operations, EDGES))


def find_genotype(text: str | Genotype) -> Genotype:
    """Return a genotype by name, by path (ending in ``.json``) or from a line."""
    if isinstance(text, Genotype):
        return text
    if text in GENOTYPES:
        found: Genotype = GENOTYPES.get(text)
        return found
    if text.endswith(".json"):
        return load_genotype(text)
    if "@" in text:
        return parse_genotype(text)
    raise ValueError(
        unknown_name("genotype", text, GENOTYPES.names()) + "; or give a file ending in .json"
    )


def save_genotype(path: str | Path, found: Genotype, about: dict[str, Any] | None = None) -> None:
    """Write a genotype as JSON, atomically; ``about`` (seed, recipe, strengths, …) is kept with it.

    Raises ValueError for a path with another ending, by which it would not be found again.
    """
    if not str(path).endswith(".json"):
        raise ValueError(f"{path}: the name of a genotype file ends in .json")
    found = genotype(found.edges, str(path))
    rows = ",\n".join("  " + json_text(list(edge), None).rstrip() for edge in found.edges)
    text = json_text({} if about is None else about).rstrip()
    write_text(path, f'{{"edges": [\n{rows}\n],\n"about": {text}}}\n')


def load_genotype(path: str | Path) -> Genotype:
    """Read a genotype from JSON: an object with ``edges``, the ten ``[operation, source]``."""
    content = read_json(path, "a genotype file is needed")
    edges = content.get("edges") if isinstance(content, dict) else None
    if not isinstance(edges, list):
        raise ValueError(f"{path}: no list of 'edges'")
    return genotype(edges, str(path))


# The code's genotypes.Attention; the order inside a node is that of falling edge strength.
GENOTYPES.register("autola_cifar10")(
    genotype(
        [
            ("skip_connect", 0),
            ("sep_conv_3x3_spatial", 0), ("sep_conv_3x3", 1),
            ("CBAM", 0), ("skip_connect", 2), ("sep_conv_3x3", 1),
            ("sep_conv_3x3", 0), ("skip_connect", 1), ("sep_conv_3x3", 3), ("dil_conv_3x3", 2),
        ],
        "autola_cifar10",
    )
)  # fmt: skip
# The paper's controls: the same structure with one known attention on all edges.
GENOTYPES.register("hog_se")(of_operations(["SE"] * len(EDGES)))
GENOTYPES.register("hog_cbam")(of_operations(["CBAM"] * len(EDGES)))
