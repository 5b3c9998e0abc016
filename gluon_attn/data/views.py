"""Views of a data set: some of its samples, some of its attributes, its images kept in memory."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, Collection, Sequence

import numpy as np

from gluon_attn.core.registry import unknown_name
from gluon_attn.core.schema import Schema
from gluon_attn.data.base import AttributeDataset
from gluon_attn.data.images import resize

logger = logging.getLogger(__name__)


class Subset:
    """Samples of a data set at chosen positions, for a loader; their numbers count from 0."""

    def __init__(self, dataset: Any, positions: Sequence[int] | np.ndarray) -> None:
        self._dataset, self._positions = dataset, np.asarray(positions, dtype=np.int64)
        self.label = dataset.label  # a loader asks for its width only

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        image, label, mask, _ = self._dataset[int(self._positions[i])]
        return image, label, mask, i


class ChosenAttributes(AttributeDataset):
    """A data set with only some of its attributes, each with all its columns, in its order."""

    def __init__(self, dataset: AttributeDataset, names: Collection[str]) -> None:
        known = dataset.schema.names
        for name in names:
            if name not in known:
                raise ValueError(unknown_name("attribute", name, known))
        pairs = zip(dataset.schema.attributes, dataset.schema.slices())
        chosen = [(attribute, columns) for attribute, columns in pairs if attribute.name in names]
        schema = Schema(attribute for attribute, _ in chosen)
        raw = dataset.raw  # single-label rows stay unbuilt: nothing to choose from
        if len(chosen) < len(known):
            raw = np.concatenate([raw[:, columns] for _, columns in chosen], axis=1)
        columns = np.arange(len(dataset.names))
        self._columns = np.concatenate([columns[part] for _, part in chosen])
        super().__init__(
            schema.columns,
            dataset.split,
            raw,
            dataset.sample_ids,
            policy=dataset.policy,
            on_bad_image=dataset.on_bad_image,
            schema=schema,
        )
        self._dataset, self.with_regions = dataset, dataset.with_regions

    def regions(self, i: int) -> np.ndarray:
        return self._dataset.regions(i)[self._columns]

    def path(self, i: int) -> Path:
        return self._dataset.path(i)

    def read(self, i: int) -> np.ndarray:
        return self._dataset.read(i)


class CachedDataset:
    """A data set whose images are decoded once and kept, as uint8 squares of side ``size``.

    Memory: ``N * size * size * 3`` bytes, 0.2 MB an image at 256 and 3 KB at 32; logged at the
    start. Results equal those of the data set itself under a transform with the same ``resize``.
    """

    def __init__(self, dataset: AttributeDataset, size: int) -> None:
        self.dataset, self.size, self.label = dataset, int(size), dataset.label
        self._images = np.empty((len(dataset), self.size, self.size, 3), np.uint8)
        self._unread = np.zeros(len(dataset), bool)  # an image that is skipped has mask 0
        self._known = np.zeros(len(dataset), bool)
        self._lock = threading.Lock()
        line = "decoded images of split '%s' will take %.1f MB of memory"
        logger.info(line, dataset.split, self._images.nbytes / 1e6)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        if not self._known[i]:  # two threads may both decode it; they write the same
            image, _, mask, _ = self.dataset[i]
            self._images[i] = resize(image, self.size, self.size)
            self._unread[i] = not mask.any() and self.dataset.mask[i].any()
            with self._lock:
                self._known[i] = True
        mask = self.dataset.mask[i]
        mask = np.zeros_like(mask) if self._unread[i] else mask
        return self._images[i], self.label[i], mask, i
