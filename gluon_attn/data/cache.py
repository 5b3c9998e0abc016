"""Keeping a small data set's decoded pictures in memory."""

from __future__ import annotations

import logging
import threading

import numpy as np

from gluon_attn.data.images import resize

logger = logging.getLogger(__name__)


class CachedDataset:
    """A data set whose pictures are decoded once and kept, resized, as uint8.

    Memory: ``N * size * size * 3`` bytes, 0.2 MB a picture at 256 and 3 KB at 32; logged at the
    start. Results equal those of the data set itself under a transform with the same ``resize``.

    Args:
        dataset: AttributeDataset.
        size: Side of the squares that are kept: the transform's ``resize``.
    """

    def __init__(self, dataset, size):
        self.dataset, self.size, self.label = dataset, int(size), dataset.label
        self._images = np.empty((len(dataset), self.size, self.size, 3), np.uint8)
        self._unread = np.zeros(len(dataset), bool)  # a picture that is skipped has mask 0
        self._known = np.zeros(len(dataset), bool)
        self._lock = threading.Lock()
        logger.info(
            "decoded pictures of split '%s' will take %.1f MB of memory",
            dataset.split,
            self._images.nbytes / 1e6,
        )

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, i):
        if not self._known[i]:  # two threads may both decode it; they write the same
            image, _, mask, _ = self.dataset[i]
            self._images[i] = resize(image, self.size, self.size)
            self._unread[i] = not mask.any() and self.dataset.mask[i].any()
            with self._lock:
                self._known[i] = True
        mask = self.dataset.mask[i]
        mask = np.zeros_like(mask) if self._unread[i] else mask
        return self._images[i], self.label[i], mask, i
