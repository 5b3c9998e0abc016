"""How much channel attention differs between channels and between images.

The supplement of Deep Reinforced Attention Learning (Li and Chen, ECCV 2020) compares distributions
of channel-attention vectors by eye (Figure 1) and calls those of its last stage "more diverse
across different channels". The numbers here are this package's own way to put that.

Legend: N images, C channels.
"""

from __future__ import annotations

import numpy as np


class ChannelStatistics:
    """Statistics of the attention vectors of one channel gate, summed up batch by batch.

    Args:
        channels: C.
    """

    def __init__(self, channels):
        self.images = 0
        self._sum, self._squares = np.zeros(channels), np.zeros(channels)
        self._spread = 0.0

    def update(self, attention):
        """Add a batch.

        Args:
            attention: ``(B, C)`` or ``(B, C, 1, 1)``.

        Raises:
            ValueError: Wrong shape.
        """
        attention = np.asarray(attention, np.float64)
        flat = attention.reshape(len(attention), -1)
        if flat.shape[1] != len(self._sum) or attention.shape[1] != len(self._sum):
            raise ValueError(f"attention {attention.shape}: must be (B, {len(self._sum)}[, 1, 1])")
        self.images += len(flat)
        self._sum += flat.sum(axis=0)
        self._squares += np.square(flat).sum(axis=0)
        self._spread += flat.std(axis=1).sum()

    @property
    def mean(self):
        """Mean attention of every channel over the images, ``(C,)``."""
        return self._sum / max(self.images, 1)

    @property
    def deviation(self):
        """Standard deviation of every channel's attention over the images, ``(C,)``."""
        return np.sqrt(np.maximum(self._squares / max(self.images, 1) - self.mean**2, 0))

    def summary(self):
        """Return a JSON-able dict.

        Returns:
            ``channels``; ``mean`` attention; ``diversity``: the standard deviation over the
            channels of an image's attention vector, mean over images; ``image_deviation``: the
            standard deviation over images, mean over channels.
        """
        return {
            "channels": len(self._sum), "mean": float(self.mean.mean()),
            "diversity": self._spread / max(self.images, 1),
            "image_deviation": float(self.deviation.mean()),
        }  # fmt: skip
