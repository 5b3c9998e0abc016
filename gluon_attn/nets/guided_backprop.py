"""Guided back-propagation: which pixels raise a class score.

Striving for Simplicity: The All Convolutional Net, Springenberg, Dosovitskiy, Brox, Riedmiller,
ICLR 2015 (workshop), section 3.4. Back-propagation of a score to the image in which every ReLU
passes on only what is positive:

    R = 1[f > 0] * 1[R' > 0] * R'

f being what the ReLU puts out in the forward pass, R' the gradient that arrives, R the one that
goes on. Layers other than ReLU (sigmoid gates, batch-norm, pooling) are differentiated as usual.

The net's graph is cut at its ReLUs, and the pieces are differentiated from the last to the first.

MXNet 1.9.1 with oneDNN gives wrong, varying gradients of a batch-norm that was recorded in
inference mode. So the copy of the graph gets batch-norms that use their running statistics in every
mode, and no dropout, and is recorded in training mode.
"""

from __future__ import annotations

import json

import mxnet as mx
from mxnet import autograd, gluon

LEAF = "guided_relu"  # start of the names of the variables that stand for ReLU outputs


def cut_at_relus(symbol):
    """Cut a symbol at its ReLUs, and make its layers work as in inference in every mode.

    Args:
        symbol: Symbol with one output.

    Returns:
        A list of ``(symbol, name)``, in the order of computation: the input of each ReLU, and the
        name of the variable that stands for its output in the symbols behind it. The last item is
        the output itself and None.
    """
    graph = json.loads(symbol.tojson(remove_amp_cast=False))
    names, ends = [], []
    for node in graph["nodes"]:
        if node["op"] == "BatchNorm":
            node["attrs"]["use_global_stats"] = "True"
        elif node["op"] == "Dropout":
            node.update(op="_copy", attrs={})
        elif _is_relu(node):
            names.append(f"{LEAF}{len(names)}")
            ends.append(node["inputs"][0])
            node.update(op="null", name=names[-1], inputs=[], attrs={"__dtype__": "0"})
    nodes = graph["nodes"]
    ends += graph["heads"]
    for k, (number, *_) in enumerate(ends):
        if nodes[number]["op"] == "null":  # MXNet cannot differentiate a graph that is a variable
            nodes.append({"op": "_copy", "name": f"{LEAF}_copy{k}", "inputs": [ends[k]]})
            ends[k] = [len(nodes) - 1, 0, 0]
    graph["heads"] = ends
    graph["arg_nodes"] = [k for k, node in enumerate(nodes) if node["op"] == "null"]
    graph.pop("node_row_ptr", None)
    pieces = mx.sym.load_json(json.dumps(graph))
    return [(pieces[k], name) for k, name in enumerate([*names, None])]


def _is_relu(node):
    activation = node["op"] == "Activation" and node["attrs"].get("act_type") == "relu"
    return activation or node["op"] == "relu"


class GuidedBackprop:
    """Guided back-propagation for a net, which stays as it is and shares its parameters.

    Args:
        net: HybridBlock of one input whose first output is ``logits (B, A)``; its parameter shapes
            must be known.

    Raises:
        ValueError: The net has no ReLU; guided back-propagation would be the plain gradient.
    """

    def __init__(self, net):
        outputs = net(mx.sym.var("data", dtype="float32"))
        logits = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
        pieces = cut_at_relus(logits)
        if len(pieces) == 1:
            raise ValueError(
                f"{type(net).__name__} has no ReLU; use its plain gradient (mxnet.autograd.grad)"
            )
        params = net.collect_params()
        self._pieces = [(*_piece(symbol, params), name) for symbol, name in pieces]

    def __call__(self, image, vector):
        """Return the guided gradient of the scores ``vector . logits`` with respect to the image.

        Layers work as in inference. Gradients of parameters are not touched.

        Args:
            image: ``(B, 3, H, W)`` float32 NDArray.
            vector: ``(B, A)``; one-hot for the score of one class.

        Returns:
            ``(B, 3, H, W)``.

        Raises:
            ValueError: ``vector`` does not fit the logits.
        """
        leaves, outputs = {"data": _leaf(image)}, []
        for block, takes, name in self._pieces:
            with autograd.record():
                outputs.append(block(*[leaves[n] for n in takes]))
            if name is not None:
                leaves[name] = _leaf(outputs[-1].relu())
        if vector.shape != outputs[-1].shape:
            raise ValueError(f"vector {vector.shape}: must be as the logits, {outputs[-1].shape}")
        gradients = {}
        for (_, takes, name), output in zip(self._pieces[::-1], outputs[::-1]):
            arriving = vector if name is None else gradients.pop(name, None)
            if arriving is None:
                continue
            if name is not None:
                arriving = arriving.relu() * (leaves[name] > 0)
            # retain_graph: pieces share leaves, which MXNet would forget with the first of them
            found = autograd.grad(output, [leaves[n] for n in takes], arriving, retain_graph=True)
            for n, gradient in zip(takes, found):
                gradients[n] = gradients[n] + gradient if n in gradients else gradient
        return gradients["data"]


def _piece(symbol, params):
    """Return a block for a piece of the net, and the names of the inputs that it takes."""
    takes = [n for n in symbol.list_inputs() if n == "data" or n.startswith(LEAF)]
    inputs = [mx.sym.var(name, dtype="float32") for name in takes]
    block = gluon.SymbolBlock(symbol, inputs, params=params)
    block.hybridize(static_alloc=True, static_shape=True)
    return block, takes


def _leaf(array):
    leaf = array.detach()
    leaf.attach_grad()
    return leaf
