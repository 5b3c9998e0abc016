"""Resuming to the bit, the best epoch, checkpoints that are damaged or cannot be written, logs."""

from __future__ import annotations

import json
import math
import shutil
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from training_helpers import checkpoint_arrays, recipe, same, write_data

from gluon_attn.amp import MixedPrecision
from gluon_attn.core.recipe import Recipe
from gluon_attn.train import read_json_lines, save_checkpoint
from gluon_attn.train.fit import _is_better
from gluon_attn.train.log import JsonLines
from gluon_attn.train.run import Settings, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "shapes")


def run(data, folder, resume=False, devices="cpu", test=False, **changes):
    settings = Settings(
        str(data), str(folder), devices, resume=resume, workers=1, console=False, test=test
    )
    return train(Recipe.from_dict(recipe(**changes)), settings)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run of four epochs, and what it found."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run(data, folder, test=True)


@pytest.fixture(scope="module")
def short(data, tmp_path_factory):
    """A run of one epoch."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    run(data, folder, epochs=1)
    return folder


@pytest.fixture
def copy(short, tmp_path):
    return shutil.copytree(short, tmp_path / "run")


def test_resumed_run_equals_the_uninterrupted_one_to_the_bit(data, whole, tmp_path):
    run(data, tmp_path, epochs=2)  # ends inside phase 2, with history and momentum
    resumed = run(data, tmp_path, resume=True)
    first = checkpoint_arrays(whole[0] / "last.ckpt")
    same(checkpoint_arrays(tmp_path / "last.ckpt"), first)
    assert any(n.startswith("trainer/joint") for n in first) and "method/history_rows" in first
    assert whole[1]["best"] == resumed["best"]
    for folder in (whole[0], tmp_path):
        records = read_json_lines(str(folder / "log.jsonl"))
        assert [r["epoch"] for r in records] == [0, 1, 2, 3]
        assert [r["phase"] for r in records] == ["attention", "joint", "joint", "joint"]


def test_bits_depend_on_the_seed_and_on_the_graph_by_rounding_alone(data, short, tmp_path):
    def arrays(**changes):
        run(data, tmp_path / str(changes), epochs=1, **changes)
        return checkpoint_arrays(tmp_path / str(changes) / "last.ckpt")

    first, other = checkpoint_arrays(short / "last.ckpt"), arrays(seed=4)
    same(arrays(), first)
    assert not all(np.array_equal(first[n], other[n]) for n in first)
    same(arrays(hybridize=False), first, rtol=1e-3, atol=1e-4)


def test_the_best_epoch_and_the_one_look_at_the_test_split(data, whole):
    folder, found = whole
    records = read_json_lines(str(folder / "log.jsonl"))
    scores = {r["epoch"]: r["val_mAP"] for r in records if r["phase"] == records[-1]["phase"]}
    best, saved = found["best"], json.loads((folder / "best.json").read_text())
    assert best["epoch"] == max(scores, key=scores.get) and best["mAP"] == max(scores.values())
    assert saved["epoch"] == best["epoch"] and saved["classes"] == ["square", "disc", "stripe"]
    assert saved["recipe"]["seed"] == 3 and saved["versions"]["numpy"] == np.__version__
    assert 0 <= found["test"].values["overall"]["mAP"] <= 1
    stamp = (folder / "test.json").stat().st_mtime_ns
    assert run(data, folder, test=True, resume=True)["test"] is None
    assert (folder / "test.json").stat().st_mtime_ns == stamp


PHASES = {"phase_of": lambda epoch: str(epoch < 2), "is_complete": lambda epoch: True}
LATE_LOSS = {"phase_of": lambda epoch: "joint", "is_complete": lambda epoch: epoch >= 2}


@pytest.mark.parametrize("kind", [PHASES, LATE_LOSS], ids=["phases", "late loss"])
@pytest.mark.parametrize("scores, kept", [
    ([0.9, 0.8, 0.1, 0.3, 0.2], 3),  # heads that the second phase trains are untrained before
    ([0.9, 0.8, np.nan, 0.1, np.nan], 3), ([0.5, 0.9, np.nan, np.nan, np.nan], 1),
])  # fmt: skip
def test_the_best_epoch_is_one_of_the_last_phase_that_has_a_score(kind, scores, kept):
    method = SimpleNamespace(**kind)
    run, best = SimpleNamespace(method=method, keep="best", score_name="mAP"), None
    for epoch, score in enumerate(scores):
        if _is_better(run, epoch, {"mAP": score}, best):
            best = {"epoch": epoch, "mAP": score}
    assert best["epoch"] == kept


def test_log_lines_have_gluons_form(short):
    text = (short / "train.log").read_text()
    assert "Epoch[0] Batch [2]\tSpeed: " in text and " samples/sec\tloss=" in text
    assert "[Epoch 0] training: " in text and "[Epoch 0] validation: mAP=" in text


def test_a_run_is_not_overwritten_and_not_continued_with_other_settings(data, copy, tmp_path):
    with pytest.raises(FileExistsError, match="--resume"):
        run(data, copy, epochs=1)
    with pytest.raises(ValueError, match="'lr' was 0.02, now it is 0.5"):
        run(data, copy, resume=True, lr=0.5)
    with pytest.raises(ValueError, match="data 'train' was"):
        run(write_data(tmp_path / "other", seed=9), copy, resume=True)


def test_divergence_is_reported(data, tmp_path):
    with pytest.raises(ValueError, match="diverged; lower lr") as caught:
        run(data, tmp_path, lr=1e12, epochs=3, options={"phase1_epochs": 0})
    assert "the loss is nan in epoch 0" in str(caught.value)


def test_two_devices_and_accumulation_run(data, tmp_path):
    result = run(data, tmp_path / "run", devices="cpu:2", accumulate=2, epochs=2)
    assert result["best"]["epoch"] in (0, 1)
    with pytest.raises(ValueError, match="a batch of 8 cannot be split"):
        run(data, tmp_path / "other", devices="cpu:3", accumulate=4, epochs=1)


def test_damaged_checkpoints_are_refused(data, copy):
    path = copy / "last.ckpt"
    good = path.read_bytes()
    for bad in (good[: len(good) // 2], b"garbage", b"", good[:5000] + b"\0" * 4000 + good[9000:]):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="last.ckpt is damaged"):
            run(data, copy, resume=True)


def test_failed_save_keeps_the_old_checkpoint(copy, monkeypatch):
    path = copy / "last.ckpt"
    good, net = path.read_bytes(), mx.gluon.nn.Dense(2, in_units=2)
    net.initialize()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.lib.format.write_array", full)
    ctx = [mx.cpu()]
    method = SimpleNamespace(
        net=net, ctx=ctx, trainers={}, phase=None, state=dict,
        precision=MixedPrecision("none", ctx),
    )  # fmt: skip
    with pytest.raises(OSError, match="last.ckpt: No space left on device.*free some space"):
        save_checkpoint(str(path), method, {"epoch": 0})
    assert path.read_bytes() == good
    assert not [p.name for p in path.parent.iterdir() if p.name.startswith(".")]


def test_json_lines_drop_what_will_be_repeated_and_survive_a_cut_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"epoch": 0, "x": 1}\n{"epoch": 1, "x": 2}\n{"epoch": 2, "x"')
    JsonLines(str(path), from_epoch=1).write({"epoch": 1, "x": math.nan})
    assert read_json_lines(str(path)) == [{"epoch": 0, "x": 1}, {"epoch": 1, "x": None}]


def test_scores_of_earlier_weights_are_not_kept(data, tmp_path, caplog):
    def again(epochs):
        done = run(data, tmp_path, epochs=epochs, keep="last", test=True, resume=True)["test"]
        best, test = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("best", "test"))
        assert test["weights"] == best["sha256"]
        return done

    assert again(1) is not None and again(1) is None and "evaluated again" not in caplog.text
    assert again(2) is not None
    assert "test.json is of earlier weights of this run" in caplog.text
    (tmp_path / "last.ckpt").unlink()
    assert again(1) is not None
    assert "the run begins again, and its best.params will be replaced" in caplog.text


def test_epochs_that_end_before_the_method_begins_are_told(data, tmp_path, caplog):
    late = {"options": {"phase0_epochs": 1, "phase1_epochs": 1}}
    run(data, tmp_path / "primary", epochs=1, **late)
    assert "epochs=1 ends before all that vaa trains has begun (phase0_epochs=1" in caplog.text
    caplog.clear()
    run(data, tmp_path / "attention", epochs=2, **late)
    assert "ends before" not in caplog.text
