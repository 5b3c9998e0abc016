"""Views of a data set: some of its samples or attributes, other labels, images kept in memory."""

from __future__ import annotations

import hashlib
import logging
import numbers
import threading
from pathlib import Path
from typing import Any, Collection, Mapping, Sequence

import numpy as np

from gluon_attn.core.registry import unknown_name
from gluon_attn.core.schema import MULTICLASS, Schema
from gluon_attn.data.base import TRAINING_SPLITS, AttributeDataset, OneHot
from gluon_attn.data.images import resize
from gluon_attn.data.protocol import in_hash_order

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


class Altered(AttributeDataset):
    """Samples of a data set at chosen positions, with raw labels ``(n, A)`` of one's own."""

    def __init__(self, dataset: AttributeDataset, positions: Sequence[int], raw: Any) -> None:
        super().__init__(
            dataset.names,
            dataset.split,
            raw,
            [dataset.sample_ids[i] for i in positions],
            policy=dataset.policy,
            on_bad_image=dataset.on_bad_image,
            schema=dataset.schema,
        )
        self._dataset, self._positions = dataset, positions
        known = set(dataset.with_regions)
        self.with_regions = [n for n, i in enumerate(positions) if i in known]

    def regions(self, i: int) -> np.ndarray:
        return self._dataset.regions(self._positions[i])

    def path(self, i: int) -> Path:
        return self._dataset.path(self._positions[i])

    def read(self, i: int) -> np.ndarray:
        return self._dataset.read(self._positions[i])


def altered(
    dataset: AttributeDataset,
    images_per_class: int = 0,
    label_noise: Mapping[str, float] | None = None,
    seed: int = 0,
) -> AttributeDataset:
    """Return a data set with fewer training images, and with wrong labels, for experiments.

    The test split is never altered. What is chosen depends on the seed, the sample ids and the
    attributes alone, not on their order; more images contain the fewer, and more noise the less.

    Args:
        images_per_class: So many training images of every class are kept, and none without a
            class, 0: all; for single-label data.
        label_noise: ``{attribute: share of its labels that are wrong}`` in training and validation:
            a binary label changes its sign, a class becomes another one. Unspecified ones stay.

    Raises:
        ValueError: An unknown attribute, a share outside 0 to 1, another kind of value, or several
            attributes where images are counted by class.
    """
    if not isinstance(label_noise or {}, Mapping):
        example = "give a share by attribute, such as \"{'hat': 0.2}\""
        raise ValueError(f"label_noise={label_noise!r}: {example}")
    whole = isinstance(images_per_class, numbers.Integral)
    if not whole or isinstance(images_per_class, bool) or images_per_class < 0:
        raise ValueError(f"images_per_class={images_per_class!r}: give a whole number; 0: all")
    noise, schema = dict(label_noise or {}), dataset.schema
    for name, share in noise.items():
        if name not in schema.names:
            raise ValueError(f"label_noise: {unknown_name('attribute', name, schema.names)}")
        if not isinstance(share, numbers.Real) or not 0 <= share <= 1:
            raise ValueError(f"label_noise: {name} {share}: must lie between 0 and 1")
    if images_per_class and (len(schema) > 1 or schema.attributes[0].kind != MULTICLASS):
        raise ValueError(
            f"images_per_class={images_per_class}: the data have {len(schema)} attributes "
            f"({', '.join(schema.names)}), not one class (data_options.single_label=true?)"
        )
    raw, positions = dataset.raw, np.arange(len(dataset))
    if images_per_class and dataset.split in TRAINING_SPLITS:
        positions = _few(dataset, images_per_class, seed)
        raw = OneHot(raw.targets[positions], len(raw[0])) if _unbuilt(raw) else raw[positions]
    if any(noise.values()) and dataset.split != "test":
        ids = [dataset.sample_ids[i] for i in positions]
        raw = _flipped(np.array(raw[:]), schema, ids, noise, seed=seed)
    return dataset if raw is dataset.raw else Altered(dataset, positions.tolist(), raw)


def _unbuilt(raw: Any) -> bool:
    return isinstance(raw, OneHot)


def _few(dataset: AttributeDataset, count: int, seed: int) -> np.ndarray:
    """Return the positions of so many samples of every class, ascending; none without a class."""
    raw = dataset.raw
    known = None if _unbuilt(raw) else (raw == 1).any(axis=1)
    targets = raw.targets if known is None else np.where(known, raw.argmax(axis=1), -1)
    place = {name: i for i, name in enumerate(dataset.sample_ids)}
    kept: list[int] = []
    for k in np.unique(targets[targets >= 0]):
        members = [dataset.sample_ids[i] for i in np.flatnonzero(targets == k)]
        kept += [place[name] for name in in_hash_order(members, seed)[:count]]
    return np.sort(kept)


def _flipped(
    raw: np.ndarray, schema: Schema, ids: Sequence[str], noise: Mapping[str, float], *, seed: int
) -> np.ndarray:
    for attribute, part in zip(schema.attributes, schema.slices()):
        share = noise.get(attribute.name, 0.0)
        for row, name in enumerate(ids if share else ()):
            digest = hashlib.sha256(f"{seed}:{attribute.name}:{name}".encode()).digest()
            chance, step = (int.from_bytes(digest[k : k + 4], "big") / 2**32 for k in (0, 4))
            if chance >= share:
                continue
            columns = raw[row, part]
            if attribute.kind != MULTICLASS:
                raw[row, part] = -columns
            elif (columns == 1).sum() == 1:  # to one of the others, all equally likely
                raw[row, part] = np.roll(columns, 1 + int(step * (len(columns) - 1)))
    return raw


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
