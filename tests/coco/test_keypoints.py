"""Keypoints without data: geometry, heat-maps, decoding, flip test, loss, nets, training step."""

from __future__ import annotations

import math

import cv2
import mxnet as mx
import numpy as np
import pytest
from coco_helpers import BLOCKS, NETS, heatmap_batch, method_of, tiny_net
from mxnet import autograd

from gluon_attn.coco.keypoints import (
    HeatmapLoss,
    decode,
    flip_back,
    heatmap_targets,
    mirror_order,
    person_scores,
)
from gluon_attn.coco.keypoints_batches import (
    STRIDE,
    PoseEvalTransform,
    PoseTrainTransform,
    affine,
    region_of,
    transform,
    without_last_pixel,
)
from gluon_attn.coco.names import FLIP_PAIRS
from model_zoo import get_model
from model_zoo.params_io import load_backbone

SIZE, TINY = (256, 192), NETS["simple_pose"]

# ---------------------------------------------------------------------------------- geometry


def test_the_region_keeps_the_input_s_proportions():
    wide = region_of((10, 20, 130, 60), SIZE)
    assert (wide.x, wide.y, wide.width) == (70, 40, 120 * 1.25)
    high = region_of((10, 20, 30, 220), SIZE)
    assert (high.x, high.y) == (20, 120) and high.width == pytest.approx(200 * 0.75 * 1.25)
    for bad in ((0, 0, 0, 0), (5, 5, 4, 9), (0, 0, float("nan"), 3)):
        with pytest.raises(ValueError, match="x1 <= x2"):
            region_of(bad, SIZE)
    np.testing.assert_array_equal(without_last_pixel((3, 4, 10, 4.5)), (3, 4, 9, 4))


@pytest.mark.parametrize("angle", [0, 30, -75])
@pytest.mark.parametrize("mirror", [None, 301])
def test_affine_round_trip(angle, mirror):
    region = region_of((40, 30, 90, 170), SIZE)._replace(angle=angle, mirror_width=mirror)
    matrix, rng = affine(region, SIZE), np.random.default_rng(0)
    points = rng.uniform(-50, 400, (20, 2))
    back = transform(transform(points, matrix), cv2.invertAffineTransform(matrix))
    np.testing.assert_allclose(back, points, atol=1e-9)
    middle = (region.x if mirror is None else mirror - 1 - region.x, region.y)
    np.testing.assert_allclose(transform(middle, matrix), (96, 128))
    lengths = np.linalg.norm(matrix[:, :2], axis=0)
    np.testing.assert_allclose(lengths, 192 / region.width), "no distortion"
    assert np.sign(np.linalg.det(matrix[:, :2])) == (1 if mirror is None else -1)


def test_a_turned_person_stands_upright():
    """A point above the middle, in the direction of the angle, comes out straight above."""
    region = region_of((0, 0, 100, 100), SIZE)._replace(angle=30)
    up = np.array([math.sin(math.radians(30)), -math.cos(math.radians(30))])
    x, y = transform((region.x, region.y) + 10 * up, affine(region, SIZE))
    assert x == pytest.approx(96) and y < 128


def test_image_and_keypoints_go_the_same_way():
    """White squares at the keypoints are found again at the peaks of the heat-maps."""
    points = np.array([(40, 60), (75, 50), (52, 120), (80, 110)], float)
    image = np.zeros((160, 130, 3), np.uint8)
    for x, y in points.astype(int):
        image[y - 3 : y + 4, x - 3 : x + 4] = 255
    keypoints = np.column_stack([points, np.full(4, 2.0)]).astype(np.float32)
    cut = PoseTrainTransform(
        SIZE, pairs=((1, 2),), encoding="unbiased", mean=(0,) * 3, std=(1,) * 3
    )
    rng, mirrored, seen = np.random.default_rng(2), 0, 0
    for _ in range(12):
        random = rng.random(cut.draws)
        part, maps, weights = cut.sample(image, (20, 30, 100, 140), keypoints, random)
        places, _ = decode(maps[None], "dark", blur=0)
        mirrored += cut.draw(random)[2]
        for k, (x, y) in enumerate(places[0] * STRIDE):
            if weights[k] and 8 < x < 184 and 8 < y < 248:
                assert part[0, int(round(y)), int(round(x))] > 200
                seen += 1
    assert 2 < mirrored < 10 and seen > 20


def test_augmentation_follows_its_numbers():
    cut = PoseTrainTransform(SIZE)
    draws = np.random.default_rng(0).random((4000, cut.draws))
    factor, angle, mirrored = map(np.array, zip(*(cut.draw(row) for row in draws.tolist())))
    assert factor.min() == pytest.approx(0.7) and factor.max() == pytest.approx(1.3)
    assert np.abs(angle).max() == 80 and 0.57 < (angle != 0).mean() < 0.63
    assert 0.47 < mirrored.mean() < 0.53
    assert 0.65 < (np.abs(factor - 1) < 0.3 - 1e-9).mean() < 0.72, "one deviation"
    still = PoseTrainTransform(SIZE, scale=0, rotation=0, mirror=False)
    image = np.random.default_rng(1).integers(0, 256, (200, 150, 3)).astype(np.uint8)
    box, keypoints = (20, 30, 100, 180), np.zeros((17, 3), np.float32)
    np.testing.assert_array_equal(
        still.sample(image, box, keypoints, [0.9, 0.9, 0.1, 0.1])[0],
        PoseEvalTransform(SIZE)(image, box),
    )
    for bad in ({"scale": 1}, {"rotation": -1}, {"rotated": 2}, {"encoding": "x"}, {"sigma": 0}):
        with pytest.raises(ValueError, match="valid are"):
            PoseTrainTransform(SIZE, **bad)


# --------------------------------------------------------------------------------- heat-maps


@pytest.mark.parametrize("refine, worst", [("none", 0.5), ("quarter", 0.35), ("dark", 1e-3)])
def test_a_drawn_gaussian_comes_back(refine, worst):
    rng = np.random.default_rng(0)
    points = rng.uniform((12, 12), (36, 52), (40, 2))
    maps, _ = heatmap_targets(points, np.ones(40), (64, 48), encoding="unbiased")
    places, heights = decode(maps[None], refine)
    error = np.abs(places[0] - points)
    assert error.max() <= worst + 1e-9 and heights.max() <= 1
    if refine != "dark":
        assert error.max() > 0.9 * worst if refine == "none" else error.max() > 0.2
    # values of a rounded target tell no more than the pixel
    maps, _ = heatmap_targets(points, np.ones(40), (64, 48))
    np.testing.assert_allclose(decode(maps[None], "dark")[0][0], np.floor(points + 0.5), atol=1e-6)


def test_decoding_of_odd_maps():
    maps = np.zeros((1, 4, 16, 12), np.float32)
    maps[0, 1] = -1
    maps[0, 2, 0, 11], maps[0, 3, 7, 1] = 0.7, 0.3
    for refine in ("none", "quarter", "dark"):
        places, heights = decode(maps, refine)
        np.testing.assert_array_equal(places[0, 2:], [(11, 0), (1, 7)])
        np.testing.assert_array_equal(places[0, :2], 0)
        np.testing.assert_allclose(heights[0], (0, -1, 0.7, 0.3))
    with pytest.raises(ValueError, match="valid are none, quarter, dark"):
        decode(maps, "taylor")
    scores = person_scores([[0.9, 0.1, 0.5], [0.1, 0.2, 0.0]], [0.5, 1.0])
    np.testing.assert_allclose(scores, (0.35, 0))


def test_the_flip_test_lays_mirrored_maps_over_the_others():
    """x of the input and W - 1 - x of the mirrored one are the same place after flip_back."""
    points = np.random.default_rng(3).uniform((60, 60), (130, 200), (17, 2))
    mirrored = (np.array([191, 0]) + points * (-1, 1))[mirror_order(17, FLIP_PAIRS)]
    maps, _ = heatmap_targets(points / STRIDE, np.ones(17), (64, 48), encoding="unbiased")
    other, _ = heatmap_targets(mirrored / STRIDE, np.ones(17), (64, 48), encoding="unbiased")
    errors = {}
    for shift in ("subpixel", "pixel", "none"):
        back = flip_back(other[None], FLIP_PAIRS, shift)
        errors[shift] = (decode(back, "dark")[0][0] - points / STRIDE)[:, 0]
    np.testing.assert_allclose(errors["none"], -0.75, atol=1e-3)
    np.testing.assert_allclose(errors["pixel"], 0.25, atol=1e-3)
    np.testing.assert_allclose(errors["subpixel"], 0, atol=0.03)
    assert np.abs(flip_back(other[None], FLIP_PAIRS)[0] - maps).max() < 0.05
    twice = flip_back(flip_back(maps[None], FLIP_PAIRS, "none"), FLIP_PAIRS, "none")[0]
    np.testing.assert_array_equal(twice, maps)
    with pytest.raises(ValueError, match="valid are none, pixel, subpixel"):
        flip_back(maps[None], FLIP_PAIRS, "half")


# -------------------------------------------------------------------------------------- loss


def test_the_loss_equals_the_reference_and_has_its_laws():
    rng = np.random.default_rng(0)
    predicted, target = rng.normal(size=(3, 5, 8, 6)), rng.normal(size=(3, 5, 8, 6))
    weight = (rng.random((3, 5)) < 0.6).astype(float)
    arrays = [mx.nd.array(a) for a in (predicted, target, weight)]
    arrays[0].attach_grad()
    loss = HeatmapLoss()
    loss.hybridize()
    with autograd.record():
        found = loss(*arrays)
    found.backward()
    total = 0.0  # the released code: per joint the mean over batch and pixels, halved, averaged
    for k in range(5):
        difference = (predicted[:, k] - target[:, k]) * weight[:, k, None, None]
        total += 0.5 * (difference**2).mean() / 5
    assert found.shape == (3,) and found.mean().asscalar() == pytest.approx(total, rel=1e-5)
    gradient = (predicted - target) * weight[..., None, None] ** 2 / (5 * 8 * 6)
    np.testing.assert_allclose(arrays[0].grad.asnumpy(), gradient, atol=1e-7)
    assert not arrays[0].grad.asnumpy()[weight == 0].any(), "unlabelled: no gradient"
    assert not loss(arrays[1], arrays[1], arrays[2]).asnumpy().any()


# -------------------------------------------------------------------------------------- nets


# ResNet-50 without its classifier, three transposed convolutions of 256 channels and kernel 4,
# their batch-norms, and a 1x1 convolution to 17 maps; 34.0 M in the literature.
PARAMETERS = 25557032 - 2049000 + (2048 + 256 + 256) * 256 * 16 + 3 * 2 * 256 + 17 * 257


@pytest.mark.parametrize(
    "name, parameters", [(TINY, None), ("simple_pose_resnet50_coco", PARAMETERS)]
)
def test_nets(name, parameters):
    net = get_model(name)
    height, width = net.input_size
    assert net.output_names == ("heatmaps",) and net.task == "keypoints" and width * 4 == height * 3
    out = net(mx.sym.var("data"))
    for batch in (1, 3):
        _, shapes, _ = out.infer_shape(data=(batch, 3, height, width))
        assert shapes == [(batch, 17, height // 4, width // 4)]
    weights = [p for n, p in net.collect_params().items() if "running" not in n]
    assert parameters in (None, sum(int(np.prod(p.shape)) for p in weights))


@pytest.mark.parametrize("block", ["se", "cbam", "hoga"])
def test_named_nets_have_their_block_in_every_unit(block):
    net = get_model(f"simple_pose_{block}_resnet50_coco", width=8)
    blocks = net.attention_blocks()
    assert len(blocks) == 16 and blocks[0][0] == "stage1_unit0" and blocks[-1][0] == "stage4_unit2"
    assert {type(b).__name__.lower()[: len(block)] for _, b in blocks} == {block}


def test_bad_nets():
    for size in (64, 200, 256.0, 0):
        with pytest.raises(ValueError, match="multiple of 128|one number of pixels"):
            get_model(TINY, input_size=size)
    assert get_model(TINY, input_size=256, classes=5).classes == 5


def test_initial_weights_and_backbone_files(tmp_path):
    net = get_model(TINY)
    net.initialize(mx.init.Xavier())
    for layer in (net.head[0], net.head[3], net.head[6], net.output):
        values = layer.weight.data().asnumpy()
        assert 0.0008 < values.std() < 0.0012 and abs(values.mean()) < 1e-4
    assert not net.output.bias.data().asnumpy().any() and net.head[0].bias is None
    plain = get_model("resnet18_v1b", width=16)
    plain.initialize(mx.init.Xavier())
    plain.save_parameters(str(tmp_path / "plain.params"))
    load_backbone(net.backbone, str(tmp_path / "plain.params"))
    image = mx.nd.random.normal(shape=(1, 3, 128, 96))
    expected = image
    for layer in list(plain.features)[:-1]:
        expected = layer(expected)
    np.testing.assert_array_equal(net.backbone(image)[0].asnumpy(), expected.asnumpy())


def test_hybridized_and_imperative_gradients_agree():
    net = tiny_net("simple_pose")
    batch = heatmap_batch(net, 2)
    plain = net(batch.image).asnumpy()
    found = {}
    for kind in ("imperative", "static"):
        if kind == "static":
            net.hybridize(static_alloc=True, static_shape=True)
        with autograd.record():
            loss = HeatmapLoss()(net(batch.image), batch.label, batch.mask).sum()
        loss.backward()
        found[kind] = {n: p.grad().asnumpy() for n, p in net.collect_params().items()
                       if p.grad_req != "null"}  # fmt: skip
    assert plain.std() > 0.1
    for name, gradient in found["imperative"].items():
        scale = np.abs(gradient).max() + 1e-12
        np.testing.assert_allclose(found["static"][name] / scale, gradient / scale, atol=1e-3)


# --------------------------------------------------------------------------------- training


@pytest.mark.parametrize("block", BLOCKS)
def test_one_training_step_for_every_block(block):
    net = tiny_net("simple_pose", block)
    net.hybridize(static_alloc=True, static_shape=True)
    method, batch = method_of("simple_pose", net), heatmap_batch(net)
    method.begin_epoch(0)
    before = {n: p.data().asnumpy().copy() for n, p in net.collect_params().items()}
    losses = [method.train_step(batch)["loss"].asscalar() for _ in range(4)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    moved = {n for n, p in net.collect_params().items() if (p.data().asnumpy() != before[n]).any()}
    assert {n for n, p in net.collect_params().items() if p.grad_req != "null"} <= moved


@pytest.mark.parametrize("options, message", [
    ({"encoding": "x"}, "valid are"), ({"refine": "x"}, "valid are"),
    ({"flip_shift": "x"}, "valid are"), ({"sigmas": 2.0}, "unknown SimplePoseMethod option"),
])  # fmt: skip
def test_bad_method_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        method_of("simple_pose", tiny_net("simple_pose"), **options)
