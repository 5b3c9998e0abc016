"""Tiny detection runs for the tests: data, recipes, nets."""

from __future__ import annotations

import mxnet as mx
import numpy as np
from formats.tiny_coco import write_tiny_coco

from gluon_attn.coco.dataset import CocoDetection
from gluon_attn.core.batch import Batch
from gluon_attn.method import METHODS, Optimization, Task
from model_zoo import get_model

SIZE = (96, 128)
BLOCKS = (None, "se", "cbam", "hoga")
NETS = {"ssd": "ssd96_resnet18_w16_tiny", "faster_rcnn": "faster_rcnn_fpn_resnet18_w16_tiny"}
OPTIONS = {
    "ssd": {"warmup_epochs": 1.0},
    "faster_rcnn": {"warmup_updates": 2, "samples": 64},
}


def write_data(root, train=8, val=4):
    """Write COCO-format pictures of shapes; return the folder."""
    write_tiny_coco(root, {"train2017": train, "val2017": val}, seed=0, size=SIZE)
    return root


def recipe(method="ssd", **changes):
    """Return the values of a tiny recipe."""
    values = {
        "method": method, "model": NETS[method],
        "model_options": {"width": 8, "score_threshold": 0.0},
        "dataset": "coco", "splits": ("train2017", "val2017", "val2017"), "input_size": 96,
        "epochs": 2, "batch_size": 4, "lr": 0.02, "wd": 5e-4, "schedule": "step",
        "lr_epochs": (100,), "lr_min": 0.0, "keep": "last", "seed": 3, "log_interval": 1,
        "init": "msra", "options": OPTIONS[method],
    }  # fmt: skip
    values.update(changes)
    return values


def model_of(method, block=None):
    """Return name and options of a tiny net; HOGA, which is large, in one stage only."""
    name = NETS[method].replace("resnet18", f"{block}_resnet18" if block else "resnet18")
    return name, {"width": 8, **({"attention": {"stage3": "hoga"}} if block == "hoga" else {})}


def tiny_net(method, block=None, **options):
    """Return an initialised tiny net."""
    name, own = model_of(method, block)
    net = get_model(name, **{**own, **options})
    net.initialize(mx.init.MSRAPrelu("in", 0))
    return net


def open_data(root, split="train2017"):
    """Return a split as the loaders take it."""
    return CocoDetection(root, split)


def method_of(kind, net, **options):
    """Return the training method of a tiny net, on four images."""
    names = tuple(f"class{k}" for k in range(net.classes))
    optimization = Optimization("sgd", {"momentum": 0.9, "wd": 5e-4, "learning_rate": 0.01})
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


def overfit(folder, data, method, block=None, **changes):
    """Train on eight pictures without augmentation and return COCO's scores of these."""
    from gluon_attn.core.recipe import Recipe
    from gluon_attn.train.run import Settings, train

    name, options = model_of(method, block)
    values = recipe(
        method, model=name, model_options={**options, "score_threshold": 0.0},
        splits=("train2017",) * 3, mirror=False, wd=0.0, log_interval=1000, **changes
    )  # fmt: skip
    settings = Settings(str(data), str(folder), workers=0, console=False)
    return train(Recipe.from_dict(values), settings)["test"].values["stats"]
