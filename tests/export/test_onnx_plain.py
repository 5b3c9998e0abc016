"""The rules that make an ONNX graph plain: what each operator becomes, and the numbers it gives."""

from __future__ import annotations

import collections

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from mxnet.gluon import nn

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_helpers import OPERATORS, agree, check_plain, run_onnxruntime  # noqa: E402

from gluon_attn.export import ExportError  # noqa: E402
from gluon_attn.export import onnx as onnx_model  # noqa: E402
from gluon_attn.export.graph import trace  # noqa: E402
from gluon_attn.export.onnx_passes import make_plain  # noqa: E402

CHANNELS, SIDE = 8, 7


class Net(gluon.HybridBlock):
    """A convolution, one function of its map, and a classifier.

    Args:
        function: ``(net, F, x)`` to the classifier's input, x being ``(B, 8, 6, 6)``.
    """

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self._function = function
        with self.name_scope():
            self.conv = nn.Conv2D(CHANNELS, 3, padding=1, strides=2, in_channels=3)
            self.reduce = nn.Dense(2, activation="relu", in_units=CHANNELS)
            self.expand = nn.Dense(CHANNELS, in_units=2)
            self.norm = nn.LayerNorm(in_channels=SIDE)
            self.head = nn.Dense(4)

    def gate(self, F, x, squeezed):
        """Return ``x`` weighted as squeeze-and-excitation does."""
        gate = F.sigmoid(self.expand(self.reduce(squeezed)))
        return F.broadcast_mul(x, F.reshape(gate, shape=(0, 0, 1, 1)))

    def hybrid_forward(self, F, x):
        return self.head(F.Flatten(self._function(self, F, self.conv(x))))


def convert(function, opset=13, kind=Net):
    """Return ``(model, images, logits)`` of a net; all its outputs are shaped as the logits."""
    net = kind(function)
    net.initialize(mx.init.Xavier())
    images = np.random.RandomState(0).normal(size=(3, 3, 2 * SIDE, 2 * SIDE)).astype(np.float32)
    outputs = net(mx.nd.array(images))
    logits = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
    logits, names = logits.asnumpy(), getattr(net, "output_names", ("logits",))
    symbol, arrays = trace(net, names)
    described = {"name": "m", "input": {"shape": ["batch", *images.shape[1:]]},
                 "outputs": [{"name": name, "shape": ["batch", 4]} for name in names]}  # fmt: skip
    return onnx_model.convert(symbol, arrays, described, opset), images, logits


def check(function, expected, opset=13):
    """Check the operators between the convolution and the classifier, and the numbers."""
    model, images, logits = convert(function, opset)
    found = collections.Counter(node.op_type for node in model.graph.node)
    found.subtract({"Conv": 1, "Gemm": 1})
    assert {op: n for op, n in found.items() if n} == expected
    check_plain(model, OPERATORS | set(expected))
    rows = (slice(0, 1), slice(0, 3))
    agree(
        model.SerializeToString(), [images[part] for part in rows],
        [{"logits": logits[part]} for part in rows],
    )  # fmt: skip


GATE = {"Flatten": 2, "Gemm": 2, "Relu": 1, "Sigmoid": 1, "Reshape": 1, "Mul": 1}
AVERAGE, MAXIMUM = {"GlobalAveragePool": 1, **GATE}, {"GlobalMaxPool": 1, **GATE}


def flat(F, x):
    return F.reshape(x, shape=(0, 0, -1))


def ones(F, x):
    return F.ones_like(F.slice_axis(x, axis=1, begin=0, end=1))


SQUEEZES = {
    "pooling": (
        lambda F, x: F.Pooling(x, global_pool=True, pool_type="avg", kernel=(1, 1)),
        AVERAGE,
    ),
    "adaptive": (lambda F, x: F.contrib.AdaptiveAvgPooling2D(x, output_size=1), AVERAGE),
    "mean": (lambda F, x: F.mean(x, axis=(2, 3)), AVERAGE),
    "mean, axes from the end": (lambda F, x: F.mean(x, axis=(-1, -2), keepdims=True), AVERAGE),
    "mean of rows": (lambda F, x: F.mean(flat(F, x), axis=2), AVERAGE),
    "maximum": (lambda F, x: F.max(x, axis=(2, 3)), MAXIMUM),
}


@pytest.mark.parametrize("opset", [12, 13])
@pytest.mark.parametrize("name", SQUEEZES)
def test_squeezing_is_one_pooling_however_it_is_written(name, opset):
    squeeze, expected = SQUEEZES[name]
    check(lambda net, F, x: net.gate(F, x, squeeze(F, x)), expected, opset)


def over_channels(net, F, x):
    """Maximum and mean of the channels by halving and by parts."""
    parts = list(F.split(x, num_outputs=4, axis=1))
    total, first, second = F.add_n(*parts) / 4, *F.split(x, num_outputs=2, axis=1)
    half = F.split(F.maximum(first, second), num_outputs=4, axis=1)
    high = F.maximum(F.maximum(*half[:2]), F.maximum(*half[2:]))
    return F.concat(F.mean(total, axis=1, keepdims=True), high, dim=1)


def mean_by_halving(net, F, x):
    for _ in range(3):
        first, second = F.split(x, num_outputs=2, axis=1)
        x = first + second
    return F.stack(F.squeeze(x * (1 / CHANNELS), axis=1), axis=1)


def softmax_by_hand(F, x, axis):
    power = F.exp(x)
    return F.broadcast_div(power, F.sum(power, axis=axis, keepdims=True))


def coordinates(F, x):
    """``(B, 1, H, W)``: the column, the same for all images."""
    return F.broadcast_mul(ones(F, x), F.reshape(F.arange(SIDE), shape=(1, 1, 1, SIDE)))


F1 = {"Flatten": 1}
FUNCTIONS = {
    "sum of one, two and four": (
        lambda net, F, x: F.add_n(F.add_n(x), F.add_n(x, x * 2), F.relu(x), x * 3),
        {"Mul": 2, "Relu": 1, "Add": 4, **F1},
    ),
    "views": (
        lambda net, F, x: F.reshape(
            F.expand_dims(F.squeeze(F.reshape(x, shape=(0, 1, 2, -1)), axis=1), axis=3),
            shape=(0, -1, 2, SIDE), reverse=True,
        ),
        F1,
    ),
    "nothing": (lambda net, F, x: F.Dropout(F.identity(F.BlockGrad(F.cast(x, "float32")))), F1),
    "+ 0, * 1": (
        lambda net, F, x: F.broadcast_mul((x + F.zeros_like(x) - 0) / 1, F.ones_like(x)), F1
    ),
    "1 - x": (lambda net, F, x: 1 - x, {"Sub": 1, **F1}),
    "constant map": (
        lambda net, F, x: x * (F.ones_like(x) * 3) + F.ones_like(x) / 2, {"Mul": 1, "Add": 1, **F1}
    ),
    "channel pools": (over_channels, {"ReduceMean": 1, "ReduceMax": 1, "Concat": 1, **F1}),
    "channel mean": (mean_by_halving, {"ReduceMean": 1, **F1}),
    "channel sum": (
        lambda net, F, x: F.add_n(*F.split(x, num_outputs=CHANNELS, axis=1)),
        {"ReduceSum": 1, **F1},
    ),
    "half of the channels": (
        lambda net, F, x: F.add_n(*F.split(x, num_outputs=CHANNELS, axis=1)[::2]),
        {"Split": 1, "Add": 3, **F1},
    ),
    "broadcast_like": (
        lambda net, F, x: x * F.broadcast_like(F.max(x, axis=1, keepdims=True), x),
        {"ReduceMax": 1, "Mul": 1, **F1},
    ),
    "broadcast_to with 0": (
        lambda net, F, x: x * F.broadcast_to(F.max(x, axis=1, keepdims=True), shape=(0, 8, 0, 0)),
        {"ReduceMax": 1, "Mul": 1, **F1},
    ),
    "tile": (
        lambda net, F, x: x * F.tile(F.max(x, axis=1, keepdims=True), reps=(1, CHANNELS, 1, 1)),
        {"ReduceMax": 1, "Mul": 1, **F1},
    ),
    "square": (lambda net, F, x: F.square(x) + x**2, {"Mul": 2, "Add": 1, **F1}),
    "softmax of the last axis": (
        lambda net, F, x: F.softmax(x, temperature=0.5), {"Div": 1, "Softmax": 1, **F1}
    ),
    "softmax by hand": (lambda net, F, x: softmax_by_hand(F, x, axis=1), {"Softmax": 1, **F1}),
    "softmax of two axes": (
        lambda net, F, x: softmax_by_hand(F, x, axis=(2, 3)),
        {"Exp": 1, "ReduceSum": 1, "Div": 1, **F1},
    ),
    "mean of what is no map": (
        lambda net, F, x: F.mean(F.softmax(flat(F, x)), axis=2),
        {"Reshape": 1, "Softmax": 1, "ReduceMean": 1},
    ),
    "slice_like": (
        lambda net, F, x: F.slice_like(
            F.Pad(x, mode="constant", pad_width=(0, 0, 0, 0, 1, 1, 0, 0)), x
        ),
        {"Pad": 1, "Slice": 1, **F1},
    ),
    "slice to the end": (
        lambda net, F, x: F.slice_axis(F.slice_axis(x, axis=-1, begin=2, end=None), 0, 0, None),
        {"Slice": 1, **F1},
    ),
    "resize": (
        lambda net, F, x: F.contrib.BilinearResize2D(x, height=31, width=4), {"Resize": 1, **F1}
    ),
    "rows of zeros": (
        lambda net, F, x: F.concat(x, F.zeros_like(x), dim=1),
        {"Clip": 1, "Concat": 1, **F1},
    ),
    "coordinates": (
        lambda net, F, x: F.concat(x, coordinates(F, x), dim=1),
        {"Slice": 1, "Clip": 1, "Add": 1, "Concat": 1, **F1},
    ),
    "attention between positions": (
        lambda net, F, x: F.batch_dot(
            flat(F, x), F.softmax(F.batch_dot(flat(F, x), flat(F, x), transpose_a=True))
        ),
        {"Reshape": 3, "Transpose": 1, "MatMul": 2, "Softmax": 1, **F1},
    ),
    "layer norm": (
        lambda net, F, x: net.norm(x),
        {"ReduceMean": 2, "Sub": 2, "Mul": 2, "Add": 1, "Sqrt": 1, "Div": 1, **F1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_becomes_of_an_operator(name):
    check(*FUNCTIONS[name])


@pytest.mark.parametrize("opset, extra", [(12, {"Transpose": 2}), (13, {})])
def test_softmax_of_another_axis_does_not_overflow(opset, extra):
    # the exporter writes exp(x) / sum(exp(x)), which is nan from 89 on
    expected = {"Mul": 1, "Softmax": 1, **extra, **F1}
    check(lambda net, F, x: F.softmax(x * 1000, axis=1), expected, opset)


def numbers_only(function, least):
    """Check the numbers of a graph that cannot become plain; it has at least these operators."""
    model, images, logits = convert(function)
    assert least <= {node.op_type for node in model.graph.node}
    found = run_onnxruntime(model.SerializeToString(), [images], ["logits"])[0][0]
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-5)


def test_what_joins_batch_and_channels_keeps_its_numbers():
    def rows(net, F, x):
        flat_rows = F.softmax(F.reshape(x, shape=(-1, SIDE**2)), axis=-1)
        return F.reshape(flat_rows, shape=(-1, CHANNELS, SIDE, SIDE))

    numbers_only(rows, {"Reshape", "Softmax"})


def test_sizes_of_a_doubled_batch_stay_computed():
    def first_half(net, F, x):
        return F.slice_like(F.concat(x, F.relu(x), dim=0), x, axes=(0,))

    def larger(net, F, x):
        twice = F.contrib.BilinearResize2D(F.concat(x, x, dim=0), height=9, width=9)
        return F.reshape(twice, shape=(-1, 2 * CHANNELS * 81))

    numbers_only(first_half, {"Shape", "Slice", "Concat"})
    with pytest.raises(ExportError, match="no ONNX model .*Resize"):  # as the exporter writes it
        convert(larger)


def test_a_repetition_over_the_batch_stays():
    def first_for_all(net, F, x):
        return F.relu(F.broadcast_like(F.slice_axis(x, axis=0, begin=0, end=1), x))

    numbers_only(first_for_all, {"Shape", "Expand", "Relu"})


def test_numbers_of_weights_are_not_looked_at():
    class Weighted(Net):
        def __init__(self, function, **kwargs):
            super().__init__(function, **kwargs)
            with self.name_scope():
                self.share = self.params.get(
                    "share", shape=(SIDE**2, 1), init=mx.init.Constant(1 / SIDE**2)
                )
                self.scale = self.params.get("scale", shape=(1, CHANNELS, 1, 1), init="ones")

        def hybrid_forward(self, F, x, share, scale):
            x = F.broadcast_mul(self.conv(x), scale)
            rows = F.reshape(x, shape=(-1, SIDE**2))
            return self.head(F.reshape(F.dot(rows, share), shape=(-1, CHANNELS)))

    model, _, _ = convert(None, kind=Weighted)
    found = [node.op_type for node in model.graph.node]
    assert "Mul" in found and "MatMul" in found and "GlobalAveragePool" not in found
    assert {"share", "scale"} <= {weight.name for weight in model.graph.initializer}


def test_outputs_that_are_the_same_tensor_keep_their_names():
    class Twice(Net):
        output_names = ("logits", "attention_a", "attention_b")

        def hybrid_forward(self, F, x):
            logits = self.head(F.Flatten(self.conv(x)))
            return logits, F.identity(F.Dropout(logits)), F.identity(logits)

    model, images, logits = convert(None, kind=Twice)
    check_plain(model, OPERATORS | {"Identity"})
    names = [output.name for output in model.graph.output]
    assert names == list(Twice.output_names)
    agree(model.SerializeToString(), [images], [dict.fromkeys(names, logits)])


def model_of(nodes, output, constants):
    """Return a model written by hand: data ``(batch, 3, 4, 4)`` to y.

    Args:
        nodes: ``(operator, inputs, output)`` or with a dict of attributes behind.
        output: Shape of y.
        constants: ``{name: array}``.
    """
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    made = [helper.make_node(op, i, [o], **(rest[0] if rest else {})) for op, i, o, *rest in nodes]
    graph = helper.make_graph(
        made, "m", [helper.make_tensor_value_info("data", kind, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("y", kind, output)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    return model


BY_HAND = {
    "sum of what is broadcast": (
        [("ReduceMax", ["data"], "a", {"axes": [1]}), ("ReduceMax", ["data"], "b", {"axes": [2]}),
         ("Sum", ["a", "b", "a"], "y")],
        ["batch", 3, 4, 4], {}, {"Sum"},
    ),
    "products between images": (
        [("Flatten", ["data"], "rows"), ("Transpose", ["rows"], "columns"),
         ("MatMul", ["rows", "columns"], "square"), ("Unsqueeze", ["square", "two"], "y")],
        ["batch", "batch", 1], {"two": np.array([2])}, {"MatMul", "Unsqueeze"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_what_no_rule_fits_stays(name):
    nodes, output, constants, kept = BY_HAND[name]
    model = model_of(nodes, output, constants)
    before = model.SerializeToString()
    make_plain(onnx, model, ())
    onnx.checker.check_model(model, full_check=True)
    assert kept <= {node.op_type for node in model.graph.node}
    images = np.random.RandomState(0).normal(size=(3, 3, 4, 4)).astype(np.float32)
    old, new = (
        run_onnxruntime(raw, [images], ["y"])[0][0] for raw in (before, model.SerializeToString())
    )
    np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)


def test_a_graph_with_a_body_is_left_alone():
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    body = helper.make_graph(
        [helper.make_node("Identity", ["data"], ["same"])], "body", [],
        [helper.make_tensor_value_info("same", kind, ["batch", 3, 4, 4])],
    )  # fmt: skip
    branches = {"then_branch": body, "else_branch": body}
    model = model_of(
        [("If", ["yes"], "y", branches)], ["batch", 3, 4, 4], {"yes": np.array(True)}
    )  # fmt: skip
    before = model.SerializeToString()
    make_plain(onnx, model, ())
    assert model.SerializeToString() == before


def test_a_long_sum_is_a_long_chain():
    def many(net, F, x):
        return F.add_n(*[x * (k + 1) for k in range(300)]) / 300

    model, _, _ = convert(many)
    found = collections.Counter(node.op_type for node in model.graph.node)
    assert found["Add"] == 299 and found["Mul"] == 299 and "Sum" not in found
