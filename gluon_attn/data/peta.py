"""PETA, from ``PETA.mat`` beside ``images/`` or from its authors' folders (``peta_folders``).

    PETA.mat, a struct ``peta``, whose fields count by position:
        (1)  19,000 x 109 numbers: image, person, sub-set, person within the sub-set; then 105
             attributes, 1 or 0 (2, elsewhere "uncertain", does not occur)
        (2)  105 x 1 cell: the attributes' names
        (4)  5 x 1 cell: random partitions, each a struct of train, val and test, columns of picture
             numbers **from 1**
    images/00001.png ... 19000.png

The first 35 attributes are those that papers evaluate; they stay in the order of the file. Public
code re-orders them in groups, so another code's predictions do not fit by position, only by name.

The partitions are random over images, many of which show the same person in nearly the same
moment: 57.7 to 58.8 % of the test images of a partition show a person of its training or validation
part (column 2). Numbers on them are comparable with the literature and too good for new persons
(Jia et al., "Rethinking of Pedestrian Attribute Recognition: Realistic Datasets and A Strong
Baseline", 2020).

Reference: Deng, Luo, Loy, Tang, "Pedestrian Attribute Recognition At Far Distance", ACM MM 2014.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gluon_attn.core.batch import LabelPolicy
from gluon_attn.data import peta_folders
from gluon_attn.data.base import DATASETS, AttributeDataset
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts, label_note
from gluon_attn.data.layout import Part, file_part, folder_part
from gluon_attn.data.matfile import Node, load_mat
from gluon_attn.data.peta_folders import SUBSETS, Archive
from gluon_attn.data.protocol import (
    SPLITS,
    announce_uncertain,
    binary_labels,
    check_disjoint,
    check_split,
    check_uncertain,
    one_based,
    pick_partition,
    shared_persons,
    warn_of_other_names,
)
from gluon_attn.data.scan import ImageFolder

logger = logging.getLogger(__name__)

ATTRIBUTES = (
    "personalLess30", "personalLess45", "personalLess60", "personalLarger60", "carryingBackpack",
    "carryingOther", "lowerBodyCasual", "upperBodyCasual", "lowerBodyFormal", "upperBodyFormal",
    "accessoryHat", "upperBodyJacket", "lowerBodyJeans", "footwearLeatherShoes", "upperBodyLogo",
    "hairLong", "personalMale", "carryingMessengerBag", "accessoryMuffler", "accessoryNothing",
    "carryingNothing", "upperBodyPlaid", "carryingPlasticBags", "footwearSandals", "footwearShoes",
    "lowerBodyShorts", "upperBodyShortSleeve", "lowerBodyShortSkirt", "footwearSneaker",
    "upperBodyThinStripes", "accessorySunglasses", "lowerBodyTrousers", "upperBodyTshirt",
    "upperBodyOther", "upperBodyVNeck",
)  # fmt: skip
# Positive rates of training pictures in a list that other authors published (11,400 pictures).
RATES = dict(zip(ATTRIBUTES, (
    0.50, 0.33, 0.10, 0.06, 0.20, 0.20, 0.86, 0.85, 0.14, 0.13, 0.10, 0.07, 0.31, 0.29, 0.04, 0.24,
    0.55, 0.30, 0.08, 0.75, 0.27, 0.03, 0.08, 0.02, 0.36, 0.04, 0.14, 0.05, 0.22, 0.02, 0.03, 0.51,
    0.08, 0.46, 0.01,
)))  # fmt: skip
PUBLISHED = {
    "train": {"images": 9500},
    "val": {"images": 1900},
    "trainval": {"images": 11400},
    "test": {"images": 7600},
}
IDS = 4  # columns before the attributes
PERSON, SUBSET, NUMBER = 1, 2, 3  # of them: person, sub-set, person within the sub-set
PARTS = ("train", "val", "test")  # positions in a partition
FOLDERS = "; or the authors' folders, PETA dataset/CUHK/archive/Label.txt, .../0002.png and so on"


class _Samples(NamedTuple):
    """All images: their files, labels and persons, and which of them make a split."""

    folder: Path
    ids: list
    names: tuple
    raw: np.ndarray
    persons: np.ndarray
    parts: dict
    notes: list


@DATASETS.register("peta")
class Peta(AttributeDataset):
    """Pedestrians of PETA, the 35 attributes that papers evaluate.

    Args:
        root: Folder that holds ``PETA.mat`` and ``images/``, or the authors' ``PETA dataset/``.
        split: 'train', 'val', 'trainval' or 'test'.
        policy, on_bad_image: See :class:`AttributeDataset`.
        partition: Which of the file's random partitions, from 1 (papers mostly use the first).
        uncertain: What label value 2 becomes: 'negative', as in public code and published numbers,
            or 'unspecified'. The official file holds none.
        seed: The authors' folders without ``PETA.mat``: seed of the split by persons.
        split_file: The authors' folders: JSON file of a split, see ``peta_folders.read_split``.

    Attributes:
        persons: ``(N,)`` integers, the same for images of one person.
        report: CountReport of this split.

    Raises:
        FileNotFoundError: If the annotation is not there.
        ValueError: If it is malformed; the message names file and field.
    """

    looks_for = "PETA.mat beside images/00001.png, 00002.png, ..." + FOLDERS
    valid = SPLITS

    def __init__(
        self,
        root: str | Path,
        split: str,
        policy: LabelPolicy | None = None,
        on_bad_image: str = "error",
        partition: int = 1,
        uncertain: str = "negative",
        seed: int = 0,
        split_file: str | Path | None = None,
    ) -> None:
        check_split(split, "PETA")
        check_uncertain(uncertain)
        located = self.require(root, split)
        self.root = located.home
        base = _find_folders(self.root)
        if base is not None:
            found = _read_folders(self.root, base, partition, uncertain, seed, split_file)
        else:
            path, images = (located.path(part) for part in self.parts(split))
            found = _read_mat(path, images, partition, uncertain)
        chosen = _positions(found.parts, split)
        self.persons, ids = found.persons[chosen], [found.ids[k] for k in chosen]
        super().__init__(found.names, split, found.raw[chosen], ids, policy, on_bad_image)
        self.images = ImageFolder(found.folder, ids[0])
        self.report = self._report(found, base is not None)

    def _report(self, found: _Samples, folders: bool) -> CountReport:
        counts, published, notes = [SplitCount(self.split, len(self))], PUBLISHED, []
        if folders:  # the authors publish no split, only how many images a sub-set has
            every = [name.split("/")[0] for name in found.ids] if self.split == "train" else []
            counts += [SplitCount(name, every.count(name)) for name in SUBSETS if every]
            published = {name: {"images": n} for name, n in SUBSETS.items()} if every else None
        expected, source = expected_counts(self.root, published)
        if self.split == "train":
            rates = RATES if source == "published" and not folders else None
            notes = [label_note(self, rates, "public list"), *found.notes]
        earlier = {"val": ("train",), "test": ("train", "val")}.get(self.split, ())
        if earlier:
            others = found.persons[np.concatenate([found.parts[name] for name in earlier])]
            notes.append(shared_persons(self.split, self.persons, others, " and ".join(earlier)))
        return CountReport(counts, expected, source, notes)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        return (
            file_part("PETA.mat", "PETA.mat", *peta_folders.places("archive/Label.txt")),
            folder_part(
                "images", "images", *peta_folders.places("archive"), apart=True, images=True
            ),
        )

    def path(self, i):
        return self.images / self.sample_ids[i]


def _find_folders(home: Path) -> Path | None:
    """Return the folder of the authors' sub-sets, unless the renamed images are there."""
    named = (home / "PETA.mat").is_file() and (home / "images").is_dir()
    return None if named else peta_folders.find_base(home)


def _read_mat(path: Path, images: Path, partition: int, uncertain: str) -> _Samples:
    """Read ``PETA.mat``, whose images are ``images/00001.png`` and so on."""
    peta = load_mat(path, "peta")
    names, raw = _labels(peta, uncertain)
    warn_of_other_names(names, ATTRIBUTES, path)
    persons = peta.field(0).matrix()[:, PERSON]
    ids = [f"{k + 1:05d}.png" for k in range(len(raw))]
    parts = _partition(peta.field(3), partition, len(raw))
    return _Samples(images, ids, names, raw, persons, parts, [])


def _read_folders(
    root: Path,
    base: Path,
    partition: int,
    uncertain: str,
    seed: int,
    split_file: str | Path | None,
) -> _Samples:
    """Read the authors' folders; the split is that of a file, of PETA.mat, or chosen here."""
    archive, path = peta_folders.read_archive(base, ATTRIBUTES), root / "PETA.mat"
    announce_uncertain(uncertain, False, base)
    if split_file:
        parts = peta_folders.read_split(Path(split_file), archive.ids)
        source = f"split of {split_file}"
    elif path.is_file():
        parts = _parts_of_rows(load_mat(path, "peta"), partition, archive, path)
        source = f"partition {partition} of {path}"
    else:
        parts = peta_folders.choose_split(archive.people, archive.subsets, seed)
        source = f"split chosen by persons, seed {seed}: not that of papers"
    return _Samples(
        base, archive.ids, ATTRIBUTES, archive.raw, archive.people, parts, [*archive.notes, source]
    )


def _parts_of_rows(peta: Node, partition: int, archive: Archive, path: Path) -> dict:
    """Return a partition of PETA.mat for the folders' images, which must be its rows."""
    table = peta.field(0).matrix()
    ours = np.stack([archive.subsets, archive.persons], 1)
    theirs = table[:, [SUBSET, NUMBER]]
    if len(ours) != len(theirs) or (ours != theirs).any():
        at = min(len(ours), len(theirs)) - 1
        if len(ours) == len(theirs):
            at = int(np.argmax((ours != theirs).any(1)))
        subset = list(SUBSETS)[int(theirs[at, 0]) - 1] if 0 < theirs[at, 0] <= 10 else "?"
        raise ValueError(
            f"{path}: its {len(theirs):,} rows are not the {len(ours):,} images of {archive.base}: "
            f"row {at + 1} is person {theirs[at, 1]} of {subset}, the image is {archive.ids[at]}. "
            "Complete the folders, or take PETA.mat away: then the split is chosen by persons"
        )
    names, raw = _labels(peta, "negative")
    differ = int((raw != archive.raw).any(1).sum()) if names == ATTRIBUTES else 0
    if differ:
        logger.warning(
            "%s: %d images have other labels than in Label.txt, whose labels are used", path, differ
        )
    return _partition(peta.field(3), partition, len(table))


def _labels(peta, uncertain):
    """Return the names of the 35 attributes and the ``(N, 35)`` labels of all pictures."""
    table, listed = peta.field(0), peta.field(1)
    matrix, names = table.matrix(), listed.strings()
    if len(names) < len(ATTRIBUTES):
        raise listed.error(f"{len(names)} names; at least {len(ATTRIBUTES)} are needed")
    if matrix.shape[1] != IDS + len(names):
        raise table.error(
            f"{matrix.shape[1]} columns; expected {IDS} of ids and one for each of the "
            f"{len(names)} names"
        )
    names = tuple(names[: len(ATTRIBUTES)])
    values = matrix[:, IDS : IDS + len(names)]
    return names, binary_labels(values, names, table.place, uncertain)


def _partition(node: Node, partition: int, total: int) -> dict[str, np.ndarray]:
    """Return ``{part: positions from 0}`` of a partition, in the order of the file."""
    chosen = pick_partition(node, partition)
    parts = {name: one_based(chosen.field(k), total) for k, name in enumerate(PARTS)}
    check_disjoint(parts, chosen)
    return parts


def _positions(parts: dict[str, np.ndarray], split: str) -> np.ndarray:
    """Return the positions of a split."""
    if split == "trainval":
        return np.concatenate([parts["train"], parts["val"]])
    return parts[split]
