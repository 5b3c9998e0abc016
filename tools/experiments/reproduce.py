"""The table of controlled experiments: every method against its baseline, over seeds.

Each experiment keeps its runs in a folder of its own and continues what is unfinished there. What
an experiment ends with is written into a page: its tables and figures between two marks, and one
summary of all, in which the paper's own numbers have columns of their own.
"""

from __future__ import annotations

import os
import shutil
from typing import Dict, Sequence

from tabulate import tabulate

from gluon_attn.core.files import write_text
from gluon_attn.core.registry import unknown_name
from gluon_attn.figures.bars import differences
from gluon_attn.metrics.tables import (
    difference_text,
    mean_interval,
    paired_differences,
    spread_text,
)
from gluon_attn.train.run import check_seeds
from tools.experiments.photographs import NAMES
from tools.experiments.results_page import add_scores, alone_with, read_scores, replace_block
from tools.experiments.runner import Experiment, Outcome, Request

SEEDS = (0, 1, 2, 3, 4)
QUICK_SEEDS = (0, 1)
QUICK_FOLDER = "quick"  # a quick run must never be taken for a finished one


Table = Dict[str, Experiment]  # all there are, by name


def reproduce(table: Table, names: Sequence[str], request: Request, page: str | None = None) -> str:
    """Run experiments one after another; write summary and, if asked, a page.

    Args:
        names: Those to run; each gets the folder ``out/<name>``, in a quick run
            ``out/quick/<name>``.
        page: Markdown file in which the blocks of these experiments are replaced, or None. The
            scores behind it are kept beside it, in ``results.json``.

    Returns:
        The summary of what has been run, as Markdown. ``summary.json`` beside the experiments'
        folders keeps the scores, with those of earlier calls.

    Raises:
        ValueError: An unknown name; a seed twice; ``page`` with ``quick``, as such numbers say
            nothing, or with fewer seeds than it has; a damaged file of scores.
        FileNotFoundError: No such page.
        FileExistsError: A folder holds a finished run of other settings or data.
    """
    for name in names:
        if name not in table:
            raise ValueError(unknown_name("experiment", name, table))
    check_seeds(request.seeds)
    if request.quick:
        request = request._replace(out=os.path.join(request.out, QUICK_FOLDER))
    record = os.path.join(request.out, "summary.json")
    _summary_of(table, record)  # whatever is wrong is said before hours are spent
    if page:
        _check_page(page, names, request)
        _summary_of(table, _kept(page))
    found = {}
    for name in names:
        request.say(f"--- {name}: {table[name].paper}, {table[name].data}")
        outcome = table[name].run(request._replace(out=os.path.join(request.out, name)))
        found[name] = {"seeds": list(request.seeds), "scores": outcome.scores}
        add_scores(record, {name: found[name]})
        if page:
            _publish(page, name, outcome)
    with alone_with(record):  # another call may have ended meanwhile
        text = _summary_of(table, record)
        write_text(os.path.join(request.out, "summary.md"), text)
    if page:
        add_scores(_kept(page), found)
        renew(table, names, page)
    return text


def renew(table: Table, names: Sequence[str], page: str) -> None:
    """Write the summary of what ``names`` are: photographs, with a figure, or synthetic data."""
    photographs = {name: each for name, each in table.items() if name in NAMES}
    synthetic = {name: each for name, each in table.items() if name not in NAMES}
    if photographs.keys() & set(names):
        replace_block(
            page,
            "summary",
            lambda: _summary_of(photographs, _kept(page)) + _figure(photographs, page),
        )
    if synthetic.keys() & set(names):
        replace_block(page, "summary synthetic", lambda: _summary_of(synthetic, _kept(page)))


def _figure(table: Table, page: str) -> str:
    """Draw the differences of all experiments with two seeds or more; return its Markdown."""
    scores, rows = read_scores(_kept(page)), {}
    for name, experiment in table.items():
        if len(scores.get(name, {}).get("seeds", ())) > 1:
            base, ours = (scores[name]["scores"][arm] for arm in experiment.arms)
            found = paired_differences(ours, base)
            score = experiment.score.replace("test ", "").replace(" %", "")
            rows[f"{experiment.paper}, {score}: {name}"] = found, mean_interval(found)
    if not rows:
        return ""
    file = "images/results-photographs.png"
    path = os.path.join(os.path.dirname(page), file)
    differences(rows, "method minus baseline, percentage points", path)
    return f"\n![Method minus baseline on photographs, every seed]({file})\n"


def _summary_of(table: Table, path: str) -> str:
    """Return the summary of the scores in a file."""
    try:
        return summary(table, read_scores(path))
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]}; remove that entry") from error


def _kept(page: str) -> str:
    return os.path.join(os.path.dirname(page), "results.json")


def _check_page(page: str, names: Sequence[str], request: Request) -> None:
    """Refuse to write into a page what does not belong there."""
    if request.quick:
        raise ValueError("a quick run only shows that everything runs; leave out --page")
    if not os.path.isfile(page):
        raise FileNotFoundError(f"{page}: --page wants a Markdown file that is there")
    for name, known in read_scores(_kept(page)).items():
        if name in names and len(known["seeds"]) > len(request.seeds):
            raise ValueError(
                f"{page} has '{name}' over {len(known['seeds'])} seeds, which "
                f"{len(request.seeds)} must not replace; add --seeds, leave out --page, or remove "
                f"the entry from {_kept(page)}"
            )


def summary(table: Table, found: dict[str, dict]) -> str:
    """Return the table of all experiments; a paper's numbers stand in a column of their own.

    ``found`` is ``{name: {'seeds', 'scores'}}``; those that are missing are shown as not run.

    Raises:
        KeyError: Scores of other arms than an experiment's.
    """
    rows = []
    for name, experiment in table.items():
        own = _ours(name, experiment, found.get(name))
        what = f"`{name}`", experiment.data, experiment.score
        rows.append([*what, *own, experiment.published.text()])
    heads = ["experiment", "**our** data and net", "score", "seeds"]
    heads += ["baseline", "method", "difference [95 %]", "**paper's** data, net and numbers"]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True) + "\n"


def _ours(name: str, experiment: Experiment, found: dict | None) -> list[str]:
    if not found:
        return ["-", *["not run"] * 3]
    if not set(experiment.arms) <= set(found["scores"]):
        wanted, there = (", ".join(arms) for arms in (experiment.arms, found["scores"]))
        raise KeyError(f"the scores of '{name}' are those of {there}, not of {wanted}")
    base, ours = (found["scores"][arm] for arm in experiment.arms)
    gain = difference_text(paired_differences(ours, base))
    return [str(len(base)), spread_text(base), spread_text(ours), gain]


def _publish(page: str, name: str, outcome: Outcome) -> None:
    """Put an experiment's tables into the page and its figures beside it."""
    parts = [outcome.text.strip()]
    for number, (caption, path) in enumerate(outcome.figures.items()):
        file = f"results-{name}{f'-{number}' if number else ''}.png"
        os.makedirs(os.path.join(os.path.dirname(page), "images"), exist_ok=True)
        shutil.copyfile(path, os.path.join(os.path.dirname(page), "images", file))
        parts.append(f"![{caption}](images/{file})")
    replace_block(page, name, "\n\n".join(parts))
