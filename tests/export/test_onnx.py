"""ONNX variant: the net's numbers in another engine, for every family, and the form of the file."""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import re
import sys

import mxnet as mx
import numpy as np
import pytest
from export_helpers import CLASSES, Net, export, make_net
from mxnet import gluon
from mxnet.gluon import nn
from test_zoo import CLASSIFIERS, NOT_EXPORTED, SIZE, SMALL, run, small

from gluon_attn.export import ExportError, Predictor, export_model, sidecar
from gluon_attn.export.writer import add_variants
from gluon_attn.task import TASKS
from gluon_attn.tasks.forms import Forms, check_forms
from model_zoo import get_model, list_models
from model_zoo.registry import MODELS, small_resnet

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx_helpers import ENGINES, OPERATORS, agree, check_plain, check_pools, tensors  # noqa: E402

from gluon_attn.export import onnx as onnx_model  # noqa: E402
from gluon_attn.export.graph import read_graph  # noqa: E402
from gluon_attn.export.onnx import OnnxVariant  # noqa: E402

PREPROCESS = {"mean": (120, 120, 120), "std": (60, 60, 60)}
# Each shows what another small net shows too.
SLOW = ("srm_resnet50", "vaa_resnet50_v1b_wider")
# Three taps and the released heads need no 101 layers.
SHALLOW = {"vaa_resnet101_released_wider": {
    "depth": 18, "taps": ("stage3_activation0", "stage3_activation1", "stage4_activation1"),
}}  # fmt: skip


def exported_models():
    return [n for n in CLASSIFIERS if n not in NOT_EXPORTED]


def family(name):
    """Return what makes the graphs of two models differ in more than size."""
    factory = MODELS.get(name)
    options = {key: p.default for key, p in factory.__signature__.parameters.items()}
    deep = factory.func is not small_resnet and options.get("depth", 0) >= 50
    return (
        (factory.func.__name__, *map(options.get, ("version", "variant", "batch_norm"))),
        "three convolutions" if deep else "two convolutions",
        str(options.get("attention")).partition(":")[0],  # of HOGA any genotype
    )


def load(directory):
    """Return ``(model, its bytes, sidecar)`` of an export directory."""
    contents = sidecar.read_sidecar(directory)
    raw = (directory / contents["files"]["onnx"]["file"]).read_bytes()
    return onnx.load_from_string(raw), raw, contents


def check_form(model, contents, operators=OPERATORS):
    """Check what a consumer relies on: names, order, dimensions, versions, a plain graph."""
    check_plain(model, operators)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", contents["onnx"]["opset"])]
    assert model.ir_version == contents["onnx"]["ir_version"] == 7
    shapes = tensors(model)
    for entry in [contents["input"], *contents["outputs"]]:
        assert shapes[entry["name"]] == entry["shape"] and entry["shape"][0] == "batch"
    names = [entry["name"] for entry in contents["outputs"]]
    assert [value.name for value in model.graph.output] == names


def check_export(net, directory, size, with_maps=False):
    """Export a net and compare all engines with it, at several batch sizes."""
    classes = [str(k) for k in range(net.classes)]
    export_model(
        net, directory, "m", classes, size, PREPROCESS, with_maps=with_maps, check=False,
        variants=[OnnxVariant(half=True)],
    )  # fmt: skip
    model, raw, contents = load(directory)
    check_form(model, contents)
    assert 0 < contents["onnx"]["fp16"]["max_abs_diff"] <= onnx_model.HALF_TOLERANCE
    names = [value.name for value in model.graph.output]
    embeddings = getattr(net, "embedding_outputs", ())
    assert names == ["logits", *embeddings, *(net.attention_outputs if with_maps else ())]
    given = np.random.default_rng(1).normal(size=(3, 3, *np.broadcast_to(size, 2)))
    given = given.astype(np.float32)
    outputs = run(net, mx.nd.array(given))
    rows = (slice(0, 1), slice(0, 3), slice(1, 3))
    expected = [{name: outputs[name][part] for name in names} for part in rows]
    agree(raw, [given[part] for part in rows], expected)
    assert contents["onnx"]["max_abs_diff"] <= contents["onnx"]["tolerance"] == 1e-5
    return model


# --- the zoo ------------------------------------------------------------------------------------


def test_the_small_nets_are_of_every_family():
    # depth aside; a new paper, version or block must come with a small net of its own
    for small_ones, all_of_them in zip(
        zip(*map(family, SMALL)), zip(*map(family, exported_models()))
    ):  # each of the three marks by itself, not every combination
        assert set(small_ones) == set(all_of_them)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.nightly] * (name in SLOW)) for name in sorted(SMALL)
])  # fmt: skip
def test_every_family_gives_the_nets_numbers_in_every_engine(name, tmp_path):
    net = small(name, **SHALLOW.get(name, {}))
    model = check_export(net, tmp_path / "x", SIZE, with_maps=bool(net.attention_outputs))
    check_pools(model, net)


EVERY_OPERATION = (
    "sep_conv_3x3@0/dil_conv_3x3@0+sep_conv_3x3_spatial@1/dil_conv_3x3_spatial@0+SE@1+SE_A_M@2/"
    "CBAM@0+none@1+skip_connect@2+sep_conv_3x3@3"
)
# Its first two nodes are zeros, which must become as many rows as the batch has.
ZEROS = "none@0/none@0+none@1/none@0+SE@1+skip_connect@2/SE_A_M@0+none@1+none@2+skip_connect@3"


@pytest.mark.parametrize(
    "block", ["eca_rule", "hog_cbam", "hog_se", "hoga_floor", "every", "zeros"]
)
def test_every_block_and_operation_with_an_odd_input(block, tmp_path):
    attention = {"every": f"hoga:{EVERY_OPERATION}", "zeros": f"hoga:{ZEROS}"}.get(block, block)
    net = small("resnet18_w16_synthetic", classes=5, attention={"stage3": attention}, width=12)
    model = check_export(net, tmp_path / "x", (45, 39))
    if block != "zeros":  # gates of zeros are constants
        check_pools(model, net)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["resnet50_wider", "se_resnet50", "cbam_resnet50", "eca_resnet50",
                                  "srm_resnet50", "hoga_resnet50", "vaa_resnet101_released_wider",
                                  "vaa_resnet101_wider", "reid_resnet50_market", "vgg16_bn",
                                  "wide_resnet50_2"])  # fmt: skip
def test_full_size(name, tmp_path):
    mx.random.seed(0)
    net = get_model(name)
    net.initialize(mx.init.Xavier(magnitude=2))
    with_maps = bool(net.attention_outputs)
    check_export(net, tmp_path / "x", tuple(net.input_size), with_maps)


def test_the_list_of_operators_is_the_exporters():
    known = onnx_model.supported_operators()
    assert {"Convolution", "BatchNorm", "softmax", "broadcast_mul"} <= known
    data = mx.sym.var("data")
    for symbol, op in (
        (mx.sym.pick(data, mx.sym.var("index")), "pick"),
        (mx.sym.broadcast_maximum(data, mx.sym.var("other")), "broadcast_maximum"),
        (mx.sym.sort(data), "sort"),
    ):
        assert op not in known and onnx_model.unsupported_operators(symbol) == [op]


# --- the page -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(repository):
    """The section about ONNX."""
    text = (repository / "docs" / "deployment.md").read_text(encoding="utf-8")
    return text[text.index("\n## ONNX\n") : text.index("\n## Benchmark\n")]


@pytest.fixture(scope="module")
def table(page):
    """``{pattern: [what each engine does]}`` from the page's table."""
    lines = page.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("| models |"))
    found = {}
    for line in itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :]):
        models, *engines = (cell.strip() for cell in line.strip("|").split("|"))
        found.update(dict.fromkeys(re.findall(r"`([^`]+)`", models), engines))
    return found


def test_the_page_lists_the_operators(page):
    assert f"`{' '.join(sorted(OPERATORS))}`" in " ".join(page.split())


def test_the_page_says_of_every_model_where_it_runs(table):
    assert TASKS.get("keypoints").forms == ("onnx",) and TASKS.get("detection").forms == ()
    tested = {family(name) for name in SMALL}
    for name in list_models():
        rows = [pattern for pattern in table if fnmatch.fnmatchcase(name, pattern)]
        assert len(rows) == 1, (name, rows)
        runs = name.startswith("simple_pose") or (
            name in exported_models()
            and all(part in parts for part, parts in zip(family(name), zip(*tested)))
        )
        assert table[rows[0]] == ["yes" if runs else "not exported"] * 3


# --- the file -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    net = make_net()
    directory = tmp_path_factory.mktemp("onnx") / "x"
    return net, export(net, directory, with_maps=True, variants=[OnnxVariant()])


def test_the_directory_holds_one_file_more_and_the_sidecar_says_what_was_checked(made):
    contents = sidecar.read_sidecar(made[1])
    names = ["tiny-0000.params", "tiny-symbol.json", "tiny.json", "tiny.onnx"]
    assert sorted(os.listdir(str(made[1]))) == names
    assert contents["files"]["onnx"] == sidecar.describe_file(made[1] / "tiny.onnx")
    entry = contents["onnx"]
    assert (entry["opset"], entry["ir_version"], entry["batch"]) == (13, 7, [1, 2, 3])
    assert entry["max_abs_diff"] <= entry["tolerance"] == 1e-5
    assert entry["mxnet"] == mx.__version__ and entry["onnx"] == onnx.__version__
    assert entry["onnxruntime"] == onnxruntime.__version__


def test_files_of_the_first_edition_still_run(tmp_path, monkeypatch):
    """Its graphs were those of MXNet's exporter."""
    monkeypatch.setattr(onnx_model, "make_plain", lambda *arguments: None)
    net = small("cbam_resnet18_w16_digits")
    directory = export_model(
        net, tmp_path / "x", "m", [str(k) for k in range(10)], SIZE, PREPROCESS, check=False,
        variants=[OnnxVariant()],
    )  # fmt: skip
    assert "Split" in {node.op_type for node in load(directory)[0].graph.node}
    given = np.random.default_rng(0).normal(size=(3, 3, SIZE, SIZE)).astype(np.float32)
    expected = run(net, mx.nd.array(given))["logits"]
    for name in set(ENGINES) & {"onnxruntime", "openvino"}:
        found = Predictor(directory, backend=name).outputs(given)["logits"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_added_to_an_export_that_is_there_and_replaced(made, tmp_path):
    directory = export(made[0], tmp_path / "x", with_maps=True)
    before = sidecar.read_sidecar(directory)
    add_variants(directory, [OnnxVariant()])
    assert (directory / "tiny.onnx").read_bytes() == (made[1] / "tiny.onnx").read_bytes()
    after = sidecar.read_sidecar(directory)
    assert {k: v for k, v in after["files"].items() if k != "onnx"} == before["files"]
    add_variants(directory, [OnnxVariant(opset=12)])
    model, _, contents = load(directory)
    check_form(model, contents)
    assert contents["onnx"]["opset"] == 12
    assert len(os.listdir(str(directory))) == 4 and os.listdir(str(tmp_path)) == ["x"]


class Plain(Net):
    """Without softmax and dense layers; its second output is a Dropout, nothing in inference."""

    output_names, attention_outputs = ("logits", "attention_same"), ("attention_same",)

    def hybrid_forward(self, F, x):
        score = F.sigmoid(self.score(self.stem(x)))
        return F.mean(score, axis=(2, 3)), F.Dropout(score)


@pytest.mark.parametrize("with_maps", [True, False])
def test_other_operators_and_an_input_that_is_not_square(tmp_path, with_maps):
    net = make_net(kind=Plain)
    directory = export_model(
        net, tmp_path / "x", "m", CLASSES, (20, 12), PREPROCESS, with_maps=with_maps, check=False,
        variants=[OnnxVariant()],
    )  # fmt: skip
    model, raw, contents = load(directory)
    check_form(model, contents)
    data = np.random.RandomState(2).normal(size=(4, 3, 20, 12)).astype(np.float32)
    expected = dict(zip(Plain.output_names, (out.asnumpy() for out in net(mx.nd.array(data)))))
    agree(raw, [data], [{out["name"]: expected[out["name"]] for out in contents["outputs"]}])


# --- what is refused ----------------------------------------------------------------------------


class Sorter(gluon.HybridBlock):
    """Uses an operator that the exporter lacks."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.head = nn.Dense(len(CLASSES))

    def hybrid_forward(self, F, x):
        return F.sort(self.head(x))


def refused(tmp_path, message, net=None):
    """Check that neither exporting nor adding ONNX leaves anything behind."""
    with pytest.raises(ExportError, match=message):
        export(net or make_net(), tmp_path / "new", variants=[OnnxVariant()])
    old = export(net or make_net(), tmp_path / "old")
    with pytest.raises(ExportError, match=message):
        add_variants(old, [OnnxVariant()])
    assert os.listdir(str(tmp_path)) == ["old"] and len(os.listdir(str(old))) == 3
    assert "onnx" not in sidecar.read_sidecar(old)


def test_operator_without_conversion_is_named(tmp_path):
    net = Sorter()
    net.initialize()
    refused(tmp_path, "no ONNX conversion for sort; .*supported_operators", net)


def test_other_numbers_are_refused_with_the_figure(tmp_path, monkeypatch):
    convert = onnx_model.convert

    def spoilt(*arguments):
        model = convert(*arguments)
        weight = next(w for w in model.graph.initializer if w.name == "plain.bias")
        values = onnx.numpy_helper.to_array(weight) + np.float32(3e-4)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        return model

    monkeypatch.setattr(onnx_model, "convert", spoilt)
    refused(tmp_path, r"differs from MXNet by 0\.0002\d+ of .*at most 1e-05")


@pytest.mark.parametrize(
    "module, message",
    [
        ("onnx", r'needs onnx .*pip install "gluon_attn\[onnx\]"'),
        ("onnx.mapping", r'no longer has onnx.mapping.*pip install "onnx<1.19"'),
        ("onnxruntime", r'cannot be checked: .*pip install "gluon_attn\[onnx\]"'),
    ],
)
def test_missing_package_says_what_to_install(tmp_path, monkeypatch, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    refused(tmp_path, message)
    with pytest.raises(ExportError, match=message):  # before a net is loaded
        check_forms(Forms(onnx=True))


@pytest.mark.parametrize(
    "module, error",
    [
        ("onnx", "TypeError: Descriptors cannot be created directly"),  # another protobuf
        ("onnxruntime", "AttributeError: _ARRAY_API not found"),  # another NumPy
    ],
)
def test_package_that_does_not_suit_the_others_is_named(tmp_path, monkeypatch, module, error):
    kind, words = error.split(": ")
    (tmp_path / f"{module}.py").write_text(f"raise {kind}({words!r})\n")
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExportError, match=rf"{module} .*{words}.*pip install") as caught:
        check_forms(Forms(onnx=True))
    assert "\n" not in str(caught.value)


def test_more_than_two_gigabytes_are_refused_before_the_conversion(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "LARGEST", 1000)
    monkeypatch.setattr(onnx_model, "convert", None)
    refused(tmp_path, r"tiny: \d+ bytes of weights; ONNX takes up to 2 GB")


def test_failing_converter_is_an_export_error_and_the_checker_is_put_back(tmp_path, monkeypatch):
    before = dict(onnx.checker.DEFAULT_CONTEXT.opset_imports)

    def fail(*arguments, **options):
        assert dict(onnx.checker.DEFAULT_CONTEXT.opset_imports) == {"": 13}
        raise KeyError("pad")

    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    monkeypatch.setattr(MXNetGraph, "create_onnx_graph_proto", fail)
    refused(tmp_path, "tiny: no ONNX model .KeyError: 'pad'")
    assert dict(onnx.checker.DEFAULT_CONTEXT.opset_imports) == before


def test_outputs_that_the_exporter_loses_are_noticed(made):
    contents = json.loads(json.dumps(sidecar.read_sidecar(made[1])))
    contents["outputs"][1]["name"] = "attention_other"
    symbol, arrays = read_graph(made[1], contents)
    with pytest.raises(ExportError, match="ONNX outputs .*attention_stem.*attention_other"):
        onnx_model.convert(symbol, arrays, contents)


def test_unknown_opset():
    with pytest.raises(ValueError, match="opset 17: MXNet's exporter writes 12 and 13"):
        OnnxVariant(opset=17)
