"""The PyTorch networks of the benchmark against ours: same parameters, same numbers."""

from __future__ import annotations

import importlib.util

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from model_zoo import get_model
from tools.bench import torch_nets
from tools.bench.engines import arguments_of

INSTALLED = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not INSTALLED, reason="PyTorch is not installed")
# Deep and shallow, basic and bottleneck units, both versions, VAA and plain, narrow to be quick;
# an odd size shows whether halving rounds in the same way.
CASES = [
    ("resnet18_v1", {"width": 8, "classes": 5, "input_size": 64}),
    ("resnet50_v1", {"width": 8, "classes": 5, "input_size": 64}),
    ("resnet50_v1b", {"width": 8, "classes": 5, "input_size": 75}),
    ("resnet34_wider", {"width": 8, "input_size": 64}),
    ("vaa_resnet18_w16_synthetic", {"input_size": 100}),
    ("vaa_resnet50_wider", {"width": 8, "input_size": 64}),
    ("vaa_resnet101_v1b_wider", {"width": 8, "input_size": 64}),
    ("vaa_resnet50", {"width": 8, "input_size": 64, "taps": ("stage2_activation1",)}),
]


def our_net(name, options, seed=0):
    """Return a net with random parameters and statistics, and its parameters as arrays."""
    net = get_model(name, **options)
    mx.random.seed(seed)
    net.initialize(mx.init.Xavier())
    rng = np.random.RandomState(seed)
    for key, p in net._collect_params_with_prefix().items():
        if key.endswith(("gamma", "running_var")):
            p.set_data(mx.nd.array(rng.uniform(0.5, 1.5, p.shape)))
        elif key.endswith(("beta", "bias", "running_mean")):
            p.set_data(mx.nd.array(rng.uniform(-0.5, 0.5, p.shape)))
    return net, {k: p.data().asnumpy() for k, p in net._collect_params_with_prefix().items()}


def all_logits(net, images):
    with autograd.pause(train_mode=False):
        outputs = net(mx.nd.array(images))
    if not isinstance(outputs, (list, tuple)):
        return [outputs.asnumpy()]
    return [o.asnumpy() for n, o in zip(net.output_names, outputs) if n.startswith("logits")]


@pytest.mark.parity
@needs_torch
@pytest.mark.parametrize("name, options", CASES, ids=[f"{n}-{o['input_size']}" for n, o in CASES])
def test_same_numbers(name, options):
    import torch

    net, arrays = our_net(name, options)
    arguments = arguments_of(name, options)
    images = np.random.RandomState(1).normal(size=(3, 3) + 2 * (arguments["input_size"],))
    images = images.astype(np.float32)
    theirs = torch_nets.build(**arguments)
    torch_nets.copy_parameters(arrays, theirs)
    with torch.no_grad():
        outputs = theirs.eval()(torch.tensor(images))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    expected = all_logits(net, images)
    assert len(outputs) == len(expected)
    for ours, other in zip(expected, outputs):
        assert ours.std() > 1e-3  # else everything agrees with everything
        assert np.abs(other.numpy() - ours).max() <= 1e-4 * max(1, np.abs(ours).max())


@pytest.mark.parity
@needs_torch
def test_runners_agree(tmp_path):
    name, options = "vaa_resnet18_w16_synthetic", {"input_size": 64}
    net, arrays = our_net(name, options)
    arguments = arguments_of(name, options)
    module = torch_nets.build(**arguments)
    torch_nets.copy_parameters(arrays, module)
    torch_nets.save(module, tmp_path / "net.pt")
    images = np.random.RandomState(1).normal(size=(2, 3, 64, 64)).astype(np.float32)
    expected = all_logits(net, images)[0]
    for channels_last in (False, True):
        run = torch_nets.open_runner(arguments, tmp_path / "net.pt", 1, channels_last=channels_last)
        assert run(images).dtype == np.float32
        np.testing.assert_allclose(run(images), expected, atol=1e-4)


@pytest.mark.parity
@needs_torch
def test_a_step_trains():
    arguments = arguments_of("vaa_resnet18_w16_synthetic", {"input_size": 64})
    step = torch_nets.open_trainer(arguments, batch=4, threads=1, lr=0.05)
    losses = [step() for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parity
@needs_torch
def test_parameters_that_do_not_fit_are_refused():
    arguments = arguments_of("resnet18_w16_synthetic", {"input_size": 64})
    _, arrays = our_net("resnet18_w16_synthetic", {"input_size": 64})
    module = torch_nets.build(**arguments)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    missing = {name: value for name, value in arrays.items() if name != "output.bias"}
    wrong = dict(arrays, **{"output.bias": np.zeros(3, np.float32)})
    extra = dict(arrays, surplus=np.zeros(3, np.float32))
    for given in (missing, wrong, extra):
        with pytest.raises(ValueError, match="1 parameters do not fit"):
            torch_nets.copy_parameters(given, module)
    assert all((module.state_dict()[name] == value).all() for name, value in before.items())


@pytest.mark.parity
@needs_torch
@pytest.mark.parametrize(
    "options, message",
    [
        ({"depth": 20}, "ResNet-20"),
        ({"version": "v2"}, "v2"),
        ({"attention": "se"}, "attention=se"),
        ({"variant": "released"}, "variant=released"),
        ({"variant": "supplement", "taps": ("stage3_activation23",)}, "stage3_activation23"),
        ({"variant": "supplement", "taps": ("pool",)}, "'pool'"),
    ],
)
def test_networks_that_are_not_written_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        torch_nets.build(**options)


@pytest.mark.skipif(INSTALLED, reason="PyTorch is installed")
def test_without_torch_the_message_says_what_to_install():
    with pytest.raises(ImportError, match=r"gluon_attn\[bench\]"):
        torch_nets.build()
