r"""Batch-hard triplet loss: learn distances between images of identities.

Hermans, Beyer, Leibe, "In Defense of the Triplet Loss for Person Re-Identification",
arXiv:1703.07737, 2017.

Every image of a batch is an anchor once. Of the batch it gets the hardest positive p, the farthest
image of its identity, and the hardest negative n, the nearest image of another one:

.. math:: L_a = [m + d_{ap} - d_{an}]_+ \quad\text{or}\quad L_a = \log(1 + e^{d_{ap} - d_{an}})

with the Euclidean distance d, not squared (Eq. 5 of the paper; the second form is its "soft
margin"). Batches hold P identities with K images each.

Legend: B batch, D features, C identities of the training set, d distance, m margin.
"""

from __future__ import annotations

from typing import Any

from mxnet.gluon import HybridBlock

Tensor = Any  # NDArray or Symbol

FAR = 1e30  # squared distance of what must not be chosen
TINY = 1e-12  # squared distance below which the gradient is 0: that of the root is infinite at 0


def hardest(F: Any, embedding: Tensor, label: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of the hardest positive and negative of every anchor, and who has both.

    Each is ``(B,)`` float32; row numbers mean nothing where has_both is 0. Rows whose mask is 0
    throughout (padding, unreadable images) are no positives, no negatives and no anchors.
    """
    embedding = F.BlockGrad(embedding)
    # Only differences matter; about their mean the rounding errors of the expansion are small.
    centred = F.broadcast_sub(embedding, F.mean(embedding, axis=0, keepdims=True))
    norm = F.sum(F.square(centred), axis=1)
    pairs = F.broadcast_add(F.expand_dims(norm, 1), F.expand_dims(norm, 0))
    squared = pairs - 2 * F.dot(centred, centred, transpose_b=True)
    row = F.contrib.arange_like(embedding, axis=0)
    itself = F.broadcast_equal(F.expand_dims(row, 1), F.expand_dims(row, 0))
    known = F.max(mask, axis=1)
    known = F.broadcast_mul(F.expand_dims(known, 1), F.expand_dims(known, 0))
    same = (F.dot(label, label, transpose_b=True) > 0.5) * known
    positive, negative = same * (1 - itself), known - same
    farthest = F.argmax(F.where(positive, squared, F.zeros_like(squared) - FAR), axis=1)
    nearest = F.argmin(F.where(negative, squared, F.zeros_like(squared) + FAR), axis=1)
    has_both = F.max(positive, axis=1) * F.max(negative, axis=1)
    return farthest, nearest, has_both


def distance_to(F: Any, embedding: Tensor, rows: Tensor) -> Tensor:
    """Return the Euclidean distance of every row to another, ``(B,)``; ``rows (B,)`` float32.

    It is taken from the difference itself and not from the expansion of its square, which loses
    all digits of small distances. Its gradient is 0 where the distance is below 1e-6.
    """
    difference = embedding - F.take(embedding, rows)
    return F.sqrt(F.maximum(F.sum(F.square(difference), axis=1), TINY))


def violation(F: Any, embedding: Tensor, label: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``d(anchor, hardest positive) - d(anchor, hardest negative)`` and who has both."""
    positive, negative, has_both = hardest(F, embedding, label, mask)
    return distance_to(F, embedding, positive) - distance_to(F, embedding, negative), has_both


class BatchHardTripletLoss(HybridBlock):
    """Batch-hard triplet loss with a fixed margin, in units of the embedding.

    Anchors without a positive or without a negative in the batch have loss 0. Gradients flow to
    the anchor and to both images chosen for it, not through the choice.

    Inputs: embedding ``(B, D)``, label ``(B, C)`` one-hot, mask ``(B, C)``. Output: ``(B,)``, >= 0.
    With a margin of 0 or less, all images at one point would be a minimum.
    """

    def __init__(self, margin: float = 0.3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not margin > 0:
            raise ValueError(f"margin={margin}: must be positive (or use the soft margin)")
        self._margin = float(margin)

    def hybrid_forward(self, F: Any, embedding: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        apart, has_both = violation(F, embedding, label, mask)
        return F.relu(apart + self._margin) * has_both


class SoftTripletLoss(HybridBlock):
    """Batch-hard triplet loss with the soft margin, which keeps pulling after one is reached."""

    def hybrid_forward(self, F: Any, embedding: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        apart, has_both = violation(F, embedding, label, mask)
        return F.Activation(apart, act_type="softrelu") * has_both
