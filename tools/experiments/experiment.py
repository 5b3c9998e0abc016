"""A controlled experiment: several recipes, several seeds, the same data, one table."""

from __future__ import annotations

import os
from typing import NamedTuple

from gluon_attn.core.files import write_json, write_text
from gluon_attn.core.text import json_of, read_text
from gluon_attn.metrics.reports import MULTILABEL, compare
from gluon_attn.metrics.tables import (
    decimal,
    difference_text,
    notes_text,
    paired_differences,
    side_by_side,
    table_text,
    with_nan,
)
from gluon_attn.train.run import check_seeds, train_once
from tools.bench.benchmark import machine


class Comparison(NamedTuple):
    """Outcome of :func:`run_experiment`.

    Attributes:
        results: ``{title: [test result of each seed]}``.
        scores: ``{title: [percent of each seed]}`` of the measure ``score``.
        score: The recipes' own score where the test result has it, else ``top1`` or ``mAP``;
            ``accuracy`` of attributes is the mean over them.
        table: The comparison as Markdown: mean and standard deviation (n - 1) over seeds, and
            differences to the first recipe, seed by seed, with Student's 95 % interval.
    """

    results: dict
    scores: dict
    score: str
    table: str


def run_experiment(recipes, seeds, data_dir, out, workers=2, say=print):
    """Train every recipe with every seed, continuing what an earlier call left unfinished.

    Each run chooses its epoch on the validation split and touches the test split once. Seeds vary
    initialisation, order and augmentation; the data stay the same.

    Args:
        recipes: ``{title: function seed -> Recipe}``; the first is what others are compared with.
        seeds: Integers.
        data_dir: The data set, multi-label or single-label.
        out: Folder; run ``title`` with seed ``s`` goes to ``out/title-s``.
        workers: Data-loading threads.
        say: Called with lines for the reader.

    Returns:
        A :class:`Comparison`; ``out/results.md`` and ``out/results.json`` hold the same.

    Raises:
        ValueError: A seed twice, or recipes with different scores.
        FileExistsError: ``out`` holds a finished run of other settings or data.
    """
    check_seeds(seeds)
    wanted = {make(seeds[0]).score for make in recipes.values()}
    if len(wanted) > 1:
        raise ValueError(f"the recipes have different scores: {', '.join(sorted(wanted))}")
    results = {title: [] for title in recipes}
    seconds = {title: [] for title in recipes}
    for seed in seeds:
        for title, make in recipes.items():
            folder = os.path.join(out, f"{title}-{seed}")
            seconds[title].append(train_once(make(seed), data_dir, folder, workers))
            results[title].append(_read_result(os.path.join(folder, "test.json")))
            score = _score_key(results[title][-1], *wanted)
            shown = decimal(results[title][-1]["overall"][score])
            say(f"{title}, seed {seed}: test {score} {shown} "
                f"after {seconds[title][-1]:.0f} s of training")  # fmt: skip
    scores = {t: [100 * r["overall"][score] for r in rs] for t, rs in results.items()}
    table = _describe(results, scores, score)
    write_text(os.path.join(out, "results.md"), table)
    record = {"seeds": list(seeds), "seconds": seconds, "machine": machine(), score: scores}
    write_json(os.path.join(out, "results.json"), record)
    return Comparison(results, scores, score, table)


def _read_result(path):
    text = read_text(path)
    result = json_of(text, path)
    if "attributes" in result:
        return MULTILABEL.from_json(text)
    return dict(result, overall=with_nan(result["overall"], result["overall"]))


def _score_key(result, wanted):
    return next(key for key in (wanted, "top1", "mAP") if key in result["overall"])


def _describe(results, scores, score):
    """Return the table of all measures and the differences of the score to the first recipe."""
    first = next(iter(results))
    if "attributes" in results[first][0]:
        table = compare(results, style="markdown")
    else:
        numbers = [k for k, v in results[first][0]["overall"].items() if isinstance(v, float)]
        rows = [[k, *side_by_side([[r["overall"][k] for r in rs] for rs in results.values()])]
                for k in numbers]  # fmt: skip
        heads = ["%", *results, *(["difference"] if len(results) == 2 else [])]
        table = table_text(rows, heads, "markdown") + "\n"
    lines = [
        f"{score}, {title} minus {first}, seed by seed [95 %]: "
        + difference_text(paired_differences(own, scores[first]), 1, spread=True)
        for title, own in scores.items() if title != first
    ]  # fmt: skip
    return f"{table.rstrip()}\n{notes_text(lines, 'markdown')}\n" if lines else table
