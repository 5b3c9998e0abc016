"""Further forms of an export (int8, bf16, ONNX), and the data that they are made and judged with.

Calibration images come from one split, the score from another: a model that is calibrated on the
data that it is judged by would look better than it is.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np
from scipy.special import expit, softmax
from tqdm import tqdm

from gluon_attn.export.images import Preprocess
from gluon_attn.export.precision import Bf16Variant, require_cpu
from gluon_attn.export.sidecar import read_sidecar
from gluon_attn.export.writer import add_variants
from gluon_attn.metrics.multilabel import evaluate_multilabel
from gluon_attn.task import Exported, Trained
from gluon_attn.tasks.data import Array, bar, open_for, reading_of

BATCH = 32
Run = Callable[[Array], Array]


class Forms(NamedTuple):
    """Which further forms of a graph are wanted, and what they are made from.

    ``calib`` is a data set for int8, and to score bf16; for its splits and number see
    :func:`calibration_data`. ``max_drop`` are points of mAP that int8 may lose. ``web`` is how
    the page stores its weights, 'fp16' or 'int8', and ``runtime`` where its engine is. ``fp16`` is
    a second ONNX file, beside that of ``onnx``.
    """

    int8: bool = False
    bf16: bool = False
    onnx: bool = False
    web: str | None = None
    runtime: str | None = None
    calib: str | None = None
    calib_split: str | None = None
    score_split: str | None = None
    calib_num: int = 256
    max_drop: float = 0.5
    fp16: bool = False

    @property
    def wanted(self) -> bool:
        """Whether anything is."""
        return self.int8 or self.bf16 or self.onnx or self.fp16 or self.web is not None


def check_forms(forms: Forms) -> None:
    """Raise what would keep the forms from being made, before any work is done."""
    if forms.int8 and not forms.calib:
        raise ValueError("--int8 needs --calib DATA: the data set to calibrate and to score with")
    if forms.fp16 and not forms.onnx:
        raise ValueError("--fp16 needs --onnx: it is the ONNX file in half precision")
    if forms.bf16:
        require_cpu("bf16")
    if forms.onnx:
        from gluon_attn.export.onnx import require_packages

        require_packages()
    if forms.runtime is not None:
        from gluon_attn.export.web import check_runtime

        if not forms.web:
            raise ValueError("--runtime DIR is for --web: the engine of the page")
        check_runtime(forms.runtime)


def make_variants(forms: Forms, source: Trained | Exported) -> list[Any]:
    """Return the variants of an export of ``source``; ValueError if its task has no such form."""
    source.task.check_forms(forms)
    check_forms(forms)
    variants: list[Any] = []
    data = None
    if forms.calib and (forms.int8 or forms.bf16):
        data = calibration_data(
            forms.calib, source, split=forms.calib_split, score_split=forms.score_split,
            count=forms.calib_num,
        )  # fmt: skip
    if forms.int8 and data:
        from gluon_attn.export.int8 import Int8Variant

        variants.append(
            Int8Variant(
                data.images, data.score, max_drop=forms.max_drop, fingerprint=data.fingerprint
            )
        )
    if forms.bf16:
        variants.append(Bf16Variant(data.score if data else None))
    if forms.onnx:
        from gluon_attn.export.onnx import OnnxVariant

        variants.append(OnnxVariant(half=forms.fp16))
    if forms.web:
        there = isinstance(source, Exported) and "onnx" in source.sidecar["files"]
        if not forms.onnx and not there:
            raise ValueError("--web needs --onnx: the page runs the ONNX model")
        from gluon_attn.tasks.page import web_variant

        variants.append(web_variant(source, forms.runtime, forms.web))
    return variants


def extend(directory: str, forms: Forms, out: str | None = None) -> Path:
    """Add forms to an export that is there; return its directory."""
    if not forms.wanted:
        raise ValueError(f"what to add to {directory}? Give --int8, --bf16, --onnx or --web")
    if out:
        raise ValueError("--export adds to the export that is there; leave --out away")
    return Path(add_variants(directory, make_variants(forms, Exported.open(directory))))


def summary(directory: str | Path) -> list[str]:
    """Return the lines that tell what an export directory holds: sizes, parity, drops."""
    sidecar = read_sidecar(directory)
    lines = [
        f"{entry['bytes'] / 1e6:9.2f} MB  {Path(directory) / entry['file']}"
        for entry in sidecar["files"].values()
    ]
    if "parity" in sidecar:
        compared = Exported(str(directory), sidecar).task.parity
        difference = sidecar["parity"]["max_abs_diff"]
        lines.append(f"parity with {compared}: largest difference {difference:.2e}")
    for name in ("int8", "bf16"):
        if name in sidecar:
            lines += _precision_lines(name, sidecar[name])
    if "onnx" in sidecar:
        entry = sidecar["onnx"]
        lines.append(
            f"onnx: opset {entry['opset']}, ONNX Runtime's largest difference "
            f"{entry['max_abs_diff']:.2e}"
            + (f"; in float16 {entry['fp16']['max_abs_diff']:.2e}" if "fp16" in entry else "")
        )
    if "web" in sidecar:
        entry = sidecar["web"]
        engine = f"onnxruntime-web {entry['runtime']}" if entry["runtime"] else "no engine yet"
        lines.append(
            f"web: {entry['weights']}, largest difference of a probability "
            f"{entry['max_abs_diff']:.2e}; {engine}"
        )
    return lines


def _precision_lines(name: str, entry: dict[str, Any]) -> list[str]:
    parity = f"parity with plain MXNet {entry['parity']['max_abs_diff']:.2e}"
    if entry["drop"] is None:
        return [f"{name}: {parity}; its score was not measured (no --calib)"]
    lines = [
        f"{name}: mAP {entry['float32_score']:.2f} in float32, {entry['score']:.2f} in {name}: "
        f"drop {entry['drop']:.2f}, allowed {entry['max_drop']:g}; {parity}"
    ]
    if name == "int8":
        count = len(entry["excluded"])
        lines.append(
            f"int8: calibration {entry['mode']} on {entry['calibration']['images']} images, "
            f"{entry['layers'] - count} of {entry['layers']} layers int8"
        )
        lines += [f"int8: left in float32: {', '.join(entry['excluded'])}"] if count else []
        unsafe = entry.get("unsafe")  # exports of before have none
        lines += [f"int8: always float32: {', '.join(unsafe)}"] if unsafe else []
    return lines


class Calibration(NamedTuple):
    """Data to make and to judge a graph of another precision.

    ``images`` are ``(N, 3, H, W)`` float32, prepared as the export's input entry says. ``score``
    turns a function from ``(B, 3, H, W)`` float32 to logits ``(B, A)`` into mAP in points, 0–100,
    on the held-out split. ``fingerprint`` tells splits, numbers of samples and fingerprints.
    """

    images: Array
    score: Callable[[Run], float]
    fingerprint: dict[str, Any]


def calibration_data(
    data_dir: str, source: Trained | Exported, *, split: str | None = None,
    score_split: str | None = None, count: int = 256, workers: int | None = None,
) -> Calibration:  # fmt: skip
    """Read ``count`` calibration images, evenly spread over one split, and all samples of another.

    The splits are by default the recipe's for training and for validation. The held-out images are
    kept in memory, 8 bits a channel, since they are needed once per candidate. Raises a ValueError
    for other attributes, a sample in both, or ``count`` below 1.
    """
    if count < 1:
        raise ValueError(f"{count} calibration images: give 1 or more, some hundred are usual")
    names = reading_of(source.extra.get("recipe")).splits
    split, score_split = split or names[0], score_split or names[1]
    train, held_out = open_for(source, data_dir, split), open_for(source, data_dir, score_split)
    chosen = np.unique(np.linspace(0, len(train) - 1, min(count, len(train))).round().astype(int))
    _refuse_overlap(train, chosen, held_out)
    prepare = Preprocess(source.entry)
    views, _ = _read(train, chosen, prepare, workers, title=f"reading {split}")
    everything = range(len(held_out))
    scored, mask = _read(held_out, everything, prepare, workers, title=f"reading {score_split}")
    normalize = Preprocess(dict(source.entry, resize=None, crop=None))

    def score(run: Run) -> float:
        starts = range(0, len(scored), BATCH)
        logits = np.concatenate([
            _run_padded(run, [normalize(view) for view in scored[start : start + BATCH]])
            for start in bar(starts, "scoring")
        ])  # fmt: skip
        probs = softmax(logits, axis=1) if source.activation == "softmax" else expit(logits)
        result = evaluate_multilabel(probs, held_out.label, mask, names=held_out.names)
        return 100 * float(result["overall"]["mAP"])

    return Calibration(np.stack([normalize(view) for view in views]), score, {
        "split": split,
        "fingerprint": train.fingerprint(chosen.tolist()),
        "score_split": score_split,
        "score_samples": len(held_out),
        "score_fingerprint": held_out.fingerprint(),
    })  # fmt: skip


def _run_padded(run: Run, images: Sequence[Array]) -> Array:
    """Run a batch that is always as large: a static graph is planned again for any other."""
    batch = np.zeros((BATCH, *images[0].shape), np.float32)
    batch[: len(images)] = images
    return run(batch)[: len(images)]


def _refuse_overlap(train: Any, chosen: Sequence[int], held_out: Any) -> None:
    shared = {train.sample_ids[i] for i in chosen} & set(held_out.sample_ids)
    if shared:
        raise ValueError(
            f"splits '{train.split}' and '{held_out.split}' share {len(shared)} samples, "
            f"{min(shared)} for one; calibrate and score on different data (--calib-split, "
            "--score-split)"
        )


def _read(
    dataset: Any, indices: Sequence[int], prepare: Preprocess, workers: int | None, *, title: str
) -> tuple[list[Array], Array]:
    """Return what the net sees of some samples, uint8, and their mask."""

    def read(i: int) -> tuple[Array, Array]:
        image, _, mask, _ = dataset[i]
        return prepare.view(image), mask

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        rows = pool.map(read, indices)
        quiet = not sys.stderr.isatty()
        found = list(tqdm(rows, total=len(indices), desc=title, leave=False, disable=quiet))
    return [view for view, _ in found], np.stack([mask for _, mask in found])
