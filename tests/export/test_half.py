"""float16 ONNX files: what computes in which precision, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from export_helpers import export, make_net

from gluon_attn.export import ExportError, sidecar
from gluon_attn.export.writer import add_variants

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from gluon_attn.export import onnx as onnx_model  # noqa: E402
from gluon_attn.export.onnx import OnnxVariant  # noqa: E402
from gluon_attn.export.onnx_half import halve, halve_weights, observable  # noqa: E402
from gluon_attn.export.onnx_session import open_onnx_session  # noqa: E402
from gluon_attn.tasks.forms import Forms, check_forms, summary  # noqa: E402

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def model_of(body, **weights):
    """Return a model from ``data`` (B, 2, 4, 4) to ``logits`` of the same shape."""
    text = '<ir_version: 7, opset_import: ["" : 13]> g (float[batch, 2, 4, 4] data) => '
    model = onnx.parser.parse_model(f"{text}(float[batch, 2, 4, 4] logits) {{ {body} }}")
    arrays = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in arrays.items())
    return model


def norm(**values):
    values = {"gamma": [0.5, 2.0], "beta": [1.0, -1.0], "mean": [0.1, 0.2], "var": [4, 9], **values}
    return values


DATA = np.random.RandomState(0).normal(size=(3, 2, 4, 4)).astype(np.float32)
WEIGHT = np.random.RandomState(1).normal(size=(2, 2, 1, 1)).astype(np.float32)
NORM = "BatchNormalization (x, gamma, beta, mean, var)"


def outputs(model, data=DATA):
    """Return the logits as an engine gives them that rounds every tensor."""
    for form in (model, observable(onnx, model)):
        onnx.checker.check_model(form, full_check=True)
    session = open_onnx_session(form.SerializeToString(), optimize=False)
    return session.run(["logits"], {"data": data})[0]


def types(model):
    """Return the type of the first input and of the output of each operator."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*inferred.input, *inferred.value_info)}
    found.update((value.name, value.type.tensor_type.elem_type) for value in inferred.output)
    found.update((weight.name, weight.data_type) for weight in inferred.initializer)
    return {n.op_type: (found[n.input[0]], found[n.output[0]]) for n in model.graph.node}


@pytest.mark.parametrize("body, weights, single", [
    ("logits = Conv (data, w)", {"w": WEIGHT}, ()),
    ("logits = Conv (data, w, b)", {"w": WEIGHT, "b": [1, 2]}, ()),
    (f"x = Conv (data, w) logits = {NORM}", norm(w=WEIGHT), ()),
    (f"x = Conv (data, w, b) y = {NORM} logits = Relu (y)", norm(w=WEIGHT, b=[3, 4]), ()),
    # no convolution before it, or one that is read elsewhere too
    (f"x = Relu (data) logits = {NORM}", norm(), ("BatchNormalization",)),
    (f"x = Conv (data, w) y = {NORM} logits = Add (x, y)", norm(w=WEIGHT),
     ("BatchNormalization",)),
    (f"x = Conv (data, w) y = {NORM} z = Mul (y, shared) logits = Add (z, shared)",
     norm(w=WEIGHT, shared=np.full((1, 2, 1, 1), 1.5)), ()),
    # a weight that is read in both precisions
    (f"x = Relu (data) y = {NORM} logits = Conv (y, w, beta)", norm(w=WEIGHT),
     ("BatchNormalization",)),
])  # fmt: skip
def test_numbers_and_types(body, weights, single):
    model = model_of(body, **weights)
    expected = outputs(model)
    halve(onnx, model)
    found = outputs(model)
    np.testing.assert_allclose(found, expected, rtol=4e-3, atol=4e-3)
    assert found.dtype == np.float32 and np.abs(found - expected).max() > 0
    kinds = types(model)
    cast = kinds.pop("Cast")
    assert cast in ((FLOAT, HALF), (HALF, FLOAT))
    wanted = {op: ((FLOAT, FLOAT) if op in single else (HALF, HALF)) for op in kinds}
    assert kinds == wanted and set(single) <= set(kinds)
    kept = {w.name for w in model.graph.initializer if w.data_type == FLOAT}
    assert kept == ({"gamma", "beta", "mean", "var"} if single else set())
    assert len({w.name for w in model.graph.initializer}) == len(model.graph.initializer)


def test_folded_norm_is_exact_before_it_is_rounded():
    """Weights that float16 holds, and a norm that multiplies by powers of two."""
    values = norm(w=np.eye(2).reshape(2, 2, 1, 1), gamma=[2, 4], var=[1, 4], mean=[0, 0])
    model = model_of(f"x = Conv (data, w) logits = {NORM[:-1]})".replace("BatchNormalization",
                     "BatchNormalization <epsilon = 0.0>"), **values)  # fmt: skip
    data = DATA.astype(np.float16).astype(np.float32)
    halve(onnx, model)
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    arrays = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    np.testing.assert_array_equal(arrays[conv.input[1]].reshape(2, 2), 2 * np.eye(2))
    np.testing.assert_array_equal(arrays[conv.input[2]], [1, -1])
    wanted = 2 * data + np.array([1, -1]).reshape(1, 2, 1, 1)
    np.testing.assert_allclose(outputs(model, data), wanted, rtol=1e-3, atol=1e-3)


def test_squares_up_to_their_root_are_float32():
    """The root of a mean of squares: of 1000 the square is above the largest float16."""
    body = "a = Mul (data, data) b = GlobalAveragePool (a) c = Add (b, tiny) d = Sqrt (c)"
    model = model_of(f"{body} logits = Mul (d, ones)", ones=np.ones((1, 2, 4, 4)), tiny=[1e-9])
    halve(onnx, model)
    np.testing.assert_allclose(outputs(model, 1000 * DATA), outputs(model) * 1000, rtol=2e-3)
    kinds = types(model)
    assert kinds["GlobalAveragePool"] == kinds["Add"] == kinds["Sqrt"] == (FLOAT, FLOAT)


def test_scales_of_a_resize_stay_as_they_are():
    body = 'logits = Resize <mode = "nearest"> (data, , scales)'
    model = model_of(body, scales=[1, 1, 1, 1])
    halve(onnx, model)
    np.testing.assert_allclose(outputs(model), DATA, rtol=1e-3, atol=1e-3)
    assert [w.data_type for w in model.graph.initializer] == [FLOAT]


def test_output_that_is_read_again():
    model = model_of("logits = Relu (data) unread = Neg (logits)")
    model.graph.output.append(onnx.helper.make_tensor_value_info("unread", FLOAT, None))
    halve(onnx, model)
    raw = observable(onnx, model).SerializeToString()
    first, second = open_onnx_session(raw, optimize=False).run(["logits", "unread"], {"data": DATA})
    np.testing.assert_array_equal(first, np.maximum(DATA, 0).astype(np.float16))
    np.testing.assert_array_equal(second, -first)


def test_weights_alone():
    model = model_of("x = Conv (data, w, b) logits = Relu (x)", w=1e6 * WEIGHT, b=[0.1, 1e6])
    halve_weights(onnx, model, above=2)
    assert {w.name: w.data_type for w in model.graph.initializer} == {"w_float16": HALF, "b": FLOAT}
    rounded = np.clip(1e6 * WEIGHT, -65504, 65504).reshape(2, 2)
    wanted = np.einsum("oi,bihw->bohw", rounded, DATA)
    wanted += np.array([0.1, 1e6]).reshape(1, 2, 1, 1)
    np.testing.assert_allclose(outputs(model), np.maximum(wanted, 0), rtol=1e-3)


def test_loops_are_refused():
    body = "x = If (yes) <then_branch = t () => (float y) { y = Constant <value_float = 1.0> () },"
    body += " else_branch = e () => (float z) { z = Constant <value_float = 2.0> () }>"
    model = model_of(f"{body} logits = Mul (data, x)")
    with pytest.raises(ExportError, match="g: a net with loops has no float16 form"):
        halve(onnx, model)


# --- the form of an export -----------------------------------------------------------------------


def test_file_entry_and_replacement(tmp_path):
    directory = export(
        make_net(), tmp_path / "x", with_maps=True, variants=[OnnxVariant(half=True)]
    )
    contents = sidecar.read_sidecar(directory)
    assert contents["files"]["onnx_fp16"]["file"] == "tiny-fp16.onnx"
    entry = contents["onnx"]["fp16"]
    assert 0 < entry["max_abs_diff"] <= entry["tolerance"] == onnx_model.HALF_TOLERANCE
    assert entry["batch"] == [1, 2, 3]
    (line,) = (line for line in summary(directory) if line.startswith("onnx:"))
    assert line.endswith(f"; in float16 {entry['max_abs_diff']:.2e}")
    raw = (directory / "tiny-fp16.onnx").read_bytes()
    model = onnx.load_from_string(raw)
    onnx.checker.check_model(model, full_check=True)
    assert {
        o.name: [d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim]
        for o in model.graph.output
    } == {o["name"]: o["shape"] for o in contents["outputs"]}
    add_variants(directory, [OnnxVariant(half=True)])
    assert (directory / "tiny-fp16.onnx").read_bytes() == raw
    add_variants(directory, [OnnxVariant()])
    assert not (directory / "tiny-fp16.onnx").exists()
    assert "fp16" not in sidecar.read_sidecar(directory)["onnx"]


def test_net_that_exceeds_float16_is_refused(tmp_path):
    net = make_net()
    norm = net.stem.norm
    norm.gamma.set_data(norm.gamma.data() * 1e6)  # and the head divides by as much
    net.score.weight.set_data(net.score.weight.data() / 1e6)
    net.plain.weight.set_data(net.plain.weight.data() / 1e6)
    with pytest.raises(ExportError, match="tiny: float16 differs from float32 by (nan|inf|[0-9])"):
        export(net, tmp_path / "x", variants=[OnnxVariant(half=True)])
    assert list(tmp_path.iterdir()) == []
    export(net, tmp_path / "x", variants=[OnnxVariant()])


def test_half_alone_is_refused():
    with pytest.raises(ValueError, match="--fp16 needs --onnx"):
        check_forms(Forms(fp16=True))
