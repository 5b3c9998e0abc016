"""The VAA net against the supplement's layers, and its two training phases."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from parts_helpers import frozen
from training_helpers import random_batch, same, start_method, values

from gluon_attn.nets import name_outputs
from gluon_attn.papers.vaa.net import VARIANTS, AttentionModule
from model_zoo import get_model


def trainable(net):
    return sum(
        int(np.prod(p.shape)) for n, p in net.collect_params().items() if "running_" not in n
    )


def conv(inputs, filters, kernel=1):
    return inputs * filters * kernel * kernel + filters


def module_count(channels, side, classes=14):
    """Parameters of one attention module, counted by hand from the supplement's text."""
    norm = 2  # gamma and beta per filter
    mask = conv(channels, 256) + norm * 256 + conv(256, 256) + norm * 256 + conv(256, classes)
    confidence = conv(channels, classes)
    classifier = conv(classes, 256) + norm * 256 + conv(256, 512) + norm * 512
    classifier += conv(512, 512, side) + norm * 512 + 512 * classes + classes
    return mask + confidence + classifier


def test_parameter_count_follows_from_the_supplement():
    net = get_model("vaa_resnet101")
    # Gluon's resnet101_v1: the bias-free net of 44,549,160 parameters, whose 1000-way output is
    # replaced, plus the biases of the first and last convolution of its 33 bottlenecks.
    units = ((3, 64), (4, 128), (23, 256), (3, 512))
    biases = sum(n * (inner + 4 * inner) for n, inner in units)
    backbone = 44549160 - (2048 * 1000 + 1000) + (2048 * 14 + 14) + biases
    assert trainable(net.backbone) == backbone
    assert trainable(net) == backbone + module_count(1024, 14) + module_count(2048, 7)


def test_outputs_of_resnet101_at_224():
    net = get_model("vaa_resnet101_wider")
    assert net.taps == ("stage3_activation22", "stage4_activation2")
    symbols = net(mx.sym.var("data"))
    _, shapes, _ = mx.sym.Group(list(symbols)).infer_shape(data=(2, 3, 224, 224))
    named = dict(zip(net.output_names, shapes))
    assert list(named)[:2] == ["logits", "logits_backbone"]
    assert named["logits"] == (2, 14)
    assert named["attention_stage3_activation22"] == (2, 14, 14, 14)
    assert named["confidence_stage4_activation2"] == (2, 14, 7, 7)


def small(**kwargs):
    net = get_model("vaa_resnet18_w16_synthetic", input_size=64, classes=4, **kwargs)
    net.initialize(mx.init.Xavier())
    return net


def test_attention_sums_to_one_and_logits_are_averaged():
    net = small()
    x = mx.nd.random.normal(shape=(3, 3, 64, 64), scale=3)
    outputs = name_outputs(net, net(x))
    for name in net.attention_outputs:
        attention = outputs[name].asnumpy()
        assert (attention >= 0).all()
        np.testing.assert_allclose(attention.sum((2, 3)), 1, rtol=1e-5)
    logits = [outputs[n].asnumpy() for n in outputs if n.startswith("logits_")]
    assert len(logits) == 3
    np.testing.assert_allclose(outputs["logits"].asnumpy(), np.mean(logits, 0), rtol=1e-5)


def test_module_follows_the_supplement_step_by_step():
    """Recompute one module in NumPy from its parameters (batch-norm with fresh statistics)."""
    net = small()
    module = net.heads.attention[1]
    for name, parameter in module.collect_params().items():
        if "running_" not in name:
            parameter.set_data(mx.nd.random.normal(scale=0.2, shape=parameter.shape))
    x = np.random.default_rng(0).normal(size=(2, 128, 2, 2)).astype(np.float32)
    logits, attention, confidence = (o.asnumpy() for o in module(mx.nd.array(x)))

    def one_by_one(layer, value):
        weight, bias = layer.weight.data().asnumpy(), layer.bias.data().asnumpy()
        return np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], value) + bias[:, None, None]

    def norm_relu(layer, value):
        gamma, beta = layer.gamma.data().asnumpy(), layer.beta.data().asnumpy()
        scaled = value / np.sqrt(1 + 1e-5) * gamma[:, None, None] + beta[:, None, None]
        return np.maximum(scaled, 0)

    mask, classifier = module.mask, module.classifier
    scores = norm_relu(mask[1], one_by_one(mask[0], x))
    scores = one_by_one(mask[6], norm_relu(mask[4], one_by_one(mask[3], scores)))
    powers = np.exp(scores)
    expected_attention = powers / powers.sum((2, 3), keepdims=True)
    expected_confidence = 1 / (1 + np.exp(-one_by_one(module.confidence, x)))
    value = expected_attention * expected_confidence
    value = norm_relu(classifier[1], one_by_one(classifier[0], value))
    value = norm_relu(classifier[4], one_by_one(classifier[3], value))
    full = classifier[6]
    value = np.einsum("oihw,bihw->bo", full.weight.data().asnumpy(), value)
    value = norm_relu(classifier[7], (value + full.bias.data().asnumpy())[:, :, None, None])
    dense = classifier[10]
    expected = value[:, :, 0, 0] @ dense.weight.data().asnumpy().T + dense.bias.data().asnumpy()
    np.testing.assert_allclose(attention, expected_attention, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(confidence, expected_confidence, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_map_is_tied_to_its_attribute(variant):
    """Maps in another order and a first convolution that reads them so: the same logits."""
    module = AttentionModule(5, (16, 4, 4), variant, 1 / 16)
    module.initialize(mx.init.Normal(0.5))
    x = mx.nd.random.normal(shape=(2, 16, 4, 4))
    logits, attention, _ = (output.asnumpy() for output in module(x))
    order = mx.nd.array([3, 0, 4, 1, 2])
    for layer in (module.mask[-1], module.confidence):
        for parameter in (layer.weight, layer.bias):
            parameter.set_data(parameter.data().take(order))
    reader = module.classifier[0].weight
    reader.set_data(reader.data().take(order, axis=1))
    moved, maps, _ = (output.asnumpy() for output in module(x))
    np.testing.assert_array_equal(maps, attention[:, order.asnumpy().astype(int)])
    assert np.abs(maps - attention).max() > 0.01
    np.testing.assert_allclose(moved, logits, rtol=1e-4, atol=1e-6)


def test_released_variant_has_three_taps_and_wider_heads():
    net = get_model("vaa_resnet101_released_wider")
    assert net.taps == ("stage3_activation19", "stage3_activation22", "stage4_activation2")
    module = net.heads.attention[0]
    shapes = [layer.weight.shape for layer in module.mask if hasattr(layer, "weight")]
    assert shapes == [(512, 1024, 1, 1), (512, 512, 3, 3), (14, 512, 1, 1)]
    shapes = [layer.weight.shape[:2] for layer in module.classifier if hasattr(layer, "weight")]
    assert shapes[:3] == [(256, 14), (512, 256), (1024, 512)]
    assert module.classifier[6].weight.shape == (1024, 512, 14, 14)


def test_bad_variant_and_missing_taps_are_refused():
    with pytest.raises(ValueError, match="variant 'other'"):
        small(variant="other")
    with pytest.raises(ValueError, match="at least one tap"):
        small(taps=())


def batch():
    found = random_batch(0, side=64, label=np.random.default_rng(1).random((4, 4)) < 0.5)
    return found._replace(index=np.array([6, 2, 7, 0]))


def method(net, ctx=None, accumulate=1, **options):
    return start_method(
        "vaa", net, "abcd", samples=8, lr=0.05, ctx=ctx, accumulate=accumulate, options=options
    )


def test_phase_one_leaves_the_primary_net_untouched():
    net = small()
    training = method(net, phase1_epochs=1)
    assert training.phase == "attention"
    before = values(net)
    with mx.autograd.record():  # the frozen net as in inference: with its running statistics
        outputs = training.forward(batch().image)
    expected = net.backbone(batch().image)[0]
    np.testing.assert_array_equal(outputs["logits_backbone"].asnumpy(), expected.asnumpy())
    losses = training.train_step(batch())
    after = values(net)
    assert not any(name.startswith("focal") for name in losses)
    for name in before:
        assert np.array_equal(before[name], after[name]) or name.startswith("heads."), name
    weights = [n for n in before if n.startswith("heads.") and n.endswith("weight")]
    assert weights and all(not np.array_equal(before[n], after[n]) for n in weights)
    training.begin_epoch(1)
    assert training.phase == "joint"
    training.train_step(batch())
    joint = values(net)
    moved = [n for n in before if not np.array_equal(joint[n], after[n])]
    assert any(n.startswith("backbone.") and n.endswith("weight") for n in moved)


def test_the_modules_take_steps_of_their_own_size():
    moves = {}
    for factor in (1.0, 3.0):
        mx.random.seed(5)
        net = small()
        before = values(net)
        method(net, phase1_epochs=0, modules_lr=factor).train_step(batch())
        after = values(net)
        moves[factor] = {n: after[n] - before[n] for n in before if "running" not in n}
    for name, move in moves[1.0].items():
        wanted = 3 * move if name.startswith("heads.") else move
        np.testing.assert_allclose(moves[3.0][name], wanted, rtol=1e-3, atol=1e-6)
    assert any(np.abs(move).max() > 1e-3 for n, move in moves[1.0].items() if "heads" in n)
    with pytest.raises(ValueError, match="modules_lr=-1"):
        method(small(), modules_lr=-1.0)


def test_loss_is_the_sum_of_the_papers_terms():
    net = small()
    training = method(net, phase1_epochs=0)
    losses = training.train_step(batch())
    assert set(losses) == {
        "loss", "focal_backbone", "bce_stage3_activation1", "bce_stage4_activation1"
    }  # fmt: skip
    total = sum(v.asscalar() for n, v in losses.items() if n != "loss")
    assert losses["loss"].asscalar() == pytest.approx(total, rel=1e-5)


def test_history_is_stored_and_weights_samples_from_the_right_epochs():
    net = small()
    training = method(net, phase1_epochs=0, history_start=1, history_weights=3)
    data = batch()
    for epoch in range(4):
        training.begin_epoch(epoch)
        weight = training._sample_weight(data).asnumpy()
        expected = 1 + training.history.std(data.index).asnumpy() if epoch >= 3 else 1
        np.testing.assert_array_equal(weight, expected * np.ones_like(weight))
        training.train_step(data)
        count = training.history.state()["count"]
        assert (count[data.index] == max(epoch, 0)).all() and count.sum() == 4 * max(epoch, 0)
    assert (training.history.std(data.index).asnumpy() > 0).all()


@pytest.mark.parametrize("devices, accumulate", [(1, 2), (2, 1)])
def test_parts_of_a_batch_add_up_when_statistics_are_frozen(devices, accumulate):
    results = []
    for count, parts in ((1, 1), (devices, accumulate)):
        mx.random.seed(3)
        net = frozen(small())
        ctx = [mx.cpu(number) for number in range(count)]
        training = method(net, ctx, parts, phase1_epochs=0, history_start=0)
        for epoch in range(2):
            training.begin_epoch(epoch)
            training.train_step(batch())
        for parameter in net.collect_params().values():
            copies = [d.asnumpy() for d in parameter.list_data()]
            assert all((copies[0] == copy).all() for copy in copies)
        results.append({**values(net), "history": training.history.state()["rows"]})
    same(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_primary_phase_trains_the_primary_net_alone_and_stores_no_history():
    net = small()
    training = method(net, phase0_epochs=1, phase1_epochs=1, history_start=0)
    assert [training.phase_of(e) for e in range(4)] == ["primary", "attention", "joint", "joint"]
    before = values(net)
    losses = training.train_step(batch())
    after = values(net)
    assert set(losses) == {"loss", "bce_backbone"}
    changed = {n for n in before if not np.array_equal(before[n], after[n])}
    assert changed and all(name.startswith("backbone.") for name in changed)
    assert training.history.state()["count"].sum() == 0
    training.begin_epoch(1)
    training.train_step(batch())
    assert training.history.state()["count"].sum() == 4
