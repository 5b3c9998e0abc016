"""SSD: structure, anchors, targets and loss against NumPy written from the paper, training."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from gluoncv_helpers import gluoncv_or_skip

gluoncv = gluoncv_or_skip()
pytest.importorskip("pycocotools")

from coco_helpers import BLOCKS, batch_of, method_of, step_of, tiny_net  # noqa: E402

from gluon_attn.coco.parts import (  # noqa: E402
    ClasswiseNms,
    WarmUp,
)
from gluon_attn.coco.ssd import (  # noqa: E402
    MultiBoxLoss,
    SsdTargets,
    anchor_sizes,
    anchor_steps,
    feature_sizes,
)
from gluon_attn.train import use_static_graph  # noqa: E402
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
    strides = {c._kwargs["stride"] for c in _convolutions(net.raw.trunk.features[6])}
    assert strides == {(1, 1)}
    assert net.backbone.features[7] is not None and len(list(net.backbone.features)) == 9


def _convolutions(block):
    found = []
    block.apply(lambda b: found.append(b) if isinstance(b, mx.gluon.nn.Conv2D) else None)
    return found


def test_every_convolution_of_the_extra_layers_has_a_batch_norm(published):
    raw = published.raw
    kinds = [type(layer).__name__ for block in raw.extra for layer in block]
    assert kinds == ["Conv2D", "BatchNorm", "Activation"] * 10
    assert all(c.bias is None for c in _convolutions(raw.extra))
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


@pytest.mark.parametrize("block", BLOCKS)
def test_static_graph_equals_imperative_and_takes_any_batch(block):
    net = tiny_net("ssd", block)
    for predictor in (*net.raw.class_predictors, *net.raw.box_predictors):
        weight = predictor[0].predictor.weight  # else the softmax is 0 or 1 before any training
        weight.set_data(weight.data() / 50)
    view = net.with_candidates()
    images = mx.nd.array(RNG(1).normal(size=(3, 3, 96, 96)))
    expected = [out.asnumpy() for out in view(images)]
    assert [e.shape for e in expected] == [(3, 100), (3, 100), (3, 100, 4), (3, 870, 5),
                                           (3, 870, 4)]  # fmt: skip
    use_static_graph(view)
    for rows in (slice(0, 3), slice(0, 1)):
        found = [out.asnumpy() for out in view(images[rows])]
        for value, wanted in zip(found[3:], expected[3:]):
            np.testing.assert_allclose(value, wanted[rows], rtol=1e-5, atol=1e-4)
    for value, wanted in zip(net(images), expected):
        np.testing.assert_allclose(value.asnumpy(), wanted, rtol=1e-5, atol=1e-4)
    blocks = net.attention_blocks()
    # stages 1 to 3 of ResNet-18
    assert len(blocks) == {None: 0, "hoga": 2}.get(block, 6)


@pytest.mark.parametrize("options, message", [
    ({"input_size": 16}, "use a larger input"), ({"levels": 9}, "valid are 2 to 6"),
    ({"score_threshold": 2}, "valid are 0 to 1"), ({"detections": 0}, "must be positive"),
])  # fmt: skip
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        get_model("ssd96_resnet18_w16_tiny", **options)


# ------------------------------------------------------------------------------ suppression


def suppress(scores, boxes, overlap, threshold, per_class, most):
    """Suppression within each class, as the papers do it; one picture."""
    found = []
    for k in range(scores.shape[1]):
        order = np.argsort(-scores[:, k], kind="stable")
        order = [i for i in order if scores[i, k] > threshold][:per_class]
        while order:
            best = order.pop(0)
            found.append((scores[best, k], k, boxes[best] if boxes.ndim == 2 else boxes[best, k]))
            order = [i for i in order
                     if _iou(found[-1][2], boxes[i] if boxes.ndim == 2 else boxes[i, k])
                     <= overlap]  # fmt: skip
    return sorted(found, key=lambda f: -f[0])[:most]


def _iou(a, b):
    inner = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return inner / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner)


@pytest.mark.parametrize("own", [False, True])
def test_suppression_against_numpy(own):
    rng = RNG(2)
    scores = rng.uniform(size=(2, 40, 3)).astype(np.float32)
    corner = rng.uniform(0, 50, (2, 40, 3, 2) if own else (2, 40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 50, corner.shape)], -1)
    boxes = boxes.astype(np.float32)
    block = ClasswiseNms(3, 0.45, 0.2, per_class=15, detections=20, own_boxes=own)
    block.hybridize(static_alloc=True, static_shape=True)
    found = [out.asnumpy() for out in block(mx.nd.array(scores), mx.nd.array(boxes))]
    for row in range(2):
        expected = suppress(scores[row], boxes[row], 0.45, 0.2, 15, 20)
        count = len(expected)
        assert (found[0][row] >= 0).sum() == count
        np.testing.assert_array_equal(found[0][row][:count], [k for _, k, _ in expected])
        np.testing.assert_allclose(found[1][row][:count], [s for s, _, _ in expected])
        np.testing.assert_allclose(found[2][row][:count], [b for _, _, b in expected])
        assert (found[1][row][count:] == -1).all()


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
        overlap = np.array([[_iou(c, t) for t in truth] for c in corners])
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
    """Eq. 1 to 3 of the paper, picture by picture, divided by the picture's positives."""
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


def test_loss_against_numpy_and_pictures_without_objects_have_none():
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


@pytest.mark.parametrize("options, message", [
    ({"normalize": "sum"}, "unknown normalization"), ({"negative_ratio": -1.0}, "not be negative"),
    ({"warmup_epochs": -1.0}, "not be negative"), ({"warmup_start": 2.0}, "valid are 0 to 1"),
    ({"overlaps": 0.4}, "did you mean 'overlap'"),
])  # fmt: skip
def test_bad_method_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        method_of("ssd", tiny_net("ssd"), **options)


# ------------------------------------------------------------------------------ training


def test_warm_up_rises_linearly_then_ends():
    warmup = WarmUp({"warmup_epochs": 1.0, "warmup_updates": 2, "warmup_start": 0.5}, 17)
    assert [warmup.factor(k, 8) for k in range(6)] == [0.5, 0.625, 0.75, 0.875, 1, 1]
    nothing = WarmUp({"warmup_epochs": 0.0, "warmup_updates": 0, "warmup_start": 0.0}, 17)
    assert nothing.factor(0, 8) == 1


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


@pytest.mark.parametrize("block", BLOCKS)
def test_one_step_changes_every_parameter(block):
    net = tiny_net("ssd", block)
    use_static_graph(net)
    sums, same = step_of(method_of("ssd", net, warmup_epochs=0.0), batch_of())
    assert set(sums) == {"class", "box", "loss"}
    # A level without a positive gives its offsets no gradient, a hidden unit that is off gives none
    # to its weights: their biases, which start at 0, stay.
    assert all("anchors" in n or "box_predictors" in n or "reduce" in n for n in same), same
    assert len(same) < len(net._collect_params_with_prefix()) / 10


def test_a_classifier_is_refused():
    with pytest.raises(ValueError, match="trains models named ssd"):
        net = get_model("resnet18_w16_digits", classes=5)
        net.initialize()
        method_of("ssd", net)
