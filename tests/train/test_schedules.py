"""Learning-rate schedules of the image classification papers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gluon_attn.train import SCHEDULES


def test_step_acts_after_the_epochs_it_names():
    schedule = SCHEDULES.get("step")(0.1, 160, lr_epochs=(81, 122))  # CIFAR-100, supplement
    values = [schedule.lr(epoch) for epoch in range(160)]
    np.testing.assert_allclose(values[:81], 0.1)  # 81 epochs at 0.1
    np.testing.assert_allclose(values[81:122], 0.01)
    np.testing.assert_allclose(values[122:], 0.001)
    assert not schedule.every_batch and schedule.lr_within(90, 0.7) == schedule.lr(90)


def snapshot(t, total, cycles, base):
    """Snapshot Ensembles (ICLR 2017), Eq. 2, t from 1."""
    length = math.ceil(total / cycles)
    return base / 2 * (math.cos(math.pi * ((t - 1) % length) / length) + 1)


@pytest.mark.parametrize("cycles", [1, 4])
def test_cyclic_cosine_is_that_of_snapshot_ensembles(cycles):
    epochs, batches = 20, 30
    edges = tuple(epochs * k // cycles for k in range(1, cycles))
    schedule = SCHEDULES.get("cyclic_cosine")(0.01, epochs, lr_epochs=edges, lr_min=0.0)
    assert schedule.every_batch
    found = [schedule.lr_within(e, b / batches) for e in range(epochs) for b in range(batches)]
    total = epochs * batches
    expected = [snapshot(t, total, cycles, 0.01) for t in range(1, total + 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert found[0] == 0.01 and found[-1] < 1e-3 * 0.01
    assert schedule.lr(0) == 0.01


def test_cyclic_cosine_ends_at_the_lowest_rate_and_warms_up():
    schedule = SCHEDULES.get("cyclic_cosine")(1.0, 10, warmup_epochs=2, lr_min=0.1)
    assert [schedule.lr(e) for e in (0, 1)] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert schedule.lr_within(1, 0.9) == schedule.lr(1)
    assert schedule.lr(2) == 1.0
    assert schedule.lr_within(6, 0.0) == pytest.approx(0.55)
    assert 0.1 < schedule.lr_within(9, 0.99) < 0.101
    values = [schedule.lr_within(2 + t // 10, t % 10 / 10) for t in range(80)]
    assert all(a > b for a, b in zip(values, values[1:]))


def test_schedules_keep_no_state_but_plateau():
    for name in SCHEDULES.names():
        schedule = SCHEDULES.get(name)(0.1, 10)
        assert bool(schedule.state()) == (name == "plateau")
