"""From an image to the net's input, as the sidecar of an export says.

The steps are those of the evaluation transform, to the bit: resize to a square (or the shorter side
to a length), centre crop, resize to the input size, subtract the mean, divide by the standard
deviation; in 8 bits up to there. It is written again here because an export must be usable without
the data layer; a test keeps the two equal. How a file becomes pixels is common to both.
"""

from __future__ import annotations

import math
import os
from typing import Sequence

import cv2
import numpy as np

from gluon_attn.core.images import ImageError, box_window, decode, read_bytes, resize


class Preprocess:
    """The input pipeline of an export.

    Args:
        entry: The sidecar's ``input`` entry.
    """

    def __init__(self, entry):
        self.size = tuple(entry["shape"][2:])  # (H, W)
        self.resize, self.crop = entry.get("resize"), entry.get("crop")
        self.keep_aspect = bool(entry.get("keep_aspect"))
        mean, std = np.array(entry["mean"], np.float64), np.array(entry["std"], np.float64)
        self._scale, self._shift = (1 / std).astype(np.float32), (-mean / std).astype(np.float32)

    def __call__(self, image):
        """Return the input ``(3, H, W)`` float32 of an image ``(h, w, 3)`` uint8 RGB."""
        planes = np.empty((3, *self.size), np.float32)
        for k, plane in enumerate(cv2.split(self.view(image))):
            np.multiply(plane, self._scale[k], out=planes[k])
            planes[k] += self._shift[k]
        return planes

    def view(self, image):
        """Return what the net sees of an image, before normalisation: ``(H, W, 3)`` uint8."""
        check_image(image)
        if self.resize is not None:
            image = resize(image, *self._resized(*image.shape[:2])[::-1])
        if self.crop is not None:
            top, left, height, width = self._crop_window(*image.shape[:2])
            image = image[top : top + height, left : left + width]
        return resize(image, *self.size[::-1])

    def visible(self, image):
        """Return the part of an image that the net sees, in the image's own proportions.

        An attention map covers this part: draw it here, and people are not squashed to squares.
        """
        check_image(image)
        if self.crop is None:
            return image
        height, width = image.shape[:2]
        resized = self._resized(height, width) if self.resize is not None else (height, width)
        top, left, tall, wide = self._crop_window(*resized)
        down, across = height / resized[0], width / resized[1]
        rows = slice(int(top * down), math.ceil((top + tall) * down))
        return image[rows, int(left * across) : math.ceil((left + wide) * across)]

    def _resized(self, height, width):
        """Return ``(height, width)`` to which an image is brought first."""
        if not self.keep_aspect:
            return self.resize, self.resize
        scale = self.resize / min(height, width)
        return tuple(max(self.resize, round(side * scale)) for side in (height, width))

    def _crop_window(self, height, width):
        """Return ``(top, left, height, width)`` of the centre crop; a small image stays whole."""
        tall, wide = min(self.crop, height), min(self.crop, width)
        return (height - tall) // 2, (width - wide) // 2, tall, wide


def read_image(path: str | os.PathLike[str], upright: bool = True) -> np.ndarray:
    """Read an image file as ``(h, w, 3)`` uint8 RGB; see :mod:`gluon_attn.core.images`.

    Args:
        path: The file.
        upright: Obey the EXIF orientation, as viewers do. False gives the stored pixels.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not an image, or a truncated one.
    """
    try:
        return decode(read_bytes(path), upright)
    except ImageError as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from error


def crop_box(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Cut a box out of an image, clipped to its borders.

    Args:
        image: ``(h, w, 3)`` uint8.
        box: ``x, y, w, h`` in pixels, may be fractional.

    Raises:
        ValueError: The box is not four finite numbers, is empty or lies outside the image.
    """
    left, top, right, bottom = box_window(box, image.shape[1], image.shape[0])
    return image[top:bottom, left:right]


def check_image(image: object) -> None:
    """Raise ValueError unless ``image`` is ``(h, w, 3)`` uint8 and not empty."""
    if not isinstance(image, np.ndarray):
        given = "None" if image is None else type(image).__name__
        raise ValueError(
            f"{given} is no image: give a path, the bytes of a file, a PIL image, or a NumPy "
            "array, uint8 RGB (h, w, 3)"
        )
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return
    hints = ["is empty"] if not image.size else [*_shape_hints(image.shape), *type_hints(image)]
    hints = "".join(f"; {hint}" for hint in hints)
    raise ValueError(f"{image.dtype} array {image.shape}: give uint8 RGB (h, w, 3){hints}")


def _shape_hints(shape: tuple[int, ...]) -> list[str]:
    """Return how to make ``(h, w, 3)`` of an array of another shape."""
    if len(shape) == 4:
        return ["a batch is given as it is, not in a list"]
    if len(shape) == 2 or len(shape) == 3 and shape[2] == 1:
        return ["grey: np.dstack([image] * 3)"]
    if len(shape) == 3 and shape[2] == 4:
        return ["with transparency: image[..., :3]"]
    if len(shape) == 3 and shape[2] == 2:
        return ["grey with transparency: np.dstack([image[..., 0]] * 3)"]
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] != 3:
        return ["channels come last: image.transpose(1, 2, 0)"]
    return []


def type_hints(image: np.ndarray) -> list[str]:
    """Return how to make uint8 of an array of another type."""
    if image.dtype == np.uint16:
        return ["16 bits: (image >> 8).astype('uint8')"]
    if image.dtype == bool or (image.dtype.kind == "f" and 0 <= image.min() and image.max() <= 1):
        return ["from 0 to 1: (image * 255).round().astype('uint8')"]
    return [] if image.dtype == np.uint8 else ["from 0 to 255: image.astype('uint8')"]
