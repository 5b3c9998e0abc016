"""Measures side by side: attributes of models, seeds of arms, engines by speed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Mapping, Sequence, Tuple

import numpy as np

from gluon_attn.figures.canvas import (
    LARGE,
    MEDIUM,
    SMALL,
    Axes,
    PathLike,
    colour,
    legend,
    new_figure,
    quiet,
    save,
)

TITLES = {
    "ap": ("AP", "mAP"), "ap_sklearn": ("AP (sklearn)", "mAP_sklearn"), "ma": ("mA", "mA"),
    "accuracy": ("accuracy", "accuracy"), "precision": ("precision", "CP"),
    "recall": ("recall", "CR"), "f1": ("F1", "CF1"),
}  # fmt: skip
PER_ROW = 16  # groups of bars in one row of the figure
Difference = Tuple[Sequence[float], Tuple[float, float]]  # of each seed, and an interval
PRECISIONS = ("fp32", "bf16", "int8")  # in the order of the palette
WHISKER = {"fmt": "none", "ecolor": "#222222", "elinewidth": 0.8, "capsize": 1.5}


def attribute_bars(results: Mapping[str, Any], path: PathLike, measure: str = "ap") -> Path:
    """Draw one group of bars per attribute, one bar per model, and the mean as the last group.

    Under each name stands the share of positives. An undefined value has no bar but a dash. A model
    has what ``evaluate_multilabel`` returned, or a list of that from several seeds: bars then show
    the mean, whiskers the standard deviation. ``measure`` is a key of ``TITLES``.
    """
    if measure not in TITLES:
        raise ValueError(f"measure {measure!r}: valid are {', '.join(TITLES)}")
    runs = {name: r if isinstance(r, (list, tuple)) else [r] for name, r in results.items()}
    labels = _labels(runs)
    values = np.array([_values(results, measure) for results in runs.values()])
    rows = math.ceil(len(labels) / PER_ROW)
    per_row = math.ceil(len(labels) / rows)
    width = max(4.0, min(11.0, 1.0 + per_row * (0.32 + 0.24 * len(runs))))
    figure = new_figure(width, 0.5 + 2.5 * rows, layout="constrained")
    for row, axes in enumerate(figure.subplots(rows, 1, squeeze=False)[:, 0]):
        part = slice(row * per_row, (row + 1) * per_row)
        _bar_row(axes, values[:, part], labels[part], per_row)
        axes.set_ylabel(f"{TITLES[measure][0]} (%)", fontsize=MEDIUM)
    if len(runs) > 1:
        handles = [axes.bar(0, 0, color=colour(k)) for k in range(len(runs))]
        legend(figure, handles, list(runs), loc="outside upper center", ncols=len(runs),
               fontsize=MEDIUM)  # fmt: skip
    return save(figure, path)


def _labels(runs: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the text under each group: name and share of positives, "mean" last."""
    every = [(name, result) for name, results in runs.items() for result in results]
    if not every:
        raise ValueError("no result to draw")
    names = [[row["name"] for row in result["attributes"]] for _, result in every]
    for (model, _), other in zip(every, names):
        if other != names[0]:
            raise ValueError(f"attributes of '{model}' differ from those of '{every[0][0]}'")
    labels = []
    for row in every[0][1]["attributes"]:
        known = row["positives"] + row["negatives"]
        share = f"{100 * row['positives'] / known:.0f} %" if known else "-"
        labels.append(f"{row['name']}\n{share}")
    return [*labels, "mean\n"]


def _values(results: Sequence[Any], measure: str) -> np.ndarray:
    """Return ``(groups, 2)``: mean and standard deviation over the runs, in percent."""
    overall = TITLES[measure][1]
    each = 100 * np.array(
        [
            [row[measure] for row in result["attributes"]] + [result["overall"][overall]]
            for result in results
        ],
        dtype=np.float64,
    )
    spread = each.std(axis=0, ddof=1) if len(each) > 1 else np.zeros(each.shape[1])
    return np.stack([each.mean(axis=0), spread], axis=1)


def _bar_row(axes: Axes, values: np.ndarray, labels: Sequence[str], per_row: int) -> None:
    quiet(axes, grid="y")
    models, groups, _ = values.shape
    width = 0.8 / models
    for k in range(models):
        x = np.arange(groups) + (k - (models - 1) / 2) * width
        mean, spread = values[k].T
        axes.bar(x, np.nan_to_num(mean), 0.92 * width, color=colour(k))
        if spread.any():
            axes.errorbar(x, mean, spread, **WHISKER)
        for position, value, deviation in zip(x, mean, spread):
            text = "-" if math.isnan(value) else f"{value:.0f}" if models > 1 else f"{value:.1f}"
            height = 0 if math.isnan(value) else value + np.nan_to_num(deviation)
            axes.text(position, height + 1, text, ha="center", va="bottom", fontsize=SMALL - 1,
                      color="#333333")  # fmt: skip
    slanted = max(len(part) for label in labels for part in label.split("\n")) > 11
    texts = [label.replace("\n", "  ") if slanted else label for label in labels]
    axes.set_xticks(np.arange(groups), texts, fontsize=SMALL)
    if slanted:
        axes.tick_params(axis="x", labelrotation=40)
        for tick in axes.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")
    if labels[-1].startswith("mean"):
        axes.axvline(groups - 1.5, color="#BBBBBB", lw=0.8, ls="--")
        axes.get_xticklabels()[-1].set_fontweight("bold")
        axes.set_xlabel("attribute, share of positives", fontsize=MEDIUM)
    axes.set(xlim=(-0.6, per_row - 0.4), ylim=(0, 112), yticks=range(0, 101, 20))


def arms_by_seed(scores: Mapping[str, Sequence[float]], label: str, path: PathLike) -> Path:
    """Draw one line of dots per arm, a dot per seed, the mean as a bar; seeds are joined.

    ``scores`` are ``{arm: [score of each seed]}``, the baseline first; ``label`` names the axis.
    """
    counts = {len(values) for values in scores.values()}
    if len(counts) != 1 or not next(iter(counts)):
        raise ValueError(f"arms with {sorted(counts)} seeds: each needs the same number, from 1")
    values = np.array(list(scores.values()), dtype=float)
    rows = np.arange(len(values))
    figure = new_figure(5.2, 0.75 + 0.36 * len(values), layout="constrained")
    axes = figure.subplots()
    quiet(axes, "x")
    for seed in values.T:
        axes.plot(seed, rows, color="#CCCCCC", lw=0.8, zorder=1)
    for row, found in enumerate(values):
        ink = "#444444" if row == 0 else colour(0)
        axes.plot(found, np.full(len(found), row), "o", ms=4.5, color=ink, alpha=0.75, mew=0)
        axes.plot([found.mean()] * 2, [row - 0.3, row + 0.3], color=ink, lw=2)
    axes.set_yticks(rows, list(scores), fontsize=MEDIUM)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_xlabel(f"{label} (dot: seed, bar: mean)", fontsize=MEDIUM)
    return save(figure, path)


def differences(found: Mapping[str, Difference], label: str, path: PathLike) -> Path:
    """Draw one row per comparison: a dot per seed, the mean, its interval, and a line at 0.

    ``found`` are ``{comparison: ([difference of each seed], (low, high))}``; blue where the
    interval is above 0, red where it is below, grey where it holds 0. ``label`` names the axis.
    """
    if not found:
        raise ValueError("no differences: nothing to draw")
    figure = new_figure(6.4, 0.95 + 0.36 * len(found), layout="constrained")
    axes = figure.subplots()
    quiet(axes, "x")
    axes.axvline(0, color="#222222", lw=0.8)
    for row, (values, ends) in enumerate(found.values()):
        ink = colour(0) if ends[0] > 0 else colour(3) if ends[1] < 0 else "#777777"
        axes.plot(ends, [row, row], color=ink, lw=1.6)
        over = np.full(len(values), row - 0.3)
        axes.plot(values, over, "o", ms=4, mfc="none", mec="#222222", mew=0.8)
        axes.plot([np.mean(values)] * 2, [row - 0.2, row + 0.2], color=ink, lw=2.4)
    axes.set_yticks(range(len(found)), list(found), fontsize=MEDIUM)
    axes.set_ylim(len(found) - 0.5, -0.7)
    axes.set_xlabel(f"{label}\n(circle: a seed; bar: mean; line: 95 % interval)", fontsize=MEDIUM)
    return save(figure, path)


def speed_bars(rows: Sequence[Mapping[str, Any]], path: PathLike, title: str = "") -> Path:
    """Draw the rows of a benchmark, a panel per batch size, the fastest engine first.

    A bar is the median of the rounds, the whisker goes from the slowest round to the fastest, and
    behind it stand the figure and, of all but the reference, its ratio to the reference. Rows have
    ``engine``, ``precision``, ``batch``, ``images_per_s``, ``spread`` (lowest and highest) and
    ``ratio_to_mxnet``.
    """
    if not rows:
        raise ValueError("no rows: nothing to draw")
    unknown = sorted({row["precision"] for row in rows} - set(PRECISIONS))
    if unknown:
        raise ValueError(f"precision {', '.join(unknown)}: valid are {', '.join(PRECISIONS)}")
    batches = sorted({row["batch"] for row in rows})
    groups = [[row for row in rows if row["batch"] == batch] for batch in batches]
    most = max(map(len, groups))
    figure = new_figure(4.6 * len(groups), 1.25 + 0.26 * most, layout="constrained")
    grid = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, batch, group in zip(grid, batches, groups):
        _speed_panel(axes, group, most)
        axes.set_title(f"batch {batch}", fontsize=MEDIUM, loc="left")
    used = [p for p in PRECISIONS if any(row["precision"] == p for row in rows)]
    patches = [grid[0].barh([0], [0], color=colour(PRECISIONS.index(p))) for p in used]
    legend(figure, patches, used, loc="outside lower center", ncols=len(used))
    if title:
        figure.suptitle(title, fontsize=LARGE)
    return save(figure, path)


def _speed_panel(axes: Axes, rows: Sequence[Mapping[str, Any]], places: int) -> None:
    quiet(axes, "x")
    rows = sorted(rows, key=lambda row: -row["images_per_s"])
    y = np.arange(len(rows))
    values = np.array([row["images_per_s"] for row in rows])
    spread = np.array([row["spread"] for row in rows]).T
    reach = max(values.max(), spread.max())
    axes.barh(y, values, 0.72, color=[colour(PRECISIONS.index(r["precision"])) for r in rows])
    axes.errorbar(values, y, xerr=np.abs(spread - values), **WHISKER)
    for place, row in enumerate(rows):
        ratio = row["ratio_to_mxnet"]
        reference = row["engine"] == "mxnet" and row["precision"] == "fp32"
        text = f"{row['images_per_s']:.3g}" + ("" if reference else f"  ({ratio:.2f}×)")
        end = max(row["images_per_s"], row["spread"][1]) + 0.015 * reach
        axes.text(end, place, text, va="center", fontsize=SMALL, color="#333333")
    axes.set_yticks(y, [row["engine"] for row in rows], fontsize=SMALL)
    axes.set(xlim=(0, 1.3 * reach), ylim=(places - 0.4, -0.6))
    axes.set_xlabel("images per second (ratio to mxnet fp32)", fontsize=SMALL)
