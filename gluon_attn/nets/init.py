"""How weights start."""

from __future__ import annotations

from mxnet import init


def xavier() -> init.Initializer:
    """Return the initialisation of VAA's authors' code: gaussian, variance 2 / fan-in."""
    return init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2)
