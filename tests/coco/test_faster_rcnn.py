"""Faster R-CNN: pyramid, proposals, alignment, targets and losses against NumPy, training."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from gluoncv_helpers import gluoncv_or_skip

gluoncv_or_skip()
pytest.importorskip("pycocotools")

from coco_helpers import batch_of, method_of, overlaps, step_of, tiny_net  # noqa: E402

from gluon_attn.coco.faster_rcnn import (  # noqa: E402
    STRIDES,
    RpnTargets,
    TwoStageLoss,
    _aligned,
)
from gluon_attn.coco.parts import layers_of, pyramid  # noqa: E402
from model_zoo import get_model  # noqa: E402

RNG = np.random.default_rng


# ------------------------------------------------------------------------------ structure


def test_the_published_net_has_mmdetections_parts():
    net = get_model("faster_rcnn_fpn_resnet50_coco")
    assert net.input_size == (800, 1344) and net.sides == (800, 1333)
    assert (net.train_proposals, net.test_proposals) == (2000, 1000)
    shapes = {n: p.shape for n, p in net._collect_params_with_prefix().items()}
    assert shapes["roi.shared.0.weight"] == (1024, 256 * 49)
    assert shapes["roi.classify.weight"] == (81, 1024)
    assert shapes["roi.refine.weight"] == (320, 1024)
    assert shapes["first.head.conv1.0.weight"] == (256, 256, 3, 3)
    assert shapes["first.neck.5_conv_lat_weight"] == (256, 2048, 1, 1)
    frozen = {n for n, p in net._collect_params_with_prefix().items()
              if p in net.frozen_parameters()}  # fmt: skip
    assert frozen and all(".features.0." in n or ".features.1." in n or ".features.4." in n
                          for n in frozen)  # fmt: skip
    norms = layers_of(net, mx.gluon.nn.BatchNorm)
    assert norms and all(n._kwargs["use_global_stats"] for n in norms)


def test_anchors_are_three_of_eight_strides_on_every_level():
    net = tiny_net("faster_rcnn", anchor_scale=8)
    found = net.first(mx.nd.zeros((1, 3, 96, 128)))[10:15]
    for stride, anchors in zip(STRIDES, found):
        boxes = anchors.asnumpy()[0]
        sides = (boxes[:3, 2:] - boxes[:3, :2]) + 1
        np.testing.assert_allclose(sides.prod(1) ** 0.5, 8 * stride, rtol=0.07)  # whole pixels
        np.testing.assert_allclose(sides[:, 1] / sides[:, 0], [0.5, 1, 2], rtol=0.1)
        centres = (boxes[:3, :2] + boxes[:3, 2:]) / 2
        np.testing.assert_allclose(centres, (stride - 1) / 2, atol=0.51)
        rows = -(-96 // stride)
        assert len(boxes) == 3 * rows * -(-128 // stride)


def test_pyramid_adds_upsampled_maps():
    """With 1x1 laterals of ones and 3x3 convolutions that copy, the sums can be read off."""
    block = pyramid(1)
    block.initialize()
    maps = [mx.nd.ones((1, 2, 16 >> k, 16 >> k)) * 10**k for k in range(4)]
    block(*maps)
    for name, parameter in block.collect_params().items():
        value = np.zeros(parameter.shape, np.float32)
        if name.endswith("lat_weight"):
            value[:] = 0.5
        elif name.endswith("weight"):
            value[:, :, 1, 1] = 1
        parameter.set_data(mx.nd.array(value))
    found = [m.asnumpy() for m in block(*maps)]
    for k, expected in enumerate((1111, 1110, 1100, 1000, 1000)):
        assert found[k].shape == (1, 1, *(max(1, 16 >> k),) * 2)
        np.testing.assert_allclose(found[k], expected)


def test_images_of_a_batch_do_not_meet():
    """The second image alone: the features of its boxes come from itself."""
    net = tiny_net("faster_rcnn")
    found = net.first(mx.nd.array(RNG(1).normal(size=(2, 3, 96, 128))))
    boxes = mx.nd.array(RNG(2).uniform(0, 40, (2, 5, 4)) + [0, 0, 40, 40])
    both = net.roi(boxes, *found[15:])[0].asnumpy()
    alone = net.roi(boxes[1:], *[m[1:] for m in found[15:]])[0].asnumpy()
    np.testing.assert_allclose(both[1:], alone, rtol=1e-4, atol=1e-4)


def test_boxes_are_looked_at_on_their_own_level():
    """Level by level, MXNet's operator on the boxes of that level alone, with gradients."""
    rng = RNG(0)
    maps = [mx.nd.array(rng.normal(size=(2, 3, 256 // s, 256 // s))) for s in STRIDES[:4]]
    corner = rng.uniform(0, 150, (30, 2))
    corners = np.concatenate([corner, np.minimum(corner + rng.uniform(5, 300, (30, 2)), 255)], 1)
    rows = np.concatenate([rng.integers(0, 2, (30, 1)), corners], 1).astype(np.float32)
    weight = mx.nd.array(rng.normal(size=(30, 3, 7, 7)))
    for m in maps:
        m.attach_grad()
    with mx.autograd.record():
        found = _aligned(mx.nd, mx.nd.array(rows), maps)
        (found * weight).sum().backward()
    gradients = [m.grad.asnumpy() for m in maps]
    side = np.sqrt((rows[:, 3] - rows[:, 1]) * (rows[:, 4] - rows[:, 2]))
    level = np.clip(np.floor(4 + np.log2(side / 224 + 1e-6)), 2, 5)  # Eq. 1 of the FPN paper
    assert len(set(level)) > 1
    for k, m in enumerate(maps):
        mine = np.flatnonzero(level == k + 2)
        if not len(mine):
            assert not gradients[k].any()
            continue
        m.attach_grad()
        with mx.autograd.record():
            alone = mx.nd.contrib.ROIAlign(m, mx.nd.array(rows[mine]), (7, 7), 1 / STRIDES[k], 2)
            (alone * weight[mine]).sum().backward()
        np.testing.assert_allclose(found.asnumpy()[mine], alone.asnumpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gradients[k], m.grad.asnumpy(), rtol=1e-4, atol=1e-5)


def test_proposals_are_sorted_distinct_and_inside_the_image():
    net = tiny_net("faster_rcnn")
    images = mx.nd.array(RNG(3).normal(size=(2, 3, 96, 128)))
    boxes, scores = (a.asnumpy() for a in net.propose(images, *net.first(images)[:15]))
    assert boxes.shape == (2, 50, 4) and scores.shape == (2, 50, 1)
    for found, score in zip(boxes, scores[..., 0]):
        known = found[score > 0]
        assert (np.diff(score) <= 0).all() and len(known) > 10
        assert known.min() >= 0 and (known <= [128, 96, 128, 96]).all()


# ------------------------------------------------------------------------------ targets and losses


def test_anchors_to_learn_from_against_numpy():
    rng = RNG(4)
    corner = rng.uniform(-20, 100, (900, 2))
    anchors = np.concatenate([corner, corner + rng.uniform(10, 50, (900, 2))], 1)
    anchors = anchors.astype(np.float32)
    truth = np.array([[10, 10, 40, 40], [60, 20, 100, 70]], np.float32)
    boxes = np.concatenate([truth, np.full((3, 4), -1)]).astype(np.float32)
    arrays = [mx.nd.array(a) for a in (anchors, boxes, np.array([128, 96]))]
    labels, offsets = (a.asnumpy() for a in RpnTargets(2000, 0.5)(*arrays))
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2:] < [128, 96]).all(1)
    overlap = np.where(inside[:, None], overlaps(anchors[:, None], truth), -1)
    positive = (overlap.max(1) >= 0.7) | (overlap == overlap.max(0)).any(1)
    negative = inside & (overlap.max(1) < 0.3) & ~positive
    np.testing.assert_array_equal(labels, np.where(positive, 1, np.where(negative, 0, -1)))
    mine = truth[overlap.argmax(1)][positive]
    ours = anchors[positive]
    size = ours[:, 2:] - ours[:, :2]
    shift = ((mine[:, :2] + mine[:, 2:]) - (ours[:, :2] + ours[:, 2:])) / 2 / size
    expected = np.concatenate([shift, np.log((mine[:, 2:] - mine[:, :2]) / size)], 1)
    np.testing.assert_allclose(offsets[positive], expected, rtol=1e-4, atol=1e-5)
    assert not offsets[~positive].any()


def test_anchors_are_chosen_in_the_right_numbers():
    anchors = np.tile(np.array([[10, 10, 40, 40]], np.float32), (300, 1))
    anchors[150:] = 50, 50, 80, 80
    arrays = [mx.nd.array(a) for a in (anchors, anchors[:1], np.array([128, 96]))]
    for samples, share, wanted in ((64, 0.5, (32, 32)), (256, 0.25, (64, 150)), (8, 0.0, (0, 8))):
        labels = RpnTargets(samples, share)(*arrays)[0].asnumpy()
        assert ((labels == 1).sum(), (labels == 0).sum()) == wanted
    empty = [arrays[0], mx.nd.full((2, 4), -1), arrays[2]]
    labels, offsets = (a.asnumpy() for a in RpnTargets(64, 0.5)(*empty))
    assert (labels == 0).sum() == 64 and not (labels == 1).any() and not offsets.any()
    first, second = (RpnTargets(64, 0.5)(*arrays)[0].asnumpy() for _ in range(2))
    assert (first != second).any()  # chosen again
    mx.random.seed(5)
    first = RpnTargets(64, 0.5)(*arrays)[0].asnumpy()
    mx.random.seed(5)
    np.testing.assert_array_equal(first, RpnTargets(64, 0.5)(*arrays)[0].asnumpy())


def test_losses_against_numpy():
    rng = RNG(6)
    rpn_logits, rpn_offsets = rng.normal(size=(2, 20)) * 3, rng.normal(size=(2, 20, 4))
    rpn_labels = rng.integers(-1, 2, (2, 20)).astype(float)
    rpn_targets = rng.normal(size=(2, 20, 4))
    logits, offsets = rng.normal(size=(2, 9, 4)), rng.normal(size=(2, 9, 3, 4))
    classes = rng.integers(-1, 4, (2, 9)).astype(float)
    targets = rng.normal(size=(2, 9, 4))
    arrays = (rpn_logits, rpn_offsets, rpn_labels, rpn_targets, logits, offsets, classes, targets)
    loss = TwoStageLoss()
    loss.hybridize()
    found = [f.asnumpy().mean() for f in loss(*map(mx.nd.array, arrays))]

    def smooth(x, beta):
        x = np.abs(x)
        return np.where(x < beta, x**2 / (2 * beta), x - beta / 2)

    sampled, positive = rpn_labels >= 0, rpn_labels > 0
    p = 1 / (1 + np.exp(-rpn_logits))
    entropy = -np.where(positive, np.log(p), np.log(1 - p))[sampled].sum() / sampled.sum()
    boxes = smooth(rpn_offsets - rpn_targets, 1 / 9)[positive].sum() / sampled.sum()
    sampled, positive = classes >= 0, classes > 0
    log = logits - np.log(np.exp(logits).sum(2, keepdims=True))
    picked = np.take_along_axis(log, np.maximum(classes, 0).astype(int)[..., None], 2)[..., 0]
    own = np.take_along_axis(
        offsets, np.maximum(classes - 1, 0).astype(int)[..., None, None].repeat(4, 3), 2
    )[:, :, 0]
    expected = [entropy, boxes, -picked[sampled].sum() / sampled.sum(),
                smooth(own - targets, 1.0)[positive].sum() / sampled.sum()]  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# ------------------------------------------------------------------------------ training


def test_frozen_stages_and_statistics_stay():
    net = tiny_net("faster_rcnn", frozen_stages=1, norm_eval=True)
    _, same = step_of(method_of("faster_rcnn", net, samples=64, warmup_updates=0), batch_of(2, 128))
    changed = set(net._collect_params_with_prefix()) - same
    trunk = {n for n in changed if "trunk" in n}
    assert trunk and not any("running" in n for n in changed)
    assert {n.split(".")[3] for n in trunk} == {"5", "6", "7"}  # stages 2 to 4
