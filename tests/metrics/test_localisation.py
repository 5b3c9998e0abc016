"""Measures of where maps look: hand-made maps with known values, baselines, bootstrap."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gluon_attn.metrics import localisation as loc


def box(top, left, bottom, right, shape=(40, 40)):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_map_that_is_the_mask_scores_one_and_one_that_avoids_it_nothing():
    mask = box(10, 10, 20, 30)
    np.testing.assert_allclose(loc.measure(mask.astype(float), mask)[0], 1)
    assert list(loc.measure(box(0, 0, 5, 5).astype(float), box(30, 30, 40, 40))[0]) == [0] * 3


def test_energy_is_the_share_of_the_sum_and_a_constant_map_points_at_random():
    values = np.ones((40, 40))
    values[:, :20] = 3
    assert loc.measure(values, box(0, 0, 40, 20))[0][1] == pytest.approx(0.75)
    found, _ = loc.measure(loc.uniform((40, 40)), box(0, 0, 20, 20), tolerance=0)
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
    (pointing, energy, _), _ = loc.measure(values, box(0, 0, 20, 20))
    assert pointing == 1 and energy > 0.7
    assert np.array_equal(loc.fit_map(-np.ones((2, 2)), (3, 3)), np.zeros((3, 3)))


def test_scale_does_not_matter():
    rng = np.random.default_rng(0)
    values, mask = rng.random((7, 7)), box(3, 5, 22, 31)
    np.testing.assert_allclose(
        loc.measure(1e-6 * values, mask)[0], loc.measure(values, mask)[0], rtol=1e-4
    )


def test_nothing_to_find_or_nothing_shown_is_undefined():
    for values, mask in ((1, 0), (-1, 1)):
        scores, curve = loc.measure(np.full((4, 4), values), np.full((8, 8), mask, bool))
        assert np.isnan(scores).all() and np.isnan(curve).all()
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
    assert energy[loc.MEAN].mean == pytest.approx((energy["x"].mean + energy["y"].mean) / 2)
    half = 1.96 * values[:, 0, 1].std() / np.sqrt(200)
    assert energy["x"].high - energy["x"].mean == pytest.approx(half, rel=0.25)
    assert energy["y"].high - energy["y"].low > energy["x"].high - energy["x"].low
    assert found["a"]["iou_auc"]["x"] == (0.5, 0.5, 0.5)


def test_an_attribute_that_is_nowhere_has_no_mean_and_does_not_count():
    values = np.full((5, 2, 3), np.nan)
    values[:, 0] = 0.25
    found = loc.summarise({"a": values}, ["x", "y"])["a"]["pointing"]
    assert np.isnan(found["y"].mean) and found[loc.MEAN] == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match=r"needs \(N, 3, 3\)"):
        loc.summarise({"a": values}, ["x", "y", "z"])


def collected():
    """Two attributes in three images; b is in none. A map on the mask, one beside it, one empty."""
    found = loc.Localised(3, ["a", "b"], tolerance=0)
    mask = box(10, 10, 20, 20)
    found.update("on", 0, 0, mask.astype(float), mask)
    found.update("on", 2, 0, box(20, 20, 30, 30).astype(float), mask)
    for n in (0, 2):
        found.update("dark", n, 0, np.zeros((4, 4)), mask)
        found.update_baselines(n, 0, mask)
    return found


def test_what_is_collected():
    result = collected().result(resamples=50)
    assert list(result["maps"]) == ["on", "dark", *loc.BASELINES]
    assert result["images"] == 2 and result["attributes"] == {"a": 2, "b": 0}
    on, dark, _, uniform = result["maps"].values()
    assert on["empty"] == 0 and dark["empty"] == 2
    np.testing.assert_allclose(on["curve"], 0.5)
    np.testing.assert_allclose(uniform["curve"], 100 / 1600)
    assert np.isnan(dark["curve"]).all()
    for name in ("a", loc.MEAN):
        assert on["measures"]["energy"][name]["mean"] == 0.5
    apart = uniform["difference"]["energy"]["a"]
    assert apart["low"] == apart["mean"] == apart["high"] < 0, "paired: every image is the same"


def test_report_of_localisation(tmp_path):
    result = collected().result(resamples=50)
    paths = loc.LOCALISATION.write(result, tmp_path, "val")
    text = paths["md"].read_text()
    assert "50.0 [0.0, 100.0]" in text and "In no image: b." in text
    assert "| dark " in text and " - |" in text
    assert json.loads(paths["json"].read_text())["maps"]["dark"]["curve"] == [None] * 19
    lines = paths["csv"].read_text().splitlines()
    assert lines[0] == "map,value,measure,attribute,mean,low,high"
    assert "on,measures,energy,a,0.5,0.0,1.0" in lines and "on,measures,energy,b,,," in lines
