"""What the tests of int8 share."""

from __future__ import annotations

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

from gluon_attn.export import graph as graphs
from gluon_attn.export.int8 import Quantizer

CALLS = (2, 2, 5)  # batch sizes; one of the traps shows in the second call of a size


def noise(count, seed=0, size=(8, 8)):
    return np.random.default_rng(seed).normal(size=(count, 3, *size)).astype(np.float32)


def quantizer(net, images, **options):
    return Quantizer(*graphs.trace(net, ("logits",)), images, **options)


def static(block):
    block.hybridize(static_alloc=True, static_shape=True)
    return block


def operators(symbol):
    return [node for node in graphs.nodes_of(symbol) if node["op"] != "null"]


def built(net, images):
    net.initialize(mx.init.Xavier(magnitude=2))
    net(mx.nd.array(images))
    return net


def conv_net(seed=0):
    mx.random.seed(seed)
    net = nn.HybridSequential()
    net.add(nn.Conv2D(8, 3, in_channels=3, activation="relu"), nn.Conv2D(8, 3), nn.Flatten())
    net.add(nn.Dense(4))
    return net
