"""People cut out of images for keypoint nets: the affine map, the augmentation, the batches.

Simple Baselines: the box is enlarged to the input's proportions and by a margin, then scaled by a
normal factor (clipped to 1 +- scale), turned by a normal angle (clipped to twice its deviation) in
60 % of the samples and mirrored in half of them; everything in one affine map, so the image is
interpolated once. (GluonCV's transform turns and resizes in two steps and draws from a global
generator, which the threads of a loader would share.) Coordinates are pixel numbers, the first
pixel's centre being 0, and the middle of the input is (W / 2, H / 2), as in the released code of
Xiao, Wu, Wei, "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Sequence, Union

import cv2
import mxnet as mx
import numpy as np

from gluon_attn.coco.keypoints import check_encoding, heatmap_targets, mirror_order
from gluon_attn.coco.parts import Array
from gluon_attn.core.batch import PADDING, Batch
from gluon_attn.data.images import BadImageError
from gluon_attn.data.loader import BufferPool, Loader
from gluon_attn.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Normalize, planes

if TYPE_CHECKING:
    from gluon_attn.coco.dataset import CocoKeypoints

MARGIN = 1.25  # of the region around a box, Simple Baselines
STRIDE = 4  # input pixels per pixel of the heat-map
_NORMAL = NormalDist()
Box = Union[Sequence[float], np.ndarray]  # corners x1, y1, x2, y2 in pixels


class Region(NamedTuple):
    """What is cut out of an image."""

    x: float  # of its middle in pixels
    y: float
    width: float  # in pixels; the height follows from the input's proportions
    angle: float = 0.0  # in degrees; (0, -1) turned by it becomes "up" in the input
    mirror_width: Any = None  # of the image if it is mirrored first; x and angle are those then


def region_of(box: Box, size: Sequence[int], margin: float = MARGIN) -> Region:
    """Return the upright Region around a box x1, y1, x2, y2 in pixels, for an input ``(H, W)``.

    ``margin`` is a factor on both sides, after the shorter one has been enlarged to the
    proportions. A ValueError unless the box is four finite numbers with a side above 0.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    w, h = x2 - x1, y2 - y1
    if not all(map(math.isfinite, (x1, y1, x2, y2))) or min(w, h) < 0 or max(w, h) <= 0:
        raise ValueError(f"box {list(box)}: must be x1, y1, x2, y2 with x1 <= x2 and y1 <= y2")
    return Region(x1 + 0.5 * w, y1 + 0.5 * h, max(w, h * size[1] / size[0]) * margin)


def affine(region: Region, size: Sequence[int]) -> Array:
    """Return the ``(2, 3)`` float64 matrix from coordinates of the image to those of the input."""
    height, width = size
    scale, angle = width / region.width, math.radians(region.angle)
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    turn = np.array([[c, s], [-s, c]])
    shift = np.array([width / 2, height / 2]) - turn @ (region.x, region.y)
    if region.mirror_width is not None:  # first x -> width - 1 - x
        shift = shift + turn[:, 0] * (region.mirror_width - 1)
        turn = turn * (-1, 1)
    return np.column_stack([turn, shift])


def transform(points: Array, matrix: Array) -> Array:
    """Return points ``(..., 2)`` mapped by a ``(2, 3)`` matrix."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


class PoseEvalTransform:
    """Cut a region out, upright; normalise: ``(image, box, out=None)`` to float32 ``(3, H, W)``."""

    draws = 0

    def __init__(
        self,
        size: Sequence[int] = (256, 192),
        margin: float = MARGIN,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        self.size = self.resize = tuple(int(side) for side in size)
        self.margin = float(margin)
        self.normalize = Normalize(mean, std)

    def matrix(self, box: Box) -> Array:
        """Return the ``(2, 3)`` map from image to input for a box x1, y1, x2, y2."""
        return affine(region_of(box, self.size, self.margin), self.size)

    def __call__(self, image: Array, box: Box, out: Array | None = None) -> Array:
        return planes(self.normalize(self.cut(image, self.matrix(box))), out)

    def cut(self, image: Array, matrix: Array) -> Array:
        """Return what the net sees, before normalisation: uint8 ``(H, W, 3)``; black outside."""
        height, width = self.size
        return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)


class PoseTrainTransform(PoseEvalTransform):
    """Cut a randomly scaled, turned and mirrored region out, with its heat-maps.

    Args:
        pairs: Keypoints that a mirror exchanges; with ``mirror``, half of the people are mirrored.
        scale: Deviation and bound of the factor on the region's size.
        rotation: Deviation of the angle in degrees; its bound is twice that.
        rotated: Share of the samples that are turned.
        sigma, encoding: See :func:`gluon_attn.coco.keypoints.heatmap_targets`.
    """

    draws = 4

    def __init__(
        self,
        size: Sequence[int] = (256, 192),
        pairs: Sequence[tuple[int, int]] = (),
        mirror: bool = True,
        *,
        scale: float = 0.3,
        rotation: float = 40.0,
        rotated: float = 0.6,
        sigma: float = 2.0,
        encoding: str = "rounded",
        **frame: Any,
    ) -> None:
        super().__init__(size, **frame)
        margin = self.margin
        if not 0 <= scale < 1 or rotation < 0 or not 0 <= rotated <= 1 or margin <= 0:
            raise ValueError(
                f"scale={scale}, rotation={rotation}, rotated={rotated}, margin={margin}: valid "
                "are 0 to below 1, 0 or more, 0 to 1, above 0"
            )
        check_encoding(encoding, sigma)
        self.pairs, self.mirror = tuple(pairs), bool(mirror)
        self.scale, self.rotation, self.rotated = float(scale), float(rotation), float(rotated)
        self.sigma, self.encoding = float(sigma), encoding
        self.target_size = tuple(side // STRIDE for side in self.size)

    def draw(self, random: Sequence[float]) -> tuple[float, float, bool]:
        """Return ``(factor, angle, mirrored)`` that four uniform numbers stand for."""
        normal = [_NORMAL.inv_cdf(min(max(uniform, 1e-12), 1 - 1e-12)) for uniform in random[:2]]
        factor = 1 + self.scale * min(max(normal[0], -1), 1)
        angle = self.rotation * min(max(normal[1], -2), 2) if random[2] < self.rotated else 0.0
        return factor, angle, self.mirror and random[3] < 0.5

    def region(self, box: Box, random: Sequence[float], image_width: int) -> Region:
        factor, angle, mirrored = self.draw(random)
        region = region_of(box, self.size, self.margin)
        region = region._replace(width=region.width * factor, angle=angle)
        if mirrored:
            region = region._replace(x=image_width - 1 - region.x, mirror_width=image_width)
        return region

    def sample(
        self,
        image: Array,
        box: Box,
        keypoints: Array,
        random: Sequence[float],
        *,
        out: Array | None = None,
        target: Array | None = None,
    ) -> tuple[Array, Array, Array]:
        """Return float32 image ``(3, H, W)``, heat-maps ``(K, H / 4, W / 4)``, weights ``(K,)``.

        ``keypoints`` are ``(K, 3)``: x, y, visibility; ``random`` holds ``draws`` numbers in [0,
        1); image and heat-maps are written to ``out`` and ``target``.
        """
        region = self.region(box, random, image.shape[1])
        matrix = affine(region, self.size)
        image = planes(self.normalize(self.cut(image, matrix)), out)
        if region.mirror_width is not None:
            keypoints = keypoints[mirror_order(len(keypoints), self.pairs)]
        points, labelled = transform(keypoints[:, :2], matrix) / STRIDE, keypoints[:, 2]
        maps, weights = heatmap_targets(
            points, labelled, self.target_size, self.sigma, encoding=self.encoding, out=target
        )
        return image, maps, weights


class PoseLoader(Loader):
    """Training batches: ``label`` are heat-maps ``(B, K, h, w)``, ``mask`` weights ``(B, K)``."""

    def __init__(
        self, dataset: CocoKeypoints, transform: PoseTrainTransform, batch_size: int, **others: Any
    ) -> None:
        super().__init__(dataset, transform, batch_size, **others)

    def set_share(self, number: int, count: int) -> None:
        super().set_share(number, count)
        shape = (self.rows, len(self.dataset.keypoint_names)) + self.transform.target_size
        self._targets = BufferPool(shape)

    def _make(self, indices: Array, draws: Array) -> Batch:
        images, targets = self._buffers.take(), self._targets.take()
        masks = np.zeros(targets.shape[:2], np.float32)
        images[len(indices) :], targets[len(indices) :] = 0, 0
        for row, (i, random) in enumerate(zip(indices.tolist(), draws[indices].tolist())):
            image, box, keypoints, _ = self.dataset[i]
            box, written = without_last_pixel(box), {"out": images[row], "target": targets[row]}
            _, _, masks[row] = self.transform.sample(image, box, keypoints, random, **written)
        arrays = self._buffers.wrap(images), self._targets.wrap(targets), mx.nd.from_numpy(masks)
        return Batch(*arrays, index=_padded(indices, self.rows))


class People:
    """Boxes of people in images, whose keypoints are to be found.

    Args:
        read: Function from an image id to the image, uint8 ``(H, W, 3)`` RGB.
        boxes: ``(N, 4)`` corners x1, y1, x2, y2 in pixels; their ``scores`` are 1 by default.
        on_bad_image: 'error' raises where an image cannot be read; 'skip' lists it in ``skipped``,
            ``[(image id, reason), ...]``.
    """

    def __init__(
        self,
        read: Callable[[Any], Array],
        image_ids: Sequence,
        boxes: Sequence,
        scores: Sequence[float] | None = None,
        *,
        on_bad_image: str = "error",
    ) -> None:
        self.read, self.image_ids = read, list(image_ids)
        self.boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        self.scores = np.ones(len(self.boxes)) if scores is None else np.asarray(scores, float)
        self.on_bad_image = on_bad_image
        self.skipped: list[tuple[Any, str]] = []
        if not len(self.image_ids) == len(self.boxes) == len(self.scores):
            raise ValueError(
                f"{len(self.image_ids)} images, {len(self.boxes)} boxes, {len(self.scores)} scores"
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    @classmethod
    def of(cls, dataset: CocoKeypoints) -> People:
        boxes = [without_last_pixel(dataset.person(i)[0]) for i in range(len(dataset))]
        policy = dataset.on_bad_image
        return cls(dataset.read_image_id, dataset.image_ids, boxes, on_bad_image=policy)


class PeopleLoader(Loader):
    """Evaluation batches of :class:`People` in order; ``mask`` ``(B, 1)`` is 0 if not readable."""

    def _make(self, indices: Array, draws: Array) -> Batch:
        images, masks = self._buffers.take(), np.zeros((self.rows, 1), np.float32)
        images[len(indices) :] = 0
        people: Any = self.dataset
        for row, i in enumerate(indices.tolist()):
            try:
                image = people.read(people.image_ids[i])
            except BadImageError as error:
                if people.on_bad_image == "error":
                    raise
                people.skipped.append((people.image_ids[i], error.reason))
                images[row] = 0
                continue
            self.transform(image, people.boxes[i], images[row])
            masks[row] = 1
        marks, index = mx.nd.from_numpy(masks), _padded(indices, self.rows)
        return Batch(self._buffers.wrap(images), marks, marks, index)


def _padded(indices: Array, size: int) -> Array:
    index = np.full(size, PADDING, np.int64)
    index[: len(indices)] = indices
    return index


def without_last_pixel(box: Box) -> Array:
    """Return a box whose right and lower borders are pixels that belong to it.

    The released code counts annotated boxes so: x2 = x1 + width - 1, at most the last column.
    """
    x1, y1, x2, y2 = box
    return np.array([x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)], np.float32)
