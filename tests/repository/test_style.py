"""Rules for the text of files, each one test that lists every place that breaks it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
WAITING = TESTS / "process_helpers.py"  # the one place that may look at the clock
SLEEP = re.compile(r"\bsleep\(|\btimeout=[\d.]")


def clocked(source: str) -> list[str]:
    """Return how a test depends on how long something takes, in its own code or in a script."""
    found = [
        f"line {source[: m.start()].count(chr(10)) + 1}: {m[0]}" for m in SLEEP.finditer(source)
    ]
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        found += [f"line {node.lineno}: import {n}" for n in names if n in ("time", "subprocess")]
    return found


def test_no_test_waits_for_a_while():
    """Tests wait for events (process_helpers.wait_for, finish): a busy machine changes nothing."""
    places = [
        f"{path.name}, {place}"
        for path in sorted(TESTS.glob("*.py"))
        if path not in (WAITING, Path(__file__).resolve())
        for place in clocked(path.read_text(encoding="utf-8"))
    ]
    assert not places, "wait for an event instead:\n" + "\n".join(places)


def test_the_search_for_clocks_finds_them():
    for source in (
        "import time",
        "from time import monotonic",
        "def test():\n    import subprocess",
        "SCRIPT = '''\nimport os\nos.sleep(1)\n'''",
        "lock.acquire(timeout=0.5)",
    ):
        assert len(clocked(source)) == 1, source
    assert clocked("import timeit\nx = dict(timeout=PATIENCE)\nasleep(1)") == []
