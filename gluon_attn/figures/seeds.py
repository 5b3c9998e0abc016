"""Controlled experiments as pictures: every seed of every arm, and values over epochs."""

from __future__ import annotations

import numpy as np

from gluon_attn.figures.canvas import MEDIUM, SMALL, colour, legend, new_figure, quiet, save


def arms_by_seed(scores, label, path):
    """Draw one line of dots per arm, a dot per seed, the mean as a bar; seeds are joined.

    Args:
        scores: ``{arm: [score of each seed]}``, the baseline first.
        label: What the scores are, for the axis.
        path: Where to write; the suffix decides the type.

    Returns:
        The Path written.

    Raises:
        ValueError: No arm or no seed, or the arms have different numbers of seeds.
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


def bands_by_epoch(series, label, path):
    """Draw the mean over seeds per epoch as a line, and the range of the seeds as a band.

    Args:
        series: ``{arm: (S, E) values}``; nan leaves a gap.
        label: Name of the vertical axis.
        path: Where to write; the suffix decides the type.

    Returns:
        The Path written.

    Raises:
        ValueError: There is nothing to draw.
    """
    series = {arm: np.atleast_2d(np.asarray(rows, dtype=float)) for arm, rows in series.items()}
    if not series or not all(rows.size for rows in series.values()):
        raise ValueError("no values by epoch to draw")
    figure = new_figure(5.2, 3.0, layout="constrained")
    axes = figure.subplots()
    quiet(axes)
    for number, (arm, rows) in enumerate(series.items()):
        epochs = np.arange(1, rows.shape[1] + 1)
        axes.fill_between(epochs, rows.min(axis=0), rows.max(axis=0), color=colour(number),
                          alpha=0.15, lw=0)  # fmt: skip
        axes.plot(epochs, rows.mean(axis=0), color=colour(number), lw=1.6, label=arm)
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch", fontsize=MEDIUM)
    axes.set_ylabel(label, fontsize=MEDIUM)
    legend(axes, axes.lines, list(series), frameon=False, fontsize=SMALL)
    return save(figure, path)
