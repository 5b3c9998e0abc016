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

from functools import partial
from typing import Any, Mapping, NamedTuple, Sequence

import cv2
import numpy as np

from gluon_attn.metrics.checks import Array
from gluon_attn.metrics.tables import MEAN, Column, Report, Result, Row, Table, percent

MEASURES = ("pointing", "energy", "iou_auc")
HEADINGS = {
    "pointing": "pointing game", "energy": "energy inside", "iou_auc": "area under IoU curve"
}  # fmt: skip
BASELINES = ("centre Gaussian", "uniform")
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


def measure(values: Array, mask: Array, tolerance: float = TOLERANCE) -> tuple[Array, Array]:
    """Return the measures of one map, ``(3,)`` as ``MEASURES``, and its IoU curve, ``(T,)``.

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
        return np.full(len(MEASURES), np.nan), np.full(len(THRESHOLDS), np.nan)
    curve = iou_curve(fitted, mask)
    pointing, energy = pointing_hit(fitted, mask, tolerance), energy_inside(fitted, mask)
    return np.array([pointing, energy, curve.mean()]), curve


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

    ``{kind: {measure: {attribute or MEAN: Interval}}}`` of ``{kind of map: (N, A, 3)}``, measures
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
        columns = {**dict(zip(names, means.T)), MEAN: total}
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


class Localised:
    """Measures of several kinds of map, collected over a data set of N images, A attributes."""

    def __init__(self, images: int, names: Sequence[str], tolerance: float = TOLERANCE) -> None:
        self.names, self.tolerance, self._shape = tuple(names), tolerance, (images, len(names))
        self.scores: dict[str, Array] = {}
        self._curves: dict[str, Array] = {}  # sums over images, (A, T)
        self.present = np.zeros(self._shape, bool)

    def update(self, kind: str, n: int, a: int, values: Array, mask: Array) -> None:
        """Add the map of attribute ``a`` in image ``n``, whose mask is not empty."""
        if kind not in self.scores:
            self.scores[kind] = np.full((*self._shape, len(MEASURES)), np.nan)
            self._curves[kind] = np.zeros((self._shape[1], len(THRESHOLDS)))
        self.present[n, a] = True
        self.scores[kind][n, a], curve = measure(values, mask, self.tolerance)
        self._curves[kind][a] += np.nan_to_num(curve)

    def update_baselines(self, n: int, a: int, mask: Array) -> None:
        """Add what maps that know nothing of the image reach on a mask."""
        for kind, make in zip(BASELINES, (centre_gaussian, uniform)):
            self.update(kind, n, a, make(mask.shape), mask)

    def result(self, resamples: int = 1000) -> Result:
        """Return what ``LOCALISATION`` shows; ``difference`` is to the centre Gaussian, paired."""
        kinds = sorted(self.scores, key=lambda kind: kind in BASELINES)  # these last
        scores = {kind: self.scores[kind] for kind in kinds}
        apart = {kind: found - scores[BASELINES[0]] for kind, found in scores.items()}
        every = {"measures": scores, "difference": apart}
        found = {
            key: summarise(scores, self.names, resamples=resamples) for key, scores in every.items()
        }
        return {
            "images": int(self.present.any(1).sum()), "tolerance": self.tolerance,
            "attributes": dict(zip(self.names, self.present.sum(0).tolist())),
            "thresholds": THRESHOLDS.round(2).tolist(),
            "maps": {
                kind: {
                    "empty": int((self.present & np.isnan(scores[kind][:, :, 0])).sum()),
                    "curve": self._mean_curve(kind).tolist(),
                    **{key: _as_dicts(found[key][kind]) for key in found},
                }
                for kind in kinds
            },
        }  # fmt: skip

    def _mean_curve(self, kind: str) -> Array:
        counts = np.isfinite(self.scores[kind][:, :, 0]).sum(0)
        known = counts > 0
        if not known.any():
            return np.full(len(THRESHOLDS), np.nan)
        return np.asarray((self._curves[kind][known] / counts[known, None]).mean(0))


def _as_dicts(found: Mapping[str, Mapping[str, Interval]]) -> dict[str, Any]:
    return {m: {name: i._asdict() for name, i in of.items()} for m, of in found.items()}


def _cell(interval: Mapping[str, float], sign: str = "") -> str:
    """Return a mean with its interval in percent."""
    if interval["mean"] != interval["mean"]:
        return "-"
    mean, low, high = (f"{100 * interval[key]:{sign}.1f}" for key in Interval._fields)
    return f"{mean} [{low}, {high}]"


def _tables(result: Result) -> list[Table]:
    """Return the means of all kinds, their difference to the baseline, and every attribute."""
    shown = [Column(m, heading, _cell) for m, heading in HEADINGS.items()]
    signed = [column._replace(show=partial(_cell, sign="+")) for column in shown]
    head, maps = [Column("map", "map", str)], result["maps"]
    total = {
        key: [
            {"map": kind, "empty": of["empty"], **{m: of[key][m][MEAN] for m in MEASURES}}
            for kind, of in maps.items()
            if key == "measures" or kind != BASELINES[0]
        ]
        for key in ("measures", "difference")
    }
    tables = [
        Table([*head, *shown, Column("empty", "empty", str)], total["measures"]),
        Table([Column("map", f"minus {BASELINES[0]}", str), *signed], total["difference"]),
    ]
    for m, heading in HEADINGS.items():
        columns = [Column("name", heading, str), Column("images", "images", str)]
        columns += [Column(kind, kind, _cell) for kind in maps]
        rows = [
            {
                "name": name,
                "images": count,
                **{k: of["measures"][m][name] for k, of in maps.items()},
            }
            for name, count in result["attributes"].items()
        ]
        mean = {"name": MEAN, **{kind: of["measures"][m][MEAN] for kind, of in maps.items()}}
        tables.append(Table(columns, rows, [mean]))
    return tables


def _notes(result: Result) -> list[str]:
    lacking = [name for name, count in result["attributes"].items() if not count]
    notes = [
        f"{result['images']} images with a mask and {sum(result['attributes'].values())} masks, as "
        "the net sees them; only attributes that the image has are measured.",
        "Pointing game: the maximum lies in the mask or within "
        f"{percent(result['tolerance'])} % of the image's side of it (Zhang et al., IJCV 2018); "
        "energy: share of the map's sum inside the mask (Wang et al., Score-CAM, 2020); area: mean "
        f"IoU over {len(result['thresholds'])} thresholds, {result['thresholds'][0]:g} to "
        f"{result['thresholds'][-1]:g} of the map's range.",
        "In brackets 95 % bootstrap intervals over images; they say nothing of other trainings.",
        "empty: maps without a positive value, left out.",
    ]
    return notes + ([f"In no image: {', '.join(lacking)}."] if lacking else [])


def _lines(result: Result) -> list[Row]:
    return [
        {"map": kind, "value": key, "measure": m, "attribute": name, **interval}
        for kind, of in result["maps"].items()
        for key in ("measures", "difference")
        for m in MEASURES
        for name, interval in of[key][m].items()
    ]


LOCALISATION = Report(
    "a localisation result", _tables, _notes,
    ("map", "value", "measure", "attribute", *Interval._fields), _lines,
)  # fmt: skip
