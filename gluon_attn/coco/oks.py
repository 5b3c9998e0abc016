r"""Object keypoint similarity, and suppression of people who are found twice.

.. math:: OKS = \frac{1}{K} \sum_k \exp(-d_k^2 / 2 s^2 \kappa_k^2)

with d the distance of keypoint k, s^2 the object's area and kappa = 2 sigma COCO's constants.

References: cocodataset.org (keypoint evaluation); Xiao, Wu, Wei, ECCV 2018 (OKS in non-maximum
suppression, threshold 0.9).
"""

from __future__ import annotations

import numpy as np

# COCO's constants for its 17 keypoints.
SIGMAS = np.array(
    [.026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062, .107, .107, .087, .087,
     .089, .089]
)  # fmt: skip


def oks(points, others, area, other_areas, sigmas=SIGMAS):
    """Return the similarity of one person to N others, over all keypoints, ``(N,)``.

    Args:
        points: ``(K, 2)`` x, y in pixels.
        others: ``(N, K, 2)``.
        area: Of the person, in square pixels.
        other_areas: ``(N,)``; each pair is compared at the mean of its areas.
        sigmas: ``(K,)``.

    Raises:
        ValueError: Another number of keypoints than of sigmas.
    """
    points, others = np.asarray(points, float), np.asarray(others, float)
    if points.shape != (len(sigmas), 2) or others.shape[1:] != points.shape:
        raise ValueError(
            f"points {points.shape}, others {others.shape}: {len(sigmas)} keypoints are needed"
        )
    squared = ((others - points) ** 2).sum(-1)
    mean_area = (area + np.asarray(other_areas, float)) / 2 + np.spacing(1)
    return np.exp(-squared / ((2 * sigmas) ** 2 * mean_area[:, None] * 2)).mean(-1)


def oks_suppression(points, scores, areas, threshold=0.9, sigmas=SIGMAS):
    """Return the positions of the people to keep in one picture, best score first.

    Args:
        points: ``(N, K, 2)``.
        scores: ``(N,)``.
        areas: ``(N,)``.
        threshold: A person more similar than this to a better one is left out.
        sigmas: ``(K,)``.
    """
    points, areas, kept = np.asarray(points, float), np.asarray(areas, float), []
    order = np.argsort(-np.asarray(scores, float), kind="stable")
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        if len(order):
            similar = oks(points[best], points[order], areas[best], areas[order], sigmas)
            order = order[similar <= threshold]
    return kept
