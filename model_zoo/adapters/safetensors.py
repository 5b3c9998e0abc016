"""Reading and writing safetensors files.

The format is a length (8 bytes, little-endian), a JSON table of names, types, shapes and offsets,
and the raw numbers. It is read here rather than with the ``safetensors`` package because that one
gives no bfloat16 to NumPy, and because 60 lines need no pinned binary wheel per Python version.
"""

from __future__ import annotations

import json
import math
import os
import struct
from typing import Any, Mapping

import numpy as np

from gluon_attn.core.errors import one_line
from gluon_attn.core.files import atomic_path
from gluon_attn.core.text import PathLike
from model_zoo.adapters.numbers import from_bytes, is_possible, item_size, to_float32

MAX_HEADER = 100_000_000  # bytes; the limit of the format's own library
PLAIN_HEADER = 4 << 20  # bytes that a header may have in a file of any size
KINDS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32",
    "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
NAMES = {np.dtype(name): key for key, name in KINDS.items() if name not in ("bfloat16", "bool")}


def is_safetensors(head: bytes) -> bool:
    """Tell by a file's first 16 bytes whether it is a safetensors file, be it a damaged one.

    The format demands ``{`` after the header's length, whose upper four bytes are zero. In a zip
    archive they are not, and tar and MXNet files have a zero in place of ``{``. A pickle can have
    all this only if it begins with an odd number or text, as none of PyTorch's does.
    """
    length = struct.unpack("<Q", head[:8])[0] if len(head) >= 10 else 0
    return 2 <= length <= MAX_HEADER and head[8:9] == b"{" and head[9:10] in b'"} \t\r\n'


def read_safetensors(path: str) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file by name; all floats as float32.

    Raises a ValueError for damage, or a number format or a shape that is not known here.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        # JSON takes about ten times its size when parsed.
        if not 2 <= length <= min(MAX_HEADER, size - 8, PLAIN_HEADER + size // 8):
            raise ValueError(f"{path}: not a sound safetensors file: a header of {length} bytes")
        text = file.read(length)
        if text.count(b"[") + text.count(b"{") > 16 + length // 12:  # an array needs three in 50
            raise ValueError(f"{path}: damaged safetensors header: nothing but brackets")
        table = _table(text, path)
        data = file.read()
    table.pop("__metadata__", None)
    arrays: dict[str, np.ndarray] = {}
    end = 0
    # The numbers lie one after another, without gaps: so they cannot overlap.
    for name, (kind, shape, begin, stop) in sorted(
        ((n, _entry(n, entry, path)) for n, entry in table.items()), key=lambda item: item[1][2:]
    ):
        if begin != end or stop > len(data):
            raise ValueError(f"{path}: '{name}' does not begin where its predecessor ends")
        arrays[name] = to_float32(from_bytes(data[begin:stop], kind).reshape(shape), kind)
        end = stop
    if end != len(data):
        raise ValueError(
            f"{path}: {len(data) - end} bytes belong to no array; truncated or damaged"
        )
    return {name: arrays[name] for name in table}


def write_safetensors(arrays: Mapping[str, Any], path: PathLike) -> None:
    """Write arrays, atomically; the same arrays always give the same bytes.

    Raises a ValueError for a format that is not in ``NAMES``, such as bool or complex numbers.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    # without the first entry some readers refuse the file
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        kind = NAMES.get(array.dtype.newbyteorder("="))
        if kind is None:
            valid = ", ".join(dtype.name for dtype in NAMES)
            raise ValueError(f"cannot save {path}: '{name}' is {array.dtype}; valid are {valid}")
        table[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, end]}
    header = json.dumps(table, separators=(",", ":")).encode("utf-8")
    header += b" " * (-len(header) % 8)  # so that the numbers are aligned
    with atomic_path(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            for array in arrays.values():
                file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def _table(text: bytes, path: str) -> dict[str, Any]:
    def unique(pairs: Any) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    try:
        table = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged safetensors header: {one_line(error, 100)}") from error
    if not isinstance(table, dict):
        raise ValueError(f"{path}: the safetensors header is no table")
    return table


def _entry(name: str, entry: Any, path: str) -> tuple[str, tuple[int, ...], int, int]:
    """Return ``(kind, shape, begin, end)`` of a checked entry."""
    entry = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f"{path}: '{name}' has the number format {kind!r}; valid: {', '.join(KINDS)}"
        )
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [-1]
    good = all(type(n) is int and n >= 0 for n in numbers) and len(offsets) == 2
    if good and not is_possible(shape):
        raise ValueError(f"{path}: '{name}' has {len(shape)} axes, or sides too long for an array")
    if good:
        good = math.prod(shape) * item_size(KINDS[kind]) == offsets[1] - offsets[0]
    if not good:
        raise ValueError(f"{path}: shape and offsets of '{name}' do not go together")
    return (KINDS[kind], tuple(shape), *offsets)
