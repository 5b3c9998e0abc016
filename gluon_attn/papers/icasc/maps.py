r"""Attention maps of a class score, from a feature map and the score's gradient there.

Sharpen Focus: Learning with Attention Separability and Consistency, Wang, Wu, Karanam, Peng,
Singh, Liu, Metaxas, ICCV 2019: Grad-CAM is equation 1 (Selvaraju et al., ICCV 2017), the
channel-weighted map A_ch equation 2.
"""

from __future__ import annotations

import mxnet as mx


def grad_cam(features, gradients):
    r"""Return the Grad-CAM map of one class score per image.

    .. math:: A = \operatorname{ReLU}\Big(\sum_k \alpha_k F^k\Big), \quad
              \alpha_k = \frac{1}{Z} \sum_{ij} \frac{\partial Y}{\partial F^k_{ij}}

    Args:
        features: Feature maps F ``(B, C, H, W)``, NDArray or Symbol; Z = H W.
        gradients: Gradient of the score, same shape.

    Returns:
        ``(B, H, W)``, >= 0.
    """
    return weighted_sum(features, mean_over_positions(gradients))


def channel_weighted(features, gradients):
    r"""Return the channel-weighted map of one class score per image.

    .. math:: A_{ch} = \frac{1}{Z} \operatorname{ReLU}\Big(\sum_k \Big[\sum_{ij}
              \operatorname{ReLU}\Big(\frac{\partial Y}{\partial F^k_{ij}}\Big)\Big] F^k\Big)

    Unlike Grad-CAM, only positions count where more of a channel would raise the score.

    Args:
        features: Feature maps F ``(B, C, H, W)``, NDArray or Symbol; Z = H W.
        gradients: Gradient of the score, same shape.

    Returns:
        ``(B, H, W)``, >= 0.
    """
    return weighted_sum(features, mean_over_positions(gradients.relu()))


MAPS = {"channel_weighted": channel_weighted, "grad_cam": grad_cam}


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
