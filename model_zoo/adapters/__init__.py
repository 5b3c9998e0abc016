"""Weights of other packages: torchvision, GluonCV, VAA's repository; see docs/weights.md.

``tables`` says who names what how, ``names`` applies it and recognises nets, ``read`` opens every
format without running anything, ``convert`` loads, saves and converts.
"""

from __future__ import annotations

from model_zoo.adapters.names import explain, guess_net, translate
from model_zoo.adapters.read import beside, read_arrays
from model_zoo.adapters.tables import SCHEMES

__all__ = ["SCHEMES", "beside", "explain", "guess_net", "read_arrays", "translate"]
