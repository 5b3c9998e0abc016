"""Controlled experiments: tables by hand, and one tiny experiment from end to end."""

from __future__ import annotations

import json

import pytest

from gluon_attn.workflows import controlled
from gluon_attn.workflows.build import load_recipe
from gluon_attn.workflows.controlled import BASELINE, PRESETS, describe, run_preset

IMAGES = {"train": 40, "val": 20, "test": 24}
FAST = ("epochs=1", "batch_size=20", "model_options.width=8", "input_size=32", "resize=36",
        "crop_min=32", "crop_max=36", "eval_crop=34", "warmup_epochs=0")  # fmt: skip


def maker(repository, preset):
    folder = str(repository / "tools" / "recipes")
    return lambda overrides: load_recipe(preset.recipe, list(overrides), folder)


@pytest.mark.parametrize("name", PRESETS)
def test_every_arm_is_a_valid_recipe_and_the_baseline_comes_first(name, repository):
    preset = PRESETS[name]
    make = maker(repository, preset)
    recipes = {arm: make([*preset.common, *c]) for arm, c in preset.arms.items()}
    assert next(iter(recipes)) == BASELINE and recipes.pop(BASELINE).method == "baseline"
    assert {recipe.method for recipe in recipes.values()} == {name.split("-")[0]}
    settings = [json.dumps(recipe.to_dict(), sort_keys=True) for recipe in recipes.values()]
    assert len(set(settings)) == len(settings)
    for recipe in recipes.values():  # the same budget for all
        assert recipe.epochs == make([*preset.common, "method=baseline"]).epochs


def test_tables_by_hand():
    rows = {
        BASELINE: [{"top1 %": 50.0, "seconds": 1.0}, {"top1 %": 54.0, "seconds": 3.0}],
        "A": [{"top1 %": 53.0, "critic error": 0.25, "seconds": 2.0},
              {"top1 %": 55.0, "critic error": 0.75, "seconds": 2.0}],
    }  # fmt: skip
    text = describe(PRESETS["dreal-digit"], rows)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert [BASELINE, "52.0 ± 2.8", "-", "2.00 ± 1.41"] in lines
    assert ["A", "54.0 ± 1.4", "0.500 ± 0.354", "2.00 ± 0.00"] in lines
    assert ["A", "+2.00 ± 1.41", "-"] in lines  # 3 and 1


def test_an_experiment_is_measured_once_and_continued(tmp_path, repository, monkeypatch):
    preset = PRESETS["icasc-digits"]
    arms = {BASELINE: preset.arms[BASELINE], "A_ch, constant": preset.arms["A_ch, constant"]}
    preset = preset._replace(arms=arms, common=(*preset.common, *FAST))
    said = []
    text = run_preset(preset, maker(repository, preset), [3], str(tmp_path), 1, IMAGES, said.append)
    assert len(said) == 2 and "A_ch, constant, seed 3: mAP %" in said[1]
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == text
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    for row in (rows[BASELINE][0], rows["A_ch, constant"][0]):
        assert 0 < row["mAP %"] < 100
        assert 0 <= row["L_AS, last"] <= 1 and 0 <= row["IoU, inner"] <= 1

    def never(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(controlled, "train", never)
    assert text == run_preset(
        preset, maker(repository, preset), [3], str(tmp_path), 1, IMAGES, said.append
    )
    with pytest.raises(FileExistsError, match="holds other data"):
        run_preset(preset, maker(repository, preset), [3], str(tmp_path), 1, {**IMAGES, "val": 21})
