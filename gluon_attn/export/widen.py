"""More channels, all zero, where oneDNN's fast kernels would pad weights.

oneDNN 2.4 runs a 1×1 convolution on AVX-512 with its output channels in blocks of 48 if at least
95 % of the blocks are in use: 1024 channels become 1056. MXNet keeps memory for 1024 only, so it
passes that kernel over for an older one, which is slower on small maps and wants images in another
layout, that is a copy before and one behind each such convolution: 35 of the 118 convolutions of
``vaa_resnet101_wider``, one image, two threads. Where the graph itself has 1056 channels nothing is
left to pad: the 32 that were added have weights of zero, and so have those that read them.
"""

from __future__ import annotations

import collections
from typing import Any

import mxnet as mx
import numpy as np

from gluon_attn.export.graph import Arrays, Graph, Json, Symbol, json_of, symbol_of

_BLOCK, _USED = 48, 0.95  # as in brgemm_1x1_convolution
_SUMS = ("add_n", "elemwise_add")
_PASSING = (*_SUMS, "Activation", "BatchNorm", "Dropout", "Flatten", "Pooling", "relu")


class _Channels:
    """The channels of a tensor and of all that must have as many.

    Attributes:
        makers: Numbers of the convolutions that make them.
        axes: ``(number, axis)`` of the parameters whose axis has that length.
        pointwise: Whether one of the convolutions is 1×1.
        closed: Whether something else makes or reads them, so that none can be added.
    """

    def __init__(self) -> None:
        self.makers: list[int] = []
        self.axes: list[tuple[int, int]] = []
        self.pointwise = self.closed = False


def widen_convolutions(symbol: Symbol, arrays: Arrays) -> Graph:
    """Return a float32 graph whose 1×1 convolutions fill oneDNN's blocks; ``arrays`` stay alone.

    Channels are added where nothing but convolutions, batch-norms, additions, activations, pooling
    and dense layers can see them, so the outputs are the same up to rounding.
    """
    graph = json_of(symbol)
    nodes: list[Json] = graph["nodes"]
    readers = collections.Counter(source for node in nodes for source, *_ in node["inputs"])
    full = {name.split(":", 1)[1]: name for name in arrays}
    widened = dict(arrays)
    for channels in _sets_of_channels(graph):
        if any(readers[k] > 1 or nodes[k]["name"] not in full for k, _ in channels.axes):
            continue  # shared by layers, or computed by the graph
        names = [full[nodes[number]["name"]] for number, _ in channels.axes]
        sizes = {arrays[name].shape[axis] for name, (_, axis) in zip(names, channels.axes)}
        if len(sizes) > 1:
            continue
        size = sizes.pop()
        wide = -(-size // _BLOCK) * _BLOCK
        if not _USED * wide <= size < wide:
            continue
        for number in channels.makers:
            nodes[number]["attrs"]["num_filter"] = str(wide)
        for name, (number, axis) in zip(names, channels.axes):
            array = widened[name].asnumpy()
            missing = [(0, (wide - size) * (axis == own)) for own in range(array.ndim)]
            widened[name] = mx.nd.array(np.pad(array, missing))
            nodes[number]["attrs"]["__shape__"] = str(widened[name].shape)
    return symbol_of(graph), widened


def _sets_of_channels(graph: Json) -> list[_Channels]:
    """Return the sets that have a 1×1 convolution and can be widened."""
    nodes: list[Json] = graph["nodes"]
    same = list(range(len(nodes)))  # a node whose channels are the same ones; in the end the first

    def first(number: int) -> int:
        while same[number] != number:
            number = same[number]
        return number

    for number, node in enumerate(nodes):
        if node["op"] in _PASSING:
            for source in _data_of(node):
                one, other = sorted((first(number), first(source)))
                same[other] = one
    found = [_Channels() for _ in nodes]
    of = [found[first(number)] for number in range(len(nodes))]
    for number, node in enumerate(nodes):
        data = _data_of(node)
        parameters = [source for source, *_ in node["inputs"] if source not in data]
        dense, convolution = _is_dense(node), _is_convolution(node)
        if convolution:
            of[number].makers.append(number)
            of[number].pointwise |= node["attrs"]["kernel"] == "(1, 1)"
        elif node["op"] not in _PASSING:
            of[number].closed = True
        if convolution or node["op"] in _PASSING:
            of[number].axes += [(source, 0) for source in parameters]
        if convolution or dense:
            of[data[0]].axes.append((parameters[0], 1))
        elif node["op"] not in _PASSING:
            for source, *_ in node["inputs"]:
                of[source].closed = True
    for number, *_ in graph["heads"]:
        of[number].closed = True
    return [channels for channels in found if channels.pointwise and not channels.closed]


def _data_of(node: Json) -> list[int]:
    sources = [source for source, *_ in node["inputs"]]
    return sources if node["op"] in _SUMS else sources[:1]


def _is_convolution(node: Json) -> bool:
    attrs: dict[str, Any] = node.get("attrs", {})
    plain = attrs.get("num_group", "1") == "1" and attrs.get("layout", "NCHW") in ("NCHW", "None")
    return node["op"] == "Convolution" and plain


def _is_dense(node: Json) -> bool:
    flattens = node.get("attrs", {}).get("flatten", "True") in ("True", "1")
    return node["op"] == "FullyConnected" and flattens
