"""Speed, latency, memory and size of inference: MXNet against the engines one would pick instead.

All engines run the same network with the same parameters on the same random images, each in a
process of its own; they take turns (:mod:`tools.bench.bench_turns`), so ratios to the
hybridized net are those of neighbouring moments. An engine whose logits differ in float32 is left
out: it would run another network.
"""

from __future__ import annotations

import importlib.metadata
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np

from gluon_attn.core.files import write_json, write_text
from tools.bench import bench_engines
from tools.bench.bench_turns import (
    Job,
    Process,
    default_threads,
    take_turns,
    thread_variables,
)
from tools.bench.benchmark import machine

REFERENCE = ("mxnet", "fp32")
FP32_TOLERANCE = 1e-3  # of max(1, |logits|): an engine that differs by more runs another network
PACKAGES = ("onnxruntime", "openvino", "nncf", "torch")


def benchmark_inference(
    model, size=None, batches=(8,), rounds=5, threads=None, export=None, only=None, seconds=2.0,
    report=lambda line: None,
):  # fmt: skip
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
    check_numbers(rounds, threads, size, batches, seconds)
    spec = describe_network(model, size, export)
    engines, threads = select(only), threads or default_threads()
    result = describe_run(spec, rounds, threads)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, thread_variables(threads):
        reasons = prepare(spec, folder, export, engines, report)
        result["left_out"] = {e.label: reasons[e.product] for e in engines if e.product in reasons}
        engines = [e for e in engines if e.product not in reasons]
        for batch in batches:
            rows, failed = _measure_batch(spec, engines, batch, rounds, threads, seconds, report)
            result["rows"] += rows
            done = {(row["engine"], row["precision"]) for row in rows}
            # What does not run at one batch size is not tried at the next.
            engines = [e for e in engines if (e.name, e.precision) in done]
            where = f"from batch {batch} on: " if batch != batches[0] else ""
            result["left_out"].update({k: f"{where}{reason}" for k, reason in failed.items()})
    return result


def _measure_batch(spec, engines, batch, rounds, threads, seconds, report):
    """Return the rows of one batch size, and ``{label: reason}`` of what failed."""
    jobs = [
        Job(e.name, e.precision, bench_engines.open_engine,
            (e.name, e.precision, spec, batch, threads))
        for e in engines
    ]  # fmt: skip
    measured, failed = take_turns(jobs, rounds, seconds, f"batch {batch}", report)
    failed.update(drop_others(measured))
    product = {(e.name, e.precision): e.product for e in engines}
    rows = [make_row(m, batch, spec["products"][product[m.job[:2]]]) for m in measured]
    add_agreement(rows, measured)
    return rows, failed


def describe_network(model, size=None, export=None):
    """Return what the other processes must know to build a zoo model.

    Args:
        model: Zoo name.
        size: Input side in pixels, or None for the export's, else the model's own.
        export: Export directory, if it exists: gives the number of classes too.

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
    arguments = bench_engines.arguments_of(model, options)
    return {"model": model.lower(), "options": options, "arguments": arguments}


def describe_run(spec, rounds, threads):
    """Return a result without rows."""
    return {
        "rows": [], "left_out": {}, "model": spec["model"],
        "size": spec["arguments"]["input_size"], "rounds": rounds, "threads": threads,
        "machine": describe_machine(threads),
    }  # fmt: skip


def check_numbers(rounds, threads, size, batches, seconds):
    """Raise ValueError for a number out of range; None passes."""
    given = [("rounds", rounds), ("threads", threads), ("size", size)]
    for name, value in given + [("batch size", batch) for batch in batches]:
        if value is not None and (value != int(value) or value < 1):
            raise ValueError(f"{name} {value!r}: valid are whole numbers from 1")
    if not batches or not seconds > 0:
        raise ValueError(f"batches {list(batches)}, seconds {seconds}: none, or not above 0")


def select(only, engines=bench_engines.ENGINES):
    """Return the engines that are asked for, and the reference.

    Raises:
        ValueError: A name that no engine has.
    """
    if not only:
        return list(engines)
    names = {e.name for e in engines} | {f"{e.name}:{e.precision}" for e in engines}
    unknown = sorted(set(only) - names)
    if unknown:
        raise ValueError(f"engine {', '.join(unknown)}: valid are {', '.join(sorted(names))}")
    return [
        e for e in engines
        if (e.name, e.precision) == REFERENCE or {e.name, f"{e.name}:{e.precision}"} & set(only)
    ]  # fmt: skip


def prepare(spec, folder, export, engines, report):
    """Make what the engines read, complete ``spec``, and return ``{product: why it is missing}``.

    Raises:
        ValueError: The export itself cannot be made, or is not the model's.
    """
    given = export is not None and Path(export).exists()
    spec.update(folder=folder, products={})
    kept = export is not None and not given
    spec["export"] = os.path.abspath(export) if kept else os.path.join(folder, "export")
    if given:
        bench_engines.copy_export(export, spec["export"])
    wanted = {"export"} | {e.product for e in engines}
    wanted |= {bench_engines.NEEDS[name] for name in wanted if name in bench_engines.NEEDS}
    reasons = {}
    for name, make in bench_engines.PRODUCTS.items():
        needed = bench_engines.NEEDS.get(name)
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


def _make_product(make, spec):
    return None, make(spec)


# --------------------------------------------------------------------------------------- rows


def drop_others(measured):
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


def _difference(logits, expected):
    return float(np.abs(logits - expected).max() / max(1.0, np.abs(expected).max()))


def make_row(item, batch, files=()):
    """Return the row of a measured job.

    Args:
        item: :class:`tools.bench.bench_turns.Measured`.
        batch: Images per call.
        files: What the engine reads, for ``file_mb``.

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
    size = sum(os.path.getsize(file) for file in files) / 2**20
    return {
        "engine": item.job.engine, "precision": item.job.precision, "batch": batch,
        "images_per_s": statistics.median(rates), "spread": [min(rates), max(rates)],
        "p50_ms": float(np.percentile(calls, 50)), "p95_ms": float(np.percentile(calls, 95)),
        "calls": len(calls), "peak_mb": item.peak_mb, "load_s": item.facts.get("load_s"),
        "file_mb": size if files else None, "ratio_to_mxnet": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
    }  # fmt: skip


def add_agreement(rows, measured):
    """Add to each row how its logits agree with the reference's: ``correlation``, ``max_diff``."""
    expected = measured[0].facts["logits"]
    for row, item in zip(rows, measured):
        logits = item.facts["logits"]
        row["max_diff"] = _difference(logits, expected)
        spread = min(logits.std(), expected.std()) > 0  # else there is nothing to correlate
        both = np.corrcoef(logits.ravel(), expected.ravel())
        row["correlation"] = float(both[0, 1]) if spread else None


def describe_machine(threads):
    """Return what the figures depend on; versions of what is not installed are left out."""
    found = dict(machine(), threads=threads)
    for package in PACKAGES:
        try:
            found["versions"][package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def table(rows):
    """Return rows as a Markdown table."""
    from tabulate import tabulate

    head = ["engine", "precision", "batch", "images/s", "x mxnet", "p50 ms", "p95 ms", "peak MB",
            "load s", "files MB", "correlation"]  # fmt: skip
    lines = []
    for row in rows:
        low, high = row["ratio_spread"]
        lines.append([
            row["engine"], row["precision"], row["batch"], f"{row['images_per_s']:.2f}",
            f"{row['ratio_to_mxnet']:.2f} ({low:.2f}–{high:.2f})",
            f"{row['p50_ms']:.1f}", f"{row['p95_ms']:.1f}", f"{row['peak_mb']:.0f}",
            _or_dash(row.get("load_s"), ".1f"), _or_dash(row.get("file_mb"), ".0f"),
            _or_dash(row.get("correlation"), ".4f"),
        ])  # fmt: skip
    used = [k for k in range(len(head)) if any(line[k] != "-" for line in lines)]
    lines = [[line[k] for k in used] for line in lines]
    return tabulate(lines, [head[k] for k in used], tablefmt="github", disable_numparse=True)


def _or_dash(value, form):
    return "-" if value is None else format(value, form)


def describe(result):
    """Return the line that says what was measured on what."""
    found = result["machine"]
    names = ("mxnet", *PACKAGES)
    stack = ", ".join(f"{n} {found['versions'][n]}" for n in names if n in found["versions"])
    return (
        f"{result['model']}, {result['size']} px, {result['threads']} thread(s), median and "
        f"extremes of {result['rounds']} rounds. {found['processor']}, {found['cores']} core(s), "
        f"AMX {found['versions'].get('amx', 'off')}. {stack}."
    )


def write_results(result, folder, title):
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
