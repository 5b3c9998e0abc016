"""A small net whose export is worth checking, and a short way to export it."""

from __future__ import annotations

import mxnet as mx
import numpy as np
from mxnet import gluon
from mxnet.gluon import nn

from gluon_attn.export import export_model

CLASSES = ("hat", "bag", "skirt", "logo")
PREPROCESS = {"mean": (123.68, 116.78, 103.94), "std": (58.4, 57.1, 57.4), "resize": 20, "crop": 16}
SIZE = 16


class Stem(gluon.HybridBlock):
    """Built outside of any name scope, so that Gluon's global counters show in its names."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.conv = nn.Conv2D(8, 3, padding=1, strides=2, activation="relu")
            self.norm = nn.BatchNorm()

    def hybrid_forward(self, F, x):
        return self.norm(self.conv(x))


class Net(gluon.HybridBlock):
    """Three outputs, one of them a softmax map; the backbone's logits are not exported alone."""

    output_names = ("logits", "logits_backbone", "attention_stem")
    attention_outputs = ("attention_stem",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = Stem()
        with self.name_scope():
            self.score = nn.Conv2D(len(CLASSES), 1)
            self.head = nn.Dense(len(CLASSES))
            self.plain = nn.Dense(len(CLASSES))
            self.unused = nn.Dense(3, in_units=2)

    def hybrid_forward(self, F, x):
        x = F.Dropout(self.stem(x), p=0.5)
        score = self.score(x)
        flat = F.softmax(F.reshape(score, shape=(0, 0, -1)), axis=-1)
        attention = F.reshape_like(flat, score)
        backbone = self.plain(F.mean(x, axis=(2, 3)))
        logits = self.head(F.broadcast_mul(attention, score)) + backbone
        return logits, backbone, attention


def make_net(seed=0, kind=Net):
    net = kind()
    mx.random.seed(seed)
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, SIZE, SIZE)))
    mx.nd.waitall()  # convolutions reorder their weights in place as they run
    rng = np.random.RandomState(seed)
    for name, p in net.collect_params().items():  # statistics as after training, not 0 and 1
        if name.endswith(("running_mean", "running_var")):
            p.set_data(mx.nd.array(rng.uniform(0.5, 1.5, p.shape)))
    return net


def export(net, directory, **options):
    options.setdefault("check", False)
    return export_model(net, directory, "tiny", CLASSES, SIZE, PREPROCESS, **options)


def images(batch, seed=1):
    return mx.nd.array(np.random.RandomState(seed).normal(size=(batch, 3, SIZE, SIZE)))
