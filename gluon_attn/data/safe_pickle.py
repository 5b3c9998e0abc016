"""Reading a pickle of plain values and byte arrays without executing anything it asks for.

A pickle may name any function of any module and have it called. CIFAR's official files are pickles
(of Python 2); what they need are lists, dicts, strings, numbers and arrays of bytes. Of everything
a pickle can name, only stand-ins for NumPy's array and type are known here, written below; any
other name is refused.
"""

from __future__ import annotations

import io
import itertools
import pickle
from typing import Any, Iterator

import numpy as np

from gluon_attn.core.errors import DamagedError, naming

ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
# Python's reader in Python: that in C makes room for whatever place an instruction names.
PYTHONS_READER: Any = pickle._Unpickler


class UnsafePickleError(ValueError):
    """A pickle that asks for more than plain values and arrays of bytes."""


class _Type:
    """Stands for ``numpy.dtype``: remembers its name and lets no state in."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        self.name = name.decode("latin1") if isinstance(name, bytes) else name

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and the like: only single bytes are accepted in the end."""


class _Array:
    """Stands for ``numpy.ndarray``: takes the state of one and keeps shape and bytes."""

    value: Any = None

    def __setstate__(self, state: Any) -> None:
        try:
            _, shape, kind, column_major, data = state
            data = data.encode("latin1") if isinstance(data, str) else bytes(data)
            if not isinstance(kind, _Type) or kind.name not in ("u1", "|u1", "uint8"):
                raise UnsafePickleError("an array is not of bytes (uint8)")
            shape = tuple(int(side) for side in shape)
            order: Any = "F" if column_major else "C"
            self.value = np.frombuffer(data, np.uint8).reshape(shape, order=order)
        except UnsafePickleError:
            raise
        except (TypeError, ValueError) as error:
            raise UnsafePickleError(f"a malformed array: {error}") from error


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Stand for ``_codecs.encode``, with which Python 3 writes bytes for old protocols."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", b"latin1"):
        raise UnsafePickleError("encodes something other than bytes as text")
    return text.encode("latin1")


KNOWN: dict[Any, Any] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,
    **{(module, "_reconstruct"): lambda *_: _Array() for module in ARRAY_MODULES},
}


class _Reader(PYTHONS_READER):
    """Checks keys of dicts before they are hashed: that of a deep tuple ends the process."""

    dispatch = dict(PYTHONS_READER.dispatch)
    for _unused in (pickle.FROZENSET, pickle.ADDITEMS):
        del dispatch[_unused[0]]

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set(items)

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set(self, items: list[Any]) -> None:
        keys, target = items[::2], self.stack[-1]
        if not isinstance(target, dict) or any(type(k) not in (str, bytes, int) for k in keys):
            raise DamagedError("a key that is neither text nor number")
        target.update(zip(keys, items[1::2]))

    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in, or refuse the name."""
        try:
            return KNOWN[module, name]
        except KeyError:
            raise UnsafePickleError(f"asks for {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError("refers to objects outside the file")


def load_pickle(data: bytes, place: Any) -> Any:
    """Return what a pickle holds: keys and strings as ``str``, arrays as uint8 NumPy arrays.

    ValueError, naming ``place``: damaged, or asks for anything else; nothing has been executed.
    """
    with naming(place, "{path}: damaged or no pickle: {why}"):
        try:
            value = _Reader(io.BytesIO(data), encoding="latin1").load()
            return _plain(value, itertools.count(), len(data))
        except UnsafePickleError as error:
            reason = f"refused, the pickle {error}; nothing was executed"
            raise ValueError(f"{place}: {reason}") from error


def _plain(value: Any, seen: Iterator[int], limit: int) -> Any:
    """Return ``value`` with stand-ins replaced and byte strings decoded.

    ``seen`` counts the values, since a list may hold another one many times, and that a third;
    ``limit`` is how many there can be: each takes a byte of the pickle.
    """
    if next(seen) > limit:
        raise DamagedError("holds more than its size")
    if isinstance(value, _Array):
        if value.value is None:
            raise UnsafePickleError("has an array without contents")
        return value.value
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, dict):
        return {_plain(key, seen, limit): _plain(item, seen, limit) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, seen, limit) for item in value]
    return value
