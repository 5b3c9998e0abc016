"""A page of results and the scores behind it, changed piece by piece, by several calls at a time.

A block of a page stands between two HTML comments, ``<!-- begin NAME -->`` and ``<!-- end NAME
-->``; everything else in the page stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Callable, Iterator

import filelock

from gluon_attn.core.files import or_nan, write_json, write_text
from gluon_attn.core.text import read_json, read_text

WAIT = 60  # seconds for another call, which holds a file for much less than one


@contextlib.contextmanager
def alone_with(path: str | Path) -> Iterator[None]:
    """Let no other call change a file meanwhile.

    Raises:
        TimeoutError: Another process keeps it for more than ``WAIT`` seconds.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    lock = filelock.FileLock(os.path.join(folder, f".{name}.lock"))
    try:
        lock.acquire(timeout=WAIT)
    except filelock.Timeout as error:
        raise TimeoutError(
            f"waited {WAIT} s for {path}, which another call keeps locked; end that one and call "
            "again: what has been trained is used again"
        ) from error
    try:
        yield
    finally:
        lock.release()


def read_scores(path: str | Path) -> dict[str, dict]:
    """Return ``{experiment: {'seeds', 'scores'}}`` of a file, empty if it is not there.

    Raises:
        ValueError: It holds something else.
    """
    if not os.path.exists(path):
        return {}
    try:
        found = read_json(path)
        for entry in found.values():
            entry["scores"] = {k: list(map(or_nan, v)) for k, v in entry["scores"].items()}
            if not all(len(v) == len(entry["seeds"]) for v in entry["scores"].values()):
                raise ValueError("not as many scores as seeds")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} does not hold the scores of experiments ({error!r}); correct or remove it"
        ) from error
    return found


def add_scores(path: str | Path, found: dict[str, dict]) -> None:
    """Add scores to what a file holds now, other calls' among it."""
    with alone_with(path):
        write_json(path, {**read_scores(path), **found})


def replace_block(page: str, name: str, text: str | Callable[[], str]) -> None:
    """Replace what stands between the marks of a block in a page; append a block it lacks.

    ``text`` is the new text, or a function that gives it while no other call changes the page.

    Raises:
        FileNotFoundError: No such page.
    """
    if not os.path.isfile(page):
        raise FileNotFoundError(f"{page}: there is no such page")
    with alone_with(page):
        content = read_text(page)
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        new = text() if callable(text) else text
        block = f"{begin}\n{new.strip()}\n{end}"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.S)
        if pattern.search(content):
            content = pattern.sub(lambda _: block, content)
        else:
            content = f"{content.rstrip()}\n\n## {name}\n\n{block}\n"
        write_text(page, content)
