"""Squared error on labels of -1 and +1, with a weight per output: the weighted loss layer of AWMT.

Adaptively Weighted Multi-task Deep Network for Person Attribute Classification, He, Wang, Fu, Feng,
Jiang, Xue, ACM MM 2017.

Legend: B batch, A outputs, z outputs of the net ("logits": the decision is z > 0), y label in
{0, 1}, t = 2 y - 1 in {-1, 1}, m mask in {0, 1}, lambda weights.
"""

from __future__ import annotations

from typing import Any

from mxnet.gluon import HybridBlock

from gluon_attn.losses.classification import Tensor


def squared_error(F: Any, logits: Tensor, label: Tensor) -> Tensor:
    """Return (z - t)^2 per entry, t = 1 where the label is 1 and -1 where it is 0."""
    return F.square(logits - (2 * label - 1))


class WeightedSquaredLoss(HybridBlock):
    r"""Half the squared error, summed over the outputs with their weights.

    .. math:: L = \frac{1}{2} \sum_a m_a \lambda_a (z_a - t_a)^2

    so that the mean of L over a batch has the gradient :math:`\lambda_a (z_a - t_a) / B`, which is
    that of the authors' code. Unlike the losses of :mod:`gluon_attn.losses`, this is a sum over
    outputs, not a mean.

    Inputs: logits, label, mask ``(B, A)``; weight ``(A,)``, a constant. Output: ``(B,)``.
    """

    def hybrid_forward(
        self, F: Any, logits: Tensor, label: Tensor, mask: Tensor, weight: Tensor
    ) -> Tensor:
        weight = F.BlockGrad(F.expand_dims(weight, 0))
        loss = F.broadcast_mul(squared_error(F, logits, label), F.broadcast_mul(mask, weight))
        return 0.5 * F.sum(loss, axis=1)
