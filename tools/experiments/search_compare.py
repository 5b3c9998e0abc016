"""Searched genotypes against random ones and fixed operations, all trained in the same way."""

from __future__ import annotations

import os
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import numpy as np
from tabulate import tabulate

from gluon_attn.core.files import or_nan
from gluon_attn.core.text import read_json
from gluon_attn.metrics.tables import (
    decimal,
    difference_text,
    paired_differences,
    percent,
    spread_text,
)
from gluon_attn.nets.count import count
from gluon_attn.papers.autola import random_genotype
from gluon_attn.papers.autola.genotype import OPERATIONS, load_genotype
from gluon_attn.train import read_json_lines
from gluon_attn.train.build import build_net
from gluon_attn.train.run import train_once
from gluon_attn.train.search import search
from tools.experiments.runner import Make, Rows, Say, run_arms, slug

SEARCHED, RANDOM, NONE, PUBLISHED = "searched", "random", "none", "published"
FIXED = {
    "HOG-SE": "hog_se",
    "HOG-CBAM": "hog_cbam",
    PUBLISHED: "hoga",
    "SE": "se",
    "CBAM": "cbam",
    NONE: None,
}


class Outcome(NamedTuple):
    """Result of :func:`compare`.

    Attributes:
        rows: ``{way: [{"seed", "genotype", "score", "parameters", "multiply_adds", "seconds",
            "seconds_of_search"}, …]}``.
        text: The tables as Markdown.
    """

    rows: Rows
    text: str


def compare(
    make_search: Make,
    make_training: Make,
    data_dir: str,
    seeds: Sequence[int],
    *,
    out: str,
    ways: Sequence[str] | None = None,
    settings: Mapping[str, Sequence[str]] | None = None,
    workers: int = 2,
    say: Say = print,
) -> Outcome:
    """Search and draw at random once per seed; train everything with the same recipe and budget.

    Seed s searches with seed s, takes its random genotype from s, and trains all ways with seed s,
    so differences are taken seed by seed. What an earlier call has finished is kept.

    Args:
        make_search: Of the search.
        make_training: Of the training; ``model_options.attention`` is overridden.
        out: Folder of all runs and of ``results.md`` and ``.json``.
        ways: Names of ``FIXED`` to train beside searched and random; None: HOG-SE and HOG-CBAM.
        settings: ``{way: overrides of its training}``; a way that is none of ``FIXED`` is the net
            without attention under these.

    Raises:
        ValueError: An unknown way, or no seed.
    """
    ways, settings = list(("HOG-SE", "HOG-CBAM") if ways is None else ways), settings or {}
    unknown = [way for way in ways if way not in FIXED and way not in settings]
    if unknown or not seeds:
        raise ValueError(f"ways {unknown} and seeds {seeds}: valid ways are {', '.join(FIXED)}")

    def attention(way: str, seed: int) -> tuple[Any, float]:
        """Return the slot's text of a way and the seconds that finding it took."""
        if way == RANDOM:
            return f"hoga:{random_genotype(seed)}", 0.0
        if way != SEARCHED:
            return FIXED.get(way), 0.0
        folder, recipe = os.path.join(out, f"search-{seed}"), make_search([f"seed={seed}"])
        spent = train_once(recipe, data_dir, folder, workers, result="genotype.json", run=search)
        return f"hoga:{load_genotype(os.path.join(folder, 'genotype.json'))}", spent

    def arm(way: str) -> Callable[[int], dict]:
        def run(seed: int) -> dict:
            slot, spent = attention(way, seed)
            folder = os.path.join(out, f"{slug(way)}-{seed}")
            recipe = make_training([*settings.get(way, ()), f"seed={seed}"])
            options = dict(recipe.model_options, attention=slot)
            recipe = type(recipe).from_dict(dict(recipe.to_dict(), model_options=options))
            seconds = train_once(recipe, data_dir, folder, workers)
            overall = read_json(os.path.join(folder, "test.json"))["overall"]
            score = or_nan(overall.get(recipe.score, overall.get("top1")))
            row = {"seed": seed, "genotype": slot, "score": score, "seconds": seconds}
            if way == SEARCHED:
                row["entropy"] = _entropy(os.path.join(out, f"search-{seed}"))
            return dict(row, seconds_of_search=spent, **_size(recipe, folder))

        return run

    recipe = make_training([])
    rows, text = run_arms(
        {way: arm(way) for way in (SEARCHED, RANDOM, *ways)},
        seeds,
        out,
        line=lambda row: f"{decimal(row['score'])} in {row['seconds']:.0f} s, {row['genotype']}",
        describe=lambda rows: describe(rows, recipe.score),
        record=lambda rows: {
            "rows": rows,
            "training": recipe.to_dict(),
            "settings": {way: list(own) for way, own in settings.items()},
            "search": make_search([]).to_dict(),
        },
        say=say,
    )
    return Outcome(rows, text)


def _size(recipe: Any, folder: str) -> dict[str, int]:
    classes = read_json(os.path.join(folder, "recipe.json"))["classes"]
    size = count(build_net(recipe, len(classes)), (recipe.input_size,) * 2)
    return {"parameters": size.parameters, "multiply_adds": size.multiply_adds}


def _entropy(folder: str) -> float:
    """Return the mean entropy of the edges when a search ended, in nats."""
    last = read_json_lines(os.path.join(folder, "log.jsonl"))[-1]
    return float(np.mean([or_nan(value) for value in last["edge_entropy"].values()]))


def describe(rows: Rows, score: str) -> str:
    """Return table, differences to random genotypes and to none, and the genotypes, as Markdown.

    The published genotype is also compared with every control that is none of ``FIXED``.
    """
    scores = {way: [100 * row["score"] for row in found] for way, found in rows.items()}
    chance, table = scores[RANDOM], []
    others = [way for way in (RANDOM, NONE) if way in rows]
    for way, found in rows.items():
        keys = ("parameters", "multiply_adds", "seconds_of_search", "seconds")
        means = [np.mean([row[key] for row in found]) for key in keys]
        gains = [
            "" if way == other else difference_text(paired_differences(scores[way], scores[other]))
            for other in others
        ]
        cells = [f"{means[0] / 1e3:.1f} k", f"{means[1] / 1e6:.1f} M"]
        cells += [f"{seconds:.0f}" for seconds in means[2:]]
        table.append([way, spread_text(scores[way]), *gains, *cells])
    heads = ["attention", f"{score}, % (test)"]
    heads += [f"minus {other}, seed by seed [95 %]" for other in others]
    heads += ["parameters", "multiply-adds", "search, s", "training, s"]
    mean = sum(chance) / len(chance)
    wins = sum(100 * row["score"] > mean for row in rows[SEARCHED])
    listed = [
        [way, row["seed"], percent(row["score"]), f"`{row['genotype'].split(':')[-1]}`"]
        for way in (SEARCHED, RANDOM)
        for row in rows[way]
    ]
    style = {"tablefmt": "github", "disable_numparse": True}
    controls = [way for way in rows if way not in FIXED and way not in (SEARCHED, RANDOM)]
    ours = scores.get(PUBLISHED)
    beside = [
        f"{PUBLISHED} minus {way}: {difference_text(paired_differences(ours, scores[way]))}"
        for way in (controls if ours else ())
    ]
    entropy = np.mean([row["entropy"] for row in rows[SEARCHED]])
    lines = [
        f"Mean ± standard deviation over {len(chance)} seed(s).",
        tabulate(table, heads, **style),
        f"{wins} of {len(rows[SEARCHED])} searched genotypes are above the mean of the random ones "
        f"({decimal(mean, 1)} %). Entropy of the shares of an edge when the searches ended, mean: "
        f"{entropy:.2f} nats; ln {len(OPERATIONS)} = {np.log(len(OPERATIONS)):.2f} before.",
        *([f"Seed by seed [95 %], {'; '.join(beside)}."] if beside else []),
        tabulate(listed, ["", "seed", f"{score}, %", "genotype"], **style),
    ]
    return "\n\n".join(lines) + "\n"
