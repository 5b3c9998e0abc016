"""Backbones: taps, structure, attention slot."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import HybridBlock, SymbolBlock
from mxnet.gluon.model_zoo import vision

from gluon_attn.blocks import BLOCKS
from gluon_attn.nets import activation_shapes, name_outputs, resnet


def parameters(net):
    return sum(
        int(np.prod(p.shape)) for name, p in net.collect_params().items() if "running_" not in name
    )


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


def test_default_taps_of_resnet101_are_those_of_the_supplement():
    shapes = activation_shapes(resnet(101, taps=None), (224, 224))
    assert shapes == {
        "logits": (1000,),
        "stage3_activation22": (1024, 14, 14),
        "stage4_activation2": (2048, 7, 7),
    }


@pytest.mark.parametrize(
    "depth, version, count",
    # v1b: the counts of torchvision's documentation; v1: Gluon's own net
    [(18, "v1b", 11689512), (34, "v1b", 21797672), (50, "v1b", 25557032),
     (101, "v1b", 44549160), (152, "v1b", 60192808)],
)  # fmt: skip
def test_published_parameter_counts(depth, version, count):
    net = resnet(depth, version)
    net.infer_shape(mx.nd.zeros((1, 3, 224, 224)))
    assert parameters(net) == count


def test_unknown_names_are_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="stage3_activation1.*valid: stage1_activation0"):
        resnet(18, taps=("stage3_activation22",))
    with pytest.raises(ValueError, match="depth 20: valid are 18, 34"):
        resnet(20)
    with pytest.raises(ValueError, match="version 'v2'"):
        resnet(18, "v2")
    with pytest.raises(ValueError, match="unknown attention block"):
        resnet(18, attention="nothing")
    with pytest.raises(ValueError, match="stage5"):
        resnet(18, attention={"stage5": "se"})


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


def test_name_outputs_checks_the_count():
    net = resnet(18, width=8, taps=("stage1_activation0",))
    with pytest.raises(ValueError, match="names 2 outputs"):
        name_outputs(net, mx.nd.zeros((1,)))
