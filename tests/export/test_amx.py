"""Exports where AMX is on: no convolution goes to the kernel of oneDNN that leaves its memory."""

from __future__ import annotations

import os
import sys

import mxnet as mx
import numpy as np
import pytest
from export_helpers import PREPROCESS
from int8_helpers import built, noise
from mxnet.gluon import nn
from process_helpers import run_python

from gluon_attn.core.files import sha256_of
from gluon_attn.env import cpu as _cpu
from gluon_attn.export import export_model, load_exported
from gluon_attn.export import graph as graphs
from gluon_attn.export.int8 import Int8Variant
from gluon_attn.export.precision import Bf16Variant
from gluon_attn.export.sidecar import read_sidecar, write_sidecar
from gluon_attn.runtime import has_avx512

OVERRUN, WHOLE = (6, 6), (8, 8)  # maps of three tiles and of four
FORMS = ("int8", "bf16") if has_avx512() else ("int8",)


def make_net(size):
    """Return 3×3, 1×1 with a fused ReLU, 1×1 of stride 2 and 1×1 on a smaller map."""
    mx.random.seed(0)
    net = nn.HybridSequential()
    net.add(nn.Conv2D(32, 3, padding=1, in_channels=3, activation="relu"))
    net.add(nn.Conv2D(64, 1, activation="relu"), nn.Conv2D(32, 1, strides=2), nn.Conv2D(32, 1))
    net.add(nn.GlobalAvgPool2D(), nn.Dense(4))
    return built(net, noise(1, size=size))


def export(directory, size):
    images = noise(8, size=size)
    variants = [Int8Variant(images, lambda run: 1.0, modes=("naive",)), Bf16Variant()]
    with pytest.MonkeyPatch.context() as patch:  # another process; test_int8 has it
        patch.setattr("gluon_attn.export.parity.check_parity", lambda *a, **k: {})
        preprocess = {"mean": PREPROCESS["mean"], "std": PREPROCESS["std"]}
        return export_model(
            make_net(size), directory, "x", tuple("abcd"), size, preprocess, check=False,
            variants=variants[: len(FORMS)],
        )  # fmt: skip


@pytest.fixture
def with_amx(monkeypatch):
    monkeypatch.setattr(graphs, "amx_is_on", lambda: True)


def dilations(symbol):
    """Return the kernel, stride and dilation of the convolutions of a graph, fused or not."""
    nodes = graphs.nodes_of(symbol)
    nodes += [part for n in nodes for inner in n.get("subgraphs", ()) for part in inner["nodes"]]
    parts = [node["attrs"] for node in nodes if node["op"] == "Convolution"]
    return [(part["kernel"], part["stride"], part["dilate"]) for part in parts]


ONE, TWO, THREE = "(1, 1)", "(2, 2)", "(3, 3)"
EXPECTED = [(THREE, ONE, ONE), (ONE, ONE, TWO), (ONE, TWO, ONE), (ONE, ONE, ONE)]


def test_forms_avoid_the_kernel_and_keep_their_numbers(tmp_path, with_amx):
    directory = export(tmp_path / "x", OVERRUN)
    batch = noise(3, seed=1, size=OVERRUN)
    plain = load_exported(directory)[0]
    expected = graphs.logits_of(graphs.static(plain), batch)
    assert all(part[2] == ONE for part in dilations(plain(mx.sym.var("data"))))
    for form in FORMS:
        path = directory / f"x-{form}-symbol.json"
        assert dilations(graphs.load_symbol(path.read_bytes())) == EXPECTED
        block = graphs.static(load_exported(directory, precision=form)[0])
        error = np.abs(graphs.logits_of(block, batch) - expected).max() / np.abs(expected).max()
        assert error < {"int8": 0.05, "bf16": 0.02}[form]
        # As an earlier version wrote it, or a machine without AMX.
        path.write_text(path.read_text().replace(f'"dilate": "{TWO}"', f'"dilate": "{ONE}"'))
        assert TWO not in {part[2] for part in dilations(mx.sym.load(str(path)))}
        sidecar = read_sidecar(directory)
        sidecar["files"][f"{form}_symbol"].update(sha256=sha256_of(path), bytes=path.stat().st_size)
        write_sidecar(directory, sidecar)
        again = graphs.static(load_exported(directory, precision=form)[0])
        np.testing.assert_array_equal(
            graphs.logits_of(again, batch), graphs.logits_of(block, batch)
        )


def test_other_graphs_stay(with_amx, monkeypatch):
    symbol = graphs.fuse(graphs.trace(make_net(WHOLE), ("logits",))[0])
    assert dilations(graphs.avoid_overruns(symbol, (3, *WHOLE))) == dilations(symbol)
    assert dilations(graphs.avoid_overruns(symbol, (3, *OVERRUN))) == EXPECTED
    for remembered in ([], [_cpu.AmxState("off", "")]):
        monkeypatch.setattr(_cpu, "_remembered", remembered)
        monkeypatch.setattr(graphs, "amx_is_on", _cpu.amx_is_on)
        assert graphs.avoid_overruns(symbol, (3, *OVERRUN)) is symbol


PROGRAM = """
import test_amx
from gluon_attn.export import graph, load_exported
made = test_amx.export(sys.argv[1], test_amx.OVERRUN)
for form in test_amx.FORMS:
    block = load_exported(made, precision=form)[0]
    graph.logits_of(graph.static(block), test_amx.noise(2, size=test_amx.OVERRUN))
"""


@pytest.mark.skipif(not _cpu.amx_is_on(), reason="needs a processor with AMX")
def test_with_amx_onednn_takes_another_kernel(tmp_path):
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = dict(os.environ, DNNL_VERBOSE="1", OMP_NUM_THREADS="1", PYTHONPATH=paths)
    code, out, err = run_python(PROGRAM, tmp_path / "x", env=environment)
    lines = [line.split(",") for line in out.splitlines() if "oh6kh1sh1" in line]
    found = {line[4] for line in lines}  # of 1×1 convolutions on maps of three tiles
    assert code == 0 and any("amx" in name for name in found), err[-2000:]
    assert not any(name.startswith("jit_1x1:avx512_core_amx") for name in found)
