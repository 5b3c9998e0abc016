"""A controlled experiment: several recipes, several seeds, the same data, one table."""

from __future__ import annotations

import os
from typing import NamedTuple

from gluon_attn.engine import read_json_lines
from gluon_attn.files import write_json, write_text
from gluon_attn.metrics.report import compare, from_json
from gluon_attn.workflows.benchmark import machine
from gluon_attn.workflows.train import Settings, train


class Experiment(NamedTuple):
    """Outcome of :func:`run_experiment`.

    Attributes:
        results: ``{title: [test result of each seed]}``.
        seconds: ``{title: [training seconds of each seed]}``.
        table: The comparison as Markdown: mean and standard deviation (n - 1) over seeds.
    """

    results: dict
    seconds: dict
    table: str


def run_experiment(recipes, seeds, data_dir, out, workers=2, say=print):
    """Train every recipe with every seed, continuing what an earlier call left unfinished.

    Each run chooses its epoch on the validation split and touches the test split once. Seeds vary
    initialisation, order and augmentation; the data stay the same.

    Args:
        recipes: ``{title: function seed -> Recipe}``.
        seeds: Integers.
        data_dir: The data set.
        out: Folder; run ``title`` with seed ``s`` goes to ``out/title-s``.
        workers: Data-loading threads.
        say: Called with lines for the reader.
    """
    results = {title: [] for title in recipes}
    seconds = {title: [] for title in recipes}
    for seed in seeds:
        for title, make in recipes.items():
            folder = os.path.join(out, f"{title}-{seed}")
            settings = Settings(
                data_dir, folder, resume=True, workers=workers, cache=True, console=False
            )
            if not os.path.exists(os.path.join(folder, "test.json")):
                train(make(seed), settings)
            with open(os.path.join(folder, "test.json"), encoding="utf-8") as file:
                results[title].append(from_json(file.read()))
            log = read_json_lines(os.path.join(folder, "log.jsonl"))
            seconds[title].append(sum(record["seconds"] for record in log))
            say(
                f"{title}, seed {seed}: test mAP {results[title][-1]['overall']['mAP']:.4f}, "
                f"{len(log)} epochs in {seconds[title][-1]:.0f} s"
            )
    table = compare(results, style="markdown")
    write_text(os.path.join(out, "results.md"), table)
    record = {"seeds": list(seeds), "seconds": seconds, "machine": machine()}
    record["mAP"] = {t: [r["overall"]["mAP"] for r in rs] for t, rs in results.items()}
    write_json(os.path.join(out, "results.json"), record)
    return Experiment(results, seconds, table)
