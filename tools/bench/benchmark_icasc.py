"""What a step with attention losses (ICASC) costs against a plain one: seconds and peak memory.

Every variant lives in a process of its own (peak memory is the process's), and the variants take
turns, so that a busy moment of the machine hits all of them.
"""

from __future__ import annotations

import statistics

import numpy as np

from tools.bench.bench_turns import Job, default_threads, take_turns, thread_variables
from tools.bench.benchmark import machine, ratio_by_turns, spread_text

VARIANTS = {
    "plain": {},
    "constant A_ch": {"gradient": "constant", "attention": "channel_weighted"},
    "constant Grad-CAM": {"gradient": "constant", "attention": "grad_cam"},
    "exact A_ch": {"gradient": "exact", "attention": "channel_weighted"},
    "exact Grad-CAM": {"gradient": "exact", "attention": "grad_cam"},
}


def benchmark_attention(
    model="resnet18_v1", size=224, batch=16, rounds=5, threads=None, seconds=4.0,
    report=lambda line: None,
):  # fmt: skip
    """Measure training steps of every variant in turns, a process each.

    Args:
        model: Zoo name.
        size: Input side in pixels.
        batch: Images per step.
        rounds: Turns of each; a turn is as many steps as fit into ``seconds``, at least one.
        threads: Compute threads; None means one per core.
        seconds: Length of a turn.
        report: Called with a line of text now and then.

    Returns:
        ``{"variants": {name: {seconds, peak_memory_mb, rounds, ratio}}, "left_out": …}``; a ratio
        ``{median, lowest, highest}`` is the variant over ``plain``, round by round.

    Raises:
        OSError: The plain step does not run.
    """
    threads = threads or default_threads()
    jobs = [Job(name, "", _open, (model, size, batch, options))
            for name, options in VARIANTS.items()]  # fmt: skip
    with thread_variables(threads):
        measured, left_out = take_turns(jobs, rounds, seconds, model, report)
    variants = {}
    for item in measured:
        turns, against = ([statistics.mean(turn) for turn in t] for t in (item.turns, item.against))
        variants[item.job.engine] = {
            "seconds": statistics.median(turns), "peak_memory_mb": item.peak_mb, "rounds": turns,
            "ratio": ratio_by_turns(turns, against),
        }  # fmt: skip
    return {
        "variants": variants, "left_out": left_out, "model": model, "size": size, "batch": batch,
        "threads": threads, "machine": machine(),
    }  # fmt: skip


def _open(model, size, batch, options):
    """Open a variant in its process; return ``(step, facts)``."""
    return make_step(model, size, batch, options), {}


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
    from gluon_attn.core.batch import Batch
    from gluon_attn.core.schema import Attribute, Schema
    from gluon_attn.method import METHODS, Optimization, Task
    from gluon_attn.nets.init import xavier
    from gluon_attn.runtime import seed_everything
    from gluon_attn.train import use_static_graph
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
        net, [mx.cpu()], task, optimization, options=options
    )
    method.begin_epoch(0)

    def step():
        method.train_step(data)
        mx.nd.waitall()

    for _ in range(2):  # memory is planned in the first, momentum exists from the second on
        step()
    return step


def attention_table(result):
    """Return the figures as a Markdown table."""
    from tabulate import tabulate

    rows = []
    for name, found in result["variants"].items():
        spread = spread_text(found["ratio"])
        rows.append([name, f"{found['seconds']:.3f}", spread, f"{found['peak_memory_mb']:.0f}"])
    head = ["step", "seconds (median)", "times the plain step", "peak memory MB"]
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)
