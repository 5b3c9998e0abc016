"""What an ONNX file of this package looks like, and how its engines are run in tests."""

from __future__ import annotations

import importlib.util

import cv2
import numpy as np
import onnx

from gluon_attn.blocks import eca, srm
from gluon_attn.blocks.gates import ChannelGate, global_max, global_mean

BATCH = "batch"
# What the graphs of the zoo may consist of; all of it is in operator set 12 as well as in 13.
OPERATORS = {
    "Add", "BatchNormalization", "Clip", "Concat", "Conv", "ConvTranspose", "Div", "Flatten",
    "Gemm", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Mul", "Pad", "ReduceMax",
    "ReduceMean", "Relu", "Reshape", "Sigmoid", "Softmax", "Split", "Sqrt", "Sub", "Transpose",
}  # fmt: skip
# How many means and maxima of whole channels a module takes.
MEANS = {eca.ECAGate: 1, srm.SRMGate: 2}


def tensors(model):
    """Return ``{name: dimensions}`` of the input and of every output of a node."""
    graph = model.graph
    return {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.value_info, *graph.output]
    }


def check_plain(model, operators=OPERATORS):
    """Check that nothing in a graph is more than an engine must know, and all shapes are there."""
    onnx.checker.check_model(model, full_check=True)
    graph, shapes = model.graph, tensors(model)
    weights = {weight.name: weight for weight in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    assert {node.op_type for node in graph.node} <= operators
    assert [value.name for value in graph.input] == ["data"]
    assert len(weights) == len(graph.initializer)
    assert set(weights) <= {name for node in graph.node for name in node.input}
    for name in made:
        assert shapes[name][0] == BATCH, (name, shapes[name])
        assert all(isinstance(size, int) and size > 0 for size in shapes[name][1:]), name
    for node in graph.node:
        if node.op_type in ("Add", "Sub", "Mul", "Div", "Max"):
            assert len(node.input) == 2, node.name
        if node.op_type in ("Reshape", "Flatten"):
            source, target = shapes[node.input[0]], shapes[node.output[0]]
            assert source != target
            before = made.get(node.input[0])
            assert before is None or before.op_type not in ("Reshape", "Flatten")
        if node.op_type == "Reshape":
            sizes = onnx.numpy_helper.to_array(weights[node.input[1]]).tolist()
            assert sizes == [0, *target[1:]]
        if node.op_type == "BatchNormalization":
            assert len(node.output) == 1
            assert not any(a.name == "training_mode" for a in node.attribute)


def check_pools(model, net):
    """Check that every mean and every maximum of whole channels is one operator."""
    means, maxima = [], []

    def count(block):
        pools = block._pools if isinstance(block, ChannelGate) else ()
        means.append(MEANS.get(type(block), 0) + pools.count(global_mean))
        maxima.append(pools.count(global_max))

    net.apply(count)
    head = "vgg" not in type(net).__name__.lower()  # pooling before the classifier
    found = [node.op_type for node in model.graph.node]
    assert found.count("GlobalAveragePool") == sum(means) + head
    assert found.count("GlobalMaxPool") == sum(maxima)


def run_opencv(raw, batches, names):
    """Return the outputs of OpenCV's DNN module: a list for each batch, by a net of its own."""
    return [run_opencv_unfused(raw, [images], names, fusion=True)[0] for images in batches]


def run_opencv_unfused(raw, batches, names, fusion=False):
    """Return its outputs by one net for all batches; with fusion, one batch size spoils another."""
    net = cv2.dnn.readNetFromONNX(np.frombuffer(raw, np.uint8))
    net.enableFusion(fusion)
    results = []
    for images in batches:
        net.setInput(images)
        results.append(net.forward(list(names)))
    return results


def run_onnxruntime(raw, batches, names):
    """Return the outputs of ONNX Runtime: a list for each batch, by one session."""
    import onnxruntime

    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    return [session.run(list(names), {"data": images}) for images in batches]


def run_openvino(raw, batches, names):
    """Return the outputs of OpenVINO: a list for each batch, by one request."""
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = core.compile_model(core.read_model(raw), "CPU", options).create_infer_request()
    results = [request.infer({"data": images}) for images in batches]
    return [[np.array(result[name]) for name in names] for result in results]


ENGINES = {
    "onnxruntime": run_onnxruntime, "opencv": run_opencv, "opencv unfused": run_opencv_unfused
}  # fmt: skip
if importlib.util.find_spec("openvino"):
    ENGINES["openvino"] = run_openvino


def agree(raw, batches, expected, tolerance=1e-5):
    """Check that every engine gives the expected outputs.

    Args:
        raw: The model's bytes.
        batches: List of float32 arrays.
        expected: For each batch a dict by output.
        tolerance: Largest difference, of max(1, |value|).
    """
    for engine, run in ENGINES.items():
        for found, wanted in zip(run(raw, batches, expected[0]), expected):
            for values, (name, right) in zip(found, wanted.items()):
                assert values.shape == right.shape and values.dtype == np.float32, (engine, name)
                scaled = np.abs(values - right) / np.maximum(1, np.abs(right))
                assert scaled.max() <= tolerance, (engine, name, len(values))
