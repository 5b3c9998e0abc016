"""Losses of labels: masked binary cross-entropy for attributes, softmax cross-entropy for classes.

Legend: B batch, A attributes (or classes), z logits, y label in {0, 1}, m mask in {0, 1}.
All losses take ``(B, A)`` float32 and return one value per sample, ``(B,)``.
"""

from __future__ import annotations

from typing import Any

from mxnet.gluon import HybridBlock

from gluon_attn.core.schema import Schema

Tensor = Any  # NDArray or Symbol


def mean_over_attributes(F: Any, loss: Tensor, mask: Tensor) -> Tensor:
    """Return ``(B,)``: the masked sum over attributes divided by the number of attributes A.

    Dividing by A, not by the number of known labels, is Gluon's convention for sample weights: how
    much one label pulls does not depend on how many others happen to be unspecified.
    """
    return F.mean(F.broadcast_mul(loss, mask), axis=0, exclude=True)


def binary_cross_entropy(F: Any, logits: Tensor, label: Tensor) -> Tensor:
    """Return -y log p - (1 - y) log(1 - p) per entry, p = sigmoid(z), computed from logits."""
    return F.Activation(logits, act_type="softrelu") - F.broadcast_mul(logits, label)


class MaskedBCELoss(HybridBlock):
    """Binary cross-entropy that leaves unspecified labels out: their masked mean over attributes.

    Inputs: logits, label, mask, and optionally weight ``(B, A)``, a constant factor on each entry.
    """

    def hybrid_forward(
        self, F: Any, logits: Tensor, label: Tensor, mask: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        loss = binary_cross_entropy(F, logits, label)
        if weight is not None:
            loss = F.broadcast_mul(loss, F.BlockGrad(weight))
        return mean_over_attributes(F, loss, mask)


def log_softmax(F: Any, logits: Tensor) -> Tensor:
    """Return log softmax along axis 1, finite for all finite logits.

    Written out because oneDNN's own is off by 4e-6, and so is its gradient by 3e-6; here both are
    exact to float32.
    """
    peak = F.BlockGrad(F.max(logits, axis=1, keepdims=True))
    shifted = F.broadcast_sub(logits, peak)
    return F.broadcast_sub(shifted, F.log(F.sum(F.exp(shifted), axis=1, keepdims=True)))


class SoftmaxCELoss(HybridBlock):
    r"""Cross-entropy between a one-hot label and the softmax of the logits.

    .. math:: L = -\sum_k y_k m_k \log\operatorname{softmax}(z)_k

    A row whose true class is masked (padding, an unreadable image) has loss 0 and no gradient.
    A label with several positives is a set of acceptable classes: their mean log-probability
    counts. A label without any has loss 0. The mask may be left out.
    """

    def hybrid_forward(
        self, F: Any, logits: Tensor, label: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        target = label if mask is None else F.broadcast_mul(label, mask)
        # 1 for one-hot rows; rows without a known class have target 0, so their loss is 0 / 1.
        share = F.broadcast_div(target, F.maximum(F.sum(target, axis=1, keepdims=True), 1))
        return -F.sum(F.broadcast_mul(share, log_softmax(F, logits)), axis=1)


def objective(schema: Schema | None = None) -> HybridBlock:
    """Return the classification loss for labels of a schema, ``(logits, label, mask) -> (B,)``.

    One multi-class attribute and nothing else (single-label classification) gets the softmax
    cross-entropy; everything else, and None, the masked binary cross-entropy, which is the
    "multi-label soft margin" loss of other frameworks. It is hybridized.
    """
    single = schema is not None and schema.is_single_label
    loss = SoftmaxCELoss() if single else MaskedBCELoss()
    loss.hybridize()
    return loss
