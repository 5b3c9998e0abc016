"""Where a run reports to: the console, ``train.log``, ``log.jsonl`` and, if asked, TensorBoard."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from typing import Any, Callable

from gluon_attn.core import text
from gluon_attn.core.files import json_text, naming_write, write_text

logger = logging.getLogger("gluon_attn")


def log_to(folder: str, console: bool = True, *, silent: bool = False) -> Callable[[], None]:
    """Send log messages to ``folder/train.log`` and the console, or nowhere if ``silent``.

    Return a function to undo it.
    """
    path = os.path.join(folder, "train.log")
    handlers: list[logging.Handler] = [
        logging.NullHandler() if silent else QuietFileHandler(path, encoding="utf-8", delay=True)
    ]
    if console and not silent:
        handlers.append(TqdmHandler())
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)

    def stop() -> None:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()

    return stop


class TqdmHandler(logging.Handler):
    """Write lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record to standard output; train.log has it whatever the console does."""
        from tqdm import tqdm

        line = self.format(record)
        with contextlib.suppress(OSError, ValueError):  # closed, or its reader has left
            try:
                tqdm.write(line)
            except UnicodeEncodeError:
                tqdm.write(line.encode("ascii", "backslashreplace").decode())


class QuietFileHandler(logging.FileHandler):
    """A log file that a full disk does not turn into a stream of tracebacks.

    Its folder is made with the first line: a run that is refused before leaves nothing behind.
    """

    def _open(self) -> Any:
        os.makedirs(os.path.dirname(self.baseFilename), exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """Say nothing: what matters is written elsewhere, with its own error."""


class JsonLines:
    """One JSON object per line; those of epochs from ``from_epoch`` on are first removed."""

    def __init__(self, path: str, from_epoch: int = 0) -> None:
        self.path = path
        kept = [r for r in read_json_lines(path) if r.get("epoch", -1) < from_epoch]
        write_text(path, "".join(json_text(r, None) for r in kept))

    def write(self, record: dict[str, Any]) -> None:
        """Append ``record``; values that JSON does not have (nan) become null."""
        with naming_write(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json_text(record, None))


def read_json_lines(path: str) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file; a last line cut off by a crash is left out."""
    if not os.path.exists(path):
        return []
    records = []
    for _, record in text.read_json_lines(path):
        if isinstance(record, ValueError):
            break
        records.append(record)
    return records


class TensorBoard:
    """Scalars for TensorBoard through tensorboardX, which is optional."""

    def __init__(self, folder: str) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ImportError(
                "--tensorboard needs tensorboardX: pip install tensorboardX (or leave the flag out)"
            ) from None
        self._writer = SummaryWriter(folder)

    def write(self, record: dict[str, Any]) -> None:
        """Add every number of ``record`` at step ``record['epoch']``."""
        for name, value in record.items():
            if name != "epoch" and isinstance(value, (int, float)) and math.isfinite(value):
                self._writer.add_scalar(name, value, record["epoch"])
        self._writer.flush()
