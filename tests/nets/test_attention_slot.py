"""Where attention blocks sit in a net, what they are called, and what their gates do there."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from contracts.suites import awaken, noise

from gluon_attn.blocks import BLOCKS, SE, SRM, Slot, build_block
from gluon_attn.nets import resnet
from gluon_attn.nets.attention import attention_blocks, attention_view
from model_zoo import get_model


@pytest.fixture
def inner():
    """A block for the inside of a bottleneck, registered for one test."""

    class Inner(SE):
        place = "inner"

        @classmethod
        def in_slot(cls, channels, slot):
            block = cls(channels, reduction=2)
            block.built_for = slot
            return block

    BLOCKS.register("inner")(Inner)
    yield "inner"
    BLOCKS._entries.pop("inner")


@pytest.mark.parametrize("version", ["v1", "v1b"])
def test_inner_place_is_behind_the_norm_of_the_3x3_convolution(inner, version):
    net = resnet(50, version, classes=2, width=8, attention={"stage3": inner})
    assert [name for name, _ in net.attention_blocks()] == [f"stage3_unit{k}" for k in range(6)]
    unit = net.features[6][1]
    block = dict(net.attention_blocks())["stage3_unit1"]
    assert attention_blocks(net) == net.attention_blocks()
    assert block.channels == 32 and block.built_for == Slot("resnet50", 3, 1)
    net.initialize()
    x = noise(2, 128, 4, 4)
    conv1, norm1, relu1, conv2, norm2, (gate, relu2), conv3, norm3 = list(unit.body)
    assert gate is block
    y = relu1(norm1(conv1(x)))
    y = norm3(conv3(relu2(block(norm2(conv2(y))))))
    np.testing.assert_allclose(unit(x).asnumpy(), mx.nd.relu(x + y).asnumpy(), atol=1e-6)
    plain = set(resnet(50, version, classes=2, width=8)._collect_params_with_prefix())
    assert plain < set(net._collect_params_with_prefix())  # weight files of the plain net fit


def test_inner_place_of_a_unit_of_two_convolutions_is_the_end_of_the_branch(inner):
    net = resnet(18, width=8, attention=inner)
    assert [block.channels for _, block in net.attention_blocks()] == [8, 8, 16, 16, 32, 32, 64, 64]
    assert list(net.features[4][0].body)[5] is net.attention_blocks()[0][1]


def test_names_of_blocks_are_those_of_the_taps():
    net = get_model(
        "vaa_resnet18", width=8, input_size=64, attention={"stage2": "se", "stage4": "srm"}
    )
    names = [name for name, _ in attention_blocks(net)]
    assert names == ["stage2_unit0", "stage2_unit1", "stage4_unit0", "stage4_unit1"]
    assert names == [name for name, _ in net.backbone.attention_blocks()]
    assert [type(block) for _, block in attention_blocks(net)] == [SE, SE, SRM, SRM]
    for name, _ in attention_blocks(net):
        assert name.replace("unit", "activation") in net.backbone.tap_names


def test_build_block_takes_anything_that_is_registered_as_a_block():
    slot = Slot("resnet50", 1, 0)
    assert build_block("eca", 256, slot).kernel == 3
    assert build_block("eca_rule", 256, slot).kernel == 5
    with pytest.raises(ValueError, match="unknown attention block 'sse'; did you mean 'se'"):
        build_block("sse", 256, slot)


def test_variants_of_a_block_by_colon():
    class Reduced(SE):
        @classmethod
        def variant(cls, text):
            made = {"__init__": lambda self, channels: SE.__init__(self, channels, int(text))}
            return type(cls.__name__, (cls,), made)

    BLOCKS.register("reduced")(Reduced)
    try:
        net = resnet(18, width=8, attention={"stage4": "reduced:4"})
        hidden = [block.channel.reduce.weight.shape[0] for _, block in net.attention_blocks()]
        assert hidden == [16, 16]
    finally:
        BLOCKS._entries.pop("reduced")
    with pytest.raises(ValueError, match="'se:4': 'se' has no variants, write 'se'"):
        BLOCKS.get("se:4")


def test_attention_view_shows_states_and_actions_and_changes_nothing():
    net = resnet(18, "v1b", classes=3, width=8, attention={"stage3": "cbam"})
    net.initialize(mx.init.Xavier())
    for _, block in net.attention_blocks():
        awaken(block)
    net.hybridize(static_alloc=True, static_shape=True)
    x = noise(2, 3, 64, 64)
    logits = net(x).asnumpy()
    view = attention_view(net)
    outputs = dict(zip(view.output_names, view(x)))
    np.testing.assert_allclose(outputs["logits"].asnumpy(), logits, rtol=1e-5, atol=1e-5)
    assert view.attention_outputs == (
        "stage3_unit0_channel", "stage3_unit0_spatial",
        "stage3_unit1_channel", "stage3_unit1_spatial",
    )  # fmt: skip
    for name, block in net.attention_blocks():
        state = outputs[f"{name}_channel_state"]
        for kind, gate in block.gates:
            action = outputs[f"{name}_{kind}"]
            np.testing.assert_allclose(
                gate(state).asnumpy(), action.asnumpy(), rtol=1e-4, atol=1e-5
            )
            state = mx.nd.broadcast_mul(state, action)
    # the parameters are shared, and the net still runs on its own
    net.output.bias.set_data(mx.nd.array([5, 6, 7]))
    moved = dict(zip(view.output_names, view(x)))["logits"].asnumpy()
    np.testing.assert_allclose(moved, net(x).asnumpy(), rtol=1e-5, atol=1e-5)
    assert np.abs(moved - logits).max() > 1


def test_attention_view_of_a_plain_net_is_refused():
    with pytest.raises(ValueError, match="no attention block"):
        attention_view(resnet(18, width=8))
