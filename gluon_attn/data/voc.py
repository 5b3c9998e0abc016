"""PASCAL VOC 2012 and 2007 as multi-label data sets, from the official image sets.

    ImageSets/Main/<class>_{train,val,trainval}.txt    ``2008_000008  1``: 1 shown, -1 not shown,
                                                       0 shown, but difficult (small, hidden)
    JPEGImages/2008_000008.jpg

in ``root``, ``root/VOC2012`` or ``root/VOCdevkit/VOC2012``; likewise ``VOC2007``, whose images are
called ``000005``. Every class lists every image of the split. The test labels of 2012 are not
public, and its ``val`` part serves as test set in most papers; those of 2007 are.

A difficult object is left out by default (raw label 0, as VOC's own evaluation does it), and can be
read as 'negative' or 'positive', as some toolkits do. Say which when you publish a number.

Reference: Everingham, Van Gool, Williams, Winn, Zisserman, "The PASCAL Visual Object Classes (VOC)
Challenge", IJCV 2010.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from gluon_attn.core.registry import unknown_name
from gluon_attn.core.schema import Schema
from gluon_attn.core.text import read_lines
from gluon_attn.data.base import DATASETS, Reader, Samples
from gluon_attn.data.layout import Found, Part, PathLike, folder_part
from gluon_attn.data.protocol import SPLITS
from gluon_attn.data.published_sizes import split_counts

CLASSES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor".split()
)
PLACES = (".", "VOC{}", "VOCdevkit/VOC{}")
LOOKS_FOR = (
    "ImageSets/Main/aeroplane_train.txt beside JPEGImages/, in the folder itself, VOC{0}/ or "
    "VOCdevkit/VOC{0}/"
)
DIFFICULT = {"masked": 0, "negative": -1, "positive": 1}


@DATASETS.register("voc")
class Voc(Reader):
    """Images of VOC 2012, 20 classes of objects.

    The setting ``difficult``, 'masked' (in training, too), 'negative' or 'positive', is what label
    0 of the lists becomes; the attribute is how many of each class there are, ``(20,)``.
    """

    title, year = "VOC", 2012
    looks_for = LOOKS_FOR.format(2012)
    detection = 80
    valid, settings = SPLITS, ("difficult",)
    optional: tuple[str, ...] = ("test",)
    published = split_counts("images", train=5717, val=5823, trainval=11540)
    train_policy = "masked"

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        places = [place.format(cls.year) for place in PLACES]
        lists = (f"{place}/ImageSets/Main/{CLASSES[0]}_{split}.txt" for place in places)
        folders = (f"{place}/JPEGImages" for place in places)
        first = Part(f"ImageSets/Main/*_{split}.txt", tuple(lists), _YEARS[cls.year])
        return first, folder_part("JPEGImages", *folders, images=True)

    @classmethod
    def require(cls, root: PathLike, split: str, **options: Any) -> Found:
        """Return what ``locate`` finds; the error names the reader of the other year."""
        found = cls.locate(root, split)
        if found.parts[0].name not in found.paths:
            other = "voc" if cls.year == 2007 else "voc2007"
            is_other = DATASETS.get(other).has_split(root, split)
            hint = f"; it holds those of kind '{other}'" if is_other else ""
            raise FileNotFoundError(
                f"{root}: no lists of '{split}' of VOC {cls.year}{hint}; looked for {cls.looks_for}"
            )
        return found

    def samples(self, found: Found, split: str, difficult: str = "masked") -> Samples:
        if difficult not in DIFFICULT:
            raise ValueError(unknown_name("treatment of difficult objects", difficult, DIFFICULT))
        folder = found.path(found.parts[0]).parent
        paths = {name: folder / f"{name}_{split}.txt" for name in CLASSES}
        lists = {name: _read_list(path) for name, path in paths.items()}
        ids = list(lists[CLASSES[0]])
        for name, rows in lists.items():
            odd = sorted(set(ids) ^ set(rows))
            if odd:
                told = f"{paths[name]}: not the images of {CLASSES[0]}_{split}.txt"
                raise ValueError(
                    f"{told}: {len(odd)} are in one of the two only, such as '{odd[0]}'"
                )
        raw = np.array([[rows[i] for i in ids] for rows in lists.values()], np.int8).T
        self.difficult = (raw == 0).sum(0)
        raw = np.where(raw == 0, DIFFICULT[difficult], raw)
        notes = [f"{split}: {self.difficult.sum():,} difficult labels, read as {difficult}"]
        home = folder.parents[1]
        return Samples(Schema.binary(CLASSES), raw, ids, home / "JPEGImages", notes=notes)

    def path(self, i: int) -> Path:
        return self.images / f"{self.sample_ids[i]}.jpg"


@DATASETS.register("voc2007")
class Voc2007(Voc):
    """Images of VOC 2007, 20 classes of objects; its test labels are public."""

    year, optional = 2007, ()
    looks_for = LOOKS_FOR.format(2007)
    detection = 90
    published = split_counts("images", train=2501, val=2510, trainval=5011, test=4952)


def _is_2007(path: Path) -> bool:
    """Return whether a list is one of VOC 2007: by its folder, or as its images have numbers."""
    if not path.is_file():
        return False
    named = re.fullmatch(r"VOC(20\d\d)", path.resolve().parents[2].name)
    if named:
        return named.group(1) == "2007"
    try:
        first = next((line.split()[0] for _, line in read_lines(path)), "")
    except ValueError:
        return False  # no text: the reader says so
    return re.fullmatch(r"\d{6}", first) is not None


_YEARS = {2007: _is_2007, 2012: lambda path: path.is_file() and not _is_2007(path)}


def _read_list(path: Path) -> dict[str, int]:
    rows: dict[str, int] = {}
    for number, line in read_lines(path, f"looked for {Voc.looks_for}"):
        words = line.split()
        if len(words) != 2 or words[1] not in ("1", "-1", "0"):
            raise ValueError(f"{path}:{number}: expected an image and 1, -1 or 0, found {line!r}")
        if words[0] in rows:
            raise ValueError(f"{path}:{number}: '{words[0]}' comes twice")
        rows[words[0]] = int(words[1])
    return rows
