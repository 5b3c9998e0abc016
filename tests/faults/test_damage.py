"""Files damaged at random: the same value, or one error that names the file; nothing else, ever.

``pytest -m nightly tests/faults/test_damage.py -s`` prints the table of docs/reliability.md.
"""

from __future__ import annotations

import sys

import pytest
from damage_helpers import GOOD, damage, run_child, run_here, table
from damage_kinds import KINDS

CASES = 250  # of each kind at night: more than 10,000 in all
SAMPLE = 24  # by default; fewer of data sets, which are slower to open
NEVER_REFUSED = ("log", "speeds")  # damages are told of; the rest is read, or measured again
DEADLY = """
import os, pathlib

def read(path):
    data = pathlib.Path(path).read_bytes()
    if len(data) > 6:
        os._exit(3)
    if data != b"whole":
        raise ValueError(path)
    return {}

KINDS = {"deadly": (lambda path: path.write_bytes(b"whole") and None, read, False, ".x")}
"""


def check(found, kind):
    """Check outcomes: none but the good ones, and refusals among them."""
    bad = {number: word for number, word in found.items() if word not in GOOD}
    assert not bad, f"{kind}: {len(bad)} of {len(found)}: {dict(list(bad.items())[:5])}"
    assert kind in NEVER_REFUSED or "refused" in found.values() or len(found) < SAMPLE


@pytest.mark.filterwarnings("ignore")  # of pickletools, of scipy: of damaged contents
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_sample_of_damages(tmp_path, kind):
    count = SAMPLE // 3 if kind.startswith("data_") else SAMPLE
    check(run_here(kind, range(count), tmp_path), kind)


@pytest.fixture(scope="module")
def results():
    found = {}
    yield found
    print("\n" + table(found))


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_many_damages_under_a_limit_of_memory(tmp_path, kind, results):
    results[kind] = run_child(kind, 1000, CASES, tmp_path)
    check(results[kind], kind)


def test_there_are_ten_thousand():
    assert len(KINDS) * CASES >= 10_000


@pytest.mark.parametrize(
    "whole", [bytes(range(256)) * 8, b'{"a": [1, 2, 3], "b": {"c": 4}}', b"some words\n" * 40]
)
def test_damages_are_those_of_their_number(whole):
    assert damage(whole, 5) == damage(whole, 5)
    assert len({damage(whole, number) for number in range(200)}) > 90


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory")
def test_a_case_that_ends_the_process_is_seen(tmp_path):
    """The harness names it, goes on, and counts it."""
    (tmp_path / "deadly.py").write_text(DEADLY)
    found = run_child("deadly", 0, 12, tmp_path, "deadly")
    assert len(found) == 12 and {"refused", "died (3)"} <= set(found.values())
    assert table({"deadly": found}).splitlines()[2].split("|")[6].strip() != "0"
