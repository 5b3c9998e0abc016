"""Reading PyTorch's weight files (``.pth``, ``.pt``) without PyTorch and without running anything.

Three formats are in use:

* a zip archive with ``data.pkl`` and ``data/N`` (PyTorch 1.6 and later);
* five pickles, one after another, then the numbers (0.1.9 to 1.5, or on demand);
* a tar archive (before): the first files of torchvision, such as ``resnet18-5c106cde.pth``, which
  newer PyTorch refuses to load safely.

All of them hold a pickle, see :mod:`model_zoo.adapters.torch_pickle`. Nothing is unpacked to disk.

A state dict is a dict of tensors by name. Programs keep it at the top, under ``state_dict``,
``model``, ``net``, in a list of several, beside the state of an optimiser, epoch and scores.
"""

from __future__ import annotations

import io
import logging
import math
import os
import struct
import tarfile
import zipfile
from typing import Any, BinaryIO, Dict, Iterator

import numpy as np

from gluon_attn.core.errors import DAMAGED, DamagedError, naming, one_line
from gluon_attn.core.reading import check_members
from model_zoo.adapters.numbers import from_bytes, is_possible, item_size, to_float32
from model_zoo.adapters.torch_pickle import (
    MAX_AXES,
    MAX_NUMBERS,
    REMEDY,
    Budget,
    Name,
    Opaque,
    Storage,
    Tensor,
    UnsafePickleError,
    run,
)

TOP = "top level"
MAX_DEPTH = 4  # of keys in one another
MAX_PLACES = 10_000  # dicts and lists that are looked at


MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
KINDS = {
    "torch.FloatStorage": "float32", "torch.DoubleStorage": "float64",
    "torch.HalfStorage": "float16", "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64", "torch.IntStorage": "int32", "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8", "torch.ByteStorage": "uint8", "torch.BoolStorage": "bool",
}  # fmt: skip
# Numbers of kinds that no weights have; their size says where the next storage begins.
OTHERS = {
    "torch.ComplexFloatStorage": "int64", "torch.ComplexDoubleStorage": "complex128",
    "torch.QInt8Storage": "int8", "torch.QUInt8Storage": "uint8", "torch.QInt32Storage": "int32",
    "torch.storage.UntypedStorage": "uint8", "torch.UntypedStorage": "uint8",
}  # fmt: skip


Arrays = Dict[Any, np.ndarray]
log = logging.getLogger(__name__)


def is_torch(head: bytes) -> bool:
    """Tell by its first 512 bytes whether a file may be one of PyTorch's."""
    pickled = head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")  # protocols
    return head[:4] == b"PK\x03\x04" or pickled or head[257:262] == b"ustar"


def read_torch(path: str, key: str | None = None) -> Arrays:
    """Return the tensors of a state dict by name, in its order; all floats as float32.

    A checkpoint that holds the state dict under any key will do, ``key`` says which of several
    (``state_dict_ema``); what lies beside it is logged. Raises a ValueError if the file is damaged,
    has no state dict or several, is larger than any net of this package could be, or has a pickle
    that names functions which act on the system. Nothing of it has been executed.
    """
    arrays, beside = read_checkpoint(path, key)
    if beside:
        log.info("%s: not used, beside the weights: %s", path, beside)
    return arrays


def read_checkpoint(path: str, key: str | None = None) -> tuple[Arrays, str]:
    """Return ``(arrays, what lies beside them in words)``; see :func:`read_torch`."""
    with naming(path, DAMAGED), open(path, "rb") as file:
        head = file.read(512)
        file.seek(0)
        read = _read_zip if head[:2] == b"PK" else _read_stream
        read = _read_tar if head[257:262] == b"ustar" else read
        try:
            value, numbers = read(file)
            tensors, found = find_state(value, key)
            return {n: _resolve(n, t, numbers) for n, t in tensors.items()}, words(value, found)
        except UnsafePickleError as error:
            raise ValueError(
                f"{path}: refused: its pickle {error}; nothing was executed. {REMEDY}"
            ) from error
        except NotWeightsError as error:
            raise ValueError(f"{path}: {error}") from error


# Containers


def _read_zip(file: BinaryIO) -> tuple[Any, Arrays]:
    storages: dict[Any, Storage] = {}
    with zipfile.ZipFile(file) as archive:
        check_members(archive.infolist(), os.fstat(file.fileno()).st_size)
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
        if any(name.rpartition("/")[2] == "constants.pkl" for name in members):
            raise NotWeightsError(f"is TorchScript, a program and not a state dict. {REMEDY}")
        if len(pickles) != 1:
            raise NotWeightsError("a zip archive, but none of PyTorch's: it lacks data.pkl")
        root = pickles[0][: -len("data.pkl")]
        # Packed members could unpack to any size; PyTorch does not pack.
        packed = [n for n, info in members.items() if info.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise DamagedError(f"{packed[0]} is compressed, which PyTorch never does")
        order = f"{root}byteorder"
        big = order in members and archive.read(order) == b"big"
        value = run(io.BytesIO(archive.read(pickles[0])), lambda pid: _storage(pid, storages))
        numbers, left = {}, os.fstat(file.fileno()).st_size
        for key, storage in storages.items():
            info = members.get(f"{root}data/{key}")
            if info is None or info.file_size != storage.length * item_size(storage.kind):
                raise DamagedError(f"storage {key} is missing or has another length than expected")
            left -= info.file_size  # several names of one member would multiply it
            if left < 0:
                raise DamagedError("the storages are longer than the file")
            numbers[key] = from_bytes(archive.read(info), storage.kind, big)  # checks the CRC
    return value, numbers


def _read_stream(file: BinaryIO) -> tuple[Any, Arrays]:
    """Return ``(value, {key: numbers})`` of the format of PyTorch 0.1.9 to 1.5."""
    storages: dict[Any, Storage] = {}
    try:
        magic = run(file)
    except UnsafePickleError as error:  # a bare pickle that is something else altogether
        raise UnsafePickleError(f"is not PyTorch's and {error}") from error
    if magic != MAGIC or run(file) != PROTOCOL:
        raise NotWeightsError("a pickle, but not one of PyTorch's state dicts")
    run(file)  # sizes of C types on the machine that wrote it; the numbers are little-endian
    value = run(file, lambda pid: _storage(pid, storages))
    keys = run(file)
    if not isinstance(keys, list) or set(map(_key, keys)) != set(storages):
        raise DamagedError("its list of storages is not that of its tensors")
    numbers = {key: _next_numbers(file, storages[key]) for key in keys}
    if file.read(1):
        raise DamagedError("bytes follow the last storage")
    return value, numbers


def _read_tar(file: BinaryIO) -> tuple[Any, Arrays]:
    """Return ``(value, {key: numbers})`` of the format before PyTorch 0.1.9."""
    size = os.fstat(file.fileno()).st_size
    budget = Budget(size)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        stored = _member(archive, "storages", size)
        numbers: Arrays = {}
        storages: dict[Any, Storage] = {}
        for _ in range(_count(run(stored, budget=budget))):
            key, _, kind = run(stored, budget=budget)
            numbers[_key(key)] = _next_numbers(stored, Storage(_format_of(kind), key, None))
            storages[key] = Storage(_format_of(kind), key, len(numbers[key]))
        for key, root, start, length in run(stored, budget=budget):
            storages[_key(key)] = Storage(storages[_key(root)].kind, root, length, start)
        tensors, described = {}, _member(archive, "tensors", size)
        for _ in range(_count(run(described, budget=budget))):
            key, storage, _ = run(described, budget=budget)
            axes, _ = struct.unpack("<ii", described.read(8))
            if not 0 <= axes <= MAX_AXES:
                raise DamagedError(f"a tensor of {axes} axes")
            sides = struct.unpack(f"<{2 * axes + 1}q", described.read(16 * axes + 8))
            window = sides[:axes], sides[axes:-1]
            tensors[int(key)] = Tensor(storages[_key(storage)], sides[-1], *window)
        # Containers of whole models are written as tuples.
        value = run(_member(archive, "pickle", size), lambda pid: tensors[int(pid)])
    return value, numbers


def _member(archive: tarfile.TarFile, name: str, size: int) -> Any:
    info = archive.getmember(name)
    # A sparse member has not the bytes that its length promises: zeros are made up for the rest.
    if not info.isreg() or info.issparse():
        raise DamagedError(f"'{name}' in the archive is no plain file, as PyTorch writes it")
    # Extended headers may give any length.
    if not 0 <= info.size <= size - info.offset_data:
        raise DamagedError(f"'{name}' is longer than the file")
    return archive.extractfile(info)


def _next_numbers(file: BinaryIO, storage: Storage) -> np.ndarray:
    """Return the storage at the file's position: how many numbers, then the numbers."""
    (length,) = struct.unpack("<q", file.read(8))
    if storage.length not in (None, length) or not 0 <= length <= MAX_NUMBERS:
        raise DamagedError(f"storage {storage.key} has {length} numbers")
    size, here = length * item_size(storage.kind), file.tell()
    if size > file.seek(0, os.SEEK_END) - here:
        raise DamagedError(f"it breaks off in storage {storage.key}")
    file.seek(here)
    return from_bytes(file.read(size), storage.kind)


def _key(value: Any) -> Any:
    # Taking the hash of a deeply nested tuple would end the process.
    if type(value) not in (str, int):
        raise DamagedError("the key of a storage is neither text nor number")
    return value


def _count(value: Any) -> int:
    if type(value) is not int:
        raise DamagedError("no number of entries")
    return value


# Tensors


def _storage(pid: Any, storages: dict[Any, Storage]) -> Any:
    """Return the storage that a persistent id names, and enter it into ``storages``."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        what = pid[0] if isinstance(pid, tuple) and pid else pid
        if what == "module":  # of a whole model, with its source
            return Opaque("a module")
        raise DamagedError("refers to something other than storages")
    kind, key, _, length = pid[1:5]
    view = pid[5] if len(pid) > 5 else None
    if type(length) is not int or length < 0:
        raise DamagedError("a damaged reference to a storage")
    storage = storages.setdefault(_key(key), Storage(_format_of(kind), key, length))
    if storage != Storage(_format_of(kind), key, length):
        raise DamagedError(f"storage {key} has two lengths or number formats")
    if kind.text in OTHERS:
        return Opaque(kind.text)
    if view is None:
        return storage
    _, start, length = view
    return Storage(storage.kind, key, _count(length), _count(start))


def _format_of(name: Any) -> str:
    kind = KINDS.get(name.text, OTHERS.get(name.text)) if isinstance(name, Name) else None
    if kind is None:
        raise DamagedError(f"a storage of unknown format; valid: {', '.join(KINDS)}")
    return kind


def _resolve(name: str, tensor: Tensor, numbers: Arrays) -> np.ndarray:
    storage, size = tensor.storage, tensor.size
    if not isinstance(storage, Storage):
        raise DamagedError(f"'{name}' has no storage")
    if min((tensor.offset, storage.start, *size, *tensor.stride)) < 0:
        raise DamagedError(f"'{name}' has a negative size, stride or offset")
    array, count = numbers[storage.key][storage.start :][: storage.length], math.prod(size)
    ends = sum((side - 1) * step for side, step in zip(size, tensor.stride))
    # A stride of 0 would blow a single number up to any size.
    if count and not (tensor.offset + ends < len(array) and count <= len(array)):
        raise DamagedError(f"'{name}' {size} reaches beyond its storage")
    if not is_possible(size):
        raise DamagedError(f"'{name}' has {len(size)} axes, or sides too long for an array")
    if not count:
        return to_float32(array[:0].reshape(size), storage.kind)
    steps = [step * array.itemsize for step in tensor.stride]
    window = np.lib.stride_tricks.as_strided(array[tensor.offset :], size, steps, writeable=False)
    return to_float32(window, storage.kind)


# The state dict in a checkpoint


class NotWeightsError(ValueError):
    """A sound file that holds no weights, or several."""


def find_state(value: Any, key: str | None = None) -> tuple[dict[str, Tensor], str]:
    """Return ``(tensors by name, key)`` of the state dict in what a file holds.

    ``value`` is what :func:`model_zoo.adapters.torch_pickle.run` returned. ``key`` says which one
    is meant, such as ``state_dict_ema`` or ``nets.G``; None: the only one.
    """
    places = _places(value)
    if not places:
        raise NotWeightsError(
            f"holds no state dict but {words(value, '') or _kind(value)}. {REMEDY}"
        )
    if key is not None:
        if key not in places:
            raise NotWeightsError(f"has no state dict '{key}'; it has: {', '.join(places)}")
        found = key
    else:
        # A checkpoint may have tensors beside its state dict, such as the best accuracy.
        found = max(places, key=lambda place: len(places[place]))
        rivals = [place for place in places if _rival(places[place], places[found])]
        if len(rivals) > 1:
            raise NotWeightsError(
                f"holds several state dicts ({', '.join(rivals)}). Choose one with key=, or "
                f"--key {rivals[0]} of tools/convert.py"
            )
    if sum(math.prod(tensor.size) for tensor in places[found].values()) > MAX_NUMBERS:
        raise NotWeightsError(f"more than {MAX_NUMBERS} numbers")
    return places[found], found


def words(value: Any, found: str, limit: int = 12) -> str:
    """Return what a checkpoint holds beside its state dict ``found``: scalars, kinds of others."""
    left = [
        (key, part)
        for key, part in _items(value)
        if key != found.partition(".")[0] and not (found == TOP and isinstance(part, Tensor))
    ]
    left.sort(key=lambda item: not isinstance(item[1], (str, int, float)))
    items = [f"{one_line(key, 40)} {_kind(part)}" for key, part in left]
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if items[limit:] else "")


def _places(value: Any) -> dict[str, dict[str, Tensor]]:
    """Return ``{key: tensors by name}`` of all state dicts, in their order."""
    found: dict[str, dict[str, Tensor]] = {}
    seen: set[int] = set()
    waiting = [(TOP, value, 0)]
    while waiting and len(seen) < MAX_PLACES:
        place, part, depth = waiting.pop(0)
        if id(part) in seen:  # one state dict may have two names
            continue
        seen.add(id(part))
        items = list(_items(part))
        tensors = {name: item for name, item in items if isinstance(item, Tensor)}
        if tensors and not isinstance(part, (list, tuple)) and tensors not in found.values():
            found[place] = tensors
        if depth < MAX_DEPTH:
            waiting += [
                (name if place == TOP else f"{place}.{name}", item, depth + 1)
                for name, item in items
                if isinstance(item, (dict, list, tuple, Opaque)) and not isinstance(item, Tensor)
            ]
    # Weights are matrices and kernels; other tensors lie about where there is a state dict.
    nets = {p: t for p, t in found.items() if any(len(tensor.size) > 1 for tensor in t.values())}
    return nets or found


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Return the items of a container by text; optimisers count theirs, so numbers are no keys."""
    if isinstance(value, Opaque):
        value = value.items
    if isinstance(value, dict):
        return ((key, item) for key, item in value.items() if isinstance(key, str))
    if isinstance(value, (list, tuple)) and not isinstance(value, (Tensor, Name)):
        return ((str(number), item) for number, item in enumerate(value[:100]))
    return iter(())


def _rival(tensors: dict[str, Tensor], most: dict[str, Tensor]) -> bool:
    """Tell whether tensors may be meant as well as the most: nearly as many, or the same net's."""
    return 4 * len(tensors) >= len(most) or 2 * len(tensors.keys() & most.keys()) > len(tensors)


def _kind(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a long number"
    if isinstance(value, (str, int, float)) or value is None:
        return one_line(value, 60)
    if isinstance(value, (Opaque, Name)):
        return one_line(value.text, 80)
    kind = "dict" if isinstance(value, dict) else type(value).__name__.lower()
    return f"a {kind}" if value or isinstance(value, Tensor) else f"an empty {kind}"
