"""Recipes: literals only, typed overrides, unknown keys refused."""

from __future__ import annotations

import pytest

from gluon_attn.core.recipe import Recipe
from gluon_attn.papers.vaa.method import VAATraining
from gluon_attn.train.build import load_recipe
from model_zoo import list_models

NAMES = [
    "vaa_wider_resnet101", "vaa_wider_resnet101_released", "baseline_wider_resnet101",
    "vaa_synthetic_resnet18", "baseline_synthetic_resnet18",
]  # fmt: skip


@pytest.fixture
def folder(repository):
    return str(repository / "tools" / "recipes")


def test_every_recipe_loads_and_names_a_model(folder, repository):
    found = sorted(p.stem for p in (repository / "tools" / "recipes").glob("*.py"))
    assert set(NAMES) <= set(found)
    for name in found:
        recipe = load_recipe(name, (), folder)
        assert recipe.model in list_models()
        assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_wider_recipe_holds_the_supplements_values(folder):
    recipe = load_recipe("vaa_wider_resnet101", (), folder)
    assert (recipe.optimizer, recipe.momentum, recipe.wd, recipe.lr) == ("sgd", 0.9, 5e-4, 1e-3)
    assert (recipe.batch_size, recipe.resize, recipe.input_size) == (32, 256, 224)
    assert (recipe.crop_min, recipe.crop_max, recipe.mirror) == (128, 224, True)
    assert (recipe.schedule, recipe.lr_factor, recipe.lr_min) == ("plateau", 0.1, 1e-5)


def test_overrides_are_typed(folder):
    recipe = load_recipe(
        "vaa_wider_resnet101",
        ["lr=1", "epochs=3", "mirror=false", "gamma=0.5", "mean=1,2,3",
         "options.weighting=released",
         "model_options.taps=('stage4_activation2',)", "lr_epochs=4"],
        folder,
    )  # fmt: skip
    assert recipe.lr == 1.0 and isinstance(recipe.lr, float)
    assert recipe.epochs == 3 and recipe.mirror is False
    assert recipe.options["gamma"] == 0.5 and recipe.options["weighting"] == "released"
    assert recipe.mean == (1, 2, 3) and recipe.lr_epochs == (4,)
    assert recipe.model_options["taps"] == ("stage4_activation2",)


@pytest.mark.parametrize(
    "pair, message",
    [
        ("epoch=3", "unknown recipe key 'epoch'; did you mean 'epochs'"),
        ("gama=3", "did you mean 'gamma'"),
        ("options.gama=3", "did you mean 'gamma'"),
        ("options={'gama': 3}", "did you mean 'gamma'"),
        ("model_options=3", r"model_options.NAME=VALUE, or all of them: model_options=\""),
        ("data_options=per_class", "data_options is a group of settings"),
        ("model_option={}", "did you mean 'model_options'"),
        ("lr=1e999", "lr must be a finite number, got inf"),
        ("lr=nan", "lr must be float, got 'nan'"),
        ("epochs=many", "epochs must be int"),
        ("epochs=2.5", "epochs must be int"),
        ("epochs=0", "epochs=0 must be >= 1"),
        ("mirror=1", "mirror must be bool"),
        ("crop_max=300", "crop_min <= crop_max <= resize"),
        ("epochs", "write key=value"),
        ("method=other", "unknown method 'other'"),
    ],
)
def test_bad_overrides_are_refused(folder, pair, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("vaa_wider_resnet101", [pair], folder)


@pytest.mark.parametrize(
    "text, message",
    [
        ("model = 'x'\nlr = 0.1 * 2\n", ":2: a recipe holds only"),
        ("import os\n", ":1: a recipe holds only"),
        ("lr = = 2\n", ":1: invalid syntax"),
        ("method = 'vaa'\nmodel = 'x'\nlearning_rate = 1\n", "unknown recipe key 'learning_rate'"),
        ("method = 'vaa'\n", "'model' is missing"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    path = tmp_path / "recipe.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Recipe.load(str(path))


def test_unknown_name_lists_the_recipes(folder):
    with pytest.raises(FileNotFoundError, match="vaa_wider_resnet101"):
        Recipe.load("vaa_wider_resnet10", folder)


def test_json_recipe(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text('{"method": "vaa", "model": "vaa_resnet101_wider", "options": {"gamma": 1}}')
    assert Recipe.load(str(path)).options == {"gamma": 1}
    path.write_text('{"method": "vaa",\n')
    with pytest.raises(ValueError, match="recipe.json:2: not valid JSON"):
        Recipe.load(str(path))


def test_method_defaults_are_the_documented_ones():
    assert VAATraining.OPTIONS["history_length"] == 5
    assert VAATraining.OPTIONS["history_start"] == 2
    assert VAATraining.OPTIONS["history_weights"] == 5
    assert VAATraining.OPTIONS["gamma"] == 2.0


def test_a_group_of_settings_is_set_as_a_whole_or_one_by_one(folder):
    def options(*pairs):
        return load_recipe("vaa_synthetic_resnet18", pairs, folder).model_options

    before = options()
    assert options("model_options={'width': 8}") == {"width": 8} != before
    assert options('model_options={"width": 8, "all": true}') == {"width": 8, "all": True}
    assert options("model_options={'width': 8}", "model_options.scale=2") == {
        "width": 8, "scale": 2,
    }  # fmt: skip
    assert options("model_options.scale=2", "model_options={}") == {}
    assert options("model_options.scale=2") == {**before, "scale": 2}
    recipe = load_recipe("vaa_synthetic_resnet18", ["options={'gamma': 1.5}"], folder)
    assert recipe.options == {"gamma": 1.5}
