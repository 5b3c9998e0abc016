"""NumPy versions of ICASC's attention maps and losses, written from the paper, value by value."""

from __future__ import annotations

import math

import numpy as np


def grad_cam(features, gradients):
    """Equation 1 for one image: ``(C, H, W)`` twice to ``(H, W)``."""
    channels, height, width = features.shape
    result = np.zeros((height, width))
    for k in range(channels):
        alpha = sum(map(sum, gradients[k].tolist())) / (height * width)
        result += alpha * features[k]
    return np.where(result > 0, result, 0)


def channel_weighted(features, gradients):
    """Equation 2 for one image."""
    channels, height, width = features.shape
    result = np.zeros((height, width))
    for k in range(channels):
        weight = sum(max(0.0, g) for row in gradients[k].tolist() for g in row)
        result += weight * features[k]
    return np.where(result > 0, result, 0) / (height * width)


def soft_mask(a, sigma=0.55, omega=100):
    """Equation 4 for one map."""
    threshold = sigma * a.max()
    return np.array([[1 / (1 + math.exp(-omega * (v - threshold))) for v in row] for row in a])


def separation(a_true, a_conf, mask):
    """Equation 3 for one image."""
    above = below = 0.0
    for t, c, m in zip(a_true.ravel(), a_conf.ravel(), mask.ravel()):
        above += min(t, c) * m
        below += t + c
    return 2 * above / below


def consistency(a_inner, mask, theta=0.8):
    """Equation 5 for one image."""
    return theta - sum(a * m for a, m in zip(a_inner.ravel(), mask.ravel())) / a_inner.sum()


def enlarge(a, height, width):
    """Bilinear resizing that keeps the edges of the map in place."""
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * a.shape[0] / height - 0.5, 0), a.shape[0] - 1)
            x = min(max((j + 0.5) * a.shape[1] / width - 0.5, 0), a.shape[1] - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, a.shape[0] - 1), min(left + 1, a.shape[1] - 1)
            upper = a[top, left] * (1 - x + left) + a[top, right] * (x - left)
            lower = a[bottom, left] * (1 - x + left) + a[bottom, right] * (x - left)
            result[i, j] = upper * (1 - y + top) + lower * (y - top)
    return result
