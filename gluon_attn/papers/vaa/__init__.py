"""Visual attention aggregation: the net, its losses and its training method."""

from __future__ import annotations

from gluon_attn.papers.vaa.history import PredictionHistory
from gluon_attn.papers.vaa.losses import WeightedFocalLoss
from gluon_attn.papers.vaa.method import VAATraining
from gluon_attn.papers.vaa.net import VAA

__all__ = ["VAA", "PredictionHistory", "VAATraining", "WeightedFocalLoss"]
