"""Masked binary cross-entropy and the weighted focal loss.

Deep Imbalanced Attribute Classification using Visual Attention Aggregation, Sarafianos, Xu,
Kakadiaris, ECCV 2018 (VAA); the focal term is from Focal Loss for Dense Object Detection, Lin et
al., ICCV 2017.

Legend: B batch, A attributes, z logits, p = sigmoid(z), y label in {0, 1}, m mask in {0, 1}.
All losses return one value per sample, ``(B,)``: the masked mean over attributes.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from gluon_attn.losses.reduction import mean_over_attributes

WEIGHTINGS = ("prior", "released", "none")


def log_sigmoid(F, z):
    """Return log(sigmoid(z)), finite for every finite z."""
    return -F.Activation(-z, act_type="softrelu")


def binary_cross_entropy(F, logits, label):
    """Return -y log p - (1 - y) log(1 - p) per entry, computed from logits."""
    return F.Activation(logits, act_type="softrelu") - F.broadcast_mul(logits, label)


class MaskedBCELoss(HybridBlock):
    """Binary cross-entropy that leaves unspecified labels out.

    Inputs: logits, label, mask ``(B, A)``, and optionally weight ``(B, A)``, a constant that
    multiplies each entry. Output: ``(B,)``.
    """

    def hybrid_forward(self, F, logits, label, mask, weight=None):
        """Return the masked mean over attributes, ``(B,)``."""
        loss = binary_cross_entropy(F, logits, label)
        if weight is not None:
            loss = F.broadcast_mul(loss, F.BlockGrad(weight))
        return mean_over_attributes(F, loss, mask)


def positive_weights(prior, weighting):
    """Return ``(weights of positives, weights of negatives)``, each ``(A,)`` float32.

    Args:
        prior: ``(A,)`` positive fraction a of each attribute in the training set, in [0, 1].
        weighting: ``'prior'``: both are exp(-a) (the form under which the loss is cited: an
            attribute counts more the rarer it is). ``'released'``: with r = a / (1 - a) where
            a <= 0.5 and 1 elsewhere, positives exp(1 - r), negatives exp(r) (the authors' code).
            ``'none'``: 1, for ablations.

    Raises:
        ValueError: ``prior`` outside [0, 1] or not one-dimensional; unknown weighting.
    """
    prior = np.asarray(prior, dtype=np.float64)
    if prior.ndim != 1 or not np.all((prior >= 0) & (prior <= 1)):
        raise ValueError(f"prior must be a vector of fractions in [0, 1], got {prior.tolist()}")
    if weighting == "none":
        positive = negative = np.ones_like(prior)
    elif weighting == "prior":
        positive = negative = np.exp(-prior)
    elif weighting == "released":
        ratio = np.ones_like(prior)
        rare = prior <= 0.5
        ratio[rare] = prior[rare] / (1 - prior[rare])
        positive, negative = np.exp(1 - ratio), np.exp(ratio)
    else:
        raise ValueError(f"weighting {weighting!r}: valid are {', '.join(WEIGHTINGS)}")
    return positive.astype(np.float32), negative.astype(np.float32)


class WeightedFocalLoss(HybridBlock):
    r"""Focal loss with a weight per attribute that follows its prior (VAA's loss L_w).

    .. math:: L = \frac{1}{A} \sum_c m_c w_c \left[ -(1-p_c)^\gamma y_c \log p_c
                  - p_c^\gamma (1-y_c) \log(1-p_c) \right]

    The mean over attributes is the reduction of the authors' code. gamma = 0 and a prior of 0 give
    the plain masked cross-entropy.

    Inputs: logits, label, mask ``(B, A)`` (mask may be left out). Output: ``(B,)``.

    Args:
        prior: ``(A,)`` positive fraction of each attribute in the training set.
        gamma: Focusing exponent, >= 0. 2 in the authors' code; the paper's own value is unknown.
        weighting: ``'prior'``, ``'released'`` or ``'none'``, see :func:`positive_weights`.

    Raises:
        ValueError: Negative gamma, or as :func:`positive_weights`.
    """

    def __init__(self, prior, gamma=2.0, weighting="prior", **kwargs):
        super().__init__(**kwargs)
        if gamma < 0:
            raise ValueError(f"gamma must be >= 0, got {gamma}")
        self._gamma = float(gamma)
        positive, negative = positive_weights(prior, weighting)
        with self.name_scope():
            self.positive = self.params.get_constant("positive", mx.nd.array(positive))
            self.negative = self.params.get_constant("negative", mx.nd.array(negative))
        self.initialize()

    def hybrid_forward(self, F, logits, label, mask=None, positive=None, negative=None):
        """Return the weighted, masked mean over attributes, ``(B,)``."""
        log_p, log_not_p = log_sigmoid(F, logits), log_sigmoid(F, -logits)
        # (1 - p)^gamma as exp(gamma log(1 - p)): its gradient stays finite where p is 0 or 1.
        loss_positive = -F.exp(self._gamma * log_not_p) * log_p
        loss_negative = -F.exp(self._gamma * log_p) * log_not_p
        loss = F.broadcast_mul(F.broadcast_mul(loss_positive, label), positive.expand_dims(0))
        loss = loss + F.broadcast_mul(
            F.broadcast_mul(loss_negative, 1 - label), negative.expand_dims(0)
        )
        return mean_over_attributes(F, loss, F.ones_like(label) if mask is None else mask)
