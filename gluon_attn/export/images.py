"""What a Predictor is given, images in any customary form and boxes in them, and the net's input.

The steps to the input are those of the evaluation transform, to the bit: resize to a square (or the
shorter side to a length), centre crop, resize to the input size, subtract the mean, divide by the
standard deviation; in 8 bits up to there. It is written again here because an export must be usable
without the data layer; a test keeps the two equal. How a file becomes pixels is common to both.
"""

from __future__ import annotations

import math
import numbers
import os
from typing import Any, List, Sequence, Union

import cv2
import mxnet as mx
import numpy as np
from PIL import Image

from gluon_attn.core.images import (
    RESAMPLING,
    ImageError,
    box_window,
    decode,
    from_pil,
    letterbox,
    read_bytes,
    resize,
)
from gluon_attn.core.text import PathLike

Name = Union[str, int]  # of an image: its path, or its position in the list
Boxes = Union[List[Any], None]  # of one image; None: the whole image

FORMS = "give a list of paths, bytes, PIL images or uint8 RGB arrays (h, w, 3)"


class Preprocess:
    """The input pipeline of an export, whose sidecar's ``input`` entry it is given."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.size = tuple(entry["shape"][2:])  # (H, W)
        self.resize: Any = entry.get("resize")
        self.crop: Any = entry.get("crop")
        self.keep_aspect = bool(entry.get("keep_aspect"))
        method = entry.get("interpolation")
        self.method = method if method in RESAMPLING else "auto"
        mean, std = np.array(entry["mean"], np.float64), np.array(entry["std"], np.float64)
        self.mean = mean.tolist()
        self._scale, self._shift = (1 / std).astype(np.float32), (-mean / std).astype(np.float32)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the input ``(3, H, W)`` float32 of an image ``(h, w, 3)`` uint8 RGB."""
        planes = np.empty((3, *self.size), np.float32)
        for k, plane in enumerate(cv2.split(self.view(image))):
            np.multiply(plane, self._scale[k], out=planes[k])
            planes[k] += self._shift[k]
        return planes

    def view(self, image: np.ndarray) -> np.ndarray:
        """Return what the net sees of an image, before normalisation: ``(H, W, 3)`` uint8."""
        check_image(image)
        if self.keep_aspect and self.crop is None:
            image = letterbox(image, self.mean)
        if self.resize is not None:
            height, width = self._resized(*image.shape[:2])
            image = resize(image, width, height, method=self.method)
        if self.crop is not None:
            top, left, height, width = self._crop_window(*image.shape[:2])
            image = image[top : top + height, left : left + width]
        return resize(image, self.size[1], self.size[0], method=self.method)

    def visible(self, image: np.ndarray) -> np.ndarray:
        """Return the part of an image that the net sees, in the image's own proportions.

        An attention map covers this part: draw it here, and people are not squashed to squares.
        """
        check_image(image)
        if self.crop is None:
            return letterbox(image, self.mean) if self.keep_aspect else image
        height, width = image.shape[:2]
        resized = self._resized(height, width) if self.resize is not None else (height, width)
        top, left, tall, wide = self._crop_window(*resized)
        down, across = height / resized[0], width / resized[1]
        rows = slice(int(top * down), math.ceil((top + tall) * down))
        return image[rows, int(left * across) : math.ceil((left + wide) * across)]

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        side: int = self.resize
        if not self.keep_aspect:
            return side, side
        scale = side / min(height, width)
        return max(side, round(height * scale)), max(side, round(width * scale))

    def _crop_window(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return ``(top, left, height, width)`` of the centre crop; a small image stays whole."""
        tall, wide = min(self.crop, height), min(self.crop, width)
        return (height - tall) // 2, (width - wide) // 2, tall, wide


def read_image(path: PathLike, upright: bool = True) -> np.ndarray:
    """Read an image file as ``(h, w, 3)`` uint8 RGB; see :mod:`gluon_attn.core.images`.

    ``upright`` obeys the EXIF orientation, as viewers do; False gives the stored pixels. Raises
    FileNotFoundError, or a ValueError for what is no image or a truncated one.
    """
    try:
        return decode(read_bytes(path), upright)
    except ImageError as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from error


def crop_box(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Cut a box ``x, y, w, h`` in pixels out of an image, clipped to its borders.

    A ValueError unless it is four finite numbers and shows something of the image.
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
    remedy = "".join(f"; {hint}" for hint in hints)
    raise ValueError(f"{image.dtype} array {image.shape}: give uint8 RGB (h, w, 3){remedy}")


def _shape_hints(shape: tuple[int, ...]) -> list[str]:
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


def as_list(images: Any) -> list[Any]:
    """Return the items of what was given as images; a single one is a list of one."""
    if isinstance(images, mx.nd.NDArray):
        images = images.asnumpy()
    if isinstance(images, np.ndarray):
        # A batch, or paths (or images of several sizes) in an array of objects.
        batch = images.ndim == 4 or images.ndim == 1 and images.dtype.kind in "OU"
        return list(images) if batch else [images]
    if isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
        return [images]
    if hasattr(images, "read"):  # an open file, whose lines are no images
        return [images]
    try:
        items = list(images)
    except TypeError:
        given = "None" if images is None else f"of type {type(images).__name__}"
        raise ValueError(f"images are {given}: {FORMS}") from None
    return [item.asnumpy() if isinstance(item, mx.nd.NDArray) else item for item in items]


def name_of(item: Any, number: int) -> Name:
    """Return the name of an image."""
    return os.fspath(item) if isinstance(item, (str, os.PathLike)) else number


def to_pixels(item: Any) -> np.ndarray:
    """Return an image as ``(h, w, 3)`` uint8 RGB; OSError or ValueError if it cannot be."""
    if isinstance(item, (str, os.PathLike)):
        return read_image(item)
    if isinstance(item, (bytes, bytearray, memoryview)):
        return decode(item)  # type: ignore[arg-type]  # a bytearray will do
    if isinstance(item, Image.Image):
        return from_pil(item)
    if hasattr(item, "read"):
        raise ValueError("is an open file: give its path, or its contents: file.read()")
    check_image(item)
    return item


def boxes_per_image(items: Sequence[Any], boxes: Any) -> list[Boxes]:
    """Return for each image its list of boxes, or None for the whole image.

    ``boxes`` are None; one entry per image; or a dict by path, or by position where there is none.
    A ValueError for other images than given, or what is no list of boxes.
    """
    names = [name_of(item, number) for number, item in enumerate(items)]
    if boxes is None:
        return [None] * len(items)
    if isinstance(boxes, dict):
        by_name = {name_of(key, key): value for key, value in boxes.items()}
        unknown = sorted(map(str, set(by_name) - set(names)))
        if unknown:
            raise ValueError(f"boxes for {unknown[0]}, which is not among the {len(items)} images")
        boxes = [by_name.get(name) for name in names]
    elif isinstance(boxes, (str, os.PathLike)):
        raise ValueError(f"boxes are '{boxes}': give lists (tools/predict.py --boxes reads files)")
    try:
        boxes = list(boxes)
    except TypeError:
        raise ValueError(f"boxes are {boxes!r}: give a list of boxes per image") from None
    if len(boxes) != len(items):
        raise ValueError(
            f"{len(boxes)} lists of boxes for {len(items)} images: give one list per image, "
            "[[[x, y, w, h], …], …]"
        )
    return [_boxes_of(name, entry) for name, entry in zip(names, boxes)]


def _boxes_of(name: Name, boxes: Any) -> Boxes:
    if boxes is None:
        return None
    try:
        found = boxes.tolist() if isinstance(boxes, np.ndarray) else list(boxes)
    except TypeError:
        found = [boxes]
    if isinstance(boxes, str) or any(isinstance(box, (numbers.Number, str)) for box in found):
        raise ValueError(
            f"image {name}: boxes are {boxes!r}: give a list of boxes for each image, "
            "[[x, y, w, h], …]"
        )
    return [box.tolist() if isinstance(box, np.ndarray) else box for box in found]
