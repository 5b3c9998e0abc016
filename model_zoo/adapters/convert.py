"""Loading, saving and converting weights of other packages.

>>> from model_zoo import get_model, load_foreign, save_foreign
>>> net = get_model("resnet50_v1b")
>>> load_foreign(net, "resnet50-0676ba61.pth")         # doctest: +SKIP
>>> save_foreign(net, "resnet50.safetensors")          # doctest: +SKIP
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import mxnet as mx
import numpy as np

from gluon_attn.core.files import save_parameters
from gluon_attn.core.registry import unknown_name
from gluon_attn.core.schema import Schema
from gluon_attn.core.text import PathLike
from gluon_attn.task import task_of
from model_zoo import outside, store
from model_zoo.adapters.names import guess_net, to_foreign
from model_zoo.adapters.read import read_arrays
from model_zoo.adapters.safetensors import write_safetensors
from model_zoo.adapters.tables import SCHEMES, VAA_FILES
from model_zoo.adapters.torch_write import write_torch
from model_zoo.params_io import Loaded, load_into
from model_zoo.registry import MODELS, get_model, trained_options
from model_zoo.trained import default_schema

WRITERS = {".pth": write_torch, ".pt": write_torch, ".safetensors": write_safetensors}


class Converted(NamedTuple):
    """What was converted: the zoo's name and options, scheme read and written, arrays, numbers.

    ``record`` is the file that tells ``pixels`` and classes, or ''; ``named`` says whether it is
    known what the outputs are called.
    """

    model: str
    options: dict[str, Any]
    read: str
    written: str
    arrays: int
    numbers: int
    record: str = ""
    pixels: outside.Pixels = {}
    named: bool = True


def load_foreign(
    net: Any,
    path: PathLike,
    scheme: str = "auto",
    allow_missing: Any = (),
    *,
    ignore: Any = (),
    ctx: Any = None,
    key: str | None = None,
) -> Loaded:
    """Load weights of another package into a net: all of it, or nothing.

    The same as :func:`model_zoo.params_io.load_into`, which also takes these files and explains the
    other arguments; for a backbone with another classifier see
    :func:`model_zoo.params_io.load_backbone`.

    Args:
        net: Net of the zoo, initialised or not.
        path: ``.pth``, ``.pt``, ``.safetensors``, ``.params``, or the folder with the files of
            VAA's repository. A pickle inside is read, never executed.
        scheme: Whose names they are, one of :data:`model_zoo.adapters.SCHEMES`; ``'auto'`` takes
            the one that fits best.

    Raises a ValueError for a file that is damaged, unsafe, or of another net. The message names
    what is missing, unexpected or of another shape, and the net it seems to be.
    """
    return load_into(net, path, allow_missing, ignore, ctx=ctx, scheme=scheme, key=key)


def save_foreign(net: Any, path: PathLike, scheme: str = "torchvision") -> None:
    """Write the parameters of a net as another package names them.

    Args:
        net: Net of the zoo with values, or a dict ``{our name: NDArray}``.
        path: Its suffix gives the format: ``.pth``, ``.pt``, ``.safetensors`` or ``.params``;
            with ``scheme='vaa_released'`` a folder.
        scheme: ``'torchvision'``, ``'gluoncv'``, ``'gluoncv_exported'``, ``'vaa_released'``, or
            ``'gluon'`` for our own names.

    Raises a ValueError for a net that the scheme cannot name; after an OSError an older file is
    untouched.
    """
    path = os.fspath(path)
    if scheme not in SCHEMES:
        raise ValueError(unknown_name("naming scheme", scheme, SCHEMES))
    arrays = to_foreign(_values(net), scheme)
    if scheme == "vaa_released":
        for part in VAA_FILES:
            named = {n.partition("/")[2]: a for n, a in arrays.items() if n.startswith(part + "/")}
            save_parameters(named, os.path.join(path, f"{part}.params"))
        return
    suffix = os.path.splitext(path)[1]
    if suffix == ".params":
        save_parameters(arrays, path)
    elif suffix in WRITERS:
        WRITERS[suffix]({n: _contiguous(a.asnumpy()) for n, a in arrays.items()}, path)
    else:
        valid = ", ".join([".params", *WRITERS])
        raise ValueError(f"cannot save {path}: suffix {suffix!r}; valid are {valid}")


def convert(
    source: PathLike,
    out: PathLike,
    model: str | None = None,
    scheme: str = "auto",
    *,
    to: str | None = None,
    options: dict[str, Any] | None = None,
    key: str | None = None,
    pixels: outside.Pixels | None = None,
    schema: Schema | None = None,
) -> Converted:
    """Convert a weight file, by way of a net of the zoo, which checks names and shapes.

    Source and out are files or folders, see :func:`load_foreign` and :func:`save_foreign`. Without
    ``model``, the net is guessed from names and shapes; without ``to``, names are ``'gluon'`` for
    ``.params`` and otherwise ``'torchvision'``, or those of EfficientNet-Lite's PyTorch port.
    ``options`` are further arguments of the model. ``pixels`` and ``schema``, by default those of
    the record beside the source, are stored in a record beside ``out``, see
    :mod:`model_zoo.outside`.
    """
    out = os.fspath(out)
    entry = store.entry_of_file(os.fspath(source)) or outside.described(os.fspath(source))
    arrays = read_arrays(source, key)
    guess = guess_net(arrays)
    found = guess.options if guess else {}
    if model is not None:
        found = {key: value for key, value in found.items() if key == "classes"}
    name = model or (guess.model if guess else None)
    if name is None:
        what = f"looks like {guess.text}" if guess else "is of no net we know"
        raise ValueError(f"{source}: {what}; give the name of a model of the zoo that it fits")
    name = MODELS.own_name(name)
    if entry is not None and entry.name == name:
        found = {**found, **trained_options(name, entry)}
    options = {**found, **(options or {})}
    if schema is not None:
        options.setdefault("classes", len(schema.columns))
    net = get_model(name, **options)
    if entry is not None and entry.schema and schema is None:
        schema = Schema.from_json(entry.schema)
    if schema is not None and len(schema.columns) != net.classes:
        raise ValueError(f"{len(schema.columns)} names for the {net.classes} outputs of {name}")
    task = task_of(net, schema)
    known = outside.merged(outside.known_pixels(entry, task, net), pixels or {})
    if known:
        outside.preprocess(name, net, task, known, str(source))
    lite = "efficientnet_lite_pytorch" if name.startswith("efficientnet_lite") else "torchvision"
    to = to or ("gluon" if out.endswith(".params") else lite)
    described = bool(known or schema) and to != "vaa_released"  # a folder of several files
    if described:
        outside.check_place(out)
    net.initialize(mx.init.Zero())
    load_into(net, source, scheme=scheme, arrays=arrays)
    save_foreign(net, out, to)
    record = outside.write_record(out, name, options, known or None, schema) if described else ""
    values = _values(net)
    read = guess.scheme if guess and scheme == "auto" else scheme
    numbers = sum(int(np.prod(v.shape)) for v in values.values())
    named = bool(schema or default_schema(name, net, entry))
    return Converted(name, options, read, to, len(values), numbers, record, known, named)


def _values(net: Any) -> dict[str, Any]:
    if isinstance(net, dict):
        return net
    try:
        mx.nd.waitall()  # running statistics straight after a step can be stale
        return {name: p.data() for name, p in net._collect_params_with_prefix().items()}
    except RuntimeError as error:
        raise ValueError("the net has no values yet: initialise it or load weights") from error


def _contiguous(array: Any) -> np.ndarray:
    return np.asarray(array, order="C")
