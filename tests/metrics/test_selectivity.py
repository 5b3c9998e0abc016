"""Class selectivity index and channel statistics: laws, limit cases, an independent reference."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gluon_attn.metrics.channels import (
    ChannelStatistics,
    ClassMeans,
    selectivity_index,
    summarize_selectivity,
)


def by_definition(activity, target, classes):
    """Morcos et al., Eq. 1, one channel and one class at a time."""
    index = []
    for channel in activity.T:
        means = [channel[target == k].mean() for k in range(classes) if (target == k).any()]
        best = int(np.argmax(means))
        rest = np.mean([m for k, m in enumerate(means) if k != best])
        index.append((means[best] - rest) / (means[best] + rest))
    return np.array(index)


def test_limit_cases():
    means = np.array([[5.0, 2, 0, 0.3], [0, 2, 0, 0.1], [0, 2, 0, 0.1]])
    np.testing.assert_allclose(selectivity_index(means), [1, 0, 0, 0.5])


def test_it_is_the_definition():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 7, 200)
    activity = rng.gamma(0.5, 1 + rng.random((7, 12))[target])
    found = ClassMeans(7, 12)
    for part in np.array_split(np.arange(200), 6):
        found.update(activity[part], np.eye(7)[target[part]])
    index = selectivity_index(found.means())
    np.testing.assert_allclose(index, by_definition(activity, target, 7), rtol=1e-9)
    assert ((index >= 0) & (index <= 1)).all()


def test_laws():
    rng = np.random.default_rng(1)
    means = rng.random((5, 40))
    index = selectivity_index(means)
    np.testing.assert_allclose(selectivity_index(7 * means), index, rtol=1e-12)
    np.testing.assert_allclose(selectivity_index(means[::-1]), index, rtol=1e-12)
    np.testing.assert_allclose(selectivity_index(means[:, ::-1]), index[::-1], rtol=1e-12)
    assert (selectivity_index(means + 1) < index).all(), "what fires for all classes is shared"
    equal = np.full((3, 1), 0.1)
    assert selectivity_index(equal)[0] == 0, "not below 0 by rounding"


def test_classes_without_samples_do_not_count():
    found = ClassMeans(4, 2)
    found.update([[1.0, 2], [3, 2]], np.eye(4)[[0, 2]])
    np.testing.assert_array_equal(found.means(), [[1, 2], [3, 2]])
    np.testing.assert_allclose(selectivity_index(found.means()), [0.5, 0])


def test_samples_of_several_classes_count_for_each_and_unknown_labels_for_none():
    found = ClassMeans(3, 1)
    found.update([[2.0], [4]], [[1, 1, 0], [0, 1, 1]], [[1, 1, 1], [1, 1, 0]])
    np.testing.assert_array_equal(found.means(), [[2], [3]])
    assert found.samples.tolist() == [1, 2, 0]


def test_summary():
    means = np.array([[1.0, 3, 0], [0, 3, 0]])
    found = summarize_selectivity(means)
    json.dumps(found)
    assert (found["channels"], found["dead"]) == (3, 1)
    assert found["mean"] == pytest.approx(1 / 3) and found["median"] == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: selectivity_index([[1.0, 2]]), "samples of two classes or more"),
        (lambda: selectivity_index([[1.0], [-1]]), "finite and >= 0"),
        (lambda: ClassMeans(2, 1).update([[-0.1]], [[1, 0]]), "behind a ReLU"),
        (lambda: ClassMeans(2, 1).update([[np.nan]], [[1, 0]]), "behind a ReLU"),
        (lambda: ClassMeans(2, 3).update([[0.1]], [[1, 0]]), r"must be \(B, 3\) and \(B, 2\)"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class TestDiversity:
    def test_against_numpy(self):
        attention = np.random.default_rng(0).random((23, 6)).astype(np.float32)
        found = ChannelStatistics(6)
        found.update(attention[:10])
        found.update(attention[10:].reshape(13, 6, 1, 1))
        np.testing.assert_allclose(found.mean, attention.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found.deviation, attention.std(0), rtol=1e-4)
        summary = found.summary()
        assert summary["diversity"] == pytest.approx(attention.std(1).mean(), rel=1e-5)
        assert summary["image_deviation"] == pytest.approx(attention.std(0).mean(), rel=1e-4)

    def test_limits(self):
        found = ChannelStatistics(3)
        found.update(np.full((4, 3), 0.5))
        assert found.summary() == {"channels": 3, "mean": 0.5, "diversity": 0,
                                   "image_deviation": 0}  # fmt: skip
        with pytest.raises(ValueError, match="must be"):
            found.update(np.zeros((2, 1, 4, 4)))
