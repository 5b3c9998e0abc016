"""CUB-200-2011: 200 kinds of birds, from the official lists.

    images.txt               ``1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg``
    image_class_labels.txt   ``1 1``: class numbers 1 to 200
    train_test_split.txt     ``1 0``: 1 is a training picture
    classes.txt              ``1 001.Black_footed_Albatross``
    images/

in ``root`` or ``root/CUB_200_2011``. Boxes, parts and attributes are not used: ICASC trains on
whole pictures.

Splits: the authors give 5,994 training pictures ('trainval') and 5,794 test pictures ('test').
'val' is a share of every class of the training part, chosen by a seed, and 'train' the rest.

Reference: Wah, Branson, Welinder, Perona, Belongie, "The Caltech-UCSD Birds-200-2011 Dataset",
2011.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np

from gluon_attn.core.text import read_lines
from gluon_attn.data.base import DATASETS
from gluon_attn.data.classification import HELD_OUT, ClassificationDataset, official_split
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts
from gluon_attn.data.layout import Part, file_part, folder_part
from gluon_attn.data.protocol import HOLDOUT
from gluon_attn.data.scan import ImageFolder, stored_name

PUBLISHED = {"trainval": {"images": 5994}, "test": {"images": 5794}}
LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
PLACE = "CUB_200_2011"


@DATASETS.register("cub200")
class Cub200(ClassificationDataset):
    """Birds of CUB-200-2011, 200 classes.

    Args:
        root: Folder that holds the lists and ``images/``, or the one above.
        split: 'train', 'val', 'trainval' or 'test'.
        policy, on_bad_image: See :class:`gluon_attn.data.classification.ClassificationDataset`.
        holdout: Share of the training part that is the validation split.
        seed: Seed of that choice.

    Attributes:
        report: CountReport of this split.

    Raises:
        FileNotFoundError: If a list is not there.
        ValueError: If one is malformed; the message names file and line.
    """

    looks_for = "images.txt, image_class_labels.txt, train_test_split.txt and classes.txt beside "
    looks_for += "images/, in the folder itself or in CUB_200_2011/"
    valid = HELD_OUT

    def __init__(
        self, root, split, policy=None, on_bad_image="error", holdout=HOLDOUT, seed=0
    ):  # fmt: skip
        found = self.require(root, split)
        self.root = found.paths[LISTS[0]].parent
        paths = _read_list(self.root / LISTS[0], str)
        labels = _read_list(self.root / LISTS[1], int)
        training = _read_list(self.root / LISTS[2], int)
        names = _read_list(self.root / LISTS[3], str)
        for table, place in ((labels, LISTS[1]), (training, LISTS[2])):
            odd = sorted(set(table) ^ set(paths))
            if odd:
                raise ValueError(
                    f"{self.root / place}: not the pictures of images.txt: {len(odd)} are in one "
                    f"of the two only, such as number {odd[0]}"
                )
        if sorted(names) != list(range(1, len(names) + 1)):
            raise ValueError(f"{self.root / LISTS[3]}: classes must be numbered from 1")
        numbers = sorted(paths)
        targets = np.array([labels[n] - 1 for n in numbers])
        is_training = np.array([training[n] for n in numbers])
        _check(targets, is_training, numbers, len(names), self.root)
        chosen = official_split(
            split, np.flatnonzero(is_training == 1), np.flatnonzero(is_training == 0), targets,
            holdout, seed,
        )  # fmt: skip
        classes = [names[k].partition(".")[2] or names[k] for k in sorted(names)]
        ids = [stored_name(self.root / "images", paths[numbers[k]]) for k in chosen]
        super().__init__(classes, split, targets[chosen], ids, policy, on_bad_image)
        self.images = ImageFolder(self.root / "images", ids[0])
        expected, source = expected_counts(found.home, PUBLISHED)
        self.report = CountReport(
            [SplitCount(split, len(self))], expected, source, [self.class_note()]
        )

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        lists = (file_part(name, name, f"{PLACE}/{name}") for name in LISTS)
        return (*lists, folder_part("images", "images", f"{PLACE}/images", images=True))

    def path(self, i):
        return self.images / self.sample_ids[i]


def _read_list(path: Path, kind: Callable[[str], Any]) -> dict[int, Any]:
    """Return ``{number: value}`` of a list."""
    rows: dict[int, Any] = {}
    for number, line in read_lines(path):
        words = line.split(maxsplit=1)
        try:
            key, value = int(words[0]), kind(words[1])
        except (IndexError, ValueError):
            raise ValueError(
                f"{path}:{number}: expected a number and a value, found {line!r}"
            ) from None
        if key in rows:
            raise ValueError(f"{path}:{number}: number {key} comes twice")
        rows[key] = value
    return rows


def _check(targets, is_training, numbers, classes, root):
    """Refuse class numbers and marks that are out of range."""
    wrong = np.flatnonzero((targets < 0) | (targets >= classes))
    if wrong.size:
        raise ValueError(
            f"{root / LISTS[1]}: picture {numbers[wrong[0]]} has class {targets[wrong[0]] + 1}; "
            f"valid are 1 to {classes}"
        )
    wrong = np.flatnonzero((is_training != 0) & (is_training != 1))
    if wrong.size:
        raise ValueError(
            f"{root / LISTS[2]}: picture {numbers[wrong[0]]} is marked {is_training[wrong[0]]}; "
            "valid are 1 (training) and 0 (test)"
        )
