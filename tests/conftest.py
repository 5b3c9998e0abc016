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

from gluon_attn.core.files import write_bytes  # noqa: E402
from gluon_attn.runtime import seed_everything  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded():
    seed_everything(0)


@pytest.fixture(scope="session", autouse=True)
def _oldest_matplotlib():
    """What the newest matplotlib for Python 3.8 lacks is refused on every Python."""
    from matplotlib.spines import SpinesProxy

    found = SpinesProxy.__getattr__

    def get(self, name):
        if name == "set":
            raise AttributeError("axes.spines[...].set: not in matplotlib 3.7; use set_...")
        return found(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpinesProxy, "__getattr__", get)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_curves():
    """Leave out a third of a tiny run's time, its figure: test_figures and the tools draw it."""
    training = sys.modules.get("gluon_attn.train.run")
    with pytest.MonkeyPatch.context() as patch:
        if training is not None:
            patch.setattr(training, "training_curves", lambda log, path: write_bytes(path, b""))
        yield


@pytest.fixture(scope="session")
def trees(tmp_path_factory):
    """Miniatures of all kinds of data sets, made once."""
    from kinds_helpers import Trees

    return Trees(tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="session")
def repository():
    """The root of the source tree."""
    return ROOT
