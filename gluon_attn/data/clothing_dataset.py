"""The clothing dataset: photographs of single garments, with class, kids' flag and sender.

    images.csv                 image,sender_id,label,kids
    images/<image>.jpg

Two attributes: ``class``, one of 14 garments, and the binary ``kids``. Photographs with another
label (the official file has ``Not sure``, ``Other``, ``Skip`` and a few rare garments) are left out
and counted.

**Split** (ours; the authors publish one for ten of the classes only): by sender, since photographs
of one sender look alike. Senders are put in the order of the sha256 of seed and sender; each goes
to the part (60 / 15 / 25 %) that is furthest below its share of photographs.

Reference: Grigorev and 400 contributors, "Clothing dataset (full, high resolution)", 2020, CC0.
"""

from __future__ import annotations

import collections
import hashlib
from pathlib import Path
from typing import Any

from gluon_attn.core.batch import LabelPolicy
from gluon_attn.core.schema import MULTICLASS, Attribute, Schema
from gluon_attn.core.text import read_lines, read_table
from gluon_attn.data.base import DATASETS, AttributeDataset
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts, label_note
from gluon_attn.data.layout import Part, folder_part
from gluon_attn.data.protocol import SPLITS, check_split

CLASSES = (
    "Blazer", "Dress", "Hat", "Hoodie", "Longsleeve", "Outwear", "Pants", "Polo", "Shirt", "Shoes",
    "Shorts", "Skirt", "T-Shirt", "Undershirt",
)  # fmt: skip
SHARES = {"train": 0.60, "val": 0.15, "test": 0.25}
LIST = "images.csv"
FIELDS = ("image", "sender_id", "label", "kids")


@DATASETS.register("clothing_dataset")
class ClothingDataset(AttributeDataset):
    """Photographs of garments: a class of 14, and whether it is for children.

    Args:
        root: Folder that holds ``images.csv`` and ``images/``.
        split: 'train', 'val', 'trainval' or 'test'.
        policy, on_bad_image: See :class:`AttributeDataset`.
        seed: Seed of the split.
        single_label: Whether the class is the only attribute: single-label classification.

    Attributes:
        report: CountReport of this split.
        senders: Sender of every photograph.

    Raises:
        FileNotFoundError: If ``images.csv`` is not there.
        ValueError: If it is malformed; the message names file and line.
    """

    looks_for = "images.csv (image,sender_id,label,kids) beside images/"
    valid = SPLITS

    def __init__(
        self,
        root: Any,
        split: str,
        policy: LabelPolicy | None = None,
        on_bad_image: str = "error",
        *,
        seed: int = 0,
        single_label: bool = False,
    ) -> None:
        check_split(split, "clothing dataset")
        self.root = self.require(root, split).home
        rows, left_out = read_rows(self.root)
        part_of = split_senders(rows, seed)
        parts = ("train", "val") if split == "trainval" else (split,)
        rows = [row for row in rows if part_of[row["sender_id"]] in parts]
        schema = Schema([Attribute("class", MULTICLASS, CLASSES)])
        raw = [[1 if row["label"] == name else -1 for name in CLASSES] for row in rows]
        if not single_label:
            schema = Schema([*schema.attributes, Attribute("kids")])
            raw = [[*labels, 1 if row["kids"] == "True" else -1] for labels, row in zip(raw, rows)]
        ids = [f"images/{row['image']}.jpg" for row in rows]
        self.senders = [row["sender_id"] for row in rows]
        super().__init__(schema.columns, split, raw, ids, policy, on_bad_image, schema)
        expected, source = expected_counts(self.root)
        notes = [f"{split}: {len(set(self.senders)):,} senders"]
        notes += [f"left out: {count:,} {why}" for why, count in sorted(left_out.items())]
        notes += [label_note(self)] if split == "train" else []
        self.report = CountReport([SplitCount(split, len(self))], expected, source, notes)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        return Part(LIST, (LIST,), _is_list), folder_part("images")

    def path(self, i: int) -> Path:
        return self.root / self.sample_ids[i]


def read_rows(root: Path) -> tuple:
    """Return ``(rows, {reason: how many were left out})`` of ``images.csv``.

    Raises:
        ValueError: If a field is missing or a flag is neither True nor False.
    """
    path = root / LIST
    rows, left_out = [], collections.Counter()
    for number, row in read_table(path, FIELDS):
        if row["kids"] not in ("True", "False"):
            raise ValueError(f"{path}:{number}: kids is {row['kids']!r}; valid are True and False")
        if row["label"] not in CLASSES:
            left_out[f"of class '{row['label']}'"] += 1
        else:
            rows.append(row)
    return rows, left_out


def split_senders(rows: list[dict[str, str]], seed: int) -> dict[str, str]:
    """Return the part of every sender; see the module."""
    counts = collections.Counter(row["sender_id"] for row in rows)
    taken = dict.fromkeys(SHARES, 0)
    chosen = {}
    for sender in sorted(counts, key=lambda s: hashlib.sha256(f"{seed}:{s}".encode()).hexdigest()):
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
    return set(FIELDS) <= set(heading.strip().split(","))
