"""The controlled multi-task experiment and the benchmark of a step, in seconds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from clothing_helpers import write_garments, write_parsing

from gluon_attn.core.recipe import Recipe
from gluon_attn.core.schema import Schema
from gluon_attn.data import open_dataset
from gluon_attn.data.synthetic.people import TASKS, flip_labels
from gluon_attn.metrics.attributes import evaluate_attributes
from gluon_attn.train import read_json_lines, run
from gluon_attn.train.build import load_recipe
from gluon_attn.train.run import Settings
from tools.experiments import multitask
from tools.experiments.data import make_data
from tools.experiments.photographs import CURVES

IMAGES = {"train": 8, "val": 6, "test": 6}
QUICK = ["epochs=1", "iterations_per_epoch=3", "window=1", "batch_size=4", "val_batch_size=3",
         "model_options.width=8"]  # fmt: skip


@pytest.fixture(scope="module")
def maker():
    def make(overrides):
        return load_recipe("awmt_synthetic_resnet18", [*QUICK, *overrides])

    return make


@pytest.fixture(scope="module")
def experiment(maker, tmp_path_factory, request):
    folder, lines = tmp_path_factory.mktemp("multitask"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.config.rootpath)
        done = multitask.run_multitask(
            maker, [3], str(folder), workers=1, images=IMAGES, say=lines.append
        )
    return folder, done, lines


def test_flipped_share_is_as_said_and_unknown_labels_stay():
    names = tuple(TASKS)
    raw = np.random.default_rng(0).choice([-1, 0, 1], (20000, len(names))).astype(np.int8)
    found = flip_labels(raw, names, np.random.default_rng(1))
    assert found.dtype == np.int8 and (found[raw == 0] == 0).all()
    known = raw != 0
    changed = (found != raw).sum(axis=0) / known.sum(axis=0)
    np.testing.assert_allclose(changed, list(TASKS.values()), atol=0.01)


def test_data_have_noise_in_train_and_val_and_none_in_test(experiment):
    folder, _, _ = experiment
    names = list(TASKS)
    for split in ("train", "val", "test"):
        source = open_dataset(str(folder / "data" / "data" / "scenes"), split)
        packed = open_dataset(str(folder / "data" / "data"), split)
        assert list(packed.schema.names) == [n for n in source.names if n in names]
        kept = [list(source.sample_ids).index(s) for s in packed.sample_ids]
        columns = [source.names.index(n) for n in packed.names]
        changed = (packed.raw != source.raw[np.ix_(kept, columns)]).any(axis=0)
        noisy = [TASKS[n] > 0 for n in packed.names]
        assert not changed[~np.array(noisy)].any()
        assert changed.any() == (split != "test")


def test_all_methods_are_trained_with_every_seed(experiment):
    folder, done, lines = experiment
    assert list(done.results) == list(multitask.ARMS)
    assert all(len(runs) == 1 for runs in done.results.values()) and len(lines) == 3
    order = [row["name"] for row in done.results["AWMT"][0]["attributes"]]
    for runs in done.results.values():
        for result in runs:
            assert [row["name"] for row in result["attributes"]] == order
            known = [row["accuracy"] for row in result["attributes"] if row["known"]]
            assert result["overall"]["accuracy"] == pytest.approx(np.mean(known))
    recipes = {
        path.parent.relative_to(folder): json.loads(path.read_text())["recipe"]
        for path in folder.rglob("recipe.json")
    }
    assert len(recipes) == 2 + len(TASKS)
    for path, recipe in recipes.items():
        assert Recipe.from_dict(recipe).options.get("adaptive", True) == ("AWMT" in str(path))
        assert bool(recipe["attributes"]) == ("separate" in str(path))
        assert recipe["seed"] == 3 and "-3" in str(path)
    weights = read_json_lines(str(folder / "AWMT-3" / "log.jsonl"))[-1]["task_weights"]
    assert set(weights) == set(TASKS)


def test_results_are_written_and_a_second_call_trains_nothing(experiment, maker, monkeypatch):
    folder, done, _ = experiment
    text = (folder / "results.md").read_text()
    assert text == done.text and "| **worst**" in text and "AWMT minus basic model" in text
    record = json.loads((folder / "results.json").read_text())
    assert record["seeds"] == [3] and record["machine"]["cores"]

    def never(*args):
        raise AssertionError("it trains again")

    monkeypatch.setattr(run, "train", never)
    again = multitask.run_multitask(maker, [3], str(folder), images=IMAGES, say=len)
    assert again.text == done.text
    with pytest.raises(FileExistsError, match="holds other data"):
        make_data("tasks", str(folder / "data"))


def test_several_seeds_give_spread_and_paired_differences():
    rng = np.random.default_rng(1)
    labels = (rng.random((40, 3)) < 0.5).astype(float)
    results = {
        method: [evaluate_attributes(rng.random((40, 3)), labels, None, Schema.binary("abc"))
                 for _ in range(2)]
        for method in multitask.ARMS
    }  # fmt: skip
    text = multitask.describe(results, {method: [1.0, 2.0] for method in multitask.ARMS})
    means = {m: [r["overall"]["accuracy"] for r in runs] for m, runs in results.items()}
    pairs = 100 * (np.array(means["AWMT"]) - means["basic model"])
    expected = f"accuracy: mean over tasks {pairs.mean():+.1f} ± {pairs.std(ddof=1):.1f} ["
    assert f"AWMT minus basic model, seed by seed [95 %], {expected}" in text
    assert f"{100 * np.mean(means['AWMT']):.1f} ± " in text and "over 2 seed(s)" in text


def test_joined_results_are_those_of_all_tasks_at_once():
    rng = np.random.default_rng(0)
    probs, labels = rng.random((30, 3)), (rng.random((30, 3)) < 0.5).astype(float)

    def scored(columns, names):
        return evaluate_attributes(
            probs[:, columns], labels[:, columns], None, Schema.binary(names)
        )

    whole = scored(slice(3), "abc")
    joined = multitask.join_results([scored([k], "abc"[k]) for k in range(3)])
    assert joined["attributes"] == whole["attributes"] and joined["worst"] == whole["worst"]
    assert joined["overall"] == pytest.approx(whole["overall"])


TINY = (
    *("model=cifar_resnet20_cifar10", "model_options={'depth': 8, 'width': 4}", "backbone="),
    *("input_size=32", "resize=36", "crop_min=32", "crop_max=36", "eval_crop=34", "batch_size=8"),
    *("epochs=1", "warmup_epochs=0", "val_batch_size=3", "window=1"),
    "attributes=['pants', 'skirt']",
)


def test_a_curve_over_wrong_labels_tunes_once_and_continues_from_its_small_files(
    tmp_path, monkeypatch
):
    write_parsing(tmp_path / "data")
    curve = CURVES["awmt-clothing"]
    preset = curve.preset._replace(shared=(*curve.preset.shared, *TINY), rates=("1e-3",))
    curve = curve._replace(preset=preset, noisy=("skirt",), levels=(0.5,))
    out, lines = tmp_path / "out", []

    def go(say):
        return multitask.run_noise_curve(
            curve, lambda changes: load_recipe(preset.recipe, changes), [1], str(out),
            data_dir=str(tmp_path / "data"), workers=1, say=say,
        )  # fmt: skip

    done = go(lines.append)
    assert list(done.results) == [
        "basic model", "AWMT", "AWMT, window 63", "basic model, 50 %", "AWMT, 50 %",
        "AWMT, window 63, 50 %", "separate models",
    ]  # fmt: skip
    assert sum("validation accuracy" in line for line in lines) == 2  # others take one of theirs
    recipes = {p.parent.relative_to(out): json.loads(p.read_text())["recipe"]
               for p in out.rglob("recipe.json")}  # fmt: skip
    assert len(recipes) == 2 + 3 + 5 and {r["lr"] for r in recipes.values()} == {1e-3}
    windows = {r["options"]["window"] for f, r in recipes.items() if "AWMT-window-63" in str(f)}
    assert windows == {63} and done.text.count("| 50 % ") == 2
    for folder, recipe in recipes.items():
        wanted = {"label_noise": {"skirt": 0.5}} if "noise-50" in str(folder) else {}
        assert recipe["data_options"] == wanted
    assert "| 0 % " in done.text and "| 50 % " in done.text and "noisy tasks" in done.text
    for path in [p for p in out.rglob("*") if p.suffix in (".params", ".ckpt", ".png")]:
        path.unlink()
    monkeypatch.setattr(run, "train", None)
    assert go(len).text == done.text
    with pytest.raises(ValueError, match="--data-dir"):
        multitask.run_noise_curve(curve, None, [1], str(out), data_dir=None)


def test_tasks_are_told_apart_by_how_unbalanced_they_are():
    labels = np.zeros((40, 3))
    labels[:20, 0] = labels[:8, 1] = labels[:2, 2] = 1
    schema = Schema.binary("abc")
    wrong = np.where(labels == 1, 0.9, 0.1)
    wrong[:2, 2] = 0.1  # the rare one is never found
    results = {"AWMT": [evaluate_attributes(labels, labels, None, schema)],
               "basic model": [evaluate_attributes(wrong, labels, None, schema)]}  # fmt: skip
    text = multitask.describe(results, {m: [1.0] for m in results}, {})
    assert "commonest class has 50.0 to 50.0 % of the images (a): +0.0" in text
    assert "commonest class has 95.0 to 95.0 % of the images (c): +50.0" in text
    assert "Labels flipped in train and val, in the tables by attribute: none." in text
    curve = multitask.describe_curve({0.0: results, 0.4: results}, ["c"])
    # mean (0 + 0 + 5) / 3 points of accuracy; 5 of the noisy task, 0 of the others
    cells = [c.strip() for c in curve.splitlines()[-1].split("|")[1:-1]]
    assert cells[0] == "40 %" and cells[3:] == ["+1.7", "+5.0", "+5.0", "+0.0", "+16.7"]


def test_a_class_that_is_the_only_task_has_an_accuracy_too(tmp_path, monkeypatch):
    write_garments(tmp_path / "data", 60)
    recipe = load_recipe("vaa_clothing_efficientnet_lite0", [
        "method=awmt", "model=awmt_efficientnet_lite0", "dataset=clothing_dataset",
        "attributes=class", "score=accuracy", "window=16", "val_batch_size=32",
    ])  # fmt: skip
    folder = tmp_path / "run"
    target = np.array([0, 1, 2, -1])
    probs = np.full((4, 14), 0.01)
    probs[[0, 1, 2, 3], [0, 1, 5, 3]] = 0.87  # two right, one wrong, one of unknown class

    def train(recipe, settings):
        folder.mkdir()
        np.savez(folder / "test_predictions.npz", probs=probs, target=target)

    monkeypatch.setattr(multitask.training, "train", train)
    settings = Settings(str(tmp_path / "data"), str(folder), console=False)
    multitask._train_and_judge(recipe, settings)
    found = json.loads((folder / "test_accuracy.json").read_text(encoding="utf-8"))
    (row,) = found["attributes"]
    assert row["name"] == "class" and row["known"] == 3
    assert row["accuracy"] == pytest.approx(2 / 3)
