"""Attention separability and consistency: maps, losses and the training method."""

from __future__ import annotations

from gluon_attn.papers.icasc.attention import (
    MAPS,
    attention_consistency,
    attention_separation,
    channel_weighted,
    grad_cam,
    soft_mask,
)
from gluon_attn.papers.icasc.method import ICASC

__all__ = [
    "ICASC", "MAPS", "attention_consistency", "attention_separation", "channel_weighted",
    "grad_cam", "soft_mask",
]  # fmt: skip
