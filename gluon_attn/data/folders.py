"""Single-label data as one folder per class: the usual layout of one's own images.

    classes.txt              optional: one folder name a line, in the order of the logits
    train/<class>/*.jpg      (any of ``scan.SUFFIXES``, any case), and so for val/ and test/

Without ``classes.txt`` the classes are the folders of ``train/`` (or, if there is none, of the
split), sorted. Images may lie deeper, in folders inside that of their class. What is hidden or no
image is passed over, see ``scan``; a class without images is named. A split may be called as other
tools call it (``ALIASES``); folders of images that are no split are named in the report.
"""

from __future__ import annotations

import logging
import sys
import unicodedata
from pathlib import Path
from typing import Sequence

import numpy as np

from gluon_attn.core.text import read_lines
from gluon_attn.data import scan
from gluon_attn.data.base import (
    DATASETS,
    TRAINING_SPLITS,
    ClassificationDataset,
    Reader,
    Samples,
    class_schema,
)
from gluon_attn.data.layout import Found, Part, PathLike

logger = logging.getLogger(__name__)

_ALIASES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
ALIASES = {split: (*names, *map(str.capitalize, names)) for split, names in _ALIASES.items()}


@DATASETS.register("folders")
class Folders(Reader, ClassificationDataset):
    """Images sorted into one folder per class."""

    title = "folders"
    looks_for = "<split>/<class>/<image>.jpg, .png, ..."
    detection = 1000

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        return (Part(f"{split}/", ALIASES.get(split, (split,)), _has_classes),)

    @classmethod
    def require(cls, root: PathLike, split: str, **options: object) -> Found:
        found = cls.locate(root, split)
        part = found.parts[0]
        there = [place for place in part.places if (found.home / place).is_dir()]
        if not there:
            told = f"{found.path(part)} is missing; looked for {cls.looks_for}"
            others = [f"{name}/" for name in scan.subfolders(found.home)]
            names = ", ".join([*others[: scan.SHOWN], *["…"] * (len(others) > scan.SHOWN)])
            called = " or ".join(f"{place}/" for place in _ALIASES.get(split, (split,)))
            raise FileNotFoundError(f"{told}; {split} is {called}; there is {names or 'no folder'}")
        return found._replace(paths={part.name: found.paths.get(part.name, found.home / there[0])})

    def samples(self, found: Found, split: str) -> Samples:
        folder = found.paths[f"{split}/"]
        training = self.locate(self.root, "train", depth=0).path(self.parts("train")[0])
        classes = read_classes(self.root) or scan.subfolders(training) or scan.subfolders(folder)
        unknown = sorted(set(scan.subfolders(folder)) - set(classes))
        if unknown:
            told = f"{folder / unknown[0]} is no class; known are {', '.join(classes)}"
            composed = unicodedata.normalize("NFC", unknown[0])
            if composed in (unicodedata.normalize("NFC", name) for name in classes):
                told += f". '{composed}' is written in two forms of Unicode: rename one of the two"
            raise ValueError(told)
        passed = scan.Passed(folder)
        names, targets = images_of_classes(folder, classes, passed)
        if not names:
            why = f"{passed.text() or 'they are empty'}; images end in {', '.join(scan.SUFFIXES)}"
            raise ValueError(f"{folder}: no images in its class folders ({why})")
        passed.log()
        deep = [name for name in names if name.count("/") > 1]
        notes = [f"{split}: {len(deep):,} images lie in folders of their class's, such as {name}"
                 for name in deep[:1]]  # fmt: skip
        notes += _spare(folder, self.parts(split)[0].places)
        faults, absent = empty_classes(folder, classes, targets, split in TRAINING_SPLITS)
        notes += absent
        ids = [f"{folder.name}/{name}" for name in names]
        return Samples(class_schema(classes), targets, ids, notes=notes, faults=faults)

    def remarks(self, source: str | None) -> list[str]:
        known = {name for names in ALIASES.values() for name in names} | {self.split}
        unknown = (name for name in scan.subfolders(self.root) if name not in known)
        others = [name for name in unknown if _has_classes(self.root / name)]
        note = f"not read: {', '.join(f'{n}/' for n in others)} (--splits NAME reads such a folder)"
        return [self.class_note(), *([note] if others and self.split == "train" else [])]


def _has_classes(folder: Path) -> bool:
    return any(scan.has_images(folder / name) for name in scan.subfolders(folder))


def _spare(folder: Path, places: Sequence[str]) -> list[str]:
    """Return a line, and log it, about other folders that a split may be called."""
    others = [folder.parent / place for place in places if place != folder.name]
    why = {True: "", False: ", it has no images"}
    lines = [
        f"{other} is not read{why[_has_classes(other)]}; {folder.name}/ is"
        for other in others
        if other.is_dir()
    ]
    for line in lines:
        logger.warning("%s", line)
    return lines


def read_classes(root: Path) -> list[str] | None:
    """Return the lines of ``classes.txt`` (ValueError if one comes twice), None without it."""
    path = Path(root) / "classes.txt"
    if not path.is_file():
        return None
    names = [line for _, line in read_lines(path)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{path}: '{repeated[0]}' comes twice")
    return names


def images_of_classes(
    folder: Path, classes: Sequence[str], passed: scan.Passed | None = None, deep: bool = True
) -> tuple[list[str], np.ndarray]:
    """Return ``(paths, targets)``: all images, sorted within every class.

    Paths are relative to ``folder``, which holds one folder per class; class numbers are ``(N,)``
    int64. With ``deep`` images in folders inside a class's folder count. What is passed over, in
    these folders and beside them, is counted in ``passed``.
    """
    from tqdm import tqdm

    passed = scan.Passed(folder) if passed is None else passed
    for entry in scan.entries(folder):
        if not entry.is_dir():
            outside = scan.is_image_name(entry.name)
            passed.add(entry.name, "outside of the class folders" if outside else None)
    ids, targets = [], []
    quiet = len(classes) < 500 or not sys.stderr.isatty()
    for k, name in enumerate(tqdm(classes, "listing", unit="class", leave=False, disable=quiet)):
        found = scan.list_images(Path(folder) / name, passed, deep)
        ids += [f"{name}/{image}" for image in found]
        targets += [k] * len(found)
    return ids, np.array(targets, np.int64)


def empty_classes(
    folder: Path, classes: Sequence[str], targets: np.ndarray, training: bool
) -> tuple[list[str], list[str]]:
    """Return ``(faults, notes)``: a line, or none, that names the classes without images.

    In ``training`` a class needs images; otherwise an empty folder is a fault, and no folder is
    not. A fault is logged.
    """
    counts = np.bincount(targets, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts) if not count]
    wrong = [name for name in empty if training or (folder / name).is_dir()]
    faults = _without_images(folder, wrong)
    for line in faults:
        logger.warning("%s", line)
    return faults, _without_images(folder, [name for name in empty if name not in wrong])


def _without_images(folder: Path, classes: Sequence[str]) -> list[str]:
    more = f" and {len(classes) - scan.SHOWN:,} more" if len(classes) > scan.SHOWN else ""
    line = f"{folder}: no images of {', '.join(classes[: scan.SHOWN])}{more}"
    return [line] if classes else []
