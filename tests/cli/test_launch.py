"""``gluon-attn launch``: a group starts in order, ends together, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import sys
import threading
from pathlib import Path

import pytest
from process_helpers import ROOT, start, wait_for
from training_helpers import checkpoint_arrays, run, same, write_data, write_recipe

from gluon_attn import workers
from gluon_attn.cli import launch
from gluon_attn.cli.train import KVSTORES
from gluon_attn.core.recipe import Recipe
from gluon_attn.train import read_json_lines

TESTS = os.pathsep.join([str(ROOT), str(ROOT / "tests")])


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", TESTS)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def started(monkeypatch):
    """Return the processes of the group, in the order of their start."""
    found, original = [], launch._start

    def remember(*args):
        found.append(original(*args))
        return found[-1]

    monkeypatch.setattr(launch, "_start", remember)
    return found


@pytest.mark.parametrize("victim", ["scheduler", "worker"])
def test_when_one_is_killed_all_end(victim, started, tmp_path, capfd):
    status = []
    thread = threading.Thread(
        target=lambda: status.append(launch.launch(["distributed_waiter", str(tmp_path)], 2))
    )
    thread.start()
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2, "two workers")
    scheduler, server, *workers = started
    assert all(process.poll() is None for process in started)
    {"scheduler": scheduler, "worker": workers[1]}[victim].kill()
    thread.join()
    assert status == [128 + signal.SIGKILL]
    assert all(process.returncode is not None for process in (server, *started))
    title = {"scheduler": "scheduler 0", "worker": "worker 1"}[victim]
    assert f"{title} ended with signal SIGKILL; ending all" in capfd.readouterr().err


def test_when_one_fails_all_end(tmp_path, capfd):
    """Its exit does not wait in MXNet for the others, which wait for it."""
    assert launch.launch(["distributed_waiter", str(tmp_path), "7"], 2) == 7
    assert "worker 1 ended with status 7; ending all" in re.sub(
        r"worker \d", "worker 1", capfd.readouterr().err
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_when_the_launcher_is_killed_all_end(tmp_path):
    """A worker that waits, and one that has finished and waits in MXNet, where no thread runs."""
    code = "import sys; from gluon_attn.cli.launch import launch; launch(sys.argv[1:], 2)"
    launcher = start([sys.executable, "-c", code, "distributed_waiter", tmp_path, 0])
    wait_for(lambda: len(list(tmp_path.iterdir())) == 3, "two workers, and the end of one")
    members = [pid for pid in pids() if state(pid)[1] == str(launcher.pid)]
    assert len(members) == 4
    last = (tmp_path / "worker1").read_text()  # its handlers at exit have run: it sleeps in MXNet
    wait_for(lambda: state(last)[0] == "S", "the end of Python in worker 1")
    launcher.kill()
    launcher.communicate()
    wait_for(lambda: all(state(pid)[0] in "ZX" for pid in members), "the end of all")


def pids():
    return [name for name in os.listdir("/proc") if name.isdigit()]


def state(pid):
    """Return the letter of a process's state and its parent, 'X' if there is none."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "X", ""


def test_a_run_over_ssh_equals_that_of_one_process_and_is_resumed_by_one(
    tmp_path, monkeypatch, capfd
):
    """Two hosts, which the stub of ssh finds here; validation and test are divided, too."""
    calls, ssh = tmp_path / "calls", tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nshift 3\nexec sh -c "$*"\n')
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{ssh.parent}{os.pathsep}{os.environ['PATH']}")
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1  # the scheduler's\n\nlocalhost\n")
    data = write_data(tmp_path / "data")
    recipe = write_recipe(tmp_path / "recipe.json", epochs=2)
    words = ["--recipe", recipe, "--data-dir", data, "--save-dir", tmp_path / "two", "-j", 0]
    port = launch._free_port()
    assert launch.main(
        ["-n", "2", "--hosts", str(hosts), "--port", str(port), "--", "train", *map(str, words)]
    ) == 0  # fmt: skip
    told = capfd.readouterr().out
    assert told.count("weights: ") == 1 and told.count("Best epoch") == 1
    lines = calls.read_text().splitlines()
    # The stubs write when they run, in any order.
    found = sorted((re.search(r"DMLC_ROLE=(\w+)", line)[1], line.split()[2]) for line in lines)
    assert found == [("scheduler", "127.0.0.1"), ("server", "127.0.0.1"),
                     ("worker", "127.0.0.1"), ("worker", "localhost")]  # fmt: skip
    assert all("DMLC_NODE_HOST=127.0.0.1" in line for line in lines)

    settings = json.loads(recipe.read_text())
    run(settings, data, tmp_path / "one", devices="cpu:2")
    one, two = (read_json_lines(str(tmp_path / name / "log.jsonl")) for name in ("one", "two"))
    assert len(two) == 2
    for epoch, other in zip(one, two):
        losses = {key: value for key, value in epoch.items() if key.startswith("loss")}
        assert losses == pytest.approx({key: other[key] for key in losses}, abs=1e-4)
    arrays = [checkpoint_arrays(tmp_path / name / "last.ckpt") for name in ("one", "two")]
    trained = [{k: a for k, a in found.items() if "running" not in k} for found in arrays]
    same(*trained, rtol=1e-3, atol=1e-4)
    run(dict(settings, epochs=3), data, tmp_path / "two", resume=True)
    assert len(read_json_lines(str(tmp_path / "two" / "log.jsonl"))) == 3


@pytest.mark.parametrize(
    "words, message",
    [
        (["-n", "2"], "give the command behind --: train or search"),
        (["--", "evaluate"], "give the command behind --: train or search"),
        (["-n", "0", "--", "train"], "-n 0 -s 1: at least one of each"),
    ],
)
def test_calls_that_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        launch.main(words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, message",
    [("# nothing\n", "names no host"), ("a b\n", "'a b' is no host name"), ("-x\n", "is no host")],
)
def test_host_files_that_are_refused(text, message, tmp_path):
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(ValueError, match=message):
        launch.read_hosts(str(tmp_path / "hosts"))


def test_an_unknown_host_and_a_scheduler_that_does_not_listen(monkeypatch, started):
    with pytest.raises(OSError, match="host no.such.host.invalid: no address"):
        launch.launch(["nothing"], 1, hosts=["no.such.host.invalid"])
    monkeypatch.setattr(launch.sys, "executable", "false")
    with pytest.raises(OSError, match="the scheduler does not listen.*exit status is 1"):
        launch.launch(["nothing"], 1)
    assert [process.returncode for process in started] == [1]


def test_horovod_is_started_by_its_own_launcher(monkeypatch, tmp_path):
    (tmp_path / "hosts").write_text("a\nb\n")
    words = ["-n", "3", "--hosts", str(tmp_path / "hosts"), "--", "train", "--kvstore=horovod"]
    monkeypatch.setattr(launch.shutil, "which", lambda name: None)
    with pytest.raises(ImportError, match="horovodrun is not on the PATH"):
        launch.main(words)
    monkeypatch.setattr(launch.shutil, "which", lambda name: name)
    called = []
    monkeypatch.setattr(launch.subprocess, "call", lambda command: called.append(command) or 7)
    assert launch.main(words) == 7
    assert called[0][:5] == ["horovodrun", "-np", "3", "-H", "a:2,b:2"]
    assert called[0][5:] == [sys.executable, "-m", "gluon_attn", "train", "--kvstore=horovod"]


def test_workers_need_a_launcher_and_even_shares(tmp_path):
    data = write_data(tmp_path / "data")
    values = json.loads(write_recipe(tmp_path / "recipe.json").read_text())
    with pytest.raises(ValueError, match="needs a scheduler.*gluon-attn launch -n 2 -- train"):
        run(values, data, tmp_path / "run", kvstore="dist_sync")
    assert Recipe.from_dict(values).batch_size == 8


def test_the_flag_knows_the_kinds_of_the_workers():
    assert KVSTORES == workers.KINDS  # a copy: the parser loads no MXNet
