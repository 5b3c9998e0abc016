"""Reading the pickles inside PyTorch's weight files without running them.

A pickle is a program for a stack machine that may name any function of any module and call it, so
``pickle`` must not open a file from somewhere else. Here the instructions are decoded with
``pickletools``, which only reads, and carried out by the machine below: nothing is imported, no
class is instantiated and no function is called but those written here.

A state dict needs a handful of names, which are known here. Checkpoints name more, classes of the
program that wrote them among others: those stand for objects of which only the name is kept, and
the items if it is a kind of dict. Names of functions that act on the system have no place in a
weight file at all; one that holds them is refused, since it could do harm where it is opened
elsewhere.
"""

from __future__ import annotations

import collections
import os
import pickletools
import sys
from typing import Any, BinaryIO, Callable, NamedTuple, cast

import numpy as np

from gluon_attn.core.errors import DamagedError, one_line
from gluon_attn.core.reading import allowance

MAX_NUMBERS = 1 << 30  # of all tensors of a file; the largest VGG has 0.14 * 2**30
MAX_AXES = 32  # of an array, NumPy's limit
MAX_PICKLE = 64 << 20  # bytes; that of a ResNet-152's state dict has 0.15 MB
MAX_STEPS = 1_000_000  # instructions; that state dict has 0.03 million
MAX_LINE = 1024  # bytes of a name; pickles write names as lines
REMEDY = (
    "Save nothing but the weights: in PyTorch, of a file you trust, "
    "torch.save(model.state_dict(), FILE)"
)

# What an instruction pushes: its argument, a constant, a new container, or the last n as a tuple.
_ARGUMENT = frozenset(
    "INT LONG FLOAT STRING UNICODE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8".split()
)
_CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLE = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_SET = "builtins.set"

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
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Parameter:
    """A parameter of PyTorch before 0.4: an empty object that is filled by its state."""

    def __init__(self, data: Any = None) -> None:
        self.data = data


class Opaque:
    """An object of a class that is not known: its name, and its items if it is a kind of dict.

    ``code`` is that of a NumPy type, such as ``<f8``.
    """

    __slots__ = ("text", "items", "code")

    def __init__(self, text: str, code: str = "") -> None:
        self.text, self.code = text, code
        self.items: dict[Any, Any] = {}


def named(module: str, name: str) -> Name:
    """Return a global; UnsafePickleError if it acts on the system."""
    text = f"{module}.{name}"
    # Python 2 writes the module where the class is defined.
    text = {"torch.nn.Parameter": PARAMETER}.get(text, text)
    harmful = text.split(".")[0] in HARMFUL or text in HARMFUL_NAMES
    if harmful or text.startswith(("torch.hub.", "torch.utils.cpp_extension.")):
        raise UnsafePickleError(f"asks for {text[:200]}")
    return Name(text)


def call(function: Any, arguments: Any) -> Any:
    """Return what a call stands for; UnsafePickleError if it is no call of a name.

    Damaged arguments raise a TypeError, ValueError or LookupError.
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
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
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


def fill(target: dict[Any, Any], pairs: Any) -> dict[Any, Any]:
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


def _sides(value: Any) -> tuple[int, ...]:
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


# The machine


class LimitedReader:
    """A file of which a pickle may read so many bytes; its position stays behind what was read."""

    def __init__(self, file: BinaryIO) -> None:
        here = file.tell()
        self._file, self.left = file, min(MAX_PICKLE, file.seek(0, os.SEEK_END) - here)
        file.seek(here)

    def read(self, count: int) -> bytes:
        """Return exactly ``count`` bytes."""
        if not 0 <= count <= self.left:
            raise UnsafePickleError(f"breaks off, or is longer than {MAX_PICKLE} bytes")
        self.left -= count
        return self._file.read(count)

    def readline(self) -> bytes:
        """Return the rest of the line."""
        line = self._file.readline(MAX_LINE)
        self.left -= len(line)
        if len(line) == MAX_LINE:
            raise UnsafePickleError("holds an endless line")
        return line


class Budget:
    """What the pickles of a file of ``size`` bytes may cost."""

    def __init__(self, size: int) -> None:
        self.memory, self.steps = allowance(size), MAX_STEPS

    def spend(self, count: int) -> None:
        """Take bytes of memory; that of lists and tuples is estimated."""
        self.memory -= count
        if self.memory < 0:
            raise UnsafePickleError("describes far more than its size")


def run(
    file: BinaryIO, persistent: Callable[[Any], Any] | None = None, budget: Budget | None = None
) -> Any:
    """Return what one pickle describes: plain values, tensors, and :class:`Opaque` for the rest.

    ``file`` is open at the start of the pickle; afterwards at its end. ``persistent`` gives what an
    id of an object outside the pickle stands for. A ``budget`` is shared by the pickles of a file.
    Raises an UnsafePickleError if it asks for what acts on the system, or for too much, and a
    DamagedError if it is damaged.
    """
    reader = LimitedReader(file)
    budget = budget or Budget(reader.left)
    machine = _Machine(persistent, budget)
    try:
        for operation, argument, _ in pickletools.genops(cast(Any, reader)):
            budget.steps -= 1
            if budget.steps < 0:
                raise UnsafePickleError(f"has more than {MAX_STEPS} instructions")
            if operation.name == "STOP":
                return plain(machine.stack.pop())
            machine.step(operation.name, argument)
    except (UnsafePickleError, DamagedError):
        raise
    except Exception as error:  # of pickletools, and of nonsense on the stack
        why = f"{type(error).__name__}: {one_line(error)}"
        raise DamagedError(f"in a pickle, {why}") from error
    raise DamagedError("a pickle without an end")


class _Machine:
    """The stack machine; :meth:`step` carries one instruction out."""

    def __init__(self, persistent: Callable[[Any], Any] | None, budget: Budget) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[Any, Any] = {}
        self._persistent, self._spend = persistent, budget.spend

    def step(self, name: str, argument: Any) -> None:
        push = self.stack.append
        if name in _ARGUMENT:
            self._spend(sys.getsizeof(argument))
            push(argument)
        elif name in _CONSTANT:
            push(_CONSTANT[name])
        elif name in _EMPTY:
            self._spend(64)
            push(_EMPTY[name]())
        elif name in _TUPLE:
            self._spend(64)
            push(tuple(self._take(_TUPLE[name])))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._spend(100)
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            push(self._memo[argument])
        elif name == "GLOBAL":
            self._spend(200)
            push(named(*argument.split(" ", 1)))
        elif name not in ("PROTO", "FRAME"):
            action = getattr(self, f"_do_{name.lower()}", None)
            if action is None:
                raise UnsafePickleError(f"uses the instruction {name}, which no state dict needs")
            action(argument)

    def _take(self, count: int) -> list[Any]:
        if not 0 <= count <= len(self.stack):
            raise IndexError("empty stack")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _since_mark(self) -> list[Any]:
        taken = self._take(len(self.stack) - self._marks.pop())
        self._spend(16 * len(taken))
        return taken

    def _do_mark(self, _: Any) -> None:
        self._marks.append(len(self.stack))

    def _do_pop(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self.stack):
            self._marks.pop()  # Python pops the mark itself
        else:
            self._take(1)

    def _do_pop_mark(self, _: Any) -> None:
        self._since_mark()

    _do_additems = _do_pop_mark  # of a set, whose items nothing needs

    def _do_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _do_list(self, _: Any) -> None:
        self.stack.append(self._since_mark())

    def _do_dict(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append({})
        self._set(items)

    def _do_empty_set(self, _: Any) -> None:
        self.stack.append(Opaque(_SET))

    def _do_frozenset(self, _: Any) -> None:
        self._since_mark()
        self.stack.append(Opaque(_SET))

    def _do_append(self, _: Any) -> None:
        self._extend(self._take(1))

    def _do_appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Opaque):
            raise TypeError("appends to something other than a list")

    def _do_setitem(self, _: Any) -> None:
        self._set(self._take(2))

    def _do_setitems(self, _: Any) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1].items if isinstance(self.stack[-1], Opaque) else self.stack[-1]
        if not isinstance(target, dict):
            raise TypeError("sets items of something other than a dict")
        self._spend(60 * len(items))
        fill(target, zip(items[::2], items[1::2]))

    def _do_stack_global(self, _: Any) -> None:
        module, name = self._take(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no text")
        self._spend(100 + len(module) + len(name))
        self.stack.append(named(module, name))

    def _do_binpersid(self, _: Any) -> None:
        (identity,) = self._take(1)
        if self._persistent is None:
            raise UnsafePickleError("refers to objects outside itself")
        self._spend(100)
        self.stack.append(self._persistent(identity))

    def _do_reduce(self, _: Any) -> None:
        self._call(*self._take(2))

    _do_newobj = _do_reduce

    def _do_newobj_ex(self, _: Any) -> None:
        self._call(*self._take(3)[:2])

    def _do_inst(self, argument: str) -> None:
        self._call(named(*argument.split(" ", 1)), tuple(self._since_mark()))

    def _do_obj(self, _: Any) -> None:
        function, *arguments = self._since_mark()
        self._call(function, tuple(arguments))

    def _call(self, function: Any, arguments: Any) -> None:
        first = arguments[0] if isinstance(arguments, tuple) and arguments else None
        # What is copied: the items of a dict, a text as bytes.
        self._spend(200 + (120 * len(first) if isinstance(first, (list, dict)) else 0))
        self._spend(len(first) if isinstance(first, str) else 0)
        self.stack.append(call(function, arguments))

    def _do_build(self, _: Any) -> None:
        (state,) = self._take(1)
        set_state(self.stack[-1], state)
