"""The attention slot of residual units, and a view of a net that shows what its gates do."""

from __future__ import annotations

import mxnet as mx
from mxnet import gluon
from mxnet.gluon import nn

from gluon_attn.blocks import BLOCKS, build_block


def add_attention(unit, name, channels, slot):
    """Put an attention block into a residual unit and return the block.

    The other layers keep their parameter names, so weight files of the plain net fit.

    Args:
        unit: Residual unit; its ``body`` is conv, norm, relu, conv, norm and, in a bottleneck,
            relu, conv, norm.
        name: As ``gluon_attn.blocks.BLOCKS`` knows it.
        channels: Of the residual branch.
        slot: :class:`gluon_attn.blocks.Slot`; it becomes ``block.slot``.

    Raises:
        ValueError: Unknown name.
    """
    layers = list(unit.body)
    if getattr(BLOCKS.get(name), "place", "branch") == "branch" or len(layers) < 8:
        block = build_block(name, channels, slot)
        unit.body.add(block)
    else:
        block = build_block(name, layers[3].weight.shape[0], slot)
        gated = nn.HybridSequential(prefix="")
        gated.add(block, layers[5])  # takes the place of the ReLU, which has no parameters
        layers[5] = gated
        unit.body = nn.HybridSequential(prefix="")
        unit.body.add(*layers)
    block.slot = slot
    return block


def attention_blocks(net):
    """Return ``[(name, block), …]`` of a net or of the backbone in it, in network order.

    Args:
        net: Any Gluon block.

    Returns:
        Names such as ``stage3_unit22``: unit 22, from 0, of stage 3, from 1, as in the tap
        ``stage3_activation22``.
    """
    found = []
    net.apply(lambda block: found.append(block) if hasattr(block, "slot") else None)
    return [(block.slot.name, block) for block in found]


def attention_view(net):
    """Return a block that computes ``net`` and also returns state and action of every gate.

    It shares the net's parameters and is a graph of its own: the net stays as it is.

    Args:
        net: Net of one input with attention blocks in it.

    Returns:
        A SymbolBlock; its outputs are named by ``output_names``: those of the net, then for each
        gate in network order ``stage3_unit22_channel_state`` (its input, ``(B, C, H, W)``) and
        ``stage3_unit22_channel`` (its map). ``attention_outputs`` holds the names of the maps.

    Raises:
        ValueError: The net has no attention block with gates.
    """
    found, handles = [], []
    for name, block in attention_blocks(net):
        for kind, gate in block.gates:
            handles.append(gate.register_forward_hook(_recorder(f"{name}_{kind}", found)))
    if not handles:
        raise ValueError(f"{type(net).__name__} has no attention block with gates to look at")
    data = mx.sym.var("data", dtype="float32")
    try:
        outputs = net(data)
    finally:
        for handle in handles:
            handle.detach()
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    names = tuple(getattr(net, "output_names", ("logits",)))
    view = gluon.SymbolBlock(
        outputs + [symbol for _, pair in found for symbol in pair], [data],
        params=net.collect_params(),
    )  # fmt: skip
    view.attention_outputs = tuple(name for name, _ in found)
    view.output_names = names + tuple(
        label for name in view.attention_outputs for label in (f"{name}_state", name)
    )
    view.hybridize(static_alloc=True, static_shape=True)
    return view


def _recorder(name, found):
    """Return a forward hook that keeps the input and the output of a gate."""

    def hook(gate, inputs, output):
        found.append((name, (inputs[0], output)))

    return hook
