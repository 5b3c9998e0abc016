"""Several workers make the steps that one process makes, merge what each knows, and end alike."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from distributed_helpers import COCO, EPOCHS, ROWS, STEPS, read
from process_helpers import run_python

from gluon_attn.cli.launch import launch
from gluon_attn.method import METHODS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def path(monkeypatch):
    """Members find the library and the helpers of the tests."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def compare(name, out):
    """Two workers against one process: losses, parameters, the method's state.

    Faster R-CNN learns from anchors and proposals chosen at random, by each process its own.
    """
    nearly = {"rtol": 1e-4, "atol": 1e-4} if name != "faster_rcnn" else {"rtol": 0.2}
    one, first, second = (read(out, name, *who) for who in ((1, 0), (2, 0), (2, 1)))
    assert one.keys() == first.keys() == second.keys()
    for key, wanted in one.items():
        if key.startswith("loss"):
            found = first[key] + second[key]
            assert len(found) == EPOCHS * STEPS
            np.testing.assert_allclose(found / ROWS, wanted / ROWS, **nearly, err_msg=key)
            continue
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)
        if name != "faster_rcnn":
            np.testing.assert_allclose(first[key], wanted, rtol=1e-3, atol=1e-4, err_msg=key)


def train_both(names, out):
    assert launch(["distributed_helpers", str(out), "dist_sync", *names], 2) == 0
    code = "import runpy; runpy.run_module('distributed_helpers', None, '__main__', True)"
    status, _, err = run_python(code, out, "-", *names)
    assert status == 0, err


def test_two_workers_make_the_steps_of_one_process(tmp_path):
    """VAA has phases, so two trainers for one parameter, and a history of predictions."""
    train_both(["vaa"], tmp_path)
    compare("vaa", tmp_path)


@pytest.mark.nightly
def test_two_workers_make_the_steps_of_one_process_with_every_method(tmp_path):
    names = sorted(set(METHODS.names()))
    assert set(COCO) < set(names)
    train_both(names, tmp_path)
    for name in names:
        compare(name, tmp_path)
