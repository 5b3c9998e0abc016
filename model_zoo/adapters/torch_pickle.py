"""Reading the pickles inside PyTorch's weight files without running them.

A pickle is a program for a stack machine that may name any function of any module and call it, so
``pickle`` must not open a file from somewhere else. Here the instructions are decoded with
``pickletools``, which only reads, and carried out by the machine below: nothing is imported, no
class is instantiated and no function is called but those written here. What names stand for is said
by :mod:`model_zoo.adapters.torch_names`.
"""

from __future__ import annotations

import os
import pickletools
import sys
from typing import Any, BinaryIO, Callable

from gluon_attn.core.errors import DamagedError, one_line
from gluon_attn.core.reading import allowance
from model_zoo.adapters.torch_names import (
    Opaque,
    UnsafePickleError,
    call,
    fill,
    named,
    plain,
    set_state,
)

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
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLE = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_SET = "builtins.set"


class LimitedReader:
    """A file of which a pickle may read so many bytes, and no more than there are.

    Args:
        file: Open binary file; its position stays behind what was read.
    """

    def __init__(self, file: BinaryIO):
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
    """What the pickles of a file may cost.

    Args:
        size: Bytes of the file.
    """

    def __init__(self, size: int):
        self.memory, self.steps = allowance(size), MAX_STEPS

    def spend(self, count: int) -> None:
        """Take bytes of memory; that of lists and tuples is estimated."""
        self.memory -= count
        if self.memory < 0:
            raise UnsafePickleError("describes far more than its size")


def run(file: BinaryIO, persistent: Callable | None = None, budget: Budget | None = None) -> Any:
    """Return what one pickle describes: plain values, tensors, and :class:`Opaque` for the rest.

    Args:
        file: Open binary file at the start of the pickle; afterwards at its end.
        persistent: ``f(id)`` that gives what an id of an object outside the pickle stands for.
        budget: Shared by the pickles of a file; by default the pickle has one of its own.

    Raises:
        UnsafePickleError: It asks for what acts on the system, or for too much.
        DamagedError: It is damaged.
    """
    reader = LimitedReader(file)
    budget = budget or Budget(reader.left)
    machine = _Machine(persistent, budget)
    try:
        for operation, argument, _ in pickletools.genops(reader):
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

    def __init__(self, persistent: Callable | None, budget: Budget):
        self.stack, self._marks, self._memo = [], [], {}
        self._persistent, self._spend = persistent, budget.spend

    def step(self, name: str, argument: Any) -> None:
        """Carry out instruction ``name`` with what follows it in the file."""
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

    def _take(self, count: int) -> list:
        if not 0 <= count <= len(self.stack):
            raise IndexError("empty stack")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _since_mark(self) -> list:
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

    def _do_additems(self, _: Any) -> None:
        self._since_mark()

    def _do_frozenset(self, _: Any) -> None:
        self._since_mark()
        self.stack.append(Opaque(_SET))

    def _do_append(self, _: Any) -> None:
        self._extend(self._take(1))

    def _do_appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Opaque):
            raise TypeError("appends to something other than a list")

    def _do_setitem(self, _: Any) -> None:
        self._set(self._take(2))

    def _do_setitems(self, _: Any) -> None:
        self._set(self._since_mark())

    def _set(self, items: list) -> None:
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
        function, arguments = self._take(2)
        self._call(function, arguments)

    _do_newobj = _do_reduce

    def _do_newobj_ex(self, _: Any) -> None:
        function, arguments, _ = self._take(3)
        self._call(function, arguments)

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
