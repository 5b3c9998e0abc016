"""ResNets for small pictures and wide ResNets: structure, taps, slots, refusals.

Their numbers are compared with PyTorch in test_blocks_torch.py, their sizes in test_count.py.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon.model_zoo.vision.resnet import BasicBlockV1

from gluon_attn.nets import activation_shapes, cifar_resnet, name_outputs, resnet, wide_resnet
from gluon_attn.nets.resnet import WideBottleneckV1b
from model_zoo import get_model


def started(net, size):
    net.initialize(mx.init.Xavier())
    x = mx.nd.array(np.random.default_rng(0).normal(size=(2, 3, size, size)))
    return net, x


@pytest.mark.parametrize("depth, units", [(20, 3), (32, 5), (44, 7), (56, 9), (110, 18)])
def test_6n_plus_2_layers_in_three_stages(depth, units):
    net = cifar_resnet(depth, width=4)
    stages = list(net.features)[3:6]
    assert [len(stage) for stage in stages] == [units] * 3
    assert all(isinstance(unit, BasicBlockV1) for stage in stages for unit in stage)
    keys = net._collect_params_with_prefix()
    layers = [k for k in keys if k.endswith(".weight") and "downsample" not in k]
    assert len(layers) == depth
    shortcuts = [k for k in keys if k.endswith("downsample.0.weight")]
    assert shortcuts == ["features.4.0.downsample.0.weight", "features.5.0.downsample.0.weight"]


def test_maps_halve_twice():
    net = cifar_resnet(20, taps=("stage1_activation2", "stage2_activation0", "stage3_activation2"))
    assert activation_shapes(net, (32, 32)) == {
        "logits": (10,), "stage1_activation2": (16, 32, 32), "stage2_activation0": (32, 16, 16),
        "stage3_activation2": (64, 8, 8),
    }  # fmt: skip
    assert cifar_resnet(20).tap_names[-1] == "stage3_activation2" and len(net.tap_names) == 9


@pytest.mark.parametrize(
    "build, expected",
    [(lambda taps: cifar_resnet(110, width=2, taps=taps),
      ("stage2_activation17", "stage3_activation17")),
     (lambda taps: wide_resnet(50, width=8, taps=taps),
      ("stage3_activation5", "stage4_activation2")),
     (lambda taps: wide_resnet(18, width=8, taps=taps),
      ("stage3_activation1", "stage4_activation1"))],
    ids=["cifar", "wide50", "wide18"],
)  # fmt: skip
def test_default_taps_end_the_last_two_stages(build, expected):
    assert build(None).taps == expected
    assert build(expected[0]).taps == expected[:1]  # one name without a tuple


def test_taps_are_the_activations_of_the_units():
    net, x = started(cifar_resnet(20, classes=3, width=4, taps=None), 32)
    outputs = name_outputs(net, net(x))
    y = x
    for layer in list(net.features)[:5]:
        y = layer(y)
        y = y[0] if isinstance(y, list) else y
    np.testing.assert_array_equal(y.asnumpy(), outputs["stage2_activation2"].asnumpy())
    assert y.asnumpy().min() == 0
    net.hybridize(static_alloc=True, static_shape=True)
    for name, value in name_outputs(net, net(x)).items():
        np.testing.assert_allclose(value.asnumpy(), outputs[name].asnumpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [32, 48, 64, 33])
def test_any_input_size(size):
    net, x = started(cifar_resnet(20, classes=3, width=4, attention="cbam"), size)
    assert net(x).shape == (2, 3)


def test_attention_in_one_stage():
    net = cifar_resnet(20, width=8, attention={"stage3": "se"})
    assert [name for name, _ in net.attention_blocks()] == [f"stage3_unit{k}" for k in range(3)]
    assert {block.channels for _, block in net.attention_blocks()} == {32}
    assert cifar_resnet(20, width=8).attention_blocks() == []
    with pytest.raises(ValueError, match="'stage4': valid are stage1, stage2, stage3"):
        cifar_resnet(20, attention={"stage4": "se"})


@pytest.mark.parametrize(
    "call, message",
    [(lambda: cifar_resnet(18), "depth 18: valid are 8, 14, 20, 32, 44, 56, 110"),
     (lambda: cifar_resnet(20, width=0), "width 0"),
     (lambda: cifar_resnet(20, taps=("stage4_activation0",)), "unknown tap 'stage4_activation0'"),
     (lambda: cifar_resnet(20, attention="sse"), "unknown attention block 'sse'"),
     (lambda: wide_resnet(20), "depth 20: valid are 18, 34, 50"),
     (lambda: wide_resnet(50, factor=3), "wide ResNet-50 factor 3: valid is 2"),
     (lambda: wide_resnet(18, factor=0.001), "factor 0.001: valid is numbers that leave"),
     (lambda: wide_resnet(50, width=1.5), "width 1.5")],
)  # fmt: skip
def test_impossible_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wide_bottlenecks_double_the_inner_filters_only():
    wide, plain = wide_resnet(50, width=8), resnet(50, "v1b", width=8)
    for ours, theirs in zip(list(wide.features)[4:8], list(plain.features)[4:8]):
        assert all(isinstance(unit, WideBottleneckV1b) for unit in ours)
        for one, other in zip(ours, theirs):
            filters = [[unit.body[k].weight.shape[0] for k in (0, 3, 6)] for unit in (one, other)]
            assert filters[0] == [2 * filters[1][0], 2 * filters[1][1], filters[1][2]]


def test_wide_units_of_two_convolutions_keep_the_stem():
    net = wide_resnet(18, 1.5)
    assert net.features[0].weight.shape[0] == 64
    assert [stage[0].body[0].weight.shape[0] for stage in list(net.features)[4:8]] == [
        96, 192, 384, 768,
    ]  # fmt: skip
    # where the stem is narrower than the first stage, that too begins with a shortcut
    assert "features.4.0.downsample.0.weight" in net._collect_params_with_prefix()


@pytest.mark.parametrize("name", ["cifar_resnet20_cifar100", "wide_resnet50_2"])
def test_zoo_names_take_dropout_and_refuse_impossible_ones(name):
    net = get_model(name, width=8, dropout=0.5)
    assert type(list(net.features)[-1]).__name__ == "Dropout"
    with pytest.raises(ValueError, match="dropout=1"):
        get_model(name, dropout=1)
