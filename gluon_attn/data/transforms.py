"""Augmentation and preparation of uint8 images, in OpenCV.

* :class:`TrainTransform`, :class:`EvalTransform`: VAA (ECCV 2018, supplement). Training: resize to
  256 x 256, cut a square whose side is uniform in [128, 224] at a uniform place, mirror half of the
  time, resize to 224. Evaluation: resize, cut the centre, as the released code's ImageRecordIter
  does. The crop is made here and not by ``mx.io.ImageRecordIter``, whose scaled crops are wrong
  when records have the output size already (apache/mxnet #16925).
* :class:`PadCropTransform`: CIFAR, as in He et al. (CVPR 2016), section 4.2.
* :class:`ResizedCropTransform`: ImageNet, as in Szegedy et al., "Going deeper with convolutions"
  (CVPR 2015), section 6.
* :class:`ReidTrainTransform`, :class:`ReidEvalTransform`: person re-identification (Hermans, Beyer,
  Leibe, arXiv:1703.07737, section 4.1). People are twice as high as wide, so no squares.

All are called as ``transform(image, random, out=None, corner=None)``: uint8 ``(H, W, 3)`` RGB,
``transform.draws`` numbers uniform in [0, 1) such as ``rng.random(transform.draws)``, optionally
the float32 ``(3, h, w)`` array to write to, and, if the image is a part of one of the size
``transform.resize``, the part's first pixel ``(x, y)``. They return the array. So the result is a
function of the arguments, whichever thread calls. Those with ``window(random)`` say which part
``(left, top, right, bottom)`` of the resized image they need.

Units: mean and standard deviation are in grey levels 0-255, in the order R, G, B. The default is
ImageNet's, which the Gluon model zoo's weights expect. (The released VAA code subtracts
104/117/123 from R/G/B, which look like BGR means, and divides by nothing.)
"""

from __future__ import annotations

import math
from typing import Any, Sequence, Tuple

import cv2
import numpy as np

from gluon_attn.core.images import RESAMPLING
from gluon_attn.core.registry import unknown_name
from gluon_attn.data.images import letterbox, resize_shorter
from gluon_attn.data.images import resize as resize_image

IMAGENET_MEAN = (123.68, 116.779, 103.939)
IMAGENET_STD = (58.393, 57.12, 57.375)
Window = Tuple[int, int, int, int]


class Normalize:
    """Turn uint8 ``(H, W, 3)`` RGB into float32: ``(image - mean) / std``, both in grey levels."""

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        means, stds = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        if means.shape != (3,) or stds.shape != (3,) or not (stds > 0).all():
            raise ValueError(f"mean and std need three numbers, std positive: {means}, {stds}")
        self.mean, self.std = tuple(means.tolist()), tuple(stds.tolist())
        scale, shift = (1 / stds).astype(np.float32), (-means / stds).astype(np.float32)
        levels = np.arange(256, dtype=np.float32)[:, None]
        self._table = (levels * scale + shift)[None]  # (1, 256, 3)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return cv2.LUT(image, self._table)


def planes(image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return a float32 ``(H, W, 3)`` image as ``(3, H, W)``, written to ``out`` if given."""
    if out is None:
        out = np.empty((3, *image.shape[:2]), np.float32)
    cv2.split(image, list(out))
    return out


class _Normalizing:
    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.normalize = Normalize(mean, std)
        self.mean, self.std = self.normalize.mean, self.normalize.std

    def _finish(self, image: np.ndarray, mirrored: bool, out: Any) -> np.ndarray:
        image = cv2.flip(image, 1) if mirrored else image
        return planes(self.normalize(np.ascontiguousarray(image)), out)


class TrainTransform(_Normalizing):
    """Resize, random square crop, mirror, resize, normalise (VAA supplement, training details).

    ``resize`` is the side of the square to which every image is brought first, ``crop`` the
    smallest and largest side of the crop in its pixels, both included (PETA: 160, 224), ``size``
    the side of the result.
    """

    draws = 4

    def __init__(
        self,
        resize: int = 256,
        crop: Sequence[int] = (128, 224),
        size: int = 224,
        mirror: bool = True,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(mean, std)
        crop = tuple(int(side) for side in crop)
        if len(crop) != 2 or not 1 <= crop[0] <= crop[1] <= resize or size < 1:
            need = "need 1 <= crop[0] <= crop[1] <= resize and 1 <= size"
            raise ValueError(f"crop={crop}, resize={resize}, size={size}: {need}")
        self.resize, self.crop, self.size, self.mirror = int(resize), crop, int(size), bool(mirror)

    def draw(self, random: Sequence[float]) -> tuple[int, int, int, bool]:
        """Return ``(x, y, side, mirrored)`` of the crop that four uniform numbers stand for."""
        low, high = self.crop
        side = low + int(random[0] * (high - low + 1))
        room = self.resize - side + 1
        return int(random[1] * room), int(random[2] * room), side, self.mirror and random[3] < 0.5

    def window(self, random: Sequence[float]) -> Window:
        x, y, side, _ = self.draw(random)
        return x, y, x + side, y + side

    def __call__(
        self, image: np.ndarray, random: Sequence[float], out: Any = None, corner: Any = None
    ) -> np.ndarray:
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


class EvalTransform(_Normalizing):
    """Resize, centre crop, resize, normalise; nothing random.

    ``resize`` is the side of the square to which every image is brought first, ``crop`` the side of
    the centre crop in its pixels (None: all), ``size`` that of the result. With ``keep_aspect``
    proportions stay: for a crop the *shorter* side is brought to ``resize``, as in ImageNet's
    evaluation; without one the image becomes a square by bars of the mean colour (letterbox).
    ``interpolation`` is one of :data:`gluon_attn.core.images.RESAMPLING`.
    """

    draws = 0

    def __init__(
        self,
        resize: int = 256,
        crop: int | None = 224,
        size: int = 224,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        keep_aspect: bool = False,
        interpolation: str = "auto",
    ) -> None:
        super().__init__(mean, std)
        if size < 1 or not 1 <= (resize if crop is None else crop) <= resize:
            raise ValueError(f"crop={crop}, resize={resize}, size={size}: need crop <= resize")
        if interpolation not in RESAMPLING:
            raise ValueError(unknown_name("interpolation", interpolation, RESAMPLING))
        self.interpolation = interpolation
        self.resize, self.crop, self.size = int(resize), crop, int(size)
        self.keep_aspect = bool(keep_aspect)

    def window(self, random: Sequence[float] | None = None) -> Window:
        side = self.resize if self.crop is None else self.crop
        start = (self.resize - side) // 2
        return start, start, start + side, start + side

    def view(self, image: np.ndarray, corner: Any = None) -> np.ndarray:
        """Return the part that a net sees, ``(size, size)`` or more axes; a mask goes alike."""
        left, top, right, bottom = self.window()
        method = self.interpolation
        if corner is None and self.keep_aspect and self.crop is not None:
            image = resize_shorter(image, self.resize, method)
            rows, columns = image.shape[:2]  # move the window to the image's own centre
            side = right - left
            corner = left - (columns - side) // 2, top - (rows - side) // 2
        elif corner is None:
            if self.keep_aspect:
                image = letterbox(image, self.mean if image.ndim == 3 else (0.0,))  # 0: no mask
            image, corner = resize_image(image, self.resize, self.resize, method=method), (0, 0)
        x, y = corner
        image = image[top - y : bottom - y, left - x : right - x]
        return resize_image(image, self.size, self.size, method=method)

    def __call__(
        self, image: np.ndarray, random: Any = None, out: Any = None, corner: Any = None
    ) -> np.ndarray:
        return planes(self.normalize(self.view(image, corner)), out)


class PadCropTransform(_Normalizing):
    """Pad with zeros, cut a piece of the image's size at a uniform place, mirror, normalise.

    The padding, ``pad`` pixels on each side, is black: its value is 0 before the mean is
    subtracted. ``size`` is the side of the square to which images are brought first, and of the
    result. Reference: ICASC supplement, section 1.1 (CIFAR-100).
    """

    draws = 3

    def __init__(
        self,
        size: int = 32,
        pad: int = 4,
        mirror: bool = True,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(mean, std)
        if size < 1 or pad < 0:
            raise ValueError(f"size={size}, pad={pad}: need 1 <= size and 0 <= pad")
        self.size, self.pad, self.mirror = int(size), int(pad), bool(mirror)
        self.resize = self.size

    def draw(self, random: Sequence[float]) -> tuple[int, int, bool]:
        """Return ``(x, y, mirrored)``: the piece's corner relative to the image's."""
        places = 2 * self.pad + 1
        x, y = int(random[0] * places) - self.pad, int(random[1] * places) - self.pad
        return x, y, self.mirror and random[2] < 0.5

    def window(self, random: Sequence[float]) -> Window:
        x, y, _ = self.draw(random)
        return max(x, 0), max(y, 0), min(x, 0) + self.size, min(y, 0) + self.size

    def __call__(
        self, image: np.ndarray, random: Sequence[float], out: Any = None, corner: Any = None
    ) -> np.ndarray:
        x, y, mirrored = self.draw(random)
        left, top, right, bottom = self.window(random)
        if corner is None:
            image, corner = resize_image(image, self.size, self.size), (0, 0)
        piece: Any = np.zeros((self.size, self.size, 3), np.uint8)
        piece[top - y : bottom - y, left - x : right - x] = image[
            top - corner[1] : bottom - corner[1], left - corner[0] : right - corner[0]
        ]
        return self._finish(piece, mirrored, out)


class ResizedCropTransform(_Normalizing):
    """Cut a piece of random area and shape out of the image, scale it, mirror, normalise.

    Area and shape refer to the image as it comes. Packed and cached images come as squares of side
    ``resize``, so their own proportions are lost there; others are not resized before the cut.
    ``area`` is the smallest and largest share of the image's area, in (0, 1], uniform in between,
    ``shape`` the smallest and largest width / height, uniform in the logarithm.
    """

    draws = 1  # the seed of further numbers: attempts differ in how many they need
    ATTEMPTS = 10

    def __init__(
        self,
        resize: int = 256,
        size: int = 224,
        area: Sequence[float] = (0.08, 1.0),
        shape: Sequence[float] = (3 / 4, 4 / 3),
        *,
        mirror: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(mean, std)
        if not (0 < area[0] <= area[1] <= 1 and 0 < shape[0] <= shape[1] and size >= 1):
            need = "need 0 < area[0] <= area[1] <= 1, 0 < shape[0] <= shape[1] and 1 <= size"
            raise ValueError(f"area={area}, shape={shape}, size={size}: {need}")
        self.resize, self.size, self.mirror = int(resize), int(size), bool(mirror)
        self.area, self.shape = tuple(area), tuple(shape)

    def draw(self, random: Sequence[float], width: int, height: int) -> tuple[int, ...]:
        """Return ``(x, y, w, h, mirrored)`` of the piece of a ``width`` x ``height`` image."""
        rng = np.random.default_rng(int(random[0] * 2**53))
        low, high = math.log(self.shape[0]), math.log(self.shape[1])
        mirrored = bool(self.mirror and rng.random() < 0.5)
        for area, shape, right, down in rng.random((self.ATTEMPTS, 4)):
            wanted = width * height * (self.area[0] + area * (self.area[1] - self.area[0]))
            ratio = math.exp(low + shape * (high - low))
            w, h = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
            if 1 <= w <= width and 1 <= h <= height:
                return int(right * (width - w + 1)), int(down * (height - h + 1)), w, h, mirrored
        # The largest central piece of an allowed shape, for images that are strips.
        w = min(width, max(1, round(height * self.shape[1])))
        h = min(height, max(1, round(width / self.shape[0])))
        return (width - w) // 2, (height - h) // 2, w, h, mirrored

    def window(self, random: Sequence[float]) -> Window:
        x, y, w, h, _ = self.draw(random, self.resize, self.resize)
        return x, y, x + w, y + h

    def __call__(
        self, image: np.ndarray, random: Sequence[float], out: Any = None, corner: Any = None
    ) -> np.ndarray:
        if corner is None:
            corner, (height, width) = (0, 0), image.shape[:2]
        else:
            height = width = self.resize
        x, y, w, h, mirrored = self.draw(random, width, height)
        x, y = x - corner[0], y - corner[1]
        image = resize_image(image[y : y + h, x : x + w], self.size, self.size)
        return self._finish(image, bool(mirrored), out)


ERASED = (0.02, 0.4)  # share of the image that is erased, at least and at most
ASPECT = 0.3  # smallest ratio of height to width, or of width to height


class ReidTrainTransform(_Normalizing):
    """Resize to 9/8 of the input size, random crop, mirror, normalise, perhaps erase.

    ``size`` and ``resize`` are ``(H, W)``; ``corner`` must be None. ``erase`` is the probability
    that a rectangle of 2 to 40 % of the image, cut at its border, is replaced by the mean colour;
    the paper uses 0.5 and random colours (Zhong, Zheng, Kang, Li, Yang, "Random Erasing Data
    Augmentation", AAAI 2020).
    """

    draws = 8

    def __init__(
        self,
        size: Any = (256, 128),
        resize: Any = None,
        mirror: bool = True,
        erase: float = 0.0,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(mean, std)
        self.size = _pair(size)
        larger = [round(side * 9 / 8) for side in self.size]
        self.resize = _pair(larger if resize is None else resize)
        if any(small > large for small, large in zip(self.size, self.resize)):
            raise ValueError(f"size={self.size} does not fit into resize={self.resize}")
        if not 0 <= erase <= 1:
            raise ValueError(f"erase={erase}: must be a probability")
        self.mirror, self.erase = bool(mirror), float(erase)

    def __call__(
        self, image: np.ndarray, random: Sequence[float], out: Any = None, corner: None = None
    ) -> np.ndarray:
        (height, width), (tall, wide) = self.resize, self.size
        image = resize_image(image, width, height)
        top = int(random[0] * (height - tall + 1))
        left = int(random[1] * (width - wide + 1))
        image = image[top : top + tall, left : left + wide]
        result = self._finish(image, self.mirror and random[2] < 0.5, out)
        if random[3] < self.erase:
            top, left, tall, wide = self.erased(random[4:8])
            result[:, top : top + tall, left : left + wide] = 0  # the mean, normalised
        return result

    def erased(self, random: Sequence[float]) -> Window:
        """Return ``(top, left, height, width)`` of the erased rectangle from four numbers."""
        tall, wide = self.size
        area = tall * wide * (ERASED[0] + random[0] * (ERASED[1] - ERASED[0]))
        aspect = ASPECT ** (1 - 2 * random[1])  # as likely to be high as wide
        height = min(tall, max(1, round((area * aspect) ** 0.5)))
        width = min(wide, max(1, round((area / aspect) ** 0.5)))
        top, left = int(random[2] * (tall - height + 1)), int(random[3] * (wide - width + 1))
        return top, left, height, width


class ReidEvalTransform(_Normalizing):
    """Resize to ``size``, ``(H, W)``, and normalise; nothing random."""

    draws = 0

    def __init__(
        self,
        size: Any = (256, 128),
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(mean, std)
        self.size = self.resize = _pair(size)

    def __call__(
        self, image: np.ndarray, random: Any = None, out: Any = None, corner: None = None
    ) -> np.ndarray:
        height, width = self.size
        return planes(self.normalize(resize_image(image, width, height)), out)


def _pair(size: Any) -> tuple[int, int]:
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size,)
    if len(pair) != 2 or any(int(side) != side or side < 1 for side in pair):
        raise ValueError(f"size {size!r}: needs two whole numbers from 1, (height, width)")
    return int(pair[0]), int(pair[1])
