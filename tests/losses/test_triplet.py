"""Batch-hard triplet loss: hand-made triplets, an independent NumPy version, gradients, limits."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from gluon_attn.losses.triplet import BatchHardTripletLoss, SoftTripletLoss


def one_hot(identities, classes=None):
    return np.eye(classes or max(identities) + 1, dtype=np.float32)[list(identities)]


def run(loss, embedding, identities, mask=None, hybrid=False):
    """Return the loss per anchor and the gradient of its sum, as NumPy arrays."""
    if hybrid:
        loss.hybridize(static_alloc=True, static_shape=True)
    label = mx.nd.array(one_hot(identities))
    mask = label.ones_like() if mask is None else mx.nd.array(mask)
    x = mx.nd.array(embedding)
    x.attach_grad()
    with autograd.record():
        value = loss(x, label, mask)
    value.backward()
    return value.asnumpy(), x.grad.asnumpy()


def reference(embedding, identities, margin=None):
    """Written from the paper: loops over anchors; returns losses and the gradient of their sum."""
    x = np.asarray(embedding, np.float64)
    losses, gradient = np.zeros(len(x)), np.zeros_like(x)
    for a in range(len(x)):
        positives = [i for i in range(len(x)) if identities[i] == identities[a] and i != a]
        negatives = [i for i in range(len(x)) if identities[i] != identities[a]]
        if not positives or not negatives:
            continue
        p = max(positives, key=lambda i: np.linalg.norm(x[a] - x[i]))
        n = min(negatives, key=lambda i: np.linalg.norm(x[a] - x[i]))
        to_p, to_n = np.linalg.norm(x[a] - x[p]), np.linalg.norm(x[a] - x[n])
        apart = to_p - to_n
        if margin is None:
            losses[a], slope = np.log1p(np.exp(apart)), 1 / (1 + np.exp(-apart))
        else:
            losses[a], slope = max(0.0, margin + apart), float(margin + apart > 0)
        for other, far, sign in ((p, to_p, 1), (n, to_n, -1)):
            push = slope * sign * (x[a] - x[other]) / far
            gradient[a] += push
            gradient[other] -= push
    return losses, gradient


def test_triplets_on_a_line():
    """Positions 0, 1, 4 of one person, 6 and 9 of another."""
    x = [[0.0], [1.0], [4.0], [6.0], [9.0]]
    values, _ = run(BatchHardTripletLoss(1.0), x, (0, 0, 0, 1, 1))
    # 0: 4 - 6; 1: 3 - 5; 4: 4 - 2; 6: 3 - 2; 9: 3 - 5, each + 1
    assert values.tolist() == [0, 0, 3, 2, 0]
    soft, _ = run(SoftTripletLoss(), x, (0, 0, 0, 1, 1))
    np.testing.assert_allclose(soft, np.log1p(np.exp([-2, -2, 2, 1, -2])), rtol=1e-6)


@pytest.mark.parametrize("hybrid", (False, True))
@pytest.mark.parametrize("margin", (0.3, 2.0, None))
def test_agrees_with_loops_over_anchors(margin, hybrid):
    rng = np.random.default_rng(5)
    identities = np.repeat(np.arange(6), 4)
    x = rng.normal(size=(24, 7)).astype(np.float32) + 0.4 * identities[:, None]
    loss = SoftTripletLoss() if margin is None else BatchHardTripletLoss(margin)
    values, gradient = run(loss, x, identities, hybrid=hybrid)
    expected, slope = reference(x, identities, margin)
    assert 0 < (expected > 0).mean(), "some triplets count"
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-5)


def test_shifting_everybody_changes_nothing():
    """Mining must not suffer from features far from 0, as those behind a ReLU are."""
    rng = np.random.default_rng(2)
    identities = np.repeat(np.arange(8), 4)
    x = rng.integers(-40, 40, (32, 16)) / 8  # exact in float32, with and without the shift
    near, near_gradient = run(BatchHardTripletLoss(), x, identities)
    far, far_gradient = run(BatchHardTripletLoss(), x + 4096, identities)
    np.testing.assert_allclose(far, near, rtol=1e-6)
    np.testing.assert_allclose(far_gradient, near_gradient, rtol=1e-5, atol=1e-6)


def test_well_separated_identities_have_no_loss_and_no_gradient():
    x = np.repeat([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]], 4, axis=0)
    x += np.random.default_rng(0).normal(0, 0.01, x.shape)
    values, gradient = run(BatchHardTripletLoss(0.3), x, np.repeat([0, 1, 2], 4))
    assert not values.any() and not gradient.any()


@pytest.mark.parametrize("loss", (BatchHardTripletLoss(), SoftTripletLoss()))
def test_images_at_one_point_are_safe(loss):
    values, gradient = run(loss, np.ones((8, 6)), np.repeat([0, 1], 4))
    expected = 0.3 if isinstance(loss, BatchHardTripletLoss) else np.log(2)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert np.isfinite(gradient).all() and not gradient.any()


def test_a_duplicate_is_safe():
    """The same image twice, as when an identity has fewer images than K."""
    x = np.array([[0.0, 0.0], [0.0, 0.0], [0.1, 0.0], [5.0, 0.0]])
    values, gradient = run(BatchHardTripletLoss(0.3), x, (0, 0, 1, 1))
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(values[:2], 0.3 - 0.1, rtol=1e-4)
    np.testing.assert_allclose(values[3], 0.3 + 4.9 - 5.0, rtol=1e-4)


def test_small_distances_keep_their_digits():
    x = np.array([[100.0, 0.0], [100.001, 0.0], [-100.0, 0.0], [-100.0, 50.0]], np.float32)
    values, _ = run(BatchHardTripletLoss(250.0), x, (0, 0, 1, 1))
    wanted, _ = reference(x, (0, 0, 1, 1), 250.0)
    np.testing.assert_allclose(values, wanted, rtol=1e-6)
    close = np.float64(x[1, 0] - x[0, 0])
    values, _ = run(SoftTripletLoss(), np.float32([[0], [close], [1e4], [1e4 + 1]]), (0, 0, 1, 1))
    assert (values[:2] == 0).all()


def test_anchors_without_a_triplet_do_not_count():
    x = np.random.default_rng(3).normal(size=(5, 3))
    values, gradient = run(SoftTripletLoss(), x, (0, 0, 0, 1, 2))
    assert (values[:3] > 0).all() and not values[3:].any(), "1 and 2 have one image each"
    values, gradient = run(SoftTripletLoss(), x, (0, 0, 0, 0, 0))
    assert not values.any() and not gradient.any(), "nobody else is there"


def test_masked_rows_take_no_part():
    rng = np.random.default_rng(4)
    identities = np.repeat([0, 1, 2], 4)
    x = rng.normal(size=(12, 5)).astype(np.float32)
    mask = np.ones((12, 3), np.float32)
    mask[[2, 7]] = 0
    values, gradient = run(BatchHardTripletLoss(1.0), x, identities, mask)
    kept = [k for k in range(12) if k not in (2, 7)]
    expected, slope = reference(x[kept], identities[kept], 1.0)
    np.testing.assert_allclose(values[kept], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient[kept], slope, rtol=1e-4, atol=1e-5)
    assert not values[[2, 7]].any() and not gradient[[2, 7]].any()


def test_large_violations_do_not_overflow():
    values, gradient = run(SoftTripletLoss(), [[0.0], [1e6], [1.0], [1e6 + 1]], (0, 0, 1, 1))
    np.testing.assert_allclose(values, 1e6 - 1, rtol=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("margin", (0, -0.1, float("nan")))
def test_the_margin_must_be_positive(margin):
    with pytest.raises(ValueError, match="margin"):
        BatchHardTripletLoss(margin)
