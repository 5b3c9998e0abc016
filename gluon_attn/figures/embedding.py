"""Features of a layer as points in a plane, coloured by class.

Layout of Figure 2 in the supplement of Auto Learning Attention, NeurIPS 2020.
"""

from __future__ import annotations

import math

import matplotlib
import numpy as np

from gluon_attn.figures.canvas import MEDIUM, SMALL, legend, new_figure, save

MOST_CLASSES = 20  # more colours cannot be told apart


def class_colours(count):
    """Return ``count`` colours, at most 20, that can be told apart.

    Raises:
        ValueError: ``count`` is larger.
    """
    if count > MOST_CLASSES:
        raise ValueError(f"{count} classes: at most {MOST_CLASSES} can be told apart by colour")
    return matplotlib.colormaps["tab10" if count <= 10 else "tab20"].colors[:count]


def embeddings(points, targets, names, path):
    """Draw one panel per net: the embedded samples, coloured by class.

    Axes have no units: in t-SNE only neighbourhoods mean something.

    Args:
        points: ``{net: (N, 2)}``.
        targets: ``(N,)`` class numbers from 0, the same samples for every net.
        names: Names of the classes, at most 20.
        path: Where to write; the suffix decides the type.

    Returns:
        The Path written.

    Raises:
        ValueError: Shapes do not fit, too many classes, or nothing to draw.
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
    grid = figure.subplots(rows, columns, squeeze=False)
    size = float(np.clip(3000 / len(targets), 1.5, 14))
    order = np.random.default_rng(0).permutation(len(targets))  # so that no class covers the others
    for axes, (name, places) in zip(grid.flat, points.items()):
        places = np.asarray(places)
        if places.shape != (len(targets), 2):
            raise ValueError(f"points of '{name}' {places.shape}: must be ({len(targets)}, 2)")
        axes.scatter(*places[order].T, c=np.array(colours)[targets[order]], s=size, linewidths=0)
        axes.set(xticks=(), yticks=(), aspect="equal", adjustable="datalim")
        axes.spines[:].set_color("#CCCCCC")
        axes.spines[:].set_linewidth(0.6)
        axes.set_title(name, fontsize=MEDIUM)
    for axes in grid.flat[len(points) :]:
        axes.set_visible(False)
    handles = [grid[0, 0].scatter([], [], color=c, s=22) for c in colours]
    legend(figure, handles, list(names), loc="outside right center", frameon=False, fontsize=SMALL)
    return save(figure, path)
