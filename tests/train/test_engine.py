"""Schedules, checkpoints, resuming, the best epoch, divergence, and the loop's bookkeeping."""

from __future__ import annotations

import json
import math

import mxnet as mx
import numpy as np
import pytest
from training_helpers import checkpoint_arrays, recipe, write_data

from gluon_attn.amp import MixedPrecision
from gluon_attn.core.recipe import Recipe
from gluon_attn.tasks import data as data_of
from gluon_attn.train import load_checkpoint, read_json_lines, save_checkpoint
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


def test_resumed_run_equals_the_uninterrupted_one_to_the_bit(data, tmp_path):
    whole = run(data, tmp_path / "whole")
    run(data, tmp_path / "cut", epochs=2)  # ends inside phase 2, with history and momentum
    resumed = run(data, tmp_path / "cut", resume=True)
    first = checkpoint_arrays(tmp_path / "whole" / "last.ckpt")
    second = checkpoint_arrays(tmp_path / "cut" / "last.ckpt")
    assert first.keys() == second.keys()
    assert any(n.startswith("trainer/joint") for n in first) and "method/history_rows" in first
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert whole["best"] == resumed["best"]
    for folder in ("whole", "cut"):
        records = read_json_lines(str(tmp_path / folder / "log.jsonl"))
        assert [r["epoch"] for r in records] == [0, 1, 2, 3]
        assert [r["phase"] for r in records] == ["attention", "joint", "joint", "joint"]


def test_same_seed_same_bits_other_seed_other_bits(data, tmp_path):
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(data, tmp_path / folder, epochs=1, seed=seed)
    a, b, c = (checkpoint_arrays(tmp_path / f / "last.ckpt") for f in "abc")
    assert all(np.array_equal(a[n], b[n]) for n in a)
    assert not all(np.array_equal(a[n], c[n]) for n in a)


def test_best_epoch_is_the_one_with_the_best_validation_score(data, tmp_path):
    best = run(data, tmp_path / "run")["best"]
    records = read_json_lines(str(tmp_path / "run" / "log.jsonl"))
    scores = [r["val_mAP"] for r in records]
    assert best["epoch"] == int(np.argmax(scores)) and best["mAP"] == max(scores)
    saved = json.loads((tmp_path / "run" / "best.json").read_text())
    assert saved["epoch"] == best["epoch"] and saved["classes"] == ["square", "disc", "stripe"]
    assert saved["recipe"]["seed"] == 3 and saved["versions"]["numpy"] == np.__version__


def test_test_split_is_touched_once(data, tmp_path):
    first = run(data, tmp_path / "run", test=True)
    assert 0 <= first["test"].values["overall"]["mAP"] <= 1
    stamp = (tmp_path / "run" / "test.json").stat().st_mtime_ns
    assert run(data, tmp_path / "run", test=True, resume=True)["test"] is None
    assert (tmp_path / "run" / "test.json").stat().st_mtime_ns == stamp


def test_a_run_is_not_overwritten_and_not_continued_with_other_settings(data, tmp_path):
    run(data, tmp_path / "run", epochs=1)
    with pytest.raises(FileExistsError, match="--resume"):
        run(data, tmp_path / "run", epochs=1)
    with pytest.raises(ValueError, match="'lr' was 0.02, now it is 0.5"):
        run(data, tmp_path / "run", resume=True, lr=0.5)
    with pytest.raises(ValueError, match="data 'train' was"):
        other = write_data(tmp_path / "other", seed=9)
        run(other, tmp_path / "run", resume=True)


def test_divergence_is_reported(data, tmp_path):
    with pytest.raises(ValueError, match="diverged; lower lr"):
        run(data, tmp_path / "run", lr=1e12, epochs=3, options={"phase1_epochs": 0})


def test_too_small_a_training_set_is_reported(data, tmp_path):
    with pytest.raises(ValueError, match="smaller batch"):
        run(data, tmp_path / "run", batch_size=64)


def test_two_devices_and_accumulation_run(data, tmp_path):
    result = run(data, tmp_path / "run", devices="cpu:2", accumulate=2, epochs=2)
    assert result["best"]["epoch"] in (0, 1)
    with pytest.raises(ValueError, match="a batch of 8 cannot be split"):
        run(data, tmp_path / "other", devices="cpu:3", accumulate=4, epochs=1)


def test_damaged_checkpoints_are_refused(data, tmp_path):
    run(data, tmp_path / "run", epochs=1)
    path = tmp_path / "run" / "last.ckpt"
    good = path.read_bytes()
    for bad in (good[: len(good) // 2], b"garbage", b"", good[:5000] + b"\0" * 4000 + good[9000:]):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="last.ckpt is damaged"):
            run(data, tmp_path / "run", resume=True)
    path.write_bytes(good)
    run(data, tmp_path / "run", resume=True)


def test_checkpoint_of_another_net_changes_nothing(data, tmp_path):
    run(data, tmp_path / "run", epochs=1)
    arrays, meta = load_checkpoint(str(tmp_path / "run" / "last.ckpt"))
    from gluon_attn.train import build, restore

    other = Recipe.from_dict(recipe(model_options={"width": 16}))
    net = build.build_net(other, 3)
    build.initialize_net(other, net, [mx.cpu()])
    dataset = data_of.open_split(other, str(data), "train")
    method = build.build_method(other, net, [mx.cpu()], dataset)
    before = net.collect_params()
    before = {n: p.data().asnumpy() for n, p in before.items()}
    with pytest.raises(ValueError, match="of another net"):
        restore(method, arrays, meta)
    for name, parameter in net.collect_params().items():
        np.testing.assert_array_equal(before[name], parameter.data().asnumpy())


def test_failed_save_keeps_the_old_checkpoint(data, tmp_path, monkeypatch):
    run(data, tmp_path / "run", epochs=1)
    path = tmp_path / "run" / "last.ckpt"
    good = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.lib.format.write_array", full)
    with pytest.raises(OSError, match="last.ckpt: No space left on device.*free some space"):
        save_checkpoint(str(path), _StubMethod(), {"epoch": 0})
    assert path.read_bytes() == good
    assert sorted(p.name for p in path.parent.iterdir() if p.name.startswith(".")) == []


class _StubMethod:
    """The least that save_checkpoint asks of a method."""

    ctx, trainers, phase = [mx.cpu()], {}, None
    precision = MixedPrecision("none", [mx.cpu()])

    def __init__(self):
        self.net = mx.gluon.nn.Dense(2, in_units=2)
        self.net.initialize()

    def state(self):
        return {}


def test_log_lines_have_gluons_form(data, tmp_path):
    run(data, tmp_path / "run", epochs=1)
    text = (tmp_path / "run" / "train.log").read_text()
    assert "Epoch[0] Batch [2]\tSpeed: " in text and " samples/sec\tloss=" in text
    assert "[Epoch 0] training: " in text and "[Epoch 0] validation: mAP=" in text


def test_json_lines_drop_what_will_be_repeated_and_survive_a_cut_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"epoch": 0, "x": 1}\n{"epoch": 1, "x": 2}\n{"epoch": 2, "x"')
    log = JsonLines(str(path), from_epoch=1)
    log.write({"epoch": 1, "x": math.nan})
    assert read_json_lines(str(path)) == [{"epoch": 0, "x": 1}, {"epoch": 1, "x": None}]


def test_imperative_training_matches_the_static_graph(data, tmp_path):
    for folder, hybridize in (("static", True), ("imperative", False)):
        run(data, tmp_path / folder, epochs=1, hybridize=hybridize)
    one = checkpoint_arrays(tmp_path / "static" / "last.ckpt")
    other = checkpoint_arrays(tmp_path / "imperative" / "last.ckpt")
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-4, err_msg=name)
