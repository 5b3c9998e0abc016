"""The critic of DREAL, what it sees of an attention module, and the losses that it makes.

Deep Reinforced Attention Learning for Quality-Aware Visual Recognition, Li and Chen, ECCV 2020. The
text we have says that the critic is recurrent, that a module's state is its feature and its action
the attention it puts out, and names the losses L_r and L_q; all else here is an assumption
(docs/dreal.md, equations 2 and 3):

    e_l = relu(W_l [mean_HW(F_l); a_l] + b_l)     h_l, c_l = LSTM(e_l, h_(l-1), c_(l-1))
    Q_l = w . h_l + b                             h_0 = c_0 = 0

Legend: B batch, L modules in network order, F state, a action, e embedding, Q critique, R reward,
H hidden.
"""

from __future__ import annotations

from typing import Any, Sequence, Tuple

import mxnet as mx
from mxnet.gluon import HybridBlock, ParameterDict

from gluon_attn.nets.graph import Entry, Graph, GraphBlock, Node, cut

Tensor = Any  # NDArray or Symbol
Module = Sequence[Tuple[str, HybridBlock]]  # the gates of a module as (kind, gate)


class Critic(HybridBlock):
    """Rates every module: an embedding each, one LSTM cell along the depth, one output layer.

    Inputs: for each of the L modules a vector ``(B, size)``, state and action. Output: ``(B, L)``.
    ``hidden`` is H, the length of embeddings and of the cell's state; b starts at ``start``. Far
    from the rewards, the critic comes down to them by the weights of its inputs too, and maps are
    positive: it then rates every open gate low, and L_q closes them (docs/dreal.md).
    """

    def __init__(
        self, sizes: Sequence[int], hidden: int = 128, start: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if hidden < 1:
            raise ValueError(f"hidden={hidden}: must be positive")
        self._hidden = hidden
        shapes = {
            "cell_input": (4 * hidden, hidden), "cell_state": (4 * hidden, hidden),
            "cell_bias": (4 * hidden,), "output_weight": (1, hidden), "output_bias": (1,),
        }  # fmt: skip
        for module, size in enumerate(sizes):
            shapes[f"embed{module}_weight"] = (hidden, size)
            shapes[f"embed{module}_bias"] = (hidden,)
        with self.name_scope():
            for name, shape in shapes.items():
                init = mx.init.Zero() if name.endswith("bias") else mx.init.Xavier()
                init = mx.init.Constant(start) if name == "output_bias" else init
                setattr(self, name, self.params.get(name, shape=shape, init=init))

    def hybrid_forward(self, F: Any, *vectors: Tensor, **weights: Tensor) -> Tensor:
        hidden, state, memory, found = self._hidden, None, None, []
        for module, vector in enumerate(vectors):
            matrix, bias = weights[f"embed{module}_weight"], weights[f"embed{module}_bias"]
            embedded = F.relu(F.FullyConnected(vector, matrix, bias, num_hidden=hidden))
            gates = F.FullyConnected(
                embedded, weights["cell_input"], weights["cell_bias"], num_hidden=4 * hidden
            )
            if state is not None:
                gates = gates + F.FullyConnected(
                    state, weights["cell_state"], no_bias=True, num_hidden=4 * hidden
                )
            enter, forget, content, leave = F.SliceChannel(gates, num_outputs=4)
            new = F.sigmoid(enter) * F.tanh(content)
            memory = new if memory is None else F.sigmoid(forget) * memory + new
            state = F.sigmoid(leave) * F.tanh(memory)
            found.append(state)
        critique = F.FullyConnected(
            F.stack(*found, axis=1), weights["output_weight"], weights["output_bias"],
            num_hidden=1, flatten=False,
        )  # fmt: skip
        return F.reshape(critique, shape=(0, -1))


# -- what it sees ----------------------------------------------------------------------------------
def vector_size(module: Module, channels: int, grid: int = 7) -> int:
    """Return the length of :func:`module_vector`."""
    return channels + sum(channels if kind == "channel" else grid * grid for kind, _ in module)


def module_vector(F: Any, module: Module, x: Tensor, grid: int = 7) -> Tensor:
    """Return what the critic sees of a module: the mean state and the map of each gate.

    Of a channel gate the C numbers of its map, of a spatial one the means over ``grid`` x ``grid``
    cells. ``x (B, C, H, W)`` is the state, input of the first gate. Gradients reach the gates'
    parameters only.
    """
    x = F.BlockGrad(x)
    parts = [F.Flatten(F.Pooling(x, global_pool=True, pool_type="avg", kernel=(1, 1)))]
    for kind, gate in module:
        action = gate(x)
        cells = action
        if kind == "spatial":
            cells = F.contrib.AdaptiveAvgPooling2D(action, output_size=grid)
        parts.append(F.Flatten(cells))
        x = F.BlockGrad(F.broadcast_mul(x, action))
    return F.concat(*parts, dim=1)


def judge(
    modules: Sequence[Module], critic: Critic, names: Sequence[str], grid: int = 7
) -> GraphBlock:
    """Return the block that rates what the gates do now, with gradients for the gates only:
    ``{name of a state: state} -> {'critique': (B, L), 'vector0': (B, size), …}``.

    The critic's parameters are constants. Gates with batch-norm run a second time here, on inputs
    that the training pass has counted already; a momentum of 1 keeps what was counted.
    """
    pairs = zip(modules, [mx.sym.var(name, dtype="float32") for name in names])
    vectors = [module_vector(mx.sym, module, state, grid) for module, state in pairs]
    graph, (critique, *seen) = Graph.of([critic(*vectors), *vectors])
    params, constant = ParameterDict(), set(critic.collect_params())
    for block in (critic, *(gate for module in modules for _, gate in module)):
        params.update(block.collect_params())

    def change(target: Graph, number: int, node: Node, inputs: list[Entry]) -> Entry | None:
        if node.op == "BatchNorm":
            return target.copy(node.changed(momentum=1.0), inputs)
        if node.op == "null" and node.name in constant:
            return target.add("BlockGrad", target.copy(node, inputs))
        return None

    given = {name: graph.variable(name) for name in names}
    wanted = {"critique": critique, **{f"vector{k}": entry for k, entry in enumerate(seen)}}
    return cut(graph, given, wanted, params, change=change)


# -- losses (equation 3) ---------------------------------------------------------------------------
def regression_loss(critique: Tensor, reward: Tensor, known: Tensor) -> Tensor:
    """Return L_r, the critic's loss, ``(B,)``: the mean over modules of :math:`(Q_l - R_l)^2`.

    Over a random choice of modules, all with the same chance, it is an unbiased estimate of that
    over all modules. ``known (B,)`` is 0 for samples without a label.
    """
    return (critique - reward.detach()).square().mean(axis=1) * known


def quality_loss(critique: Tensor) -> Tensor:
    """Return L_q, the attention modules' loss, ``(B,)``: minus the mean critique over modules."""
    return -critique.mean(axis=1)
