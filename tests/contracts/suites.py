"""What every block, loss, method, data set, metric, task, model and backend must do.

Each ``check_*`` takes one thing and raises AssertionError, or what the thing itself raises, where
it breaks its contract. ``test_contracts`` calls them on everything that is registered,
``test_toys`` on things that are wrong on purpose.
"""

from __future__ import annotations

import inspect
import os
import tempfile
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from gluon_attn.blocks import AttentionBlock
from gluon_attn.core import recipe as recipes
from gluon_attn.core.batch import Batch
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.schema import Schema
from gluon_attn.data import DATASETS
from gluon_attn.method import METHODS, Method, Optimization, Task
from gluon_attn.papers.icasc.tangents import missing_rules
from gluon_attn.task import FORMS, TASKS
from gluon_attn.task import Task as TaskContract
from gluon_attn.train import load_checkpoint, restore, save_checkpoint
from gluon_attn.train.build import load_recipe
from model_zoo import list_models

STATIC = {"static_alloc": True, "static_shape": True}
KINDS = {"channel": lambda b, c, h, w: (b, c, 1, 1), "spatial": lambda b, c, h, w: (b, 1, h, w)}


def noise(*shape, seed=0):
    return mx.nd.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def awaken(block, seed=0):
    """Give every parameter values that leave nothing constant."""
    block.initialize(force_reinit=True)
    rng = np.random.default_rng(seed)
    for parameter in block.collect_params().values():
        positive = parameter.name.endswith(("gamma", "running_var"))
        values = rng.uniform(0.5, 1.5, parameter.shape) if positive else None
        values = rng.normal(0, 0.5, parameter.shape) if values is None else values
        parameter.set_data(mx.nd.array(values))
    return block


def close(found, expected, what, rtol=1e-4, atol=1e-5):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=what)


# ---------------------------------------------------------------------------------- blocks


def check_block(entry, channels=16):
    """A block keeps the shape, is a graph, learns everywhere, and is what DREAL and ICASC need.

    Args:
        entry: What ``BLOCKS`` holds.
        channels: C.
    """
    block = awaken(entry(channels))
    assert isinstance(block, AttentionBlock), "not an AttentionBlock"
    assert block.channels == channels, "channels is not what was asked for"
    assert block.place in ("branch", "inner"), f"place={block.place!r}"
    x = noise(3, channels, 8, 8)
    expected = block(x)
    assert expected.shape == x.shape, f"(B, C, H, W) = {x.shape} became {expected.shape}"
    assert expected.dtype == np.float32
    moved = x
    for kind, gate in block.gates:  # DREAL acts on the gates
        assert kind in KINDS, f"a gate of kind {kind!r}"
        attention = gate(moved)
        assert attention.shape == KINDS[kind](*x.shape), f"{kind} map {attention.shape}"
        assert 0 <= attention.min().asscalar(), f"a {kind} map below 0"
        moved = mx.nd.broadcast_mul(moved, attention)
    if block.gates:
        close(expected.asnumpy(), moved.asnumpy(), "the block is not the chain of its gates")
    untouched = {"the input", *(n for n, p in block.collect_params().items() if learnt(p))}
    for seed in range(4):  # a ReLU may be dead for some weights
        awaken(block, seed)
        x.attach_grad()
        with autograd.record():
            (block(x) * noise(*x.shape, seed=5)).sum().backward()
        grads = {n: p.grad() for n, p in block.collect_params().items() if learnt(p)}
        untouched -= {n for n, g in {"the input": x.grad, **grads}.items() if g.asnumpy().any()}
    assert not untouched, f"no gradient reaches {sorted(untouched)}"
    with autograd.predict_mode():
        imperative = block(x).asnumpy()
    block.hybridize(**STATIC)
    for rows in (3, 1, 3):  # the batch may change
        close(block(x[:rows]).asnumpy(), imperative[:rows], "the graph gives other numbers")
    missing = missing_rules(block)
    assert not missing, f"exact ICASC cannot differentiate it: {missing}"


def learnt(parameter):
    return parameter.grad_req != "null"


# ---------------------------------------------------------------------------------- losses


def check_loss(loss, logits, label, mask, *more, per_sample=True):
    """A loss is ``(B,)``, of each sample alone, and blind where the mask is 0."""
    arrays = [logits, label, mask, *more]
    value, gradient = _value_and_gradient(loss, arrays)
    assert value.shape == (len(logits),), f"{value.shape} is no value per sample"
    assert np.isfinite(value).all() and np.isfinite(gradient).all()
    loss.hybridize()
    again, _ = _value_and_gradient(loss, arrays)
    close(again, value, "the graph gives other numbers")
    blind = [logits, label, mx.nd.zeros_like(mask), *more]
    value_0, gradient_0 = _value_and_gradient(loss, blind)
    assert not value_0.any(), "mask 0 has a loss"
    assert not gradient_0.any(), "mask 0 has a gradient"
    turned = mx.nd.where(mask, label, 1 - label)
    close(_value_and_gradient(loss, [logits, turned, mask, *more])[0], value,
          "the label of what is masked counts")  # fmt: skip
    if per_sample:
        order = np.arange(len(logits))[::-1]
        mixed, _ = _value_and_gradient(loss, [_rows(a, order, len(logits)) for a in arrays])
        close(mixed, value[::-1], "samples are not independent of their order")
        single, _ = _value_and_gradient(loss, [_rows(a, [0], len(logits)) for a in arrays])
        close(single, value[:1], "a sample depends on the others of its batch")


def _rows(array, rows, count):
    return mx.nd.array(array.asnumpy()[rows]) if len(array) == count else array


def _value_and_gradient(loss, arrays):
    logits = arrays[0].copy()
    logits.attach_grad()
    with autograd.record():
        value = loss(logits, *arrays[1:])
        value.sum().backward()
    return value.asnumpy(), logits.grad.asnumpy()


# --------------------------------------------------------------------------------- methods


def batch(rows=6, columns=5, size=32, seed=0, single=True):
    rng = np.random.default_rng(seed)
    label = np.eye(columns)[rng.integers(0, columns, rows)]
    if not single:
        label = (rng.random((rows, columns)) < 0.5).astype(np.float32)
    arrays = rng.normal(size=(rows, 3, size, size)), label, np.ones((rows, columns))
    return Batch(*map(mx.nd.array, arrays), np.arange(rows))


def build(entry, make_net, columns=5, schema=None, options=None, prior=0.3):
    """Return a method in epoch 0, on a net with fixed weights."""
    mx.random.seed(0)
    np.random.seed(0)
    net = make_net()
    names = schema.columns if schema else tuple("abcdefgh"[:columns])
    optimization = Optimization("sgd", {"learning_rate": 0.01, "momentum": 0.9})
    task = Task(names, 64, np.full(len(names), prior), schema)
    method = entry(net, [mx.cpu()], task, optimization, options=options)
    method.begin_epoch(0)
    return method


def check_method(entry, make_net, *, batches=None, epoch=0, halves=False, **settings):
    """A method trains, names its losses, reads nothing back within a step, and can be resumed.

    Args:
        entry: What ``METHODS`` holds.
        make_net: Returns an initialised net; called several times, always with the same seeds.
        batches: Two batches.
        epoch: Of the steps.
        halves: Whether a step always needs a second batch, as a search does.
        settings: Of :func:`build`.
    """
    assert issubclass(entry, Method)
    first, second = batches or (batch(seed=1), batch(seed=2))

    def started():
        method = build(entry, make_net, **settings)
        for number in range(epoch + 1):
            method.begin_epoch(number)
        return method

    def train_step(method, one):
        return method.train_step(one, one if halves or method.held_out_size else None)

    def step(method, one):
        found = train_step(method, one)
        return {name: float(value.asscalar()) for name, value in found.items()}

    method = started()
    before = _weights(method.net)
    with _no_reading():
        pending = train_step(method, first)
    losses = {name: float(value.asscalar()) for name, value in pending.items()}
    assert "loss" in losses and len(losses) > 1, f"losses are named {sorted(losses)}"
    assert np.isfinite(list(losses.values())).all(), losses
    after = _weights(method.net)
    assert all(np.isfinite(value).all() for value in after.values())
    assert any((after[name] != before[name]).any() for name in after), "nothing is trained"
    # A second method that takes over the checkpoint makes the same next step.
    state = {name: np.array(value) for name, value in method.state().items()}
    assert all(value.dtype != object for value in state.values()), "state is not plain arrays"
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "last.ckpt")
        save_checkpoint(path, method, {"epoch": epoch})
        other = started()
        restore(other, *load_checkpoint(path))
    for name, value in other.state().items():
        np.testing.assert_array_equal(value, state[name], err_msg=f"state {name} did not come back")
    assert set(other.state()) == set(state), "state did not come back"
    _seed()
    expected = step(method, second)
    _seed()
    found = step(other, second)
    assert found == expected, f"after a checkpoint the step gives {found}, not {expected}"
    try:
        entry(method.net, [mx.cpu()], method.task, Optimization(), options={"no_such_option": 1})
    except ValueError as error:
        assert "no_such_option" in str(error)
    else:
        raise AssertionError("an unknown option is accepted")


def _seed():
    mx.random.seed(1)
    np.random.seed(1)


def _weights(net):
    return {key: p.data().asnumpy() for key, p in net._collect_params_with_prefix().items()}


class _no_reading:
    """Refuse everything that waits for the device."""

    names = ("asnumpy", "asscalar", "wait_to_read")

    def __enter__(self):
        self.old = {name: getattr(mx.nd.NDArray, name) for name in self.names}
        for name in self.names:
            setattr(mx.nd.NDArray, name, self._refuse)

    @staticmethod
    def _refuse(array):
        raise AssertionError("a value is read back within the step")

    def __exit__(self, *error):
        for name, function in self.old.items():
            setattr(mx.nd.NDArray, name, function)


# -------------------------------------------------------------------------------- data sets


def check_dataset(reader, root, split):
    """A data set of attributes or classes tells the same story in all its members."""
    dataset, again = reader(root, split), reader(root, split)
    size = len(dataset.names)
    assert len(dataset) > 0 and dataset.schema.columns == tuple(dataset.names)
    assert dataset.split == split and len(set(dataset.sample_ids)) == len(dataset)
    assert dataset.fingerprint() == again.fingerprint(), "two readings differ"
    label, mask = np.asarray(dataset.label), np.asarray(dataset.mask)
    assert label.shape == mask.shape == (len(dataset), size)
    assert set(np.unique(label)) <= {0, 1} and set(np.unique(mask)) <= {0, 1}
    positive, negative, unknown = dataset.counts().T
    assert (positive + negative + unknown == len(dataset)).all()
    masked = reader(root, split, _masked())
    hidden = np.asarray(masked.mask)
    assert ((1 - hidden).sum(0) == unknown).all(), "unspecified labels are not masked"
    for i in (0, len(dataset) - 1):
        image, row, known, index = dataset[i]
        assert isinstance(image, np.ndarray) and image.dtype == np.uint8
        assert image.ndim == 3 and image.shape[2] == 3 and index == i
        np.testing.assert_array_equal(row, label[i])
        np.testing.assert_array_equal(known, mask[i])
        np.testing.assert_array_equal(image, again[i][0], "an image differs when read twice")
    for i in dataset.with_regions:
        regions = dataset.regions(i)
        assert regions.dtype == bool and regions.ndim == 3 and len(regions) == size
        assert not regions[label[i] * mask[i] == 0].any(), "a mask of what is not there"
    for wrong in (len(dataset), -len(dataset) - 1):
        try:
            dataset[wrong]
        except IndexError:
            continue
        raise AssertionError(f"sample {wrong} of {len(dataset)} exists")


def _masked():
    from gluon_attn.core.batch import LabelPolicy

    return LabelPolicy("masked", "masked")


# ---------------------------------------------------------------------------------- metrics


def check_metric(metric, classes=False, per_sample=False, share=True):
    """A metric is pure, knows no order, does not see what is masked, and calls perfect perfect.

    Args:
        metric: Of probabilities, labels and mask ``(N, A)``.
        classes: Whether labels are one-hot, and a row is masked as a whole.
        per_sample: Whether it gives a value per sample.
        share: Whether more of it is better, and 1 the most.
    """
    rng = np.random.default_rng(0)
    label = (np.eye(5)[rng.integers(0, 5, 40)] if classes else rng.random((40, 5)) < 0.5) * 1.0
    probs, mask = rng.random((40, 5)), (rng.random((40, 5)) < 0.8) * 1.0
    if classes:
        mask = np.repeat(rng.random((40, 1)) < 0.8, 5, axis=1) * 1.0
    copies = [a.copy() for a in (probs, label, mask)]
    value = numbers(metric(probs, label, mask))
    assert value.size, "no number"
    for array, copy in zip((probs, label, mask), copies):
        np.testing.assert_array_equal(array, copy, "the metric changes its input")
    order = rng.permutation(40)
    sorted_value = value[order] if per_sample else value
    close(numbers(metric(probs[order], label[order], mask[order])), sorted_value, "order counts")
    other = np.where(mask > 0, label, 1 - label)
    noisy = np.where(mask > 0, probs, rng.random((40, 5)))
    if classes:  # a masked row stays one-hot
        other = np.where(mask > 0, label, np.roll(label, 1, axis=1))
    close(numbers(metric(noisy, other, mask)), value, "what is masked counts")
    if not share:
        return
    ideal = numbers(metric(0.1 + 0.8 * label, label, np.ones_like(mask)))
    assert np.nanmax(ideal) <= 1 + 1e-9, "better than perfect"
    assert np.nanmin(ideal) >= np.nanmin(value), "a perfect net scores less"


def numbers(result):
    """Return the numbers between 0 and 1 of whatever a metric returned, flat."""
    if isinstance(result, dict):
        return np.concatenate([numbers(v) for _, v in sorted(result.items())] or [np.zeros(0)])
    if isinstance(result, (list, tuple)) and not np.isscalar(result):
        return np.concatenate([numbers(v) for v in result] or [np.zeros(0)])
    if isinstance(result, (float, np.floating, np.ndarray)):
        return np.asarray(result, np.float64).ravel()
    return np.zeros(0)


# ------------------------------------------------------------------------------------ tasks

TASK_MUST = (
    "train_loader",
    "validator",
    "final_scores",
    "evaluate",
    "preprocess",
    "export",
    "predict",
)
ACTIVATIONS = ("sigmoid", "softmax", "none")


def check_task(name):
    """Raise AssertionError where a task breaks the contract."""
    task = TASKS.get(name)
    assert isinstance(task, TaskContract) and task.name == name
    assert "mAP" in task.scores, "recipes ask for it by default"
    assert task.activation in ACTIVATIONS and set(task.forms) <= set(FORMS)
    for method in TASK_MUST:
        base, own = getattr(TaskContract, method), getattr(type(task), method)
        raises = "NotImplementedError" in inspect.getsource(base)
        assert own is not base or not raises, f"{name} has no {method}"
        given, wanted = (list(inspect.signature(f).parameters) for f in (own, base))
        assert given == wanted, f"{name}.{method}({', '.join(given)})"
    for score in ("no such score", "top17"):
        labels = SimpleNamespace(schema=Schema.binary("ab"), names=("a", "b"))
        with pytest.raises(ValueError, match=f"score={score}: "):
            task.check_score(score, labels)
    refused = [form for form in FORMS if form not in task.forms]
    task.check_forms(SimpleNamespace(**dict.fromkeys(task.forms, True)))
    for form in refused:
        with pytest.raises(ValueError, match=f"--{form.replace('_', '-')}: this net is exported"):
            task.check_forms(SimpleNamespace(**{form: True}))


# ---------------------------------------------------------------------------------- recipes


HEADER = ("Command", "Hardware", "Hours", "Paper", "Ours", "Deviates")


def check_recipe(name):
    """Raise AssertionError where a recipe, by name or file, breaks the contract."""
    found, text = load_recipe(name), recipes.find(name).text
    assert found.model in list_models(), f"unknown model {found.model}"
    assert found.dataset == "auto" or found.dataset in DATASETS.names(), f"no data {found.dataset}"
    unknown = set(found.options) - set(METHODS.get(found.method).OPTIONS)
    assert not unknown, f"method {found.method} has no {', '.join(sorted(unknown))}"
    assert Recipe.from_dict(found.to_dict()) == found
    lacking = [word for word in HEADER if f"\n{word} " not in text]
    assert not lacking, f"its text does not say {', '.join(lacking)}"


# ----------------------------------------------------------------------------------- models


def check_model(net, size):
    """A net has named outputs, logits first, and gives the same numbers as a static graph."""
    assert isinstance(net, mx.gluon.HybridBlock)
    names = net.output_names
    assert names[0] == "logits" and len(set(names)) == len(names), f"outputs are named {names}"
    assert set(net.attention_outputs) <= set(names)
    x = noise(3, 3, size, size)
    outputs = net(x)
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    assert len(outputs) == len(names), f"{len(outputs)} outputs, {len(names)} names"
    assert outputs[0].shape == (3, net.classes), f"logits {outputs[0].shape}"
    expected = [out.asnumpy() for out in outputs]
    assert np.ptp(expected[0], axis=0).max() > 0, "the logits do not depend on the image"
    net.hybridize(**STATIC)
    for rows in (3, 1):
        found = net(x[:rows])
        found = list(found) if isinstance(found, (list, tuple)) else [found]
        for name, one, other in zip(names, found, expected):
            close(one.asnumpy(), other[:rows], f"{name}: the graph gives other numbers", 1e-3, 1e-4)


# --------------------------------------------------------------------------------- backends


def check_backend(backend, shape, expected):
    """A backend gives the outputs in the sidecar's order, and refuses another shape.

    Args:
        backend: An open one.
        shape: ``(C, H, W)`` of the export.
        expected: Function from a batch to the outputs of the net.
    """
    for rows in (1, 3):
        images = np.random.default_rng(rows).normal(size=(rows, *shape)).astype(np.float32)
        found = backend.run(images)
        wanted = expected(images)
        assert len(found) == len(wanted), f"{len(found)} outputs instead of {len(wanted)}"
        for one, other in zip(found, wanted):
            assert isinstance(one, np.ndarray) and one.dtype == np.float32
            close(one, other, "other numbers than the net", 1e-2, 1e-3)
    for wrong in ((1, shape[0], shape[1] + 1, shape[2]), (1, 1, *shape[1:])):
        try:
            backend.run(np.zeros(wrong, np.float32))
        except ValueError as error:
            assert str(shape[1]) in str(error), f"the message does not name the size: {error}"
        else:
            raise AssertionError(f"a batch of shape {wrong} is accepted")


def arguments(function):
    """Return the names of a function's parameters."""
    return list(inspect.signature(function).parameters)
