"""One module per paper: its net and its training method."""

from __future__ import annotations

from gluon_attn.papers import awmt, baseline, vaa, vaa_awmt

__all__ = ["awmt", "baseline", "vaa", "vaa_awmt"]
