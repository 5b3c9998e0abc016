"""One folder per paper; importing this package imports them all, which registers their methods."""

from __future__ import annotations

import importlib
import pkgutil

for _found in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_found.name)
