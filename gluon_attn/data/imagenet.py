"""ILSVRC2012 (ImageNet classification), 1000 classes, as the archives unpack.

    train/n01440764/n01440764_10026.JPEG       one folder per synset
    val/ILSVRC2012_val_00000001.JPEG           flat as published, or re-sorted: val/n01440764/...

in ``root`` or in Kaggle's ``root/ILSVRC/Data/CLS-LOC``. The class of a flat validation picture
comes from one of

    LOC_val_solution.csv                                      Kaggle
    ILSVRC2012_validation_ground_truth.txt with meta.mat      in ILSVRC2012_devkit_t12/data, data,
                                                              or the folder itself

The numbers of the development kit are **not** the usual class numbers: ``meta.mat`` says which
synset each means. Classes are the synsets in sorted order, as every published model has them; their
names are the first words of ``LOC_synset_mapping.txt`` or of ``meta.mat`` (those that come twice,
such as "crane", get their number), or the synsets themselves. A subset of the folders works too.

Splits: 'train' (1,281,167 published) and 'val' (50,000), on which papers report. The test labels
are not public.

Reference: Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from gluon_attn.data.base import DATASETS
from gluon_attn.data.classification import ClassificationDataset
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts
from gluon_attn.data.folders import list_pictures, subfolders
from gluon_attn.data.matfile import load_mat
from gluon_attn.data.protocol import check_split

PUBLISHED = {"train": {"images": 1281167}, "val": {"images": 50000}}
SPLITS = ("train", "val")
PLACES = (".", "ILSVRC/Data/CLS-LOC")
KIT = (".", "data", "ILSVRC2012_devkit_t12/data", "devkit/data")
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SYNSET = re.compile(r"n\d{8}$")
PICTURES = (".jpeg", ".jpg")


@DATASETS.register("imagenet")
class ImageNet(ClassificationDataset):
    """ILSVRC2012: pictures of 1000 classes.

    Args:
        root: Folder that holds ``train/`` and ``val/``, or Kaggle's.
        split: 'train' or 'val'.
        policy, on_bad_image: See :class:`gluon_attn.data.classification.ClassificationDataset`.

    Attributes:
        report: CountReport of this split.
        synsets: The K synsets, such as 'n01440764', in the order of the logits.

    Raises:
        FileNotFoundError: If pictures or the validation labels are not there.
        ValueError: If a list is malformed; the message names file and line.
    """

    looks_for = "train/n01440764/*.JPEG and val/, in the folder itself or in ILSVRC/Data/CLS-LOC/"
    splits = SPLITS

    def __init__(self, root, split, policy=None, on_bad_image="error"):
        check_split(split, "ImageNet", SPLITS)
        root = Path(root)
        self.root = _find(root, split)
        if self.root is None:
            raise FileNotFoundError(f"{root}: no '{split}' of ImageNet; looked for "
                                    f"{self.looks_for}")  # fmt: skip
        kit = _read_meta(root)
        words = _read_mapping(root) or {synset: name for synset, name in kit.values()}
        self.synsets = tuple(
            _synsets(self.root / "train") or sorted(words) or _synsets(self.root / "val")
        )
        if split == "val" and not _synsets(self.root / "val"):
            ids, targets = _flat(root, self.root / "val", self.synsets, kit)
        else:
            self._check_folders(split)
            ids, targets = list_pictures(self.root / split, self.synsets, PICTURES)
        names = [words.get(synset, synset) for synset in self.synsets]
        super().__init__(
            names, split, targets, [f"{split}/{name}" for name in ids], policy, on_bad_image
        )
        whole = len(self.synsets) == 1000
        expected, source = expected_counts(root, PUBLISHED if whole else None)
        self.report = CountReport(
            [SplitCount(split, len(self))], expected, source, [self.class_note()]
        )

    def _check_folders(self, split):
        unknown = sorted(set(_synsets(self.root / split)) - set(self.synsets))
        if unknown:
            raise ValueError(
                f"{self.root / split / unknown[0]}: not among the {len(self.synsets)} classes of "
                "train/"
            )

    @classmethod
    def has_split(cls, root, split):
        return split in SPLITS and _find(Path(root), split) is not None

    def path(self, i):
        return self.root / self.sample_ids[i]


def _synsets(folder):
    """Return the synset folders in a folder, sorted."""
    return [name for name in subfolders(folder) if SYNSET.match(name)]


def _find(root, split):
    """Return the folder that holds a split's pictures, or None."""
    for place in PLACES:
        folder = root / place / split
        if _synsets(folder) or (split == "val" and any(folder.glob("ILSVRC2012_val_*"))):
            return root / place
    return None


def _read_mapping(root):
    """Return ``{synset: first word}`` from Kaggle's list; empty if it is not there."""
    path = root / "LOC_synset_mapping.txt"
    words = {}
    if path.is_file():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            synset, _, text = line.strip().partition(" ")
            if not synset:
                continue
            if not SYNSET.match(synset) or not text:
                raise ValueError(f"{path}:{number}: expected a synset and words, found {line!r}")
            words[synset] = text.split(",")[0].strip()
    return words


def _kit(root, name):
    """Return the path of a file of the development kit, or None."""
    paths = (root / place / name for place in KIT)
    return next((path for path in paths if path.is_file()), None)


def _read_meta(root):
    """Return ``{number: (synset, first word)}`` of the leaf classes; empty without a kit."""
    path = _kit(root, "meta.mat")
    if path is None:
        return {}
    found = {}
    for row in load_mat(path, "synsets").cells():
        leaf = "num_children" not in row.fields or row.field("num_children").vector()[0] == 0
        if leaf:
            number = int(row.field("ILSVRC2012_ID").vector()[0])
            words = row.field("words").text().split(",")[0].strip()
            found[number] = row.field("WNID").text(), words
    return found


def _flat(root, folder, synsets, kit):
    """Return ``(names, targets)`` of validation pictures that lie in one folder."""
    numbers = {synset: k for k, synset in enumerate(synsets)}
    truth, place = _solution(root), root / "LOC_val_solution.csv"
    names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in PICTURES)
    if truth is None:
        place = _kit(root, TRUTH)
        truth = _ground_truth(place, names, kit, root)
    lost = [name for name in names if Path(name).stem not in truth]
    if lost:
        raise ValueError(f"{place}: says nothing about {lost[0]} ({len(lost)} such pictures)")
    found = [truth[Path(name).stem] for name in names]
    unknown = [k for k, synset in enumerate(found) if synset not in numbers]
    if unknown:
        raise ValueError(
            f"{place}: {names[unknown[0]]} is {found[unknown[0]]}, which is not among the "
            f"{len(synsets)} classes of train/"
        )
    return names, np.array([numbers[synset] for synset in found], np.int64)


def _solution(root):
    """Return ``{picture: synset}`` from Kaggle's table, or None if it is not there."""
    path = root / "LOC_val_solution.csv"
    if not path.is_file():
        return None
    truth = {}
    with open(path, newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if number == 1 or not row:
                continue
            words = row[1].split() if len(row) == 2 else []
            if not words or not SYNSET.match(words[0]):
                raise ValueError(f"{path}:{number}: expected a picture and its boxes, found {row}")
            truth[row[0]] = words[0]
    return truth


def _ground_truth(path, names, kit, root):
    """Return ``{picture: synset}`` from the development kit: line n is picture n."""
    if path is None or not kit:
        lacking = TRUTH if path is None else "meta.mat"
        raise FileNotFoundError(
            f"{root}: val/ is not sorted into synsets, and there is neither LOC_val_solution.csv "
            f"nor {lacking} ({TRUTH} and meta.mat come in ILSVRC2012_devkit_t12/data)"
        )
    truth = {}
    for number, line in enumerate(path.read_text(encoding="ascii").split(), 1):
        if not line.isdigit() or int(line) not in kit:
            raise ValueError(f"{path}:{number}: {line!r} is no class of meta.mat")
        truth[f"ILSVRC2012_val_{number:08d}"] = kit[int(line)][0]
    if len(truth) < len(names):
        raise ValueError(f"{path}: {len(truth):,} lines for {len(names):,} pictures in val/")
    return truth
