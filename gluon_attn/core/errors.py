"""What users see when something goes wrong: one line that names the file, on any console.

Our own errors are ValueError and OSError, and name what they are about. A library raises anything
and names nothing; :func:`naming` adds it. Neither a console that knows only ASCII nor a pipe whose
reader has left may cost a result that is still to be written: see :func:`prepare_console`.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from typing import Any, Iterator, TextIO

REMEDY = "copy or download it again and compare its sha256"
DAMAGED = "{path}: truncated or damaged ({why}); " + REMEDY

# How marks of tables are shown where the console lacks them; anything else is escaped.
PLAIN = dict(zip("…±×→–—≥≤", ("...", "+-", "x", "->", "-", "-", ">=", "<=")))


class NotFiniteError(ValueError):
    """What a net gave is NaN or infinite."""


class DivergedError(ValueError):
    """Training has diverged."""


class DamagedError(ValueError):
    """What is wrong with a file, in words; :func:`naming` adds which file."""


@contextlib.contextmanager
def naming(what: Any, message: str = "") -> Iterator[None]:
    """Let what goes wrong in the body name the file, folder or data that it was about.

    OSError and ImportError stay what they are: they name a file, or what to install. Any other
    error, or a ValueError that does not name ``what``, becomes a ValueError that does.

    Args:
        what: Path or words, for the message.
        message: Of a file whose contents are taken apart, such as ``DAMAGED``, with ``{path}`` and
            ``{why}``. Then an OSError about its contents (seeking to a place in front of it, say)
            is its fault and not the system's, and one without a file's name is given this one's.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # MemoryError and RecursionError are among them
        damaged = isinstance(error, OSError) and error.errno in (None, errno.EINVAL)
        if isinstance(error, OSError) and not (message and damaged):
            if message and error.filename is None:
                raise OSError(error.errno, f"cannot read {what}: {error.strerror}") from error
            raise
        own = isinstance(error, ValueError)
        if own and str(what) in str(error):
            raise
        if not message:
            why = str(error) if own else describe(error)
        elif isinstance(error, (DamagedError, OSError)):
            why = one_line(error)
        else:
            why = f"{type(error).__name__}: {one_line(error)}"
        # What our own errors derive from is kept, for those that catch it.
        kind = type(error) if own and type(error).__init__ is ValueError.__init__ else ValueError
        raise kind((message or "{path}: {why}").format(path=what, why=why)) from error


def describe(error: BaseException) -> str:
    """Return in one line what an error says; errors that no user can expect with their type."""
    text = " ".join(str(error).split())
    if text and isinstance(error, (ValueError, OSError, ImportError)):
        return text
    text, name = first_line(error), type(error).__name__
    return name if text == name else f"{name}: {text}"


def first_line(error: object) -> str:
    """Return the first line of an exception's text that says what happened.

    MXNet puts a traceback before its message, or a stack trace behind it; their lines are indented.
    """
    lines = [line for line in str(error).splitlines() if line.strip()]
    headings = ("Stack trace", "Traceback")
    telling = [line for line in lines if not line[0].isspace() and not line.startswith(headings)]
    return (telling or lines or [type(error).__name__])[0].strip()


def one_line(text: object, limit: int = 300) -> str:
    """Return a text without line ends and other characters that a console cannot show, cut."""
    words = " ".join(str(text)[: 4 * limit].split())
    return "".join(c if c.isprintable() else "?" for c in words)[:limit]


def prepare_console() -> None:
    """Let standard output and error take any text, and go on when their reader has left."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        setattr(sys, name, _prepared(stream, stream is getattr(sys, f"__{name}__")))


def flush_console() -> None:
    """Write out what is still on its way; OSError if it could not be, as on a full disk."""
    sys.stdout.flush()
    sys.stderr.flush()


def print_data(text: str) -> None:
    """Write text that programs read, such as JSON; what does not fit becomes ``\\uXXXX``."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "gluon_attn.escape").decode(encoding))


class _Pipe(io.FileIO):
    """A file whose reader may leave: then nothing is written, and that is all right."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _prepared(stream: TextIO | None, original: bool) -> TextIO:
    if stream is None:  # closed from the start; an open one keeps its number from other files
        return open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if original and type(raw) is io.FileIO:
        stream.flush()
        pipe = _Pipe(raw.fileno(), "wb", closefd=False)
        return io.TextIOWrapper(
            pipe if raw is buffer else io.BufferedWriter(pipe),
            stream.encoding,
            "gluon_attn.show",
            line_buffering=getattr(stream, "line_buffering", False),
            write_through=getattr(stream, "write_through", False),
        )
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="gluon_attn.show")
    return stream


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = zip(text[::2], text[1::2])
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in pairs), error.end


def _show(error: UnicodeError) -> tuple[str, int]:
    if isinstance(error, UnicodeEncodeError):
        if error.object[error.start] in PLAIN:
            return PLAIN[error.object[error.start]], error.start + 1
        error.end = error.start + 1
    return _escape(error)


codecs.register_error("gluon_attn.escape", _escape)
codecs.register_error("gluon_attn.show", _show)
