"""JPEG from which a window can be decoded alone.

A training crop uses half of a packed picture, yet decoding is most of a loader's work. A JPEG with
a restart marker after every block of 16 x 16 pixels is a list of independent tiles: the header with
another size, some of the tiles and an end marker are a JPEG of that window. It is still an
ordinary JPEG for every other reader, and 14 % larger (measured on pictures of 256 x 256 at quality
95). Where the tiles begin is noted in an APP9 segment.

The window comes out exactly as from the whole picture, because one more pixel on every side than
chroma interpolation looks at is decoded along.
"""

from __future__ import annotations

import functools
import re
import struct

import cv2
import numpy as np

BLOCK = 16  # side of a tile with 4:2:0 chroma
_NAME = b"TILES"
_SEGMENT = struct.Struct(">2sH5sHHH")  # APP9, length, name, place of height, tiles down, across
_SIZE = struct.Struct(">HH")  # height, width in the frame header
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_AT = 20  # behind the JFIF segment, which comes first and always has the same length
_LONGEST = 0xFFFF  # a segment's length is 16 bits


def encode(image, quality):
    """Return a BGR picture as JPEG bytes with restart markers and the note about them.

    Args:
        image: uint8 ``(H, W, 3)``, BGR.
        quality: 1 to 100.
    """
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


def window(jpeg, left, top, right, bottom):
    """Return ``(bytes of a JPEG, (x, y) of its corner)`` that shows at least a window.

    Args:
        jpeg: bytes-like, from :func:`encode`; of any other JPEG the whole is returned.
        left, top, right, bottom: The window in pixels, the last two exclusive.
    """
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
    lengths = (starts[1:] - starts[:-1]).reshape(down, across)[y0:y1, x0:x1].ravel()
    markers = lengths.cumsum()
    np.frombuffer(result, np.uint8, offset=header - 1)[markers] = _markers(len(markers))
    return result, (x0 * BLOCK, y0 * BLOCK)


@functools.lru_cache(maxsize=None)
def _markers(count):
    """Return the second bytes of the markers behind ``count`` tiles: RST 0 to 7 in turn, EOI."""
    numbers = (0xD0 | (np.arange(count) & 7)).astype(np.uint8)
    numbers[-1] = 0xD9
    return numbers


def _frame_and_scan(jpeg):
    """Return where the frame header (SOF0) begins, and the entropy-coded data behind SOS."""
    at, frame = 2, -1
    while True:
        marker, length = jpeg[at + 1], struct.unpack_from(">H", jpeg, at + 2)[0]
        if marker == 0xC0:
            frame = at
        at += 2 + length
        if marker == 0xDA:
            return frame, at
