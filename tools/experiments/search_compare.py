"""Searched genotypes against random ones and fixed operations, all trained in the same way."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from gluon_attn.core.files import or_nan, write_json, write_text
from gluon_attn.core.text import read_json
from gluon_attn.metrics.tables import (
    decimal,
    difference_text,
    paired_differences,
    percent,
    spread_text,
)
from gluon_attn.papers.autola import random_genotype
from gluon_attn.papers.autola.genotype import load_genotype
from gluon_attn.train.run import train_once
from gluon_attn.train.search import search
from tools.bench.benchmark import machine

SEARCHED, RANDOM = "searched", "random"
FIXED = {"HOG-SE": "hog_se", "HOG-CBAM": "hog_cbam", "published": "hoga", "SE": "se",
         "CBAM": "cbam", "none": None}  # fmt: skip


class Outcome(NamedTuple):
    """Result of :func:`compare`.

    Attributes:
        rows: ``{way: [{"seed", "genotype", "score", "seconds"}, …]}``.
        text: The tables as Markdown.
    """

    rows: dict
    text: str


def compare(make_search, make_training, data_dir, seeds, out, ways=None, workers=2, say=print):
    """Search and draw at random once per seed; train everything with the same recipe and budget.

    Seed s searches with seed s, draws its random genotype from s, and trains all ways with seed s,
    so differences are taken seed by seed. What an earlier call has finished is kept.

    Args:
        make_search: Function ``overrides -> Recipe`` of the search.
        make_training: Function ``overrides -> Recipe`` of the training; ``model_options.attention``
            is overridden.
        data_dir: The data of both.
        seeds: Integers.
        out: Folder of all runs and of ``results.md`` and ``.json``.
        ways: Names of ``FIXED`` to train beside searched and random; None: HOG-SE and HOG-CBAM.
        workers: Data-loading threads.
        say: Called with lines for the reader.

    Returns:
        An :class:`Outcome`.

    Raises:
        ValueError: An unknown way, or no seed.
    """
    ways = list(ways if ways is not None else ("HOG-SE", "HOG-CBAM"))
    unknown = [way for way in ways if way not in FIXED]
    if unknown or not seeds:
        raise ValueError(f"ways {unknown} and seeds {seeds}: valid ways are {', '.join(FIXED)}")
    rows = {way: [] for way in (SEARCHED, RANDOM, *ways)}
    for seed in seeds:
        for way in rows:
            attention, spent = _attention(way, seed, make_search, data_dir, out, workers)
            row = _train(attention, way, seed, make_training, data_dir, out, workers)
            row["seconds_of_search"] = spent
            rows[way].append(row)
            shown = f"{decimal(row['score'])} in {row['seconds']:.0f} s"
            say(f"{way}, seed {seed}: {shown}, {attention}")
    recipe = make_training([])
    text = describe(rows, recipe.score)
    write_text(os.path.join(out, "results.md"), text)
    record = {
        "seeds": list(seeds), "rows": rows, "training": recipe.to_dict(),
        "search": make_search([]).to_dict(), "machine": machine(),
    }  # fmt: skip
    write_json(os.path.join(out, "results.json"), record)
    return Outcome(rows, text)


def _attention(way, seed, make_search, data_dir, out, workers):
    """Return the slot's text of a way and the seconds that finding it took."""
    if way == RANDOM:
        return f"hoga:{random_genotype(seed)}", 0.0
    if way != SEARCHED:
        return FIXED[way], 0.0
    folder = os.path.join(out, f"search-{seed}")
    recipe = make_search([f"seed={seed}"])
    seconds = train_once(recipe, data_dir, folder, workers, result="genotype.json", run=search)
    return f"hoga:{load_genotype(os.path.join(folder, 'genotype.json'))}", seconds


def _train(attention, way, seed, make_training, data_dir, out, workers):
    """Train unless it has been done; return the row of the result."""
    folder = os.path.join(out, f"{way}-{seed}")
    recipe = make_training([f"seed={seed}"])
    options = dict(recipe.model_options, attention=attention)
    recipe = type(recipe).from_dict(dict(recipe.to_dict(), model_options=options))
    seconds = train_once(recipe, data_dir, folder, workers)
    overall = read_json(os.path.join(folder, "test.json"))["overall"]
    score = or_nan(overall.get(recipe.score, overall.get("top1")))
    return {"seed": seed, "genotype": attention, "score": score, "seconds": seconds}


def describe(rows, score):
    """Return table, differences to random genotypes and the genotypes themselves as Markdown."""
    from tabulate import tabulate

    chance = [100 * row["score"] for row in rows[RANDOM]]
    table = []
    for way, found in rows.items():
        scores = [100 * row["score"] for row in found]
        spent = [np.mean([row[key] for row in found]) for key in ("seconds_of_search", "seconds")]
        gain = "" if way == RANDOM else difference_text(paired_differences(scores, chance))
        table.append([way, spread_text(scores), gain, *(f"{s:.0f}" for s in spent)])
    heads = ["attention", f"{score}, % (test)", "minus random, seed by seed [95 %]", "search, s",
             "training, s"]  # fmt: skip
    mean = sum(chance) / len(chance)
    wins = sum(100 * row["score"] > mean for row in rows[SEARCHED])
    listed = [
        [way, row["seed"], percent(row["score"]), f"`{row['genotype'].split(':')[-1]}`"]
        for way in (SEARCHED, RANDOM) for row in rows[way]
    ]  # fmt: skip
    lines = [
        f"Mean ± standard deviation over {len(chance)} seed(s).",
        tabulate(table, heads, tablefmt="github", disable_numparse=True),
        f"{wins} of {len(rows[SEARCHED])} searched genotypes are above the mean of the random ones "
        f"({decimal(mean, 1)} %).",
        tabulate(listed, ["", "seed", f"{score}, %", "genotype"], tablefmt="github",
                 disable_numparse=True),
    ]  # fmt: skip
    return "\n\n".join(lines) + "\n"
