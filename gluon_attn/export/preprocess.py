"""From a picture to the net's input, as the sidecar of an export says.

The steps are those of the evaluation transform, to the bit: resize to a square (or the shorter side
to a length), centre crop, resize to the input size, subtract the mean, divide by the standard
deviation; in 8 bits up to there. It is written again here because an export must be usable without
the data layer; a test keeps the two equal.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import numpy as np


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
            image = _resize(image, *self._resized(*image.shape[:2]))
        if self.crop is not None:
            top, left, height, width = self._crop_window(*image.shape[:2])
            image = image[top : top + height, left : left + width]
        return _resize(image, *self.size)

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


def read_image(path, upright=True):
    """Read a picture as ``(h, w, 3)`` uint8 RGB.

    Args:
        path: The file.
        upright: Obey the EXIF orientation, as viewers do. Boxes of annotation files are in the
            coordinates of the stored picture, so pictures with boxes are read without it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a picture, or a truncated one.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such image")
    if not path.is_file():
        raise ValueError(f"{path}: not an image file but a directory")
    # imdecode, not imread: imread takes half a JPEG without a word and makes the rest grey.
    data = np.fromfile(os.fspath(path), np.uint8)
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(data, flags) if data.size else None
    except cv2.error as error:  # more pixels than OpenCV allows, for instance
        raise ValueError(f"{path}: cannot be decoded: {error}") from error
    if image is None:
        raise ValueError(f"{path}: truncated or no image ({data.size} bytes)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def crop_box(image, box):
    """Cut a box out of an image, clipped to its borders.

    Args:
        image: ``(h, w, 3)`` uint8.
        box: ``x, y, w, h`` in pixels, may be fractional.

    Raises:
        ValueError: The box is not four finite numbers, is empty or lies outside the image.
    """
    values = [float(v) for v in box]
    if len(values) != 4 or not np.isfinite(values).all() or min(values[2:]) <= 0:
        raise ValueError(f"box {list(box)}: must be x, y, width, height with width and height > 0")
    x, y, width, height = values
    left, top = max(0, int(math.floor(x))), max(0, int(math.floor(y)))
    right = min(image.shape[1], int(math.ceil(x + width)))
    bottom = min(image.shape[0], int(math.ceil(y + height)))
    if right <= left or bottom <= top:
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise ValueError(f"box {list(box)} lies outside the image of {size} pixels")
    return image[top:bottom, left:right]


def check_image(image):
    """Raise ValueError unless ``image`` is ``(h, w, 3)`` uint8 and not empty."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        given = f"{image.dtype} array" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"image is a {given}: give uint8 RGB (h, w, 3)")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}: give uint8 RGB (h, w, 3)")


def _resize(image, height, width):
    if image.shape[:2] == (height, width):
        return image
    # Averaging over areas when shrinking: sampling four neighbours would alias.
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)
