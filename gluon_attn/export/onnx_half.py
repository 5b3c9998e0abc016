"""An ONNX model in half precision: its weights alone, or its activations too; weights in int8.

Weights alone halve or quarter the file; engines turn them back when they load it and compute in
float32 (the page for browsers). With activations the net computes in float16, several times as fast
on a GPU. Three things stay float32: inputs and outputs; batch-norms, of which those behind a
convolution become a part of its weights before these are rounded; and what lies between a square
and its root, since a square exceeds 65504, the largest float16, soon.

The converters of other packages (onnxconverter-common, onnxruntime.transformers) fold no
batch-norm: each would stand between two casts, which cost more than half precision gains.
"""

from __future__ import annotations

import collections
from typing import Any, Callable

import numpy as np

from gluon_attn.export.onnx_graph import has_loops, infer, refill
from gluon_attn.export.sidecar import ExportError

LARGEST = 65504  # finite number of float16
SINGLE = {"BatchNormalization", "Cast", "Sqrt"}  # operators that compute in float32
SCALES = {("Resize", 1), ("Resize", 2)}  # inputs that are float32 by definition
HALF = "_float16"  # end of the name of a tensor in float16


def halve_weights(onnx: Any, model: Any, above: int) -> None:
    """Store the float32 weights of more than ``above`` values in float16, in place.

    What reads them reads float32: a cast that has the weight's name.
    """
    names = _store(onnx, model.graph, lambda name, size: size > above)
    casts = [_cast(onnx, name + HALF, name) for name in names]
    refill(model.graph, node=[*casts, *model.graph.node])


def quarter_weights(onnx: Any, model: Any, above: int) -> None:
    """Store the float32 weights of more than ``above`` values in int8, in place.

    Each output channel (first axis) has its own scale: its largest absolute value is 127.
    """
    graph, nodes = model.graph, []
    for weight in list(graph.initializer):
        values, name = onnx.numpy_helper.to_array(weight), weight.name
        if values.dtype != np.float32 or values.size <= above:
            continue
        scale = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / 127
        scale[scale == 0] = 1
        whole = np.round(values / scale).astype(np.int8)
        parts = {"int8": whole, "scale": scale.astype(np.float32)}
        graph.initializer.remove(weight)
        graph.initializer.extend(
            onnx.numpy_helper.from_array(v, f"{name}_{key}") for key, v in parts.items()
        )
        # Engines fold these two when they load the model; a DequantizeLinear they would keep.
        nodes.append(_cast(onnx, f"{name}_int8", f"{name}_whole"))
        nodes.append(onnx.helper.make_node("Mul", [f"{name}_whole", f"{name}_scale"], [name]))
    refill(graph, node=[*nodes, *graph.node])


def halve(onnx: Any, model: Any) -> None:
    """Let a plain model compute in float16, in place; an ExportError if it holds a loop."""
    if has_loops(onnx, model):
        raise ExportError(f"{model.graph.name}: a net with loops has no float16 form")
    _fold_norms(onnx, model)
    graph, floats = model.graph, onnx.TensorProto.FLOAT
    known = [*graph.input, *graph.output, *infer(onnx, model).graph.value_info]
    kinds = {value.name: value.type.tensor_type.elem_type for value in known}
    kinds.update((weight.name, weight.data_type) for weight in graph.initializer)
    single = _single(graph)

    def is_single(node: Any, position: int = -1) -> bool:
        return node.output[0] in single or (node.op_type, position) in SCALES

    kept = {x for node in graph.node for k, x in enumerate(node.input) if is_single(node, k)}
    halves = _store(onnx, graph, lambda name, size: name not in kept)  # what there is in float16
    singles = {value.name for value in (*graph.input, *graph.initializer)}  # and in float32
    nodes: list[Any] = []

    def read(name: str, half: bool) -> str:
        """Return the name of a tensor in one precision, cast from the other if need be."""
        there = halves if half else singles
        if name not in there:
            there.add(name)
            names = (name, name + HALF) if half else (name + HALF, name)
            nodes.append(_cast(onnx, *names))
        return name + HALF * half

    for node in graph.node:
        single_out = is_single(node)
        for position, name in enumerate(node.input):
            if kinds.get(name) == floats:
                node.input[position] = read(name, not is_single(node, position))
        for position, name in enumerate(node.output):
            if kinds.get(name) == floats:
                (singles if single_out else halves).add(name)
                node.output[position] = name + HALF * (not single_out)
        nodes.append(node)
    for output in graph.output:
        read(output.name, half=False)
    refill(graph, node=nodes)
    shapes = {value.name: value for value in graph.value_info}
    made = {name for node in nodes for name in node.output} - {o.name for o in graph.output}
    infos = [shapes[name] for name in shapes if name in made]
    for name in sorted(made):
        if name.endswith(HALF) and name[: -len(HALF)] in shapes:
            info = onnx.ValueInfoProto(name=name, type=shapes[name[: -len(HALF)]].type)
            info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
            infos.append(info)
    refill(graph, value_info=infos)


def observable(onnx: Any, model: Any) -> Any:
    """Return a copy of a halved model whose activations are rounded on a CPU too, unoptimized.

    ONNX Runtime has few float16 kernels for CPUs. It computes in float32 and leaves out the casts
    between, so that nothing is rounded and no number is too large; but it has an Identity.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = []
    for node in copy.graph.node:
        nodes.append(node)
        for position, name in enumerate(node.output):
            if name.endswith(HALF):
                node.output[position] = f"{name}_before"
                nodes.append(onnx.helper.make_node("Identity", [f"{name}_before"], [name]))
    refill(copy.graph, node=nodes)
    return copy


def _store(onnx: Any, graph: Any, chosen: Callable[[str, int], bool]) -> set[str]:
    """Store the chosen float32 weights in float16, under names of their own; return which."""
    names = set()
    for weight in graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32 and chosen(weight.name, values.size):
            names.add(weight.name)
            half = np.clip(values, -LARGEST, LARGEST).astype(np.float16)
            weight.CopyFrom(onnx.numpy_helper.from_array(half, weight.name + HALF))
    return names


def _cast(onnx: Any, source: str, target: str) -> Any:
    kind = onnx.TensorProto.FLOAT16 if target.endswith(HALF) else onnx.TensorProto.FLOAT
    return onnx.helper.make_node("Cast", [source], [target], f"{target}_cast", to=kind)


def _single(graph: Any) -> set[str]:
    """Return the first outputs of the nodes that compute in float32."""
    made = {name: node for node in graph.node for name in node.output}
    found = {node.output[0] for node in graph.node if node.op_type in SINGLE}
    for root in (node for node in graph.node if node.op_type == "Sqrt"):
        node, path = root, set()
        while node is not None and node.input:
            path.add(node.output[0])
            if node.op_type == "Mul" and node.input[0] == node.input[1]:
                found |= path
                break
            node = made.get(node.input[0])
    return found


def _fold_norms(onnx: Any, model: Any) -> None:
    """Make each batch-norm that alone reads a convolution a part of its weights, in float64."""
    graph, to_array = model.graph, onnx.numpy_helper.to_array
    arrays = {weight.name: weight for weight in graph.initializer}
    readers = collections.Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    convolutions = {node.output[0]: node for node in graph.node if node.op_type == "Conv"}
    nodes = []
    for node in graph.node:
        conv = convolutions.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        inputs = [*conv.input[1:], *node.input[1:]] if conv else []
        if conv is None or readers[node.input[0]] > 1 or not set(inputs) <= set(arrays):
            nodes.append(node)
            continue
        weight, *bias = (to_array(arrays[name]) for name in conv.input[1:])
        gamma, beta, mean, var = (to_array(arrays[name]).astype(float) for name in node.input[1:])
        (epsilon,) = [a.f for a in node.attribute if a.name == "epsilon"] or [1e-5]
        scale = gamma / np.sqrt(var + epsilon)
        folded = {
            "weight": weight * scale.reshape(-1, *[1] * (weight.ndim - 1)),
            "bias": beta + (sum(bias) - mean) * scale,
        }
        for key, values in folded.items():
            name = f"{node.output[0]}_{key}"
            graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
        refill(conv, input=[conv.input[0], *(f"{node.output[0]}_{key}" for key in folded)])
        refill(conv, output=node.output)
    used = {name for node in nodes for name in node.input}
    weights = [weight for weight in graph.initializer if weight.name in used]
    made = {name for node in nodes for name in node.output}
    infos = [value for value in graph.value_info if value.name in made]
    refill(graph, node=nodes, initializer=weights, value_info=infos)
