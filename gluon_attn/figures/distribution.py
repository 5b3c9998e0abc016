"""Distributions: class selectivity of layers, attention vectors of gates, embedded features."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from gluon_attn.figures.canvas import (
    MEDIUM,
    SMALL,
    Axes,
    PathLike,
    colour,
    legend,
    line_legend,
    new_figure,
    panels,
    quiet,
    save,
    stage_lines,
)

BINS = 25
PER_ROW = 6
MOST_CLASSES = 20  # more colours cannot be told apart


def selectivity_distributions(index: Mapping[str, Mapping[str, Any]], path: PathLike) -> Path:
    """Draw one panel per layer: how the class selectivity index is distributed over its channels.

    Layout of Figure 1 in the supplement of Auto Learning Attention, NeurIPS 2020. The dashed line
    is a net's mean. ``index`` is ``{net: {layer: (C,) indices in [0, 1]}}``; a panel shows the nets
    that have its layer.
    """
    layers = list(dict.fromkeys(layer for found in index.values() for layer in found))
    if not layers:
        raise ValueError("no layer to draw")
    columns = min(4, len(layers))
    rows = math.ceil(len(layers) / columns)
    figure = new_figure(max(3.2, 2.3 * columns + 0.3), 2.1 * rows + 0.6, layout="constrained")
    grid = panels(figure, rows, columns, len(layers), sharex=True)
    for axes, layer in zip(grid, layers):
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
    figure.supxlabel("class selectivity index (numbers: means)", fontsize=MEDIUM)
    figure.supylabel("share of channels (%)", fontsize=MEDIUM)
    if len(index) > 1:
        line_legend(figure, grid[0], list(index))
    return save(figure, path)


def _density(axes: Axes, values: np.ndarray, ink: str, what: str) -> None:
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"index of {what}: must be (C,) in [0, 1]")
    heights, edges = np.histogram(values, BINS, (0, 1))
    axes.stairs(100 * heights / len(values), edges, color=ink, lw=1.3)
    axes.stairs(100 * heights / len(values), edges, color=ink, fill=True, alpha=0.12)
    axes.axvline(values.mean(), color=ink, lw=0.9, ls="--")


def channel_attention(gates: Mapping[str, Mapping[str, Any]], path: PathLike) -> Path:
    """Draw the attention vector of every channel gate: its magnitude over the channels.

    Layout of Figure 1 in the supplement of Deep Reinforced Attention Learning, Li and Chen, ECCV
    2020: one panel per block, the nets above one another. The line is the mean over images, the
    band one standard deviation over images on either side. In a panel stands the diversity: the
    standard deviation over the channels of an image's vector, mean over images. ``gates`` is
    ``{net: {gate: (mean (C,), deviation (C,), diversity)}}``; for stages in the names see
    :func:`gluon_attn.figures.canvas.stage_lines`.
    """
    names = dict.fromkeys(gate for found in gates.values() for gate in found)
    if not names:
        raise ValueError("no channel gate to draw")
    chunks = stage_lines(names, PER_ROW)
    columns = max(map(len, chunks))
    lines = [(chunk, net) for chunk in chunks for net in range(len(gates))]
    width, height = max(3.6, 1.75 * columns + 0.5), 1.25 * len(lines) + 0.7
    figure = new_figure(width, height, layout="constrained")
    grid = figure.subplots(len(lines), columns, squeeze=False, sharey=True)
    for axes_line, (chunk, net) in zip(grid, lines):
        found = list(gates.values())[net]
        for axes in axes_line:
            axes.set_visible(False)
        for axes, name in zip(axes_line, chunk):
            if name in found:
                axes.set_visible(True)
                _vector(axes, name, colour(net), found[name])
    figure.supxlabel("channel", fontsize=MEDIUM)
    figure.supylabel("attention", fontsize=MEDIUM)
    if len(gates) > 1:
        line_legend(figure, grid[0, 0], list(gates))
    return save(figure, path)


def _vector(axes: Axes, name: str, ink: str, statistics: Sequence[Any]) -> None:
    quiet(axes)
    mean, deviation, diversity = statistics
    x = np.arange(len(mean))
    axes.fill_between(x, mean - deviation, mean + deviation, color=ink, alpha=0.25, lw=0)
    axes.plot(x, mean, color=ink, lw=0.8)
    axes.set_title(name.replace("_", " "), fontsize=SMALL, loc="left", pad=3)
    axes.set_title(f"div. {diversity:.2f}", fontsize=SMALL - 1, loc="right", pad=3, color="#666666")
    axes.set_xlim(0, max(len(mean) - 1, 1))
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))


def class_colours(count: int) -> Sequence[Any]:
    """Return ``count`` colours, at most 20, that can be told apart; ValueError for more."""
    if count > MOST_CLASSES:
        raise ValueError(f"{count} classes: at most {MOST_CLASSES} can be told apart by colour")
    colours: Any = matplotlib.colormaps["tab10" if count <= 10 else "tab20"]
    return list(colours.colors[:count])


def embeddings(
    points: Mapping[str, Any], targets: Any, names: Sequence[str], path: PathLike
) -> Path:
    """Draw one panel per net: the embedded samples ``{net: (N, 2)}``, coloured by class.

    Layout of Figure 2 in the supplement of Auto Learning Attention, NeurIPS 2020. Axes have no
    units: in t-SNE only neighbourhoods mean something. ``targets`` ``(N,)`` are class numbers from
    0, the same samples for every net; ``names`` are at most 20.
    """
    targets = np.asarray(targets)
    colours = class_colours(len(names))
    if not points or not len(targets):
        raise ValueError("no net or no sample to draw")
    if targets.min() < 0 or targets.max() >= len(names):
        raise ValueError(f"targets {targets.min()} to {targets.max()} for {len(names)} names")
    columns = min(4, len(points))
    rows = math.ceil(len(points) / columns)
    figure = new_figure(2.7 * columns + 1.2, 2.8 * rows + 0.1, layout="constrained")
    grid = panels(figure, rows, columns, len(points))
    size = float(np.clip(3000 / len(targets), 1.5, 14))
    order = np.random.default_rng(0).permutation(len(targets))  # so that no class covers the others
    for axes, (name, places) in zip(grid, points.items()):
        places = np.asarray(places)
        if places.shape != (len(targets), 2):
            raise ValueError(f"points of '{name}' {places.shape}: must be ({len(targets)}, 2)")
        axes.scatter(*places[order].T, c=np.array(colours)[targets[order]], s=size, linewidths=0)
        axes.set(xticks=(), yticks=(), aspect="equal", adjustable="datalim")
        axes.spines[:].set_color("#CCCCCC")
        axes.spines[:].set_linewidth(0.6)
        axes.set_title(name, fontsize=MEDIUM)
    handles = [grid[0].scatter([], [], color=c, s=22) for c in colours]
    legend(figure, handles, list(names), loc="outside right center")
    return save(figure, path)
