"""Training, checkpoints, logs, and trained nets; names no paper, no data set and no task."""

from __future__ import annotations

from gluon_attn.train.checkpoint import load_checkpoint, load_net, restore, save_checkpoint
from gluon_attn.train.fit import Run, fit, use_static_graph
from gluon_attn.train.log import JsonLines, TensorBoard, log_to, read_json_lines
from gluon_attn.train.schedule import SCHEDULES

__all__ = [
    "SCHEDULES", "JsonLines", "Run", "TensorBoard", "fit", "load_checkpoint", "load_net", "log_to",
    "read_json_lines", "restore", "save_checkpoint", "use_static_graph",
]  # fmt: skip
