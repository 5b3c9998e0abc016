"""Models by name, in the manner of Gluon's model zoo.

>>> from model_zoo import get_model, list_models
>>> net = get_model("vaa_resnet101_wider")
"""

from __future__ import annotations

import gluon_attn  # noqa: F401  (checks and prepares the environment before MXNet loads)
import gluon_attn.coco.models  # noqa: F401  (its models)
import model_zoo.factories  # noqa: F401  (these fill the registry)
import model_zoo.factories_attention  # noqa: F401
import model_zoo.factories_efficientnet  # noqa: F401
import model_zoo.factories_hoga  # noqa: F401
import model_zoo.factories_reid  # noqa: F401
import model_zoo.factories_trained  # noqa: F401
import model_zoo.factories_vgg  # noqa: F401
from model_zoo.adapters import load_foreign, save_foreign
from model_zoo.names import MODELS, WIDER_ATTRIBUTES, get_model, list_models

__all__ = [
    "MODELS", "WIDER_ATTRIBUTES", "get_model", "list_models", "load_foreign", "save_foreign",
]  # fmt: skip
