"""Standard output and error that take any text, whatever the console and whoever reads.

A console may know no more than ASCII, and who reads a pipe may have seen enough (``| head``).
Neither is an error, and neither may cost a result that is still to be written.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TextIO

# How marks of tables are shown where the console lacks them; anything else is escaped.
PLAIN = {
    "…": "...", "±": "+-", "×": "x", "→": "->", "–": "-", "—": "-", "≥": ">=", "≤": "<=",
}  # fmt: skip


def prepare() -> None:
    """Let standard output and error take any text, and go on when their reader has left."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        setattr(sys, name, _prepared(stream, stream is getattr(sys, f"__{name}__")))


def finish() -> None:
    """Write out what is still on its way.

    Raises:
        OSError: It could not be written, as on a full disk.
    """
    sys.stdout.flush()
    sys.stderr.flush()


def write_data(text: str) -> None:
    """Write text that programs read, such as JSON; what does not fit becomes ``\\uXXXX``."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "gluon_attn.escape").decode(encoding))


class _Pipe(io.FileIO):
    """A file whose reader may leave."""

    def write(self, data: bytes) -> int:
        """Write; without a reader nothing is written, and that is all right."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _prepared(stream: TextIO | None, original: bool) -> TextIO:
    """Return a stream that never fails on a text, nor on a closed pipe."""
    if stream is None:  # closed from the start; an open one keeps its number from other files
        return open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if original and type(raw) is io.FileIO:
        stream.flush()
        pipe = _Pipe(raw.fileno(), "wb", closefd=False)
        return io.TextIOWrapper(
            pipe if raw is buffer else io.BufferedWriter(pipe), stream.encoding,
            "gluon_attn.show", line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )  # fmt: skip
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="gluon_attn.show")
    return stream


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Return characters as JSON escapes them, those outside the first 65,536 as pairs."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = zip(text[::2], text[1::2])
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in pairs), error.end


def _show(error: UnicodeError) -> tuple[str, int]:
    """Return the plain form of a mark, else what :func:`_escape` does."""
    if isinstance(error, UnicodeEncodeError) and error.object[error.start] in PLAIN:
        return PLAIN[error.object[error.start]], error.start + 1
    if isinstance(error, UnicodeEncodeError):
        error.end = error.start + 1
    return _escape(error)


codecs.register_error("gluon_attn.escape", _escape)
codecs.register_error("gluon_attn.show", _show)
