"""MATLAB files of version 4 to 7 as a tree of nodes that know where they are.

``scipy.io.loadmat`` takes lengths and shapes of a file on trust and may end the process on a
damaged one. Here every element has to lie within the one around it, an array has exactly the
numbers that its shape needs, and packed parts expand to no more than
:func:`gluon_attn.core.reading.allowance` allows. Values are those of ``loadmat``; what no attribute
file holds (sparse matrices, objects, functions) comes back as :class:`Unread`. The format is that
of "MAT-File Format" (The MathWorks). Errors name places as MATLAB writes them:
``PETA.mat: peta.partition{1}.train``.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from gluon_attn.core.errors import DamagedError, naming
from gluon_attn.core.reading import MAX_AXES, allowance

HDF5 = b"\x89HDF\r\n\x1a\n"
MAX_DEPTH = 40  # of cells and structs in one another
OVERHEAD = 200  # bytes that a small array takes beside its numbers
NO_V73 = (
    "is a MATLAB 7.3 (HDF5) file, which this reader does not support; the official files are of "
    "version 5. In MATLAB, save it again with save(..., '-v7')"
)
MESSAGE = (
    "{path}: cannot be read as a MATLAB file ({why}); it is damaged or was not copied completely"
)

# Types of elements: numbers, texts, and the two that hold others.
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
            13: "u8"}  # fmt: skip
_TEXTS = {1: "utf-8", 2: "utf-8", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_INT32, _UINT32, _MATRIX, _PACKED = 5, 6, 14, 15
# Classes of arrays
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)
_OPAQUE = 17
_UNREAD = {3: "object", 5: "sparse matrix", 16: "function", _OPAQUE: "object"}
_COMPLEX = 0x800  # flag: imaginary parts follow the real ones
# Version 4: number formats by the tens digit of the type.
_OLD_NUMBERS = ("f8", "f4", "i4", "i2", "u2", "u1")


@dataclass
class Unread:
    """Stands for a value of a kind that is not read."""

    kind: str


def read_mat(path: Any) -> dict:
    """Return the variables of a MATLAB file by name; ValueError if damaged, 7.3 or none."""
    with open(path, "rb") as file:
        data = file.read()
    # A version 7.3 begins as version 5, but for its number; HDF5 follows.
    versions = {b"\0\2IM", b"\2\0MI"}
    if data[:8] == HDF5 or data[512:520] == HDF5 or data[124:128] in versions:
        raise ValueError(f"{path}: {NO_V73}")
    with naming(path, MESSAGE):
        if len(data) < 20:
            raise DamagedError(f"{len(data)} bytes")
        # The text that a file of version 5 begins with has no zeros, a type of version 4 has.
        pairs = _read_4(data) if 0 in data[:4] else _read_5(data)
        variables = {}
        for name, value in pairs:
            if name in variables:
                raise DamagedError(f"variable '{name}' occurs twice")
            if name and not name.startswith("__"):
                variables[name] = value
        return variables


def _read_5(data: bytes) -> list:
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise DamagedError("its head is not that of a MATLAB file")
    budget = _Budget(allowance(len(data)))
    elements, pairs = _Elements(data, order, budget, 128), []
    while elements.at < len(data):
        kind, start, end = elements.next(len(data))
        if kind == _PACKED:
            inner = _Elements(budget.unpack(data[start:end]), order, budget)
            kind, start, end = inner.next(len(inner.data))
        else:
            inner = elements
        if kind != _MATRIX:
            raise DamagedError(f"an element of type {kind} where a variable should be")
        after, inner.at = inner.at, start
        pairs.append(inner.matrix(end, 0))
        inner.at = after
    return pairs


@dataclass
class _Budget:
    left: int  # bytes that may still be taken

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise DamagedError("expands to far more than its size; save it again with '-v6'")

    def unpack(self, packed: bytes) -> bytes:
        stream = zlib.decompressobj()
        data = stream.decompress(packed, self.left + 1)
        self.take(len(data))
        if not stream.eof:
            raise DamagedError("a packed variable breaks off")
        return data


class _Elements:
    """The elements of a file of version 5, or of a packed part of it, from ``at`` on."""

    def __init__(self, data: bytes, order: str, budget: _Budget, at: int = 0) -> None:
        self.data, self.order, self.budget, self.at = data, order, budget, at
        self._tag = struct.Struct(f"{order}2I").unpack_from
        self._head = struct.Struct(f"{order}10I").unpack_from

    def next(self, end: int) -> tuple:
        """Return ``(type, start, end)`` of the element here, within ``end``, and go behind it."""
        at = self.at
        if end - at < 8:
            raise DamagedError(f"breaks off at byte {at}")
        kind, count = self._tag(self.data, at)
        if kind >> 16:  # a short element lies within its tag
            kind, count, at = kind & 0xFFFF, kind >> 16, at + 4
            self.at = at + 4
            if count > 4:
                raise DamagedError(f"an element of {count} bytes in 4 at byte {at}")
        else:
            at += 8
            # Packed ones are not padded; the padding of the last one may be missing.
            self.at = min(at + (count if kind == _PACKED else -(-count // 8) * 8), end)
        if at + count > end:
            raise DamagedError(f"an element at byte {at} is longer than what holds it")
        return kind, at, at + count

    def matrix(self, end: int, depth: int) -> tuple:
        """Return name and value of an array whose parts begin here."""
        if depth > MAX_DEPTH:
            raise DamagedError(f"more than {MAX_DEPTH} cells in one another")
        self.budget.take(OVERHEAD)
        if self.at == end:
            return "", np.zeros((1, 0))
        flags, shape, name = self._begin(end)
        form = flags & 0xFF
        value: Any
        if form in _UNREAD:
            value = Unread(_UNREAD[form])
        elif form == _CELL:
            value = self._cells(end, math.prod(shape), depth).reshape(shape, order="F")
        elif form == _STRUCT:
            value = self._struct(end, shape, depth)
        elif form == _CHAR:
            value = self._characters(end, shape)
        elif form in _NUMERIC:
            value = self._numbers(end, shape)
            if flags & _COMPLEX:
                value = value + 1j * self._numbers(end, shape)
                self.budget.take(value.nbytes)
        else:
            raise DamagedError(f"an array of the unknown class {form}")
        return name, value

    def _begin(self, end: int) -> tuple:
        """Return flags, shape and name of an array."""
        head = self._head(self.data, self.at) if end - self.at >= 40 else ()
        # How nearly all begin: two axes that fit, and no name. The rest of this is for the others.
        if head[:2] == (_UINT32, 8) and head[4:6] == (_INT32, 8) and head[8:] == (1, 0):
            if max(head[6:8]) < 1 << 31:
                self.at += 40
                return head[2], head[6:8], ""
        kind, start, stop = self.next(end)
        if kind != _UINT32 or stop - start != 8:
            raise DamagedError(f"an array without a class at byte {start}")
        flags = self._tag(self.data, start)[0]
        if flags & 0xFF == _OPAQUE:  # which has neither shape nor name here
            return flags, (), ""
        shape = self._shape(end)
        kind, start, stop = self.next(end)
        if kind not in (1, 2):
            raise DamagedError(f"an array without a name at byte {start}")
        return flags, shape, self.data[start:stop].decode("latin1")

    def _shape(self, end: int) -> tuple:
        kind, start, stop = self.next(end)
        axes = (stop - start) // 4
        if kind != _INT32 or not 2 <= axes <= MAX_AXES:
            raise DamagedError(f"an array without a shape at byte {start}")
        shape = struct.unpack_from(f"{self.order}{axes}i", self.data, start)
        if min(shape) < 0:
            raise DamagedError(f"an array of the shape {shape}")
        return shape

    def _numbers(self, end: int, shape: tuple) -> np.ndarray:
        kind, start, stop = self.next(end)
        if kind not in _NUMBERS:
            raise DamagedError(f"numbers of the unknown type {kind} at byte {start}")
        dtype = np.dtype(self.order + _NUMBERS[kind])
        if math.prod(shape) * dtype.itemsize != stop - start:
            raise DamagedError(f"{stop - start} bytes for an array {shape} of {dtype}")
        array = np.frombuffer(self.data, dtype, math.prod(shape), start) if stop > start else None
        return np.zeros(shape, dtype) if array is None else array.reshape(shape, order="F")

    def _characters(self, end: int, shape: tuple) -> np.ndarray:
        kind, start, stop = self.next(end)
        if kind not in _TEXTS:
            raise DamagedError(f"a text of the unknown type {kind} at byte {start}")
        self.budget.take(4 * (stop - start))
        wide = {"<": "-le", ">": "-be"}[self.order] if kind in (4, 17, 18) else ""
        text = self.data[start:stop].decode(_TEXTS[kind] + wide)
        return _strings(text, shape)

    def _cells(self, end: int, count: int, depth: int) -> np.ndarray:
        """Return the next ``count`` arrays, as objects ``(count,)``."""
        if count > (end - self.at) // 8:
            raise DamagedError(f"{count} cells in {end - self.at} bytes")
        values = np.empty(count, object)
        for number in range(count):
            kind, start, stop = self.next(end)
            if kind != _MATRIX:
                raise DamagedError(f"an element of type {kind} in a cell at byte {start}")
            after, self.at = self.at, start
            values[number] = self.matrix(stop, depth + 1)[1]
            self.at = after
        return values

    def _struct(self, end: int, shape: tuple, depth: int) -> np.ndarray:
        kind, start, stop = self.next(end)
        length = struct.unpack_from(f"{self.order}i", self.data, start)[0] if stop > start else 0
        kind, start, stop = self.next(end)
        if length < 1 or (stop - start) % length:
            raise DamagedError(f"a struct whose names have {length} letters")
        places = range(start, stop, length)
        names = [self.data[at : at + length].split(b"\0")[0].decode("latin1") for at in places]
        if not names or len(set(names)) != len(names) or "" in names:
            raise DamagedError("a struct with a field that has no name, or another one's")
        count = math.prod(shape)
        values = self._cells(end, count * len(names), depth)
        array = np.empty(count, [(name, object) for name in names])
        for number, name in enumerate(names):
            array[name] = values[number :: len(names)]
        return array.reshape(shape, order="F")


def _strings(text: str, shape: tuple) -> np.ndarray:
    """Return a char array as the texts of its rows."""
    if len(shape) == 2 and shape[0] == 1:
        return np.array([text])  # its length may be another one in another encoding
    if math.prod(shape) != len(text):
        raise DamagedError(f"{len(text)} letters for a char array {shape}")
    if not text:
        return np.array([], "U1")
    letters = np.array(list(text)).reshape(shape, order="F")
    return np.array(["".join(row) for row in letters.reshape(-1, shape[-1])]).reshape(shape[:-1])


def _read_4(data: bytes) -> list:
    """Return the variables of a file of version 4: a head of five numbers, a name, numbers."""
    pairs, at = [], 0
    while at < len(data):
        if len(data) - at < 20:
            raise DamagedError(f"breaks off at byte {at}")
        order = "<" if struct.unpack_from("<i", data, at)[0] < 10_000 else ">"
        kind, rows, columns, imaginary, length = struct.unpack_from(f"{order}5i", data, at)
        digits = [kind // 1000, kind // 100 % 10, kind // 10 % 10, kind % 10]
        good = digits[0] == (order == ">") and digits[1] == 0 and digits[2] < len(_OLD_NUMBERS)
        if kind < 0 or not good or digits[3] > 2 or min(rows, columns) < 0 or length < 1:
            raise DamagedError(f"no head of a variable at byte {at}")
        dtype = np.dtype(order + _OLD_NUMBERS[digits[2]])
        count, start = rows * columns, at + 20 + length
        at = start + count * dtype.itemsize * (2 if imaginary else 1)
        if at > len(data):
            raise DamagedError(f"a matrix {rows} x {columns} in {len(data) - start} bytes")
        name = data[start - length : start].split(b"\0")[0].decode("latin1")
        value: Any = np.frombuffer(data[start:at], dtype)
        value = value[:count] + 1j * value[count:] if imaginary else value
        if digits[3] == 2:
            value = Unread(_UNREAD[5])
        elif digits[3] == 1:
            if not ((value.real >= 0) & (value.real < 256)).all():
                raise DamagedError(f"'{name}' is no text")
            text = value.real.astype(np.uint8).tobytes().decode("latin1")
            value = _strings(text, (rows, columns))
        else:
            value = value.reshape((rows, columns), order="F")
        pairs.append((name, value))
    return pairs


@dataclass
class Node:
    """A value inside a MATLAB file, and where it is, for messages.

    Every method raises ValueError, naming the place, if the value is of another kind.
    """

    value: Any
    place: str

    def error(self, message: str) -> ValueError:
        """Return the ValueError that says ``message`` about this place."""
        return ValueError(f"{self.place}: {message}")

    @property
    def is_cell(self) -> bool:
        return isinstance(self.value, np.ndarray) and self.value.dtype == object

    @property
    def fields(self) -> tuple[str, ...]:
        """The field names of a struct; empty for anything else."""
        return getattr(getattr(self.value, "dtype", None), "names", None) or ()

    def field(self, key: str | int) -> Node:
        """Return a field of a 1 x 1 struct, by name or, from 0, by position."""
        names = self.fields
        if not names or np.size(self.value) != 1:
            raise self.error(f"expected a 1 x 1 struct, found {self.kind()}")
        if isinstance(key, int):
            if key >= len(names):
                raise self.error(f"needs a field number {key + 1}; has {', '.join(names)}")
            key = names[key]
        if key not in names:
            raise self.error(f"field '{key}' is missing; has {', '.join(names)}")
        return Node(np.ravel(self.value)[0][key], f"{self.place}.{key}")

    def cells(self) -> list[Node]:
        """Return the elements of a cell array (or of an array of structs), column by column."""
        if not self.is_cell and not (self.fields and isinstance(self.value, np.ndarray)):
            raise self.error(f"expected a cell array, found {self.kind()}")
        items = enumerate(self.value.ravel("F"), 1)
        return [Node(item, f"{self.place}{{{k}}}") for k, item in items]

    def strings(self) -> list[str]:
        """Return the texts of a cell array of texts, or the rows of a char array."""
        if isinstance(self.value, np.ndarray) and self.value.dtype.kind == "U":
            return [str(text).strip() for text in self.value.ravel("F")]
        return [cell.text() for cell in self.cells()]

    def text(self) -> str:
        """Return a single text."""
        if np.size(self.value) == 1 and getattr(self.value, "dtype", np.dtype("O")).kind == "U":
            return str(np.ravel(self.value)[0]).strip()
        raise self.error(f"expected a text, found {self.kind()}")

    def matrix(self) -> np.ndarray:
        """Return a two-dimensional array of whole numbers, int64."""
        value = self.value
        numeric = isinstance(value, np.ndarray) and value.dtype.kind in "buif"
        if not numeric or value.ndim != 2:
            raise self.error(f"expected a matrix of numbers, found {self.kind()}")
        with np.errstate(invalid="ignore"):  # NaN becomes some number, and differs from it
            whole = value.astype(np.int64)
        if (whole != value).any():
            row, column = np.argwhere(whole != value)[0]
            place = f"row {row + 1}, column {column + 1}"
            raise self.error(f"{place} is {value[row, column]}, no whole number")
        return whole

    def vector(self) -> np.ndarray:
        """Return the numbers of a row or a column, int64 ``(N,)``."""
        matrix = self.matrix()
        if 1 not in matrix.shape and matrix.size:
            raise self.error(f"expected a row or a column of numbers, found {self.kind()}")
        return matrix.ravel()

    def kind(self) -> str:
        """Return what the value is, in words."""
        shape = " x ".join(str(n) for n in np.shape(self.value))
        if self.fields:
            return f"a {shape} struct"
        if self.is_cell:
            return f"a {shape} cell array"
        if isinstance(self.value, Unread):
            return f"a {self.value.kind}"
        kind = getattr(self.value, "dtype", np.dtype("O")).kind
        names = {"U": "char array", "b": "logical array"}
        return f"a {shape} {names.get(kind, 'array')}" if shape else type(self.value).__name__


def load_mat(path: Any, variable: str | None = None) -> Any:
    """Return the Node of a variable in a MATLAB file; a dict of Nodes of all without a name."""
    nodes = {name: Node(value, f"{path}: {name}") for name, value in read_mat(path).items()}
    return nodes if variable is None else take(nodes, variable, path)


def take(nodes: dict[str, Node], variable: str, path: Any) -> Node:
    """Return a variable out of :func:`load_mat`'s dict; raise ValueError if it is not there."""
    if variable not in nodes:
        names = ", ".join(nodes) or "(none)"
        raise ValueError(f"{path}: variable '{variable}' is missing; has {names}")
    return nodes[variable]
