"""A small export that the tests of this folder open and damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from export_helpers import export, make_net


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A net and its export with maps, not checked in another process."""
    net = make_net()
    return net, export(net, tmp_path_factory.mktemp("made") / "x", with_maps=True)


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the export, to be damaged or written into."""
    return Path(shutil.copytree(made[1], tmp_path / "x"))
