"""Export directories: write one, load one, predict with one."""

from __future__ import annotations

from gluon_attn.export.precision import load_exported
from gluon_attn.export.predictor import Predictor
from gluon_attn.export.sidecar import ExportError
from gluon_attn.export.writer import export_model

__all__ = ["ExportError", "Predictor", "export_model", "load_exported"]
