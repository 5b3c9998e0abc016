"""What a step with attention losses (ICASC) costs against a plain one: seconds and peak memory.

Every variant lives in a process of its own (peak memory is the process's), and the variants take
turns, so that a busy moment of the machine hits all of them.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time

import numpy as np

from gluon_attn.workflows.benchmark import machine, ratio_by_turns, spread_text

VARIANTS = {
    "plain": {},
    "constant A_ch": {"gradient": "constant", "attention": "channel_weighted"},
    "constant Grad-CAM": {"gradient": "constant", "attention": "grad_cam"},
    "exact A_ch": {"gradient": "exact", "attention": "channel_weighted"},
    "exact Grad-CAM": {"gradient": "exact", "attention": "grad_cam"},
}


def benchmark_attention(model="resnet18_v1", size=224, batch=16, rounds=5, report=None):
    """Measure one training step of each variant.

    Args:
        model: Zoo name.
        size: Input side in pixels.
        batch: Images per step.
        rounds: Turns that each variant gets, behind two turns for warming up.
        report: Called with a line of text after each round.

    Returns:
        ``{"variants": {name: {seconds, peak_memory_mb, rounds, ratio}}, …}``; a ratio
        ``{median, lowest, highest}`` is the variant over ``plain``, round by round.

    Raises:
        RuntimeError: A variant's process has died, as it does when memory runs out.
    """
    context = multiprocessing.get_context("spawn")
    workers = {}
    for name, options in VARIANTS.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=_worker, args=(theirs, options, model, size, batch))
        process.start()
        theirs.close()  # else a dead worker would never be noticed
        workers[name] = (process, ours)
    try:
        seconds = _take_turns(workers, rounds, report)
        memory = {name: _ask(worker, name, "memory") for name, worker in workers.items()}
    finally:
        for process, pipe in workers.values():
            pipe.close()
            process.join()
    variants = {}
    for name, found in seconds.items():
        variants[name] = {
            "seconds": statistics.median(found), "peak_memory_mb": memory[name], "rounds": found,
            "ratio": ratio_by_turns(found, seconds["plain"]),
        }  # fmt: skip
    return {"variants": variants, "model": model, "size": size, "batch": batch,
            "machine": machine()}  # fmt: skip


def _take_turns(workers, rounds, report):
    seconds = {name: [] for name in workers}
    for turn in range(-2, rounds):
        for name, worker in workers.items():
            spent = _ask(worker, name, "step")
            if turn >= 0:
                seconds[name].append(spent)
        if report and turn >= 0:
            last = ", ".join(f"{name} {found[-1]:.3f} s" for name, found in seconds.items())
            report(f"round {turn + 1}/{rounds}: {last}")
    return seconds


def _ask(worker, name, question):
    try:
        worker[1].send(question)
        return worker[1].recv()
    except (EOFError, OSError):
        raise RuntimeError(f"the process of variant '{name}' has died (out of memory?)") from None


def _worker(pipe, options, model, size, batch):
    """Answer 'step' with the seconds of a step and 'memory' with peak MB, until nobody asks."""
    import mxnet as mx

    step = make_step(model, size, batch, options)
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        if question == "memory":
            pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            continue
        started = time.perf_counter()
        step()
        mx.nd.waitall()
        pipe.send(time.perf_counter() - started)


def make_step(model, size, batch, options):
    """Return a function that makes one training step on fixed random images.

    Args:
        model: Zoo name.
        size: Input side in pixels.
        batch: Images per step.
        options: Settings of method ``icasc``; empty for the plain baseline.
    """
    import mxnet as mx

    import gluon_attn  # noqa: F401  (prepares the environment before MXNet loads)
    from gluon_attn.batch import Batch
    from gluon_attn.engine import use_static_graph
    from gluon_attn.method import METHODS, Optimization, Task
    from gluon_attn.papers.vaa import xavier
    from gluon_attn.runtime import seed_everything
    from gluon_attn.schema import Attribute, Schema
    from model_zoo import get_model

    seed_everything(0)
    classes = tuple(f"class {k}" for k in range(100))
    net = get_model(model, input_size=size, classes=len(classes))
    net.initialize(xavier())
    use_static_graph(net)
    rng = np.random.default_rng(0)
    label = np.eye(len(classes), dtype=np.float32)[rng.integers(len(classes), size=batch)]
    image = rng.normal(size=(batch, 3, size, size)).astype(np.float32)
    data = Batch(*map(mx.nd.array, (image, label, np.ones_like(label))), np.arange(batch))
    schema = Schema([Attribute("class", "multiclass", classes)])
    task = Task(schema.columns, batch, label.mean(axis=0), schema)
    optimization = Optimization("sgd", {"momentum": 0.9, "wd": 5e-4, "learning_rate": 1e-4})
    method = METHODS.get("icasc" if options else "baseline")(
        net, [mx.cpu()], task, optimization, options
    )
    method.begin_epoch(0)
    return lambda: method.train_step(data)


def attention_table(result):
    """Return the figures as a Markdown table."""
    from tabulate import tabulate

    rows = []
    for name, found in result["variants"].items():
        spread = spread_text(found["ratio"])
        rows.append([name, f"{found['seconds']:.3f}", spread, f"{found['peak_memory_mb']:.0f}"])
    head = ["step", "seconds (median)", "times the plain step", "peak memory MB"]
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)
