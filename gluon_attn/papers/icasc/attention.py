r"""Attention maps of a class score, and the losses on them: equations 1 to 5.

Sharpen Focus: Learning with Attention Separability and Consistency, Wang, Wu, Karanam, Peng, Singh,
Liu, Metaxas, ICCV 2019. Grad-CAM (equation 1) is from Selvaraju et al., ICCV 2017.

Legend: F feature map, Y class score, Z number of positions ij, A^T, A^Conf attention maps of the
true and of the confusing class, A^in the true class's map at the inner layer, M mask.

All functions take NDArrays or Symbols. The losses are of one image each, and defined for maps that
are 0 everywhere: the mask is 1/2, separation 0, consistency theta. Both are shares of a map's sum:
their gradients grow as 1 / (sum + epsilon), so a map that is almost empty, as Grad-CAM's can be
where terms of both signs cancel, can outweigh its whole batch unless epsilon is large enough.
"""

from __future__ import annotations

from typing import Any

import mxnet as mx

Tensor = Any  # NDArray or Symbol

EPS = 1e-6  # keeps a map of zeros from dividing by zero; as in third-party code


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    r"""Return the Grad-CAM map of one class score per image (equation 1), ``(B, H, W)``, >= 0.

    .. math:: A = \operatorname{ReLU}\Big(\sum_k \alpha_k F^k\Big), \quad
              \alpha_k = \frac{1}{Z} \sum_{ij} \frac{\partial Y}{\partial F^k_{ij}}

    Features F and gradients of the score are ``(B, C, H, W)``.
    """
    return _weighted_sum(features, gradients.mean(axis=(2, 3)))


def channel_weighted(features: Tensor, gradients: Tensor) -> Tensor:
    r"""Return the channel-weighted map A_ch of one class score (equation 2), ``(B, H, W)``, >= 0.

    .. math:: A_{ch} = \frac{1}{Z} \operatorname{ReLU}\Big(\sum_k \Big[\sum_{ij}
              \operatorname{ReLU}\Big(\frac{\partial Y}{\partial F^k_{ij}}\Big)\Big] F^k\Big)

    Unlike Grad-CAM, only positions count where more of a channel would raise the score. Arguments
    as for :func:`grad_cam`.
    """
    return _weighted_sum(features, gradients.relu().mean(axis=(2, 3)))


MAPS = {"channel_weighted": channel_weighted, "grad_cam": grad_cam}


def _weighted_sum(features: Tensor, weights: Tensor) -> Tensor:
    """Return ``ReLU(sum_k w_k F^k)`` for weights ``(B, C)``."""
    F = module_of(features)
    flat = F.batch_dot(F.expand_dims(weights, axis=1), F.reshape(features, shape=(0, 0, -1)))
    one = F.BlockGrad(F.slice_axis(features, axis=1, begin=0, end=1))
    return F.squeeze(F.relu(F.reshape_like(flat, one)), axis=1)


def soft_mask(a_true: Tensor, sigma: float = 0.55, omega: float = 100) -> Tensor:
    r"""Return where the true class's attention is high (equation 4), ``(B, H, W)`` in (0, 1).

    .. math:: M_{ij} = \frac{1}{1 + \exp(-\omega (A^T_{ij} - \sigma \max A^T))}

    sigma is the share of the largest value at which the mask is 1/2, omega the steepness.
    """
    F = module_of(a_true)
    threshold = sigma * F.max(a_true, axis=(1, 2), keepdims=True)
    return F.sigmoid(omega * F.broadcast_sub(a_true, threshold))


def attention_separation(
    a_true: Tensor, a_conf: Tensor, mask: Tensor, epsilon: float = EPS
) -> Tensor:
    r"""Return how much the two classes look at the same place, L_AS (equation 3), ``(B,)``.

    .. math:: L_{AS} = 2 \frac{\sum_{ij} \min(A^T_{ij}, A^{Conf}_{ij}) M_{ij}}
                              {\sum_{ij} (A^T_{ij} + A^{Conf}_{ij})}

    Maps are ``(B, H, W)``, >= 0. It is 0 for maps that do not overlap, 1 for equal ones inside the
    mask. The denominator is the sum plus epsilon.
    """
    F = module_of(a_true)
    shared = _sum(F, F.broadcast_mul(F.broadcast_minimum(a_true, a_conf), mask))
    return 2 * shared / (_sum(F, F.broadcast_add(a_true, a_conf)) + epsilon)


def attention_consistency(
    a_inner: Tensor, mask: Tensor, theta: float = 0.8, epsilon: float = EPS
) -> Tensor:
    r"""Return how far the inner layer looks outside the mask, L_AC (equation 5), ``(B,)``.

    .. math:: L_{AC} = \theta - \frac{\sum_{ij} A^{in}_{ij} M_{ij}}{\sum_{ij} A^{in}_{ij}}

    A^in is ``(B, H, W)``, >= 0; M is that of the last layer, resized to the same shape
    (:func:`resize_like`); theta, the largest value, has no influence on gradients. The denominator
    is the sum plus epsilon.
    """
    F = module_of(a_inner)
    inside = _sum(F, F.broadcast_mul(a_inner, mask))
    return theta - inside / (_sum(F, a_inner) + epsilon)


def resize_like(a: Tensor, like: Tensor, align_corners: bool = False) -> Tensor:
    """Return maps ``(B, h, w)`` resized bilinearly to the size of others, ``(B, H, W)``.

    With ``align_corners`` the centres of the corner pixels stay in place, otherwise the edges of
    the map, as in most image libraries.
    """
    F = module_of(a)
    # BlockGrad: the operator leaves the memory of that gradient as it finds it.
    a, like = F.expand_dims(a, axis=1), F.BlockGrad(F.expand_dims(like, axis=1))
    resized = F.contrib.BilinearResize2D(a, like, mode="like", align_corners=align_corners)
    return F.squeeze(resized, axis=1)


def normalized(a: Tensor, epsilon: float = EPS) -> Tensor:
    """Return maps divided by each image's largest value plus epsilon, ``(B, H, W)`` in [0, 1]."""
    F = module_of(a)
    return F.broadcast_div(a, F.max(a, axis=(1, 2), keepdims=True) + epsilon)


def module_of(array: Tensor) -> Any:
    """Return ``mx.sym`` or ``mx.nd``, whose operators take the array."""
    return mx.sym if isinstance(array, mx.sym.Symbol) else mx.nd


def _sum(F: Any, a: Tensor) -> Tensor:
    return F.sum(a, axis=(1, 2))
