"""Reading and rewriting the graph of an export, for its further forms."""

from __future__ import annotations

import json

import mxnet as mx

from gluon_attn.export.graph_file import load_graph


def read_graph(directory, sidecar):
    """Return ``(symbol, arrays)`` of the float32 graph in a directory being written.

    Args:
        directory: Path that holds the files.
        sidecar: Its future contents.
    """
    paths = [directory / sidecar["files"][kind]["file"] for kind in ("symbol", "params")]
    return load_graph(*(path.read_bytes() for path in paths), directory)


def rename_outputs(symbol, names):
    """Return ``symbol`` with its outputs named as in the sidecar; conversions rename nodes."""
    graph = json.loads(symbol.tojson(remove_amp_cast=False))
    heads = [head[0] for head in graph["heads"]]
    taken = {node["name"] for k, node in enumerate(graph["nodes"]) if k not in heads}
    for head, name in zip(heads, names):
        if heads.count(head) == 1 and name not in taken:
            graph["nodes"][head]["name"] = name
    return mx.sym.load_json(json.dumps(graph))


def flatten_before_dense(symbol):
    """Return ``symbol`` with a Flatten before every dense layer that flattens by itself.

    The numbers are the same. Without, a dense layer right behind a convolution, or behind pooling
    over a single pixel, fails in the second call of a static int8 graph: "We can't generate TBlob
    for MKLDNN data".
    """
    graph = json.loads(symbol.tojson(remove_amp_cast=False))
    nodes, number = [], {}
    for old, node in enumerate(graph["nodes"]):
        node["inputs"] = [[number[source], *rest] for source, *rest in node["inputs"]]
        flattens = str(node.get("attrs", {}).get("flatten", "True")) in ("True", "1")
        if node["op"] == "FullyConnected" and flattens:
            flat = {"op": "Flatten", "name": f"{node['name']}_flatten"}
            nodes.append(dict(flat, inputs=[node["inputs"][0]]))
            node["inputs"][0] = [len(nodes) - 1, 0, 0]
        number[old] = len(nodes)
        nodes.append(node)
    graph["nodes"] = nodes
    graph["heads"] = [[number[source], *rest] for source, *rest in graph["heads"]]
    graph["arg_nodes"] = [k for k, node in enumerate(nodes) if node["op"] == "null"]
    graph.pop("node_row_ptr", None)
    return mx.sym.load_json(json.dumps(graph))
