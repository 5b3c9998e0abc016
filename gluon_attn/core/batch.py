"""What a batch is, and the one definition of how attribute labels are coded.

Annotation files use 1 (positive), -1 (negative) and 0 (unspecified). Everything behind the data
layer sees two arrays instead: ``label`` in {0, 1} and ``mask`` in {0, 1}, where mask 0 means "this
label is not known": it must neither make a gradient nor count in a metric.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

POSITIVE, NEGATIVE, UNSPECIFIED = 1, -1, 0
PADDING = -1  # Batch.index of a row that only fills up the last batch of an evaluation


class Batch(NamedTuple):
    """One batch on its way from the data layer to a method."""

    image: Any  # (B, 3, H, W) float32 NDArray, RGB, normalised
    label: Any  # (B, A) float32 NDArray in {0, 1}
    mask: Any  # (B, A) float32 NDArray; 0 where the label is unspecified or the row is padding
    # (B,) int64: position in the data set, whatever the order; or PADDING
    index: NDArray[Any]  # type: ignore[assignment]  # tuple has a method of that name


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
    negatives in training and are left out, attribute by attribute, in validation and test. For
    evaluation ``'negative'`` exists only to repeat published numbers that were computed that way.
    """

    CHOICES = ("negative", "masked")

    def __init__(self, train: str = "negative", evaluate: str = "masked") -> None:
        for name, choice in (("train", train), ("evaluate", evaluate)):
            if choice not in self.CHOICES:
                raise ValueError(
                    f"label policy {name}={choice!r}: valid are {', '.join(self.CHOICES)}"
                )
        self.train, self.evaluate = train, evaluate

    def encode(self, raw: Any, training: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return ``(label, mask)``, float32, of integers in {1, -1, 0} of the same shape."""
        raw = np.asarray(raw)
        valid = np.isin(raw, (POSITIVE, NEGATIVE, UNSPECIFIED))
        if not valid.all():
            raise ValueError(
                f"raw labels must be 1, -1 or 0, found {np.unique(raw[~valid]).tolist()}"
            )
        choice = self.train if training else self.evaluate
        known = np.ones(raw.shape, bool) if choice == "negative" else raw != UNSPECIFIED
        return (raw == POSITIVE).astype(np.float32), known.astype(np.float32)

    def __repr__(self) -> str:
        return f"LabelPolicy(train={self.train!r}, evaluate={self.evaluate!r})"
