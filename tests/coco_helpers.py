"""Tiny detection and keypoint runs for the tests: data, recipes, nets, batches, the tools."""

from __future__ import annotations

import importlib.util
import json
import sys

import mxnet as mx
import numpy as np
import pytest
from formats.tiny_coco import write_tiny_coco

from gluon_attn.coco.names import KEYPOINTS
from gluon_attn.core.batch import Batch
from gluon_attn.core.recipe import Recipe
from gluon_attn.method import METHODS, Optimization, Task
from gluon_attn.task import Trained
from gluon_attn.train.run import Settings, train
from model_zoo import get_model

BLOCKS = (None, "se", "cbam", "hoga")
KINDS = ("ssd", "faster_rcnn", "simple_pose")
NETS = {
    "ssd": "ssd96_resnet18_w16_tiny", "faster_rcnn": "faster_rcnn_fpn_resnet18_w16_tiny",
    "simple_pose": "simple_pose_resnet18_w16_tiny",
}  # fmt: skip
PIXELS = {"mean": (123.68, 116.779, 103.939), "std": (58.393, 57.12, 57.375)}
_SGD = {
    "dataset": "coco", "input_size": 96, "lr": 0.02, "wd": 5e-4,
    "model_options": {"width": 8, "score_threshold": 0.0},
}  # fmt: skip
_OWN = {
    "ssd": {**_SGD, "options": {"warmup_epochs": 1.0}},
    "faster_rcnn": {**_SGD, "options": {"warmup_updates": 2, "samples": 64}},
    "simple_pose": {
        "dataset": "coco_keypoints", "input_size": 128, "lr": 2e-3, "wd": 0.0, "optimizer": "adam",
        "model_options": {"width": 8},
    },
}  # fmt: skip


def write_data(root, train=8, val=4):
    """Write COCO-format images of shapes and people; return the folder."""
    write_tiny_coco(root, {"train2017": train, "val2017": val}, seed=0)
    return root


def recipe(method="ssd", **changes):
    """Return the values of a tiny recipe."""
    values = {
        "method": method, "model": NETS[method], "splits": ("train2017", "val2017", "val2017"),
        "epochs": 2, "batch_size": 4, "schedule": "step", "lr_epochs": (100,), "lr_min": 0.0,
        "keep": "last", "seed": 3, "log_interval": 1, "init": "msra",
    }  # fmt: skip
    return {**values, **_OWN[method], **changes}


def write_recipe(path, method, **changes):
    """Write :func:`recipe` as JSON; return the path."""
    path.write_text(json.dumps(recipe(method, **changes)))
    return path


def run(folder, data, method, resume=False, **changes):
    """Train a tiny recipe."""
    settings = Settings(str(data), str(folder), resume=resume, workers=0, console=False)
    return train(Recipe.from_dict(recipe(method, **changes)), settings)


def model_of(method, block=None):
    """Return name and options of a tiny net; HOGA, which is large, in one stage only."""
    name, options = NETS[method], {"width": 8}
    if method == "simple_pose":  # of which the zoo has no tiny one with a block
        return name, {**options, "attention": block and {"stage4": block}}
    if block == "hoga":
        options["attention"] = {"stage3": "hoga"}
    return name.replace("resnet18", f"{block}_resnet18" if block else "resnet18"), options


def tiny_net(method="ssd", block=None, **options):
    """Return an initialised tiny net; heat-maps of the keypoint net are not all but 0."""
    name, own = model_of(method, block)
    net = get_model(name, **{**own, **options})
    net.initialize(mx.init.MSRAPrelu("in", 0))
    if method == "simple_pose":
        for layer in (layer for layer in (*net.head, net.output) if hasattr(layer, "weight")):
            shape = layer.weight.shape
            layer.weight.set_data(mx.nd.random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape))
    return net


def trained(net, names=None, **extra):
    """Return a net as the tasks take it."""
    names = KEYPOINTS if names is None else tuple(names)
    return Trained("tiny", net, names, {**PIXELS, "size": net.input_size}, extra)


def method_of(kind, net, **options):
    """Return the training method of a tiny net, on four images."""
    names, params = tuple(f"class{k}" for k in range(net.classes)), {"learning_rate": 0.01}
    optimization = Optimization("sgd", {"momentum": 0.9, "wd": 5e-4, **params})
    if kind == "simple_pose":
        optimization = Optimization("adam", {"learning_rate": 1e-3})
    return METHODS.get(kind)(net, [mx.cpu()], Task(names, 4, None), optimization, options=options)


def batch_of(count=3, width=96, seed=0):
    """Return a Batch of noise, 96 pixels high, with three boxes an image; the last has none."""
    rng = np.random.default_rng(seed)
    label = np.full((count, 9, 5), -1, np.float32)
    label[:, 0, :4] = 0, 0, width, 96
    for row in label[: count - 1]:
        corner, side = rng.uniform(0, 48, (2, 2)), rng.uniform(12, 44, (2, 2))
        row[1:3, :2], row[1:3, 2:4] = corner, corner + side
        row[3, :4] = 5, 5, 91, 91  # for the coarsest level
        row[1:4, 4] = rng.integers(0, 5, 3)
    image = mx.nd.array(rng.normal(size=(count, 3, 96, width)))
    return Batch(image, mx.nd.array(label), mx.nd.array(label[:, :, 4] >= 0), np.arange(count))


def heatmap_batch(net, count=4, seed=0):
    """Return a Batch of noise with heat-maps and weights to learn."""
    rng = np.random.default_rng(seed)
    height, width = net.input_size
    image = rng.normal(size=(count, 3, height, width))
    label = rng.random((count, net.classes, height // 4, width // 4)) ** 8
    mask = rng.random((count, net.classes)) < 0.8
    return Batch(*(mx.nd.array(a.astype(np.float32)) for a in (image, label, mask)),
                 np.arange(count))  # fmt: skip


def overlaps(a, b):
    """Return intersection over union of boxes ``(..., 4)``, corners; shapes are broadcast."""
    inner = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inner = np.maximum(inner, 0).prod(-1)
    return inner / (sum((c[..., 2:] - c[..., :2]).prod(-1) for c in (a, b)) - inner)


def step_of(method, batch):
    """Make one update; return its losses and the names of the parameters that stayed."""
    net = method.net
    method.begin_epoch(0)
    method.set_learning_rate(0.01)
    before = {n: p.data().asnumpy() for n, p in net._collect_params_with_prefix().items()}
    sums = {n: float(v.asscalar()) for n, v in method.train_step(batch).items()}
    mx.nd.waitall()
    after = {n: p.data().asnumpy() for n, p in net._collect_params_with_prefix().items()}
    assert all(np.isfinite(v) for v in sums.values())
    return sums, {n for n in before if np.array_equal(before[n], after[n])}


@pytest.fixture
def tool(repository, monkeypatch, capsys):
    """A function that runs a script of tools/ in this process: ``(exit code, stdout, stderr)``."""

    def call(name, *arguments):
        path = repository / "tools" / name
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            module.cli.run(module.main)
        return (end.value.code or 0, *capsys.readouterr())

    return call
