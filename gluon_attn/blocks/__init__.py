"""Attention blocks, ``(B, C, H, W) -> (B, C, H, W)``, for the attention slot of a backbone.

Every block is registered in ``BLOCKS`` under its short name and built as ``block(channels)``; see
:class:`AttentionBlock` for the contract. A block file is imported here, which registers it.
"""

from __future__ import annotations

from gluon_attn.blocks.base import (
    BLOCKS,
    AttentionBlock,
    Slot,
    apply_map,
    build_block,
    find_block,
    global_mean,
    hidden_size,
    spread,
    uniform_start,
)
from gluon_attn.blocks.cbam import CBAM, ChannelGate, ChannelPool, SpatialGate
from gluon_attn.blocks.eca import ECA, ECAGate
from gluon_attn.blocks.se import SE, SEGate
from gluon_attn.blocks.srm import SRM, SRMGate

__all__ = [
    "BLOCKS",
    "CBAM",
    "ECA",
    "SE",
    "SRM",
    "AttentionBlock",
    "ChannelGate",
    "ChannelPool",
    "ECAGate",
    "SEGate",
    "SRMGate",
    "Slot",
    "SpatialGate",
    "apply_map",
    "build_block",
    "find_block",
    "global_mean",
    "hidden_size",
    "spread",
    "uniform_start",
]
