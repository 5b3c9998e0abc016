"""Errors that users see: one line that names the file, whatever a library raised.

Our own errors are ValueError and OSError, and name what they are about themselves. A library that
meets contents that it did not expect raises anything, and names nothing.
"""

from __future__ import annotations

import contextlib
from typing import Any, Iterator

from gluon_attn.core.files import first_line


class NotFiniteError(ValueError):
    """What a net gave is NaN or infinite."""


class DivergedError(ValueError):
    """Training has diverged."""


@contextlib.contextmanager
def naming(what: Any) -> Iterator[None]:
    """Let what goes wrong in the body name the file, folder or data that it was about.

    OSError and ImportError pass as they are: they name a file, or what to install.

    Args:
        what: Path or words, for the message.

    Raises:
        ValueError: The body raised another error, or a ValueError that does not name ``what``.
    """
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        own = isinstance(error, ValueError)
        if own and str(what) in str(error):
            raise
        # What our own errors derive from is kept, for those that catch it.
        kind = type(error) if own and type(error).__init__ is ValueError.__init__ else ValueError
        raise kind(f"{what}: {error if own else describe(error)}") from error


def describe(error: BaseException) -> str:
    """Return in one line what an error says; errors that no user can expect with their type."""
    text = " ".join(str(error).split())
    if text and isinstance(error, (ValueError, OSError, ImportError)):
        return text
    text, name = first_line(error), type(error).__name__
    return name if text == name else f"{name}: {text}"
