"""From a person's box to the net's input and back: one affine map, the same for picture and points.

Simple Baselines: the box is enlarged to the input's proportions and by a margin, then scaled,
turned and perhaps mirrored. Coordinates are pixel numbers, the first pixel's centre being 0, and
the middle of the input is (W / 2, H / 2), as in the released code.

Reference: Xiao, Wu, Wei, "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

MARGIN = 1.25  # of the region around a box, Simple Baselines


class Region(NamedTuple):
    """What is cut out of a picture.

    Attributes:
        x, y: Its middle in pixels.
        width: In pixels; the height follows from the input's proportions.
        angle: In degrees; the direction (0, -1) turned by it becomes "up" in the input.
        mirror_width: Width of the picture if it is mirrored first, else None; ``x`` and ``angle``
            are those in the mirrored picture.
    """

    x: float
    y: float
    width: float
    angle: float = 0.0
    mirror_width: object = None


def region_of(box, size, margin=MARGIN):
    """Return the Region around a box, upright.

    Args:
        box: Corners x1, y1, x2, y2 in pixels.
        size: ``(H, W)`` of the input.
        margin: Factor on both sides, after the shorter one has been enlarged to the proportions.

    Raises:
        ValueError: The box is not four finite numbers with a side above 0.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    w, h = x2 - x1, y2 - y1
    if not all(map(math.isfinite, (x1, y1, x2, y2))) or min(w, h) < 0 or max(w, h) <= 0:
        raise ValueError(f"box {list(box)}: must be x1, y1, x2, y2 with x1 <= x2 and y1 <= y2")
    return Region(x1 + 0.5 * w, y1 + 0.5 * h, max(w, h * size[1] / size[0]) * margin)


def affine(region, size):
    """Return the ``(2, 3)`` float64 matrix from picture coordinates to those of the input.

    Args:
        region: :class:`Region`.
        size: ``(H, W)`` of the input.
    """
    height, width = size
    scale, angle = width / region.width, math.radians(region.angle)
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    turn = np.array([[c, s], [-s, c]])
    shift = np.array([width / 2, height / 2]) - turn @ (region.x, region.y)
    if region.mirror_width is not None:  # first x -> width - 1 - x
        shift = shift + turn[:, 0] * (region.mirror_width - 1)
        turn = turn * (-1, 1)
    return np.column_stack([turn, shift])


def invert(matrix):
    """Return the inverse of an affine ``(2, 3)`` matrix, likewise ``(2, 3)``."""
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


def transform(points, matrix):
    """Return points ``(..., 2)`` mapped by a ``(2, 3)`` matrix."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def mirror_keypoints(keypoints, pairs):
    """Return ``(K, ...)`` with the members of each pair exchanged; places stay as they are."""
    order = np.arange(len(keypoints))
    for a, b in pairs:
        order[[a, b]] = b, a
    return np.asarray(keypoints)[order]
