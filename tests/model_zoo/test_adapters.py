"""Foreign names: every table one to one, round trips without a lost bit, errors that help."""

from __future__ import annotations

import collections
import re
import runpy
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from adapters_helpers import Stored, filled, same, values, write_stream, write_zip
from gluoncv_helpers import gluoncv_or_skip
from mxnet.gluon import SymbolBlock, nn
from mxnet.gluon.model_zoo.vision.resnet import BottleneckV1, ResNetV1

from gluon_attn.nets import resnet, wide_resnet
from gluon_attn.nets.vgg import VGG_DEPTHS, vgg
from model_zoo import get_model
from model_zoo.adapters import SCHEMES, guess_net, read_arrays
from model_zoo.adapters.convert import load_foreign, save_foreign
from model_zoo.adapters.names import to_foreign, translate
from model_zoo.adapters.tables import TABLES, VAA_FILES, names_of
from model_zoo.params_io import load_backbone, load_into, save_params

TOOL = Path(__file__).resolve().parents[2] / "tools" / "convert.py"
SMALL = {"width": 8, "classes": 10}
VGG = {"width": 4, "hidden": 16, "input_size": 32, "classes": 5}
DEPTHS = (18, 34, 50, 101, 152)


def names(net):
    return list(net._collect_params_with_prefix())


def torch_state(net, scheme="torchvision"):
    """Return a net's state dict as PyTorch would write it, counters of batches included."""
    state = collections.OrderedDict()
    for name, array in to_foreign(values(net), scheme).items():
        state[name] = Stored(array)
        if name.endswith("running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = Stored(np.array(5))
    return state


# ----------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("scheme", ["torchvision", "gluoncv", "gluoncv_exported"])
def test_tables_are_one_to_one_for_every_resnet(scheme):
    nets = [resnet(depth, "v1b", width=4) for depth in DEPTHS]
    nets += [resnet(18, "v1", width=4), resnet(34, "v1", width=4)]
    nets += [wide_resnet(50, width=4), wide_resnet(101, width=4)]
    for net in nets:
        ours = {name: name for name in names(net)}
        theirs = to_foreign(ours, scheme)
        assert len(theirs) == len(ours)
        back = translate(ours, theirs, scheme).params
        assert back == ours


def test_tables_are_one_to_one_for_every_vgg():
    for depth in VGG_DEPTHS:
        for batch_norm in (False, True):
            ours = {n: n for n in names(vgg(depth, 10, batch_norm, width=4, hidden=8))}
            theirs = to_foreign(ours, "torchvision")
            assert {"classifier.0.weight", "classifier.3.bias", "classifier.6.weight"} < set(theirs)
            assert translate(ours, theirs).params == ours


KNOWN = [
    ("torchvision", "features.0.weight", "conv1.weight"),
    ("torchvision", "features.1.gamma", "bn1.weight"),
    ("torchvision", "features.5.3.body.4.beta", "layer2.3.bn2.bias"),
    ("torchvision", "features.7.2.body.6.weight", "layer4.2.conv3.weight"),
    ("torchvision", "features.6.0.downsample.1.running_var", "layer3.0.downsample.1.running_var"),
    ("torchvision", "output.bias", "fc.bias"),
    ("gluoncv", "features.5.3.body.4.beta", "layer2.3.bn2.beta"),
    ("gluoncv_exported", "features.5.3.body.4.beta", "layers2_batchnorm10_beta"),
    ("gluoncv_exported", "features.6.0.downsample.0.weight", "down3_conv0_weight"),
]


@pytest.mark.parametrize("scheme, ours, theirs", KNOWN)
def test_known_names_of_resnet50(scheme, ours, theirs):
    params = dict.fromkeys(names(resnet(50, "v1b", width=4)))
    params[ours] = "here"
    assert to_foreign(params, scheme)[theirs] == "here"


def test_every_scheme_has_a_table_and_lists_itself():
    assert {table.scheme for table in TABLES} | {"gluon"} == set(SCHEMES)
    assert all(len(names_of(table)) > 40 for table in TABLES)


# -------------------------------------------------------------------------------------- round trip

NETS = [
    ("resnet18_v1", SMALL, ("torchvision", "gluoncv", "gluoncv_exported")),
    ("resnet50_v1b", SMALL, ("torchvision", "gluoncv", "gluoncv_exported", "gluon")),
    ("wide_resnet50_2", SMALL, ("torchvision",)),
    ("vgg11", VGG, ("torchvision", "gluon")),
    ("vgg13_bn", VGG, ("torchvision",)),
    ("resnet50_v1", SMALL, ("gluon",)),
]
TRIPS = [(n, o, s) for n, o, schemes in NETS for s in schemes]


@pytest.mark.parametrize("name, options, scheme", TRIPS, ids=[f"{n}-{s}" for n, _, s in TRIPS])
def test_round_trip_through_every_format_loses_no_bit(tmp_path, name, options, scheme):
    parameters = get_model(name, **options)._collect_params_with_prefix()
    rng = np.random.RandomState(0)
    before = {n: rng.randn(*p.shape).astype("float32") for n, p in parameters.items()}
    arrays = {n: mx.nd.array(a) for n, a in before.items()}
    for suffix in (".pth", ".safetensors", ".params"):
        save_foreign(arrays, tmp_path / f"a{suffix}", scheme)
        found = read_arrays(tmp_path / f"a{suffix}")
        guess = guess_net(found)
        if scheme != "gluon":
            assert sorted(found) != sorted(before)
            found = translate(before, found, scheme).params
        assert same({n: a.asnumpy() for n, a in found.items()}, before)
        assert guess.options == options and guess.scheme == scheme
        assert guess.model == name or name == "resnet18_v1" and guess.model == "resnet18_v1b"


@pytest.mark.parametrize(
    "write, prefix", [(write_zip, ""), (write_zip, "net.backbone."), (write_stream, "module.")]
)
def test_what_pytorch_writes_loads(tmp_path, write, prefix):
    net, other = filled(get_model("resnet18_v1b", **SMALL)), get_model("resnet18_v1b", **SMALL)
    state = {prefix + name: tensor for name, tensor in torch_state(net).items()}
    write(tmp_path / "a.pth", {"epoch": 90, "state_dict": state})
    load_into(other, tmp_path / "a.pth")
    assert same(net, other)


def test_a_backbone_takes_torchvision_files_with_another_classifier(tmp_path, caplog):
    net = filled(get_model("resnet18_v1b", width=8, classes=1000))
    save_foreign(net, tmp_path / "a.pth")
    vaa = filled(get_model("vaa_resnet18_v1b", width=8, input_size=32), seed=1)
    before = values(vaa)
    with caplog.at_level("INFO"):
        skipped = load_backbone(vaa.backbone, tmp_path / "a.pth")
    assert sorted(skipped) == ["output.bias", "output.weight"] and "classifier" in caplog.text
    after, source = values(vaa), values(net)
    for name, array in after.items():
        ours = name.replace("backbone.", "", 1)
        body = name.startswith("backbone.features.")
        assert np.array_equal(array, source[ours] if body else before[name])


def test_a_backbone_comes_out_of_a_larger_torch_model(tmp_path):
    net, other = filled(get_model("resnet18_v1b", **SMALL)), get_model("resnet18_v1b", **SMALL)
    state = {f"encoder.{name}": tensor for name, tensor in torch_state(net).items()}
    state["decoder.weight"] = Stored(np.ones((2, 2), "float32"))
    write_zip(tmp_path / "a.pth", state)
    assert load_backbone(other, tmp_path / "a.pth") == ["decoder.weight"]
    assert same(net, other)
    with pytest.raises(ValueError, match=r"1 of \d+ in the file unexpected: decoder\.weight"):
        load_into(other, tmp_path / "a.pth")
    load_into(other, tmp_path / "a.pth", ignore="decoder.*")


# ------------------------------------------------------------------ the repository of VAA's authors


TAPS = ("stage3_activation2", "stage3_activation5", "stage4_activation2")
RELEASED = {"width": 4, "input_size": 64, "classes": 4, "taps": TAPS, "variant": "released"}


class Repository:
    """The nets of VAA's repository with its names, but narrow and on a ResNet-50 (it has 101)."""

    def __init__(self, classes=4, width=4, side=64):
        channels = [width, 4 * width, 8 * width, 16 * width, 32 * width]
        layers, kernel = [3, 4, 6, 3], side // 16
        self.resnet = ResNetV1(BottleneckV1, layers, channels, classes=classes, prefix="resnetv10_")
        with self.resnet.name_scope():  # a second classifier, hence dense1
            self.resnet.output = nn.Dense(classes, in_units=channels[-1])
        # the repository: 512 and 512; 256, 512 and 1024 filters, here by the width
        a, b, c = 8 * width, 4 * width, 16 * width
        self.parts = {}
        for stage in (2, 3, 4):
            size = kernel // 2 if stage == 4 else kernel
            self.parts[stage] = {
                "fconv": self.net((nn.Conv2D, classes, 1), (nn.Activation, "sigmoid")),
                "fatt": self.net((nn.Conv2D, a, 1), "bn", (nn.Conv2D, a, 3, 1, 1), "bn",
                                 (nn.Conv2D, classes, 1)),
                "fsr": self.net((nn.Conv2D, b, 1), "bn", (nn.Conv2D, a, 1), "bn",
                                (nn.Conv2D, c, size), "bn", (nn.Dense, classes)),
            }  # fmt: skip
        self.resnet.initialize(mx.init.Xavier())
        data = mx.sym.var("data")
        inside = self.resnet(data).get_internals()
        taps = (*TAPS, "dense1_fwd")
        outputs = [inside[f"resnetv10_{tap}_output"] for tap in taps]
        self.backbone = SymbolBlock(outputs, data, params=self.resnet.collect_params())
        self.backbone._prefix = "resnetv10_"
        self(mx.nd.zeros((1, 3, side, side)))
        mx.nd.waitall()  # convolutions reorder their weights in place as they run
        rng = np.random.RandomState(0)
        for net in [self.resnet, *(n for p in self.parts.values() for n in p.values())]:
            for p in net.collect_params().values():
                low, high = (0.5, 1.5) if p.name.endswith(("gamma", "var")) else (-0.2, 0.2)
                p.set_data(mx.nd.array(rng.uniform(low, high, p.shape)))

    @staticmethod
    def net(*layers):
        net = nn.Sequential()
        with net.name_scope():
            for layer in layers:
                if layer == "bn":
                    net.add(nn.BatchNorm(), nn.Activation("relu"))
                else:
                    net.add(layer[0](*layer[1:]))
        net.initialize(mx.init.Xavier())
        return net

    def save(self, folder, new=False, prefix=""):
        """Write the ten files: as MXNet until 1.3 did, or as ``save_parameters`` does now."""
        nets = {"backbone_resnet": self.backbone}
        for stage, parts in self.parts.items():
            nets.update((f"{part}_stage_{stage}", net) for part, net in parts.items())
        for name, net in nets.items():
            path = str(folder / f"{prefix}{name}.params")
            if new:
                net.save_parameters(path)
            else:
                net.collect_params().save(path, strip_prefix=net.prefix)

    def __call__(self, image):
        """Return all four logit vectors, as the repository computes them."""
        *taps, output = self.backbone(image)
        logits = []
        for tap, parts in zip(taps, self.parts.values()):
            score = parts["fatt"](tap)
            batch, attributes, height, width = score.shape
            soft = mx.nd.softmax(score.reshape((batch * attributes, height * width)))
            logits.append(parts["fsr"](soft.reshape(score.shape) * parts["fconv"](tap)))
        return [x.asnumpy() for x in (*logits, output)]


@pytest.fixture(scope="module")
def repository():
    return Repository()


@pytest.mark.parametrize("new, prefix", [(False, ""), (True, "joint_new_")])
def test_files_of_the_repository_give_its_numbers(tmp_path, repository, new, prefix):
    repository.save(tmp_path, new, prefix)
    net = get_model("vaa_resnet50_wider", **RELEASED)
    loaded = load_foreign(net, tmp_path)
    assert loaded.missing == loaded.ignored == []
    image = mx.nd.random.normal(shape=(2, 3, 64, 64))
    found = dict(zip(net.output_names, net(image)))
    *modules, output = repository(image)
    assert np.allclose(found["logits_backbone"].asnumpy(), output, rtol=1e-5, atol=1e-5)
    for tap, wanted in zip(net.taps, modules):
        assert np.allclose(found[f"logits_{tap}"].asnumpy(), wanted, rtol=1e-5, atol=1e-5)
    mean = sum([*modules, output]) / 4
    assert np.allclose(found["logits"].asnumpy(), mean, rtol=1e-5, atol=1e-5)


def test_the_repository_round_trip(tmp_path, repository):
    net = get_model("vaa_resnet50_wider", **RELEASED)
    rng, shapes = np.random.RandomState(0), net._collect_params_with_prefix()
    before = {n: mx.nd.array(rng.randn(*p.shape)) for n, p in shapes.items()}
    save_foreign(before, tmp_path / "ours", "vaa_released")
    found = translate(before, read_arrays(tmp_path / "ours")).params
    assert same(*({n: a.asnumpy() for n, a in params.items()} for params in (before, found)))
    (tmp_path / "theirs").mkdir()
    repository.save(tmp_path / "theirs")
    for path in sorted((tmp_path / "theirs").iterdir()):
        ours = {n: a.shape for n, a in mx.nd.load(str(tmp_path / "ours" / path.name)).items()}
        assert ours == {n: a.shape for n, a in mx.nd.load(str(path)).items()}, path.name
    (tmp_path / "ours" / "fsr_stage_3.params").unlink()
    with pytest.raises(FileNotFoundError, match=r"one file \*fsr_stage_3\.params, found none"):
        load_foreign(net, tmp_path / "ours")


def write_parts(folder, **parts):
    """Write the ten files with an array each, or with the shapes given by name."""
    for part in VAA_FILES:
        shapes = parts.get(part, {"conv0_weight": 1})
        arrays = {name: mx.nd.zeros(shape) for name, shape in shapes.items()}
        mx.nd.save(str(folder / f"{part}.params"), arrays)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("prefix", ["", "resnetv10_"])
def test_the_second_classifier_of_the_repository_is_the_one_meant(tmp_path, prefix, order):
    """The backbone may have both: dense0, Gluon's, and dense1 for the attributes."""
    shapes = [(f"{prefix}dense0_weight", (10, 4)), (f"{prefix}dense1_weight", (14, 4))][::order]
    write_parts(tmp_path, backbone_resnet=dict(shapes))
    found = read_arrays(tmp_path)
    assert found["backbone_resnet/dense0_weight"].shape == (10, 4)
    assert found["backbone_resnet/dense1_weight"].shape == (14, 4)
    write_parts(tmp_path, backbone_resnet={f"{prefix}dense0_weight": (10, 4)})
    assert read_arrays(tmp_path)["backbone_resnet/dense1_weight"].shape == (10, 4)


@pytest.mark.parametrize("first, second, name", [
    ("hybridsequential0_conv0_weight", "hybridsequential1_conv0_weight", "conv0_weight"),
    ("0.weight", "sequential3_conv0_weight", "conv0_weight"),
])  # fmt: skip
def test_two_parameters_for_one_layer_of_the_repository(tmp_path, first, second, name):
    write_parts(tmp_path, fsr_stage_2={first: 3, second: 5})
    message = rf"fsr_stage_2\.params: '{first}' and '{second}' both are {name}"
    with pytest.raises(ValueError, match=message):
        read_arrays(tmp_path)


# ------------------------------------------------------------------------------------------ errors


def refusal(net, path, **options):
    """Return the message with which a file is refused; nothing of it may be in the net."""
    with pytest.raises(ValueError) as caught:
        load_foreign(net, path, **options)
    assert all(p._data is None for p in net._collect_params_with_prefix().values())
    return str(caught.value)


def test_what_does_not_fit_is_named_with_the_net_it_seems_to_be(tmp_path):
    shapes = get_model("resnet50_v1b", **SMALL)._collect_params_with_prefix()
    save_foreign({n: mx.nd.zeros(p.shape) for n, p in shapes.items()}, tmp_path / "a.pth")
    cases = {
        "resnet18_v1": ("of another shape: features.4.0.body.0.weight (file (8, 8, 1, 1), net "
                        "(8, 8, 3, 3))", "unexpected: layer1.0.conv3.weight"),
        "resnet50_v1": ("missing in the file: features.4.0.body.0.bias", "net like resnet50_v1 "),
        "resnet34_v1b": ("the net like resnet34_v1b, the same net as resnet34_v1",),
        "wide_resnet50_2": ("the net like wide_resnet50_2",),
    }  # fmt: skip
    for name, parts in cases.items():
        text = refusal(get_model(name, **SMALL), tmp_path / "a.pth")
        for part in ("nothing was loaded", "looks like resnet50_v1b (width 8, classes 10)", *parts):
            assert part in text, name
    text = refusal(get_model("vgg11", **VGG), tmp_path / "a.pth")
    assert "looks like resnet50_v1b" in text and "the net like vgg11" in text
    text = refusal(get_model("resnet50_v1b", width=8, classes=7), tmp_path / "a.pth")
    assert "output.weight (file (10, 256), net (7, 256))" in text and "load_backbone" in text


def test_renamed_and_missing_parameters_are_named_with_the_nearest(tmp_path):
    net = filled(get_model("resnet18_v1b", **SMALL))
    state = torch_state(net)
    state["layer2.1.conv2.kernel_weight"] = state.pop("layer2.1.conv2.weight")
    del state["bn1.running_mean"]
    write_zip(tmp_path / "a.pth", state)
    text = refusal(get_model("resnet18_v1b", **SMALL), tmp_path / "a.pth")
    assert "2 of 102 missing in the file: features.1.running_mean, features.5.1.body.3" in text
    assert "unexpected: layer2.1.conv2.kernel_weight" in text
    assert "Nearest names: layer2.1.conv2.weight ~ layer2.1.conv2.kernel_weight" in text
    loaded = load_foreign(
        net, tmp_path / "a.pth", allow_missing=["features.1.*", "features.5.1.*"], ignore="layer2*"
    )
    assert loaded.ignored == ["layer2.1.conv2.kernel_weight"] and len(loaded.missing) == 2


@pytest.mark.parametrize(
    "name, shape, text",
    [
        ("features.denseblock1.denselayer1.norm1.weight", (64,), "a DenseNet"),
        ("conv1.0.weight", (32, 3, 3, 3), "deep stem"),
        ("blocks.0.attn.qkv.weight", (9, 3), "a vision transformer"),
    ],
)
def test_nets_that_the_zoo_has_not_are_named(tmp_path, name, shape, text):
    write_zip(tmp_path / "a.pth", {name: Stored(np.ones(shape, "float32"))})
    assert text in refusal(get_model("resnet18_v1b", **SMALL), tmp_path / "a.pth")
    code, out, err = tool(tmp_path / "a.pth", "--out", tmp_path / "b.params")
    assert code == 2 and text in err and "give the name of a model" in err


def test_resnext_is_told_from_resnet(tmp_path):
    net = get_model("resnet50_v1b", **SMALL)
    shapes = {n: p.shape for n, p in net._collect_params_with_prefix().items()}
    arrays = {}
    for name, (first, *rest) in to_foreign(shapes, "torchvision").items():
        if name.endswith("conv2.weight"):
            rest[0] //= 4  # four groups
        arrays[name] = Stored(np.ones((first, *rest), "float32"))
    write_zip(tmp_path / "a.pth", arrays)
    text = refusal(net, tmp_path / "a.pth")
    assert "looks like a ResNeXt" in text


def test_a_flat_scheme_error_lists_the_valid_ones(tmp_path):
    net = filled(get_model("resnet18_v1b", **SMALL))
    save_foreign(net, tmp_path / "a.pth")
    for call in (lambda s: load_foreign(net, tmp_path / "a.pth", s),
                 lambda s: save_foreign(net, tmp_path / "b.pth", s)):  # fmt: skip
        with pytest.raises(ValueError, match="naming scheme 'torchvison'; did you mean 'torchvisi"):
            call("torchvison")
    text = refusal(get_model("resnet18_v1b", **SMALL), tmp_path / "a.pth", scheme="gluon")
    assert "missing in the file: features.0.weight" in text
    with pytest.raises(FileNotFoundError, match="gone.pth"):
        load_foreign(net, tmp_path / "gone.pth")


@pytest.mark.parametrize("name, options", [
    ("resnet50_v1", SMALL), ("vaa_resnet18_w16_synthetic", {"input_size": 32}),
])  # fmt: skip
def test_nets_that_torchvision_cannot_hold_are_not_written(tmp_path, name, options):
    net = get_model(name, **options)
    net.initialize(mx.init.Zero())
    with pytest.raises(ValueError, match=r"'torchvision' has no name for \d+ of \d+ parameters"):
        save_foreign(net, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"suffix '\.onnx'; valid are \.params, \.pth"):
        save_foreign(net, tmp_path / "a.onnx", "gluon")
    assert not list(tmp_path.iterdir())


def test_a_net_without_values_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="no values yet"):
        save_foreign(get_model("resnet18_v1b", **SMALL), tmp_path / "a.pth")


# -------------------------------------------------------------------------------------- the command


def tool(*arguments):
    """Run the tool in this process; return (exit code, output, errors)."""
    import contextlib
    import io

    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [str(TOOL), *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(str(TOOL), run_name="__main__")
            except SystemExit as end:
                return end.code, out.getvalue(), err.getvalue()
    finally:
        sys.argv = argv
    return 0, out.getvalue(), err.getvalue()


def test_the_command_says_what_lies_beside_the_weights_and_takes_a_key(tmp_path):
    net, averaged = (filled(get_model("resnet18_v1b", **SMALL), seed) for seed in (0, 1))
    path, value = tmp_path / "a.pth", {"epoch": 3, "state_dict": torch_state(net)}
    write_zip(path, value)
    code, out, err = tool(path)
    assert code == 0 and "looks like: resnet18_v1b" in out
    assert "beside:     epoch 3" in out and err == ""
    write_zip(path, {**value, "ema": torch_state(averaged)})
    code, out, err = tool(path, "--out", tmp_path / "b.params")
    assert code == 2 and "state dicts (state_dict, ema)" in err and "--key state_dict" in err
    code, out, err = tool(path, "--out", tmp_path / "b.params", "--key", "ema")
    assert code == 0, err
    other = get_model("resnet18_v1b", **SMALL)
    other.load_parameters(str(tmp_path / "b.params"))
    assert same(averaged, other)


def test_the_command_converts_there_and_back(tmp_path):
    net = filled(get_model("resnet18_v1b", **SMALL))
    write_zip(tmp_path / "resnet18.pth", torch_state(net))
    code, out, err = tool(tmp_path / "resnet18.pth", "--out", tmp_path / "a.params")
    assert code == 0 and err == ""
    assert "torchvision names, resnet18_v1b width=8 classes=10" in out
    assert "pixels:  not known" in out and "--std 0.229,0.224,0.225" in out
    assert not (tmp_path / "a.json").exists()
    other = get_model("resnet18_v1b", **SMALL)
    other.load_parameters(str(tmp_path / "a.params"))  # Gluon's own reader
    assert same(net, other)
    code, out, err = tool(
        tmp_path / "a.params", "--model", "resnet18_v1b", "--out", tmp_path / "b.pth", "width=8"
    )
    assert code == 0, err
    found = read_arrays(tmp_path / "b.pth")
    assert same({n: a.asnumpy() for n, a in found.items()}, to_foreign(values(net), "torchvision"))
    code, out, err = tool(tmp_path / "b.pth")
    assert code == 0 and "102 arrays" in out and "looks like: resnet18_v1b" in out


def test_the_commands_errors_are_one_line(tmp_path):
    save_params(filled(get_model("resnet18_v1b", **SMALL)), tmp_path / "a.params")
    for arguments, text in (
        (["gone.pth", "--out", "b.params"], "gone.pth: no such parameter file"),
        ([tmp_path / "a.params", "--out", tmp_path / "b.onnx"], "suffix '.onnx'"),
        ([tmp_path / "a.params", "--out", tmp_path / "b.pth", "wdth=3"], "did you mean 'width'"),
        ([tmp_path / "a.params", "--out", tmp_path / "b.pth", "width"], "expected key=value"),
        ([tmp_path / "a.params", "--out", tmp_path / "b.pth", "--model", "vgg11"], "does not fit"),
    ):
        code, out, err = tool(*arguments)
        assert code == 2 and out == "" and len(err.splitlines()) == 1
        assert err.startswith("error: ") and text in err
    assert re.fullmatch("a.params", " ".join(p.name for p in tmp_path.iterdir()))


# ----------------------------------------------------------------------------------------- GluonCV


@pytest.mark.parity
@pytest.mark.parametrize("name", ["resnet18_v1b", "resnet50_v1b", "resnet50_v1", "vgg11_bn"])
@pytest.mark.parametrize("kind", ["saved", "stripped", "exported"])
def test_files_of_gluoncv_give_its_numbers(tmp_path, name, kind):
    zoo = gluoncv_or_skip().model_zoo
    theirs = zoo.get_model(name, pretrained=False, classes=10)
    image = mx.nd.random.normal(shape=(2, 3, 64, 64))
    theirs.initialize()
    theirs(image)  # completes the shapes
    filled(theirs)
    path = tmp_path / "a.params"
    if kind == "saved":
        theirs.save_parameters(str(path))
    elif kind == "stripped":
        theirs.collect_params().save(str(path), strip_prefix=theirs.prefix)
    else:
        theirs.hybridize()
        theirs(image)
        theirs.export(str(tmp_path / "e"))
        path = tmp_path / "e-0000.params"
    ours = get_model(name, classes=10, input_size=64)
    loaded = load_foreign(ours, path)
    assert loaded.missing == loaded.ignored == []
    wanted = theirs(image).asnumpy()
    assert np.abs(ours(image).asnumpy() - wanted).max() <= 1e-5 * np.abs(wanted).max()
