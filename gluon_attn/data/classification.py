"""Single-label data sets: every picture has exactly one of K classes.

To everything behind the data layer such a set is an attribute data set whose schema is one
multi-class attribute called ``class``; labels are one-hot rows, made when they are asked for.
"""

from __future__ import annotations

import collections

import numpy as np

from gluon_attn.core.schema import MULTICLASS, Attribute, Schema
from gluon_attn.data.base import AttributeDataset
from gluon_attn.data.one_hot import OneHot
from gluon_attn.data.protocol import HOLDOUT, check_split

ATTRIBUTE = "class"
HELD_OUT = ("train", "val", "trainval", "test")  # splits where the authors publish two


def official_split(split, training, test, targets, holdout=HOLDOUT, seed=0):
    """Return the positions of a split where a data set comes as a training and a test part.

    'trainval' is the whole training part, 'test' the test part. 'val' is a share of every class of
    the training part, chosen by the seed, and 'train' the rest.

    Args:
        split: One of ``HELD_OUT``.
        training, test: Positions of the two parts.
        targets: ``(N,)`` class numbers of all samples.
        holdout: Share of the training part that is the validation split.
        seed: Seed of that choice.

    Returns:
        ``(n,)`` int64, ascending within each part.

    Raises:
        ValueError: If the split is unknown or the share is not between 0 and 1.
    """
    check_split(split, "single-label data", HELD_OUT)
    if not 0 < holdout < 1:
        raise ValueError(f"holdout={holdout}: must lie between 0 and 1, both excluded")
    training, targets = np.asarray(training, np.int64), np.asarray(targets)
    if split in ("trainval", "test"):
        return training if split == "trainval" else np.asarray(test, np.int64)
    held = np.zeros(len(training), bool)
    own = targets[training]
    for k in np.unique(own):
        members = np.flatnonzero(own == k)
        count = min(max(1, round(holdout * len(members))), len(members) - 1)
        order = np.random.RandomState([seed, int(k)]).permutation(len(members))
        held[members[order[:count]]] = True
    return training[held if split == "val" else ~held]


def class_schema(classes):
    """Return the schema of single-label classification; its columns are ``class=NAME``.

    Args:
        classes: Names of the classes, in the order of the logits. They need not differ (ImageNet
            has two kinds of "crane"): repeated ones get their number, ``crane (517)``.

    Raises:
        ValueError: Fewer than two classes.
    """
    names = [str(name) for name in classes]
    times = collections.Counter(names)
    names = [f"{n} ({k})" if times[n] > 1 else n for k, n in enumerate(names)]
    return Schema([Attribute(ATTRIBUTE, MULTICLASS, tuple(names))])


class ClassificationDataset(AttributeDataset):
    """Pictures with one class each; the base of every reader of single-label data.

    ``dataset[i]`` is ``(image, label, mask, i)`` as for every :class:`AttributeDataset`: label is
    one-hot ``(K,)``, mask all ones (all zeros for a picture that is skipped).

    Args:
        classes: K names, in the order of the logits.
        split: 'train', 'val', 'test', ...
        targets: ``(N,)`` class numbers, 0 to K - 1.
        sample_ids: See :class:`AttributeDataset`.
        policy: Part of the readers' common signature; no label is unspecified here.
        on_bad_image: See :class:`AttributeDataset`.

    Raises:
        ValueError: If the split is empty, the pieces do not fit, or a class number is out of range.
    """

    def __init__(self, classes, split, targets, sample_ids, policy=None, on_bad_image="error"):
        schema = class_schema(classes)
        rows = OneHot(targets, len(schema.columns))
        super().__init__(schema.columns, split, rows, sample_ids, policy, on_bad_image, schema)

    @property
    def classes(self):
        """Names of the classes, a tuple."""
        return self.schema.attributes[0].classes

    @property
    def targets(self):
        """Class number of every sample, ``(N,)`` int32."""
        return self.raw.targets

    @property
    def class_counts(self):
        """Pictures of each class, ``(K,)`` int64."""
        return self.raw.class_counts()

    def class_note(self):
        """Return a line about how many classes there are and how many pictures they have."""
        counts = self.class_counts
        least, most = int(counts.argmin()), int(counts.argmax())
        first = f"{counts[least]:,} ({self.classes[least]})"
        size = f"{first} to {counts[most]:,} ({self.classes[most]}) pictures"
        if counts[least] == counts[most]:
            size = f"{counts[most]:,} pictures each"
        return f"\n{self.split}: {len(counts):,} classes of {size}"
