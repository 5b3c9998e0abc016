"""Bars of one measure per attribute, models side by side."""

from __future__ import annotations

import math

import numpy as np

from gluon_attn.figures.canvas import MEDIUM, SMALL, colour, legend, new_figure, quiet, save

TITLES = {
    "ap": ("AP", "mAP"),
    "ap_sklearn": ("AP (sklearn)", "mAP_sklearn"),
    "ma": ("mA", "mA"),
    "accuracy": ("accuracy", "accuracy"),
    "precision": ("precision", "CP"),
    "recall": ("recall", "CR"),
    "f1": ("F1", "CF1"),
}
PER_ROW = 16  # groups of bars in one row of the figure


def attribute_bars(results, path, measure="ap"):
    """Draw one group of bars per attribute, one bar per model, and the mean as the last group.

    Under each name stands the share of positives. An undefined value has no bar but a dash.

    Args:
        results: A dict from model name to what ``evaluate_multilabel`` returned, or to a list of
            such dicts from several seeds: bars then show the mean, whiskers the standard deviation.
        path: Where to write; the suffix decides the type.
        measure: ``ap``, ``ap_sklearn``, ``ma``, ``accuracy``, ``precision``, ``recall`` or ``f1``.

    Returns:
        The Path written.

    Raises:
        ValueError: If there is no result, the measure is unknown, or the attributes differ.
    """
    if measure not in TITLES:
        raise ValueError(f"measure {measure!r}: valid are {', '.join(TITLES)}")
    runs = {name: r if isinstance(r, (list, tuple)) else [r] for name, r in results.items()}
    labels = _labels(runs)
    title, overall = TITLES[measure]
    values = np.array([_values(results, measure, overall) for results in runs.values()])
    rows = math.ceil(len(labels) / PER_ROW)
    per_row = math.ceil(len(labels) / rows)
    width = max(4.0, min(11.0, 1.0 + per_row * (0.32 + 0.24 * len(runs))))
    figure = new_figure(width, 0.5 + 2.5 * rows, layout="constrained")
    for row, axes in enumerate(figure.subplots(rows, 1, squeeze=False)[:, 0]):
        part = slice(row * per_row, (row + 1) * per_row)
        _bar_row(axes, values[:, part], labels[part], per_row, f"{title} (%)")
    if len(runs) > 1:
        handles = [axes.bar(0, 0, color=colour(k)) for k in range(len(runs))]
        legend(
            figure, handles, list(runs), loc="outside upper center", ncols=len(runs), frameon=False,
            fontsize=MEDIUM,
        )  # fmt: skip
    return save(figure, path)


def _labels(runs):
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


def _values(results, measure, overall):
    """Return ``(groups, 2)``: mean and standard deviation over the runs, in percent."""
    each = [
        [row[measure] for row in result["attributes"]] + [result["overall"][overall]]
        for result in results
    ]
    each = 100 * np.array(each, dtype=np.float64)
    spread = each.std(axis=0, ddof=1) if len(each) > 1 else np.zeros(each.shape[1])
    return np.stack([each.mean(axis=0), spread], axis=1)


def _bar_row(axes, values, labels, per_row, title):
    quiet(axes, grid="y")
    models, groups, _ = values.shape
    width = 0.8 / models
    for k in range(models):
        x = np.arange(groups) + (k - (models - 1) / 2) * width
        mean, spread = values[k].T
        axes.bar(x, np.nan_to_num(mean), 0.92 * width, color=colour(k))
        if spread.any():
            axes.errorbar(
                x, mean, spread, fmt="none", ecolor="#222222", elinewidth=0.8, capsize=1.5
            )
        for position, value, deviation in zip(x, mean, spread):
            text = "-" if math.isnan(value) else f"{value:.0f}" if models > 1 else f"{value:.1f}"
            height = 0 if math.isnan(value) else value + np.nan_to_num(deviation)
            axes.text(
                position, height + 1, text, ha="center", va="bottom", fontsize=SMALL - 1,
                color="#333333",
            )  # fmt: skip
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
    axes.set_ylabel(title, fontsize=MEDIUM)
