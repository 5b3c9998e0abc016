"""Grad-CAM.

Grad-CAM: Visual Explanations from Deep Networks via Gradient-Based Localization, Selvaraju et al.,
ICCV 2017; equation 1 of Sharpen Focus, Wang et al., ICCV 2019.
"""

from __future__ import annotations

from gluon_attn.maps.weighted import mean_over_positions, weighted_sum


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
