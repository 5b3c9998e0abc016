"""int8 weights in the file and in memory: the numbers of float32 ones, and no float32 left."""

from __future__ import annotations

import mmap
import os
import re
import shutil
import threading
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from export_helpers import PREPROCESS
from int8_helpers import CALLS, built, conv_net, noise, operators, quantizer, static
from mxnet import autograd, gluon
from mxnet.gluon import nn

from gluon_attn.export import ExportError, export_model, int8, load_exported, precision, sidecar
from gluon_attn.export import graph as graphs
from gluon_attn.export.int8 import Int8Variant
from gluon_attn.export.int8_weights import Int8Block, pack, unpack

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"


class Norms(gluon.HybridBlock):
    """Fused batch-norms with factors of both signs and zero, a sum, a shared layer, groups."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = nn.HybridSequential()
        self.stem.add(nn.Conv2D(32, 3, padding=1, use_bias=False, in_channels=3))
        self.stem.add(nn.BatchNorm(epsilon=1e-3), nn.Activation("relu"))
        self.body, self.norm = nn.Conv2D(32, 3, padding=1), nn.BatchNorm(scale=False)
        self.single, self.pairs = (nn.Conv2D(32, 3, groups=count) for count in (32, 16))
        self.relu, self.shared = nn.Activation("relu"), nn.Conv2D(8, 1)
        self.head = nn.Dense(3)

    def hybrid_forward(self, F, x):
        x = self.stem(x)
        x = self.relu(self.norm(self.body(x)) + x)
        x = self.pairs(self.single(x))
        return self.head(F.concat(self.shared(x), self.shared(F.relu(x)), dim=1))


def norms(images):
    net = built(Norms(), images)
    rng = np.random.default_rng(1)
    for name, parameter in net.collect_params().items():
        if name.endswith(("gamma", "beta", "running_mean")):
            parameter.set_data(mx.nd.array(rng.normal(size=parameter.shape)))
        if name.endswith("running_var"):
            parameter.set_data(mx.nd.array(rng.uniform(0.1, 2, parameter.shape)))
    gamma, weight = net.stem[1].gamma.data(), net.stem[0].weight.data()
    gamma[:2] = mx.nd.array([0, 1e-20])
    weight[2] = 0
    weight[3] *= 1e-30
    return net


def stored(images):
    """The same with weights as published int8 files have them, extremes of either sign."""
    net = norms(images)
    for layer in (net.stem[0], net.body, net.single, net.pairs, net.shared, net.head):
        values = layer.weight.data().asnumpy()
        flat = values.reshape(len(values), -1)
        top = np.abs(flat).max(1, keepdims=True)
        flat[:, :2] = top * [1, -1]
        flat[1::2, :2] = top[1::2] * [-1, 1]
        step = top / np.float32(127)
        flat[:] = np.rint(np.divide(flat, step, out=np.zeros_like(flat), where=step > 0)) * step
        layer.weight.set_data(mx.nd.array(flat.reshape(values.shape)))
    return net


def block_of(packed):
    return Int8Block(*unpack(packed[0]), packed[1], lambda: packed[1])


@pytest.mark.parametrize("make", [norms, stored, lambda images: built(conv_net(), images)])
def test_outputs_are_those_of_float32_weights_to_the_bit(make):
    images = noise(16)
    graph = quantizer(make(images), images).build("naive")
    packed = pack(*graph)
    layers = [n for n in operators(graph[0]) if n["op"] in int8.LAYERS]
    kept = {name: array for name, array in packed[1].items() if array.dtype == np.int8}
    grouped = "arg:pairs.weight" in packed[1]  # whose scales MXNet mixes up
    assert len(kept) == len({n["inputs"][1][0] for n in layers}) - grouped >= 3
    assert all(graph[1][name].shape == array.shape for name, array in kept.items())
    blocks = [graphs.make_block(*graph), graphs.make_block(*packed), block_of(packed)]
    for count in (*CALLS, 2):
        batch = noise(count, seed=count)
        first, *others = (graphs.logits_of(static(block), batch) for block in blocks)
        for other in others:
            np.testing.assert_array_equal(first, other)


def test_weights_that_layers_read_otherwise_stay_float32():
    images = noise(4)
    symbol, arrays = quantizer(built(conv_net(), images), images).build("naive")
    graph = graphs.json_of(symbol)
    weight = next(k for k, n in enumerate(graph["nodes"]) if n["name"] == "0.weight")
    graph["heads"].append([len(graph["nodes"]), 0, 0])
    graph["nodes"].append({"op": "abs", "name": "other", "inputs": [[weight, 0, 0]]})
    for node in graph["nodes"]:
        if node["op"] == "_sg_mkldnn_fully_connected":
            node["attrs"]["channel_wise_quantize"] = "False"
    packed = pack(graphs.symbol_of(graph), arrays)[1]
    found = {name for name, array in packed.items() if array.dtype == np.int8}
    assert found == {"arg:1.weight"}
    for node in graph["nodes"]:
        if node["op"] == "_contrib_quantize_v2":
            node["attrs"].pop("min_calib_range")
    assert pack(graphs.symbol_of(graph), arrays)[1] == arrays


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    images = noise(8)
    directory = tmp_path_factory.mktemp("weights") / "x"
    net = norms(images)
    variant = Int8Variant(images, lambda run: 1.0, modes=("naive",))
    with pytest.MonkeyPatch.context() as patch:  # another process; test_int8 has it
        patch.setattr("gluon_attn.export.parity.check_parity", lambda *a, **k: {})
        return export_model(
            net, directory, "x", tuple("abc"), 8, PREPROCESS, check=False, variants=[variant]
        )


@pytest.fixture
def copied(export, tmp_path):
    return Path(shutil.copytree(export, tmp_path / "x"))


def test_no_float32_weight_is_left_between_calls(export):
    block, contents = load_exported(export, precision="int8")
    assert contents["int8"]["weights"] == "int8"
    assert contents["int8"]["stored"]["max_abs_diff"] == 0
    assert all(part.any() for part in block._floats)
    for count in CALLS:
        block(mx.nd.array(noise(count)))
        assert not any(part.any() for part in block._floats)
    params = [os.path.getsize(export / f"x{form}-0000.params") for form in ("", "-int8")]
    assert params[1] < params[0]


def test_calls_of_all_kinds_give_the_same(export):
    block = load_exported(export, precision="int8")[0]
    batches = {count: noise(count, seed=count) for count in (1, 2, 3)}
    expected = {count: graphs.logits_of(block, batch) for count, batch in batches.items()}
    failures = []

    def work(count):
        for _ in range(5):
            if not np.array_equal(graphs.logits_of(block, batches[count]), expected[count]):
                failures.append(count)

    threads = [threading.Thread(target=work, args=(count,)) for count in (1, 2, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with autograd.record():
        work(2)
    work(2)
    with pytest.raises(Exception, match="(?i)shape"):
        block(mx.nd.zeros((2, 4, 8, 8)))
    work(2)
    assert not failures and not any(part.any() for part in block._floats)


def test_directory_may_be_replaced_and_its_file_not_be_changed(copied):
    block = load_exported(copied, precision="int8")[0]
    first = graphs.logits_of(block, noise(1))
    shutil.move(copied, copied.with_name("y"))
    graphs.logits_of(block, noise(2))
    np.testing.assert_array_equal(first, graphs.logits_of(block, noise(1)))
    with open(copied.with_name("y") / "x-int8-0000.params", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    with pytest.raises(ExportError, match="x-int8-0000.params: checksum mismatch"):
        block(mx.nd.array(noise(2)))


def test_reading_leaves_the_place_in_the_file_that_forked_processes_share(export, monkeypatch):
    files = []
    record = lambda *args: files.append(open(*args)) or files[-1]  # noqa: E731
    monkeypatch.setattr(precision, "open", record, raising=False)
    monkeypatch.setattr(precision, "_PART", 1000)  # it takes several reads
    block = load_exported(export, precision="int8")[0]
    block(mx.nd.array(noise(1)))
    files[0].seek(7)
    block(mx.nd.array(noise(2)))
    assert files[0].tell() == 7


def test_export_of_the_older_form_loads(copied, export):
    """Its weights are float32 in the file, and its entry does not tell how they are stored."""
    contents = sidecar.read_sidecar(copied)
    paths = {key: copied / contents["files"][f"int8_{key}"]["file"] for key in ("symbol", "params")}
    packed = mx.nd.load(str(paths["params"]))
    symbol, weights = unpack(mx.sym.load(str(paths["symbol"])))
    text = symbol.tojson()
    for weight in weights:
        codes, step = (packed.pop(f"arg:{name}") for name in weight[1:])
        packed[f"arg:{weight.codes}"] = codes.astype("float32") * step
        text = text.replace(f'"{weight.name}"', f'"{weight.codes}"')
    paths["symbol"].write_text(text)
    mx.nd.save(str(paths["params"]), packed)
    for key, path in paths.items():
        contents["files"][f"int8_{key}"] = sidecar.describe_file(path)
    del contents["int8"]["weights"], contents["int8"]["stored"]
    sidecar.write_sidecar(copied, contents)
    old, new = (load_exported(folder, precision="int8")[0] for folder in (copied, export))
    assert isinstance(old, gluon.SymbolBlock)
    for count in CALLS:
        batch = noise(count, seed=count)
        np.testing.assert_array_equal(*(graphs.logits_of(static(b), batch) for b in (old, new)))


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the page's code is for Linux")
def test_code_of_the_page_gives_the_same_in_plain_mxnet(export, monkeypatch, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (source,) = (block for block in blocks if "MADV_DONTNEED" in block)
    assert "gluon_attn" not in source
    monkeypatch.chdir(tmp_path)
    shutil.copytree(export, "exports/people")
    names = {}
    exec(source, names)
    batch = noise(names["shape"][0], seed=3)
    found = names["net"](mx.nd.array(batch)).asnumpy()
    expected = graphs.logits_of(load_exported(export, precision="int8")[0], batch)
    np.testing.assert_array_equal(found, expected)
    assert not names["floats"].any()
