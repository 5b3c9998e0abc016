"""Deep reinforced attention learning: the critic, its reward and the training method."""

from __future__ import annotations

from gluon_attn.papers.dreal.method import DREAL

__all__ = ["DREAL"]
