"""Images of data sets: errors that name file and sample, and JPEG of which a window can be decoded.

How a file becomes pixels, EXIF orientation included, is :mod:`gluon_attn.core.images`' matter.

A training crop uses half of a packed image, yet decoding is most of a loader's work. A JPEG with a
restart marker after every block of 16 x 16 pixels is a list of independent tiles: the header with
another size, some of the tiles and an end marker are a JPEG of that window. It is still an ordinary
JPEG for every other reader, and 14 % larger (measured on images of 256 x 256 at quality 95). Where
the tiles begin is noted in an APP9 segment. The window comes out exactly as from the whole image,
because one more pixel on every side than chroma interpolation looks at is decoded along.
"""

from __future__ import annotations

import functools
import re
import struct
from typing import Any, Callable

import cv2
import numpy as np

from gluon_attn.core import images
from gluon_attn.core.images import Header, ImageError
from gluon_attn.core.images import letterbox as letterbox
from gluon_attn.core.images import resize as resize
from gluon_attn.data.scan import PathLike

ON_BAD_IMAGE = ("error", "skip")


class BadImageError(OSError):
    """An image that is missing, unreadable or has nothing to show; ``reason`` has no full stop."""

    def __init__(self, path: PathLike, sample_id: str, reason: str) -> None:
        super().__init__(f"{path}: {reason} (sample '{sample_id}')")
        self.path, self.sample_id, self.reason = str(path), sample_id, reason


class NoOverlapError(BadImageError):
    """A box without area inside its image."""


def check_policy(on_bad_image: str) -> str:
    """Return ``on_bad_image`` if it is 'error' or 'skip'; raise ValueError otherwise."""
    if on_bad_image not in ON_BAD_IMAGE:
        raise ValueError(f"on_bad_image={on_bad_image!r}: valid are {', '.join(ON_BAD_IMAGE)}")
    return on_bad_image


def decode(
    data: bytes | memoryview, path: PathLike, sample_id: str, upright: bool = True
) -> np.ndarray:
    """Return an image from its encoded bytes; see :func:`gluon_attn.core.images.decode`.

    With ``upright`` the EXIF orientation is obeyed; False is for boxes that belong to the stored
    pixels. BadImageError, which names ``path`` and ``sample_id``: empty, truncated, or no image.
    """
    return _named(path, sample_id, images.decode, data, upright)


def decode_own(data: bytes | memoryview, path: PathLike, sample_id: str) -> np.ndarray:
    """Return an image that :func:`encode_tiles` encoded; otherwise as :func:`decode`."""
    return _named(path, sample_id, images.decode_own, data)


def read_image(path: PathLike, sample_id: str, upright: bool = True) -> np.ndarray:
    """Return the image in a file, uint8 ``(H, W, 3)`` RGB, upright; see :func:`decode`."""
    return decode(_named(path, sample_id, images.read_bytes, path), path, sample_id, upright)


def read_annotated(
    path: PathLike, sample_id: str, width: int, height: int
) -> tuple[np.ndarray, bool]:
    """Return the image for which an annotation was made, and whether it is upright.

    The annotated size tells of images that an EXIF orientation lays on their side whether boxes
    were drawn on the upright image, as labelling tools show it, or on the stored pixels.
    BadImageError: there is no image, or it has another size either way.
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
        hint = "it may have lost its EXIF orientation since its boxes were made: take the original "
        hint += "file, or turn it by 90 degrees"
    reason = f"is {found}, the annotation says {width} x {height}; {hint}"
    raise BadImageError(path, sample_id, reason)


def image_header(path: PathLike, sample_id: str) -> Header:
    """Return sizes and EXIF orientation of an image file without decoding it."""
    return _named(path, sample_id, images.file_header, path)


def image_size(path: PathLike, sample_id: str, upright: bool = True) -> tuple[int, int]:
    """Return ``(width, height)`` of :func:`read_image`'s result without decoding the file."""
    return image_header(path, sample_id).size(upright)


def resize_shorter(image: np.ndarray, side: int, method: str = "auto") -> np.ndarray:
    """Return ``image`` with its shorter side at ``side`` pixels and its proportions kept."""
    rows, columns = image.shape[:2]
    scale = side / min(rows, columns)
    size = max(side, round(columns * scale)), max(side, round(rows * scale))
    return resize(image, *size, method=method)


def _named(path: PathLike, sample_id: str, function: Callable[..., Any], *arguments: object) -> Any:
    """Return ``function(*arguments)``; what it says of the image gets file and sample."""
    try:
        return function(*arguments)
    except ImageError as error:
        raise BadImageError(path, sample_id, str(error)) from error


BLOCK = 16  # side of a tile with 4:2:0 chroma
_NAME = b"TILES"
_SEGMENT = struct.Struct(">2sH5sHHH")  # APP9, length, name, place of height, tiles down, across
_SIZE = struct.Struct(">HH")  # height, width in the frame header
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_AT = 20  # behind the JFIF segment, which comes first and always has the same length
_LONGEST = 0xFFFF  # a segment's length is 16 bits


def encode_tiles(image: np.ndarray, quality: int) -> bytes:
    """Return a BGR image ``(H, W, 3)`` as JPEG with restart markers and the note about them."""
    down, across = (-(-side // BLOCK) for side in image.shape[:2])
    length = _SEGMENT.size + 4 * (down * across + 1)
    if length - 2 > _LONGEST:
        return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, 1]
    jpeg = cv2.imencode(".jpg", image, options)[1].tobytes()
    frame, start = _frame_and_scan(jpeg)
    starts = [start] + [match.end() for match in _RESTART.finditer(jpeg, start)]
    # Other chroma has tiles of another size: then the file stays as it is, and is read whole.
    if jpeg[frame + 11 : frame + 12] != b"\x22" or len(starts) != down * across:
        return jpeg
    places = [place + length for place in starts + [len(jpeg)]]  # EOI has two bytes, like RST
    note = _SEGMENT.pack(b"\xff\xe9", length - 2, _NAME, frame + 5 + length, down, across)
    return jpeg[:_AT] + note + struct.pack(f">{len(places)}I", *places) + jpeg[_AT:]


def window(jpeg: Any, box: tuple[int, int, int, int]) -> tuple[Any, tuple[int, int]]:
    """Return ``(bytes of a JPEG, (x, y) of its corner)`` that shows at least a window.

    ``box`` is ``(left, top, right, bottom)`` in pixels, the last two exclusive. Of a JPEG that
    :func:`encode_tiles` did not make the whole is returned.
    """
    left, top, right, bottom = box
    if len(jpeg) < _AT + _SEGMENT.size:
        return jpeg, (0, 0)
    mark, _, name, place, down, across = _SEGMENT.unpack_from(jpeg, _AT)
    if mark != b"\xff\xe9" or name != _NAME:
        return jpeg, (0, 0)
    x0, x1 = max(0, (left - 2) // BLOCK), min(across, -(-(right + 2) // BLOCK))
    y0, y1 = max(0, (top - 2) // BLOCK), min(down, -(-(bottom + 2) // BLOCK))
    if (x0, y0, x1, y1) == (0, 0, across, down):
        return jpeg, (0, 0)
    starts = np.frombuffer(jpeg, ">u4", down * across + 1, _AT + _SEGMENT.size).astype(np.int64)
    header = int(starts[0])
    begins = starts[y0 * across + x0 : y1 * across : across].tolist()
    ends = starts[y0 * across + x1 : y1 * across + 1 : across].tolist()
    rows = [jpeg[begin:end] for begin, end in zip(begins, ends)]
    result = bytearray().join([jpeg[:header], *rows])
    height, width = _SIZE.unpack_from(jpeg, place)
    height = min(height, y1 * BLOCK) - y0 * BLOCK
    _SIZE.pack_into(result, place, height, min(width, x1 * BLOCK) - x0 * BLOCK)
    lengths = np.diff(starts).reshape(down, across)[y0:y1, x0:x1].ravel()
    markers = lengths.cumsum()
    np.frombuffer(result, np.uint8, offset=header - 1)[markers] = _markers(len(markers))
    return result, (x0 * BLOCK, y0 * BLOCK)


@functools.lru_cache(maxsize=None)
def _markers(count: int) -> np.ndarray:
    """Return the second bytes of the markers behind ``count`` tiles: RST 0 to 7 in turn, EOI."""
    numbers = (0xD0 | (np.arange(count) & 7)).astype(np.uint8)
    numbers[-1] = 0xD9
    return numbers


def _frame_and_scan(jpeg: bytes) -> tuple[int, int]:
    """Return where the frame header (SOF0) begins, and the entropy-coded data behind SOS."""
    at, frame = 2, -1
    while True:
        marker, length = jpeg[at + 1], struct.unpack_from(">H", jpeg, at + 2)[0]
        if marker == 0xC0:
            frame = at
        at += 2 + length
        if marker == 0xDA:
            return frame, at
