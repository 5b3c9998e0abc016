"""The attention block of AutoLA: its laws, its numbers of parameters, its place in every net."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn
from parts_helpers import started

from gluon_attn.blocks import BLOCKS
from gluon_attn.nets.count import count
from gluon_attn.papers.autola.genotype import GENOTYPES, OPERATIONS, of_operations, save_genotype
from gluon_attn.papers.autola.hoga import HOGA, REDUCTIONS, SEARCH_REDUCTIONS
from gluon_attn.papers.autola.operations import operation
from model_zoo import get_model

# Computed from the official evaluation block; docs/autola.md.
BLOCK_PARAMETERS = {16: 1405, 32: 4262, 64: 14744, 128: 54812, 256: 211364, 512: 830132}
NETS = {  # millions of parameters, millions of multiply-adds, and the last digit's half
    "hoga_resnet20_cifar10": (0.3337, 49.8, 0.00005, 0.05),
    "hoga_resnet32_cifar10": (0.5690, 84.0, 0.00005, 0.05),
    "hoga_resnet56_cifar10": (1.0395, 152.6, 0.00005, 0.05),
    "hoga_resnet20_w64_cifar100": (5.194, 761.5, 0.0005, 0.05),
    "hoga_resnet32_w64_cifar100": (8.856, 1290.3, 0.0005, 0.05),
    "hoga_resnet56_w64_cifar100": (16.180, 2348.0, 0.0005, 0.05),
    "hoga_resnet18": (13.91, 2120, 0.005, 0.5),
    "hoga_resnet34": (25.82, 4272, 0.005, 0.5),
    "hoga_resnet50": (29.58, 4698, 0.005, 0.5),
    "hoga_resnet101": (52.16, 9042, 0.005, 0.5),
}
LINE = "SE@0/SE@0+CBAM@1/SE@0+SE_A_M@1+skip_connect@2/SE@0+SE@1+dil_conv_3x3@2+none@3"


def data(shape=(2, 16, 6, 7), seed=0):
    return mx.nd.array(np.random.default_rng(seed).normal(size=shape))


def learnt(block):
    return sum(int(np.prod(p.shape)) for p in block.collect_params().values() if p._differentiable)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 4, 12])
def test_a_gate_makes_nothing_larger_and_changes_no_sign(name, channels):
    x = data((2, channels, 5, 6))
    out = started(operation(name, channels))(x)
    assert out.shape == x.shape
    ratio = out.asnumpy() / x.asnumpy()
    if name in ("none", "skip_connect"):
        assert (ratio == (name == "skip_connect")).all()
    else:
        assert (ratio > 0).all() and (ratio < 1).all() and ratio.std() > 0


@pytest.mark.parametrize("name", ["sep_conv_3x3_spatial", "dil_conv_3x3_spatial", "SE", "SE_A_M"])
def test_which_axes_a_gate_varies_over(name):
    x = data((2, 8, 5, 6))
    ratio = started(operation(name, 8))(x).asnumpy() / x.asnumpy()
    axis = 1 if "spatial" in name else (2, 3)
    assert np.ptp(ratio, axis=axis).max() < 1e-5 < np.ptp(ratio, axis=(0, 1, 2, 3)) / 100


@pytest.mark.parametrize("name", ["SE_A_M", "CBAM"])
@pytest.mark.parametrize("train", [True, False])
def test_gradients_through_maxima_in_both_modes(name, train):
    """MXNet's global max pooling has a wrong gradient in evaluation mode; ours has none of it."""
    block, x, head = started(operation(name, 4)), data((2, 4, 3, 3)), data((2, 4, 3, 3), 1)
    direction = data((2, 4, 3, 3), 2)
    block.hybridize(static_alloc=True, static_shape=True)
    x.attach_grad()

    def value(x):
        with autograd.record(train_mode=train):
            return (block(x) * head).sum()

    value(x).backward(train_mode=train)
    slope = (x.grad * direction).sum().asscalar()
    step = 1e-2
    numeric = (value(x + step * direction) - value(x - step * direction)).asscalar() / (2 * step)
    assert slope == pytest.approx(numeric, rel=2e-2, abs=2e-3)


def test_unknown_operations_are_refused():
    with pytest.raises(ValueError, match="unknown operation 'SEE'"):
        operation("SEE", 4)


def nodes_of(block, x):
    return [n.asnumpy() for n in block.nodes(mx.nd, x, mx.nd.split(x, num_outputs=4, axis=1))]


def test_nodes_by_hand():
    """Only skips: every node is the sum of its group and all earlier nodes."""
    x = data()
    skips = of_operations(["skip_connect"] * 10)
    groups = np.split(x.asnumpy(), 4, axis=1)
    expected = []
    for group in groups:
        expected.append(group + sum(expected))
    for found, wanted in zip(nodes_of(started(HOGA(16, skips)), x), expected):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    names = ["skip_connect"] * 10
    names[1] = names[7] = "none"  # group 2 into node 2, node 1 into node 4
    first, second, third, fourth = nodes_of(started(HOGA(16, of_operations(names))), x)
    np.testing.assert_allclose(second, first, rtol=1e-6)
    np.testing.assert_allclose(fourth, groups[3] + second + third, rtol=1e-5, atol=1e-5)
    assert not np.any(nodes_of(started(HOGA(16, of_operations(["none"] * 10))), x))


def test_source_zero_is_the_own_group():
    """A node changes with its own group and with what it reads, and with nothing else."""
    block = started(HOGA(16))  # node 3 of the published genotype reads group 3, nodes 1 and 2
    x = data()
    before = nodes_of(block, x)
    for group, changed in ((0, {0, 1, 2, 3}), (1, {1, 2, 3}), (2, {2, 3}), (3, {3})):
        other = x.copy()
        other[:, 4 * group : 4 * group + 4] += 1
        after = nodes_of(block, other)
        assert {n for n in range(4) if np.abs(after[n] - before[n]).max() > 1e-6} == changed


def test_the_constant_gate_of_narrow_nets():
    narrow = started(HOGA(16))  # c // 8 = 0, C // 8 = 2
    assert narrow.descriptor.gate is None and not narrow.descriptor.collect_params().keys()
    x = data((2, 4, 3, 3))
    np.testing.assert_array_equal(narrow.descriptor(x).asnumpy(), 0.5 * x.asnumpy())
    floor = started(HOGA(16, narrow="floor"))
    assert learnt(floor) == learnt(narrow) + 2 * 4
    assert learnt(BLOCKS.get("hoga_floor")(16)) == learnt(floor)
    assert floor(data()).shape == (2, 16, 6, 7)
    assert HOGA(32).descriptor.gate is not None
    with pytest.raises(ValueError, match="narrow='half': valid are constant, floor"):
        HOGA(16, narrow="half")


@pytest.mark.parametrize("channels", sorted(BLOCK_PARAMETERS))
def test_parameters_of_a_block(channels):
    assert learnt(HOGA(channels)) == BLOCK_PARAMETERS[channels]


def test_search_form_has_no_scale_in_its_operations():
    searched = HOGA(64, reductions=SEARCH_REDUCTIONS, affine=False)
    trained = HOGA(64, reductions=REDUCTIONS)
    norms = 4 * 2 * 2 * 16 + (4 + 2) + 2 + 2 * 16  # four separable, one spatial, CBAM, one dilated
    # r1: 8 -> 4 doubles its gate, r2: 8 -> 16 halves it
    assert learnt(searched) == learnt(trained) - norms + 2 * 16 * 2 - 2 * 64 * 4


def test_channels_must_make_four_groups():
    with pytest.raises(ValueError, match="channels=18: valid are multiples of 4"):
        HOGA(18)


def slow_if_deep(name):
    deep = any(depth in name for depth in ("56", "101", "34", "32_w64"))
    return pytest.param(name, marks=pytest.mark.nightly) if deep else name


@pytest.mark.parametrize("name", [slow_if_deep(n) for n in sorted(NETS)])
def test_parameters_and_multiply_adds_of_nets(name):
    net = get_model(name)
    found = count(net, net.input_size)
    parameters, multiply_adds, first, second = NETS[name]
    assert found.parameters / 1e6 == pytest.approx(parameters, abs=first)
    assert found.multiply_adds / 1e6 == pytest.approx(multiply_adds, abs=second)


def positions(body):
    """Return the kinds of layers in a residual branch, nested ones in brackets."""
    return [positions(b) if isinstance(b, nn.HybridSequential) else type(b).__name__ for b in body]


def test_place_in_units_of_two_and_three_convolutions():
    basic = get_model("hoga_resnet20_cifar10").attention_blocks()
    assert [name for name, _ in basic] == [f"stage{s}_unit{u}" for s in (1, 2, 3) for u in range(3)]
    assert [block.channels for _, block in basic] == [16] * 3 + [32] * 3 + [64] * 3
    net = get_model("hoga_resnet50", width=16)
    blocks = net.attention_blocks()
    assert len(blocks) == 16 and [b.channels for _, b in blocks[::4]] == [16, 32, 64, 64]
    unit = net.features[4][0].body
    kinds = ["Conv2D", "BatchNorm", "Activation", "Conv2D", "BatchNorm", ["HOGA", "Activation"]]
    assert positions(unit) == [*kinds, "Conv2D", "BatchNorm"]
    unit = get_model("hoga_resnet18", width=16).features[4][0].body
    assert positions(unit)[-2:] == ["BatchNorm", "HOGA"]


def test_any_genotype_in_the_slot(tmp_path):
    save_genotype(tmp_path / "own.json", of_operations(["SE"] * 10))
    options = {"width": 8, "classes": 3, "input_size": 32}

    def net(attention, name="resnet18_v1b"):
        return get_model(name, attention=attention, **options)

    same = [net(f"hoga:{tmp_path / 'own.json'}"), net("hoga:hog_se"), net("hog_se")]
    assert len({count(n, (32, 32)).parameters for n in same}) == 1
    assert same[0].attention_blocks()[0][1].genotype == GENOTYPES.get("hog_se")
    found = net({"stage3": "hoga:" + LINE}).attention_blocks()
    assert [n for n, _ in found] == ["stage3_unit0", "stage3_unit1"]
    assert str(found[0][1].genotype) == LINE
    vaa = net("hoga", "vaa_resnet18_w16_synthetic")
    vaa.initialize()
    assert vaa(mx.nd.zeros((1, 3, 32, 32)))[0].shape == (1, 3)
    for text, message in (
        ("hoga:nothing", "unknown genotype 'nothing'"),
        ("hoga:" + LINE.replace("none", "nine"), "edge 10 .into node 4.: unknown operation 'nine'"),
        ("se:hog_se", "'se' has no variants"),
        ("hogaa", "unknown attention block 'hogaa'"),
    ):
        with pytest.raises(ValueError, match=message):
            net(text)
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"edges": [["SE", 1]]}))
    with pytest.raises(ValueError, match=f"{bad}: 1 edges; valid are 10"):
        net(f"hoga:{bad}")
