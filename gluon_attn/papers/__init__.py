"""One folder per paper; importing this registers all training methods."""

from __future__ import annotations

from gluon_attn.papers import autola, awmt, dreal, icasc, vaa
from gluon_attn.papers.baselines import plain, reid
from gluon_attn.papers.combined import dreal_reid, vaa_awmt

__all__ = [
    "autola", "awmt", "dreal", "dreal_reid", "icasc", "plain", "reid", "vaa", "vaa_awmt",
]  # fmt: skip
