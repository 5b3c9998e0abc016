"""Tells blocks that their net is traced for inference.

Some layers train faster on a CPU when they are written with other operators. Exports, and whatever
converts them, shall see the plain ones.
"""

from __future__ import annotations

import contextlib
import contextvars
from typing import Iterator

_INFERENCE = contextvars.ContextVar("inference", default=False)


@contextlib.contextmanager
def for_inference() -> Iterator[None]:
    """Let nets that are traced inside leave out what only makes training faster."""
    token = _INFERENCE.set(True)
    try:
        yield
    finally:
        _INFERENCE.reset(token)


def is_for_inference() -> bool:
    """Return whether a net is being traced for inference."""
    return _INFERENCE.get()
