"""Nets cut in three: same numbers, same parameters, and gradients of scores at the cuts."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from gluon_attn.nets.graphs import Graph, copy_into
from gluon_attn.nets.taps import TappedStage
from gluon_attn.papers.icasc.gradients import ExactPass, ScorePass
from gluon_attn.papers.icasc.parts import split_net
from gluon_attn.papers.icasc.tail import Tail
from model_zoo import get_model
from tests.parts_helpers import (
    CLASSES,
    DEEP,
    FAMILIES,
    all_outputs,
    frozen,
    image_of,
    net_of,
    relative,
    through_the_blocks,
    without_dropout,
)

every_family = pytest.mark.parametrize(
    "name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.nightly) for name in DEEP)]
)


def vectors(rows=3):
    """Two score vectors: one class, and several."""
    one = mx.nd.one_hot(mx.nd.arange(rows) % CLASSES, CLASSES)
    return one, 1 - one


@every_family
def test_the_parts_make_up_the_net(name):
    net, image = net_of(name), image_of(name)
    parts = split_net(net)
    for mode in (False, True):
        results = []
        for run in (lambda: all_outputs(net, image), lambda: parts(image)):
            mx.random.seed(3)  # for dropout
            with autograd.record(train_mode=mode):
                results.append(run())
        assert list(results[0]) == list(results[1])
        for key, value in results[0].items():
            np.testing.assert_allclose(
                results[1][key].asnumpy(), value.asnumpy(), rtol=1e-4, atol=1e-5, err_msg=key
            )


@pytest.mark.parametrize("name, layers, maps", [
    ("resnet18_w16_synthetic", ("stage3_activation1", "stage4_activation1"), ((32, 4), (64, 2))),
    ("cifar_resnet20_cifar10", ("stage2_activation2", "stage3_activation2"), ((16, 16), (32, 8))),
    ("vgg11", ("stage4_activation1", "stage5_activation1"), ((64, 9), (64, 4))),
    ("vaa_resnet18_w16_synthetic", ("stage3_activation1", "stage4_activation1"),
     ((32, 4), (64, 2))),
])  # fmt: skip
def test_the_maps_are_those_of_the_last_two_stages(name, layers, maps):
    parts = split_net(net_of(name))
    assert (parts.inner, parts.last) == layers
    values = parts.trunk.run({"data": image_of(name)})
    values.update(parts.stage.run(values))
    for key, (channels, side) in zip(("inner", "last"), maps):
        assert values[key].shape == (3, channels, side, side)
        assert values[key].min().asscalar() >= 0  # behind the last ReLU


def test_parts_share_the_parameters_and_leave_the_net_alone():
    net, image = net_of("resnet18_w16_synthetic"), image_of("resnet18_w16_synthetic")
    before = set(net.collect_params())
    parts = split_net(net)
    assert set(net.collect_params()) == before
    net.features[-2][0].body[0].weight.set_data(mx.nd.zeros((64, 32, 3, 3)) + 0.01)
    net.output.bias.set_data(mx.nd.arange(CLASSES))
    np.testing.assert_allclose(
        parts(image)["logits"].asnumpy(), net(image).asnumpy(), rtol=1e-4, atol=1e-5
    )
    with autograd.record():
        loss = parts(image)["logits"].sum()
    loss.backward()
    assert all(p.grad().abs().sum().asscalar() > 0 for p in (net.output.weight, net.output.bias))
    assert net.features[0].weight.grad().abs().sum().asscalar() > 0


class Chain(nn.HybridSequential):
    """A net of stages."""

    def __init__(self, *layers):
        super().__init__()
        self.add(*layers)


def stage(*layers):
    result = TappedStage()
    result.add(*layers)
    return result


def test_nets_that_cannot_be_cut_are_refused():
    net = Chain(stage(nn.Conv2D(3, 1, in_channels=3)), nn.Dense(2, in_units=3 * 16))
    net.initialize()
    with pytest.raises(ValueError, match="Chain has 1 stage"):
        split_net(net)

    class Skips(Chain):
        def hybrid_forward(self, F, x):
            first, second, dense = self._children.values()
            middle = F.sqrt(F.relu(x))
            return dense(F.broadcast_add(second[0](first(middle)), middle))

    class Inside(TappedStage):
        def hybrid_forward(self, F, x):
            return F.broadcast_add(self[0](x), self.early)

    first, second = stage(nn.Conv2D(3, 1, in_channels=3)), Inside()
    second.add(nn.Conv2D(3, 1, in_channels=3))

    class Reads(Chain):
        def hybrid_forward(self, F, x):
            first, second, dense = self._children.values()
            second.early = F.sqrt(F.relu(x))
            return dense(second(first(second.early)))

    net = Reads(first, second, nn.Dense(2, in_units=48))
    net.initialize()
    with pytest.raises(ValueError, match="the last stage of Reads reads more"):
        split_net(net)


def test_a_shared_parameter_is_refused():
    conv = nn.Conv2D(3, 1, in_channels=3)
    again = nn.Conv2D(3, 1, in_channels=3, params=conv.params)
    net = Chain(stage(conv), stage(again), nn.GlobalAvgPool2D(), nn.Dense(2, in_units=3))
    net.initialize()
    split_net(net)
    with pytest.raises(ValueError, match="shares parameter"):
        Tail(net, [mx.cpu()])


# -- gradients of scores ---------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("train", [True, False])
def test_gradients_of_scores_are_those_of_automatic_differentiation(name, train):
    net, image = without_dropout(net_of(name)), image_of(name)
    run = ScorePass(Tail(net, [mx.cpu()], frozen=not train), image)
    every = [run.gradients(vector) for vector in vectors()]
    assert run.gradients(vectors()[0], inner=False)[0] is None
    net = net if train else frozen(net)
    for vector, pair in zip(vectors(), every):
        for cut, found in zip(("inner", "last"), pair):
            with autograd.record():
                leaf, logits = through_the_blocks(net, image, cut)
            (wanted,) = autograd.grad(logits, [leaf], vector)
            assert relative(run.logits, logits) <= 1e-5
            assert relative(found, wanted) <= 1e-5


def test_closed_form_is_what_the_head_differentiates_to_with_dropout():
    net, image = net_of("awmt_resnet50"), image_of("awmt_resnet50")
    tail = Tail(net, [mx.cpu()])
    run = ScorePass(tail, image)
    (mask,) = run.masks.values()
    assert set(np.unique(mask.asnumpy())) == {0.0, 2.0} and mask.size == 3 * 256
    found = [run.gradients(vector) for vector in vectors()]
    tail.closed_form = None
    for vector, pair in zip(vectors(), found):
        for one, other in zip(pair, run.gradients(vector)):
            assert relative(one, other) <= 1e-5


def test_dropout_drops_the_same_in_all_passes_and_something_new_in_every_step():
    for name in ("awmt_resnet50", "vgg11"):
        tail = Tail(net_of(name), [mx.cpu()])
        first, second = (ScorePass(tail, image_of(name)) for _ in range(2))
        assert relative(first.logits, second.logits) > 1e-3
        directions = {
            f"{layer}_{d}": mx.nd.zeros_like(getattr(first, layer))
            for layer in ("inner", "last") for d in ("true", "confusing")
        }  # fmt: skip
        exact = ExactPass(first, tail.directional(), directions)
        assert relative(exact.logits, first.logits) <= 1e-5
        for mask in first.masks.values():
            assert mask.mean().asscalar() == pytest.approx(1, abs=0.25)


def test_running_statistics_move_once_and_as_in_a_plain_step():
    name, image = "vaa_resnet18_w16_synthetic", image_of("vaa_resnet18_w16_synthetic", rows=4)
    after = []
    for way in ("plain", "parts", "exact"):
        net = net_of(name)
        if way == "plain":
            with autograd.record():
                loss = net(image)[0].sum()
            loss.backward()
        else:
            tail = Tail(net, [mx.cpu()])
            run = ScorePass(tail, image)
            directions = {}
            for d, vector in zip(("true", "confusing"), vectors(4)):
                inner, last = run.gradients(vector)
                directions.update({f"inner_{d}": inner, f"last_{d}": last})
            outputs = {**run.staged, **run.headed}
            if way == "parts":
                with autograd.record():
                    loss = run.logits.sum()
                run.backward(loss)
            else:
                run = ExactPass(run, tail.directional(), directions)
                with autograd.record():
                    loss = run.logits.sum()
                run.backward(loss, vectors(4))
                outputs = run.outputs
            tail.update_statistics(outputs)
        mx.nd.waitall()
        named = net._collect_params_with_prefix()
        after.append({n: p.data().asnumpy() for n, p in named.items() if "running" in n})
    for other in after[1:]:
        for key, value in after[0].items():
            np.testing.assert_allclose(other[key], value, rtol=1e-4, atol=1e-5, err_msg=key)


# -- directional derivatives -----------------------------------------------------------------------


@every_family
def test_directional_derivatives_are_products_with_the_gradients(name):
    net, image = net_of(name), image_of(name, rows=8)  # gates with batch-norm want a few images
    tail = Tail(net, [mx.cpu()])
    linear = tail.closed_form  # for heads of pooling and one dense layer, and no others
    assert (linear is None) == name.startswith(("vgg", "vaa"))
    assert bool(linear and linear.mask) == (name == "awmt_resnet50")
    run, rng = ScorePass(tail, image), np.random.RandomState(2)
    directions = {
        f"{layer}_{d}": mx.nd.array(rng.normal(size=getattr(run, layer).shape))
        for layer in ("inner", "last") for d in ("true", "confusing")
    }  # fmt: skip
    exact = ExactPass(run, tail.directional(), directions)
    assert relative(exact.logits, run.logits) <= 1e-4
    assert relative(exact.last, run.last) <= 1e-4
    for d, vector in zip(("true", "confusing"), vectors(8)):
        pairs = zip(run.gradients(vector), ("inner", "last"))
        terms = [(g * directions[f"{layer}_{d}"]).asnumpy() for g, layer in pairs]
        wanted = sum(float(t.astype(np.float64).sum()) for t in terms)
        size = sum(float(np.abs(t).sum()) for t in terms)
        found = float((exact.outputs[f"change_{d}"] * vector).sum().asscalar())
        assert abs(found - wanted) <= 1e-4 * size


F = mx.sym
x, y = F.var("x"), F.var("y")
FORMULAS = {
    "linear": F.mean(F.transpose(F.Reshape(2 * x - 3, shape=(0, 0, -1)), axes=(0, 2, 1)), axis=1),
    "sum": F.broadcast_add(x, F.mean(y, axis=(2, 3), keepdims=True)) - (1 - y) + F.add_n(x, y, x),
    "concat": F.square(F.Concat(x, F.ones_like(y), y, dim=1)),
    "split": F.broadcast_mul(*F.SliceChannel(x, num_outputs=2, axis=1)),
    "dense": F.tanh(F.FullyConnected(x, F.var("w"), num_hidden=3, no_bias=True)),
    "product": F.batch_dot(F.Reshape(x, shape=(0, 0, -1)), F.Reshape(y, shape=(0, 0, -1)),
                           transpose_b=True),
    "quotient": F.broadcast_div(x, F.exp(y)) + x / (2 + F.square(y)) + 1 / (2 + F.square(x)),
    "smooth": F.sigmoid(x) * F.Activation(x, act_type="softrelu") + F.log(F.exp(y) + 1),
    "root": F.sqrt(1 + F.square(x)) + F.rsqrt(2 + F.square(y)) + F.reciprocal(3 + F.square(y)),
    "softmax": F.softmax(x, axis=-1) * y,
    "bounds": F.stack(F._internal._MaximumScalar(x, scalar=0.2), x, axis=1) * 2
    + F.stack(y, F._internal._MinimumScalar(y, scalar=0.3), axis=1),
    "kinks": F.relu(x) + F.Activation(y, act_type="relu") + F.broadcast_maximum(x, y)
    + F.broadcast_minimum(2 * x, y),
    "maximum": F.broadcast_add(F.max(x, axis=1, keepdims=True),
                               F.max(y, axis=(2, 3), keepdims=True)),
    "pooling": F.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max"),
    "global": F.Pooling(x, kernel=(1, 1), global_pool=True, pool_type="max")
    + F.Pooling(y, kernel=(1, 1), global_pool=True, pool_type="avg"),
    "average": F.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg"),
    "adaptive": F.contrib.AdaptiveAvgPooling2D(x * y, output_size=2),
    "only y": F.square(y) + F.ones_like(x),
}  # fmt: skip


@pytest.mark.parametrize("formula", FORMULAS)
def test_every_rule_against_differences(formula):
    """Central differences in float64, where kinks are far from the values that are drawn."""
    from gluon_attn.papers.icasc.tangents import Node, tangent

    source, wanted = Graph.of([FORMULAS[formula]])
    graph, known, moves = Graph(), {}, {}

    def change(number, node, inputs):
        entry = graph.copy(node, inputs)
        seen = Node(graph, node["op"], node["attrs"], inputs, entry)
        if node["op"] == "null":
            found = graph.variable("d" + node["name"]) if node["name"] in "xy" else None
        else:
            found = tangent(seen, [moves.get(e) for e in inputs])
        for output in range(int(node["attrs"].get("num_outputs", 1))):
            moves[entry[0], output] = found and (found[0], output)
        return entry

    entries = copy_into(graph, source, wanted, known, change)
    rng = np.random.RandomState(0)
    arrays = {name: rng.normal(size=(2, 4, 5, 4)) for name in ("x", "y", "dx", "dy")}
    arrays["w"] = rng.normal(size=(3, 80)) / 10
    found = evaluate(graph.symbol([moves[entries[0]]])[0], arrays)
    step = 1e-6
    ends = []
    for sign in (1, -1):
        moved = {n: arrays[n] + sign * step * arrays["d" + n] for n in ("x", "y")}
        ends.append(evaluate(FORMULAS[formula], {**moved, "w": arrays["w"]}))
    np.testing.assert_allclose(found, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-6)


def evaluate(symbol, arrays):
    used = {n: mx.nd.array(arrays[n], dtype="float64") for n in symbol.list_arguments()}
    return symbol.bind(mx.cpu(), used).forward()[0].asnumpy()


def test_operators_without_a_rule_are_named():
    class Sorts(Chain):
        def hybrid_forward(self, F, x):
            first, second, dense = self._children.values()
            return dense(F.sort(second(first(x)), axis=1))

    layers = (nn.Conv2D(3, 1, in_channels=3) for _ in range(2))
    net = Sorts(*map(stage, layers), nn.Dense(2, in_units=48))
    net.initialize()
    tail = Tail(net, [mx.cpu()])
    with pytest.raises(ValueError, match="'sort'.*gradient=constant"):
        tail.directional()
    net = Chain(*(stage(nn.Conv2D(3, 1, in_channels=3), nn.MaxPool2D(3, 2)) for _ in range(2)),
                nn.Dense(2))  # fmt: skip
    net.initialize()
    net(mx.nd.zeros((1, 3, 16, 16)))
    with pytest.raises(ValueError, match="Pooling max, kernel .3, 3.*gradient=constant"):
        Tail(net, [mx.cpu()]).directional()


def test_zoo_nets_without_stages_are_refused_with_a_remedy():
    net = nn.HybridSequential()
    net.add(nn.Dense(2, in_units=3))
    net.initialize()
    with pytest.raises(ValueError, match="0 stage.*two or more such stages"):
        split_net(net)
    assert split_net(get_model("resnet18_w16_synthetic")) is not None
