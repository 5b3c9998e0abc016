"""Cutting people out for keypoints: augmentation of Simple Baselines, and evaluation.

Training: the region around the box is scaled by a normal factor (clipped to 1 +- scale), turned by
a normal angle (clipped to twice its deviation) in 60 % of the samples and mirrored in half of
them; everything in one affine map, so the picture is interpolated once.

Reference: Xiao, Wu, Wei, "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018;
constants of the released code.
"""

from __future__ import annotations

from statistics import NormalDist

import cv2

from gluon_attn.coco.keypoints_affine import (
    MARGIN,
    affine,
    mirror_keypoints,
    region_of,
    transform,
)
from gluon_attn.coco.keypoints_targets import ENCODINGS, draw_targets
from gluon_attn.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Normalize, planes

STRIDE = 4  # input pixels per pixel of the heat-map
_NORMAL = NormalDist()


class PoseEvalTransform:
    """Cut a region out, upright; normalise.

    Called as ``(image, box, out=None)``; returns float32 ``(3, H, W)``.

    Args:
        size: ``(H, W)`` of the net's input.
        margin: See :func:`gluon_attn.coco.keypoints_affine.region_of`.
        mean, std: See :class:`gluon_attn.data.transforms.Normalize`.
    """

    draws = 0

    def __init__(self, size=(256, 192), margin=MARGIN, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        self.size = self.resize = tuple(int(side) for side in size)
        self.margin = float(margin)
        self.normalize = Normalize(mean, std)
        self.mean, self.std = self.normalize.mean, self.normalize.std

    def matrix(self, box):
        """Return the ``(2, 3)`` map from picture to input for a box x1, y1, x2, y2."""
        return affine(region_of(box, self.size, self.margin), self.size)

    def __call__(self, image, box, out=None):
        return planes(self.normalize(self.cut(image, self.matrix(box))), out)

    def cut(self, image, matrix):
        """Return what the net sees, before normalisation: uint8 ``(H, W, 3)``; black outside."""
        height, width = self.size
        return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)


class PoseTrainTransform(PoseEvalTransform):
    """Cut a randomly scaled, turned and mirrored region out, and draw the heat-maps.

    Called as ``(image, box, keypoints, random, out=None, target=None)`` with keypoints ``(K, 3)``
    (x, y, visibility) and ``draws`` numbers uniform in [0, 1); returns ``(image, heat-maps,
    weights)``: float32 ``(3, H, W)``, ``(K, H / 4, W / 4)`` and ``(K,)``.

    Args:
        size, margin, mean, std: See :class:`PoseEvalTransform`.
        pairs: Pairs of keypoints that a mirror exchanges.
        mirror: Whether to mirror half of the people.
        scale: Deviation and bound of the factor on the region's size.
        rotation: Deviation of the angle in degrees; its bound is twice that.
        rotated: Share of the samples that are turned.
        sigma, encoding: See :func:`gluon_attn.coco.keypoints_targets.draw_targets`.

    Raises:
        ValueError: A setting out of range.
    """

    draws = 4

    def __init__(
        self, size=(256, 192), pairs=(), mirror=True, scale=0.3, rotation=40.0, rotated=0.6,
        sigma=2.0, encoding="rounded", margin=MARGIN, mean=IMAGENET_MEAN, std=IMAGENET_STD,
    ):  # fmt: skip
        super().__init__(size, margin, mean, std)
        if not 0 <= scale < 1 or rotation < 0 or not 0 <= rotated <= 1 or margin <= 0:
            raise ValueError(
                f"scale={scale}, rotation={rotation}, rotated={rotated}, margin={margin}: valid "
                "are 0 to below 1, 0 or more, 0 to 1, above 0"
            )
        if encoding not in ENCODINGS or not sigma > 0:
            raise ValueError(f"encoding={encoding!r}, sigma={sigma}: valid are "
                             f"{', '.join(ENCODINGS)}, above 0")  # fmt: skip
        self.pairs, self.mirror = tuple(pairs), bool(mirror)
        self.scale, self.rotation, self.rotated = float(scale), float(rotation), float(rotated)
        self.sigma, self.encoding = float(sigma), encoding
        self.target_size = tuple(side // STRIDE for side in self.size)

    def draw(self, random):
        """Return ``(factor, angle, mirrored)`` that four uniform numbers stand for."""
        factor = 1 + self.scale * min(max(_normal(random[0]), -1), 1)
        angle = self.rotation * min(max(_normal(random[1]), -2), 2)
        return factor, angle if random[2] < self.rotated else 0.0, (
            self.mirror and random[3] < 0.5
        )  # fmt: skip

    def region(self, box, random, image_width):
        """Return the Region for a box and ``draws`` random numbers."""
        factor, angle, mirrored = self.draw(random)
        region = region_of(box, self.size, self.margin)
        region = region._replace(width=region.width * factor, angle=angle)
        if mirrored:
            region = region._replace(x=image_width - 1 - region.x, mirror_width=image_width)
        return region

    def __call__(self, image, box, keypoints, random, out=None, target=None):
        region = self.region(box, random, image.shape[1])
        matrix = affine(region, self.size)
        image = planes(self.normalize(self.cut(image, matrix)), out)
        points = transform(keypoints[:, :2], matrix) / STRIDE
        labelled = keypoints[:, 2]
        if region.mirror_width is not None:
            points = mirror_keypoints(points, self.pairs)
            labelled = mirror_keypoints(labelled, self.pairs)
        maps, weights = draw_targets(
            points, labelled, self.target_size, self.sigma, self.encoding, target
        )
        return image, maps, weights


def _normal(uniform):
    """Return the standard normal number that a uniform one in [0, 1) stands for."""
    return _NORMAL.inv_cdf(min(max(uniform, 1e-12), 1 - 1e-12))
