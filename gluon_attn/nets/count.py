"""Parameters and multiply-adds of a net, read from its graph.

Multiply-adds are what the literature on efficient nets calls FLOPs: one product and one sum, of
convolutions and dense layers, without biases, norms, activations, pooling and elementwise products.
ResNet-50 has 4.09 G at 224 pixels. Matrix products of two activations are not counted: in these
nets they stand for means and elementwise products (``gluon_attn.blocks.gates``).
"""

from __future__ import annotations

import ast
import json
import math
from typing import NamedTuple

import mxnet as mx


class Count(NamedTuple):
    """What :func:`count` found.

    Attributes:
        parameters: Learnable numbers that the outputs depend on; no running statistics.
        multiply_adds: For one image.
        layers: Tuple of ``(name, operator, multiply-adds)`` of all counted layers, in the order of
            the graph.
    """

    parameters: int
    multiply_adds: int
    layers: tuple

    def __str__(self):
        return f"{self.parameters / 1e6:.3f} M parameters, {self.multiply_adds / 1e9:.3f} G"


def count(net, input_size, pooling=False):
    """Count the parameters and the multiply-adds of a net for one image.

    A layer that is applied twice (a shared MLP) counts twice in the multiply-adds and once in the
    parameters.

    Args:
        net: HybridBlock with one input ``(B, 3, H, W)``; it need not be initialised.
        input_size: ``(H, W)`` in pixels.
        pooling: Whether a pooling counts one addition per element it reads.

    Returns:
        A :class:`Count`.

    Raises:
        ValueError: The sizes of the net do not follow from ``input_size``.
    """
    outputs = net(mx.sym.var("data"))
    graph = mx.sym.Group(list(outputs)) if isinstance(outputs, (list, tuple)) else outputs
    shapes = _shapes(graph, (1, 3) + tuple(input_size))
    nodes = json.loads(graph.tojson())["nodes"]
    layers = []
    for node in nodes:
        cost = _COSTS.get(node["op"])
        if cost is None or (node["op"] == "Pooling" and not pooling):
            continue
        inputs = [_shape_of(shapes, nodes, source) for source in node["inputs"]]
        output = shapes[node["name"] + "_output"]
        if node["op"] == "Convolution" and nodes[node["inputs"][1][0]]["op"] != "null":
            # A kernel that is filled up with zeros (papers.autola.operations.DepthWise).
            layers.append((node["name"], node["op"], _learnt_part(nodes, shapes, node, output)))
            continue
        layers.append((node["name"], node["op"], cost(node.get("attrs", {}), inputs, output)))
    # Frozen parameters count; scale and shift of a norm that never had any to learn do not.
    learnt = {p.name for p in net.collect_params().values() if p._differentiable}
    sizes = [math.prod(shapes[name]) for name in graph.list_arguments() if name in learnt]
    return Count(sum(sizes), sum(cost for _, _, cost in layers), tuple(layers))


def _shapes(graph, data):
    """Return the shape of every input and output in a graph, by name."""
    internals = graph.get_internals()
    try:
        _, found, _ = internals.infer_shape(data=data)
    except mx.MXNetError as error:
        raise ValueError(f"no shapes for an input of {data}: {error}") from error
    return dict(zip(internals.list_outputs(), found))


def _shape_of(shapes, nodes, source):
    node, index = nodes[source[0]], source[1]
    if node["op"] == "null":
        return shapes[node["name"]]
    for suffix in ("_output", f"_output{index}"):
        if node["name"] + suffix in shapes:
            return shapes[node["name"] + suffix]
    raise ValueError(f"{node['name']} ({node['op']}): no shape of its output {index}")


def _learnt_part(nodes, shapes, node, output):
    """Return the multiply-adds of a convolution's learnt numbers, at every position of the map."""
    names, stack = set(), [node["inputs"][1][0]]
    while stack:
        made = nodes[stack.pop()]
        stack += [source[0] for source in made["inputs"]]
        names |= {made["name"]} if made["op"] == "null" else set()
    return math.prod(output[2:]) * sum(math.prod(shapes[name]) for name in names)


def _convolution(attrs, inputs, output):
    return math.prod(output) * math.prod(inputs[1][1:])  # weight (out, in / groups, kernel)


def _deconvolution(attrs, inputs, output):
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])  # weight (in, out / groups, kernel)


def _dense(attrs, inputs, output):
    return math.prod(output) * inputs[1][1]


def _pooling(attrs, inputs, output):
    if attrs.get("global_pool") in ("True", "1"):
        return math.prod(inputs[0])
    return math.prod(output) * math.prod(ast.literal_eval(attrs["kernel"]))


_COSTS = {
    "Convolution": _convolution,
    "Deconvolution": _deconvolution,
    "FullyConnected": _dense,
    "Pooling": _pooling,
}
