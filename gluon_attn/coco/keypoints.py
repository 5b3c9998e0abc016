r"""Simple Baselines for keypoints: net, heat-maps to learn, loss, and places read from heat-maps.

Xiao, Wu, Wei, "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018: a ResNet, three
transposed convolutions, one heat-map for each keypoint. AutoLA's supplement compares attention
blocks in the residual units of its ResNet-50. It follows "sub-pixel refinement tricks" of Zhang,
Chen, Tao, "Towards High Performance Human Keypoint Detection" (arXiv:2002.00537) without details;
which they are here is an assumption (docs/keypoints.md).

Legend: B batch, N people, K keypoints, H W input size, h w = H / 4, W / 4 size of a heat-map;
coordinates are x, y in pixels of the heat-map.
"""

from __future__ import annotations

from typing import Any, Sequence

import cv2
import numpy as np
from mxnet import init
from mxnet.gluon import HybridBlock, nn

from gluon_attn.coco.parts import Array, CocoNet, StageFeatures, Tensor, infer_shapes
from gluon_attn.core.batch import Batch
from gluon_attn.method import METHODS, Method
from gluon_attn.nets import resnet

FILTERS, LAYERS, KERNEL = 256, 3, 4
SMALL = 0.001  # deviation of the initial weights of everything behind the backbone
ENCODINGS = ("rounded", "unbiased")
REFINEMENTS = ("none", "quarter", "dark")
SHIFTS = {"none": 0.0, "pixel": 1.0, "subpixel": 0.75}
BLUR = 11  # side of the Gaussian kernel of "dark"; its sigma is 2, as of the targets
FLOOR = 1e-10  # smallest value whose logarithm is taken


class SimplePose(CocoNet):
    """Backbone, three times (transposed convolution, batch-norm, ReLU), 1x1 convolution.

    ``(B, 3, H, W)`` float32, H and W multiples of 32, to heat-maps ``(B, K, h, w)``, about 1 at a
    keypoint and 0 elsewhere; no activation. ``net`` is a ResNet without taps, whose parts are taken
    over; ``filters`` are those of each transposed convolution, 256 in the paper.
    """

    task, output_names = "keypoints", ("heatmaps",)

    def __init__(self, net: HybridBlock, keypoints: int = 17, filters: int = FILTERS) -> None:
        super().__init__()
        self.classes = keypoints
        normal = init.Normal(SMALL)
        doubling = {"strides": 2, "padding": 1, "use_bias": False, "weight_initializer": normal}
        self.backbone = StageFeatures(net, stages=(4,))
        # Trainers sort parameters by name; names of a scope do not depend on what was built before.
        with self.name_scope():
            self.head = nn.HybridSequential(prefix="head_")
            with self.head.name_scope():
                for _ in range(LAYERS):
                    up = nn.Conv2DTranspose(filters, KERNEL, **doubling)
                    self.head.add(up, nn.BatchNorm(), nn.Activation("relu"))
            self.output = nn.Conv2D(
                keypoints, 1, weight_initializer=normal, bias_initializer="zeros"
            )

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        return self.output(self.head(self.backbone(x)[0]))


def simple_pose(
    depth: int = 50,
    version: str = "v1b",
    classes: int = 17,
    input_size: int = 256,
    *,
    width: int = 64,
    attention: Any = None,
    filters: int | None = None,
) -> SimplePose:
    """Build Simple Baselines on a ResNet (:func:`gluon_attn.nets.resnet`).

    ``input_size`` is H, a multiple of 128; the width is three quarters of it. ``filters`` of the
    transposed convolutions are 256 times ``width / 64`` by default.
    """
    if not isinstance(input_size, int) or input_size < 128 or input_size % 128:
        raise ValueError(
            f"input_size={input_size!r}: the height must be a multiple of 128 (256 and 384 in the "
            "paper), the width is three quarters of it"
        )
    backbone = resnet(depth, version, 1, width=width, attention=attention)
    net = SimplePose(backbone, classes, FILTERS * width // 64 if filters is None else filters)
    net.input_size = (input_size, input_size * 3 // 4)
    return infer_shapes(net, net)


def heatmap_targets(
    points: Array,
    labelled: Array,
    size: Sequence[int],
    sigma: float = 2.0,
    *,
    encoding: str = "rounded",
    out: Array | None = None,
) -> tuple[Array, Array]:
    r"""Return heat-maps with a Gaussian of height 1 at every labelled keypoint, and weights.

    .. math:: T_k(u) = \exp(-\|u - \mu_k\|^2 / 2 \sigma^2)

    in pixels u of the heat-map. Simple Baselines rounds :math:`\mu` to a pixel and cuts the
    Gaussian off at 3 sigma; "unbiased" keeps the exact place and the whole map, as Zhang et al.
    propose for their decoding (CVPR 2020, see :func:`decode`).

    ``points`` are ``(K, 2)``, ``labelled`` ``(K,)`` is 0 where a keypoint is not labelled, ``size``
    is ``(h, w)``; ``out`` is written to. The maps ``(K, h, w)`` float32 are 0 where not labelled;
    weights ``(K,)`` are 1, or 0 for a keypoint that is not labelled or so far outside that its
    Gaussian misses the map.
    """
    check_encoding(encoding, sigma)
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


def check_encoding(encoding: str, sigma: float) -> None:
    """Raise ValueError for an unknown encoding, or a sigma that is not positive."""
    if encoding not in ENCODINGS or not sigma > 0:
        raise ValueError(
            f"encoding={encoding!r}, sigma={sigma}: valid are {', '.join(ENCODINGS)}, above 0"
        )


class HeatmapLoss(HybridBlock):
    r"""Half the mean squared error over keypoints and pixels, per person.

    .. math:: L = \frac{1}{2 K h w} \sum_{k,u} (w_k P_k(u) - w_k T_k(u))^2

    Weights and the factor 1/2 as in the released code; the mean of L over a batch is its loss.
    Inputs: predicted and target heat-maps ``(B, K, h, w)``, weights ``(B, K)`` in {0, 1}. Output:
    ``(B,)``.
    """

    def hybrid_forward(self, F: Any, heatmaps: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        error = F.square(F.elemwise_sub(heatmaps, target))
        weight = F.reshape(weight, shape=(0, 0, 1, 1))
        return 0.5 * F.mean(F.broadcast_mul(error, F.square(weight)), axis=0, exclude=True)


@METHODS.register("simple_pose")
class SimplePoseMethod(Method):
    """Train a :class:`SimplePose`: heat-maps by squared error, all parameters.

    A batch's ``label`` are heat-maps ``(B, K, h, w)``, its ``mask`` their weights ``(B, K)``. All
    options belong to the loader and to the evaluation; defaults are those of Simple Baselines'
    released code, but for ``refine`` and ``flip_shift`` (docs/keypoints.md).
    """

    OPTIONS = {
        "sigma": 2.0,  # of the Gaussians, in pixels of the heat-map
        "encoding": "rounded",  # or 'unbiased'
        "margin": 1.25,  # of the region around a box
        "scale": 0.3,  # deviation and bound of its random size
        "rotation": 40.0,  # deviation of its random angle, in degrees; at most twice that
        "rotated": 0.6,  # share of the people that are turned
        "refine": "dark",  # how places are read from heat-maps: 'dark', 'quarter', 'none'
        "flip_test": True,  # whether heat-maps of the mirrored image are averaged in
        "flip_shift": "subpixel",  # 'subpixel', 'pixel', 'none'
        "suppression": 0.9,  # OKS from which the worse of two people of an image is left out
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if getattr(self.net, "task", None) != "keypoints":
            raise ValueError(
                f"method 'simple_pose' trains models named simple_pose…, not a "
                f"{type(self.net).__name__}"
            )
        valid = {"encoding": ENCODINGS, "refine": REFINEMENTS, "flip_shift": tuple(SHIFTS)}
        for name, names in valid.items():
            if self.options[name] not in names:
                raise ValueError(f"{name}={self.options[name]!r}: valid are {', '.join(names)}")
        self._loss = HeatmapLoss()
        self._loss.hybridize()

    def losses(self, outputs: dict, batch: Batch) -> dict:
        return {"heatmap": self._loss(outputs["heatmaps"], batch.label, batch.mask)}


def decode(heatmaps: Array, refine: str = "dark", blur: int = BLUR) -> tuple[Array, Array]:
    """Return the places and heights of the maxima, refined below the pixel.

    * ``quarter``: a quarter of a pixel towards the higher neighbour (Newell, Yang, Deng, ECCV 2016;
      Xiao, Wu, Wei, ECCV 2018);
    * ``dark``: the top of the parabola through the logarithm of the smoothed map around the highest
      pixel (second-order Taylor expansion; Zhang, Zhu, Dai, Ye, Zhu, "Distribution-Aware Coordinate
      Representation for Human Pose Estimation", CVPR 2020). On a Gaussian it is exact.

    From heat-maps ``(N, K, h, w)`` to ``(N, K, 2)`` float64 coordinates and ``(N, K)`` values of
    the maxima. A map without a positive value gives 0, 0. ``blur`` is the odd side of the smoothing
    kernel of ``dark``; 0 smooths nothing.
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


def flip_back(heatmaps: Array, pairs: Sequence[tuple[int, int]], shift: str = "subpixel") -> Array:
    """Return the heat-maps ``(N, K, h, w)`` of mirrored images as if they had not been mirrored.

    A pixel x of the input becomes W - 1 - x; its heat-map's pixel x / 4 becomes (W - 1 - x) / 4,
    which, mirrored back, lies 3/4 of a pixel too far left. ``subpixel`` shifts by that,
    interpolating; ``pixel`` by a whole one, as the released code of Simple Baselines.
    """
    if shift not in SHIFTS:
        raise ValueError(f"shift={shift!r}: valid are {', '.join(SHIFTS)}")
    back = heatmaps[:, mirror_order(heatmaps.shape[1], pairs), :, ::-1].copy()
    part = SHIFTS[shift]
    if part:  # the first column stays: nothing is known left of it
        back[..., 1:] = part * back[..., :-1] + (1 - part) * back[..., 1:]
    return back


def mirror_order(count: int, pairs: Sequence[tuple[int, int]]) -> Array:
    """Return the positions of ``count`` keypoints with the members of each pair exchanged."""
    order = np.arange(count)
    for a, b in pairs:
        order[[a, b]] = b, a
    return order


def person_scores(heights: Array, box_scores: Array | float = 1.0, visible: float = 0.2) -> Array:
    """Return the score of every person: mean height of its clear keypoints times the box's score.

    ``heights`` are ``(N, K)``. Keypoints not above ``visible`` do not count; without any the score
    is 0.
    """
    heights = np.asarray(heights, float)
    clear = heights > visible
    total = np.where(clear, heights, 0).sum(1)
    return total / np.maximum(clear.sum(1), 1) * box_scores


def _quarter(heatmaps: Array, places: Array) -> Array:
    """Return steps of a quarter pixel; none at the border."""
    height, width = heatmaps.shape[2:]
    x, y = (places[..., axis].astype(int) for axis in (0, 1))
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    n, k = np.indices(x.shape)
    x, y = np.where(inside, x, 1), np.where(inside, y, 1)
    across = heatmaps[n, k, y, x + 1] - heatmaps[n, k, y, x - 1]
    down = heatmaps[n, k, y + 1, x] - heatmaps[n, k, y - 1, x]
    return 0.25 * np.sign(np.stack([across, down], -1)) * inside[..., None]


def _taylor(heatmap: Array, place: Array, blur: int) -> Array:
    """Return the step from a pixel to the top of the parabola through the logarithm."""
    height, width = heatmap.shape
    x, y = (int(v) for v in place)
    if not (1 < x < width - 2 and 1 < y < height - 2):
        return np.zeros(2)
    smooth = _smooth(heatmap.astype(np.float64), blur)
    log = np.log(np.maximum(smooth[y - 2 : y + 3, x - 2 : x + 3], FLOOR))
    dx, dy = 0.5 * (log[2, 3] - log[2, 1]), 0.5 * (log[3, 2] - log[1, 2])
    dxx = 0.25 * (log[2, 4] - 2 * log[2, 2] + log[2, 0])
    dyy = 0.25 * (log[4, 2] - 2 * log[2, 2] + log[0, 2])
    dxy = 0.25 * (log[3, 3] - log[1, 3] - log[3, 1] + log[1, 1])
    determinant = dxx * dyy - dxy**2
    if determinant == 0:
        return np.zeros(2)
    return -np.array([dyy * dx - dxy * dy, dxx * dy - dxy * dx]) / determinant


def _smooth(heatmap: Array, blur: int) -> Array:
    """Return the map smoothed as if it were 0 outside, with its own highest value."""
    if not blur:
        return heatmap
    border = blur // 2
    wide = np.pad(heatmap, border)
    smooth = cv2.GaussianBlur(wide, (blur, blur), 0)[border:-border, border:-border]
    return smooth * (heatmap.max() / max(smooth.max(), FLOOR))
