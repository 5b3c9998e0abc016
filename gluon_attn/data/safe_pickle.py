"""Reading a pickle of plain values and byte arrays without executing anything it asks for.

A pickle may name any function of any module and have it called. CIFAR's official files are pickles
(of Python 2); what they need are lists, dicts, strings, numbers and arrays of bytes. Of everything
a pickle can name, only stand-ins for NumPy's array and type are known here, written below; any
other name is refused.
"""

from __future__ import annotations

import io
import pickle

import numpy as np

ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")


class UnsafePickleError(ValueError):
    """A pickle that asks for more than plain values and arrays of bytes."""


class _Type:
    """Stands for ``numpy.dtype``: remembers its name and lets no state in."""

    def __init__(self, name="", *_):
        self.name = name.decode("latin1") if isinstance(name, bytes) else str(name)

    def __setstate__(self, state):
        """Ignore byte order and the like: only single bytes are accepted in the end."""


class _Array:
    """Stands for ``numpy.ndarray``: takes the state of one and keeps shape and bytes."""

    value = None

    def __setstate__(self, state):
        try:
            _, shape, kind, column_major, data = state
            data = data.encode("latin1") if isinstance(data, str) else bytes(data)
            if not isinstance(kind, _Type) or kind.name not in ("u1", "|u1", "uint8"):
                raise UnsafePickleError("an array is not of bytes (uint8)")
            order = "F" if column_major else "C"
            shape = tuple(int(side) for side in shape)
            self.value = np.frombuffer(data, np.uint8).reshape(shape, order=order)
        except (TypeError, ValueError) as error:
            if isinstance(error, UnsafePickleError):
                raise
            raise UnsafePickleError(f"a malformed array: {error}") from error


def _start_array(*_):
    return _Array()


def _encode(text, encoding="latin1"):
    """Stand for ``_codecs.encode``, with which Python 3 writes bytes for old protocols."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", b"latin1"):
        raise UnsafePickleError("encodes something other than bytes as text")
    return text.encode("latin1")


KNOWN = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,
    **{(module, "_reconstruct"): _start_array for module in ARRAY_MODULES},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module, name):
        """Return a stand-in, or refuse the name."""
        try:
            return KNOWN[module, name]
        except KeyError:
            raise UnsafePickleError(f"asks for {module}.{name}") from None

    def persistent_load(self, pid):
        raise UnsafePickleError("refers to objects outside the file")


def load_pickle(data, place):
    """Return what a pickle holds: keys and strings as ``str``, arrays as uint8 NumPy arrays.

    Args:
        data: The pickle, bytes.
        place: Where it came from, for messages.

    Raises:
        ValueError: If it is damaged or asks for anything else; nothing has been executed.
    """
    try:
        return _plain(_Reader(io.BytesIO(data), encoding="latin1").load())
    except UnsafePickleError as error:
        raise ValueError(f"{place}: refused, the pickle {error}; nothing was executed") from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise ValueError(f"{place}: damaged or no pickle: {error!r}") from error


def _plain(value):
    """Return ``value`` with stand-ins replaced and byte strings decoded."""
    if isinstance(value, _Array):
        if value.value is None:
            raise UnsafePickleError("has an array without contents")
        return value.value
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
