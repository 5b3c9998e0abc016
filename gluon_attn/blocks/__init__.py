"""Attention blocks, ``(B, C, H, W) -> (B, C, H, W)``, for the attention slot of a backbone.

Every block is registered in ``BLOCKS`` under its short name and built as ``block(channels)``; see
:class:`AttentionBlock` for the contract. All files of this folder are imported, which registers
their blocks.
"""

from __future__ import annotations

from gluon_attn.blocks.base import BLOCKS, AttentionBlock, Slot, build_block
from gluon_attn.blocks.cbam import CBAM
from gluon_attn.blocks.eca import ECA
from gluon_attn.blocks.se import SE
from gluon_attn.blocks.srm import SRM
from gluon_attn.core.registry import import_all

__all__ = ["BLOCKS", "CBAM", "ECA", "SE", "SRM", "AttentionBlock", "Slot", "build_block"]

import_all(__path__, __name__)
