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

from gluon_attn.core.text import read_lines, read_text
from gluon_attn.data.base import DATASETS
from gluon_attn.data.classification import ClassificationDataset
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts
from gluon_attn.data.folders import empty_classes, list_pictures
from gluon_attn.data.layout import Part, file_part, search
from gluon_attn.data.matfile import load_mat
from gluon_attn.data.protocol import check_split
from gluon_attn.data.scan import Passed, entries, list_images, subfolders

PUBLISHED = {"train": {"images": 1281167}, "val": {"images": 50000}}
SPLITS = ("train", "val")
PLACES = (".", "ILSVRC/Data/CLS-LOC")
KIT = (".", "data", "ILSVRC2012_devkit_t12/data", "devkit/data")
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SYNSET = re.compile(r"n\d{8}$")
SOLUTION, MAPPING = "LOC_val_solution.csv", "LOC_synset_mapping.txt"  # Kaggle's


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
    splits = valid = SPLITS

    def __init__(self, root, split, policy=None, on_bad_image="error"):
        check_split(split, "ImageNet", SPLITS)
        found = self.locate(root, split)
        if found.missing:
            raise FileNotFoundError(f"{root}: no '{split}' of ImageNet; looked for "
                                    f"{self.looks_for}")  # fmt: skip
        folder = found.paths[f"{split}/"]
        self.root = folder.parent
        lists = _Lists(root, found.home)
        kit = _read_meta(lists.find("meta.mat"))
        words = _read_mapping(lists.find(MAPPING)) or {s: name for s, name in kit.values()}
        training = self.locate(root, "train").path(_part("train"))
        self.synsets = tuple(_synsets(training) or sorted(words) or _synsets(folder))
        passed, faults = Passed(folder), []
        if split == "val" and not _synsets(folder):
            ids, targets = _flat(lists, list_images(folder, passed, deep=False), self.synsets, kit)
        else:
            self._check_folders(folder)
            ids, targets = list_pictures(folder, self.synsets, passed)
            faults = empty_classes(folder, self.synsets, targets, split == "train")
        passed.log()
        names = [words.get(synset, synset) for synset in self.synsets]
        super().__init__(
            names, split, targets, [f"{split}/{name}" for name in ids], policy, on_bad_image
        )
        expected, source = expected_counts(found.home, PUBLISHED)
        self.report = CountReport(
            [SplitCount(split, len(self))], expected, source, [self.class_note()], faults
        )

    def _check_folders(self, folder):
        unknown = sorted(set(_synsets(folder)) - set(self.synsets))
        if unknown:
            raise ValueError(
                f"{folder / unknown[0]}: not among the {len(self.synsets)} classes of train/"
            )

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        return (_part(split),)

    def path(self, i):
        return self.root / self.sample_ids[i]


def _synsets(folder):
    """Return the synset folders in a folder, sorted."""
    return [name for name in subfolders(folder) if SYNSET.match(name)]


def _part(split: str) -> Part:
    fits = _is_validation if split == "val" else _has_synsets
    return Part(f"{split}/", tuple(f"{place}/{split}" for place in PLACES), fits)


def _has_synsets(folder: Path) -> bool:
    return bool(_synsets(folder))


def _is_validation(folder: Path) -> bool:
    flat = (entry.name.startswith("ILSVRC2012_val_") for entry in entries(folder))
    return _has_synsets(folder) or any(flat)


class _Lists:
    """The files that come beside the images.

    Args:
        root: The folder that was given.
        home: The data set's folder.
    """

    def __init__(self, root: Path, home: Path) -> None:
        self.root, self.home = Path(root), home

    def find(self, name: str) -> Path | None:
        """Return the path of a file, or None; the development kit is a download of its own."""
        places = (f"{place}/{name}" for place in KIT)
        return search(self.root, self.home, file_part(name, *places, apart=True))


def _read_mapping(path: Path | None) -> dict[str, str]:
    """Return ``{synset: first word}`` from Kaggle's list; empty without one."""
    words = {}
    for number, line in read_lines(path) if path else ():
        synset, _, text = line.partition(" ")
        if not SYNSET.match(synset) or not text:
            raise ValueError(f"{path}:{number}: expected a synset and words, found {line!r}")
        words[synset] = text.split(",")[0].strip()
    return words


def _read_meta(path: Path | None) -> dict[int, tuple[str, str]]:
    """Return ``{number: (synset, first word)}`` of the leaf classes; empty without a kit."""
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


def _flat(lists, names, synsets, kit):
    """Return ``(names, targets)`` of validation images that lie in one folder."""
    numbers = {synset: k for k, synset in enumerate(synsets)}
    place = lists.find(SOLUTION)
    if place is not None:
        truth = _solution(place)
    else:
        place = lists.find(TRUTH)
        truth = _ground_truth(place, names, kit, lists.home)
    lost = [name for name in names if Path(name).stem not in truth]
    if lost:
        raise ValueError(f"{place}: says nothing about {lost[0]} ({len(lost)} such images)")
    found = [truth[Path(name).stem] for name in names]
    unknown = [k for k, synset in enumerate(found) if synset not in numbers]
    if unknown:
        raise ValueError(
            f"{place}: {names[unknown[0]]} is {found[unknown[0]]}, which is not among the "
            f"{len(synsets)} classes of train/"
        )
    return names, np.array([numbers[synset] for synset in found], np.int64)


def _solution(path: Path) -> dict[str, str]:
    """Return ``{image: synset}`` from Kaggle's table."""
    truth = {}
    for number, row in enumerate(csv.reader(read_text(path).split("\n")), 1):
        if number == 1 or not row:
            continue
        words = row[1].split() if len(row) == 2 else []
        if not words or not SYNSET.match(words[0]):
            raise ValueError(f"{path}:{number}: expected an image and its boxes, found {row}")
        truth[row[0].strip()] = words[0]
    return truth


def _ground_truth(path, names, kit, root):
    """Return ``{image: synset}`` from the development kit: line n is image n."""
    if path is None or not kit:
        lacking = TRUTH if path is None else "meta.mat"
        raise FileNotFoundError(
            f"{root}: val/ is not sorted into synsets, and there is neither {SOLUTION} nor "
            f"{lacking} ({TRUTH} and meta.mat come in ILSVRC2012_devkit_t12/data)"
        )
    truth = {}
    for image, (number, line) in enumerate(read_lines(path), 1):
        if not line.isdigit() or int(line) not in kit:
            raise ValueError(f"{path}:{number}: {line!r} is no class of meta.mat")
        truth[f"ILSVRC2012_val_{image:08d}"] = kit[int(line)][0]
    if len(truth) < len(names):
        raise ValueError(f"{path}: {len(truth):,} lines for {len(names):,} images in val/")
    return truth
