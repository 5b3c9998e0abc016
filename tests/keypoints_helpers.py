"""Tiny keypoint runs for the tests: nets, batches, recipes."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np

from gluon_attn.core.batch import Batch
from model_zoo import get_model

TINY = "simple_pose_resnet18_w16_tiny"


def tiny_net(**options):
    """Return an initialised tiny net whose heat-maps are not all but 0."""
    net = get_model(TINY, **dict({"width": 8}, **options))
    net.initialize(mx.init.MSRAPrelu("in", 0))
    for layer in (*net.head, net.output):
        if hasattr(layer, "weight"):
            shape = layer.weight.shape
            layer.weight.set_data(mx.nd.random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape))
    return net


def random_batch(net, count=4, seed=0):
    """Return a Batch of noise with heat-maps and weights to learn."""
    rng = np.random.default_rng(seed)
    height, width = net.input_size
    image = rng.normal(size=(count, 3, height, width))
    label = rng.random((count, net.classes, height // 4, width // 4)) ** 8
    mask = (rng.random((count, net.classes)) < 0.8).astype(float)
    arrays = (mx.nd.array(a.astype(np.float32)) for a in (image, label, mask))
    return Batch(*arrays, np.arange(count))


def recipe(**changes):
    """Return the values of a tiny recipe."""
    values = {
        "method": "simple_pose", "model": TINY, "model_options": {"width": 8},
        "dataset": "coco_keypoints", "splits": ("train2017", "val2017", "val2017"),
        "input_size": 128, "epochs": 2, "batch_size": 4, "optimizer": "adam", "lr": 2e-3, "wd": 0.0,
        "schedule": "step", "lr_epochs": (100,), "lr_min": 0.0, "keep": "last", "seed": 3,
        "init": "msra", "log_interval": 1,
    }  # fmt: skip
    values.update(changes)
    return values


def write_recipe(path, **changes):
    """Write :func:`recipe` as JSON; return the path."""
    path.write_text(json.dumps(recipe(**changes)))
    return path
