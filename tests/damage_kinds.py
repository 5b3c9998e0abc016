"""The kinds of file that :mod:`damage_helpers` damages: how each is written and read.

``KINDS`` holds ``(write(path), read(path), whether all of it is covered by checksums)``; what is
read comes back as a dict of NumPy arrays.
"""

from __future__ import annotations

import struct

import adapters_helpers
import numpy as np

SUFFIXES = {
    "params": ".params", "params_legacy": ".params", "params_sparse": ".params",
    "checkpoint": ".ckpt", "mat": ".mat", "mat_packed": ".mat", "mat_4": ".mat",
    "torch_zip": ".pth", "torch_stream": ".pth", "torch_tar": ".pth", "torch_optimizer": ".pth",
    "safetensors": ".safetensors",
}  # fmt: skip


def arrays(count=4):
    rng = np.random.RandomState(0)
    return {f"layer{n}.weight": rng.rand(n + 1, 3).astype("float32") for n in range(count)}


def write_params(path):
    import mxnet as mx

    kinds = {"half": "float16", "whole": "int64", "small": "int8"}
    saved = {n: mx.nd.array(a) for n, a in arrays().items()}
    saved.update((n, mx.nd.ones((2, 2), dtype=k)) for n, k in kinds.items())
    mx.nd.save(str(path), saved)


def write_legacy(path):
    """Write what MXNet until 0.12 wrote: the second array without any magic number at all."""
    parts = [struct.pack("<3Q", 0x112, 0, 2)]
    parts += [struct.pack("<Ii2q", 0xF993FAC8, 2, 2, 3), struct.pack("<3i", 1, 0, 0)]
    parts += [np.arange(6, dtype="float32").tobytes()]
    parts += [struct.pack("<3I", 2, 1, 2), struct.pack("<3i", 1, 0, 0)]
    parts += [np.arange(2, dtype="float32").tobytes()]
    parts += [struct.pack("<2Q", 2, 1), b"a", struct.pack("<Q", 1), b"b"]
    path.write_bytes(b"".join(parts))


def write_sparse(path):
    import mxnet as mx

    dense = np.zeros((6, 4), "float32")
    dense[[1, 4]] = [[1, 0, 2, 0], [0, 3, 0, 0]]
    saved = {k: mx.nd.array(dense).tostype(k) for k in ("row_sparse", "csr")}
    mx.nd.save(str(path), saved)


def read_params(path):
    from model_zoo.params_io import read_params

    return {n: a.asnumpy() for n, a in read_params(path).items()}


def write_checkpoint(path):
    from gluon_attn.files import save_arrays

    meta = np.frombuffer(b'{"format": 1, "phase": null, "phases": []}', "uint8")
    save_arrays(path, {**{f"net/{n}": a for n, a in arrays().items()}, "meta": meta})


def read_checkpoint(path):
    from gluon_attn.engine import load_checkpoint

    return load_checkpoint(path)[0]


def mat_variables():
    cells = np.empty((3, 1), object)
    cells[:, 0] = ["a.jpg", "longer name.jpg", ""]
    table = np.arange(60.0).reshape(12, 5)
    inner = {"train": np.arange(4), "names": cells, "text": "hello", "complex": np.ones(2) * 1j}
    return {"labels": table, "names": cells, "s": inner, "flags": np.eye(3, dtype=bool)}


def write_mat(path, packed=False, form="5", variables=None):
    from scipy.io import savemat

    with open(path, "wb") as file:
        savemat(file, variables or mat_variables(), do_compression=packed, format=form)


def read_mat(path):
    from gluon_attn.data.matfile import load_mat

    return flat({name: node.value for name, node in load_mat(path).items()})


def flat(value, place=""):
    """Return the arrays in nested structs and cells by their place."""
    if isinstance(value, dict):
        parts = value.items()
    elif getattr(value, "dtype", None) is not None and value.dtype.names:
        parts = [(f"{i}.{k}", e[k]) for i, e in enumerate(value.ravel()) for k in e.dtype.names]
    elif isinstance(value, np.ndarray) and value.dtype == object:
        parts = enumerate(value.ravel())
    else:
        return {place: np.asarray(value) if not hasattr(value, "todense") else value.todense()}
    return {k: v for name, part in parts for k, v in flat(part, f"{place}/{name}").items()}


def write_torch(path, kind):
    saved = {n: adapters_helpers.Stored(a) for n, a in arrays().items()}
    write = {"zip": adapters_helpers.write_zip, "stream": adapters_helpers.write_stream}
    write[kind](path, {"epoch": 3, "state_dict": saved})


def read_torch(path):
    from model_zoo.adapters import read_arrays

    return {n: a.asnumpy() for n, a in read_arrays(path).items()}


def write_safetensors(path):
    from model_zoo.adapters.safe_tensors import write_safetensors

    write_safetensors(arrays(), path)


KINDS = {
    "params": (write_params, read_params, False),
    "params_legacy": (write_legacy, read_params, False),
    "params_sparse": (write_sparse, read_params, False),
    "checkpoint": (write_checkpoint, read_checkpoint, True),
    "mat": (write_mat, read_mat, False),
    "mat_packed": (lambda path: write_mat(path, True), read_mat, True),
    "mat_4": (
        lambda path: write_mat(path, form="4", variables={"a": np.eye(3), "t": "text"}),
        read_mat, False,
    ),
    "torch_zip": (lambda path: write_torch(path, "zip"), read_torch, True),
    "torch_stream": (lambda path: write_torch(path, "stream"), read_torch, False),
    "torch_tar": (
        lambda path: adapters_helpers.write_tar(path, arrays()), read_torch, False,
    ),
    "safetensors": (write_safetensors, read_torch, False),
}  # fmt: skip
