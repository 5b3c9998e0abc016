"""Number formats of weight files as NumPy arrays; all floats become float32."""

from __future__ import annotations

import math
from typing import Sequence

import numpy as np

from model_zoo.adapters.torch_pickle import MAX_AXES, MAX_NUMBERS

# Format -> NumPy type in the file. NumPy has no bfloat16: its 16 bits are read as a number.
FORMATS = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int64": "<i8",
    "int32": "<i4", "int16": "<i2", "int8": "<i1", "uint64": "<u8", "uint32": "<u4",
    "uint16": "<u2", "uint8": "<u1", "bool": "<u1", "complex128": "<c16",
}  # fmt: skip


def item_size(kind: str) -> int:
    """Return the bytes of one number of a format."""
    return np.dtype(FORMATS[kind]).itemsize


def is_possible(shape: Sequence[int]) -> bool:
    """Tell whether NumPy and MXNet can make an array of a shape, a tuple of whole numbers from 0.

    An empty array needs no bytes in the file that its other sides could be held against, and
    beyond these limits either of the two would raise an error that names no file.
    """
    return len(shape) <= MAX_AXES and math.prod(side or 1 for side in shape) <= MAX_NUMBERS


def from_bytes(data: bytes, kind: str, big_endian: bool = False) -> np.ndarray:
    """Return the numbers of a buffer, without copying: still in the file's format."""
    dtype = np.dtype(FORMATS[kind])
    return np.frombuffer(data, dtype.newbyteorder(">") if big_endian else dtype)


def to_float32(array: np.ndarray, kind: str) -> np.ndarray:
    """Return an array of :func:`from_bytes` as a contiguous copy: floats in float32.

    Whole numbers keep their type. bfloat16 is the upper half of a float32, so it is widened
    exactly. A float64 beyond float32's range becomes infinite, which loading refuses.
    """
    if kind == "bfloat16":
        # astype also brings the bytes into this machine's order
        wide = np.asarray(array.astype(np.uint32, order="C") << np.uint32(16))
        return wide.view(np.float32)
    if kind.startswith("float"):
        with np.errstate(over="ignore"):
            return np.array(array, dtype=np.float32, order="C")
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
