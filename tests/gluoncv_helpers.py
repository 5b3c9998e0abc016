"""GluonCV for the tests, where it is installed."""

from __future__ import annotations

import importlib.util

import pytest

from gluon_attn.coco.parts import gluoncv_module


def gluoncv_or_skip():
    """Return GluonCV, or skip what asks for it (a test, or a module that calls this at its top).

    Not ``pytest.importorskip``: GluonCV alone cannot be imported beside PyTorch 2, which the
    parity tests need.
    """
    if importlib.util.find_spec("gluoncv") is None:
        pytest.skip("gluoncv is not installed", allow_module_level=True)
    return gluoncv_module()
