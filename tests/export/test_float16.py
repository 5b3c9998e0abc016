"""float16 on a GPU: what can be known of it without one: types, rounding, and who is refused."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from gluon_attn.export import Predictor, export_model, load_exported
from gluon_attn.export import graph as graphs
from gluon_attn.export.precision import to_float16
from model_zoo import get_model

PREPROCESS = {"mean": (120, 120, 120), "std": (60, 60, 60), "resize": 36, "crop": 32}
NETS = {
    "resnet18_v1": {"width": 8, "classes": 3},
    "resnet50_v1b": {"width": 8, "classes": 3},
    "vaa_resnet18_w16_synthetic": {"width": 8, "classes": 3},
    "awmt_resnet50": {"width": 8, "classes": 3},
}


def small(name):
    mx.random.seed(0)
    net = get_model(name, input_size=32, **NETS[name])
    net.initialize(mx.init.Xavier(magnitude=2))
    net(mx.nd.zeros((1, 3, 32, 32)))
    return net


@pytest.mark.parametrize("name", NETS)
def test_types_of_the_graph(name):
    net = small(name)
    names = tuple(getattr(net, "output_names", ("logits",)))
    symbol, arrays = graphs.trace(net, names)
    half, halved = to_float16(symbol, arrays)
    arguments, outputs, states = half.infer_type(data="float32")
    types = dict(zip(half.list_arguments(), map(np.dtype, arguments)))
    assert types.pop("data") == np.float32
    assert {np.dtype(kind) for kind in (*outputs, *states)} == {np.dtype("float32")}
    for key, kind in types.items():
        norm = key.endswith((".gamma", ".beta"))
        assert kind == (np.float32 if norm else np.float16), key
        assert halved[f"arg:{key}"].dtype == kind, key
    internal = half.get_internals()
    _, found, _ = internal.infer_type(data="float32")
    kinds = dict(zip(internal.list_outputs(), map(np.dtype, found)))
    convolutions = [k for k in kinds if "conv" in k and k.endswith("fwd_output")]
    assert all(kinds[key] == np.float16 for key in convolutions)
    assert len(half.list_outputs()) == len(symbol.list_outputs())


def test_shapes_stay_and_weights_are_rounded_once():
    net = small("resnet18_v1")
    symbol, arrays = graphs.trace(net, ("logits",))
    half, halved = to_float16(symbol, arrays)
    assert half.infer_shape(data=(5, 3, 32, 32))[1] == symbol.infer_shape(data=(5, 3, 32, 32))[1]
    for key, array in arrays.items():
        rounded = array.asnumpy().astype(halved[key].dtype)
        np.testing.assert_array_equal(halved[key].asnumpy(), rounded)


def test_refused_on_the_cpu(tmp_path):
    export_model(
        small("resnet18_v1"), tmp_path / "x", "tiny", ("a", "b", "c"), 32, PREPROCESS, check=False
    )
    with pytest.raises(ValueError, match="fp16 runs on a GPU only; on the CPU use fp32"):
        load_exported(tmp_path / "x", precision="fp16")
    with pytest.raises(ValueError, match="backend 'mxnet-fp16' runs on a GPU only"):
        Predictor(tmp_path / "x", backend="mxnet-fp16")


@pytest.mark.gpu
@pytest.mark.skipif(not mx.context.num_gpus(), reason="needs a GPU that the MXNet wheel supports")
def test_numbers_on_a_gpu(tmp_path):
    net = small("resnet18_v1")
    export_model(net, tmp_path / "x", "tiny", ("a", "b", "c"), 32, PREPROCESS, check=False)
    data = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    block, _ = load_exported(tmp_path / "x", mx.gpu(0), precision="fp16")
    found = block(mx.nd.array(data, ctx=mx.gpu(0))).asnumpy()
    expected = net(mx.nd.array(data)).asnumpy()
    assert np.abs(found - expected).max() <= 0.02 * max(1, np.abs(expected).max())
