"""Packing and prediction in shards as a scheduler calls them: commands of their own, one merge."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from export_helpers import export, make_net
from process_helpers import finish, run_python, run_tool, start, wait_for

from gluon_attn.data import open_dataset, packing
from gluon_attn.tasks import predictions

ROOT = Path(__file__).resolve().parents[2]
COUNT = 20
KILLS = 4


def write_images(folder, count, bad=()):
    """Write a list data set of small images, and two of every name."""
    rng, lines = np.random.default_rng(0), []
    folder.mkdir(exist_ok=True)
    (folder / "names.txt").write_text("hat\nbag\n")
    for k in range(count):
        path = folder / f"{k % 2}" / f"{k // 2:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (12 + k % 5, 16, 3), np.uint8))
        if k in bad:
            path.write_bytes(path.read_bytes()[:50])
        lines.append(f"{path.relative_to(folder)}\t{k % 2},1\n")
    (folder / "train.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), COUNT, bad=[5, 13])


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return export(make_net(), tmp_path_factory.mktemp("net") / "x")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", 3)
    monkeypatch.setattr(predictions, "CHUNK", 3)


def contents(folder):
    return {
        p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and "-of-" not in p.name
    }


def jobs(kind, net, images, out, skip=True):
    """Return the words of a command, without those of a shard."""
    policy = ["--on-bad-image", "skip"] if skip else []
    if kind == "prepare_data.py":
        return [kind, "list", "--root", images, "--out", out, "--size", 24, "--train-size", 16,
                "-j", 1, *policy]  # fmt: skip
    return [kind, net, images, "--csv", out / "r.csv", "--json", out / "r.json",
            "--batch-size", 4, *policy]  # fmt: skip


@pytest.mark.parametrize("kind", ["prepare_data.py", "predict.py"])
def test_shards_and_one_merge_make_what_one_command_makes(kind, net, images, tmp_path):
    whole, apart = tmp_path / "whole", tmp_path / "apart"
    command = partial(jobs, kind, net, images)
    assert run_tool(*command(whole))[0] == 0
    for number in (3, 1, 2):
        words = [*command(apart, skip=kind != "predict.py"), "--shard", f"{number}/3"]
        code, out, err = run_tool(*words)
        assert code == 0, err
        code, out, err = run_tool(*words)
        assert code == 0 and "already, kept" in out + err
    code, out, err = run_tool("merge.py", apart)
    assert code == 0 and out.endswith("merged\n"), err
    assert contents(apart) == contents(whole)
    if kind == "predict.py":
        people = json.loads((whole / "r.json").read_text())["people"]
        assert len(people) == COUNT and len({person["image"] for person in people}) == COUNT
        assert sum("truncated" in (person["error"] or "") for person in people) == 2
    name = apart / ("r.csv" if kind == "predict.py" else "train")
    code, _, err = run_tool("merge.py", name)
    assert code == 2 and "exists; overwrite" in err and err.count("\n") == 1
    assert run_tool("merge.py", name, "--overwrite")[0] == 0
    next(apart.glob("*-00002-of-00003.json*")).unlink()
    code, _, err = run_tool("merge.py", name, "--out", tmp_path / "out")
    assert code == 2 and "lack" in err and "-00002-of-00003.json" in err and "--shard 2/3" in err
    assert not (tmp_path / "out").exists()


def test_a_scheduler_is_told_what_is_wrong(images, net, tmp_path):
    for words, message in (
        (["merge.py", tmp_path], "no shards (NAME-00001-of-00004.json or .jsonl)"),
        (["merge.py", tmp_path / "r.csv"], "r.csv: no shards"),
        (["predict.py", net, images, "--shard", "2/1"], "valid are 1/N to N/N"),
        (["predict.py", net, images, "--shard", "1/2"], "--shard needs --json FILE, --csv FILE"),
    ):
        code, _, err = run_tool(*words)
        assert code == 2 and message in err, err


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["prepare_data.py", "predict.py"])
def test_shards_are_killed_at_any_moment(kind, net, tmp_path):
    """``kill -9`` when so many bytes are there, again and again until the shard is done."""
    seed = int(os.environ.get("GLUON_ATTN_SEED", random.SystemRandom().randrange(10**6)))
    print("seed", seed)
    rng, images = random.Random(seed), write_images(tmp_path / "images", 2000)
    whole, apart = tmp_path / "whole", tmp_path / "apart"
    assert finish(start(program(jobs(kind, net, images, whole))))[0] == 0
    total = sum(path.stat().st_size for path in whole.iterdir())
    killed = 0
    for shard in ("1/2", "2/2"):
        command = program([*jobs(kind, net, images, apart), "--shard", shard])
        for _ in range(KILLS):
            process, before = start(command), size(apart)
            enough = before + rng.randrange(total // KILLS)
            wait_for(lambda: size(apart) > enough or process.poll() is not None, "bytes")  # noqa: B023
            process.send_signal(signal.SIGKILL)
            killed += finish(process)[0] == -signal.SIGKILL
        code, _, err = finish(start(command))
        assert code == 0, err
    assert killed >= 2 and run_tool("merge.py", apart)[0] == 0
    assert contents(apart) == contents(whole)


def program(words):
    return [sys.executable, str(ROOT / "tools" / words[0]), *words[1:]]


def size(folder):
    """Return the bytes in a folder that another process writes."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


@pytest.mark.parametrize("count", [600, pytest.param(20_000, marks=pytest.mark.nightly)])
def test_memory_is_flat_with_a_real_net(count, net, tmp_path):
    """From the first chunks on; MXNet and OpenCV included."""
    write_images(tmp_path / "source", 50)
    files = sorted((tmp_path / "source").rglob("*.png"))
    for k in range(count):
        link = tmp_path / "images" / f"{k // 1000}" / f"{k % 1000}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(files[k % len(files)])
    script = """
        import resource, sys
        from gluon_attn.cli.predict import main
        from gluon_attn.tasks import predictions
        predictions.CHUNK, peaks, find = 16, [], predictions.scan
        sync = predictions.os.fsync
        def fsync(handle):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            sync(handle)
        predictions.os.fsync = fsync
        main([*sys.argv[1:], "--batch-size", "16", "--threads", "1"])
        print(len(peaks), peaks[len(peaks) // 4], peaks[-1])
    """
    _, out, err = run_python(script, net, tmp_path / "images", "--json", tmp_path / "r.json")
    chunks, early, late = map(int, out.splitlines()[-1].split())
    assert chunks >= count // 16 and late - early < 8_000, (early, late, err)


def test_training_reads_shards(images, tmp_path):
    for number in (1, 2):
        words = jobs("prepare_data.py", None, images, tmp_path)
        assert run_tool(*words, "--shard", f"{number}/2")[0] == 0
    assert len(open_dataset(tmp_path, "train")) == COUNT - 2
    code, out, err = run_tool("prepare_data.py", "packed", "--check", tmp_path, "--splits", "train")
    assert code == 0 and "packed: complete; 18 images read" in out, out + err
