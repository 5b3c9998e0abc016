"""DREAL: the critic, who learns from which loss, resuming, sampling, whole runs."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest
from dreal_helpers import CLASSES, MIXED, SINGLE, batch_of, method_of, net_of
from mxnet import autograd
from reference import dreal as reference
from training_helpers import (
    NAMES,
    recipe,
    resumes_to_the_bit,
    same,
    start_method,
    values,
    write_data,
)

from gluon_attn.nets.attention import attention_blocks
from gluon_attn.papers.dreal.critic import Critic, regression_loss
from gluon_attn.papers.dreal.method import chosen_modules
from gluon_attn.papers.dreal.reward import chance_reward
from gluon_attn.train import build, read_json_lines
from model_zoo import get_model

SMALL = {"stage3": "cbam", "stage4": "srm"}  # four modules, six gates


@pytest.fixture(scope="module")
def any_net():
    return net_of(SMALL, size=32)


@pytest.mark.parametrize("hybridize", [False, True])
def test_critic_agrees_with_the_reference(hybridize):
    critic = Critic((3, 5, 4), hidden=6)
    critic.initialize()
    for parameter in critic.collect_params().values():
        parameter.set_data(mx.nd.random.normal(0, 0.7, parameter.shape))
    critic.hybridize(active=hybridize)
    vectors = [np.random.default_rng(0).normal(size=(4, size)) for size in (3, 5, 4)]
    found = critic(*map(mx.nd.array, vectors)).asnumpy()
    weights = values(critic)
    expected = [reference.critic(rows, weights) for rows in zip(*vectors)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    # recurrent: a critique depends on the modules in front, not on those behind
    vectors[1] = vectors[1] + 1
    moved = critic(*map(mx.nd.array, vectors)).asnumpy() != found
    assert not moved[:, 0].any() and moved[:, 1:].all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_critic_that_starts_at_the_level_of_the_rewards_closes_no_gate(seed):
    """Rewards that are the same for every map say nothing of maps: L_q must not move them."""

    def slope(start):
        """Return how the critique grows with all values of the first module's map."""
        mx.random.seed(seed)
        rng = np.random.default_rng(seed)
        critic = Critic((24, 24, 40), hidden=32, start=start)
        critic.initialize()
        trainer = mx.gluon.Trainer(critic.collect_params(), "adam", {"learning_rate": 1e-3})

        def vectors():
            states, maps = (rng.normal(mean, s, (16, 44)) for mean, s in ((0, 1), (0.5, 0.02)))
            parts = ((0, 12), (12, 24), (24, 44))
            return [mx.nd.array(np.hstack([states[:, a:b], maps[:, a:b]])) for a, b in parts]

        for _ in range(100):
            with autograd.record():
                critique = critic(*vectors())
                loss = regression_loss(critique, mx.nd.full((16, 3), -0.9), mx.nd.ones(16))
            loss.backward()
            trainer.step(16)
        first, *others = vectors()
        first.attach_grad()
        with autograd.record():
            critique = critic(first, *others).mean()
        critique.backward()
        return float(first.grad[:, 12:].sum().asscalar())

    assert slope(0.0) < -0.2 and abs(slope(-0.9)) < 0.05


@pytest.mark.parametrize("schema", [SINGLE, None], ids=["one class", "attributes"])
def test_it_starts_at_the_reward_of_guessing(any_net, schema):
    answers = len(schema.columns) if schema else 2
    assert chance_reward(schema, 0.6) == pytest.approx(-0.6 * (1 - 1 / answers))
    for start, expected in (("chance", chance_reward(schema, 0.6)), ("zero", 0)):
        method = method_of(any_net, schema=schema, critic_start=start, penalty=0.6)
        assert method.critic.output_bias.data().asscalar() == pytest.approx(expected)
    with pytest.raises(ValueError, match="unknown critic_start 'soon'"):
        method_of(any_net, critic_start="soon")


@pytest.mark.parametrize("grid, size", [(2, 64), (7, 64), (3, 96)])
def test_what_the_critic_sees_agrees_with_the_reference(grid, size):
    net = net_of(SMALL)
    method = method_of(net, spatial_grid=grid)
    seen = method.forward(batch_of(0, 3, size).image)["seen"]
    judged = method._judge.run(seen)
    for number, (_, block) in enumerate(attention_blocks(net)):
        x, actions = seen[method.counterfactuals.states[number]], []
        state = x.asnumpy()
        for _, gate in block.gates:
            actions.append(gate(x))
            x = mx.nd.broadcast_mul(x, actions[-1])
        rows = zip(state, *(a.asnumpy() for a in actions))
        expected = [reference.vector(first, maps, grid) for first, *maps in rows]
        np.testing.assert_allclose(
            judged[f"vector{number}"].asnumpy(), expected, rtol=1e-3, atol=1e-5
        )


def gradients(method, loss, batch):
    """Return the gradients of one of the step's losses for all parameters of net and critic."""
    parameters = {f"net {n}": p for n, p in method.net._collect_params_with_prefix().items()}
    critic = method.critic._collect_params_with_prefix()
    parameters.update((f"critic {n}", p) for n, p in critic.items())
    parameters = {n: p for n, p in parameters.items() if p.grad_req != "null"}
    for parameter in parameters.values():
        parameter.zero_grad()
    method._experience = []
    with autograd.record():
        found = method.losses(method.forward(batch.image), batch)
        vectors, reward, known = method._experience[0]
        found["regression"] = regression_loss(method.critic(*vectors), reward, known)
    found[loss].backward()
    return {n: np.abs(p.grad().asnumpy()).max() for n, p in parameters.items()}


def attention_names(net, stages=None):
    """Return the names of the parameters of the attention modules."""
    own = {
        id(p)
        for _, block in attention_blocks(net)
        for p in block.collect_params().values()
        if stages is None or block.slot.stage in stages
    }
    return {f"net {n}" for n, p in net._collect_params_with_prefix().items() if id(p) in own}


@pytest.mark.parametrize("schema", [SINGLE, None], ids=["single label", "multi-label"])
def test_every_loss_has_gradients_for_its_own_parameters_only(schema):
    net = net_of(MIXED)
    method, batch = method_of(net, schema), batch_of(0, 4, 64, schema)
    moved = {
        loss: {n for n, size in gradients(method, loss, batch).items() if size > 0}
        for loss in ("classification", "quality", "regression")
    }
    everything = {f"net {n}" for n, p in net._collect_params_with_prefix().items()
                  if p.grad_req != "null"}  # fmt: skip
    theta = attention_names(net) & everything
    critic = {f"critic {n}" for n in method.critic._collect_params_with_prefix()}
    assert moved["regression"] <= critic and moved["quality"] <= theta
    assert moved["classification"] <= everything
    # a bias in front of a batch-norm has no gradient, a ReLU can be off for every image
    assert len(moved["regression"]) > 0.9 * len(critic)
    assert len(moved["classification"]) > 0.9 * len(everything)
    own = {id(p): f"net {n}" for n, p in net._collect_params_with_prefix().items()}
    for _, block in attention_blocks(net):
        for _, gate in block.gates:
            assert moved["quality"] & {own[id(p)] for p in gate.collect_params().values()}


def test_without_the_quality_loss_the_net_trains_as_the_baseline_does():
    batch, plain, net = batch_of(1), net_of(SMALL), net_of(SMALL)
    baseline = start_method("baseline", plain, SINGLE.columns, schema=SINGLE, lr=0.02)
    method = method_of(net, quality_weight=0.0)
    critic = values(method.critic)
    for _ in range(2):
        expected, found = baseline.train_step(batch), method.train_step(batch)
        assert found["loss"].asscalar() == pytest.approx(expected["loss"].asscalar(), rel=1e-4)
    same(values(net), values(plain), rtol=1e-3, atol=1e-4)
    assert all((values(method.critic)[n] != array).any() for n, array in critic.items())


def test_the_quality_loss_moves_the_attention_modules_alone():
    found, losses = [], []
    for weight in (0.0, 2.0, 5.0):
        net = net_of(SMALL)
        method = method_of(net, critic_lr=0.0, critic_optimizer="sgd", quality_weight=weight)
        critic = values(method.critic)
        losses.append(method.train_step(batch_of(1))["quality"].asscalar())
        assert all((values(method.critic)[n] == array).all() for n, array in critic.items())
        found.append(values(net))
    theta = {name[len("net ") :] for name in attention_names(net)}
    differ = {
        n for n in found[0] if not np.allclose(found[0][n], found[2][n], rtol=1e-4, atol=1e-6)
    }
    assert differ and differ <= theta
    assert losses[0] == 0 and losses[2] == pytest.approx(2.5 * losses[1], rel=1e-4)


def test_looking_at_the_gates_twice_counts_their_statistics_once():
    net = net_of(SMALL)
    method, batch = method_of(net, lr=0.0), batch_of(2)
    method.train_step(batch)
    found = values(net)
    other = net_of(SMALL)
    other.hybridize(active=False)
    with autograd.record():
        outputs = other(batch.image)
    outputs.backward()
    expected = values(other)
    statistics = [name for name in found if "running_" in name]
    assert len(statistics) > 40
    one, two = ({name: all_[name] for name in statistics} for all_ in (found, expected))
    same(one, two, rtol=1e-4, atol=1e-5)


def test_rewards_of_a_step_are_those_of_the_weights_it_began_with():
    """They belong to the attention that the critic rates, so they come before the update."""
    net = net_of({"stage4": "se"})
    method, batch = method_of(net, lr=0.0), batch_of(0)
    method.train_step(batch)
    still = method._experience[0][1].asnumpy()
    net = net_of({"stage4": "se"})
    method = method_of(net, lr=1.0)
    method.train_step(batch)
    np.testing.assert_allclose(method._experience[0][1].asnumpy(), still, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("group, groups", [
    ("net", [(0, 1, 2, 3)]), ("stage", [(0, 1), (2, 3)]),
])  # fmt: skip
def test_modules_whose_rewards_are_computed_together(group, groups):
    method = method_of(net_of(SMALL), group=group)
    assert method._groups == groups
    totals = method.train_step(batch_of(0))
    assert set(totals) == {"classification", "quality", "regression", "loss"}
    assert all(np.isfinite(value.asscalar()) for value in totals.values())


@pytest.mark.parametrize("ctx, accumulate", [([mx.cpu(0), mx.cpu(1)], 1), ([mx.cpu(0)], 2)])
def test_several_devices_or_micro_batches_make_one_update_of_each_side(ctx, accumulate):
    """Both halves of the batch hold the same images, so that their statistics are the same."""
    half = batch_of(0, 4)
    twice = half._replace(
        image=mx.nd.concat(half.image, half.image, dim=0), index=np.arange(8),
        label=mx.nd.concat(half.label, half.label, dim=0), mask=mx.nd.ones((8, CLASSES)),
    )  # fmt: skip
    net = net_of({"stage4": "cbam"})
    method = method_of(net, ctx=ctx, accumulate=accumulate, critic_optimizer="sgd")
    alone = method_of(net_of({"stage4": "cbam"}), critic_optimizer="sgd")
    for name, parameter in method.critic._collect_params_with_prefix().items():
        parameter.set_data(alone.critic._collect_params_with_prefix()[name].data())
    for _ in range(2):
        method.train_step(twice)
        alone.train_step(half)
    for one, other in ((method.net, alone.net), (method.critic, alone.critic)):
        one, other = (
            {n: array for n, array in values(block).items() if "running_" not in n}
            for block in (one, other)
        )
        same(one, other, rtol=1e-3, atol=1e-4)
    for parameter in method.critic.collect_params().values():
        copies = [data.asnumpy() for data in parameter.list_data()]
        assert all((copy == copies[0]).all() for copy in copies)


def test_every_module_is_sampled_as_often_as_every_other():
    method = method_of(net_of(SMALL), sample=2)
    chosen = [method.sampled(step) for step in range(3000)]
    assert all(len(set(groups)) == 2 for groups in chosen)
    counts = np.bincount([module for groups in chosen for (module,) in groups])
    assert abs(counts / 3000 - 0.5).max() < 0.04
    assert method.sampled(17) == chosen[17]  # of seed and step alone
    method.options["sample_seed"] = 1
    assert [method.sampled(step) for step in range(20)] != chosen[:20]


def test_sampled_rewards_are_those_of_all():
    batch, found = batch_of(0), {}
    for sample in (0, 1, 3):
        method = method_of(net_of(SMALL), lr=0.0, sample=sample)
        for _ in range(3):
            method.train_step(batch)
            modules = [module for group in method._wanted for module in group]
            assert len(modules) == (sample or 4)
            columns = method._experience[0][1].asnumpy().T
            for module, column in zip(modules, columns):
                expected = found.setdefault(module, column)
                np.testing.assert_allclose(column, expected, rtol=1e-4, atol=1e-5)


def test_the_report_counts_what_was_sampled():
    method, batch = method_of(net_of(SMALL), sample=1, lr=0.0), batch_of(0)
    method.sampled = lambda step: [(step % 2,)]
    for _ in range(4):
        method.train_step(batch)
    record = json.loads(json.dumps(method.report()))
    names = [name for name, _ in attention_blocks(method.net)]
    assert set(record) == {"critique", "reward", "critic_error"}
    for values_ in record.values():
        assert list(values_) == names
        assert [value is None for value in values_.values()] == [False, False, True, True]
    method.begin_epoch(1)
    assert set(method.report()["reward"].values()) == {None}


@pytest.mark.parametrize("stages, expected", [
    ("all", [2, 2, 3, 3, 4, 4]), ("conv5_x", [4, 4]), ("conv4_x,conv5_x", [3, 3, 4, 4]),
    ("stage2, stage4", [2, 2, 4, 4]), (("conv3_x", "conv4_x"), [2, 2, 3, 3]),
])  # fmt: skip
def test_stages_are_chosen_by_the_papers_names(stages, expected):
    net = net_of({"stage2": "se", "stage3": "cbam", "stage4": "eca"})
    method = method_of(net, stages=stages)
    assert [int(name[len("stage")]) for name in method.names] == expected
    before = values(net)
    # only the chosen stages feel L_q
    moved = {n for n, size in gradients(method, "quality", batch_of(0, 4)).items() if size > 0}
    assert moved and moved <= attention_names(net, set(expected))
    method.train_step(batch_of(0, 4))
    assert any((values(net)[n] != array).any() for n, array in before.items())


def test_stages_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"unknown stage 'conv6_x'.*conv3_x, conv5_x"):
        chosen_modules(net_of({"stage2": "se", "stage4": "se"}), "conv5_x,conv6_x")
    with pytest.raises(ValueError, match="unknown stage ''"):
        chosen_modules(net_of({"stage2": "se"}), "")
    with pytest.raises(ValueError, match="no attention module with gates.*se_resnet50"):
        method_of(net_of(None))


@pytest.mark.parametrize("options, message", [
    ({"sample": 5}, "sample=5: valid are 0"), ({"group": "all"}, "unknown group 'all'"),
    ({"critic_optimizer": "newton"}, "unknown optimizer"), ({"penalty": -1.0}, "penalty=-1"),
    ({"reward": "rank"}, "reward='rank': valid are ratio, sign"), ({"hidden": 0}, "hidden=0"),
    ({"quality_weight": -1.0}, "quality_weight"),
])  # fmt: skip
def test_impossible_options_are_refused(any_net, options, message):
    with pytest.raises(ValueError, match=message):
        method_of(any_net, **options)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    """Net, critic, both optimisers and the sampling; on several binary attributes."""
    attention = {"stage3": "cbam", "stage4": "srm"}
    tiny = recipe(
        method="dreal", model="resnet18_w16_synthetic", options={"hidden": 8, "sample": 2},
        model_options={"width": 8, "attention": attention}, epochs=3, schedule="constant",
    )  # fmt: skip
    one = resumes_to_the_bit(tiny, write_data(tmp_path / "data"), tmp_path)
    assert one["method/steps"] == 3 * 48 // 8
    kinds = {name.split("/")[0] + "/" + name.split("/")[1] for name in one if "trainer" in name}
    assert kinds == {"trainer/joint", "trainer/critic"}
    assert any(name.startswith("method/critic/embed3") for name in one)
    records = read_json_lines(tmp_path / "whole" / "log.jsonl")
    assert [set(r["reward"]) for r in records] == [
        {"stage3_unit0", "stage3_unit1", "stage4_unit0", "stage4_unit1"}
    ] * 3
    assert all("loss_regression" in r and "loss_quality" in r for r in records)
    # what is kept is the plain attention net
    net = get_model(tiny["model"], classes=len(NAMES), input_size=32, width=8, attention=attention)
    saved = mx.nd.load(str(tmp_path / "whole" / "best.params"))
    assert set(saved) == set(net._collect_params_with_prefix())


def test_a_state_of_another_critic_is_refused():
    stages = {"stage3": "se", "stage4": "srm"}
    method = method_of(net_of(stages))
    method.train_step(batch_of(0))
    state = method.state()
    other = method_of(net_of(stages), seed=1)
    other.load_state(state)
    assert other.steps == 1
    same(values(other.critic), values(method.critic))
    for options in ({"hidden": 8}, {"stages": "conv5_x"}):
        with pytest.raises(ValueError, match="use the same stages, hidden and spatial_grid"):
            method_of(net_of(stages), **options).load_state(state)


@pytest.mark.parametrize("name", [
    "dreal_imagenet_se_resnet50", "dreal_imagenet_cbam_resnet50", "dreal_imagenet_srm_resnet101",
    "dreal_digits_single_resnet14", "dreal_synthetic_resnet18",
])  # fmt: skip
def test_recipes_build_their_method(name):
    found = build.load_recipe(name, ["stages=conv3_x,conv4_x"])
    assert found.method == "dreal" and found.options == {"stages": ("conv3_x", "conv4_x")}
    if "imagenet" in name:
        assert found.epochs == 100  # CONFIRMED
    net = get_model(found.model, classes=3, input_size=32, **found.model_options)
    stages = {1, 2, 3} if "digits" in name else {1, 2, 3, 4}
    assert {block.slot.stage for _, block in chosen_modules(net)} == stages
