"""Attention blocks, ``(B, C, H, W) -> (B, C, H, W)``, for the attention slot of a backbone.

Every block is registered in ``BLOCKS`` under its short name and built as ``block(channels)``; see
:class:`AttentionBlock` for the contract. All files of this folder are imported, which registers
their blocks.
"""

from __future__ import annotations

import importlib
import pkgutil

from gluon_attn.blocks.base import BLOCKS, AttentionBlock, Slot, build_block
from gluon_attn.blocks.cbam import CBAM
from gluon_attn.blocks.eca import ECA
from gluon_attn.blocks.se import SE
from gluon_attn.blocks.srm import SRM

__all__ = ["BLOCKS", "CBAM", "ECA", "SE", "SRM", "AttentionBlock", "Slot", "build_block"]

for _found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_found.name}")
