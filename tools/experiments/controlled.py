"""Controlled experiments on drawn data: a method, its variants and its baseline, over seeds.

Net, data, schedule and budget of epochs are the same for all arms of an experiment; an arm is the
experiment's recipe with a few settings changed. Every run chooses its epoch on the validation split
(or takes the last one, where the preset says so) and looks at the test split once. What an
interrupted call left unfinished is continued.
"""

from __future__ import annotations

import functools
import os

import numpy as np
from tabulate import tabulate

from gluon_attn.core.files import or_nan, write_json, write_text
from gluon_attn.core.text import read_json
from gluon_attn.metrics.tables import decimal, difference_text, paired_differences, spread_text
from gluon_attn.train.run import train_once
from tools.bench.benchmark import machine
from tools.experiments.controlled_data import make_data
from tools.experiments.controlled_measures import MEASURES, Run
from tools.experiments.controlled_presets import BASELINE


def run_preset(preset, make_recipe, seeds, out, workers=2, images=None, say=print):
    """Run all arms of an experiment with every seed.

    Args:
        preset: A :class:`Preset`.
        make_recipe: Function ``overrides -> Recipe`` of the preset's recipe.
        seeds: Integers: initialisation, order and augmentation. The data stay the same.
        out: Folder; runs go to ``out/<arm>-<seed>``.
        workers: Threads that load, processes that draw.
        images: Scenes per split, for trying things out.
        say: Called with lines for the reader.

    Returns:
        ``(text, rows)``: the tables as Markdown, and ``{arm: [{'score' | measure: {name: number
        or list by epoch}} of each seed]}``. Both are also in ``out/results.md`` and ``.json``.
    """
    data = make_data(preset.data, os.path.join(out, "data"), images, workers)
    rows = {arm: [] for arm in preset.arms}
    for seed in seeds:
        for arm, changes in preset.arms.items():
            recipe = make_recipe([*changes, f"seed={seed}"])
            folder = os.path.join(out, f"{_slug(arm)}-{seed}")
            rows[arm].append(_run(preset, recipe, data, folder, workers))
            shown = ", ".join(f"{k} {decimal(v)}" for k, v in rows[arm][-1]["score"].items())
            say(f"{arm}, seed {seed}: {shown}")
    text = describe(preset, rows)
    write_text(os.path.join(out, "results.md"), text)
    record = {
        "seeds": list(seeds), "rows": rows, "recipe": make_recipe([]).to_dict(),
        "arms": preset.arms, "machine": machine(),
    }  # fmt: skip
    write_json(os.path.join(out, "results.json"), record)
    return text, rows


def describe(preset, rows):
    """Return the tables of an experiment: means, and differences to the baseline by seed.

    Args:
        preset: A :class:`Preset`.
        rows: ``{arm: [{'score' | measure: {name: number or list}} of each seed]}``.
    """
    seeds = len(rows[BASELINE])
    parts = [f"Test split, mean ± standard deviation over {seeds} seed(s):"]
    parts += [_table(rows, group) for group in ("score", *preset.measures)]
    parts.append("Difference to the baseline, seed by seed, with Student's 95 % interval:")
    parts += [_table(rows, group, BASELINE) for group in ("score", *preset.measures)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(rows, group, minus=None):
    """Return a table of one group of numbers, or of their differences to an arm; '' if empty."""
    names = [n for found in rows.values() for row in found
             for n, value in row.get(group, {}).items() if not isinstance(value, list)]  # fmt: skip
    names = list(dict.fromkeys(names))
    if minus is not None:
        given = rows[minus][0].get(group, {})
        names = [n for n in names if n in given and n != "seconds"]
    if not names:
        return ""
    values = {arm: [row.get(group, {}) for row in found] for arm, found in rows.items()}
    base = None if minus is None else values.pop(minus)
    columns = []
    for n in names:
        lists = [[or_nan(v[n]) for v in own if n in v] for own in values.values()]
        if base is not None:
            lists = [paired_differences(own, [or_nan(v[n]) for v in base]) for own in lists]
        columns.append(_column(lists, minus))
    table = list(zip(values, *columns))
    return tabulate(table, ["arm", *names], tablefmt="github", disable_numparse=True)


def _run(preset, recipe, data, folder, workers):
    """Train and measure one arm with one seed, or read what was measured before."""
    path = os.path.join(folder, "controlled.json")
    seconds = train_once(recipe, data, folder, workers)
    if os.path.exists(path):
        found = read_json(path)
    else:
        score = read_json(os.path.join(folder, "test.json"))["overall"][preset.score]
        score = 100 * or_nan(score)
        found = {"score": {f"{preset.score} %": score, "seconds": seconds}}
    missing = [name for name in preset.measures if name not in found]
    if missing or not os.path.exists(path):
        run = Run(folder, recipe, data, workers)
        found.update({name: MEASURES[name](run) for name in missing})
        write_json(path, found)
    return found


def _column(lists, signed):
    """Return the cells of a column, all with as many decimals; each list has a value per seed."""
    lists = [[value for value in values if not np.isnan(value)] for values in lists]
    largest = max((abs(np.mean(values)) for values in lists if values), default=0.0)
    digits = 1 if largest >= 10 else 2 if largest >= 1 else 3
    cell = functools.partial(difference_text, spread=True) if signed else spread_text
    return [cell(values, digits) if values else "-" for values in lists]


def _slug(arm):
    return arm.replace(",", "").replace(" ", "-")
