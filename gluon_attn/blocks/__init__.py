"""Attention blocks, ``(B, C, H, W) -> (B, C, H, W)``, for the attention slot of a backbone.

Every block is registered under its short name and built as ``block(channels)``.
"""

from __future__ import annotations

from gluon_attn.registry import Registry

BLOCKS = Registry("attention block")
