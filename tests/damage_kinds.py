"""The kinds of file that :mod:`damage_helpers` damages: how each is written and read.

``KINDS`` holds ``(write(path), read(path), whether checksums cover all of it, suffix)``; what is
read comes back as a dict of NumPy arrays.
"""

from __future__ import annotations

import pickle
import struct

import adapters_helpers
import numpy as np

from gluon_attn.core.files import save_arrays
from gluon_attn.core.reading import load_params, read_npz
from model_zoo.adapters import read_arrays
from model_zoo.adapters.safetensors import write_safetensors


def arrays(count=4):
    rng = np.random.RandomState(0)
    return {f"layer{n}.weight": rng.rand(n + 1, 3).astype("float32") for n in range(count)}


def numpy(found):
    return {name: array.asnumpy() for name, array in found.items()}


# ------------------------------------------------------------------------------ MXNet's .params


def write_params(path):
    import mxnet as mx

    saved = {n: mx.nd.array(a) for n, a in arrays().items()}
    kinds = {"half": "float16", "whole": "int64", "small": "int8"}
    saved.update((n, mx.nd.ones((2, 2), dtype=k)) for n, k in kinds.items())
    mx.nd.save(str(path), saved)


def write_legacy(path):
    """Write what MXNet until 0.12 wrote: the first array after a magic number, the second without.

    No release of today writes it, all read it.
    """
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
    mx.nd.save(str(path), {k: mx.nd.array(dense).tostype(k) for k in ("row_sparse", "csr")})


def read_weights(path):
    return numpy(read_arrays(path))


# -------------------------------------------------------------------------------- checkpoints


def write_checkpoint(path):
    meta = np.frombuffer(b'{"format": 1, "phase": null, "phases": []}', "uint8")
    save_arrays(path, {**{f"net/{n}": a for n, a in arrays().items()}, "meta": meta})


def read_checkpoint(path):
    from gluon_attn.train import load_checkpoint

    return load_checkpoint(path)[0]


# --------------------------------------------------------------------------------------- .mat


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
        return {place: np.asarray(getattr(value, "kind", value))}
    return {k: v for name, part in parts for k, v in flat(part, f"{place}/{name}").items()}


# ------------------------------------------------------------------------- weights of PyTorch


def write_torch(path, write):
    saved = {n: adapters_helpers.Stored(a) for n, a in arrays().items()}
    write(path, {"epoch": 3, "best": np.float64(91.5), "state_dict": saved})


# ------------------------------------------------------------------------- CIFAR's own pickles


def write_cifar(path):
    data = {"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1, 0, 2]}
    path.write_bytes(pickle.dumps(data, 2))


def read_cifar(path):
    from gluon_attn.data.safe_pickle import load_pickle

    with open(path, "rb") as file:
        found = load_pickle(file.read(), path)
    return {str(k): np.asarray(v) for k, v in found.items()} if isinstance(found, dict) else {}


# -------------------------------------------------------------------------- graphs of exports


def write_graph(path):
    import mxnet as mx

    data = mx.sym.var("data")
    convolution = mx.sym.Convolution(data, num_filter=2, kernel=(3, 3), name="conv")
    parts = mx.sym.SliceChannel(convolution, num_outputs=2, name="parts")
    path.write_text(mx.sym.FullyConnected(parts[1], num_hidden=3, name="dense").tojson())


def read_graph(path):
    from gluon_attn.export.graph import load_graph

    with open(path, "rb") as file:
        symbol, _ = load_graph(file.read(), NO_ARRAYS, path)
    return {name: np.zeros(0) for name in symbol.list_inputs()}


NO_ARRAYS = struct.pack("<4Q", 0x112, 0, 0, 0)
KINDS = {
    "params": (write_params, read_weights, False, ".params"),
    "params_legacy": (write_legacy, read_weights, False, ".params"),
    "params_sparse": (write_sparse, lambda path: numpy(load_params(path)), False, ".params"),
    "checkpoint": (write_checkpoint, read_checkpoint, True, ".ckpt"),
    "npz_packed": (lambda path: save_arrays(path, arrays(), True), read_npz, True, ".npz"),
    "mat": (write_mat, read_mat, False, ".mat"),
    "mat_packed": (lambda path: write_mat(path, True), read_mat, True, ".mat"),
    "mat_4": (
        lambda path: write_mat(path, form="4", variables={"a": np.eye(3), "t": "text"}),
        read_mat, False, ".mat",
    ),
    "torch_zip": (
        lambda path: write_torch(path, adapters_helpers.write_zip), read_weights, True, ".pth",
    ),
    "torch_stream": (
        lambda path: write_torch(path, adapters_helpers.write_stream), read_weights, False, ".pth",
    ),
    "torch_tar": (
        lambda path: adapters_helpers.write_tar(path, arrays()), read_weights, False, ".pth",
    ),
    "safetensors": (
        lambda path: write_safetensors(arrays(), path), read_weights, False, ".safetensors",
    ),
    "cifar": (write_cifar, read_cifar, False, ""),
    "graph": (write_graph, read_graph, False, ".json"),
}  # fmt: skip
