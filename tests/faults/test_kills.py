"""Processes ended at random moments: no half-written file, and what is done again ends the same.

The seed of the moments is printed, and taken from ``KILL_SEED`` where that is set.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import random
import re
import signal
import sys
import threading
from pathlib import Path

import pytest
from process_helpers import run

sys.path.insert(0, str(Path(__file__).parent))
from kill_jobs import JOBS, hidden  # noqa: E402

KILLS = {name: 5 for name in JOBS}
KILLS.update(train=9, worker=6, pack=8, search=6, export=8, download=6)
HALVED = ("train", "worker", "search", "pack")  # which go on where they were
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="timers of processor time")


@contextlib.contextmanager
def mirror(folder):
    """Serve a folder on this machine; yield its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def copyfile(self, source, outputfile):
            with contextlib.suppress(OSError):  # the process that asked was killed
                super().copyfile(source, outputfile)

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def start(name, folder, seconds, address, victim=0):
    """Run a job; return its status and outputs when no process of it is left."""
    script = Path(__file__).with_name("kill_jobs.py")
    env = dict(os.environ, OMP_NUM_THREADS="1", MIRROR=address, KILLED=str(folder))
    found = run([sys.executable, script, name, folder, seconds, victim], env=env)
    assert not left_behind(f"KILLED={folder}".encode())
    return found


def left_behind(mark):
    """Return the processes with a variable in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is not ours
            found += [path.parent.name] if mark in path.read_bytes().split(b"\0") else []
    return found


def test_there_are_fifty():
    assert sum(KILLS.values()) >= 50


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(JOBS))
def test_killed_at_any_moment(name, tmp_path):
    job = JOBS[name]
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(1 << 30))
    moments = random.Random(seed)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    job.begin(whole)
    cut.mkdir()
    job.begin(cut)
    if (whole / "mirror").exists():  # the same random bytes
        for path in (whole / "mirror").iterdir():
            (cut / "mirror" / path.name).write_bytes(path.read_bytes())
    killed, ended = 0, 128 + signal.SIGPROF if name == "worker" else -signal.SIGPROF
    with mirror(whole / "mirror") as address:
        code, out, err = start(name, whole, 0, address)
        assert code == 0, err[-2000:]
        took = float(out.split("took")[1])
        for number in range(KILLS[name]):
            # A job that goes on where it was is shorter each time; what is done is begun again.
            share = moments.random() / (2 if name in HALVED else 1)
            code, _, err = start(name, cut, max(took * share, 1e-3), address, number % 2)
            assert code in (0, ended), f"KILL_SEED={seed}: {err[-2000:]}"
            if code and name == "worker":
                assert re.search(r"worker \d ended with signal SIGPROF; ending all", err), err
            killed += code != 0
            job.check(cut)
        code, _, err = start(name, cut, 0, address)
        assert code == 0, f"KILL_SEED={seed}: {err[-2000:]}"
    print(f"{name}: {killed} of {KILLS[name]} killed (KILL_SEED={seed})")
    job.check(cut)
    assert job.result(cut) == job.result(whole), f"KILL_SEED={seed}"
    left = [
        p for p in cut.rglob("*") if hidden(p, cut) and not p.name.endswith((".lock", ".owner"))
    ]
    assert not left, f"KILL_SEED={seed}: {left}"
    assert killed
