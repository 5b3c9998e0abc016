"""Multi-task experiments: adaptive weights, equal weights, and separate models.

The data are the user's photographs, or :mod:`gluon_attn.data.synthetic.people`: synthetic people
with tasks of clearly different difficulty. On photographs the labels of some tasks are made wrong,
more and more of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence

import numpy as np
from tabulate import tabulate

from gluon_attn.core.text import read_text
from gluon_attn.data.synthetic.people import TASKS
from gluon_attn.metrics.attributes import MEASURES, evaluate_attributes
from gluon_attn.metrics.reports import ACCURACY, compare_accuracy, lowest
from gluon_attn.metrics.tables import (
    decimal,
    difference_text,
    paired_differences,
    percent,
    spread_text,
)
from gluon_attn.tasks.data import open_split
from gluon_attn.train import run as training
from gluon_attn.train.run import train_once
from tools.experiments.controlled import Preset, trial_of, tuned
from tools.experiments.data import make_data
from tools.experiments.runner import NO_DATA, Make, Rows, Say, run_arms, slug

SEPARATE, BASIC, AWMT = "separate models", "basic model", "AWMT"
ARMS: dict[str, Sequence[str]] = {
    SEPARATE: ("adaptive=false",), BASIC: ("adaptive=false",), AWMT: ()
}  # fmt: skip
SHOWN = {"accuracy": "Accuracy", "balanced": "Balanced accuracy (mean recall of the classes)"}
Results = Dict[str, List[Dict[str, Any]]]  # {method: accuracy result of each seed}


class Outcome(NamedTuple):
    """Result of :func:`run_multitask`.

    Attributes:
        results: ``{method: [accuracy result of each seed]}``.
        seconds: ``{method: [training seconds of each seed]}``.
        text: The tables as Markdown.
    """

    results: Results
    seconds: dict[str, list[float]]
    text: str


class NoiseCurve(NamedTuple):
    """AWMT on photographs, over the share of wrong labels.

    Attributes:
        preset: Its recipe, learning rates and overrides; its arms are those of ``ARMS``, and
            variants of AWMT.
        noisy: Tasks that get wrong labels in training and validation.
        levels: Shares of their labels, beside 0.
    """

    preset: Preset
    noisy: tuple[str, ...]
    levels: tuple[float, ...]


def at_level(title: str, level: float) -> str:
    """Return the title of an arm at a share of wrong labels."""
    return f"{title}, {100 * level:g} %" if level else title


def run_noise_curve(
    curve: NoiseCurve, make_recipe: Make, seeds: Sequence[int], out: str, *, data_dir: str | None,
    workers: int = 2, say: Say = print,
) -> Outcome:  # fmt: skip
    """Choose the learning rates with true labels; train all but separate models at every level.

    Separate models are trained last, with true labels only: there are as many nets as tasks.

    Returns:
        The results of all arms; ``'AWMT, 20 %'`` is AWMT with a fifth of some labels wrong.
    """
    if not data_dir:
        raise ValueError(NO_DATA)
    arms, _ = tuned(curve.preset, trial_of(out, make_recipe, data_dir, workers), say)
    results: Results = {}
    seconds: dict[str, list[float]] = {}
    parts: dict[float, Results] = {}
    text = ""
    joint = [title for title in arms if title != SEPARATE]
    plan = [*((level, joint) for level in (0.0, *curve.levels)), (0.0, [SEPARATE, *joint])]
    for level, chosen in plan:
        share = f"{100 * level:g} %"
        noise = dict.fromkeys(curve.noisy, level)
        changes = [f"data_options.label_noise={noise}"] if level else []
        say(f"labels of {', '.join(curve.noisy)}: {share} wrong")
        done = run_multitask(
            make_recipe, seeds, os.path.join(out, f"noise-{100 * level:g}"), data=data_dir,
            arms={title: [*arms[title], *changes] for title in chosen}, noise=noise,
            workers=workers, say=say,
        )  # fmt: skip
        results.update({at_level(title, level): own for title, own in done.results.items()})
        seconds.update({at_level(title, level): own for title, own in done.seconds.items()})
        parts[level], text = done.results, done.text
    return Outcome(results, seconds, f"{describe_curve(parts, curve.noisy)}\n\n{text}")


def run_multitask(
    make_recipe: Make,
    seeds: Sequence[int],
    out: str,
    *,
    data: str | None = None,
    arms: Mapping[str, Sequence[str]] = ARMS,
    noise: Mapping[str, float] = TASKS,
    workers: int = 2,
    images: dict[str, int] | None = None,
    say: Say = print,
) -> Outcome:
    """Train the methods with every seed; see :func:`tools.experiments.runner.run_arms`.

    The methods share net, data, budget of iterations and training images per step (AWMT sees its
    validation images on top); every run chooses its epoch by validation accuracy.

    Args:
        make_recipe: Of an ``awmt`` recipe.
        out: Folder; runs go to ``out/<method>-<seed>``.
        data: The data set; None: synthetic people, made in ``out/data``.
        arms: Those of ``ARMS`` that are trained, with their overrides.
        noise: ``{task: share of wrong labels}``, for the text.
        images: Scenes per split.
    """
    data = data or make_data("tasks", os.path.join(out, "data"), images, workers)

    def train(fixed: Sequence[str], folder: str) -> dict:
        name = "test_accuracy.json"
        spent = train_once(
            make_recipe(fixed), data, folder, workers, result=name, run=_train_and_judge
        )
        return {"result": ACCURACY.from_json(read_text(Path(folder) / name)), "seconds": spent}

    def arm(method: str) -> Callable[[int], dict]:
        def run(seed: int) -> dict:
            folder = os.path.join(out, f"{slug(method)}-{seed}")
            fixed = [*arms[method], f"seed={seed}"]
            if method != SEPARATE:
                return train(fixed, folder)
            tasks = open_split(make_recipe(fixed), data, "test").schema.names
            parts = [train([*fixed, f"attributes={t}"], os.path.join(folder, t)) for t in tasks]
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
        {method: arm(method) for method in arms},
        seeds,
        out,
        line=line,
        describe=lambda rows: describe(_of(rows, "result"), _of(rows, "seconds"), noise),
        record=lambda rows: {
            "seconds": _of(rows, "seconds"),
            "results": _of(rows, "result"),
            "tasks": dict(noise),
            "arms": {method: list(changes) for method, changes in arms.items()},
            "recipe": make_recipe([]).to_dict(),
        },
        say=say,
    )
    return Outcome(_of(rows, "result"), _of(rows, "seconds"), text)


def _train_and_judge(recipe: Any, settings: Any) -> None:
    """Train, and write the accuracy of an attribute of classes that is the only task, too.

    Such a net is one of classes for the package, which reports other measures of it.
    """
    training.train(recipe, settings)
    stem = "test_accuracy"
    if not os.path.exists(os.path.join(settings.save_dir, f"{stem}.json")):
        schema = open_split(recipe, settings.data_dir, "test").schema
        with np.load(os.path.join(settings.save_dir, "test_predictions.npz")) as found:
            probs, target = found["probs"], found["target"][:, None]
        known = np.broadcast_to(target >= 0, probs.shape)
        labels = target == np.arange(probs.shape[1])
        accuracy = evaluate_attributes(probs, labels, known, schema)
        ACCURACY.write(accuracy, settings.save_dir, stem)


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


def describe(
    results: Results, seconds: dict[str, list[float]], noise: Mapping[str, float] = TASKS
) -> str:
    """Return tables and paired differences as Markdown."""
    parts, ours = [], results[AWMT]
    for measure, title in SHOWN.items():
        parts.append(f"{title}, test, mean ± standard deviation over {len(ours)} seed(s):")
        parts.append(compare_accuracy(results, "markdown", measure))
    lines = []
    for other in results:
        for measure in SHOWN if other != AWMT else ():
            mean, worst = _gains(ours, results[other], measure)
            lines.append(
                f"* AWMT minus {other}, seed by seed [95 %], {measure}: mean over tasks {mean}, "
                f"worst task {worst}"
            )
    lines += _by_imbalance(results)
    parts.append("\n".join(lines))
    rows = ours[0]["attributes"]
    guess = ", ".join(f"{row['name']} {percent(row['majority'])}" for row in rows)
    parts.append(f"Accuracy of always predicting the commoner class: {guess}.")
    wrong = ", ".join(f"{name} {100 * share:.0f} %" for name, share in noise.items() if share)
    spent = ", ".join(f"{name} {np.mean(s):.0f}" for name, s in seconds.items())
    wrong = f"Labels flipped in train and val, in the tables by attribute: {wrong or 'none'}."
    parts.append(f"{wrong} Seconds of training per seed: {spent}.")
    return "\n\n".join(parts) + "\n"


def _by_imbalance(results: Results) -> list[str]:
    """Return a line for each third of the tasks, from the most to the least balanced; none for <3.

    How unbalanced a task is, is the accuracy of always predicting its commonest class.
    """
    rows = results[AWMT][0]["attributes"]
    order = sorted((row["majority"], row["name"]) for row in rows if row["known"])
    lines = []
    for part in np.array_split(np.arange(len(order)), 3) if len(order) > 2 else ():
        names = [order[k][1] for k in part]
        span = f"{percent(order[part[0]][0])} to {percent(order[part[-1]][0])} %"
        gain = _difference([_means(results[m], "balanced", names) for m in (AWMT, BASIC)])
        lines.append(
            f"* AWMT minus basic model, balanced, tasks whose commonest class has {span} of the "
            f"images ({', '.join(names)}): {gain}"
        )
    return lines


def describe_curve(levels: Mapping[float, Results], noisy: Sequence[str]) -> str:
    """Return tables of mean and worst accuracy over the share of wrong labels, as Markdown.

    AWMT, and every variant of it, has one.
    """
    first = next(iter(levels.values()))
    names = [row["name"] for row in first[AWMT][0]["attributes"]]
    groups = {"noisy tasks": list(noisy), "others": [n for n in names if n not in noisy]}
    ours = [title for title in first if title not in (BASIC, SEPARATE)]
    return "\n\n".join(_curve_of(title, levels, groups) for title in ours)


def _curve_of(
    title: str, levels: Mapping[float, Results], groups: Mapping[str, Sequence[str]]
) -> str:
    """Return the table of one method over the share of wrong labels."""
    table = []
    for level, results in sorted(levels.items()):
        pair = results[title], results[BASIC]
        cells = [spread_text([100 * r["overall"]["accuracy"] for r in own])
                 for own in reversed(pair)]  # fmt: skip
        gains = [*_gains(*pair, "accuracy")]
        gains += [_difference([_means(own, "accuracy", chosen) for own in pair])
                  for chosen in groups.values()]  # fmt: skip
        table.append([f"{100 * level:g} %", *cells, *gains, _gains(*pair, "balanced")[0]])
    heads = ["wrong labels", f"{BASIC}, mean accuracy %", f"{title}, mean accuracy %"]
    heads += [f"{title} minus basic, mean [95 %]", "worst task", *groups, "balanced, mean"]
    noisy = ", ".join(groups["noisy tasks"])
    about = f"Share of wrong training and validation labels of {noisy}; {title} minus {BASIC} "
    return f"{about}seed by seed:\n\n" + tabulate(
        table, heads, tablefmt="github", disable_numparse=True
    )


def _gains(ours: Sequence[dict], other: Sequence[dict], measure: str) -> tuple[str, str]:
    """Return the gain over another method as text: mean over tasks, and worst task."""
    pair = ours, other
    mean = _difference([[r["overall"][measure] for r in own] for own in pair])
    return mean, _difference([[lowest(r, measure) for r in own] for own in pair])


def _means(results: Sequence[dict], measure: str, names: Sequence[str]) -> list[float]:
    """Return the mean over some tasks of each seed."""
    return [
        float(np.mean([row[measure] for row in r["attributes"] if row["name"] in names]))
        for r in results
    ]


def _difference(pair: Sequence[Sequence[float]]) -> str:
    """Return paired differences in percentage points as text."""
    return difference_text([100 * d for d in paired_differences(*pair)], 1, spread=True)
