"""Weights of other packages: torchvision, GluonCV, VAA's repository; see docs/weights.md.

``tables`` says who names what how, ``translate`` applies it, ``torch_read``, ``torch_pickle`` and
``safe_tensors`` open foreign formats without running anything, ``guess`` recognises nets.
"""

from __future__ import annotations

from model_zoo.adapters.convert import Converted, convert, load_foreign, save_foreign
from model_zoo.adapters.files import beside, read_arrays
from model_zoo.adapters.guess import explain, guess_net
from model_zoo.adapters.tables import SCHEMES
from model_zoo.adapters.translate import translate

__all__ = [
    "SCHEMES", "Converted", "beside", "convert", "explain", "guess_net", "load_foreign",
    "read_arrays", "save_foreign", "translate",
]  # fmt: skip
