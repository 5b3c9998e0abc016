"""What the names in the pickles of weight files stand for: nothing of them is looked up or called.

A state dict needs a handful of names, which are known here. Checkpoints name more, classes of the
program that wrote them among others: those stand for objects of which only the name is kept, and
the items if it is a kind of dict. Names of functions that act on the system have no place in a
weight file at all; one that holds them is refused, since it would harm whoever opens it elsewhere.
"""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

import numpy as np

from model_zoo.adapters.floats import MAX_AXES

KEYS = (str, int, float, bool, type(None))  # hashing a deeply nested tuple would end the process
PARAMETER = "torch.nn.parameter.Parameter"
DICTS = ("collections.OrderedDict", "collections.defaultdict", "collections.Counter",
         "builtins.dict", "__builtin__.dict")  # fmt: skip
SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")

HARMFUL = frozenset(
    "os posix nt posixpath ntpath sys subprocess pty commands popen2 socket shutil runpy importlib "
    "imp pkgutil zipimport code codeop ctypes _ctypes cffi multiprocessing asyncio concurrent "
    "signal threading _thread webbrowser urllib urllib2 http ftplib smtplib telnetlib requests "
    "pickle _pickle cPickle dill shelve marshal tempfile timeit pdb bdb profile cProfile trace "
    "doctest unittest pip setuptools distutils fileinput linecache sqlite3 platform gc".split()
)
HARMFUL_NAMES = frozenset(
    [
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in "eval exec execfile compile open file input raw_input __import__ breakpoint "
        "exit quit apply globals locals vars setattr delattr help".split()
    ]
    + ["torch.load", "torch.serialization.load", "torch.storage._load_from_bytes", "numpy.load"]
)


class UnsafePickleError(ValueError):
    """A pickle that asks for what no weight file needs."""


class Name(NamedTuple):
    """A global that the pickle names, as text: nothing has been looked up."""

    text: str


class Storage(NamedTuple):
    """Numbers of a file: their format, their key there, how many, and where a view of it begins."""

    kind: str
    key: Any
    length: Any
    start: int = 0


class Tensor(NamedTuple):
    """A tensor as the pickle describes it: a window on a storage, in elements."""

    storage: Storage
    offset: int
    size: tuple
    stride: tuple


class Parameter:
    """A parameter of PyTorch before 0.4: an empty object that is filled by its state."""

    def __init__(self, data: Any = None):
        self.data = data


class Opaque:
    """An object of a class that is not known: its name, and its items if it is a kind of dict.

    Args:
        text: Name of the class or function.
        code: Of a NumPy type, its code such as ``<f8``.
    """

    __slots__ = ("text", "items", "code")

    def __init__(self, text: str, code: str = ""):
        self.text, self.items, self.code = text, {}, code


def named(module: str, name: str) -> Name:
    """Return a global.

    Raises:
        UnsafePickleError: It acts on the system.
    """
    text = f"{module}.{name}"
    # Python 2 writes the module where the class is defined.
    text = {"torch.nn.Parameter": PARAMETER}.get(text, text)
    harmful = text.split(".")[0] in HARMFUL or text in HARMFUL_NAMES
    if harmful or text.startswith(("torch.hub.", "torch.utils.cpp_extension.")):
        raise UnsafePickleError(f"asks for {text[:200]}")
    return Name(text)


def call(function: Any, arguments: Any) -> Any:
    """Return what a call stands for.

    Raises:
        UnsafePickleError: It is no call of a name.
        TypeError, ValueError, LookupError: The arguments are damaged.
    """
    if not isinstance(function, (Name, Opaque)) or not isinstance(arguments, tuple):
        raise UnsafePickleError("calls something that is no name")
    name = function.text if isinstance(function, Name) else ""
    if name in DICTS:
        # Python 2 gives an ordered dict as a list of pairs, Counter its contents.
        given = arguments[0] if arguments else []
        pairs = given.items() if isinstance(given, dict) else given
        return fill(collections.OrderedDict(), pairs if isinstance(given, (list, dict)) else [])
    if name == "torch.Size":
        return _sides(arguments[0])
    if name == PARAMETER:
        return Parameter(*arguments[:1])
    if name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
        return tensor(*arguments[:4])
    if name in (
        "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state",
    ):  # fmt: skip
        return plain(arguments[0])
    if name == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes of its own
        return call(arguments[0], arguments[2])
    if name == "_codecs.encode":  # how bytes are written for Python 2
        return arguments[0].encode("latin1") if isinstance(arguments[0], str) else b""
    if name == "numpy.dtype":
        return Opaque(name, arguments[0] if isinstance(arguments[0], str) else "")
    if name in SCALARS:
        return _scalar(*arguments[:2])
    return Opaque(name or function.text)


def set_state(target: Any, state: Any) -> None:
    """Give an object its state: only that of parameters and of NumPy's types matters."""
    if isinstance(target, Parameter):
        if isinstance(state, tuple) and len(state) == 5:
            target.data = state[0]
    elif isinstance(target, Opaque) and target.code:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            target.code = state[1] + target.code


def fill(target: dict, pairs: Any) -> dict:
    """Set the items whose keys are plain; others cannot be names of parameters."""
    for key, value in pairs:
        if isinstance(key, KEYS):
            target[key] = plain(value)
    return target


def plain(value: Any) -> Any:
    """Return the tensor of a parameter, and anything else as it is."""
    return value.data if isinstance(value, Parameter) else value


def tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Any:
    """Return a checked tensor, or what stands for one of numbers of an unknown kind."""
    if isinstance(storage, Opaque):
        return storage
    size, stride, (offset,) = _sides(size), _sides(stride), _sides([offset])
    if not isinstance(storage, Storage) or len(size) != len(stride):
        raise TypeError("a tensor without numbers, or size and stride differ in length")
    return Tensor(storage, offset, size, stride)


def _sides(value: Any) -> tuple:
    if not isinstance(value, (list, tuple)) or len(value) > MAX_AXES:
        raise TypeError("a size or stride is no short list")
    if any(type(n) is not int or n < 0 for n in value):
        raise TypeError("a size or stride is not made of whole numbers from 0")
    return tuple(value)


def _scalar(kind: Any, data: Any = b"") -> Any:
    """Return a NumPy scalar as a plain number, or what stands for it."""
    if isinstance(kind, Opaque) and isinstance(data, bytes):
        code = kind.code.lstrip("<>|=")
        if code[:1] in tuple("fiub") and code[1:] == str(len(data)) and len(data) in (1, 2, 4, 8):
            return np.frombuffer(data, kind.code)[0].item()
    return Opaque(SCALARS[0])
