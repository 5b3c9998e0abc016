"""Damaged exports are refused before anything runs; nets that cannot be exported, with a reason."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import mxnet as mx
import pytest
from export_helpers import CLASSES, PREPROCESS, SIZE, Net, export, make_net
from mxnet import gluon
from mxnet.gluon import nn

from gluon_attn.export import ExportError, export_model, load_exported, sidecar
from gluon_attn.export import graph as graphs
from gluon_attn.export.graph import load_symbol


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return export(make_net(), tmp_path_factory.mktemp("whole") / "x", with_maps=True)


@pytest.fixture
def damaged(whole, tmp_path):
    """A copy of the export to damage."""
    return Path(shutil.copytree(str(whole), str(tmp_path / "copy")))


def described(directory, **files):
    """Give changed files checksums that are right."""
    contents = sidecar.read_sidecar(directory)
    for kind, file in files.items():
        contents["files"][kind] = sidecar.describe_file(directory / file)
    sidecar.write_sidecar(directory, contents)


def refused(directory, message, error=ExportError):
    with pytest.raises(error, match=message):
        load_exported(directory)


@pytest.mark.parametrize(
    "old, new", [('"hat"', '"bat"'), ("123.68", "103.94"), ('"crop": 16', '"crop": 12')]
)
def test_edited_sidecar(damaged, old, new):
    path = damaged / "tiny.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    refused(damaged, r"tiny\.json: checksum mismatch.*edited")


def test_truncated_sidecar(damaged):
    path = damaged / "tiny.json"
    path.write_text(path.read_text()[:200])
    refused(damaged, r"tiny\.json: truncated or damaged")


def test_newer_format(damaged):
    sidecar.write_sidecar(damaged, dict(sidecar.read_sidecar(damaged), format_version=99))
    refused(damaged, "format version 99.*update")


def test_unknown_keys_are_ignored(damaged):
    sidecar.write_sidecar(damaged, dict(sidecar.read_sidecar(damaged), variants={"int8": {}}))
    assert load_exported(damaged)[1]["variants"] == {"int8": {}}


def test_not_an_export(tmp_path, damaged):
    refused(tmp_path / "nowhere", "no such export directory", FileNotFoundError)
    refused(tmp_path, "not an export directory")
    refused(damaged / "tiny.json", "give the directory")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda a: a.update({"arg:head.weight": mx.nd.zeros((4, 7))}),
            r"'head.weight' is \(4, 7\)",
        ),
        (lambda a: a.pop("aux:stem.norm.running_var"), "missing: .'stem.norm.running_var'"),
        (lambda a: a.update({"arg:more": mx.nd.zeros((1,))}), "left over: .'more'"),
    ],
)
def test_wrong_arrays_are_found_before_the_first_forward(damaged, change, message):
    path = damaged / "tiny-0000.params"
    arrays = mx.nd.load(str(path))
    change(arrays)
    mx.nd.save(str(path), arrays)
    described(damaged, params=path.name)
    refused(damaged, message)


def test_valid_checksum_of_garbage(damaged):
    for kind, file in (("params", "tiny-0000.params"), ("symbol", "tiny-symbol.json")):
        (damaged / file).write_bytes(b"\xff\xfegarbage")
        described(damaged, **{kind: file})
        refused(damaged, "MXNet cannot read it")


def node(graph, op):
    return next(n for n in graph["nodes"] if n["op"] == op)


def inputs(graph):
    """Return those of the convolution."""
    return node(graph, "Convolution")["inputs"]


@pytest.mark.parametrize(
    "change, message",
    [
        # Each of these two, and 0 groups, ended the process.
        (lambda g: inputs(g)[0].__setitem__(1, 77), "output 77 of 'data'"),
        (lambda g: g["heads"].__setitem__(0, [len(g["nodes"]) - 1, 9, 0]), r"output 9 of .* has 1"),
        (lambda g: inputs(g)[0].__setitem__(0, 99999), "before it is there"),
        (lambda g: inputs(g)[0].__setitem__(0, g["heads"][0][0]), "before it is there"),
        (lambda g: inputs(g)[0].__setitem__(0, -1), r"reference \[-1, 0, 0"),
        (lambda g: inputs(g)[0].__setitem__(1, True), "has the reference"),
        (lambda g: inputs(g).append("x"), "is none"),
        (lambda g: node(g, "null")["inputs"].append([0, 0, 0]), "before it is there"),
        (lambda g: node(g, "Convolution")["attrs"].update(num_group="0"), "has 0 groups"),
        (lambda g: node(g, "Convolution").pop("inputs"), "KeyError: 'inputs'"),
        (lambda g: node(g, "Convolution").update(op="Nope"), "Nope"),
        (lambda g: node(g, "Convolution").update(subgraphs=[{"nodes": []}]), "KeyError: 'heads'"),
        (lambda g: g.update(heads=[]), "no outputs"),
        (lambda g: g.update(nodes=3), "TypeError"),
    ],
)
def test_a_graph_that_is_none_is_refused_before_mxnet_sees_it(damaged, change, message):
    path = damaged / "tiny-symbol.json"
    graph = json.loads(path.read_text())
    change(graph)
    path.write_text(json.dumps(graph))
    described(damaged, symbol=path.name)
    refused(damaged, f"copy: MXNet cannot read it: .*{message}")


def test_graphs_with_several_outputs_and_graphs_inside_load_as_they_are():
    data = mx.sym.var("data")
    parts = mx.sym.SliceChannel(
        mx.sym.Convolution(data, num_filter=4, kernel=(1, 1)), num_outputs=2
    )
    group = mx.sym.Group([parts[1], mx.sym.BatchNorm(parts[0])])
    for graph in (group, graphs.fuse(group)):
        text = graph.tojson()
        assert load_symbol(text).tojson() == text
    with pytest.raises(ValueError, match="output 2 of 'parts', which has 2"):
        parts = mx.sym.SliceChannel(data, num_outputs=2, name="parts")
        load_symbol(parts[1].tojson().replace('"heads": [[1, 1, 0]]', '"heads": [[1, 2, 0]]'))


# --- what cannot be exported --------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"classes": ("a", "b")}, "2 classes for logits"),
        ({"classes": ("a", "b", "b", "c")}, "repeated: b"),
        ({"thresholds": [0.5]}, "1 thresholds for 4 classes"),
        ({"thresholds": 1.5}, "threshold 1.5 of class 'hat'"),
        ({"name": "../evil"}, "export name"),
        ({"preprocess": {"mean": (0, 0, 0)}}, "mean and std are needed"),
        ({"preprocess": dict(PREPROCESS, scale=1)}, "valid are mean, std, resize, crop"),
        ({"preprocess": dict(PREPROCESS, std=(1, 0, 1))}, "std above 0"),
        ({"preprocess": dict(PREPROCESS, crop=0)}, "crop 0"),
        ({"name": "x-symbol"}, "export name"),
        ({"extra": {"mAP": float("nan")}}, "extra cannot be kept as JSON.*None for NaN"),
        ({"extra": {"net": Net}}, "extra cannot be kept as JSON"),
        ({"activation": "tanh"}, "valid are sigmoid"),
    ],
)
def test_bad_arguments(tmp_path, options, message):
    arguments = {"name": "tiny", "classes": CLASSES, "preprocess": PREPROCESS, "input_size": SIZE}
    arguments.update(options)
    with pytest.raises(ValueError, match=message):
        export_model(make_net(), tmp_path / "x", **arguments)
    assert os.listdir(tmp_path) == []


class NotHybrid(gluon.Block):
    def forward(self, x):
        return x.reshape((0, -1))[:, :4]


def four_numbers(F, x):
    return F.slice_axis(F.mean(x, axis=(1, 2)), axis=1, begin=0, end=len(CLASSES))


class LooksAtShape(Net):
    def hybrid_forward(self, F, x):
        return super().hybrid_forward(F, x * x.shape[0])


@pytest.mark.parametrize(
    "make, options, message",
    [
        (lambda: Net(), {}, "not run.*initialized"),
        (lambda: NotHybrid(), {}, "no HybridBlock"),
        (lambda: nn.HybridLambda(four_numbers), {}, "no parameters"),
        (lambda: make_net(kind=LooksAtShape), {}, "cannot be traced"),
        (lambda: make_net(kind=lambda: nn.Dense(4)), {"with_maps": True}, "no attention maps"),
    ],
)
def test_nets_that_cannot_be_exported(tmp_path, make, options, message):
    with pytest.raises(ValueError, match=message):
        export(make(), tmp_path / "x", **options)
    assert os.listdir(tmp_path) == []


def test_half_precision_net_is_refused():
    net = make_net()
    net.cast("float16")
    with pytest.raises(ExportError, match=r"float16.*cast\('float32'\)"):
        graphs.trace(net, ("logits",))
