"""PETA from its processed official file: ``PETA.mat`` beside ``images/``.

    PETA.mat, a struct ``peta``, whose fields count by position:
        (1)  19,000 x 109 numbers: 4 columns of ids, then 105 attributes (1, 0, and 2 = uncertain)
        (2)  105 x 1 cell: the attributes' names
        (4)  5 x 1 cell: random partitions, each a struct of train, val and test, columns of picture
             numbers **from 1**
    images/00001.png ... 19000.png

The first 35 attributes are those that papers evaluate; they stay in the order of the file. Public
code re-orders them in groups, so another code's predictions do not fit by position, only by name.

The partitions are random over pictures, many of which show the same person in nearly the same
moment, so many persons are in training and test. Numbers on them are comparable with the
literature and too good for new persons (Jia et al., "Rethinking of Pedestrian Attribute
Recognition: Realistic Datasets and A Strong Baseline", 2020).

Reference: Deng, Luo, Loy, Tang, "Pedestrian Attribute Recognition At Far Distance", ACM MM 2014.
"""

from __future__ import annotations

import numpy as np

from gluon_attn.data.base import DATASETS, AttributeDataset
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts, label_note
from gluon_attn.data.layout import Part, file_part, folder_part
from gluon_attn.data.matfile import load_mat
from gluon_attn.data.protocol import (
    SPLITS,
    binary_labels,
    check_disjoint,
    check_split,
    check_uncertain,
    one_based,
    pick_partition,
    warn_of_other_names,
)
from gluon_attn.data.scan import ImageFolder

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
PARTS = ("train", "val", "test")  # positions in a partition


@DATASETS.register("peta")
class Peta(AttributeDataset):
    """Pedestrians of PETA, the 35 attributes that papers evaluate.

    Args:
        root: Folder that holds ``PETA.mat`` and ``images/``.
        split: 'train', 'val', 'trainval' or 'test'.
        policy, on_bad_image: See :class:`AttributeDataset`.
        partition: Which of the file's random partitions, from 1 (papers mostly use the first).
        uncertain: What label value 2 becomes: 'negative', as in public code and published numbers,
            or 'unspecified'.

    Attributes:
        report: CountReport of this split.

    Raises:
        FileNotFoundError: If the annotation is not there.
        ValueError: If it is malformed; the message names file and field.
    """

    looks_for = "PETA.mat beside images/00001.png, 00002.png, ..."
    valid = SPLITS

    def __init__(
        self, root, split, policy=None, on_bad_image="error", partition=1, uncertain="negative"
    ):
        check_split(split, "PETA")
        check_uncertain(uncertain)
        found = self.require(root, split)
        self.root = found.home
        path, images = (found.path(part) for part in self.parts(split))
        peta = load_mat(path, "peta")
        names, raw = _labels(peta, uncertain)
        warn_of_other_names(names, ATTRIBUTES, path)
        chosen = _positions(peta.field(3), partition, split, len(raw))
        ids = [f"{k + 1:05d}.png" for k in chosen]
        super().__init__(names, split, raw[chosen], ids, policy, on_bad_image)
        self.images = ImageFolder(images, ids[0])
        expected, source = expected_counts(self.root, PUBLISHED)
        rates = RATES if source == "published" else None
        notes = [label_note(self, rates, "public list")] if split == "train" else []
        self.report = CountReport([SplitCount(split, len(self))], expected, source, notes)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        return file_part("PETA.mat"), folder_part("images", apart=True, images=True)

    def path(self, i):
        return self.images / self.sample_ids[i]


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


def _positions(node, partition, split, total):
    """Return the pictures of a split, positions from 0, in the order of the file."""
    chosen = pick_partition(node, partition)
    parts = {name: one_based(chosen.field(k), total) for k, name in enumerate(PARTS)}
    check_disjoint(parts, chosen)
    if split == "trainval":
        return np.concatenate([parts["train"], parts["val"]])
    return parts[split]
