"""Augmentation for person re-identification: people are twice as high as wide, so no squares.

Training (Hermans, Beyer, Leibe, arXiv:1703.07737, section 4.1): resize to 9/8 of the input size,
cut a rectangle of the input size at a random place, mirror half of the time. Optionally random
erasing (Zhong, Zheng, Kang, Li, Yang, "Random Erasing Data Augmentation", AAAI 2020). Evaluation:
resize.

Sizes are ``(height, width)`` in pixels; mean and std as in ``transforms``.
"""

from __future__ import annotations

import cv2
import numpy as np

from gluon_attn.data.images import resize as resize_image
from gluon_attn.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Normalize, planes

ERASED = (0.02, 0.4)  # share of the picture that is erased, at least and at most
ASPECT = 0.3  # smallest ratio of height to width, or of width to height


class ReidTrainTransform:
    """Resize, random crop, mirror, normalise, perhaps erase.

    Called as :class:`gluon_attn.data.TrainTransform` is: ``(image, random, out=None, corner=None)``
    with ``draws`` numbers uniform in [0, 1); ``corner`` must be None. Returns float32
    ``(3, H, W)``.

    Args:
        size: ``(H, W)`` of the result.
        resize: ``(H, W)`` to which pictures are brought first; None means 9/8 of ``size``.
        mirror: Whether to mirror half of the pictures.
        erase: Probability that a rectangle of the picture is replaced by the mean colour; the paper
            of random erasing uses 0.5 and random colours. It covers between 2 and 40 % of the
            picture, cut at its border.
        mean, std: See :class:`gluon_attn.data.transforms.Normalize`.

    Raises:
        ValueError: If ``size`` does not fit into ``resize``, or ``erase`` is no probability.
    """

    draws = 8

    def __init__(
        self, size=(256, 128), resize=None, mirror=True, erase=0.0, mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ):  # fmt: skip
        self.size = _pair(size)
        self.resize = tuple(round(s * 9 / 8) for s in self.size) if resize is None else resize
        self.resize = _pair(self.resize)
        if any(small > large for small, large in zip(self.size, self.resize)):
            raise ValueError(f"size={self.size} does not fit into resize={self.resize}")
        if not 0 <= erase <= 1:
            raise ValueError(f"erase={erase}: must be a probability")
        self.mirror, self.erase = bool(mirror), float(erase)
        self.normalize = Normalize(mean, std)
        self.mean, self.std = self.normalize.mean, self.normalize.std

    def __call__(self, image, random, out=None, corner=None):
        (height, width), (tall, wide) = self.resize, self.size
        image = resize_image(image, width, height)
        top = int(random[0] * (height - tall + 1))
        left = int(random[1] * (width - wide + 1))
        image = image[top : top + tall, left : left + wide]
        if self.mirror and random[2] < 0.5:
            image = cv2.flip(image, 1)
        out = planes(self.normalize(np.ascontiguousarray(image)), out)
        if random[3] < self.erase:
            top, left, tall, wide = self.erased(random[4:8])
            out[:, top : top + tall, left : left + wide] = 0  # the mean, normalised
        return out

    def erased(self, random):
        """Return ``(top, left, height, width)`` of the erased rectangle from four draws."""
        tall, wide = self.size
        area = tall * wide * (ERASED[0] + random[0] * (ERASED[1] - ERASED[0]))
        aspect = ASPECT ** (1 - 2 * random[1])  # as likely to be high as wide
        height = min(tall, max(1, round((area * aspect) ** 0.5)))
        width = min(wide, max(1, round((area / aspect) ** 0.5)))
        return (
            int(random[2] * (tall - height + 1)), int(random[3] * (wide - width + 1)), height, width
        )  # fmt: skip


class ReidEvalTransform:
    """Resize, normalise; nothing random. Called as :class:`ReidTrainTransform` is.

    Args:
        size: ``(H, W)`` of the result.
        mean, std: See :class:`gluon_attn.data.transforms.Normalize`.
    """

    draws = 0

    def __init__(self, size=(256, 128), mean=IMAGENET_MEAN, std=IMAGENET_STD):
        self.size = self.resize = _pair(size)
        self.normalize = Normalize(mean, std)
        self.mean, self.std = self.normalize.mean, self.normalize.std

    def __call__(self, image, random=None, out=None, corner=None):
        height, width = self.size
        return planes(self.normalize(resize_image(image, width, height)), out)


def _pair(size):
    size = tuple(size) if isinstance(size, (tuple, list)) else (size,)
    if len(size) != 2 or any(int(side) != side or side < 1 for side in size):
        raise ValueError(f"size {size!r}: needs two whole numbers from 1, (height, width)")
    return tuple(int(side) for side in size)
