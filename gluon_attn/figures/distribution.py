"""Distributions over channels: class selectivity of layers, attention vectors of channel gates."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.ticker import MaxNLocator

from gluon_attn.figures.canvas import MEDIUM, SMALL, colour, legend, new_figure, quiet, save

BINS = 25
PER_ROW = 6


def selectivity_distributions(index, path):
    """Draw one panel per layer: how the class selectivity index is distributed over its channels.

    Layout of Figure 1 in the supplement of Auto Learning Attention, NeurIPS 2020. The dashed line
    is a net's mean.

    Args:
        index: ``{net: {layer: (C,) indices in [0, 1]}}``; a panel shows the nets that have it.
        path: Where to write; the suffix decides the type.

    Returns:
        The Path written.

    Raises:
        ValueError: Nothing to draw, or an index outside [0, 1].
    """
    layers = list(dict.fromkeys(layer for found in index.values() for layer in found))
    if not layers:
        raise ValueError("no layer to draw")
    columns = min(4, len(layers))
    rows = math.ceil(len(layers) / columns)
    figure = new_figure(max(3.2, 2.3 * columns + 0.3), 2.1 * rows + 0.6, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, layer in zip(grid.flat, layers):
        quiet(axes)
        for k, (name, found) in enumerate(index.items()):
            if layer in found:
                _density(axes, np.asarray(found[layer], float), colour(k), f"{layer} of '{name}'")
        axes.set_title(layer, fontsize=MEDIUM, loc="left", pad=12)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        means = [np.mean(found[layer]) for found in index.values() if layer in found]
        for k, mean in enumerate(means):
            axes.text(min(0.26, 1 / len(means)) * k, 1.02, f"{mean:.2f}", color=colour(k),
                      fontsize=SMALL, va="bottom", transform=axes.transAxes)  # fmt: skip
    for axes in grid.flat[len(layers) :]:
        axes.set_visible(False)
    figure.supxlabel("class selectivity index (numbers: means)", fontsize=MEDIUM)
    figure.supylabel("share of channels (%)", fontsize=MEDIUM)
    _legend(figure, grid[0, 0], list(index))
    return save(figure, path)


def _density(axes, values, ink, what):
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"index of {what}: must be (C,) in [0, 1]")
    heights, edges = np.histogram(values, BINS, (0, 1))
    axes.stairs(100 * heights / len(values), edges, color=ink, lw=1.3)
    axes.stairs(100 * heights / len(values), edges, color=ink, fill=True, alpha=0.12)
    axes.axvline(values.mean(), color=ink, lw=0.9, ls="--")


def channel_attention(gates, path):
    """Draw the attention vector of every channel gate: its magnitude over the channels.

    Layout of Figure 1 in the supplement of Deep Reinforced Attention Learning, Li and Chen, ECCV
    2020: one panel per block, the nets above one another. The line is the mean over images, the
    band one standard deviation over images on either side. In a panel stands the diversity: the
    standard deviation over the channels of an image's vector, mean over images.

    Args:
        gates: ``{net: {gate: (mean (C,), deviation (C,), diversity)}}``. The part of a gate's name
            before the first underscore is its stage; stages begin a new line.
        path: Where to write; the suffix decides the type.

    Returns:
        The Path written.

    Raises:
        ValueError: Nothing to draw.
    """
    names = list(dict.fromkeys(gate for found in gates.values() for gate in found))
    if not names:
        raise ValueError("no channel gate to draw")
    stages = {}
    for name in names:
        stages.setdefault(name.partition("_")[0], []).append(name)
    chunks = [
        line[k : k + PER_ROW] for line in stages.values() for k in range(0, len(line), PER_ROW)
    ]  # fmt: skip
    columns = max(map(len, chunks))
    lines = [(chunk, net) for chunk in chunks for net in range(len(gates))]
    figure = new_figure(max(3.6, 1.75 * columns + 0.5), 1.25 * len(lines) + 0.7,
                        layout="constrained")  # fmt: skip
    grid = figure.subplots(len(lines), columns, squeeze=False, sharey=True)
    for axes_line, (chunk, net) in zip(grid, lines):
        found = list(gates.values())[net]
        for axes, name in zip(axes_line, chunk):
            axes.set_visible(name in found)
            if name in found:
                _vector(axes, name, colour(net), *found[name])
        for axes in axes_line[len(chunk) :]:
            axes.set_visible(False)
    figure.supxlabel("channel", fontsize=MEDIUM)
    figure.supylabel("attention", fontsize=MEDIUM)
    _legend(figure, grid[0, 0], list(gates))
    return save(figure, path)


def _vector(axes, name, ink, mean, deviation, diversity):
    quiet(axes)
    x = np.arange(len(mean))
    axes.fill_between(x, mean - deviation, mean + deviation, color=ink, alpha=0.25, lw=0)
    axes.plot(x, mean, color=ink, lw=0.8)
    axes.set_title(name.replace("_", " "), fontsize=SMALL, loc="left", pad=3)
    axes.set_title(f"div. {diversity:.2f}", fontsize=SMALL - 1, loc="right", pad=3, color="#666666")
    axes.set_xlim(0, max(len(mean) - 1, 1))
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))


def _legend(figure, axes, names):
    if len(names) > 1:
        handles = [axes.plot([], [], color=colour(k), lw=1.6)[0] for k in range(len(names))]
        legend(figure, handles, names, loc="outside upper center", ncols=min(len(names), 4),
                      frameon=False, fontsize=MEDIUM)  # fmt: skip
