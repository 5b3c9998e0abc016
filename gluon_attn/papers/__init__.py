"""One folder per paper; importing this package imports them all, which registers their methods."""

from __future__ import annotations

from gluon_attn.core.registry import import_all

import_all(__path__, __name__)
