"""RAP, versions 1 and 2, from ``RAP_annotation/RAP_annotation.mat`` beside ``RAP_dataset/``.

Both hold a struct ``RAP_annotation``. Version 1 (41,585 pictures, 51 attributes), by position:

    (1)  5 x 1 cell: random partitions, each a struct of two rows of picture numbers **from 1**:
         training and test
    (2)  41,585 x 92 labels; the first 51 columns are evaluated
    (4)  92 x 1 cell: the attributes' English names
    (6)  41,585 x 1 cell: names of the images
    ``identity``, by name: the person of every image, -1 if not known

Version 2 (84,928 pictures, 54 attributes), by name: ``name``, ``data`` (84,928 x 152),
``attribute`` (152 names), ``selected_attribute`` (54 column numbers **from 1**),
``partition_attribute`` (1 x 5 cell of structs ``train_index``, ``val_index``, ``test_index``),
``person_identity``, likewise.

Version 1 has no validation part. 'train' and 'val' are then made here: a tenth of its training
images, chosen with a seed, is held out (an assumption); 'trainval' is the file's training part. All
images of a known person go to the same side. (Chosen image by image, 974 of the 1,008 known persons
of the validation part would be in training, too.) The files' own partitions are random over images
and do share persons.

Label 2 means "uncertain"; version 1 has 125, all of ``Female``. It is negative by default, as in
most public code; the RAP authors' own scripts keep it apart from the negatives
(``uncertain='unspecified'``).

References: Li, Zhang, Chen, Ling, Huang, "A Richly Annotated Dataset for Pedestrian Attribute
Recognition", 2016; Li, Zhang, Chen, Huang, "A Richly Annotated Pedestrian Dataset for Person
Retrieval in Real Surveillance Scenarios", TIP 2019.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import NamedTuple

import numpy as np

from gluon_attn.data.base import DATASETS, AttributeDataset
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts, label_note
from gluon_attn.data.layout import Part, file_part, folder_part
from gluon_attn.data.matfile import Node, load_mat
from gluon_attn.data.protocol import (
    HOLDOUT,
    SPLITS,
    binary_labels,
    check_disjoint,
    check_split,
    check_uncertain,
    hold_out,
    one_based,
    pick_partition,
    shared_persons,
)
from gluon_attn.data.scan import ImageFolder

logger = logging.getLogger(__name__)

ANNOTATION = "RAP_annotation/RAP_annotation.mat"
IDENTITIES = ("identity", "person_identity")  # of version 1 and 2
UNKNOWN = -1  # a person who is not known
EVALUATED = 51  # of version 1; version 2 lists its own
PUBLISHED = {
    1: {"trainval": {"images": 33268}, "test": {"images": 8317}},
    2: {
        "train": {"images": 50957},
        "val": {"images": 16986},
        "trainval": {"images": 67943},
        "test": {"images": 16985},
    },
}


EARLIER = {"val": "train", "test": "trainval"}  # what a split must not share persons with


class _Tables(NamedTuple):
    """What either version's file holds: Nodes, and positions of the evaluated columns."""

    version: int
    images: Node
    labels: Node
    names: Node
    partitions: Node
    columns: np.ndarray


@DATASETS.register("rap")
class Rap(AttributeDataset):
    """Pedestrians of RAP; the file tells whether it is version 1 or 2.

    Args:
        root: Folder that holds ``RAP_annotation/`` and ``RAP_dataset/``.
        split: 'train', 'val', 'trainval' or 'test'.
        policy, on_bad_image: See :class:`AttributeDataset`.
        partition: Which of the file's random partitions, from 1 (papers mostly use the first).
        uncertain: What label value 2 becomes: 'negative' or 'unspecified'.
        holdout: Version 1: share of the training images that is the validation split.
        seed: Version 1: seed of that choice.

    Attributes:
        version: 1 or 2.
        persons: ``(N,)`` integers, -1 where not known; None if the file names no persons.
        report: CountReport of this split.

    Raises:
        FileNotFoundError: If the annotation is not there.
        ValueError: If it is malformed; the message names file and field.
    """

    looks_for = f"{ANNOTATION} beside RAP_dataset/"
    valid = SPLITS

    def __init__(
        self, root, split, policy=None, on_bad_image="error", partition=1, uncertain="negative",
        holdout=HOLDOUT, seed=0,
    ):  # fmt: skip
        check_split(split, "RAP")
        check_uncertain(uncertain)
        found = self.require(root, split)
        self.root = found.home
        path, folder = (found.path(part) for part in self.parts(split))
        rap = load_mat(path, "RAP_annotation")
        tables = _find_tables(rap)
        self.version = tables.version
        images, names, raw = _read_labels(tables, uncertain)
        persons = _read_persons(rap, len(images))
        parts = _read_parts(tables, partition, len(images), holdout, seed, persons)
        chosen = parts[split]
        self.persons = None if persons is None else persons[chosen]
        ids = [images[k] for k in chosen]
        super().__init__(names, split, raw[chosen], ids, policy, on_bad_image)
        self.images = ImageFolder(folder, ids[0])
        expected, source = expected_counts(self.root, PUBLISHED[self.version])
        notes = [f"\nRAP version {self.version}", label_note(self)] if split == "train" else []
        if split in EARLIER:
            notes.append(_persons_note(split, persons, parts))
        self.report = CountReport([SplitCount(split, len(self))], expected, source, notes)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        annotation = file_part("RAP_annotation.mat", ANNOTATION, "RAP_annotation.mat")
        return annotation, folder_part("RAP_dataset", apart=True, images=True)

    def path(self, i):
        return self.images / self.sample_ids[i]


def _find_tables(rap):
    """Return the file's tables; the fields of version 2 have known names, those of 1 places."""
    if "selected_attribute" in rap.fields:
        names = rap.field("attribute")
        selected = rap.field("selected_attribute")
        columns = one_based(selected, len(names.cells()))
        return _Tables(
            2, rap.field("name"), rap.field("data"), names, rap.field("partition_attribute"),
            columns,
        )  # fmt: skip
    return _Tables(1, rap.field(5), rap.field(1), rap.field(3), rap.field(0), np.arange(EVALUATED))


def _read_labels(tables, uncertain):
    """Return all picture names, the evaluated attributes' names and their labels ``(N, A)``."""
    images, names = tables.images.strings(), tables.names.strings()
    matrix = tables.labels.matrix()
    if matrix.shape != (len(images), len(names)):
        raise tables.labels.error(
            f"{matrix.shape[0]} x {matrix.shape[1]} labels for the {len(images)} pictures of "
            f"{tables.images.place} and the {len(names)} attributes of {tables.names.place}"
        )
    if len(names) <= tables.columns.max():
        raise tables.names.error(f"{len(names)} names; at least {EVALUATED} are needed")
    evaluated = tuple(names[k] for k in tables.columns)
    place = tables.labels.place
    return images, evaluated, binary_labels(matrix[:, tables.columns], evaluated, place, uncertain)


def _read_persons(rap: Node, total: int) -> np.ndarray | None:
    """Return the person of every image, -1 where not known; None if the file does not tell."""
    name = next((name for name in IDENTITIES if name in rap.fields), None)
    if name is None:
        return None
    node = rap.field(name)
    values = (
        [np.ravel(cell.value) for cell in node.cells()] if node.is_cell else np.ravel(node.value)
    )
    try:
        numbers = np.array(
            [float(np.ravel(value)[0]) if np.size(value) else -1 for value in values]
        )
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if len(numbers) != total:
        logger.warning(
            "%s: not one number for each of %d images: persons are taken as not known", node.place,
            total,
        )  # fmt: skip
        return None
    known = np.nan_to_num(numbers, nan=0, posinf=0, neginf=0) > 0
    return np.where(known, np.nan_to_num(numbers), UNKNOWN).astype(np.int64)


def _read_parts(
    tables: _Tables,
    partition: int,
    total: int,
    holdout: float,
    seed: int,
    persons: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Return ``{split: positions from 0}`` of a partition."""
    chosen = pick_partition(tables.partitions, partition)
    keys = ("train_index", "val_index", "test_index") if tables.version == 2 else (0, 1)
    found = [one_based(chosen.field(key), total) for key in keys]
    if tables.version == 1:
        trainval, test = found
        groups = trainval.tolist()
        if persons is not None:  # an image of a person who is not known is a group of its own
            known = persons[trainval]
            groups = np.where(known == UNKNOWN, -1 - trainval, known).tolist()
        held = hold_out(set(groups), holdout, seed, Counter(groups))
        is_held = np.array([group in held for group in groups])
        found = [trainval[~is_held], trainval[is_held], test]
    parts = dict(zip(("train", "val", "test"), found))
    check_disjoint(parts, chosen)
    joint = trainval if tables.version == 1 else np.concatenate(found[:2])
    return dict(parts, trainval=joint)


def _persons_note(split: str, persons: np.ndarray | None, parts: dict[str, np.ndarray]) -> str:
    """Return a line about the persons that a split shares with training."""
    if persons is None:
        return f"{split}: the file names no persons: how many are also in training is not known"
    other = EARLIER[split]
    return shared_persons(split, persons[parts[split]], persons[parts[other]], other, UNKNOWN)
