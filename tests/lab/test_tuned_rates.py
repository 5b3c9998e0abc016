"""Learning rates of an experiment: chosen by validation, one seed, never the test split."""

from __future__ import annotations

import functools
import json
import math

import pytest

from gluon_attn.core.errors import DivergedError
from gluon_attn.data.synthetic.digits import write_digits_single
from gluon_attn.train.build import load_recipe
from tools.experiments import controlled
from tools.experiments.controlled import BASELINE, Preset, run_preset

FAST = (
    *("epochs=1", "batch_size=20", "model_options.width=8", "input_size=32", "resize=36"),
    *("crop_min=32", "crop_max=36", "eval_crop=34", "warmup_epochs=0"),
)
PRESET = Preset(
    "icasc_digits_single_resnet20",
    "",
    {BASELINE: ("method=baseline",), "A": ("start_epoch=0",), "A, half": ("weight_ac=0.5",)},
    "top1",
    shared=FAST,
    rates=("1e-3", "2e-3", "4e-3"),
    rate_of={"A, half": "A"},
)


def run(out, data, preset=PRESET):
    make = functools.partial(load_recipe, preset.recipe)
    return run_preset(preset, make, [0], str(out), data_dir=data, workers=1, say=len)


def test_each_arm_takes_the_rate_that_validates_best(tmp_path, monkeypatch):
    scores = {"baseline": [0.5, 0.7, 0.6], "A": [0.6, math.nan, 0.6]}
    tried, trained = [], {}

    def trial(run):
        assert run.recipe.seed == controlled.TRIAL_SEED
        arm, _, rate = run.folder.rpartition("/")[2].partition("-")
        tried.append((arm, rate))
        assert float(rate) == run.recipe.lr and run.recipe.epochs == 1  # the shared overrides
        return scores[arm][PRESET.rates.index(rate)]

    def measured(preset, run):
        trained[run.folder.rpartition("/")[2]] = run.recipe
        return {"score": {"top1 %": 1.0}}

    monkeypatch.setattr(controlled, "_trial", trial)
    monkeypatch.setattr(controlled, "_measured", measured)
    run(tmp_path, "DATA")
    assert tried == [(arm, rate) for arm in scores for rate in PRESET.rates]
    rates = {name: recipe.lr for name, recipe in trained.items()}
    # of equals the lowest; a rate that diverged never; an ablation takes its arm's
    assert rates == {"baseline-0": 2e-3, "A-0": 1e-3, "A-half-0": 1e-3}
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["trials"]["baseline"] == dict(zip(PRESET.rates, scores["baseline"]))
    assert record["arms"]["A, half"][-1] == "lr=1e-3"


def test_a_trial_never_looks_at_the_test_split(tmp_path, monkeypatch):
    data = tmp_path / "data"
    write_digits_single(data, images={"train": 40, "val": 20, "test": 24}, seed=0, side=36)
    arms = {BASELINE: PRESET.arms[BASELINE]}
    one = PRESET._replace(arms=arms, rates=("2e-3",), rate_of={})
    run(tmp_path / "out", str(data), one)
    trial, final = tmp_path / "out/tune/baseline-2e-3", tmp_path / "out/baseline-0"
    best = json.loads((trial / "best.json").read_text())
    assert json.loads((trial / "trial.json").read_text()) == {"score": best["top1"]}
    assert not (trial / "test.json").exists() and (final / "test.json").exists()

    def diverges(recipe, settings):
        raise DivergedError("loss is nan")

    monkeypatch.setattr(controlled, "train", diverges)
    monkeypatch.setattr(controlled, "train_once", lambda *a, run, **k: run(a[0], controlled))
    again = controlled.Run(str(tmp_path), load_recipe(PRESET.recipe), str(data), 1)
    monkeypatch.setattr(controlled, "_replace", lambda **k: None, raising=False)
    assert math.isnan(controlled._trial(again))


def test_photographs_are_the_users(tmp_path):
    with pytest.raises(ValueError, match="--data-dir"):
        run(tmp_path, None)
