"""Pictures with boxes: the augmentation of SSD, and resizing with a fixed proportion.

A transform is called as ``(image, boxes, classes, random)``: uint8 ``(h, w, 3)`` RGB; float32
``(N, 4)`` corners x1, y1, x2, y2 in pixels; int64 ``(N,)``; one number in [0, 1) from which all
random choices follow, or None for a transform without any. It returns a :class:`Framed` picture.

References: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, section 2.2 and 3.6 (data
augmentation); Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, section 5.1
(resizing).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np

from gluon_attn.data.images import resize as resize_image
from gluon_attn.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Normalize, planes

BRIGHTNESS, HUE, SPREAD = 32, 18, (0.5, 1.5)  # grey levels, degrees, contrast and saturation
OVERLAPS = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)  # None: no crop; 0: any crop
ATTEMPTS = 50
PIECE = (0.3, 1.0)  # sides of a crop, as shares of the picture's


class Framed(NamedTuple):
    """A picture as the net takes it.

    Attributes:
        image: ``(3, H, W)`` float32, normalised; zeros behind the picture's right and lower border.
        boxes: ``(N, 4)`` float32 in pixels of ``image``.
        classes: ``(N,)`` int64.
        extent: Width and height that the picture itself takes of ``image``.
    """

    image: Any
    boxes: np.ndarray
    classes: np.ndarray
    extent: tuple


class StretchTransform:
    """Resize to a square whatever the proportions; nothing random: SSD's evaluation.

    Args:
        size: Side of the square.
        mean, std: See :class:`gluon_attn.data.transforms.Normalize`.

    Raises:
        ValueError: The size is not positive.
    """

    draws = 0

    def __init__(self, size=300, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        if size < 1:
            raise ValueError(f"size={size}: must be positive")
        self.size = self.resize = int(size)
        self.normalize = Normalize(mean, std)

    def frame(self, width, height):
        """Return height and width of the net's input for a picture of this size."""
        return self.size, self.size

    def scale(self, width, height):
        """Return the factors on x and y."""
        return self.size / width, self.size / height

    def __call__(self, image, boxes, classes, random=None):
        image, boxes = _stretch(image, boxes, self.size)
        return Framed(planes(self.normalize(image)), boxes, classes, (self.size, self.size))


class SsdTransform(StretchTransform):
    """SSD's training augmentation: colours, a canvas around, a piece, mirrored, resized.

    Colours: brightness +-32, contrast and saturation 0.5 to 1.5, hue +-18 degrees, each half of the
    time. Canvas: half of the time up to ``expand`` times as wide and high, filled with the mean.
    Piece: the whole picture, or one whose sides are 0.3 to 1 of the picture's, of shape 1:2 to 2:1,
    that overlaps a box by a minimum drawn from 0.1, 0.3, 0.5, 0.7, 0.9 or none; boxes whose centre
    is outside are dropped, the others cut.

    Args:
        size, mean, std: See :class:`StretchTransform`.
        expand: Largest factor; 1 leaves canvases out.
        crop: Whether pieces are cut.
        colour: Whether colours change.
        mirror: Whether half of the pictures are mirrored.

    Raises:
        ValueError: ``expand`` below 1.
    """

    draws = 1

    def __init__(
        self, size=300, mean=IMAGENET_MEAN, std=IMAGENET_STD, expand=4.0, crop=True, colour=True,
        mirror=True,
    ):  # fmt: skip
        super().__init__(size, mean, std)
        if expand < 1:
            raise ValueError(f"expand={expand}: the canvas cannot be smaller than the picture (1)")
        self.expand, self.crop, self.colour, self.mirror = expand, crop, colour, mirror
        self._fill = tuple(int(round(v)) for v in mean)

    def __call__(self, image, boxes, classes, random=None):
        rng = np.random.default_rng(int(random * 2**53))
        if self.colour:
            image = distort(image, rng)
        if self.expand > 1 and rng.random() < 0.5:
            image, boxes = self._put_on_canvas(image, boxes, rng)
        if self.crop:
            image, boxes, classes = cut_piece(image, boxes, classes, rng)
        image, boxes = _stretch(image, boxes, self.size)
        if self.mirror and rng.random() < 0.5:
            image, boxes = mirrored(image, boxes)
        return Framed(planes(self.normalize(image)), boxes, classes, (self.size, self.size))

    def _put_on_canvas(self, image, boxes, rng):
        height, width = image.shape[:2]
        factor = rng.uniform(1, self.expand)
        rows, columns = int(height * factor), int(width * factor)
        y, x = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
        canvas = np.empty((rows, columns, 3), np.uint8)
        canvas[:] = self._fill
        canvas[y : y + height, x : x + width] = image
        return canvas, boxes + np.array([x, y, x, y], np.float32)


class FitTransform:
    """Resize with the proportions kept, into one of two frames: a wide one or a high one.

    The shorter side becomes ``short`` unless the longer one would exceed ``long``. The frame's
    sides are these two rounded up to multiples of ``multiple``; the picture lies in its upper left
    corner. (mmdetection pads to the largest picture of the batch: the same but for the width of the
    padding, and two frames are two static graphs.)

    Args:
        short, long: In pixels.
        mirror: Whether half of the pictures are mirrored; needs ``random`` in the call.
        mean, std: See :class:`gluon_attn.data.transforms.Normalize`.
        multiple: The coarsest stride of the net.

    Raises:
        ValueError: If not 1 <= short <= long.
    """

    def __init__(
        self, short=800, long=1333, mirror=False, mean=IMAGENET_MEAN, std=IMAGENET_STD, multiple=32
    ):
        if not 1 <= short <= long:
            raise ValueError(f"short={short}, long={long}: need 1 <= short <= long")
        self.short, self.long, self.mirror = int(short), int(long), bool(mirror)
        self.size = self.resize = self.short
        self.draws = int(self.mirror)
        self._sides = tuple(-(-side // multiple) * multiple for side in (self.short, self.long))
        self.normalize = Normalize(mean, std)

    def frame(self, width, height):
        """Return height and width of the net's input for a picture of this size."""
        return self._sides if width >= height else self._sides[::-1]

    def scale(self, width, height):
        """Return the factors on x and y, which differ by the rounding to whole pixels."""
        factor = min(self.short / min(width, height), self.long / max(width, height))
        return max(1, round(width * factor)) / width, max(1, round(height * factor)) / height

    def __call__(self, image, boxes, classes, random=None):
        height, width = image.shape[:2]
        x, y = self.scale(width, height)
        extent = round(width * x), round(height * y)
        image = resize_image(image, *extent)
        boxes = boxes * np.array([x, y, x, y], np.float32)
        if self.mirror and random < 0.5:
            image, boxes = mirrored(image, boxes)
        out = np.zeros((3, *self.frame(width, height)), np.float32)
        out[:, : extent[1], : extent[0]] = planes(self.normalize(image))
        return Framed(out, boxes, classes, extent)


def distort(image, rng):
    """Return the picture with other brightness, contrast, saturation and hue."""
    if rng.random() < 0.5:
        image = _shift(image, rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    first = rng.random() < 0.5  # contrast comes before or behind the others
    if first and rng.random() < 0.5:
        image = _scale(image, rng.uniform(*SPREAD))
    change, turn = rng.random(2) < 0.5
    if change or turn:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.float32)
        if change:
            hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(*SPREAD), 0, 255)
        if turn:
            hsv[..., 0] = (hsv[..., 0] + rng.uniform(-HUE, HUE) / 2) % 180  # OpenCV: 2 degrees each
        image = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    if not first and rng.random() < 0.5:
        image = _scale(image, rng.uniform(*SPREAD))
    return image


def cut_piece(image, boxes, classes, rng):
    """Return a random piece of the picture that shows a box, or the picture itself."""
    minimum = OVERLAPS[rng.integers(len(OVERLAPS))]
    if minimum is None or not len(boxes):
        return image, boxes, classes
    height, width = image.shape[:2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    for w, h, right, down in rng.random((ATTEMPTS, 4)):
        w, h = (PIECE[0] + share * (PIECE[1] - PIECE[0]) for share in (w, h))
        w, h = max(1, int(w * width)), max(1, int(h * height))
        if not 0.5 <= w / h <= 2:
            continue
        x, y = int(right * (width - w + 1)), int(down * (height - h + 1))
        piece = np.array([x, y, x + w, y + h], np.float32)
        inside = ((centres > piece[:2]) & (centres < piece[2:])).all(1)
        if inside.any() and _overlap(boxes, piece).max() >= minimum:
            boxes = np.clip(boxes[inside], piece[[0, 1, 0, 1]], piece[[2, 3, 2, 3]])
            return image[y : y + h, x : x + w], boxes - piece[[0, 1, 0, 1]], classes[inside]
    return image, boxes, classes


def mirrored(image, boxes):
    """Return picture and boxes seen in a mirror."""
    boxes = boxes.copy()
    boxes[:, [0, 2]] = image.shape[1] - boxes[:, [2, 0]]
    return cv2.flip(image, 1), boxes


def _overlap(boxes, piece):
    """Return intersection over union of every box with one."""
    inner = np.minimum(boxes[:, 2:], piece[2:]) - np.maximum(boxes[:, :2], piece[:2])
    inner = np.maximum(inner, 0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (piece[2:] - piece[:2]).prod()
    return inner / np.maximum(areas - inner, 1e-12)


def _stretch(image, boxes, size):
    height, width = image.shape[:2]
    factors = np.array([size / width, size / height] * 2, np.float32)
    return resize_image(image, size, size), boxes * factors


def _shift(image, levels):
    return cv2.convertScaleAbs(np.clip(image.astype(np.float32) + levels, 0, 255))


def _scale(image, factor):
    return cv2.convertScaleAbs(np.clip(image.astype(np.float32) * factor, 0, 255))
