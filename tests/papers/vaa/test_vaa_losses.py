"""Laws of the classification losses and the history, then independent references."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from reference import losses as reference

from gluon_attn.losses.classification import MaskedBCELoss
from gluon_attn.papers.vaa import PredictionHistory, WeightedFocalLoss
from gluon_attn.papers.vaa.losses import positive_weights

B, A = 7, 5


def draw(seed, scale=2.0):
    rng = np.random.default_rng(seed)
    z = rng.normal(0, scale, (B, A)).astype(np.float32)
    y = (rng.random((B, A)) < 0.4).astype(np.float32)
    m = (rng.random((B, A)) < 0.7).astype(np.float32)
    m[:, 0] = 0  # an attribute that nobody labelled
    y[:, 1] = 1  # an attribute of one class
    return z, y, m, rng.uniform(0.01, 0.9, A)


def value_and_gradient(loss, z, *rest):
    z = mx.nd.array(z)
    z.attach_grad()
    with autograd.record():
        value = loss(z, *[mx.nd.array(r) for r in rest])
    value.backward()
    return value.asnumpy(), z.grad.asnumpy()


@pytest.mark.parametrize("weighting", ["prior", "none"])
def test_gamma_zero_and_no_weights_is_cross_entropy(weighting):
    z, y, m, prior = draw(1)
    prior = np.zeros(A) if weighting == "prior" else prior
    loss = WeightedFocalLoss(prior, gamma=0, weighting=weighting)
    focal, focal_gradient = value_and_gradient(loss, z, y, m)
    plain, plain_gradient = value_and_gradient(MaskedBCELoss(), z, y, m)
    np.testing.assert_allclose(focal, plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(focal_gradient, plain_gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("z", [-1e4, -100.0, 0.0, 100.0, 1e4])
@pytest.mark.parametrize("weighting", ["prior", "released"])
def test_extreme_logits_stay_finite(z, weighting):
    loss = WeightedFocalLoss(np.full(A, 0.1), weighting=weighting)
    for y in (0.0, 1.0):
        value, gradient = value_and_gradient(
            loss, np.full((2, A), z), np.full((2, A), y), np.ones((2, A))
        )
        assert np.isfinite(value).all() and np.isfinite(gradient).all()


def test_focal_is_at_most_cross_entropy_and_falls_with_gamma():
    z, y, m, _ = draw(3)
    values = [
        value_and_gradient(WeightedFocalLoss(np.zeros(A), gamma=g), z, y, m)[0] for g in (0, 1, 2)
    ]
    assert (values[1] <= values[0]).all() and (values[2] <= values[1]).all()


def test_rarer_attributes_weigh_more():
    for weighting in ("prior", "released"):
        positive, _ = positive_weights([0.01, 0.1, 0.4], weighting)
        assert (np.diff(positive) < 0).all()


def test_released_weights_follow_the_published_vector():
    # attribute 2 of WIDER: class weight 18.47 in the authors' code, so a = 1 / (1 + 18.47)
    positive, negative = positive_weights([1 / (1 + 18.472435), 0.6], "released")
    np.testing.assert_allclose(positive, [np.exp(1 - 1 / 18.472435), 1.0], rtol=1e-6)
    np.testing.assert_allclose(negative, [np.exp(1 / 18.472435), np.e], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.0])
@pytest.mark.parametrize("hybridize", [False, True])
def test_focal_agrees_with_reference(seed, gamma, hybridize):
    z, y, m, prior = draw(10 + seed)
    for weighting in ("prior", "released"):
        loss = WeightedFocalLoss(prior, gamma=gamma, weighting=weighting)
        if hybridize:
            loss.hybridize()
        value, gradient = value_and_gradient(loss, z, y, m)
        expected = getattr(reference, f"focal_{weighting}")
        np.testing.assert_allclose(
            value, expected(z.astype(float), y, m, prior, gamma), rtol=2e-5, atol=1e-6
        )
        step = 1e-6
        for column in range(A):
            up, down = z.astype(float), z.astype(float)
            up[:, column] += step
            down[:, column] -= step
            numeric = (
                np.subtract(expected(up, y, m, prior, gamma), expected(down, y, m, prior, gamma))
                / 2 / step
            )  # fmt: skip
            np.testing.assert_allclose(gradient[:, column], numeric, rtol=1e-3, atol=1e-6)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="gamma"):
        WeightedFocalLoss([0.1], gamma=-1)
    for weighting in ("other", "unknown"):
        with pytest.raises(ValueError, match="weighting"):
            WeightedFocalLoss([0.1], weighting=weighting)
    for prior in ([1.2], 0.5, [[0.5, 0.5]]):
        with pytest.raises(ValueError, match="fractions"):
            positive_weights(prior, "prior")
    for sizes in ((3, 2, 1), (0, 2, 5), (3, 0, 5)):
        with pytest.raises(ValueError, match="length"):
            PredictionHistory(*sizes)


def test_constant_weight_makes_no_gradient():
    z, y, m, _ = draw(4)
    weight = mx.nd.full((B, A), 1.5)
    weight.attach_grad()
    logits = mx.nd.array(z)
    with autograd.record():
        loss = MaskedBCELoss()(logits, mx.nd.array(y), mx.nd.array(m), weight)
    loss.backward()
    assert (weight.grad.asnumpy() == 0).all()
    np.testing.assert_allclose(
        loss.asnumpy(), 1.5 * value_and_gradient(MaskedBCELoss(), z, y, m)[0], rtol=1e-5
    )


def test_uniform_history_changes_nothing():
    history = PredictionHistory(4, 3)
    for _ in range(7):
        history.update(np.arange(4), np.full((4, 3), 0.25, np.float32))
    assert (history.std(np.arange(4)).asnumpy() == 0).all()


def test_the_smallest_history_is_of_one_sample_and_two_predictions():
    history = PredictionHistory(1, 1, 2)
    for p in (0.2, 0.6):
        history.update([0], np.array([[p]], np.float32))
    np.testing.assert_allclose(history.std([0]).asnumpy(), [[np.sqrt(0.04 + 0.04**2)]], rtol=1e-6)


def test_history_agrees_with_reference_through_shuffling_and_wrap_around():
    rng = np.random.default_rng(0)
    samples, length = 11, 4
    history = PredictionHistory(samples, A, length)
    kept = [[] for _ in range(samples)]
    for epoch in range(7):
        order = rng.permutation(samples)
        if epoch == 3:
            order = order[:6]  # some samples are seen less often
        for start in range(0, len(order), 4):
            index = order[start : start + 4]
            probs = rng.random((len(index), A)).astype(np.float32)
            history.update(index, probs if epoch % 2 else mx.nd.array(probs))
            for sample, row in zip(index, probs):
                kept[sample].append(row)
        index = rng.permutation(samples)
        expected = [
            [reference.std_weight([float(r[c]) for r in kept[s][-length:]]) for c in range(A)]
            for s in index
        ]
        np.testing.assert_allclose(history.std(index).asnumpy(), expected, rtol=1e-4, atol=1e-6)


def test_history_survives_a_checkpoint():
    rng = np.random.default_rng(1)
    one, other = PredictionHistory(6, 2), PredictionHistory(6, 2)
    for _ in range(3):
        one.update(rng.permutation(6), rng.random((6, 2)).astype(np.float32))
    other.load_state(one.state())
    late = rng.random((6, 2)).astype(np.float32)
    for history in (one, other):
        history.update(np.arange(6), late)
    np.testing.assert_array_equal(
        one.std(np.arange(6)).asnumpy(), other.std(np.arange(6)).asnumpy()
    )
    for other in (PredictionHistory(7, 2), PredictionHistory(6, 3)):
        with pytest.raises(ValueError, match="other data"):
            other.load_state(one.state())


def test_history_ignores_padding_and_refuses_bad_ids():
    history = PredictionHistory(3, 1)
    for p in (0.1, 0.9):
        history.update([0, -1], np.array([[p], [0.5]], np.float32))
    std = history.std([0, 1, -1]).asnumpy()
    assert std[0, 0] > 0 and std[1, 0] == 0 and std[2, 0] == 0
    with pytest.raises(ValueError, match="valid are 0"):
        history.update([3], np.zeros((1, 1)))
    with pytest.raises(ValueError, match="twice"):
        history.update([1, 1], np.zeros((2, 1)))
    with pytest.raises(ValueError, match="probs must be"):
        history.update([1], np.zeros((1, 2)))


def test_history_takes_ids_as_mxnet_has_them_and_batches_of_padding():
    history, plain = PredictionHistory(3, 1), PredictionHistory(3, 1)
    for p in (0.1, 0.9):
        probs = np.array([[p], [0.5]], np.float32)
        history.update(mx.nd.array([0, 2]), probs)
        plain.update([0, 2], probs)
    history.update([-1, -1], np.full((2, 1), 0.7, np.float32))
    for name, values in plain.state().items():
        np.testing.assert_array_equal(history.state()[name], values)
    index = mx.nd.array([2, 0])
    np.testing.assert_array_equal(history.std(index).asnumpy(), plain.std([2, 0]).asnumpy())


def test_history_states_its_memory():
    assert PredictionHistory(28340, 14).nbytes == 4 * 5 * 28340 * 14
