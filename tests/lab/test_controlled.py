"""Controlled experiments: tables by hand, and one tiny experiment from end to end."""

from __future__ import annotations

import json

import pytest

from gluon_attn.train import run
from gluon_attn.train.build import load_recipe
from tools.experiments.controlled import describe, run_preset
from tools.experiments.controlled_presets import BASELINE, PRESETS

IMAGES = {"train": 40, "val": 20, "test": 24}
FAST = ("epochs=1", "batch_size=20", "model_options.width=8", "input_size=32", "resize=36",
        "crop_min=32", "crop_max=36", "eval_crop=34", "warmup_epochs=0")  # fmt: skip


FIRST = "A_ch, constant, from the first epoch"


def maker(repository, preset, changes=()):
    return lambda overrides: load_recipe(preset.recipe, [*overrides, *changes])


@pytest.mark.parametrize("name", PRESETS)
def test_every_arm_is_a_valid_recipe_and_the_baseline_comes_first(name, repository):
    preset = PRESETS[name]
    make = maker(repository, preset)
    recipes = {arm: make(c) for arm, c in preset.arms.items()}
    assert next(iter(recipes)) == BASELINE and recipes.pop(BASELINE).method == "baseline"
    assert {recipe.method for recipe in recipes.values()} == {name.split("-")[0]}
    settings = [json.dumps(recipe.to_dict(), sort_keys=True) for recipe in recipes.values()]
    assert len(set(settings)) == len(settings)
    for recipe in recipes.values():  # the same budget for all
        assert recipe.epochs == make(["method=baseline"]).epochs


def test_tables_by_hand():
    rows = {
        BASELINE: [{"score": {"top1 %": 50.0, "seconds": 1.0}, "diversity": {"d": 0.5}},
                   {"score": {"top1 %": 54.0, "seconds": 3.0}, "diversity": {"d": 0.25}}],
        "A": [{"score": {"top1 %": 53.0, "seconds": 2.0}, "diversity": {"d": 0.5},
               "critic": {"error": 0.25, "by epoch": [1.0, 0.25]}},
              {"score": {"top1 %": 55.0, "seconds": 2.0}, "diversity": {"d": 0.5},
               "critic": {"error": 0.75, "by epoch": [2.0, 0.75]}}],
    }  # fmt: skip
    text = describe(PRESETS["dreal-digit"], rows)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["arm", "error"] in lines  # no column for values by epoch
    assert [BASELINE, "52.0 ± 2.8", "2.00 ± 1.41"] in lines and [BASELINE, "-"] in lines
    assert ["A", "54.0 ± 1.4", "2.00 ± 0.00"] in lines and ["A", "0.500 ± 0.354"] in lines
    assert ["A", "+2.00 ± 1.41 [-10.71, +14.71]"] in lines  # 3 and 1; t of one degree 12.71
    assert ["A", "+0.125 ± 0.177 [-1.463, +1.713]"] in lines
    assert sum(line == ["arm", "d"] for line in lines) == 2


def test_an_experiment_is_measured_once_and_continued(tmp_path, repository, monkeypatch):
    preset = PRESETS["icasc-digits"]
    arms = {BASELINE: preset.arms[BASELINE], FIRST: preset.arms[FIRST]}
    preset = preset._replace(arms=arms)
    make = maker(repository, preset, FAST)
    said = []
    text, rows = run_preset(preset, make, [3], str(tmp_path), 1, IMAGES, said.append)
    assert len(said) == 2 and f"{FIRST}, seed 3: mAP %" in said[1]
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == text
    assert rows == json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    for row in (rows[BASELINE][0], rows[FIRST][0]):
        assert 0 < row["score"]["mAP %"] < 100
        assert len(row["overlap"]) == 8 and all(0 <= v <= 1 for v in row["overlap"].values())

    def never(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(run, "train", never)
    again = run_preset(preset, make, [3], str(tmp_path), 1, IMAGES, said.append)
    assert again == (text, rows)
    with pytest.raises(FileExistsError, match="holds other data"):
        run_preset(preset, make, [3], str(tmp_path), 1, {**IMAGES, "val": 21})


def test_a_run_with_a_critic_is_measured_over_its_epochs(tmp_path, repository):
    preset = PRESETS["dreal-digit"]
    arms = {BASELINE: preset.arms[BASELINE], "all stages": ()}
    preset, make = preset._replace(arms=arms), maker(repository, preset, (*FAST, "epochs=2"))
    run_preset(preset, make, [1], str(tmp_path), 1, IMAGES, [].append)
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    assert rows[BASELINE][0]["critic"] == {}
    found = rows["all stages"][0]["critic"]
    errors = found["critic error by epoch"]
    assert len(errors) == 2 and min(errors) >= 0
    assert [found["critic error, first epoch"], found["critic error, last"]] == errors
    for row in (rows[BASELINE][0], rows["all stages"][0]):
        assert 0 <= row["diversity"]["diversity over channels"] <= 0.5


def test_another_method_needs_no_settings_of_the_recipes(repository):
    own = load_recipe("icasc_digits_resnet14")
    assert own.options == {"start_epoch": 6}
    assert load_recipe("icasc_digits_resnet14", ["method=baseline"]).options == {}
    with pytest.raises(ValueError, match="start_epoch"):
        load_recipe("icasc_digits_resnet14", ["method=baseline", "start_epoch=2"])
