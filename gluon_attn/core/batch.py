"""What a batch is, and the one definition of how attribute labels are coded.

Annotation files use 1 (positive), -1 (negative) and 0 (unspecified). Everything behind the data
layer sees two arrays instead: ``label`` in {0, 1} and ``mask`` in {0, 1}, where mask 0 means "this
label is not known": it must neither make a gradient nor count in a metric.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

POSITIVE, NEGATIVE, UNSPECIFIED = 1, -1, 0
PADDING = -1  # Batch.index of a row that only fills up the last batch of an evaluation


class Batch(NamedTuple):
    """One batch on its way from ``data`` through ``engine`` to a method.

    Attributes:
        image: ``(B, 3, H, W)`` float32 NDArray, RGB, normalised.
        label: ``(B, A)`` float32 NDArray in {0, 1}.
        mask: ``(B, A)`` float32 NDArray; 0 where the label is unspecified (or the row is padding).
        index: ``(B,)`` int64 NumPy array: the sample's position in its data set, which stays with
            the sample through shuffling; ``PADDING`` for rows that only fill up a batch.
    """

    image: Any
    label: Any
    mask: Any
    index: np.ndarray


class LabelPolicy:
    """How raw labels {1, -1, 0} become ``label`` and ``mask``, for training and for evaluation.

    ===  ===========  =======================  =======================
    raw  meaning      ``'negative'``           ``'masked'``
    ===  ===========  =======================  =======================
    1    positive     label 1, mask 1          label 1, mask 1
    -1   negative     label 0, mask 1          label 0, mask 1
    0    unspecified  label 0, **mask 1**      label 0, **mask 0**
    ===  ===========  =======================  =======================

    The default is what the VAA authors state (issue 1 of their repository): unspecified labels are
    negatives in training and are left out, attribute by attribute, in validation and test.

    Args:
        train: ``'negative'`` or ``'masked'``, for the split called ``train``.
        evaluate: The same for every other split. ``'negative'`` exists only to repeat published
            numbers that were computed that way.

    Raises:
        ValueError: If a choice is neither of the two.
    """

    CHOICES = ("negative", "masked")

    def __init__(self, train="negative", evaluate="masked"):
        for name, choice in (("train", train), ("evaluate", evaluate)):
            if choice not in self.CHOICES:
                raise ValueError(
                    f"label policy {name}={choice!r}: valid are {', '.join(self.CHOICES)}"
                )
        self.train, self.evaluate = train, evaluate

    def encode(self, raw, training):
        """Return ``(label, mask)``, float32, shaped like ``raw``.

        Args:
            raw: Integer array with values in {1, -1, 0}.
            training: Whether the policy for training applies.

        Raises:
            ValueError: If any value is not in {1, -1, 0}.
        """
        raw = np.asarray(raw)
        if not np.isin(raw, (POSITIVE, NEGATIVE, UNSPECIFIED)).all():
            bad = raw[~np.isin(raw, (POSITIVE, NEGATIVE, UNSPECIFIED))]
            raise ValueError(f"raw labels must be 1, -1 or 0, found {np.unique(bad).tolist()}")
        label = (raw == POSITIVE).astype(np.float32)
        choice = self.train if training else self.evaluate
        known = np.ones(raw.shape, bool) if choice == "negative" else raw != UNSPECIFIED
        return label, known.astype(np.float32)

    def __repr__(self):
        return f"LabelPolicy(train={self.train!r}, evaluate={self.evaluate!r})"
