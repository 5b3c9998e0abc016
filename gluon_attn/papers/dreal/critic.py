"""The critic of DREAL, and what it sees of an attention module.

Deep Reinforced Attention Learning for Quality-Aware Visual Recognition, Li and Chen, ECCV 2020. The
text we have says that the critic is recurrent, that a module's state is its feature and its action
the attention it puts out; all else here is an assumption (docs/dreal.md):

    e_l = relu(W_l [mean_HW(F_l); a_l] + b_l)     h_l, c_l = LSTM(e_l, h_(l-1), c_(l-1))
    Q_l = w . h_l + b                             h_0 = c_0 = 0

Legend: B batch, L modules in network order, F state, a action, e embedding, Q critique, H hidden.
"""

from __future__ import annotations

import mxnet as mx
from mxnet.gluon import HybridBlock

from gluon_attn.nets.graphs import Graph, GraphBlock


class Critic(HybridBlock):
    """Rates every module: an embedding each, one LSTM cell along the depth, one output layer.

    Inputs: for each of the L modules a vector ``(B, size)``, state and action. Output: ``(B, L)``.

    Args:
        sizes: Lengths of the vectors.
        hidden: H, length of embeddings and of the cell's state.

    Raises:
        ValueError: ``hidden`` is not positive.
    """

    def __init__(self, sizes, hidden=128, **kwargs):
        super().__init__(**kwargs)
        if hidden < 1:
            raise ValueError(f"hidden={hidden}: must be positive")
        self._hidden, self.sizes = hidden, tuple(sizes)
        shapes = {
            "cell_input": (4 * hidden, hidden), "cell_state": (4 * hidden, hidden),
            "cell_bias": (4 * hidden,), "output_weight": (1, hidden), "output_bias": (1,),
        }  # fmt: skip
        for module, size in enumerate(self.sizes):
            shapes[f"embed{module}_weight"] = (hidden, size)
            shapes[f"embed{module}_bias"] = (hidden,)
        with self.name_scope():
            for name, shape in shapes.items():
                init = "zeros" if name.endswith("bias") else mx.init.Xavier()
                setattr(self, name, self.params.get(name, shape=shape, init=init))

    def hybrid_forward(self, F, *vectors, **weights):
        """Return the critiques, ``(B, L)``."""
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
        states = F.stack(*found, axis=1)
        critique = F.FullyConnected(
            states, weights["output_weight"], weights["output_bias"], num_hidden=1, flatten=False
        )
        return F.reshape(critique, shape=(0, -1))


class FrozenCritic(Critic):
    """A critic whose parameters are constants: gradients pass through to the actions only.

    Args:
        critic: The :class:`Critic` whose parameters it shares.
    """

    def __init__(self, critic):
        super().__init__(critic.sizes, critic._hidden, prefix=critic.prefix, params=critic.params)

    def hybrid_forward(self, F, *vectors, **weights):
        """Return the critiques, ``(B, L)``."""
        weights = {name: F.BlockGrad(weight) for name, weight in weights.items()}
        return super().hybrid_forward(F, *vectors, **weights)


class Judged(HybridBlock):
    """Critiques of what the gates do now, with gradients for the gates' parameters only.

    Inputs: for each module its state, the input of its first gate ``(B, C, H, W)``. Outputs: the
    critiques ``(B, L)`` and the L vectors that the critic saw.

    A module's vector is its mean state, ``C`` numbers, and the map of each gate: of a channel gate
    its ``C`` numbers, of a spatial one the means over a grid.

    Args:
        modules: For each module the tuple of its gates as ``(kind, gate)``.
        critic: :class:`FrozenCritic`.
        grid: Cells per side that spatial maps are averaged over.
    """

    def __init__(self, modules, critic, grid=7, **kwargs):
        super().__init__(**kwargs)
        self._modules, self._grid, self.critic = modules, grid, critic
        for module, gates in enumerate(modules):
            for number, (_, gate) in enumerate(gates):
                setattr(self, f"gate{module}_{number}", gate)

    def hybrid_forward(self, F, *states):
        """Return critiques and vectors."""
        vectors = []
        for gates, x in zip(self._modules, states):
            x = F.BlockGrad(x)
            parts = [F.Flatten(F.Pooling(x, global_pool=True, pool_type="avg", kernel=(1, 1)))]
            for kind, gate in gates:
                action = gate(x)
                if kind == "spatial":
                    cells = F.contrib.AdaptiveAvgPooling2D(action, output_size=self._grid)
                    parts.append(F.Flatten(cells))
                else:
                    parts.append(F.Flatten(action))
                x = F.BlockGrad(F.broadcast_mul(x, action))
            vectors.append(F.concat(*parts, dim=1))
        return [self.critic(*vectors)] + vectors


def vector_sizes(modules, channels, grid=7):
    """Return the length of every module's vector.

    Args:
        modules: As for :class:`Judged`.
        channels: C of every module.
        grid: As for :class:`Judged`.
    """
    lengths = {"channel": lambda c: c, "spatial": lambda c: grid * grid}
    return [c + sum(lengths[kind](c) for kind, _ in gates) for c, gates in zip(channels, modules)]


def judge(modules, critic, names, grid=7):
    """Return :class:`Judged` as one static graph that leaves running statistics alone.

    Gates with batch-norm run a second time here, on inputs that the training pass has counted
    already; a momentum of 1 keeps what was counted.

    Args:
        modules: As for :class:`Judged`.
        critic: :class:`Critic`; its parameters are shared and constant.
        names: Names of the states.
        grid: As for :class:`Judged`.

    Returns:
        GraphBlock ``{name: state} -> {'critique': (B, L), 'vector0': (B, size), …}``.
    """
    block = Judged(modules, FrozenCritic(critic), grid)
    symbols = block(*[mx.sym.var(name, dtype="float32") for name in names])
    graph, heads = Graph.of(symbols)
    for node in graph.nodes:
        if node["op"] == "BatchNorm":
            node["attrs"]["momentum"] = "1.0"
    gives = {"critique": heads[0]}
    gives.update((f"vector{k}", entry) for k, entry in enumerate(heads[1:]))
    return GraphBlock(graph, list(names), gives, block.collect_params())
