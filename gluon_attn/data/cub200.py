"""CUB-200-2011: 200 kinds of birds, from the official lists.

    images.txt               ``1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg``
    image_class_labels.txt   ``1 1``: class numbers 1 to 200
    train_test_split.txt     ``1 0``: 1 is a training image
    classes.txt              ``1 001.Black_footed_Albatross``
    images/

in ``root`` or ``root/CUB_200_2011``. The authors give 5,994 training images ('trainval') and 5,794
test images ('test'). ICASC trains on whole images, so boxes, parts and attributes are not used.

Reference: Wah, Branson, Welinder, Perona, Belongie, "The Caltech-UCSD Birds-200-2011 Dataset",
2011.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np

from gluon_attn.core.text import read_lines
from gluon_attn.data.base import DATASETS, ClassificationDataset, Reader, Samples, class_schema
from gluon_attn.data.layout import Found, Part, file_part, folder_part
from gluon_attn.data.protocol import HOLDOUT, SPLITS, official_split
from gluon_attn.data.published_sizes import split_counts
from gluon_attn.data.scan import stored_name

LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
PLACE = "CUB_200_2011"


@DATASETS.register("cub200")
class Cub200(Reader, ClassificationDataset):
    """Birds of CUB-200-2011, 200 classes; ``holdout`` is the share of 'val', chosen by ``seed``."""

    title = "CUB-200-2011"
    looks_for = (
        "images.txt, image_class_labels.txt, train_test_split.txt and classes.txt beside images/, "
        "in the folder itself or in CUB_200_2011/"
    )
    detection = 130
    valid, settings = SPLITS, ("holdout", "seed")
    published = split_counts("images", trainval=5994, test=5794)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        lists = (file_part(name, name, f"{PLACE}/{name}") for name in LISTS)
        return (*lists, folder_part("images", "images", f"{PLACE}/images", images=True))

    def samples(self, found: Found, split: str, holdout: float = HOLDOUT, seed: int = 0) -> Samples:
        folder = found.paths[LISTS[0]].parent
        paths, labels, marks, names = (
            _read_list(folder / name, kind) for name, kind in zip(LISTS, (str, int, int, str))
        )
        _check(folder / LISTS[1], labels, paths, 1, most=len(names))
        _check(folder / LISTS[2], marks, paths, 0, most=1)
        if sorted(names) != list(range(1, len(names) + 1)):
            raise ValueError(f"{folder / LISTS[3]}: classes must be numbered from 1")
        numbers = sorted(paths)
        targets = np.array([labels[n] - 1 for n in numbers])
        training = np.array([marks[n] for n in numbers]) == 1
        parts = {"trainval": np.flatnonzero(training), "test": np.flatnonzero(~training)}
        chosen = official_split(split, parts, targets, holdout, seed=seed)
        classes = [names[k].partition(".")[2] or names[k] for k in sorted(names)]
        ids = [stored_name(folder / "images", paths[numbers[k]]) for k in chosen]
        return Samples(class_schema(classes), targets[chosen], ids, folder / "images")


def _read_list(path: Path, kind: Callable[[str], Any]) -> dict[int, Any]:
    """Return ``{number: value}`` of a list."""
    rows: dict[int, Any] = {}
    for number, line in read_lines(path):
        words = line.split(maxsplit=1)
        try:
            key, value = int(words[0]), kind(words[1])
        except (IndexError, ValueError):
            what = "expected a number and a value"
            raise ValueError(f"{path}:{number}: {what}, found {line!r}") from None
        if key in rows:
            raise ValueError(f"{path}:{number}: number {key} comes twice")
        rows[key] = value
    return rows


def _check(
    path: Path, table: dict[int, int], images: dict[int, str], least: int, *, most: int
) -> None:
    """Refuse a list of other images than images.txt's, or a value that is out of range."""
    odd = sorted(set(table) ^ set(images))
    if odd:
        found = f"{len(odd)} are in one of the two only, such as number {odd[0]}"
        raise ValueError(f"{path}: not the images of images.txt: {found}")
    wrong = [number for number in sorted(table) if not least <= table[number] <= most]
    if wrong:
        meaning = "1 (training) and 0 (test)" if most == 1 else f"{least} to {most}"
        found = f"image {wrong[0]} is marked {table[wrong[0]]}"
        raise ValueError(f"{path}: {found}; valid are {meaning}")
