"""Channel-weighted attention, A_ch.

Equation 2 of Sharpen Focus: Learning with Attention Separability and Consistency, Wang, Wu,
Karanam, Peng, Singh, Liu, Metaxas, ICCV 2019.
"""

from __future__ import annotations

from gluon_attn.maps.weighted import mean_over_positions, weighted_sum


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
