"""Reading the pickles inside PyTorch's weight files without running them.

A pickle is a program for a stack machine that may name any function of any module and call it, so
``pickle`` must not open a file from somewhere else. Here the instructions are decoded with
``pickletools``, which only reads, and carried out by the machine below. It knows the handful of
instructions that state dicts consist of; nothing is imported, no class is instantiated and no
function is called but those written here. Every other name is refused by name.
"""

from __future__ import annotations

import collections
import pickletools
from typing import Any, NamedTuple

from model_zoo.adapters.floats import MAX_AXES

MAX_PICKLE = 8 << 20  # bytes; that of a ResNet-152's state dict has 0.15 MB
MAX_LINE = 1024  # bytes of a name; pickles write names as lines
KEYS = (str, int, float, bool, type(None))  # hashing a deeply nested tuple would end the process
STORAGES = (
    "Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool",
)  # fmt: skip
REBUILDERS = ("_rebuild_tensor", "_rebuild_tensor_v2")
PARAMETER_REBUILDERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
PARAMETER = "torch.nn.parameter.Parameter"
KNOWN = frozenset(
    ["collections.OrderedDict", "torch.Size", PARAMETER]
    + [f"torch._utils.{name}" for name in REBUILDERS + PARAMETER_REBUILDERS]
    + [f"torch.{kind}{what}" for kind in STORAGES for what in ("Storage", "Tensor")]
)
REMEDY = (
    "Save nothing but the weights: in PyTorch, of a file you trust, "
    "torch.save(model.state_dict(), FILE)"
)

# What an instruction pushes: its argument, a constant, a new container, or the last n as a tuple.
_ARGUMENT = frozenset(
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES".split()
)
_CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLE = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class UnsafePickleError(ValueError):
    """A pickle that asks for more than a state dict needs."""


class Name(NamedTuple):
    """A known global that the pickle names, as text: nothing has been looked up."""

    text: str


class Tensor(NamedTuple):
    """A tensor as the pickle describes it: a window on a storage, in elements."""

    storage: Any
    offset: int
    size: tuple
    stride: tuple


class _Parameter:
    """A parameter of PyTorch before 0.4: an empty object that is filled by its state."""

    def __init__(self, data=None):
        self.data = data


class LimitedReader:
    """A file of which a pickle may read so many bytes.

    Args:
        file: Open binary file; its position stays behind what was read.
        limit: Bytes.
    """

    def __init__(self, file, limit=MAX_PICKLE):
        self._file, self._left = file, limit

    def read(self, count):
        """Return exactly ``count`` bytes, or fewer at the end of the file."""
        if not 0 <= count <= self._left:
            raise UnsafePickleError(f"is longer than {MAX_PICKLE} bytes")
        self._left -= count
        return self._file.read(count)

    def readline(self):
        """Return the rest of the line."""
        line = self._file.readline(MAX_LINE)
        self._left -= len(line)
        if self._left < 0 or len(line) == MAX_LINE:
            raise UnsafePickleError("holds an endless line")
        return line


def run(file, persistent=None):
    """Return what one pickle describes: plain values, and :class:`Tensor` for tensors.

    Args:
        file: Open binary file at the start of the pickle; afterwards at its end.
        persistent: ``f(id)`` that gives what an id of an object outside the pickle stands for.

    Raises:
        UnsafePickleError: It asks for anything unknown.
        ValueError: It is damaged.
    """
    machine = _Machine(persistent)
    try:
        for operation, argument, _ in pickletools.genops(LimitedReader(file)):
            if operation.name == "STOP":
                return _plain(machine.stack.pop())
            machine.step(operation.name, argument)
    except UnsafePickleError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise ValueError(f"damaged pickle ({type(error).__name__}: {str(error)[:100]})") from error
    raise ValueError("damaged pickle (no end)")


class _Machine:
    """The stack machine; :meth:`step` carries one instruction out."""

    def __init__(self, persistent):
        self.stack, self._marks, self._memo = [], [], {}
        self._persistent = persistent
        self._copied = 0

    def step(self, name, argument):
        """Carry out instruction ``name`` with what follows it in the file."""
        push = self.stack.append
        if name in _ARGUMENT:
            push(argument)
        elif name in _CONSTANT:
            push(_CONSTANT[name])
        elif name in _EMPTY:
            push(_EMPTY[name]())
        elif name in _TUPLE:
            push(tuple(self._take(_TUPLE[name])))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            push(self._memo[argument])
        elif name == "GLOBAL":
            push(_known(argument.replace(" ", ".")))
        elif name not in ("PROTO", "FRAME"):
            action = getattr(self, f"_do_{name.lower()}", None)
            if action is None:
                raise UnsafePickleError(f"uses the instruction {name}, which no state dict needs")
            action()

    def _take(self, count):
        if not 0 <= count <= len(self.stack):
            raise IndexError("empty stack")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _since_mark(self):
        return self._take(len(self.stack) - self._marks.pop())

    def _do_mark(self):
        self._marks.append(len(self.stack))

    def _do_tuple(self):
        self.stack.append(tuple(self._since_mark()))

    def _do_list(self):
        self.stack.append(self._since_mark())

    def _do_append(self):
        self._extend(self._take(1))

    def _do_appends(self):
        self._extend(self._since_mark())

    def _extend(self, items):
        if not isinstance(self.stack[-1], list):
            raise TypeError("appends to something other than a list")
        self.stack[-1].extend(items)

    def _do_setitem(self):
        self._set(self._take(2))

    def _do_setitems(self):
        self._set(self._since_mark())

    def _set(self, items):
        if not isinstance(self.stack[-1], dict):
            raise TypeError("sets items of something other than a dict")
        _fill(self.stack[-1], zip(items[::2], items[1::2]))

    def _do_stack_global(self):
        module, name = self._take(2)
        self.stack.append(_known(f"{module}.{name}"))

    def _do_binpersid(self):
        (identity,) = self._take(1)
        if self._persistent is None:
            raise UnsafePickleError("refers to objects outside itself")
        self.stack.append(self._persistent(identity))

    def _do_reduce(self):
        function, arguments = self._take(2)
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise UnsafePickleError("calls something that is no name")
        self.stack.append(self._call(function.text, arguments))

    def _call(self, name, arguments):
        """Return what a known function would give."""
        if name == "collections.OrderedDict":
            pairs = arguments[0] if arguments else []  # Python 2 gives a list of pairs
            self._copied += len(pairs)
            if not isinstance(pairs, list) or self._copied > MAX_PICKLE:
                raise UnsafePickleError("builds a dict of something unusual")
            return _fill(collections.OrderedDict(), pairs)
        if name == "torch.Size":
            return _sides(arguments[0])
        if name == PARAMETER:
            return _Parameter(*arguments[:1])
        short = name.rpartition(".")[2]
        if short in REBUILDERS:
            return _tensor(*arguments[:4])
        if short in PARAMETER_REBUILDERS:
            return _plain(arguments[0])
        raise UnsafePickleError(f"calls {name}")

    def _do_newobj(self):
        kind, arguments = self._take(2)
        if kind != Name(PARAMETER):
            raise UnsafePickleError("makes an object of an unknown class")
        self.stack.append(_Parameter(*arguments[:1]))

    def _do_build(self):
        """Give the last object its state: only parameters have one that matters."""
        (state,) = self._take(1)
        target = self.stack[-1]
        if isinstance(target, _Parameter):
            if isinstance(state, tuple) and len(state) == 5:
                target.data = state[0]
        elif not isinstance(target, dict):  # a state dict's holds versions of PyTorch's layers
            raise UnsafePickleError("sets the state of something other than a dict or parameter")


def _known(text):
    # Python 2 writes the module where the class is defined.
    text = {"torch.nn.Parameter": PARAMETER}.get(text, text)
    if text not in KNOWN:
        raise UnsafePickleError(f"asks for {text[:200]}")
    return Name(text)


def _fill(target, pairs):
    for key, value in pairs:
        if not isinstance(key, KEYS):
            raise TypeError(f"a key is a {type(key).__name__}")
        target[key] = _plain(value)
    return target


def _plain(value):
    return value.data if isinstance(value, _Parameter) else value


def _sides(value):
    if not isinstance(value, (list, tuple)) or len(value) > MAX_AXES:
        raise TypeError("a size or stride is no short list")
    if any(type(n) is not int or n < 0 for n in value):
        raise TypeError("a size or stride is not made of whole numbers from 0")
    return tuple(value)


def _tensor(storage, offset, size, stride):
    size, stride, (offset,) = _sides(size), _sides(stride), _sides([offset])
    if len(size) != len(stride):
        raise TypeError("size and stride of a tensor differ in length")
    return Tensor(storage, offset, size, stride)
