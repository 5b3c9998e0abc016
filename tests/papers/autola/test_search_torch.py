"""The super-network's block against the same in PyTorch: outputs and gradients."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from parts_helpers import started
from test_search import operations_of

from gluon_attn.papers.autola.genotype import EDGES
from gluon_attn.papers.autola.supernet import PASSES, SearchHOGA

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

from tools.bench import torch_search  # noqa: E402

CHANNELS = 16


def copied(block):
    """Return the PyTorch block with the parameters of ours, in float64."""
    theirs = torch_search.attention(CHANNELS).double()
    given = {n: p.data().asnumpy() for n, p in block._collect_params_with_prefix().items()}

    def fill(parameters, arrays):
        parameters, arrays = list(parameters), list(arrays)
        assert len(parameters) == len(arrays)
        for parameter, array in zip(parameters, arrays):
            parameter.data = torch.tensor(array.reshape(parameter.shape), dtype=torch.float64)

    for source, edges in enumerate(PASSES):
        for number, edge in enumerate(edges):
            own = operations_of(block.passes[source], number, len(edges), CHANNELS // 4)
            for module, ours in zip(theirs.edges[edge], own.values()):
                learnt = ours._collect_params_with_prefix().items()
                keep = (p.data().asnumpy() for n, p in learnt if n.endswith(("weight", "bias")))
                fill(module.parameters(), keep)
    fill(theirs.descriptor.parameters(),
         (given[f"descriptor.gate.{n}.weight"] for n in ("squeeze", "excite")))  # fmt: skip
    fill(theirs.rescale.parameters(),
         (given[f"rescale.gate.{n}.weight"] for n in ("squeeze", "excite")))  # fmt: skip
    names = ("0.weight", "1.gamma", "1.beta", "3.weight", "4.gamma", "4.beta")
    fill(theirs.project.parameters(), (given[f"project.{n}"] for n in names))
    return theirs.train()


def test_block_in_training_mode():
    rng = np.random.default_rng(0)
    block = started(SearchHOGA(CHANNELS))
    block.hybridize(static_alloc=True, static_shape=True)
    theirs = copied(block)
    x = rng.normal(size=(4, CHANNELS, 8, 8)).astype(np.float32)
    head = rng.normal(size=x.shape).astype(np.float32) / len(x)
    share = rng.dirichlet(np.ones(9), size=len(EDGES)).astype(np.float32)
    data, weights = mx.nd.array(x), [mx.nd.array(share[list(edges)]) for edges in PASSES]
    for array in (data, *weights):
        array.attach_grad()
    with autograd.record():
        out = block(data, *weights)
    out.backward(mx.nd.array(head))
    other, mixed = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, share))
    expected = theirs(other, mixed)
    (expected * torch.tensor(head, dtype=torch.float64)).sum().backward()

    def close(actual, wanted, what):
        scale = max(1, np.abs(wanted).max())
        assert np.abs(actual - wanted).max() <= 1e-5 * scale, what

    close(out.asnumpy(), expected.detach().numpy(), "output")
    close(data.grad.asnumpy(), other.grad.numpy(), "gradient of the input")
    for weight, edges in zip(weights, PASSES):
        close(weight.grad.asnumpy(), mixed.grad.numpy()[list(edges)], "gradient of the shares")
    # Layer by layer: gradients of the parameters, in the order in which they lie side by side.
    for source, edges in enumerate(PASSES):
        for row, (name, index) in enumerate((("sep.0", 0), ("sep.5", -1))):
            found = block.passes[source]._collect_params_with_prefix()[f"{name}.weight"].grad()
            wanted = [list(theirs.edges[edge][2].parameters())[index].grad for edge in edges]
            close(found.asnumpy(), torch.cat(wanted).numpy(), (source, name, row))
