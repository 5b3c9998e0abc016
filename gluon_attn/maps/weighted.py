"""What all attention maps share: a weighted sum of channels, where it is positive."""

from __future__ import annotations

import mxnet as mx


def weighted_sum(features, weights):
    """Return ``ReLU(sum_k w_k F^k)``, ``(B, H, W)``.

    Args:
        features: F ``(B, C, H, W)``, NDArray or Symbol.
        weights: w ``(B, C)``.
    """
    F = mx.sym if isinstance(features, mx.sym.Symbol) else mx.nd
    flat = F.batch_dot(F.expand_dims(weights, axis=1), F.reshape(features, shape=(0, 0, -1)))
    one = F.BlockGrad(F.slice_axis(features, axis=1, begin=0, end=1))
    return F.squeeze(F.relu(F.reshape_like(flat, one)), axis=1)


def mean_over_positions(gradients):
    """Return ``(1 / Z) sum_ij g_ij`` of each channel, ``(B, C)``."""
    return gradients.mean(axis=(2, 3))
