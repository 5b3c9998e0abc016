"""How a search for an architecture went: entropy and strength of every edge over the epochs."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.ticker import MaxNLocator

from gluon_attn.figures.canvas import LARGE, MEDIUM, SMALL, colour, legend, new_figure, quiet, save

STYLES = ("-", "--", ":", "-.")
PANELS = {
    "edge_entropy": "entropy of the operations (nats)",
    "edge_strength": "strongest operation",
}


def search_curves(records, path, operations=9):
    """Draw entropy and strength of every edge, one line each, and their means.

    Colours are the nodes that edges lead into, line styles their sources. Dotted in grey is what
    equal shares of all operations have.

    Args:
        records: Dicts with ``epoch``, ``edge_entropy`` and ``edge_strength``, the latter two
            ``{"source-node": number}``; others are passed over.
        path: Where to write; the suffix decides the type.
        operations: Number of candidate operations.

    Returns:
        The Path written.

    Raises:
        ValueError: No record has these keys.
    """
    kept = {r["epoch"]: r for r in records if all(key in r for key in ("epoch", *PANELS))}
    epochs = sorted(kept)
    if not epochs:
        raise ValueError(f"no record with epoch, {' and '.join(PANELS)}: nothing to draw")
    figure = new_figure(8.2, 3.3, layout="constrained")
    grid = figure.subplots(1, 2)
    equal = (math.log(operations), 1 / operations)
    lines = {}
    for axes, (key, title), level in zip(grid, PANELS.items(), equal):
        quiet(axes)
        axes.axhline(level, color="#999999", lw=0.8, ls=":")
        rows = []
        for edge in kept[epochs[0]][key]:
            source, node = map(int, edge.split("-"))
            values = np.array([kept[epoch][key].get(edge) for epoch in epochs], float)
            rows.append(values)
            (lines[edge],) = axes.plot(
                epochs, values, color=colour(node - 1), ls=STYLES[source % 4], lw=1.0,
                marker="o" if len(epochs) == 1 else None,
            )  # fmt: skip
        (lines["mean"],) = axes.plot(epochs, np.mean(rows, axis=0), color="black", lw=2.2)
        axes.set_title(title, fontsize=LARGE, loc="left")
        axes.set_xlabel("epoch", fontsize=MEDIUM)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    names = [f"{edge.replace('-', ' → ')}" for edge in lines]
    legend(
        figure, lines.values(), names, loc="outside right center", frameon=False, fontsize=SMALL,
        title="source → node\n(0: own group)", title_fontsize=SMALL,
    )  # fmt: skip
    return save(figure, path)
