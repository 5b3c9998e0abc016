"""One module per paper: its net and its training method."""

from __future__ import annotations

from gluon_attn.papers import (
    autola,
    awmt,
    baseline,
    dreal,
    dreal_reid,
    icasc,
    reid,
    vaa,
    vaa_awmt,
)

__all__ = [
    "autola", "awmt", "baseline", "dreal", "dreal_reid", "icasc", "reid", "vaa", "vaa_awmt",
]  # fmt: skip
