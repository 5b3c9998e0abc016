"""Learning-rate schedules: what the papers say, and their state."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gluon_attn.core.recipe import Recipe
from gluon_attn.train import SCHEDULES


def make(name, lr, epochs=99, **settings):
    return SCHEDULES.get(name)(Recipe("m", "n", lr=lr, epochs=epochs, **{"lr_min": 0, **settings}))


def test_step_acts_after_the_epochs_it_names():
    schedule = make("step", 0.1, 160, lr_epochs=(81, 122))  # CIFAR-100, supplement
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
    schedule = make("cyclic_cosine", 0.01, epochs, lr_epochs=edges, lr_min=0.0)
    assert schedule.every_batch
    found = [schedule.lr_within(e, b / batches) for e in range(epochs) for b in range(batches)]
    total = epochs * batches
    expected = [snapshot(t, total, cycles, 0.01) for t in range(1, total + 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert found[0] == 0.01 and found[-1] < 1e-3 * 0.01
    assert schedule.lr(0) == 0.01


def test_cyclic_cosine_ends_at_the_lowest_rate_and_warms_up():
    schedule = make("cyclic_cosine", 1.0, 10, warmup_epochs=2, lr_min=0.1)
    assert [schedule.lr(e) for e in (0, 1)] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert schedule.lr_within(1, 0.9) == schedule.lr(1)
    assert schedule.lr(2) == 1.0
    assert schedule.lr_within(6, 0.0) == pytest.approx(0.55)
    assert 0.1 < schedule.lr_within(9, 0.99) < 0.101
    values = [schedule.lr_within(2 + t // 10, t % 10 / 10) for t in range(80)]
    assert all(a > b for a, b in zip(values, values[1:]))


def test_schedules_keep_no_state_but_plateau():
    for name in SCHEDULES.names():
        schedule = make(name, 0.1, 10)
        assert bool(schedule.state()) == (name == "plateau")


def test_plateau_follows_the_supplement():
    schedule = make("plateau", 1e-3, 100, lr_patience=2, lr_min=1e-5)
    values = []
    for epoch, score in enumerate([0.5, 0.6] + [0.6] * 12):
        values.append(schedule.lr(epoch))
        schedule.record(score)
    # more than two epochs without a better score divide by ten, until 1e-5
    assert values == pytest.approx([1e-3] * 5 + [1e-4] * 3 + [1e-5] * 6)
    before = schedule.state()
    for _ in range(5):
        schedule.record(math.nan)  # says nothing, so it is not waited for
    assert schedule.state() == before
    schedule.restart()
    assert schedule.state()["best"] is None  # JSON has no -inf
    assert schedule.lr(20) == 1e-3


def test_plateau_continues_from_its_state():
    one, other = make("plateau", 0.1, 9, lr_patience=1), make("plateau", 0.1, 9, lr_patience=1)
    for score in (0.3, 0.2, 0.1):
        one.record(score)
    other.load_state(json.loads(json.dumps(one.state())))
    assert other.state() == one.state() and other.lr(5) == one.lr(5) == pytest.approx(0.01)


def test_cosine_step_and_warmup():
    cosine = make("cosine", 1.0, 10, warmup_epochs=2)
    values = [cosine.lr(e) for e in range(10)]
    assert values[0] == pytest.approx(1 / 3) and values[1] == pytest.approx(2 / 3)
    assert all(a > b for a, b in zip(values[2:], values[3:])) and 0 < values[-1] < 0.02
    step = make("step", 1.0, 9, lr_factor=0.5, lr_epochs=(3, 6))
    assert [step.lr(e) for e in (0, 2, 3, 5, 6)] == [1, 1, 0.5, 0.5, 0.25]
    assert make("constant", 0.3, 5).lr(4) == 0.3
