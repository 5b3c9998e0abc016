"""ICASC's attention maps and losses: laws and limit cases, then the paper's formulas in NumPy."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from reference import icasc as reference

from gluon_attn.papers.icasc.attention import (
    MAPS,
    attention_consistency,
    attention_separation,
    channel_weighted,
    grad_cam,
    normalized,
    resize_like,
    soft_mask,
)


def draw(shape=(2, 6, 4, 3), seed=0):
    return mx.nd.array(np.random.default_rng(seed).normal(size=shape))


def maps(count=2, shape=(3, 5, 4), seed=0):
    rng = np.random.default_rng(seed)
    return [mx.nd.array(np.maximum(rng.normal(size=shape), 0)) for _ in range(count)]


@pytest.mark.parametrize("name", sorted(MAPS))
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (1, 1, 1, 1)])
def test_maps_follow_the_formulas(name, shape):
    features, gradients = draw(shape, 1), draw(shape, 2)
    found = MAPS[name](features, gradients).asnumpy()
    pairs = zip(features.asnumpy(), gradients.asnumpy())
    wanted = [getattr(reference, name)(f, g) for f, g in pairs]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    variables = mx.sym.var("f"), mx.sym.var("g")
    (symbolic,) = MAPS[name](*variables).eval(f=features, g=gradients)
    np.testing.assert_array_equal(symbolic.asnumpy(), found)


@pytest.mark.parametrize("attention", MAPS.values(), ids=MAPS)
def test_laws_of_a_map(attention):
    features, gradients = draw(seed=1), draw(seed=2)
    a = attention(features, gradients).asnumpy()
    assert (a >= 0).all() and a.max() > 0
    twice = attention(features, 2 * gradients).asnumpy()  # linear in the size of the gradients
    np.testing.assert_allclose(twice, 2 * a, rtol=1e-5)
    assert (attention(features, 0 * gradients).asnumpy() == 0).all()
    assert (attention(-features.abs(), gradients.abs()).asnumpy() == 0).all()
    alone = attention(features[:1], gradients[:1]).asnumpy()
    np.testing.assert_allclose(alone, a[:1], rtol=1e-6)


def test_both_maps_are_the_same_where_all_gradients_are_positive():
    features, positive = draw(seed=1), draw(seed=2).abs()
    one, other = (attention(features, positive).asnumpy() for attention in MAPS.values())
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert (channel_weighted(features, -positive).asnumpy() == 0).all()
    assert grad_cam(features, -positive).asnumpy().max() > 0


def test_disjoint_maps_are_apart_and_equal_ones_are_not():
    a = maps(1)[0]
    ones = mx.nd.ones_like(a)
    left, right = a.copy(), a.copy()
    left[:, :, 2:] = 0
    right[:, :, :2] = 0
    assert (attention_separation(left, right, ones).asnumpy() == 0).all()
    for share in (1, 0.5, 0):
        found = attention_separation(a, a, share * ones).asnumpy()
        np.testing.assert_allclose(found, share, rtol=1e-5)


def test_separation_is_symmetric_in_the_maps_and_bounded():
    a, b = maps()
    mask = soft_mask(a)
    found = attention_separation(a, b, mask).asnumpy()
    np.testing.assert_array_equal(found, attention_separation(b, a, mask).asnumpy())
    assert ((found > 0) & (found < 1)).all()
    twice = attention_separation(2 * a, 2 * b, mask).asnumpy()  # the size of both does not count
    np.testing.assert_allclose(found, twice, rtol=1e-4)


@pytest.mark.parametrize("theta", [0.8, 0.5])
def test_consistency_goes_from_theta_to_theta_minus_one(theta):
    a = maps(1)[0]
    for inside in (0, 1):
        found = attention_consistency(a, inside * mx.nd.ones_like(a), theta).asnumpy()
        np.testing.assert_allclose(found, theta - inside, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-3])
def test_no_gradient_of_an_almost_empty_map_exceeds_what_epsilon_allows(epsilon):
    mask = mx.nd.zeros((1, 4, 4))
    mask[:, :2] = 1
    for total in (0, 1e-6, 1e-4, 1):
        a, b = (mx.nd.array(np.full((1, 4, 4), total / 16)) for _ in range(2))
        a.attach_grad()
        for loss, arguments, below in (
            (attention_consistency, (a, mask, 0.8), total),
            (attention_separation, (a, b, mask), 2 * total),
        ):
            with autograd.record():
                value = loss(*arguments, epsilon)
            value.backward()
            assert 0 < a.grad.abs().max().asscalar() <= 2.001 / (below + epsilon)


def test_mask_is_a_half_at_the_threshold_and_sharp_around_it():
    a = mx.nd.array([[[1.0, 0.55, 0.6, 0.5]]])
    wanted = [1, 0.5, 1 / (1 + np.exp(-5)), 1 / (1 + np.exp(5))]
    np.testing.assert_allclose(soft_mask(a).asnumpy()[0, 0], wanted, rtol=1e-4)
    wanted = 1 / (1 + np.exp(-np.array([1.5, 0.15, 0.3, 0.0])))
    found = soft_mask(3 * a, sigma=0.5, omega=1).asnumpy()[0, 0]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_all_losses_follow_the_formulas():
    a, b = maps()
    mask = soft_mask(a, 0.55, 100)
    large = resize_like(mask, mx.nd.zeros((3, 9, 7)))
    inner = maps(1, (3, 9, 7), 5)[0]
    apart, consistent = attention_separation(a, b, mask), attention_consistency(inner, large)
    for row in range(3):
        t, c, i = (maps_[row].asnumpy().astype(float) for maps_ in (a, b, inner))
        wanted = reference.soft_mask(t)
        np.testing.assert_allclose(mask[row].asnumpy(), wanted, rtol=1e-4, atol=1e-7)
        big = reference.enlarge(wanted, 9, 7)
        np.testing.assert_allclose(large[row].asnumpy(), big, rtol=1e-4, atol=1e-6)
        separation = reference.separation(t, c, wanted)
        assert apart[row].asscalar() == pytest.approx(separation, rel=1e-4)
        assert consistent[row].asscalar() == pytest.approx(reference.consistency(i, big), rel=1e-4)
    s, t = mx.sym.var("a"), mx.sym.var("b")
    group = mx.sym.Group([attention_separation(s, t, soft_mask(s)), attention_consistency(t, s)])
    for one, other in zip(group.eval(a=a, b=b), (apart, attention_consistency(b, a))):
        np.testing.assert_allclose(one.asnumpy(), other.asnumpy(), rtol=1e-6)


def test_resizing_with_aligned_corners_keeps_the_corners():
    a, like = maps(1)[0], mx.nd.zeros((3, 10, 8))
    for aligned in (False, True):
        np.testing.assert_allclose(resize_like(a, a, aligned).asnumpy(), a.asnumpy(), rtol=1e-6)
    large = resize_like(a, like, align_corners=True).asnumpy()
    np.testing.assert_allclose(large[:, ::9, ::7], a.asnumpy()[:, ::4, ::3], rtol=1e-5)
    assert np.abs(large - resize_like(a, like).asnumpy()).max() > 0.01


def test_resizing_gives_no_gradient_to_the_array_that_lends_its_size():
    """On memory that was full of NaN, which an operator that does not write would let through."""
    for _ in range(100):
        used = [mx.nd.full(shape, np.nan) for shape in ((2, 4, 4), (2, 1, 4, 4)) for _ in range(4)]
        mx.nd.waitall()
        del used
        a, like = mx.nd.zeros((2, 4, 4)), mx.nd.zeros((2, 4, 4))
        for array in (a, like):
            array.attach_grad()
        with autograd.record():
            loss = resize_like(a, like)
        loss.backward()
        assert (a.grad.asnumpy() == 1).all() and (like.grad.asnumpy() == 0).all()


def test_maps_of_zeros_have_the_documented_values_and_finite_gradients():
    a, b = (mx.nd.zeros((2, 4, 4)) for _ in range(2))
    for array in (a, b):
        array.attach_grad()
    with autograd.record():
        mask = soft_mask(a)
        apart = attention_separation(a, b, mask)
        consistent = attention_consistency(normalized(a), resize_like(mask, a))
        total = apart + consistent
    total.backward()
    assert (mask.asnumpy() == 0.5).all() and (apart.asnumpy() == 0).all()
    np.testing.assert_allclose(consistent.asnumpy(), 0.8)
    assert np.isfinite(a.grad.asnumpy()).all() and np.isfinite(b.grad.asnumpy()).all()
    a = maps(1)[0]
    np.testing.assert_allclose(normalized(a).asnumpy().max((1, 2)), 1, rtol=1e-5)


def test_gradients_agree_with_differences():
    a, b = (array + 0.1 for array in maps(2, (1, 3, 3), 4))

    def total(a, b):
        mask = soft_mask(a, omega=10)
        return (attention_separation(a, b, mask) + attention_consistency(b, mask)).sum()

    for array in (a, b):
        array.attach_grad()
    with autograd.record():
        loss = total(a, b)
    loss.backward()
    rng = np.random.default_rng(1)
    for _ in range(3):
        step = [mx.nd.array(rng.normal(size=(1, 3, 3))) * 1e-2 for _ in range(2)]
        wanted = total(a + step[0], b + step[1]) - total(a - step[0], b - step[1])
        found = 2 * ((a.grad * step[0]).sum() + (b.grad * step[1]).sum())
        assert found.asscalar() == pytest.approx(wanted.asscalar(), rel=0.05, abs=1e-4)
