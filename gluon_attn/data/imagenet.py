"""ILSVRC2012 (ImageNet classification), 1000 classes, as the archives unpack.

    train/n01440764/n01440764_10026.JPEG       one folder per synset
    val/ILSVRC2012_val_00000001.JPEG           flat as published, or re-sorted: val/n01440764/...

in ``root`` or in Kaggle's ``root/ILSVRC/Data/CLS-LOC``. The class of a flat validation image comes
from one of

    LOC_val_solution.csv                                      Kaggle
    ILSVRC2012_validation_ground_truth.txt with meta.mat      in ILSVRC2012_devkit_t12/data, data,
                                                              or the folder itself

The numbers of the development kit are **not** the usual class numbers: ``meta.mat`` says which
synset each means. Classes are the synsets in sorted order, as every published model has them; their
names are the first words of ``LOC_synset_mapping.txt`` or of ``meta.mat``, or the synsets
themselves. A subset of the folders works too. The test labels are not public.

Reference: Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Callable, Dict, Tuple

import numpy as np

from gluon_attn.core.text import read_lines, read_text, rows_of_csv
from gluon_attn.data.base import DATASETS, ClassificationDataset, Reader, Samples, class_schema
from gluon_attn.data.folders import empty_classes, images_of_classes
from gluon_attn.data.layout import Found, Part, file_part, search
from gluon_attn.data.matfile import load_mat
from gluon_attn.data.published_sizes import split_counts
from gluon_attn.data.scan import Passed, entries, list_images, subfolders

PLACES = (".", "ILSVRC/Data/CLS-LOC")
KIT = (".", "data", "ILSVRC2012_devkit_t12/data", "devkit/data")
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SOLUTION, MAPPING = "LOC_val_solution.csv", "LOC_synset_mapping.txt"  # Kaggle's
SYNSET = re.compile(r"n\d{8}$")
Finder = Callable[[str], "Path | None"]  # from the name of a list to its path
Kit = Dict[int, Tuple[str, str]]  # from the kit's number to synset and first word


@DATASETS.register("imagenet")
class ImageNet(Reader, ClassificationDataset):
    """ILSVRC2012: images of 1000 classes; ``synsets`` are in the order of the logits."""

    title = "ImageNet"
    looks_for = "train/n01440764/*.JPEG and val/, in the folder itself or in ILSVRC/Data/CLS-LOC/"
    detection = 150
    splits = valid = ("train", "val")
    published = split_counts("images", train=1281167, val=50000)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        fits = _is_validation if split == "val" else _has_synsets
        return (Part(f"{split}/", tuple(f"{place}/{split}" for place in PLACES), fits),)

    def samples(self, found: Found, split: str) -> Samples:
        (folder,) = found.each()
        find = functools.partial(_find_list, found.root, found.home)
        kit = _read_meta(find("meta.mat"))
        words = _read_mapping(find(MAPPING)) or dict(kit.values())
        training = self.locate(found.root, "train").path(self.parts("train")[0])
        self.synsets = tuple(_synsets(training) or sorted(words) or _synsets(folder))
        passed = Passed(folder)
        faults: list[str] = []
        notes: list[str] = []
        if split == "val" and not _synsets(folder):
            names = list_images(folder, passed, deep=False)
            targets = _flat(find, names, self.synsets, kit)
        else:
            unknown = sorted(set(_synsets(folder)) - set(self.synsets))
            if unknown:
                known = f"the {len(self.synsets)} classes of train/"
                raise ValueError(f"{folder / unknown[0]}: not among {known}")
            names, targets = images_of_classes(folder, self.synsets, passed)
            faults, notes = empty_classes(folder, self.synsets, targets, split == "train")
        passed.log()
        classes = [words.get(synset, synset) for synset in self.synsets]
        ids = [f"{split}/{name}" for name in names]
        schema = class_schema(classes)
        return Samples(schema, targets, ids, folder.parent, notes=notes, faults=faults)


def _synsets(folder: Path) -> list[str]:
    return [name for name in subfolders(folder) if SYNSET.match(name)]


def _has_synsets(folder: Path) -> bool:
    return bool(_synsets(folder))


def _is_validation(folder: Path) -> bool:
    flat = (entry.name.startswith("ILSVRC2012_val_") for entry in entries(folder))
    return _has_synsets(folder) or any(flat)


def _find_list(root: Path, home: Path, name: str) -> Path | None:
    """Return the path of a list; the development kit is a download of its own."""
    return search(root, home, file_part(name, *(f"{place}/{name}" for place in KIT), apart=True))


def _read_mapping(path: Path | None) -> dict[str, str]:
    """Return ``{synset: first word}`` from Kaggle's list; empty without one."""
    words = {}
    for number, line in read_lines(path) if path else ():
        synset, _, text = line.partition(" ")
        if not SYNSET.match(synset) or not text:
            raise ValueError(f"{path}:{number}: expected a synset and words, found {line!r}")
        words[synset] = text.split(",")[0].strip()
    return words


def _read_meta(path: Path | None) -> Kit:
    """Return the leaf classes of the kit; empty without one."""
    found = {}
    for row in load_mat(path, "synsets").cells() if path else ():
        if "num_children" not in row.fields or row.field("num_children").vector()[0] == 0:
            number = int(row.field("ILSVRC2012_ID").vector()[0])
            words = row.field("words").text().split(",")[0].strip()
            found[number] = row.field("WNID").text(), words
    return found


def _flat(find: Finder, names: list[str], synsets: tuple[str, ...], kit: Kit) -> np.ndarray:
    """Return the class numbers of validation images that lie in one folder."""
    place, truth_file = find(SOLUTION), find(TRUTH)
    if place is not None:
        truth = _solution(place)
    elif truth_file is not None and kit:
        place, truth = truth_file, _ground_truth(truth_file, len(names), kit)
    else:
        lacking = "meta.mat" if truth_file else TRUTH
        raise FileNotFoundError(
            f"val/ is not sorted into synsets, and there is neither {SOLUTION} nor {lacking} "
            f"({TRUTH} and meta.mat come in ILSVRC2012_devkit_t12/data)"
        )
    lost = [name for name in names if Path(name).stem not in truth]
    if lost:
        raise ValueError(f"{place}: says nothing about {lost[0]} ({len(lost)} such images)")
    numbers = {synset: k for k, synset in enumerate(synsets)}
    found = [truth[Path(name).stem] for name in names]
    unknown = [k for k, synset in enumerate(found) if synset not in numbers]
    if unknown:
        first = f"{names[unknown[0]]} is {found[unknown[0]]}"
        known = f"the {len(synsets)} classes of train/"
        raise ValueError(f"{place}: {first}, which is not among {known}")
    return np.array([numbers[synset] for synset in found], np.int64)


def _solution(path: Path) -> dict[str, str]:
    """Return ``{image: synset}`` from Kaggle's table."""
    truth = {}
    for number, row in rows_of_csv(read_text(path).split("\n"), path):
        if number == 1 or not row:
            continue
        words = row[1].split() if len(row) == 2 else []
        if not words or not SYNSET.match(words[0]):
            raise ValueError(f"{path}:{number}: expected an image and its boxes, found {row}")
        truth[row[0].strip()] = words[0]
    return truth


def _ground_truth(path: Path, total: int, kit: Kit) -> dict[str, str]:
    """Return ``{image: synset}`` from the development kit: line n is image n."""
    truth = {}
    for image, (number, line) in enumerate(read_lines(path), 1):
        if not line.isdigit() or int(line) not in kit:
            raise ValueError(f"{path}:{number}: {line!r} is no class of meta.mat")
        truth[f"ILSVRC2012_val_{image:08d}"] = kit[int(line)][0]
    if len(truth) < total:
        raise ValueError(f"{path}: {len(truth):,} lines for {total:,} images in val/")
    return truth
