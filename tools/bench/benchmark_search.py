"""Speed and memory of one search step: ours, and the same super-network in PyTorch.

A step is first order: alpha on one batch, weights on another. The two take turns, a process each,
on the same cores.
"""

from __future__ import annotations

import statistics

import numpy as np

from tools.bench.bench_turns import Job, default_threads, take_turns, thread_variables
from tools.bench.benchmark import machine


def benchmark_search(
    model="autola_search_resnet20", size=32, batch=32, rounds=5, threads=None, seconds=2.0,
    torch=True, depth=20, report=lambda line: None,
):  # fmt: skip
    """Measure a first-order search step.

    Args:
        model: Zoo name of a super-network.
        size: Side of the images in pixels.
        batch: Images in each of the two batches.
        rounds: Turns of each.
        threads: Compute threads of each; None means one per core.
        seconds: Length of a turn, if a single step is not longer.
        torch: Whether PyTorch is measured too.
        depth: Of the ResNet, for trying it out.
        report: Called with a line of text now and then.

    Returns:
        ``{"rows": {engine: {seconds, turns, peak_memory_mb}}, "ratio": {median, lowest, highest} or
        None, "left_out": …, "machine": …}``; a ratio is PyTorch's time over ours, round by round.

    Raises:
        ValueError: A number out of range.
        OSError: Our own step did not survive.
    """
    if min(depth, batch, rounds) < 1 or seconds <= 0:
        raise ValueError(f"depth={depth}, batch={batch}, rounds={rounds}, seconds={seconds}")
    if not model.startswith("autola_search_"):
        raise ValueError(f"{model} is no super-network; valid is autola_search_resnet20")
    threads = threads or default_threads()
    jobs = [Job("mxnet", "fp32", open_mxnet, (model, depth, batch, size))]
    if torch:
        jobs.append(Job("torch", "fp32", open_torch, (depth, batch, threads, size)))
    with thread_variables(threads):
        measured, left_out = take_turns(jobs, rounds, seconds, f"batch {batch}", report)
    rows, ratio = {}, None
    for item in measured:
        turns = [statistics.median(turn) for turn in item.turns]
        rows[item.job.engine] = {
            "seconds": statistics.median(turns), "turns": turns, "peak_memory_mb": item.peak_mb
        }  # fmt: skip
        if item.job.engine == "torch":
            own = [statistics.median(turn) for turn in item.against]
            ratios = [theirs / ours for theirs, ours in zip(turns, own)]
            ratio = {
                "median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)
            }  # fmt: skip
    return {
        "rows": rows, "ratio": ratio, "left_out": left_out, "depth": depth, "batch": batch,
        "size": size, "threads": threads, "machine": machine(),
    }  # fmt: skip


def open_torch(depth, batch, threads, size):
    """Open PyTorch's step in this process; return ``(step, facts)``."""
    from tools.experiments import search_torch

    step = search_torch.open_step(depth, batch, threads, size)
    step()
    return step, {}


def open_mxnet(model, depth, batch, size):
    """Open our step in this process; return ``(step, facts)``."""
    import mxnet as mx

    import gluon_attn.papers.autola  # noqa: F401  (registers the method)
    from gluon_attn.core.batch import Batch
    from gluon_attn.core.schema import Attribute, Schema
    from gluon_attn.method import METHODS, Optimization, Task
    from gluon_attn.nets.init import xavier
    from gluon_attn.runtime import seed_everything
    from gluon_attn.train import use_static_graph
    from model_zoo import get_model

    seed_everything(0)
    net = get_model(model, depth=depth, input_size=size)
    net.initialize(xavier())
    use_static_graph(net)
    rng = np.random.default_rng(0)

    def draw():
        label = np.eye(10, dtype=np.float32)[rng.integers(10, size=batch)]
        image = rng.normal(size=(batch, 3, size, size)).astype(np.float32)
        return Batch(*map(mx.nd.array, (image, label, np.ones_like(label))), np.arange(batch))

    schema = Schema([Attribute("class", "multiclass", tuple("abcdefghij"))])
    task = Task(schema.columns, batch, np.full(10, 0.1), schema)
    params = {"momentum": 0.9, "wd": 5e-4, "learning_rate": 0.025}
    method = METHODS.get("autola")(net, [mx.cpu()], task, Optimization("sgd", params))
    method.begin_epoch(0)
    data, held_out = draw(), draw()

    def step():
        loss = method.train_step(data, held_out)["loss"].asscalar()
        mx.nd.waitall()
        return float(loss)

    for _ in range(2):  # memory is planned in the first, momentum exists from the second on
        step()
    return step, {}


def search_table(result):
    """Return the figures as a Markdown table."""
    from tabulate import tabulate

    rows = []
    for engine, values in result["rows"].items():
        ratio = result["ratio"] if engine == "torch" else None
        spread = (
            f"{ratio['median']:.2f} ({ratio['lowest']:.2f}–{ratio['highest']:.2f})"
            if ratio
            else "1"
        )
        rows.append([engine, f"{values['seconds']:.3f}", spread, f"{values['peak_memory_mb']:.0f}"])
    heads = ["search step", "seconds (median)", "mxnet is faster by", "peak memory MB"]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)
