"""Critique and reward of every attention module over training.

Layout of Figure 4 in the supplement of Deep Reinforced Attention Learning, Li and Chen, ECCV 2020.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.ticker import MaxNLocator

from gluon_attn.figures.canvas import MEDIUM, SMALL, colour, legend, new_figure, quiet, save

CRITIQUE, REWARD = colour(0), colour(1)
PER_ROW = 8


def critique_curves(epochs, critique, reward, path, error=None):
    """Draw one panel per module: critique Q and reward R over the epochs.

    The modules of one stage stand in one line, or in several where they are many. In a panel
    stands, with ``error``, the critic's root mean square error in the last epoch.

    Args:
        epochs: ``(E,)`` numbers of the epochs.
        critique: ``{module: (E,)}``, means over an epoch; nan or None leaves a gap. The part of a
            name before the first underscore is its stage: ``stage3_unit0``.
        reward: The same for the rewards.
        path: Where to write; the suffix decides the type.
        error: ``{module: (E,)}`` mean squared errors, or None.

    Returns:
        The Path written.

    Raises:
        ValueError: No epoch or module, other modules in ``reward``, or other lengths.
    """
    epochs = np.asarray(epochs)
    series = [_series(values, len(epochs)) for values in (critique, reward, error or {})]
    names = list(series[0])
    if not names or not len(epochs) or set(series[1]) != set(names):
        raise ValueError(f"{len(epochs)} epochs, critique of {names}, reward of {list(series[1])}: "
                         "need the same modules, at least one, and one epoch")  # fmt: skip
    lines = _lines(names)
    columns = max(map(len, lines))
    figure = new_figure(
        max(3.6, 1.55 * columns + 0.5), 1.3 * len(lines) + 0.75, layout="constrained"
    )
    grid = figure.subplots(len(lines), columns, squeeze=False, sharex=True)
    for axes_line, line in zip(grid, lines):
        for axes, name in zip(axes_line, line):
            _panel(axes, epochs, name, *series)
        for axes in axes_line[len(line) :]:
            axes.set_visible(False)
    for column in range(columns):  # ticks under the last panel of each column
        last = max(k for k, line in enumerate(lines) if len(line) > column)
        grid[last, column].tick_params(labelbottom=True)
    figure.supxlabel("epoch", fontsize=MEDIUM)
    handles = [grid[0, 0].plot([], [], color=c, lw=1.6)[0] for c in (CRITIQUE, REWARD)]
    legend(figure, handles, ["critique Q", "reward R"], loc="outside upper center", ncols=2,
                  frameon=False, fontsize=MEDIUM)  # fmt: skip
    return save(figure, path)


def _series(values, epochs):
    """Return ``{name: (E,) float}``, None as nan."""
    found = {name: np.array(row, dtype=float) for name, row in values.items()}
    for name, row in found.items():
        if row.shape != (epochs,):
            raise ValueError(f"'{name}' has {row.shape} values for {epochs} epochs")
    return found


def _lines(names):
    """Return the names, a list per line of panels: a stage begins a line of its own."""
    stages = {}
    for name in names:
        stages.setdefault(name.partition("_")[0], []).append(name)
    widest = max(map(len, stages.values()))
    width = math.ceil(widest / math.ceil(widest / PER_ROW))
    return [
        row[k : k + width] for row in stages.values() for k in range(0, len(row), width)
    ]  # fmt: skip


def _panel(axes, epochs, name, critique, reward, error):
    quiet(axes)
    marker = "o" if len(epochs) < 3 else None
    for series, ink in ((reward, REWARD), (critique, CRITIQUE)):
        axes.plot(epochs, series[name], color=ink, lw=1.2, marker=marker, ms=3)
    axes.set_title(name.replace("_", " "), fontsize=SMALL, loc="left", pad=3)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    defined = [e for e in error.get(name, ()) if np.isfinite(e)]
    if defined:
        axes.set_title(f"rms {math.sqrt(defined[-1]):.2f}", fontsize=SMALL - 1, loc="right", pad=3,
                       color="#666666")  # fmt: skip
