"""Adaptively weighted multi-task learning of attributes."""

from __future__ import annotations

from gluon_attn.papers.awmt.losses import WeightedSquaredLoss, squared_error
from gluon_attn.papers.awmt.method import (
    AWMT,
    TaskWeights,
    ValidationLossTrend,
    WeightedMethod,
    update_weights,
)

__all__ = [
    "AWMT", "TaskWeights", "ValidationLossTrend", "WeightedMethod", "WeightedSquaredLoss",
    "squared_error", "update_weights",
]  # fmt: skip
