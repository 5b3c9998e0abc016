"""Writing PyTorch's weight files without PyTorch: the zip format, which ``torch.load`` reads.

What is written loads with ``weights_only=True``.
"""

from __future__ import annotations

import struct
import sys
import zipfile
from typing import Any, Iterable, Mapping

import numpy as np

from gluon_attn.core.files import atomic_path
from gluon_attn.core.text import PathLike

ALIGNMENT = 64  # bytes; with it torch.load(mmap=True) works
STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage",
            "int64": "LongStorage", "int32": "IntStorage", "uint8": "ByteStorage"}  # fmt: skip
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"  # name the class, no arguments, call it
ROOT = "archive"


def write_torch(arrays: Mapping[str, Any], path: PathLike) -> None:
    """Write a state dict, atomically; the same arrays always give the same bytes.

    Raises a ValueError for a format that PyTorch's storages (``STORAGES``) do not have.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype.name not in STORAGES:
            valid = ", ".join(STORAGES)
            raise ValueError(f"cannot save {path}: '{name}' is {array.dtype}; valid are {valid}")
    members: dict[str, Any] = {"data.pkl": _pickle(arrays), "byteorder": sys.byteorder.encode()}
    members.update((f"data/{i}", array) for i, array in enumerate(arrays.values()))
    members["version"] = b"3\n"
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in members.items():
                data = data if isinstance(data, bytes) else data.tobytes()
                archive.writestr(_member(f"{ROOT}/{name}", file.tell()), data)


def _member(name: str, position: int) -> zipfile.ZipInfo:
    """Return a member, its header at a position, whose data begin at a multiple of ALIGNMENT."""
    info = zipfile.ZipInfo(name)  # dated 1980, so that equal arrays make equal files
    begin = position + 30 + len(name)  # the fixed part of a header has 30 bytes
    gap = -(begin + 4) % ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", gap) + b"Z" * gap  # PyTorch's own padding
    return info


def _pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    parts = [b"\x80\x02", ORDERED_DICT, b"("]
    for key, (name, array) in enumerate(arrays.items()):
        parts += [_text(name), _tensor(str(key), array)]
    return b"".join(parts) + b"u."


def _tensor(key: str, array: np.ndarray) -> bytes:
    strides = [step // array.itemsize for step in array.strides]
    storage = (
        b"(" + _text("storage") + f"ctorch\n{STORAGES[array.dtype.name]}\n".encode()
        + _text(key) + _text("cpu") + _number(array.size) + b"tQ"
    )  # fmt: skip
    window = _number(0) + _tuple(array.shape) + _tuple(strides)
    no_gradient = b"\x89" + ORDERED_DICT  # False, and no hooks
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + window + no_gradient + b"tR"


def _text(value: str) -> bytes:
    data = value.encode("utf-8")
    return b"X" + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _tuple(values: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"
