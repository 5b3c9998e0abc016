"""int8 graphs: ranges and arithmetic against NumPy, faults of MXNet, every zoo family."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from int8_helpers import CALLS, built, conv_net, noise, operators, quantizer, static
from mxnet import gluon
from mxnet.gluon import nn

from gluon_attn.export import ExportError
from gluon_attn.export import graph as graphs
from gluon_attn.export.int8 import _BINS, _entropy

# --- ranges --------------------------------------------------------------------------------------


class Dead(gluon.HybridBlock):
    """A layer whose activations are all zero, beside one that lives."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dead, self.alive = nn.Conv2D(8, 1, in_channels=3), nn.Conv2D(8, 1, in_channels=3)
        self.head = nn.Dense(3)

    def hybrid_forward(self, F, x):
        x = F.relu(self.dead(x) - 1e6) + F.relu(self.alive(x))
        return self.head(F.Pooling(x, global_pool=True, pool_type="avg", kernel=(1, 1)))


def test_ranges_are_those_of_the_activations():
    images = noise(20)
    net = built(conv_net(), images)
    found = quantizer(net, images, batch_size=8).thresholds("naive")  # 8 + 8 + 4 images
    assert found["data"] == (images.min(), images.max())
    first = net[0](mx.nd.array(images))
    expected = {"conv_act_0": first, "conv_1": net[1](first)}
    for name, values in expected.items():
        pair = values.asnumpy().min(), values.asnumpy().max()
        np.testing.assert_allclose(found[f"sg_mkldnn_{name}_output"], pair, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("percentile", [90.0, 99.9, 100.0])
def test_percentile_is_numpys_to_a_bin(percentile):
    images = noise(16)
    made = quantizer(built(conv_net(), images), images, percentile=percentile)
    low, high = made.thresholds("percentile")["data"]
    bin_width = 2 * np.abs(images).max() / _BINS
    assert high == -low
    assert high == pytest.approx(np.percentile(np.abs(images), percentile), abs=1.01 * bin_width)
    assert made.thresholds("percentile")["sg_mkldnn_conv_act_0_output"][0] == 0


@pytest.mark.parametrize("positive", [False, True])
def test_entropy_clips_an_outlier_and_not_a_uniform_range(positive):
    rng = np.random.default_rng(0)
    uniform = rng.uniform(0 if positive else -1, 1, 200000)
    normal = np.abs(rng.normal(size=200000)) if positive else rng.normal(size=200000)
    for values, low, high in ((uniform, 0.95, 1.0), (np.append(normal, 40), 2.0, 20.0)):
        limit = np.abs(values).max()
        counts, _ = np.histogram(values, _BINS, (-limit, limit))
        assert low <= _entropy(counts, limit, positive) <= high


def test_dead_layer_gives_no_nan():
    images = noise(8)
    net = built(Dead(), images)
    made = quantizer(net, images)
    for mode in ("naive", "percentile"):
        logits = graphs.logits_of(static(graphs.make_block(*made.build(mode))), images)
        assert np.isfinite(logits).all()
        assert np.corrcoef(logits.ravel(), net(mx.nd.array(images)).asnumpy().ravel())[0, 1] > 0.98


def test_activations_that_are_not_finite_are_refused():
    images = np.full((2, 3, 8, 8), 1e38, np.float32)
    net = built(conv_net(), np.ones_like(images))
    net[0].weight.set_data(mx.nd.ones((8, 3, 3, 3)))
    with pytest.raises(ExportError, match="not finite on the calibration images: sg_mkldnn_conv"):
        quantizer(net, images).thresholds("naive")


# --- arithmetic ----------------------------------------------------------------------------------


def test_convolution_is_integer_arithmetic_with_a_scale_per_channel():
    """Against NumPy; one input channel only, so that no processor saturates."""
    rng = np.random.default_rng(0)
    images = np.zeros((4, 3, 6, 6), np.float32)
    images[:, 0] = rng.uniform(0, 2, (4, 6, 6))
    weight = rng.normal(size=(4, 3, 1, 1)).astype(np.float32)
    weight[1] *= 1e-3  # with one scale for all, this channel would be lost
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 1, in_channels=3, use_bias=False))
    net.initialize()
    net[0].weight.set_data(mx.nd.array(weight))
    block = static(graphs.make_block(*quantizer(net, images).build("naive")))
    found = graphs.logits_of(block, images)
    exact = np.einsum("bchw,oc->bohw", images, weight[..., 0, 0])
    # MXNet spreads a range over 255.5 or 127.5 levels: the outermost are half as wide.
    scale_in, scale_out = 255.5 / images.max(), 127.5 / np.abs(exact).max()
    scale_weight = 127.5 / np.abs(weight).max(axis=(1, 2, 3))
    whole_in = np.minimum(np.rint(images * scale_in), 255)
    whole_weight = np.clip(np.rint(weight[..., 0, 0] * scale_weight[:, None]), -127, 127)
    whole = np.einsum("bchw,oc->bohw", whole_in, whole_weight)
    rescaled = whole * (scale_out / scale_in / scale_weight)[:, None, None]
    expected = np.clip(np.rint(rescaled), -127, 127)
    np.testing.assert_allclose(found * scale_out, expected, rtol=0, atol=1e-3)  # of one level


class Unit(gluon.HybridBlock):
    """The end of a residual unit: two convolutions, sum, activation."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body, self.shortcut = (nn.Conv2D(16, 1, in_channels=3) for _ in range(2))
        self.relu = nn.Activation("relu")

    def hybrid_forward(self, F, x):
        return self.relu(self.body(x) + self.shortcut(x))


@pytest.mark.parametrize("mode", ["naive", "percentile"])
def test_sum_with_a_signed_operand_is_not_cut_off_at_half_of_its_range(mode):
    images = noise(8)
    net = built(Unit(), images)
    expected = net(mx.nd.array(images)).asnumpy()
    made = quantizer(net, images, percentile=99.99)
    found = graphs.logits_of(graphs.make_block(*made.build(mode)), images)
    top = expected > 0.6 * expected.max()
    assert top.sum() > 10
    assert np.abs(found - expected)[top].max() < 0.05 * expected.max()


def test_channel_wise_weights_beat_one_scale(monkeypatch):
    images = np.abs(np.random.default_rng(0).normal(size=(8, 3, 8, 8))).astype(np.float32)
    net = built(conv_net(), images)
    head = net[3].weight
    head.set_data(head.data() * mx.nd.array([1e-3, 1, 1, 1]).reshape((4, 1)))
    expected = net(mx.nd.array(images)).asnumpy()[:, 0]
    errors = {}
    for granularity in ("channel-wise", "tensor-wise"):
        monkeypatch.setattr("gluon_attn.export.int8.GRANULARITY", granularity)
        made = quantizer(net, images).build("naive", ["0", "1"])
        logits = graphs.logits_of(graphs.make_block(*made), images)[:, 0]
        errors[granularity] = np.abs(logits - expected).mean() / np.abs(expected).mean()
    assert errors["channel-wise"] < 0.1 * errors["tensor-wise"]


def test_most_sensitive_layer_comes_first():
    images = noise(8)
    images[7, 0, 0, 0] = 3000  # leaves the other pixels one level of 8 bits, in the first layer
    made = quantizer(built(conv_net(), images), images)
    order = made.sensitivity("naive", count=7)
    errors = [error for _, error in order]
    assert order[0][0] == "0" and errors == sorted(errors, reverse=True)
    assert sorted(name for name, _ in order) == sorted(made.layers)


def test_layers_that_do_not_exist_are_refused():
    images = np.ones((2, 3, 8, 8), np.float32)
    with pytest.raises(ValueError, match="layers conv7: not in the graph; it has 0, 1, 3"):
        quantizer(built(conv_net(), images), images).build("naive", ["conv7"])


@pytest.mark.parametrize("channels, safe", [(8, False), (31, False), (32, True)])
def test_short_strided_1x1_convolutions_stay_float32(channels, safe):
    """Their int8 kernel is wrong now and then with two threads, so a run cannot show it surely."""
    net = nn.HybridSequential()
    net.add(nn.Conv2D(channels, 3, in_channels=3), nn.Conv2D(8, 1, strides=2), nn.Conv2D(8, 1))
    images = noise(2)
    made = quantizer(built(net, images), images)
    assert list(made.unsafe) == ([] if safe else ["1"])
    assert list(made.layers) == (["0", "1", "2"] if safe else ["0", "2"])
    names = {node["name"] for node in operators(made.build("naive")[0])}
    assert {f"quantized_{node}" for node in made.layers.values()} <= names
    assert set(made.unsafe.values()) <= names


def test_all_layers_excluded_is_the_float32_graph():
    images = noise(4)
    net = built(conv_net(), images)
    made = quantizer(net, images)
    logits = graphs.logits_of(graphs.make_block(*made.build("naive", made.layers)), images)
    np.testing.assert_allclose(logits, net(mx.nd.array(images)).asnumpy(), rtol=0, atol=1e-5)


# --- every zoo family, and the traps -------------------------------------------------------------


class Direct(gluon.HybridBlock):
    """A dense layer right behind a convolution that is fused with its activation."""

    def __init__(self, kernel, **kwargs):
        super().__init__(**kwargs)
        self.conv = nn.Conv2D(32, kernel, in_channels=3, activation="relu")
        self.head = nn.Dense(3)

    def hybrid_forward(self, F, x):
        return self.head(self.conv(x))


@pytest.mark.parametrize("kernel", [3, 8])
def test_dense_right_behind_a_convolution(kernel):
    images = noise(5)
    net = built(Direct(kernel), images)
    block = static(graphs.make_block(*quantizer(net, images).build("naive")))
    for batch in CALLS:
        expected = net(mx.nd.array(images[:batch])).asnumpy()
        found = graphs.logits_of(block, images[:batch])
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


def test_flatten_before_dense_changes_no_number_and_only_dense_layers_that_flatten():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(8, 3, in_channels=3), nn.Dense(6, flatten=False), nn.Dense(4))
    images = noise(5)
    built(net, images)
    symbol, arrays = graphs.trace(net, ("logits",))
    edited = graphs.flatten_before_dense(symbol)
    assert [n["op"] for n in operators(edited)].count("Flatten") == 1
    assert edited.list_outputs() == ["logits_output"]
    assert edited.list_inputs() == symbol.list_inputs()
    block = graphs.make_block(edited, arrays)
    expected = net(mx.nd.array(images)).asnumpy()
    np.testing.assert_array_equal(graphs.logits_of(block, images), expected)
