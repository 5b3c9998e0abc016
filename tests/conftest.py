"""Shared by all tests: the library under test is the one in this tree; every test starts seeded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gluon_attn.runtime import seed_everything  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded():
    seed_everything(0)


@pytest.fixture
def repository():
    """The root of the source tree."""
    return ROOT
