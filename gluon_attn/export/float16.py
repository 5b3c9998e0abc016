"""The float16 form of an exported graph, for a GPU, made from the float32 files when they load.

Weights and activations are float16; batch-norm's parameters and statistics stay float32, as cuDNN
wants them, and so do input and outputs. No files of its own: half of the precision is simply left
away. MXNet has no float16 convolution on the CPU.
"""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np

from gluon_attn.export.symbol import INPUT

_NORMS = ("BatchNorm",)
_FLOAT32, _FLOAT16 = "0", "2"  # MXNet's numbers of the types, in graphs


def to_float16(symbol, arrays):
    """Return ``(symbol, arrays)`` that compute in float16.

    Args:
        symbol: The float32 graph, with the input ``data``.
        arrays: Its parameters by ``arg:``/``aux:`` names.

    Returns:
        A graph from float32 ``data`` to float32 outputs in the same order, and its parameters.
    """
    graph = json.loads(symbol.tojson(remove_amp_cast=False))
    nodes = graph["nodes"]
    kept = {
        nodes[source]["name"]
        for node in nodes if node["op"] in _NORMS
        for source, *_ in node["inputs"][1:]
    }  # fmt: skip
    for node in nodes:
        if node["op"] == "null":
            half = node["name"] not in kept
            node.setdefault("attrs", {})["__dtype__"] = _FLOAT16 if half else _FLOAT32
    inner = mx.sym.load_json(json.dumps(graph))
    data = mx.sym.cast(mx.sym.var(INPUT, dtype="float32"), "float16")
    outputs = [mx.sym.cast(out, "float32") for out in inner(**{INPUT: data})]
    halved = {
        name: array if name.split(":", 1)[-1] in kept else array.astype(np.float16)
        for name, array in arrays.items()
    }
    return mx.sym.Group(outputs), halved
