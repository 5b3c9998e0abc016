"""Reading files of arrays from outside: no length is believed before it is held against the file.

MXNet's reader of ``.params`` and NumPy's of ``.npz`` take memory for whatever a file promises, and
a damaged file makes them end the process or fail in a dozen ways. Here the same formats are read in
Python, which cannot; and :func:`damage_named` makes one ValueError of all that can go wrong. Memory
stays within four times the file and :data:`SLACK`. MXNet is not imported until NDArrays are asked
for.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import io
import math
import os
import struct
import zipfile
from typing import Any, BinaryIO, Callable, Iterator, NamedTuple

import numpy as np

SLACK = 32 << 20  # bytes that what is read may take beyond three times the file
REMEDY = "copy or download it again and compare its sha256"
MESSAGE = "{path}: truncated or damaged ({why}); " + REMEDY
MAX_AXES = 32  # NumPy's limit
MAX_HEADER = 10_000  # bytes of the description of an array in an .npz file, as in NumPy

# First bytes of every list of NDArrays: a magic number and 8 bytes that are reserved.
PARAMS_MAGIC = b"\x12\x01" + bytes(14)
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA  # before an array, by age of its form
_BFLOAT16 = np.dtype([("bfloat16", "<u2")])  # as MXNet calls it; NumPy has none
_TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8", 7: "?", 12: _BFLOAT16}
_DENSE, _ROW_SPARSE, _CSR = range(3)


class DamagedError(ValueError):
    """What is wrong with a file, in words; :func:`damage_named` adds which file."""


@contextlib.contextmanager
def damage_named(path: Any, message: str = MESSAGE) -> Iterator[None]:
    """Turn whatever the body raises on a damaged file into one ValueError that names it.

    Errors of the system, such as a missing file, stay what they are and name the file too; so does
    a ValueError that names it already.

    Args:
        path: The file, for the message.
        message: With ``{path}`` and ``{why}``.
    """
    try:
        yield
    except OSError as error:
        # Seeking to a place in front of a file is the file's fault, not the system's.
        if error.errno in (None, errno.EINVAL):
            raise ValueError(message.format(path=path, why=one_line(error))) from error
        if error.filename is None:
            raise OSError(error.errno, f"cannot read {path}: {error.strerror}") from error
        raise
    except DamagedError as error:
        raise ValueError(message.format(path=path, why=one_line(error))) from error
    except Exception as error:  # MemoryError and RecursionError are among them
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        why = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(message.format(path=path, why=why)) from error


def one_line(text: Any, limit: int = 300) -> str:
    """Return a text without line ends and other characters that a console cannot show, cut."""
    words = " ".join(str(text)[: 4 * limit].split())
    return "".join(c if c.isprintable() else "?" for c in words)[:limit]


def allowance(size: int) -> int:
    """Return how many bytes the contents of a file of ``size`` bytes may take when expanded."""
    return 3 * size + SLACK


# ----------------------------------------------------------------------------- MXNet's .params


class _Header(NamedTuple):
    """An array as the file describes it; the numbers follow."""

    kind: int
    shape: tuple
    dtype: np.dtype
    aux: list


class _Cursor:
    """A file at a position, of which nothing can be read that is not there."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        self.at = file.seek(0)

    def take(self, form: str) -> tuple:
        """Return the little-endian numbers of a ``struct`` format."""
        return struct.unpack("<" + form, self.bytes(struct.calcsize("<" + form)))

    def bytes(self, count: int) -> bytes:
        self.need(count)
        return self.file.read(count)

    def need(self, count: int) -> None:
        """Check that so many bytes are left, and pass them."""
        if not 0 <= count <= self.size - self.at:
            raise DamagedError(f"needs {count} bytes at byte {self.at}, has {self.size - self.at}")
        self.at += count

    def array(self, dtype: np.dtype, shape: tuple) -> np.ndarray:
        self.need(math.prod(shape) * dtype.itemsize)
        array = np.empty(shape, dtype)
        if self.file.readinto(array.reshape(-1).view(np.uint8)) != array.nbytes:
            raise DamagedError("the file became shorter while it was read")
        return array


def read_params(
    source: str | bytes, place: Any = None, convert: Callable = lambda array: array
) -> dict | list:
    """Return the arrays of an MXNet file, by name or, of a file without names, as a list.

    Reads what ``mx.nd.save`` has written since MXNet 0.5, under NumPy's shapes too. Sparse arrays
    come back dense.

    Args:
        source: Path, or the contents of a file.
        place: What messages call it; the path by default.
        convert: Applied to each NumPy array as soon as it is read, so that no two copies of the
            whole file exist; bfloat16 comes as MXNet's structured type.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is none, damaged, has a name twice, or a sparse array that would not fit
            into memory.
    """
    place = place if place is not None else source
    opened = io.BytesIO(source) if isinstance(source, bytes) else None
    with damage_named(place), opened or open(source, "rb") as file:
        cursor = _Cursor(file)
        if cursor.bytes(16) != PARAMS_MAGIC:
            raise DamagedError("does not begin as a file of NDArrays")
        (count,) = cursor.take("Q")
        if count > cursor.size // 4:
            raise DamagedError(f"{count} arrays in {cursor.size} bytes")
        arrays = [convert(_read_array(cursor)) for _ in range(count)]
        (named,) = cursor.take("Q")
        if named not in (0, count):
            raise DamagedError(f"{named} names for {count} arrays")
        names = [cursor.bytes(cursor.take("Q")[0]).decode() for _ in range(named)]
        if cursor.at != cursor.size:
            raise DamagedError(f"{cursor.size - cursor.at} bytes follow its end")
        if len(set(names)) != named:
            raise DamagedError("one name for two arrays")
    return dict(zip(names, arrays)) if named or not count else arrays


def load_params(source: str | bytes, place: Any = None) -> dict | list:
    """Return what :func:`read_params` does as NDArrays on the CPU: a safe ``mx.nd.load``."""
    import mxnet as mx

    return read_params(source, place, lambda array: mx.nd.array(array, dtype=array.dtype))


def _read_array(cursor: _Cursor) -> np.ndarray:
    header = _read_header(cursor)
    if header.kind == _DENSE:
        return cursor.array(header.dtype, header.shape)
    count = math.prod(header.aux[-1][1])  # how many rows or numbers are stored
    stored = (count,) + (header.shape[1:] if header.kind == _ROW_SPARSE else ())
    values = cursor.array(header.dtype, stored)
    aux = [cursor.array(dtype, shape) for dtype, shape in header.aux]
    if math.prod(header.shape) * header.dtype.itemsize > allowance(cursor.size):
        raise DamagedError(f"a sparse array {header.shape} that is too large for a dense one")
    dense = np.zeros(header.shape, header.dtype)
    rows, columns = (_rows(header, aux), ()) if header.kind == _ROW_SPARSE else _cells(header, aux)
    dense[(rows, *columns)] = values
    return dense


def _read_header(cursor: _Cursor) -> _Header:
    (magic,) = cursor.take("I")
    kind = _DENSE
    if magic in (_V2, _V3):
        (kind,) = cursor.take("i")
        if kind not in (_DENSE, _ROW_SPARSE, _CSR):
            raise DamagedError(f"an array of the unknown kind {kind}")
        if kind != _DENSE:
            _read_shape(cursor, 0)  # of what is stored; MXNet writes it before it is known
    shape = _read_shape(cursor, int(magic != _V3), None if magic in (_V1, _V2, _V3) else magic)
    if not shape and magic != _V3:
        raise DamagedError("an array without a shape")
    cursor.take("ii")  # the device on which it was
    dtype = _read_type(cursor)
    aux = [(_read_type(cursor), _read_shape(cursor, 0)) for _ in range(kind)]
    return _Header(kind, shape, dtype, aux)


def _read_shape(cursor: _Cursor, least: int, axes: int | None = None) -> tuple:
    """Return a shape; in the oldest form the number of axes was read as the magic number."""
    side = "q" if axes is None else "I"
    (axes,) = cursor.take("i") if axes is None else (axes,)
    if not 0 <= axes <= MAX_AXES:
        raise DamagedError(f"an array of {axes} axes")
    shape = cursor.take(f"{axes}{side}")
    if any(side < least for side in shape):
        raise DamagedError(f"an array of the shape {shape}")
    return shape


def _read_type(cursor: _Cursor) -> np.dtype:
    (flag,) = cursor.take("i")
    if flag not in _TYPES:
        raise DamagedError(f"an array of the unknown number format {flag}")
    return np.dtype(_TYPES[flag])


def _rows(header: _Header, aux: list) -> np.ndarray:
    """Return which rows of a row-sparse array are stored."""
    (rows,) = aux
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise DamagedError(f"a sparse array {header.shape} with {rows.shape} row numbers")
    if rows.size and not 0 <= rows.min() <= rows.max() < header.shape[0]:
        raise DamagedError(f"a sparse array {header.shape} with a row beyond its end")
    return rows


def _cells(header: _Header, aux: list) -> tuple:
    """Return rows and columns of the stored numbers of a matrix in compressed rows."""
    starts, columns = aux
    good = len(header.shape) == 2 and starts.shape == (header.shape[0] + 1,)
    good = good and columns.ndim == 1 and starts.dtype.kind in "iu"
    good = good and columns.dtype.kind in "iu" and starts[0] == 0 and starts[-1] == len(columns)
    good = good and (np.diff(starts) >= 0).all() and not (columns < 0).any()
    if not good or (columns >= header.shape[1]).any():
        raise DamagedError(f"a sparse matrix {header.shape} whose numbers lie outside")
    return np.repeat(np.arange(header.shape[0]), np.diff(starts)), (columns,)


# -------------------------------------------------------------------------------- NumPy's .npz


def read_npz(path: str, message: str = MESSAGE) -> dict:
    """Return the arrays of a NumPy archive by name; never a pickle.

    Args:
        path: The file.
        message: What :func:`damage_named` says of damage.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is none, damaged, holds Python objects, or expands to far more than its size.
    """
    with damage_named(path, message), open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        check_members(members, os.fstat(file.fileno()).st_size)
        if any(not info.filename.endswith(".npy") for info in members):
            raise DamagedError("not all of it are arrays")
        return {info.filename[: -len(".npy")]: _read_npy(archive, info) for info in members}


def check_members(members: list, size: int) -> None:
    """Check what a zip archive says of its members before one is opened.

    Args:
        members: Its ``infolist()``.
        size: Bytes of the archive.

    Raises:
        DamagedError: A name occurs twice, a packing other than plain or deflated (LZMA takes any
            amount of memory), or more than :func:`allowance` bytes in all.
    """
    if len({info.filename for info in members}) != len(members):
        raise DamagedError("a name occurs twice")
    for info in members:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DamagedError(f"{info.filename} is packed by method {info.compress_type}")
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            raise DamagedError(f"{info.filename} has two lengths")
    total = sum(info.file_size for info in members)
    if total > allowance(size):
        raise DamagedError(f"{size} bytes would expand to {total}")


def _read_npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        magic = file.read(8)
        form = {b"\1": "<H", b"\2": "<I", b"\3": "<I"}.get(magic[6:7])
        if magic[:6] != b"\x93NUMPY" or form is None:
            raise DamagedError(f"{info.filename} is no array")
        (length,) = struct.unpack(form, file.read(struct.calcsize(form)))
        if length > MAX_HEADER:
            raise DamagedError(f"{info.filename} has a header of {length} bytes")
        header = ast.literal_eval(file.read(length).decode("utf-8"))
        dtype, shape = np.lib.format.descr_to_dtype(header["descr"]), header["shape"]
        if dtype.hasobject:
            raise DamagedError(f"{info.filename} holds Python objects, which are not read")
        sides = shape if isinstance(shape, tuple) and len(shape) <= MAX_AXES else (-1,)
        if any(type(side) is not int or side < 0 for side in sides):
            raise DamagedError(f"{info.filename} has no shape")
        left = info.file_size - 8 - struct.calcsize(form) - length
        if math.prod(shape) * dtype.itemsize != left:
            raise DamagedError(f"{info.filename} {shape} has {left} bytes")
        data = bytearray(file.read())  # to its end, where the checksum is compared
        if len(data) != left:
            raise DamagedError(f"{info.filename} is shorter than it says")
    order = "F" if header["fortran_order"] else "C"
    return np.frombuffer(data, dtype).reshape(shape, order=order)
