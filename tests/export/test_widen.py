"""Channels of zeros for oneDNN's blocks: where they may be added, and that no number changes."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from export_helpers import CLASSES, SIZE, export, images, make_net
from mxnet import gluon
from mxnet.gluon import nn

from gluon_attn.env import cpu as _cpu
from gluon_attn.export import graph as graphs
from gluon_attn.export import load_exported
from gluon_attn.export.widen import widen_convolutions

NARROW, WIDE = 46, 48  # 46 of a block of 48 are in use: worth it


class Residual(gluon.HybridBlock):
    """Two 1×1 convolutions whose sum must be widened as one, and a 3×3 one that reads it."""

    output_names = ("logits",)

    def __init__(self, channels=NARROW, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.body = nn.HybridSequential()
            self.body.add(nn.Conv2D(8, 3, 2, 1), nn.BatchNorm(), nn.Activation("relu"))
            self.body.add(nn.Conv2D(channels, 1), nn.BatchNorm())
            self.side = nn.Conv2D(channels, 1, strides=2, use_bias=False)
            self.top = nn.Conv2D(20, 3, padding=1)
            self.pool = nn.GlobalAvgPool2D()
            self.head = nn.Dense(len(CLASSES))
            self.direct = nn.Dense(len(CLASSES))

    def hybrid_forward(self, F, x):
        x = F.relu(self.body(x) + self.side(x))
        return self.head(self.pool(self.top(x))) + self.direct(self.pool(x))


def widened(net):
    """Return the wide graph of a net's logits, after checking that it is the same function."""
    symbol, arrays = graphs.trace(net, ("logits",))
    before = {name: (array.shape, array.asnumpy().sum()) for name, array in arrays.items()}
    graph = widen_convolutions(symbol, arrays)
    assert {name: (a.shape, a.asnumpy().sum()) for name, a in arrays.items()} == before
    batch = images(3).asnumpy()
    expected = graphs.logits_of(graphs.make_block(symbol, arrays), batch)
    for wide in (graph, (graphs.fuse(graph[0]), graph[1])):
        found = graphs.logits_of(graphs.static(graphs.make_block(*wide)), batch)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    return graph


def test_all_that_make_and_read_the_channels_are_widened_together():
    symbol, arrays = widened(make_net(kind=Residual))
    filters = [node["attrs"]["num_filter"] for node in graphs.nodes_of(symbol)
               if node["op"] == "Convolution"]  # fmt: skip
    assert sorted(filters) == ["20", "48", "48", "8"]
    shapes = {name.split(":")[1]: array.shape for name, array in arrays.items()}
    assert shapes["body.3.weight"] == (WIDE, 8, 1, 1) and shapes["body.3.bias"] == (WIDE,)
    assert shapes["side.weight"] == (WIDE, 3, 1, 1)
    assert {shapes[f"body.4.{name}"] for name in ("gamma", "beta", "running_var")} == {(WIDE,)}
    assert shapes["top.weight"] == (20, WIDE, 3, 3) and shapes["direct.weight"] == (4, WIDE)
    assert shapes["head.weight"] == (4, 20) and shapes["body.0.weight"] == (8, 3, 3, 3)
    assert not arrays["arg:side.weight"].asnumpy()[NARROW:].any()
    assert not arrays["arg:top.weight"].asnumpy()[:, NARROW:].any()


@pytest.mark.parametrize("channels", [40, 45, 48, 96])
def test_full_blocks_and_those_that_would_stay_too_empty_are_left(channels):
    net = make_net(kind=lambda: Residual(channels))
    symbol, _ = graphs.trace(net, ("logits",))
    assert graphs.nodes_of(widened(net)[0]) == graphs.nodes_of(symbol)


def convolve(name, data, channels=NARROW, kernel=1, **options):
    return mx.sym.Convolution(data, num_filter=channels, kernel=(kernel,) * 2, name=name, **options)


DATA = mx.sym.var("data")
CONVOLVED = convolve("c", DATA)
SHARED = mx.sym.var("w")
SEEN = {  # the input has NARROW channels too
    "an output": CONVOLVED,
    "a product": convolve("d", CONVOLVED * DATA, 5),
    "softmax": convolve("d", mx.sym.softmax(CONVOLVED, axis=1), 5),
    "concatenation": convolve("d", mx.sym.concat(CONVOLVED, CONVOLVED, dim=1), 5),
    "groups": convolve("d", CONVOLVED, NARROW, num_group=2),
    "a map": mx.sym.FullyConnected(CONVOLVED, num_hidden=5, name="d"),
    "the input": convolve("d", CONVOLVED + DATA, 5),
    "a shared weight": convolve("e", convolve("d", CONVOLVED, weight=SHARED), weight=SHARED),
    "a computed weight": convolve("d", convolve("e", DATA, weight=2 * SHARED), 5),
    "no 1x1": convolve("d", convolve("e", DATA, kernel=3), 5),
}


@pytest.mark.parametrize("what", SEEN)
def test_channels_that_others_see_are_left(what):
    symbol = SEEN[what]
    shapes, _, _ = symbol.infer_shape(data=(1, NARROW, SIZE, SIZE))
    given = zip(symbol.list_arguments(), shapes)
    arrays = {f"arg:{name}": mx.nd.ones(shape) for name, shape in given if name != "data"}
    wide, found = widen_convolutions(symbol, arrays)
    assert graphs.nodes_of(wide) == graphs.nodes_of(symbol)
    assert {name: array.shape for name, array in found.items()} == {
        name: array.shape for name, array in arrays.items()
    }


@pytest.mark.parametrize("flags, size", [(_cpu.AVX512, WIDE), ({"avx2"}, NARROW)])
def test_fused_loading_widens_where_there_is_avx512(tmp_path, monkeypatch, flags, size):
    net = make_net(kind=Residual)
    directory = export(net, tmp_path / "x")
    monkeypatch.setattr(_cpu, "read_flags", lambda path: set(flags))
    block, _ = load_exported(directory, fused=True)
    np.testing.assert_allclose(block(images(2)).asnumpy(), net(images(2)).asnumpy(), atol=1e-6)
    assert block.collect_params()["side.weight"].data().shape == (size, 3, 1, 1)
