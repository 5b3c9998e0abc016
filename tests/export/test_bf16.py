"""bfloat16: the converted graph and its files; running it needs AVX-512, and is skipped without."""

from __future__ import annotations

import os

import mxnet as mx
import numpy as np
import pytest
from export_helpers import CLASSES, Net, export, images, make_net
from int8_helpers import operators
from mxnet import gluon
from test_zoo import SIZE, small

from gluon_attn.env import cpu as _cpu
from gluon_attn.export import ExportError, load_exported, precision
from gluon_attn.export import graph as graphs
from gluon_attn.export.precision import BFLOAT16, Bf16Variant, to_bfloat16
from gluon_attn.export.writer import add_variants, write_files
from gluon_attn.runtime import has_avx512

ABLE = has_avx512()
needs_avx512 = pytest.mark.skipif(not ABLE, reason="oneDNN has no bfloat16 without AVX-512")


def rounded(values):
    """Round float32 to bfloat16, to the nearest and ties to even; as float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    upper = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return (upper << 16).astype(np.uint32).view(np.float32).reshape(values.shape)


def as_float(array):
    """Return a bfloat16 NDArray as float32."""
    bits = np.ascontiguousarray(array.asnumpy()).view(np.uint16).astype(np.uint32) << 16
    return bits.view(np.float32).reshape(array.shape)


def converted(name):
    net = small(name)
    names = ("logits", *net.attention_outputs)
    symbol, arrays = graphs.trace(net, names)
    contents = {"input": {"shape": [None, 3, SIZE, SIZE]}}
    contents["outputs"] = [{"name": name} for name in names]
    return names, arrays, to_bfloat16(symbol, arrays, contents)


# --- conversion ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet50_v1b", "vaa_resnet18_w16_synthetic"])
def test_weights_are_rounded_to_nearest_and_the_rest_is_untouched(name):
    _, arrays, (_, params) = converted(name)
    kinds = {True: 0, False: 0}
    for key, value in params.items():
        low = value.dtype == BFLOAT16
        kinds[low] += 1
        # Weights and biases of convolutions and dense layers, nothing of a batch-norm, and not the
        # first convolution, of three channels.
        odd = value.ndim == 4 and value.shape[1] % 2 == 1
        assert low == (key.endswith((".weight", ".bias")) and not odd), key
        expected = arrays[key].asnumpy()
        found = as_float(value) if low else value.asnumpy()
        np.testing.assert_array_equal(found, rounded(expected) if low else expected)
        assert arrays[key].dtype == np.float32  # what was given is left alone
    assert min(kinds.values()) > 20


def test_files_keep_casts_and_types_for_plain_mxnet(tmp_path):
    names, arrays, (graph, params) = converted("vaa_resnet18_w16_synthetic")
    files = write_files(tmp_path, "x-bf16", graph, params, prefix="bf16_")
    assert files == {"bf16_symbol": "x-bf16-symbol.json", "bf16_params": "x-bf16-0000.params"}
    paths = [str(tmp_path / file) for file in files.values()]
    again = mx.sym.load(paths[0])
    assert [n["op"] for n in operators(again)] == [n["op"] for n in operators(graph)]
    assert again.infer_type(data=np.float32)[1] == [np.float32] * len(names)
    block = gluon.SymbolBlock.imports(paths[0], ["data"], paths[1])
    types = {name: parameter.dtype for name, parameter in block.collect_params().items()}
    for key, value in params.items():
        assert np.dtype(types[key.split(":")[1]]) == np.dtype(value.dtype)
    size = sum(4 * array.size for array in arrays.values())
    assert os.path.getsize(paths[1]) < 0.6 * size


# --- refusal -------------------------------------------------------------------------------------


def test_loading_asks_for_the_processor_first(monkeypatch):
    monkeypatch.setattr(_cpu, "read_flags", lambda path: {"avx2"})
    with pytest.raises(ExportError, match=r"bf16 needs a processor with AVX-512"):
        precision.require_cpu("bf16")
    monkeypatch.setattr(_cpu, "read_flags", lambda path: set(_cpu.AVX512))
    precision.require_cpu("bf16")


def test_negative_budget():
    with pytest.raises(ValueError, match="max_drop -1"):
        Bf16Variant(max_drop=-1)


# --- running it ----------------------------------------------------------------------------------


@needs_avx512
def test_variant_is_measured_written_and_loaded(tmp_path):
    net = make_net(kind=Net)
    expected = net(images(16))[0].asnumpy()

    def score(run):  # 100 for the float32 logits
        return 100 * np.corrcoef(run(images(16).asnumpy()).ravel(), expected.ravel())[0, 1]

    directory = export(net, tmp_path / "x", variants=[Bf16Variant(score)])
    block, sidecar = load_exported(directory, precision="bf16")
    entry = sidecar["bf16"]
    assert entry["drop"] <= entry["max_drop"] == 0.1
    assert entry["parity"]["max_abs_diff"] <= entry["parity"]["tolerance"]
    assert graphs.logits_of(block, images(3).asnumpy()).shape == (3, len(CLASSES))
    with pytest.raises(ExportError, match="bf16 loses 50.00 points"):
        left = [100, 50]
        add_variants(directory, [Bf16Variant(lambda run: left.pop(0))])
