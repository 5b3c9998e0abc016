"""From the bytes of an image file to pixels: the one decoder of training and of exports.

**Images are seen upright, as viewers show them.** The EXIF orientation is obeyed in every format
that has one (JPEG, PNG, WebP, TIFF), by every reader, unless a reader's boxes say that they belong
to the stored pixels. OpenCV alone would not do: it overlooks the tag of WebP and cannot overlook
that of TIFF. So the header is read first, OpenCV decodes the pixels as they are stored, and they
are turned here.

**Pixels are uint8 RGB.** Grey and one-bit images become three equal channels, palettes their
colours, CMYK is converted, transparency is dropped, 16 bits become 8 (the upper ones).

OpenCV refuses what other readers accept in silence: ``cv2.imdecode`` returns None for half a JPEG,
where ``cv2.imread``, ``mx.image`` and ``ImageRecordIter`` hand back an image that is grey below the
break. Hence bytes are always read first and decoded from memory.
"""

from __future__ import annotations

import io
import math
import os
import threading
from typing import Sequence

import cv2
import numpy as np
from PIL import Image

from gluon_attn.core.image_files import (
    HEAD,
    Header,
    ImageError,
    exif_of,
    opened,
    orientation_of,
    read_bytes,
    read_header,
    what_is,
    which_text,
)

_DECODES_RGB = hasattr(cv2, "IMREAD_COLOR_RGB")  # since OpenCV 4.11
_RGB = cv2.IMREAD_COLOR_RGB if _DECODES_RGB else cv2.IMREAD_COLOR
_STORED = _RGB | cv2.IMREAD_IGNORE_ORIENTATION
# Orientation: whether to transpose, then how to flip (OpenCV: 0 upside down, 1 mirrored, -1 both).
_TURNS = {
    2: (False, 1), 3: (False, -1), 4: (False, 0),
    5: (True, None), 6: (True, 1), 7: (True, -1), 8: (True, 0),
}  # fmt: skip
_loading = threading.Lock()  # Pillow decodes on first use; two threads may hold the same object


def decode(data: bytes | memoryview, upright: bool = True) -> np.ndarray:
    """Return the pixels of an encoded image, uint8 ``(H, W, 3)`` RGB.

    Args:
        data: Contents of an image file.
        upright: Obey the EXIF orientation. False gives the pixels as they are stored.

    Raises:
        ImageError: The bytes are empty, truncated, no image, or more pixels than are bearable.
    """
    if not len(data):
        raise ImageError("is empty")
    header = read_header(io.BytesIO(data))
    if header is None:
        head = bytes(data[:HEAD])
        known = what_is(head)
        if known:
            raise ImageError(known)
        fault = which_text(head) or "is truncated or no image"
        return _decode(data, _RGB if upright else _STORED, fault)
    _check_mode(header.mode)
    if header.kind == "TIFF":
        # OpenCV multiplies colours by transparency here; both libraries turn whatever they read.
        pixels = from_pil(header.image) if header.mode == "RGBA" else _decode(data, _STORED)
        back = {6: 8, 8: 6}.get(header.orientation, header.orientation)
        return pixels if upright else turn(pixels, back)
    return turn(_decode(data, _STORED), header.orientation if upright else 1)


def decode_own(data: bytes | memoryview) -> np.ndarray:
    """Return the pixels of a JPEG that this package encoded: without looking at its header.

    Raises:
        ImageError: The bytes are no image.
    """
    return _decode(data, _STORED) if len(data) else decode(data)


def file_header(path: str | os.PathLike[str]) -> Header:
    """Return the header of an image file, its ``image`` closed.

    Raises:
        MissingImageError, ImageError: As :func:`read_bytes` and :func:`decode` raise it.
    """
    with opened(path) as file:
        header = read_header(file)
    if header is None:
        height, width = decode(read_bytes(path)).shape[:2]
        return Header("", "RGB", width, height, 1, None)
    return header


def from_pil(image: Image.Image) -> np.ndarray:
    """Return the pixels of a Pillow image, upright: those of the file that it was opened from.

    Raises:
        ImageError: It cannot be loaded, is empty, or its mode has no meaning as RGB.
    """
    if 0 in image.size:
        raise ImageError(f"is empty: {image.size[0]} x {image.size[1]} pixels")
    # Old versions of Pillow call 16-bit PNG "I".
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    _check_mode("I;16" if deep else image.mode)
    try:
        with _loading:
            image.load()
        if deep:
            pixels = np.dstack([(np.asarray(image) >> 8).astype(np.uint8)] * 3)
        else:
            # On the way Pillow needs steps, or warns of palettes with transparency.
            step = {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}.get(image.mode)
            pixels = np.array((image.convert(step) if step else image).convert("RGB"))
    except Exception as error:  # a closed or broken file, a mode without a way to RGB, ...
        raise ImageError(f"cannot be used, as Pillow says: {error}") from error
    if image.format == "TIFF":  # turned by Pillow
        return pixels
    return turn(pixels, orientation_of(exif_of(image)))


def turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image that is stored with an EXIF orientation, 1 to 8, as it is to be seen."""
    transposed, flip = _TURNS.get(orientation, (False, None))
    image = cv2.transpose(image) if transposed else image
    return image if flip is None else cv2.flip(image, flip)


def resize(image: np.ndarray, width: int, height: int, dst: np.ndarray | None = None) -> np.ndarray:
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


def clip_box(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return the whole pixels that a box covers inside an image, or None if there are none.

    Args:
        box: ``x, y, w, h``, in pixels, possibly fractional.
        width, height: Of the image.

    Returns:
        ``(x0, y0, x1, y1)``, the last two exclusive.
    """
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return None
    x0, y0 = math.floor(max(0, x)), math.floor(max(0, y))
    x1, y1 = math.ceil(min(width, x + w)), math.ceil(min(height, y + h))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def box_window(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Return :func:`clip_box`'s pixels of a box that was typed or measured.

    Raises:
        ValueError: It is not four finite numbers, is empty, or shows nothing of the image.
    """
    try:
        values = [float(v) for v in box if not isinstance(v, (str, bytes))]
    except (TypeError, ValueError):
        values = []
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise ValueError(f"box {box!r}: must be four numbers x, y, width, height in pixels")
    if min(values[2:]) <= 0:
        raise ValueError(f"box {box!r}: x, y, width, height need a width and height above 0")
    window = clip_box(values, width, height)
    if window is None:
        raise ValueError(f"box {box!r} lies outside the image of {width}x{height} pixels")
    return window


def unit_doubt(box: Sequence[float], name: object) -> str | None:
    """Return what to warn of if a box is at most one pixel large: it may be in fractions."""
    if max(box[2:]) > 1:
        return None
    return (
        f"image {name}: box {list(box)} is at most one pixel wide and high: boxes are x, y, width, "
        "height in pixels, not fractions of the image"
    )


def _decode(
    data: bytes | memoryview, flags: int, otherwise: str = "is truncated or damaged"
) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if "validateInputImageSize" in str(error):
            raise ImageError("has more pixels than OpenCV reads: reduce it") from error
        raise ImageError(f"cannot be decoded by OpenCV: {error.err}") from error
    if image is None:
        raise ImageError(f"{otherwise} ({len(data):,} bytes)")
    return image if _DECODES_RGB else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_mode(mode: str) -> None:
    if mode in ("I", "F"):
        kind = "integers" if mode == "I" else "floating-point numbers"
        raise ImageError(f"holds 32-bit {kind}, whose range is not known: convert it to 8 bits")
