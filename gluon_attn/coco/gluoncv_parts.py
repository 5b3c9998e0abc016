"""The one place where GluonCV is imported: its parts are used where they are published.

GluonCV 0.10.5 asks pip for an OpenCV that wants another numpy; installed without its requirements
it runs on ours.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager

import numpy as np

INSTALL = "pip install --no-deps gluoncv==0.10.5.post0 portalocker"


@contextmanager
def _without_torch():
    """Hide PyTorch: GluonCV refuses to be imported where it finds version 2 or later."""
    found = sys.modules.get("torch")
    sys.modules["torch"] = None  # importing it raises ImportError, which GluonCV takes for "absent"
    try:
        yield
    finally:
        del sys.modules["torch"]
        if found is not None:
            sys.modules["torch"] = found


def gluoncv_module(name=""):
    """Return a module of GluonCV; PyTorch may be installed beside it, in any version.

    Args:
        name: Its name inside the package, such as ``nn.bbox``; empty: the package itself.

    Raises:
        ImportError: GluonCV is not installed, or cannot be loaded; the message says what to do.
    """
    for alias, kind in (("bool", bool), ("int", int), ("float", float)):
        if alias not in np.__dict__:  # removed in numpy 1.24; GluonCV's anchors use them
            setattr(np, alias, kind)
    try:
        if "gluoncv" not in sys.modules:
            with _without_torch():
                importlib.import_module("gluoncv")
        return importlib.import_module(f"gluoncv.{name}" if name else "gluoncv")
    except Exception as error:  # beside other packages than it was made for it fails in many ways
        what = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise ImportError(
            f"detection and keypoint nets are made of parts of GluonCV, which cannot be loaded "
            f"({what}); {INSTALL}"
        ) from error
