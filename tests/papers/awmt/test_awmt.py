"""AWMT: the weights' algorithm, what a step does and does not do, whole runs and recipes."""

from __future__ import annotations

import io
import json

import mxnet as mx
import numpy as np
import pytest
from formats.tiny import write_tiny
from mxnet import autograd
from reference import awmt as reference
from training_helpers import NAMES, checkpoint_arrays, recipe, write_data

from gluon_attn.core.batch import Batch
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.schema import Attribute, Schema
from gluon_attn.figures.curves import weight_curves
from gluon_attn.method import METHODS, Optimization, Task
from gluon_attn.nets.graph import frozen_view
from gluon_attn.papers.awmt.losses import WeightedSquaredLoss
from gluon_attn.papers.awmt.trend import EPS, ValidationLossTrend, update_weights
from gluon_attn.papers.vaa.method import VAATraining
from gluon_attn.tasks import data as data_of
from gluon_attn.tasks import data as evaluate
from gluon_attn.tasks.data import Stream
from gluon_attn.train import SCHEDULES, build, read_json_lines
from gluon_attn.train import trained as load
from gluon_attn.train.run import Settings, train
from model_zoo import get_model

# -- Algorithms 1 and 2 --------------------------------------------------------------------------


def recorded(seed, iterations=60, tasks=5):
    """Return losses that fall at different speeds, with the noise of ten images."""
    rng = np.random.default_rng(seed)
    fall = np.exp(-np.arange(iterations)[:, None] / 20 * rng.uniform(0.1, 1.5, tasks))
    return 10 * fall * rng.uniform(0.5, 1.5, (iterations, tasks)) * rng.uniform(0.2, 2, tasks)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("window", [1, 4, 7])
def test_agrees_with_the_reference_in_every_iteration(seed, window):
    losses = recorded(seed)
    trend = ValidationLossTrend(5, window)
    found = np.array([trend.step(row) for row in losses])
    expected = np.array(reference.weights_of_all_iterations(losses.tolist(), window))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert (found[: 2 * window - 1] == 1).all()  # the first two windows
    assert (found[2 * window - 1] != 1).any()  # the first update holds in its own iteration
    changed = np.flatnonzero((np.diff(found, axis=0) != 0).any(axis=1)) + 2
    assert (changed % window == 0).all() and len(changed) == 60 // window - 1


def test_by_hand():
    trend = ValidationLossTrend(2, window=2)
    for row in ((4.0, 1.0), (4.0, 3.0), (1.0, 2.0)):
        assert trend.step(row).tolist() == [1, 1]
    # before: 4, 2; now: 2, 1. Equal trends of 1, so only the losses 2 : 1 decide.
    np.testing.assert_allclose(trend.step((3.0, 0.0)), [4 / 3, 2 / 3])
    # now: 1, 4. Trends 1 and 3/4, losses 1 and 4: 1 : 3.
    trend.step((1.0, 4.0))
    np.testing.assert_allclose(trend.step((1.0, 4.0)), [0.5, 1.5])


@pytest.mark.parametrize("seed", range(3))
def test_mean_weight_is_one_and_scale_does_not_matter(seed):
    losses = recorded(seed, 80, 9)
    one, other = ValidationLossTrend(9, 8), ValidationLossTrend(9, 8)
    for row in losses:
        weights = one.step(row)
        assert weights.mean() == pytest.approx(1, abs=1e-12) and (weights >= 0).all()
        np.testing.assert_allclose(weights, other.step(1000 * row), rtol=1e-9)


def test_trends_of_zero_divide_by_nothing():
    trend = ValidationLossTrend(3, 2)
    for _ in range(6):  # nothing changes: only the losses decide
        weights = trend.step([1.0, 2.0, 3.0])
    np.testing.assert_allclose(weights, [0.5, 1.0, 1.5])
    trend = ValidationLossTrend(3, 2)
    for _ in range(6):  # nothing at all
        np.testing.assert_allclose(trend.step(np.zeros(3)), 1, rtol=1e-12)
    # one task stands still: weight 0, as in the paper, up to the guard
    weights = update_weights(np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    assert 0 < weights[0] < 10 * EPS and weights.mean() == pytest.approx(1)
    # a loss that has just become 0 leaves everything finite
    weights = update_weights(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    assert np.isfinite(weights).all() and weights.mean() == pytest.approx(1)


@pytest.mark.parametrize("cut", [0, 3, 4, 7, 8, 9, 21])
def test_resumed_in_mid_window_it_continues_identically(cut):
    losses = recorded(1, 40)
    whole, first, second = (ValidationLossTrend(5, 4) for _ in range(3))
    for row in losses[:cut]:
        whole.step(row), first.step(row)
    file = io.BytesIO()  # as a checkpoint stores it
    np.savez(file, **first.state())
    file.seek(0)
    second.load_state(dict(np.load(file, allow_pickle=False)))
    for row in losses[cut:]:
        np.testing.assert_array_equal(whole.step(row), second.step(row))
    for name, array in whole.state().items():
        np.testing.assert_array_equal(array, second.state()[name])
    assert whole.history()["iterations"].tolist() == list(range(4, 41, 4))


def test_states_of_other_tasks_or_windows_are_refused():
    trend = ValidationLossTrend(5, 4)
    for row in recorded(0, 7):
        trend.step(row)
    with pytest.raises(ValueError, match="does not fit 4 tasks"):
        ValidationLossTrend(4, 4).load_state(trend.state())
    with pytest.raises(ValueError, match="does not fit 5 tasks and window 5"):
        ValidationLossTrend(5, 5).load_state(trend.state())


def test_tasks_that_were_not_measured():
    trend = ValidationLossTrend(3, 2)
    rows = [[4, nan, 1], [2, nan, 1], [1, 2, nan], [1, 2, 2]]
    for row in rows:
        weights = trend.step(row)
    # task 1 had no value in the first window: weight 1; the others as if they were alone
    np.testing.assert_allclose(
        weights[[0, 2]], update_weights(np.array([1.0, 2]), np.array([3, 1]))
    )
    assert weights[1] == 1 and weights.mean() == pytest.approx(1)
    assert trend.history()["losses"][1].tolist() == [1, 2, 2]
    unknown = np.array([nan, 1.0])
    assert update_weights(unknown, unknown[::-1]).tolist() == [1, 1], "nothing to compare"


nan = float("nan")


@pytest.mark.parametrize("bad", [[1.0, 2.0], [1.0, 2.0, np.inf], [1.0, -1.0, 2.0], 3.0])
def test_impossible_losses_are_refused(bad):
    with pytest.raises(ValueError, match="iteration 1: needs 3 finite losses"):
        ValidationLossTrend(3).step(bad)


def test_impossible_sizes_are_refused():
    for arguments in ((0,), (3, 0)):
        with pytest.raises(ValueError, match="must be positive"):
            ValidationLossTrend(*arguments)


# -- the weighted loss layer ---------------------------------------------------------------------


@pytest.mark.parametrize("hybridize", [False, True])
def test_squared_loss_agrees_with_the_reference(hybridize):
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(6, 4)), (rng.random((6, 4)) < 0.4).astype(float)
    weight = rng.uniform(0, 2, 4)
    loss = WeightedSquaredLoss()
    if hybridize:
        loss.hybridize()
    logits = mx.nd.array(z)
    logits.attach_grad()
    with autograd.record():
        value = loss(logits, mx.nd.array(y), mx.nd.ones((6, 4)), mx.nd.array(weight))
    value.backward()
    expected, gradient = reference.training_loss(z.tolist(), (2 * y - 1).tolist(), weight.tolist())
    assert value.mean().asscalar() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(logits.grad.asnumpy() / 6, gradient, rtol=1e-4, atol=1e-6)


def test_masked_labels_and_weights_of_zero_make_no_gradient():
    rng = np.random.default_rng(1)
    logits = mx.nd.array(rng.normal(size=(5, 3)))
    mask = (rng.random((5, 3)) < 0.5).astype(np.float32)
    logits.attach_grad()
    weight = mx.nd.array([1.0, 0.0, 2.0])
    weight.attach_grad()
    with autograd.record():
        value = WeightedSquaredLoss()(logits, mx.nd.ones((5, 3)), mx.nd.array(mask), weight)
    value.backward()
    gradient = logits.grad.asnumpy()
    assert (gradient[mask == 0] == 0).all() and (gradient[:, 1] == 0).all()
    assert (gradient[:, 0][mask[:, 0] == 1] != 0).all() and (weight.grad.asnumpy() == 0).all()


# -- a step --------------------------------------------------------------------------------------

COLUMNS = 4


def net_of(name="resnet18_w16_synthetic", seed=0, classes=COLUMNS, **options):
    """Return a small net with statistics that are not those of fresh batch-norms."""
    mx.random.seed(seed)
    net = get_model(name, classes=classes, input_size=32, width=8, **options)
    net.initialize(mx.init.Xavier(magnitude=2))
    for parameter in net.collect_params().values():
        if parameter.name.endswith("running_var"):
            parameter.set_data(mx.nd.random.uniform(0.5, 1.5, parameter.shape))
        elif parameter.name.endswith("running_mean"):
            parameter.set_data(mx.nd.random.normal(0, 0.3, parameter.shape))
    return net


def method_of(net, name="awmt", lr=0.01, schema=None, ctx=None, columns=COLUMNS, wd=0.0, **options):
    names = schema.columns if schema else tuple("abcdefghij"[:columns])
    task = Task(names, 64, np.full(len(names), 0.3), schema)
    params = {"learning_rate": lr, "momentum": 0.9, "wd": wd}
    sgd = Optimization("sgd", params)
    method = METHODS.get(name)(net, ctx or [mx.cpu()], task, sgd, options=options)
    method.begin_epoch(0)
    return method


def batch_of(seed, rows=4, columns=COLUMNS, label=None, mask=None):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(rows, 3, 32, 32))
    label = (rng.random((rows, columns)) < 0.4) if label is None else label
    mask = np.ones((rows, columns)) if mask is None else mask
    return Batch(mx.nd.array(image), mx.nd.array(label), mx.nd.array(mask), np.arange(rows))


def values(net):
    mx.nd.waitall()
    named = net._collect_params_with_prefix()
    return {n: p.data(p.list_ctx()[0]).asnumpy() for n, p in named.items()}


def first(outputs):
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs


def test_frozen_view_computes_the_net_as_in_inference_and_shares_its_parameters():
    for name in ("resnet18_w16_synthetic", "vaa_resnet18_w16_synthetic"):
        net, image = net_of(name), batch_of(0).image
        view = frozen_view(net)
        expected = first(net(image)).asnumpy()
        before = values(net)
        with autograd.record():
            found = first(view(image))
        np.testing.assert_allclose(found.asnumpy(), expected, rtol=1e-5, atol=1e-6)
        found.backward()
        for key, array in values(net).items():
            np.testing.assert_array_equal(array, before[key], err_msg=key)
        shared = {id(p) for p in view.collect_params().values()}
        assert shared == {id(p) for p in net.collect_params().values()}
        with autograd.record():  # the net itself still learns its statistics
            first(net(image)).backward()
        assert any(not np.array_equal(a, before[n]) for n, a in values(net).items())


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("model", ["resnet18_w16_synthetic", "vaa_resnet18_w16_synthetic"])
def test_validation_images_make_no_gradient_and_move_no_statistics(model, freeze):
    """Steps with different validation images, and without any, end with the same bits."""
    found = []
    for held_out in (batch_of(7, 3), batch_of(8, 5), None):
        net = net_of(model)
        method = method_of(net, freeze_batch_norm=freeze, window=100)
        before = values(net)
        for seed in range(3):
            method.train_step(batch_of(seed), held_out)
        found.append(values(net))
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name], err_msg=name)
        np.testing.assert_array_equal(array, found[2][name], err_msg=name)
        if "running_" in name:
            assert np.array_equal(array, before[name]) == freeze, name
    moved = [not np.array_equal(found[0][n], before[n]) for n in before if n.endswith("gamma")]
    assert np.mean(moved) > 0.9  # scales learn, with frozen statistics too


def test_two_passes_give_the_gradients_of_the_papers_single_one():
    """One pass of all images, whose validation half has weight 0, as the authors' loss layer."""
    net = net_of()
    method, batch, held_out = method_of(net), batch_of(0), batch_of(1, 4)
    weight = mx.nd.array([0.5, 1.5, 0.2, 1.8])
    method.tasks._weights = {mx.cpu(): weight}
    method.train_step(batch, held_out)
    ours = {n: p.grad().asnumpy() for n, p in net.collect_params().items() if p.grad_req != "null"}
    net = net_of()
    view = frozen_view(net)
    with autograd.record():
        logits = view(mx.nd.concat(batch.image, held_out.image, dim=0))
        error = mx.nd.square(logits - (2 * mx.nd.concat(batch.label, held_out.label, dim=0) - 1))
        rows = mx.nd.array([1] * 4 + [0] * 4).expand_dims(1)
        loss = 0.5 * (error * rows * weight.expand_dims(0)).sum()
    loss.backward()
    theirs = [p.grad().asnumpy() for p in net.collect_params().values() if p.grad_req != "null"]
    assert len(ours) == len(theirs) > 50
    for (name, one), other in zip(ours.items(), theirs):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 + 1e-5 * abs(one).max(),
                                   err_msg=name)  # fmt: skip


def test_a_run_follows_the_reference_to_the_weight_of_each_loss():
    """With lr 0 the net stays, so losses and weights of every iteration can be recomputed."""
    net, k = net_of(), 3
    method = method_of(net, lr=0.0, window=k)
    view, val_losses, found = frozen_view(net), [], []
    for step in range(4 * k + 1):
        batch, held_out = batch_of(step), batch_of(100 + step, 5)
        outputs = view(held_out.image).asnumpy().astype(float)
        truth = 2 * held_out.label.asnumpy() - 1
        val_losses.append(((outputs - truth) ** 2).sum(axis=0).tolist())
        sums = method.train_step(batch, held_out)
        found.append(sums["loss"].asscalar() / 4)
        assert set(sums) == {"loss", "squared"}
    expected = reference.weights_of_all_iterations(val_losses, k)
    assert (np.ptp(expected[2 * k - 1 :], axis=1) > 0.05).all()  # they do differ from 1
    for step, weights in enumerate(expected):
        batch = batch_of(step)
        outputs, truth = view(batch.image).asnumpy(), 2 * batch.label.asnumpy() - 1
        loss, _ = reference.training_loss(outputs.tolist(), truth.tolist(), weights)
        assert found[step] == pytest.approx(loss, rel=1e-4), step
    record = method.report()
    assert record["iterations"] == 4 * k + 1 and set(record["task_weights"]) == set("abcd")
    np.testing.assert_allclose(list(record["task_weights"].values()), expected[-1], rtol=1e-4)
    np.testing.assert_allclose(
        list(record["task_losses"].values()), np.mean(val_losses[3 * k : 4 * k], 0), rtol=1e-4
    )


def test_losses_are_read_from_the_device_once_per_window(monkeypatch):
    method = method_of(net_of(), window=4)
    method.train_step(batch_of(0), batch_of(1))
    reads, original = [], mx.nd.NDArray.asnumpy

    def counting(array):
        reads.append(array.shape)
        return original(array)

    monkeypatch.setattr(mx.nd.NDArray, "asnumpy", counting)
    monkeypatch.setattr(mx.nd.NDArray, "wait_to_read", lambda array: reads.append("wait"))
    for step in range(2, 13):
        method.train_step(batch_of(step), batch_of(100 + step))
        assert len(reads) == step // 4
    assert reads == [(4, 2, COLUMNS)] * 3


def test_unspecified_labels_count_in_neither_loss():
    mask = np.ones((6, COLUMNS))
    mask[::2, 1] = mask[:, 3] = 0
    net = net_of()
    flips = []
    for flipped in (False, True):
        label = (np.random.default_rng(5).random((6, COLUMNS)) < 0.5).astype(float)
        label = np.where((mask == 0) & flipped, 1 - label, label)
        method = method_of(net, lr=0.0, window=1)
        data = batch_of(3, 6, label=label, mask=mask)
        for _ in range(2):
            sums = method.train_step(data, data)
        flips.append((sums["loss"].asscalar(), method.tasks.trend.history()["losses"]))
    assert flips[0][0] == flips[1][0]
    np.testing.assert_array_equal(flips[0][1], flips[1][1])
    # half known: scaled to what six images would give; none known: undefined, weight 1
    outputs, truth = frozen_view(net)(data.image).asnumpy(), 2 * data.label.asnumpy() - 1
    known = mask[:, 1] == 1
    expected = 6 * ((outputs - truth)[known, 1] ** 2).mean()
    assert flips[0][1][0, 1] == pytest.approx(expected, rel=1e-5) and np.isnan(flips[0][1][0, 3])
    assert method.tasks.trend.weights[3] == 1


SCHEMA = Schema([Attribute("hat"), Attribute("colour", "multiclass", ("red", "green", "blue"))])


def test_a_multi_class_attribute_has_one_weight():
    method = method_of(net_of(), lr=0.0, schema=SCHEMA, window=1, no_class="negative")
    data = [batch_of(s, 5) for s in range(3)]
    for one in data:
        method.train_step(one, one)
    weight = method.tasks.weight(mx.cpu()).asnumpy()
    assert weight[0] != weight[1] and weight[1] == weight[2] == weight[3]
    assert weight[0] + weight[1] == pytest.approx(2)  # mean 1 over the two attributes
    view, expected = frozen_view(method.net), []
    for one in data:
        error = (view(one.image).asnumpy() - (2 * one.label.asnumpy() - 1)) ** 2
        expected.append([error[:, 0].sum(), error[:, 1:].mean(axis=1).sum()])
    history = method.task_history()
    np.testing.assert_allclose(history["losses"], expected, rtol=1e-4)
    assert history["names"] == ("hat", "colour")


def test_images_with_none_of_the_classes_are_ignored_or_negative():
    label = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0]])
    data = batch_of(0, 3, label=label)
    ignoring = method_of(net_of(), schema=SCHEMA)
    assert ignoring.tasks.mask(data).asnumpy().tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [1] * 4]
    negative = method_of(net_of(), schema=SCHEMA, no_class="negative")
    assert negative.tasks.mask(data).asnumpy().all()
    half = batch_of(0, 3, label=label, mask=np.array([[0, 1, 1, 1], [1, 0, 0, 0], [1] * 4]))
    assert ignoring.tasks.mask(half).asnumpy().tolist() == [[0, 1, 1, 1], [1, 0, 0, 0], [1] * 4]


def test_the_basic_model_draws_no_validation_images_and_keeps_weight_one():
    method = method_of(net_of(), adaptive=False)
    assert method.held_out_size == 0 and method.state() == {} and method.report() == {}
    assert method.task_history() is None
    method.train_step(batch_of(0))
    assert (method.tasks.weight(mx.cpu()).asnumpy() == 1).all()
    assert method_of(net_of(), val_batch_size=7).held_out_size == 7


def test_equal_weights_make_the_step_of_the_basic_model():
    found = []
    for adaptive in (True, False):
        net = net_of()
        method = method_of(net, adaptive=adaptive, window=50)
        for step in range(2):
            method.train_step(batch_of(step), batch_of(50 + step) if adaptive else None)
        found.append(values(net))
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name], err_msg=name)


def test_the_classifier_bias_learns_faster_and_does_not_decay():
    moves = {}
    for factor in (1.0, 2.0):
        net = net_of()
        net.output.bias.set_data(mx.nd.ones(COLUMNS))
        method = method_of(net, fc_bias_lr=factor, wd=0.5)
        before = values(net)["output.bias"]
        method.train_step(batch_of(0))
        moves[factor] = values(net)["output.bias"] - before
        gradient = net.output.bias.grad().asnumpy() / 4
        np.testing.assert_allclose(moves[factor], -0.01 * factor * gradient, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(moves[2.0], 2 * moves[1.0], rtol=1e-3, atol=1e-7)


def test_dropout_acts_in_training_on_both_halves_and_not_in_inference():
    net = net_of(dropout=0.5)
    image, view = batch_of(0).image, frozen_view(net)
    assert np.array_equal(net(image).asnumpy(), net(image).asnumpy())
    with autograd.pause(train_mode=True):
        first, second = view(image).asnumpy(), view(image).asnumpy()
    assert not np.allclose(first, second)
    plain = net_of()
    assert net._collect_params_with_prefix().keys() == plain._collect_params_with_prefix().keys()
    np.testing.assert_allclose(net(image).asnumpy(), plain(image).asnumpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="dropout=1"):
        net_of(dropout=1)


def test_two_devices_measure_and_weigh_as_one():
    found = []
    for devices in ([mx.cpu(0)], [mx.cpu(0), mx.cpu(1)]):
        net = net_of()
        net.collect_params().reset_ctx(devices)
        method = method_of(net, ctx=devices, window=2, lr=0.001)
        for step in range(5):
            method.train_step(batch_of(step), batch_of(50 + step, 5))
        found.append((method.tasks.trend.history(), values(net)))
    for name in ("weights", "losses"):
        np.testing.assert_allclose(found[0][0][name], found[1][0][name], rtol=1e-3)
    for name, array in found[0][1].items():
        np.testing.assert_allclose(array, found[1][1][name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("heads, model", [
    ("prediction", "resnet50_v1"), ("prediction", "vaa_resnet18_w16_synthetic"),
    ("each", "resnet18_w16_synthetic"), ("each", "vaa_resnet18_w16_synthetic"),
])  # fmt: skip
def test_any_net_of_the_zoo_and_any_schema(model, heads):
    method = method_of(net_of(model), schema=SCHEMA, heads=heads, window=1)
    for step in range(3):
        sums = method.train_step(batch_of(step), batch_of(50 + step, 2))
        assert np.isfinite(sums["loss"].asscalar())
    several = heads == "each" and model.startswith("vaa")
    assert len(sums) == (4 if several else 2)
    assert ("squared_backbone" in sums) == several
    assert (method.tasks.weight(mx.cpu()).asnumpy() != 1).any()


def test_bad_settings_are_refused():
    for options, message in (
        ({"heads": "all"}, "heads='all': valid are prediction, each"),
        ({"no_class": "wrong"}, "no_class='wrong'"),
        ({"window": 0}, "window=0"),
        ({"val_batch_size": 0}, "val_batch_size=0"),
        ({"windw": 3}, "did you mean 'window'"),
    ):
        with pytest.raises(ValueError, match=message):
            method_of(net_of(), **options)


# -- with VAA's losses ---------------------------------------------------------------------------

VAA_OPTIONS = {"phase1_epochs": 0, "history_start": 0, "history_weights": 1}


def test_vaa_with_weights_of_one_is_vaa():
    found = []
    for name in ("vaa", "vaa_awmt"):
        net = net_of("vaa_resnet18_w16_synthetic")
        method = method_of(net, name, **VAA_OPTIONS)
        for step in range(2):
            method.begin_epoch(step)
            held_out = batch_of(9) if name == "vaa_awmt" else None
            sums = method.train_step(batch_of(step), held_out)
        found.append((values(net), {n: v.asscalar() for n, v in sums.items()}))
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)
    for name, array in found[0][0].items():
        np.testing.assert_allclose(array, found[1][0][name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_vaas_losses_are_weighted_by_attribute():
    net = net_of("vaa_resnet18_w16_synthetic")
    plain = method_of(net, "vaa", lr=0.0, **VAA_OPTIONS)
    weighted = method_of(net, "vaa_awmt", lr=0.0, **VAA_OPTIONS)
    outputs, weight = weighted.forward(batch_of(0).image), np.array([0.0, 2.0, 1.5, 0.5])
    weighted.tasks._weights = {mx.cpu(): mx.nd.array(weight)}
    total = {}
    for column in range(COLUMNS):
        mask = np.zeros((4, COLUMNS))
        mask[:, column] = 1
        for name, value in plain.losses(outputs, batch_of(0, mask=mask)).items():
            total[name] = total.get(name, 0) + weight[column] * value.asnumpy()
    for name, value in weighted.losses(outputs, batch_of(0)).items():
        np.testing.assert_allclose(value.asnumpy(), total[name], rtol=1e-4, atol=1e-6)


def test_vaa_weights_move_only_in_the_joint_phase():
    net = net_of("vaa_resnet18_w16_synthetic")
    method = method_of(net, "vaa_awmt", phase0_epochs=1, phase1_epochs=1, window=1)
    for epoch, phase in enumerate(("primary", "attention", "joint")):
        method.begin_epoch(epoch)
        for step in range(3):
            method.train_step(batch_of(step), batch_of(50 + step))
        assert method.phase == phase
        assert (method.tasks.weight(mx.cpu()).asnumpy() == 1).all() == (phase != "joint")
    state = method.state()
    assert {"history_rows", "trend_count"} <= set(state) and state["trend_count"] == 3
    assert isinstance(method, VAATraining)
    with pytest.raises(ValueError, match="trains VAA nets"):
        method_of(net_of(), "vaa_awmt")


# -- epochs of a fixed number of iterations ------------------------------------------------------


class Numbers:
    """A loader whose batches are (pass, number)."""

    def __init__(self, count):
        self.count, self.current, self.first = count, 0, 0

    def __len__(self):
        return self.count

    def set_epoch(self, epoch, start=0):
        self.current, self.first = epoch, start

    def __iter__(self):
        yield from [(self.current, number) for number in range(self.first, self.count)]


@pytest.mark.parametrize("count, batches", [(5, 3), (5, 5), (3, 7), (1, 4), (4, 2)])
def test_a_stream_goes_on_where_its_last_epoch_ended(count, batches):
    stream, seen = Stream(Numbers(count), batches), []
    for epoch in range(6):
        stream.set_epoch(epoch)
        found = list(stream)
        assert len(found) == len(stream) == batches
        stream.set_epoch(epoch)
        assert list(stream) == found  # repeated after a resume
        seen += found
    assert seen == [divmod(number, count) for number in range(6 * batches)]
    with pytest.raises(ValueError, match="batches=0"):
        Stream(Numbers(3), 0)


# -- whole runs ----------------------------------------------------------------------------------

TINY = {
    "method": "awmt", "model": "resnet18_w16_synthetic", "epochs": 3, "iterations_per_epoch": 5,
    "batch_size": 4, "score": "accuracy", "schedule": "constant", "unspecified": "masked",
    "options": {"window": 3, "val_batch_size": 3, "freeze_batch_norm": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "shapes")


def run(data, folder, resume=False, test=False, **changes):
    settings = Settings(str(data), str(folder), resume=resume, workers=1, console=False, test=test)
    return train(Recipe.from_dict(recipe(**dict(TINY, **changes))), settings)


@pytest.mark.parametrize("freeze", [True, False])
def test_a_run_cut_in_mid_window_ends_with_the_same_bits(data, tmp_path, freeze):
    # random weights need a small rate where the statistics stay those of the start
    options = {"options": dict(TINY["options"], freeze_batch_norm=freeze), "lr": 1e-4}
    run(data, tmp_path / "whole", **options)
    run(data, tmp_path / "cut", epochs=1, **options)  # 5 iterations: in the second window
    run(data, tmp_path / "cut", resume=True, **options)
    first, second = (checkpoint_arrays(tmp_path / f / "last.ckpt") for f in ("whole", "cut"))
    assert first.keys() == second.keys() and "method/trend_rows" in first
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert first["method/trend_count"] == 15
    assert first["method/trend_history_iterations"].tolist() == [3, 6, 9, 12, 15]
    records = [read_json_lines(str(tmp_path / f / "log.jsonl")) for f in ("whole", "cut")]
    for one, other in zip(*records):
        assert one["task_weights"] == other["task_weights"]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "awmt"
    return folder, run(data, folder, test=True)


def test_weights_are_in_the_log_the_figure_and_the_results(finished):
    folder, done = finished
    records = read_json_lines(str(folder / "log.jsonl"))
    assert [r["iterations"] for r in records] == [5, 10, 15]
    assert set(records[-1]["task_weights"]) == set(records[-1]["task_losses"]) == set(NAMES)
    assert sum(records[-1]["task_weights"].values()) == pytest.approx(3)
    assert "weights after iteration 15: square " in (folder / "train.log").read_text()
    assert (folder / "weights.png").stat().st_size > 5000
    assert done["best"]["accuracy"] == max(r["val_accuracy"] for r in records)
    assert json.loads((folder / "test_accuracy.json").read_text())["overall"]["accuracy"] > 0
    assert load.from_run(str(folder), [mx.cpu()]).extra["mAP"] == done["best"]["mAP"]


@pytest.mark.parametrize("method, options", [
    ("awmt", {"heads": "each", "window": 2, "freeze_batch_norm": False}),
    ("vaa_awmt", {"phase1_epochs": 1, "window": 2}),
])  # fmt: skip
def test_awmt_weights_on_vaas_heads_through_the_recipe_alone(data, tmp_path, method, options):
    model = "vaa_resnet18_w16_synthetic"
    run(data, tmp_path / "run", model=model, method=method, options=options, epochs=2)
    records = read_json_lines(str(tmp_path / "run" / "log.jsonl"))
    assert any(abs(w - 1) > 1e-3 for w in records[-1]["task_weights"].values())
    assert (tmp_path / "run" / "weights.png").exists()


def test_a_separate_model_is_a_run_on_one_attribute(data, tmp_path):
    run(data, tmp_path / "run", attributes="disc", epochs=1,
        options={"adaptive": False, "freeze_batch_norm": False})  # fmt: skip
    trained = load.from_run(str(tmp_path / "run"), [mx.cpu()])
    assert trained.classes == ("disc",)
    dataset = evaluate.open_for(trained, str(data), "test")
    assert dataset.names == ("disc",) and dataset.label.shape == (24, 1)
    found = evaluate.predict_dataset(trained, dataset, mx.cpu(), 8, workers=0)
    assert found.probs.shape == (24, 1)
    whole = data_of.open_split(Recipe.from_dict(recipe()), str(data), "test")
    np.testing.assert_array_equal(dataset.raw[:, 0], whole.raw[:, 1])
    np.testing.assert_array_equal(dataset.read(5), whole.read(5))
    with pytest.raises(ValueError, match="unknown attribute 'disk'; did you mean 'disc'"):
        run(data, tmp_path / "other", attributes="disk")


def test_runs_from_before_a_setting_existed_can_be_resumed(data, tmp_path):
    from gluon_attn.train.fit import Run, _check_same_run

    new = Recipe.from_dict(recipe(**TINY)).to_dict()
    old = {k: v for k, v in new.items() if k != "attributes"}
    run_now = Run(None, None, None, None, 1, "x", record={"recipe": new})
    _check_same_run(run_now, {"record": {"recipe": old}}, "last.ckpt")
    with pytest.raises(ValueError, match="'score' was 'mAP', now it is 'accuracy'"):
        before = {k: v for k, v in new.items() if k != "score"}
        _check_same_run(run_now, {"record": {"recipe": before}}, "last.ckpt")


def test_too_few_validation_images_are_reported(data, tmp_path):
    with pytest.raises(ValueError, match="24 samples do not fill one batch of 99"):
        run(data, tmp_path / "run", options={"val_batch_size": 99})


def test_figure_refuses_nothing_to_draw(tmp_path):
    with pytest.raises(ValueError, match="at least one iteration"):
        weight_curves(["a"], [], np.zeros((0, 1)), np.zeros((0, 1)), path=tmp_path / "x.png")
    losses = np.array([[1.0, nan], [0.5, nan]])
    path = weight_curves(["a", "b"], [5, 10], np.ones((2, 2)), losses, path=tmp_path / "x.png")
    assert path.stat().st_size > 3000


# -- recipes -------------------------------------------------------------------------------------


def recipe_of(repository, name, *overrides):
    return build.load_recipe(name, overrides)


@pytest.mark.parametrize("name, iterations, drops", [
    ("awmt_celeba_resnet50", 130_000, (70_000, 100_000, 120_000)),
    ("awmt_market_resnet50", 20_000, (10_000, 15_000)),
    ("awmt_duke_resnet50", 20_000, (10_000, 15_000)),
    ("basic_celeba_resnet50", 130_000, (70_000, 100_000, 120_000)),
])  # fmt: skip
def test_recipes_have_the_papers_settings(repository, name, iterations, drops):
    found = recipe_of(repository, name)
    basic = name.startswith("basic")
    assert found.iterations_per_epoch * found.epochs == iterations
    schedule = SCHEDULES.get(found.schedule)(found)
    for number, drop in enumerate(drops):
        epoch = drop // found.iterations_per_epoch
        assert schedule.lr(epoch - 1) == pytest.approx(1e-4 / 10**number)
        assert schedule.lr(epoch) == pytest.approx(1e-5 / 10**number)
    assert (found.optimizer, found.momentum, found.wd) == ("sgd", 0.9, 5e-4)
    assert found.input_size == found.resize == found.crop_min == found.crop_max == found.eval_crop
    assert found.input_size == 224 and not found.mirror
    assert found.batch_size == (20 if basic else 10)
    net = build.build_net(found, 12)
    assert [type(layer).__name__ for layer in net.features][-1] == "Dropout"
    assert net.features[-1]._rate == 0.5
    if not basic:
        assert found.options["window"] == 200 and found.options["val_batch_size"] == 10
        assert recipe_of(repository, name, "adaptive=false").options["adaptive"] is False


def test_peta_recipe_has_the_supplements_settings(repository):
    found = recipe_of(repository, "vaa_peta_resnet101")
    assert (found.method, found.optimizer, found.lr, found.wd) == ("vaa", "adam", 1e-4, 5e-4)
    assert (found.crop_min, found.crop_max, found.resize, found.input_size) == (160, 224, 256, 224)
    assert found.batch_size == 32 and found.lr_patience == 8
    schedule = SCHEDULES.get(found.schedule)(found)
    rates = []
    for epoch in range(40):
        rates.append(schedule.lr(epoch))
        schedule.record(0.5)
    # the first score counts as the best; more than 8 epochs without a better one; at most twice
    assert sorted(set(np.round(rates, 9)), reverse=True) == pytest.approx([1e-4, 1e-5, 1e-6])
    assert rates[9] == 1e-4 and rates[10] == pytest.approx(1e-5)


SMALL = ["input_size=32", "resize=40", "crop_min=28", "crop_max=40", "eval_crop=36", "epochs=1",
         "model_options.width=8"]  # fmt: skip


@pytest.mark.parametrize("name, kind, overrides", [
    pytest.param("awmt_celeba_resnet50", "celeba", ["iterations_per_epoch=4", "window=2"],
                 marks=pytest.mark.nightly),
    pytest.param("awmt_market_resnet50", "market",
                 ["iterations_per_epoch=4", "window=2", "data_options.holdout=0.4"],
                 marks=pytest.mark.nightly),
    ("awmt_duke_resnet50", "duke",
     ["iterations_per_epoch=4", "window=2", "data_options.holdout=0.4"]),  # more than one person
    ("vaa_peta_resnet101", "peta", ["batch_size=8", "phase1_epochs=0"]),
])  # fmt: skip
def test_recipes_train_on_tiny_official_trees(repository, tmp_path, name, kind, overrides):
    write_tiny(kind, tmp_path / "data")
    small = "vaa_resnet18_w16_synthetic" if kind == "peta" else "resnet18_w16_synthetic"
    changes = [*SMALL, *overrides, f"model={small}"]
    if name.startswith("awmt"):
        changes += ["batch_size=4", "val_batch_size=3"]
    chosen = recipe_of(repository, name, *changes)
    done = train(
        chosen, Settings(str(tmp_path / "data"), str(tmp_path / "run"), workers=1, console=False)
    )
    overall = done["test"].values["overall"]
    for measure in ("mA", "instance_accuracy", "instance_precision", "instance_f1"):
        assert 0 <= overall[measure] <= 1
    accuracy = tmp_path / "run" / "test_accuracy.json"
    assert accuracy.exists() == (kind != "peta")
    tasks = {"celeba": 40, "market": 12, "duke": 10}
    if kind in tasks:
        assert len(json.loads(accuracy.read_text())["attributes"]) == tasks[kind]
