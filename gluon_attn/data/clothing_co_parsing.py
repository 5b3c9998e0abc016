"""Clothing Co-Parsing from its official files: street photographs with clothing tags.

    label_list.mat                        label_list: 1 x 59 cell of tag names; tag 0 is background
    photos/0001.jpg ...                   2,098 photographs
    annotations/pixel-level/0001.mat      groundtruth: h x w tag numbers (1,004 photographs)
    annotations/image-level/1005.mat      tags: tag numbers (the other 1,094)

Photographs and masks may be reduced in size, a mask to another size than its photograph.

**Protocol** (ours: the authors publish none for attributes). The two halves were tagged by
different rules: heels are 19 times in one and 213 times in the other. So an attribute is a tag, or
several of one meaning (``MERGED``), that is positive in at least 2 % of all photographs and whose
rates in the two halves differ by less than a factor of two; ``hair`` and ``skin``, which are nearly
always there, and the catch-all ``accessories`` are left out. That leaves the 22 of ``ATTRIBUTES``.
The split is 60 / 15 / 25 % of each half, by the sha256 of seed and number, so that every part has
its share of masks; a file ``split.csv`` (``photo,split``) in the folder goes before it.

Reference: Yang, Luo, Lin, "Clothing Co-Parsing by Joint Image Segmentation and Labeling", CVPR
2014.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from gluon_attn.core.batch import LabelPolicy
from gluon_attn.core.text import read_table
from gluon_attn.data.base import DATASETS, AttributeDataset
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts, label_note
from gluon_attn.data.layout import Part, file_part, folder_part
from gluon_attn.data.matfile import load_mat
from gluon_attn.data.protocol import SPLITS, check_split
from gluon_attn.data.scan import files

# Attributes that are several tags of one meaning.
MERGED = {
    "bag": ("bag", "purse"),
    "knitwear": ("sweater", "jumper", "sweatshirt"),
    "legwear": ("stockings", "tights", "leggings"),
}
ATTRIBUTES = (
    "bag", "belt", "blazer", "cape", "coat", "dress", "gloves", "hat", "jeans", "knitwear",
    "legwear", "loafers", "pants", "romper", "scarf", "shirt", "shorts", "skirt", "socks",
    "sunglasses", "tie", "vest",
)  # fmt: skip
PIXELS, IMAGES = "pixel-level", "image-level"
PUBLISHED = {"pixel-level": 1004, "image-level": 1094}  # README of the authors' repository
SHARES = {"train": 0.60, "val": 0.15, "test": 0.25}
SPLIT_FILE = "split.csv"


@DATASETS.register("clothing_co_parsing")
class ClothingCoParsing(AttributeDataset):
    """Street photographs of people with 22 clothing attributes, and masks of half of them.

    Args:
        root: Folder that holds ``photos/``, ``annotations/`` and ``label_list.mat``.
        split: 'train', 'val', 'trainval' or 'test'.
        policy, on_bad_image: See :class:`AttributeDataset`.
        seed: Seed of the split; not used where ``split.csv`` is in the folder.
        annotation: 'all', or 'pixel-level' or 'image-level' for one half only.

    Attributes:
        report: CountReport of this split.

    Raises:
        FileNotFoundError: If a file or a folder is not there.
        ValueError: If one is malformed; the message names it.
    """

    looks_for = "label_list.mat beside photos/ and annotations/{pixel-level,image-level}/"
    valid = SPLITS

    def __init__(
        self,
        root: Any,
        split: str,
        policy: LabelPolicy | None = None,
        on_bad_image: str = "error",
        *,
        seed: int = 0,
        annotation: str = "all",
    ) -> None:
        check_split(split, "Clothing Co-Parsing")
        if annotation not in ("all", PIXELS, IMAGES):
            raise ValueError(f"annotation={annotation!r}: valid are all, {PIXELS} and {IMAGES}")
        self.root = self.require(root, split).home
        self.tags = read_tags(self.root)
        halves = _read_halves(str(self.root.resolve()))
        self.columns = columns_of(self.tags)
        chosen = _chosen(self.root, halves, seed)
        parts = ("train", "val") if split == "trainval" else (split,)
        kinds = (PIXELS, IMAGES) if annotation == "all" else (annotation,)
        rows = {
            photo: halves[kind][photo]
            for kind in kinds for photo in sorted(halves[kind]) if chosen[photo] in parts
        }  # fmt: skip
        raw = [[1 if found & wanted else -1 for wanted in self.columns] for found in rows.values()]
        ids = [f"photos/{photo}.jpg" for photo in rows]
        super().__init__(ATTRIBUTES, split, raw, ids, policy, on_bad_image)
        self._masks = {k for k, photo in enumerate(rows) if photo in halves[PIXELS]}
        expected, source = expected_counts(self.root)
        notes = [f"{split}: {len(self._masks):,} of {len(self):,} photographs have masks"]
        notes += [
            f"{kind}: {len(halves[kind]):,} files, published {count:,}"
            for kind, count in PUBLISHED.items() if len(halves[kind]) != count
        ]  # fmt: skip
        notes += [label_note(self)] if split == "train" else []
        self.report = CountReport([SplitCount(split, len(self))], expected, source, notes)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        halves = [folder_part(f"annotations/{kind}") for kind in (PIXELS, IMAGES)]
        return (file_part("label_list.mat"), *halves, folder_part("photos"))

    def path(self, i: int) -> Path:
        return self.root / self.sample_ids[i]

    def regions(self, i: int) -> np.ndarray | None:
        """Return where the attributes are in photograph ``i``, or None if it has no mask.

        Returns:
            ``(A, h, w)`` bool, at the size of the mask file.

        Raises:
            ValueError: The mask file is malformed; the message names it.
        """
        if i not in self._masks:
            return None
        photo = Path(self.sample_ids[i]).stem
        truth = _mask(self.root / "annotations" / PIXELS / f"{photo}.mat")
        return np.stack([np.isin(truth, list(wanted)) for wanted in self.columns])


def read_tags(root: Path) -> list[str]:
    """Return the tag names of ``label_list.mat``.

    Raises:
        ValueError: If it is malformed, or lacks a tag of an attribute.
    """
    path = root / "label_list.mat"
    tags = load_mat(path, "label_list").strings()
    wanted = {tag for name in ATTRIBUTES for tag in MERGED.get(name, (name,))}
    lacking = sorted(wanted - set(tags))
    if lacking:
        raise ValueError(f"{path}: tag {', '.join(lacking)} is missing; has {', '.join(tags)}")
    return tags


def columns_of(tags: list[str]) -> list[frozenset]:
    """Return the tag numbers that each attribute stands for, in the order of ``ATTRIBUTES``."""
    return [frozenset(tags.index(tag) for tag in MERGED.get(name, (name,))) for name in ATTRIBUTES]


def write_split(root: Any, seed: int, path: Any) -> int:
    """Write the split of a folder as ``photo,split`` lines; return how many photographs it has.

    Raises:
        FileNotFoundError, ValueError: See :class:`ClothingCoParsing`.
        OSError: The file could not be written.
    """
    from gluon_attn.core.files import write_text

    chosen = _by_hash(_read_halves(str(Path(root).resolve())), seed)
    lines = ["photo,split"] + [f"{photo},{part}" for photo, part in sorted(chosen.items())]
    write_text(path, "\n".join(lines) + "\n")
    return len(chosen)


def _chosen(root: Path, halves: dict[str, dict], seed: int) -> dict[str, str]:
    """Return ``{photo: split}`` from ``split.csv`` or, where there is none, from the seed."""
    path = root / SPLIT_FILE
    if not path.is_file():
        return _by_hash(halves, seed)
    found = {}
    for number, row in read_table(path, ("photo", "split")):
        if row["split"] not in SHARES:
            valid = ", ".join(SHARES)
            raise ValueError(f"{path}:{number}: split {row['split']!r}; valid are {valid}")
        found[row["photo"]] = row["split"]
    lacking = sorted(photo for half in halves.values() for photo in half if photo not in found)
    if lacking:
        raise ValueError(f"{path}: no line for {lacking[0]} ({len(lacking):,} photographs missing)")
    return found


def _by_hash(halves: dict[str, dict], seed: int) -> dict[str, str]:
    chosen = {}
    for half in halves.values():
        order = sorted(half, key=lambda photo: _hash(photo, seed))
        chosen.update((photo, _part(k / len(order))) for k, photo in enumerate(order))
    return chosen


def _hash(photo: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{photo}".encode()).hexdigest()


def _part(share: float) -> str:
    edges = np.cumsum(list(SHARES.values()))
    return list(SHARES)[min(int(np.searchsorted(edges, share, side="right")), len(SHARES) - 1)]


@functools.lru_cache(maxsize=4)
def _read_halves(root: str) -> dict[str, dict[str, frozenset]]:
    """Return ``{half: {photo: its tag numbers}}``; 2,098 small files, so only once a process."""
    found: dict[str, dict[str, frozenset]] = {}
    for kind, field in ((PIXELS, "groundtruth"), (IMAGES, "tags")):
        folder = Path(root) / "annotations" / kind
        found[kind] = {
            path.stem: frozenset(np.unique(load_mat(path, field).matrix()).tolist())
            for path in files(folder, ".mat")
        }  # fmt: skip
    both = sorted(set(found[PIXELS]) & set(found[IMAGES]))
    if both:
        raise ValueError(f"{root}: {both[0]} has both a pixel-level and an image-level file")
    return found


def _mask(path: Path) -> np.ndarray:
    return load_mat(path, "groundtruth").matrix()
