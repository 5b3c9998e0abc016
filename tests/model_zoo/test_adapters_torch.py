"""Weights that PyTorch itself writes and reads: the same numbers on both sides.

The nets are torchvision's, written here from PyTorch's layers with torchvision's names.
"""

from __future__ import annotations

import argparse
import collections
import functools
import pathlib

import mxnet as mx
import numpy as np
import pytest
from adapters_helpers import filled, write_tar

from model_zoo import get_model
from model_zoo.adapters.convert import load_foreign, save_foreign
from model_zoo.adapters.torch import read_torch
from model_zoo.params_io import load_backbone

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
UNITS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3),
         152: (3, 8, 36, 3)}  # fmt: skip
VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def conv(*arguments, **options):
    return torch.nn.Conv2d(*arguments, bias=False, **options)


class Unit(torch.nn.Module):
    """A basic unit or a bottleneck with the stride on its 3x3 convolution."""

    def __init__(self, before, width, stride, bottleneck, factor):
        super().__init__()
        after, inner = (4 * width, width * factor) if bottleneck else (width, width)
        if bottleneck:
            self.conv1, self.bn1 = conv(before, inner, 1), torch.nn.BatchNorm2d(inner)
            self.conv2 = conv(inner, inner, 3, stride=stride, padding=1)
            self.bn2 = torch.nn.BatchNorm2d(inner)
            self.conv3, self.bn3 = conv(inner, after, 1), torch.nn.BatchNorm2d(after)
        else:
            self.conv1 = conv(before, inner, 3, stride=stride, padding=1)
            self.bn1 = torch.nn.BatchNorm2d(inner)
            self.conv2, self.bn2 = conv(inner, after, 3, padding=1), torch.nn.BatchNorm2d(after)
        self.bottleneck, self.downsample = bottleneck, None
        if stride != 1 or before != after:
            shortcut = conv(before, after, 1, stride=stride)
            self.downsample = torch.nn.Sequential(shortcut, torch.nn.BatchNorm2d(after))

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.bottleneck:
            y = self.bn3(self.conv3(y.relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(torch.nn.Module):
    def __init__(self, depth, width=8, classes=10, factor=1):
        super().__init__()
        self.conv1 = conv(3, width, 7, stride=2, padding=3)
        self.bn1, before = torch.nn.BatchNorm2d(width), width
        for stage, units in enumerate(UNITS[depth]):
            layer = torch.nn.Sequential()
            for unit in range(units):
                stride = 2 if stage and not unit else 1
                layer.append(Unit(before, width << stage, stride, depth >= 50, factor))
                before = (width << stage) * (4 if depth >= 50 else 1)
            setattr(self, f"layer{stage + 1}", layer)
        self.fc = torch.nn.Linear(before, classes)

    def forward(self, x):
        x = torch.nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class Vgg(torch.nn.Module):
    def __init__(self, depth, norm, width=8, hidden=32, classes=10):
        super().__init__()
        self.features, before = torch.nn.Sequential(), 3
        for stage, units in enumerate(VGG[depth]):
            after = width << min(stage, 3)
            for _ in range(units):
                self.features.append(torch.nn.Conv2d(before, after, 3, padding=1))
                if norm:
                    self.features.append(torch.nn.BatchNorm2d(after))
                self.features.append(torch.nn.ReLU())
                before = after
            self.features.append(torch.nn.MaxPool2d(2))
        self.avgpool = torch.nn.AdaptiveAvgPool2d(7)
        self.classifier = torch.nn.Sequential(
            torch.nn.Linear(before * 49, hidden), torch.nn.ReLU(), torch.nn.Dropout(),
            torch.nn.Linear(hidden, hidden), torch.nn.ReLU(), torch.nn.Dropout(),
            torch.nn.Linear(hidden, classes),
        )  # fmt: skip

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def random_state(net, seed=0):
    """Give a PyTorch net random weights and statistics."""
    rng = np.random.RandomState(seed)
    state = net.state_dict()
    for name, value in state.items():
        if value.dim() > 1:
            array = rng.normal(0, np.sqrt(2 / np.prod(value.shape[1:])), value.shape)
        elif name.endswith(("running_var", "weight")):
            array = rng.uniform(0.5, 1.5, value.shape)
        else:
            array = rng.uniform(-0.5, 0.5, value.shape)
        if value.is_floating_point():
            state[name] = torch.from_numpy(array.astype("float32"))
    net.load_state_dict(state)
    return net.eval()


NARROW, VGGS = {"width": 8, "classes": 10}, {"width": 8, "hidden": 32, "classes": 10}
CASES = {
    "resnet18_v1b": (lambda: ResNet(18), NARROW),
    "resnet18_v1": (lambda: ResNet(18), NARROW),
    "resnet34_v1b": (lambda: ResNet(34), NARROW),
    "resnet50_v1b": (lambda: ResNet(50), NARROW),
    "resnet101_v1b": (lambda: ResNet(101), NARROW),
    "resnet152_v1b": (lambda: ResNet(152), NARROW),
    "wide_resnet50_2": (lambda: ResNet(50, factor=2), NARROW),
    "wide_resnet101_2": (lambda: ResNet(101, factor=2), NARROW),
    "vgg11": (lambda: Vgg(11, False), VGGS),
    "vgg11_bn": (lambda: Vgg(11, True), VGGS),
    "vgg13": (lambda: Vgg(13, False), VGGS),
    "vgg16_bn": (lambda: Vgg(16, True), VGGS),
    "vgg19": (lambda: Vgg(19, False), VGGS),
    "vgg19_bn": (lambda: Vgg(19, True), VGGS),
}


def image(side=224, seed=0):
    return np.random.RandomState(seed).randn(2, 3, side, side).astype("float32")


def outputs(ours, theirs, pixels):
    with torch.no_grad():
        return ours(mx.nd.array(pixels)).asnumpy(), theirs(torch.from_numpy(pixels)).numpy()


def error(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", sorted(CASES))
def test_files_of_torch_save_give_its_numbers(tmp_path, name, zipped):
    build, options = CASES[name]
    theirs, ours = random_state(build()), get_model(name, **options)
    path = tmp_path / "a.pth"
    torch.save(theirs.state_dict(), path, _use_new_zipfile_serialization=zipped)
    loaded = load_foreign(ours, path)
    assert loaded.missing == loaded.ignored == []
    assert error(*outputs(ours, theirs, image(224 if "vgg" in name else 96))) <= 1e-5


def test_full_width(tmp_path):
    theirs = random_state(ResNet(50, 64, 1000))
    torch.save({"state_dict": theirs.state_dict(), "epoch": 1}, tmp_path / "a.pth")
    ours = get_model("resnet50_v1b")
    load_foreign(ours, tmp_path / "a.pth")
    assert error(*outputs(ours, theirs, image(224))) <= 1e-5


def test_vgg_at_another_size_needs_the_pooling(tmp_path):
    theirs = random_state(Vgg(11, True))
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    ours = get_model("vgg11_bn", pool=7, input_size=288, **VGGS)
    load_foreign(ours, tmp_path / "a.pth")
    assert error(*outputs(ours, theirs, image(288))) <= 1e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions(tmp_path, dtype):
    theirs = random_state(ResNet(18)).to(getattr(torch, dtype))
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    ours = get_model("resnet18_v1b", **NARROW)
    load_foreign(ours, tmp_path / "a.pth")
    for name, value in theirs.state_dict().items():
        if value.is_floating_point():
            found = read_torch(tmp_path / "a.pth")[name]
            assert np.array_equal(found, value.float().numpy()), name
            break
    assert error(*outputs(ours, theirs.float(), image(96))) <= 1e-5


def test_a_backbone_for_attributes(tmp_path):
    theirs = random_state(torch.nn.DataParallel(ResNet(50, classes=1000)))
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    ours = filled(get_model("vaa_resnet50_v1b", width=8, input_size=96))
    assert load_backbone(ours.backbone, tmp_path / "a.pth") == ["output.bias", "output.weight"]
    pixels, seen = image(96), []
    theirs.module.layer4.register_forward_hook(lambda m, a, out: seen.append(out))
    with torch.no_grad():
        theirs.module(torch.from_numpy(pixels))
    found = ours.backbone(mx.nd.array(pixels))
    assert ours.backbone.output_names[-1] == "stage4_activation2"
    assert error(found[-1].asnumpy(), seen[0].numpy()) <= 1e-5


@pytest.mark.parametrize("name", ["resnet18_v1", "resnet50_v1b", "wide_resnet50_2", "vgg11_bn",
                                  "vgg19", "vgg16_bn"])  # fmt: skip
def test_what_we_write_pytorch_loads_strictly(tmp_path, name):
    build, options = CASES[name]
    ours, theirs = filled(get_model(name, **options)), build().eval()
    save_foreign(ours, tmp_path / "a.pth")
    for mapped in (False, True):
        state = torch.load(tmp_path / "a.pth", weights_only=True, mmap=mapped)
        theirs.load_state_dict(state, strict=True)
        assert error(*outputs(ours, theirs, image(224 if "vgg" in name else 96))) <= 1e-5


def test_pytorchs_own_reader_of_the_oldest_format_reads_our_tests_files(tmp_path):
    """So that what is tested without PyTorch is the format that PyTorch had."""
    wanted = {"conv1.weight": image(8), "fc.bias": np.arange(3, dtype="float32")}
    write_tar(tmp_path / "a.pth", wanted)
    found = torch.load(tmp_path / "a.pth", weights_only=False)
    ours = read_torch(tmp_path / "a.pth")
    assert list(found) == list(ours) == list(wanted)
    for name, array in wanted.items():
        assert np.array_equal(found[name].detach().numpy(), array)
        assert np.array_equal(ours[name], array)


def test_odd_tensors(tmp_path):
    """Views, transposed and empty tensors, parameters, and every protocol of pickle."""
    base = torch.randn(5, 6)
    state = {"t": base.t(), "v": base[1:3, ::2], "s": torch.tensor(3.5), "e": torch.zeros(0, 3),
             "p": torch.nn.Parameter(torch.randn(2)), "i": torch.arange(4), "b": base}  # fmt: skip
    for zipped in (True, False):
        for protocol in (2, 3, 4, 5):
            torch.save(state, tmp_path / "a.pth", pickle_protocol=protocol,
                       _use_new_zipfile_serialization=zipped)  # fmt: skip
            found = read_torch(tmp_path / "a.pth")
            assert list(found) == list(state)
            for name, value in state.items():
                assert np.array_equal(found[name], value.detach().numpy()), name


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_module_is_called_so(tmp_path, zipped):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3))
    torch.save({"net": module}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"no state dict but net (.*container\.Seq|a module)"):
        read_torch(tmp_path / "a.pth")


def everything(net):
    """Return what checkpoints hold beside their weights."""
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3, "best_prec1": np.float64(91.5), "best_acc": torch.tensor(91.5),
        "args": argparse.Namespace(device=torch.device("cuda:0"), path=pathlib.Path("a/b")),
        "dtype": torch.float16, "size": torch.Size([1, 2]), "rng": torch.get_rng_state(),
        "complex": torch.ones(2, dtype=torch.complex64), "sparse": torch.eye(3).to_sparse(),
        "layout": torch.strided, "function": torch.nn.functional.relu,
        "part": functools.partial(int), "array": np.arange(6.0), "kind": np.dtype("f4"),
        "named": collections.Counter("aab"),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict(),
        "optimizer": optimizer.state_dict(),
    }  # fmt: skip


@pytest.mark.parametrize("key", ["state_dict", "module"])
@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_among_everything_else(tmp_path, zipped, protocol, key):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save({**everything(net), key: net.state_dict()}, tmp_path / "a.pth",
               pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)  # fmt: skip
    found = read_torch(tmp_path / "a.pth")
    assert list(found) == list(net.state_dict())
    for name, value in net.state_dict().items():
        assert np.array_equal(found[name], value.numpy()), name


@pytest.mark.parametrize("wrap", [
    lambda s: [s, {"lr": 1}], lambda s: (s, 3), lambda s: {"a": {"b": {"c": s}}},
    lambda s: {k: torch.nn.Parameter(v.float()) for k, v in s.items()},
    lambda s: collections.defaultdict(int, s),
])  # fmt: skip
def test_where_the_weights_may_lie(tmp_path, wrap):
    state = torch.nn.Linear(3, 2).state_dict()
    torch.save(wrap(state), tmp_path / "a.pth")
    found = read_torch(tmp_path / "a.pth")
    assert all(np.array_equal(found[name], state[name].numpy()) for name in state)
    assert list(found) == list(state)


def test_torchscript_is_refused(tmp_path):
    script = torch.jit.trace(torch.nn.Linear(2, 3), torch.zeros(1, 2))
    torch.jit.save(script, str(tmp_path / "a.pt"))
    with pytest.raises(ValueError, match="TorchScript"):
        read_torch(tmp_path / "a.pt")
