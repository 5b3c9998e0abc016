"""The int8 form of an export: calibrated, measured, and refused when it loses too much.

The quantizer is MXNet's own (``mxnet.contrib.quantization``). This module gives it the ranges: the
fused float32 graph runs on calibration images, every operator's output is watched, and each way of
calibrating (a mode) makes a range of what was seen.

==============  ===================================================================================
``naive``       smallest to largest value
``entropy``     the clipping of least Kullback-Leibler divergence, by MXNet's ``calibrate_entropy``
``percentile``  the magnitude that all but 0.01 % of the values stay below
==============  ===================================================================================

The modes compete on held-out data. If the best of them loses more than allowed, the most sensitive
layers are kept in float32, as few as will do. The result is an ordinary symbol and params for plain
MXNet. Weights get one scale per output channel; how they are stored tells
:mod:`gluon_attn.export.int8_weights`.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import re
import warnings
from pathlib import Path
from typing import Any, Callable, NamedTuple, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet.contrib import quantization
from tqdm import tqdm

from gluon_attn.core.files import sha256_of_bytes
from gluon_attn.env.cpu import has_vnni
from gluon_attn.export import graph as graphs
from gluon_attn.export import parity
from gluon_attn.export.graph import INPUT, Arrays, Graph, Symbol, logits_of, make_block
from gluon_attn.export.int8_weights import LAYERS, Int8Block, pack, unpack
from gluon_attn.export.precision import Score, measure, write_checked
from gluon_attn.export.sidecar import ExportError, Sidecar
from gluon_attn.export.writer import Variant
from gluon_attn.runtime import versions

Range = Tuple[float, float]  # lowest, highest

MODES = ("naive", "entropy", "percentile")
GRANULARITY = "channel-wise"
DTYPE = "auto"  # of activations: uint8, twice as fine, where they are never negative, else int8
PERCENTILE = 99.99
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

logger = logging.getLogger(__name__)
progress = functools.partial(tqdm, leave=False, disable=None)  # on a terminal only


class Candidate(NamedTuple):
    """An int8 graph that was measured."""

    mode: str
    excluded: Sequence[str]
    score: float
    graph: Graph


class Int8Variant(Variant):
    """Writes ``NAME-int8-symbol.json`` and ``NAME-int8-0000.params``.

    Args:
        calibration: ``(N, 3, H, W)`` float32 images, prepared as the sidecar says, from which the
            ranges of the activations are taken; some hundred of the training data.
        score: Function ``score(run)`` to points (mAP in 0–100, say) on held-out data, not those of
            ``calibration``. ``run`` takes a NumPy batch ``(B, 3, H, W)`` float32 and returns logits
            ``(B, A)``; a constant B is fastest.
        baseline: Score of the float32 graph if it is known; measured otherwise.
        modes: Ways of calibrating to try, of ``MODES``.
        max_drop: Points that may be lost against float32.
        max_excluded: Largest part of the layers that may stay float32.
        fingerprint: Where the data come from; anything that JSON can hold, kept in the sidecar.
    """

    name = "int8"

    def __init__(
        self,
        calibration: Any,
        score: Score,
        *,
        baseline: float | None = None,
        modes: Sequence[str] = MODES,
        max_drop: float = 0.5,
        max_excluded: float = 0.5,
        fingerprint: Any = None,
    ) -> None:
        unknown = sorted(set(modes) - set(MODES))
        if unknown or not modes:
            raise ValueError(f"modes {list(modes)}: valid are {', '.join(MODES)}, one or more")
        if not max_drop >= 0 or not 0 <= max_excluded <= 1:
            raise ValueError(
                f"max_drop={max_drop}, max_excluded={max_excluded}: valid are 0 or more, 0 to 1"
            )
        self._calibration, self._score, self._baseline = calibration, score, baseline
        self._modes, self._max_drop, self._max_excluded = tuple(modes), max_drop, max_excluded
        self._fingerprint = fingerprint

    def write(self, directory: Path, sidecar: Sidecar) -> tuple[dict[str, str], dict[str, Any]]:
        """Search, check and write; return files and entry.

        Raises ExportError: the drop is larger than allowed, MXNet cannot quantize the graph, or
        plain MXNet gives other numbers; ValueError: the calibration images do not fit the export.
        """
        images = self._check_images(sidecar)
        float32 = graphs.read_graph(directory, sidecar)
        quantizer = Quantizer(*float32, images)
        baseline = self._baseline
        if baseline is None:
            baseline = measure(self._score, make_block(*float32), "float32")
        best, tried = self._search(quantizer, float(baseline))
        graph = graphs.rename_outputs(best.graph[0], sidecar), best.graph[1]
        batch = images[np.arange(3) % len(images)]
        packed = pack(*graph)
        block = Int8Block(*unpack(packed[0]), packed[1], lambda: packed[1])
        stored = _compare(block, graph, batch)
        files, figures = write_checked(
            directory, sidecar, self.name, packed, batch=batch, block=block
        )
        entry: dict[str, Any] = {"mode": best.mode, "granularity": GRANULARITY}
        entry.update(dtype=DTYPE, weights="int8", stored=stored)
        if best.mode == "percentile":
            entry["percentile"] = PERCENTILE
        entry["calibration"] = {
            "images": len(images),
            "sha256": sha256_of_bytes(np.ascontiguousarray(images).tobytes()),
            "source": self._fingerprint,
        }
        entry.update(float32_score=float(baseline), score=best.score, drop=baseline - best.score)
        entry.update(max_drop=self._max_drop, tried=tried, layers=len(quantizer.layers))
        entry.update(excluded=list(best.excluded), unsafe=list(quantizer.unsafe))
        entry.update(parity=figures, vnni=has_vnni(), versions=versions())
        return files, entry

    def _check_images(self, sidecar: Sidecar) -> np.ndarray:
        images = np.asarray(self._calibration)
        wanted = tuple(sidecar["input"]["shape"][1:])
        if images.dtype != np.float32 or images.shape[1:] != wanted or not len(images):
            raise ValueError(
                f"calibration images are {images.dtype} {images.shape}: give float32 (N, "
                f"{', '.join(map(str, wanted))}), N at least 1"
            )
        if not np.isfinite(images).all():
            raise ValueError("calibration images hold values that are not finite")
        return images

    def _search(
        self, quantizer: Quantizer, baseline: float
    ) -> tuple[Candidate, list[dict[str, Any]]]:
        """Return the best candidate within the budget and a record of all that were tried.

        The most sensitive layers stay float32: twice as many until that is enough, then fewer.
        """
        tried: list[dict[str, Any]] = []

        def attempt(mode: str, excluded: Sequence[str] = ()) -> Candidate:
            graph = quantizer.build(mode, excluded)
            score = measure(self._score, make_block(*graph), f"int8 {mode}")
            tried.append({"mode": mode, "excluded": len(excluded), "score": score})
            logger.info("int8: %s, %d layers float32: %.2f", mode, len(excluded), score)
            return Candidate(mode, excluded, score, graph)

        def enough(candidate: Candidate) -> bool:
            return baseline - candidate.score <= self._max_drop

        best = max(map(attempt, self._modes), key=lambda found: found.score)
        order = [] if enough(best) else [name for name, _ in quantizer.sensitivity(best.mode)]
        most, size, failed = int(len(order) * self._max_excluded), 0, 0
        while not enough(best) and size < most:
            failed, size = size, min(max(1, 2 * size), most)
            best = attempt(best.mode, order[:size])
        while enough(best) and size - failed > 1:
            middle = (size + failed) // 2
            found = attempt(best.mode, order[:middle])
            if enough(found):
                best, size = found, middle
            else:
                failed = middle
        if not enough(best):
            top = max(tried, key=lambda record: record["score"])
            raise ExportError(
                f"int8 loses {baseline - top['score']:.2f} points at best ({baseline:.2f} in "
                f"float32, {top['score']:.2f} with calibration '{top['mode']}' and "
                f"{top['excluded']} of {len(quantizer.layers)} layers in float32); allowed are "
                f"{self._max_drop:g}. Allow more (--max-drop), or calibrate with more or other "
                "images. Nothing was written"
            )
        return best, tried


class Quantizer:
    """Makes int8 graphs of one float32 graph.

    ``images`` are ``(N, 3, H, W)`` float32, prepared as the net wants them; ``percentile`` is that
    of the mode, ``batch_size`` the number of images per run while calibrating.

    Attributes:
        layers: Quantizable layers in the graph's order: ``{name of the layer: node}``. The name is
            that of the layer's weight, without ``.weight``.
        unsafe: Those that always stay float32, in the same form: strided 1x1 convolutions of fewer
            than 32 channels, whose int8 kernel is wrong now and then with several threads.
    """

    def __init__(
        self,
        symbol: Symbol,
        arrays: Arrays,
        images: np.ndarray,
        *,
        percentile: float = PERCENTILE,
        batch_size: int = 16,
    ) -> None:
        safe = graphs.avoid_overruns(symbol, images.shape[1:])
        self._graph = graphs.flatten_before_dense(safe).get_backend_symbol(_PASS)
        self._arrays, self._images = arrays, images
        self._percentile, self._batch_size = percentile, batch_size
        nodes = graphs.nodes_of(self._graph)
        every = _layers(nodes)
        self.unsafe = _short_strided(nodes, every, arrays)
        self.layers = {name: node for name, node in every.items() if name not in self.unsafe}
        if not self.layers:
            raise ExportError("int8: the graph has no convolution or dense layer to quantize")
        self._sums = _activated_sums(nodes)
        self._thresholds: dict[str, dict[str, Range]] = {}

    def build(self, mode: str, excluded: Sequence[str] = ()) -> Graph:
        """Return an int8 graph by one of ``MODES``; the layers ``excluded`` stay float32.

        A ValueError for an unknown mode or layer, an ExportError if the graph cannot be quantized.
        """
        unknown = sorted(set(excluded) - set(self.layers))
        if unknown:  # MXNet itself ignores them silently
            raise ValueError(
                f"layers {', '.join(unknown)}: not in the graph; it has {', '.join(self.layers)}"
            )
        options = {"quantized_dtype": DTYPE, "calib_mode": "naive", "logger": None}
        quantized, _, _, collector = quantization.quantize_graph(
            self._graph, *graphs.split_arrays(self._arrays), ctx=mx.cpu(), quantize_mode="smart",
            excluded_sym_names=[self.layers[name] for name in excluded] + [*self.unsafe.values()],
            quantize_granularity=GRANULARITY, **options,
        )  # fmt: skip
        thresholds = self.thresholds(mode)
        unseen = sorted(set(collector.include_layer) - set(thresholds))
        if unseen:
            raise ExportError(f"int8: no range was seen for {', '.join(unseen)}")
        collector.min_max_dict = {name: thresholds[name] for name in collector.include_layer}
        quantized, args, aux = quantization.calib_graph(
            quantized, *graphs.split_arrays(self._arrays), collector, **options
        )
        quantized = quantized.get_backend_symbol(_PASS)
        self._check_layers(quantized, set(excluded))
        return quantized, graphs.join_arrays(args, aux)

    def thresholds(self, mode: str) -> dict[str, Range]:
        """Return the range of every output in a mode; computed once."""
        if mode not in MODES:
            raise ValueError(f"calibration mode {mode!r}: valid are {', '.join(MODES)}")
        if mode not in self._thresholds:
            ranges = self._ranges
            halved = {name for name, operand in self._sums.items() if ranges[operand][0] < 0}
            histograms = {} if mode == "naive" else self._histograms
            clip = _entropy if mode == "entropy" else self._clip
            found: dict[str, Range] = {}
            for name in progress(ranges, desc=f"int8 {mode}", unit="output"):
                low, high = ranges[name]
                if name in histograms:
                    limit = clip(histograms[name], max(-low, high), low >= 0 and name not in halved)
                    low, high = 0.0 if low >= 0 else -limit, limit
                high = high * _HALVED if name in halved else high
                # Nothing but zeros: any range is right, save an empty one, by which is divided.
                found[name] = (0.0, 1.0) if low == high == 0 else (low, high)
            self._thresholds[mode] = found
        return self._thresholds[mode]

    def sensitivity(self, mode: str, count: int = 16) -> list[tuple[str, float]]:
        """Return ``[(layer, error)]``, the most sensitive layer first.

        The error is that of the logits of ``count`` calibration images when this layer alone is
        int8: mean square over the variance of the float32 logits.
        """
        images = self._images[:count]
        expected = logits_of(make_block(self._graph, self._arrays), images)
        variance = max(float(expected.var()), 1e-12)
        errors = {}
        for layer in progress(self.layers, desc="int8 sensitivity", unit="layer"):
            others = [name for name in self.layers if name != layer]
            logits = logits_of(make_block(*self.build(mode, others)), images)
            errors[layer] = float(np.square(logits - expected).mean()) / variance
        return sorted(errors.items(), key=lambda item: -item[1])

    def _clip(self, counts: np.ndarray, limit: float, positive: bool) -> float:
        """Return the magnitude below which the wanted percentage of the values stays."""
        middle = _BINS // 2
        sizes = counts[middle:].copy()
        sizes[1:] += counts[:middle][::-1]
        enough = sizes.cumsum() >= sizes.sum() * (self._percentile / 100)
        return min(limit, (int(enough.argmax()) + 0.5) * 2 * limit / _BINS)

    @functools.cached_property
    def _ranges(self) -> dict[str, Range]:
        ranges = {INPUT: (float(self._images.min()), float(self._images.max()))}

        def widen(name: str, values: np.ndarray) -> None:
            low, high = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = min(low, float(values.min())), max(high, float(values.max()))

        self._watch(widen, "ranges")
        odd = [name for name, pair in ranges.items() if not np.isfinite(pair).all()]
        if odd:
            raise ExportError(f"int8: not finite on the calibration images: {', '.join(odd)}")
        return ranges

    @functools.cached_property
    def _histograms(self) -> dict[str, np.ndarray]:
        """Counts of all values in ``_BINS`` bins over the symmetric range of each output."""
        limits = {name: max(-low, high) for name, (low, high) in self._ranges.items()}
        histograms = {n: np.zeros(_BINS, np.int64) for n, t in limits.items() if t > 0}

        def count(name: str, values: np.ndarray) -> None:
            if name in histograms:
                position = (values.ravel() + limits[name]) * (_BINS / (2 * limits[name]))
                bins = np.minimum(position.astype(np.int32), _BINS - 1)
                histograms[name] += np.bincount(bins, minlength=_BINS)

        self._watch(count, "histograms")
        count(INPUT, self._images)
        return histograms

    def _watch(self, visit: Callable[[str, np.ndarray], None], title: str) -> None:
        """Run the calibration images; call ``visit(name, values)`` for every operator's output."""
        names = self._graph.get_internals().list_outputs()
        # Operators without names for their outputs are watched as _0.
        known = {re.sub("_output$", "_0", name): name for name in names}
        known.update(zip(names, names))
        failures: list[Exception] = []

        def hook(name: Any, operator: Any, array: Any) -> None:
            # An exception in here would be printed and dropped.
            try:
                visit(known[name.decode() if isinstance(name, bytes) else name], _values(array))
            except Exception as error:
                failures.append(error)

        block = make_block(self._graph, self._arrays)
        block.hybridize()
        with warnings.catch_warnings():  # "experimental": with static memory, which is off here
            warnings.simplefilter("ignore")
            block.register_op_hook(hook)
            starts = range(0, len(self._images), self._batch_size)
            for start in progress(starts, desc=f"int8 {title}", unit="batch"):
                logits_of(block, self._images[start : start + self._batch_size])
                if failures:
                    raise ExportError(f"int8: calibration failed: {failures[0]!r}") from failures[0]

    def _check_layers(self, quantized: Symbol, excluded: set[str]) -> None:
        nodes = {node["name"] for node in graphs.nodes_of(quantized)}
        done = {name for name, node in self.layers.items() if f"quantized_{node}" in nodes}
        if done & excluded or (not done and len(excluded) < len(self.layers)):
            raise ExportError(
                f"int8: MXNet quantized {len(done)} of {len(self.layers)} layers, of those to be "
                f"left out {len(done & excluded)}"
            )


def _compare(block: Int8Block, graph: Graph, batch: np.ndarray) -> dict[str, Any]:
    """Return how far stored weights change the outputs of the graph that was scored.

    That is by nothing, save where a channel is so small beside its bias that the operator takes a
    coarser scale for it. What is compared is the second call, which has no weights but int8 ones.
    """
    parts = parity.parts_of(batch)
    return parity.compare(
        parity.outputs_of(lambda images: (block(images), block(images))[1], parts),
        parity.outputs_of(graphs.static(make_block(*graph)), parts),
        parity.BATCHES,
        "int8: stored weights give other numbers,",
        tolerance=parity.TOLERANCE_OTHER_KERNELS,
    )


def _layers(nodes: Sequence[graphs.Json]) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in nodes:
        if node["op"] in LAYERS:
            weight = nodes[node["inputs"][1][0]]["name"]
            name = re.sub(r"\.weight$", "", weight)
            found[name if name not in found else node["name"]] = node["name"]
    return found


def _short_strided(
    nodes: Sequence[graphs.Json], layers: dict[str, str], arrays: Arrays
) -> dict[str, str]:
    by_name, found = {node["name"]: node for node in nodes}, {}
    for layer, name in layers.items():
        parts = [n for part in by_name[name].get("subgraphs", []) for n in part["nodes"]]
        for part in parts:
            attrs = part.get("attrs", {})
            if part["op"] != "Convolution" or attrs.get("kernel") != "(1, 1)":
                continue
            weight = arrays.get(f"arg:{layer}.weight")
            short = weight is None or weight.shape[1] < _SHORTEST_PIXEL
            if attrs.get("stride", "(1, 1)") != "(1, 1)" and short:
                found[layer] = name
    return found


def _activated_sums(nodes: Sequence[graphs.Json]) -> dict[str, str]:
    """Return {output: the operand that is added}, of convolutions fused with sum and activation."""
    found = {}
    for node in nodes:
        if node.get("attrs", {}).get("with_postsum_act", "").lower() in ("true", "1"):
            operand = nodes[node["inputs"][-1][0]]
            suffix = "" if operand["op"] == "null" else "_output"
            found[f"{node['name']}_output"] = f"{operand['name']}{suffix}"
    return found


def _entropy(counts: np.ndarray, limit: float, positive: bool) -> float:
    levels = 511 if positive else 255  # a positive range is one half of a symmetric one
    edges = np.linspace(-limit, limit, _BINS + 1)
    threshold, _ = mx.nd.contrib.calibrate_entropy(
        hist=mx.nd.array(counts), hist_edges=mx.nd.array(edges), num_quantized_bins=levels
    )
    return float(threshold.asnumpy().ravel()[0])


def _values(array: Any) -> np.ndarray:
    """Return what a hook was given as NumPy array; MXNet hands the bare handle over."""
    if isinstance(array, int):
        handle = ctypes.cast(array, mx.base.NDArrayHandle)
        array = mx.nd.NDArray(handle, writable=False)
    return array.asnumpy()
