"""Visual attention aggregation: the net, its losses and its training method."""

from __future__ import annotations

from gluon_attn.losses.classification import WeightedFocalLoss
from gluon_attn.papers.vaa.history import PredictionHistory
from gluon_attn.papers.vaa.method import VAA, AttentionHeads, AttentionModule, VAATraining

__all__ = [
    "VAA", "AttentionHeads", "AttentionModule", "PredictionHistory", "VAATraining",
    "WeightedFocalLoss",
]  # fmt: skip
