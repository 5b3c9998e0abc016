"""Post-training int8: what ranges the activations have, and which layers suffer from it.

The quantizer is MXNet's own (``mxnet.contrib.quantization``). This module gives it the ranges: the
fused float32 graph runs on calibration images, every operator's output is watched, and each way of
calibrating (a mode) makes a range of what was seen.

==============  ===================================================================================
``naive``       smallest to largest value
``entropy``     the clipping of least Kullback-Leibler divergence, by MXNet's ``calibrate_entropy``
``percentile``  the magnitude that all but 0.01 % of the values stay below
==============  ===================================================================================

Weights get one scale per output channel, which they do in MXNet only as numbers of the run: in the
files they stay float32.
"""

from __future__ import annotations

import ctypes
import json
import sys
import warnings

import mxnet as mx
import numpy as np
from mxnet.contrib import quantization
from tqdm import tqdm

from gluon_attn.export.rewrite import flatten_before_dense
from gluon_attn.export.sidecar import ExportError
from gluon_attn.export.symbol import INPUT, make_block

MODES = ("naive", "entropy", "percentile")
GRANULARITY = "channel-wise"
LAYERS = ("_sg_mkldnn_conv", "_sg_mkldnn_fully_connected")
_PASS = "MKLDNN_QUANTIZE"
# Odd, so that one bin is centred on zero. MXNet takes 8001, four times as slow; with half of
# them, 'entropy' can cut a range to one eighth instead of one sixteenth.
_BINS = 4001
# MXNet 1.9.1 scales the sum of a convolution and a signed operand to 255.5 levels if an activation
# makes it positive, but stores it in place of the operand, in which only 127 are positive: what is
# above half of the range is cut off. With twice the range, nothing is.
_HALVED = 255.5 / 127
# oneDNN 2.4.4 gathers the pixels of a strided 1x1 convolution in one buffer per thread. Its AVX2
# kernel spoils a neighbour's first pixel there if a pixel is shorter than a register (seen with 8
# channels and two threads: up to one call in three gives other numbers).
_SHORTEST_PIXEL = 32  # 8-bit values in an AVX2 register


class Quantizer:
    """Makes int8 graphs of one float32 graph.

    Args:
        symbol: The float32 graph.
        arrays: Its parameters by ``arg:``/``aux:`` names.
        images: ``(N, 3, H, W)`` float32, prepared as the net wants them.
        dtype: What activations become: ``'auto'`` is uint8 where they are never negative (twice as
            fine), ``'int8'`` always int8.
        percentile: Of mode ``'percentile'``.
        batch_size: Images per run while calibrating.

    Attributes:
        layers: Quantizable layers in the graph's order: ``{name of the layer: node}``. The name is
            that of the layer's weight, without ``.weight``.
        unsafe: Those that always stay float32, in the same form: strided 1x1 convolutions of fewer
            than 32 channels, whose int8 kernel is wrong now and then with several threads.
    """

    def __init__(self, symbol, arrays, images, dtype="auto", percentile=99.99, batch_size=16):
        self._graph = flatten_before_dense(symbol).get_backend_symbol(_PASS)
        self._arrays, self._images, self._dtype = arrays, images, dtype
        self._percentile, self._batch_size = percentile, batch_size
        every = _layers(self._graph)
        self.unsafe = _short_strided(self._graph, every, arrays)
        self.layers = {name: node for name, node in every.items() if name not in self.unsafe}
        if not self.layers:
            raise ExportError("int8: the graph has no convolution or dense layer to quantize")
        self._sums = _activated_sums(self._graph)
        self._ranges = self._histograms = None
        self._thresholds = {}

    def build(self, mode, excluded=()):
        """Return an int8 graph.

        Args:
            mode: One of ``MODES``.
            excluded: Names from ``layers`` that stay float32.

        Returns:
            ``(symbol, arrays)`` like the float32 ones.

        Raises:
            ValueError: Unknown mode or layer.
            ExportError: The graph cannot be quantized.
        """
        unknown = sorted(set(excluded) - set(self.layers))
        if unknown:  # MXNet itself ignores them without a word
            raise ValueError(
                f"layers {', '.join(unknown)}: not in the graph; it has {', '.join(self.layers)}"
            )
        args, aux = _split(self._arrays)
        options = {"quantized_dtype": self._dtype, "calib_mode": "naive", "logger": None}
        quantized, _, _, collector = quantization.quantize_graph(
            self._graph, args, aux, ctx=mx.cpu(), quantize_mode="smart",
            excluded_sym_names=[self.layers[name] for name in excluded] + [*self.unsafe.values()],
            quantize_granularity=GRANULARITY, **options,
        )  # fmt: skip
        thresholds = self.thresholds(mode)
        unseen = sorted(set(collector.include_layer) - set(thresholds))
        if unseen:
            raise ExportError(f"int8: no range was seen for {', '.join(unseen)}")
        collector.min_max_dict = {name: thresholds[name] for name in collector.include_layer}
        quantized, args, aux = quantization.calib_graph(quantized, args, aux, collector, **options)
        quantized = quantized.get_backend_symbol(_PASS)
        self._check_layers(quantized, set(excluded))
        arrays = {f"arg:{name}": value for name, value in args.items()}
        arrays.update({f"aux:{name}": value for name, value in aux.items()})
        return quantized, dict(sorted(arrays.items()))

    def thresholds(self, mode):
        """Return ``{name of an output: (lowest, highest)}`` of a mode; computed once."""
        if mode not in MODES:
            raise ValueError(f"calibration mode {mode!r}: valid are {', '.join(MODES)}")
        if mode not in self._thresholds:
            found, ranges = {}, self._seen_ranges()
            halved = {name for name, operand in self._sums.items() if ranges[operand][0] < 0}
            clip = {"entropy": _entropy, "percentile": self._clip}.get(mode)
            histograms = self._seen_histograms() if clip else {}
            for name in _progress(ranges, mode, "output"):
                low, high = ranges[name]
                if name in histograms:
                    limit = clip(histograms[name], max(-low, high), low >= 0 and name not in halved)
                    low, high = 0.0 if low >= 0 else -limit, limit
                found[name] = (low, high * _HALVED if name in halved else high)
            # Nothing but zeros: any range is right, save an empty one, by which would be divided.
            self._thresholds[mode] = {
                name: (0.0, 1.0) if low == high == 0 else (low, high)
                for name, (low, high) in found.items()
            }
        return self._thresholds[mode]

    def sensitivity(self, mode, count=16):
        """Return ``[(layer, error)]``, the most sensitive layer first.

        The error is that of the logits of ``count`` calibration images when this layer alone is
        int8: mean square over the variance of the float32 logits.
        """
        images = mx.nd.array(self._images[:count])
        expected = first_output(make_block(self._graph, self._arrays)(images))
        variance = max(float(expected.var()), 1e-12)
        errors = {}
        for layer in _progress(self.layers, "sensitivity", "layer"):
            others = [name for name in self.layers if name != layer]
            logits = first_output(make_block(*self.build(mode, others))(images))
            errors[layer] = float(np.square(logits - expected).mean()) / variance
        return sorted(errors.items(), key=lambda item: -item[1])

    def _clip(self, counts, limit, positive):
        """Return the magnitude below which the wanted percentage of the values stays."""
        middle = _BINS // 2
        sizes = counts[middle:].copy()
        sizes[1:] += counts[:middle][::-1]
        enough = sizes.cumsum() >= sizes.sum() * (self._percentile / 100)
        return min(limit, (int(enough.argmax()) + 0.5) * 2 * limit / _BINS)

    def _seen_ranges(self):
        if self._ranges is None:
            self._ranges = {INPUT: (float(self._images.min()), float(self._images.max()))}

            def widen(name, values):
                low, high = self._ranges.get(name, (np.inf, -np.inf))
                pair = (min(low, float(values.min())), max(high, float(values.max())))
                self._ranges[name] = pair

            self._watch(widen, "ranges")
            odd = [name for name, pair in self._ranges.items() if not np.isfinite(pair).all()]
            if odd:
                raise ExportError(f"int8: not finite on the calibration images: {', '.join(odd)}")
        return self._ranges

    def _seen_histograms(self):
        """Return counts of all values in ``_BINS`` bins over the symmetric range of each output."""
        if self._histograms is None:
            ranges = self._seen_ranges()
            limits = {name: max(-low, high) for name, (low, high) in ranges.items()}
            self._histograms = {n: np.zeros(_BINS, np.int64) for n, t in limits.items() if t > 0}

            def count(name, values):
                if name in self._histograms:
                    position = (values.ravel() + limits[name]) * (_BINS / (2 * limits[name]))
                    bins = np.minimum(position.astype(np.int32), _BINS - 1)
                    self._histograms[name] += np.bincount(bins, minlength=_BINS)

            self._watch(count, "histograms")
            if INPUT in self._histograms:
                count(INPUT, self._images)
        return self._histograms

    def _watch(self, visit, title):
        """Run the calibration images; call ``visit(name, values)`` for every operator's output."""
        known = {}
        for name in self._graph.get_internals().list_outputs():
            known[name] = name
            if name.endswith("_output"):  # operators without names for outputs are watched as _0
                known[f"{name[: -len('_output')]}_0"] = name
        failures = []

        def hook(name, operator, array):
            # An exception in here would be printed and dropped.
            try:
                name = known[name.decode() if isinstance(name, bytes) else name]
                visit(name, _values(array))
            except Exception as error:
                failures.append(error)

        block = make_block(self._graph, self._arrays)
        block.hybridize()
        with warnings.catch_warnings():  # "experimental": with static memory, which is off here
            warnings.simplefilter("ignore")
            block.register_op_hook(hook)
            starts = range(0, len(self._images), self._batch_size)
            for start in _progress(starts, title, "batch"):
                outputs = block(mx.nd.array(self._images[start : start + self._batch_size]))
                first_output(outputs)
                if failures:
                    raise ExportError(f"int8: calibration failed: {failures[0]!r}") from failures[0]

    def _check_layers(self, quantized, excluded):
        """Raise ExportError if what was excluded became int8, or nothing did."""
        nodes = {node["name"] for node in json.loads(quantized.tojson())["nodes"]}
        done = {name for name, node in self.layers.items() if f"quantized_{node}" in nodes}
        if done & excluded or (not done and len(excluded) < len(self.layers)):
            raise ExportError(
                f"int8: MXNet quantized {len(done)} of {len(self.layers)} layers, of those to be "
                f"left out {len(done & excluded)}"
            )


def first_output(outputs):
    """Return the first output of a block, the logits, as a NumPy array."""
    return (outputs[0] if isinstance(outputs, (list, tuple)) else outputs).asnumpy()


def _layers(graph):
    contents = json.loads(graph.tojson())["nodes"]
    found = {}
    for node in contents:
        if node["op"] in LAYERS:
            weight = contents[node["inputs"][1][0]]["name"]
            name = weight[: -len(".weight")] if weight.endswith(".weight") else weight
            found[name if name not in found else node["name"]] = node["name"]
    return found


def _short_strided(graph, layers, arrays):
    """Return the layers that are strided 1x1 convolutions of fewer than 32 channels."""
    nodes = {node["name"]: node for node in json.loads(graph.tojson())["nodes"]}
    found = {}
    for layer, name in layers.items():
        parts = [n for part in nodes[name].get("subgraphs", []) for n in part["nodes"]]
        for part in parts:
            attrs = part.get("attrs", {})
            if part["op"] != "Convolution" or attrs.get("kernel") != "(1, 1)":
                continue
            weight = arrays.get(f"arg:{layer}.weight")
            short = weight is None or weight.shape[1] < _SHORTEST_PIXEL
            if attrs.get("stride", "(1, 1)") != "(1, 1)" and short:
                found[layer] = name
    return found


def _activated_sums(graph):
    """Return {output: the operand that is added}, of convolutions fused with sum and activation."""
    nodes = json.loads(graph.tojson())["nodes"]
    found = {}
    for node in nodes:
        if node.get("attrs", {}).get("with_postsum_act", "").lower() in ("true", "1"):
            operand = nodes[node["inputs"][-1][0]]
            suffix = "" if operand["op"] == "null" else "_output"
            found[f"{node['name']}_output"] = f"{operand['name']}{suffix}"
    return found


def _entropy(counts, limit, positive):
    levels = 511 if positive else 255  # a positive range is one half of a symmetric one
    edges = np.linspace(-limit, limit, _BINS + 1)
    threshold, _ = mx.nd.contrib.calibrate_entropy(
        hist=mx.nd.array(counts), hist_edges=mx.nd.array(edges), num_quantized_bins=levels
    )
    return float(threshold.asnumpy().ravel()[0])


def _split(arrays):
    """Return (args, aux) without the prefixes."""
    parts = {"arg": {}, "aux": {}}
    for name, value in arrays.items():
        kind, _, plain = name.partition(":")
        parts[kind][plain] = value
    return parts["arg"], parts["aux"]


def _values(array):
    """Return what a hook was given as NumPy array; MXNet hands the bare handle over."""
    if isinstance(array, int):
        handle = ctypes.cast(array, mx.base.NDArrayHandle)
        array = mx.nd.NDArray(handle, writable=False)
    return array.asnumpy()


def _progress(items, title, unit):
    quiet = not sys.stderr.isatty()
    return tqdm(items, desc=f"int8 {title}", unit=unit, leave=False, disable=quiet)
