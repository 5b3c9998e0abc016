"""RAP, versions 1 and 2, from ``RAP_annotation/RAP_annotation.mat`` beside ``RAP_dataset/``.

Both hold a struct ``RAP_annotation``. Version 1 (41,585 images, 51 attributes), by position:

    (1)  5 x 1 cell: random partitions, each a struct of two rows of image numbers **from 1**:
         training and test
    (2)  41,585 x 92 labels; the first 51 columns are evaluated
    (4)  92 x 1 cell: the attributes' English names
    (6)  41,585 x 1 cell: names of the images
    ``identity``, by name: the person of every image, -1 if not known

Version 2 (84,928 images, 54 attributes), by name: ``name``, ``data`` (84,928 x 152),
``attribute`` (152 names), ``selected_attribute`` (54 column numbers **from 1**),
``partition_attribute`` (1 x 5 cell of structs ``train_index``, ``val_index``, ``test_index``),
``person_identity``, likewise.

Version 1 has no validation part: a tenth of its training images, chosen with a seed, is held out
(an assumption); all images of a known person go to the same side. Label 2 means "uncertain"; it is
negative by default, as in most public code.

References: Li, Zhang, Chen, Ling, Huang, "A Richly Annotated Dataset for Pedestrian Attribute
Recognition", 2016; Li, Zhang, Chen, Huang, "A Richly Annotated Pedestrian Dataset for Person
Retrieval in Real Surveillance Scenarios", TIP 2019.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, Mapping

import numpy as np

from gluon_attn.core.schema import Schema
from gluon_attn.data import protocol
from gluon_attn.data.base import DATASETS, Reader, Samples
from gluon_attn.data.layout import Found, Part, file_part, folder_part
from gluon_attn.data.matfile import Node, load_mat
from gluon_attn.data.published_sizes import split_counts

logger = logging.getLogger(__name__)

ANNOTATION = "RAP_annotation/RAP_annotation.mat"
# Of images, labels, names and partitions: places in version 1, names in version 2.
TABLES: Mapping[int, tuple[Any, ...]] = {
    1: (5, 1, 3, 0),
    2: ("name", "data", "attribute", "partition_attribute"),
}
IDENTITIES = ("identity", "person_identity")  # of version 1 and 2
UNKNOWN = -1  # a person who is not known
EVALUATED = 51  # of version 1; version 2 lists its own
PUBLISHED = {
    1: split_counts("images", trainval=33268, test=8317),
    2: split_counts("images", train=50957, val=16986, trainval=67943, test=16985),
}
EARLIER = {"val": "train", "test": "trainval"}  # what a split must not share persons with


@DATASETS.register("rap")
class Rap(Reader):
    """Pedestrians of RAP; the file tells whether it is version 1 or 2.

    Args:
        partition: Which of the file's random partitions, from 1 (papers mostly use the first).
        uncertain: What label value 2 becomes: 'negative' or 'unspecified'.
        holdout, seed: Version 1: share of the training images that is 'val', and its choice.

    ``persons`` are ``(N,)`` integers, -1 where not known; None if the file names no persons.
    """

    title = "RAP"
    looks_for = f"{ANNOTATION} beside RAP_dataset/"
    detection = 40
    valid, settings = protocol.SPLITS, ("partition", "uncertain", "holdout", "seed")

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        annotation = file_part("RAP_annotation.mat", ANNOTATION, "RAP_annotation.mat")
        return annotation, folder_part("RAP_dataset", apart=True, images=True)

    def samples(
        self,
        found: Found,
        split: str,
        partition: int = 1,
        uncertain: str = "negative",
        *,
        holdout: float = protocol.HOLDOUT,
        seed: int = 0,
    ) -> Samples:
        path, folder = found.each()
        rap = load_mat(path, "RAP_annotation")
        self.version = 2 if "selected_attribute" in rap.fields else 1
        listed, names, raw = _read_labels(rap, self.version, uncertain)
        persons = _read_persons(rap, len(listed))
        cell = protocol.pick_partition(rap.field(TABLES[self.version][3]), partition)
        if self.version == 2:
            fields = {name: cell.field(f"{name}_index") for name in ("train", "val", "test")}
            parts = {n: protocol.one_based(field, len(listed)) for n, field in fields.items()}
            joint = np.concatenate([parts["train"], parts["val"]])
        else:
            joint, test = (protocol.one_based(cell.field(key), len(listed)) for key in (0, 1))
            parts = dict(_hold_out(joint, persons, holdout, seed), test=test)
        protocol.check_disjoint(parts, cell)
        parts["trainval"] = joint
        chosen = parts[split]
        self.persons: np.ndarray | None = None if persons is None else persons[chosen]
        notes = [f"RAP version {self.version}"] if split == "train" else []
        other = EARLIER.get(split)
        if other and persons is not None:
            own, others = persons[chosen], persons[parts[other]]
            notes.append(protocol.shared_persons(split, own, others, other, unknown=UNKNOWN))
        elif other:
            reason = "the file names no persons"
            notes.append(f"{split}: {reason}: how many are also in training is not known")
        ids, published = [listed[k] for k in chosen], PUBLISHED[self.version]
        schema = Schema.binary(names)
        return Samples(schema, raw[chosen], ids, folder, notes=notes, published=published)


def _read_labels(
    rap: Node, version: int, uncertain: str
) -> tuple[list[str], list[str], np.ndarray]:
    """Return all image names, the evaluated attributes' names and their labels ``(N, A)``."""
    images, labels, titles, _ = map(rap.field, TABLES[version])
    columns = np.arange(EVALUATED)
    if version == 2:
        columns = protocol.one_based(rap.field("selected_attribute"), len(titles.cells()))
    listed, names = images.strings(), titles.strings()
    matrix = protocol.labels_of_images(labels, listed, names)
    if len(names) <= columns.max():
        raise titles.error(f"{len(names)} names; at least {EVALUATED} are needed")
    evaluated, values = [names[k] for k in columns], matrix[:, columns]
    return listed, evaluated, protocol.binary_labels(values, evaluated, labels.place, uncertain)


def _read_persons(rap: Node, total: int) -> np.ndarray | None:
    """Return the person of every image, -1 where not known; None if the file does not tell."""
    name = next((name for name in IDENTITIES if name in rap.fields), None)
    if name is None:
        return None
    node = rap.field(name)
    values = [np.ravel(c.value) for c in node.cells()] if node.is_cell else np.ravel(node.value)
    try:
        numbers = np.array([float(np.ravel(v)[0]) if np.size(v) else -1 for v in values])
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if len(numbers) != total:
        reason = "not one number for each of %d images: persons are taken as not known"
        logger.warning(f"%s: {reason}", node.place, total)
        return None
    known = np.nan_to_num(numbers, nan=0, posinf=0, neginf=0) > 0
    return np.where(known, np.nan_to_num(numbers), UNKNOWN).astype(np.int64)


def _hold_out(
    training: np.ndarray, persons: np.ndarray | None, holdout: float, seed: int
) -> dict[str, np.ndarray]:
    """Return 'train' and 'val' out of a training part; a known person's images stay together."""
    groups = training.tolist()
    if persons is not None:  # an image of a person who is not known is a group of its own
        known = persons[training]
        groups = np.where(known == UNKNOWN, -1 - training, known).tolist()
    held = protocol.hold_out(set(groups), holdout, seed, Counter(groups))
    is_held = np.array([group in held for group in groups])
    return {"train": training[~is_held], "val": training[is_held]}
