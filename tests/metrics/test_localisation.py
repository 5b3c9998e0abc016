"""Measures of where maps look: hand-made maps with known values, baselines, bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from gluon_attn.metrics import localisation as loc


def box(top, left, bottom, right, shape=(40, 40)):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_map_that_is_the_mask_scores_one_and_one_that_avoids_it_nothing():
    mask = box(10, 10, 20, 30)
    np.testing.assert_allclose(loc.measure(mask.astype(float), mask), 1)
    assert list(loc.measure(box(0, 0, 5, 5).astype(float), box(30, 30, 40, 40))) == [0] * 3


def test_energy_is_the_share_of_the_sum_and_a_constant_map_points_at_random():
    values = np.ones((40, 40))
    values[:, :20] = 3
    assert loc.measure(values, box(0, 0, 40, 20))[1] == pytest.approx(0.75)
    found = loc.measure(loc.uniform((40, 40)), box(0, 0, 20, 20), tolerance=0)
    assert list(found) == [0.25] * 3


def test_the_iou_curve_of_two_levels():
    # 0 outside; 0.5 on the upper half of the mask, 1 on the lower half
    mask, values = box(10, 10, 30, 20), np.zeros((40, 40))
    values[10:20, 10:20], values[20:30, 10:20] = 0.5, 1
    curve = loc.iou_curve(values, mask, np.array([0.25, 0.75]))
    assert curve.tolist() == [1, 0.5]


@pytest.mark.parametrize("distance, hit", [(2, 1.0), (3, 0.0)])
def test_the_pointing_game_forgives_a_little(distance, hit):
    values = np.zeros((40, 40))
    values[20, 29 + distance] = 1
    assert loc.pointing_hit(values, box(10, 10, 30, 30), tolerance=2 / 40) == hit


def test_equal_maxima_are_a_draw():
    values = np.zeros((40, 40))
    values[5, 5] = values[35, 35] = 1
    assert loc.pointing_hit(values, box(0, 0, 10, 10), tolerance=0) == 0.5


def test_small_maps_are_brought_to_the_size_of_the_mask():
    values = np.array([[1.0, 0.0], [0.0, 0.0]])
    pointing, energy, _ = loc.measure(values, box(0, 0, 20, 20))
    assert pointing == 1 and energy > 0.7
    assert np.array_equal(loc.fit_map(-np.ones((2, 2)), (3, 3)), np.zeros((3, 3)))


def test_scale_does_not_matter():
    rng = np.random.default_rng(0)
    values, mask = rng.random((7, 7)), box(3, 5, 22, 31)
    np.testing.assert_allclose(
        loc.measure(1e-6 * values, mask), loc.measure(values, mask), rtol=1e-4
    )


def test_nothing_to_find_or_nothing_shown_is_undefined():
    assert np.isnan(loc.measure(np.ones((4, 4)), np.zeros((8, 8), bool))).all()
    assert np.isnan(loc.measure(-np.ones((4, 4)), np.ones((8, 8), bool))).all()
    with pytest.raises(ValueError, match="finite map"):
        loc.measure(np.full((4, 4), np.nan), np.ones((8, 8), bool))


def test_the_centre_is_where_the_gaussian_is():
    values = loc.centre_gaussian((41, 21))
    assert np.unravel_index(values.argmax(), values.shape) == (20, 10)
    np.testing.assert_allclose(values, values[::-1, ::-1])
    sigma = 0.25
    assert values[20 + 10, 10] == pytest.approx(np.exp(-0.5 * (10 / 41 / sigma) ** 2), rel=1e-5)


def test_means_and_intervals():
    rng = np.random.default_rng(1)
    values = rng.random((200, 2, 3))
    values[:150, 1] = np.nan
    values[:, :, 2] = 0.5
    found = loc.summarise({"a": values, "b": values}, ["x", "y"], resamples=400)
    assert found["a"] == found["b"]
    energy = found["a"]["energy"]
    assert energy["x"].mean == pytest.approx(values[:, 0, 1].mean())
    assert energy["y"].mean == pytest.approx(values[150:, 1, 1].mean())
    assert energy["mean"].mean == pytest.approx((energy["x"].mean + energy["y"].mean) / 2)
    half = 1.96 * values[:, 0, 1].std() / np.sqrt(200)
    assert energy["x"].high - energy["x"].mean == pytest.approx(half, rel=0.25)
    assert energy["y"].high - energy["y"].low > energy["x"].high - energy["x"].low
    assert found["a"]["iou_auc"]["x"] == (0.5, 0.5, 0.5)


def test_an_attribute_that_is_nowhere_has_no_mean_and_does_not_count():
    values = np.full((5, 2, 3), np.nan)
    values[:, 0] = 0.25
    found = loc.summarise({"a": values}, ["x", "y"])["a"]["pointing"]
    assert np.isnan(found["y"].mean) and found["mean"] == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match=r"needs \(N, 3, 3\)"):
        loc.summarise({"a": values}, ["x", "y", "z"])
