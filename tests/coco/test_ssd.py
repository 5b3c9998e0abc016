"""SSD: structure, anchors, targets and loss against NumPy written from the paper, training."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from gluoncv_helpers import gluoncv_or_skip

gluoncv = gluoncv_or_skip()
pytest.importorskip("pycocotools")

from coco_helpers import method_of, overlaps, tiny_net  # noqa: E402

from gluon_attn.coco.parts import layers_of  # noqa: E402
from gluon_attn.coco.ssd import (  # noqa: E402
    MultiBoxLoss,
    SsdTargets,
    anchor_sizes,
    anchor_steps,
    feature_sizes,
)
from model_zoo import get_model  # noqa: E402

RNG = np.random.default_rng


# ------------------------------------------------------------------------------ structure


def test_numbers_of_ssd300():
    """Liu et al., and the default boxes of the released code for COCO."""
    assert feature_sizes(300) == [38, 19, 10, 5, 3, 1]
    np.testing.assert_allclose(anchor_sizes(300), [21, 45, 99, 153, 207, 261, 315])
    np.testing.assert_allclose(anchor_steps(300), [8, 16, 32, 64, 100, 300])


@pytest.fixture(scope="module")
def published():
    return get_model("ssd300_resnet50_coco")


def test_the_published_net_has_8732_anchors_and_the_modified_backbone(published):
    net = published
    group = mx.sym.Group(list(net.raw(mx.sym.var("data"))))
    shapes = group.infer_shape(data=(2, 3, 300, 300))[1]
    assert shapes == [(2, 8732, 81), (2, 8732, 4), (1, 8732, 4)]
    names = set(net.raw.trunk._collect_params_with_prefix())
    plain = get_model("resnet50_v1b")._collect_params_with_prefix()
    # conv5_x (features.7) and the classifier are gone, the rest keeps its names
    assert names == {n for n in plain if not n.startswith(("features.7.", "output."))}
    strides = {
        c._kwargs["stride"] for c in layers_of(net.raw.trunk.features[6], mx.gluon.nn.Conv2D)
    }
    assert strides == {(1, 1)}
    assert net.backbone.features[7] is not None and len(list(net.backbone.features)) == 9


def test_every_convolution_of_the_extra_layers_has_a_batch_norm(published):
    raw = published.raw
    kinds = [type(layer).__name__ for block in raw.extra for layer in block]
    assert kinds == ["Conv2D", "BatchNorm", "Activation"] * 10
    assert all(c.bias is None for c in layers_of(raw.extra, mx.gluon.nn.Conv2D))
    with_norm = get_model("ssd96_resnet18_w16_tiny", predictor_norm=True).raw
    assert [type(p).__name__ for p in with_norm.class_predictors[0]] == ["ConvPredictor",
                                                                         "BatchNorm"]  # fmt: skip


def test_anchors_are_those_of_the_definition():
    """Every centre, side and ratio of a small net, written again from the paper's section 2.2."""
    raw = tiny_net("ssd").raw
    found = raw(mx.nd.zeros((1, 3, 96, 96)))[2].asnumpy()[0]
    sizes, ratios = anchor_sizes(96, 4), ((2,), (2, 3), (2, 3), (2, 3))
    expected = []
    for k, (side, step) in enumerate(zip((12, 6, 3, 2), (8, 16, 32, 64))):
        for i in range(side):
            for j in range(side):
                boxes = [(sizes[k], sizes[k]), (np.sqrt(sizes[k] * sizes[k + 1]),) * 2]
                for ratio in ratios[k]:
                    w, h = sizes[k] * np.sqrt(ratio), sizes[k] / np.sqrt(ratio)
                    boxes += [(w, h), (h, w)]
                expected += [((j + 0.5) * step, (i + 0.5) * step, *b) for b in boxes]
    np.testing.assert_allclose(found, np.clip(expected, 0, 96), rtol=1e-6)


# ------------------------------------------------------------------------------ targets and loss


def test_targets_against_numpy():
    rng = RNG(3)
    centre, side = rng.uniform(10, 86, (60, 2)), rng.uniform(10, 40, (60, 2))
    anchors = np.concatenate([centre, side], 1).astype(np.float32)
    corners = np.concatenate([centre - side / 2, centre + side / 2], 1)
    boxes = np.full((2, 5, 4), -1, np.float32)
    classes = np.full((2, 5), -1, np.float32)
    for b in range(2):
        start = rng.uniform(0, 60, (3 - b, 2))
        boxes[b, : 3 - b] = np.concatenate([start, start + rng.uniform(15, 35, (3 - b, 2))], 1)
        classes[b, : 3 - b] = rng.integers(0, 5, 3 - b)
    labels, offsets = SsdTargets(0.5)(
        mx.nd.array(anchors[None]), mx.nd.array(boxes), mx.nd.array(classes)
    )
    for b in range(2):
        truth = boxes[b][boxes[b, :, 2] > 0]
        overlap = overlaps(corners[:, None], truth)
        best = np.where(overlap.max(1) >= 0.5, overlap.argmax(1), -1)
        for t in np.argsort(overlap.max(0)):  # each box has the anchor that it overlaps most
            best[overlap[:, t].argmax()] = t
        expected = np.where(best >= 0, classes[b][best] + 1, 0)
        np.testing.assert_array_equal(labels.asnumpy()[b], expected)
        for n in np.flatnonzero(best >= 0):
            t = truth[best[n]]
            wanted = [*((t[:2] + t[2:]) / 2 - anchors[n, :2]) / anchors[n, 2:] / 0.1,
                      *np.log((t[2:] - t[:2]) / anchors[n, 2:]) / 0.2]  # fmt: skip
            np.testing.assert_allclose(offsets.asnumpy()[b, n], wanted, rtol=1e-4, atol=1e-4)
        assert not offsets.asnumpy()[b][best < 0].any()


def test_decoding_undoes_the_encoding():
    net, rng = tiny_net("ssd"), RNG(7)
    anchors = net.raw(mx.nd.zeros((1, 3, 96, 96)))[2]
    start = rng.uniform(0, 40, (1, 6, 2))
    boxes = np.concatenate([start, start + rng.uniform(10, 50, (1, 6, 2))], 2).astype(np.float32)
    labels, offsets = SsdTargets()(anchors, mx.nd.array(boxes), mx.nd.array([[0, 1, 2, 3, 4, 5]]))
    found = net.decode(offsets, anchors).asnumpy()[0]
    labels = labels.asnumpy()[0].astype(int)
    assert set(labels) == set(range(7))
    np.testing.assert_allclose(
        found[labels > 0], boxes[0, labels[labels > 0] - 1], rtol=1e-4, atol=1e-3
    )


def loss_inputs(seed=4):
    rng = RNG(seed)
    labels = np.zeros((3, 30), np.float32)
    labels[0, :4], labels[1, :12] = rng.integers(1, 6, 4), rng.integers(1, 6, 12)
    shapes = (3, 30, 6), (3, 30, 4)
    logits, offsets = (rng.normal(size=s).astype(np.float32) for s in shapes)
    return logits, offsets, labels, rng.normal(size=(3, 30, 4)).astype(np.float32)


def loss_in_numpy(logits, offsets, labels, targets, ratio=3):
    """Eq. 1 to 3 of the paper, image by image, divided by the image's positives."""
    result = []
    for x, o, y, t in zip(logits.astype(float), offsets, labels.astype(int), targets):
        entropy = np.log(np.exp(x).sum(1)) - x[np.arange(len(y)), y]
        positive, count = y > 0, int((y > 0).sum())
        if not count:
            result.append((0, 0))
            continue
        hard = np.sort(entropy[~positive])[::-1][: ratio * count]
        distance = np.abs(o - t)[positive]
        smooth = np.where(distance < 1, 0.5 * distance**2, distance - 0.5)
        result.append(((entropy[positive].sum() + hard.sum()) / count, smooth.sum() / count))
    return np.array(result).T


def test_loss_against_numpy_and_images_without_objects_have_none():
    arrays = loss_inputs()
    loss = MultiBoxLoss()
    loss.hybridize()
    found = [out.asnumpy() for out in loss(*map(mx.nd.array, arrays))]
    np.testing.assert_allclose(found, loss_in_numpy(*arrays), rtol=1e-5, atol=1e-6)
    assert found[0][2] == found[1][2] == 0


def test_loss_of_the_batch_equals_gluoncvs_with_gradients():
    """Its own loss divides by the positives of the batch, as 'batch' does."""
    logits, offsets, labels, targets = map(mx.nd.array, loss_inputs(5))
    results = []
    for loss in (MultiBoxLoss(normalize="batch"), gluoncv.loss.SSDMultiBoxLoss()):
        logits.attach_grad()
        offsets.attach_grad()
        with mx.autograd.record():
            found = loss(logits, offsets, labels, targets)
            parts = [f[0] * 3 for f in found[1:]] if len(found) == 3 else found
            total = (parts[0] + parts[1]).sum()
        total.backward()
        results.append([a.asnumpy() for a in (*parts, logits.grad, offsets.grad)])
    for one, other in zip(*results):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------ training


def test_vectors_do_not_decay_unless_asked_for():
    for decay, wanted in ((False, {1: 0.0, 4: 1.0}), (True, {1: 1.0, 4: 1.0})):
        method = method_of("ssd", tiny_net("ssd", "cbam"), decay_vectors=decay)
        method.begin_epoch(0)
        trained = [p for p in method.trainer._params if p.grad_req != "null"]
        assert {len(p.shape): p.wd_mult for p in trained if len(p.shape) in wanted} == wanted
        kinds = {p.name.rpartition("_")[2] for p in trained if p.wd_mult == 0}
        assert not decay or not kinds
        if not decay:
            assert kinds == {"bias", "gamma", "beta"}
