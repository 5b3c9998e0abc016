"""Attention blocks: laws, published starts, kernels and decay rules.

The slot they sit in: test_attention_slot.py; PyTorch's numbers: test_blocks_torch.py.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from contracts.suites import awaken, noise
from mxnet import autograd, gluon
from numpy.lib.stride_tricks import sliding_window_view

from gluon_attn.blocks import BLOCKS, CBAM, ECA, SE, SRM
from gluon_attn.blocks.cbam import SpatialGate
from gluon_attn.blocks.eca import ECAGate, rule_kernel
from gluon_attn.blocks.gates import RowConv, apply_map, hidden_size, pool_channels, spread
from gluon_attn.blocks.srm import SRMGate
from gluon_attn.core.tracing import for_inference
from gluon_attn.nets import cifar_resnet, resnet, wide_resnet

NAMES = ("cbam", "eca", "eca_rule", "se", "srm")


def grad_of(function, *arrays):
    """Return the value of ``function`` and the gradients of its weighted sum."""
    for array in arrays:
        array.attach_grad()
    with autograd.record():
        value = function(*arrays)
        total = (value * noise(*value.shape, seed=5)).sum()
    total.backward()
    return value.asnumpy(), [array.grad.asnumpy() for array in arrays]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_pixels_place_means(name):
    """Channel maps ignore where a value is; a spatial map does not."""
    block = awaken(BLOCKS.get(name)(8))
    x = noise(2, 8, 6, 6)
    turned = x[:, :, ::-1]
    for kind, gate in block.gates:
        same = np.allclose(gate(x).asnumpy(), gate(turned).asnumpy(), atol=1e-6)
        assert same == (kind == "channel")


@pytest.mark.parametrize("kind, shape", [("channel", (2, 6, 1, 1)), ("spatial", (2, 1, 5, 3))])
def test_apply_map_is_the_broadcast_product_with_its_gradients(kind, shape):
    found = grad_of(
        lambda x, a: apply_map(mx.nd, kind, x, a), noise(2, 6, 5, 3), noise(*shape, seed=1)
    )
    expected = grad_of(mx.nd.broadcast_mul, noise(2, 6, 5, 3), noise(*shape, seed=1))
    np.testing.assert_array_equal(found[0], expected[0])
    for one, other in zip(found[1], expected[1]):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_spread_only_takes_the_shape_of_its_last_argument():
    x = noise(2, 6, 5, 3)
    x[:] = np.nan
    values = noise(2, 6, 1, 1)
    found = spread(mx.nd, "channel", values, x).asnumpy()
    np.testing.assert_array_equal(found, np.broadcast_to(values.asnumpy(), (2, 6, 5, 3)))


@pytest.mark.parametrize("channels, reduction, hidden", [(64, 16, 4), (16, 16, 1), (8, 16, 1)])
def test_hidden_layers_never_vanish(channels, reduction, hidden):
    assert hidden_size(channels, reduction) == hidden
    assert SE(channels).channel.reduce.weight.shape == (hidden, channels)
    assert CBAM(channels).channel.reduce.weight.shape == (hidden, channels)


@pytest.mark.parametrize(
    "build, values, message",
    [
        (SE, (0, -1, 2.0, None), "channels="),
        (lambda value: SE(16, reduction=value), (0, -4, 2.5), "reduction="),
        (lambda value: ECA(8, kernel=value), (0, 2, 3.0), "odd numbers"),
        (lambda value: CBAM(8, kernel=value), (0, 2, 3.0), "odd numbers"),
    ],
)
def test_sizes_are_checked(build, values, message):
    for value in values:
        with pytest.raises(ValueError, match=message):
            build(value)


def test_se_without_biases_has_none():
    keys = SE(32, bias=False)._collect_params_with_prefix()
    assert set(keys) == {"channel.reduce.weight", "channel.expand.weight"}


def test_srm_starts_at_one_half_and_is_not_decayed():
    block = SRM(6)
    block.initialize(mx.init.Xavier())
    assert set(block.channel.weight.data().asnumpy().ravel()) == {0.0}
    with autograd.record():
        attention = block.channel(noise(4, 6, 5, 5))
    np.testing.assert_array_equal(attention.asnumpy(), np.full((4, 6, 1, 1), 0.5, np.float32))
    block = awaken(block)
    before = {k: p.data().asnumpy() for k, p in block._collect_params_with_prefix().items()}
    trainer = gluon.Trainer(
        block.collect_params(), "sgd", {"learning_rate": 1, "wd": 0.5}, kvstore=None
    )
    with autograd.record():
        loss = block(noise(2, 6, 4, 4)).sum() * 0
    loss.backward()
    trainer.step(1)
    for key, parameter in block._collect_params_with_prefix().items():
        if "running" not in key:
            np.testing.assert_array_equal(parameter.data().asnumpy(), before[key])
    for name in ("se", "cbam", "eca"):  # the others are
        assert all(p.wd_mult == 1 for p in BLOCKS.get(name)(16).collect_params().values())


def test_cbam_spatial_gate_starts_at_one_half():
    gate = SpatialGate(8)
    gate.initialize(mx.init.Xavier())
    assert set(gate(noise(2, 8, 9, 9)).asnumpy().ravel()) == {0.5}
    assert gate.norm._kwargs["momentum"] == 0.99 and gate.norm._kwargs["eps"] == 1e-5


def test_starts_do_not_depend_on_the_nets_initialiser():
    for name, key, bound in (
        ("se", "channel.reduce.weight", 64**-0.5), ("se", "channel.reduce.bias", 64**-0.5),
        ("se", "channel.expand.weight", 0.5), ("cbam", "channel.reduce.weight", 64**-0.5),
        ("eca", "channel.conv.weight", 3**-0.5),
    ):  # fmt: skip
        block = BLOCKS.get(name)(64)
        block.initialize(mx.init.Constant(100))
        values = block._collect_params_with_prefix()[key].data().asnumpy()
        assert np.abs(values).max() <= bound and np.ptp(values) > bound / 4
    block = CBAM(64)
    block.initialize(mx.init.Constant(100))
    assert not block.channel.reduce.bias.data().asnumpy().any()
    values = np.concatenate([start_of_convolution(seed) for seed in range(20)])
    assert abs(values.std() - (2 / 49) ** 0.5) < 0.02  # variance 2 / fan-out


def start_of_convolution(seed):
    mx.random.seed(seed)
    gate = SpatialGate(4)
    gate.initialize()
    return gate.conv.weight.data().asnumpy().ravel()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("name, shape", [("se", (2, 32, 4, 5)), ("cbam", (3, 32, 5, 4))])
def test_gates_of_two_layers_against_numpy(name, shape):
    block, x = awaken(BLOCKS.get(name)(32)), noise(*shape).asnumpy()
    p = {n: a.data().asnumpy() for n, a in block._collect_params_with_prefix().items()}

    def dense(pooled):
        hidden = pooled @ p["channel.reduce.weight"].T + p["channel.reduce.bias"]
        return np.maximum(hidden, 0) @ p["channel.expand.weight"].T + p["channel.expand.bias"]

    assert p["channel.reduce.weight"].shape == (2, 32)
    score = dense(x.mean(axis=(2, 3)))
    if name == "cbam":
        score = score + dense(x.max(axis=(2, 3)))
    gated = x * sigmoid(score)[:, :, None, None]
    if name == "cbam":
        weight = p["spatial.conv.weight"][0]
        assert weight.shape == (2, 7, 7)
        pooled = np.stack([gated.max(axis=1), gated.mean(axis=1)], axis=1)
        windows = sliding_window_view(np.pad(pooled, [(0, 0)] * 2 + [(3, 3)] * 2), (7, 7), (2, 3))
        score = (windows * weight[:, None, None]).sum(axis=(1, 4, 5))
        share = (score - p["spatial.norm.running_mean"]) / np.sqrt(
            p["spatial.norm.running_var"] + 1e-5
        )
        gate = sigmoid(share * p["spatial.norm.gamma"] + p["spatial.norm.beta"])
        gated = gated * gate[:, None]
    np.testing.assert_allclose(block(mx.nd.array(x)).asnumpy(), gated, rtol=1e-4, atol=1e-5)


def test_srm_against_numpy_with_the_unbiased_variance():
    gate = awaken(SRMGate(3))
    x = noise(2, 3, 4, 5).asnumpy() + 3
    weight, norm = gate.weight.data().asnumpy()[:, :, 0, 0], gate.norm
    flat = x.reshape(2, 3, -1)
    std = np.sqrt(flat.var(axis=2, ddof=1) + 1e-5)
    z = weight[0] * flat.mean(axis=2) + weight[1] * std
    mean, var, gamma, beta = (
        p.data().asnumpy() for p in (norm.running_mean, norm.running_var, norm.gamma, norm.beta)
    )
    expected = sigmoid((z - mean) / np.sqrt(var + 1e-5) * gamma + beta)
    np.testing.assert_allclose(gate(mx.nd.array(x)).asnumpy()[:, :, 0, 0], expected, atol=1e-5)
    biased = np.sqrt(flat.var(axis=2) + 1e-5)  # the difference is large enough to be seen
    assert np.abs(biased - std).max() > 1e-2


def test_srm_of_constant_and_of_one_pixel_maps():
    for shape in ((2, 3, 1, 1), (2, 3, 4, 4)):
        block = awaken(SRM(3))
        x = mx.nd.ones(shape) * 2
        x.attach_grad()
        with autograd.record():
            y = block(x)
        y.backward()
        assert np.isfinite(y.asnumpy()).all() and np.isfinite(x.grad.asnumpy()).all()


@pytest.mark.parametrize("channels", [1, 3, 4, 24, 64])
def test_channel_pool_against_numpy(channels):
    x = noise(2, channels, 3, 4)
    pool = lambda x: mx.nd.concat(*pool_channels(mx.nd, x, channels), dim=1)  # noqa: E731
    found, (gradient,) = grad_of(pool, x)
    values = x.asnumpy()
    expected = np.stack([values.max(axis=1), values.mean(axis=1)], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    weights = noise(2, 2, 3, 4, seed=5).asnumpy()
    chosen = values == values.max(axis=1, keepdims=True)
    expected = chosen * weights[:, :1] + weights[:, 1:] / channels
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize(
    "channels, kernel, shape",
    [(2, 7, (3, 9, 5)), (2, 7, (2, 1, 1)), (1, 3, (2, 4, 6)), (3, 5, (1, 2, 8)), (2, 1, (2, 3, 4))],
)
def test_row_convolution_is_the_convolution_with_its_gradients(hybrid, channels, kernel, shape):
    layer = RowConv(channels, kernel)
    layer.initialize(mx.init.Normal(1))
    if hybrid:
        layer.hybridize()
    x = noise(shape[0], channels, *shape[1:])
    weight = layer.weight.data().copy()
    given = noise(shape[0], 1, *shape[1:], seed=1)
    found = []
    settings = {"kernel": (kernel, kernel), "pad": (kernel // 2,) * 2, "num_filter": 1}
    plain = lambda x: mx.nd.Convolution(x, weight, no_bias=True, **settings)  # noqa: E731
    for call, parameter in ((layer, layer.weight.data()), (plain, weight)):
        for array in (x, weight):
            array.attach_grad()
        with autograd.record():
            y = call(x)
        y.backward(given)
        found.append([a.asnumpy() for a in (y, x.grad, parameter.grad)])
    for one, other in zip(*found):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    with for_inference():
        graph = layer(mx.sym.var("data")).get_internals().list_outputs()
    assert len(graph) == 3  # input, weight, one operator


def test_eca_is_a_local_correlation_across_channels():
    gate = ECAGate(5)
    gate.initialize()
    kernel = gate.conv.weight.data().asnumpy().ravel()
    x = noise(1, 9, 2, 2)
    pooled = np.pad(x.asnumpy().mean(axis=(2, 3))[0], 2)
    expected = sigmoid(np.array([pooled[c : c + 5] @ kernel for c in range(9)]))
    np.testing.assert_allclose(gate(x).asnumpy().ravel(), expected, atol=1e-6)


@pytest.mark.parametrize(
    "channels, kernel", [(8, 3), (16, 3), (64, 3), (128, 5), (256, 5), (512, 5), (2048, 7)]
)
def test_rule_of_the_paper(channels, kernel):
    # log2(C)/2 + 1/2: 2, 2.5, 3.5, 4, 4.5, 5, 6; even numbers after cutting are raised by one
    assert rule_kernel(channels) == kernel


@pytest.mark.parametrize(
    "net, kernels",
    [(resnet(18, attention="eca"), [3, 5, 7, 7]),
     (resnet(34, attention="eca"), [3, 3, 5, 7]),
     (resnet(50, attention="eca"), [3, 5, 5, 7]),
     (resnet(101, attention="eca"), [3, 3, 5, 7]),
     (resnet(152, attention="eca"), [3, 3, 5, 7]),
     (resnet(50, attention="eca_rule"), [5, 5, 5, 7]),
     (resnet(50, attention="eca", width=16), [3, 5, 5, 5]),
     (wide_resnet(50, attention="eca"), [5, 5, 5, 7]),
     (cifar_resnet(20, attention="eca"), [3, 3, 3])],
    ids=lambda value: "".join(map(str, value)) if isinstance(value, list) else value._structure,
)  # fmt: skip
def test_kernels_of_the_released_models_and_elsewhere_the_rule(net, kernels):
    found = {}
    for name, block in net.attention_blocks():
        found.setdefault(name[:6], set()).add(block.kernel)
    assert [found[stage] for stage in sorted(found)] == [{kernel} for kernel in kernels]
