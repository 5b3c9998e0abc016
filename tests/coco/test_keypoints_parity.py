"""Keypoints against GluonCV's port of the released code, and head and loss against PyTorch."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from coco_helpers import heatmap_batch, tiny_net
from gluoncv_helpers import gluoncv_or_skip
from mxnet import autograd

from gluon_attn.coco.keypoints import HeatmapLoss, decode, flip_back, heatmap_targets
from gluon_attn.coco.keypoints_batches import affine, region_of
from gluon_attn.coco.names import FLIP_PAIRS
from model_zoo import get_model

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def gluoncv():
    return gluoncv_or_skip()


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def test_net(gluoncv):
    from gluoncv.model_zoo.simple_pose.simple_pose_resnet import SimplePoseResNet

    theirs = SimplePoseResNet("resnet18_v1b", num_deconv_filters=(64, 64, 64))
    theirs.initialize(mx.init.MSRAPrelu("in", 0))
    image = mx.nd.random.normal(shape=(2, 3, 128, 96))
    expected = theirs(image)
    net = get_model("simple_pose_resnet18_w16_tiny", width=64, filters=64)
    net.initialize(mx.init.Zero())
    ours, others = (list(n.collect_params().values()) for n in (net, theirs))
    assert len(ours) == len(others)
    for parameter, other in zip(ours, others):
        parameter.set_data(other.data())
    scale = expected.abs().max().asscalar()
    np.testing.assert_allclose(net(image).asnumpy() / scale, expected.asnumpy() / scale, atol=1e-5)


@pytest.mark.parametrize("angle", [0, 25, -60])
def test_affine(gluoncv, angle):
    from gluoncv.data.transforms.pose import get_affine_transform
    from gluoncv.data.transforms.presets.simple_pose import _box_to_center_scale

    for x, y, w, h in ((10, 20, 120, 40), (30, 5, 40, 200)):
        center, scale = _box_to_center_scale(x, y, w, h, 192 / 256)
        expected = get_affine_transform(center, scale, angle, [192, 256])
        region = region_of((x, y, x + w, y + h), (256, 192))._replace(angle=angle)
        np.testing.assert_allclose(affine(region, (256, 192)), expected, rtol=1e-4, atol=1e-3)


def test_targets(gluoncv):
    """Inside, at the border, so far outside that nothing is left, and not labelled."""
    from gluoncv.model_zoo.simple_pose.pose_target import SimplePoseGaussianTargetGenerator

    rng = np.random.default_rng(0)
    points = np.array([(10.4, 7.6), (0, 0), (23.9, 31.2), (-5.2, 4), (-9, 4), (40, 3), (5, 38.6)])
    points = np.concatenate([points, rng.uniform(-10, 45, (20, 2))])
    labelled = np.r_[2, 1, 2, 2, 2, 2, 0, rng.integers(0, 3, 20)]
    joints = np.zeros((27, 3, 2), np.float32)
    joints[:, :2, 0], joints[:, :2, 1] = points * 4, (labelled > 0)[:, None]
    generate = SimplePoseGaussianTargetGenerator(27, (96, 128), (24, 32), 2)
    expected, expected_weights = generate(joints)
    maps, weights = heatmap_targets(points, labelled, (32, 24), 2.0)
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    np.testing.assert_array_equal(weights, expected_weights[:, 0, 0])
    assert weights[:7].tolist() == [1, 1, 1, 1, 0, 0, 0] and maps[0].max() == 1
    out = np.full((27, 32, 24), 9, np.float32)
    assert heatmap_targets(points, labelled, (32, 24), out=out)[0] is out
    np.testing.assert_array_equal(out, maps)


def test_decoding_and_flipping(gluoncv):
    from gluoncv.data.transforms.pose import flip_heatmap, get_final_preds

    maps = np.random.default_rng(0).random((2, 17, 64, 48)).astype(np.float32)
    maps[0, 0] = 0
    center, scale = np.array([[96, 128]] * 2, np.float32), np.array([[192, 256]] * 2, np.float32)
    expected, heights = get_final_preds(mx.nd.array(maps), center, scale)  # 4 input pixels each
    places, found = decode(maps, "quarter")
    np.testing.assert_allclose(places * 4, expected.asnumpy(), atol=1e-3)
    np.testing.assert_allclose(found, heights.asnumpy()[..., 0])
    theirs = flip_heatmap(maps.copy(), FLIP_PAIRS, shift=False)
    np.testing.assert_array_equal(flip_back(maps, FLIP_PAIRS, "none"), theirs)
    theirs = flip_heatmap(maps.copy(), FLIP_PAIRS, shift=False)
    ours = flip_back(maps, FLIP_PAIRS, "pixel")
    np.testing.assert_array_equal(ours[..., 1:], theirs[..., :-1])


def torch_head(torch, net):
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


def joints_loss(torch, output, target, weight):
    """Return the released code's loss: per joint half the mean squared error, averaged."""
    total = 0
    for k in range(output.shape[1]):
        w = weight[:, k, None, None]
        error = torch.nn.functional.mse_loss(output[:, k] * w, target[:, k] * w)
        total = total + 0.5 * error / output.shape[1]
    return total


@pytest.mark.parametrize("training", [True, False])
def test_head_and_loss(torch, training):
    net = tiny_net("simple_pose")
    batch, head = heatmap_batch(net), torch_head(torch, net)
    head.train(training)
    features = net.backbone(batch.image)[0]
    features.attach_grad()
    with autograd.record(train_mode=training):
        maps = net.output(net.head(features))
        loss = HeatmapLoss()(maps, batch.label, batch.mask).mean()
    loss.backward(train_mode=training)
    x = torch.tensor(features.asnumpy(), requires_grad=True)
    output = head(x)
    expected = joints_loss(
        torch, output, *(torch.tensor(a.asnumpy()) for a in (batch.label, batch.mask))
    )
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
