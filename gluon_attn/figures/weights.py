"""How the weights of tasks and their validation losses went over the iterations."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.ticker import MaxNLocator

from gluon_attn.figures.canvas import MEDIUM, SMALL, colour, legend, new_figure, quiet, save

WEIGHT, LOSS = colour(0), colour(1)


def weight_curves(names, iterations, weights, losses, path, columns=None):
    """Draw one panel per attribute: its weight and its validation loss over the iterations.

    A weight is a step: it holds from the end of its window to the end of the next. The loss is
    drawn relative to that of the first window, which stands in the panel, so that both lines begin
    at 1; the dotted line marks 1, the weight in an unweighted model.

    Args:
        names: M attribute names.
        iterations: ``(U,)`` iterations at which windows ended.
        weights: ``(U, M)`` weights from then on.
        losses: ``(U, M)`` mean validation losses of the windows; nan leaves a gap.
        path: Where to write; the suffix decides the type.
        columns: Panels per row; by default what makes the figure slightly wider than high.

    Returns:
        The Path written.

    Raises:
        ValueError: If there is no window yet, or shapes do not fit.
    """
    iterations = np.asarray(iterations)
    weights, losses = np.asarray(weights, float), np.asarray(losses, float)
    shape = (len(iterations), len(names))
    if not all(shape) or weights.shape != shape or losses.shape != shape:
        raise ValueError(
            f"weights {weights.shape} and losses {losses.shape} must be {shape}, with at least one "
            "iteration and one name"
        )
    columns = columns or min(len(names), max(1, math.ceil(math.sqrt(1.2 * len(names)))))
    rows = math.ceil(len(names) / columns)
    figure = new_figure(max(3.2, 2.0 * columns + 0.3), 1.6 * rows + 0.7, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for m, (axes, name) in enumerate(zip(grid.flat, names)):
        _panel(axes, name, iterations, weights[:, m], losses[:, m])
        axes.tick_params(labelbottom=m + columns >= len(names))
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    grid[0, 0].set_ylim(bottom=0)
    grid[0, 0].set_xlim(0, iterations[-1])
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(3, integer=True))
    figure.supxlabel("iteration", fontsize=MEDIUM)
    lines = [grid[0, 0].plot([], [], color=c, lw=1.6)[0] for c in (WEIGHT, LOSS)]
    texts = ["weight", "validation loss / that of the first window"]
    legend(
        figure, lines, texts, loc="outside upper center", ncols=2, frameon=False, fontsize=MEDIUM
    )  # fmt: skip
    return save(figure, path)


def _panel(axes, name, iterations, weight, loss):
    quiet(axes)
    axes.axhline(1, color="#666666", lw=0.8, ls=":")
    axes.step(
        np.concatenate([[0], iterations]), np.concatenate([[1], weight]), where="post",
        color=WEIGHT, lw=1.2,
    )  # fmt: skip
    defined = loss[np.isfinite(loss)]
    first = defined[0] if len(defined) and defined[0] > 0 else np.nan
    marker = "o" if len(iterations) < 3 else None
    axes.plot(iterations, loss / first, color=LOSS, lw=1.2, marker=marker, ms=3)
    axes.set_title(name, fontsize=MEDIUM, loc="left")
    text = "loss not measured" if np.isnan(first) else f"loss at first {first:.3g}"
    axes.text(
        0.98, 0.98, text, transform=axes.transAxes, ha="right", va="top", fontsize=SMALL, color=LOSS
    )  # fmt: skip
