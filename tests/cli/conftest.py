"""Commands as a user types them, run in this process: the same but for the start of MXNet."""

from __future__ import annotations

import pytest
from process_helpers import run_tool


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
        code, out, err = run_tool(name, *arguments)
        assert code == 2, out + err
        assert err.startswith("error: ") and err.count("\n") == 1, err
        assert "Traceback" not in out and "error: " not in out
        return err

    return run
