"""Parameters and multiply-adds of a net, read from its graph.

Multiply-adds are what the literature on efficient nets calls FLOPs: one product and one sum, of
convolutions and dense layers, without biases, norms, activations, pooling and elementwise products.
ResNet-50 has 4.09 G at 224 pixels. Matrix products of two activations are not counted: in these
nets they stand for means and elementwise products. Counted are the plain operators of inference,
not those that only train faster (:mod:`gluon_attn.core.tracing`).
"""

from __future__ import annotations

import ast
import math
from typing import NamedTuple, Sequence, Tuple

import mxnet as mx
from mxnet.gluon import HybridBlock

from gluon_attn.core.tracing import for_inference
from gluon_attn.nets.graph import Entry, Graph, Node, record

Shape = Tuple[int, ...]


class Count(NamedTuple):
    """What :func:`count` found for one image; the parameters are learnable, no running statistics.

    ``layers`` are ``(name, operator, multiply-adds)`` of all counted layers, in graph order.
    """

    parameters: int
    multiply_adds: int
    layers: tuple[tuple[str, str, int], ...]

    def __str__(self) -> str:
        return f"{self.parameters / 1e6:.3f} M parameters, {self.multiply_adds / 1e9:.3f} G"


def count(net: HybridBlock, input_size: Sequence[int], pooling: bool = False) -> Count:
    """Count the parameters and the multiply-adds of a net, initialised or not, for one image.

    A layer that is applied twice (a shared MLP) counts twice in the multiply-adds and once in the
    parameters. With ``pooling``, a pooling counts one addition per element it reads.
    """
    with for_inference():
        graph, outputs, _ = record(net)
    data = (1, 3, *input_size)
    try:
        shapes = graph.shapes(outputs.values(), data=data)
    except mx.MXNetError as error:
        raise ValueError(f"no shapes for an input of {data}: {error}") from error
    # Frozen parameters count; scale and shift of a norm that never had any to learn do not.
    learnt = {p.name for p in net.collect_params().values() if p._differentiable}
    learnt &= set(mx.sym.Group(graph.symbols(outputs.values())).list_arguments())
    layers, parameters = [], 0
    for number in graph.needed(outputs.values()):
        node = graph.nodes[number]
        if node.op == "null" and node.name in learnt:
            parameters += math.prod(shapes[number, 0])
        elif node.op in MULTIPLYING or (pooling and node.op == "Pooling"):
            weights = _learnt(graph, node)
            if weights is None:
                cost = _cost(node, [shapes[entry] for entry in node.inputs], shapes[number, 0])
            else:
                positions = math.prod(shapes[number, 0][2:])
                cost = positions * sum(math.prod(shapes[entry]) for entry in weights)
            layers.append((node.name, node.op, cost))
    return Count(parameters, sum(cost for *_, cost in layers), tuple(layers))


MULTIPLYING = ("Convolution", "Deconvolution", "FullyConnected")


def _learnt(graph: Graph, node: Node) -> list[Entry] | None:
    """Return the parameters of a convolution whose kernel is computed, else None: such a kernel is
    filled up with zeros (``papers.autola.operations.DepthWise``), which do not count.
    """
    if node.op != "Convolution" or graph.nodes[node.inputs[1][0]].op == "null":
        return None
    return [graph.variable(name) for name in graph.variables(node.inputs[1:2])]


def _cost(node: Node, inputs: list[Shape], output: Shape) -> int:
    if node.op == "Convolution":
        return math.prod(output) * math.prod(inputs[1][1:])  # weight (out, in / groups, kernel)
    if node.op == "Deconvolution":
        return math.prod(inputs[0]) * math.prod(inputs[1][1:])  # weight (in, out / groups, kernel)
    if node.op == "FullyConnected":
        return math.prod(output) * inputs[1][1]
    if node.flag("global_pool"):
        return math.prod(inputs[0])
    return math.prod(output) * math.prod(ast.literal_eval(node.attrs["kernel"]))
