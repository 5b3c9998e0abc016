"""What evaluation keeps of an image: a centre crop, all of it, all in its proportions; filters."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gluon_attn.core.images import RESAMPLING, letterbox, resize
from gluon_attn.core.recipe import Recipe, catalogue
from gluon_attn.data import EvalTransform
from gluon_attn.export.images import Preprocess
from gluon_attn.export.sidecar import input_entry, version_of
from gluon_attn.tasks.data import eval_preprocess

MEAN = {"mean": (10.0, 20.0, 30.0), "std": (2.0, 4.0, 5.0)}


def person(rows, columns):
    """An image whose first and last rows and columns are white."""
    image = np.random.default_rng(0).integers(0, 200, (rows, columns, 3), np.uint8)
    image[[0, -1]] = image[:, [0, -1]] = 255
    return image


def fed(image, size=32, **settings):
    """Return a net's input by the transform; the export's is the same."""
    values = {**MEAN, "resize": size, "crop": None, **settings}
    found = EvalTransform(size=size, **values)(image)
    entry = input_entry(size, values)
    np.testing.assert_allclose(Preprocess(entry)(image), found, rtol=1e-5, atol=1e-5)
    return found, entry


@pytest.mark.parametrize("rows, columns", [(32, 20), (20, 32), (31, 32), (32, 32)])
def test_a_letterbox_holds_the_whole_image_between_bars_that_the_net_sees_as_zeros(rows, columns):
    image = person(rows, columns)
    found, entry = fed(image, keep_aspect=True)
    top, left = (32 - rows) // 2, (32 - columns) // 2
    inside = np.zeros((32, 32), bool)
    inside[top : top + rows, left : left + columns] = True
    wanted = ((image - np.array(MEAN["mean"])) / MEAN["std"]).transpose(2, 0, 1)
    np.testing.assert_allclose(found[:, inside].reshape(wanted.shape), wanted, atol=1e-4)
    assert not found[:, ~inside].any() and version_of(entry) == 2
    assert Preprocess(entry).visible(image).shape == (32, 32, 3)


def test_proportions_are_kept_and_squares_are_left_alone():
    disc = np.hypot(*np.mgrid[-40:41, -40:41]) < 38
    image = np.zeros((121, 81, 3), np.uint8)
    image[20:101] = 255 * disc[..., None]
    found, _ = fed(image, keep_aspect=True, size=60)
    seen = found[0] > found[0].mean()
    assert abs(seen.any(0).sum() - seen.any(1).sum()) <= 1
    assert np.array_equal(letterbox(image[:81], (0, 0, 0)), image[:81])


def test_a_recipe_says_what_it_keeps():
    """Neither head nor feet of a whole person are cut off."""
    image = person(90, 40)
    for recipe, whole in (({"eval_crop": 224}, False), ({"eval_crop": 0}, True),
                          ({"eval_crop": 0, "keep_aspect": True}, True)):  # fmt: skip
        values = eval_preprocess(Recipe("baseline", "resnet18_v1", **recipe))
        values.update(MEAN)
        column = EvalTransform(**values)(image)[0, :, 112]
        assert (column.max() > 110) == whole


@pytest.mark.parametrize("name", [
    "vaa_wider_resnet101", "vaa_peta_resnet101", "baseline_wider_resnet101",
    "vaa_clothing_efficientnet_lite0", "vaa_clothing_resnet18", "awmt_market_resnet50",
    "baseline_clothing_efficientnet_lite0", "awmt_clothing_efficientnet_lite0",
    "awmt_duke_resnet50",
])  # fmt: skip
def test_recipes_for_whole_people_keep_all_of_them(name):
    recipe = Recipe.load(name)
    assert name in catalogue() and recipe.eval_crop in (0, recipe.resize)


@pytest.mark.parametrize("method", RESAMPLING[1:])
def test_filters_are_pillows(method):
    image = person(50, 70)
    chosen = getattr(Image, method.upper())
    wanted = np.asarray(Image.fromarray(image).resize((24, 24), chosen))
    assert np.array_equal(resize(image, 24, 24, method=method), wanted)
    found, entry = fed(image, 24, interpolation=method)
    mean, std = (np.array(MEAN[key])[:, None, None] for key in ("mean", "std"))
    np.testing.assert_allclose(found * std + mean, wanted.transpose(2, 0, 1), atol=1e-3)
    assert version_of(entry) == 2 and version_of(fed(image)[1]) == 1


def test_an_unknown_filter_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'bicubic'"):
        input_entry(32, {**MEAN, "interpolation": "bicubik"})
