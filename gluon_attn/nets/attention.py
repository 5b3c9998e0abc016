"""The attention slot of residual units, and a view of a net that shows what its gates do."""

from __future__ import annotations

from mxnet.gluon import Block, HybridBlock, nn

from gluon_attn.blocks import BLOCKS, AttentionBlock, Slot, build_block
from gluon_attn.nets.graph import GraphBlock, record


def add_attention(unit: HybridBlock, name: str, channels: int, slot: Slot) -> AttentionBlock:
    """Put an attention block into a residual unit of ``channels`` and return the block.

    The other layers keep their parameter names, so weight files of the plain net fit. The ``body``
    of the unit is conv, norm, relu, conv, norm and, in a bottleneck, relu, conv, norm.
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


def attention_blocks(net: Block) -> list[tuple[str, AttentionBlock]]:
    """Return names and attention blocks of a net or of the backbone in it, in network order.

    ``stage3_unit22`` is unit 22, from 0, of stage 3, from 1, as in ``stage3_activation22``.
    """
    found: list[AttentionBlock] = []
    net.apply(lambda block: found.append(block) if hasattr(block, "slot") else None)
    return [(block.slot.name, block) for block in found]


def attention_view(net: HybridBlock) -> GraphBlock:
    """Return a block that computes ``net`` and also returns state and action of every gate.

    It is a graph of its own on the net's parameters. Its ``output_names`` are those of the net,
    then for each gate in network order ``stage3_unit22_channel_state`` (its input, ``(B, C, H,
    W)``) and ``stage3_unit22_channel`` (its map); ``attention_outputs`` holds the names of the
    maps.
    """
    names = {
        gate: f"{name}_{kind}"
        for name, block in attention_blocks(net)
        for kind, gate in block.gates
    }
    if not names:
        raise ValueError(f"{type(net).__name__} has no attention block with gates to look at")
    graph, gives, calls = record(net, names)
    for gate, state, action in calls:
        gives.update({f"{names[gate]}_state": state, names[gate]: action})
    view = GraphBlock(graph, ["data"], gives, net.collect_params())
    view.attention_outputs = tuple(names[call.block] for call in calls)
    view.output_names = view.gives
    return view
