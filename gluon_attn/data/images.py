"""Images of data sets: errors that name the file and the sample, and what to do about them.

How a file becomes pixels, EXIF orientation included, is :mod:`gluon_attn.core.images`' matter.
"""

from __future__ import annotations

import os

import numpy as np

from gluon_attn.core import images
from gluon_attn.core.images import Header, ImageError, resize

__all__ = [
    "ON_BAD_IMAGE", "BadImageError", "NoOverlapError", "check_policy", "decode", "decode_own",
    "image_header", "image_size", "read_annotated", "read_image", "resize", "resize_shorter",
]  # fmt: skip

ON_BAD_IMAGE = ("error", "skip")


class BadImageError(OSError):
    """An image that is missing, unreadable or has nothing to show for a sample.

    Args:
        path: The file.
        sample_id: The sample that needs it.
        reason: What is wrong, without a full stop.
    """

    def __init__(self, path, sample_id, reason):
        super().__init__(f"{path}: {reason} (sample '{sample_id}')")
        self.path, self.sample_id, self.reason = str(path), sample_id, reason


class NoOverlapError(BadImageError):
    """A box without area inside its image."""


def check_policy(on_bad_image):
    """Return ``on_bad_image`` if it is 'error' or 'skip'.

    Raises:
        ValueError: If it is neither.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise ValueError(f"on_bad_image={on_bad_image!r}: valid are {', '.join(ON_BAD_IMAGE)}")
    return on_bad_image


def decode(
    data: bytes | memoryview, path: str | os.PathLike[str], sample_id: str, upright: bool = True
) -> np.ndarray:
    """Return an image from its encoded bytes; see :func:`gluon_attn.core.images.decode`.

    Args:
        data: Contents of an image file.
        path: Where they came from, for messages.
        sample_id: The sample that they are for, for messages.
        upright: Obey the EXIF orientation. False is for boxes that belong to the stored pixels.

    Raises:
        BadImageError: The bytes are empty, truncated, or no image.
    """
    return _named(path, sample_id, images.decode, data, upright)


def decode_own(
    data: bytes | memoryview, path: str | os.PathLike[str], sample_id: str
) -> np.ndarray:
    """Return an image that :mod:`gluon_attn.data.tiles` encoded; otherwise as :func:`decode`."""
    return _named(path, sample_id, images.decode_own, data)


def read_image(path: str | os.PathLike[str], sample_id: str, upright: bool = True) -> np.ndarray:
    """Return the image in a file, uint8 ``(H, W, 3)`` RGB, upright; see :func:`decode`.

    Raises:
        BadImageError: The file is missing, unreadable, truncated or no image.
    """
    return decode(_named(path, sample_id, images.read_bytes, path), path, sample_id, upright)


def read_annotated(
    path: str | os.PathLike[str], sample_id: str, width: int, height: int
) -> tuple[np.ndarray, bool]:
    """Return the image for which an annotation was made, and whether it is upright.

    The annotated size tells of images that an EXIF orientation lays on their side whether boxes
    were drawn on the upright image, as labelling tools show it, or on the stored pixels.

    Raises:
        BadImageError: There is no image, or it has another size either way.
    """
    image = read_image(path, sample_id)
    if image.shape[:2] == (height, width):
        return image, True
    header = image_header(path, sample_id)
    if header.orientation > 1 and header.size(upright=False) == (width, height):
        return read_image(path, sample_id, upright=False), False
    found, hint = f"{image.shape[1]} x {image.shape[0]}", "its boxes are for another image"
    if header.orientation > 1:
        stored = f"{header.width} x {header.height}"
        found += f" ({stored} without its EXIF orientation {header.orientation})"
    elif image.shape[1::-1] == (height, width):
        hint = (
            "it may have lost its EXIF orientation since its boxes were made: take the original "
            "file, or turn it by 90 degrees"
        )
    reason = f"is {found}, the annotation says {width} x {height}; {hint}"
    raise BadImageError(path, sample_id, reason)


def image_header(path: str | os.PathLike[str], sample_id: str) -> Header:
    """Return sizes and EXIF orientation of an image file without decoding it.

    Raises:
        BadImageError: The file is missing or no image.
    """
    return _named(path, sample_id, images.file_header, path)


def image_size(
    path: str | os.PathLike[str], sample_id: str, upright: bool = True
) -> tuple[int, int]:
    """Return ``(width, height)`` of :func:`read_image`'s result without decoding the file.

    Raises:
        BadImageError: The file is missing or no image.
    """
    return image_header(path, sample_id).size(upright)


def resize_shorter(image, side):
    """Return ``image`` with its shorter side at ``side`` pixels and its proportions kept."""
    rows, columns = image.shape[:2]
    scale = side / min(rows, columns)
    return resize(image, max(side, round(columns * scale)), max(side, round(rows * scale)))


def _named(path, sample_id, function, *arguments):
    """Return ``function(*arguments)``; what it says of the image gets file and sample."""
    try:
        return function(*arguments)
    except ImageError as error:
        raise BadImageError(path, sample_id, str(error)) from error
