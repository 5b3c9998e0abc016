"""Nets cut in three: gradients of scores at the cuts, and directional derivatives."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn
from parts_helpers import (
    CLASSES,
    FAMILIES,
    frozen,
    image_of,
    net_of,
    relative,
    settled,
    through_the_blocks,
    without_dropout,
)

from gluon_attn.nets.graph import Graph
from gluon_attn.nets.taps import TappedStage
from gluon_attn.papers.icasc.cut import DIRECTIONS, Tail
from gluon_attn.papers.icasc.gradients import ExactPass, ScorePass
from gluon_attn.papers.icasc.tangents import Tangents, missing_rules

every_family = pytest.mark.parametrize(
    "name", [*FAMILIES, pytest.param("hoga_resnet20_cifar10", marks=pytest.mark.nightly)]
)


def vectors(rows=3):
    """Two score vectors: one class, and several."""
    one = mx.nd.one_hot(mx.nd.arange(rows) % CLASSES, CLASSES)
    return {"true": one, "confusing": 1 - one}


@pytest.mark.parametrize("name, layers, maps", [
    ("cifar_resnet20_cifar10", ("stage2_activation2", "stage3_activation2"), ((16, 16), (32, 8))),
    ("vgg11", ("stage4_activation1", "stage5_activation1"), ((64, 9), (64, 4))),
    ("vaa_resnet18_w16_synthetic", ("stage3_activation1", "stage4_activation1"),
     ((32, 4), (64, 2))),
    ("efficientnet_lite0", ("stage5_activation2", "stage8_activation0"), ((112, 4), (1280, 2))),
])  # fmt: skip
def test_the_maps_are_those_of_the_last_two_sizes(name, layers, maps):
    net = net_of(name)
    before = set(net.collect_params())
    run = ScorePass(Tail(net, [mx.cpu()], frozen=True), image_of(name))
    assert run.tail.layers == layers and set(net.collect_params()) == before
    for array, (channels, side) in zip((run.inner, run.last), maps):
        assert array.shape == (3, channels, side, side)
    assert run.last.min().asscalar() >= 0  # behind the last ReLU


class Chain(nn.HybridSequential):
    """A net of stages, from layers."""

    def __init__(self, *layers):
        super().__init__()
        self.add(*layers)
        self.initialize()


def stage(*layers, kind=TappedStage):
    result = kind()
    result.add(*layers)
    return result


def conv(**options):
    return nn.Conv2D(3, 1, in_channels=3, **options)


def test_nets_that_cannot_be_cut_are_refused():
    for layers, count in (([nn.Dense(2, in_units=3)], 0), ([stage(conv()), nn.Dense(2)], 1)):
        with pytest.raises(ValueError, match=f"Chain has {count} stage.*two or more such stages"):
            Tail(Chain(*layers), [mx.cpu()])

    class Inside(TappedStage):
        def hybrid_forward(self, F, x):
            return F.broadcast_add(self[0](x), self.early)

    class Reads(Chain):
        def hybrid_forward(self, F, x):
            first, second, dense = self._children.values()
            second.early = F.sqrt(F.relu(x))
            return dense(second(first(second.early)))

    layers = stage(conv()), stage(conv(), kind=Inside), nn.Dense(2, in_units=48)
    with pytest.raises(ValueError, match="the last stage of Reads reads more"):
        Tail(Reads(*layers), [mx.cpu()])
    first = conv()
    net = Chain(stage(first), stage(conv(params=first.params)), nn.Dense(2, in_units=3))
    with pytest.raises(ValueError, match="shares parameter"):
        Tail(net, [mx.cpu()])


def agree(net, image, train, bound=1e-5):
    """Check the gradients of scores with automatic differentiation of Gluon's own blocks."""
    run = ScorePass(Tail(net, [mx.cpu()], frozen=not train), image)
    every = [run.gradients(vector) for vector in vectors().values()]
    assert set(run.gradients(vectors()["true"], inner=False)) == {"last"}
    net = net if train else frozen(net)
    for vector, found in zip(vectors().values(), every):
        for layer, gradient in found.items():
            with autograd.record():
                leaf, logits = through_the_blocks(net, image, layer)
            (wanted,) = autograd.grad(logits, [leaf], vector)
            assert relative(run.logits, logits) <= 1e-5
            assert relative(gradient, wanted) <= bound


@every_family
@pytest.mark.parametrize("train", [True, False])
def test_gradients_of_scores_are_those_of_automatic_differentiation(name, train):
    net, image = without_dropout(net_of(name)), image_of(name)
    agree(settled(net, image) if name.startswith("hoga") else net, image, train)


@pytest.mark.parametrize("train", [True, False])
def test_a_head_may_read_inside_the_last_stage(train):
    name = "vaa_resnet18_w16_synthetic"
    net = net_of(name, taps=("stage3_activation1", "stage4_activation0"))
    agree(net, image_of(name), train, bound=3e-5)  # three gradients meet, added in another order


def closed_and_differentiated(tail, image):
    """Return gradients of scores in closed form and by differentiating the head, in pairs."""
    run = ScorePass(tail, image)
    found = [run.gradients(vector) for vector in vectors().values()]
    assert tail.closed_form
    tail.closed_form = None
    for vector, own in zip(vectors().values(), found):
        yield from ((own[layer], one) for layer, one in run.gradients(vector).items())


def test_closed_form_is_what_the_head_differentiates_to_with_dropout():
    tail = Tail(net_of("awmt_resnet50"), [mx.cpu()])
    (mask,) = ScorePass(tail, image_of("awmt_resnet50")).masks.values()
    assert set(np.unique(mask.asnumpy())) == {0.0, 2.0} and mask.size == 3 * 256
    for own, wanted in closed_and_differentiated(tail, image_of("awmt_resnet50")):
        assert relative(own, wanted) <= 1e-5


@pytest.mark.parametrize("axes", [(), (1,)])
def test_closed_form_of_a_map_that_is_no_square_and_of_dropout_before_flattening(axes):
    layers = stage(conv()), stage(conv()), nn.GlobalAvgPool2D(), nn.Dropout(0.5, axes)
    tail = Tail(Chain(*layers, nn.Flatten(), nn.Dense(CLASSES, in_units=3)), [mx.cpu()])
    for own, wanted in closed_and_differentiated(tail, mx.nd.random.normal(shape=(3, 3, 2, 5))):
        assert relative(own, wanted) <= 1e-5


def directions_of(run, rng=None):
    return {
        f"{layer}_{d}": mx.nd.array(rng.normal(size=getattr(run, layer).shape))
        for layer in ("inner", "last") for d in DIRECTIONS
    }  # fmt: skip


@pytest.mark.parametrize("name", ["awmt_resnet50", "vgg11"])
def test_dropout_drops_the_same_in_all_passes_and_something_new_in_every_step(name):
    tail = Tail(net_of(name), [mx.cpu()])
    first, second = (ScorePass(tail, image_of(name)) for _ in range(2))
    assert relative(first.logits, second.logits) > 1e-3
    exact = ExactPass(first, tail.directional(), {})
    assert relative(exact.logits, first.logits) <= 1e-5
    assert all((change.asnumpy() == 0).all() for change in exact.changes.values())
    for mask in first.masks.values():
        assert mask.mean().asscalar() == pytest.approx(1, abs=0.25)


@every_family
def test_directional_derivatives_are_products_with_the_gradients(name):
    net, image = net_of(name), image_of(name, rows=8)  # gates with batch-norm want a few images
    tail = Tail(net, [mx.cpu()])
    linear = tail.closed_form  # for heads of pooling and one dense layer, and no others
    assert (linear is None) == name.startswith(("vgg", "vaa"))
    assert bool(linear and linear.mask) == (name in ("awmt_resnet50", "efficientnet_lite0"))
    run = ScorePass(tail, image)
    directions = directions_of(run, np.random.RandomState(2))
    exact = ExactPass(run, tail.directional(), directions)
    assert relative(exact.logits, run.logits) <= 1e-4
    assert relative(exact.last, run.last) <= 1e-4
    for d, vector in vectors(8).items():
        found = run.gradients(vector)
        terms = [(g * directions[f"{layer}_{d}"]).asnumpy() for layer, g in found.items()]
        wanted = sum(float(t.astype(np.float64).sum()) for t in terms)
        size = sum(float(np.abs(t).sum()) for t in terms)
        assert abs(float((exact.changes[d] * vector).sum().asscalar()) - wanted) <= 1e-4 * size


F = mx.sym
x, y, c = F.var("x"), F.var("y"), F.var("c")
FORMULAS = {
    "linear": F.mean(F.transpose(F.Reshape(2 * x - 3, shape=(0, 0, -1)), axes=(0, 2, 1)), axis=1),
    "sum": F.broadcast_add(x, F.mean(y, axis=(2, 3), keepdims=True)) - (1 - y) + F.add_n(x, y, x),
    "concat": F.square(F.Concat(x, F.ones_like(y), y, dim=1)),
    "split": F.broadcast_mul(*F.SliceChannel(x, num_outputs=2, axis=1)),
    "dense": F.tanh(F.FullyConnected(x, F.var("w"), num_hidden=3, no_bias=True)),
    "depth-wise": F.Convolution(
        F.pad(x, mode="constant", constant_value=0, pad_width=(0, 0, 0, 0, 0, 1, 0, 1)),
        F.var("k"), kernel=(3, 3), num_filter=4, num_group=4, no_bias=True),
    "product": F.batch_dot(F.Reshape(x, shape=(0, 0, -1)), F.Reshape(y, shape=(0, 0, -1)),
                           transpose_b=True),
    "quotient": F.broadcast_div(x, F.exp(y)) + x / (2 + F.square(y)) + 1 / (2 + F.square(x)),
    "smooth": F.sigmoid(x) * F.Activation(x, act_type="softrelu") + F.log(F.exp(y) + 1),
    "root": F.sqrt(1 + F.square(x)) + F.rsqrt(2 + F.square(y)) + F.reciprocal(3 + F.square(y)),
    "softmax": F.softmax(x, axis=-1) * y,
    "bounds": F.stack(F._internal._MaximumScalar(x, scalar=0.2), x, axis=1) * 2
    + F.stack(y, F._internal._MinimumScalar(y, scalar=0.3), axis=1),
    "relu6": F.clip(6 * x, 0, 6) * y,
    "kinks": F.relu(x) + F.Activation(y, act_type="relu") + F.broadcast_maximum(x, y)
    + F.broadcast_minimum(2 * x, y),
    "maximum": F.broadcast_add(F.max(x, axis=1, keepdims=True),
                               F.max(y, axis=(2, 3), keepdims=True)),
    "pooling": F.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max"),
    "global": F.Pooling(x, kernel=(1, 1), global_pool=True, pool_type="max")
    + F.Pooling(y, kernel=(1, 1), global_pool=True, pool_type="avg"),
    "average": F.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg"),
    "adaptive": F.contrib.AdaptiveAvgPooling2D(x * y, output_size=2),
    "constants": F.broadcast_add(c, F.square(x)) * F.broadcast_sub(c, y) + F.broadcast_sub(x, c),
    "only y": F.square(y) + F.ones_like(x),
}  # fmt: skip


@pytest.mark.parametrize("formula", FORMULAS)
def test_every_rule_against_differences(formula):
    """Central differences in float64, where kinks are far from the values that are drawn."""
    source, wanted = Graph.of([FORMULAS[formula]])
    graph = Graph()
    tangents = Tangents(graph, {graph.variable(n): [graph.variable("d" + n)] for n in "xy"})

    def change(target, number, node, inputs):
        entry = target.copy(node, inputs)
        if tangents.moving(inputs):
            tangents.push(entry)
        return entry

    (entry,) = graph.take(source, wanted, {}, change)
    rng = np.random.RandomState(0)
    arrays = {name: rng.normal(size=(2, 4, 5, 4)) for name in ("x", "y", "dx", "dy")}
    weights = {"w": rng.normal(size=(3, 80)) / 10, "k": rng.normal(size=(4, 1, 3, 3))}
    weights["c"] = rng.normal(size=(2, 1, 5, 4))
    found = evaluate(graph.symbols(tangents[entry])[0], {**arrays, **weights})
    step, ends = 1e-6, []
    for sign in (1, -1):
        moved = {n: arrays[n] + sign * step * arrays["d" + n] for n in ("x", "y")}
        ends.append(evaluate(FORMULAS[formula], {**moved, **weights}))
    np.testing.assert_allclose(found, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-6)


def evaluate(symbol, arrays):
    used = {n: mx.nd.array(arrays[n], dtype="float64") for n in symbol.list_arguments()}
    return symbol.bind(mx.cpu(), used).forward()[0].asnumpy()


class Sorts(Chain):
    def hybrid_forward(self, F, x):
        *layers, dense = self._children.values()
        for layer in layers:
            x = layer(x)
        return dense(F.square(F.sort(x, axis=1)))


@pytest.mark.parametrize("kind, more, message", [
    (Sorts, [], "unknown operator .*'sort'.*gradient=constant"),
    (Chain, [nn.MaxPool2D(3, 2)], "Pooling max, kernel .3, 3.*gradient=constant"),
], ids=["operator", "settings"])  # fmt: skip
def test_operators_without_a_rule_are_named(kind, more, message):
    net = kind(*(stage(conv(), *more) for _ in range(2)), nn.Dense(2))
    net(mx.nd.zeros((1, 3, 16, 16)))
    with pytest.raises(ValueError, match=message):
        Tail(net, [mx.cpu()]).directional()
    found = missing_rules(net)
    assert len(found) == (2 if more else 1) and all("gradient=constant" in text for text in found)
