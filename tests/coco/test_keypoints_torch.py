"""The head of Simple Baselines, its loss and gradients against PyTorch."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from keypoints_helpers import random_batch, tiny_net
from mxnet import autograd

from gluon_attn.coco.keypoints import HeatmapLoss

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")


def torch_head(net):
    """Return the same head in PyTorch, written from the paper: kernel 4, stride 2, padding 1."""
    layers, filters = [], net.head[0].weight.shape[0]
    for k in (0, 3, 6):
        weight = net.head[k].weight.data().asnumpy()  # (in, out, 4, 4), as PyTorch has it
        filters = weight.shape[0]
        layer = torch.nn.ConvTranspose2d(filters, weight.shape[1], 4, 2, 1, bias=False)
        layer.weight.data = torch.tensor(weight)
        layers += [layer, torch.nn.BatchNorm2d(weight.shape[1]), torch.nn.ReLU()]
    weight = net.output.weight.data().asnumpy()
    last = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    last.weight.data = torch.tensor(weight)
    torch.nn.init.zeros_(last.bias)
    return torch.nn.Sequential(*layers, last)


def joints_loss(output, target, weight):
    """Return the released code's loss: per joint half the mean squared error, averaged."""
    total = 0
    for k in range(output.shape[1]):
        w = weight[:, k, None, None]
        error = torch.nn.functional.mse_loss(output[:, k] * w, target[:, k] * w)
        total = total + 0.5 * error / output.shape[1]
    return total


@pytest.mark.parametrize("training", [True, False])
def test_head_and_loss(training):
    net = tiny_net()
    batch, head = random_batch(net), torch_head(net)
    head.train(training)
    features = net.backbone(batch.image)[0]
    features.attach_grad()
    with autograd.record(train_mode=training):
        maps = net.output(net.head(features))
        loss = HeatmapLoss()(maps, batch.label, batch.mask).mean()
    loss.backward(train_mode=training)
    x = torch.tensor(features.asnumpy(), requires_grad=True)
    output = head(x)
    expected = joints_loss(output, *(torch.tensor(a.asnumpy()) for a in (batch.label, batch.mask)))
    expected.backward()

    def same(ours, theirs):
        theirs = theirs.detach().numpy()
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours.asnumpy() / scale, theirs / scale, atol=1e-5)

    same(maps, output)
    assert loss.asscalar() == pytest.approx(expected.item(), rel=1e-5)
    same(features.grad, x.grad)
    for ours, theirs in zip((0, 3, 6), (0, 3, 6)):
        same(net.head[ours].weight.grad(), head[theirs].weight.grad)
    same(net.output.weight.grad(), head[9].weight.grad)
    same(net.output.bias.grad(), head[9].bias.grad)
    assert mx.nd.abs(features.grad).sum().asscalar() > 0
