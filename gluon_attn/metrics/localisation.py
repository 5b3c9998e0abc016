"""Where maps look, measured against masks of the attributes.

Three measures of one map and one mask, each in 0..1, and larger is better:

* **pointing game**: whether the map's maximum lies in the mask, or within ``tolerance`` pixels of
  it (Zhang, Bargal, Lin, Brandt, Shen, Sclaroff, "Top-down Neural Attention by Excitation
  Backprop", IJCV 2018, section 5.1, with 15 pixels at the images' own size);
* **energy**: the share of the map's sum that lies in the mask (Wang, Wang, Du, Yang, Zhang, Ding,
  Mardziel, Hu, "Score-CAM", CVPR workshops 2020, section 4.3);
* **area under the IoU curve**: the map is brought to 0..1 and cut at every threshold; the mean over
  thresholds of the intersection over union with the mask. (IoU over thresholds as in Choe, Oh, Lee,
  Chun, Akata, Shim, "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020;
  the mean over thresholds instead of the best one is an assumption.)

A measure is undefined (nan) where the mask is empty or the map has no positive part. Baselines that
know nothing of the image: :func:`centre_gaussian` and :func:`uniform`.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple, Sequence

import cv2
import numpy as np

from gluon_attn.metrics.checks import Array

MEASURES = ("pointing", "energy", "iou_auc")
THRESHOLDS = np.linspace(0.05, 0.95, 19)
TOLERANCE = 15 / 500  # of the longer side: 15 pixels of PASCAL VOC's 500


class Interval(NamedTuple):
    """A mean with its bootstrap interval; nan where nothing is defined."""

    mean: float
    low: float
    high: float


def fit_map(values: Array, shape: Sequence[int]) -> Array:
    """Return a map ``(h, w)`` brought to a mask's ``(H, W)``, bilinearly; below 0 becomes 0."""
    values = np.maximum(np.asarray(values, np.float32), 0)
    return np.asarray(cv2.resize(values, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR))


def measure(values: Array, mask: Array, tolerance: float = TOLERANCE) -> Array:
    """Return the three measures of one map, ``(3,)`` in the order of ``MEASURES``.

    The map ``(h, w)`` is brought to the size of the bool mask ``(H, W)``, negative values become 0.
    ``tolerance`` is that of the pointing game, as a share of the mask's longer side.
    """
    mask, values = np.asarray(mask, bool), np.asarray(values)
    if mask.ndim != 2 or values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(
            f"a finite map and a mask of two dimensions, not {values.shape}, {mask.shape}"
        )
    fitted = fit_map(values, mask.shape)
    if not mask.any() or not fitted.max() > 0:
        return np.full(len(MEASURES), np.nan)
    return np.array([
        pointing_hit(fitted, mask, tolerance), energy_inside(fitted, mask),
        iou_curve(fitted, mask).mean(),
    ])  # fmt: skip


def pointing_hit(values: Array, mask: Array, tolerance: float = TOLERANCE) -> float:
    """Return the share of the map's maxima that lie in the mask or within the tolerance of it.

    Several equal maxima count as a draw among them, so a constant map scores as a random point.
    The map ``(H, W)`` is not negative, ``tolerance`` a share of the longer side.
    """
    radius = int(round(tolerance * max(mask.shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    reached = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    return float(reached[values == values.max()].mean())


def energy_inside(values: Array, mask: Array) -> float:
    """Return the share of the map's sum that lies in the mask; both ``(H, W)``."""
    values = values.astype(np.float64)
    return float(values[mask].sum() / values.sum())


def iou_curve(values: Array, mask: Array, thresholds: Array = THRESHOLDS) -> Array:
    """Return the intersection over union of mask and cut map at every threshold, ``(T,)`` in 0..1.

    The map ``(H, W)`` is brought to 0..1 by its own minimum and maximum. A constant map becomes 1
    everywhere: it marks the whole image.
    """
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.ones_like(values)
    marked = scaled[None] >= np.asarray(thresholds)[:, None, None]
    together = (marked & mask).sum((1, 2))
    return np.asarray(together / (marked | mask).sum((1, 2)))


def uniform(shape: Sequence[int]) -> Array:
    """Return the map that looks everywhere, ``(H, W)``."""
    return np.ones(tuple(shape), np.float32)


def centre_gaussian(shape: Sequence[int], sigma: float = 0.25) -> Array:
    """Return a Gaussian in the middle; sigma is a share of each side, a quarter an assumption."""
    rows, columns = (np.exp(-0.5 * (((np.arange(n) + 0.5) / n - 0.5) / sigma) ** 2) for n in shape)
    return np.outer(rows, columns).astype(np.float32)


def summarise(
    values: Mapping[str, Array], names: Sequence[str], *, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, dict[str, Interval]]]:
    """Return means over images, and their mean over attributes, with 95 % bootstrap intervals.

    ``{kind: {measure: {attribute or 'mean': Interval}}}`` of ``{kind of map: (N, A, 3)}``, measures
    of N images and A attributes in the order of ``MEASURES``, nan where undefined. Images are drawn
    with replacement, all attributes and kinds of map of an image together, so intervals of two
    kinds of map can be compared.
    """
    shapes = {array.shape for array in values.values()}
    if len(shapes) != 1 or next(iter(shapes))[1:] != (len(names), len(MEASURES)):
        raise ValueError(
            f"shapes {sorted(shapes)}: needs (N, {len(names)}, {len(MEASURES)}) of all"
        )
    count = next(iter(shapes))[0]
    chosen = np.random.RandomState(seed).randint(0, count, (resamples, count))
    times = np.stack([np.bincount(row, minlength=count) for row in chosen]).astype(np.float64)
    return {kind: _summary(array, names, times) for kind, array in values.items()}


def _summary(array: Array, names: Sequence[str], times: Array) -> dict[str, dict[str, Interval]]:
    found = {}
    for k, name in enumerate(MEASURES):
        known = np.isfinite(array[:, :, k])
        filled = np.where(known, array[:, :, k], 0.0)
        weights = np.concatenate([np.ones((1, len(times[0]))), times])  # first: as it is
        with np.errstate(invalid="ignore"):
            means = (weights @ filled) / (weights @ known)  # (1 + resamples, A)
        present = known.any(0)
        total = _nanmean(means[:, present]) if present.any() else np.full(len(means), np.nan)
        columns = {**dict(zip(names, means.T)), "mean": total}
        found[name] = {title: _interval(column) for title, column in columns.items()}
    return found


def _nanmean(rows: Array) -> Array:
    known = np.isfinite(rows)
    return np.asarray(np.where(known, rows, 0.0).sum(1) / np.maximum(known.sum(1), 1))


def _interval(column: Array) -> Interval:
    draws = column[1:][np.isfinite(column[1:])]
    if not np.isfinite(column[0]) or not len(draws):
        return Interval(float(column[0]), float("nan"), float("nan"))
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(column[0]), float(low), float(high))
