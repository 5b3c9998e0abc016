"""A full disk and a read-only folder, for each writer: one error, and the old file as it was."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import damage_jobs
import mxnet as mx
import numpy as np
import pytest
import training_helpers
from export_helpers import export, make_net

from gluon_attn.core import files
from gluon_attn.core.shards import Shard
from gluon_attn.core.text import read_json
from gluon_attn.data import open_dataset, pack, packing
from gluon_attn.data.synthetic.people import write_synthetic
from gluon_attn.export.onnx import OnnxVariant
from gluon_attn.export.writer import add_variants
from gluon_attn.figures.curves import pr_curves
from gluon_attn.papers.autola.genotype import find_genotype, save_genotype
from gluon_attn.tasks import predictions
from gluon_attn.tasks.images import write_png
from gluon_attn.train import save_checkpoint
from model_zoo import store
from model_zoo.adapters.safetensors import write_safetensors
from model_zoo.adapters.torch_write import write_torch
from model_zoo.transfer import WeightEntry, fetch
from tools.site.publish import _write as publish

sys.path.insert(0, str(Path(__file__).parent))
from kill_jobs import JOBS, NET  # noqa: E402

resource = pytest.importorskip("resource")
LIMIT = 1000  # bytes that a file may have: a disk that is full as soon as it is written to
ARRAYS = {"w": np.arange(3000, dtype="float32")}


class State:
    """What a checkpoint asks of a method."""

    net, ctx, trainers, phase = mx.gluon.nn.Dense(40, in_units=40), [mx.cpu()], {}, None
    precision = type("Precision", (), {"scaler": None})

    def state(self):
        return {}


def write_checkpoint(path):
    State.net.initialize(force_reinit=True)
    save_checkpoint(str(path), State(), {})


def write_export(path):
    export(make_net(), path, overwrite=True)


def write_pack(path):
    data = open_dataset(path.parent.parent / "data", "train")
    pack(data, path, 64, train_size=32, workers=1, progress=False)


def write_fetched(path):
    source = path.parent.parent / "mirror" / path.name
    entry = WeightEntry("net", path.name, files.sha256_of(source), remote=path.name)
    fetch(entry, str(source.parent), str(path.parent))


def write_curve(path):
    pr_curves(np.random.rand(20, 1), np.ones((20, 1)), None, ["hat"], path=path)


def write_published(path):
    known = read_json(path.parent / "weights.json")["weights"]
    entry = dict(known[NET], file=path.name)
    source = path.parent.parent / "old" / known[NET]["file"]
    publish(str(path.parent), NET, {**known, NET: entry}, str(source))


def write_people(path):
    write_synthetic(path, dict.fromkeys(("train", "val", "test"), 1), workers=1, progress=False)


def run(name):
    """Return a writer that trains or searches into ``out``."""
    return "", lambda path: JOBS[name].train(path.parent)


WRITERS = {
    "bytes": ("a.bin", lambda path: files.write_bytes(path, bytes(3000))),
    "text": ("a.txt", lambda path: files.write_text(path, "é" * 3000)),
    "json": ("a.json", lambda path: files.write_json(path, list(range(3000)))),
    "arrays": ("a.npz", lambda path: files.save_arrays(path, ARRAYS)),
    "parameters": (
        "a.params", lambda path: files.save_parameters({"w": mx.nd.array(ARRAYS["w"])}, path),
    ),
    "safetensors": ("a.safetensors", lambda path: write_safetensors(ARRAYS, path)),
    "checkpoint": ("last.ckpt", write_checkpoint),
    "export": ("x", write_export),
    "packed": ("train", write_pack),
    "genotype": (
        "g.json",
        lambda path: save_genotype(path, find_genotype("hog_se"), {"about": "x" * 2000}),
    ),
    "figure": ("a.png", write_curve),
    "fetched": ("net-12345678.params", write_fetched),
    "torch": ("a.pth", lambda path: write_torch(ARRAYS, path)),
    "form": ("x", lambda path: add_variants(path, [OnnxVariant()])),
    "published": (f"{NET}-12345678.params", write_published),
    "predicted": ("r.csv", damage_jobs.predict),
    "predicted shard": ("r.csv", lambda path: damage_jobs.predict(path, Shard(1, 1))),
    "merged predictions": (
        "r.csv", lambda path: predictions.merge(path.parent, "r", overwrite=True),
    ),
    "merged pack": ("train", lambda path: packing.merge(path.parent, "train", overwrite=True)),
    "synthetic": ("people", write_people),
    "rendered": ("00000_a.png", lambda path: write_png(path.parent, 0, "a.jpg", NOISE)),
    "convert": ("", lambda path: JOBS["convert"].work(path.parent)),
}  # fmt: skip
LONG = {"train": run("train"), "search": run("search")}
LIMITS = dict.fromkeys(LONG, 20_000)  # their notes fit, the weights do not
NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
# What tells how far a job has come, and is not its result.
NOTES = ("plan.json", "GENERATING.json", "train.log", "log.jsonl", "recipe.json")


def visible(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*")
            if p.is_file() and p.name[0] != "." and p.name not in NOTES
            and p.suffix != predictions.UNFINISHED}  # fmt: skip


def begin(kind, folder, path):
    """Put an older file there, and beside the folder what is read."""
    if kind in ("export", "form"):
        export(make_net(1), path)
    elif kind == "packed":
        training_helpers.write_data(folder.parent / "data")
    elif kind == "fetched":
        files.save_arrays(folder.parent / "mirror" / path.name, ARRAYS)
    elif kind == "merged pack":
        damage_jobs.write_pack_shards(path)
    elif kind == "published":
        (folder.parent / "old").mkdir()
        known = read_json(store.BUILTIN)["weights"][NET]["file"]
        shutil.copy(Path(store.PACKAGED, known), folder.parent / "old")
        shutil.copy(store.BUILTIN, folder / "weights.json")
        (folder / "weights").mkdir()
        (folder / "cards").mkdir()
    elif kind == "merged predictions":
        damage_jobs.write_prediction_shards(path)
    elif kind in ("convert", *LONG):
        JOBS[kind].begin(folder.parent)
    elif kind != "synthetic":
        path.write_bytes(b"old")


@contextlib.contextmanager
def full_disk(folder, limit):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def read_only(folder, _):
    """Close a folder to writing; root, who may write anywhere, acts as another user."""
    root = os.geteuid() == 0
    for path in folder.rglob("*"):
        path.chmod(0o444 if path.is_file() else 0o555)
    folder.chmod(0o555)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.fixture
def folder():
    """A folder that other users can open, unlike pytest's."""
    found = Path(tempfile.mkdtemp())
    found.chmod(0o777)
    (found / "out").mkdir()
    yield found / "out"
    shutil.rmtree(found)


@pytest.mark.parametrize("trouble", [full_disk, read_only])
@pytest.mark.parametrize(
    "kind", [*sorted(WRITERS), *(pytest.param(kind, marks=pytest.mark.nightly) for kind in LONG)]
)
def test_an_old_file_stays_and_the_error_names_the_new_one(kind, trouble, folder):
    name, write = {**WRITERS, **LONG}[kind]
    begin(kind, folder, folder / name)
    before = visible(folder)
    with pytest.raises(OSError) as caught, trouble(folder, LIMITS.get(kind, LIMIT)):
        write(folder / name)
    text = str(caught.value)
    assert str(folder) in text or name in text, text
    assert "\n" not in text and len(text) > len(str(folder)) + 20
    assert visible(folder) == before
    left = [p for p in folder.rglob(".*") if not p.name.endswith((".lock", ".part"))]
    assert not left or trouble is read_only
