"""A comparison of recipes over seeds: tables of single- and multi-label results, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gluon_attn.core.recipe import Recipe
from gluon_attn.metrics.multilabel import evaluate_multilabel
from gluon_attn.metrics.reports import MULTILABEL
from gluon_attn.train import run as train
from tools.experiments import experiment
from tools.experiments.experiment import run_experiment


@pytest.fixture
def trained(monkeypatch):
    """Let a run write what ``results[title](seed)`` writes instead of training."""
    results, folders = {}, []

    def train_once(recipe, data_dir, folder, workers):
        folders.append(folder)
        title, _, seed = folder.rpartition("/")[2].rpartition("-")
        results[title](folder, int(seed))
        return 2.0

    monkeypatch.setattr(experiment, "train_once", train_once)
    return results, folders


def makers(score, *titles):
    return {t: lambda seed: Recipe(method="baseline", model="m", score=score) for t in titles}


def test_single_label_recipes(trained, tmp_path):
    scores = {"plain": [0.50, 0.60], "new": [0.58, 0.64]}

    def write(title):
        def one(folder, seed):
            (tmp_path / f"{title}-{seed}").mkdir()
            with open(f"{folder}/test.json", "w", encoding="utf-8") as file:
                overall = {"top1": scores[title][seed], "top5": 0.9, "samples": 40}
                json.dump({"overall": overall, "confusions": []}, file)

        return one

    trained[0].update({title: write(title) for title in scores})
    done = run_experiment(makers("top1", *scores), [0, 1], "DATA", str(tmp_path), 1, len)
    assert trained[1][:2] == [str(tmp_path / "plain-0"), str(tmp_path / "new-0")]
    assert done.score == "top1" and done.scores["new"] == pytest.approx([58.0, 64.0])
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in done.table.splitlines()]
    assert ["top1", "55.0 ± 7.1", "61.0 ± 4.2", "+6.0"] in cells
    assert not any(row[:1] == ["samples"] for row in cells)
    # differences 8 and 4; Student's t of one degree of freedom is 12.706
    assert "* top1, new minus plain, seed by seed [95 %]: +6.0 ± 2.8 [-19.4, +31.4]" in done.table
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == done.table
    assert json.loads((tmp_path / "results.json").read_text())["seconds"]["new"] == [2.0, 2.0]


def test_multi_label_recipes(trained, tmp_path):
    rng = np.random.default_rng(0)
    labels = (rng.random((30, 2)) < 0.5).astype(float)

    def write(folder, seed):
        result = evaluate_multilabel(rng.random((30, 2)), labels, None, ["a", "b"])
        MULTILABEL.write(result, folder, "test")

    trained[0].update(plain=write, new=write)
    done = run_experiment(makers("accuracy", "plain", "new"), [3], "DATA", str(tmp_path), 1, len)
    assert done.score == "accuracy" and "| a " in done.table
    assert "accuracy, new minus plain" in done.table
    assert done.scores["new"] == [100 * done.results["new"][0]["overall"]["accuracy"]]


def test_what_compares_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="each counts once"):
        run_experiment(makers("mAP", "a"), [1, 1], "DATA", str(tmp_path))
    mixed = {**makers("mAP", "a"), **makers("top1", "b")}
    with pytest.raises(ValueError, match="different scores: mAP, top1"):
        run_experiment(mixed, [1], "DATA", str(tmp_path))


def test_a_finished_run_that_is_called_again_keeps_what_its_test_split_was(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text('{"recipe": {}, "data": {"train": "a", "val": "b", "test": "c"}}')
    train.describe_run(str(path), {"recipe": {"seed": 1}, "data": {"train": "a", "val": "b"}})
    found = json.loads(path.read_text())
    assert found["recipe"] == {"seed": 1} and list(found["data"].values()) == ["a", "b", "c"]
    path.unlink()  # a run that is resumed has its checkpoint; this file may be gone
    train.describe_run(str(path), {"recipe": {}, "data": {"train": "a", "val": "b"}})
    assert list(json.loads(path.read_text())["data"]) == ["train", "val"]
