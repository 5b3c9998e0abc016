"""Weight files as PyTorch writes them, made by Python's own pickler without PyTorch.

The pickler looks up what it names; so that it finds PyTorch's names, stand-ins for its modules are
there while it runs. Nothing here comes from the code under test.
"""

from __future__ import annotations

import collections
import contextlib
import io
import pickle
import struct
import sys
import tarfile
import types
import zipfile

import mxnet as mx
import numpy as np

KINDS = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage", "int64": "LongStorage", "uint8": "ByteStorage",
}  # fmt: skip
MAGIC = 0x1950A86A20F9469CFC6C


class Stored:
    """A tensor to be written: bytes of its storage, and the window on it."""

    def __init__(self, array, kind=None, size=None, stride=None, offset=0, key=None):
        self.data, self.kind = np.ascontiguousarray(array).tobytes(), kind or array.dtype.name
        self.length, self.offset, self.key = array.size, offset, key
        self.size = tuple(array.shape if size is None else size)
        steps = np.cumprod((1,) + self.size[:0:-1])[::-1][: len(self.size)]
        self.stride = tuple(int(s) for s in steps) if stride is None else tuple(stride)

    def __reduce__(self):
        module = sys.modules["torch._utils"]
        arguments = (Handle(self), self.offset, self.size, self.stride, False)
        return module._rebuild_tensor_v2, (*arguments, collections.OrderedDict())


class Handle:
    """The storage of a tensor, which is outside the pickle."""

    def __init__(self, tensor):
        self.tensor = tensor


@contextlib.contextmanager
def fake_torch():
    """Make PyTorch's names importable for the pickler."""
    names = {
        "torch": [*KINDS.values(), "FloatTensor"], "torch.nn": [],
        "torch._utils": ["_rebuild_tensor_v2"], "torch.nn.parameter": ["Parameter"],
    }  # fmt: skip
    before = {name: sys.modules.get(name) for name in names}
    for name, members in names.items():
        module = sys.modules[name] = types.ModuleType(name)
        for member in members:
            if member.startswith("_"):
                thing = types.FunctionType((lambda *a: None).__code__, {}, member)
            else:
                thing = type(member, (), {})
            thing.__module__, thing.__qualname__ = name, member
            setattr(module, member, thing)
    try:
        yield sys.modules["torch"]
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def pickled(value, protocol=2, legacy=False):
    """Return ``(pickle, {key: tensor})``; the keys are those of the storages."""
    storages = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if not isinstance(thing, Handle):
                return None
            tensor = thing.tensor
            key = str(len(storages)) if tensor.key is None else tensor.key
            storages[key] = tensor
            kind = getattr(sys.modules["torch"], KINDS[tensor.kind])
            return ("storage", kind, key, "cpu", tensor.length) + ((None,) if legacy else ())

    file = io.BytesIO()
    with fake_torch():
        Pickler(file, protocol).dump(value)
    return file.getvalue(), storages


def write_zip(path, value=None, protocol=2, program=None, root="archive", extra=(), **options):
    """Write PyTorch's zip format; ``program`` replaces the pickle."""
    data, storages = pickled(value, protocol) if program is None else (program, {})
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr(f"{root}/data.pkl", data)
        for name, content in extra:
            archive.writestr(f"{root}/{name}", content)
        for key, tensor in storages.items():
            archive.writestr(f"{root}/data/{key}", tensor.data)
        archive.writestr(f"{root}/version", "3\n")


def write_stream(path, value=None, protocol=2, program=None):
    """Write the format of PyTorch 0.1.9 to 1.5."""
    data, storages = pickled(value, protocol, True) if program is None else (program, {})
    with open(path, "wb") as file:
        sizes = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
        for part in (MAGIC, 1001, sizes):
            pickle.dump(part, file, protocol)
        file.write(data)
        pickle.dump(sorted(storages), file, protocol)
        for key in sorted(storages):
            file.write(struct.pack("<q", storages[key].length) + storages[key].data)


def write_tar(path, tensors, program=None, parameters=True, hostile=None, storages=None):
    """Write the format before 0.1.9: a tar archive; tensors are named by numbers in the pickle.

    Args:
        tensors: ``{name: float32 array}``.
        program: Pickle in place of the state dict's.
        hostile: Pickle in place of the first storage's description.
        parameters: Wrap the tensors as Python 2 and PyTorch 0.1.6 did: objects with a state.
        storages: Attributes of the header of the storages' member.
    """

    def dump(*values):
        file = io.BytesIO()
        for value in values:
            pickle.dump(value, file, 2)
        return file.getvalue()

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return str(thing.key) if isinstance(thing, Handle) else None

    with fake_torch() as torch:
        stored, described = dump(len(tensors)), dump(len(tensors))
        value = collections.OrderedDict()
        for number, (name, array) in enumerate(tensors.items()):
            stored += dump((100 + number, "cpu", torch.FloatStorage))
            stored += struct.pack("<q", array.size) + array.tobytes()
            described += dump((number, 100 + number, torch.FloatTensor))
            steps = [s // 4 for s in array.strides]
            described += struct.pack("<ii", array.ndim, 0)
            described += struct.pack(f"<{2 * array.ndim + 1}q", *array.shape, *steps, 0)
            handle = Handle(None)
            handle.key = number
            value[name] = handle
            if parameters:
                value[name] = sys.modules["torch.nn.parameter"].Parameter()
                value[name].__class__.__getstate__ = lambda self: self.state
                value[name].state = (handle, None, collections.OrderedDict(), True, False)
        stored = dump(1) + hostile if hostile else stored + dump([])
        file = io.BytesIO()
        Pickler(file, 2).dump(value)
    members = {"storages": stored, "tensors": described}
    members["pickle"] = file.getvalue() if program is None else program
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in ((storages or {}) if name == "storages" else {}).items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))


def filled(net, seed=0):
    """Return a net with random parameters and statistics."""
    net.initialize(mx.init.Xavier(), force_reinit=True)
    rng = np.random.RandomState(seed)
    for key, p in net._collect_params_with_prefix().items():
        low, high = (0.5, 1.5) if key.endswith(("gamma", "running_var")) else (-0.5, 0.5)
        if not key.endswith("weight"):
            p.set_data(mx.nd.array(rng.uniform(low, high, p.shape)))
        else:
            scale = np.sqrt(2 / np.prod(p.shape[1:]))
            p.set_data(mx.nd.array(rng.normal(0, scale, p.shape)))
    return net


def values(net):
    """Return a net's parameters as arrays by our names."""
    return {k: p.data().asnumpy() for k, p in net._collect_params_with_prefix().items()}


def same(one, other):
    """Tell whether two nets, or dicts of arrays, hold the same bits under the same names."""
    one, other = (n if isinstance(n, dict) else values(n) for n in (one, other))
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)
