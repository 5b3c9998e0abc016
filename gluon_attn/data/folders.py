"""Single-label data as one folder per class: the usual layout of one's own pictures.

    classes.txt              optional: one folder name a line, in the order of the logits
    train/<class>/*.jpg      (any of ``scan.SUFFIXES``, any case), and so for val/ and test/

Without ``classes.txt`` the classes are the folders of ``train/`` (or, if there is none, of the
split), sorted. Images may lie deeper, in folders inside that of their class. What is hidden or no
image is passed over, see ``scan``; a class without images is named.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Sequence

import numpy as np

from gluon_attn.core.text import read_lines
from gluon_attn.data.base import DATASETS, TRAINING_SPLITS
from gluon_attn.data.classification import ClassificationDataset
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts
from gluon_attn.data.layout import Part
from gluon_attn.data.scan import (
    SHOWN,
    SUFFIXES,
    Passed,
    entries,
    has_images,
    is_image_name,
    list_images,
    subfolders,
)

logger = logging.getLogger(__name__)


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
        self.root = self.home(root, split)
        folder = self.root / split
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing; looked for {self.looks_for}")
        classes = read_classes(self.root) or subfolders(self.root / "train") or subfolders(folder)
        unknown = sorted(set(subfolders(folder)) - set(classes))
        if unknown:
            raise ValueError(f"{folder / unknown[0]} is no class; known are {', '.join(classes)}")
        passed = Passed(folder)
        ids, targets = list_pictures(folder, classes, passed)
        if not ids:
            raise ValueError(
                f"{folder}: no images in its class folders ({passed.text() or 'they are empty'}; "
                f"images end in {', '.join(SUFFIXES)})"
            )
        passed.log()
        super().__init__(
            classes, split, targets, [f"{split}/{name}" for name in ids], policy, on_bad_image
        )
        expected, source = expected_counts(self.root)
        faults = empty_classes(folder, classes, targets, split in TRAINING_SPLITS)
        self.report = CountReport(
            [SplitCount(split, len(self))], expected, source,
            [self.class_note(), *_deep_note(split, ids)], faults,
        )  # fmt: skip

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        return (Part(f"{split}/", (split,), _has_classes),)

    def path(self, i):
        return self.root / self.sample_ids[i]


def _has_classes(folder: Path) -> bool:
    return any(has_images(folder / name) for name in subfolders(folder))


def read_classes(root):
    """Return the lines of ``classes.txt``, or None if there is no such file.

    Raises:
        ValueError: If one comes twice, or the file is no text.
    """
    path = Path(root) / "classes.txt"
    if not path.is_file():
        return None
    names = [line for _, line in read_lines(path)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{path}: '{repeated[0]}' comes twice")
    return names


def list_pictures(
    folder: Path, classes: Sequence[str], passed: Passed | None = None, deep: bool = True
) -> tuple[list[str], np.ndarray]:
    """Return ``(paths, targets)``: all images, sorted within every class.

    Args:
        folder: Holds one folder per class; those that are not there have no images.
        classes: Their names, in order.
        passed: Where to count what is passed over, in these folders and beside them.
        deep: Whether images in folders inside a class's folder count.

    Returns:
        Paths relative to ``folder``, and class numbers ``(N,)`` int64.
    """
    from tqdm import tqdm

    passed = Passed(folder) if passed is None else passed
    for entry in entries(folder):
        if not entry.is_dir():
            outside = is_image_name(entry.name)
            passed.add(entry.name, "outside of the class folders" if outside else None)
    ids, targets = [], []
    quiet = len(classes) < 500 or not sys.stderr.isatty()
    for k, name in enumerate(tqdm(classes, "listing", unit="class", leave=False, disable=quiet)):
        found = list_images(Path(folder) / name, passed, deep)
        ids += [f"{name}/{image}" for image in found]
        targets += [k] * len(found)
    return ids, np.array(targets, np.int64)


def empty_classes(
    folder: Path, classes: Sequence[str], targets: np.ndarray, training: bool
) -> list[str]:
    """Return a line that names the classes without images, and log it; nothing if there are none.

    Args:
        folder: Of the split.
        classes, targets: As of :func:`list_pictures`.
        training: Whether a class needs images here; otherwise only empty folders are named.
    """
    counts = np.bincount(targets, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts) if not count]
    empty = [name for name in empty if training or (folder / name).is_dir()]
    if not empty:
        return []
    more = f" and {len(empty) - SHOWN:,} more" if len(empty) > SHOWN else ""
    line = f"{folder}: no images of {', '.join(empty[:SHOWN])}{more}"
    logger.warning("%s", line)
    return [line]


def _deep_note(split: str, ids: Sequence[str]) -> list[str]:
    """Return a line about images that lie deeper than in the folder of their class."""
    deep = [name for name in ids if name.count("/") > 1]
    if not deep:
        return []
    return [f"{split}: {len(deep):,} images lie in folders of their class's, such as {deep[0]}"]
