"""Attention separability and consistency.

Sharpen Focus: Learning with Attention Separability and Consistency, Wang, Wu, Karanam, Peng, Singh,
Liu, Metaxas, ICCV 2019, equations 3 to 5.

Legend: A^T, A^Conf attention maps of the true and of the confusing class, A^in the true class's map
at the inner layer, M mask; ij run over the positions of a map.

All functions take NDArrays or Symbols ``(B, H, W)`` and give one value per image. They are defined
for maps that are 0 everywhere: the mask is 1/2, separation 0, consistency theta.
"""

from __future__ import annotations

import mxnet as mx

EPS = 1e-6  # keeps a map of zeros from dividing by zero


def soft_mask(a_true, sigma=0.55, omega=100):
    r"""Return where the true class's attention is high (equation 4).

    .. math:: M_{ij} = \frac{1}{1 + \exp(-\omega (A^T_{ij} - \sigma \max A^T))}

    Args:
        a_true: A^T ``(B, H, W)``, >= 0.
        sigma: Share of an image's largest value at which its mask is 1/2.
        omega: Steepness.

    Returns:
        ``(B, H, W)`` in (0, 1).
    """
    F = _module(a_true)
    threshold = sigma * F.max(a_true, axis=(1, 2), keepdims=True)
    return F.sigmoid(omega * F.broadcast_sub(a_true, threshold))


def attention_separation(a_true, a_conf, mask):
    r"""Return how much the two classes look at the same place, L_AS (equation 3).

    .. math:: L_{AS} = 2 \frac{\sum_{ij} \min(A^T_{ij}, A^{Conf}_{ij}) M_{ij}}
                              {\sum_{ij} (A^T_{ij} + A^{Conf}_{ij})}

    Args:
        a_true: A^T ``(B, H, W)``, >= 0.
        a_conf: A^Conf, same shape.
        mask: M, same shape, in [0, 1].

    Returns:
        ``(B,)`` in [0, 1]: 0 for maps that do not overlap, 1 for equal ones inside the mask.
    """
    F = _module(a_true)
    shared = _sum(F, F.broadcast_mul(F.broadcast_minimum(a_true, a_conf), mask))
    return 2 * shared / (_sum(F, F.broadcast_add(a_true, a_conf)) + EPS)


def attention_consistency(a_inner, mask, theta=0.8):
    r"""Return how far the inner layer looks outside the mask, L_AC (equation 5).

    .. math:: L_{AC} = \theta - \frac{\sum_{ij} A^{in}_{ij} M_{ij}}{\sum_{ij} A^{in}_{ij}}

    Args:
        a_inner: A^in ``(B, H, W)``, >= 0.
        mask: M of the last layer, resized to the same shape (:func:`resize_like`).
        theta: Offset, which has no influence on gradients.

    Returns:
        ``(B,)`` in [theta - 1, theta].
    """
    F = _module(a_inner)
    inside = _sum(F, F.broadcast_mul(a_inner, mask))
    return theta - inside / (_sum(F, a_inner) + EPS)


def resize_like(a, like, align_corners=False):
    """Return maps resized bilinearly to the size of other maps.

    Args:
        a: ``(B, h, w)``.
        like: ``(B, H, W)``.
        align_corners: Whether the centres of the corner pixels stay in place; otherwise the edges
            of the map do, as in most image libraries.

    Returns:
        ``(B, H, W)``.
    """
    F = _module(a)
    # BlockGrad: the operator leaves the memory of that gradient as it finds it.
    a, like = F.expand_dims(a, axis=1), F.BlockGrad(F.expand_dims(like, axis=1))
    resized = F.contrib.BilinearResize2D(a, like, mode="like", align_corners=align_corners)
    return F.squeeze(resized, axis=1)


def normalized(a):
    """Return maps divided by each image's largest value, ``(B, H, W)`` in [0, 1]."""
    F = _module(a)
    return F.broadcast_div(a, F.max(a, axis=(1, 2), keepdims=True) + EPS)


def _module(array):
    return mx.sym if isinstance(array, mx.sym.Symbol) else mx.nd


def _sum(F, a):
    return F.sum(a, axis=(1, 2))
