"""Controlled experiments: a method, its variants and its baseline, over seeds.

Net, data, schedule and budget of epochs are the same for all arms of an experiment; an arm is the
experiment's recipe with a few settings changed. Where the experiment has learning rates to choose
from, each arm gets the one that validates best in a run of its own seed; the test split plays no
part in that. Beside its score, a finished run may be measured: a measure returns
``{name: number}``, or a list of numbers for what has a value per epoch; ``{}`` where the run has
nothing of the kind (a baseline has no critic).
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import numpy as np
from tabulate import tabulate

from gluon_attn import runtime
from gluon_attn.cli.analysis_features import Settings, batches, channel_statistics, read_critic
from gluon_attn.cli.analysis_maps import attention_overlap
from gluon_attn.cli.localisation import ANOTHER, localise, title_of
from gluon_attn.cli.maps import GUIDED
from gluon_attn.core.errors import DivergedError
from gluon_attn.core.files import or_nan, write_json
from gluon_attn.core.text import read_json
from gluon_attn.metrics.localisation import BASELINES, HEADINGS
from gluon_attn.metrics.multilabel import evaluate_multilabel
from gluon_attn.metrics.tables import (
    MEAN,
    decimal,
    difference_text,
    paired_differences,
    spread_text,
)
from gluon_attn.tasks.data import open_split
from gluon_attn.train import trained as load
from gluon_attn.train.run import train, train_once
from tools.experiments.data import make_data
from tools.experiments.probe import describe as describe_probe
from tools.experiments.probe import probe
from tools.experiments.runner import NO_DATA, Make, Rows, Say, run_arms, slug

BASELINE = "baseline"
TRIAL, TRIAL_SEED = "trial.json", 100
PERCENT = ("score", "attributes", "heads", "localisation")  # groups, with one decimal
WIDEST = 5  # numbers in a table; more are parted by their endings
MAP_TITLES = {"grad_cam": "Grad-CAM", "channel_weighted": "A_ch"}
OVERLAPS = {"L_AS": "separation", "common": "shared", "IoU": "iou", "high region": "high",
            "L_AC": "consistency"}  # fmt: skip


class Preset(NamedTuple):
    """One controlled experiment.

    Attributes:
        recipe: Name of the recipe.
        data: A kind of :func:`tools.experiments.data.make_data`, or '' for data of the user's.
        arms: ``{title: overrides}``, the baseline first.
        score: Test score that is compared.
        measures: Names of ``MEASURES``.
        also: Further test scores that are shown.
        shared: Overrides of all arms.
        rates: Learning rates that are tried for each arm; none: the recipe's.
        rate_of: ``{ablation: arm}``: whose rate it takes.
        probe: Whether a probe of the recipe's backbone is shown beside the arms; see
            :mod:`tools.experiments.probe`.
        start: Overrides of a net that is trained first, once a seed, and from whose weights the
            backbones of all arms go on; none: they start as the recipe says.
    """

    recipe: str
    data: str
    arms: dict[str, Sequence[str]]
    score: str
    measures: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    rates: tuple[str, ...] = ()
    rate_of: dict[str, str] = {}
    probe: bool = False
    start: tuple[str, ...] = ()


def run_preset(
    preset: Preset,
    make_recipe: Make,
    seeds: Sequence[int],
    out: str,
    *,
    data_dir: str | None = None,
    workers: int = 2,
    images: dict[str, int] | None = None,
    say: Say = print,
) -> tuple[str, Rows]:
    """Run all arms of an experiment with every seed; see :func:`tools.experiments.runner.run_arms`.

    Args:
        make_recipe: Of the preset's recipe.
        out: Folder; runs go to ``out/<arm>-<seed>``, trials to ``out/tune/<arm>-<rate>``.
        data_dir: Of a preset without data of its own.
        images: Scenes per split, for trying things out.

    Returns:
        ``(text, rows)``: the tables as Markdown, and ``{arm: [{'score' | measure: {name: number
        or list by epoch}} of each seed]}``.
    """
    if preset.data:
        data = make_data(preset.data, os.path.join(out, "data"), images, workers)
    elif data_dir:
        data = data_dir
    else:
        raise ValueError(NO_DATA)

    beside = ""
    if preset.probe:
        recipe = make_recipe([])
        found = probe(recipe, data, os.path.join(out, "probe.json"))
        beside = "\n" + describe_probe(found, recipe.backbone)
        say(beside.strip())
    run_of = functools.partial(run_at, out, make_recipe, data, workers)

    @functools.lru_cache(maxsize=None)
    def start(seed: int) -> str | None:
        """Train the net that a seed's runs go on from; return its weights."""
        if not preset.start:
            return None
        first = run_of(f"start-{seed}", *preset.start, f"seed={seed}")
        _trial(first)
        return os.path.join(first.folder, "best.params")

    def going_on(seed: int, name: str, *overrides: str) -> Run:
        return run_of(name, *overrides, f"seed={seed}")._replace(base_params=start(seed))

    arms, trials = tuned(preset, functools.partial(going_on, TRIAL_SEED), say)

    def arm(title: str) -> Callable[[int], dict]:
        def run(seed: int) -> dict:
            return _measured(preset, going_on(seed, f"{slug(title)}-{seed}", *arms[title]))

        return run

    rows, text = run_arms(
        {title: arm(title) for title in preset.arms},
        seeds,
        out,
        line=lambda row: ", ".join(f"{k} {decimal(v)}" for k, v in row["score"].items()),
        describe=lambda rows: describe(preset, rows, trials) + beside,
        record=lambda rows: {
            "rows": rows,
            "recipe": make_recipe([]).to_dict(),
            "arms": arms,
            "trials": trials,
        },
        say=say,
    )
    return text, rows


def run_at(out: str, make_recipe: Make, data: str, workers: int, name: str, *overrides: str) -> Run:
    """Return a run of an experiment, in the folder ``out/name``."""
    return Run(os.path.join(out, name), make_recipe(overrides), data, workers)


def trial_of(out: str, make_recipe: Make, data: str, workers: int) -> Callable[..., Run]:
    """Return the function of :func:`tuned` that gives the run of a folder's name and overrides."""
    return lambda name, *overrides: run_at(
        out, make_recipe, data, workers, name, *overrides, f"seed={TRIAL_SEED}"
    )


def tuned(
    preset: Preset, run_of: Callable[..., Run], say: Say
) -> tuple[dict[str, list[str]], dict[str, dict[str, float]]]:
    """Return all overrides of the arms, and ``{arm: {learning rate: validation score}}``.

    ``run_of`` gives the run of ``TRIAL_SEED`` of a folder's name and overrides. The lowest of the
    rates that score best is taken.
    """
    arms = {title: [*preset.shared, *changes] for title, changes in preset.arms.items()}
    trials: dict[str, dict[str, float]] = {}
    for title in arms if preset.rates else ():
        if title in preset.rate_of:
            continue
        trials[title] = {}
        for rate in preset.rates:
            name = os.path.join("tune", f"{slug(title)}-{rate}")
            run = run_of(name, *arms[title], f"lr={rate}")
            trials[title][rate] = _trial(run)
            say(f"{title}, lr={rate}: validation {preset.score} {trials[title][rate]:.4f}")
    for title, found in arms.items():
        scores = trials.get(preset.rate_of.get(title, title))
        if scores:
            found.append(f"lr={max(scores, key=lambda rate: (_known(scores[rate]), -float(rate)))}")
    return arms, trials


def _trial(run: Run) -> float:
    """Train without a look at the test split; return the validation score of the epoch kept.

    nan if the run diverged.
    """
    path = os.path.join(run.folder, TRIAL)

    def without_test(recipe: Any, settings: Any) -> None:
        score = math.nan
        with contextlib.suppress(DivergedError):
            score = train(recipe, settings._replace(test=False))["best"][recipe.score]
        write_json(path, {"score": score})

    run.train(result=TRIAL, run=without_test)
    return or_nan(read_json(path)["score"])


def _known(score: float) -> float:
    return -math.inf if math.isnan(score) else score


class Run(NamedTuple):
    """A run: its folder, recipe, data, data-loading threads, and weights of its backbone."""

    folder: str
    recipe: Any
    data: str
    workers: int
    base_params: str | None = None

    def train(self, **how: Any) -> float:
        """Train it unless it is finished; see :func:`gluon_attn.train.run.train_once`."""
        try:
            more = {"base_params": self.base_params, **how}
            return train_once(self.recipe, self.data, self.folder, self.workers, **more)
        except FileNotFoundError as error:
            if self.base_params is None or os.path.exists(self.base_params):
                raise
            folder = os.path.dirname(self.base_params)
            raise FileNotFoundError(
                f"{self.folder} goes on from weights that are missing: bring them back to "
                f"{self.base_params}, or remove {folder} to train them again"
            ) from error

    def open(self) -> tuple[Any, Any, Settings]:
        """Return the trained net, the test split and settings for an analysis."""
        ctx = runtime.contexts("cpu")
        settings = Settings(
            self.folder, "test", ctx[0], batch_size=self.recipe.batch_size, workers=self.workers
        )
        dataset = open_split(self.recipe, self.data, "test")
        return load.from_run(self.folder, ctx), dataset, settings


def _measured(preset: Preset, run: Run) -> dict:
    """Train and measure one arm with one seed, or read what was measured before."""
    path = os.path.join(run.folder, "controlled.json")
    seconds = run.train()
    if os.path.exists(path):
        found = read_json(path)
    else:
        overall = read_json(os.path.join(run.folder, "test.json"))["overall"]
        scores = {f"{k} %": 100 * or_nan(overall[k]) for k in (preset.score, *preset.also)}
        found = {"score": {**scores, "seconds": seconds}}
    missing = [name for name in preset.measures if name not in found]
    if missing or not os.path.exists(path):
        for name in missing:
            try:
                found[name] = MEASURES[name](run)
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"{error}. To measure {name} the run needs its weights: bring them back into "
                    f"{run.folder}, or remove that folder to train it again"
                ) from error
        write_json(path, found)
    return found


# ------------------------------------------------------------------------------------ measures


def overlap(run: Run) -> dict:
    """Return how much the maps of true and confusing class overlap (ICASC).

    Both kinds of map, whichever the run was trained with, at both feature layers.
    """
    found = attention_overlap(*run.open())
    return {
        f"{title} {name}, {layer}": found[kind][layer][key]["mean"]
        for kind, title in MAP_TITLES.items()
        for layer in ("last", "inner")
        for name, key in OVERLAPS.items()
        if key in found[kind][layer]
    }


def margin(run: Run) -> dict:
    """Return the Kolmogorov-Smirnov distance of right and most probable wrong class (ICASC)."""
    found = read_json(os.path.join(run.folder, "test.json"))["margin"]
    return {"KS distance": found["distance"], "at probability": found["at"]}


def critic(run: Run) -> dict:
    """Return the critic's squared error, mean over the modules, of every epoch (DREAL)."""
    try:
        _, series = read_critic(run.folder)
    except ValueError:  # a baseline
        return {}
    rows = np.nanmean(np.array(list(series["critic_error"].values()), dtype=float), axis=0)
    ends = {"critic error, first epoch": float(rows[0]), "critic error, last": float(rows[-1])}
    return {**ends, "critic error by epoch": rows.tolist()}


def diversity(run: Run) -> dict:
    """Return how much the channel attention differs in the last stage (supplement of DREAL).

    Between the channels of an image, and between images; means over the stage's gates.
    """
    found = channel_statistics(*run.open())
    last = max((gate.partition("_")[0] for gate in found), default=None)
    values = [s.summary() for gate, s in found.items() if gate.startswith(f"{last}_")]
    if not values:
        return {}
    return {
        "diversity over channels": float(np.mean([v["diversity"] for v in values])),
        "deviation over images": float(np.mean([v["image_deviation"] for v in values])),
    }


def localisation(run: Run) -> dict:
    """Return where the maps look, in percent, on the test images with masks.

    The net's own attention maps, Grad-CAM and A_ch, and the baselines that know nothing of the
    image; means over the attributes. Also the share of maps that are empty, and left out.
    """
    trained, dataset, settings = run.open()
    found = localise({trained.name: trained}, dataset, settings, without=(GUIDED, ANOTHER)).result()
    short = {title_of(kind): title for kind, title in MAP_TITLES.items()}
    maps = {short.get(kind, kind): values for kind, values in found["maps"].items()}
    means = {
        f"{title}, {heading}": 100 * values["measures"][key][MEAN]["mean"]
        for key, heading in HEADINGS.items()
        for title, values in maps.items()
    }
    masks = sum(found["attributes"].values())
    empty = {f"{k}, empty": 100 * v["empty"] / masks for k, v in maps.items() if k not in BASELINES}
    return {**means, **empty}


def heads(run: Run) -> dict:
    """Return the mAP in percent of every logit vector of which a net's own is the mean (VAA)."""
    trained, dataset, settings = run.open()
    names = [name for name in getattr(trained.net, "output_names", ()) if name[:7] == "logits_"]
    if not names:
        return {}
    rows: dict[str, list[Any]] = {name: [] for name in names}
    for batch, kept in batches(trained, dataset, settings, f"{trained.name}: heads"):
        outputs = trained.net(batch.image.as_in_context(settings.ctx))
        for name, logits in zip(trained.net.output_names, outputs):
            if name in rows:
                rows[name].append(logits.sigmoid().asnumpy()[kept])
    truth = np.asarray(dataset.label), dataset.mask, dataset.names
    results = {n: evaluate_multilabel(np.concatenate(own), *truth) for n, own in rows.items()}
    return {name: 100 * or_nan(found["overall"]["mAP"]) for name, found in results.items()}


def attributes(run: Run) -> dict:
    """Return the average precision of every attribute in percent, named with its positives."""
    found = read_json(os.path.join(run.folder, "test.json"))["attributes"]
    return {f"{row['name']} ({row['positives']})": 100 * or_nan(row["ap"]) for row in found}


MEASURES = {
    "attributes": attributes, "overlap": overlap, "margin": margin, "critic": critic,
    "diversity": diversity, "heads": heads, "localisation": localisation,
}  # fmt: skip


# -------------------------------------------------------------------------------------- tables


def describe(
    preset: Preset, rows: Rows, trials: Mapping[str, Mapping[str, float]] | None = None
) -> str:
    """Return the tables of an experiment: means, and differences to the baseline by seed.

    ``trials`` are those of :func:`tuned`.
    """
    groups, seeds = ("score", *preset.measures), len(rows[BASELINE])
    parts = [f"Test split, mean ± standard deviation over {seeds} seed(s):"]
    parts += [part for group in groups for part in _tables(preset, rows, group)]
    parts.append("Difference to the baseline, seed by seed, with Student's 95 % interval:")
    differing = [group for group in groups if group != "attributes"]  # each: too few positives
    parts += [part for group in differing for part in _tables(preset, rows, group, BASELINE)]
    if trials:
        parts.append(_rates(preset, trials))
    return "\n\n".join(parts) + "\n"


def _rates(preset: Preset, trials: Mapping[str, Mapping[str, float]]) -> str:
    """Return the learning rates that were tried, with their validation scores."""
    heads = [f"validation {preset.score} % at a learning rate of", *preset.rates]
    cells = [
        [arm, *(decimal(100 * or_nan(scores[rate]), 1) for rate in preset.rates)]
        for arm, scores in trials.items()
    ]
    table = tabulate(cells, heads, tablefmt="github", disable_numparse=True)
    return f"The highest of a row was taken (one run each, seed {TRIAL_SEED}):\n\n{table}"


def _tables(preset: Preset, rows: Rows, group: str, minus: str | None = None) -> list[str]:
    """Return the tables of one group of numbers, or of their differences to an arm.

    Of many numbers, those that end alike (", last") have a table. What is the same for all runs,
    such as a map that knows nothing of the net, is told in a line of its own.
    """
    arms = [arm for arm in rows if group != "attributes" or arm not in preset.rate_of]
    values = {arm: [row.get(group, {}) for row in rows[arm]] for arm in arms}
    every = [own for found in values.values() for own in found]
    names = [n for own in every for n, value in own.items() if not isinstance(value, list)]
    names = list(dict.fromkeys(names))
    same = every[0]
    alike = [n for n in names if every[1:] and all(own.get(n) == same.get(n) for own in every)]
    names = [n for n in names if n not in alike]
    base = values.pop(minus) if minus else None
    if base is not None:
        names = [n for n in names if n in base[0] and n != "seconds"]
    parts: dict[str, list[str]] = {}
    for n in names:
        first, _, ending = n.rpartition(", ")
        parts.setdefault(ending if first and len(names) > WIDEST else "", []).append(n)
    digits = 1 if group in PERCENT else None
    found = [_table(values, own, ending, base, digits) for ending, own in parts.items()]
    if alike and not minus:
        found.append(f"Of every net: {'; '.join(f'{n}: {decimal(same[n], 1)}' for n in alike)}.")
    return found


def _table(
    values: Rows, names: Sequence[str], ending: str, base: list[dict] | None, digits: int | None
) -> str:
    """Return one table of numbers ``{arm: [{name: number} of each seed]}``, or of differences."""
    columns = []
    for n in names:
        lists = [[or_nan(v[n]) for v in own if n in v] for own in values.values()]
        if base is not None:
            lists = [paired_differences(own, [or_nan(v[n]) for v in base]) for own in lists]
        columns.append(_column(lists, digits, signed=base is not None))
    names = [n[: -len(ending) - 2] if ending else n for n in names]
    table, heads = list(zip(values, *columns)), [ending or "arm", *names]
    if len(names) > 2 * len(values):  # rather long than wide
        table, heads = list(zip(names, *zip(*columns))), [ending, *values]
    return tabulate(table, heads, tablefmt="github", disable_numparse=True)


def _column(lists: Sequence[Sequence[float]], digits: int | None, signed: bool) -> list[str]:
    """Return the cells of a column, all with as many decimals; each list has a value per seed."""
    known = [[value for value in values if not np.isnan(value)] for values in lists]
    largest = max((abs(np.mean(values)) for values in known if values), default=0.0)
    digits = digits or (1 if largest >= 10 else 2 if largest >= 1 else 3)
    cell = difference_text if signed else spread_text
    return [cell(values, digits) if values else "-" for values in known]
