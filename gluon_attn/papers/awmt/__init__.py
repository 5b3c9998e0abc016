"""Adaptively weighted multi-task learning of attributes."""

from __future__ import annotations

from gluon_attn.papers.awmt.losses import WeightedSquaredLoss
from gluon_attn.papers.awmt.method import AWMT, TaskWeights, WeightedMethod
from gluon_attn.papers.awmt.trend import ValidationLossTrend

__all__ = ["AWMT", "TaskWeights", "ValidationLossTrend", "WeightedMethod", "WeightedSquaredLoss"]
