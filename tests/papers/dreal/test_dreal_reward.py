"""DREAL's rewards: counterfactual predictions against the naive computation, and what they cost."""

from __future__ import annotations

import itertools
import math

import mxnet as mx
import numpy as np
import pytest
from dreal_helpers import CLASSES, MIXED, batch_of, naive_logits, net_of
from mxnet import autograd
from reference import dreal as reference
from training_helpers import same, values

from gluon_attn.core.schema import Attribute, Schema
from gluon_attn.nets.attention import attention_blocks
from gluon_attn.nets.count import count
from gluon_attn.papers.dreal.counterfactuals import Builder, Counterfactuals, Trace
from gluon_attn.papers.dreal.critic import quality_loss, regression_loss
from gluon_attn.papers.dreal.reward import (
    MultiLabelReward,
    SingleLabelReward,
    replacement_reward,
)
from model_zoo import get_model

NETS = {
    "mixed": {"attention": MIXED},
    "some stages": {"attention": {"stage2": "cbam", "stage4": "srm"}},
    "bottlenecks": {"attention": MIXED, "name": "bottlenecks", "width": 2},
    "bottlenecks with biases": {"attention": "srm", "name": "bottlenecks with biases", "width": 2},
    "cifar": {"attention": "srm", "name": "cifar_resnet20_cifar10", "width": 4, "size": 32},
    "taps": {"attention": {"stage3": "eca"}, "taps": ("stage3_activation0",)},
    "dropout": {"attention": {"stage4": "se"}, "dropout": 0.5},
    "frozen": {"attention": {"stage3": "se"}},  # batch-norm on its running statistics
    "relu6": {"attention": {"stage5": "cbam", "stage6": "se"}, "name": "lite"},
    "branches": {"attention": None, "name": "branches", "size": 32, "order": (0, 1, 2)},
    "neighbours apart": {"attention": None, "name": "branches", "size": 32, "order": (0, 2, 1)},
    "vaa": {"attention": {"stage3": "se", "stage4": "cbam"}, "name": "vaa_resnet18"},
}


def gates_of(blocks):
    return [tuple(gate for _, gate in block.gates) for block in blocks]


def grouped(count):
    """Return three ways to compute the rewards of so many modules."""
    everything, half = tuple(range(count)), count // 2
    some = everything if count < 4 else (0, half, count - 1)
    return [everything], [everything[:half], everything[half:]], [(module,) for module in some]


def rewards(logits, without, label):
    reward = SingleLabelReward()
    arrays = (mx.nd.array(a) for a in (logits, without, label, np.ones_like(label)))
    return reward(*arrays)[0].asnumpy()


@pytest.mark.parametrize("kind", NETS)
def test_counterfactuals_equal_the_naive_computation(kind):
    net = net_of(**NETS[kind])
    if kind == "frozen":
        net.apply(lambda b: hasattr(b, "running_var") and b._kwargs.update(use_global_stats=True))
    blocks = [block for _, block in attention_blocks(net)]
    image = batch_of(3, 6, NETS[kind].get("size", 64)).image
    factual, naive = naive_logits(net, image, blocks)
    label = np.eye(CLASSES)[factual.argmax(axis=1)]  # right, so that rewards are ratios
    expected = [rewards(factual, one, label) for one in naive]
    assert np.mean(np.abs(expected) > 1e-3) > 0.2  # the modules do matter
    for groups in grouped(len(blocks))[: 3 if kind in ("mixed", "dropout") else 1]:
        passes = Counterfactuals(net, gates_of(blocks), groups)
        with autograd.train_mode():
            seen = passes.view.run({"data": image})
        for group in groups:
            without, logits = passes.logits(group, seen)
            np.testing.assert_allclose(logits.asnumpy(), factual, rtol=1e-4, atol=1e-5)
            for module, one in zip(group, without):
                np.testing.assert_allclose(one.asnumpy(), naive[module], rtol=1e-4, atol=2e-5)
                found = rewards(logits.asnumpy(), one.asnumpy(), label)
                np.testing.assert_allclose(found, expected[module], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hybridize", [True, False])
def test_the_training_pass_is_that_of_the_net(hybridize):
    """Outputs, gradients and running statistics, and what it shows is a constant."""
    found = []
    for own in (True, False):
        net = net_of(MIXED, size=32)
        image = batch_of(1, 4, 32).image
        if own:
            gates = gates_of([block for _, block in attention_blocks(net)])
            view = Counterfactuals(net, gates, [tuple(range(8))]).view
        net.hybridize(active=hybridize)
        for _ in range(2):
            with autograd.record():
                seen = view.run({"data": image}) if own else {"logits": net(image)}
                total = seen["logits"].square().sum()
                for name, array in seen.items():
                    total = total + (0 if name == "logits" else array.sum())
            total.backward()
        mx.nd.waitall()
        gradients = {
            n: p.grad().asnumpy() for n, p in net._collect_params_with_prefix().items()
            if p.grad_req != "null"
        }  # fmt: skip
        found.append((seen["logits"].asnumpy(), gradients, values(net)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    for name, one in found[0][1].items():
        scale = abs(one).max() + 1e-3
        np.testing.assert_allclose(
            one, found[1][1][name], rtol=1e-3, atol=1e-3 * scale, err_msg=name
        )
    same(found[0][2], found[1][2], rtol=1e-4, atol=1e-5)


def test_a_gate_that_is_not_called_or_leads_nowhere_is_refused():
    net, other = net_of({"stage4": "se"}, size=32), net_of({"stage4": "se"}, size=32)
    stranger = attention_blocks(other)[0][1].channel
    with pytest.raises(ValueError, match="0 times; an attention module must be used exactly once"):
        Counterfactuals(net, [(stranger,)], [(0,)])
    gates = gates_of([block for _, block in attention_blocks(net)])
    trace = Trace.of(net, gates)
    trace.outputs["logits"] = trace.graph.variable("data")
    with pytest.raises(ValueError, match="module 0 does not influence the logits"):
        Builder(trace, (0,))


def multiply_adds(net, size, groups):
    """Return the multiply-adds per image of the net and of the counterfactuals of each group.

    Counted on the graphs that run, from the shapes of their convolutions and dense layers.
    """
    trace = Trace.of(net, gates_of([block for _, block in attention_blocks(net)]))
    entries = [(number, 0) for number in range(len(trace.graph.nodes))]
    shapes = trace.graph.shapes(entries, data=(1, 3, size, size))
    params = {p.name: p.shape for p in net.collect_params().values()}
    found = []
    for group in groups:
        builder = Builder(trace, group)
        logits, _ = builder.logits()
        needed = builder.variables([logits])
        inputs = {name: shape for name, shape in params.items() if name in needed}
        for (number, output), (place, _) in builder.seen.items():
            shape = shapes[number, 0]
            inputs[builder.nodes[place].name] = (shape[1],) if output else shape
        found.append(cost_of(builder, logits, inputs))
    return count(net, (size, size)).multiply_adds, found


def cost_of(graph, logits, inputs):
    shapes, total = graph.shapes([logits], **inputs), 0
    for number in graph.needed([logits]):
        if graph.nodes[number].op in ("Convolution", "FullyConnected"):
            rows, _, *side = shapes[number, 0]
            total += rows * math.prod(side) * math.prod(shapes[graph.nodes[number].inputs[1]])
    return total


def test_the_multiply_adds_that_the_documentation_states():
    """docs/dreal.md: all 16 counterfactuals of se_resnet50 cost 7.3 forward passes, not 16."""
    net = get_model("se_resnet50", input_size=64)
    whole, found = multiply_adds(net, 224, [tuple(range(16)), (0,), (8,), (15,)])
    assert whole == pytest.approx(4.09e9, rel=0.01)
    assert found[0] / whole == pytest.approx(7.29, abs=0.01)
    assert found[1] / whole == pytest.approx(0.915, abs=0.001)
    assert found[2] / whole == pytest.approx(0.412, abs=0.001)
    assert found[3] == 2048 * 1000  # behind the last module is only the classifier


def test_as_one_batch_counterfactuals_are_the_same_work():
    net = net_of({"stage2": "se", "stage3": "cbam"}, size=32)
    _, found = multiply_adds(net, 32, [(0, 1, 2, 3), (0,), (1,), (2,), (3,), (0, 1), (2, 3)])
    assert found[0] == sum(found[1:5]) == sum(found[5:])


def random_logits(seed=0, rows=12):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, (rows, CLASSES)), rng.normal(0, 2, (rows, CLASSES)), rng


@pytest.mark.parametrize("hybridize", [False, True])
@pytest.mark.parametrize("form", ["ratio", "sign"])
def test_single_label_reward_agrees_with_the_reference(form, hybridize):
    logits, without, rng = random_logits()
    truth = np.where(rng.random(12) < 0.5, logits.argmax(1), rng.integers(0, CLASSES, 12))
    label, mask = np.eye(CLASSES)[truth], np.ones((12, CLASSES))
    mask[:2] = 0
    block = SingleLabelReward(0.7, form)
    block.hybridize(hybridize)
    found, known = block(*map(mx.nd.array, (logits, without, label, mask)))
    expected = [
        reference.single_label_reward(*row, 0.7, form) for row in zip(logits, without, truth)
    ]
    expected[:2] = 0, 0
    np.testing.assert_allclose(found.asnumpy(), expected, rtol=1e-4, atol=1e-6)
    assert known.asnumpy().tolist() == [0, 0] + [1] * 10
    assert len({v > 0 for v in expected}) == 2 and -0.7 in expected


@pytest.mark.parametrize("form", ["ratio", "sign"])
def test_multi_label_reward_agrees_with_the_reference(form):
    logits, without, rng = random_logits(1)
    label, mask = rng.random((12, CLASSES)) < 0.4, rng.random((12, CLASSES)) < 0.7
    mask[3] = False
    block = MultiLabelReward(0.5, form)
    block.hybridize()
    found, known = block(*map(mx.nd.array, (logits, without, label, mask)))
    rows = zip(logits, without, label, mask)
    expected = [reference.multi_label_reward(*row, 0.5, form) for row in rows]
    np.testing.assert_allclose(found.asnumpy(), expected, rtol=1e-4, atol=1e-6)
    assert known.asnumpy().tolist() == [1, 1, 1, 0] + [1] * 8


@pytest.mark.parametrize("kind", [SingleLabelReward, MultiLabelReward])
def test_laws_of_the_reward(kind):
    label = mx.nd.array(np.eye(CLASSES))
    right, mask = 4 * label - 2, mx.nd.ones((CLASSES, CLASSES))
    same, worse, better = (
        kind()(right, z, label, mask)[0].asnumpy() for z in (right, -9 * right, 5 * right)
    )
    assert np.abs(same).max() < 1e-6  # attention that is its own mean gains nothing
    assert (worse > 0.9).all() and (worse <= 1).all() and (better < 0).all()
    wrong = kind(2.0)(-right, right, label, mask)[0].asnumpy()
    np.testing.assert_allclose(wrong, -2)
    extreme = kind()(1e4 * right, -1e4 * right, label, mask)[0].asnumpy()
    np.testing.assert_allclose(extreme, 1)
    flat = kind()(0 * right, 0 * right, label, mask)[0].asnumpy()
    assert np.isfinite(flat).all()


def test_the_schema_decides_the_reward():
    single = Schema([Attribute("class", "multiclass", ("a", "b"))])
    mixed = Schema([Attribute("hat"), Attribute("class", "multiclass", ("a", "b"))])
    assert isinstance(replacement_reward(single), SingleLabelReward)
    for schema in (None, mixed, Schema.binary("ab")):
        assert isinstance(replacement_reward(schema), MultiLabelReward)


def test_losses_of_critic_and_actors():
    rng = np.random.default_rng(0)
    critique, reward, known = rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), [1, 0, 1]
    q = mx.nd.array(critique)
    q.attach_grad()
    with autograd.record():
        loss = regression_loss(q, mx.nd.array(reward), mx.nd.array(known))
    loss.backward()
    expected = ((critique - reward) ** 2).mean(1) * known
    np.testing.assert_allclose(loss.asnumpy(), expected, rtol=1e-5)
    slope = (critique - reward) / 2 * np.array(known)[:, None]
    np.testing.assert_allclose(q.grad.asnumpy(), slope, rtol=1e-5)
    np.testing.assert_allclose(quality_loss(q).asnumpy(), -critique.mean(1), rtol=1e-5)


def test_a_sample_of_modules_estimates_the_critics_loss_without_bias():
    """Over all choices of 2 of 5 modules, the mean loss and gradient are those of all 5."""
    rng = np.random.default_rng(0)
    reward, q = mx.nd.array(rng.normal(size=(3, 5))), mx.nd.array(rng.normal(size=(3, 5)))
    q.attach_grad()

    def loss_and_gradient(modules):
        with autograd.record():
            chosen = [mx.nd.concat(*[a[:, m : m + 1] for m in modules], dim=1) for a in (q, reward)]
            loss = regression_loss(*chosen, mx.nd.ones(3))
        loss.backward()
        return loss.asnumpy(), q.grad.asnumpy()

    pairs = [loss_and_gradient(pair) for pair in itertools.combinations(range(5), 2)]
    loss, gradient = loss_and_gradient(range(5))
    np.testing.assert_allclose(np.mean([p[0] for p in pairs], axis=0), loss, rtol=1e-5)
    np.testing.assert_allclose(
        np.mean([p[1] for p in pairs], axis=0), gradient, rtol=1e-4, atol=1e-6
    )
