"""The weights of an int8 graph as int8 numbers: in the file, and in memory.

MXNet 1.9.1's fused int8 operators take float32 weights only, turn them into int8 numbers of their
own at the first run, and keep both. Here the file holds the int8 numbers and one step per channel,
and the graph the product of the two, so that plain MXNet gives the numbers of the float32 weights
from these files alone. It multiplies in every call, though, and the operators then quantize again.
:class:`Int8Block` leaves the products out of the graph: it makes them for the first run with a
batch size, and gives the memory back once the operators have their own numbers.

**No number changes.** An operator takes 127.5 / largest magnitude as a channel's scale. The number
of that largest weight (of two, of the one that it makes negative) is -128, every other one is
within 127, and a step is 1/128 of it, negative where it is positive: so the product gives that
weight to the bit, hence the operator the same scale, and every other weight off by at most 127/256
of a level, which it rounds to the same number.
Where a fused batch-norm multiplies the channel, the numbers are those of the product with it.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import threading
from typing import Any, Callable, NamedTuple, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from numpy.typing import NDArray

from gluon_attn.core.reading import read_params
from gluon_attn.export import graph as graphs
from gluon_attn.export.graph import INPUT, Arrays, Graph, Json, Symbol

LAYERS = ("_sg_mkldnn_conv", "_sg_mkldnn_fully_connected")
Numbers = NDArray[Any]

_LEVELS = np.float32(127.5)  # MXNet's for int8, from zero to the largest magnitude
_LOWEST = -128
_TINY = 1e-36  # magnitude below which a scale would be infinite
_INT8 = "5"  # MXNet's number of the type, in graphs
_FLOAT = {"dtype": "float32"}
_PRODUCT = "broadcast_mul"
_ALIGNED = 64  # bytes of a cache line and of a register
_TRUE = ("True", "true", "1")


class Weight(NamedTuple):
    """A float32 weight of an int8 graph and the two parameters whose product it is."""

    name: str
    codes: str
    step: str


def pack(symbol: Symbol, arrays: Arrays) -> Graph:
    """Return an int8 graph with the weights of its int8 layers as int8 numbers and steps.

    A weight ``NAME`` becomes int8 in the shape that it had, beside ``NAME.step``, float32 ``(O, 1,
    …)``. Weights stay float32 whose layers do not quantize per channel, or that are read elsewhere
    or by layers that want other numbers. So does the whole graph if a range in it is taken from
    the data: operators then read their weights in every call.
    """
    graph, packed = graphs.json_of(symbol), dict(arrays)
    old: list[Json] = graph["nodes"]
    if any(node["op"] == "_contrib_quantize_v2" and not _is_calibrated(node) for node in old):
        return symbol, packed
    found = _find(old, arrays)
    nodes: list[Json] = []
    number: dict[int, int] = {}
    for source, node in enumerate(old):
        node["inputs"] = [[number[entry], *rest] for entry, *rest in node["inputs"]]
        nodes.append(node)
        if source in found:
            name, (codes, step) = node["name"], found[source]
            packed[f"arg:{name}"] = mx.nd.array(codes, dtype=np.int8)
            packed[f"arg:{name}.step"] = mx.nd.array(step)
            node["attrs"] = {**node.get("attrs", {}), "__dtype__": _INT8}
            shape, at = {"__shape__": str(step.shape)}, len(nodes)
            nodes += [
                {"op": "null", "name": f"{name}.step", "attrs": shape, "inputs": []},
                dict(op="Cast", name=f"{name}.cast", attrs=_FLOAT, inputs=[[at - 1, 0, 0]]),
                dict(op=_PRODUCT, name=f"{name}.float", inputs=[[at + 1, 0, 0], [at, 0, 0]]),
            ]
        number[source] = len(nodes) - 1
    return graphs.renumbered(graph, nodes, number), dict(sorted(packed.items()))


def _find(nodes: Sequence[Json], arrays: Arrays) -> dict[int, tuple[Numbers, Numbers]]:
    """Return ``{number of a variable: its int8 numbers, its steps}``."""
    readers: dict[int, list[Json | None]] = {}  # None: other than as the weight of a layer
    for node in nodes:
        for place, (source, *_) in enumerate(node["inputs"]):
            layer = node if place == 1 and _is_per_channel(node) else None
            readers.setdefault(source, []).append(layer)
    found = {}
    for source, layers in readers.items():
        weight = arrays.get(f"arg:{nodes[source]['name']}")
        if weight is not None and all(layers):
            whole = weight.asnumpy()
            forms = [_numbers(whole, _factors(node, nodes, arrays)) for node in layers if node]
            if all(np.array_equal(forms[0][0], other) for other, _ in forms[1:]):
                found[source] = forms[0]
    return found


def _is_calibrated(node: Json) -> bool:
    return {"min_calib_range", "max_calib_range"} <= set(node.get("attrs", {}))


def _is_per_channel(node: Json) -> bool:
    """Tell whether a layer is int8 and scales every channel by itself.

    A convolution in groups of several channels does not: MXNet 1.9.1 hands the scales of channels
    to groups.
    """
    attrs = node.get("attrs", {})
    if node["op"] not in LAYERS or attrs.get("quantized") not in _TRUE:
        return False
    if node["op"] == "_sg_mkldnn_fully_connected":
        return attrs.get("channel_wise_quantize") in _TRUE
    conv = _parts(node)["Convolution"]
    return _is_calibrated(node) and conv.get("num_group", "1") in ("1", conv["num_filter"])


def _parts(node: Json) -> dict[str, dict[str, str]]:
    """Return the attributes of what is fused in a layer, by operator."""
    return {part["op"]: part.get("attrs", {}) for part in node["subgraphs"][0]["nodes"]}


def _factors(node: Json, nodes: Sequence[Json], arrays: Arrays) -> Any:
    """Return what a fused batch-norm multiplies the channels by, ``(O,)`` float32; 1 without."""
    if node.get("attrs", {}).get("with_bn") not in _TRUE:
        return np.float32(1)
    parts = _parts(node)
    first = 2 if parts["Convolution"].get("no_bias") in _TRUE else 3
    names = [nodes[source]["name"] for source, *_ in node["inputs"][first : first + 4]]
    gamma, var = arrays[f"arg:{names[0]}"].asnumpy(), arrays[f"aux:{names[3]}"].asnumpy()
    norm = parts["BatchNorm"]
    if norm.get("fix_gamma", "True") in _TRUE:
        gamma = np.ones_like(gamma)
    root = np.sqrt(var.astype(np.float64) + float(norm.get("eps", "1e-3")))
    return (gamma / root).astype(np.float32)


def _numbers(weight: Numbers, factors: Any) -> tuple[Numbers, Numbers]:
    """Return the int8 numbers of a weight ``(O, …)`` and the step of each channel ``(O, 1, …)``."""
    flat = weight.reshape(len(weight), -1)
    factors = np.broadcast_to(factors, len(flat))[:, None]
    largest = np.abs(flat).max(1, keepdims=True)
    below = np.copysign(largest, -factors)
    # Of two such weights of unlike sign the operator takes one to -128, the other one to 127.
    extreme = np.where((flat == below).any(1, keepdims=True), below, -below)
    codes = flat * factors  # the operator's own steps, in float32
    top = np.abs(extreme * factors)
    scale = np.divide(_LEVELS, top, out=np.zeros_like(top), where=top > _TINY)
    codes = np.rint(codes * scale) * np.sign(factors) * -np.sign(extreme)
    codes = np.where(flat == extreme, _LOWEST, np.clip(codes, -127, 127)).astype(np.int8)
    step = extreme / np.float32(_LOWEST)
    return codes.reshape(weight.shape), step.reshape(-1, *[1] * (weight.ndim - 1))


def load_arrays(source: bytes, place: Any = None) -> Any:
    """Return what ``load_params`` does, but int8 arrays as NumPy's: those are read once only."""

    def convert(array: Numbers) -> Any:
        return array if array.dtype == np.int8 else mx.nd.array(array, dtype=array.dtype)

    return read_params(source, place, convert)


def unpack(symbol: Symbol) -> tuple[Symbol, list[Weight]]:
    """Return a packed graph with its float32 weights as variables; any other as it is, and []."""
    graph = graphs.json_of(symbol)
    nodes: list[Json] = graph["nodes"]
    weights = []
    for node in nodes:
        if node["op"] != _PRODUCT:
            continue
        cast, step = (nodes[source] for source, *_ in node["inputs"])
        codes = nodes[cast["inputs"][0][0]] if cast["op"] == "Cast" else cast
        if codes.get("attrs", {}).get("__dtype__") == _INT8 and step["op"] == "null":
            weights.append(Weight(node["name"], codes["name"], step["name"]))
            node.update(op="null", inputs=[], attrs={})
    same = {number: number for number in range(len(nodes))}
    return graphs.renumbered(graph, nodes, same), weights


class Int8Block(gluon.Block):
    """Runs a packed graph, as a SymbolBlock does that is hybridized with static memory and shapes.

    Between the calls the operators' own numbers are the only weights here. A call with another
    batch size than the last one reads them again, and the operators quantize again, as they do in a
    SymbolBlock. Calls of several threads come one by one, and none is recorded: operators of
    another state would find no weights.

    Args:
        symbol, weights: What :func:`unpack` returned; the input is ``data``.
        arrays: Parameters of the packed graph; not kept.
        read: Returns ``arrays`` again.
    """

    def __init__(
        self,
        symbol: Symbol,
        weights: Sequence[Weight],
        arrays: Arrays,
        read: Callable[[], Arrays],
    ) -> None:
        super().__init__()
        self._weights = weights
        self._read, self._lock = read, threading.Lock()
        self._kind: tuple[Any, ...] | None = None  # of the last call's images
        names = symbol.list_inputs()
        known = {name.split(":", 1)[1]: array for name, array in arrays.items()}
        shapes = [known[weight.codes].shape for weight in self._weights]
        rooms = [-(-4 * math.prod(shape) // _ALIGNED) * _ALIGNED for shape in shapes]
        kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory would not be given back
        self._memory = mmap.mmap(-1, max(1, sum(rooms)), kind)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE)  # 200 page faults in place of 100,000
        self._floats, start = [], 0
        for weight, shape, room in zip(self._weights, shapes, rooms):
            part = np.frombuffer(self._memory, np.float32, math.prod(shape), start).reshape(shape)
            start += room
            self._floats.append(part)
            known[weight.name] = mx.nd.from_numpy(part.view())  # which makes the view read-only
        self._inputs = [None if name == INPUT else known[name] for name in names]
        place = names.index(INPUT)
        others = [number for number in range(len(names)) if number != place]
        flags = dict(data_indices=[place], param_indices=others, static_alloc=1, static_shape=1)
        self._run = mx.nd.CachedOp(symbol, list(flags.items()))
        self._fill(arrays)

    def forward(self, x: Any) -> Any:
        """Return the outputs of images ``(B, 3, H, W)`` float32: a list, or the only one."""
        kind = (x.shape, x.dtype, x.ctx)
        with self._lock, autograd.pause(train_mode=False):
            known = kind == self._kind
            if not known:
                self._kind = None  # until it has run
                if not self._filled:
                    self._fill(self._read())
            outputs = self._run(*[x if array is None else array for array in self._inputs])
            if not known:
                mx.nd.waitall()
                self._empty()
                self._kind = kind
        return outputs

    def _fill(self, arrays: Arrays) -> None:
        for weight, out in zip(self._weights, self._floats):
            codes, step = (arrays[f"arg:{name}"] for name in weight[1:])
            codes = codes if isinstance(codes, np.ndarray) else codes.asnumpy()
            np.multiply(codes, step.asnumpy(), out=out)
        self._filled = True

    def _empty(self) -> None:
        """Give the memory of the weights, and what the C library kept, back to the system."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED)
            self._filled = False
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
