"""Accuracy per attribute: laws, the official rules, an independent reference, the tables."""

from __future__ import annotations

import csv
import io
import json
import math

import mxnet as mx
import numpy as np
import pytest
from formats.tiny import write_tiny
from sklearn.metrics import accuracy_score, balanced_accuracy_score, precision_score, recall_score

from gluon_attn.core.recipe import Recipe
from gluon_attn.core.schema import Attribute, Schema
from gluon_attn.metrics.attributes import evaluate_attributes
from gluon_attn.metrics.multilabel import evaluate_multilabel
from gluon_attn.metrics.reports import ACCURACY, compare_accuracy, lowest
from gluon_attn.task import Asked
from gluon_attn.tasks import data as evaluate
from gluon_attn.tasks.attributes import reports_accuracy
from gluon_attn.train import trained as load
from gluon_attn.train.run import Settings, train

SCHEMA = Schema(
    [
        Attribute("hat"),
        Attribute("age", "multiclass", ("child", "teen", "adult", "old")),
        Attribute("bag"),
        Attribute("colour", "multiclass", ("red", "green", "blue")),
    ]
)


def draw(seed, n=60):
    """Return probs, labels, mask: one class each, some without any, with two, or unknown."""
    rng = np.random.default_rng(seed)
    probs = rng.random((n, 9))
    labels, mask = np.zeros((n, 9)), np.ones((n, 9))
    labels[:, [0, 5]] = rng.random((n, 2)) < 0.3
    mask[:, [0, 5]] = rng.random((n, 2)) < 0.8
    for start, width in ((1, 4), (6, 3)):
        labels[np.arange(n), start + rng.integers(0, width, n)] = 1
        unknown = rng.random(n) < 0.1
        labels[unknown, start : start + width], mask[unknown, start : start + width] = 0, 0
    none, two = rng.random(n) < 0.15, rng.random(n) < 0.15
    labels[none, 6:9] = 0
    labels[two & ~none, 6:8] = 1
    return probs, labels * mask, mask


def by_name(result):
    return {row["name"]: row for row in result["attributes"]}


def reference(probs, labels, mask):
    """Return accuracy and accuracy without "none" by plain loops over images."""
    found = {}
    for name, columns in (("hat", [0]), ("age", [1, 2, 3, 4]), ("bag", [5]), ("colour", [6, 7, 8])):
        right = counted = right_some = some = 0
        for p, y, m in zip(probs, labels, mask):
            if not all(m[c] for c in columns):
                continue
            counted += 1
            if len(columns) == 1:
                hit, has = (p[columns[0]] >= 0.5) == (y[columns[0]] == 1), True
            else:
                best = max(columns, key=lambda c: p[c])
                hit, has = y[best] == 1, any(y[c] for c in columns)
            right += hit
            some += has
            right_some += hit and has
        found[name] = right / counted, right_some / some
    return found


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_loops_over_images(seed):
    values = draw(seed)
    result, expected = by_name(evaluate_attributes(*values, schema=SCHEMA)), reference(*values)
    for name, (official, without) in expected.items():
        assert result[name]["accuracy"] == pytest.approx(official, abs=1e-12)
        assert result[name]["accuracy_without_none"] == pytest.approx(without, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_scikit_learn_where_it_has_the_same_rule(seed):
    probs, labels, mask = draw(seed, 200)
    result = by_name(evaluate_attributes(probs, labels, mask, SCHEMA))
    hat = mask[:, 0] == 1
    truth, guess = labels[hat, 0] == 1, probs[hat, 0] >= 0.5
    assert result["hat"]["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert result["hat"]["balanced"] == pytest.approx(balanced_accuracy_score(truth, guess))
    known = mask[:, 1:5].all(1)
    truth, guess = labels[known, 1:5].argmax(1), probs[known, 1:5].argmax(1)
    age = result["age"]
    assert age["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert age["balanced"] == pytest.approx(balanced_accuracy_score(truth, guess))
    assert age["majority"] == pytest.approx(np.bincount(truth).max() / len(truth))
    precision = precision_score(truth, guess, average=None, labels=range(4))
    recall = recall_score(truth, guess, average=None, labels=range(4))
    assert [c["precision"] for c in age["classes"]] == pytest.approx(list(precision))
    assert [c["recall"] for c in age["classes"]] == pytest.approx(list(recall))


def test_perfect_and_wrong_predictions():
    _, labels, mask = draw(0)
    labels[:, 6:9] = np.where(labels[:, 6:9].any(1, keepdims=True), labels[:, 6:9], [[0, 0, 1]])
    mask[:, 6:9] = 1
    perfect = evaluate_attributes(labels, labels, mask, SCHEMA)
    assert perfect["overall"]["accuracy"] == perfect["overall"]["accuracy_without_none"] == 1
    assert by_name(perfect)["hat"]["balanced"] == by_name(perfect)["age"]["balanced"] == 1
    wrong = evaluate_attributes(1 - labels, labels, mask, SCHEMA)
    assert by_name(wrong)["hat"]["accuracy"] == 0 and by_name(wrong)["age"]["accuracy"] == 0


def test_a_binary_schema_agrees_with_the_multilabel_metrics():
    probs, labels, mask = draw(3)
    names = [f"a{k}" for k in range(9)]
    ours = evaluate_attributes(probs, labels, mask, Schema.binary(names))
    other = evaluate_multilabel(probs, labels, mask, names)
    assert ours["overall"]["accuracy"] == pytest.approx(other["overall"]["accuracy"], abs=1e-12)
    assert ours["overall"]["balanced"] == pytest.approx(other["overall"]["mA"], abs=1e-12)


# -- the official rules of Market and Duke -------------------------------------------------------

COLOUR = Schema([Attribute("up", "multiclass", ("black", "white", "red"))])


def accuracy_of(probs, labels, mask=None):
    return evaluate_attributes(np.array(probs), np.array(labels), mask, COLOUR)["attributes"][0]


def test_images_without_a_colour_are_wrong_officially_and_left_out_of_the_variant():
    row = accuracy_of([[0.9, 0.1, 0], [0.9, 0.1, 0], [0.1, 0.1, 0.2]],
                      [[1, 0, 0], [0, 0, 0], [0, 0, 0]])  # fmt: skip
    assert row["accuracy"] == pytest.approx(1 / 3) and row["accuracy_without_none"] == 1
    assert (row["known"], row["none"]) == (3, 2)


def test_any_of_several_colours_counts():
    labels = [[1, 0, 1]] * 3
    row = accuracy_of([[0.9, 0.2, 0.1], [0.1, 0.2, 0.9], [0.1, 0.9, 0.2]], labels)
    assert row["accuracy"] == pytest.approx(2 / 3)


def test_a_colour_is_chosen_without_a_threshold_and_the_first_of_equals_wins():
    assert accuracy_of([[0.01, 0.02, 0.01]], [[0, 1, 0]])["accuracy"] == 1
    assert accuracy_of([[0.4, 0.4, 0.4]], [[1, 0, 0]])["accuracy"] == 1
    assert accuracy_of([[0.4, 0.4, 0.4]], [[0, 1, 0]])["accuracy"] == 0


def test_unknown_rows_and_columns():
    labels = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]])
    mask = np.array([[1, 1, 1], [0, 0, 0], [0, 1, 1], [0, 1, 1]])
    probs = np.array([[0.9, 0, 0], [0.9, 0, 0], [0.9, 0.5, 0.1], [0.9, 0.1, 0.2]])
    row = accuracy_of(probs, labels, mask)
    # row 1: unknown; row 2: the positive is known, and an unknown column cannot be chosen; row 3:
    # nobody knows whether it has a class
    assert row["known"] == 2 and row["accuracy"] == 1 and row["none"] == 0


def test_what_is_undefined_is_nan_and_shown_as_a_dash():
    row = accuracy_of([[0.9, 0.1, 0]] * 3, [[1, 0, 0], [1, 0, 0], [0, 1, 0]])
    black, white, red = row["classes"]
    assert black["recall"] == 1 and black["precision"] == pytest.approx(2 / 3)
    assert math.isnan(white["precision"]) and white["recall"] == 0
    assert math.isnan(red["precision"]) and math.isnan(red["recall"])
    assert row["balanced"] == 0.5  # of the classes that occur
    result = evaluate_attributes(np.full((2, 3), 0.5), np.zeros((2, 3)), np.zeros((2, 3)), COLOUR)
    assert result["undefined"] == ["up"] and result["worst"] is None
    assert all(math.isnan(v) for v in result["overall"].values())
    text = ACCURACY.text(result)
    assert text.count(" - ") >= 4 and "left out of means: up" in text


def test_undefined_attributes_are_left_out_of_the_mean():
    probs, labels, mask = draw(1)
    mask[:, 6:9] = 0
    result = evaluate_attributes(probs, labels, mask, SCHEMA)
    rows = by_name(result)
    kept = [rows[n]["accuracy"] for n in ("hat", "age", "bag")]
    assert result["overall"]["accuracy"] == pytest.approx(np.mean(kept))
    assert result["undefined"] == ["colour"]
    assert result["worst"] == min(("hat", "age", "bag"), key=lambda n: rows[n]["accuracy"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"probs": np.full((60, 9), 3.0)}, "probability in"),
        ({"labels": np.full((60, 9), 2)}, "must be 0 or 1"),
        ({"probs": np.zeros((60, 8)), "labels": np.zeros((60, 8)), "mask": None}, "schema of 9"),
        ({"probs": np.zeros((60, 8))}, r"all must be \(N, A\)"),
        ({"threshold": 4}, "threshold=4"),
    ],
)
def test_impossible_values_are_refused(change, message):
    probs, labels, mask = draw(0)
    values = dict({"probs": probs, "labels": labels, "mask": mask}, **change)
    with pytest.raises(ValueError, match=message):
        evaluate_attributes(**values, schema=SCHEMA)


# -- tables --------------------------------------------------------------------------------------


@pytest.fixture
def result():
    return evaluate_attributes(*draw(2), schema=SCHEMA)


def test_tables_hold_attributes_classes_mean_and_protocol(result):
    for style in ("console", "markdown"):
        text = ACCURACY.text(result, style)
        assert "age: teen" in text and "3 classes" in text and "without none" in text
        assert f"{100 * result['overall']['accuracy']:.1f}" in text
        assert "any class that the image has is right" in " ".join(text.split())
    plain = evaluate_attributes(np.eye(2), np.eye(2), None, Schema.binary("ab"))
    assert "predicted  " not in ACCURACY.text(plain) and "none of the" not in ACCURACY.text(plain)


def test_csv_and_json_hold_full_precision_and_read_back(result):
    rows = list(csv.DictReader(io.StringIO(ACCURACY.csv(result))))
    kinds = [row["row"] for row in rows]
    assert kinds.count("attribute") == 4 and kinds.count("class") == 7
    assert float(rows[0]["accuracy"]) == result["attributes"][0]["accuracy"]
    assert float(rows[-1]["balanced"]) == result["overall"]["balanced"]
    nothing = evaluate_attributes(np.full((2, 3), 0.5), np.zeros((2, 3)), np.zeros((2, 3)), COLOUR)
    for value in (result, nothing):
        again = ACCURACY.from_json(ACCURACY.json(value))
        for key in ("attributes", "overall", "worst", "undefined"):  # repr: nan is not nan
            assert repr(again[key]) == repr(value[key])
        assert json.loads(ACCURACY.json(value))["notes"]
    with pytest.raises(ValueError, match="not an accuracy result"):
        ACCURACY.from_json('{"attributes": [{}]}')


def test_models_side_by_side():
    results = {"one": [evaluate_attributes(*draw(s), schema=SCHEMA) for s in (1, 2)],
               "two": [evaluate_attributes(*draw(s), schema=SCHEMA) for s in (3, 4)]}  # fmt: skip
    text = compare_accuracy(results, "markdown")
    mean = np.mean([r["overall"]["accuracy"] for r in results["one"]])
    worst = np.mean([lowest(r, "accuracy") for r in results["two"]])
    assert f"{100 * mean:.1f} ±" in text and f"{100 * worst:.1f} ±" in text
    assert "**worst**" in text and "difference" in text
    with pytest.raises(ValueError, match="measure 'ap'"):
        compare_accuracy(results, measure="ap")
    other = evaluate_attributes(np.eye(2), np.eye(2), None, Schema.binary("ab"))
    with pytest.raises(ValueError, match="same attributes"):
        compare_accuracy({"one": results["one"], "two": [other]})


# -- from training to the report, on a tiny Market-1501 ------------------------------------------


def test_a_run_reports_accuracy_and_its_evaluation_repeats_it(tmp_path):
    data, folder = tmp_path / "market", tmp_path / "run"
    write_tiny("market", data)
    recipe = Recipe.from_dict({
        "method": "awmt", "model": "resnet18_w16_synthetic", "model_options": {"width": 8},
        "input_size": 32, "resize": 32, "crop_min": 32, "crop_max": 32, "eval_crop": 32,
        "mirror": False, "epochs": 1, "iterations_per_epoch": 5, "batch_size": 4,
        "unspecified": "masked", "score": "accuracy", "schedule": "constant",
        "data_options": {"holdout": 0.4},  # more than one person to validate on
        "options": {"window": 2, "val_batch_size": 3, "freeze_batch_norm": False},
    })  # fmt: skip
    done = train(recipe, Settings(str(data), str(folder), workers=1, console=False))
    expected = ACCURACY.from_json((folder / "test_accuracy.json").read_text())
    assert [r["kind"] for r in expected["attributes"]].count("multiclass") == 3
    assert len(expected["attributes"]) == 12 and 0 <= expected["overall"]["accuracy"] <= 1
    best = json.loads((folder / "best.json").read_text())
    assert best["accuracy"] == done["best"]["accuracy"] and "mAP" in best
    assert Schema.from_json(best["schema"]).names == tuple(
        r["name"] for r in expected["attributes"]
    )
    trained = load.from_run(str(folder), [mx.cpu()])
    dataset = evaluate.open_for(trained, str(data), "test")
    assert reports_accuracy(trained.extra["recipe"], dataset.schema)
    found = evaluate.predict_dataset(trained, dataset, mx.cpu(), 8, workers=0)
    again = trained.task.report(found, dataset, Asked(str(tmp_path), "test", None, figures=False))
    assert again.values["accuracy"]["overall"] == pytest.approx(expected["overall"], nan_ok=True)
    assert (tmp_path / "test_accuracy.md").exists()
    means = [line.split("  ")[0] for line in again.text.splitlines() if line.startswith("mean o")]
    assert means == ["mean over attributes and classes", "mean over instances",
                     "mean over attributes"]  # fmt: skip
    assert "\nattribute or class " in f"\n{again.text}"
    assert "counts here as a binary attribute of its own" in again.text


def test_when_accuracy_belongs_into_the_results():
    binary = Schema.binary("ab")
    assert not reports_accuracy({}, binary)
    assert not reports_accuracy({"method": "vaa", "score": "mAP"}, binary)
    assert reports_accuracy({"method": "awmt", "score": "mAP"}, binary)
    assert reports_accuracy({"method": "vaa", "score": "accuracy"}, binary)
    assert reports_accuracy({}, COLOUR)
