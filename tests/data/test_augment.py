"""Augmentation of the image classification papers, and evaluation that keeps proportions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from kinds_helpers import refuses

from gluon_attn.core.recipe import Recipe
from gluon_attn.data import EvalTransform, TrainTransform
from gluon_attn.data.transforms import PadCropTransform, ResizedCropTransform
from gluon_attn.export.images import Preprocess
from gluon_attn.export.sidecar import input_entry
from gluon_attn.tasks.data import eval_preprocess, train_transform

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(1, 256, (32, 32, 3), np.uint8)


def test_pad_crop_is_a_piece_of_the_padded_image(image):
    transform = PadCropTransform(**PLAIN)
    padded = np.zeros((40, 40, 3), np.float32)
    padded[4:36, 4:36] = image
    rng, seen = np.random.default_rng(1), set()
    for random in rng.random((400, transform.draws)):
        x, y, mirrored = transform.draw(random)
        expected = padded[y + 4 : y + 36, x + 4 : x + 36]
        expected = expected[:, ::-1] if mirrored else expected
        result = transform(image, random)
        np.testing.assert_array_equal(result, expected.transpose(2, 0, 1))
        seen.add((x, y, mirrored))
    assert {s[0] for s in seen} == {s[1] for s in seen} == set(range(-4, 5))
    assert {s[2] for s in seen} == {True, False}


def test_padding_is_black_before_the_mean_is_subtracted(image):
    transform = PadCropTransform(mean=(10, 20, 30), std=(2, 4, 5))
    result = transform(image, [0, 0, 0.9])  # the piece begins 4 pixels left of and above it
    np.testing.assert_allclose(result[:, 0, 0], [-5, -5, -6])
    np.testing.assert_allclose(result[0, 4, 4], (float(image[0, 0, 0]) - 10) / 2, rtol=1e-5)


@pytest.mark.parametrize("transform", [
    PadCropTransform(**PLAIN), ResizedCropTransform(32, 24, **PLAIN),
    TrainTransform(32, (16, 28), 24), EvalTransform(32, 28, 24), EvalTransform(32, None, 24),
])  # fmt: skip
def test_a_window_of_a_packed_image_gives_the_same(image, transform):
    rng = np.random.default_rng(2)
    for random in rng.random((50, transform.draws)):
        left, top, right, bottom = transform.window(random)
        assert 0 <= left < right <= 32 and 0 <= top < bottom <= 32
        x, y = rng.integers(0, left + 1), rng.integers(0, top + 1)
        part = transform(image[y:, x:], random, corner=(x, y))
        np.testing.assert_array_equal(part, transform(image, random))


def test_resized_crops_have_the_area_and_the_shape_asked_for():
    transform, rng = ResizedCropTransform(), np.random.default_rng(3)
    crops = np.array([transform.draw(u, 500, 375)[:4] for u in rng.random((4000, 1))])
    x, y, w, h = crops.T
    assert x.min() >= 0 and y.min() >= 0 and (x + w).max() <= 500 and (y + h).max() <= 375
    area, shape = w * h / (500 * 375), w / h
    assert 0.075 < area.min() < 0.1 and area.max() <= 1
    assert 0.73 < shape.min() and shape.max() < 1.37
    square = np.array([transform.draw(u, 400, 400)[2:4] for u in rng.random((4000, 1))])
    assert abs(np.median(np.log(square[:, 0] / square[:, 1]))) < 0.02
    assert len({tuple(c) for c in crops.tolist()}) > 3900
    one = transform.draw([0.3], 500, 375)
    assert one == transform.draw([0.3], 500, 375)


def test_area_is_uniform_where_every_attempt_fits():
    transform = ResizedCropTransform(area=(0.1, 0.5))
    rng = np.random.default_rng(4)
    crops = [transform.draw(u, 400, 400) for u in rng.random((6000, 1))]
    area = np.sort([c[2] * c[3] / 160000 for c in crops])
    expected = 0.1 + 0.4 * (np.arange(6000) + 0.5) / 6000
    assert np.abs(area - expected).max() < 0.4 * 1.63 / np.sqrt(6000)  # Kolmogorov, 1 %
    assert abs(np.mean([c[4] for c in crops]) - 0.5) < 0.033


def test_a_strip_is_cut_in_the_middle():
    transform = ResizedCropTransform()
    x, y, w, h, _ = transform.draw([0.5], 1000, 10)
    assert (w, h) == (13, 10) and x == (1000 - 13) // 2 and y == 0
    x, y, w, h, _ = transform.draw([0.5], 10, 1000)
    assert (w, h) == (10, 13) and y == (1000 - 13) // 2


def test_resized_crop_contents(image):
    transform = ResizedCropTransform(32, 8, area=(1, 1), shape=(1, 1), mirror=False, **PLAIN)
    expected = cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    np.testing.assert_array_equal(transform(image, [0.4]), expected)


def test_bad_settings():
    for bad in ({"size": 0}, {"pad": -1}):
        refuses("need 1 <= size and 0 <= pad", by=PadCropTransform, **bad)
    for bad in ({"area": (0, 1)}, {"area": (0.5, 1.1)}, {"shape": (2, 1)}):
        refuses("need 0 < area", by=ResizedCropTransform, **bad)


@pytest.mark.parametrize("shape", [(60, 90), (91, 60), (40, 200), (64, 64), (300, 33)])
def test_shorter_side_evaluation_is_that_of_the_paper_and_of_exports(shape):
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, shape + (3,), np.uint8)
    settings = {"resize": 48, "crop": 40, "mean": (1, 2, 3), "std": (2, 2, 2),
                "keep_aspect": True}  # fmt: skip
    result = EvalTransform(size=40, **settings)(image)
    scale = 48 / min(shape)
    tall, wide = (max(48, round(side * scale)) for side in shape)
    method = cv2.INTER_AREA if scale <= 1 else cv2.INTER_LINEAR
    large = cv2.resize(image, (wide, tall), interpolation=method)
    top, left = (tall - 40) // 2, (wide - 40) // 2
    expected = (large[top : top + 40, left : left + 40].astype(np.float64) - [1, 2, 3]) / 2
    np.testing.assert_allclose(result, expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-5)
    exported = Preprocess(input_entry(40, settings))
    np.testing.assert_allclose(exported(image), result, rtol=1e-6, atol=1e-6)
    seen = exported.visible(image)
    assert abs(seen.shape[0] - 40 / scale) <= 2 and abs(seen.shape[1] - 40 / scale) <= 2


def test_squares_stay_the_default():
    assert "keep_aspect" not in input_entry(40, {"mean": (0, 0, 0), "std": (1, 1, 1)})
    with pytest.raises(ValueError, match="keep_aspect needs"):
        input_entry(40, {"mean": (0, 0, 0), "std": (1, 1, 1), "keep_aspect": True})
    refuses("did you mean 'bicubic'", by=EvalTransform, interpolation="bicubik")
    recipe = Recipe(method="baseline", model="resnet18_v1")
    assert set(eval_preprocess(recipe)) == {"resize", "crop", "size", "mean", "std"}


@pytest.mark.parametrize("augment, kind", [("crop", "TrainTransform"), ("pad", "PadCropTransform"),
                                           ("inception", "ResizedCropTransform")])  # fmt: skip
def test_recipes_choose_the_augmentation(augment, kind):
    recipe = Recipe(method="baseline", model="resnet18_v1", augment=augment, input_size=32,
                    resize=40, crop_min=30, crop_max=36, pad=3, area_min=0.2)  # fmt: skip
    transform = train_transform(recipe)
    assert type(transform).__name__ == kind and transform.size == 32
    if augment == "pad":
        assert transform.pad == 3
    if augment == "inception":
        assert transform.area == (0.2, 1.0) and transform.resize == 40
