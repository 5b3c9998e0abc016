"""The one place where GluonCV is imported: its parts are used where they are published.

GluonCV 0.10.5 asks pip for an OpenCV that wants another numpy; installed without its requirements
it runs on ours.
"""

from __future__ import annotations

import importlib

import numpy as np

INSTALL = "pip install --no-deps gluoncv==0.10.5.post0 portalocker"


def gluoncv_module(name):
    """Return a module of GluonCV.

    Args:
        name: Its name inside the package, such as ``nn.bbox``.

    Raises:
        ImportError: GluonCV is not installed, or cannot be loaded; the message says what to do.
    """
    for alias, kind in (("bool", bool), ("int", int), ("float", float)):
        if alias not in np.__dict__:  # removed in numpy 1.24; GluonCV's anchors use them
            setattr(np, alias, kind)
    try:
        return importlib.import_module(f"gluoncv.{name}")
    except ImportError as error:
        raise ImportError(
            f"detection and keypoint nets are made of parts of GluonCV, which cannot be loaded "
            f"({error}); {INSTALL}"
        ) from error
