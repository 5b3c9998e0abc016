"""Top-k accuracy, confusion and tables: against scikit-learn, by hand, and at the edges."""

from __future__ import annotations

import csv
import io
import json
import math

import mxnet as mx
import numpy as np
import pytest
from sklearn import metrics as reference

from gluon_attn.metrics import reports
from gluon_attn.metrics.classification import (
    confusion_matrix,
    evaluate_classification,
    top_accuracies,
    top_k_accuracy,
    true_class_margin,
    true_rank,
)
from gluon_attn.metrics.reports import CLASSIFICATION


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 12, 400)
    scores = rng.normal(size=(400, 12)).astype(np.float32)
    scores[np.arange(400), targets] += 1.2
    return scores, targets


def rows(targets, classes):
    return np.eye(classes, dtype=np.float32)[targets]


@pytest.mark.parametrize("k", [1, 2, 5, 11, 12])
def test_top_k_is_that_of_scikit_learn(data, k):
    scores, targets = data
    expected = reference.top_k_accuracy_score(targets, scores, k=k, labels=range(12))
    for labels in (targets, rows(targets, 12), mx.nd.array(rows(targets, 12))):
        assert top_k_accuracy(scores, labels, k) == pytest.approx(expected, abs=1e-12)
    exp = np.exp(scores - scores.max(1, keepdims=True))
    assert top_k_accuracy(exp / exp.sum(1, keepdims=True), targets, k) == pytest.approx(expected)


def test_everything_is_that_of_scikit_learn(data):
    scores, targets = data
    result = evaluate_classification(scores, rows(targets, 12))
    chosen = scores.argmax(1)
    np.testing.assert_array_equal(
        confusion_matrix(scores, targets), reference.confusion_matrix(targets, chosen)
    )
    precision, recall, f1, images = reference.precision_recall_fscore_support(targets, chosen)
    for key, expected in (("precision", precision), ("recall", recall), ("f1", f1),
                          ("images", images)):  # fmt: skip
        np.testing.assert_allclose([row[key] for row in result["classes"]], expected, rtol=1e-12)
    overall = result["overall"]
    assert overall["top1"] == pytest.approx(reference.accuracy_score(targets, chosen))
    assert overall["balanced"] == pytest.approx(reference.balanced_accuracy_score(targets, chosen))
    assert overall["top1_error"] == pytest.approx(1 - overall["top1"])
    assert overall["top5"] > overall["top1"]
    assert overall["majority"] == pytest.approx(np.bincount(targets).max() / 400)
    matrix = confusion_matrix(scores, targets)
    pair = result["confusions"][0]
    np.fill_diagonal(matrix, 0)
    assert pair["images"] == matrix.max() and len(result["confusions"]) == 20


def test_equal_scores_give_no_credit_beyond_chance():
    targets = np.arange(10)
    flat = np.zeros((10, 10))
    assert top_k_accuracy(flat, targets) == 0.1
    assert top_k_accuracy(flat, targets, 5) == 0.5
    np.testing.assert_array_equal(true_rank(flat, targets), np.arange(10))
    saturated = np.ones((10, 10), np.float32)  # sigmoids of large logits, say
    assert top_k_accuracy(saturated, targets) == 0.1
    chosen = flat.argmax(1)
    assert (chosen == targets).mean() == top_k_accuracy(flat, targets)


def test_rows_without_a_known_class_count_nowhere():
    scores = np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [np.nan, 0, 0], [0.2, 0.5, 0.3]])
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]])
    mask = np.array([1, 1, 0, 1])[:, None] * np.ones((1, 3))
    result = evaluate_classification(scores, labels, mask)
    assert result["samples"] == 4 and result["left_out"] == 2
    assert result["overall"]["top1"] == 0.5
    np.testing.assert_array_equal(true_rank(scores, labels, mask), [0, 1, -1, -1])
    assert confusion_matrix(scores, labels, mask).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="scores of row 2 are not finite; 1 such"):
        true_rank(scores, labels)
    nothing = evaluate_classification(scores[:2], labels[:2], np.zeros((2, 3)))
    assert math.isnan(nothing["overall"]["top1"]) and math.isnan(nothing["overall"]["majority"])


def test_any_of_several_labels_is_right():
    labels = np.array([[1, 0, 1], [1, 1, 0]])
    scores = np.array([[0.1, 0.2, 0.7], [0.1, 0.2, 0.7]])
    np.testing.assert_array_equal(true_rank(scores, labels), [0, 1])
    assert confusion_matrix(scores, labels)[2, 2] == 1


def test_margin_of_the_right_class_by_hand(data):
    scores, targets = data
    found = true_class_margin(scores, targets)
    right = scores[np.arange(len(scores)), targets]
    others = scores.copy()
    others[np.arange(len(scores)), targets] = -np.inf
    at = np.sort(scores.ravel())
    apart = (others.max(1) <= at[:, None]).mean(1) - (right <= at[:, None]).mean(1)
    largest = apart[np.abs(apart).argmax()]
    assert found["distance"] == pytest.approx(largest) and found["at"] in at
    (there,) = np.flatnonzero(at == found["at"])[:1]
    assert apart[there] == pytest.approx(largest)


def test_margin_has_its_limits():
    targets = np.array([0, 1, 2, 0])
    sure = np.eye(3)[targets] * 0.8 + 0.05
    assert true_class_margin(sure, targets) == {"distance": 1.0, "at": pytest.approx(0.05)}
    assert true_class_margin(1 - sure, targets)["distance"] == -1.0
    assert str(true_class_margin(np.full((4, 3), 1 / 3), targets)["distance"]) == "0.0"
    several = np.array([[0, 1, 1], [1, 1, 1]])  # the highest right one; no wrong one: left out
    scores = np.array([[0.2, 0.1, 0.7], [0.9, 0.0, 0.1]])
    assert true_class_margin(scores, several) == {"distance": 1.0, "at": 0.2}
    assert math.isnan(true_class_margin(sure, targets, np.zeros(4))["distance"])
    shown = CLASSIFICATION.text(evaluate_classification(sure, targets))
    assert "most probable wrong class: 1.00, at 0.05." in " ".join(shown.split())
    nothing = evaluate_classification(sure, targets, np.zeros(4))
    for result in (nothing, json.loads(CLASSIFICATION.json(nothing))):
        assert "Kolmogorov" not in CLASSIFICATION.text(result)


def test_a_k_that_says_nothing_is_left_out():
    scores, targets = np.eye(5), np.arange(5)
    overall = evaluate_classification(scores, targets)["overall"]
    assert overall["top1"] == 1 and "top5" not in overall
    assert top_accuracies(scores, targets) == {"top1": 1.0, "top1_error": 0.0}
    two = evaluate_classification(np.eye(2), [0, 0])["overall"]
    assert two["top1"] == 0.5 and two["balanced"] == 0.5 and two["majority"] == 1.0


@pytest.mark.parametrize(
    "scores, labels, message",
    [
        (np.zeros((3, 1)), [0, 0, 0], "at least two classes"),
        (np.zeros(3), [0, 0, 0], "must be \\(N, K\\)"),
        (np.zeros((3, 4)), [0, 4, 0], "row 1 is 4; valid are 0 to 3"),
        (np.zeros((3, 4)), [0, -1, 0], "row 1 is -1"),
        (np.zeros((3, 4)), [0, 0.5, 0], "row 1 is 0.5"),
        (np.zeros((3, 4)), np.zeros((3, 3)), "must be class numbers \\(3,\\) or one-hot rows"),
        (np.zeros((3, 4)), np.full((3, 4), 2), "must be 0 or 1"),
    ],
)
def test_nonsense_is_refused(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        evaluate_classification(scores, np.asarray(labels))
    with pytest.raises(ValueError, match="k=0"):
        top_k_accuracy(np.zeros((1, 2)), [0], 0)


def test_tables(data, tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "SHOWN", 3)
    scores, targets = data
    names = [f"class, {k}" for k in range(12)]
    result = evaluate_classification(scores, targets, names=names)
    text = CLASSIFICATION.text(result)
    assert "top5_error" in text and "the 3 with the lowest recall" in text
    assert f"{100 * result['overall']['top1']:.1f}" in text
    worst = min(result["classes"], key=lambda row: row["recall"])
    assert worst["name"] in text
    table = list(csv.DictReader(io.StringIO(CLASSIFICATION.csv(result))))
    assert len([row for row in table if row["row"] == "class"]) == 12
    assert float(table[0]["value"]) == result["overall"]["top1"]
    assert json.loads(CLASSIFICATION.json(result))["overall"] == result["overall"]
    paths = CLASSIFICATION.write(result, tmp_path, "test")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"test.{s}" for s in sorted(paths)]
    empty = evaluate_classification(scores[:1], targets[:1], np.zeros(1))
    assert json.loads(CLASSIFICATION.json(empty))["overall"]["top1"] is None
    assert "1 samples without a known class" in CLASSIFICATION.text(empty, "markdown")
