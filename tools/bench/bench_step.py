"""Speed and memory of one training step: a zoo network here and in PyTorch, on the same cores.

The step is forward, losses, backward and SGD with momentum on one fixed random batch. Ours is the
step that ``tools/train.py`` makes (VAA: phase ``joint``, with both of its losses); PyTorch's has
the cross-entropy of the same logit vectors, whose cost is nothing beside the network's.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, NamedTuple

import numpy as np

from tools.bench import bench_engines, bench_infer
from tools.bench.bench_turns import Job, default_threads, take_turns, thread_variables

UPDATE = {"momentum": 0.9, "wd": 5e-4, "learning_rate": 1e-4}


class Trainer(NamedTuple):
    """A way to train; ``open(spec, batch, threads) -> step``, a function without arguments."""

    name: str
    precision: str
    library: str
    open: Any


def benchmark_step(
    model, size=None, batch=8, rounds=5, threads=None, only=None, seconds=2.0,
    report=lambda line: None,
):  # fmt: skip
    """Measure a training step of every engine that can make one here.

    Args:
        model: Zoo name.
        size: Side of the input in pixels; None means the model's own.
        batch: Images per step.
        rounds: Turns of each engine.
        threads: Compute threads of each engine; None means one per core.
        only: Names of engines, or ``name:precision``; the reference is measured in any case.
        seconds: Length of a turn, if a single step is not longer.
        report: Called with a line of text now and then.

    Returns:
        As :func:`tools.bench.bench_infer.benchmark_inference`; ``file_mb`` is None.

    Raises:
        ValueError: Unknown model or engine, or a number out of range.
        OSError: The reference itself did not survive.
    """
    bench_infer.check_numbers(rounds, threads, size, [batch], seconds)
    spec = bench_infer.describe_network(model, size)
    threads = threads or default_threads()
    jobs = [Job(t.name, t.precision, open_trainer, (t.name, t.precision, spec, batch, threads))
            for t in bench_infer.select(only, TRAINERS)]  # fmt: skip
    result = bench_infer.describe_run(spec, rounds, threads)
    with thread_variables(threads):
        measured, left_out = take_turns(jobs, rounds, seconds, f"batch {batch}", report)
    rows = [bench_infer.make_row(item, batch) for item in measured]
    return dict(result, rows=rows, left_out=left_out)


def open_trainer(name, precision, spec, batch, threads):
    """Open a trainer in this process and make two steps; return ``(step, facts)``.

    Raises:
        ImportError, ValueError: It is not installed, or cannot run here.
    """
    trainer = next(t for t in TRAINERS if (t.name, t.precision) == (name, precision))
    bench_engines.import_library(trainer.library)
    step = trainer.open(spec, batch, threads)
    for _ in range(2):  # memory is planned in the first, momentum exists from the second on
        step()
    return step, {}


def _open_mxnet(spec, batch, threads, amp="none"):
    """Return our own training step, one static graph."""
    import mxnet as mx

    from gluon_attn.core.batch import Batch
    from gluon_attn.method import METHODS, Optimization, Task
    from gluon_attn.nets.init import xavier
    from gluon_attn.papers.vaa import VAA
    from gluon_attn.runtime import seed_everything
    from gluon_attn.train import use_static_graph
    from model_zoo import get_model

    importlib.import_module("gluon_attn.papers.baselines.plain")  # registers its method
    seed_everything(0)
    net = get_model(spec["model"], **spec["options"])
    net.initialize(xavier())
    use_static_graph(net)
    classes, side = net.classes, spec["arguments"]["input_size"]
    label = (np.random.RandomState(0).rand(batch, classes) < 0.3).astype(np.float32)
    images = mx.nd.array(bench_engines.random_images(batch, side))
    data = Batch(images, mx.nd.array(label), mx.nd.ones((batch, classes)), np.arange(batch))
    task = Task(tuple(map(str, range(classes))), batch, np.full(classes, 0.3))
    method, options = ("vaa", {"phase1_epochs": 0}) if isinstance(net, VAA) else ("baseline", {})
    optimization = Optimization("sgd", UPDATE, amp=amp)
    training = METHODS.get(method)(net, [mx.cpu()], task, optimization, options=options)
    training.begin_epoch(0)

    def step():
        loss = training.train_step(data)["loss"].asscalar()
        mx.nd.waitall()  # the update is not part of what the loss waits for
        return loss

    return step


def _open_mxnet_bf16(spec, batch, threads):
    return _open_mxnet(spec, batch, threads, "bfloat16")


def _open_torch(spec, batch, threads, **options):
    from tools.bench import bench_torch

    return bench_torch.open_trainer(spec["arguments"], batch, threads, **options)


TRAINERS = (
    Trainer("mxnet", "fp32", "model_zoo", _open_mxnet),
    Trainer("mxnet", "bf16", "model_zoo", _open_mxnet_bf16),
    *(
        Trainer(
            name, precision, "torch", functools.partial(_open_torch, precision=precision, **how)
        )
        for name, how in (("torch", {}), ("torch-channels-last", {"channels_last": True}))
        for precision in ("fp32", "bf16")
    ),
)
