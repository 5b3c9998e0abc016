"""ICASC's training step: against PyTorch and NumPy, its laws, limit cases, and whole runs."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from parts_helpers import CLASSES, frozen, net_of, without_dropout
from reference import icasc as reference
from training_helpers import (
    recipe,
    resumes_to_the_bit,
    same,
    start_method,
    values,
    write_data,
)

from gluon_attn.core.batch import Batch
from gluon_attn.core.schema import Attribute, Schema
from gluon_attn.papers.icasc.gradients import ScorePass, true_and_confusing
from gluon_attn.papers.icasc.method import TERMS
from gluon_attn.train import read_json_lines
from model_zoo import get_model

SINGLE = Schema([Attribute("class", "multiclass", tuple("abcde"))])
MULTI = Schema.binary("abcde")
both_gradients = pytest.mark.parametrize("gradient", ["constant", "exact"])
exact_first = pytest.mark.parametrize(
    "gradient", ["exact", pytest.param("constant", marks=pytest.mark.nightly)]
)


def method_of(net, schema=SINGLE, name="icasc", ctx=None, accumulate=1, lr=0.0, **options):
    return start_method(
        name, net, schema.columns, samples=20, schema=schema, lr=lr, ctx=ctx,
        accumulate=accumulate, options=options,
    )  # fmt: skip


def batch_of(schema=SINGLE, rows=6, side=64, seed=0, mask=None):
    rng = np.random.default_rng(seed)
    if schema is SINGLE:
        label = np.eye(CLASSES)[rng.integers(0, CLASSES, rows)]
    else:
        label = (rng.random((rows, CLASSES)) < 0.4).astype(float)
        label[:, 0], label[:, 1] = 1, 0
    mask = np.ones_like(label) if mask is None else mask
    image = rng.normal(size=(rows, 3, side, side))
    return Batch(*(mx.nd.array(a) for a in (image, label, mask)), np.arange(rows))


def small(seed=0, **options):
    return net_of("resnet18_v1", seed=seed, **options)


@pytest.fixture(scope="module")
def any_net():
    return small()


def gradients(net):
    mx.nd.waitall()
    named = net._collect_params_with_prefix()
    return {n: p.grad().asnumpy() for n, p in named.items() if p.grad_req != "null"}


def flat(arrays):
    return np.concatenate([np.asarray(a, np.float64).ravel() for a in arrays])


def distance(found, wanted):
    return np.linalg.norm(flat(found) - flat(wanted)) / np.linalg.norm(flat(wanted))


@pytest.mark.parity
@pytest.mark.parametrize("schema", [SINGLE, MULTI], ids=["single", "multi"])
@pytest.mark.parametrize("attention", ["channel_weighted", "grad_cam"])
@pytest.mark.parametrize("seed", [1, 5])
def test_gradients_are_those_of_pytorch_in_both_modes(seed, attention, schema):
    """At seeds where no unit lies so near its kink that rounding decides its side.

    Where one does, PyTorch's own float32 is as far from its float64 as ours is (1e-2 at seed 0).
    """
    torch = pytest.importorskip("torch")
    from reference import icasc_torch

    batch, found, wanted = batch_of(schema, rows=8, side=96, seed=seed), {}, {}
    for gradient in ("constant", "exact"):
        mx.random.seed(seed)
        net = get_model("resnet18_v1", width=8, input_size=96, classes=CLASSES)
        net.initialize(mx.init.Xavier())
        method = method_of(net, schema, attention=attention, gradient=gradient)
        params = {
            n: torch.tensor(a.astype(np.float64), requires_grad=True)
            for n, a in values(net).items() if "running" not in n
        }  # fmt: skip
        image, label = (torch.tensor(a.asnumpy().astype(np.float64)) for a in batch[:2])
        terms, scores = icasc_torch.losses(
            params, image, label, attention, gradient == "exact", schema is MULTI
        )
        sum(terms.values()).backward()
        ours = method.train_step(batch)
        terms["bce" if schema is MULTI else "ce"] = terms.pop("class")
        for name, term in terms.items():
            assert ours[name].asscalar() == pytest.approx(term.item(), rel=1e-4, abs=1e-4)
        own = gradients(net)
        found[gradient] = [own[n] for n in params]
        wanted[gradient] = [p.grad.numpy() for p in params.values()]
    assert distance(found["constant"], wanted["constant"]) <= 1e-4
    assert distance(found["exact"], wanted["exact"]) <= 1e-3
    # and the second-order part by itself, which is what the two modes differ in
    second = [[a - b for a, b in zip(g["exact"], g["constant"])] for g in (found, wanted)]
    assert np.linalg.norm(flat(second[1])) > 0.01 * np.linalg.norm(flat(wanted["exact"]))
    assert distance(*second) <= 1e-2


@pytest.mark.parametrize("options", [
    {}, {"attention": "grad_cam"}, {"normalize": True}, {"inner_mask": "inner", "sigma": 0.3},
], ids=str)  # fmt: skip
def test_losses_of_a_step_follow_the_paper(options):
    net, batch = small(), batch_of(MULTI)
    method = method_of(net, MULTI, theta=0.7, omega=20.0, **options)
    run = ScorePass(method._tail, batch.image)
    vectors = true_and_confusing(run.logits, batch.label, batch.mask)[:2]
    found = [run.gradients(vector) for vector in vectors]
    sums = method.train_step(batch)
    attention = getattr(reference, options.get("attention", "channel_weighted"))
    wanted = dict.fromkeys(TERMS, 0.0)
    for row in range(6):
        maps = [
            attention(features[row].asnumpy(), g[layer][row].asnumpy())
            for layer, features in (("inner", run.inner), ("last", run.last)) for g in found
        ]  # fmt: skip
        if options.get("normalize"):
            maps = [a / a.max() for a in maps]
        inner, inner_conf, last, last_conf = maps
        mask = reference.soft_mask(last, options.get("sigma", 0.55), 20)
        large = reference.enlarge(mask, *inner.shape)
        own = large if "inner_mask" not in options else reference.soft_mask(inner, 0.3, 20)
        wanted["as_last"] += reference.separation(last, last_conf, mask)
        wanted["as_inner"] += reference.separation(inner, inner_conf, own)
        wanted["ac"] += reference.consistency(inner, large, 0.7)
    for name, value in wanted.items():
        assert sums[name].asscalar() == pytest.approx(value, rel=1e-3), name
    total = sum(v.asscalar() for n, v in sums.items() if n != "loss")
    assert sums["loss"].asscalar() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("attention", ["channel_weighted", "grad_cam"])
def test_exact_gradients_agree_with_differences_of_the_loss_and_constant_ones_do_not(attention):
    """In the classifier's weight, which the attention losses see through channel weights alone."""
    batch, slopes = batch_of(rows=8, side=96), {}
    direction = np.random.default_rng(3).normal(size=(CLASSES, 64))
    for gradient in ("constant", "exact"):
        net = small()
        method = method_of(net, attention=attention, gradient=gradient)
        method.train_step(batch)
        slopes[gradient] = float((gradients(net)["output.weight"] * direction).sum())
    start, ends = net.output.weight.data().copy(), []
    for sign in (1, -1):
        net.output.weight.set_data(start + sign * 1e-3 * mx.nd.array(direction))
        sums = {n: float(v.asscalar()) for n, v in method.train_step(batch).items()}
        ends.append((sums["ce"], sum(sums[term] for term in TERMS)))
    classification, attended = (np.subtract(*ends) / 2e-3).tolist()
    assert slopes["constant"] == pytest.approx(classification, rel=1e-3)
    assert abs(attended) > 0.3
    assert slopes["exact"] - slopes["constant"] == pytest.approx(attended, rel=0.1)


@exact_first
def test_weights_of_zero_are_the_plain_baseline(gradient):
    found, off = [], {f"weight_{term}": 0.0 for term in TERMS}
    for name, options in (("baseline", {}), ("icasc", dict(off, gradient=gradient)),
                          ("icasc", {"gradient": gradient, "start_epoch": 1})):  # fmt: skip
        net = small()
        method = method_of(net, name=name, lr=0.1, **options)
        for seed in range(2):
            method.train_step(batch_of(seed=seed))
        found.append(values(net))
    for other in found[1:]:
        same(other, found[0])
    method.begin_epoch(1)
    assert "as_last" in method.train_step(batch_of())


@exact_first
@pytest.mark.parametrize("term", TERMS)
def test_each_term_alone_is_lowered_by_steps_on_it(term, gradient):
    options = {f"weight_{t}": float(t == term) for t in TERMS}
    method = method_of(small(), lr=0.002, gradient=gradient, omega=5.0, **options)
    batch = batch_of()
    sums = [method.train_step(batch) for _ in range(10)]
    assert set(sums[0]) == {"ce", term, "loss"}
    assert sums[-1][term].asscalar() < sums[0][term].asscalar() - 0.01


@exact_first
def test_inner_layer_costs_nothing_where_no_term_needs_it(gradient):
    method = method_of(small(), gradient=gradient, weight_as_inner=0.0, weight_ac=0.0)
    alone = method.train_step(batch_of())
    every = method_of(small(), gradient=gradient).train_step(batch_of())
    assert alone["as_last"].asscalar() == pytest.approx(every["as_last"].asscalar(), rel=1e-5)


@both_gradients
def test_running_statistics_are_those_of_a_plain_step(gradient):
    found = []
    for name, options in (("baseline", {}), ("icasc", {"gradient": gradient})):
        net = net_of("vaa_resnet18_w16_synthetic")
        method_of(net, MULTI, name=name, **options).train_step(batch_of(MULTI))
        found.append({n: a for n, a in values(net).items() if "running" in n})
    same(found[1], found[0], rtol=1e-4, atol=1e-5)


@both_gradients
@pytest.mark.parametrize("ctx, accumulate", [
    ([mx.cpu(0), mx.cpu(1)], 2),
    pytest.param([mx.cpu(0)], 2, marks=pytest.mark.nightly),
    pytest.param([mx.cpu(0), mx.cpu(1)], 1, marks=pytest.mark.nightly),
], ids=["both", "micro", "devices"])  # fmt: skip
def test_parts_of_a_batch_add_up_where_images_are_independent(ctx, accumulate, gradient):
    results, losses = [], []
    for devices, micro in (([mx.cpu(0)], 1), (ctx, accumulate)):
        net = frozen(without_dropout(small()))
        method = method_of(net, ctx=devices, accumulate=micro, lr=0.01, gradient=gradient)
        for seed in range(2):
            sums = method.train_step(batch_of(rows=8, seed=seed))
        losses.append({n: v.asscalar() for n, v in sums.items()})
        results.append(values(net))
        for parameter in net.collect_params().values():
            copies = [d.asnumpy() for d in parameter.list_data()]
            assert all((copies[0] == copy).all() for copy in copies)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    same(results[1], results[0], rtol=1e-3, atol=1e-4)


def test_confusing_class_is_the_likeliest_that_is_known_to_be_wrong():
    logits = mx.nd.array([[3, 2, 1], [1, 2, 3], [5, 1, 4]])
    for label, mask, true, confusing, valid in (
        ([[1, 0, 0], [1, 0, 0], [1, 0, 1]], np.ones((3, 3)),
         [[1, 0, 0], [1, 0, 0], [1, 0, 1]], [[0, 1, 0], [0, 0, 1], [0, 1, 0]], [1, 1, 1]),
        ([[0, 0, 1], [1, 0, 0], [1, 1, 0]], [[0, 1, 1], [0, 0, 0], [1, 0, 0]],
         [[0, 0, 1], [0, 0, 0], [1, 0, 0]], [[0, 1, 0], [0, 0, 0], [0, 0, 0]], [1, 0, 1]),
    ):  # fmt: skip
        found = true_and_confusing(logits, mx.nd.array(label), mx.nd.array(mask))
        for array, wanted in zip(found, (true, confusing, valid)):
            np.testing.assert_array_equal(array.asnumpy(), wanted)


@exact_first
def test_images_without_a_known_class_have_no_attention_loss(gradient):
    mask = np.ones((6, CLASSES))
    mask[3:] = 0
    batch = batch_of(mask=mask)
    sums = method_of(frozen(small()), gradient=gradient).train_step(batch)
    part = Batch(*(a[:3] for a in batch))
    wanted = method_of(frozen(small()), gradient=gradient).train_step(part)
    for name in wanted:
        assert sums[name].asscalar() == pytest.approx(wanted[name].asscalar(), rel=1e-4), name


@both_gradients
@pytest.mark.parametrize("case", ["certain", "one image", "every class", "no class", "zero maps"])
def test_limit_cases_are_finite_and_have_the_documented_values(case, gradient):
    net, batch = small(), batch_of(MULTI, rows=1 if case == "one image" else 6)
    if case == "certain":  # a probability of exactly 1 for the first class
        net.output.bias.set_data(mx.nd.array([1e4, 0, 0, 0, 0]))
    if case == "every class":
        batch = batch._replace(label=batch.label.ones_like())
    if case == "no class":
        batch = batch._replace(label=batch.label.zeros_like())
    if case == "zero maps":  # scores that do not depend on the image
        net.output.weight.set_data(mx.nd.zeros((CLASSES, 64)))
    method = method_of(net, MULTI, lr=1e-4, gradient=gradient)
    for _ in range(2 if case != "zero maps" else 1):
        sums = {n: v.asscalar() for n, v in method.train_step(batch).items()}
    assert np.isfinite(list(sums.values())).all()
    assert all(np.isfinite(a).all() for a in values(net).values())
    known = {"every class": (0, 0, None), "no class": (0, 0, 0), "zero maps": (0, 0, 6 * 0.8)}
    for name, value in zip(TERMS, known.get(case, (None,) * 3)):
        assert value is None or sums[name] == pytest.approx(value, abs=1e-4), name


@exact_first
def test_a_single_class_has_no_confusing_one(gradient):
    net = small(classes=1)
    schema = Schema.binary(["only"])
    batch = batch_of()
    batch = batch._replace(label=mx.nd.ones((6, 1)), mask=mx.nd.ones((6, 1)))
    sums = method_of(net, schema, gradient=gradient).train_step(batch)
    assert sums["as_last"].asscalar() == sums["as_inner"].asscalar() == 0
    assert np.isfinite(sums["loss"].asscalar())


@pytest.mark.parametrize("options, message", [
    ({"attention": "gradcam"}, "value of attention 'gradcam'; did you mean 'grad_cam'"),
    ({"gradient": "second"}, "valid: constant, exact"),
    ({"mask_resize": "nearest"}, "value of mask_resize"),
    ({"inner_mask": "own"}, "valid: inner, last"), ({"sigma": -0.1}, "sigma=-0.1: must be >= 0"),
    ({"epsilon": 0}, "epsilon=0: must be >= 1e-12"),
    ({"weight_ac": -1.0}, "weight_ac=-1.0"), ({"weight_as": 1.0}, "did you mean .*weight_as_last"),
])  # fmt: skip
def test_bad_settings_are_refused(any_net, options, message):
    with pytest.raises(ValueError, match=message):
        method_of(any_net, **options)


def test_grad_cam_with_a_small_epsilon_is_warned_of(any_net, caplog):
    method_of(any_net, attention="grad_cam", epsilon=1e-3)
    method_of(any_net)
    assert not caplog.text
    method_of(any_net, attention="grad_cam")
    assert "grad_cam with epsilon=1e-06" in caplog.text and "epsilon=1e-3" in caplog.text


SIZES = {"input_size": 48, "resize": 56, "crop_min": 44, "crop_max": 56, "eval_crop": 48}


@exact_first
def test_a_run_cut_after_an_epoch_ends_with_the_same_bits(tmp_path, gradient):
    data = write_data(tmp_path / "data", train=24, val=8, test=8)
    tiny = recipe(
        method="icasc", model="resnet18_w16_synthetic", epochs=2, lr=0.01, unspecified="masked",
        options={"gradient": gradient}, model_options={"width": 8, "dropout": 0.3}, **SIZES,
    )  # fmt: skip
    resumes_to_the_bit(tiny, data, tmp_path)
    records = read_json_lines(str(tmp_path / "whole" / "log.jsonl"))
    assert {"loss_as_inner", "loss_as_last", "loss_ac", "loss_bce"} <= set(records[-1])


def test_the_benchmark_makes_steps_of_every_variant():
    from tools.bench import steps

    for variant in steps.ICASC:
        call, count = steps.COMPARISONS["icasc"].open(variant, "resnet18_w16_synthetic", 32, 2)
        assert count == 1 and call() is None
