"""What an adaptively weighted step costs against a step with fixed weights, image for image."""

from __future__ import annotations

import statistics
import time

import numpy as np

from tools.bench.benchmark import machine, ratio_by_turns, spread_text


def benchmark_weights(model="awmt_resnet50", size=224, images=20, rounds=5, steps=2, report=None):
    """Measure AWMT steps (half of the images validate) and basic-model steps (all train) in turns.

    Both run in this process on the same net's architecture with frozen batch-norm, and take turns,
    so that a busy moment of the machine hits both. The weights are made anew in every second step,
    which the paper does in every 200th, so the read-back from the device is counted too often
    rather than too seldom.

    Args:
        model: Zoo name.
        size: Input side in pixels.
        images: Images per step of either; even.
        rounds: Turns that each gets, behind one for warming up.
        steps: Steps per turn; even, so that every turn holds an update.
        report: Called with a line of text after each round.

    Returns:
        ``{"awmt": [seconds per step], "basic": […], "ratio": {median, lowest, highest}, …}``.

    Raises:
        ValueError: ``images`` or ``steps`` is odd.
    """
    if images % 2 or steps % 2 or images < 2 or steps < 2:
        raise ValueError(f"images={images}, steps={steps}: both must be even and positive")
    run = {
        "basic": _make_step(model, size, images, adaptive=False),
        "awmt": _make_step(model, size, images, adaptive=True),
    }
    seconds = {name: [] for name in run}
    for turn in range(-1, rounds):
        for name, step in run.items():
            spent = _time(step, steps)
            if turn >= 0:
                seconds[name].append(spent)
        if report and turn >= 0:
            last = ", ".join(f"{n} {s[-1]:.3f} s" for n, s in seconds.items())
            report(f"round {turn + 1}/{rounds}: {last} per step")
    ratio = ratio_by_turns(seconds["awmt"], seconds["basic"])
    return dict(seconds, ratio=ratio, model=model, size=size, images=images, machine=machine())


def _time(step, steps):
    """Return seconds per step, all devices idle before and after."""
    import mxnet as mx

    mx.nd.waitall()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    mx.nd.waitall()
    return (time.perf_counter() - started) / steps


def _make_step(model, size, images, adaptive):
    """Return a function that makes one step on fixed random images."""
    import mxnet as mx

    import gluon_attn  # noqa: F401  (prepares the environment before MXNet loads)
    from gluon_attn.core.batch import Batch
    from gluon_attn.method import METHODS, Optimization, Task
    from gluon_attn.nets.init import xavier
    from gluon_attn.runtime import seed_everything
    from model_zoo import get_model

    seed_everything(0)
    net = get_model(model, input_size=size, classes=40)
    net.initialize(xavier())
    rng = np.random.default_rng(0)

    def draw(rows):
        label = (rng.random((rows, 40)) < 0.3).astype(np.float32)
        picture = rng.normal(size=(rows, 3, size, size)).astype(np.float32)
        arrays = map(mx.nd.array, (picture, label, np.ones_like(label)))
        return Batch(*arrays, np.arange(rows))

    task = Task(tuple(map(str, range(40))), images, np.full(40, 0.3))
    # lr 0: random weights under frozen statistics would diverge; the work is the same
    optimization = Optimization("sgd", {"momentum": 0.9, "wd": 5e-4, "learning_rate": 0.0})
    options = {"adaptive": adaptive, "window": 2, "val_batch_size": images // 2}
    method = METHODS.get("awmt")(net, [mx.cpu()], task, optimization, options=options)
    method.begin_epoch(0)
    if not adaptive:
        batch = draw(images)
        return lambda: method.train_step(batch)
    batch, held_out = draw(images // 2), draw(images // 2)
    return lambda: method.train_step(batch, held_out)


def weights_table(result):
    """Return the figures as a Markdown table."""
    from tabulate import tabulate

    rows = [[name, f"{statistics.median(result[name]):.3f}"] for name in ("basic", "awmt")]
    rows.append(["awmt / basic", spread_text(result["ratio"])])
    return tabulate(rows, ["step", "seconds (median)"], tablefmt="github", disable_numparse=True)
