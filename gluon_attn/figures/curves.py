"""Precision-recall curves of every attribute, and how a training run went."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve

from gluon_attn.core.text import read_json_lines
from gluon_attn.figures.canvas import LARGE, MEDIUM, SMALL, colour, legend, new_figure, quiet, save

logger = logging.getLogger(__name__)

NAMED = "named"  # group of the lines that a legend names


def pr_curves(probs, labels, mask, names, path, columns=None):
    """Draw one precision-recall panel per attribute, several models overlaid.

    The strong line is the interpolated precision (the envelope), so the AP in the panel is the area
    under it; the faint line is the raw precision at each distinct score; the dotted one is the
    positive rate, which a random ranking reaches.

    Args:
        probs: ``(N, A)`` probabilities, or a dict from model name to such arrays.
        labels: ``(N, A)`` in {0, 1}.
        mask: ``(N, A)`` in {0, 1}, or None for all known.
        names: The A attribute names.
        path: Where to write; the suffix decides the type.
        columns: Panels per row; by default what makes the figure slightly wider than high.

    Returns:
        The Path written.

    Raises:
        ValueError: If shapes do not fit, there is nothing to draw, or a known score is not finite.
    """
    models = probs if isinstance(probs, dict) else {"": probs}
    labels = np.asarray(labels)
    known = np.ones(labels.shape, bool) if mask is None else np.asarray(mask) != 0
    models = {name: np.asarray(p, dtype=np.float64) for name, p in models.items()}
    _require_shapes(models, labels, known, names)
    columns = columns or max(1, math.ceil(math.sqrt(1.2 * len(names))))
    rows = math.ceil(len(names) / columns)
    above = 0.3 if len(models) > 1 else 0
    figure = new_figure(1.75 * columns + 0.3, 1.9 * rows + 0.3 + above, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for a, (axes, name) in enumerate(zip(grid.flat, names)):
        of_attribute = {m: p[known[:, a], a] for m, p in models.items()}
        _pr_panel(axes, of_attribute, labels[known[:, a], a] == 1, name)
        axes.tick_params(labelbottom=a + columns >= len(names))
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("recall", fontsize=MEDIUM)
    figure.supylabel("precision", fontsize=MEDIUM)
    if len(models) > 1:
        lines = [grid[0, 0].plot([], [], color=colour(k), lw=1.6)[0] for k in range(len(models))]
        legend(
            figure, lines, list(models), loc="outside upper center", ncols=len(models),
            frameon=False, fontsize=MEDIUM,
        )  # fmt: skip
    return save(figure, path)


def _require_shapes(models, labels, known, names):
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


def _pr_panel(axes, scores, positive, name):
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
        axes.step(
            np.append(recall, 0), np.append(envelope, envelope[-1]), where="post",
            color=colour(k), lw=1.4,
        )  # fmt: skip


def training_curves(records, path):
    """Draw losses, validation metrics and learning rate against the epoch.

    Args:
        records: The path of a file with one JSON object per line, or the list of those dicts, or a
            dict from run name to either, to draw runs on top of each other. Drawn are ``loss`` and
            ``loss_*``, ``val_*`` and ``lr`` against ``epoch``; bands mark each ``phase``. Records
            without an epoch are passed over, missing or null values leave a gap, and of an epoch
            that was repeated after a resume the last record counts.
        path: Where to write; the suffix decides the type.

    Returns:
        The Path written.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is not a JSON object (file and line are named; an incomplete last
            line, as a killed run may leave it, is skipped with a warning), or there is nothing to
            draw.
    """
    runs = records if isinstance(records, dict) else {"": records}
    runs = {name: _by_epoch(_read(source)) for name, source in runs.items()}
    keys = list(dict.fromkeys(k for run in runs.values() for record in run for k in record))
    losses = [k for k in keys if k.startswith(("loss", "val_loss"))]
    panels = {
        "loss": losses,
        "validation": [k for k in keys if k.startswith("val_") and k not in losses],
        "learning rate": [k for k in keys if k == "lr"],
    }
    panels = {title: drawn for title, drawn in panels.items() if drawn}
    if not panels:
        raise ValueError("no record with an epoch and a loss, val_... or lr: nothing to draw")
    figure = new_figure(3.5 * len(panels), 2.9, layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, drawn) in zip(grid, panels.items()):
        _training_panel(axes, runs, drawn, title)
    entries = max(_legend(axes) for axes in grid)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.16 * math.ceil(entries / 2))
    return save(figure, path)


def _legend(axes, room=5):
    """Name the lines inside the panel, or below it if they are many; return how many are below."""
    lines = [line for line in axes.lines if line.get_gid() == NAMED]
    labels = [line.get_label() for line in lines]
    if len(lines) <= room:
        if lines:
            legend(axes, lines, labels, fontsize=SMALL, frameon=False)
        return 0
    legend(
        axes, lines, labels, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2,
        fontsize=SMALL, frameon=False,
    )  # fmt: skip
    return len(lines)


def _read(source):
    """Return the records of a JSON-lines file; a list of records is returned as it is."""
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


def _by_epoch(records):
    latest = {record["epoch"]: record for record in records if record.get("epoch") is not None}
    return [latest[epoch] for epoch in sorted(latest)]


def _series(run, key):
    values = [record.get(key) for record in run]
    return np.array([v if isinstance(v, (int, float)) else np.nan for v in values], dtype=float)


def _training_panel(axes, runs, keys, title):
    quiet(axes)
    percent = title == "validation"
    styles = ("-", "--", ":", "-.")
    for r, (name, run) in enumerate(runs.items()):
        epochs = [record["epoch"] for record in run]
        for k, key in enumerate(keys):
            values = _series(run, key)
            if np.isnan(values).all():
                continue
            scale = 100 if percent and np.nanmax(np.abs(values)) <= 1 else 1
            # One run: a colour per key. Several: a colour per run and a line style per key.
            look = (r, k) if len(runs) > 1 else (k, 0)
            shown = "" if title == "learning rate" else _readable(key)
            label = " ".join(part for part in (name, shown) if part)
            if key == "val_mAP":
                best = int(np.nanargmax(values))
                label += f", best {scale * values[best]:.1f}"
                axes.plot(epochs[best], scale * values[best], "o", ms=7, mfc="none", color="black")
            axes.plot(
                epochs, scale * values, color=colour(look[0]), ls=styles[look[1] % 4], lw=1.4,
                marker="o" if len(epochs) <= 15 else None, ms=3, label=label or "_",
                gid=NAMED if label else None,
            )  # fmt: skip
    if title == "learning rate":
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")  # matplotlib's own would be a formula
    axes.set_title(title + (" (%)" if percent else ""), fontsize=LARGE, loc="left", pad=12)
    axes.set_xlabel("epoch", fontsize=MEDIUM)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(runs) == 1:
        _mark_phases(axes, next(iter(runs.values())))


def _readable(key):
    for prefix in ("loss_", "val_"):
        if key.startswith(prefix):
            return key[len(prefix) :]
    return key


def _mark_phases(axes, run):
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
        axes.text(
            edges[i], 1.01, f" {phase}", transform=axes.get_xaxis_transform(), fontsize=SMALL,
            color="#666666", ha="left", va="bottom",
        )  # fmt: skip
    axes.set_xlim(low, high)
