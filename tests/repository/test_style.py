"""Tests wait for events (process_helpers.wait_for, finish): a busy machine changes nothing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
MAY = (TESTS / "process_helpers.py", Path(__file__).resolve())  # look at the clock
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
    paths = [path for path in sorted(TESTS.rglob("*.py")) if path not in MAY]
    found = [f"{path.relative_to(TESTS)}, {place}"
             for path in paths for place in clocked(path.read_text(encoding="utf-8"))]  # fmt: skip
    assert len(paths) > 100 and not found, "wait for an event instead:\n" + "\n".join(found)


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
