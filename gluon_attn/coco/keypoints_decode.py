"""From heat-maps to places: the highest pixel, refined below the pixel, and the flip test.

* ``quarter``: a quarter of a pixel towards the higher neighbour (Newell, Yang, Deng, ECCV 2016;
  Xiao, Wu, Wei, ECCV 2018);
* ``dark``: the top of the parabola through the logarithm of the smoothed map around the highest
  pixel (second-order Taylor expansion; Zhang, Zhu, Dai, Ye, Zhu, "Distribution-Aware Coordinate
  Representation for Human Pose Estimation", CVPR 2020). On a Gaussian it is exact.

AutoLA's supplement follows "sub-pixel refinement tricks" of Zhang, Chen, Tao, "Towards High
Performance Human Keypoint Detection" (arXiv:2002.00537) without details; which they are here is
an assumption (docs/keypoints.md).

Legend: N people, K keypoints, h w heat-map size; coordinates are x, y in pixels of the heat-map.
"""

from __future__ import annotations

import cv2
import numpy as np

REFINEMENTS = ("none", "quarter", "dark")
SHIFTS = {"none": 0.0, "pixel": 1.0, "subpixel": 0.75}
BLUR = 11  # side of the Gaussian kernel of "dark"; its sigma is 2, as of the targets
FLOOR = 1e-10  # smallest value whose logarithm is taken


def decode(heatmaps, refine="dark", blur=BLUR):
    """Return the places and heights of the maxima.

    Args:
        heatmaps: ``(N, K, h, w)`` NumPy.
        refine: A name in ``REFINEMENTS``.
        blur: Odd side of the smoothing kernel of ``dark``; 0 smooths nothing.

    Returns:
        ``(N, K, 2)`` float64 coordinates and ``(N, K)`` values of the maxima. A map without a
        positive value gives 0, 0.

    Raises:
        ValueError: Unknown refinement, or not four dimensions.
    """
    heatmaps = np.asarray(heatmaps)
    if refine not in REFINEMENTS or heatmaps.ndim != 4:
        raise ValueError(
            f"refine={refine!r}, heat-maps {heatmaps.shape}: valid are "
            f"{', '.join(REFINEMENTS)}, (N, K, h, w)"
        )
    width = heatmaps.shape[3]
    flat = heatmaps.reshape(heatmaps.shape[:2] + (-1,))
    best = flat.argmax(-1)
    heights = np.take_along_axis(flat, best[..., None], -1)[..., 0]
    places = np.stack([best % width, best // width], -1).astype(np.float64)
    places[heights <= 0] = 0
    if refine == "quarter":
        places += _quarter(heatmaps, places)
    elif refine == "dark":
        for n, k in np.argwhere(heights > 0):
            places[n, k] += _taylor(heatmaps[n, k], places[n, k], blur)
    return places, heights


def flip_back(heatmaps, pairs, shift="subpixel"):
    """Return the heat-maps of mirrored pictures as if the pictures had not been mirrored.

    A pixel x of the input becomes W - 1 - x; its heat-map's pixel x / 4 becomes (W - 1 - x) / 4,
    which, mirrored back, lies 3/4 of a pixel too far left. ``subpixel`` shifts by that,
    interpolating; ``pixel`` by a whole one, as the released code of Simple Baselines.

    Args:
        heatmaps: ``(N, K, h, w)`` NumPy, of mirrored pictures.
        pairs: Pairs of keypoints, from 0, that a mirror exchanges.
        shift: A name in ``SHIFTS``.

    Raises:
        ValueError: Unknown shift.
    """
    if shift not in SHIFTS:
        raise ValueError(f"shift={shift!r}: valid are {', '.join(SHIFTS)}")
    order = np.arange(heatmaps.shape[1])
    for a, b in pairs:
        order[[a, b]] = b, a
    back = heatmaps[:, order, :, ::-1].copy()
    part = SHIFTS[shift]
    if part:  # the first column stays: nothing is known left of it
        back[..., 1:] = part * back[..., :-1] + (1 - part) * back[..., 1:]
    return back


def person_scores(heights, box_scores=1.0, visible=0.2):
    """Return the score of every person: mean height of its clear keypoints times the box's score.

    Args:
        heights: ``(N, K)`` values of the maxima.
        box_scores: ``(N,)`` or a number.
        visible: Keypoints that are not above this do not count; without any the score is 0.
    """
    heights = np.asarray(heights, float)
    clear = heights > visible
    total = np.where(clear, heights, 0).sum(1)
    return total / np.maximum(clear.sum(1), 1) * box_scores


def _quarter(heatmaps, places):
    """Return steps of a quarter pixel; none at the border."""
    height, width = heatmaps.shape[2:]
    x, y = (places[..., axis].astype(int) for axis in (0, 1))
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    n, k = np.indices(x.shape)
    x, y = np.where(inside, x, 1), np.where(inside, y, 1)
    across = heatmaps[n, k, y, x + 1] - heatmaps[n, k, y, x - 1]
    down = heatmaps[n, k, y + 1, x] - heatmaps[n, k, y - 1, x]
    return 0.25 * np.sign(np.stack([across, down], -1)) * inside[..., None]


def _taylor(heatmap, place, blur):
    """Return the step from a pixel to the top of the parabola through the logarithm."""
    height, width = heatmap.shape
    x, y = (int(v) for v in place)
    if not (1 < x < width - 2 and 1 < y < height - 2):
        return np.zeros(2)
    smooth = _smooth(heatmap.astype(np.float64), blur)
    log = np.log(np.maximum(smooth[y - 2 : y + 3, x - 2 : x + 3], FLOOR))
    gradient = 0.5 * np.array([log[2, 3] - log[2, 1], log[3, 2] - log[1, 2]])
    dxx = 0.25 * (log[2, 4] - 2 * log[2, 2] + log[2, 0])
    dyy = 0.25 * (log[4, 2] - 2 * log[2, 2] + log[0, 2])
    dxy = 0.25 * (log[3, 3] - log[1, 3] - log[3, 1] + log[1, 1])
    determinant = dxx * dyy - dxy**2
    if determinant == 0:
        return np.zeros(2)
    return -np.array(
        [dyy * gradient[0] - dxy * gradient[1], dxx * gradient[1] - dxy * gradient[0]]
    ) / determinant  # fmt: skip


def _smooth(heatmap, blur):
    """Return the map smoothed as if it were 0 outside, with its own highest value."""
    if not blur:
        return heatmap
    border = blur // 2
    wide = np.pad(heatmap, border)
    smooth = cv2.GaussianBlur(wide, (blur, blur), 0)[border:-border, border:-border]
    return smooth * (heatmap.max() / max(smooth.max(), FLOOR))
