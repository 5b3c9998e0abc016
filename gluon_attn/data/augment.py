"""Augmentation of the image classification papers, beside the random square crop of VAA.

* :class:`PadCropTransform`: CIFAR, as in He et al. (CVPR 2016), section 4.2: pad 4 pixels, cut a
  piece of the original size, mirror.
* :class:`ResizedCropTransform`: ImageNet, as in Szegedy et al., "Going deeper with convolutions"
  (CVPR 2015), section 6: a piece of random area and shape, scaled to the input size, mirror.

Both are called as :class:`gluon_attn.data.transforms.TrainTransform` is, and their result is a
function of the arguments too, whichever thread calls them.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from gluon_attn.data.images import resize as resize_image
from gluon_attn.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Normalize, planes


class PadCropTransform:
    """Pad with zeros, cut a piece of the picture's size at a uniform place, mirror, normalise.

    The padding is black: its value is 0 before the mean is subtracted.

    Args:
        size: Side of the square to which pictures are brought first, and of the result.
        pad: Pixels added on each side.
        mirror: Whether to mirror half of the pictures.
        mean, std: See :class:`gluon_attn.data.transforms.Normalize`.

    Raises:
        ValueError: If the size is not positive or the padding is negative.

    Reference: ICASC supplement, section 1.1 (CIFAR-100).
    """

    draws = 3

    def __init__(self, size=32, pad=4, mirror=True, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        if size < 1 or pad < 0:
            raise ValueError(f"size={size}, pad={pad}: need 1 <= size and 0 <= pad")
        self.size, self.pad, self.mirror = int(size), int(pad), bool(mirror)
        self.resize = self.size
        self.normalize = Normalize(mean, std)
        self.mean, self.std = self.normalize.mean, self.normalize.std

    def draw(self, random):
        """Return ``(x, y, mirrored)``: the piece's corner relative to the picture's."""
        places = 2 * self.pad + 1
        x, y = int(random[0] * places) - self.pad, int(random[1] * places) - self.pad
        return x, y, self.mirror and random[2] < 0.5

    def window(self, random):
        """Return what is needed of the resized picture: ``(left, top, right, bottom)``."""
        x, y, _ = self.draw(random)
        return max(x, 0), max(y, 0), min(x, 0) + self.size, min(y, 0) + self.size

    def __call__(self, image, random, out=None, corner=None):
        x, y, mirrored = self.draw(random)
        left, top, right, bottom = self.window(random)
        if corner is None:
            image, corner = resize_image(image, self.size, self.size), (0, 0)
        piece = np.zeros((self.size, self.size, 3), np.uint8)
        piece[top - y : bottom - y, left - x : right - x] = image[
            top - corner[1] : bottom - corner[1], left - corner[0] : right - corner[0]
        ]
        if mirrored:
            piece = cv2.flip(piece, 1)
        return planes(self.normalize(piece), out)


class ResizedCropTransform:
    """Cut a piece of random area and shape out of the picture, scale it, mirror, normalise.

    Area and shape refer to the picture as it comes. Packed and cached pictures come as squares of
    side ``resize``, so their own proportions are lost there.

    Args:
        resize: Side of packed and cached pictures; others are not resized before the cut.
        size: Side of the result.
        area: Smallest and largest share of the picture's area, uniform in between.
        shape: Smallest and largest width / height, uniform in the logarithm.
        mirror: Whether to mirror half of the pictures.
        mean, std: See :class:`gluon_attn.data.transforms.Normalize`.

    Raises:
        ValueError: If not 0 < area[0] <= area[1] <= 1 and 0 < shape[0] <= shape[1].
    """

    draws = 1  # the seed of further numbers: attempts differ in how many they need
    ATTEMPTS = 10

    def __init__(
        self, resize=256, size=224, area=(0.08, 1.0), shape=(3 / 4, 4 / 3), mirror=True,
        mean=IMAGENET_MEAN, std=IMAGENET_STD,
    ):  # fmt: skip
        if not (0 < area[0] <= area[1] <= 1 and 0 < shape[0] <= shape[1] and size >= 1):
            raise ValueError(
                f"area={area}, shape={shape}, size={size}: need 0 < area[0] <= area[1] <= 1, "
                "0 < shape[0] <= shape[1] and 1 <= size"
            )
        self.resize, self.size, self.mirror = int(resize), int(size), bool(mirror)
        self.area, self.shape = tuple(area), tuple(shape)
        self.normalize = Normalize(mean, std)
        self.mean, self.std = self.normalize.mean, self.normalize.std

    def draw(self, random, width, height):
        """Return ``(x, y, w, h, mirrored)`` of the piece of a ``width`` x ``height`` picture."""
        rng = np.random.default_rng(int(random[0] * 2**53))
        low, high = math.log(self.shape[0]), math.log(self.shape[1])
        mirrored = self.mirror and rng.random() < 0.5
        for area, shape, right, down in rng.random((self.ATTEMPTS, 4)):
            wanted = width * height * (self.area[0] + area * (self.area[1] - self.area[0]))
            ratio = math.exp(low + shape * (high - low))
            w, h = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
            if 1 <= w <= width and 1 <= h <= height:
                return int(right * (width - w + 1)), int(down * (height - h + 1)), w, h, mirrored
        return (*self._centre(width, height), mirrored)

    def _centre(self, width, height):
        """Return the largest central piece of an allowed shape, for pictures that are strips."""
        w = min(width, max(1, round(height * self.shape[1])))
        h = min(height, max(1, round(width / self.shape[0])))
        return (width - w) // 2, (height - h) // 2, w, h

    def window(self, random):
        """Return what is needed of a packed picture: ``(left, top, right, bottom)``."""
        x, y, w, h, _ = self.draw(random, self.resize, self.resize)
        return x, y, x + w, y + h

    def __call__(self, image, random, out=None, corner=None):
        if corner is None:
            corner, (height, width) = (0, 0), image.shape[:2]
        else:
            height = width = self.resize
        x, y, w, h, mirrored = self.draw(random, width, height)
        x, y = x - corner[0], y - corner[1]
        image = resize_image(image[y : y + h, x : x + w], self.size, self.size)
        if mirrored:
            image = cv2.flip(image, 1)
        return planes(self.normalize(image), out)
