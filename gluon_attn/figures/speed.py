"""Bars of images per second, a panel per batch size, coloured by precision."""

from __future__ import annotations

import numpy as np

from gluon_attn.figures.canvas import LARGE, MEDIUM, SMALL, colour, legend, new_figure, quiet, save

PRECISIONS = ("fp32", "bf16", "int8")  # in the order of the palette


def speed_bars(rows, path, title=""):
    """Draw the rows of a benchmark, the fastest engine first.

    A bar is the median of the rounds, the whisker goes from the slowest round to the fastest, and
    behind it stand the figure and, of all but the reference, its ratio to the reference.

    Args:
        rows: Dicts with ``engine``, ``precision``, ``batch``, ``images_per_s``, ``spread`` (lowest
            and highest) and ``ratio_to_mxnet``.
        path: Where to write; the suffix decides the type.
        title: Over the figure.

    Returns:
        The Path written.

    Raises:
        ValueError: There is nothing to draw, or a precision that has no colour.
    """
    if not rows:
        raise ValueError("no rows: nothing to draw")
    unknown = sorted({row["precision"] for row in rows} - set(PRECISIONS))
    if unknown:
        raise ValueError(f"precision {', '.join(unknown)}: valid are {', '.join(PRECISIONS)}")
    batches = sorted({row["batch"] for row in rows})
    panels = [[row for row in rows if row["batch"] == batch] for batch in batches]
    most = max(map(len, panels))
    figure = new_figure(4.6 * len(panels), 1.25 + 0.26 * most, layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, batch, panel in zip(grid, batches, panels):
        _panel(axes, panel, most)
        axes.set_title(f"batch {batch}", fontsize=MEDIUM, loc="left")
    used = [p for p in PRECISIONS if any(row["precision"] == p for row in rows)]
    patches = [grid[0].barh([0], [0], color=colour(PRECISIONS.index(p))) for p in used]
    legend(
        figure,
        patches,
        used,
        loc="outside lower center",
        ncols=len(used),
        frameon=False,
        fontsize=SMALL,
    )
    if title:
        figure.suptitle(title, fontsize=LARGE)
    return save(figure, path)


def _panel(axes, rows, places):
    """Draw the rows of one batch size, leaving room for as many as the fullest panel has."""
    quiet(axes, "x")
    rows = sorted(rows, key=lambda row: -row["images_per_s"])
    y = np.arange(len(rows))
    values = np.array([row["images_per_s"] for row in rows])
    spread = np.array([row["spread"] for row in rows]).T
    reach = max(values.max(), spread.max())
    axes.barh(y, values, 0.72, color=[colour(PRECISIONS.index(r["precision"])) for r in rows])
    axes.errorbar(
        values, y, xerr=np.abs(spread - values), fmt="none", ecolor="#222222", elinewidth=0.8,
        capsize=1.5,
    )  # fmt: skip
    for place, row in enumerate(rows):
        ratio = row["ratio_to_mxnet"]
        reference = row["engine"] == "mxnet" and row["precision"] == "fp32"
        text = f"{row['images_per_s']:.3g}" + ("" if reference else f"  ({ratio:.2f}×)")
        axes.text(
            max(row["images_per_s"], row["spread"][1]) + 0.015 * reach, place, text, va="center",
            fontsize=SMALL, color="#333333",
        )  # fmt: skip
    axes.set_yticks(y, [row["engine"] for row in rows], fontsize=SMALL)
    axes.set(xlim=(0, 1.3 * reach), ylim=(places - 0.4, -0.6))
    axes.set_xlabel("images per second (ratio to mxnet fp32)", fontsize=SMALL)
