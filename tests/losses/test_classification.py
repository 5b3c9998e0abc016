"""Softmax cross-entropy and the choice of the loss: laws, an independent reference, contracts."""

from __future__ import annotations

import math

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from scipy.special import logsumexp

from gluon_attn.core.schema import MULTICLASS, Attribute, Schema
from gluon_attn.losses.classification import MaskedBCELoss, SoftmaxCELoss, objective
from gluon_attn.method import Optimization, Task
from gluon_attn.papers.baselines import Baseline

SINGLE = Schema([Attribute("class", MULTICLASS, ("a", "b", "c", "d"))])


def rows(targets, classes):
    return np.eye(classes, dtype=np.float32)[targets]


def values(loss, *arrays):
    return loss(*(mx.nd.array(a) for a in arrays)).asnumpy()


@pytest.mark.parametrize("hybrid", [False, True])
def test_equals_the_definition(hybrid):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(0, 4, (16, 7)), rng.integers(0, 7, 16)
    expected = logsumexp(logits, axis=1) - logits[np.arange(16), targets]
    label = rows(targets, 7)
    for inputs in ((logits, label), (logits, label, np.ones_like(label))):
        loss = SoftmaxCELoss()
        if hybrid:
            loss.hybridize(static_alloc=True, static_shape=True)
        np.testing.assert_allclose(values(loss, *inputs), expected, rtol=1e-5, atol=1e-6)


def test_limit_cases():
    loss = SoftmaxCELoss()
    label = rows([0, 1, 2], 3)
    np.testing.assert_allclose(values(loss, np.zeros((3, 3)), label), math.log(3), rtol=1e-6)
    np.testing.assert_allclose(values(loss, 1e4 * label, label), 0, atol=1e-6)
    sure_and_wrong = values(loss, 1e4 * label, label[[1, 2, 0]])
    np.testing.assert_allclose(sure_and_wrong, 1e4, rtol=1e-6)
    shifted = np.random.default_rng(1).normal(size=(3, 3))
    np.testing.assert_allclose(
        values(loss, shifted, label), values(loss, shifted + 5, label), rtol=1e-5
    )


def test_gradient_is_probability_minus_label_and_nothing_of_masked_rows():
    rng = np.random.default_rng(2)
    logits = mx.nd.array(rng.normal(size=(4, 5)))
    label, mask = rows([0, 4, 2, 1], 5), np.ones((4, 5))
    mask[2] = 0  # padding or an unreadable image
    logits.attach_grad()
    loss = SoftmaxCELoss()
    with autograd.record():
        result = loss(logits, mx.nd.array(label), mx.nd.array(mask))
    result.backward()
    assert result.asnumpy()[2] == 0
    expected = logits.softmax().asnumpy() - label
    expected[2] = 0
    np.testing.assert_allclose(logits.grad.asnumpy(), expected, atol=1e-6)


def test_several_positives_share_the_row_and_none_is_nothing():
    logits = np.random.default_rng(3).normal(size=(2, 4))
    label = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], np.float32)
    log_p = logits - logsumexp(logits, axis=1, keepdims=True)
    result = values(SoftmaxCELoss(), logits, label)
    np.testing.assert_allclose(result, [-log_p[0, :2].mean(), 0], rtol=1e-5)
    mask = np.array([[1, 0, 1, 1], [1, 1, 1, 1]], np.float32)  # one of the two is not known
    result = values(SoftmaxCELoss(), logits, label, mask)
    np.testing.assert_allclose(result, [-log_p[0, 0], 0], rtol=1e-5)


@pytest.mark.parametrize("hybrid", [False, True])
def test_binary_cross_entropy_equals_its_definition(hybrid):
    """Masked and weighted, divided by the number of attributes, known or not."""
    rng = np.random.default_rng(4)
    z, y = rng.normal(0, 3, (6, 5)), (rng.random((6, 5)) < 0.4) * 1.0
    mask, weight = (rng.random((6, 5)) < 0.6) * 1.0, rng.uniform(0.5, 2, (6, 5))
    p = 1 / (1 + np.exp(-z))
    entries = -(y * np.log(p) + (1 - y) * np.log(1 - p)) * mask
    for given, factor in (((), 1), ((weight,), weight)):
        loss = MaskedBCELoss()
        if hybrid:
            loss.hybridize(static_alloc=True, static_shape=True)
        expected = (entries * factor).sum(axis=1) / 5
        np.testing.assert_allclose(values(loss, z, y, mask, *given), expected, rtol=1e-5)


def test_objective_follows_the_schema():
    assert isinstance(objective(SINGLE), SoftmaxCELoss)
    binary = Schema.binary("abcd")
    several = Schema([Attribute("hat"), Attribute("age", MULTICLASS, ("young", "old"))])
    for schema in (None, binary, several, Schema.binary(["hat"])):
        assert isinstance(objective(schema), MaskedBCELoss)
    assert SINGLE.is_single_label and not several.is_single_label and not binary.is_single_label


@pytest.mark.parametrize("schema, name", [(SINGLE, "ce"), (Schema.binary("abcd"), "bce"),
                                          (None, "bce")])  # fmt: skip
def test_the_baseline_trains_on_the_objective(schema, name):
    net = mx.gluon.nn.Dense(4, in_units=3)
    net.output_names = ("logits",)
    net.initialize()
    task = Task(tuple("abcd"), 8, np.full(4, 0.25), schema)
    method = Baseline(net, [mx.cpu()], task, Optimization())
    logits, label = mx.nd.random.normal(shape=(2, 4)), mx.nd.array(rows([3, 0], 4))

    class Batch:
        mask = mx.nd.ones((2, 4))

    Batch.label = label
    losses = method.losses({"logits": logits}, Batch)
    assert list(losses) == [name]
    expected = objective(schema)(logits, label, Batch.mask)
    np.testing.assert_array_equal(losses[name].asnumpy(), expected.asnumpy())
