"""Class selectivity of channels: does a channel fire for one class, or for all alike?

On the Importance of Single Directions for Generalization, Morcos, Barrett, Rabinowitz, Botvinick,
ICLR 2018, section 2.3 (Eq. 1); shown for attention nets by the supplement of Auto Learning
Attention, NeurIPS 2020 (Figure 1).

Legend: N samples, C channels, A classes.
"""

from __future__ import annotations

import numpy as np


class ClassMeans:
    """Mean activity of every channel for every class, summed up batch by batch.

    Args:
        classes: A.
        channels: C.
    """

    def __init__(self, classes, channels):
        self._sums = np.zeros((int(classes), int(channels)))
        self.samples = np.zeros(int(classes))

    def update(self, activity, label, mask=None):
        """Add a batch.

        Args:
            activity: ``(B, C)``, >= 0: the mean of each channel's feature map.
            label: ``(B, A)`` in {0, 1}. A sample with several classes counts for each of them.
            mask: ``(B, A)``; 0 where the label is not known. None: all known.

        Raises:
            ValueError: Shapes do not fit, or an activity is negative or not finite.
        """
        activity, label = np.asarray(activity, np.float64), np.asarray(label, np.float64)
        classes, channels = self._sums.shape
        if activity.shape[1:] != (channels,) or label.shape != (len(activity), classes):
            raise ValueError(
                f"activity {activity.shape} and label {label.shape}: must be (B, {channels}) and "
                f"(B, {classes})"
            )
        if not (np.isfinite(activity).all() and (activity >= 0).all()):
            raise ValueError(
                "activities must be finite and >= 0 (the index is not defined otherwise); take "
                "feature maps behind a ReLU"
            )
        member = (label == 1) & (True if mask is None else np.asarray(mask) != 0)
        self._sums += member.T.astype(np.float64) @ activity
        self.samples += member.sum(axis=0)

    def means(self):
        """Return ``(A', C)``: the mean activities, of the classes with at least one sample."""
        seen = self.samples > 0
        return self._sums[seen] / self.samples[seen, None]


def selectivity_index(means):
    r"""Return the class selectivity index of every channel.

    .. math:: s = \frac{\mu_{max} - \mu_{-max}}{\mu_{max} + \mu_{-max}}

    Here :math:`\mu_{max}` is the highest class-conditional mean activity and :math:`\mu_{-max}` the
    mean of all the other class-conditional mean activities.

    Args:
        means: ``(A, C)``, >= 0, of two or more classes; see :class:`ClassMeans`.

    Returns:
        ``(C,)`` in [0, 1]: 1 for a channel that fires for a single class only, 0 for one that does
        the same for every class, as one does that never fires.

    Raises:
        ValueError: Fewer than two classes, or a mean is negative or not finite.
    """
    means = np.asarray(means, np.float64)
    if means.ndim != 2 or len(means) < 2:
        raise ValueError(f"means {means.shape}: must be (A, C) with samples of two classes or more")
    if not (np.isfinite(means).all() and (means >= 0).all()):
        raise ValueError("means must be finite and >= 0")
    highest = means.max(axis=0)
    others = (means.sum(axis=0) - highest) / (len(means) - 1)
    total = highest + others
    index = np.divide(highest - others, total, out=np.zeros_like(total), where=total > 0)
    return np.clip(index, 0, 1)  # others exceeds highest by rounding where all are equal


def summarize_selectivity(means):
    """Return mean, median and quartiles of the index over channels, as a JSON-able dict.

    Args:
        means: ``(A, C)``, see :func:`selectivity_index`.

    Returns:
        Dict with ``channels``, ``dead`` (channels that never fire; their index is 0), ``mean``,
        ``median``, ``quartiles``.
    """
    index = selectivity_index(means)
    low, median, high = np.percentile(index, (25, 50, 75))
    return {
        "channels": len(index), "dead": int((np.asarray(means).max(axis=0) == 0).sum()),
        "mean": float(index.mean()), "median": float(median),
        "quartiles": [float(low), float(high)],
    }  # fmt: skip
