"""Jobs of the tests of the benchmark, in a module that other processes import quickly."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace

import numpy as np

from tools.bench import turns


def open_timed(seconds, megabytes=0):
    """A job whose call takes a known time by a clock of its own."""
    kept, now = np.ones(megabytes * 2**20, np.uint8), [0.0]
    turns.time = SimpleNamespace(perf_counter=lambda: now[0])

    def call():
        now[0] += seconds
        return len(kept)

    return call, {"name": seconds}


def open_threaded():
    """A job with a thread of its own, as an engine with a thread pool has them; it prints."""
    print("noise")
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return (lambda: None), {"pid": os.getpid()}


def open_nothing():
    raise ValueError("first line\nsecond line")


def open_dying():
    return (lambda: os.kill(os.getpid(), signal.SIGKILL)), {}
