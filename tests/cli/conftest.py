"""Commands as a user types them, run in this process: the same but for the start of MXNet."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def run_tool(name, *arguments):
    """Run a script of tools/; return its exit code, standard output and error output."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", [str(TOOLS / name), *map(str, arguments)])
        patch.setattr(sys, "path", list(sys.path))
        with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            runpy.run_path(sys.argv[0], run_name="__main__")
    return end.value.code or 0, out.getvalue(), err.getvalue()


@pytest.fixture(scope="session")
def call():
    return run_tool


@pytest.fixture(scope="session")
def succeed():
    """A function that runs a script, which must succeed; returns its standard output."""

    def run(name, *arguments):
        code, out, err = run_tool(name, *arguments)
        assert code == 0 and "Traceback" not in out + err, out + err
        return out

    return run


@pytest.fixture(scope="session")
def error():
    """A function that runs a script, which must fail with one line; returns the line."""

    def run(name, *arguments):
        return error_line(*run_tool(name, *arguments))

    return run


def error_line(code, out, err):
    """Return the one line with which a command has failed, having checked that it is."""
    assert code == 2, out + err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert "Traceback" not in out and "error: " not in out
    return err
