"""JPEG from which a horizontal strip can be decoded alone.

A training crop uses half of a packed picture, yet decoding is most of a loader's work. A JPEG with
a restart marker after every row of blocks (16 pixels) is a chain of independent pieces: the header
with another height, some of the pieces and an end marker are a JPEG of those rows. It is still an
ordinary JPEG for every other reader. Where the pieces begin is noted in an APP9 segment.

The rows come out exactly as from the whole picture, because one more pixel on either side than
chroma interpolation looks at is decoded along.
"""

from __future__ import annotations

import re
import struct

import cv2

BLOCK = 16  # height of a row of blocks with 4:2:0 chroma
_NAME = b"ROWS\0"
_SEGMENT = struct.Struct(">2sH5sHH")  # APP9, length, name, place of the height, number of pieces
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_AT = 20  # behind the JFIF segment, which comes first and always has the same length


def encode(image, quality):
    """Return a square BGR picture as JPEG bytes with restart markers and the note about them.

    Args:
        image: uint8 ``(S, S, 3)``, BGR.
        quality: 1 to 100.
    """
    rows = -(-image.shape[0] // BLOCK)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, rows]
    jpeg = cv2.imencode(".jpg", image, options)[1].tobytes()
    frame, start = _frame_and_scan(jpeg)
    if jpeg[frame + 11 : frame + 12] != b"\x22":  # not 2 x 2 chroma: blocks have another size
        return jpeg
    starts = [start] + [match.end() for match in _RESTART.finditer(jpeg, start)]
    if len(starts) != rows:
        return jpeg
    shift = _SEGMENT.size + 4 * (rows + 1)
    ends = [place + shift for place in starts + [len(jpeg)]]  # EOI has two bytes, like RST
    note = _SEGMENT.pack(b"\xff\xe9", shift - 2, _NAME, frame + 5 + shift, rows)
    return jpeg[:_AT] + note + struct.pack(f">{rows + 1}I", *ends) + jpeg[_AT:]


def strip(jpeg, first, last):
    """Return ``(bytes of a JPEG, its first row)`` with at least the rows ``first`` to ``last - 1``.

    Args:
        jpeg: bytes-like, from :func:`encode`; of any other JPEG the whole is returned.
        first, last: Rows of pixels.
    """
    if len(jpeg) < _AT + _SEGMENT.size:
        return jpeg, 0
    mark, _, name, place, rows = _SEGMENT.unpack_from(jpeg, _AT)
    if mark != b"\xff\xe9" or name != _NAME:
        return jpeg, 0
    a, b = max(0, (first - 2) // BLOCK), min(rows, -(-(last + 2) // BLOCK))
    if (a, b) == (0, rows):
        return jpeg, 0
    starts = struct.unpack_from(f">{rows + 1}I", jpeg, _AT + _SEGMENT.size)
    height = min(struct.unpack_from(">H", jpeg, place)[0], b * BLOCK) - a * BLOCK
    result = bytearray(jpeg[: starts[0]])
    shift = len(result) - starts[a]
    result += jpeg[starts[a] : starts[b]]
    struct.pack_into(">H", result, place, height)
    for k in range(a + 1, b):  # markers count 0 to 7 and start over
        result[starts[k] + shift - 1] = 0xD0 + (k - a - 1) % 8
    result[-2:] = b"\xff\xd9"
    return result, a * BLOCK


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
