"""The kinds of file that :mod:`damage_helpers` damages: how each is written and read.

``KINDS`` holds ``(write, read, checked, name)``. ``write(path)`` returns the files to damage where
they are more than this one; ``read(path)`` returns a dict of NumPy arrays; ``checked`` says whether
checksums cover all of it, None that the kind is never read; ``name`` is an ending, or the name of
the file in a folder of the kind's own. ``OF_DATA`` are the annotations of every data set.
"""

from __future__ import annotations

import functools
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import adapters_helpers
import cv2
import damage_jobs
import kinds_helpers
import numpy as np
from damage_jobs import as_text
from PIL import Image

from gluon_attn.core.files import save_arrays, sha256_of, write_json
from gluon_attn.core.reading import load_params, read_npz
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.text import read_json
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


def write_mat_7_3(path):
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"
    path.write_bytes(head + bytes(384) + b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 8)


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


# ------------------------------------------------------------------- exports and their graphs

EDITION = Path(__file__).resolve().parent / "fixtures" / "first_edition"


def write_export(path):
    """Put an export with its ONNX form there; ``path`` is its sidecar."""
    shutil.copytree(EDITION / "export", path.parent, dirs_exist_ok=True)
    return [
        path,
        *(path.parent / f"people{end}" for end in ("-symbol.json", "-0000.params", ".onnx")),
    ]


def read_export(path):
    from gluon_attn.export import Predictor

    side = Predictor(Path(path).parent).sidecar["input"]["shape"][2]
    batch = np.linspace(-1, 1, 3 * side * side, dtype="float32").reshape(1, 3, side, side)
    found = {}
    for backend in ("mxnet", "onnxruntime"):
        outputs = Predictor(Path(path).parent, backend=backend).outputs(batch)
        found.update((f"{backend}/{name}", array) for name, array in outputs.items())
    return found


def read_signed(path, files=("symbol", "params", "onnx")):
    """Read an export whose checksums were made to fit what is there: by its author, that is."""
    from gluon_attn.export.sidecar import describe_file, write_sidecar

    folder, whole = Path(path).parent, Path(path).read_bytes()
    try:
        sidecar = read_json(path)
        for key in files:
            sidecar["files"][key] = describe_file(folder / sidecar["files"][key]["file"])
        write_sidecar(folder, dict(sidecar, name="people"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # then it is read as it is
    try:
        return read_export(path)
    finally:
        Path(path).write_bytes(whole)


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

# ----------------------------------------------------------------- runs, weights from outside


def write_run(path):
    shutil.copytree(EDITION / "run", path.parent, dirs_exist_ok=True)
    return [path, path.parent / "best.params"]


def read_run(path):
    import mxnet as mx

    from gluon_attn.train import trained

    return adapters_helpers.values(trained.from_run(str(Path(path).parent), [mx.cpu()]).net)


def write_outside(path):
    """Write weights and their record, the file that is damaged."""
    from gluon_attn.core.schema import Schema
    from model_zoo.outside import write_record

    write_params(path.with_suffix(".params"))
    pixels = {"mean": (120.0,) * 3, "std": (60.0,) * 3, "resize": 256, "crop": 224}
    schema = Schema.binary(["hat", "bag"])
    write_record(str(path.with_suffix(".params")), "resnet18_v1", {"classes": 2}, pixels, schema)


def read_outside(path):
    from model_zoo.outside import described

    return as_text(described(str(Path(path).with_suffix(".params"))))


# ------------------------------------------------------------------- the store and its mirror


def write_cached(path):
    from model_zoo import store

    shutil.copy(store.get_model_file(path.name.rpartition("-")[0]), path)


def cached_name():
    from model_zoo import store

    return store.find("vaa_resnet18_w16_clothing")[1].file


def read_cached(path):
    """Read a file of the store, from which there is no way to another copy."""
    from model_zoo import store

    folder, name = Path(path).parent, Path(path).name.rpartition("-")[0]
    before, store.PACKAGED = store.PACKAGED, str(folder)
    try:
        return numpy(load_params(store.get_model_file(name, str(folder))))
    finally:
        store.PACKAGED = before


def write_builtin(path):
    from model_zoo import store

    shutil.copy(store.BUILTIN, path)


def read_table(path):
    from model_zoo.transfer import parse_table

    return as_text(parse_table(Path(path).read_bytes(), path))


def write_zipped(path):
    """Write the archive of a mirror and, beside it, what the store knows of it."""
    write_params(path.with_suffix(".params"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path.with_suffix(".params"), "net-12345678.params")


def read_zipped(path):
    from model_zoo.transfer import WeightEntry, fetch

    path, store = Path(path), Path(path).parent / "store"
    digest = sha256_of(path.with_suffix(".params"))
    shutil.rmtree(store, ignore_errors=True)
    entry = WeightEntry("net", "net-12345678.params", digest, remote=path.name)
    return numpy(load_params(fetch(entry, str(path.parent), str(store))))


# -------------------------------------------------------------------------------- plain texts


def write_recipe(path):
    text = (
        Path(__file__).resolve().parent.parent / "gluon_attn/recipes/hoga_search.py"
    ).read_text()
    path.write_text(text.split("class ", 1)[0])
    if path.suffix == ".json":
        write_json(path, Recipe.load("vaa_synthetic_resnet18").to_dict())


def read_genotype(path):
    from gluon_attn.papers.autola.genotype import find_genotype

    return as_text(find_genotype(path))


def write_genotype(path):
    from gluon_attn.papers.autola.genotype import find_genotype, save_genotype

    save_genotype(path, find_genotype("autola_cifar10"), {"seed": 1})


def write_log(path):
    shutil.copy(EDITION / "run" / "log.jsonl", path)


def read_log(path):
    """Read a run's log: a line that is damaged is told of, the others are there."""
    from gluon_attn.train import read_json_lines

    return as_text(read_json_lines(path))


# ------------------------------------------------------------------------------------- images


def write_image(path):
    y, x = np.mgrid[:60, :40]
    pixels = np.stack([4 * y, 6 * x, 2 * (x + y)], -1).astype(np.uint8)
    if path.suffix in (".jpg", ".tif", ".webp"):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(path, exif=exif.tobytes())
    else:
        cv2.imwrite(str(path), pixels)


def read_pixels(path):
    from gluon_attn.data.images import read_image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, 2 << 20
    try:
        return {"": read_image(path, "x")}
    finally:
        Image.MAX_IMAGE_PIXELS = before


# ---------------------------------------------------------------------------------- data sets

PIXELS = (".jpg", ".png", ".bmp", ".webp", ".tif")
MOST = 60_000  # bytes of a file whose damages are worth their time


def write_tree(kind, path):
    """Write a miniature of a data set; return its annotations."""
    if not path.parent.is_dir() or not any(path.parent.iterdir()):
        kinds_helpers.make(kind, path.parent)
        kinds_helpers.opened(kind, path.parent)  # some write what they have found
    files = (file for file in sorted(path.parent.rglob("*")) if file.is_file())
    return [f for f in files if f.suffix not in PIXELS and f.stat().st_size <= MOST]


def read_tree(kind, path):
    found = {}
    for split, dataset in kinds_helpers.opened(kind, Path(path).parent).items():
        found[split] = np.array(dataset.fingerprint())
        found[f"{split}/first"] = dataset[0][0]
        masks = [dataset.regions(i).ravel() for i in getattr(dataset, "with_regions", ())]
        found[f"{split}/masks"] = np.concatenate(masks) if masks else np.zeros(0)
    return found


def of_data(kind):
    return functools.partial(write_tree, kind), functools.partial(read_tree, kind), False, "x"


OF_DATA = {f"data_{kind}": of_data(kind) for kind in kinds_helpers.KINDS}
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
    "mat_7_3": (
write_mat_7_3, read_mat, None, ".mat",
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
    "export": (write_export, read_export, True, "people.json"),
    "export_signed": (write_export, read_signed, False, "people.json"),
    "run": (write_run, read_run, False, "best.json"),
    "outside": (write_outside, read_outside, False, ".json"),
    "store_cache": (write_cached, read_cached, True, cached_name()),
    "store_table": (
        write_builtin, read_table, False, ".json",
    ),
    "mirror_zip": (write_zipped, read_zipped, True, "net.zip"),
    "json": (lambda path: write_json(path, {"a": [1, 2.5, None], "b": {"c": "é"}}),
             lambda path: as_text(read_json(path)), False, ".json"),
    "log": (write_log, read_log, False, ".jsonl"),
    "recipe": (write_recipe, lambda path: as_text(Recipe.load(path)), False, ".py"),
    "recipe_json": (write_recipe, lambda path: as_text(Recipe.load(path)), False, ".json"),
    "genotype": (write_genotype, read_genotype, False, ".json"),
    **{f"image_{end}": (write_image, read_pixels, False, f".{end}")
       for end in ("jpg", "png", "webp", "tif", "bmp", "ppm", "jp2", "hdr", "ras")},
    **damage_jobs.KINDS,
    **OF_DATA,
}  # fmt: skip
