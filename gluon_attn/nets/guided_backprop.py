"""Guided back-propagation: which pixels raise a class score.

Striving for Simplicity: The All Convolutional Net, Springenberg, Dosovitskiy, Brox, Riedmiller,
ICLR 2015 (workshop), section 3.4. Back-propagation of a score to the image in which every ReLU
passes on only what is positive:

    R = 1[f > 0] * 1[R' > 0] * R'

f being what the ReLU puts out in the forward pass, R' the gradient that arrives, R the one that
goes on. ReLU6, min(f, 6), passes on nothing where it is 6. Layers other than these (sigmoid gates,
batch-norm, pooling) are differentiated as usual.

The net's graph is cut at its ReLUs, and the pieces are differentiated from the last to the first.

MXNet 1.9.1 with oneDNN gives wrong, varying gradients of a batch-norm that was recorded in
inference mode. So the copy of the graph gets batch-norms that use their running statistics in every
mode, and no dropout, and is recorded in training mode.
"""

from __future__ import annotations

import mxnet as mx
from mxnet import autograd
from mxnet.gluon import HybridBlock

from gluon_attn.nets.graph import Entry, Graph, Node, cut, freeze_norm, leaf, record


class GuidedBackprop:
    """Guided back-propagation for a net, which stays as it is and shares its parameters.

    The net has one input; its first output is ``logits (B, A)``; parameter shapes must be known.

    Attributes:
        pieces: For each ReLU ``relu0``, … a block that computes its input from the image and the
            outputs of ReLUs before it; then one that computes the ``logits``.
    """

    def __init__(self, net: HybridBlock) -> None:
        graph, outputs, _ = record(net)
        logits = next(iter(outputs.values()))
        given = {"data": graph.variable("data")}
        ends: dict[str, Entry] = {}
        self._ceilings: dict[str, float] = {}
        for number in graph.needed([logits]):
            ceiling = _ceiling(graph.nodes[number])
            if ceiling is not None:
                name = f"relu{len(ends)}"
                given[name], ends[name] = (number, 0), graph.nodes[number].inputs[0]
                self._ceilings[name] = ceiling
        if not ends:
            raise ValueError(
                f"{type(net).__name__} has no ReLU; use its plain gradient (mxnet.autograd.grad)"
            )
        params = net.collect_params()
        self.pieces = {
            name: cut(graph, given, {name: end}, params, change=_as_in_inference)
            for name, end in {**ends, "logits": logits}.items()
        }

    def __call__(self, image: mx.nd.NDArray, vector: mx.nd.NDArray) -> mx.nd.NDArray:
        """Return the guided gradient of the scores ``vector . logits``, ``(B, 3, H, W)``.

        ``vector (B, A)`` is one-hot for the score of one class. Layers work as in inference.
        Gradients of parameters are not touched.
        """
        leaves, outputs = {"data": leaf(image)}, {}
        for name, piece in self.pieces.items():
            with autograd.record():
                outputs[name] = piece.run(leaves)[name]
            if name != "logits":
                leaves[name] = leaf(outputs[name].clip(0, self._ceilings[name]))
        if vector.shape != outputs["logits"].shape:
            shape = outputs["logits"].shape
            raise ValueError(f"vector {vector.shape}: must be as the logits, {shape}")
        gradients: dict[str, mx.nd.NDArray] = {"logits": vector}
        for name in reversed(list(self.pieces)):
            arriving = gradients.pop(name, None)
            if arriving is None:
                continue
            if name != "logits":
                inside = (leaves[name] > 0) * (leaves[name] < self._ceilings[name])
                arriving = arriving.relu() * inside
            takes = self.pieces[name].takes
            # retain_graph: pieces share leaves, which MXNet would forget with the first of them
            found = autograd.grad(
                outputs[name], [leaves[n] for n in takes], arriving, retain_graph=True
            )
            for n, gradient in zip(takes, found):
                gradients[n] = gradients[n] + gradient if n in gradients else gradient
        return gradients["data"]


def _ceiling(node: Node) -> float | None:
    """Return the largest value of a ReLU; None of any other operator."""
    if node.op == "relu" or (node.op == "Activation" and node.attrs["act_type"] == "relu"):
        return 3e38
    clips = node.op == "clip" and float(node.attrs["a_min"]) == 0
    return float(node.attrs["a_max"]) if clips else None


def _as_in_inference(target: Graph, number: int, node: Node, inputs: list[Entry]) -> Entry | None:
    return inputs[0] if node.op == "Dropout" else freeze_norm(target, number, node, inputs)
