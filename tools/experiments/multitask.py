"""A controlled multi-task experiment: adaptive weights, equal weights, and separate models.

The data are those of :mod:`gluon_attn.data.synthetic.people`: synthetic people with
tasks of clearly
different difficulty.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gluon_attn.core.files import write_json, write_text
from gluon_attn.core.text import read_text
from gluon_attn.data.synthetic.people import TASKS
from gluon_attn.metrics.attributes import MEASURES
from gluon_attn.metrics.reports import ACCURACY, compare_accuracy, lowest
from gluon_attn.metrics.tables import decimal, difference_text, paired_differences, percent
from gluon_attn.train.run import train_once
from tools.bench.benchmark import machine
from tools.experiments.controlled_data import make_data

METHODS = ("separate models", "basic model", "AWMT")
SHOWN = {"accuracy": "Accuracy", "balanced": "Balanced accuracy (mean recall of both classes)"}


class Outcome(NamedTuple):
    """Result of :func:`run_multitask`.

    Attributes:
        results: ``{method: [accuracy result of each seed]}``.
        seconds: ``{method: [training seconds of each seed]}``.
        text: The tables as Markdown.
    """

    results: dict
    seconds: dict
    text: str


def run_multitask(make_recipe, seeds, out, workers=2, images=None, say=print):
    """Train all three methods with every seed, continuing what an earlier call left unfinished.

    The methods share net, data, budget of iterations and training images per step (AWMT sees its
    validation images on top); every run chooses its epoch by validation accuracy and looks at the
    test split once. Seeds vary initialisation, order and augmentation; the data stay the same.

    Args:
        make_recipe: Function ``overrides -> Recipe`` of an ``awmt`` recipe; overrides are
            ``key=value`` strings.
        seeds: Integers.
        out: Folder; data go to ``out/data``, runs to ``out/<method>-<seed>``.
        workers: Threads that load, processes that draw.
        images: Scenes per split.
        say: Called with lines for the reader.

    Returns:
        An :class:`Outcome`; ``out/results.md`` and ``.json`` hold the same.
    """
    data = make_data("tasks", os.path.join(out, "data"), images, workers)
    results = {method: [] for method in METHODS}
    seconds = {method: [] for method in METHODS}
    for seed in seeds:
        for method in METHODS:
            found, spent = _run(method, seed, make_recipe, data, out, workers)
            results[method].append(found)
            seconds[method].append(spent)
            say(
                f"{method}, seed {seed}: accuracy {decimal(found['overall']['accuracy'])}, worst "
                f"{decimal(lowest(found, 'accuracy'))} ({found['worst']}), {spent:.0f} s"
            )
    text = _describe(results, seconds)
    write_text(os.path.join(out, "results.md"), text)
    record = {
        "seeds": list(seeds), "seconds": seconds, "results": results, "tasks": TASKS,
        "recipe": make_recipe([]).to_dict(), "machine": machine(),
    }  # fmt: skip
    write_json(os.path.join(out, "results.json"), record)
    return Outcome(results, seconds, text)


def _run(method, seed, make_recipe, data, out, workers):
    """Return accuracy result and training seconds of one method with one seed."""
    folder, fixed = os.path.join(out, f"{method.replace(' ', '-')}-{seed}"), [f"seed={seed}"]
    if method != "AWMT":
        fixed.append("adaptive=false")
    if method != "separate models":
        return _train(make_recipe(fixed), folder, data, workers)
    parts = [
        _train(make_recipe([*fixed, f"attributes={task}"]), os.path.join(folder, task), data,
               workers)
        for task in TASKS
    ]  # fmt: skip
    return join_results([found for found, _ in parts]), sum(spent for _, spent in parts)


def _train(recipe, folder, data, workers):
    """Train a recipe unless it has been; return accuracy result and training seconds."""
    seconds = train_once(recipe, data, folder, workers, result="test_accuracy.json")
    return ACCURACY.from_json(read_text(Path(folder) / "test_accuracy.json")), seconds


def join_results(results):
    """Return the accuracy results of several nets on the same samples as one result."""
    rows = [row for result in results for row in result["attributes"]]
    overall = {}
    for measure in MEASURES:
        values = [row[measure] for row in rows if row[measure] == row[measure]]
        overall[measure] = sum(values) / len(values) if values else float("nan")
    worst = min(rows, key=lambda row: row["accuracy"])["name"]
    undefined = [name for result in results for name in result["undefined"]]
    return dict(results[0], attributes=rows, overall=overall, worst=worst, undefined=undefined)


def _describe(results, seconds):
    """Return tables and paired differences as Markdown."""
    parts = []
    for measure, title in SHOWN.items():
        parts.append(f"{title}, test, mean ± standard deviation over "
                     f"{len(seconds['AWMT'])} seed(s):")  # fmt: skip
        parts.append(compare_accuracy(results, "markdown", measure))
    lines = []
    for other in METHODS[:2]:
        for measure in SHOWN:
            mean = [r["overall"][measure] for r in results["AWMT"]]
            worst = [lowest(r, measure) for r in results["AWMT"]]
            lines.append(
                f"* AWMT minus {other}, seed by seed [95 %], {measure}: mean over tasks "
                + _difference(mean, [r["overall"][measure] for r in results[other]])
                + ", worst task "
                + _difference(worst, [lowest(r, measure) for r in results[other]])
            )
    parts.append("\n".join(lines))
    rows = results["AWMT"][0]["attributes"]
    guess = ", ".join(f"{row['name']} {percent(row['majority'])}" for row in rows)
    parts.append(f"Accuracy of always predicting the commoner class: {guess}.")
    noise = ", ".join(f"{name} {100 * share:.0f} %" for name, share in TASKS.items() if share)
    spent = ", ".join(f"{name} {np.mean(s):.0f}" for name, s in seconds.items())
    parts.append(
        f"Labels flipped in train and val: {noise}. Seconds of training per seed: {spent}."
    )
    return "\n\n".join(parts) + "\n"


def _difference(ours, theirs):
    """Return paired differences in percentage points as text."""
    return difference_text([100 * d for d in paired_differences(ours, theirs)], 1, spread=True)
