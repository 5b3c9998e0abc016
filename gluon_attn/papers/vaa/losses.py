"""The losses of VAA: the weighted focal loss L_w; L_a is the masked cross-entropy with weights.

Deep Imbalanced Attribute Classification using Visual Attention Aggregation, Sarafianos, Xu,
Kakadiaris, ECCV 2018; the focal term is from Focal Loss for Dense Object Detection, Lin et al.,
ICCV 2017.

Legend: B batch, A attributes, z logits, p = sigmoid(z), y label in {0, 1}, m mask in {0, 1}.
"""

from __future__ import annotations

from typing import Any, Sequence

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from gluon_attn.losses.classification import Tensor, mean_over_attributes
from gluon_attn.method import Array

WEIGHTINGS = ("prior", "released", "none")


def positive_weights(prior: Sequence[float], weighting: str) -> tuple[Array, Array]:
    """Return the weights of positives and those of negatives, each ``(A,)`` float32.

    ``prior (A,)`` is the positive fraction a of each attribute in the training set, in [0, 1].
    ``'prior'``: both are exp(-a) (the form under which the loss is cited: an attribute counts more
    the rarer it is). ``'released'``: with r = a / (1 - a) where a <= 0.5 and 1 elsewhere, positives
    exp(1 - r), negatives exp(r) (the authors' code). ``'none'``: 1, for ablations.
    """
    a = np.asarray(prior, dtype=np.float64)
    if a.ndim != 1 or not np.all((a >= 0) & (a <= 1)):
        raise ValueError(f"prior must be a vector of fractions in [0, 1], got {a.tolist()}")
    if weighting == "none":
        positive = negative = np.ones_like(a)
    elif weighting == "prior":
        positive = negative = np.exp(-a)
    elif weighting == "released":
        ratio = np.ones_like(a)
        rare = a <= 0.5
        ratio[rare] = a[rare] / (1 - a[rare])
        positive, negative = np.exp(1 - ratio), np.exp(ratio)
    else:
        raise ValueError(f"weighting {weighting!r}: valid are {', '.join(WEIGHTINGS)}")
    return positive.astype(np.float32), negative.astype(np.float32)


class WeightedFocalLoss(HybridBlock):
    r"""Focal loss with a weight per attribute that follows its prior (VAA's loss L_w).

    .. math:: L = \frac{1}{A} \sum_c m_c w_c \left[ -(1-p_c)^\gamma y_c \log p_c
                  - p_c^\gamma (1-y_c) \log(1-p_c) \right]

    The mean over attributes is the reduction of the authors' code. gamma = 0 and a prior of 0 give
    the plain masked cross-entropy. gamma is 2 in the authors' code; the paper's own value is
    unknown. For prior and weighting see :func:`positive_weights`.

    Inputs: logits, label, mask ``(B, A)`` (mask may be left out). Output: ``(B,)``.
    """

    def __init__(
        self, prior: Sequence[float], gamma: float = 2.0, weighting: str = "prior", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if gamma < 0:
            raise ValueError(f"gamma must be >= 0, got {gamma}")
        self._gamma = float(gamma)
        positive, negative = positive_weights(prior, weighting)
        with self.name_scope():
            self.positive = self.params.get_constant("positive", mx.nd.array(positive))
            self.negative = self.params.get_constant("negative", mx.nd.array(negative))
        self.initialize()

    def hybrid_forward(
        self, F: Any, logits: Tensor, label: Tensor, mask: Tensor | None = None, *,
        positive: Tensor, negative: Tensor,
    ) -> Tensor:  # fmt: skip
        log_p, log_not_p = log_sigmoid(F, logits), log_sigmoid(F, -logits)
        # (1 - p)^gamma as exp(gamma log(1 - p)): its gradient stays finite where p is 0 or 1.
        loss_positive = -F.exp(self._gamma * log_not_p) * log_p
        loss_negative = -F.exp(self._gamma * log_p) * log_not_p
        loss = F.broadcast_mul(F.broadcast_mul(loss_positive, label), positive.expand_dims(0))
        loss = loss + F.broadcast_mul(
            F.broadcast_mul(loss_negative, 1 - label), negative.expand_dims(0)
        )
        return mean_over_attributes(F, loss, F.ones_like(label) if mask is None else mask)


def log_sigmoid(F: Any, z: Tensor) -> Tensor:
    """Return log(sigmoid(z)), finite for every finite z."""
    return -F.Activation(-z, act_type="softrelu")
