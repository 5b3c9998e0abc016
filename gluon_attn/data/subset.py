"""Some samples of a data set, for a loader."""

from __future__ import annotations

import numpy as np


class Subset:
    """Samples of a data set at chosen positions, as :class:`gluon_attn.data.Loader` wants them.

    Their numbers in the batches count from 0 in the order of ``positions``.

    Args:
        dataset: AttributeDataset or CachedDataset.
        positions: ``(n,)`` positions in it.
    """

    def __init__(self, dataset, positions):
        self._dataset, self._positions = dataset, np.asarray(positions, dtype=np.int64)
        self.label = dataset.label  # a loader asks for its width only

    def __len__(self):
        return len(self._positions)

    def __getitem__(self, i):
        image, label, mask, _ = self._dataset[int(self._positions[i])]
        return image, label, mask, i
