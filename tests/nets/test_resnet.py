"""ResNets (ImageNet, CIFAR, wide): structure, taps, attention slot, refusals.

The numbers of the CIFAR and the wide ones are compared with PyTorch in test_blocks_torch.py.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import HybridBlock, SymbolBlock
from mxnet.gluon.model_zoo import vision
from mxnet.gluon.model_zoo.vision.resnet import BasicBlockV1

from gluon_attn.blocks import BLOCKS
from gluon_attn.export import graph as graphs
from gluon_attn.nets import activation_shapes, cifar_resnet, name_outputs, resnet, wide_resnet
from gluon_attn.nets.graph import record
from model_zoo import get_model


@pytest.mark.parametrize("depth", [18, 50])
def test_taps_equal_gluons_named_activations(depth, tmp_path):
    taps = ("stage4_activation1", "stage1_activation0", "stage3_activation1")
    theirs = getattr(vision, f"resnet{depth}_v1")(classes=3)
    theirs.initialize(mx.init.Xavier())
    x = mx.nd.random.normal(shape=(2, 3, 64, 64))
    logits = theirs(x)
    theirs.save_parameters(str(tmp_path / "net.params"))
    ours = resnet(depth, classes=3, taps=taps)
    ours.load_parameters(str(tmp_path / "net.params"))
    internals = theirs(mx.sym.var("data")).get_internals()
    named = [internals[f"{theirs.prefix}{tap}_output"] for tap in taps]
    named = SymbolBlock(named, [mx.sym.var("data")], params=theirs.collect_params())(x)
    for hybridize in (False, True):
        ours.hybridize(hybridize, static_alloc=hybridize, static_shape=hybridize)
        outputs = name_outputs(ours, ours(x))
        assert tuple(outputs) == ("logits",) + taps
        np.testing.assert_array_equal(outputs["logits"].asnumpy(), logits.asnumpy())
        for tap, expected in zip(taps, named):
            np.testing.assert_array_equal(outputs[tap].asnumpy(), expected.asnumpy())


def test_sizes_of_tapped_maps():
    # the default taps of ResNet-101 are those of VAA's supplement
    assert activation_shapes(resnet(101, taps=None), (224, 224)) == {
        "logits": (1000,), "stage3_activation22": (1024, 14, 14), "stage4_activation2": (2048, 7, 7)
    }  # fmt: skip
    net = cifar_resnet(20, taps=("stage1_activation2", "stage2_activation0", "stage3_activation2"))
    assert activation_shapes(net, (32, 32)) == {
        "logits": (10,), "stage1_activation2": (16, 32, 32), "stage2_activation0": (32, 16, 16),
        "stage3_activation2": (64, 8, 8),
    }  # fmt: skip
    assert net.tap_names[-1] == "stage3_activation2" and len(net.tap_names) == 9


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


@pytest.mark.parametrize("depth, units", [(20, 3), (44, 7), (110, 18)])
def test_cifar_nets_have_6n_plus_2_layers_in_three_stages(depth, units):
    net = cifar_resnet(depth, width=4)
    stages = list(net.features)[3:6]
    assert [len(stage) for stage in stages] == [units] * 3
    assert all(isinstance(unit, BasicBlockV1) for stage in stages for unit in stage)
    keys = net._collect_params_with_prefix()
    layers = [k for k in keys if k.endswith(".weight") and "downsample" not in k]
    assert len(layers) == depth
    shortcuts = [k for k in keys if k.endswith("downsample.0.weight")]
    assert shortcuts == ["features.4.0.downsample.0.weight", "features.5.0.downsample.0.weight"]


@pytest.fixture
def doubling():
    """A block that doubles its input, registered for one test."""

    class Doubling(HybridBlock):
        def __init__(self, channels):
            super().__init__()
            self.channels = channels

        def hybrid_forward(self, F, x):
            return x * 2

    BLOCKS.register("doubling")(Doubling)
    yield "doubling"
    BLOCKS._entries.pop("doubling")


def test_attention_slot_sits_on_the_residual_branch(doubling):
    net = resnet(18, width=8, attention={"stage2": doubling})
    stages = [net.features[4], net.features[5]]
    assert [len(stage[0].body) for stage in stages] == [5, 6]
    assert [unit.body[5].channels for unit in stages[1]] == [16, 16]
    unit = stages[1][1]
    unit.initialize()
    x = mx.nd.random.normal(shape=(1, 16, 4, 4))
    branch = x
    for layer in list(unit.body)[:5]:
        branch = layer(branch)
    np.testing.assert_allclose(unit(x).asnumpy(), mx.nd.relu(x + 2 * branch).asnumpy(), rtol=1e-6)
    assert [name for name, _ in cifar_resnet(20, width=4, attention={"stage3": "se"})
            .attention_blocks()] == [f"stage3_unit{k}" for k in range(3)]  # fmt: skip


@pytest.mark.parametrize(
    "call, message",
    [(lambda: resnet(18, taps=("stage3_activation22",)),
      "stage3_activation1.*valid: stage1_activation0"),
     (lambda: resnet(20), "depth 20: valid are 18, 34"),
     (lambda: resnet(18, "v2"), "version 'v2'"),
     (lambda: resnet(18, attention="nothing"), "unknown attention block"),
     (lambda: resnet(18, attention={"stage5": "se"}), "stage5"),
     (lambda: cifar_resnet(18), "depth 18: valid are 8, 14, 20, 32, 44, 56, 110"),
     (lambda: cifar_resnet(20, width=0), "width 0"),
     (lambda: cifar_resnet(20, taps=("stage4_activation0",)), "unknown tap 'stage4_activation0'"),
     (lambda: cifar_resnet(20, attention={"stage4": "se"}),
      "'stage4': valid are stage1, stage2, stage3"),
     (lambda: wide_resnet(20), "depth 20: valid are 18, 34, 50"),
     (lambda: wide_resnet(50, factor=3), "wide ResNet-50 factor 3: valid is 2"),
     (lambda: wide_resnet(18, factor=0.001), "factor 0.001: valid is numbers that leave"),
     (lambda: wide_resnet(50, width=1.5), "width 1.5"),
     (lambda: get_model("cifar_resnet20_cifar100", dropout=1), "dropout=1"),
     (lambda: get_model("wide_resnet50_2", dropout=1), "dropout=1"),
     (lambda: name_outputs(resnet(18, width=8, taps=("stage1_activation0",)), mx.nd.zeros(1)),
      "names 2 outputs")],
)  # fmt: skip
def test_impossible_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_cifar_nets_train_with_a_product_and_export_a_pooling():
    net = cifar_resnet(8, width=4)
    net.initialize()
    data = mx.nd.random.normal(shape=(2, 3, 32, 32))
    wanted = net(data).asnumpy()
    symbol, arrays = graphs.trace(net, ("logits",))
    operators = [node["op"] for node in graphs.nodes_of(symbol)]
    assert operators.count("Pooling") == 1 and "batch_dot" not in operators
    exported = graphs.make_block(symbol, arrays)(data).asnumpy()
    np.testing.assert_allclose(exported, wanted, rtol=1e-5, atol=1e-6)
    training = {node.op for node in record(net).graph.nodes}
    assert "batch_dot" in training and "Pooling" not in training


def test_zoo_names_take_dropout():
    for name in ("cifar_resnet20_cifar100", "wide_resnet50_2"):
        net = get_model(name, width=8, dropout=0.5)
        assert type(list(net.features)[-1]).__name__ == "Dropout"
