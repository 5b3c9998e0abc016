"""One module per paper: its net and its training method."""

from __future__ import annotations

from gluon_attn.papers import baseline, vaa

__all__ = ["baseline", "vaa"]
