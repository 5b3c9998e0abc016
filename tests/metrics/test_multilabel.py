"""Multi-label metrics: laws, then slow references and scikit-learn, then contracts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reference import multilabel as reference
from sklearn import metrics as sklearn_metrics

from gluon_attn.metrics.multilabel import (
    MultiLabelMeter,
    average_precision,
    evaluate_multilabel,
    instance_metrics,
    mean_accuracy,
    mean_accuracy_per_attribute,
    per_attribute,
)


def random_case(seed, rows=60, columns=7, levels=9):
    """Scores on a coarse grid (many ties), a mask, an empty and two single-class columns."""
    rng = np.random.default_rng(seed)
    probs = rng.integers(0, levels + 1, (rows, columns)) / levels
    labels = (rng.random((rows, columns)) < rng.uniform(0.05, 0.8, columns)).astype(np.float32)
    mask = (rng.random((rows, columns)) < 0.75).astype(np.float32)
    labels[5] = 0  # a sample without positives, as far as known
    labels[:, 0], labels[:, 1], mask[:, 2], mask[5, 1] = 0, 1, 0, 0
    mask[6] = 0  # a sample without known labels
    return probs, labels, mask


class TestAveragePrecisionLaws:
    @pytest.mark.parametrize("interpolated", [True, False])
    def test_perfect_ranking_is_one(self, interpolated):
        labels = np.array([1, 0, 1, 0, 0])
        assert average_precision([9, 1, 8, 2, 3], labels, None, interpolated) == pytest.approx(1)

    def test_reversed_ranking_of_one_positive_is_its_rank_inverted(self):
        assert average_precision([1, 2, 3, 4], np.array([1, 0, 0, 0])) == pytest.approx(1 / 4)

    def test_reversed_ranking_by_hand(self):
        # Positives at ranks 3 and 4: precisions 1/3 and 2/4; the envelope lifts the first to 2/4.
        scores, labels = [4, 3, 2, 1], np.array([0, 0, 1, 1])
        assert average_precision(scores, labels) == pytest.approx(1 / 2)
        assert average_precision(scores, labels, interpolated=False) == pytest.approx(5 / 12)

    @pytest.mark.parametrize("interpolated", [True, False])
    def test_all_scores_equal_gives_the_positive_rate(self, interpolated):
        labels = np.array([1, 0, 0, 1, 0])
        assert average_precision(np.zeros(5), labels, None, interpolated) == pytest.approx(0.4)

    def test_only_positives_is_one_and_no_positive_is_nan(self):
        assert average_precision([0.1, 0.7], np.array([1, 1])) == pytest.approx(1)
        assert math.isnan(average_precision([0.1, 0.7], np.array([0, 0])))

    def test_empty_and_wholly_masked_are_nan(self):
        assert math.isnan(average_precision(np.zeros(0), np.zeros(0)))
        assert math.isnan(average_precision([0.1, 0.7], [1, 0], [0, 0]))

    @pytest.mark.parametrize("transform", [lambda s: 5 * s - 9, np.exp, lambda s: s**3])
    def test_increasing_transform_changes_nothing(self, transform):
        probs, labels, mask = random_case(0)
        args = labels[:, 3], mask[:, 3]
        assert average_precision(transform(probs[:, 3]), *args) == average_precision(
            probs[:, 3], *args
        )


class TestAgainstReferences:
    @pytest.mark.parametrize("levels", [2, 9, 10**6])
    @pytest.mark.parametrize("seed", range(6))
    def test_average_precision(self, seed, levels):
        probs, labels, mask = random_case(seed, levels=levels)
        for a in range(probs.shape[1]):
            args = probs[:, a], labels[:, a], mask[:, a]
            expected = reference.interpolated_ap(*args)
            np.testing.assert_allclose(average_precision(*args), expected, atol=1e-12)
            plain, keep = average_precision(*args, interpolated=False), mask[:, a] == 1
            if labels[keep, a].any():
                expected = sklearn_metrics.average_precision_score(labels[keep, a], probs[keep, a])
                assert plain == pytest.approx(expected, abs=1e-12)
            else:
                assert math.isnan(plain)

    @pytest.mark.parametrize("threshold", [0.5, "per attribute"])
    @pytest.mark.parametrize("seed", range(6))
    def test_per_attribute(self, seed, threshold):
        probs, labels, mask = random_case(seed)
        threshold = np.linspace(0.2, 0.8, 7) if threshold == "per attribute" else threshold
        given = () if isinstance(threshold, float) else (threshold,)  # 0.5 is the default
        found = per_attribute(probs, labels, mask, *given)
        for a, t in enumerate(np.broadcast_to(threshold, 7)):
            counts = tp, fp, fn, tn = reference.counts(probs[:, a], labels[:, a], mask[:, a], t)
            expected = {
                "positives": tp + fn,
                "negatives": tn + fp,
                "unspecified": len(probs) - sum(counts),
                "accuracy": (tp + tn) / sum(counts) if sum(counts) else math.nan,
                "precision": tp / (tp + fp) if tp + fp else math.nan,
                "recall": tp / (tp + fn) if tp + fn else math.nan,
                "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else math.nan,
                "ma": reference.balanced_accuracy(*counts),
            }
            for key, value in expected.items():
                np.testing.assert_allclose(found[key][a], value, atol=1e-12, err_msg=key)

    @pytest.mark.parametrize("empty", ["leave-out", "zero"])
    @pytest.mark.parametrize("threshold", [0.5, 0.95])
    @pytest.mark.parametrize("seed", range(6))
    def test_instance_metrics(self, seed, threshold, empty):
        probs, labels, mask = random_case(seed)
        labels[:, 1] = labels[:, 3]  # otherwise nearly every sample has a positive
        found = instance_metrics(probs, labels, mask, threshold, empty=empty)
        expected = reference.instance_metrics(
            probs, labels, mask, [threshold] * 7, count_empty=empty == "zero"
        )
        np.testing.assert_allclose(list(found.values()), expected, atol=1e-12)

    def test_pooled_and_class_means_against_sklearn(self):
        probs, labels, _ = random_case(3)
        probs, labels = probs[:, 3:], labels[:, 3:]
        probs[:, 0] = 0.1  # has positives but is never predicted: counts 0 in CP
        overall = evaluate_multilabel(probs, labels)["overall"]
        for average, letter in (("micro", "O"), ("macro", "C")):
            precision, recall, _, _ = sklearn_metrics.precision_recall_fscore_support(
                labels, probs >= 0.5, average=average, zero_division=0
            )
            f1 = 2 * precision * recall / (precision + recall)
            found = [overall[letter + key] for key in ("P", "R", "F1")]
            np.testing.assert_allclose(found, [precision, recall, f1], atol=1e-12)


class TestMeanAccuracy:
    def test_by_hand(self):
        labels = np.array([[1, 1], [1, 0], [0, 0], [0, 0]])
        probs = np.array([[0.9, 0.1], [0.2, 0.1], [0.3, 0.1], [0.1, 0.6]])
        # (1/2 + 2/2) / 2 and (0/1 + 2/3) / 2
        assert mean_accuracy_per_attribute(probs, labels).tolist() == [0.75, pytest.approx(1 / 3)]
        assert mean_accuracy(probs, labels) == pytest.approx((0.75 + 1 / 3) / 2)

    def test_constant_prediction_is_one_half(self):
        labels = random_case(0)[1][:, 3:]
        assert mean_accuracy(np.ones(labels.shape), labels) == 0.5
        assert mean_accuracy(np.zeros(labels.shape), labels) == 0.5

    def test_threshold_itself_is_positive(self):
        assert mean_accuracy([[0.5], [0.4]], [[1], [0]]) == 1

    def test_attribute_with_one_class_is_left_out(self):
        labels = np.array([[1, 1], [0, 1]])
        probs = np.array([[0.9, 0.1], [0.1, 0.1]])
        assert mean_accuracy(probs, labels) == 1
        assert math.isnan(mean_accuracy(probs[:, 1:], labels[:, 1:]))
        assert math.isnan(mean_accuracy(np.zeros((0, 3)), np.zeros((0, 3))))


class TestInstanceMetrics:
    def test_f1_is_not_the_mean_of_f1(self):
        labels = np.array([[1, 1, 0], [1, 0, 0]])
        probs = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
        found = instance_metrics(probs, labels)
        assert found["precision"] == pytest.approx((1 + 1 / 3) / 2)
        assert found["recall"] == pytest.approx((1 / 2 + 1) / 2)
        mean_of_f1 = (2 / 3 + 1 / 2) / 2
        assert found["f1"] == pytest.approx(2 * (2 / 3) * 0.75 / (2 / 3 + 0.75))
        assert abs(found["f1"] - mean_of_f1) > 0.1

    def test_sample_without_positives_by_each_rule(self):
        labels, probs = np.array([[1, 0], [0, 0]]), np.array([[1.0, 0.0], [0.0, 0.0]])
        assert set(instance_metrics(probs, labels).values()) == {1.0}
        assert set(instance_metrics(probs, labels, empty="zero").values()) == {0.5}

    def test_nothing_predicted_is_zero_and_nothing_known_is_nan(self):
        assert set(instance_metrics(np.zeros((2, 2)), np.eye(2)).values()) == {0.0}
        nothing = instance_metrics(np.zeros((2, 2)), np.eye(2), np.zeros((2, 2)), empty="zero")
        assert all(math.isnan(value) for value in nothing.values())

    def test_unknown_rule(self):
        with pytest.raises(ValueError, match="'skip'.*leave-out, zero"):
            instance_metrics(np.zeros((1, 1)), np.zeros((1, 1)), empty="skip")


class TestErrors:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_score_that_is_not_finite_is_named(self, bad):
        scores = np.array([[0.1, 0.2], [0.3, bad]])
        with pytest.raises(ValueError, match="score at row 1, attribute 1 .*finite"):
            mean_accuracy(scores, np.eye(2))
        with pytest.raises(ValueError, match="score at row 1 .*finite"):
            average_precision(scores[:, 1], [0, 1])
        assert average_precision(scores[:, 1], [1, 1], [1, 0]) == 1  # masked: not looked at

    def test_label_or_mask_outside_0_and_1_is_named(self):
        with pytest.raises(ValueError, match="label at row 1 is -1 .*0 or 1"):
            average_precision([0.1, 0.2], [1, -1])
        with pytest.raises(ValueError, match="mask at row 0 is 0.5"):
            average_precision([0.1, 0.2], [1, 0], [0.5, 1])
        assert average_precision([0.1, 0.2], [1, -1], [1, 0]) == 1

    @pytest.mark.parametrize("function", [mean_accuracy, instance_metrics, evaluate_multilabel])
    def test_shapes(self, function):
        for shapes in (((3, 2), (3, 3), (3, 2)), ((3, 2), (3, 2), (2, 2)), ((3,), (3,), (3,))):
            with pytest.raises(ValueError, match=r"must be \(N, A\)"):
                function(*(np.zeros(shape) for shape in shapes))
        with pytest.raises(ValueError, match=r"must be \(N,\)"):
            average_precision(np.zeros((3, 1)), np.zeros((3, 1)))

    @pytest.mark.parametrize("threshold", [[0.5, 0.5, 0.5], math.nan])
    def test_threshold(self, threshold):
        with pytest.raises(ValueError, match="threshold"):
            mean_accuracy(np.zeros((3, 2)), np.zeros((3, 2)), threshold=threshold)

    def test_logits_and_names(self):
        with pytest.raises(ValueError, match="sigmoid"):
            evaluate_multilabel([[1.5, 0.2]], [[1, 0]])
        with pytest.raises(ValueError, match="3 names for 2"):
            evaluate_multilabel([[0.5, 0.2]], [[1, 0]], names=["a", "b", "c"])
        with pytest.raises(ValueError, match="repeated: a"):
            evaluate_multilabel([[0.5, 0.2]], [[1, 0]], names=["a", "a"])


class TestEvaluate:
    def test_means_leave_out_what_is_undefined_and_say_so(self):
        probs, labels, mask = random_case(4)
        result = evaluate_multilabel(probs, labels, mask, list("abcdefg"))
        assert result["samples"] == len(probs) != 7 and result["threshold"] == 0.5
        defined = [
            reference.interpolated_ap(probs[:, a], labels[:, a], mask[:, a]) for a in range(7)
        ]
        assert math.isnan(defined[0]) and math.isnan(defined[2])
        assert result["overall"]["mAP"] == pytest.approx(np.nanmean(defined))
        assert result["undefined"]["ap"] == ["a", "c"]
        assert result["undefined"]["ma"] == ["a", "b", "c"]
        assert result["undefined"]["accuracy"] == ["c"]
        assert [row["name"] for row in result["attributes"]] == list("abcdefg")
        assert result["overall"]["mA"] == pytest.approx(mean_accuracy(probs, labels, mask))
        known_without_positive = int(((labels * mask).sum(axis=1) == 0).sum())
        assert result["samples_without_positives"] == known_without_positive

    def test_empty_split_is_all_nan(self):
        result = evaluate_multilabel(np.zeros((0, 2)), np.zeros((0, 2)))
        assert all(math.isnan(value) for value in result["overall"].values())


class TestMeter:
    def test_batches_in_any_order_with_padding_equal_the_whole(self):
        probs, labels, mask = (array.astype(np.float32) for array in random_case(6))
        order = np.random.default_rng(0).permutation(60)
        meter = MultiLabelMeter(list("abcdefg"))
        for start in range(0, 60, 16):
            index = order[start : start + 16]
            fill = 16 - len(index)
            rows = np.concatenate([index, order[:fill]])
            index = np.concatenate([index, np.full(fill, -1)])
            meter.update(index, probs[rows], labels[rows], mask[rows])
        assert len(meter) == 60
        found, expected = meter.compute(), evaluate_multilabel(probs, labels, mask, list("abcdefg"))
        np.testing.assert_equal(found, expected)
        np.testing.assert_array_equal(meter.arrays()[0], np.arange(60))
        np.testing.assert_array_equal(meter.arrays()[1], probs)

    def test_it_keeps_copies(self):
        meter, probs = MultiLabelMeter(), np.array([[0.9], [0.1]])
        meter.update([0, 1], probs, np.array([[1], [0]]))
        probs[:] = 0.5
        assert meter.arrays()[1].tolist() == [[0.9], [0.1]]

    @pytest.mark.parametrize("second", [[1, 2], [2, 2]])
    def test_a_sample_twice_is_an_error_and_leaves_the_meter_as_it_was(self, second):
        meter = MultiLabelMeter()
        meter.update([0, 1], [[0.9], [0.1]], [[1], [0]])
        with pytest.raises(ValueError, match="twice.*-1"):
            meter.update(second, [[0.9], [0.1]], [[1], [0]])
        assert len(meter) == 2 and len(meter.arrays()[0]) == 2

    def test_what_does_not_fit(self):
        meter = MultiLabelMeter()
        meter.update([-1], [[0.5]], [[0]])
        with pytest.raises(ValueError, match="empty"):
            meter.compute()
        meter.reset()
        with pytest.raises(ValueError, match="3 indices for 2"):
            meter.update([0, 1, 2], np.zeros((2, 1)), np.zeros((2, 1)))
        meter.update([0], np.zeros((1, 2)), np.zeros((1, 2)))
        with pytest.raises(ValueError, match="3 attributes after batches with 2"):
            meter.update([1], np.zeros((1, 3)), np.zeros((1, 3)))

    def test_reset(self):
        meter = MultiLabelMeter()
        for _ in range(2):
            meter.update([0], [[0.5]], [[1]])
            meter.reset()
        assert len(meter) == 0
