"""Reading pictures: one decoder for every data set, and errors that name the file and the sample.

OpenCV refuses what other readers accept in silence: ``cv2.imdecode`` returns None for half a JPEG,
where ``cv2.imread``, ``mx.image`` and ``ImageRecordIter`` hand back a picture that is grey below
the break. Hence bytes are always read first and decoded from memory.
"""

from __future__ import annotations

import cv2
import numpy as np

ON_BAD_IMAGE = ("error", "skip")
_DECODES_RGB = hasattr(cv2, "IMREAD_COLOR_RGB")  # since OpenCV 4.11
_RGB = cv2.IMREAD_COLOR_RGB if _DECODES_RGB else cv2.IMREAD_COLOR


class BadImageError(OSError):
    """A picture that is missing, unreadable or has nothing to show for a sample.

    Args:
        path: The file.
        sample_id: The sample that needs it.
        reason: What is wrong, without a full stop.
    """

    def __init__(self, path, sample_id, reason):
        super().__init__(f"{path}: {reason} (sample '{sample_id}')")
        self.path, self.sample_id, self.reason = str(path), sample_id, reason


class NoOverlapError(BadImageError):
    """A box without area inside its picture."""


def check_policy(on_bad_image):
    """Return ``on_bad_image`` if it is 'error' or 'skip'.

    Raises:
        ValueError: If it is neither.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise ValueError(f"on_bad_image={on_bad_image!r}: valid are {', '.join(ON_BAD_IMAGE)}")
    return on_bad_image


def decode(data, path, sample_id, upright=False):
    """Return a picture from its encoded bytes, uint8 ``(H, W, 3)`` RGB.

    Grey becomes three equal channels, transparency is dropped, 16 bits become 8.

    Args:
        data: bytes-like, the contents of a JPEG, PNG, BMP, WebP ... file.
        path: Where they came from, for messages.
        sample_id: Whom they are for, for messages.
        upright: Whether to obey the EXIF orientation, as viewers do. Boxes of WIDER-Attribute are
            in coordinates of the stored picture, so its reader leaves this off.

    Raises:
        BadImageError: If the bytes are empty, truncated, or no picture.
    """
    flags = _RGB if upright else _RGB | cv2.IMREAD_IGNORE_ORIENTATION
    image = None
    if len(data):
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:  # e.g. more pixels than OpenCV allows
            raise BadImageError(path, sample_id, f"cannot be decoded: {error}") from error
    if image is None:
        what = f"is truncated or no picture ({len(data)} bytes)" if len(data) else "is empty"
        raise BadImageError(path, sample_id, what)
    return image if _DECODES_RGB else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_image(path, sample_id, upright=False):
    """Return the picture in a file, uint8 ``(H, W, 3)`` RGB; see :func:`decode`.

    Raises:
        BadImageError: If the file is missing, unreadable, truncated or no picture.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise BadImageError(path, sample_id, _reason(error)) from error
    return decode(data, path, sample_id, upright)


def image_size(path, sample_id):
    """Return ``(width, height)`` of a stored picture from its header, without decoding it.

    Raises:
        BadImageError: If the file is missing or its header is not a picture's.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.size
    except UnidentifiedImageError as error:
        raise BadImageError(path, sample_id, "is no picture") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadImageError(path, sample_id, _reason(error)) from error


def resize(image, width, height, dst=None):
    """Return ``image`` at ``width`` x ``height``; the same object if it already has that size.

    Shrinking averages over areas, since sampling four neighbours would alias; enlarging is
    bilinear.
    """
    rows, columns = image.shape[:2]
    if (columns, rows) == (width, height):
        return image
    shrinks = width <= columns and height <= rows
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), dst=dst, interpolation=method)


def resize_shorter(image, side):
    """Return ``image`` with its shorter side at ``side`` pixels and its proportions kept."""
    rows, columns = image.shape[:2]
    scale = side / min(rows, columns)
    return resize(image, max(side, round(columns * scale)), max(side, round(rows * scale)))


def _reason(error):
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"
