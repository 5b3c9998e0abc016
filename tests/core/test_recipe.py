"""Recipes: literals only, bases, typed overrides, unknown keys refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gluon_attn.core import recipe as recipes
from gluon_attn.core.recipe import Recipe
from gluon_attn.train.build import load_recipe

VALUES = json.loads(Path(__file__).with_name("recipes.json").read_text())


def test_paths_of_version_0_1_stand_for_the_names():
    for name in recipes.names():
        assert Recipe.load(f"tools/recipes/{name}.py") == Recipe.load(name)


def test_values_of_all_recipes_are_those_that_results_were_made_with():
    """After a wanted change: put the new digest into recipes.json, and say in the log why."""
    digests = {
        name: hashlib.sha256(
            json.dumps(Recipe.load(name).to_dict(), sort_keys=True).encode()
        ).hexdigest()[:16]
        for name in recipes.names()
    }
    assert digests == VALUES


def test_wider_recipe_holds_the_supplements_values():
    recipe = load_recipe("vaa_wider_resnet101")
    assert (recipe.optimizer, recipe.momentum, recipe.wd, recipe.lr) == ("sgd", 0.9, 5e-4, 1e-3)
    assert (recipe.batch_size, recipe.resize, recipe.input_size) == (32, 256, 224)
    assert (recipe.crop_min, recipe.crop_max, recipe.mirror) == (128, 224, True)
    assert (recipe.schedule, recipe.lr_factor, recipe.lr_min) == ("plateau", 0.1, 1e-5)


def test_overrides_are_typed():
    recipe = load_recipe(
        "vaa_wider_resnet101",
        ["lr=1", "epochs=3", "mirror=false", "gamma=0.5", "mean=1,2,3",
         "options.weighting=released",
         "model_options.taps=('stage4_activation2',)", "lr_epochs=4"],
    )  # fmt: skip
    assert recipe.lr == 1.0 and isinstance(recipe.lr, float)
    assert recipe.epochs == 3 and recipe.mirror is False
    assert recipe.options["gamma"] == 0.5 and recipe.options["weighting"] == "released"
    assert recipe.mean == (1, 2, 3) and recipe.lr_epochs == (4,)
    assert recipe.override(["lr_epochs="]).lr_epochs == ()
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
        ("mean=a,b,c", "each of mean must be float, got 'a'"),
        ("std=1,2", r"std=\(1.0, 2.0\): three numbers, or one"),
        ("lr_epochs=3,a", "each of lr_epochs must be int"),
        ("splits=1,2,3", "each of splits must be str, got 1"),
        ("attributes=hat,tie,hat", "attributes names 'hat' twice"),
        ("crop_max=300", "crop_min <= crop_max <= resize"),
        ("epochs", "write key=value"),
        ("method=other", "unknown method 'other'"),
    ],
)
def test_bad_overrides_are_refused(pair, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("vaa_wider_resnet101", [pair])


@pytest.fixture
def write(tmp_path):
    """A function that writes a recipe file and returns its path."""

    def write(text, name="recipe.py"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize(
    "text, message",
    [
        ("model = 'x'\nlr = 0.1 * 2\n", ":2: a recipe holds only"),
        ("import os\n", ":1: a recipe holds only"),
        ("class a:\n    def lr(self): pass\n", ":2: a recipe holds only"),
        ("class a(b):\n    lr = 1\n", ":1: a recipe holds only"),
        ("lr = = 2\n", ":1: invalid syntax"),
        ("method = 'vaa'\nmodel = 'x'\nlearning_rate = 1\n", "unknown recipe key 'learning_rate'"),
        ("method = 'vaa'\n", "'model' is missing"),
        ("base = '_imagenett'\n", "unknown base '_imagenett'; did you mean '_imagenet'"),
        ("class a:\n  lr = 1\nclass b:\n  lr = 2\n", "several recipes, choose one: .*recipe.py:a"),
    ],
)
def test_bad_files_are_refused(write, text, message):
    with pytest.raises(ValueError, match=message):
        Recipe.load(write(text))


def test_a_base_gives_what_is_not_said(write):
    own = Recipe.load(write("base = 'vaa_wider_resnet101'\nlr = 0.5\noptions = {'gamma': 1.0}\n"))
    base = Recipe.load("vaa_wider_resnet101")
    assert (own.lr, own.options) == (0.5, {"gamma": 1.0})  # a group is replaced as a whole
    changed = {key for key, value in own.to_dict().items() if base.to_dict()[key] != value}
    assert changed == {"lr", "options"}


def test_a_file_of_several_recipes(write):
    path = write(
        "base = '_small'\nmethod = 'vaa'\nepochs = 7\n"
        "class a:\n  'First.'\n  model = 'x'\n  epochs = 3\n"
        "class b:\n  base = 'baseline_synthetic_resnet18'\n"
    )
    first, second = Recipe.load(f"{path}:a"), Recipe.load(f"{path}:b")
    assert (first.method, first.model, first.epochs, first.input_size) == ("vaa", "x", 3, 112)
    assert (second.method, second.epochs) == ("baseline", 80)  # nothing of the file
    assert recipes.find(f"{path}:a").text == "First."
    with pytest.raises(FileNotFoundError, match="unknown recipe 'c'; valid: a, b"):
        Recipe.load(f"{path}:c")


def test_a_base_that_comes_back_to_itself(monkeypatch):
    loop = {"a": recipes.Entry("", {"base": "b"}, "x.py")}
    loop["b"] = recipes.Entry("", {"base": "a"}, "x.py")
    monkeypatch.setattr(recipes, "catalogue", lambda: loop)
    with pytest.raises(ValueError, match="x.py: base 'b' comes back to itself"):
        Recipe.load("a")


@pytest.mark.parametrize("name", ["vaa_wider_resnet10", "no/such/file.py", "_imagenet", "x.py:a"])
def test_unknown_name_lists_the_recipes(name):
    with pytest.raises(FileNotFoundError, match="`gluon-attn recipes` lists all") as caught:
        Recipe.load(name)
    assert ("did you mean" in str(caught.value)) != ("awmt_celeba_resnet50" in str(caught.value))


def test_json_recipe(write):
    path = write('{"method": "vaa", "model": "m", "options": {"gamma": 1}}', "recipe.json")
    assert Recipe.load(path).options == {"gamma": 1}
    with pytest.raises(ValueError, match="recipe.json:2: not valid JSON"):
        Recipe.load(write('{"method": "vaa",\n', "recipe.json"))


def test_a_group_of_settings_is_set_as_a_whole_or_one_by_one():
    def options(*pairs):
        return load_recipe("vaa_synthetic_resnet18", pairs).model_options

    before = options()
    assert options("model_options={'width': 8}") == {"width": 8} != before
    assert options('model_options={"width": 8, "all": true}') == {"width": 8, "all": True}
    assert options("model_options={'width': 8}", "model_options.scale=2") == {
        "width": 8, "scale": 2,
    }  # fmt: skip
    assert options("model_options.scale=2", "model_options={}") == {}
    assert options("model_options.scale=2") == {**before, "scale": 2}
    recipe = load_recipe("vaa_synthetic_resnet18", ["options={'gamma': 1.5}"])
    assert recipe.options == {"gamma": 1.5}
