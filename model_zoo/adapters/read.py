"""Opening weight files of any kind, by their first bytes: MXNet's own and other packages'."""

from __future__ import annotations

import contextlib
import os
import re
import zipfile
from typing import Any, Callable, Dict, Iterable

import mxnet as mx
import numpy as np

from gluon_attn.core.errors import REMEDY
from gluon_attn.core.reading import PARAMS_MAGIC, load_params
from gluon_attn.core.text import PathLike
from model_zoo.adapters.safetensors import is_safetensors, read_safetensors
from model_zoo.adapters.tables import VAA_FILES
from model_zoo.adapters.torch import is_torch, read_checkpoint, read_torch

Params = Dict[str, Any]  # NDArrays by name

# What the repository and its users call the backbone's file; the prefix of saved names.
BACKBONE = re.compile(r"backbone_resnet|base_resnet", re.I)
OLD_PREFIX = re.compile(r"^(resnetv1\d+|(hybrid)?sequential\d+)_")
COUNTED = {0: "conv", 1: "batchnorm", 2: "activation"}  # layers of the modules come in threes


def read_arrays(path: PathLike, key: str | None = None) -> Params:
    """Return the arrays of a weight file by name, as NDArrays on the CPU.

    Knows MXNet's ``.params``, PyTorch's ``.pth`` and ``.pt``, safetensors, and a folder with the
    files of VAA's repository. Floats of other formats become float32. ``key`` says which of
    several state dicts of a PyTorch checkpoint, such as ``state_dict_ema``. Raises a ValueError for
    a file of none of these, damaged, unsafe, or with NaN or infinite values.
    """
    path = os.fspath(path)
    read = None if os.path.isdir(path) else reader_of(path)
    if key is not None and read is not read_torch:
        raise ValueError(
            f"{path}: key={key!r} chooses a state dict of a PyTorch file, this is none"
        )
    if os.path.isdir(path):
        return read_vaa_folder(path)
    if is_checkpoint(path):
        best = os.path.join(os.path.dirname(path), "best.params")
        raise ValueError(
            f"{path}: a checkpoint of a training run, with all that continues it. --init-from "
            f"{path} starts a run from all of its weights, --resume continues it; where weights "
            f"of a net are wanted, give {best}"
        )
    if read is None:
        return read_params(path)
    arrays = read(path) if key is None else read(path, key)
    if not arrays:
        raise ValueError(f"{path}: holds no parameters")
    params = {name: _to_mxnet(array) for name, array in arrays.items()}
    check_finite(params, path)
    return params


def is_checkpoint(path: str) -> bool:
    """Return whether a file is a training run's ``last.ckpt``: a NumPy archive with a record."""
    if not os.path.isfile(path):
        return False
    with contextlib.suppress(zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        with zipfile.ZipFile(path) as archive:
            return "meta.npy" in archive.namelist()
    return path.endswith(".ckpt")


def beside(path: str, key: str | None = None) -> str:
    """Return in words what a PyTorch checkpoint holds beside its weights; '' for other files."""
    if reader_of(os.fspath(path)) is not read_torch:
        return ""
    return read_checkpoint(os.fspath(path), key)[1]


def reader_of(path: str) -> Callable[..., dict[Any, np.ndarray]] | None:
    """Return the function that reads a third-party weight file, or None if it is none."""
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        head = file.read(512)
    # First, because the length that such a file begins with can look like the head of a pickle.
    if is_safetensors(head):
        return read_safetensors
    if is_torch(head):
        return read_torch
    return read_safetensors if path.endswith(".safetensors") else None


def read_vaa_folder(folder: str) -> Params:
    """Return the parameters of VAA's repository, as ``fsr_stage_2/conv0_weight`` and so on.

    They are ten files: the backbone, and for each attention module (stage 2, 3, 4) attention
    (``fatt``), confidence (``fconv``) and classifier (``fsr``). Words in front of these names are
    ignored. Two files for one part, or two parameters for one layer, are a ValueError.
    """
    names = sorted(n for n in os.listdir(folder) if n.endswith(".params") and n[0] != ".")
    params: Params = {}
    for part in VAA_FILES:
        word = BACKBONE if part == "backbone_resnet" else re.compile(re.escape(part))
        found = [n for n in names if word.search(n)]
        if len(found) != 1:
            kind = FileNotFoundError if not found else ValueError
            raise kind(
                f"{folder}: expected one file *{part}.params, found {', '.join(found) or 'none'}. "
                f"A folder is read as the files of VAA's repository: {', '.join(VAA_FILES)}"
            )
        params.update(_read_vaa_part(os.path.join(folder, found[0]), part))
    return params


def _read_vaa_part(path: str, part: str) -> Params:
    arrays = read_params(path)
    names = {name: _counted(OLD_PREFIX.sub("", name)) for name in arrays}
    if part == "backbone_resnet" and not any(n.startswith("dense1_") for n in names.values()):
        # The net was built with a second classifier; in a file of it alone it may be the first.
        names = {name: re.sub("^dense0_", "dense1_", short) for name, short in names.items()}
    origins: dict[str, str] = {}
    for name, short in names.items():
        first = origins.setdefault(short, name)
        if first != name:
            raise ValueError(
                f"{path}: '{first}' and '{name}' both are {short} of one net; save each net of the "
                "repository in a file of its own"
            )
    return {f"{part}/{names[name]}": data for name, data in arrays.items()}


def _counted(name: str) -> str:
    """Return the counted name that MXNet gave until 1.3 for one of a later release."""
    structural = re.fullmatch(r"(\d+)\.(\w+)", name)
    if structural:
        place, leaf = int(structural[1]), structural[2]
        layer = "dense0" if place == 9 else f"{COUNTED[place % 3]}{place // 3}"
        return f"{layer}_{leaf}"
    return name


def _to_mxnet(array: np.ndarray) -> Any:
    """Return an NDArray; large ones share the memory."""
    if array.dtype.name not in ("float32", "int64", "int32", "int8", "uint8"):
        array = array.astype(np.float32)
    plain = array.ndim and array.size
    return mx.nd.from_numpy(array) if plain else mx.nd.array(array, dtype=array.dtype)


# MXNet's own files


def read_params(path: PathLike) -> Params:
    """Return the arrays of a parameter file by name, without ``arg:`` and ``aux:``.

    They are NDArrays on the CPU, in the order of the file; int8 numbers ``NAME`` beside steps
    ``NAME.step`` are float32 again, as in an int8 export. ``mx.nd.load`` is not used: it takes
    memory for whatever a damaged file promises.
    """
    path = os.fspath(path)
    _check_head(path)
    arrays = load_params(path)
    if len(arrays) == 0:
        raise ValueError(
            f"{path}: holds no parameters. An export before the first forward pass writes such "
            "files: run the net once, then export or save again"
        )
    if not isinstance(arrays, dict):
        raise ValueError(f"{path}: {len(arrays)} arrays without names; save a dict of arrays")
    params = {re.sub("^(arg|aux):", "", name): data for name, data in arrays.items()}
    if len(params) != len(arrays):
        raise ValueError(f"{path}: the same name both as arg: and aux:; export it again")
    check_finite(params, path)
    return _multiplied(params, path)


def _multiplied(params: Params, path: str) -> Params:
    """Return the parameters with int8 numbers multiplied by the step of each channel."""
    found = {}
    for name, data in params.items():
        step = params.get(f"{name}.step")
        if step is not None and data.dtype == np.int8:
            if step.shape != (*data.shape[:1], *[1] * (data.ndim - 1)):
                raise ValueError(f"{path}: {name} {data.shape} has steps {step.shape}; {REMEDY}")
            data = data.astype("float32") * step.astype("float32")
        if not name.endswith(".step") or name[: -len(".step")] not in params:
            found[name] = data
    return found


def check_finite(params: Params, path: str) -> None:
    """Raise a ValueError that names the arrays with NaN or infinite values."""
    bad = [name for name, data in params.items() if not _finite(data)]
    if bad:
        raise ValueError(
            f"{path}: NaN or infinite values in {some(bad)}. The training that wrote it "
            "diverged, or the file is damaged: take an earlier checkpoint, or " + REMEDY
        )


def _check_head(path: str) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such parameter file")
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        raise ValueError(f"{path}: empty file; {REMEDY}")
    if head[:8] != PARAMS_MAGIC[: len(head[:8])]:
        raise ValueError(
            f"{path}: not an MXNet parameter file (it begins with {head!r}). Valid are files of "
            "save_parameters and the -0000.params of export; unpack zip archives first"
        )


def _finite(data: Any) -> bool:
    kind = np.dtype(data.dtype).kind
    if kind in "iub":
        return True
    values = (data if kind == "f" else data.astype("float32")).asnumpy()  # "V" is bfloat16
    return bool(np.isfinite(values).all())


def some(items: Iterable[str], limit: int = 4) -> str:
    """Return the first few items, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
