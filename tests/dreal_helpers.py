"""Small nets with attention modules, methods that train them, and counterfactuals the naive way."""

from __future__ import annotations

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.model_zoo.vision.resnet import BottleneckV1
from training_helpers import start_method, values

from gluon_attn.blocks.base import AttentionBlock, Slot
from gluon_attn.core.batch import Batch
from gluon_attn.core.schema import Attribute, Schema
from gluon_attn.nets.attention import attention_blocks
from gluon_attn.nets.efficientnet_lite import EfficientNetLite, Variant
from gluon_attn.nets.resnet import BottleneckV1b, ResNet
from model_zoo import get_model

CLASSES = 5
SINGLE = Schema([Attribute("class", "multiclass", tuple("abcde"))])
SHORT = {"bottlenecks": BottleneckV1b, "bottlenecks with biases": BottleneckV1}
LITE = Variant(width=0.25, depth=0.5, input_size=64, dropout=0)
MIXED = {"stage1": "cbam", "stage2": "se", "stage3": "srm", "stage4": "eca"}


class Plain(AttentionBlock):
    """A gate of operators that are cheap, so that variants are not joined in front of them."""

    def __init__(self, channels):
        super().__init__(channels)
        with self.name_scope():
            self.add_gate("channel", nn.HybridLambda(
                lambda F, x: F.sigmoid(4 * F.mean(x, axis=(2, 3), keepdims=True))
            ))  # fmt: skip


class Branches(HybridBlock):
    """Joins a map that passed three modules with a convolution of what the first two gave.

    The third is recorded before that convolution, so three variants of one entry meet two that
    travel together already. A dense layer is followed by a batch-norm. ``order`` is that of the
    modules' numbers.
    """

    def __init__(self, order):
        super().__init__()
        self.order = order
        with self.name_scope():
            self.stem = nn.Conv2D(16, 3, 2, 1)
            self.modules = nn.HybridSequential()
            self.side = nn.Conv2D(16, 3, padding=1)
            self.hidden = nn.Dense(12)
            self.norm = nn.BatchNorm()
            self.output = nn.Dense(CLASSES)
            for unit in range(3):
                self.modules.add(Plain(16))
                self.modules[unit].slot = Slot("branches", 1, unit)

    def hybrid_forward(self, F, x):
        first, second, third = (self.modules[number] for number in self.order)
        shared = second(first(F.relu(self.stem(x))))
        late = third(shared)
        joined = F.relu(late + self.side(shared))
        pooled = F.mean(joined * late, axis=(2, 3))
        return self.output(F.relu(self.norm(self.hidden(pooled))))


def net_of(attention="se", name="resnet18_v1b", width=8, size=64, seed=0, **options):
    """Return an initialised net in which no gate is a constant and no statistic is fresh."""
    mx.random.seed(seed)
    np.random.seed(seed)
    options = dict(options, attention=attention) if attention else options
    if name == "branches":
        net = Branches(options["order"])
        net.infer_shape(mx.nd.zeros((1, 3, size, size)))
    elif name in SHORT:
        channels = [width, 4 * width, 8 * width, 16 * width, 32 * width]
        net = ResNet(SHORT[name], [1, 2, 1, 2], channels, classes=CLASSES, **options)
        net.infer_shape(mx.nd.zeros((1, 3, size, size)))
    elif name == "lite":  # depth-wise convolutions and ReLU6
        net = EfficientNetLite(LITE, (size, size), classes=CLASSES, **options)
        net.infer_shape(mx.nd.zeros((1, 3, size, size)))
    else:
        net = get_model(name, classes=CLASSES, input_size=size, width=width, **options)
    net.initialize(mx.init.Xavier(magnitude=2.5))
    for parameter in net.collect_params().values():
        shape = parameter.shape
        if parameter.name.endswith("gamma"):
            parameter.set_data(mx.nd.random.uniform(0.7, 1.4, shape))
        elif parameter.name.endswith(("running_var", "beta")):
            parameter.set_data(mx.nd.random.uniform(0.2, 0.6, shape))
    for _, block in attention_blocks(net):
        for parameter in block.collect_params(".*weight").values():
            parameter.set_data(mx.nd.random.normal(0, 1.0, parameter.shape))
    if hasattr(net, "output"):  # no class is certain
        net.output.weight.set_data(mx.nd.random.normal(0, 0.1, net.output.weight.shape))
    return net


def method_of(net, schema=SINGLE, lr=0.02, ctx=None, accumulate=1, seed=0, **options):
    """Return the method, in epoch 0."""
    mx.random.seed(seed)
    names, options = schema.columns if schema else "abcde", {"hidden": 16, **options}
    return start_method(
        "dreal", net, names, schema=schema, lr=lr, ctx=ctx, accumulate=accumulate, options=options
    )


def batch_of(seed=0, rows=6, size=32, schema=SINGLE):
    """Return random images whose colour depends on the class, or on the attributes."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(rows, 3, size, size))
    label = np.eye(CLASSES)[rng.integers(0, CLASSES, rows)]
    if schema is None:
        label = (rng.random((rows, CLASSES)) < 0.4).astype(float)
    image += (label[:, :3] - 0.5)[:, :, None, None]
    mask = np.ones((rows, CLASSES))
    return Batch(mx.nd.array(image), mx.nd.array(label), mx.nd.array(mask), np.arange(rows))


def first(outputs):
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs


def naive_logits(net, image, modules):
    """Return the factual logits and, for each attention block, those without its attention.

    One whole forward pass per module, not hybridized, with the batch's own statistics in every
    batch-norm; the net ends as it began.
    """
    net.hybridize(active=False)
    norms, maps = [], {}
    net.apply(lambda block: norms.append(block) if isinstance(block, nn.BatchNorm) else None)
    before = values(net)
    momentum = [norm._kwargs["momentum"] for norm in norms]
    hooks = [
        gate.register_forward_hook(lambda g, _, out: maps.setdefault(g.name, out.asnumpy()))
        for block in modules for _, gate in block.gates
    ]  # fmt: skip
    for norm in norms:
        norm._kwargs["momentum"] = 0.0  # the running statistics become the batch's
    with autograd.record():
        outputs = first(net(image))
    outputs.backward()  # which is when MXNet updates them
    mx.nd.waitall()
    maps.clear()
    factual = first(net(image)).asnumpy()
    for hook in hooks:
        hook.detach()
    found = []
    for block in modules:
        scales = [maps[gate.name].mean(axis=(1, 2, 3), keepdims=True) for _, gate in block.gates]
        product = mx.nd.array(np.prod(scales, axis=0))
        block.forward = lambda x, scale=product: mx.nd.broadcast_mul(x, scale)
        found.append(first(net(image)).asnumpy())
        del block.forward
    for norm, value in zip(norms, momentum):
        norm._kwargs["momentum"] = value
    for name, parameter in net._collect_params_with_prefix().items():
        parameter.set_data(mx.nd.array(before[name]))
    return factual, found
