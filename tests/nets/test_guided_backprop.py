"""Guided back-propagation: against NumPy and PyTorch, on every family of nets, nothing changed."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from gluon_attn.nets.guided_backprop import GuidedBackprop
from model_zoo import get_model

SMALL = {"classes": 4, "input_size": 32, "width": 8}


def initialized(net, size=32):
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, size, size)))
    mx.nd.waitall()  # convolutions reorder their weights in place as they run
    return net


def one_hot(columns, classes=4):
    return mx.nd.one_hot(mx.nd.array(columns), classes)


def relative(one, other):
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return np.abs(one - other).max() / np.abs(other).max()


def dense_net(hidden=(12, 9), classes=4):
    net = nn.HybridSequential()
    net.add(nn.Flatten())
    for units in hidden:
        net.add(nn.Dense(units), nn.Activation("relu"))
    net.add(nn.Dense(classes))
    return initialized(net, 2)


def value_of(run, image):
    """The logits that the pieces of a net give, one after another, as in training mode."""
    given = {"data": image}
    with autograd.train_mode():
        for name, piece in run.pieces.items():
            given[name] = piece.run(given)[name]
            if name != "logits":
                given[name] = given[name].clip(0, run._ceilings[name])
    return given["logits"].asnumpy()


def by_hand(net, image, vector, guide=True):
    """The rule written in NumPy for a chain of dense layers with ReLUs between them."""
    layers = [layer for layer in net if isinstance(layer, nn.Dense)]
    weights = [layer.weight.data().asnumpy().astype(np.float64) for layer in layers]
    biases = [layer.bias.data().asnumpy().astype(np.float64) for layer in layers]
    x, outputs = image.reshape(len(image), -1), []
    for weight, bias in zip(weights[:-1], biases[:-1]):
        x = np.maximum(x @ weight.T + bias, 0)
        outputs.append(x)
    gradient = vector @ weights[-1]
    for weight, f in zip(weights[-2::-1], outputs[::-1]):
        gradient = gradient * (f > 0) * ((gradient > 0) if guide else 1)
        gradient = gradient @ weight
    return gradient.reshape(image.shape)


def test_equals_the_rule_in_numpy():
    net = dense_net()
    image = np.random.default_rng(1).normal(size=(6, 3, 2, 2))
    vector = one_hot([0, 1, 2, 3, 0, 1])
    found = GuidedBackprop(net)(mx.nd.array(image), vector).asnumpy()
    assert relative(found, by_hand(net, image, vector.asnumpy())) < 1e-5
    plain = by_hand(net, image, vector.asnumpy(), guide=False)
    assert relative(found, plain) > 0.05, "the guide must matter in this test"


def test_the_sign_of_all_gradients_decides():
    """Where all are positive it is the gradient, where all are negative nothing arrives."""
    net = dense_net()
    for parameter in net.collect_params(".*weight").values():
        parameter.set_data(parameter.data().abs())
    image, vector = mx.nd.random.normal(shape=(3, 3, 2, 2)), one_hot([0, 3, 2])
    image.attach_grad()
    with autograd.record(train_mode=False):
        logits = net(image)
    (plain,) = autograd.grad(logits, [image], vector, train_mode=False)
    run = GuidedBackprop(net)
    assert relative(run(image, vector).asnumpy(), plain.asnumpy()) < 1e-6
    assert not run(image, -vector).asnumpy().any()


@pytest.mark.parametrize("name, options", [
    ("resnet18_w16_synthetic", SMALL),
    ("vaa_resnet18_w16_synthetic", SMALL),
    ("cbam_resnet20_cifar10", SMALL),
    ("vgg11_w8_digits", {**SMALL, "hidden": 16}),
    ("efficientnet_lite0", {"classes": 4, "input_size": 32}),
    pytest.param("hoga_resnet20_cifar10", SMALL, marks=pytest.mark.nightly),
])  # fmt: skip
def test_nets_of_the_zoo(name, options):
    """It repeats itself, computes the net, leaves it alone, and images are independent."""
    net = initialized(get_model(name, **options))
    params = net.collect_params()
    before = {n: p.data().asnumpy() for n, p in params.items()}
    gradients = {n: p.grad().asnumpy() for n, p in params.items() if p.grad_req != "null"}
    image, vector = mx.nd.random.normal(shape=(2, 3, 32, 32)), one_hot([0, 3])
    run = GuidedBackprop(net)
    found = run(image, vector).asnumpy()
    assert found.shape == (2, 3, 32, 32) and np.isfinite(found).all() and found.any()
    outputs = net(image)
    logits = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
    np.testing.assert_array_equal(run(image, vector).asnumpy(), found, "repeatable")
    assert relative(run(image[1:], 3 * vector[1:]).asnumpy(), 3 * found[1:]) < 1e-4
    np.testing.assert_allclose(value_of(run, image), logits.asnumpy(), rtol=1e-5, atol=1e-6)
    for n, value in before.items():
        np.testing.assert_array_equal(params[n].data().asnumpy(), value, err_msg=n)
    for n, value in gradients.items():
        np.testing.assert_array_equal(params[n].grad().asnumpy(), value, err_msg=n)


class Net(nn.HybridBlock):
    """A function of three pixels, each with a factor of its own."""

    def __init__(self, function, scale):
        super().__init__()
        self._function = function
        self.scale = self.params.get("scale", shape=(3,), init="ones")
        self.initialize()
        self.scale.set_data(mx.nd.array(scale))

    def hybrid_forward(self, F, x, scale):
        return self._function(F, F.broadcast_mul(F.Flatten(x), F.reshape(scale, shape=(1, 3))))


def around(F, x):
    first = F.relu(x)
    return first + x + F.relu(F.relu(first) - 1)


def capped(F, x):
    return F.clip(F.Activation(F.sigmoid(0 * x) + x, act_type="tanh") * 9, 0, 6)


def test_paths_round_a_relu_add_up_and_relu6_has_two_ends():
    pixels = mx.nd.array([[1.0, 1, 0.2]]).reshape((1, 3, 1, 1))
    up, run = mx.nd.ones((1, 3)), GuidedBackprop(Net(around, [2, -3, 4]))  # x = 2, -3, 0.8
    assert list(run.pieces) == ["relu0", "relu1", "relu2", "logits"]
    assert [run.pieces[name].takes for name in run.pieces] == [
        ("data",), ("relu0",), ("relu1",), ("data", "relu0", "relu2")
    ]  # fmt: skip
    found = run(pixels, up).asnumpy().ravel()
    np.testing.assert_allclose(found, [3 * 2, -3, 2 * 4], rtol=1e-6)
    found = run(pixels, -up).asnumpy().ravel()
    np.testing.assert_allclose(found, [-2, 3, -4], rtol=1e-6, err_msg="only the path round them")
    run = GuidedBackprop(Net(capped, [9, -9, -1]))
    found = run(pixels, up).asnumpy().ravel()  # above 6, below 0, and inside
    inside = -9 * (1 - np.tanh(0.5 - 0.2) ** 2)
    np.testing.assert_allclose(found, [0, 0, inside], rtol=1e-5)


def test_messages():
    net = nn.HybridSequential()
    net.add(nn.Dense(4))
    with pytest.raises(ValueError, match="has no ReLU; use its plain gradient"):
        GuidedBackprop(initialized(net))
    with pytest.raises(ValueError, match=r"vector \(1, 4\): must be as the logits, \(2, 4\)"):
        GuidedBackprop(dense_net())(mx.nd.zeros((2, 3, 2, 2)), one_hot([0]))


@pytest.mark.parity
def test_equals_pytorch_with_guided_hooks():
    torch = pytest.importorskip("torch")
    net = nn.HybridSequential()
    net.add(
        nn.Conv2D(8, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"), nn.MaxPool2D(2),
        nn.Conv2D(6, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"), nn.GlobalAvgPool2D(),
        nn.Flatten(), nn.Dropout(0.5), nn.Dense(4),
    )  # fmt: skip
    initialized(net, 16)
    for norm, channels in ((net[1], 8), (net[5], 6)):
        norm.running_mean.set_data(mx.nd.random.normal(0, 0.2, shape=(channels,)))
        norm.running_var.set_data(mx.nd.random.uniform(0.5, 2, shape=(channels,)))
    other = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8, eps=1e-5), torch.nn.ReLU(),
        torch.nn.MaxPool2d(2), torch.nn.Conv2d(8, 6, 3, padding=1), torch.nn.BatchNorm2d(6),
        torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Dropout(0.5),
        torch.nn.Linear(6, 4),
    ).eval()  # fmt: skip
    names, state = {"gamma": "weight", "beta": "bias"}, {}
    for key, parameter in net._collect_params_with_prefix().items():
        layer, _, kind = key.partition(".")
        state[f"{layer}.{names.get(kind, kind)}"] = torch.tensor(parameter.data().asnumpy())
    other.load_state_dict(state, strict=False)
    for layer in other:
        if isinstance(layer, torch.nn.ReLU):
            layer.register_full_backward_hook(lambda m, given, out: (given[0].clamp(min=0),))
    image = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    vector = np.eye(4, dtype=np.float32)[[2, 0]]
    leaf = torch.tensor(image, requires_grad=True)
    other(leaf).backward(torch.tensor(vector))
    found = GuidedBackprop(net)(mx.nd.array(image), mx.nd.array(vector)).asnumpy()
    assert relative(found, leaf.grad.numpy()) < 1e-5
