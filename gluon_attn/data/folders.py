"""Single-label data as one folder per class: the usual layout of one's own pictures.

    classes.txt              optional: one folder name a line, in the order of the logits
    train/<class>/*.jpg      (.jpeg, .png, .bmp, .webp, any case), and so for val/ and test/

Without ``classes.txt`` the classes are the folders of ``train/`` (or, if there is none, of the
split), sorted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from gluon_attn.data.base import DATASETS
from gluon_attn.data.classification import ClassificationDataset
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@DATASETS.register("folders")
class Folders(ClassificationDataset):
    """Pictures sorted into one folder per class.

    Args:
        root: Folder that holds ``train/``, ``val/``, ``test/``.
        split: Name of one of them.
        policy, on_bad_image: See :class:`gluon_attn.data.classification.ClassificationDataset`.

    Attributes:
        report: CountReport of this split.

    Raises:
        FileNotFoundError: If the split's folder is not there.
        ValueError: If it has folders that are no class, or no pictures.
    """

    looks_for = "<split>/<class>/<picture>.jpg, .png, ..."

    def __init__(self, root, split, policy=None, on_bad_image="error"):
        self.root = Path(root)
        folder = self.root / split
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing; looked for {self.looks_for}")
        classes = read_classes(self.root) or subfolders(self.root / "train") or subfolders(folder)
        unknown = sorted(set(subfolders(folder)) - set(classes))
        if unknown:
            raise ValueError(f"{folder / unknown[0]} is no class; known are {', '.join(classes)}")
        ids, targets = list_pictures(folder, classes)
        super().__init__(
            classes, split, targets, [f"{split}/{name}" for name in ids], policy, on_bad_image
        )
        expected, source = expected_counts(root)
        self.report = CountReport(
            [SplitCount(split, len(self))], expected, source, [self.class_note()]
        )

    @classmethod
    def has_split(cls, root, split):
        folder = Path(root) / split
        return any(
            entry.name.lower().endswith(ENDINGS)
            for name in subfolders(folder)[:3]
            for entry in os.scandir(folder / name)
        )

    def path(self, i):
        return self.root / self.sample_ids[i]


def read_classes(root):
    """Return the lines of ``classes.txt``, or None if there is no such file.

    Raises:
        ValueError: If one comes twice.
    """
    path = Path(root) / "classes.txt"
    if not path.is_file():
        return None
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    names = [name for name in names if name]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{path}: '{repeated[0]}' comes twice")
    return names


def subfolders(folder):
    """Return the names of the folders in a folder, sorted; none if it does not exist."""
    if not Path(folder).is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


def list_pictures(folder, classes, endings=ENDINGS):
    """Return ``(paths, targets)``: all pictures, sorted within every class.

    Args:
        folder: Holds one folder per class; those that are not there have no pictures.
        classes: Their names, in order.
        endings: Of the names of pictures, in small letters; other files are passed over.

    Returns:
        Paths relative to ``folder``, and class numbers ``(N,)`` int64.
    """
    from tqdm import tqdm

    ids, targets = [], []
    quiet = len(classes) < 500 or not sys.stderr.isatty()
    for k, name in enumerate(tqdm(classes, "listing", unit="class", leave=False, disable=quiet)):
        if not (Path(folder) / name).is_dir():
            continue
        with os.scandir(Path(folder) / name) as entries:
            found = sorted(e.name for e in entries if e.name.lower().endswith(endings))
        ids += [f"{name}/{picture}" for picture in found]
        targets += [k] * len(found)
    return ids, np.array(targets, np.int64)
