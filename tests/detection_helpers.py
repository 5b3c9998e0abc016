"""Tiny detection runs for the tests: data, recipes, nets."""

from __future__ import annotations

import json

import mxnet as mx
from formats.tiny_coco import write_tiny_coco

from gluon_attn.coco.dataset import CocoDetection
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


def write_recipe(path, **changes):
    """Write :func:`recipe` as JSON; return the path."""
    path.write_text(json.dumps(recipe(**changes)))
    return path


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
