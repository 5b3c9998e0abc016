"""Training, evaluation, checkpoints and logs; names no paper and no data set."""

from __future__ import annotations

from gluon_attn.train.checkpoint import load_checkpoint, load_net, restore, save_checkpoint
from gluon_attn.train.evaluate import Predictions, predict
from gluon_attn.train.fit import Run, fit, use_static_graph
from gluon_attn.train.log import JsonLines, TensorBoard, log_to, read_json_lines
from gluon_attn.train.schedule import SCHEDULES
from gluon_attn.train.stream import Stream

__all__ = [
    "SCHEDULES", "JsonLines", "Predictions", "Run", "Stream", "TensorBoard", "fit",
    "load_checkpoint", "load_net", "log_to", "predict", "read_json_lines", "restore",
    "save_checkpoint", "use_static_graph",
]  # fmt: skip
