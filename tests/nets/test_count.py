"""Counts of parameters and multiply-adds against published and hand-made ones."""

from __future__ import annotations

from functools import lru_cache

import mxnet as mx
import pytest
from mxnet.gluon import HybridBlock, nn

from gluon_attn.nets.count import count
from model_zoo import get_model

# Parameters: torchvision's documentation; the tables of SRM, ECA and CBAM. Multiply-adds: the
# values usual for these nets (stride on the 3x3 convolution).
PUBLISHED = [
    ("resnet18_v1b", 11689512, 1.814e9),
    ("resnet34_v1b", 21797672, 3.664e9),
    ("resnet50_v1b", 25557032, 4.089e9),
    ("resnet101_v1b", 44549160, 7.801e9),
    ("resnet152_v1b", 60192808, 11.514e9),
    ("wide_resnet50_2", 68883240, 11.398e9),
    ("wide_resnet101_2", 126886696, 22.753e9),
    ("cifar_resnet20_cifar10", 272474, 40.81e6),
    ("cifar_resnet32_cifar10", 466906, 69.12e6),
    ("cifar_resnet56_cifar10", 855770, 125.75e6),
    ("eca_resnet50", 25557032 + 80, 4.089e9),  # the 80 that the paper quotes
    ("cifar_resnet20_w64_cifar100", 4350884, 647.7e6),
    ("cifar_resnet32_w64_cifar100", 7451044, 1100.7e6),
    ("cifar_resnet56_w64_cifar100", 13651364, 2006.7e6),
]
# In millions, as the papers and their code print them.
WITH_BLOCKS = [
    ("se_resnet50", 28.09), ("srm_resnet50", 25.62), ("srm_resnet101", 44.68),
    ("se_resnet101", 49.33), ("cbam_resnet50", 28.09),
]  # fmt: skip


@lru_cache(maxsize=None)
def counted(name, **options):
    """Return the count of a model of the zoo."""
    net = get_model(name, **options)
    return count(net, net.input_size)


@pytest.mark.parametrize("name, parameters, multiply_adds", PUBLISHED)
def test_published_nets(name, parameters, multiply_adds):
    found = counted(name)
    assert found.parameters == parameters
    assert abs(found.multiply_adds / multiply_adds - 1) < 5e-4


@pytest.mark.parametrize("name, millions", WITH_BLOCKS)
def test_published_nets_with_blocks(name, millions):
    assert round(counted(name).parameters / 1e6, 2) == millions


@pytest.mark.parametrize("factor, millions, giga", [(1.5, 25.88, 3.866), (2, 45.62, 6.696)])
def test_wide_resnet18_is_the_one_of_the_cbam_paper(factor, millions, giga):
    found = counted("wide_resnet18_2", factor=factor)
    assert round(found.parameters / 1e6, 2) == millions
    assert round(found.multiply_adds / 1e9, 3) == giga


class Everything(HybridBlock):
    """One layer of each kind, a shared one, a norm that learns nothing, and an unused one."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.conv = nn.Conv2D(8, (3, 5), strides=2, groups=2, in_channels=4)  # (B, 8, 3, 2)
            self.norm = nn.BatchNorm(in_channels=8, center=False, scale=False)
            self.up = nn.Conv2DTranspose(6, 2, strides=2, in_channels=8)  # (B, 6, 6, 4)
            self.pool = nn.MaxPool2D(2)  # (B, 6, 3, 2)
            self.dense = nn.Dense(5, in_units=6)
            self.unused = nn.Dense(100, in_units=100)
            self.stem = nn.Conv2D(4, 1, in_channels=3, use_bias=False)

    def hybrid_forward(self, F, x):
        x = self.pool(self.up(self.norm(self.conv(self.stem(x)))))
        x = F.Pooling(x, global_pool=True, pool_type="avg", kernel=(1, 1))
        return self.dense(x) + self.dense(2 * x)


def test_every_kind_of_layer_by_hand():
    net = Everything()
    found = count(net, (7, 8))
    stem, conv = 7 * 8 * 4 * 3, 3 * 2 * 8 * (2 * 3 * 5)
    up, dense = (8 * 3 * 2) * 6 * (2 * 2), 5 * 6
    assert found.multiply_adds == stem + conv + up + 2 * dense  # the shared layer works twice
    weights = 3 * 4 + (8 * 2 * 15 + 8) + (8 * 6 * 4 + 6) + (6 * 5 + 5)
    assert found.parameters == weights  # neither the norm's statistics nor the unused layer
    assert [op for _, op, _ in found.layers] == [
        "Convolution", "Convolution", "Deconvolution", "FullyConnected", "FullyConnected",
    ]  # fmt: skip
    pooled = count(net, (7, 8), pooling=True)
    assert pooled.multiply_adds - found.multiply_adds == 6 * 3 * 2 * 4 + 6 * 3 * 2
    assert "M parameters" in str(found)


def test_frozen_parameters_count_and_taps_do_not_matter():
    net = get_model("resnet18_w16_digits", taps=("stage2_activation0",))
    before = count(net, (64, 64))
    net.collect_params().setattr("grad_req", "null")
    assert count(net, (64, 64)) == before
    assert before[:2] == count(get_model("resnet18_w16_digits"), (64, 64))[:2]


def test_size_that_does_not_fit_is_an_error():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(2, 9, in_channels=3), nn.Flatten(), nn.Dense(2, in_units=8))
    with pytest.raises(ValueError, match="no shapes for an input of .1, 3, 5, 5."):
        count(net, (5, 5))
    with pytest.raises(ValueError, match="no shapes"):
        count(net, (20, 20))
    assert count(net, (10, 10)).multiply_adds == 2 * 2 * 2 * 3 * 81 + 2 * 8


def test_a_net_from_a_file_counts_the_same(tmp_path):
    net = get_model("se_resnet18_w16_digits", width=8)
    net.initialize()
    net.hybridize()
    net(mx.nd.zeros((1, 3, 64, 64)))
    net.export(str(tmp_path / "net"))
    loaded = mx.gluon.SymbolBlock.imports(
        str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params")
    )
    assert count(loaded, (64, 64))[:2] == count(net, (64, 64))[:2]
