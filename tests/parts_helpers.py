"""Small nets of every structure that can be cut at its last two stages; random parameters."""

from __future__ import annotations

import inspect

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import nn

from gluon_attn.nets.taps import TappedStage
from model_zoo import get_model
from model_zoo.registry import MODELS

CLASSES = 5
# name -> input side; one net of every structure of stage and head
FAMILIES = {
    "resnet18_w16_synthetic": 64, "resnet50_v1b": 75, "awmt_resnet50": 64,
    "cifar_resnet20_cifar10": 32, "vgg11": 75, "vgg11_bn": 64, "se_resnet18": 64,
    "cbam_resnet20_cifar10": 32, "srm_resnet20_cifar10": 32, "vaa_resnet18_w16_synthetic": 64,
    "efficientnet_lite0": 64,
}  # fmt: skip
SIDES = {**FAMILIES, "hoga_resnet20_cifar10": 32}


def net_of(name, seed=0, **options):
    """Return an initialised net; gates and shifts are random, too, so that all parts matter."""
    valid = inspect.signature(MODELS.get(name)).parameters
    sizes = {"width": 8, "hidden": 16, "classes": CLASSES, "input_size": SIDES.get(name, 64)}
    net = get_model(name, **{**{k: v for k, v in sizes.items() if k in valid}, **options})
    net.initialize()
    rng = np.random.RandomState(seed)
    for key, p in net.collect_params().items():
        if key.endswith(("gamma", "running_var")):
            value = rng.uniform(0.5, 1.5, p.shape)
        elif len(p.shape) < 2:
            value = rng.uniform(-0.3, 0.3, p.shape)
        else:
            value = rng.normal(0, np.sqrt(2 / np.prod(p.shape[1:])), p.shape)
        p.set_data(mx.nd.array(value))
    return net


def started(block, seed=0):
    """Return the block with random parameters and statistics."""
    mx.random.seed(seed)
    block.initialize(mx.init.Xavier())
    rng = np.random.default_rng(seed)
    for name, p in block._collect_params_with_prefix().items():
        if name.endswith(("running_mean", "bias")):
            p.set_data(mx.nd.array(rng.normal(0, 0.3, p.shape)))
        elif name.endswith("running_var"):
            p.set_data(mx.nd.array(rng.uniform(0.5, 1.5, p.shape)))
    return block


def image_of(name, rows=3, seed=1):
    side = SIDES.get(name, 64)
    return mx.nd.array(np.random.RandomState(seed).normal(size=(rows, 3, side, side)))


def through_the_blocks(net, image, cut):
    """Run a net layer by layer; return the last or inner feature map, cut off, and the logits.

    Independent of :mod:`gluon_attn.papers.icasc.cut`: Gluon's own blocks, no symbols.
    """
    backbone = getattr(net, "backbone", net)
    layers = list(backbone.features)
    stages = [k for k, layer in enumerate(layers) if isinstance(layer, TappedStage)]
    sides, x = {}, image
    with autograd.pause(train_mode=False):
        for k, layer in enumerate(layers[: stages[-1] + 1]):
            x = layer(x)
            x = x[0] if isinstance(x, (list, tuple)) else x
            sides[k] = x.shape[-1]
    larger = [k for k in stages if sides[k] > sides[stages[-1]]]
    wanted = larger[-1] if cut == "inner" else stages[-1]
    taps, x = {}, image
    for k, layer in enumerate(layers):
        x = layer(x)
        if k not in stages:
            continue
        outputs = x if isinstance(x, (list, tuple)) else [x]
        x, tapped = outputs[0], dict(zip(layer.taps, outputs[1:]))
        if k == wanted:
            x = leaf = x.detach()
            x.attach_grad()
        if len(layer) - 1 in tapped:
            tapped[len(layer) - 1] = x
        number = stages.index(k) + 1
        taps.update({f"stage{number}_activation{unit}": y for unit, y in tapped.items()})
    logits = backbone.output(x)
    if backbone is not net:
        logits = net.heads(logits, *[taps[name] for name in backbone.taps])[0]
    return leaf, logits


def without_dropout(net):
    net.apply(lambda b: setattr(b, "_rate", 0.0) if isinstance(b, nn.Dropout) else None)
    return net


def frozen(net):
    """Let batch-norm use its running statistics in training mode, too; return the net."""
    net.apply(
        lambda b: b._kwargs.update(use_global_stats=True) if isinstance(b, nn.BatchNorm) else None
    )
    return net


def settled(net, image, steps=40):
    """Let the running statistics become those of an image; return the net.

    A deep net with others lets values grow by thousands: rounding alone then moves its gradients.
    """
    for _ in range(steps):
        with autograd.record():
            outputs = net(image)
        (outputs if isinstance(outputs, mx.nd.NDArray) else outputs[0]).backward()
    mx.nd.waitall()
    return net


def relative(found, wanted):
    """Return the largest difference as a share of the largest value."""
    found, wanted = (x.asnumpy() if isinstance(x, mx.nd.NDArray) else x for x in (found, wanted))
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
