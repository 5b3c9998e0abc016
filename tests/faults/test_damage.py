"""Files damaged at random: the same value, or one error that names the file; nothing else, ever."""

from __future__ import annotations

import collections
import sys

import pytest
from damage_helpers import GOOD, damage, run_child, run_here
from damage_kinds import KINDS

DEADLY = """
import os, pathlib

def read(path):
    data = pathlib.Path(path).read_bytes()
    if len(data) > 6:
        os._exit(3)
    if data != b"whole":
        raise ValueError(path)
    return {}

KINDS = {"deadly": (lambda path: path.write_bytes(b"whole"), read, False, ".x")}
"""


def check(found, kind):
    """Check outcomes: none but the good ones, and refusals among them."""
    bad = {number: word for number, word in found.items() if word not in GOOD}
    assert not bad, f"{kind}: {len(bad)} of {len(found)}: {dict(list(bad.items())[:5])}"
    assert collections.Counter(found.values())["refused"] > len(found) // 4


@pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")  # of pickletools
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_sample_of_damages(tmp_path, kind):
    check(run_here(kind, range(80), tmp_path), kind)


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_thousand_damages_under_a_limit_of_memory(tmp_path, kind):
    check(run_child(kind, 1000, 1000, tmp_path), kind)


def test_damages_are_those_of_their_number():
    whole = bytes(range(256)) * 8
    assert damage(whole, 5) == damage(whole, 5)
    assert len({damage(whole, number) for number in range(200)}) > 190


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory")
def test_a_case_that_ends_the_process_is_seen(tmp_path):
    """The harness names it and goes on."""
    (tmp_path / "deadly.py").write_text(DEADLY)
    found = run_child("deadly", 0, 12, tmp_path, "deadly")
    assert len(found) == 12 and {"refused", "died (3)"} <= set(found.values())
