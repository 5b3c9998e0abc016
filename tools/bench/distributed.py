"""Training with one and two workers of this machine, and what that says of more: a projection.

Run by the launcher in every worker, this module measures; called by the command, it starts them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
from tabulate import tabulate

from gluon_attn.cli.launch import launch
from gluon_attn.core.files import write_json
from gluon_attn.core.text import read_json, read_text

ROOT = Path(__file__).resolve().parents[2]
NETWORK = Path("/proc/net/dev")
COMPRESSION = {"type": "2bit", "threshold": 0.5}
WAYS = {"1 worker": (0, ""), "2 workers": (2, ""), "2 workers, 2 bit": (2, "2bit")}
WORKERS, GIGABITS = (8, 64, 512), (10, 100)
WARM_UP = 3


# -- in a worker -----------------------------------------------------------------------------------
class _Compressed:
    """A kvstore whose gradients are pushed in two bits, which MXNet's own pushpull refuses."""

    def __init__(self, kvstore: Any) -> None:
        kvstore.set_gradient_compression(COMPRESSION)
        self._kvstore, self.broadcast = kvstore, kvstore.broadcast

    def pushpull(self, key: str, value: Any, out: Any, priority: int = 0) -> None:
        if key.startswith("wait"):  # too small to be compressed
            self._kvstore._barrier()
            return
        self._kvstore.push(key, value, priority)
        self._kvstore.pull(key, out, priority)


def work(out: str, model: str, size: int, batch_size: int, steps: int, compress: str) -> None:
    """Measure steps of one worker; write what :func:`measure` reads."""
    import mxnet as mx

    from gluon_attn.core.batch import Batch
    from gluon_attn.method import METHODS, Optimization, Task
    from gluon_attn.runtime import seed_everything
    from gluon_attn.train.fit import use_static_graph
    from gluon_attn.workers import join
    from model_zoo import get_model

    group = join("dist_sync" if os.environ.get("DMLC_ROLE") else None)
    if compress:
        group._kvstore = _Compressed(group._kvstore)
    seed_everything(0)
    net = get_model(model, classes=14, input_size=size)
    net.initialize(mx.init.Xavier())
    use_static_graph(net)
    names = [f"attribute {k}" for k in range(14)]
    task = Task(names, batch_size, np.full(14, 0.3))
    optimization = Optimization("sgd", {"learning_rate": 1e-4, "momentum": 0.9})
    method = METHODS.get("baseline")(net, [mx.cpu()], task, optimization)
    method.begin_epoch(0)
    image = mx.nd.random.normal(shape=(batch_size, 3, size, size))
    label = mx.nd.random.uniform(shape=(batch_size, 14)) < 0.3
    batch = Batch(image, label, label.ones_like(), np.arange(batch_size))

    def timed(call: Callable[[], Any]) -> float:
        group.wait()
        mx.nd.waitall()
        start = time.perf_counter()
        call()
        mx.nd.waitall()
        return time.perf_counter() - start

    for _ in range(WARM_UP):
        timed(lambda: method.train_step(batch))
    before = _traffic()
    whole = [timed(lambda: method.train_step(batch)) for _ in range(steps)]
    traffic = _traffic() - before
    alone = [timed(method.trainer.allreduce_grads) for _ in range(steps)]
    gradients = [p for p in method.trainer._params if p.grad_req != "null"]
    found = {
        "step": float(np.median(whole)), "communication": float(np.median(alone)),
        "parameters": int(sum(np.prod(p.shape) for p in gradients)),
        "traffic": traffic / steps / group.size,
    }  # fmt: skip
    if group.is_first:
        write_json(out, found)


def _traffic() -> int:
    """Return the bytes that went over the loopback since the machine's start; 0 if not known."""
    for line in read_text(NETWORK).splitlines() if NETWORK.exists() else ():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[8])
    return 0


# -- in the command --------------------------------------------------------------------------------
def measure(
    model: str, size: int, batch_size: int, *, steps: int = 10,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Return ``{"model", "batch_size", "threads", "ways": {name: figures}, "projection": rows}``.

    ``batch_size`` is each worker's. All ways have the same threads per worker, half the cores.
    """
    threads = max((os.cpu_count() or 2) // 2, 1)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ.update(OMP_NUM_THREADS=str(threads), PYTHONPATH=path)
    ways: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (workers, compress) in WAYS.items():
            report(f"{model}: {name}")
            out = os.path.join(folder, "found.json")
            words = [__name__, out, model, str(size), str(batch_size), str(steps), compress]
            if workers:
                status = launch(words, workers)
            else:
                status = subprocess.call([sys.executable, "-m", *words])
            if status:
                raise ValueError(f"{name}: the measurement ended with status {status}")
            found = read_json(out)
            sent = 4 * found["parameters"] if workers else 0
            pushed = sent // 16 if compress else sent  # 2 of 32 bits
            ways[name] = {
                **found, "images_per_second": max(workers, 1) * batch_size / found["step"],
                "bytes": pushed + sent,
            }  # fmt: skip
    projection = [
        {"workers": count, "gigabits": rate, "compress": compress,
         **projected(ways["1 worker"], batch_size, count, rate * 1e9 / 8, compress)}
        for rate in GIGABITS for compress in (False, True) for count in WORKERS
    ]  # fmt: skip
    return {
        "model": model, "batch_size": batch_size, "threads": threads, "ways": ways,
        "projection": projection,
    }  # fmt: skip


def projected(
    alone: dict[str, Any], batch_size: int, workers: int, rate: float, compress: bool
) -> dict[str, float]:
    """Project images/s and efficiency for hosts with a worker, a server and ``rate`` bytes/s each.

    A host's server has 1/W of the parameters: it takes in the other W - 1 workers' gradients of
    them, and gives out as many sums, while its worker sends and takes the other servers' share.
    Links are full duplex and full; nothing overlaps with computing, no switch and no latency
    limits, and servers add in no time. Compressed are the gradients, not the sums.
    """
    own = 4.0 * alone["parameters"] * (workers - 1) / workers
    gradients = own / 16 if compress else own
    seconds = alone["step"] + (gradients + own) / rate
    images = workers * batch_size / seconds
    return {
        "images_per_second": images, "efficiency": alone["step"] / seconds,
        "communication": (gradients + own) / rate,
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Return the text of the measurement and of the projection."""
    measured = [
        {"": name, "images/s": way["images_per_second"], "step, s": way["step"],
         "communication, s": way["communication"], "MB per step and worker": way["bytes"] / 1e6,
         "MB seen on lo": way["traffic"] / 1e6}
        for name, way in result["ways"].items()
    ]  # fmt: skip
    projection = [
        {"workers": row["workers"], "Gbit/s": row["gigabits"],
         "compression": "2 bit" if row["compress"] else "none",
         "images/s": row["images_per_second"], "efficiency": row["efficiency"],
         "communication, s": row["communication"]}
        for row in result["projection"]
    ]  # fmt: skip
    first, second = (
        tabulate(rows, "keys", "pipe", floatfmt=".3f") for rows in (measured, projection)
    )
    return (
        f"Measured here: {result['model']}, {result['batch_size']} images and "
        f"{result['threads']} thread(s) per worker. Communication is measured by itself, with all "
        f"gradients ready.\n{first}\n\n"
        "PROJECTION, not measured: one worker and one server per host, links full, nothing "
        f"overlaps.\n{second}"
    )


if __name__ == "__main__":
    given = sys.argv[1:]
    work(given[0], given[1], *map(int, given[2:5]), compress=given[5])
