"""Overlap of two attention maps: limit cases, laws, sums over batches."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gluon_attn.metrics.overlap import OverlapMeter, attention_iou, high_region, shared_attention


def maps(count=20, side=5, seed=0):
    return np.random.default_rng(seed).random((count, side, side))


def test_limit_cases():
    a = np.zeros((1, 2, 2))
    a[0, 0] = (1, 0.6)
    b = np.zeros((1, 2, 2))
    b[0, 1] = 1
    assert attention_iou(a, a)[0] == 1
    assert attention_iou(a, b)[0] == 0
    assert attention_iou(a, a + b)[0] == 0.5, "both high places of a, and two of b"
    zero = np.zeros((1, 2, 2))
    assert attention_iou(zero, zero)[0] == attention_iou(a, zero)[0] == 0
    assert not high_region(zero).any()
    assert high_region(np.ones((1, 2, 2))).all()


def test_against_sets():
    one, other = maps(seed=0), maps(seed=1)
    for k, found in enumerate(attention_iou(one, other, 0.7)):
        high = [{p for p in np.ndindex(5, 5) if m[p] >= 0.7 * m.max()} for m in (one[k], other[k])]
        assert found == pytest.approx(len(high[0] & high[1]) / len(high[0] | high[1]))


def test_laws():
    one, other = maps(seed=2), maps(seed=3)
    iou = attention_iou(one, other)
    np.testing.assert_array_equal(iou, attention_iou(other, one))
    np.testing.assert_array_equal(iou, attention_iou(8 * one, other), "scale of a map")
    turned = attention_iou(one.transpose(0, 2, 1), other.transpose(0, 2, 1))
    np.testing.assert_array_equal(iou, turned)
    assert ((0 <= iou) & (iou <= 1)).all()
    assert (attention_iou(one + 1e3, other + 1e3) == 1).all(), "flat maps are high everywhere"


def test_the_meter_is_the_mean_over_images():
    one, other = maps(seed=4), maps(seed=5)
    one[3] = 0
    separation, right = np.linspace(0, 1, 20), np.arange(20) % 3 == 0
    meter = OverlapMeter(0.6)
    valid = np.ones(20)
    valid[7] = 0
    for part in (slice(0, 8), slice(8, 20)):
        losses = {"separation": separation[part]}
        meter.update(one[part], other[part], losses, right[part], valid=valid[part])
    found, kept = meter.summary(), np.delete(np.arange(20), 7)
    json.dumps(found)
    iou = attention_iou(one, other, 0.6)
    assert (found["images"], found["empty"], found["threshold"]) == (19, 1, 0.6)
    assert found["iou"]["mean"] == pytest.approx(iou[kept].mean())
    assert found["iou"]["wrong"] == pytest.approx(iou[kept][~right[kept]].mean())
    assert found["separation"]["right"] == pytest.approx(separation[kept][right[kept]].mean())
    error = separation[kept].std(ddof=1) / np.sqrt(19)
    assert found["separation"]["standard_error"] == pytest.approx(error)
    assert found["shared"]["mean"] == pytest.approx(shared_attention(one, other)[kept].mean())
    share = high_region(one, 0.6).reshape(20, -1).mean(axis=1)
    assert found["high"]["mean"] == pytest.approx(share[kept].mean())


def test_common_attention_knows_no_mask():
    a, b = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    a[0], b[0] = 3, 1  # min 1 at each of four places, sums 12 and 4
    a[1, 0, 0] = b[1, 1, 1] = 1
    np.testing.assert_allclose(shared_attention(a, b), [2 * 4 / 16, 0])
    np.testing.assert_array_equal(shared_attention(a, a), [1, 1])
    np.testing.assert_array_equal(shared_attention(0 * a, 0 * b), [0, 0])
    one, other = maps(seed=6), maps(seed=7)
    np.testing.assert_allclose(shared_attention(one, other), shared_attention(other, one))


def test_nothing_gives_none():
    found = OverlapMeter().summary()
    assert found["images"] == 0 and found["iou"]["mean"] is None
    meter = OverlapMeter()
    meter.update(np.ones((1, 2, 2)), np.ones((1, 2, 2)), {"separation": [0.5]})
    found = meter.summary()["separation"]
    assert found == {"mean": 0.5, "standard_error": None, "right": None, "wrong": None}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: attention_iou(np.ones((1, 2, 2)), np.ones((1, 2, 3))), "shapes must be equal"),
        (lambda: high_region(np.ones((2, 2))), r"must be \(N, h, w\)"),
        (lambda: high_region(-np.ones((1, 2, 2))), "finite and >= 0"),
        (lambda: high_region(np.full((1, 2, 2), np.inf)), "finite and >= 0"),
        (lambda: high_region(np.ones((1, 2, 2)), 0), r"threshold=0: must be in \(0, 1\]"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
