"""Operations and block of AutoLA against PyTorch: outputs, gradients, training, evaluation."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from gluon_attn.papers.autola.genotype import GENOTYPES, OPERATIONS, of_operations
from gluon_attn.papers.autola.hoga import HOGA
from gluon_attn.papers.autola.operations import operation

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

from reference import hoga_torch  # noqa: E402

TOLERANCE = 1e-5
NAMES = GENOTYPES.names()
MIXED = of_operations(
    ["SE_A_M", "dil_conv_3x3_spatial", "CBAM", "none", "SE", "sep_conv_3x3", "dil_conv_3x3",
     "skip_connect", "sep_conv_3x3_spatial", "SE_A_M"]
)  # fmt: skip


def randomise(block, seed=0):
    """Give every parameter values of its own; batch norms statistics that matter."""
    block.initialize()
    rng = np.random.default_rng(seed)
    for name, p in block._collect_params_with_prefix().items():
        if name.endswith("running_var") or (name.endswith("gamma") and p.grad_req != "null"):
            p.set_data(mx.nd.array(rng.uniform(0.5, 1.5, p.shape)))
        elif name.endswith("running_mean") or (name.endswith("beta") and p.grad_req != "null"):
            p.set_data(mx.nd.array(rng.uniform(-0.3, 0.3, p.shape)))
        elif name.endswith(("weight", "bias")):
            fan = max(1, int(np.prod(p.shape[1:])))
            p.set_data(mx.nd.array(rng.normal(size=p.shape) / np.sqrt(fan)))


def close(actual, expected, what):
    scale = np.maximum(1, np.abs(expected).max()) if expected.size else 1
    assert np.abs(actual - expected).max() <= TOLERANCE * scale, what


def compare(block, rule, channels, train, size=7):
    """Compare outputs and all gradients of one block with a rule in PyTorch."""
    rng = np.random.default_rng(1)
    x, head = (rng.normal(size=(4, channels, size, size + 1)).astype(np.float32) for _ in "ab")
    head /= len(head)  # as the mean of a loss over the batch has it
    arrays = {n: p.data().asnumpy() for n, p in block._collect_params_with_prefix().items()}
    block.hybridize(static_alloc=True, static_shape=True)
    data = mx.nd.array(x)
    data.attach_grad()
    with autograd.record(train_mode=train):
        out = block(data)
    out.backward(mx.nd.array(head), train_mode=train)
    wide = {n: torch.tensor(a, dtype=torch.float64, requires_grad=True) for n, a in arrays.items()}
    other = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    expected = rule(hoga_torch.Layers(wide, train), other)
    (expected * torch.tensor(head, dtype=torch.float64)).sum().backward()
    close(out.asnumpy(), expected.detach().numpy(), "output")
    close(data.grad.asnumpy(), other.grad.numpy(), "gradient of the input")
    checked = 0
    for name, parameter in block._collect_params_with_prefix().items():
        if parameter.grad_req != "null":
            close(parameter.grad().asnumpy(), wide[name].grad.numpy(), f"gradient of {name}")
            checked += 1
    return checked


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name, train, affine):
    block = operation(name, 8, affine)
    randomise(block)
    checked = compare(block, hoga_torch.OPERATIONS[name], 8, train)
    convolutions = {"none": 0, "skip_connect": 0, "sep_conv_3x3": 4, "sep_conv_3x3_spatial": 4,
                    "CBAM": 5}  # fmt: skip
    norms = {"sep_conv_3x3": 4, "sep_conv_3x3_spatial": 4, "dil_conv_3x3": 2, "CBAM": 2,
             "dil_conv_3x3_spatial": 2}  # fmt: skip
    assert checked == convolutions.get(name, 2) + (norms.get(name, 0) if affine else 0)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("reductions", [(8, 8), (4, 16)], ids=["trained", "searched"])
@pytest.mark.parametrize("channels", [16, 24, 64])
@pytest.mark.parametrize(
    "genotype", [*map(GENOTYPES.get, NAMES), MIXED], ids=[*NAMES, "mixed"]
)  # fmt: skip
def test_block(genotype, channels, reductions, train):
    affine = reductions == (8, 8)
    block = HOGA(channels, genotype, reductions, affine)
    randomise(block)

    def rule(layers, x):
        return hoga_torch.hoga(layers, x, genotype.edges, reductions)

    assert compare(block, rule, channels, train) > 20
