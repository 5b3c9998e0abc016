"""Training, evaluation, checkpoints and logs; names no paper and no data set."""

from __future__ import annotations

from gluon_attn.engine.checkpoint import load_checkpoint, load_net, restore, save_checkpoint
from gluon_attn.engine.evaluate import Predictions, predict
from gluon_attn.engine.fit import Run, fit, use_static_graph
from gluon_attn.engine.log import JsonLines, TensorBoard, log_to, read_json_lines
from gluon_attn.engine.schedule import SCHEDULES
from gluon_attn.engine.stream import Stream

__all__ = [
    "SCHEDULES", "JsonLines", "Predictions", "Run", "Stream", "TensorBoard", "fit",
    "load_checkpoint", "load_net", "log_to", "predict", "read_json_lines", "restore",
    "save_checkpoint", "use_static_graph",
]  # fmt: skip
