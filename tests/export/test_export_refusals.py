"""Exports that cannot be made, checked or opened, and engines that are not installed here."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from export_helpers import export, images, make_net
from int8_helpers import built, conv_net, quantizer
from mxnet import gluon

from gluon_attn.export import (
    ExportError,
    Predictor,
    backends,
    int8,
    parity,
    precision,
    sidecar,
)
from gluon_attn.export.backends import OpenVINOBackend, open_onnx_session, parse_context
from gluon_attn.export.onnx import OnnxVariant
from gluon_attn.export.precision import Bf16Variant
from gluon_attn.export.writer import add_variants

needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))), reason="no ONNX here"
)


def logits_of(net, batch):
    return net(mx.nd.array(batch))[0].asnumpy()


# --- the parity check ----------------------------------------------------------------------------


def test_the_parity_script_computes_what_the_net_does(made, tmp_path, monkeypatch, capsys):
    """Its own process is in test_export; here its lines run where they can be watched."""
    net, directory = made
    monkeypatch.setattr(parity, "BLOCKED", ("no_such_package_of_ours",))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    entries = sidecar.read_sidecar(directory)["files"]
    files = [str(directory / entries[key]["file"]) for key in ("symbol", "params")]
    batch = images(2).asnumpy()
    np.savez(str(tmp_path / "in.npz"), two=batch, one=batch[:1])
    parity.main(*files, str(tmp_path / "in.npz"), str(tmp_path / "out.npz"), "cpu:0", "/no/where")
    report = json.loads(capsys.readouterr().out)
    assert report == {"mxnet": mx.__version__, "numpy": np.__version__, "leaked": []}
    assert sys.path[-1] == "/no/where"
    with np.load(str(tmp_path / "out.npz")) as found:
        assert sorted(found.files) == ["one:0", "one:1", "two:0", "two:1"]
        np.testing.assert_allclose(found["two:0"], logits_of(net, batch), atol=1e-5)
        np.testing.assert_allclose(found["one:0"], logits_of(net, batch)[:1], atol=1e-5)
    with pytest.raises(ImportError, match="is blocked in the parity check"):
        importlib.import_module("no_such_package_of_ours.part")
    monkeypatch.setattr(parity, "BLOCKED", ("json",))
    with pytest.raises(SystemExit, match="json can be imported: the parity check would prove"):
        parity.block_packages()


@pytest.mark.parametrize(
    "done, message",
    [
        (parity.subprocess.TimeoutExpired("python", 1), "the parity check took over"),
        (SimpleNamespace(returncode=-9, stderr="a\nb\nc\nd\n", stdout=""), "code -9: b | c | d"),
        (SimpleNamespace(returncode=0, stderr="", stdout='x\n{"leaked": ["model_zoo"]}\n'),
         "imported ['model_zoo']"),
    ],
)  # fmt: skip
def test_a_parity_check_that_does_not_end_well(tmp_path, monkeypatch, done, message):
    def run(*_, **__):
        if isinstance(done, Exception):
            raise done
        return done

    monkeypatch.setattr(parity.subprocess, "run", run)
    with pytest.raises(ExportError) as error:
        export(make_net(), tmp_path / "x", check=True)
    assert message in str(error.value) and os.listdir(tmp_path) == []


def test_the_old_export_comes_back_if_the_new_one_cannot_be_moved(copied, monkeypatch):
    before = {p.name: p.read_bytes() for p in copied.iterdir()}
    rename, calls = os.rename, []

    def second_fails(old, new):
        calls.append((old, new))
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(old, new)

    monkeypatch.setattr(sidecar.os, "rename", second_fails)
    with pytest.raises(OSError, match="Input/output error"):
        export(make_net(seed=1), copied, overwrite=True)
    assert len(calls) == 3
    assert {p.name: p.read_bytes() for p in copied.iterdir()} == before


def test_files_that_are_not_of_the_export_stay(copied):
    (copied / "notes.txt").write_text("mine")
    (copied / "tiny-0001.params").write_text("of a killed export")
    before = sorted(p.name for p in copied.iterdir())
    export(make_net(seed=1), copied, overwrite=True)
    after = sorted(p.name for p in copied.iterdir())
    assert (copied / "notes.txt").read_text() == "mine"
    assert set(before) - set(after) == {"tiny-0001.params"}


# --- precisions ----------------------------------------------------------------------------------


def test_a_graph_without_layers_to_quantize():
    class Nothing(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.scale = self.params.get("scale", shape=(1, 3))

        def hybrid_forward(self, F, x, scale):
            return F.broadcast_mul(F.mean(x, axis=(2, 3)), scale)

    data = np.zeros((2, 3, 8, 8), np.float32)
    with pytest.raises(ExportError, match="no convolution or dense layer"):
        quantizer(built(Nothing(), data), data)


def test_calibration_that_goes_wrong_is_an_error(monkeypatch):
    data = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    made = quantizer(built(conv_net(), data), data)
    with pytest.raises(ValueError, match="calibration mode 'median': valid are"):
        made.thresholds("median")
    monkeypatch.setattr(made, "thresholds", lambda mode: {})
    with pytest.raises(ExportError, match="int8: no range was seen for "):
        made.build("naive")
    monkeypatch.undo()
    with pytest.raises(ExportError, match="MXNet quantized 0 of 3 layers"):
        made._check_layers(made._graph, set())
    monkeypatch.setattr(int8, "_values", lambda array: 1 / 0)
    with pytest.raises(ExportError, match=r"calibration failed: ZeroDivisionError"):
        made.thresholds("naive")


def test_bf16_that_cannot_be_run_here_is_not_written(copied, monkeypatch):
    monkeypatch.setattr("gluon_attn.env.cpu.cpu_flags", lambda: {"avx2"})
    with pytest.raises(ExportError, match="has to be run to be checked, and cannot be here"):
        add_variants(copied, [Bf16Variant()])
    assert len(list(copied.iterdir())) == 3


def test_outputs_in_bfloat16_are_cast():
    x = mx.sym.var("data")
    group = mx.sym.Group([mx.sym.amp_cast(x, dtype=precision.BFLOAT16), x * 2])
    _, types, _ = precision._float32_outputs(group).infer_type(data=np.float32)
    assert types == [np.float32, np.float32]
    assert precision._float32_outputs(mx.sym.Group([x])).list_outputs() == ["data"]


# --- engines -------------------------------------------------------------------------------------


class FakeOpenVINO:
    """Stands for the package: runs models on ONNX Runtime, and keeps what it was asked for."""

    def __init__(self):
        self.asked, self.refuse = [], False

    def Core(self):
        return self

    def read_model(self, raw):
        return open_onnx_session(raw, threads=1)

    def compile_model(self, session, device, options):
        if self.refuse:
            raise RuntimeError("Unsupported operation\nat line 7")
        self.asked.append((device, options))
        self.session = session
        return self

    def create_infer_request(self):
        return self

    def infer(self, inputs):
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, inputs)))


@needs_onnx
def test_openvino_gets_float32_threads_and_a_batch_of_the_right_shape(made, copied, monkeypatch):
    add_variants(copied, [OnnxVariant()])
    fake = FakeOpenVINO()
    monkeypatch.setitem(sys.modules, "openvino", fake)
    monkeypatch.setattr(backends, "require", lambda *_: None)
    engine = OpenVINOBackend(copied, threads=3)
    ((device, options),) = fake.asked
    assert device == "CPU" and options["INFERENCE_NUM_THREADS"] == 3
    assert options["INFERENCE_PRECISION_HINT"] == "f32"
    batch = images(2).asnumpy()
    logits, maps = engine.run(batch)
    np.testing.assert_allclose(logits, logits_of(made[0], batch), atol=1e-5)
    assert maps.shape == (2, 4, 8, 8)
    with pytest.raises(ValueError, match="float32"):
        engine.run(batch.astype(np.float64))
    fake.refuse = True
    with pytest.raises(ExportError, match="OpenVINO: Unsupported operation$"):
        OpenVINOBackend(copied)


def test_devices_that_an_engine_does_not_have(made, monkeypatch):
    assert parse_context(mx.cpu(2)) == mx.cpu(2)
    with pytest.raises(ValueError, match="a predictor runs on one device"):
        parse_context("cpu:2")
    monkeypatch.setattr(backends, "parse_context", lambda ctx: mx.gpu(0))
    contents = sidecar.read_sidecar(made[1])
    problem = backends.obstacle("mxnet-fused", contents, "gpu:0")
    assert "runs on the CPU only, not on gpu:0" in str(problem)


def test_a_remembered_speed_of_engines_that_are_gone(made, monkeypatch):
    found = {"images_per_s": {"openvino": 9.0}}
    monkeypatch.setattr(backends, "_find", lambda *_: found)
    monkeypatch.setattr(backends, "candidates", lambda *_: ["mxnet"])
    assert Predictor(made[1], backend="auto").backend == backends.DEFAULT


def test_a_classifier_gives_no_embedding(made):
    with pytest.raises(ValueError, match="export 'tiny' gives no embedding"):
        Predictor(made[1]).embedding([np.zeros((20, 20, 3), np.uint8)])
