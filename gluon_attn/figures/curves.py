"""Curves: precision over recall, and how trainings, searches and experiments went over time."""

from __future__ import annotations

import logging
import math
import re
from functools import partial
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve

from gluon_attn.core.text import read_json_lines
from gluon_attn.figures.canvas import (
    COLOURS,
    LARGE,
    MEDIUM,
    NEUTRAL,
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
    square_columns,
    stage_lines,
)

NAMED = "named"  # group of the lines that a legend names
STYLES = ("-", "--", ":", "-.")
PER_ROW = 8  # panels of attention modules in one line
EDGES = {"edge_entropy": "entropy of the operations (nats)", "edge_strength": "strongest operation"}

Records = Any  # path of a file with one JSON object per line, or the list of those dicts
logger = logging.getLogger(__name__)


# Precision and recall


def pr_curves(probs: Any, labels: Any, mask: Any, names: Sequence[str], *, path: PathLike) -> Path:
    """Draw one precision-recall panel per attribute, several models overlaid.

    The strong line is the interpolated precision (the envelope), so the AP in the panel is the area
    under it; the faint line is the raw precision at each distinct score; the dotted one is the
    positive rate, which a random ranking reaches. Arrays are ``(N, A)``: probabilities, or a dict
    from model name to such, labels in {0, 1}, and a mask in {0, 1} or None for all known.
    """
    models = probs if isinstance(probs, dict) else {"": probs}
    labels = np.asarray(labels)
    known = np.ones(labels.shape, bool) if mask is None else np.asarray(mask) != 0
    models = {name: np.asarray(p, dtype=np.float64) for name, p in models.items()}
    _require_shapes(models, labels, known, names)
    columns = square_columns(len(names))
    rows = math.ceil(len(names) / columns)
    above = 0.3 if len(models) > 1 else 0
    figure = new_figure(1.75 * columns + 0.3, 1.9 * rows + 0.3 + above, layout="constrained")
    grid = panels(figure, rows, columns, len(names), sharex=True, sharey=True)
    for a, (axes, name) in enumerate(zip(grid, names)):
        of_attribute = {m: p[known[:, a], a] for m, p in models.items()}
        _pr_panel(axes, of_attribute, labels[known[:, a], a] == 1, name)
        axes.tick_params(labelbottom=a + columns >= len(names))
    figure.supxlabel("recall", fontsize=MEDIUM)
    figure.supylabel("precision", fontsize=MEDIUM)
    if len(models) > 1:
        line_legend(figure, grid[0], list(models), most=len(models))
    return save(figure, path)


def _require_shapes(
    models: Mapping[str, np.ndarray], labels: np.ndarray, known: np.ndarray, names: Sequence[str]
) -> None:
    if not models or not len(names):
        raise ValueError("no model or no attribute to draw")
    if labels.ndim != 2 or labels.shape != known.shape or labels.shape[1] != len(names):
        raise ValueError(
            f"labels {labels.shape}, mask {known.shape}: must be (N, {len(names)}) for these names"
        )
    for model, probs in models.items():
        if probs.shape != labels.shape:
            raise ValueError(f"probs {probs.shape} of '{model}': must be {labels.shape} as labels")
        if not np.isfinite(probs[known]).all():
            row, attribute = np.argwhere(known & ~np.isfinite(probs))[0]
            raise ValueError(f"score of '{model}' at row {row}, {names[attribute]} is not finite")


def _pr_panel(
    axes: Axes, scores: Mapping[str, np.ndarray], positive: np.ndarray, name: str
) -> None:
    quiet(axes)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.05), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axes.set_xticklabels(("0", ".5", "1"))
    axes.set_yticklabels(("0", ".5", "1"))
    axes.set_title(name, fontsize=MEDIUM, loc="left", pad=13)
    if not positive.any():
        text = "no positive" if positive.size else "no known label"
        axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=SMALL, color="#666666")
        return
    axes.axhline(positive.mean(), color="#666666", lw=0.8, ls=":")
    # A line of APs under the name, each in the colour of its model; "AP" takes the first eighth.
    write = partial(axes.text, y=1.02, transform=axes.transAxes, fontsize=SMALL, va="bottom")
    write(x=0, s="AP", color="#666666")
    for k, values in enumerate(scores.values()):
        precision, recall, _ = precision_recall_curve(positive, values)
        precision, recall = precision[:-1], recall[:-1]  # the last point is no threshold
        envelope = np.maximum.accumulate(precision)
        area = -np.diff(recall, append=0) @ envelope
        write(x=0.13 + k * min(0.24, 0.87 / len(scores)), s=f"{100 * area:.1f}", color=colour(k))
        # The precision at a recall is that of the next threshold that reaches it, hence steps.
        axes.step(recall, precision, where="post", color=colour(k), lw=0.6, alpha=0.35)
        axes.step(np.append(recall, 0), np.append(envelope, envelope[-1]), where="post",
                  color=colour(k), lw=1.4)  # fmt: skip


# Training


def training_curves(records: Records | Mapping[str, Records], path: PathLike) -> Path:
    """Draw losses, validation metrics and learning rate against the epoch.

    ``records`` is the path of a file with one JSON object per line, or the list of those dicts, or
    a dict from run name to either, to draw runs on top of each other. Drawn are ``loss`` and
    ``loss_*``, ``val_*`` and ``lr`` against ``epoch``; bands mark each ``phase``. Records without
    an epoch are passed over, missing or null values leave a gap, and of an epoch that was repeated
    after a resume the last record counts.

    Raises a ValueError that names file and line if one is not a JSON object; an incomplete last
    line, as a killed run may leave it, is skipped with a warning.
    """
    sources = records if isinstance(records, dict) else {"": records}
    runs = {name: _by_epoch(_read(source)) for name, source in sources.items()}
    keys = list(dict.fromkeys(k for run in runs.values() for record in run for k in record))
    losses = [k for k in keys if k.startswith(("loss", "val_loss"))]
    drawn = {
        "loss": losses,
        "validation": [k for k in keys if k.startswith("val_") and k not in losses],
        "learning rate": [k for k in keys if k == "lr"],
    }
    drawn = {title: found for title, found in drawn.items() if found}
    if not drawn:
        raise ValueError("no record with an epoch and a loss, val_... or lr: nothing to draw")
    figure = new_figure(3.5 * len(drawn), 2.9, layout="constrained")
    grid = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, (title, found) in zip(grid, drawn.items()):
        _training_panel(axes, runs, found, title)
    entries = max(_name_lines(axes) for axes in grid)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.16 * math.ceil(entries / 2))
    return save(figure, path)


def _name_lines(axes: Axes, room: int = 5) -> int:
    """Name the lines inside the panel, or below it if they are many; return how many are below."""
    lines = [line for line in axes.lines if line.get_gid() == NAMED]
    labels = [line.get_label() for line in lines]
    if len(lines) > room:
        legend(axes, lines, labels, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
        return len(lines)
    if lines:
        legend(axes, lines, labels)
    return 0


def _read(source: Records) -> list[dict[str, Any]]:
    if not isinstance(source, (str, Path)):
        return list(source)
    records, lines = [], read_json_lines(source)
    for number, record in lines:
        if isinstance(record, ValueError):
            if number == lines[-1][0]:  # the run was killed while writing
                logger.warning("%s, line %d: incomplete record skipped", source, number)
                continue
            raise ValueError(f"{source}, line {number}: not JSON: {record}") from record
        if not isinstance(record, dict):
            raise ValueError(f"{source}, line {number}: must be a JSON object, is {record!r:.40}")
        records.append(record)
    return records


def _by_epoch(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    latest = {record["epoch"]: record for record in records if record.get("epoch") is not None}
    return [latest[epoch] for epoch in sorted(latest)]


def _training_panel(
    axes: Axes, runs: Mapping[str, list[dict[str, Any]]], keys: Sequence[str], title: str
) -> None:
    quiet(axes)
    percent = title == "validation"
    for r, (name, run) in enumerate(runs.items()):
        epochs = [record["epoch"] for record in run]
        for k, key in enumerate(keys):
            found = [record.get(key) for record in run]
            values = np.array([v if isinstance(v, (int, float)) else np.nan for v in found], float)
            if np.isnan(values).all():
                continue
            values *= 100 if percent and np.nanmax(np.abs(values)) <= 1 else 1
            # One run: a colour per key. Several: a colour per run and a line style per key.
            look = (r, k) if len(runs) > 1 else (k, 0)
            shown = "" if title == "learning rate" else re.sub("^(loss|val)_", "", key)
            label = " ".join(part for part in (name, shown) if part)
            if key == "val_mAP":
                best = int(np.nanargmax(values))
                label += f", best {values[best]:.1f}"
                axes.plot(epochs[best], values[best], "o", ms=7, mfc="none", color="black")
            marker = "o" if len(epochs) <= 15 else None
            axes.plot(epochs, values, color=colour(look[0]), ls=STYLES[look[1] % 4], lw=1.4,
                      marker=marker, ms=3, label=label or "_",
                      gid=NAMED if label else None)  # fmt: skip
    if title == "learning rate":
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")  # matplotlib's own would be a formula
    axes.set_title(title + (" (%)" if percent else ""), fontsize=LARGE, loc="left", pad=12)
    axes.set_xlabel("epoch", fontsize=MEDIUM)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(runs) == 1:
        _mark_phases(axes, next(iter(runs.values())))


def _mark_phases(axes: Axes, run: Sequence[Mapping[str, Any]]) -> None:
    """Shade every second phase and name each at the top."""
    phases = [
        (record["epoch"], record["phase"]) for record in run if record.get("phase") is not None
    ]
    starts = [p for i, p in enumerate(phases) if i == 0 or p[1] != phases[i - 1][1]]
    if len(starts) < 2:
        return
    low, high = axes.get_xlim()
    edges = [low, *(epoch - 0.5 for epoch, _ in starts[1:]), high]
    for i, (_, phase) in enumerate(starts):
        if i % 2 == 0:
            axes.axvspan(edges[i], edges[i + 1], color="#F2F2F2", lw=0, zorder=0)
        axes.text(edges[i], 1.01, f" {phase}", transform=axes.get_xaxis_transform(),
                  fontsize=SMALL, color="#666666", ha="left", va="bottom")  # fmt: skip
    axes.set_xlim(low, high)


def bands(
    series: Mapping[str, Any], label: str, path: PathLike, places: Any = None, axis: str = "epoch"
) -> Path:
    """Draw the mean over seeds as a line over places, and the range of the seeds as a band.

    ``series`` are ``{arm: (S, P) values}``, nan leaves a gap; ``label`` names the vertical axis.
    ``places`` ``(P,)`` of the horizontal one, named ``axis``, are by default the epochs 1, 2, …,
    and then the vertical one begins at 0.
    """
    series = {arm: np.atleast_2d(np.asarray(rows, dtype=float)) for arm, rows in series.items()}
    if not series or not all(rows.size for rows in series.values()):
        raise ValueError(f"no values by {axis} to draw")
    figure = new_figure(5.2, 3.0, layout="constrained")
    axes = figure.subplots()
    quiet(axes)
    for number, (arm, rows) in enumerate(series.items()):
        x, ink = np.arange(1, rows.shape[1] + 1) if places is None else places, colour(number)
        axes.fill_between(x, rows.min(axis=0), rows.max(axis=0), color=ink, alpha=0.15, lw=0)
        axes.plot(x, rows.mean(axis=0), color=ink, lw=1.6, label=arm)
    if places is None:
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
    else:
        axes.set_xticks(places)
    axes.set_xlabel(axis, fontsize=MEDIUM)
    axes.set_ylabel(label, fontsize=MEDIUM)
    legend(axes, axes.lines, list(series))
    return save(figure, path)


# What single papers follow


def weight_curves(
    names: Sequence[str], iterations: Any, weights: Any, losses: Any, *, path: PathLike
) -> Path:
    """Draw one panel per attribute: its weight in AWMT and its validation loss over iterations.

    A weight is a step: it holds from the end of its window to the end of the next. The loss is
    drawn relative to that of the first window, which stands in the panel, so that both lines begin
    at 1; the dotted line marks 1, the weight in an unweighted model. ``iterations`` ``(U,)`` are
    those at which windows ended, ``weights`` ``(U, M)`` hold from then on, ``losses`` ``(U, M)``
    are mean validation losses of the windows; nan leaves a gap.
    """
    iterations = np.asarray(iterations)
    weights, losses = np.asarray(weights, float), np.asarray(losses, float)
    shape = (len(iterations), len(names))
    if not all(shape) or weights.shape != shape or losses.shape != shape:
        raise ValueError(
            f"weights {weights.shape} and losses {losses.shape} must be {shape}, with at least one "
            "iteration and one name"
        )
    columns = square_columns(len(names))
    rows = math.ceil(len(names) / columns)
    figure = new_figure(max(3.2, 2.0 * columns + 0.3), 1.6 * rows + 0.7, layout="constrained")
    grid = panels(figure, rows, columns, len(names), sharex=True, sharey=True)
    for m, (axes, name) in enumerate(zip(grid, names)):
        _weight_panel(axes, iterations, weights[:, m], losses[:, m])
        axes.set_title(name, fontsize=MEDIUM, loc="left")
        axes.tick_params(labelbottom=m + columns >= len(names))
    grid[0].set_ylim(bottom=0)
    grid[0].set_xlim(0, iterations[-1])
    grid[0].xaxis.set_major_locator(MaxNLocator(3, integer=True))
    figure.supxlabel("iteration", fontsize=MEDIUM)
    line_legend(figure, grid[0], ["weight", "validation loss / that of the first window"])
    return save(figure, path)


def _weight_panel(axes: Axes, iterations: np.ndarray, weight: np.ndarray, loss: np.ndarray) -> None:
    quiet(axes)
    axes.axhline(1, color="#666666", lw=0.8, ls=":")
    axes.step(np.concatenate([[0], iterations]), np.concatenate([[1], weight]), where="post",
              color=colour(0), lw=1.2)  # fmt: skip
    defined = loss[np.isfinite(loss)]
    first = defined[0] if len(defined) and defined[0] > 0 else np.nan
    marker = "o" if len(iterations) < 3 else None
    axes.plot(iterations, loss / first, color=colour(1), lw=1.2, marker=marker, ms=3)
    text = "loss not measured" if np.isnan(first) else f"loss at first {first:.3g}"
    axes.text(0.98, 0.98, text, transform=axes.transAxes, ha="right", va="top", fontsize=SMALL,
              color=colour(1))  # fmt: skip


def search_curves(records: Iterable[Any], path: PathLike, operations: int = 9) -> Path:
    """Draw entropy and strength of every edge of AutoLA's search, one line each, and their means.

    Colours are the nodes that edges lead into, line styles their sources. Dotted in grey is what
    equal shares of all ``operations`` have. Records have ``epoch``, ``edge_entropy`` and
    ``edge_strength``, the latter two ``{"source-node": number}``; others are passed over.
    """
    kept = {r["epoch"]: r for r in records if all(key in r for key in ("epoch", *EDGES))}
    epochs = sorted(kept)
    if not epochs:
        raise ValueError(f"no record with epoch, {' and '.join(EDGES)}: nothing to draw")
    figure = new_figure(8.2, 3.3, layout="constrained")
    equal = (math.log(operations), 1 / operations)
    marker = "o" if len(epochs) == 1 else None
    lines = {}
    for axes, (key, title), level in zip(figure.subplots(1, 2), EDGES.items(), equal):
        quiet(axes)
        axes.axhline(level, color="#999999", lw=0.8, ls=":")
        rows = []
        for edge in kept[epochs[0]][key]:
            source, node = map(int, edge.split("-"))
            rows.append(np.array([kept[epoch][key].get(edge) for epoch in epochs], float))
            (lines[edge],) = axes.plot(epochs, rows[-1], color=colour(node - 1), lw=1.0,
                                       ls=STYLES[source % 4], marker=marker)  # fmt: skip
        (lines["mean"],) = axes.plot(epochs, np.mean(rows, axis=0), color="black", lw=2.2)
        axes.set_title(title, fontsize=LARGE, loc="left")
        axes.set_xlabel("epoch", fontsize=MEDIUM)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    names = [edge.replace("-", " → ") for edge in lines]
    legend(figure, lines.values(), names, loc="outside right center",
           title="source → node\n(0: own group)", title_fontsize=SMALL)  # fmt: skip
    return save(figure, path)


def critique_curves(
    epochs: Any,
    critique: Mapping[str, Any],
    reward: Mapping[str, Any],
    path: PathLike,
    *,
    error: Mapping[str, Any] | None = None,
) -> Path:
    """Draw one panel per attention module: DREAL's critique Q and reward R over the epochs.

    Layout of Figure 4 in the supplement of Deep Reinforced Attention Learning, Li and Chen, ECCV
    2020. The modules of one stage stand in one line, or in several where they are many; for stages
    in the names see :func:`gluon_attn.figures.canvas.stage_lines`. All are ``{module: (E,)}``,
    means over an epoch; nan or None leaves a gap. With ``error``, mean squared errors, a panel says
    the critic's root mean square error in the last epoch.
    """
    epochs = np.asarray(epochs)
    series = [_modules(values, len(epochs)) for values in (critique, reward, error or {})]
    names = list(series[0])
    if not names or not len(epochs) or set(series[1]) != set(names):
        raise ValueError(
            f"{len(epochs)} epochs, critique of {names}, reward of {list(series[1])}: "
            "need the same modules, at least one, and one epoch"
        )
    lines = stage_lines(names, PER_ROW, even=True)
    columns = max(map(len, lines))
    width, height = max(3.6, 1.55 * columns + 0.5), 1.3 * len(lines) + 0.75
    figure = new_figure(width, height, layout="constrained")
    grid = figure.subplots(len(lines), columns, squeeze=False, sharex=True)
    for axes_line, line in zip(grid, lines):
        for axes, name in zip(axes_line, line):
            _critique_panel(axes, epochs, name, series)
        for axes in axes_line[len(line) :]:
            axes.set_visible(False)
    for column in range(columns):  # ticks under the last panel of each column
        last = max(k for k, line in enumerate(lines) if len(line) > column)
        grid[last, column].tick_params(labelbottom=True)
    figure.supxlabel("epoch", fontsize=MEDIUM)
    line_legend(figure, grid[0, 0], ["critique Q", "reward R"])
    return save(figure, path)


def _modules(values: Mapping[str, Any], epochs: int) -> dict[str, np.ndarray]:
    found = {name: np.array(row, dtype=float) for name, row in values.items()}
    for name, row in found.items():
        if row.shape != (epochs,):
            raise ValueError(f"'{name}' has {row.shape} values for {epochs} epochs")
    return found


def _critique_panel(
    axes: Axes, epochs: np.ndarray, name: str, series: Sequence[Mapping[str, np.ndarray]]
) -> None:
    quiet(axes)
    critique, reward, error = series
    marker = "o" if len(epochs) < 3 else None
    for found, ink in ((reward, colour(1)), (critique, colour(0))):
        axes.plot(epochs, found[name], color=ink, lw=1.2, marker=marker, ms=3)
    axes.set_title(name.replace("_", " "), fontsize=SMALL, loc="left", pad=3)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    defined = [e for e in error.get(name, ()) if np.isfinite(e)]
    if defined:
        axes.set_title(f"rms {math.sqrt(defined[-1]):.2f}", fontsize=SMALL - 1, loc="right", pad=3,
                       color="#666666")  # fmt: skip


# Localisation


def iou_curves(
    thresholds: Sequence[float], curves: Mapping[str, Sequence[float]], path: PathLike
) -> Path:
    """Draw the mean IoU of several kinds of map with the masks over the threshold of the maps.

    Both in 0..1; the legend says the mean of each curve, in percent. The last two are baselines,
    drawn in grey.
    """
    names = [f"{name}: {100 * np.mean(values):.1f}" for name, values in curves.items()]
    columns = 2 if max(map(len, names)) <= 40 else 1  # below: names of nets can be long
    figure = new_figure(5.6, 3 + 0.17 * math.ceil(len(names) / columns), layout="constrained")
    axes = figure.subplots()
    quiet(axes)
    lines = []
    for k, values in enumerate(curves.values()):
        grey = len(curves) - k <= 2
        solid = ("-", "-.")[k // len(COLOURS) % 2]  # colours repeat
        ink, style = (NEUTRAL, ("--", ":")[k % 2]) if grey else (colour(k), solid)
        lines += axes.plot(thresholds, values, color=ink, ls=style, lw=1.6)
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.set_xlabel("threshold, share of the map's range", fontsize=MEDIUM)
    axes.set_ylabel("IoU with the mask", fontsize=MEDIUM)
    legend(figure, lines, names, loc="outside lower center", ncols=columns)
    return save(figure, path)
