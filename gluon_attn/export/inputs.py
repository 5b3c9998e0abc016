"""What a Predictor is given: images in any customary form, and boxes in them."""

from __future__ import annotations

import numbers
import os
from typing import Any

import mxnet as mx
import numpy as np
from PIL import Image

from gluon_attn.core.images import decode, from_pil
from gluon_attn.export.preprocess import check_image, read_image

FORMS = "give a list of paths, bytes, PIL images or uint8 RGB arrays (h, w, 3)"


def as_list(images: Any) -> list:
    """Return the items of what was given as images; a single one is a list of one.

    Raises:
        ValueError: It is neither an image nor a collection.
    """
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


def name_of(item: Any, number: int) -> str | int:
    """Return the name of an image: its path, or its position in the list."""
    return os.fspath(item) if isinstance(item, (str, os.PathLike)) else number


def to_pixels(item: Any) -> np.ndarray:
    """Return an image as ``(h, w, 3)`` uint8 RGB.

    Raises:
        FileNotFoundError, ValueError: It cannot be read, or is of no form that is known.
    """
    if isinstance(item, (str, os.PathLike)):
        return read_image(item)
    if isinstance(item, (bytes, bytearray, memoryview)):
        return decode(item)
    if isinstance(item, Image.Image):
        return from_pil(item)
    if hasattr(item, "read"):
        raise ValueError("is an open file: give its path, or its contents: file.read()")
    check_image(item)
    return item


def boxes_per_image(items: list, boxes: Any) -> list:
    """Return for each image its list of boxes, or None for the whole image.

    Args:
        items: The images.
        boxes: None; one entry per image; or a dict by path, or by position where there is none.

    Raises:
        ValueError: Other images than given, or what is no list of boxes.
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


def _boxes_of(name: str | int, boxes: Any) -> list | None:
    """Return the boxes of one image as lists, or None."""
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
