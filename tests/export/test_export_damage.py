"""Damaged exports are refused before anything runs; nets that cannot be exported, with a reason."""

from __future__ import annotations

import json
import os

import mxnet as mx
import pytest
from export_helpers import CLASSES, PREPROCESS, SIZE, Net, export, make_net
from mxnet import gluon
from mxnet.gluon import nn

from gluon_attn.export import ExportError, export_model, load_exported, sidecar
from gluon_attn.export import graph as graphs
from gluon_attn.export.graph import load_symbol


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
def test_a_sidecar_that_was_edited_or_cut_short(copied, old, new):
    path = copied / "tiny.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    refused(copied, r"tiny\.json: checksum mismatch.*edited")
    path.write_text(text[:200])
    refused(copied, r"tiny\.json: truncated or damaged")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(format_version=99), "format version 99.*update"),
        (lambda c: c["outputs"][0].update(shape=["batch", 5]),
         r"outputs are \[\(1, 4\).*the sidecar says"),
        (lambda c: c["input"].update(shape=["batch", 4, 16, 16]),
         "graph and input differ|the graph needs"),
        (lambda c: c.pop("classes"), "sidecar lacks .*classes"),
    ],
)  # fmt: skip
def test_a_sidecar_that_does_not_describe_its_graph(copied, change, message):
    contents = dict(sidecar.read_sidecar(copied), variants={"int8": {}})
    sidecar.write_sidecar(copied, contents)
    assert load_exported(copied)[1]["variants"] == {"int8": {}}, "unknown keys are ignored"
    change(contents)
    sidecar.write_sidecar(copied, contents)
    refused(copied, message)


def test_not_an_export(tmp_path, copied):
    refused(tmp_path / "nowhere", "no such export directory", FileNotFoundError)
    refused(tmp_path, "not an export directory")
    refused(copied / "tiny.json", "give the directory")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.update({"arg:head.weight": mx.nd.zeros((4, 7))}),
         r"'head.weight' is \(4, 7\)"),
        (lambda a: a.pop("aux:stem.norm.running_var"), "missing: .'stem.norm.running_var'"),
        (lambda a: a.update({"arg:more": mx.nd.zeros((1,))}), "left over: .'more'"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_found_before_the_first_forward(copied, change, message):
    path = copied / "tiny-0000.params"
    arrays = mx.nd.load(str(path))
    change(arrays)
    mx.nd.save(str(path), arrays)
    described(copied, params=path.name)
    refused(copied, message)


def test_valid_checksum_of_garbage(copied):
    for kind, file in (("params", "tiny-0000.params"), ("symbol", "tiny-symbol.json")):
        (copied / file).write_bytes(b"\xff\xfegarbage")
        described(copied, **{kind: file})
        refused(copied, "MXNet cannot read it")


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
def test_a_graph_that_is_none_is_refused_before_mxnet_sees_it(copied, change, message):
    path = copied / "tiny-symbol.json"
    graph = json.loads(path.read_text())
    change(graph)
    path.write_text(json.dumps(graph))
    described(copied, symbol=path.name)
    refused(copied, f"x: MXNet cannot read it: .*{message}")


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


class OneOutputShort(Net):
    def hybrid_forward(self, F, x):
        return super().hybrid_forward(F, x)[:2]


class LogitsLast(Net):
    output_names = ("attention_stem", "logits_backbone", "logits")


class Stranger(Net):
    """Reads an array that is no parameter."""

    def hybrid_forward(self, F, x):
        logits, plain, attention = super().hybrid_forward(F, x)
        if F is mx.sym:
            logits = F.broadcast_add(logits, F.var("stranger"))
        return logits, plain, attention


class Infinite(Net):
    def hybrid_forward(self, F, x):
        logits, plain, attention = super().hybrid_forward(F, x)
        return logits / F.zeros_like(logits), plain, attention


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
        (lambda: make_net(kind=OneOutputShort), {}, "names 3 outputs, returned 2"),
        (lambda: make_net(kind=LogitsLast), {}, "'logits' must come first"),
        (lambda: make_net(kind=Stranger), {}, "input 'stranger' of its graph is no parameter"),
        (lambda: make_net(kind=Infinite), {"check": True}, "output 'logits' is not finite"),
    ],
)
def test_nets_that_cannot_be_exported(tmp_path, make, options, message):
    with pytest.raises(ValueError, match=message):
        export(make(), tmp_path / "x", **options)
    assert os.listdir(tmp_path) == []


def test_parameters_of_half_precision_and_without_values_are_named():
    net = make_net()
    net.cast("float16")
    with pytest.raises(ExportError, match=r"float16.*cast\('float32'\)"):
        graphs.trace(net, ("logits",))
    with pytest.raises(ExportError, match="'dense.*' is not initialised; load or train"):
        graphs.trace(nn.Dense(3, in_units=2), ("logits",))
