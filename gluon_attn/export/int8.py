"""The int8 form of an export: calibrated, measured, and refused when it loses too much.

Ways of calibrating compete on held-out data. If the best of them loses more than allowed, the most
sensitive layers are kept in float32, as few as will do. The result is an ordinary symbol and params
for plain MXNet, compared in a process that cannot import this package.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
from typing import Any, NamedTuple

import mxnet as mx
import numpy as np

from gluon_attn.core.errors import first_line
from gluon_attn.core.files import save_parameters, sha256_of_bytes, write_text
from gluon_attn.export import writer
from gluon_attn.export.int8_search import GRANULARITY, MODES, Quantizer, first_output
from gluon_attn.export.rewrite import read_graph, rename_outputs
from gluon_attn.export.sidecar import ExportError
from gluon_attn.export.symbol import check_shapes, make_block
from gluon_attn.export.variants import Variant
from gluon_attn.runtime import has_vnni, versions

TOLERANCE = 1e-5  # of max(1, |output|)
# The other process has no AMX. Its kernels round the last bit of a scaled sum otherwise, and where
# that crosses a level the next layers see one step of 8 (or of bfloat16's 8) bits.
TOLERANCE_OTHER_KERNELS = 0.05

logger = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """An int8 graph that was measured."""

    mode: str
    excluded: tuple
    score: float
    symbol: Any
    arrays: dict


class Int8Variant(Variant):
    """Writes ``NAME-int8-symbol.json`` and ``NAME-int8-0000.params``.

    Args:
        calibration: ``(N, 3, H, W)`` float32 images, prepared as the sidecar says, from which the
            ranges of the activations are taken; some hundred of the training data.
        score: Function ``score(run)`` to points (mAP in 0–100, say) on held-out data, not those of
            ``calibration``. ``run`` takes a NumPy batch ``(B, 3, H, W)`` float32 and returns logits
            ``(B, A)``; a constant B is fastest.
        baseline: Score of the float32 graph if it is known; measured otherwise.
        modes: Ways of calibrating to try, of ``gluon_attn.export.int8_search.MODES``.
        max_drop: Points that may be lost against float32.
        max_excluded: Largest part of the layers that may stay float32.
        fingerprint: Where the data come from; anything that JSON can hold, kept in the sidecar.
        percentile: Of the mode of that name.
        dtype: ``'auto'`` or ``'int8'``; see :class:`gluon_attn.export.int8_search.Quantizer`.

    Raises:
        ValueError: An argument is not valid.
    """

    name = "int8"

    def __init__(
        self,
        calibration,
        score,
        baseline=None,
        modes=MODES,
        max_drop=0.5,
        max_excluded=0.5,
        fingerprint=None,
        percentile=99.99,
        dtype="auto",
    ):
        unknown = sorted(set(modes) - set(MODES))
        if unknown or not modes:
            raise ValueError(f"modes {list(modes)}: valid are {', '.join(MODES)}, one or more")
        if dtype not in ("auto", "int8"):
            raise ValueError(f"dtype {dtype!r}: valid are auto, int8")
        if not max_drop >= 0 or not 0 <= max_excluded <= 1 or not 50 < percentile <= 100:
            raise ValueError(
                f"max_drop={max_drop}, max_excluded={max_excluded}, percentile={percentile}: valid "
                "are 0 or more, 0 to 1, above 50 to 100"
            )
        self._calibration, self._score, self._baseline = calibration, score, baseline
        self._modes, self._max_drop, self._max_excluded = tuple(modes), max_drop, max_excluded
        self._fingerprint, self._percentile, self._dtype = fingerprint, percentile, dtype

    def write(self, directory, sidecar):
        """Search, check and write; see :meth:`gluon_attn.export.variants.Variant.write`.

        The entry holds ``mode``, ``granularity``, ``dtype``, ``calibration``, ``float32_score``,
        ``score``, ``drop``, ``max_drop``, ``tried``, ``layers``, ``excluded``, ``unsafe``,
        ``parity``, ``vnni`` and ``versions``.

        Raises:
            ExportError: The drop is larger than allowed, MXNet cannot quantize the graph, or plain
                MXNet gives other numbers.
            ValueError: The calibration images do not fit the export.
        """
        images = self._check_images(sidecar)
        symbol, arrays = read_graph(directory, sidecar)
        quantizer = Quantizer(symbol, arrays, images, self._dtype, self._percentile)
        baseline = self._baseline
        if baseline is None:
            baseline = measure(self._score, make_block(symbol, arrays), "float32")
        best, tried = self._search(quantizer, float(baseline))
        names = [output["name"] for output in sidecar["outputs"]]
        symbol = rename_outputs(best.symbol, names)
        check_shapes(symbol, best.arrays, sidecar, "int8")
        files = write_graph(directory, f"{sidecar['name']}-int8", symbol, best.arrays, self.name)
        entry = {"mode": best.mode, "granularity": GRANULARITY, "dtype": self._dtype}
        if best.mode == "percentile":
            entry["percentile"] = self._percentile
        entry["calibration"] = {
            "images": len(images),
            "sha256": sha256_of_bytes(np.ascontiguousarray(images).tobytes()),
            "source": self._fingerprint,
        }
        entry.update(float32_score=float(baseline), score=best.score, drop=baseline - best.score)
        entry.update(max_drop=self._max_drop, tried=tried)
        entry.update(layers=len(quantizer.layers), excluded=list(best.excluded))
        entry["unsafe"] = list(quantizer.unsafe)
        entry["parity"] = check_parity(directory, files, make_block(symbol, best.arrays), images)
        entry.update(vnni=has_vnni(), versions=versions())
        return files, entry

    def _check_images(self, sidecar):
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

    def _search(self, quantizer, baseline):
        """Return the best candidate within the budget and a record of all that were tried."""
        tried = []

        def attempt(mode, excluded=()):
            symbol, arrays = quantizer.build(mode, excluded)
            score = measure(self._score, make_block(symbol, arrays), f"int8 {mode}")
            tried.append({"mode": mode, "excluded": len(excluded), "score": score})
            logger.info("int8: %s, %d layers float32: %.2f", mode, len(excluded), score)
            return Candidate(mode, tuple(excluded), score, symbol, arrays)

        best = max([attempt(mode) for mode in self._modes], key=lambda found: found.score)
        if baseline - best.score > self._max_drop:
            best = self._exclude(quantizer, best, attempt, baseline)
        if baseline - best.score > self._max_drop:
            top = max(tried, key=lambda record: record["score"])
            raise ExportError(
                f"int8 loses {baseline - top['score']:.2f} points at best ({baseline:.2f} in "
                f"float32, {top['score']:.2f} with calibration '{top['mode']}' and "
                f"{top['excluded']} of {len(quantizer.layers)} layers in float32); allowed are "
                f"{self._max_drop:g}. Allow more (--max-drop), or calibrate with more or other "
                "images. Nothing was written"
            )
        return best, tried

    def _exclude(self, quantizer, best, attempt, baseline):
        """Keep the most sensitive layers in float32: twice as many until it does, then fewer."""
        order = [layer for layer, _ in quantizer.sensitivity(best.mode)]
        most = int(len(order) * self._max_excluded)
        size, failed = 0, 0
        while baseline - best.score > self._max_drop and size < most:
            failed, size = size, min(max(1, 2 * size), most)
            best = attempt(best.mode, order[:size])
        while baseline - best.score <= self._max_drop and size - failed > 1:
            middle = (size + failed) // 2
            found = attempt(best.mode, order[:middle])
            if baseline - found.score <= self._max_drop:
                best, size = found, middle
            else:
                failed = middle
        return best


def measure(score, block, what):
    """Return ``score(run)`` of a block as a finite float.

    Raises:
        ExportError: The graph does not run, or its score is no finite number.
    """
    block.hybridize(static_alloc=True, static_shape=True)
    try:
        points = float(score(lambda batch: first_output(block(mx.nd.array(batch)))))
    except mx.base.MXNetError as error:
        raise ExportError(f"{what}: the graph does not run: {first_line(error)}") from error
    if not math.isfinite(points):
        raise ExportError(f"{what}: the score is {points}; is there data for every attribute?")
    return points


def write_graph(directory, stem, symbol, arrays, prefix):
    """Write ``<stem>-symbol.json`` and ``<stem>-0000.params``; return the variant's ``files``."""
    graph, params = f"{stem}-symbol.json", f"{stem}-0000.params"
    write_text(directory / graph, symbol.tojson(remove_amp_cast=False))
    save_parameters(arrays, directory / params)
    return {f"{prefix}_symbol": graph, f"{prefix}_params": params}


def check_parity(directory, files, block, images):
    """Compare a written graph in plain MXNet, elsewhere, with a block here; return the figures.

    Args:
        directory: Where ``files`` are: name of the symbol file, name of the params file.
        files: What :func:`write_graph` returned.
        block: The same graph, in this process.
        images: ``(N, 3, H, W)`` float32; batches of 3, 1 and 2 are made of the first.

    Raises:
        ExportError: They differ, or it does not run.
    """
    batch = images[np.arange(3) % len(images)]
    rows = {"batch3": batch, "batch1": batch[:1], "batch2": batch[1:]}
    tolerance = TOLERANCE_OTHER_KERNELS if versions()["amx"] == "on" else TOLERANCE
    block.hybridize(static_alloc=True, static_shape=True)
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="parity-") as work:
        inputs, outputs = os.path.join(work, "inputs.npz"), os.path.join(work, "outputs.npz")
        np.savez(inputs, **rows)
        paths = [str(directory / file) for file in files.values()]
        report = writer.run_elsewhere([*paths, inputs, outputs, "cpu:0"])
        with np.load(outputs) as results:
            for key, data in rows.items():
                expected = block(mx.nd.array(data))
                expected = expected if isinstance(expected, (list, tuple)) else [expected]
                for number, array in enumerate(expected):
                    value = array.asnumpy()
                    difference = np.abs(results[f"{key}:{number}"] - value)
                    worst = max(worst, float((difference / np.maximum(1.0, np.abs(value))).max()))
    if not worst <= tolerance:  # so that NaN fails as well
        raise ExportError(
            f"{directory.name}: {', '.join(files.values())} give other numbers in plain MXNet, by "
            f"{worst:.3g} of max(1, |output|); at most {tolerance:g} is allowed"
        )
    figures = {"max_abs_diff": worst, "tolerance": tolerance, "batch": [1, 2, 3]}
    return dict(figures, mxnet=report["mxnet"])
