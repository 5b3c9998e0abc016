"""AWMT: the weights' algorithm, what a step does and does not do, whole runs and recipes."""

from __future__ import annotations

import io
import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from reference import awmt as reference
from training_helpers import (
    NAMES,
    random_batch,
    recipe,
    resumes_to_the_bit,
    run,
    same,
    start_method,
    values,
    write_data,
)

from gluon_attn.core.recipe import Recipe
from gluon_attn.core.schema import Attribute, Schema
from gluon_attn.figures.curves import weight_curves
from gluon_attn.nets.graph import frozen_view
from gluon_attn.papers.awmt.losses import WeightedSquaredLoss
from gluon_attn.papers.awmt.trend import EPS, ValidationLossTrend, update_weights
from gluon_attn.papers.vaa.method import VAATraining
from gluon_attn.tasks import data as task_data
from gluon_attn.train import SCHEDULES, build, read_json_lines, trained
from model_zoo import get_model

nan = float("nan")

# -- Algorithms 1 and 2 --------------------------------------------------------------------------


def recorded(seed, iterations=60, tasks=5):
    """Return losses that fall at different speeds, with the noise of ten images."""
    rng = np.random.default_rng(seed)
    fall = np.exp(-np.arange(iterations)[:, None] / 20 * rng.uniform(0.1, 1.5, tasks))
    return 10 * fall * rng.uniform(0.5, 1.5, (iterations, tasks)) * rng.uniform(0.2, 2, tasks)


@pytest.mark.parametrize("seed", range(2))
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


def test_mean_weight_is_one_and_scale_does_not_matter():
    one, other = ValidationLossTrend(9, 8), ValidationLossTrend(9, 8)
    for row in recorded(0, 80, 9):
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


@pytest.mark.parametrize("cut", [0, 3, 4, 8, 21])
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
    same(second.state(), whole.state())
    assert whole.history()["iterations"].tolist() == list(range(4, 41, 4))


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


def loaded(tasks, window):
    trend = ValidationLossTrend(5, 4)
    for row in recorded(0, 7):
        trend.step(row)
    ValidationLossTrend(tasks, window).load_state(trend.state())


NO_LOSSES = "iteration 1: needs 3 finite losses"


@pytest.mark.parametrize("call, message", [
    (lambda: ValidationLossTrend(3).step([1.0, 2.0]), NO_LOSSES),
    (lambda: ValidationLossTrend(3).step([1.0, 2.0, np.inf]), NO_LOSSES),
    (lambda: ValidationLossTrend(3).step([1.0, -1.0, 2.0]), NO_LOSSES),
    (lambda: ValidationLossTrend(3).step([1.0, 1.0, 2.0, 3.0]), NO_LOSSES),
    (lambda: ValidationLossTrend(3).step(3.0), NO_LOSSES),
    (lambda: ValidationLossTrend(0), "must be positive"),
    (lambda: ValidationLossTrend(3, 0), "must be positive"),
    (lambda: loaded(4, 4), "does not fit 4 tasks"),
    (lambda: loaded(5, 5), "does not fit 5 tasks and window 5"),
])  # fmt: skip
def test_impossible_losses_sizes_and_states_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


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


def method_of(net, name="awmt", lr=0.01, schema=None, ctx=None, wd=0.0, **options):
    names = schema.columns if schema else "abcd"
    return start_method(name, net, names, schema=schema, lr=lr, wd=wd, ctx=ctx, options=options)


def first(outputs):
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs


def test_frozen_view_computes_the_net_as_in_inference_and_shares_its_parameters():
    for name in ("resnet18_w16_synthetic", "vaa_resnet18_w16_synthetic"):
        net, image = net_of(name), random_batch(0).image
        view = frozen_view(net)
        expected = first(net(image)).asnumpy()
        before = values(net)
        with autograd.record():
            found = first(view(image))
        np.testing.assert_allclose(found.asnumpy(), expected, rtol=1e-5, atol=1e-6)
        found.backward()
        same(values(net), before)
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
    for held_out in (random_batch(7, 3), random_batch(8, 5), None):
        net = net_of(model)
        method = method_of(net, freeze_batch_norm=freeze, window=100)
        before = values(net)
        for seed in range(3):
            method.train_step(random_batch(seed), held_out)
        found.append(values(net))
    same(found[1], found[0])
    same(found[2], found[0])
    for name, array in found[0].items():
        if "running_" in name:
            assert np.array_equal(array, before[name]) == freeze, name
    moved = [not np.array_equal(found[0][n], before[n]) for n in before if n.endswith("gamma")]
    assert np.mean(moved) > 0.9  # scales learn, with frozen statistics too


def test_two_passes_give_the_gradients_of_the_papers_single_one():
    """One pass of all images, whose validation half has weight 0, as the authors' loss layer."""
    net = net_of()
    method, batch, held_out = method_of(net), random_batch(0), random_batch(1, 4)
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
        batch, held_out = random_batch(step), random_batch(100 + step, 5)
        outputs = view(held_out.image).asnumpy().astype(float)
        truth = 2 * held_out.label.asnumpy() - 1
        val_losses.append(((outputs - truth) ** 2).sum(axis=0).tolist())
        sums = method.train_step(batch, held_out)
        found.append(sums["loss"].asscalar() / 4)
        assert set(sums) == {"loss", "squared"}
    expected = reference.weights_of_all_iterations(val_losses, k)
    assert (np.ptp(expected[2 * k - 1 :], axis=1) > 0.05).all()  # they do differ from 1
    for step, weights in enumerate(expected):
        batch = random_batch(step)
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
    method.train_step(random_batch(0), random_batch(1))
    reads, original = [], mx.nd.NDArray.asnumpy

    def counting(array):
        reads.append(array.shape)
        return original(array)

    monkeypatch.setattr(mx.nd.NDArray, "asnumpy", counting)
    monkeypatch.setattr(mx.nd.NDArray, "wait_to_read", lambda array: reads.append("wait"))
    for step in range(2, 13):
        method.train_step(random_batch(step), random_batch(100 + step))
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
        data = random_batch(3, 6, label=label, mask=mask)
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
    data = [random_batch(s, 5) for s in range(3)]
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
    data = random_batch(0, 3, label=label)
    ignoring = method_of(net_of(), schema=SCHEMA)
    assert ignoring.tasks.mask(data).asnumpy().tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [1] * 4]
    negative = method_of(net_of(), schema=SCHEMA, no_class="negative")
    assert negative.tasks.mask(data).asnumpy().all()
    half = random_batch(0, 3, label=label, mask=np.array([[0, 1, 1, 1], [1, 0, 0, 0], [1] * 4]))
    assert ignoring.tasks.mask(half).asnumpy().tolist() == [[0, 1, 1, 1], [1, 0, 0, 0], [1] * 4]


def test_the_basic_model_has_no_validation_images_and_keeps_weight_one():
    method = method_of(net_of(), adaptive=False)
    assert method.held_out_size == 0 and method.state() == {} and method.report() == {}
    assert method.task_history() is None
    assert method_of(net_of(), val_batch_size=7).held_out_size == 7
    other = method_of(net_of(), window=50)  # its weights are still 1
    for step in range(2):
        method.train_step(random_batch(step))
        other.train_step(random_batch(step), random_batch(50 + step))
    assert (method.tasks.weight(mx.cpu()).asnumpy() == 1).all()
    same(values(method.net), values(other.net))


def test_the_classifier_bias_learns_faster_and_does_not_decay():
    moves = {}
    for factor in (0.0, 1.0, 2.0):  # 0 leaves it as it is
        net = net_of()
        net.output.bias.set_data(mx.nd.ones(COLUMNS))
        method = method_of(net, fc_bias_lr=factor, wd=0.5)
        before = values(net)["output.bias"]
        method.train_step(random_batch(0))
        moves[factor] = values(net)["output.bias"] - before
        gradient = net.output.bias.grad().asnumpy() / 4
        np.testing.assert_allclose(moves[factor], -0.01 * factor * gradient, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(moves[2.0], 2 * moves[1.0], rtol=1e-3, atol=1e-7)


def test_dropout_acts_in_training_on_both_halves_and_not_in_inference():
    net = net_of(dropout=0.5)
    image, view = random_batch(0).image, frozen_view(net)
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
            method.train_step(random_batch(step), random_batch(50 + step, 5))
        found.append((method.tasks.trend.history(), values(net)))
    for name in ("weights", "losses"):
        np.testing.assert_allclose(found[0][0][name], found[1][0][name], rtol=1e-3)
    same(found[1][1], found[0][1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("heads, model", [
    ("each", "resnet18_w16_synthetic"), ("each", "vaa_resnet18_w16_synthetic"),
])  # fmt: skip
def test_heads_that_are_trained(model, heads):
    method = method_of(net_of(model), schema=SCHEMA, heads=heads, window=1)
    for step in range(3):
        sums = method.train_step(random_batch(step), random_batch(50 + step, 2))
        assert np.isfinite(sums["loss"].asscalar())
    several = heads == "each" and model.startswith("vaa")
    assert len(sums) == (4 if several else 2)
    assert ("squared_backbone" in sums) == several
    assert (method.tasks.weight(mx.cpu()).asnumpy() != 1).any()


@pytest.mark.parametrize("options, message", [
    ({"heads": "all"}, "heads='all': valid are prediction, each"),
    ({"no_class": "wrong"}, "no_class='wrong'"), ({"window": 0}, "window=0"),
    ({"val_batch_size": 0}, "val_batch_size=0"), ({"fc_bias_lr": -1.0}, "fc_bias_lr=-1"),
])  # fmt: skip
def test_bad_settings_are_refused(options, message):
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
            held_out = random_batch(9) if name == "vaa_awmt" else None
            sums = method.train_step(random_batch(step), held_out)
        found.append((values(net), {n: v.asscalar() for n, v in sums.items()}))
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)
    same(found[1][0], found[0][0], rtol=1e-5, atol=1e-7)


def test_vaas_losses_are_weighted_by_attribute():
    net = net_of("vaa_resnet18_w16_synthetic")
    plain = method_of(net, "vaa", lr=0.0, **VAA_OPTIONS)
    weighted = method_of(net, "vaa_awmt", lr=0.0, **VAA_OPTIONS)
    outputs, weight = weighted.forward(random_batch(0).image), np.array([0.0, 2.0, 1.5, 0.5])
    weighted.tasks._weights = {mx.cpu(): mx.nd.array(weight)}
    total = {}
    for column in range(COLUMNS):
        mask = np.zeros((4, COLUMNS))
        mask[:, column] = 1
        for name, value in plain.losses(outputs, random_batch(0, mask=mask)).items():
            total[name] = total.get(name, 0) + weight[column] * value.asnumpy()
    for name, value in weighted.losses(outputs, random_batch(0)).items():
        np.testing.assert_allclose(value.asnumpy(), total[name], rtol=1e-4, atol=1e-6)


def test_vaa_weights_move_only_in_the_joint_phase():
    net = net_of("vaa_resnet18_w16_synthetic")
    method = method_of(net, "vaa_awmt", phase0_epochs=1, phase1_epochs=1, window=1)
    for epoch, phase in enumerate(("primary", "attention", "joint")):
        method.begin_epoch(epoch)
        for step in range(3):
            method.train_step(random_batch(step), random_batch(50 + step))
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


@pytest.mark.parametrize("count, batches", [(5, 3), (5, 5), (3, 7), (1, 4)])
def test_a_stream_goes_on_where_its_last_epoch_ended(count, batches):
    stream, seen = task_data.Stream(Numbers(count), batches), []
    for epoch in range(6):
        stream.set_epoch(epoch)
        found = list(stream)
        assert len(found) == len(stream) == batches
        stream.set_epoch(epoch)
        assert list(stream) == found  # repeated after a resume
        seen += found
    assert seen == [divmod(number, count) for number in range(6 * batches)]
    with pytest.raises(ValueError, match="batches=0"):
        task_data.Stream(Numbers(3), 0)


# -- whole runs ----------------------------------------------------------------------------------

TINY = recipe(
    method="awmt", model="resnet18_w16_synthetic", epochs=3, iterations_per_epoch=5,
    batch_size=4, score="accuracy", schedule="constant", unspecified="masked",
    options={"window": 3, "val_batch_size": 3, "freeze_batch_norm": False},
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "shapes")


def test_a_run_cut_in_mid_window_ends_with_the_same_bits_and_tells_its_weights(data, tmp_path):
    whole = tmp_path / "whole"
    done = run(TINY, data, whole, test=True)
    arrays = resumes_to_the_bit(TINY, data, tmp_path)  # 5 iterations: in the second window
    assert "method/trend_rows" in arrays and arrays["method/trend_count"] == 15
    assert arrays["method/trend_history_iterations"].tolist() == [3, 6, 9, 12, 15]
    records, parts = (read_json_lines(str(tmp_path / f / "log.jsonl")) for f in ("whole", "cut"))
    assert [r["task_weights"] for r in records] == [r["task_weights"] for r in parts]
    assert [r["iterations"] for r in records] == [5, 10, 15]
    assert set(records[-1]["task_weights"]) == set(records[-1]["task_losses"]) == set(NAMES)
    assert sum(records[-1]["task_weights"].values()) == pytest.approx(3)
    assert "weights after iteration 15: square " in (whole / "train.log").read_text()
    assert (whole / "weights.png").stat().st_size > 5000
    assert done["best"]["accuracy"] == max(r["val_accuracy"] for r in records)
    assert json.loads((whole / "test_accuracy.json").read_text())["overall"]["accuracy"] > 0
    assert trained.from_run(str(whole), [mx.cpu()]).extra["mAP"] == done["best"]["mAP"]


def test_a_separate_model_is_a_run_on_one_attribute(data, tmp_path):
    options = {"adaptive": False, "freeze_batch_norm": False}
    run(dict(TINY, attributes="disc", epochs=1, options=options), data, tmp_path / "run")
    found = trained.from_run(str(tmp_path / "run"), [mx.cpu()])
    assert found.classes == ("disc",)
    dataset = task_data.open_for(found, str(data), "test")
    assert dataset.names == ("disc",) and dataset.label.shape == (24, 1)
    whole = task_data.open_split(Recipe.from_dict(recipe()), str(data), "test")
    np.testing.assert_array_equal(dataset.raw[:, 0], whole.raw[:, 1])
    np.testing.assert_array_equal(dataset.read(5), whole.read(5))


@pytest.mark.parametrize("changes, message", [
    ({"attributes": "disk"}, "unknown attribute 'disk'; did you mean 'disc'"),
    ({"options": {"val_batch_size": 99}}, "24 samples do not fill one batch of 99"),
])  # fmt: skip
def test_runs_that_cannot_begin(data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(dict(TINY, **changes), data, tmp_path / "run")


def test_runs_from_before_a_setting_existed_can_be_resumed(data, tmp_path):
    from gluon_attn.train.fit import Run, _check_same_run

    new = Recipe.from_dict(TINY).to_dict()
    old = {k: v for k, v in new.items() if k != "attributes"}
    run_now = Run(None, None, None, None, 1, "x", record={"recipe": new})
    _check_same_run(run_now, {"record": {"recipe": old}}, "last.ckpt")
    with pytest.raises(ValueError, match="'score' was 'mAP', now it is 'accuracy'"):
        before = {k: v for k, v in new.items() if k != "score"}
        _check_same_run(run_now, {"record": {"recipe": before}}, "last.ckpt")


def test_figure_needs_an_iteration_and_takes_losses_that_are_not_known(tmp_path):
    with pytest.raises(ValueError, match="at least one iteration"):
        weight_curves(["a"], [], np.zeros((0, 1)), np.zeros((0, 1)), path=tmp_path / "x.png")
    losses = np.array([[1.0, nan], [0.5, nan]])
    path = weight_curves(["a", "b"], [5, 10], np.ones((2, 2)), losses, path=tmp_path / "x.png")
    assert path.stat().st_size > 3000


# -- recipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, iterations, drops", [
    ("awmt_celeba_resnet50", 130_000, (70_000, 100_000, 120_000)),
    ("awmt_market_resnet50", 20_000, (10_000, 15_000)),
    ("awmt_duke_resnet50", 20_000, (10_000, 15_000)),
    ("basic_celeba_resnet50", 130_000, (70_000, 100_000, 120_000)),
])  # fmt: skip
def test_recipes_have_the_papers_settings(name, iterations, drops):
    found = build.load_recipe(name)
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
        assert build.load_recipe(name, ["adaptive=false"]).options["adaptive"] is False


def test_peta_recipe_has_the_supplements_settings():
    found = build.load_recipe("vaa_peta_resnet101")
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
