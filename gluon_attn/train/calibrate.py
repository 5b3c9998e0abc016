"""Calibration images and a score function for the int8 and bf16 forms of an export.

The images come from one split, the score from another: a model that is calibrated on the data that
it is judged by would look better than it is.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, softmax
from tqdm import tqdm

from gluon_attn.export.images import Preprocess
from gluon_attn.metrics.multilabel import evaluate_multilabel
from gluon_attn.tasks.evaluate_run import open_for_evaluation
from gluon_attn.train.build import reading_of

BATCH = 32


class Calibration(NamedTuple):
    """Data to make and to judge a graph of another precision.

    Attributes:
        images: ``(N, 3, H, W)`` float32, prepared as the export's input entry says.
        score: Function ``score(run)`` to mAP in points, 0–100, on the held-out split; ``run`` takes
            ``(B, 3, H, W)`` float32 and returns logits ``(B, A)``.
        fingerprint: What the data were: splits, numbers of samples, fingerprints.
    """

    images: np.ndarray
    score: Any
    fingerprint: dict


def calibration_data(
    data_dir, classes, entry, activation="sigmoid", split=None, score_split=None, count=256,
    workers=None, *, recipe=None,
):  # fmt: skip
    """Read calibration images, evenly spread over one split, and all samples of another.

    The held-out pictures are kept in memory, 8 bits a channel, since they are needed once per
    candidate.

    Args:
        data_dir: Data set of any supported format.
        classes: Attributes that it must have.
        entry: The sidecar's ``input`` entry.
        activation: The sidecar's.
        split: Where calibration images are taken from; None: the recipe's training split.
        score_split: What is scored; None: the recipe's validation split.
        count: Number of calibration images; all samples of ``split`` if there are fewer.
        workers: Threads that read pictures.
        recipe: Of the net, which says how the data are read; see
            :func:`gluon_attn.train.build.reading_of`.

    Raises:
        ValueError: Other attributes, a sample in both, or ``count`` below 1.
        FileNotFoundError: There is no such data.
    """
    if count < 1:
        raise ValueError(f"{count} calibration images: give 1 or more, some hundred are usual")
    names = reading_of(recipe).splits
    split, score_split = split or names[0], score_split or names[1]
    train = open_for_evaluation(data_dir, split, classes, recipe=recipe)
    held_out = open_for_evaluation(data_dir, score_split, classes, recipe=recipe)
    chosen = np.unique(np.linspace(0, len(train) - 1, min(count, len(train))).round().astype(int))
    _refuse_overlap(train, chosen, held_out)
    prepare = Preprocess(entry)
    views, _ = _read(train, chosen, prepare, workers, f"reading {split}")
    scored, mask = _read(held_out, range(len(held_out)), prepare, workers, f"reading {score_split}")
    normalize = Preprocess(dict(entry, resize=None, crop=None))
    fingerprint = {
        "split": split,
        "fingerprint": train.fingerprint(chosen.tolist()),
        "score_split": score_split,
        "score_samples": len(held_out),
        "score_fingerprint": held_out.fingerprint(),
    }
    images = np.stack([normalize(view) for view in views])
    score = _Score(scored, held_out.label, mask, held_out.names, normalize, activation)
    return Calibration(images, score, fingerprint)


def _refuse_overlap(train, chosen, held_out):
    shared = {train.sample_ids[i] for i in chosen} & set(held_out.sample_ids)
    if shared:
        raise ValueError(
            f"splits '{train.split}' and '{held_out.split}' share {len(shared)} samples, "
            f"{min(shared)} for one; calibrate and score on different data (--calib-split, "
            "--score-split)"
        )


class _Score:
    """mAP, in points, of a ``run`` function."""

    def __init__(self, views, label, mask, names, normalize, activation):
        self._views, self._label, self._mask, self._names = views, label, mask, names
        self._normalize, self._activation = normalize, activation

    def __call__(self, run):
        starts = range(0, len(self._views), BATCH)
        bar = tqdm(starts, desc="scoring", unit="batch", leave=False, disable=_quiet())
        logits = np.concatenate([self._logits(run, start) for start in bar])
        if self._activation == "softmax":
            probs = softmax(logits, axis=1)
        else:
            probs = expit(logits)
        result = evaluate_multilabel(probs, self._label, self._mask, names=self._names)
        return 100 * result["overall"]["mAP"]

    def _logits(self, run, start):
        views = self._views[start : start + BATCH]
        # Always the same shape: a static graph is planned anew for every other one.
        batch = np.zeros((BATCH, 3, *views[0].shape[:2]), np.float32)
        for row, view in enumerate(views):
            batch[row] = self._normalize(view)
        return run(batch)[: len(views)]


def _read(dataset, indices, prepare, workers, title):
    """Return what the net sees of some samples, uint8, and their mask."""

    def read(i):
        image, _, mask, _ = dataset[i]
        return prepare.view(image), mask

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        rows = pool.map(read, indices)
        bar = tqdm(rows, total=len(indices), desc=title, leave=False, disable=_quiet())
        views, masks = zip(*bar)
    return list(views), np.stack(masks)


def _quiet():
    return not sys.stderr.isatty()
