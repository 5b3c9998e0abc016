"""PASCAL VOC 2012 as a multi-label data set, from the official image sets.

    ImageSets/Main/<class>_{train,val,trainval}.txt    ``2008_000008  1``: 1 shown, -1 not shown,
                                                       0 shown, but difficult (small, hidden)
    JPEGImages/2008_000008.jpg

in ``root``, ``root/VOC2012`` or ``root/VOCdevkit/VOC2012``. Every class lists every picture of the
split. The test labels are not public; the ``val`` part serves as test set in most papers.

A difficult object is left out by default (raw label 0, as VOC's own evaluation does it), and can be
read as 'negative' or 'positive', as some toolkits do. Say which when you publish a number.

Reference: Everingham, Van Gool, Williams, Winn, Zisserman, "The PASCAL Visual Object Classes (VOC)
Challenge", IJCV 2010.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gluon_attn.batch import LabelPolicy
from gluon_attn.data.base import DATASETS, AttributeDataset
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts, label_note
from gluon_attn.data.layout import Part, file_part, folder_part
from gluon_attn.data.protocol import check_split
from gluon_attn.data.scan import ImageFolder
from gluon_attn.registry import unknown_name
from gluon_attn.text import read_lines

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
PUBLISHED = {
    "train": {"images": 5717},
    "val": {"images": 5823},
    "trainval": {"images": 11540},
}
SPLITS = ("train", "val", "trainval", "test")
PLACES = (".", "VOC2012", "VOCdevkit/VOC2012")
DIFFICULT = {"masked": 0, "negative": -1, "positive": 1}


@DATASETS.register("voc")
class Voc(AttributeDataset):
    """Pictures of VOC 2012, 20 classes of objects.

    Args:
        root: Folder that holds ``ImageSets/`` and ``JPEGImages/``, or the development kit.
        split: 'train', 'val', 'trainval', or 'test' if the folder has its lists.
        policy: LabelPolicy; None means that difficult labels are masked in training too.
        on_bad_image: See :class:`AttributeDataset`.
        difficult: 'masked', 'negative' or 'positive': what the label 0 of the lists becomes.

    Attributes:
        report: CountReport of this split.

    Raises:
        FileNotFoundError: If a list is not there.
        ValueError: If one is malformed; the message names file and line.
    """

    looks_for = (
        "ImageSets/Main/aeroplane_train.txt beside JPEGImages/, in the folder itself, VOC2012/ or "
        "VOCdevkit/VOC2012/"
    )
    valid, optional = SPLITS, ("test",)

    def __init__(self, root, split, policy=None, on_bad_image="error", difficult="masked"):
        check_split(split, "VOC", SPLITS)
        if difficult not in DIFFICULT:
            raise ValueError(unknown_name("treatment of difficult objects", difficult, DIFFICULT))
        found = self.locate(root, split)
        if _lists(split).name not in found.paths:
            raise FileNotFoundError(f"{root}: no lists of '{split}'; looked for {self.looks_for}")
        self.root = found.path(_lists(split)).parents[2]
        lists = {name: _read_list(_list_path(self.root, name, split)) for name in CLASSES}
        ids = _common_ids(lists, self.root, split)
        raw = np.array([[rows[i] for i in ids] for rows in lists.values()], np.int8).T
        self.difficult = (raw == 0).sum(0)
        raw = np.where(raw == 0, DIFFICULT[difficult], raw)
        policy = LabelPolicy(train="masked") if policy is None else policy
        super().__init__(CLASSES, split, raw, ids, policy, on_bad_image)
        self.images = ImageFolder(self.root / "JPEGImages", f"{ids[0]}.jpg")
        published = None if self.root.resolve().name == "VOC2007" else PUBLISHED
        expected, source = expected_counts(found.home, published)
        notes = [label_note(self)] if split == "train" else []
        notes += [f"{split}: {self.difficult.sum():,} difficult labels, read as {difficult}"]
        self.report = CountReport([SplitCount(split, len(self))], expected, source, notes)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        folders = (f"{place}/JPEGImages" for place in PLACES)
        return _lists(split), folder_part("JPEGImages", *folders, images=True)

    def path(self, i):
        return self.images / f"{self.sample_ids[i]}.jpg"


def _lists(split: str) -> Part:
    """Return the lists of a split as a part; its place is that of the first class."""
    places = (f"{place}/ImageSets/Main/{CLASSES[0]}_{split}.txt" for place in PLACES)
    return file_part(f"ImageSets/Main/*_{split}.txt", *places)


def _list_path(root, name, split):
    return root / "ImageSets" / "Main" / f"{name}_{split}.txt"


def _read_list(path: Path) -> dict[str, int]:
    """Return ``{image: 1, -1 or 0}`` of a class."""
    rows: dict[str, int] = {}
    for number, line in read_lines(path, f"looked for {Voc.looks_for}"):
        words = line.split()
        if len(words) != 2 or words[1] not in ("1", "-1", "0"):
            raise ValueError(f"{path}:{number}: expected a picture and 1, -1 or 0, found {line!r}")
        if words[0] in rows:
            raise ValueError(f"{path}:{number}: '{words[0]}' comes twice")
        rows[words[0]] = int(words[1])
    return rows


def _common_ids(lists, root, split):
    """Return the pictures of a split, in the order of the first class; all must list the same."""
    first = lists[CLASSES[0]]
    for name, rows in lists.items():
        odd = sorted(set(first) ^ set(rows))
        if odd:
            raise ValueError(
                f"{_list_path(root, name, split)}: not the pictures of {CLASSES[0]}_{split}.txt: "
                f"{len(odd)} are in one of the two only, such as '{odd[0]}'"
            )
    return list(first)
