"""Speed and memory of training and data loading, as ratios measured in one run.

Every variant lives in a process of its own (peak memory is the process's), and the variants take
turns, so that a busy moment of the machine hits all of them.
"""

from __future__ import annotations

import platform
import statistics

import numpy as np

from tools.bench.bench_turns import Job, default_threads, take_turns, thread_variables

VARIANTS = {
    "static": "this package: one static graph, losses included in the same trainer",
    "imperative": "the same network, not hybridized",
    "separate": "hybridized primary net; heads un-hybridized, each with its own trainer and a "
    "read-back of loss and predictions in every step, as in the released repository",
}


def benchmark_training(
    model="vaa_resnet101", size=224, batch=8, rounds=5, threads=None, seconds=4.0,
    report=lambda line: None,
):  # fmt: skip
    """Measure training steps of each variant in turns, a process each.

    Args:
        model: Name of a VAA model.
        size: Input side in pixels.
        batch: Images per step.
        rounds: Turns of each; a turn is as many steps as fit into ``seconds``, at least one.
        threads: Compute threads; None means one per core.
        seconds: Length of a turn.
        report: Called with a line of text now and then.

    Returns:
        ``{"variants": {name: {what, images_per_second, peak_memory_mb, rates}}, "ratios": {name:
        {median, lowest, highest}}, "left_out": …}``; a ratio is ``static`` over the variant, round
        by round.

    Raises:
        OSError: The static step does not run.
    """
    threads = threads or default_threads()
    jobs = [Job(name, "", _open, (name, model, size, batch)) for name in VARIANTS]
    with thread_variables(threads):
        measured, left_out = take_turns(jobs, rounds, seconds, model, report)
    result = {
        "variants": {}, "ratios": {}, "left_out": left_out, "batch": batch, "size": size,
        "model": model, "threads": threads, "machine": machine(),
    }  # fmt: skip
    for item in measured:
        name = item.job.engine
        rates, static = (
            [batch / statistics.mean(turn) for turn in t] for t in (item.turns, item.against)
        )
        result["variants"][name] = {
            "what": VARIANTS[name], "images_per_second": statistics.median(rates), "rates": rates,
            "peak_memory_mb": item.peak_mb,
        }  # fmt: skip
        if name != "static":
            result["ratios"][name] = ratio_by_turns(static, rates)
    return result


def _open(variant, model, size, batch):
    """Open a variant in its process; return ``(step, facts)``."""
    import mxnet as mx

    one = _make_step(variant, model, size, batch)

    def step():
        one()
        mx.nd.waitall()

    for _ in range(2):  # memory is planned in the first, momentum exists from the second on
        step()
    return step, {}


def _make_step(variant, model, size, batch):
    """Return a function that makes one training step of a variant on a fixed batch."""
    import mxnet as mx

    import gluon_attn  # noqa: F401  (prepares the environment before MXNet loads)
    from gluon_attn.core.batch import Batch
    from gluon_attn.method import Optimization, Task
    from gluon_attn.nets.init import xavier
    from gluon_attn.papers.vaa import VAATraining
    from gluon_attn.runtime import seed_everything
    from gluon_attn.train import use_static_graph
    from model_zoo import get_model

    seed_everything(0)
    net = get_model(model, input_size=size)
    net.initialize(xavier())
    rng = np.random.default_rng(0)
    label = (rng.random((batch, net.classes)) < 0.3).astype(np.float32)
    data = Batch(
        mx.nd.array(rng.normal(size=(batch, 3, size, size))), mx.nd.array(label),
        mx.nd.ones((batch, net.classes)), np.arange(batch),
    )  # fmt: skip
    if variant == "separate":
        return _separate_step(net, data)
    if variant == "static":
        use_static_graph(net)
    task = Task(tuple(map(str, range(net.classes))), batch, np.full(net.classes, 0.3))
    params = {"momentum": 0.9, "wd": 5e-4, "learning_rate": 1e-4}
    method = VAATraining(
        net, [mx.cpu()], task, Optimization("sgd", params), options={"phase1_epochs": 0}
    )
    method.begin_epoch(0)
    return lambda: method.train_step(data)


def _separate_step(net, data):
    """Return one step with the structure of the released repository."""
    from mxnet import autograd, gluon

    from gluon_attn.losses.classification import MaskedBCELoss

    net.backbone.hybridize()
    modules = list(net.heads.attention)
    bce = MaskedBCELoss()
    params = {"momentum": 0.9, "wd": 5e-4, "learning_rate": 1e-4}
    parts = [net.backbone]
    for module in modules:
        parts += [module.mask, module.confidence, module.classifier]
    trainers = [gluon.Trainer(p.collect_params(), "sgd", dict(params)) for p in parts]

    def step():
        with autograd.record():
            logits, *activations = net.backbone(data.image)
            every = [logits] + [m(x)[0] for m, x in zip(modules, activations)]
            loss = sum(bce(z, data.label, data.mask) for z in every)
        loss.backward()
        for trainer in trainers:
            trainer.step(len(data.index))
        loss.mean().asscalar()
        (sum(every) / len(every)).sigmoid().asnumpy()

    return step


def machine():
    """Return what the figures depend on."""
    import os

    from gluon_attn.runtime import versions

    found = versions()
    return {
        "processor": found.get("processor", platform.processor()), "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"), "versions": found,
    }  # fmt: skip


def training_table(result):
    """Return the training figures as a Markdown table."""
    from tabulate import tabulate

    rows = []
    for name, values in result["variants"].items():
        ratio = result["ratios"].get(name)
        rows.append([
            name, f"{values['images_per_second']:.2f}",
            spread_text(ratio) if ratio else "1",
            f"{values['peak_memory_mb']:.0f}",
        ])  # fmt: skip
    head = ["variant", "img/s (median)", "static is faster by", "peak memory MB"]
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)


def ratio_by_turns(values, others):
    """Return ``{median, lowest, highest}`` of the ratios of two series, turn by turn."""
    ratios = [a / b for a, b in zip(values, others)]
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def spread_text(ratio):
    """Return what :func:`ratio_by_turns` found as text."""
    return f"{ratio['median']:.2f} ({ratio['lowest']:.2f}–{ratio['highest']:.2f})"


def data_table(result):
    """Return the loading figures as a Markdown table."""
    from tabulate import tabulate

    rows = [[name, f"{statistics.median(result[name]):.0f}"] for name in ("opencv", "loader")]
    low, high = result["spread"]
    rows.append(["loader / opencv", f"{result['ratio']:.2f} ({low:.2f}–{high:.2f})"])
    return tabulate(rows, ["what", "img/s"], tablefmt="github", disable_numparse=True)


def step_benchmark(name):
    """Return ``(measure, table)`` of a benchmark of training steps.

    Args:
        name: ``'train'``, ``'awmt'``, ``'icasc'``, ``'dreal'`` or ``'search'``.
    """
    # Imported here: these import this module.
    from tools.bench.benchmark_awmt import benchmark_weights, weights_table
    from tools.bench.benchmark_dreal import benchmark_dreal, cost_table
    from tools.bench.benchmark_icasc import attention_table, benchmark_attention
    from tools.bench.benchmark_search import benchmark_search, search_table

    ways = {
        "train": (benchmark_training, training_table),
        "awmt": (benchmark_weights, weights_table),
        "icasc": (benchmark_attention, attention_table),
        "dreal": (benchmark_dreal, cost_table),
        "search": (benchmark_search, search_table),
    }
    return ways[name]
