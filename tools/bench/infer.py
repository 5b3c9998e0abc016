"""Inference and training steps of a zoo network against the engines that one would pick instead.

All engines run the same network on the same random images, for inference with the same parameters,
each in a process of its own; they are interleaved (:mod:`tools.bench.turns`), so ratios to the
hybridized net are those of neighbouring moments. An engine whose logits differ in float32 is left
out: it would run another network.

The training step is forward, losses, backward and SGD with momentum on one fixed random batch. Ours
is the step that ``tools/train.py`` makes (VAA: phase ``joint``, with both of its losses); PyTorch's
has the cross-entropy of the same logit vectors, whose cost is nothing beside the network's.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

from gluon_attn.core.files import write_json, write_text
from tools.bench import engines
from tools.bench.turns import (
    Job,
    Measured,
    Process,
    default_threads,
    machine,
    spread_text,
    take_turns,
    thread_variables,
)

REFERENCE = ("mxnet", "fp32")
FP32_TOLERANCE = 1e-3  # of max(1, |logits|): an engine that differs by more runs another network
PACKAGES = ("onnxruntime", "openvino", "nncf", "torch")
Report = Callable[[str], Any]


class Trainer(NamedTuple):
    """A way to train; ``open(spec, batch, threads) -> step``, a function without arguments."""

    name: str
    precision: str
    library: str
    open: Callable[[engines.Spec, int, int], Callable[[], float]]


def benchmark_inference(
    model: str,
    size: int | None = None,
    batches: Sequence[int] = (8,),
    *,
    rounds: int = 5,
    threads: int | None = None,
    export: str | Path | None = None,
    only: Sequence[str] | None = None,
    seconds: float = 2.0,
    report: Report = lambda line: None,
) -> dict:
    """Measure all engines that can run a network here.

    Args:
        model: Zoo name.
        size: Side of the input in pixels; None means the model's own.
        batches: Images per call, one measurement each.
        rounds: Turns of each engine.
        threads: Compute threads of each engine; None means one per core.
        export: Export directory of that model, whose weights and variants are then used; it is
            copied, not changed. If it does not exist, the random export made here is kept there.
            None makes one in a temporary folder.
        only: Names of engines (``'torch'``) or of one precision (``'torch:fp32'``); the reference
            is measured in any case. None means all.
        seconds: Length of a turn, if a single call is not longer.
        report: Called with a line of text now and then.

    Returns:
        Dict with ``rows`` (see :func:`make_row`), ``left_out`` (``'engine precision'`` to reason),
        ``machine``, and the arguments.

    Raises:
        ValueError: Unknown model or engine, a number out of range, or an export that does not fit.
        OSError: The reference itself did not survive.
    """
    check_numbers(rounds, threads, size, batches, seconds=seconds)
    spec = describe_network(model, size, export)
    chosen, threads = select(only), threads or default_threads()
    result = describe_run(spec, rounds, threads)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, thread_variables(threads):
        reasons = prepare(spec, folder, export, chosen, report=report)
        result["left_out"] = {e.label: reasons[e.product] for e in chosen if e.product in reasons}
        chosen = [e for e in chosen if e.product not in reasons]
        for batch in batches:
            jobs = [
                Job(*key, engines.open_engine, (key, spec, batch, threads))
                for key in ((e.name, e.precision) for e in chosen)
            ]
            measured, failed = take_turns(jobs, rounds, seconds, f"batch {batch}", report)
            failed.update(drop_others(measured))
            product = {(e.name, e.precision): e.product for e in chosen}
            done = {m.job[:2]: spec["products"][product[m.job[:2]]] for m in measured}
            rows = [make_row(m, batch, done[m.job[:2]]) for m in measured]
            add_agreement(rows, measured)
            result["rows"] += rows
            # What does not run at one batch size is not tried at the next.
            chosen = [e for e in chosen if (e.name, e.precision) in done]
            where = f"from batch {batch} on: " if batch != batches[0] else ""
            result["left_out"].update({k: f"{where}{reason}" for k, reason in failed.items()})
    return result


def benchmark_step(
    model: str,
    size: int | None = None,
    batch: int = 8,
    *,
    rounds: int = 5,
    threads: int | None = None,
    only: Sequence[str] | None = None,
    seconds: float = 2.0,
    report: Report = lambda line: None,
) -> dict:
    """Measure a training step of every engine that can make one here.

    Arguments, result and errors are those of :func:`benchmark_inference`; ``file_mb`` is None.
    """
    check_numbers(rounds, threads, size, [batch], seconds=seconds)
    spec = describe_network(model, size)
    threads = threads or default_threads()
    jobs = [
        Job(*key, open_trainer, (key, spec, batch, threads))
        for key in ((t.name, t.precision) for t in select(only, TRAINERS))
    ]
    result = describe_run(spec, rounds, threads)
    with thread_variables(threads):
        measured, left_out = take_turns(jobs, rounds, seconds, f"batch {batch}", report)
    return dict(result, rows=[make_row(item, batch) for item in measured], left_out=left_out)


# ------------------------------------------------------------------------------- preparations


def describe_network(
    model: str, size: int | None = None, export: str | Path | None = None
) -> engines.Spec:
    """Return what the other processes must know to build a zoo model.

    ``export``, if it exists, gives the input size and the number of classes.

    Raises:
        ValueError: Unknown model, or an export of another input size.
    """
    options = {} if size is None else {"input_size": size}
    if export is not None and Path(export).exists():
        from gluon_attn.export.sidecar import read_sidecar

        sidecar = read_sidecar(export)
        height, width = sidecar["input"]["shape"][2:]
        if height != width or (size or height) != height:
            raise ValueError(f"{export} takes {height}x{width} px, asked for are {size}")
        options = {"input_size": height, "classes": len(sidecar["classes"])}
    arguments = engines.arguments_of(model, options)
    return {"model": model.lower(), "options": options, "arguments": arguments}


def describe_run(spec: engines.Spec, rounds: int, threads: int) -> dict:
    """Return a result without rows; versions of what is not installed are left out."""
    found = dict(machine(), threads=threads)
    for package in PACKAGES:
        try:
            found["versions"][package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    size = spec["arguments"]["input_size"]
    run = {"model": spec["model"], "size": size, "rounds": rounds, "threads": threads}
    return {"rows": [], "left_out": {}, **run, "machine": found}


def check_numbers(
    rounds: int,
    threads: int | None,
    size: int | None,
    batches: Sequence[int],
    *,
    seconds: float,
) -> None:
    """Raise ValueError for a number out of range; None passes."""
    given = [("rounds", rounds), ("threads", threads), ("size", size)]
    for name, value in given + [("batch size", batch) for batch in batches]:
        if value is not None and (value != int(value) or value < 1):
            raise ValueError(f"{name} {value!r}: valid are whole numbers from 1")
    if not batches or not seconds > 0:
        raise ValueError(f"batches {list(batches)}, seconds {seconds}: none, or not above 0")


def select(only: Sequence[str] | None, every: Sequence[Any] = engines.ENGINES) -> list:
    """Return the engines that are asked for, and the reference.

    Raises:
        ValueError: A name that no engine has.
    """
    if not only:
        return list(every)
    names = {e.name for e in every} | {f"{e.name}:{e.precision}" for e in every}
    unknown = sorted(set(only) - names)
    if unknown:
        raise ValueError(f"engine {', '.join(unknown)}: valid are {', '.join(sorted(names))}")
    wanted = {*only, ":".join(REFERENCE)}
    return [e for e in every if {e.name, f"{e.name}:{e.precision}"} & wanted]


def prepare(
    spec: engines.Spec,
    folder: str,
    export: str | Path | None,
    chosen: Sequence[engines.Engine],
    *,
    report: Report,
) -> dict[str, str]:
    """Make what the engines read, complete ``spec``, and return ``{product: why it is missing}``.

    Raises:
        ValueError: The export itself cannot be made, or is not the model's.
    """
    given = export is not None and Path(export).exists()
    kept = export is not None and not given
    spec.update(folder=folder, products={})
    spec["export"] = os.path.abspath(str(export)) if kept else os.path.join(folder, "export")
    if given:  # products must not be added to a user's own
        shutil.copytree(str(export), spec["export"])
    wanted = {"export"} | {e.product for e in chosen}
    wanted |= {engines.NEEDS[name] for name in wanted if name in engines.NEEDS}
    reasons: dict[str, str] = {}
    for name, make in engines.PRODUCTS.items():
        needed = engines.NEEDS.get(name)
        if name not in wanted:
            continue
        if needed in reasons:
            reasons[name] = reasons[needed]
            continue
        report(f"preparing {name}")
        with Process(Job("preparing", name, _make_product, (make, spec))) as process:
            process.finish()
            if process.failure is None:
                spec["products"][name] = process.facts
            else:
                reasons[name] = process.failure
    if "export" in reasons:
        raise ValueError(f"{spec['model']} cannot be exported: {reasons['export']}")
    return reasons


def _make_product(make: Callable, spec: engines.Spec) -> tuple[None, list[str]]:
    return None, make(spec)


# ------------------------------------------------------------------------------------ trainers


def open_trainer(
    key: tuple[str, str], spec: engines.Spec, batch: int, threads: int
) -> tuple[Callable, dict]:
    """Open a trainer in this process and make two steps; return ``(step, facts)``.

    Raises:
        ImportError, ValueError: It is not installed, or cannot run here.
    """
    trainer = next(t for t in TRAINERS if (t.name, t.precision) == key)
    engines.import_library(trainer.library)
    step = trainer.open(spec, batch, threads)
    for _ in range(2):  # memory is planned in the first, momentum exists from the second on
        step()
    return step, {}


def _open_mxnet(
    spec: engines.Spec, batch: int, threads: int, amp: str = "none"
) -> Callable[[], float]:
    """Return our own training step, one static graph."""
    import mxnet as mx

    from gluon_attn.papers.vaa import VAA
    from tools.bench import steps

    importlib.import_module("gluon_attn.papers.baselines")  # registers its method
    net = steps.new_net(spec["model"], **spec["options"])
    rng, side = np.random.default_rng(0), spec["arguments"]["input_size"]
    data = steps.random_batch(rng, net.classes, side, batch, single=False)
    name, options = ("vaa", {"phase1_epochs": 0}) if isinstance(net, VAA) else ("baseline", {})
    method = steps.new_method(name, net, False, options=options, amp=amp)

    def step() -> float:
        loss = method.train_step(data)["loss"].asscalar()
        mx.nd.waitall()  # the update is not part of what the loss waits for
        return loss

    return step


def _open_torch(
    spec: engines.Spec, batch: int, threads: int, **options: Any
) -> Callable[[], float]:
    from tools.bench import torch_nets

    return torch_nets.open_trainer(spec["arguments"], batch, threads, **options)


_part = functools.partial
TRAINERS = (
    Trainer("mxnet", "fp32", "model_zoo", _open_mxnet),
    Trainer("mxnet", "bf16", "model_zoo", _part(_open_mxnet, amp="bfloat16")),
    *(
        Trainer(name, precision, "torch", _part(_open_torch, precision=precision, **how))
        for name, how in (("torch", {}), ("torch-channels-last", {"channels_last": True}))
        for precision in ("fp32", "bf16")
    ),
)


# --------------------------------------------------------------------------------------- rows


def drop_others(measured: list[Measured]) -> dict[str, str]:
    """Take out of ``measured`` what gives other float32 logits than the reference; return why."""
    expected = measured[0].facts["logits"]
    reasons = {}
    for item in list(measured[1:]):
        logits = item.facts["logits"]
        limit = FP32_TOLERANCE if item.job.precision == "fp32" else np.inf
        worst = _difference(logits, expected) if logits.shape == expected.shape else np.nan
        if not worst <= limit:
            measured.remove(item)
            reasons[item.job.label] = (
                f"its logits {logits.shape} differ from the net's {expected.shape} by {worst:.3g} "
                "of max(1, |logits|)"
            )
    return reasons


def _difference(logits: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(logits - expected).max() / max(1.0, np.abs(expected).max()))


def make_row(item: Measured, batch: int, files: Sequence[str] = ()) -> dict:
    """Return the row of a measured job, which reads ``files``.

    Returns:
        Dict: ``engine``, ``precision``, ``batch``; ``images_per_s``, the median over the turns, and
        its ``spread`` [lowest, highest]; ``p50_ms`` and ``p95_ms`` of the latency of all ``calls``;
        ``peak_mb`` of the process and ``file_mb``, in 2**20 bytes; ``load_s``, None where nothing
        was loaded; ``ratio_to_mxnet``, the median over the rounds, and its ``ratio_spread``.
    """
    rates = [batch * len(turn) / sum(turn) for turn in item.turns]
    base = [batch * len(turn) / sum(turn) for turn in item.against]
    ratios = [ours / theirs for ours, theirs in zip(rates, base)]
    calls = [1000 * seconds for turn in item.turns for seconds in turn]
    return {
        "engine": item.job.engine,
        "precision": item.job.precision,
        "batch": batch,
        "images_per_s": statistics.median(rates),
        "spread": [min(rates), max(rates)],
        "p50_ms": float(np.percentile(calls, 50)),
        "p95_ms": float(np.percentile(calls, 95)),
        "calls": len(calls),
        "peak_mb": item.peak_mb,
        "load_s": item.facts.get("load_s"),
        "file_mb": sum(os.path.getsize(file) for file in files) / 2**20 if files else None,
        "ratio_to_mxnet": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
    }


def add_agreement(rows: Sequence[dict], measured: Sequence[Measured]) -> None:
    """Add to each row how its logits agree with the reference's: ``correlation``, ``max_diff``."""
    expected = measured[0].facts["logits"]
    for row, item in zip(rows, measured):
        logits = item.facts["logits"]
        row["max_diff"] = _difference(logits, expected)
        spread = min(logits.std(), expected.std()) > 0  # else there is nothing to correlate
        both = np.corrcoef(logits.ravel(), expected.ravel())
        row["correlation"] = float(both[0, 1]) if spread else None


COLUMNS = {
    "engine": ("engine", ""),
    "precision": ("precision", ""),
    "batch": ("batch", "d"),
    "images/s": ("images_per_s", ".2f"),
    "x mxnet": ("ratio", ""),
    "p50 ms": ("p50_ms", ".1f"),
    "p95 ms": ("p95_ms", ".1f"),
    "peak MB": ("peak_mb", ".0f"),
    "load s": ("load_s", ".1f"),
    "files MB": ("file_mb", ".0f"),
    "correlation": ("correlation", ".4f"),
}


def table(rows: Sequence[dict]) -> str:
    """Return rows as a Markdown table; a column without any value is left out."""
    from tabulate import tabulate

    lines = []
    for row in rows:
        low, high = row["ratio_spread"]
        ratio = {"median": row["ratio_to_mxnet"], "lowest": low, "highest": high}
        values = dict(row, ratio=spread_text(ratio))
        found = [(values.get(key), form) for key, form in COLUMNS.values()]
        lines.append(["-" if value is None else format(value, form) for value, form in found])
    used = [k for k in range(len(COLUMNS)) if any(line[k] != "-" for line in lines)]
    lines = [[line[k] for k in used] for line in lines]
    heads = [list(COLUMNS)[k] for k in used]
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True)


def describe(result: dict) -> str:
    """Return the line that says what was measured on what."""
    found = result["machine"]
    names = ("mxnet", *PACKAGES)
    stack = ", ".join(f"{n} {found['versions'][n]}" for n in names if n in found["versions"])
    return (
        f"{result['model']}, {result['size']} px, {result['threads']} thread(s), median and "
        f"extremes of {result['rounds']} rounds. {found['processor']}, {found['cores']} core(s), "
        f"AMX {found['versions'].get('amx', 'off')}. {stack}."
    )


def write_results(result: dict, folder: str | Path, title: str) -> list[Path]:
    """Write ``results.md``, ``results.json`` and ``results.png`` into ``folder``; return the paths.

    Raises:
        OSError: They cannot be written.
    """
    from gluon_attn.figures.bars import speed_bars

    folder = Path(folder)
    missing = [f"* {label}: {reason}" for label, reason in result["left_out"].items()]
    parts = [f"# {title}", describe(result), table(result["rows"])]
    parts += ["Left out:\n\n" + "\n".join(missing)] if missing else []
    parts += ["![images per second](results.png)"]
    write_text(folder / "results.md", "\n\n".join(parts) + "\n")
    write_json(folder / "results.json", result)
    speed_bars(result["rows"], folder / "results.png", f"{title}: {result['model']}")
    return [folder / f"results.{suffix}" for suffix in ("md", "json", "png")]
