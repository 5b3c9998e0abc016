"""Memory stays where it is: from the second epoch on, and over 20,000 predictions."""

from __future__ import annotations

import gc
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import training_helpers
from export_helpers import export, make_net

from gluon_attn.export import Predictor

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(sys.platform != "linux", reason="/proc tells of memory"),
]
EPOCHS, PREDICTIONS = 30, 20_000
GROWTH = 8.0  # MB; half of what keeping every batch of an epoch would take


def memory():
    """Return the resident memory of this process in MB."""
    gc.collect()
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def check(found, what):
    """Compare the last third with the one behind the warm-up."""
    third = len(found) // 3
    early, late = np.median(found[2 : third + 2]), np.median(found[-third:])
    print(f"{what}: {early:.1f} MB, {late:.1f} MB at the end")
    assert late - early < GROWTH, [round(value, 1) for value in found]


def test_epochs(tmp_path, monkeypatch):
    found = []
    fit = sys.modules["gluon_attn.train.fit"]
    seed = fit.seed_everything

    def noted(*arguments):
        found.append(memory())
        seed(*arguments)

    monkeypatch.setattr(fit, "seed_everything", noted)
    data = training_helpers.write_data(tmp_path / "data")
    training_helpers.run(training_helpers.recipe(epochs=EPOCHS), data, tmp_path / "run", workers=2)
    assert len(found) >= EPOCHS
    check(found, f"{EPOCHS} epochs")


def test_predictions(tmp_path):
    predictor = Predictor(export(make_net(), tmp_path / "x"), batch_size=32)
    rng, found = np.random.default_rng(0), []
    chunk = list(rng.integers(0, 256, (200, 40, 30, 3), np.uint8))
    for _ in range(PREDICTIONS // len(chunk)):
        assert predictor(chunk).shape == (len(chunk), 4)
        found.append(memory())
    check(found, f"{PREDICTIONS:,} predictions")
