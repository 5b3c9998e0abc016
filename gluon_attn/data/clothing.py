"""Clothing Co-Parsing and the clothing dataset: photographs of clothing, split by us.

**Clothing Co-Parsing** (:class:`ClothingCoParsing`), street photographs with clothing tags::

    label_list.mat                        label_list: 1 x 59 cell of tag names; tag 0 is background
    photos/0001.jpg ...                   2,098 photographs
    annotations/pixel-level/0001.mat      groundtruth: h x w tag numbers (1,004 photographs)
    annotations/image-level/1005.mat      tags: tag numbers (the other 1,094)

Photographs and masks may be reduced in size, a mask to another size than its photograph. The two
halves were tagged by different rules. So an attribute is a tag, or several of one meaning
(``MERGED``), that is positive in at least 2 % of all photographs and whose rates in the two halves
differ by less than a factor of two, but for ``hair``, ``skin`` and ``accessories``. The split is
60 / 15 / 25 % of each half, by the sha256 of seed and number.

**The clothing dataset** (:class:`ClothingDataset`), photographs of single garments::

    images.csv                 image,sender_id,label,kids
    images/<image>.jpg

Two attributes: ``class``, one of 14 garments, and the binary ``kids``. Photographs with another
label are left out and counted. Senders are put in the order of the sha256 of seed and sender; each
goes to the part (60 / 15 / 25 %) that is furthest below its share of photographs.

**The file of the split** is CSV, ``photo,split``. The first use writes the draw of a seed to
``<kind>_seed<seed>.csv`` in the folder, which rules from then on. ``split_file``, or a file
``split.csv`` in the folder, goes before the seed.

References: Yang, Luo, Lin, "Clothing Co-Parsing by Joint Image Segmentation and Labeling", CVPR
2014. Grigorev and 400 contributors, "Clothing dataset (full, high resolution)", 2020, CC0.
"""

from __future__ import annotations

import collections
import functools
import logging
from pathlib import Path
from typing import Dict, FrozenSet

import numpy as np

from gluon_attn.core.schema import MULTICLASS, Attribute, Schema
from gluon_attn.core.text import read_lines, read_table
from gluon_attn.data.base import DATASETS, Reader, Samples
from gluon_attn.data.layout import Found, Part, PathLike, file_part, folder_part
from gluon_attn.data.matfile import load_mat
from gluon_attn.data.protocol import SHARES, SPLITS, in_hash_order, keep_split, parts_of
from gluon_attn.data.published_sizes import SplitCount, split_counts
from gluon_attn.data.scan import files

logger = logging.getLogger(__name__)

# Attributes that are several tags of one meaning.
MERGED = {
    "bag": ("bag", "purse"),
    "knitwear": ("sweater", "jumper", "sweatshirt"),
    "legwear": ("stockings", "tights", "leggings"),
}
ATTRIBUTES = tuple(
    "bag belt blazer cape coat dress gloves hat jeans knitwear legwear loafers pants romper scarf "
    "shirt shorts skirt socks sunglasses tie vest".split()
)
PIXELS, IMAGES = "pixel-level", "image-level"
HALVES = {PIXELS: 1004, IMAGES: 1094}  # photographs; README of the authors' repository
SPLIT_FILE = "split.csv"
Halves = Dict[str, Dict[str, FrozenSet[int]]]  # {half: {photo: its tag numbers}}

CLASSES = tuple(
    "Blazer Dress Hat Hoodie Longsleeve Outwear Pants Polo Shirt Shoes Shorts Skirt T-Shirt "
    "Undershirt".split()
)
LIST = "images.csv"
FIELDS = ("image", "sender_id", "label", "kids")


@DATASETS.register("clothing_co_parsing")
class ClothingCoParsing(Reader):
    """Street photographs of people with 22 clothing attributes, and masks of half of them.

    ``annotation`` is 'all', or 'pixel-level' or 'image-level' for one half only; ``seed`` and
    ``split_file`` are of the split.
    """

    title = "Clothing Co-Parsing"
    looks_for = "label_list.mat beside photos/ and annotations/{pixel-level,image-level}/"
    detection = 160
    valid, settings = SPLITS, ("seed", "split_file")
    published = split_counts("images", **HALVES)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        halves = [folder_part(f"annotations/{kind}") for kind in HALVES]
        return (file_part("label_list.mat"), *halves, folder_part("photos"))

    def samples(
        self,
        found: Found,
        split: str,
        seed: int = 0,
        annotation: str = "all",
        *,
        split_file: PathLike | None = None,
    ) -> Samples:
        if annotation not in ("all", *HALVES):
            raise ValueError(f"annotation={annotation!r}: valid are all, {', '.join(HALVES)}")
        self.tags = read_tags(self.root)
        numbers = [[self.tags.index(tag) for tag in MERGED.get(n, (n,))] for n in ATTRIBUTES]
        self.columns = [frozenset(wanted) for wanted in numbers]  # of each attribute
        halves = _read_halves(str(self.root.resolve()))
        self.split_file = _split_file(self.root, "clothing_co_parsing", seed, split_file)
        chosen, note = _chosen(self.split_file, _by_hash(halves, seed), seed)
        parts = parts_of(split)
        rows = {
            photo: halves[kind][photo]
            for kind in (HALVES if annotation == "all" else (annotation,))
            for photo in sorted(halves[kind])
            if chosen[photo] in parts
        }
        self.with_regions = [k for k, photo in enumerate(rows) if photo in halves[PIXELS]]
        notes = [f"{split}: {len(self.with_regions):,} of {len(rows):,} photographs have masks"]
        notes.append(note)
        counts = [SplitCount(split, len(rows)), *(SplitCount(k, len(halves[k])) for k in HALVES)]
        raw = [[1 if tags & wanted else -1 for wanted in self.columns] for tags in rows.values()]
        ids = [f"photos/{photo}.jpg" for photo in rows]
        return Samples(Schema.binary(ATTRIBUTES), raw, ids, notes=notes, counts=counts)

    def regions(self, i: int) -> np.ndarray:
        """Return the masks at the size of their file; ValueError if that is malformed."""
        if i not in self.with_regions:
            return super().regions(i)
        path = self.root / "annotations" / PIXELS / f"{Path(self.sample_ids[i]).stem}.mat"
        truth = load_mat(path, "groundtruth").matrix()
        return np.stack([np.isin(truth, list(wanted)) for wanted in self.columns])


def read_tags(root: Path) -> list[str]:
    """Return the tag names of ``label_list.mat``; ValueError if one of an attribute lacks."""
    path = root / "label_list.mat"
    tags = load_mat(path, "label_list").strings()
    wanted = {tag for name in ATTRIBUTES for tag in MERGED.get(name, (name,))}
    lacking = sorted(wanted - set(tags))
    if lacking:
        raise ValueError(f"{path}: tag {', '.join(lacking)} is missing; has {', '.join(tags)}")
    return tags


def _split_file(home: Path, kind: str, seed: int, given: PathLike | None) -> Path:
    """Return the file that says which split a photograph is in; perhaps it is not written yet."""
    if given or (home / SPLIT_FILE).is_file():
        return Path(given or home / SPLIT_FILE)
    return home / f"{kind}_seed{seed}.csv"


def _chosen(path: Path, by_seed: dict[str, str], seed: int) -> tuple[dict[str, str], str]:
    """Return ``{photo: split}``, as a file says or by the seed and written, and a line about it."""
    if not path.is_file():
        text = "".join(f"{photo},{part}\n" for photo, part in sorted(by_seed.items()))
        kept = keep_split(path, f"photo,split\n{text}", f"split, seed {seed},")
        return by_seed, f"split: {path if kept else f'chosen with seed {seed}, not kept in a file'}"
    found: dict[str, str] = {}
    for number, row in read_table(path, ("photo", "split")):
        if row["split"] not in SHARES:
            valid = ", ".join(SHARES)
            raise ValueError(f"{path}:{number}: split {row['split']!r}; valid are {valid}")
        if found.setdefault(row["photo"], row["split"]) != row["split"]:
            raise ValueError(f"{path}:{number}: {row['photo']} is in two splits")
    lacking = sorted(set(by_seed) - set(found))
    if lacking:
        told = f"{path}: no line for {lacking[0]} ({len(lacking):,} photographs missing)"
        raise ValueError(f"{told}; add them, or take the file away: then the seed chooses")
    note = f"split: {path}"
    if any(found[photo] != part for photo, part in by_seed.items()):
        note += f"; it goes before seed {seed}"
        if seed:  # it was asked for
            logger.warning("%s", note)
    return found, note


def _by_hash(halves: Halves, seed: int) -> dict[str, str]:
    edges, names = np.cumsum(list(SHARES.values())), list(SHARES)
    chosen = {}
    for half in halves.values():
        for k, photo in enumerate(in_hash_order(half, seed)):
            part = int(np.searchsorted(edges, k / len(half), side="right"))
            chosen[photo] = names[min(part, len(names) - 1)]
    return chosen


@functools.lru_cache(maxsize=4)
def _read_halves(root: str) -> Halves:
    """Return the tags of all photographs; 2,098 small files, so only once a process."""
    found: Halves = {}
    for kind, field in ((PIXELS, "groundtruth"), (IMAGES, "tags")):
        paths = files(Path(root) / "annotations" / kind, ".mat")
        tags = {path.stem: np.unique(load_mat(path, field).matrix()) for path in paths}
        found[kind] = {photo: frozenset(numbers.tolist()) for photo, numbers in tags.items()}
    both = sorted(set(found[PIXELS]) & set(found[IMAGES]))
    if both:
        raise ValueError(f"{root}: {both[0]} has both a pixel-level and an image-level file")
    return found


@DATASETS.register("clothing_dataset")
class ClothingDataset(Reader):
    """Photographs of garments: a class of 14, and whether it is for children.

    ``seed`` and ``split_file`` are of the split; with ``single_label`` the class is the only
    attribute.
    """

    title = "clothing dataset"
    looks_for = "images.csv (image,sender_id,label,kids) beside images/"
    detection = 170
    valid, settings = SPLITS, ("seed", "split_file")

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        return Part(LIST, (LIST,), _is_list), folder_part("images")

    def samples(
        self,
        found: Found,
        split: str,
        seed: int = 0,
        single_label: bool = False,
        *,
        split_file: PathLike | None = None,
    ) -> Samples:
        rows, left_out = read_rows(self.root / LIST)
        part_of = split_senders(rows, seed)
        by_seed = {row["image"]: part_of[row["sender_id"]] for row in rows}
        self.split_file = _split_file(self.root, "clothing_dataset", seed, split_file)
        chosen, note = _chosen(self.split_file, by_seed, seed)
        parts = parts_of(split)
        rows = [row for row in rows if chosen[row["image"]] in parts]
        attributes = [Attribute("class", MULTICLASS, CLASSES)]
        raw = [[1 if row["label"] == name else -1 for name in CLASSES] for row in rows]
        if not single_label:
            attributes.append(Attribute("kids"))
            raw = [[*labels, 1 if row["kids"] == "True" else -1] for labels, row in zip(raw, rows)]
        self.senders = [row["sender_id"] for row in rows]
        notes = [f"{split}: {len(set(self.senders)):,} senders", note]
        notes += [f"left out: {count:,} {why}" for why, count in sorted(left_out.items())]
        ids = [f"images/{row['image']}.jpg" for row in rows]
        return Samples(Schema(attributes), raw, ids, notes=notes)


def read_rows(path: Path) -> tuple[list[dict[str, str]], dict[str, int]]:
    """Return ``(rows, {reason: how many were left out})`` of ``images.csv``."""
    rows: list[dict[str, str]] = []
    left_out: collections.Counter[str] = collections.Counter()
    seen: dict[str, int] = {}
    for number, row in read_table(path, FIELDS):
        line = seen.setdefault(row["image"], number)
        if line != number:
            raise ValueError(f"{path}:{number}: '{row['image']}' is in line {line} already")
        if row["kids"] not in ("True", "False"):
            raise ValueError(f"{path}:{number}: kids is {row['kids']!r}; valid are True and False")
        if row["label"] not in CLASSES:
            left_out[f"of class '{row['label']}'"] += 1
        else:
            rows.append(row)
    if left_out and not rows:
        found = ", ".join(f"{count:,} {why}" for why, count in left_out.most_common(5))
        raise ValueError(f"{path}: no row is of {', '.join(CLASSES)}; there are {found}")
    return rows, left_out


def split_senders(rows: list[dict[str, str]], seed: int) -> dict[str, str]:
    """Return the part of every sender; see the module."""
    counts = collections.Counter(row["sender_id"] for row in rows)
    taken, chosen = dict.fromkeys(SHARES, 0), {}
    for sender in in_hash_order(counts, seed):
        part = min(SHARES, key=lambda name: (taken[name] + counts[sender]) / SHARES[name])
        chosen[sender] = part
        taken[part] += counts[sender]
    return chosen


def _is_list(path: Path) -> bool:
    """Return whether a file has the heading of this data set; others are called images.csv, too."""
    if not path.is_file():
        return False
    try:
        heading = read_lines(path)[0][1]
    except (OSError, ValueError, IndexError):
        return True  # what is wrong with it is said where it is read
    return set(FIELDS) <= {name.strip(' "') for name in heading.split(",")}
