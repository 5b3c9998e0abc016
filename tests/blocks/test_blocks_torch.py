"""Every block against PyTorch, written from the papers: outputs and gradients, both modes."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from contracts.suites import awaken, noise
from mxnet import autograd

from gluon_attn.blocks import BLOCKS
from gluon_attn.nets import cifar_resnet, wide_resnet

torch = pytest.importorskip("torch")
functional = torch.nn.functional
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5


def batch_norm(x, p, key, training, eps=1e-5):
    """Batch-norm; in training on the statistics of the batch, else on the running ones."""
    stats = (p[f"{key}.running_mean"].clone(), p[f"{key}.running_var"].clone())
    return functional.batch_norm(
        x, *stats, p[f"{key}.gamma"], p[f"{key}.beta"], training=training, eps=eps
    )


def mlp(pooled, p):
    """Two dense layers with a ReLU between them."""
    hidden = torch.relu(pooled @ p["channel.reduce.weight"].T + p["channel.reduce.bias"])
    return hidden @ p["channel.expand.weight"].T + p["channel.expand.bias"]


def se(x, p, training):
    return x * torch.sigmoid(mlp(x.mean(dim=(2, 3)), p))[:, :, None, None]


def cbam(x, p, training):
    scores = mlp(x.mean(dim=(2, 3)), p) + mlp(x.amax(dim=(2, 3)), p)
    x = x * torch.sigmoid(scores)[:, :, None, None]
    pooled = torch.stack([x.max(dim=1).values, x.mean(dim=1)], dim=1)
    score = functional.conv2d(pooled, p["spatial.conv.weight"], padding=3)
    return x * torch.sigmoid(batch_norm(score, p, "spatial.norm", training))


def srm(x, p, training):
    flat = x.flatten(2)
    std = (flat.var(dim=2, unbiased=True) + 1e-5).sqrt()
    weight = p["channel.weight"][:, :, 0, 0]
    z = (flat.mean(dim=2) * weight[0] + std * weight[1])[:, :, None, None]
    return x * torch.sigmoid(batch_norm(z, p, "channel.norm", training))


def eca(x, p, training):
    weight = p["channel.conv.weight"][:, :, :, 0]  # (1, 1, k)
    row = x.mean(dim=(2, 3))[:, None, :]
    score = functional.conv1d(row, weight, padding=weight.shape[2] // 2)
    return x * torch.sigmoid(score)[:, 0, :, None, None]


THEIRS = {"se": se, "cbam": cbam, "srm": srm, "eca": eca}


def double(array, **options):
    return torch.tensor(array.asnumpy(), dtype=torch.float64, **options)


def as_tensors(block):
    """Return the parameters by name as float64 tensors that collect gradients."""
    return {
        key: double(p.data(), requires_grad="running" not in key)
        for key, p in block._collect_params_with_prefix().items()
    }


def close(found, expected):
    """Within 1e-5 of the largest value of the array, or of 1."""
    assert found.shape == expected.shape
    worst = np.abs(found - expected).max() / max(1, np.abs(expected).max())
    assert worst <= TOLERANCE, worst


@pytest.mark.parametrize("hybrid", [False, True], ids=["imperative", "static"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("shape", [(4, 32, 7, 5), (3, 24, 8, 8), (8, 64, 4, 4)])
@pytest.mark.parametrize("name", sorted(THEIRS))
def test_block_and_its_gradients(name, shape, training, hybrid):
    block = awaken(BLOCKS.get(name)(shape[1]))
    block.hybridize(hybrid, **({"static_alloc": True, "static_shape": True} if hybrid else {}))
    x, weights = noise(*shape), noise(*shape, seed=1)
    theirs = as_tensors(block)
    their_x = double(x, requires_grad=True)
    x.attach_grad()
    with autograd.record(train_mode=training):
        ours = block(x)
        total = (ours * weights).sum()
    total.backward(train_mode=training)
    expected = THEIRS[name](their_x, theirs, training)
    (expected * double(weights)).sum().backward()
    close(ours.asnumpy(), expected.detach().numpy())
    close(x.grad.asnumpy(), their_x.grad.numpy())
    for key, parameter in block._collect_params_with_prefix().items():
        if parameter.grad_req != "null":
            close(parameter.grad().asnumpy(), theirs[key].grad.numpy())


@pytest.mark.parametrize("name", ["cbam", "srm"])
def test_running_statistics_move_by_the_published_share(name):
    block = awaken(BLOCKS.get(name)(16))
    norm = block.spatial.norm if name == "cbam" else block.channel.norm
    share = 0.01 if name == "cbam" else 0.1  # in PyTorch's sense
    before = norm.running_mean.data().asnumpy()
    seen = []
    norm.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].asnumpy()))
    with autograd.record():
        loss = block(noise(4, 16, 6, 6)).sum()
    loss.backward()  # MXNet moves them here
    mx.nd.waitall()
    expected = torch.tensor(before.copy())
    count = len(before)
    functional.batch_norm(
        torch.tensor(seen[0]), expected, torch.ones(count), training=True, momentum=share
    )
    close(norm.running_mean.data().asnumpy(), expected.numpy())


def unit(x, p, key, stride, convolutions, attention):
    """A residual unit v1b: (position in the body, stride, padding) of each convolution."""
    y = x
    for place, step, padding in convolutions:
        y = functional.conv2d(y, p[f"{key}.body.{place}.weight"], stride=step, padding=padding)
        y = batch_norm(y, p, f"{key}.body.{place + 1}", False)
        y = torch.relu(y) if place != convolutions[-1][0] else y
    if attention is not None:
        prefix = f"{key}.body.{convolutions[-1][0] + 2}."
        y = attention(y, {k[len(prefix) :]: v for k, v in p.items() if k.startswith(prefix)}, False)
    if f"{key}.downsample.0.weight" in p:
        x = functional.conv2d(x, p[f"{key}.downsample.0.weight"], stride=stride)
        x = batch_norm(x, p, f"{key}.downsample.1", False)
    return torch.relu(x + y)


def stages(x, p, first, units, bottleneck, attention):
    """Run all stages; the first keeps the resolution, each other halves it."""
    for stage, count in enumerate(units):
        for number in range(count):
            stride = 2 if stage and not number else 1
            if bottleneck:
                layers = [(0, 1, 0), (3, stride, 1), (6, 1, 0)]
            else:
                layers = [(0, stride, 1), (3, 1, 1)]
            x = unit(x, p, f"features.{first + stage}.{number}", stride, layers, attention)
    return x.mean(dim=(2, 3)) @ p["output.weight"].T + p["output.bias"]


def random_net(net, size):
    net.infer_shape(mx.nd.zeros((1, 3, size, size)))
    net.initialize(mx.init.Xavier(magnitude=2))
    rng = np.random.default_rng(3)
    for parameter in net.collect_params().values():
        if parameter.name.endswith(("gamma", "running_var")):
            parameter.set_data(mx.nd.array(rng.uniform(0.5, 1.5, parameter.shape)))
        elif parameter.name.endswith(("beta", "bias", "running_mean")):
            parameter.set_data(mx.nd.array(rng.normal(0, 0.2, parameter.shape)))
    for _, block in net.attention_blocks():
        awaken(block)
    return net


@pytest.mark.parametrize("name", [None, *sorted(THEIRS)])
def test_cifar_resnet(name):
    net = random_net(cifar_resnet(20, classes=7, width=8, attention=name), 32)
    p, x = as_tensors(net), noise(3, 3, 32, 32)
    y = functional.conv2d(double(x), p["features.0.weight"], padding=1)
    y = torch.relu(batch_norm(y, p, "features.1", False))
    expected = stages(y, p, 3, [3, 3, 3], False, THEIRS.get(name)).detach().numpy()
    assert np.ptp(expected) > 0.1
    close(net(x).asnumpy(), expected)


@pytest.mark.parametrize("name", [None, "se"])
@pytest.mark.parametrize("depth, factor", [(18, 1.5), (50, 2)])
def test_wide_resnet(depth, factor, name):
    net = random_net(wide_resnet(depth, factor, classes=7, width=8, attention=name), 64)
    p, x = as_tensors(net), noise(2, 3, 64, 64)
    y = functional.conv2d(double(x), p["features.0.weight"], stride=2, padding=3)
    y = functional.max_pool2d(torch.relu(batch_norm(y, p, "features.1", False)), 3, 2, 1)
    units = [2, 2, 2, 2] if depth == 18 else [3, 4, 6, 3]
    expected = stages(y, p, 4, units, depth == 50, THEIRS.get(name)).detach().numpy()
    assert np.ptp(expected) > 0.1
    close(net(x).asnumpy(), expected)
