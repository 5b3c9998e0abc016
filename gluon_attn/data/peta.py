"""PETA, from ``PETA.mat`` beside ``images/`` or from its authors' folders.

The first is what papers use::

    PETA.mat, a struct ``peta``, whose fields count by position:
        (1)  19,000 x 109 numbers: image, person, sub-set, person within the sub-set; then 105
             attributes, 1 or 0 (2, elsewhere "uncertain", does not occur)
        (2)  105 x 1 cell: the attributes' names; the first 35 are evaluated, in this order
        (4)  5 x 1 cell: random partitions, each a struct of train, val and test, columns of image
             numbers **from 1**
    images/00001.png ... 19000.png

The authors publish ten folders of images, each with a text of attributes::

    PETA dataset/CUHK/archive/Label.txt     ``0002.png upperBodyBlack lowerBodyJeans ...``
    PETA dataset/CUHK/archive/0002.png
    PETA dataset/VIPeR/archive/Label.txt    ``001 personalMale hairShort ...``
    PETA dataset/VIPeR/archive/001_45.bmp

A line of ``Label.txt`` is a person and the attributes that apply. The person is the part of an
image's name before the first ``_``; in CUHK, where every image is a person of its own, the line has
the whole name. The archive itself was not at hand: this is the authors' ReadMe.txt and public code.

The rows of ``PETA.mat`` are these images sub-set by sub-set, in the order of their names, which is
checked person by person. docs/data.md says which split is taken, and how its parts share persons.

Reference: Deng, Luo, Loy, Tang, "Pedestrian Attribute Recognition At Far Distance", ACM MM 2014.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Dict, Tuple

import numpy as np

from gluon_attn.core.schema import Schema
from gluon_attn.core.text import read_json, read_lines
from gluon_attn.data import protocol
from gluon_attn.data.base import DATASETS, Reader, Samples
from gluon_attn.data.layout import Found, Part, PathLike, file_part, folder_part
from gluon_attn.data.matfile import Node, load_mat
from gluon_attn.data.published_sizes import SplitCount, label_note, split_counts
from gluon_attn.data.scan import is_image_name, list_images

logger = logging.getLogger(__name__)

# Positive rates of training images in a list that other authors published (11,400 images).
RATES = dict(
    personalLess30=0.50, personalLess45=0.33, personalLess60=0.10, personalLarger60=0.06,
    carryingBackpack=0.20, carryingOther=0.20, lowerBodyCasual=0.86, upperBodyCasual=0.85,
    lowerBodyFormal=0.14, upperBodyFormal=0.13, accessoryHat=0.10, upperBodyJacket=0.07,
    lowerBodyJeans=0.31, footwearLeatherShoes=0.29, upperBodyLogo=0.04, hairLong=0.24,
    personalMale=0.55, carryingMessengerBag=0.30, accessoryMuffler=0.08, accessoryNothing=0.75,
    carryingNothing=0.27, upperBodyPlaid=0.03, carryingPlasticBags=0.08, footwearSandals=0.02,
    footwearShoes=0.36, lowerBodyShorts=0.04, upperBodyShortSleeve=0.14, lowerBodyShortSkirt=0.05,
    footwearSneaker=0.22, upperBodyThinStripes=0.02, accessorySunglasses=0.03,
    lowerBodyTrousers=0.51, upperBodyTshirt=0.08, upperBodyOther=0.46, upperBodyVNeck=0.01,
)  # fmt: skip
ATTRIBUTES = tuple(RATES)
IDS = 4  # columns before the attributes
PERSON, SUBSET, NUMBER = 1, 2, 3  # of them: person, sub-set, person within the sub-set
PARTS = ("train", "val", "test")  # positions in a partition
# Images of each sub-set; in the order of column 3 of PETA.mat, where they are 1 to 10.
SUBSETS = {
    "3DPeS": 1012, "CAVIAR4REID": 1220, "CUHK": 4563, "GRID": 1275, "i-LID": 477, "MIT": 888,
    "PRID": 1134, "SARC3D": 200, "TownCentre": 6967, "VIPeR": 1264,
}  # fmt: skip
PLACES = ("PETA dataset", "PETA_dataset", "PETA/PETA dataset", "PETA", ".")
SPELLINGS = {"footwearSneakers": "footwearSneaker"}
COLOURS = "Black Blue Brown Green Grey Orange Pink Purple Red White Yellow".split()
# Attributes beside the 35 that are evaluated; the last four were discarded by the authors.
OTHERS = {part + c for part in ("upperBody", "lowerBody", "hair", "footwear") for c in COLOURS} | {
    *(
        "accessoryHeadphone personalLess15 carryingBabyBuggy hairBald footwearBoots lowerBodyCapri "
        "carryingShoppingTro carryingUmbrella personalFemale carryingFolder accessoryHairBand "
        "lowerBodyHotPants accessoryKerchief lowerBodyLongSkirt upperBodyLongSleeve lowerBodyPlaid "
        "lowerBodyThinStripes carryingLuggageCase upperBodyNoSleeve hairShort footwearStocking "
        "upperBodySuit carryingSuitcase lowerBodySuits upperBodySweater upperBodyThickStripes "
        "accessoryFaceMask lowerBodyLogo accessoryShawl lowerBodyThickStripes"
    ).split()
}
TEST, VAL = 0.4, 0.1  # of the images of a sub-set, as in the partitions of PETA.mat
Parts = Dict[str, np.ndarray]  # positions of 'train', 'val' and 'test'
Copy = Tuple[Samples, np.ndarray, Parts]  # all images, ``(N,)`` the person on each, the split


@DATASETS.register("peta")
class Peta(Reader):
    """Pedestrians of PETA, the 35 attributes that papers evaluate.

    Args:
        partition: Which of the file's random partitions, from 1 (papers mostly use the first).
        uncertain: What label value 2 becomes: 'negative', as in public code and published numbers,
            or 'unspecified'. The official file holds none.
        seed, split_file: The authors' folders: of the split by persons, or see :func:`read_split`.
    """

    title = "PETA"
    looks_for = (
        "PETA.mat beside images/00001.png, 00002.png, ...; or the authors' folders, "
        "PETA dataset/CUHK/archive/Label.txt, .../0002.png and so on"
    )
    detection = 30
    valid, settings = protocol.SPLITS, ("partition", "uncertain", "seed", "split_file")
    published = split_counts("images", train=9500, val=1900, trainval=11400, test=7600)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        folder = folder_part("images", "images", *_places("archive"), apart=True, images=True)
        return file_part("PETA.mat", "PETA.mat", *_places("archive/Label.txt")), folder

    def samples(
        self,
        found: Found,
        split: str,
        partition: int = 1,
        uncertain: str = "negative",
        *,
        seed: int = 0,
        split_file: PathLike | None = None,
    ) -> Samples:
        home = found.home
        named = (home / "PETA.mat").is_file() and (home / "images").is_dir()
        base = None if named else find_base(home)
        self._rates: dict[str, float] | None = None if base else RATES
        if base is None:
            path, folder = found.each()
            copy, persons, parts = _read_mat(path, folder, partition, uncertain)
        else:
            protocol.check_uncertain(uncertain, False, base)
            mat = home / "PETA.mat"
            copy, persons, parts = _read_folders(base, mat, partition, seed, split_file=split_file)
        chosen = np.concatenate([parts[part] for part in protocol.parts_of(split)])
        self.persons, ids = persons[chosen], [copy.ids[k] for k in chosen]
        counts, published = [SplitCount(split, len(ids))], self.published
        notes = copy.notes if split == "train" else []
        if base:  # the authors publish no split, only how many images a sub-set has
            every = [name.split("/")[0] for name in copy.ids] if split == "train" else []
            counts += [SplitCount(name, every.count(name)) for name in SUBSETS if every]
            published = split_counts("images", **SUBSETS) if every else {}
        earlier = {"val": ("train",), "test": ("train", "val")}.get(split, ())
        if earlier:
            others = persons[np.concatenate([parts[name] for name in earlier])]
            notes = [protocol.shared_persons(split, self.persons, others, " and ".join(earlier))]
        found_here = replace(copy, raw=copy.raw[chosen], ids=ids)
        return replace(found_here, notes=notes, counts=counts, published=published)

    def remarks(self, source: str | None) -> list[str]:
        rates = self._rates if source == "published" else None
        return [label_note(self, rates, "public list")] if self.split == "train" else []


def _read_mat(path: Path, folder: Path, partition: int, uncertain: str) -> Copy:
    """Read ``PETA.mat``, whose images are ``images/00001.png`` and so on."""
    peta = load_mat(path, "peta")
    names, raw = _labels(peta, uncertain)
    if names != ATTRIBUTES:
        odd = [n for n in names if n not in ATTRIBUTES] or ["only the order"]
        logger.warning("%s: other attributes than published: %s", path, ", ".join(odd[:5]))
    persons = peta.field(0).matrix()[:, PERSON]
    ids = [f"{k + 1:05d}.png" for k in range(len(raw))]
    parts = _partition(peta, partition, len(raw))
    return Samples(Schema.binary(names), raw, ids, folder), persons, parts


def _labels(peta: Node, uncertain: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the 35 attributes and the ``(N, 35)`` labels of all images."""
    table, listed = peta.field(0), peta.field(1)
    matrix, names = table.matrix(), listed.strings()
    if len(names) < len(ATTRIBUTES):
        raise listed.error(f"{len(names)} names; at least {len(ATTRIBUTES)} are needed")
    if matrix.shape[1] != IDS + len(names):
        wanted = f"{IDS} of ids and one for each of the {len(names)} names"
        raise table.error(f"{matrix.shape[1]} columns; expected {wanted}")
    evaluated = tuple(names[: len(ATTRIBUTES)])
    values = matrix[:, IDS : IDS + len(evaluated)]
    return evaluated, protocol.binary_labels(values, evaluated, table.place, uncertain)


def _partition(peta: Node, partition: int, total: int) -> Parts:
    """Return a partition of the file, in its order."""
    chosen = protocol.pick_partition(peta.field(3), partition)
    parts = {name: protocol.one_based(chosen.field(k), total) for k, name in enumerate(PARTS)}
    protocol.check_disjoint(parts, chosen)
    return parts


def _places(name: str) -> list[str]:
    """Return where an ``archive/`` or what is in it may be, as paths from the data set's folder."""
    return [f"{place}/{subset}/{name}" for place in PLACES for subset in SUBSETS]


def find_base(root: Path) -> Path | None:
    """Return the folder that holds sub-sets with ``archive/Label.txt``, or None."""
    found = (root / place for place in _places("archive/Label.txt"))
    return next((path.parents[2] for path in found if path.is_file()), None)


def _read_folders(
    base: Path, mat: Path, partition: int, seed: int, *, split_file: PathLike | None
) -> Copy:
    """Read the authors' folders; the split is that of a file, of PETA.mat, or chosen here."""
    ids, subsets, numbers, raw, notes = read_archive(base)
    people = subsets * 1_000_000 + numbers
    if split_file:
        parts, source = read_split(Path(split_file), ids), f"split of {split_file}"
    elif mat.is_file():
        peta = load_mat(mat, "peta")
        _compare_rows(peta, np.stack([subsets, numbers], 1), ids, raw, paths=(mat, base))
        parts = _partition(peta, partition, len(ids))
        source = f"partition {partition} of {mat}"
    else:
        parts = choose_split(people, subsets, seed)
        source = f"split chosen by persons, seed {seed}: not that of papers"
    return Samples(Schema.binary(ATTRIBUTES), raw, ids, base, [*notes, source]), people, parts


def _compare_rows(
    peta: Node, ours: np.ndarray, ids: list[str], raw: np.ndarray, *, paths: tuple[Path, Path]
) -> None:
    """Refuse a PETA.mat whose rows are not the folders' images; warn of other labels."""
    path, base = paths
    theirs = peta.field(0).matrix()[:, [SUBSET, NUMBER]]
    if len(ours) != len(theirs) or (ours != theirs).any():
        at = min(len(ours), len(theirs)) - 1
        if len(ours) == len(theirs):
            at = int(np.argmax((ours != theirs).any(1)))
        subset = list(SUBSETS)[int(theirs[at, 0]) - 1] if 0 < theirs[at, 0] <= 10 else "?"
        raise ValueError(
            f"{path}: its {len(theirs):,} rows are not the {len(ours):,} images of {base}: row "
            f"{at + 1} is person {theirs[at, 1]} of {subset}, the image is {ids[at]}. Complete the "
            "folders, or take PETA.mat away: then the split is chosen by persons"
        )
    names, labels = _labels(peta, "negative")
    differ = int((labels != raw).any(1).sum()) if names == ATTRIBUTES else 0
    if differ:
        logger.warning(
            "%s: %d images have other labels than in Label.txt, whose labels are used", path, differ
        )


def read_archive(base: Path) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Read images and labels of all sub-sets that are there, in the order of PETA.mat's rows.

    Returns paths relative to ``base``; the sub-sets' numbers from 1, persons' numbers within the
    sub-set, labels ``(N, 35)`` int8; lines for the report. ValueError: an image without a line of
    labels, or a malformed line; file and line are named.
    """
    ids, subsets, persons, rows, notes = [], [], [], [], []
    for number, subset in enumerate(SUBSETS, 1):
        path = base / subset / "archive" / "Label.txt"
        if not path.is_file():
            notes.append(f"{subset} is missing: no {path}")
            continue
        labels = _read_labels(path)
        found = list_images(path.parent, deep=False)
        for name in found:
            person = _person(name)
            if person not in labels:
                raise ValueError(f"{path}: no line for '{person}', the person of {name}")
            ids.append(f"{subset}/archive/{name}")
            subsets.append(number)
            persons.append(person)
            rows.append(labels[person])
        without = len(set(labels) - {_person(name) for name in found})
        notes += [f"{subset}: {without:,} lines of Label.txt have no image"] if without else []
    if not ids:
        raise ValueError(f"{base}: no image beside the Label.txt files")
    numbers = _numbers(subsets, persons)
    return ids, np.array(subsets), numbers, np.array(rows, np.int8), notes


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


def _read_labels(path: Path) -> dict[str, list[int]]:
    """Return ``{person: labels}`` of a Label.txt."""
    column = {name: k for k, name in enumerate(ATTRIBUTES)}
    found: dict[str, list[int]] = {}
    unknown: Counter = Counter()
    other = 0
    for number, line in read_lines(path):
        first, *words = line.split()
        if not words or first in column or first in OTHERS:
            raise ValueError(f"{path}:{number}: expected a person and attributes, found {line!r}")
        row = [-1] * len(column)
        for word in (SPELLINGS.get(word, word) for word in words):
            if word in column:
                row[column[word]] = 1
            elif word not in OTHERS:
                unknown[word] += 1
        person = _person(first)
        other += found.get(person, row) != row
        found[person] = row
    if unknown:
        shown = ", ".join(f"{word} ({count})" for word, count in unknown.most_common(5))
        total = sum(unknown.values())
        logger.warning("%s: %d unknown attributes passed over: %s", path, total, shown)
    if other:
        logger.warning("%s: %d persons have two different lines; the last one counts", path, other)
    return found


def choose_split(people: np.ndarray, subsets: np.ndarray, seed: int) -> Parts:
    """Return a split that is chosen by persons within every sub-set."""
    held: dict[str, set] = {"test": set(), "val": set()}
    for number in np.unique(subsets):
        sizes = Counter(people[subsets == number].tolist())
        if len(sizes) < 3:
            continue  # too few persons for three parts: all of them train
        test = protocol.hold_out(list(sizes), TEST, seed, sizes)
        rest = Counter({person: n for person, n in sizes.items() if person not in test})
        held["test"] |= test
        held["val"] |= protocol.hold_out(list(rest), VAL / (1 - TEST), seed, rest)
    parts = {name: np.flatnonzero(np.isin(people, sorted(held[name]))) for name in held}
    taken = np.concatenate(list(parts.values()))
    return dict(parts, train=np.setdiff1d(np.arange(len(people)), taken))


def read_split(path: Path, ids: list[str]) -> Parts:
    """Return the split of a JSON file, ``{"train": [images], "val": [...], "test": [...]}``.

    Only the last parts of an image's path count: sub-set, perhaps ``archive``, file name.
    ValueError: it is no such file, or an image is not there or in it twice.
    """
    place = {(name.split("/")[0], name.split("/")[-1]): k for k, name in enumerate(ids)}
    content = read_json(path)
    try:
        lists = {part: list(content.get(part, ())) for part in PARTS}
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
        parts[part] = np.array([place[words[-2], words[-1]] for words in keys], np.int64)
    every = np.concatenate(list(parts.values()))
    if len(np.unique(every)) < len(every):
        raise ValueError(f"{path}: {len(every) - len(np.unique(every)):,} images come twice")
    return parts
