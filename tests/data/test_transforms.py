"""Augmentation: the seed's crops, exact normalisation, nothing random in evaluation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from kinds_helpers import refuses

from gluon_attn.data.transforms import EvalTransform, Normalize, TrainTransform, planes


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)


@pytest.mark.parametrize("mean, std", [((123.68, 116.8, 103.9), (58.4, 57.1, 57.4)),
                                       ((104, 117, 123), (1, 1, 1)),
                                       ((0, 0.5, 255), (255, 0.9, 0.25))])  # fmt: skip
def test_normalize_is_subtract_and_divide_per_channel(image, mean, std):
    expected = (image.astype(np.float64) - mean) / std
    result = Normalize(mean, std)(image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_planes_are_the_channels(image):
    image = image.astype(np.float32)
    out = np.full((3, 256, 256), np.nan, np.float32)
    assert planes(image, out) is out
    np.testing.assert_array_equal(out, image.transpose(2, 0, 1))
    np.testing.assert_array_equal(planes(image), out)
    assert planes(image).flags.c_contiguous


def test_normalize_refuses_nonsense():
    refuses("std positive", by=Normalize, std=(1, 0, 1))
    refuses("three numbers", by=Normalize, mean=(1, 2))


def test_crops_are_uniform_squares_within_the_image():
    transform, rng = TrainTransform(), np.random.default_rng(0)
    crops = np.array([transform.draw(u) for u in rng.random((40000, transform.draws))])
    x, y, side, mirrored = crops.T
    assert side.min() == 128 and side.max() == 224
    assert x.min() == 0 and y.min() == 0 and (x + side).max() == (y + side).max() == 256
    counts = np.bincount(side)[128:]
    expected = len(crops) / 97
    assert ((counts - expected) ** 2 / expected).sum() < 97 + 5 * np.sqrt(2 * 97)
    assert abs(mirrored.mean() - 0.5) < 0.0125  # five standard errors
    for position in (x, y):  # uniform over the room that the side leaves
        share = (position + 0.5) / (256 - side + 1)
        assert np.abs(np.quantile(share, [0.1, 0.5, 0.9]) - [0.1, 0.5, 0.9]).max() < 0.015
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.9  # both shrink with the side, otherwise independent
    assert transform.draw([0, 0, 0, 0])[:3] == (0, 0, 128)
    assert transform.draw([1 - 1e-16] * 4)[:3] == (32, 32, 224)


def test_train_transform_cuts_mirrors_and_resizes(image):
    transform = TrainTransform(mean=(0, 0, 0), std=(1, 1, 1))
    random = np.array([0.5, 0.25, 0.75, 0.9])
    x, y, side, mirrored = transform.draw(random)
    assert not mirrored
    expected = cv2.resize(image[y : y + side, x : x + side].astype(np.float64), (224, 224))
    result = transform(image, random)
    np.testing.assert_allclose(result, expected.transpose(2, 0, 1), atol=0.02)
    random[3] = 0.1
    turned = transform(image, random)
    np.testing.assert_allclose(turned, result[:, :, ::-1], atol=0.02)
    plain = TrainTransform(mirror=False, mean=(0, 0, 0), std=(1, 1, 1))
    np.testing.assert_array_equal(plain(image, random), result)


def test_images_of_other_sizes_are_resized_first(image):
    transform, random = TrainTransform(64, (32, 56), 48), np.array([0.3, 0.6, 0.1, 0.8])
    small = cv2.resize(image[:, :200], (64, 64), interpolation=cv2.INTER_AREA)
    result = transform(image[:, :200], random)
    assert result.shape == (3, 48, 48)
    np.testing.assert_array_equal(result, transform(small, random))


def test_evaluation_takes_the_centre(image):
    units = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    result = EvalTransform(**units)(image)
    np.testing.assert_array_equal(result, image[16:240, 16:240].transpose(2, 0, 1))
    whole = EvalTransform(256, None, 256, **units)(image)
    np.testing.assert_array_equal(whole, image.transpose(2, 0, 1))
    assert EvalTransform(64, 56, 48)(image).shape == (3, 48, 48)


@pytest.mark.parametrize("resize, crop", [(256, (224, 128)), (200, (128, 224)), (256, (0, 5))])
def test_impossible_crops_are_refused(resize, crop):
    refuses("need 1 <= crop", resize, crop, by=TrainTransform)
    refuses("crop=224, resize=200", 200, by=EvalTransform)
