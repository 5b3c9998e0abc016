"""Attention maps against the paper's formulas, value by value."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from gluon_attn.papers.icasc.maps import MAPS, channel_weighted, grad_cam
from tests.reference import icasc as reference


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", sorted(MAPS))
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (1, 1, 1, 1), (2, 8, 7, 7)])
def test_maps_follow_the_formulas(name, shape):
    features, gradients = draw(shape, 1), draw(shape, 2)
    found = MAPS[name](mx.nd.array(features), mx.nd.array(gradients)).asnumpy()
    wanted = [getattr(reference, name)(f, g) for f, g in zip(features, gradients)]
    assert found.shape == (shape[0],) + shape[2:] and found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", [grad_cam, channel_weighted])
def test_laws_of_a_map(attention):
    features, gradients = mx.nd.array(draw((2, 6, 4, 4), 1)), mx.nd.array(draw((2, 6, 4, 4), 2))
    a = attention(features, gradients).asnumpy()
    assert (a >= 0).all() and a.max() > 0
    twice = attention(features, 2 * gradients).asnumpy()  # linear in the size of the gradients
    np.testing.assert_allclose(twice, 2 * a, rtol=1e-5)
    assert (attention(features, 0 * gradients).asnumpy() == 0).all()
    assert (attention(-features.abs(), gradients.abs()).asnumpy() == 0).all()
    alone = attention(features[:1], gradients[:1]).asnumpy()  # an image of its own
    np.testing.assert_allclose(alone, a[:1], rtol=1e-6)


def test_both_are_the_same_where_all_gradients_are_positive_and_differ_elsewhere():
    features, gradients = mx.nd.array(draw((2, 6, 4, 4), 1)), mx.nd.array(draw((2, 6, 4, 4), 2))
    positive = gradients.abs()
    np.testing.assert_allclose(
        grad_cam(features, positive).asnumpy(), channel_weighted(features, positive).asnumpy(),
        rtol=1e-5,
    )  # fmt: skip
    assert (channel_weighted(features, -positive).asnumpy() == 0).all()
    different = grad_cam(features, gradients) - channel_weighted(features, gradients)
    assert different.abs().max().asscalar() > 0.1


@pytest.mark.parametrize("attention", [grad_cam, channel_weighted])
def test_symbols_give_the_same(attention):
    arrays = {"f": mx.nd.array(draw((2, 6, 4, 3), 1)), "g": mx.nd.array(draw((2, 6, 4, 3), 2))}
    bound = attention(mx.sym.var("f"), mx.sym.var("g")).bind(mx.cpu(), arrays)
    np.testing.assert_array_equal(
        bound.forward()[0].asnumpy(), attention(*arrays.values()).asnumpy()
    )
