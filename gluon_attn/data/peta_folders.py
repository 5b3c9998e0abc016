"""PETA as its authors publish it: ten folders of images, each with a text of attributes.

    PETA dataset/CUHK/archive/Label.txt     ``0002.png upperBodyBlack lowerBodyJeans ...``
    PETA dataset/CUHK/archive/0002.png
    PETA dataset/VIPeR/archive/Label.txt    ``001 personalMale hairShort ...``
    PETA dataset/VIPeR/archive/001_45.bmp

A line of ``Label.txt`` is a person and the attributes that apply. The person is the part of an
image's name before the first ``_``; in CUHK, where every image is a person of its own, the line has
the whole name. Attributes are called as in ``PETA.mat`` but for ``footwearSneakers``.

The authors' download has no partitions. With ``PETA.mat`` beside the folders its five are used: its
rows are the images sub-set by sub-set, in the order of their names, which is checked person by
person. A split file goes before both. Otherwise persons are chosen at random: in every sub-set
40 % of the images are for testing and 10 % for validation, no person in two parts.

Sources: the authors' ReadMe.txt (names, "the prefix of the image files", four attributes that were
discarded); public readers of the same files. The archive itself was not at hand.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gluon_attn.core.text import read_json, read_lines
from gluon_attn.data.protocol import SPLITS, hold_out
from gluon_attn.data.scan import is_image_name, list_images

logger = logging.getLogger(__name__)

# Images of each sub-set; in the order of column 3 of PETA.mat, where they are 1 to 10.
SUBSETS = {
    "3DPeS": 1012, "CAVIAR4REID": 1220, "CUHK": 4563, "GRID": 1275, "i-LID": 477, "MIT": 888,
    "PRID": 1134, "SARC3D": 200, "TownCentre": 6967, "VIPeR": 1264,
}  # fmt: skip
PLACES = ("PETA dataset", "PETA_dataset", "PETA/PETA dataset", "PETA", ".")
SPELLINGS = {"footwearSneakers": "footwearSneaker"}
COLOURS = "Black Blue Brown Green Grey Orange Pink Purple Red White Yellow".split()
# Attributes beside the 35 that are evaluated; the last four were discarded by the authors.
OTHERS = {
    *(part + c for part in ("upperBody", "lowerBody", "hair", "footwear") for c in COLOURS),
    *(
        "accessoryHeadphone personalLess15 carryingBabyBuggy hairBald footwearBoots lowerBodyCapri "
        "carryingShoppingTro carryingUmbrella personalFemale carryingFolder accessoryHairBand "
        "lowerBodyHotPants accessoryKerchief lowerBodyLongSkirt upperBodyLongSleeve lowerBodyPlaid "
        "lowerBodyThinStripes carryingLuggageCase upperBodyNoSleeve hairShort footwearStocking "
        "upperBodySuit carryingSuitcase lowerBodySuits upperBodySweater upperBodyThickStripes "
        "accessoryFaceMask lowerBodyLogo accessoryShawl lowerBodyThickStripes"
    ).split(),
}  # fmt: skip
TEST, VAL = 0.4, 0.1  # of the images of a sub-set, as in the partitions of PETA.mat


class Archive(NamedTuple):
    """All images of the folders, in the order of PETA.mat's rows.

    Attributes:
        base: Folder of the sub-sets.
        ids: Paths relative to it.
        subsets: ``(N,)`` numbers from 1, as in PETA.mat.
        persons: ``(N,)`` numbers within the sub-set.
        raw: ``(N, A)`` int8 labels 1 and -1.
        notes: Lines for the report.
    """

    base: Path
    ids: list[str]
    subsets: np.ndarray
    persons: np.ndarray
    raw: np.ndarray
    notes: list[str]

    @property
    def people(self) -> np.ndarray:
        """A number per image that is the same for images of one person, ``(N,)``."""
        return self.subsets * 1_000_000 + self.persons


def places(name: str) -> list[str]:
    """Return where an ``archive/`` or what is in it may be, as paths from the data set's folder."""
    return [f"{place}/{subset}/{name}" for place in PLACES for subset in SUBSETS]


def find_base(root: Path) -> Path | None:
    """Return the folder that holds sub-sets with ``archive/Label.txt``, or None."""
    found = (root / place for place in places("archive/Label.txt"))
    return next((path.parents[2] for path in found if path.is_file()), None)


def read_archive(base: Path, names: tuple[str, ...]) -> Archive:
    """Read images and labels of all sub-sets that are there.

    Args:
        base: Of :func:`find_base`.
        names: Attributes that become columns.

    Raises:
        ValueError: An image without a line of labels, or a malformed line; file and line are named.
    """
    column = {name: k for k, name in enumerate(names)}
    ids, subsets, persons, rows, notes = [], [], [], [], []
    for number, subset in enumerate(SUBSETS, 1):
        path = base / subset / "archive" / "Label.txt"
        if not path.is_file():
            notes.append(f"{subset} is missing: no {path}")
            continue
        labels = _read_labels(path, column)
        images = list_images(path.parent, deep=False)
        for name in images:
            person = _person(name)
            if person not in labels:
                raise ValueError(f"{path}: no line for '{person}', the person of {name}")
            ids.append(f"{subset}/archive/{name}")
            subsets.append(number)
            persons.append(person)
            rows.append(labels[person])
        without = len(set(labels) - {_person(name) for name in images})
        notes += [f"{subset}: {without:,} lines of Label.txt have no image"] if without else []
    if not ids:
        raise ValueError(f"{base}: no image beside the Label.txt files")
    return Archive(
        base, ids, np.array(subsets), _numbers(subsets, persons), np.array(rows, np.int8), notes
    )


def _person(name: str) -> str:
    """Return the person of an image or a line: without folder, ending, and what follows ``_``."""
    stem = Path(name).stem if is_image_name(name) else name
    word = stem.partition("_")[0]
    return str(int(word)) if word.isdigit() else word


def _numbers(subsets: list[int], persons: list[str]) -> np.ndarray:
    """Return persons as numbers; names that are none are counted behind the largest."""
    known = [int(p) for p in persons if p.isdigit()]
    others = sorted({(s, p) for s, p in zip(subsets, persons) if not p.isdigit()})
    behind = {key: max(known, default=0) + 1 + k for k, key in enumerate(others)}
    return np.array([behind.get((s, p)) or int(p) for s, p in zip(subsets, persons)], np.int64)


def _read_labels(path: Path, column: dict[str, int]) -> dict[str, list[int]]:
    """Return ``{person: labels}`` of a Label.txt."""
    found: dict[str, list[int]] = {}
    unknown: Counter = Counter()
    other = 0
    for number, line in read_lines(path):
        words = line.split()
        if len(words) == 1 or words[0] in column or words[0] in OTHERS:
            raise ValueError(f"{path}:{number}: expected a person and attributes, found {line!r}")
        row = [-1] * len(column)
        for word in words[1:]:
            word = SPELLINGS.get(word, word)
            if word in column:
                row[column[word]] = 1
            elif word not in OTHERS:
                unknown[word] += 1
        person = _person(words[0])
        other += found.get(person, row) != row
        found[person] = row
    if unknown:
        logger.warning(
            "%s: %d unknown attributes passed over: %s", path, sum(unknown.values()),
            ", ".join(f"{word} ({count})" for word, count in unknown.most_common(5)),
        )  # fmt: skip
    if other:
        logger.warning("%s: %d persons have two different lines; the last one counts", path, other)
    return found


def choose_split(people: np.ndarray, subsets: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return ``{'train', 'val', 'test': positions}``, chosen by persons within every sub-set."""
    held = {"test": set(), "val": set()}
    for number in np.unique(subsets):
        sizes = Counter(people[subsets == number].tolist())
        if len(sizes) < 3:
            continue  # too few persons for three parts: all of them train
        test = hold_out(list(sizes), TEST, seed, sizes)
        rest = Counter({person: n for person, n in sizes.items() if person not in test})
        held["test"] |= test
        held["val"] |= hold_out(list(rest), VAL / (1 - TEST), seed, rest)
    parts = {name: np.flatnonzero(np.isin(people, sorted(held[name]))) for name in held}
    taken = np.concatenate(list(parts.values()))
    return dict(parts, train=np.setdiff1d(np.arange(len(people)), taken))


def read_split(path: Path, ids: list[str]) -> dict[str, np.ndarray]:
    """Return ``{'train', 'val', 'test': positions}`` of a split file.

    Args:
        path: JSON object of lists of images. Only the last parts of a path count: sub-set, perhaps
            ``archive``, file name.
        ids: All images.

    Raises:
        ValueError: It is no such file, or an image is not there or in it twice.
    """
    place = {(name.split("/")[0], name.split("/")[-1]): k for k, name in enumerate(ids)}
    content = read_json(path)
    try:
        lists = {part: list(content.get(part, ())) for part in SPLITS if part != "trainval"}
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f'{path}: a split file is {{"train": [images], "val": [...], "test": [...]}}: {error!r}'
        ) from error
    parts = {}
    for part, names in lists.items():
        keys = [[w for w in str(n).replace("\\", "/").split("/") if w != "archive"] for n in names]
        lost = [n for n, words in zip(names, keys) if tuple(words[-2:]) not in place]
        if lost:
            raise ValueError(f"{path}: {len(lost):,} images of {part} are not there: {lost[0]}")
        parts[part] = np.array([place[tuple(words[-2:])] for words in keys], np.int64)
    every = np.concatenate(list(parts.values()))
    if len(np.unique(every)) < len(every):
        raise ValueError(f"{path}: {len(every) - len(np.unique(every)):,} images come twice")
    return parts
