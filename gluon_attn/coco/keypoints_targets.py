r"""Keypoints as heat-maps: a Gaussian of height 1 at every labelled keypoint.

.. math:: T_k(u) = \exp(-\|u - \mu_k\|^2 / 2 \sigma^2)

in pixels u of the heat-map. Simple Baselines rounds :math:`\mu` to a pixel and cuts the Gaussian
off at 3 sigma; "unbiased" keeps the exact place and the whole map, as Zhang et al. propose for
their decoding ("Distribution-Aware Coordinate Representation for Human Pose Estimation", CVPR
2020).

Reference: Xiao, Wu, Wei, "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018.
"""

from __future__ import annotations

import numpy as np

ENCODINGS = ("rounded", "unbiased")


def draw_targets(points, labelled, size, sigma=2.0, encoding="rounded", out=None):
    """Return ``(heat-maps, weights)``.

    Args:
        points: ``(K, 2)`` x, y in pixels of the heat-map.
        labelled: ``(K,)``; 0 where a keypoint is not labelled.
        size: ``(h, w)`` of the heat-maps.
        sigma: Of the Gaussian, in pixels of the heat-map.
        encoding: A name in ``ENCODINGS``.
        out: ``(K, h, w)`` float32 array to write to, or None.

    Returns:
        ``(K, h, w)`` float32, 0 where not labelled, and ``(K,)`` float32: 1, or 0 for a keypoint
        that is not labelled or so far outside that its Gaussian misses the map.

    Raises:
        ValueError: Unknown encoding, or a sigma that is not positive.
    """
    if encoding not in ENCODINGS or not sigma > 0:
        raise ValueError(
            f"encoding={encoding!r}, sigma={sigma}: valid are {', '.join(ENCODINGS)}, above 0"
        )
    height, width = size
    out = np.empty((len(points), height, width), np.float32) if out is None else out
    weights = (np.asarray(labelled) > 0).astype(np.float32)
    reach, rows, columns = int(3 * sigma), np.arange(height), np.arange(width)
    for k, (x, y) in enumerate(np.asarray(points, float)):
        out[k] = 0
        cx, cy = int(x + 0.5), int(y + 0.5)  # towards 0, as in the released code
        left, right, top, bottom = cx - reach, cx + reach + 1, cy - reach, cy + reach + 1
        if left >= width or top >= height or right < 0 or bottom < 0:
            weights[k] = 0
        if not weights[k]:
            continue
        if encoding == "rounded":
            x, y = cx, cy
        across = np.exp(-((columns - x) ** 2) / (2 * sigma**2))
        down = np.exp(-((rows - y) ** 2) / (2 * sigma**2))
        if encoding == "rounded":
            across[(columns < left) | (columns >= right)] = 0
            down[(rows < top) | (rows >= bottom)] = 0
        np.multiply(down[:, None], across[None], out=out[k], casting="same_kind")
    return out, weights
