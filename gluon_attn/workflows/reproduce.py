"""The table of controlled experiments: every method against its baseline, over seeds.

Each experiment keeps its runs in a folder of its own and continues what is unfinished there. What
an experiment ends with is written into a page: its tables and figures between two marks, and one
summary of all, in which the paper's own numbers have columns of their own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import Any, Callable, NamedTuple

from tabulate import tabulate

from gluon_attn.files import write_json, write_text
from gluon_attn.metrics.layout import mean_and_spread, mean_interval
from gluon_attn.registry import unknown_name

SEEDS = (0, 1, 2, 3, 4)
QUICK_SEEDS = (0, 1)
NOT_KNOWN = "not known to us"


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


class Experiment(NamedTuple):
    """One row of the table.

    Attributes:
        paper: Short name of the paper.
        data: Our data and network.
        score: What is compared, with its unit.
        arms: Titles of the baseline and of the method, of the summary.
        published: :class:`Published`.
        run: Function ``(Request) -> Outcome``.
    """

    paper: str
    data: str
    score: str
    arms: tuple
    published: Published
    run: Callable[..., Any]


class Request(NamedTuple):
    """What an experiment is asked to do.

    Attributes:
        out: Its folder.
        seeds: Integers.
        workers: Threads that load, processes that draw.
        quick: Whether a few small epochs are enough, to see that everything runs.
        recipes: Folder of the recipes.
        say: Called with lines for the reader.
    """

    out: str
    seeds: tuple
    workers: int
    quick: bool
    recipes: str
    say: Callable[[str], Any]


class Outcome(NamedTuple):
    """What an experiment ended with.

    Attributes:
        scores: ``{arm: [score of each seed]}``.
        text: Its tables as Markdown.
        figures: ``{caption: path of a PNG}``.
    """

    scores: dict
    text: str
    figures: dict


def reproduce(table, names, request, page=None):
    """Run experiments one after another; write summary and, if asked, a page.

    Args:
        table: ``{name: Experiment}``, all there are.
        names: Those to run; each gets the folder ``out/<name>``.
        request: :class:`Request`.
        page: Markdown file in which the blocks of these experiments are replaced, or None.

    Returns:
        The summary of what has been run, as Markdown. ``out/summary.json`` keeps the scores, with
        those of earlier calls.

    Raises:
        ValueError: An unknown name; ``page`` with ``quick``: such numbers say nothing.
    """
    for name in names:
        if name not in table:
            raise ValueError(unknown_name("experiment", name, table))
    if page and request.quick:
        raise ValueError("a quick run only shows that everything runs; leave out --page")
    record = os.path.join(request.out, "summary.json")
    found = {}
    for name in names:
        request.say(f"--- {name}: {table[name].paper}, {table[name].data}")
        outcome = table[name].run(request._replace(out=os.path.join(request.out, name)))
        found[name] = {"seeds": list(request.seeds), "scores": outcome.scores}
        _add_scores(record, {name: found[name]})
        if page:
            _publish(page, name, outcome)
    text = summary(table, read_scores(record))
    write_text(os.path.join(request.out, "summary.md"), text)
    if page:
        kept = os.path.join(os.path.dirname(page), "results.json")
        replace_block(page, "summary", summary(table, _add_scores(kept, found)))
    return text


def read_scores(path):
    """Return ``{experiment: {'seeds', 'scores'}}`` of a file, empty if it is not there."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _add_scores(path, found):
    """Add scores to what a file holds now, other calls' among it; return all of them."""
    known = {**read_scores(path), **found}
    write_json(path, known)
    return known


def summary(table, found):
    """Return the table of all experiments, ours and the papers' numbers in separate columns.

    Args:
        table: ``{name: Experiment}``.
        found: ``{name: {'seeds', 'scores'}}``; those that are missing are shown as not run.
    """
    rows = []
    for name, experiment in table.items():
        printed = experiment.published
        rows.append([
            f"`{name}`", experiment.paper, experiment.data, experiment.score,
            *_ours(experiment, found.get(name)), printed.data, printed.baseline, printed.method,
        ])  # fmt: skip
    heads = ["experiment", "method", "**our** data and net", "score", "ours: baseline",
             "ours: method", "ours: difference [95 %]", "**paper's** data and net",
             "paper: baseline", "paper: method"]  # fmt: skip
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True) + "\n"


def _ours(experiment, found):
    if not found:
        return ["not run"] * 3
    base, ours = (found["scores"][arm] for arm in experiment.arms)
    return [with_spread(base), with_spread(ours), difference(ours, base)]


def with_spread(values):
    """Return mean and standard deviation of scores in percent as text."""
    mean, spread = mean_and_spread(values)
    return f"{mean:.1f}" if spread is None else f"{mean:.1f} ± {spread:.1f}"


def difference(ours, base):
    """Return the mean difference, seed by seed, with its 95 % interval, as text."""
    pairs = [a - b for a, b in zip(ours, base)]
    ends = mean_interval(pairs)
    mean = sum(pairs) / len(pairs)
    return f"{mean:+.1f}" + ("" if ends is None else f" [{ends[0]:+.1f}, {ends[1]:+.1f}]")


def _publish(page, name, outcome):
    """Put an experiment's tables into the page and its figures beside it."""
    parts = [outcome.text.strip()]
    for number, (caption, path) in enumerate(outcome.figures.items()):
        file = f"results-{name}{f'-{number}' if number else ''}.png"
        os.makedirs(os.path.join(os.path.dirname(page), "images"), exist_ok=True)
        shutil.copyfile(path, os.path.join(os.path.dirname(page), "images", file))
        parts.append(f"![{caption}](images/{file})")
    replace_block(page, name, "\n\n".join(parts))


def replace_block(page, name, text):
    """Replace what stands between the marks of a block in a page; append a block it lacks.

    The marks are HTML comments, ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; everything else
    in the page stays as it is.
    """
    with open(page, encoding="utf-8") as file:
        content = file.read()
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    block = f"{begin}\n{text.strip()}\n{end}"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.S)
    if pattern.search(content):
        content = pattern.sub(lambda _: block, content)
    else:
        content = f"{content.rstrip()}\n\n## {name}\n\n{block}\n"
    write_text(page, content)
