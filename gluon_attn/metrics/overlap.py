"""How much the attention for the true class and for the confusing class overlap, over a data set.

The overlap that Sharpen Focus: Learning with Attention Separability and Consistency (Wang et al.,
ICCV 2019) trains away, as a statistic: the intersection over union of the two maps' high regions,
the values of the losses L_AS and L_AC (equations 3 and 5), and what they do not tell apart: L_AS
also falls where the high region, its mask, becomes small. So the share of the two maps that is
common stands beside it, and the size of the high region.
"""

from __future__ import annotations

from typing import Any, Mapping

import numpy as np

from gluon_attn.metrics.checks import Array, Arrays

THRESHOLD = 0.55  # share of a map's maximum: sigma of the paper's mask, equation 4


def high_region(attention: Arrays, threshold: float = THRESHOLD) -> Array:
    """Return where maps ``(N, h, w)`` are at least ``threshold`` in (0, 1] times their maximum.

    A map of zeros has no high region. Raises a ValueError for negative or not finite values.
    """
    attention = np.asarray(attention)
    if attention.ndim != 3:
        raise ValueError(f"attention {attention.shape}: must be (N, h, w)")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold}: must be in (0, 1]")
    if not (np.isfinite(attention).all() and (attention >= 0).all()):
        raise ValueError("attention must be finite and >= 0")
    highest = attention.max(axis=(1, 2), keepdims=True)
    return np.asarray((attention >= threshold * highest) & (highest > 0))


def attention_iou(one: Arrays, other: Arrays, threshold: float = THRESHOLD) -> Array:
    r"""Return the intersection over union of the high regions of two maps, ``(N,)`` in [0, 1].

    .. math:: IoU = \frac{|R \cap R'|}{|R \cup R'|}, \quad
              R = \{ij : A_{ij} \ge t \max A\}

    Both are ``(N, h, w)``, >= 0; each has its own maximum. Two maps of zeros share nothing: 0.
    """
    if np.shape(one) != np.shape(other):
        raise ValueError(f"maps {np.shape(one)} and {np.shape(other)}: shapes must be equal")
    one, other = high_region(one, threshold), high_region(other, threshold)
    shared = (one & other).sum(axis=(1, 2))
    either = (one | other).sum(axis=(1, 2))
    return np.divide(shared, either, out=np.zeros(len(one)), where=either > 0)


def shared_attention(one: Arrays, other: Arrays) -> Array:
    r"""Return how much of two maps is common, whatever the mask, ``(N,)`` in [0, 1].

    .. math:: 2 \frac{\sum_{ij} \min(A_{ij}, A'_{ij})}{\sum_{ij} (A_{ij} + A'_{ij})}

    This is L_AS (equation 3 of the paper) with a mask of ones. Both are ``(N, h, w)``, >= 0; 0 for
    maps of zeros.
    """
    one, other = np.asarray(one), np.asarray(other)
    total = (one + other).sum(axis=(1, 2))
    common = 2 * np.minimum(one, other).sum(axis=(1, 2))
    return np.divide(common, total, out=np.zeros(len(one)), where=total > 0)


class OverlapMeter:
    """Collects per-image overlaps of a data set; threshold as in :func:`attention_iou`."""

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self.threshold = threshold
        self._rows: list[dict[str, Array]] = []

    def update(
        self,
        a_true: Arrays,
        a_conf: Arrays,
        losses: Mapping[str, Arrays],
        right: Arrays = None,
        *,
        valid: Arrays = None,
    ) -> None:
        """Add a batch of maps for the true and the confusing class, ``(B, h, w)``, >= 0.

        ``losses`` are values of each image by name, ``(B,)``, such as L_AS as ``separation``;
        ``right`` says whether predictions are right, None if that is not known; ``valid`` 0 leaves
        out an image that has no true or no confusing class.
        """
        iou = attention_iou(a_true, a_conf, self.threshold)
        right = np.full(len(iou), -1) if right is None else np.asarray(right).astype(int)
        highest = (np.asarray(maps).max(axis=(1, 2)) for maps in (a_true, a_conf))
        found = {
            "iou": iou,
            "shared": shared_attention(a_true, a_conf),
            "high": high_region(a_true, self.threshold).mean(axis=(1, 2)),
            **{name: np.asarray(value) for name, value in losses.items()},
            "right": right,
            "empty": np.minimum(*highest) == 0,
        }
        kept = np.ones(len(iou), bool) if valid is None else np.asarray(valid) != 0
        self._rows.append({name: values[kept] for name, values in found.items()})

    def values(self) -> dict[str, Array]:
        """Return ``iou``, ``shared``, ``high``, the losses, ``right`` (-1: unknown), ``empty``."""
        names = self._rows[0] if self._rows else ("iou", "shared", "high", "right", "empty")
        return {
            name: np.concatenate([row[name] for row in self._rows] or [np.zeros(0)])
            for name in names
        }

    def summary(self) -> dict[str, Any]:
        """Return the means over images, as a JSON-able dict.

        ``images``; ``empty``: images of which a map is 0 everywhere, whose overlap is 0;
        ``threshold``; ``iou``, ``shared`` (:func:`shared_attention`), ``high`` (share of the true
        map's positions that are in its high region) and the losses, each a dict of ``mean``,
        ``standard_error`` and, where predictions are known, ``right`` and ``wrong``: the means over
        the images that were predicted rightly and wrongly. None stands for a mean of nothing.
        """
        values = self.values()
        right, empty = values.pop("right"), values.pop("empty")
        result: dict[str, Any] = {
            "images": len(right), "empty": int(empty.sum()), "threshold": self.threshold
        }  # fmt: skip
        for name, v in values.items():
            error = float(v.std(ddof=1) / np.sqrt(len(v))) if len(v) > 1 else None
            result[name] = {
                "mean": _mean(v), "standard_error": error,
                "right": _mean(v[right == 1]), "wrong": _mean(v[right == 0]),
            }  # fmt: skip
        return result


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None
