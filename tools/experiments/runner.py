"""What an experiment is, and the one runner of all: arms, seeds, the same data, one table.

Each run chooses its epoch on the validation split (or takes the last one, where the preset says so)
and looks at the test split once. Seeds vary initialisation, order and augmentation; the data stay
the same. What an interrupted call left unfinished is continued.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

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
from tools.bench.turns import machine

NOT_KNOWN = "not known to us"
NO_DATA = "this experiment is on data of yours: --data-dir DIR"
Say = Callable[[str], Any]
Make = Callable[[Sequence[str]], Any]  # overrides -> Recipe
Scores = Dict[str, List[float]]  # {arm: score of each seed}
Rows = Dict[str, List[Dict[str, Any]]]  # {arm: what came out of each seed}


class Published(NamedTuple):
    """What a paper printed, of the comparison nearest to the experiment.

    Attributes:
        data: Its data and network.
        baseline: Its number without the method, text.
        method: With it, text.
    """

    data: str
    baseline: str = NOT_KNOWN
    method: str = NOT_KNOWN

    def text(self) -> str:
        """Return all of it as one cell of a table."""
        if self.method == "-":
            return self.data
        known = [number for number in (self.baseline, self.method) if number != NOT_KNOWN]
        return f"{self.data}: {' to '.join(known) or NOT_KNOWN}"


class Request(NamedTuple):
    """What an experiment is asked to do.

    Attributes:
        out: Its folder.
        seeds: Integers.
        workers: Threads that load, processes that make data.
        quick: Whether a few small epochs are enough, to see that everything runs.
        say: Called with lines for the reader.
        data_dir: Data of the user's, for the experiments on photographs.
    """

    out: str
    seeds: Sequence[int]
    workers: int
    quick: bool
    say: Say
    data_dir: str | None = None


class Outcome(NamedTuple):
    """What an experiment ended with.

    Attributes:
        scores: Of every arm and seed.
        text: Its tables as Markdown.
        figures: ``{caption: path of a PNG}``.
    """

    scores: Scores
    text: str
    figures: dict[str, str]


class Experiment(NamedTuple):
    """One row of the table of results.

    Attributes:
        paper: Short name of the paper.
        data: Our data and network.
        score: What is compared, with its unit.
        arms: Titles of the baseline and of the method, of the summary.
        published: What the paper has.
        run: What runs it.
    """

    paper: str
    data: str
    score: str
    arms: tuple[str, str]
    published: Published
    run: Callable[[Request], Outcome]


def slug(title: str) -> str:
    """Return the title of an arm as a part of the names of its folders."""
    return title.replace(",", "").replace("/", "-").replace(" ", "-")


def run_arms(
    arms: dict[str, Callable[[int], dict]],
    seeds: Sequence[int],
    out: str,
    *,
    line: Callable[[dict], str],
    describe: Callable[[Rows], str],
    record: Callable[[Rows], dict],
    say: Say,
) -> tuple[Rows, str]:
    """Run every arm with every seed, and write ``results.md`` and ``results.json`` into ``out``.

    Args:
        arms: ``{title: function seed -> row}``.
        line: What is said of a row.
        describe: The tables as Markdown.
        record: What ``results.json`` holds beside seeds and machine.

    Raises:
        ValueError: A seed twice.
        FileExistsError: ``out`` holds a finished run of other settings or data.
    """
    check_seeds(seeds)
    rows: Rows = {arm: [] for arm in arms}
    for seed in seeds:
        for arm, run in arms.items():
            rows[arm].append(run(seed))
            say(f"{arm}, seed {seed}: {line(rows[arm][-1])}")
    text = describe(rows)
    write_text(os.path.join(out, "results.md"), text)
    results = {"seeds": list(seeds), **record(rows), "machine": machine()}
    write_json(os.path.join(out, "results.json"), results)
    return rows, text


# --------------------------------------------------------------------------- recipes compared


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

    results: dict[str, list[dict]]
    scores: Scores
    score: str
    table: str


def run_experiment(
    recipes: dict[str, Callable[[int], Any]],
    seeds: Sequence[int],
    data_dir: str,
    out: str,
    *,
    workers: int = 2,
    say: Say = print,
) -> Comparison:
    """Train every recipe with every seed; see :func:`run_arms`.

    Args:
        recipes: ``{title: function seed -> Recipe}``; the first is what others are compared with.
        data_dir: The data set, multi-label or single-label.
        out: Folder; run ``title`` with seed ``s`` goes to ``out/title-s``.

    Raises:
        ValueError: A seed twice, or recipes with different scores.
    """
    check_seeds(seeds)
    wanted = {make(seeds[0]).score for make in recipes.values()}
    if len(wanted) > 1:
        raise ValueError(f"the recipes have different scores: {', '.join(sorted(wanted))}")

    def arm(title: str) -> Callable[[int], dict]:
        def run(seed: int) -> dict:
            folder = os.path.join(out, f"{title}-{seed}")
            seconds = train_once(recipes[title](seed), data_dir, folder, workers)
            result = _read_result(os.path.join(folder, "test.json"))
            score = next(k for k in (*wanted, "top1", "mAP") if k in result["overall"])
            return {"seconds": seconds, "result": result, "score": score}

        return run

    def line(row: dict) -> str:
        shown = decimal(row["result"]["overall"][row["score"]])
        return f"test {row['score']} {shown} after {row['seconds']:.0f} s of training"

    def of(rows: Rows) -> tuple[dict[str, list[dict]], Scores, str]:
        score = next(iter(rows.values()))[-1]["score"]
        results = {t: [row["result"] for row in found] for t, found in rows.items()}
        percents = {t: [100 * r["overall"][score] for r in rs] for t, rs in results.items()}
        return results, percents, score

    def record(rows: Rows) -> dict:
        _, scores, score = of(rows)
        seconds = {t: [row["seconds"] for row in found] for t, found in rows.items()}
        return {"seconds": seconds, score: scores}

    rows, table = run_arms(
        {title: arm(title) for title in recipes},
        seeds,
        out,
        line=line,
        describe=lambda rows: _describe(*of(rows)),
        record=record,
        say=say,
    )
    return Comparison(*of(rows), table=table)


def _read_result(path: str) -> dict:
    text = read_text(path)
    result = json_of(text, path)
    if "attributes" in result:
        return MULTILABEL.from_json(text)
    return dict(result, overall=with_nan(result["overall"], result["overall"]))


def _describe(results: dict[str, list[dict]], scores: Scores, score: str) -> str:
    """Return the table of all measures and the differences of the score to the first recipe."""
    first = next(iter(results))
    if "attributes" in results[first][0]:
        table = compare(results, style="markdown")
    else:
        numbers = [k for k, v in results[first][0]["overall"].items() if isinstance(v, float)]
        columns = results.values()
        rows = [
            [k, *side_by_side([[r["overall"][k] for r in c] for c in columns])] for k in numbers
        ]
        heads = ["%", *results, *(["difference"] if len(results) == 2 else [])]
        table = table_text(rows, heads, "markdown") + "\n"
    lines = [
        f"{score}, {title} minus {first}, seed by seed [95 %]: "
        + difference_text(paired_differences(own, scores[first]), 1, spread=True)
        for title, own in scores.items()
        if title != first
    ]
    return f"{table.rstrip()}\n{notes_text(lines, 'markdown')}\n" if lines else table
