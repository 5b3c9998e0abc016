"""Checkpoints of PyTorch as people have them: weights among all else that a program kept."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import io
import logging
import pathlib
import pickle
import pickletools
import types

import numpy as np
import pytest
from adapters_helpers import Stored, pickled, write_stream, write_tar, write_zip

from model_zoo.adapters import read_arrays
from model_zoo.adapters.torch import read_checkpoint, read_torch
from model_zoo.adapters.torch_pickle import MAX_STEPS
from model_zoo.params_io import load_into

WRITERS = {"zip": write_zip, "stream": write_stream}


class Colour(enum.Enum):
    RED = 1


class Config(dict):
    """As configurations are: a dict with a state of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.frozen = True


class State(collections.OrderedDict):
    """A program's own kind of state dict."""


class Thing:
    """An object of a class that exists in one program only."""

    def __init__(self):
        self.inside = {"a": 1}

    def method(self):
        return 1


class Called:
    """Writes a call of a name as pickles of PyTorch hold them."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def device(kind, index):
    """Stands for ``torch.device``, whose name it is given in the file."""


HARMLESS = {
    "best_prec1": np.float64(91.75), "half": np.float32(1.5), "count": np.int64(-7),
    "flag": np.bool_(True), "args": argparse.Namespace(arch="r20", lr=0.1, layers=[1, 2]),
    "default": collections.defaultdict(list, {"a": [1]}), "counter": collections.Counter("aab"),
    "path": pathlib.PurePosixPath("/a/b"), "when": datetime.datetime(2020, 1, 2, 3),
    "span": datetime.timedelta(3), "array": np.arange(6.0).reshape(2, 3), "kind": np.dtype("f4"),
    "objects": np.array([1, "a", None], object), "colour": Colour.RED, "config": Config(a={"b": 1}),
    "part": functools.partial(int, base=2), "thing": Thing(), "name": types.SimpleNamespace(a=1),
    "set": {1, 2}, "frozen": frozenset("ab"), "bytes": b"abc", "more": bytearray(b"xyz"),
    "complex": 3 + 4j, "slice": slice(1, 2), "range": range(3), "big": 1 << 200, "none": None,
    "tuple": (1, (2,)), "error": ValueError("x"), "class": Thing, "function": functools.reduce,
    "method": Thing().method, "device": Called(device, "cuda", 0),
    "optimizer": {"state": {0: {"exp_avg": Stored(np.ones((3, 3), "f4"))}}, "param_groups": [{}]},
}  # fmt: skip


def arrays(count=3):
    rng = np.random.RandomState(0)
    return {f"layer{k}.weight": rng.randn(4, 3).astype("float32") for k in range(count)}


def stored(found=None):
    return {name: Stored(array) for name, array in (found or arrays()).items()}


def same(found, wanted=None):
    wanted = wanted or arrays()
    return list(found) == list(wanted) and all(np.array_equal(found[n], wanted[n]) for n in wanted)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_what_lies_beside_the_weights_is_passed_over(tmp_path, kind, protocol):
    value = {"epoch": 3, **HARMLESS, "state_dict": State(stored())}
    WRITERS[kind](tmp_path / "a.pth", value, protocol)
    found, beside = read_checkpoint(tmp_path / "a.pth")
    assert same(found)
    start = "epoch 3, best_prec1 91.75, half 1.5, count -7, flag True, big a long number, "
    assert beside.startswith(start) and beside.endswith(f"and {len(HARMLESS) + 1 - 12} more")


def test_kinds_are_named_and_the_line_is_logged(tmp_path, caplog):
    value = {"state_dict": stored(), "args": HARMLESS["args"], "note": "two\nlines", "none": None}
    write_zip(tmp_path / "a.pth", value)
    with caplog.at_level(logging.INFO):
        assert same(read_torch(tmp_path / "a.pth"))
    assert caplog.messages == [
        f"{tmp_path}/a.pth: not used, beside the weights: note two lines, args argparse.Namespace, "
        "none None"
    ]


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_each_kind_of_object_alone_and_before_the_weights(tmp_path, name):
    write_zip(tmp_path / "a.pth", {name: HARMLESS[name], "net": stored()}, 4)
    assert same(read_torch(tmp_path / "a.pth"))


NESTS = {
    "state_dict": lambda s: {"state_dict": s}, "weights": lambda s: {"weights": s},
    "any.key.at.all": lambda s: {"any": {"key": {"at": {"all": s}}}},
    "1": lambda s: [{"lr": 0.1}, s], "0": lambda s: (s, 3, None), "top level": lambda s: s,
    "nets.0.model": lambda s: {"nets": [{"model": s}]},
}  # fmt: skip


@pytest.mark.parametrize("key", sorted(NESTS))
def test_the_one_state_dict_is_found_wherever_it_lies(tmp_path, key):
    for state in (stored(), State(stored()), collections.defaultdict(int, stored())):
        write_zip(tmp_path / "a.pth", NESTS[key](state))
        assert same(read_torch(tmp_path / "a.pth"))
        assert same(read_torch(tmp_path / "a.pth", key))


def test_of_several_state_dicts_one_is_chosen_by_its_key(tmp_path):
    averaged = {name: array + 1 for name, array in arrays().items()}
    other = {f"head.{name}": array for name, array in arrays(2).items()}
    value = {"state_dict": stored(), "ema": stored(averaged), "nets": {"head": stored(other)}}
    write_zip(tmp_path / "a.pth", value)
    message = (
        r"a\.pth: holds several state dicts \(state_dict, ema, nets\.head\)\. Choose one with key=,"
        r" or --key state_dict of tools/convert\.py$"
    )
    with pytest.raises(ValueError, match=message):
        read_arrays(tmp_path / "a.pth")
    for key, wanted in (("state_dict", None), ("ema", averaged), ("nets.head", other)):
        found = read_arrays(tmp_path / "a.pth", key)
        assert same({name: array.asnumpy() for name, array in found.items()}, wanted)
    with pytest.raises(ValueError, match="has no state dict 'net'; it has: state_dict, ema, nets."):
        load_into(None, tmp_path / "a.pth", key="net")


def test_a_key_for_a_file_that_has_none(tmp_path):
    (tmp_path / "a.params").write_bytes(b"anything")
    for path in (tmp_path / "a.params", tmp_path):
        with pytest.raises(ValueError, match="key='ema' chooses a state dict of a PyTorch file"):
            read_arrays(path, "ema")


def test_lone_matrices_beside_a_net_are_no_rivals(tmp_path):
    centres = {"centres": Stored(np.ones((7, 2), "f4"))}
    write_zip(tmp_path / "a.pth", {"loss": centres, "model": stored(arrays(9))})
    assert same(read_torch(tmp_path / "a.pth"), arrays(9))


def test_the_oldest_format_too(tmp_path):
    write_tar(tmp_path / "a.pth", arrays())
    found, beside = read_checkpoint(tmp_path / "a.pth")
    assert same(found) and beside == ""


def test_whole_models_are_called_so(tmp_path):
    write_zip(tmp_path / "a.pth", {"model": Thing(), "epoch": 1})
    with pytest.raises(ValueError, match=r"no state dict but epoch 1, model .*\.Thing\. Save not"):
        read_torch(tmp_path / "a.pth")
    program = b"\x80\x02(X\x06\x00\x00\x00moduleK\x00K\x00K\x00K\x00tQ."
    write_zip(tmp_path / "a.pth", program=program)
    with pytest.raises(ValueError, match=r"holds no state dict but a module\. Save nothing but"):
        read_torch(tmp_path / "a.pth")


def test_unknown_names_are_not_even_looked_up(tmp_path, monkeypatch):
    """Were one imported or called, this would find it."""
    calls = []
    for name in ("import_module", "__import__"):
        monkeypatch.setattr(f"importlib.{name}", lambda *a: calls.append(a))
    program = pickle.dumps({"a": Called(Thing), "b": Called(device, 1, 2)}, 2)
    write_zip(tmp_path / "a.pth", program=program.replace(b"test_adapters_checkpoints", b"x" * 25))
    with pytest.raises(ValueError, match=r"no state dict but a x{25}\.Thing, b x{25}\.device\."):
        read_torch(tmp_path / "a.pth")
    assert calls == []


def test_numbers_of_unknown_kinds_are_passed_over(tmp_path):
    """Complex and quantised tensors are no weights of any net here."""
    for kind, size in (("ComplexFloat", 8), ("QInt8", 1)):
        program, tensors = pickled({"a": Stored(np.ones(6, "u1")), "w": Stored(np.eye(2))}, 2, True)
        program = program.replace(b"ByteStorage", kind.encode() + b"Storage")
        tensors["0"].data = bytes(6 * size)
        write_stream(tmp_path / "a.pth", program=program)
        with open(tmp_path / "a.pth", "r+b") as file:
            file.seek(-len(pickle.dumps([], 2)), io.SEEK_END)
            file.truncate()
            file.write(pickle.dumps(["0", "1"], 2))
            for key in ("0", "1"):
                file.write(int(tensors[key].length).to_bytes(8, "little") + tensors[key].data)
        found, beside = read_checkpoint(tmp_path / "a.pth")
        assert list(found) == ["w"] and np.array_equal(found["w"], np.eye(2))
        assert beside == f"a torch.{kind}Storage"


LAUGHS = b"]q\x00" + b"".join(b"]q%c(h%ch%ce" % (k, k - 1, k - 1) for k in range(1, 60))


STEPS = "has more than 5000 instructions"
COSTLY = {
    "dicts": (b"}" * 4000, "describes far more than its size"),
    "lists": (b"]" * 4000, "describes far more than its size"),
    "calls": (b"cbuiltins\nset\n)R" * 1500, "describes far more than its size"),
    "constants": (b"N0" * 3000, STEPS),
    "copies": (b"]" + b"2" * 5000, STEPS),
    "laughs": (LAUGHS, "holds no state dict but 0 a list, 1 a list"),
    "long": (b"L" + b"9" * 900 + b"L\n", "holds no state dict but a long number"),
    "circle": (b"}q\x00X\x01\0\0\0ah\x00s", "holds no state dict but a a dict"),
    "deep": (b"}(" + b")" + b"\x85" * 2000 + b"Nu", "holds no state dict but an empty dict"),
    "empty": (b"0", "IndexError"),
    "mark": (b"(1N", "holds no state dict but None"),
    "object": (b"(cxx\nThing\nK\x01o", r"holds no state dict but .*xx\.Thing"),
    "no format": (
        b"(X\x07\0\0\0storageK\x01X\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ",
        "a storage of unknown format",
    ),
    "no mark": (b"K\x01K\x02d", "IndexError"),
    "no numbers": (b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))tR", "without numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(COSTLY))
def test_pickles_made_to_cost(tmp_path, monkeypatch, name):
    monkeypatch.setattr("model_zoo.adapters.torch_pickle.MAX_STEPS", 5000)
    monkeypatch.setattr("model_zoo.adapters.torch_pickle.allowance", lambda size: 200_000)
    program, message = COSTLY[name]
    write_zip(tmp_path / "a.pth", program=b"\x80\x02" + program + b".")
    with pytest.raises(ValueError, match=rf"a\.pth: .*{message}"):
        read_torch(tmp_path / "a.pth")


def test_the_limits_leave_room_for_large_nets(tmp_path):
    """A thousand tensors with an optimiser take a fifteenth of the instructions."""
    program, _ = pickled({f"layer{k}.weight": Stored(np.ones(1, "f4")) for k in range(1000)})
    steps = sum(1 for _ in pickletools.genops(program))
    assert 3 * steps < MAX_STEPS / 10
