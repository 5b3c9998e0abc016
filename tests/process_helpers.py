"""Other processes and threads in tests, and how to wait: for an event, never for a while."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import runpy
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600  # seconds; nothing takes nearly as long, so only what hangs comes to it

# MXNet needs gluon_attn first where NumPy has dropped a name (Python 3.12), as in a user's script.
HEAD = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]; import gluon_attn\n"


def python(script: str, *arguments: object) -> list[str]:
    """Return the command that runs a script with this tree's library and ``sys.argv[1:]``."""
    return [sys.executable, "-c", HEAD + textwrap.dedent(script), *map(str, arguments)]


def start(command: list[str], **options: Any) -> subprocess.Popen:
    """Start a process with pipes for its output, from a folder that is not the source tree."""
    pipe = subprocess.PIPE
    settings = {"stdout": pipe, "stderr": pipe, "text": True, "cwd": os.path.abspath(os.sep)}
    return subprocess.Popen([str(part) for part in command], **{**settings, **options})


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Wait for the end of a process; return ``(exit code, standard output, standard error)``."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, out, err


def run(command: list[str], **options: Any) -> tuple[int, str, str]:
    """Run a command to its end: :func:`start`, then :func:`finish`."""
    return finish(start(command, **options))


def run_python(script: str, *arguments: object, **options: Any) -> tuple[int, str, str]:
    """Run a script to its end: :func:`python`, then :func:`run`."""
    return run(python(script, *arguments), **options)


def run_tool(name: str, *arguments: object) -> tuple[Any, str, str]:
    """Run a script of tools/ in this process; return exit code, standard output, error output."""
    out, err, logs = io.StringIO(), io.StringIO(), logging.getLogger()
    handlers, level = list(logs.handlers), logs.level
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", [str(ROOT / "tools" / name), *map(str, arguments)])
        patch.setattr(sys, "path", list(sys.path))
        try:
            with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
                runpy.run_path(sys.argv[0], run_name="__main__")
        finally:
            logs.handlers[:] = handlers
            logs.setLevel(level)
    return end.value.code or 0, out.getvalue(), err.getvalue()


def ended_process() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def wait_for(event: Callable[[], Any], what: str) -> Any:
    """Call ``event`` until it returns something true, and return that.

    Raises:
        AssertionError: It has not happened after ``PATIENCE`` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        found = event()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.005)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Make all calls at the same time, each in a thread; return their results, or raise."""
    start_line, results = threading.Barrier(len(calls)), [None] * len(calls)

    def work(number: int) -> None:
        try:
            start_line.wait()
            results[number] = (calls[number](), None)
        except BaseException as error:  # raised again where the test can see it
            results[number] = (None, error)

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"a thread has not ended after {PATIENCE} s"
    for _, error in results:
        if error is not None:
            raise error
    return [value for value, _ in results]
