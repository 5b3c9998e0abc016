"""What both detectors share: suppression, warm-up, static graphs, one step, what is refused."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from gluoncv_helpers import gluoncv_or_skip

gluoncv_or_skip()

from coco_helpers import (  # noqa: E402
    BLOCKS,
    NETS,
    batch_of,
    method_of,
    overlaps,
    step_of,
    tiny_net,
)

from gluon_attn.coco.parts import ClasswiseNms  # noqa: E402
from gluon_attn.train import use_static_graph  # noqa: E402
from model_zoo import get_model  # noqa: E402

RNG = np.random.default_rng
WIDTHS = {"ssd": 96, "faster_rcnn": 128}
both = pytest.mark.parametrize("kind", WIDTHS)
every_block = pytest.mark.parametrize("block", BLOCKS)
PLAIN = {"ssd": {"warmup_epochs": 0.0}, "faster_rcnn": {"samples": 64, "warmup_updates": 0}}


@both
@every_block
def test_static_graph_equals_imperative_and_takes_any_batch(kind, block):
    net = tiny_net(kind, block, score_threshold=0.0)
    view = net.with_candidates() if kind == "ssd" else net
    for predictor in (*net.raw.class_predictors, *net.raw.box_predictors) if kind == "ssd" else ():
        weight = predictor[0].predictor.weight  # else the softmax is 0 or 1 before any training
        weight.set_data(weight.data() / 50)
    images = mx.nd.array(RNG(1).normal(size=(3, 3, 96, WIDTHS[kind])))
    expected = [out.asnumpy() for out in view(images)]
    shapes = [(3, 100), (3, 100), (3, 100, 4)]
    assert [e.shape for e in expected] == shapes + [(3, 870, 5), (3, 870, 4)] * (kind == "ssd")
    assert np.isfinite(expected[2]).all() and (expected[0] >= 0).any()
    use_static_graph(view)
    for value, wanted in zip(view(images), expected):
        np.testing.assert_allclose(value.asnumpy(), wanted, rtol=1e-4, atol=1e-3)
    for value, wanted in zip(view(images[:1])[3:], expected[3:]):
        np.testing.assert_allclose(value.asnumpy(), wanted[:1], rtol=1e-5, atol=1e-4)
    assert [out.shape for out in view(images[:1])][2] == (1, 100, 4)
    # units of the stages in use: 1 to 3 of SSD, 1 to 4 of Faster R-CNN; HOGA in stage 3 only
    units = 6 if kind == "ssd" else 8
    assert len(net.attention_blocks()) == {None: 0, "hoga": 2}.get(block, units)


@both
@every_block
def test_one_step_changes_what_is_trained(kind, block):
    net = tiny_net(kind, block)
    use_static_graph(net)
    count = 3 if kind == "ssd" else 2
    sums, same = step_of(method_of(kind, net, **PLAIN[kind]), batch_of(count, WIDTHS[kind]))
    parts = {"class", "box"} | ({"rpn_class", "rpn_box"} if kind == "faster_rcnn" else set())
    assert set(sums) == parts | {"loss"}
    assert sums["loss"] == pytest.approx(sum(sums[name] for name in parts), rel=1e-5)
    # A level without a positive gives its offsets no gradient, a hidden unit that is off gives none
    # to its weights: their biases, which start at 0, stay.
    stays = ("anchors", "reduce", "box_predictors" if kind == "ssd" else "bias")
    assert all(any(word in name for word in stays) for name in same), same
    assert len(same) < len(net._collect_params_with_prefix()) / (10 if kind == "ssd" else 1)


@pytest.mark.parametrize("kind, options, message", [
    ("ssd", {"input_size": 16}, "use a larger input"), ("ssd", {"levels": 9}, "valid are 2 to 6"),
    ("ssd", {"score_threshold": 2}, "valid are 0 to 1"), ("ssd", {"detections": 0}, "positive"),
    ("faster_rcnn", {"long_size": 50}, "need 1 <= shorter <= longer"),
])  # fmt: skip
def test_impossible_nets_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        get_model(NETS[kind], **options)


@pytest.mark.parametrize("kind, options, message", [
    ("ssd", {"normalize": "sum"}, "unknown normalization"),
    ("ssd", {"negative_ratio": -1.0}, "not be negative"),
    ("ssd", {"warmup_epochs": -1.0}, "not be negative"),
    ("ssd", {"warmup_start": 2.0}, "valid are 0 to 1"),
    ("ssd", {"overlaps": 0.4}, "did you mean 'overlap'"),
    ("faster_rcnn", {"samples": 512}, "at most the proposals in training, 100"),
    ("faster_rcnn", {"sample": 3}, "did you mean 'samples'"),
])  # fmt: skip
def test_bad_method_options_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        method_of(kind, tiny_net(kind), **options)


@pytest.mark.parametrize("kind", NETS)
def test_a_classifier_is_refused(kind):
    net = get_model("resnet18_w16_digits", classes=5)
    with pytest.raises(ValueError, match=f"trains models named {kind}"):
        net.initialize()
        method_of(kind, net)


def test_warm_up_rises_linearly_then_ends():
    options = {"warmup_epochs": 1.0, "warmup_updates": 2, "warmup_start": 0.5}
    method = method_of("ssd", tiny_net("ssd"), **options)  # on four images
    assert [method.warm_up(k, 2) for k in range(6)] == [0.5, 0.625, 0.75, 0.875, 1, 1]
    nothing = method_of("ssd", tiny_net("ssd"), warmup_epochs=0.0)
    assert nothing.warm_up(0, 8) == 1


def suppress(scores, boxes, overlap, threshold, per_class, most):
    """Suppression within each class, as the papers do it; one image."""
    found = []
    for k in range(scores.shape[1]):
        own = boxes if boxes.ndim == 2 else boxes[:, k]
        order = np.argsort(-scores[:, k], kind="stable")
        order = [i for i in order if scores[i, k] > threshold][:per_class]
        while order:
            best = order.pop(0)
            found.append((scores[best, k], k, own[best]))
            order = [i for i in order if overlaps(found[-1][2], own[i]) <= overlap]
    return sorted(found, key=lambda f: -f[0])[:most]


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
