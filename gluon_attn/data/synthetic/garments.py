"""Single-label crops of people from WIDER-Attribute trees: what they wear below the waist.

The 14 attributes are not exclusive, but four of them nearly settle one question, which makes a
single-label task of the same pictures (the synthetic people above all):

* ``shorts``, ``skirt``, ``jeans``: the attribute of that name is positive;
* ``trousers``: ``longPants`` is positive and ``jeans`` negative.

People of whom none or several of these hold, or whose labels do not tell, are left out and counted.
"""

from __future__ import annotations

import numpy as np

from gluon_attn.data.base import DATASETS
from gluon_attn.data.classification import ClassificationDataset
from gluon_attn.data.counts import CountReport, SplitCount
from gluon_attn.data.layout import Part
from gluon_attn.data.wider import WiderAttribute

GARMENTS = ("shorts", "skirt", "jeans", "trousers")


@DATASETS.register("garments")
class Garments(ClassificationDataset):
    """People of a WIDER-Attribute tree by their lower garment.

    Args:
        root: Folder of WIDER-Attribute, or what ``prepare_data.py synthetic`` wrote.
        split: 'train', 'val', 'trainval' or 'test'.
        policy, on_bad_image: See :class:`gluon_attn.data.classification.ClassificationDataset`.

    Attributes:
        report: CountReport of this split.
        left_out: How many people have no such class.

    Raises:
        FileNotFoundError, ValueError: See :class:`gluon_attn.data.wider.WiderAttribute`.
    """

    looks_for, valid = WiderAttribute.looks_for, WiderAttribute.valid

    def __init__(self, root, split, policy=None, on_bad_image="error"):
        self._people = WiderAttribute(root, split, policy, on_bad_image)
        chosen, targets = choose(self._people.raw, self._people.names)
        self._chosen = chosen
        self.left_out = len(self._people) - len(chosen)
        ids = [self._people.sample_ids[k] for k in chosen]
        super().__init__(GARMENTS, split, targets, ids, policy, on_bad_image)
        notes = [self.class_note(), f"{split}: {self.left_out:,} people left out"]
        self.report = CountReport([SplitCount(split, len(self))], notes=notes)

    @classmethod
    def detect(cls, root, depth=0):
        return False  # the same folder is WIDER-Attribute; ask for this reader by name

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        return WiderAttribute.parts(split)

    def read(self, i):
        return self._people.read(self._chosen[i])


def choose(raw, names):
    """Return ``(positions, class numbers)`` of the people that have exactly one garment.

    Args:
        raw: ``(N, A)`` labels: 1 positive, -1 negative, 0 unspecified.
        names: The A attributes.

    Raises:
        ValueError: If an attribute is not among them.
    """
    lacking = [n for n in ("shorts", "skirt", "jeans", "longPants") if n not in names]
    if lacking:
        raise ValueError(f"the data have no attribute {', '.join(lacking)}")
    label = {name: np.asarray(raw)[:, names.index(name)] for name in names}
    wears = np.stack(
        [
            label["shorts"] == 1,
            label["skirt"] == 1,
            label["jeans"] == 1,
            (label["longPants"] == 1) & (label["jeans"] == -1),
        ],
        axis=1,
    )
    chosen = np.flatnonzero(wears.sum(1) == 1)
    return chosen, wears[chosen].argmax(1)
