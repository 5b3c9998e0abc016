"""A controlled multi-task experiment: adaptive weights, equal weights, and separate models.

The data are those of :mod:`gluon_attn.data.synthetic.people`: synthetic people with
tasks of clearly different difficulty.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

from gluon_attn.core.text import read_text
from gluon_attn.data.synthetic.people import TASKS
from gluon_attn.metrics.attributes import MEASURES
from gluon_attn.metrics.reports import ACCURACY, compare_accuracy, lowest
from gluon_attn.metrics.tables import decimal, difference_text, paired_differences, percent
from gluon_attn.train.run import train_once
from tools.experiments.data import make_data
from tools.experiments.runner import Make, Rows, Say, run_arms

METHODS = ("separate models", "basic model", "AWMT")
SHOWN = {"accuracy": "Accuracy", "balanced": "Balanced accuracy (mean recall of both classes)"}


class Outcome(NamedTuple):
    """Result of :func:`run_multitask`.

    Attributes:
        results: ``{method: [accuracy result of each seed]}``.
        seconds: ``{method: [training seconds of each seed]}``.
        text: The tables as Markdown.
    """

    results: dict[str, list[dict]]
    seconds: dict[str, list[float]]
    text: str


def run_multitask(
    make_recipe: Make,
    seeds: Sequence[int],
    out: str,
    *,
    workers: int = 2,
    images: dict[str, int] | None = None,
    say: Say = print,
) -> Outcome:
    """Train all three methods with every seed; see :func:`tools.experiments.runner.run_arms`.

    The methods share net, data, budget of iterations and training images per step (AWMT sees its
    validation images on top); every run chooses its epoch by validation accuracy.

    Args:
        make_recipe: Of an ``awmt`` recipe.
        out: Folder; data go to ``out/data``, runs to ``out/<method>-<seed>``.
        images: Scenes per split.
    """
    data = make_data("tasks", os.path.join(out, "data"), images, workers)

    def train(fixed: Sequence[str], folder: str) -> dict:
        name = "test_accuracy.json"
        spent = train_once(make_recipe(fixed), data, folder, workers, result=name)
        return {"result": ACCURACY.from_json(read_text(Path(folder) / name)), "seconds": spent}

    def arm(method: str) -> Callable[[int], dict]:
        def run(seed: int) -> dict:
            folder = os.path.join(out, f"{method.replace(' ', '-')}-{seed}")
            fixed = [f"seed={seed}", *([] if method == "AWMT" else ["adaptive=false"])]
            if method != "separate models":
                return train(fixed, folder)
            parts = [train([*fixed, f"attributes={t}"], os.path.join(folder, t)) for t in TASKS]
            joined = join_results([part["result"] for part in parts])
            return {"result": joined, "seconds": sum(part["seconds"] for part in parts)}

        return run

    def line(row: dict) -> str:
        found, spent = row["result"], row["seconds"]
        return (
            f"accuracy {decimal(found['overall']['accuracy'])}, worst "
            f"{decimal(lowest(found, 'accuracy'))} ({found['worst']}), {spent:.0f} s"
        )

    rows, text = run_arms(
        {method: arm(method) for method in METHODS},
        seeds,
        out,
        line=line,
        describe=lambda rows: describe(_of(rows, "result"), _of(rows, "seconds")),
        record=lambda rows: {
            "seconds": _of(rows, "seconds"),
            "results": _of(rows, "result"),
            "tasks": TASKS,
            "recipe": make_recipe([]).to_dict(),
        },
        say=say,
    )
    return Outcome(_of(rows, "result"), _of(rows, "seconds"), text)


def _of(rows: Rows, key: str) -> dict[str, list[Any]]:
    return {method: [row[key] for row in found] for method, found in rows.items()}


def join_results(results: Sequence[dict]) -> dict:
    """Return the accuracy results of several nets on the same samples as one result."""
    rows = [row for result in results for row in result["attributes"]]
    overall = {}
    for measure in MEASURES:
        values = [row[measure] for row in rows if row[measure] == row[measure]]
        overall[measure] = sum(values) / len(values) if values else float("nan")
    worst = min(rows, key=lambda row: row["accuracy"])["name"]
    undefined = [name for result in results for name in result["undefined"]]
    return dict(results[0], attributes=rows, overall=overall, worst=worst, undefined=undefined)


def describe(results: dict[str, list[dict]], seconds: dict[str, list[float]]) -> str:
    """Return tables and paired differences as Markdown."""
    parts, ours = [], results["AWMT"]
    for measure, title in SHOWN.items():
        seeds = len(seconds["AWMT"])
        parts.append(f"{title}, test, mean ± standard deviation over {seeds} seed(s):")
        parts.append(compare_accuracy(results, "markdown", measure))
    lines = []
    for other in METHODS[:2]:
        for measure in SHOWN:
            theirs = results[other]
            mean = _difference([[r["overall"][measure] for r in own] for own in (ours, theirs)])
            worst = _difference([[lowest(r, measure) for r in own] for own in (ours, theirs)])
            lines.append(
                f"* AWMT minus {other}, seed by seed [95 %], {measure}: mean over tasks {mean}, "
                f"worst task {worst}"
            )
    parts.append("\n".join(lines))
    rows = ours[0]["attributes"]
    guess = ", ".join(f"{row['name']} {percent(row['majority'])}" for row in rows)
    parts.append(f"Accuracy of always predicting the commoner class: {guess}.")
    noise = ", ".join(f"{name} {100 * share:.0f} %" for name, share in TASKS.items() if share)
    spent = ", ".join(f"{name} {np.mean(s):.0f}" for name, s in seconds.items())
    parts.append(
        f"Labels flipped in train and val: {noise}. Seconds of training per seed: {spent}."
    )
    return "\n\n".join(parts) + "\n"


def _difference(pair: Sequence[Sequence[float]]) -> str:
    """Return paired differences in percentage points as text."""
    return difference_text([100 * d for d in paired_differences(*pair)], 1, spread=True)
