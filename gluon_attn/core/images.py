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

What is wrong is an :class:`ImageError`: a reason, with the remedy and without the file's name,
which callers know.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import stat
import struct
import threading
from typing import Any, BinaryIO, Iterator, NamedTuple, Sequence, Union

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gluon_attn.core.text import PathLike

Data = Union[bytes, memoryview]

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "JPEG2000")  # whose headers Pillow may read
ORIENTATION = 0x0112  # the tag of EXIF and TIFF
RAW_PROFILE = "Raw profile type exif"  # EXIF of a PNG as a text
MAX_BYTES = 1 << 31  # of a file; the largest image that is decoded needs less
HEAD = 512  # bytes that tell what a file is

# What is given in place of an image: (offset, first bytes, what it is and what to do).
_RAW = "is a camera's raw file: export it as JPEG or PNG"
_ARCHIVE = "is an archive: unpack it and give the images in it"
_VIDEO = "is a video: extract its frames first (ffmpeg -i VIDEO frame%06d.png)"
_HEIC = "is a HEIC or HEIF photo, which cannot be read here: convert it to JPEG or PNG"
_MAGIC = (
    (0, b"GIF8", "is a GIF, perhaps with many frames: save the one that is meant as PNG or JPEG"),
    (0, b"%PDF", "is a PDF document: export its pages or figures as PNG or JPEG"),
    (0, b"%!PS", "is a PostScript file: export it as PNG or JPEG"),
    (0, b"8BPS", "is a Photoshop document: export it as PNG or JPEG"),
    (0, b"\x00\x00\x01\x00", "is a Windows icon: save it as PNG"),
    (0, b"\xff\x0a", "is a JPEG XL image, which cannot be read here: convert it to JPEG or PNG"),
    (4, b"JXL \r\n", "is a JPEG XL image, which cannot be read here: convert it to JPEG or PNG"),
    (0, b"v/1\x01", "is an OpenEXR image: convert it to 8 bits, as JPEG or PNG"),
    (128, b"DICM", "is a DICOM file: export it as PNG"),
    (0, b"FUJIFILMCCD-RAW", _RAW), (0, b"IIRO", _RAW), (0, b"IIU\x00", _RAW),
    (8, b"CR\x02", _RAW), (8, b"crx ", _RAW),
    (0, b"\x1aE\xdf\xa3", _VIDEO), (0, b"\x00\x00\x01\xba", _VIDEO),
    (0, b"\x00\x00\x01\xb3", _VIDEO), (0, b"FLV\x01", _VIDEO), (8, b"AVI ", _VIDEO),
    (0, b"0&\xb2u\x8ef\xcf\x11", _VIDEO),
    (0, b"PK\x03\x04", _ARCHIVE), (0, b"\x1f\x8b", _ARCHIVE), (0, b"7z\xbc\xaf", _ARCHIVE),
    (0, b"Rar!", _ARCHIVE), (0, b"BZh", _ARCHIVE), (0, b"\xfd7zXZ", _ARCHIVE),
    (257, b"ustar", _ARCHIVE),
    (0, b"\x93NUMPY", "is a NumPy file: give the array in it (numpy.load), or save it as PNG"),
)  # fmt: skip
_JPEG2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_TEXTS = (
    ("version https://git-lfs", "is a Git LFS pointer, the file itself is missing: git lfs pull"),
    ("<svg", "is an SVG drawing: export it as PNG"),
    ("<!doctype html", "is a web page, perhaps in place of a download that failed: fetch it again"),
    ("<html", "is a web page, perhaps in place of a download that failed: fetch it again"),
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


class ImageError(ValueError):
    """Why something is no image that can be used."""


class MissingImageError(FileNotFoundError, ImageError):
    """There is no such file."""


class Header(NamedTuple):
    """What the header of an image file says."""

    kind: str  # Pillow's name of the format
    mode: str  # Pillow's name of the kind of pixels; "" where Pillow was not asked
    width: int  # as stored
    height: int
    orientation: int  # 1 to 8, as in EXIF; 1: stored upright
    image: Any  # Pillow's, not decoded yet; None where it was not asked

    def size(self, upright: bool = True) -> tuple[int, int]:
        """Return ``(width, height)``."""
        lies = upright and self.orientation >= 5
        return (self.height, self.width) if lies else (self.width, self.height)


@contextlib.contextmanager
def opened(path: PathLike) -> Iterator[BinaryIO]:
    """Open a file that should be an image; what cannot be opened is an ImageError."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ImageError("is a folder: give the images in it")
        if not stat.S_ISREG(mode):
            raise ImageError("is no ordinary file")
        with open(path, "rb") as file:
            yield file
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise MissingImageError(_absence(os.fspath(path))) from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise ImageError(_url(os.fspath(path)) or f"cannot be read: {reason}") from error


def read_bytes(path: PathLike) -> bytes:
    """Return the contents of a file that should be an image; else an ImageError says what it is."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:  # a film, for instance, which must not be read as a whole
            raise ImageError(what_is(file.read(HEAD)) or f"is no image ({size:,} bytes)")
        return file.read()


def read_header(stream: BinaryIO) -> Header | None:
    """Return the header of an image; None if it is damaged, or of a format that OpenCV alone knows.

    Raises an ImageError for more pixels than are bearable, or a preview of a camera's raw file.
    """
    limit = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)  # as Pillow has it
    try:
        header = _quick_header(stream) or _pillow_header(stream)
        if header is None or header.width * header.height <= limit:
            return header
    except Image.DecompressionBombError:
        pass
    raise ImageError(
        f"has more than {limit:,} pixels: reduce it, or raise PIL.Image.MAX_IMAGE_PIXELS if there "
        "is memory for it"
    )


def _quick_header(stream: BinaryIO) -> Header | None:
    """Return the header of a sound JPEG or PNG, in a fifth of the time that Pillow takes."""
    start = stream.read(24)
    try:
        if start.startswith(b"\xff\xd8\xff"):
            width, height, exif = _jpeg_header(stream)
            return Header("JPEG", "", width, height, orientation_of(exif), None)
        if start.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"):
            width, height = struct.unpack(">II", start[16:])
            return Header("PNG", "", width, height, orientation_of(_png_exif(stream)), None)
    except (struct.error, _UnusualError):
        pass
    return None


def _pillow_header(stream: BinaryIO) -> Header | None:
    stream.seek(8)
    is_cr2 = stream.read(2) == b"CR"
    stream.seek(0)
    try:
        image: Any = Image.open(stream, formats=FORMATS)
        width, height = image.size
        if image.format == "TIFF":
            # The first image is a smaller copy of another, or the file a digital negative.
            if image.tag_v2.get(254, 0) & 1 or 50706 in image.tag_v2 or is_cr2:
                raise ImageError(_RAW)
            width, height = image.tag_v2[256], image.tag_v2[257]  # Pillow 11 turns its size
            orientation = _valid(image.tag_v2.get(ORIENTATION))
        else:
            orientation = orientation_of(exif_of(image))
        return Header(image.format, image.mode, int(width), int(height), orientation, image)
    except (ImageError, Image.DecompressionBombError):
        raise
    except Exception:  # damaged bytes: parsers stumble in many ways, and OpenCV may not
        return None


def what_is(data: bytes) -> str | None:
    """Return what a file is that cannot be read here, and what to do, from its first bytes.

    None if it may be an image or a text; see :func:`which_text`.
    """
    for offset, magic, words in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            return words
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if brand in (b"avif", b"avis"):
            return "is an AVIF image, which cannot be read here: convert it to JPEG or PNG"
        photo = brand in (b"mif1", b"msf1") or brand[:3] in (b"hei", b"hev")
        return _HEIC if photo else _VIDEO
    return _VIDEO if data[4:8] in (b"moov", b"mdat", b"wide") else None


def which_text(data: bytes) -> str | None:
    """Return what a file is that nothing can decode, if its first bytes are text or zeros."""
    if not any(data):
        return "holds zeros only: it was not copied completely"
    text = data.decode("utf-8", "ignore").lstrip("\ufeff").lower()
    printable = sum(c.isprintable() or c.isspace() for c in text)
    if printable < len(data.decode("utf-8", "replace")) * 0.95:
        return None
    text = text.lstrip()
    for start, words in _TEXTS:
        if text.startswith(start) or (text.startswith(("<?xml", "<!--")) and start in text):
            return words
    return "is a text file, no image"


def _absence(path: str) -> str:
    if path.startswith("~"):
        return "does not exist: '~' is not expanded here (os.path.expanduser)"
    if os.path.islink(path):
        return f"is a link to {os.readlink(path)}, which does not exist"
    found = "does not exist" if path else "is no path"
    return _url(path) or (found if os.path.isabs(path) else f"{found} in {os.getcwd()}")


def _url(path: str) -> str | None:
    """Return what to say of a URL; it may have lost a slash, and have a folder before it."""
    found = re.search(r"(^|[/\\])[A-Za-z][A-Za-z0-9+.-]+:/|^data:", path)
    return "is a URL: download the image and give the file" if found else None


class _UnusualError(Exception):
    """A header for Pillow to read."""


def _jpeg_header(stream: BinaryIO) -> tuple[int, int, bytes | None]:
    size, exif = None, None
    stream.seek(2)
    while True:
        mark, kind, length = struct.unpack(">BBH", stream.read(4))
        if mark != 0xFF or kind == 0xFF or length < 2:
            raise _UnusualError
        if kind == 0xDA:  # pixels begin
            if size is None or 0 in size:
                raise _UnusualError
            return (*size, exif)
        if kind == 0xE1 and exif is None:
            segment = stream.read(length - 2)
            exif = segment if segment.startswith(b"Exif\0\0") else None
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">xHH", stream.read(5))
            size = width, height
            stream.seek(length - 7, os.SEEK_CUR)
        else:
            stream.seek(length - 2, os.SEEK_CUR)


def _png_exif(stream: BinaryIO) -> bytes | None:
    """Return the eXIf chunk of a PNG, which may also stand behind the pixels."""
    stream.seek(8)
    while True:
        head = stream.read(8)
        if len(head) < 8:
            return None
        length, name = struct.unpack(">I4s", head)
        if name == b"eXIf":
            return stream.read(length)
        if name in (b"tEXt", b"zTXt"):  # ImageMagick's way, before PNG had EXIF
            if stream.read(length).startswith(RAW_PROFILE.encode()):
                raise _UnusualError
            length = 0
        stream.seek(length + 4, os.SEEK_CUR)


def exif_of(image: Image.Image) -> bytes | str | None:
    """Return what a Pillow image that was opened from a file knows of EXIF."""
    return image.info.get("exif") or image.info.get(RAW_PROFILE)


def orientation_of(exif: bytes | str | None) -> int:
    """Return the orientation in EXIF bytes, or in the hexadecimal text of them; 1 if none."""
    if not exif:
        return 1
    try:
        if isinstance(exif, str):  # "\nexif\n  length\nhexadecimal lines", as ImageMagick writes it
            exif = bytes.fromhex("".join(exif.split("\n")[3:]))
        table = Image.Exif()
        table.load(exif)
        return _valid(table.get(ORIENTATION))
    except Exception:  # damaged EXIF is no EXIF, as for viewers
        return 1


def _valid(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def decode(data: Data, upright: bool = True) -> NDArray[Any]:
    """Return the pixels of an encoded image, uint8 ``(H, W, 3)`` RGB, or raise an ImageError.

    ``upright`` obeys the EXIF orientation; False gives the pixels as they are stored.
    """
    if not len(data):
        raise ImageError("is empty")
    header = read_header(io.BytesIO(data))
    if header is None:
        head = bytes(data[:HEAD])
        known = what_is(head)
        if known or head.startswith(_JPEG2000):
            raise ImageError(known or f"is truncated or damaged ({len(data):,} bytes)")
        fault = which_text(head) or "is truncated or no image"
        return _decode(data, _RGB if upright else _STORED, fault)
    _check_mode(header.mode)
    if header.kind == "JPEG2000":  # OpenCV ends the process at some damaged ones
        return from_pil(header.image)
    if header.kind == "TIFF":
        # OpenCV multiplies colours by transparency here; both libraries turn whatever they read.
        pixels = from_pil(header.image) if header.mode == "RGBA" else _decode(data, _STORED)
        back = {6: 8, 8: 6}.get(header.orientation, header.orientation)
        return pixels if upright else turn(pixels, back)
    return turn(_decode(data, _STORED), header.orientation if upright else 1)


def decode_own(data: Data) -> NDArray[Any]:
    """Return the pixels of a JPEG that this package encoded: without looking at its header."""
    return _decode(data, _STORED) if len(data) else decode(data)


def file_header(path: PathLike) -> Header:
    """Return the header of an image file, its ``image`` closed; errors as :func:`read_bytes`."""
    with opened(path) as file:
        header = read_header(file)
    if header is None:
        height, width = decode(read_bytes(path)).shape[:2]
        return Header("", "RGB", width, height, 1, None)
    return header


def from_pil(image: Image.Image) -> NDArray[Any]:
    """Return the pixels of a Pillow image, upright: those of the file that it was opened from."""
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


def turn(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an image that is stored with an EXIF orientation, 1 to 8, as it is to be seen."""
    transposed, flip = _TURNS.get(orientation, (False, None))
    image = cv2.transpose(image) if transposed else image
    return image if flip is None else cv2.flip(image, flip)


# Pillow's filters, those of torchvision and timm, beside our own choice.
RESAMPLING = ("auto", "nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


def resize(
    image: NDArray[Any], width: int, height: int, dst: NDArray[Any] | None = None, *,
    method: str = "auto",
) -> NDArray[Any]:  # fmt: skip
    """Return ``image`` at ``width`` x ``height``; the same object if it already has that size.

    With ``auto`` shrinking averages over areas, since sampling four neighbours would alias, and
    enlarging is bilinear. The other methods are Pillow's filters, for uint8 alone.
    """
    rows, columns = image.shape[:2]
    if (columns, rows) == (width, height):
        return image
    if method != "auto":
        chosen: Any = getattr(Image, method.upper())
        return np.asarray(Image.fromarray(image).resize((width, height), chosen))
    shrinks = width <= columns and height <= rows
    kernel = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), dst=dst, interpolation=kernel)


def letterbox(image: NDArray[Any], colour: Sequence[float]) -> NDArray[Any]:
    """Return ``image`` in the middle of the smallest square that holds it; the rest is coloured."""
    rows, columns = image.shape[:2]
    side = max(rows, columns)
    down, right = side - rows, side - columns
    edges = down // 2, down - down // 2, right // 2, right - right // 2
    return cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT, value=[round(c) for c in colour])


def clip_box(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return the pixels ``(x0, y0, x1, y1)``, the last two exclusive, that a box covers.

    ``box`` is ``x, y, w, h``, in pixels, possibly fractional. None if it lies outside the image.
    """
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return None
    x0, y0 = math.floor(max(0, x)), math.floor(max(0, y))
    x1, y1 = math.ceil(min(width, x + w)), math.ceil(min(height, y + h))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def box_window(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Return :func:`clip_box`'s pixels of a box that was typed or measured.

    Raises a ValueError if it is not four finite numbers, is empty, or lies outside the image.
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


def _decode(data: Data, flags: int, otherwise: str = "is truncated or damaged") -> NDArray[Any]:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if "validateInputImageSize" in str(error):
            raise ImageError(
                "has more pixels than OpenCV reads: reduce it, or set OPENCV_IO_MAX_IMAGE_PIXELS "
                "before the start if there is memory for it"
            ) from error
        raise ImageError(f"cannot be decoded by OpenCV: {error.err}") from error
    if image is None:
        raise ImageError(f"{otherwise} ({len(data):,} bytes)")
    return image if _DECODES_RGB else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_mode(mode: str) -> None:
    if mode in ("I", "F"):
        kind = "integers" if mode == "I" else "floating-point numbers"
        raise ImageError(f"holds 32-bit {kind}, whose range is not known: convert it to 8 bits")
