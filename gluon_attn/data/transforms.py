"""Augmentation of VAA (ECCV 2018, supplement) on uint8 pictures, in OpenCV.

Training: resize to 256 x 256, cut a square whose side is uniform in [128, 224] at a uniform place,
mirror half of the time, resize to 224. Evaluation: resize, cut the centre, as the released code's
ImageRecordIter does.

The crop is made here and not by ``mx.io.ImageRecordIter``, whose scaled crops are wrong when
records have the output size already (apache/mxnet #16925).

Units: mean and standard deviation are in grey levels 0-255, in the order R, G, B. The default is
ImageNet's, which the Gluon model zoo's weights expect. (The released VAA code subtracts
104/117/123 from R/G/B, which look like BGR means, and divides by nothing.)
"""

from __future__ import annotations

import cv2
import numpy as np

from gluon_attn.data.images import resize as resize_image
from gluon_attn.data.images import resize_shorter

IMAGENET_MEAN = (123.68, 116.779, 103.939)
IMAGENET_STD = (58.393, 57.12, 57.375)


class Normalize:
    """Turn uint8 ``(H, W, 3)`` into float32 of the same shape: ``(image - mean) / std``.

    Args:
        mean, std: Three numbers each, RGB, in grey levels; std is positive.
    """

    def __init__(self, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
            raise ValueError(f"mean and std need three numbers, std positive: {mean}, {std}")
        self.mean, self.std = tuple(mean.tolist()), tuple(std.tolist())
        scale, shift = (1 / std).astype(np.float32), (-mean / std).astype(np.float32)
        levels = np.arange(256, dtype=np.float32)[:, None]
        self._table = (levels * scale + shift)[None]  # (1, 256, 3)

    def __call__(self, image):
        return cv2.LUT(image, self._table)


def planes(image, out=None):
    """Return a float32 ``(H, W, 3)`` picture as ``(3, H, W)``, written to ``out`` if given."""
    if out is None:
        out = np.empty((3,) + image.shape[:2], np.float32)
    cv2.split(image, list(out))
    return out


class TrainTransform:
    """Resize, random square crop, mirror, resize, normalise.

    Called as ``(image, random, out=None, corner=None)``: uint8 ``(H, W, 3)`` RGB, ``draws`` numbers
    uniform in [0, 1) such as ``rng.random(transform.draws)``, optionally the float32
    ``(3, size, size)`` array to write to, and, if the picture is a part of one of the size
    ``resize``, the part's first pixel ``(x, y)``. Returns the array. So the result is a function
    of the arguments, whichever thread calls it.

    Args:
        resize: Side of the square to which every picture is brought first.
        crop: Smallest and largest side of the crop, both included, in pixels of that square.
            PETA: (160, 224).
        size: Side of the result: the network's input.
        mirror: Whether to mirror half of the pictures.
        mean, std: See :class:`Normalize`.

    Raises:
        ValueError: If not 1 <= crop[0] <= crop[1] <= resize.

    Reference: VAA supplement, training details.
    """

    draws = 4

    def __init__(
        self,
        resize=256,
        crop=(128, 224),
        size=224,
        mirror=True,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ):
        crop = tuple(int(side) for side in crop)
        if len(crop) != 2 or not 1 <= crop[0] <= crop[1] <= resize or size < 1:
            raise ValueError(
                f"crop={crop}, resize={resize}, size={size}: "
                "need 1 <= crop[0] <= crop[1] <= resize and 1 <= size"
            )
        self.resize, self.crop, self.size, self.mirror = int(resize), crop, int(size), bool(mirror)
        self.normalize = Normalize(mean, std)
        self.mean, self.std = self.normalize.mean, self.normalize.std

    def draw(self, random):
        """Return ``(x, y, side, mirrored)`` of the crop that four uniform numbers stand for."""
        low, high = self.crop
        side = low + int(random[0] * (high - low + 1))
        room = self.resize - side + 1
        return int(random[1] * room), int(random[2] * room), side, self.mirror and random[3] < 0.5

    def window(self, random):
        """Return what is needed of the resized picture: ``(left, top, right, bottom)``."""
        x, y, side, _ = self.draw(random)
        return x, y, x + side, y + side

    def __call__(self, image, random, out=None, corner=None):
        x, y, side, mirrored = self.draw(random)
        if corner is None:
            image, corner = resize_image(image, self.resize, self.resize), (0, 0)
        x, y = x - corner[0], y - corner[1]
        image = image[y : y + side, x : x + side]
        if mirrored:
            image = cv2.flip(image, 1)
        # Interpolation and normalisation commute, so the order is free: this way normalises fewer
        # pixels, and OpenCV interpolates floats in less time than uint8. Few calls on large arrays:
        # each lets go of Python's lock and waits for it, which is what limits several threads.
        return planes(resize_image(self.normalize(image), self.size, self.size), out)


class EvalTransform:
    """Resize, centre crop, resize, normalise; nothing random.

    Called as ``(image, random=None, out=None, corner=None)`` like :class:`TrainTransform`.

    Args:
        resize: Side of the square to which every picture is brought first.
        crop: Side of the centre crop in pixels of that square; None takes the whole picture.
        size: Side of the result.
        mean, std: See :class:`Normalize`.
        keep_aspect: Whether the *shorter* side is brought to ``resize`` and the picture keeps its
            proportions, as ImageNet's evaluation has it. Needs a crop.

    Raises:
        ValueError: If crop is larger than resize, or missing with ``keep_aspect``.
    """

    draws = 0

    def __init__(
        self, resize=256, crop=224, size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD,
        keep_aspect=False,
    ):  # fmt: skip
        if size < 1 or not 1 <= (resize if crop is None else crop) <= resize:
            raise ValueError(f"crop={crop}, resize={resize}, size={size}: need crop <= resize")
        if keep_aspect and crop is None:
            raise ValueError("keep_aspect needs a crop: pictures would differ in shape")
        self.resize, self.crop, self.size = int(resize), crop, int(size)
        self.keep_aspect = bool(keep_aspect)
        self.normalize = Normalize(mean, std)
        self.mean, self.std = self.normalize.mean, self.normalize.std

    def window(self, random=None):
        """Return what is needed of the resized picture: ``(left, top, right, bottom)``."""
        side = self.resize if self.crop is None else self.crop
        start = (self.resize - side) // 2
        return start, start, start + side, start + side

    def __call__(self, image, random=None, out=None, corner=None):
        left, top, right, bottom = self.window()
        if corner is None and self.keep_aspect:
            image = resize_shorter(image, self.resize)
            rows, columns = image.shape[:2]  # move the window to the picture's own centre
            corner = left - (columns - self.crop) // 2, top - (rows - self.crop) // 2
        elif corner is None:
            image, corner = resize_image(image, self.resize, self.resize), (0, 0)
        x, y = corner
        image = image[top - y : bottom - y, left - x : right - x]
        return planes(self.normalize(resize_image(image, self.size, self.size)), out)
