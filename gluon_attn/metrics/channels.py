"""What single channels do: class selectivity, and how much channel attention differs.

Class selectivity: On the Importance of Single Directions for Generalization, Morcos, Barrett,
Rabinowitz, Botvinick, ICLR 2018, section 2.3 (Eq. 1); shown for attention nets by the supplement of
Auto Learning Attention, NeurIPS 2020 (Figure 1).

Diversity: the supplement of Deep Reinforced Attention Learning (Li and Chen, ECCV 2020) compares
distributions of channel-attention vectors by eye (Figure 1) and calls those of its last stage "more
diverse across different channels". The numbers here are this package's own way to put that.

Legend: N samples, C channels, A classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gluon_attn.metrics.checks import Array, Arrays


class ClassMeans:
    """Mean activity of each of C channels for each of A classes, summed up batch by batch."""

    def __init__(self, classes: int, channels: int) -> None:
        self._sums = np.zeros((int(classes), int(channels)))
        self.samples = np.zeros(int(classes))

    def update(self, activity: Arrays, label: Arrays, mask: Arrays = None) -> None:
        """Add a batch of activities ``(B, C)``, >= 0: the mean of each channel's feature map.

        ``label`` and ``mask`` are ``(B, A)`` in {0, 1}, a mask of None means that all is known. A
        sample with several classes counts for each of them.
        """
        activity, label = np.asarray(activity, np.float64), np.asarray(label, np.float64)
        classes, channels = self._sums.shape
        if activity.shape[1:] != (channels,) or label.shape != (len(activity), classes):
            raise ValueError(
                f"activity {activity.shape} and label {label.shape}: must be (B, {channels}) and "
                f"(B, {classes})"
            )
        if not _is_activity(activity):
            raise ValueError(
                "activities must be finite and >= 0 (the index is not defined otherwise); take "
                "feature maps behind a ReLU"
            )
        member = (label == 1) & (True if mask is None else np.asarray(mask) != 0)
        self._sums += member.T.astype(np.float64) @ activity
        self.samples += member.sum(axis=0)

    def means(self) -> Array:
        """Return ``(A', C)``: the mean activities, of the classes with at least one sample."""
        seen = self.samples > 0
        return self._sums[seen] / self.samples[seen, None]


def selectivity_index(means: Arrays) -> Array:
    r"""Return the class selectivity index of every channel, ``(C,)`` in [0, 1].

    .. math:: s = \frac{\mu_{max} - \mu_{-max}}{\mu_{max} + \mu_{-max}}

    Here :math:`\mu_{max}` is the highest class-conditional mean activity and :math:`\mu_{-max}` the
    mean of all the other class-conditional mean activities. It is 1 for a channel that fires for a
    single class only, 0 for one that does the same for every class, as one does that never fires.
    ``means`` are ``(A, C)``, >= 0, of two or more classes; see :class:`ClassMeans`.
    """
    means = np.asarray(means, np.float64)
    if means.ndim != 2 or len(means) < 2:
        raise ValueError(f"means {means.shape}: must be (A, C) with samples of two classes or more")
    if not _is_activity(means):
        raise ValueError("means must be finite and >= 0")
    highest = means.max(axis=0)
    others = (means.sum(axis=0) - highest) / (len(means) - 1)
    total = highest + others
    index = np.divide(highest - others, total, out=np.zeros_like(total), where=total > 0)
    # others exceeds highest by rounding where all are equal
    return np.asarray(np.clip(index, 0, 1))


def summarize_selectivity(means: Arrays) -> dict[str, Any]:
    """Return ``channels``, ``dead`` (those that never fire; their index is 0), ``mean``, ``median``
    and ``quartiles`` of the index over channels, as a JSON-able dict.
    """
    index = selectivity_index(means)
    low, median, high = np.percentile(index, (25, 50, 75))
    return {
        "channels": len(index), "dead": int((np.asarray(means).max(axis=0) == 0).sum()),
        "mean": float(index.mean()), "median": float(median),
        "quartiles": [float(low), float(high)],
    }  # fmt: skip


class ChannelStatistics:
    """Statistics of the attention vectors of one gate of C channels, summed up batch by batch."""

    def __init__(self, channels: int) -> None:
        self.images = 0
        self._sum, self._squares = np.zeros(channels), np.zeros(channels)
        self._spread = 0.0

    def update(self, attention: Arrays) -> None:
        """Add a batch ``(B, C)`` or ``(B, C, 1, 1)``; ValueError for another shape."""
        attention = np.asarray(attention, np.float64)
        flat = attention.reshape(len(attention), -1)
        if flat.shape[1] != len(self._sum) or attention.shape[1] != len(self._sum):
            raise ValueError(f"attention {attention.shape}: must be (B, {len(self._sum)}[, 1, 1])")
        self.images += len(flat)
        self._sum += flat.sum(axis=0)
        self._squares += np.square(flat).sum(axis=0)
        self._spread += flat.std(axis=1).sum()

    @property
    def mean(self) -> Array:
        """Mean attention of every channel over the images, ``(C,)``."""
        return self._sum / max(self.images, 1)

    @property
    def deviation(self) -> Array:
        """Standard deviation of every channel's attention over the images, ``(C,)``."""
        variance = self._squares / max(self.images, 1) - self.mean**2
        return np.asarray(np.sqrt(np.maximum(variance, 0)))

    def summary(self) -> dict[str, Any]:
        """Return a JSON-able dict.

        ``channels``; ``mean`` attention; ``diversity``: the standard deviation over the channels of
        an image's attention vector, mean over images; ``image_deviation``: the standard deviation
        over images, mean over channels.
        """
        return {
            "channels": len(self._sum), "mean": float(self.mean.mean()),
            "diversity": self._spread / max(self.images, 1),
            "image_deviation": float(self.deviation.mean()),
        }  # fmt: skip


def _is_activity(values: Array) -> bool:
    return bool(np.isfinite(values).all() and (values >= 0).all())
