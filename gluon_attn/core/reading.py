"""Reading files of arrays from outside: no length is believed before it is held against the file.

MXNet's reader of ``.params`` and NumPy's of ``.npz`` take memory for whatever a file promises, and
a damaged file makes them end the process or fail in a dozen ways. Here they are read in Python,
within four times the file and ``SLACK`` of memory, and all that can go wrong is one ValueError.
"""

from __future__ import annotations

import ast
import io
import math
import os
import struct
import zipfile
from typing import Any, BinaryIO, Callable, Dict, List, NamedTuple, Tuple, Union

import numpy as np
from numpy.typing import NDArray

from gluon_attn.core.errors import DAMAGED, DamagedError, naming
from gluon_attn.core.text import PathLike

Shape = Tuple[int, ...]
Arrays = Union[Dict[str, Any], List[Any]]

SLACK = 32 << 20  # bytes that what is read may take beyond three times the file
MAX_AXES = 32  # NumPy's limit
MAX_HEADER = 10_000  # bytes of the description of an array in an .npz file, as in NumPy
# First bytes of every list of NDArrays: a magic number and 8 bytes that are reserved.
PARAMS_MAGIC = b"\x12\x01" + bytes(14)
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA  # before an array, by age of its form
_BFLOAT16 = np.dtype([("bfloat16", "<u2")])  # as MXNet calls it; NumPy has none
_TYPES: dict[int, Any] = dict(enumerate(("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8", "?")))
_TYPES[12] = _BFLOAT16
_DENSE, _ROW_SPARSE, _CSR = range(3)


def allowance(size: int) -> int:
    """Return how many bytes the contents of a file of ``size`` bytes may take when expanded."""
    return 3 * size + SLACK


class _Cursor:
    """A file at a position, of which nothing can be read that is not there."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        self.at = file.seek(0)

    def take(self, form: str) -> tuple[Any, ...]:
        return struct.unpack("<" + form, self.bytes(struct.calcsize("<" + form)))

    def bytes(self, count: int) -> bytes:
        self.pass_over(count)
        return self.file.read(count)

    def pass_over(self, count: int) -> None:
        if not 0 <= count <= self.size - self.at:
            raise DamagedError(f"needs {count} bytes at byte {self.at}, has {self.size - self.at}")
        self.at += count

    def array(self, dtype: np.dtype[Any], shape: Shape) -> NDArray[Any]:
        self.pass_over(math.prod(shape) * dtype.itemsize)
        array = np.empty(shape, dtype)
        if self.file.readinto(array.reshape(-1).view(np.uint8)) != array.nbytes:  # type: ignore[attr-defined]  # BinaryIO does not list it
            raise DamagedError("the file became shorter while it was read")
        return array

    def shape(self, least: int, axes: int | None = None) -> Shape:
        """Return a shape; in the oldest form the number of axes was read as the magic number."""
        form = "q" if axes is None else "I"
        axes = self.take("i")[0] if axes is None else axes
        if not 0 <= axes <= MAX_AXES:
            raise DamagedError(f"an array of {axes} axes")
        shape = self.take(f"{axes}{form}")
        if any(side < least for side in shape):
            raise DamagedError(f"an array of the shape {shape}")
        return shape

    def dtype(self) -> np.dtype[Any]:
        (flag,) = self.take("i")
        if flag not in _TYPES:
            raise DamagedError(f"an array of the unknown number format {flag}")
        return np.dtype(_TYPES[flag])


class _Header(NamedTuple):
    """An array as the file describes it; the numbers follow."""

    kind: int
    shape: Shape
    dtype: np.dtype[Any]
    aux: list[tuple[np.dtype[Any], Shape]]


def read_params(
    source: PathLike | bytes,
    place: Any = None,
    convert: Callable[[NDArray[Any]], Any] = lambda array: array,
) -> Arrays:
    """Return the arrays of an MXNet file, by name or, of a file without names, as a list.

    Reads what ``mx.nd.save`` has written since MXNet 0.5, under NumPy's shapes too. Sparse arrays
    come back dense. Raises a ValueError if the file is damaged, has a name twice, or a sparse array
    that would not fit into memory.

    Args:
        source: Path, or the contents of a file.
        place: What messages call it; the path by default.
        convert: Applied to each NumPy array as soon as it is read, so that no two copies of the
            whole file exist; bfloat16 comes as MXNet's structured type.
    """
    place = place if place is not None else source
    with naming(place, DAMAGED), (
        io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")
    ) as file:
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


def load_params(source: PathLike | bytes, place: Any = None) -> Arrays:
    """Return what :func:`read_params` does as NDArrays on the CPU: a safe ``mx.nd.load``."""
    import mxnet as mx

    return read_params(source, place, lambda array: mx.nd.array(array, dtype=array.dtype))


def _read_array(cursor: _Cursor) -> NDArray[Any]:
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
    dense[_places(header, aux)] = values
    return dense


def _read_header(cursor: _Cursor) -> _Header:
    (magic,) = cursor.take("I")
    kind = _DENSE
    if magic in (_V2, _V3):
        (kind,) = cursor.take("i")
        if kind not in (_DENSE, _ROW_SPARSE, _CSR):
            raise DamagedError(f"an array of the unknown kind {kind}")
        if kind != _DENSE:
            cursor.shape(0)  # of what is stored; MXNet writes it before it is known
    shape = cursor.shape(int(magic != _V3), None if magic in (_V1, _V2, _V3) else magic)
    if not shape and magic != _V3:
        raise DamagedError("an array without a shape")
    cursor.take("ii")  # the device on which it was
    return _Header(
        kind, shape, cursor.dtype(), [(cursor.dtype(), cursor.shape(0)) for _ in range(kind)]
    )


def _places(header: _Header, aux: list[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    """Return where the stored rows, or the numbers of a matrix in compressed rows, belong."""
    if header.kind == _ROW_SPARSE:
        (rows,) = aux
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise DamagedError(f"a sparse array {header.shape} with {rows.shape} row numbers")
        if rows.size and not 0 <= rows.min() <= rows.max() < header.shape[0]:
            raise DamagedError(f"a sparse array {header.shape} with a row beyond its end")
        return (rows,)
    starts, columns = aux
    good = len(header.shape) == 2 and starts.shape == (header.shape[0] + 1,)
    good = good and columns.ndim == 1 and starts.dtype.kind in "iu"
    good = good and columns.dtype.kind in "iu" and starts[0] == 0 and starts[-1] == len(columns)
    good = good and bool((np.diff(starts) >= 0).all()) and not (columns < 0).any()
    if not good or (columns >= header.shape[1]).any():
        raise DamagedError(f"a sparse matrix {header.shape} whose numbers lie outside")
    return np.repeat(np.arange(header.shape[0]), np.diff(starts)), columns


def read_npz(path: PathLike, message: str = DAMAGED) -> dict[str, NDArray[Any]]:
    """Return the arrays of a NumPy archive by name; never a pickle.

    Raises a ValueError with ``message`` (see :func:`naming`) if it is damaged, holds Python
    objects, or expands to far more than its size.
    """
    with naming(path, message), open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        check_members(members, os.fstat(file.fileno()).st_size)
        if any(not info.filename.endswith(".npy") for info in members):
            raise DamagedError("not all of it are arrays")
        return {info.filename[: -len(".npy")]: _read_npy(archive, info) for info in members}


def check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    """Check what a zip archive of ``size`` bytes says of its members before one is opened.

    Raises a DamagedError if a name occurs twice, for a packing other than plain or deflated (LZMA
    takes any amount of memory), or more than :func:`allowance` bytes in all.
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


def _read_npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as file:
        magic = file.read(8)
        form = {b"\1": "<H", b"\2": "<I", b"\3": "<I"}.get(magic[6:7])
        if magic[:6] != b"\x93NUMPY" or form is None:
            raise DamagedError(f"{info.filename} is no array")
        (length,) = struct.unpack(form, file.read(struct.calcsize(form)))
        if length > MAX_HEADER:
            raise DamagedError(f"{info.filename} has a header of {length} bytes")
        header = ast.literal_eval(file.read(length).decode("utf-8"))
        shape, descr = header["shape"], header["descr"]
        dtype = np.lib.format.descr_to_dtype(descr)  # type: ignore[no-untyped-call]  # NumPy's
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
    order: Any = "F" if header["fortran_order"] else "C"
    return np.frombuffer(data, dtype).reshape(shape, order=order)
