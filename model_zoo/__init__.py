"""Models by name, in the manner of Gluon's model zoo.

>>> from model_zoo import get_model, list_models
>>> net = get_model("vaa_resnet101_wider")
"""

from __future__ import annotations

from typing import Any

import gluon_attn  # noqa: F401  (checks and prepares the environment before MXNet loads)
from model_zoo.adapters.convert import load_foreign, save_foreign
from model_zoo.registry import MODELS, WIDER_ATTRIBUTES, get_model, list_models

__all__ = [
    "MODELS", "WIDER_ATTRIBUTES", "get_model", "list_models", "load_foreign", "load_predictor",
    "save_foreign",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the predictor, and with it the export layer, when it is asked for."""
    if name == "load_predictor":
        from model_zoo.predictor import load_predictor

        return load_predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
