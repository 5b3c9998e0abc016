"""Shared by all tests: the library under test is the one in this tree; every test starts seeded."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Many small nets and many processes: one thread each is fastest, and steadiest, for the suite.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gluon_attn.runtime import seed_everything  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded():
    seed_everything(0)


@pytest.fixture(scope="session")
def trees(tmp_path_factory):
    """Miniatures of all kinds of data sets, made once."""
    from kinds_helpers import Trees

    return Trees(tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="session")
def repository():
    """The root of the source tree."""
    return ROOT
