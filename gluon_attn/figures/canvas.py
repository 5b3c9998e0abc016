"""What all figures share: an off-screen figure, colours, quiet axes, atomic saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg

from gluon_attn.core.files import atomic_path
from gluon_attn.figures.fonts import LiteralFigure

# Okabe and Ito's palette (distinguishable with the common colour-vision deficiencies), darkest
# first; black is kept for text.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
RIGHT, WRONG, NEUTRAL = "#00694B", "#B53A00", "#666666"
DPI = 150
SMALL, MEDIUM, LARGE = 7, 8.5, 10  # points


def colour(number):
    """Return the colour of the ``number``-th model, line or box."""
    return COLOURS[number % len(COLOURS)]


def new_figure(width, height, **options):
    """Return a Figure of ``width`` x ``height`` inches with an Agg canvas.

    Its texts are drawn as they are written: a ``$`` begins no formula.
    """
    figure = LiteralFigure(figsize=(width, height), dpi=DPI, facecolor="white", **options)
    FigureCanvasAgg(figure)
    return figure


def quiet(axes, grid="both"):
    """Take away what distracts: upper and right frame, ticks; add a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(labelsize=SMALL, length=0, colors="#333333")
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color="#E6E6E6", linewidth=0.6)


def legend(owner: Any, handles: Sequence, labels: Sequence[str], **options: Any) -> Any:
    """Add a legend to a figure or axes; labels may begin with "_", which matplotlib leaves out."""
    drawn = owner.legend(handles, ["-"] * len(labels), **options)
    for text, label in zip(drawn.get_texts(), labels):
        text.set_text(label)
    return drawn


def save(figure, path):
    """Write the figure by way of a temporary file beside it and return its Path.

    Raises:
        ValueError: If matplotlib cannot write files of that suffix.
        OSError: If the file cannot be written; an older one is then untouched.
    """
    path = Path(path)
    suffix = path.suffix.lower().lstrip(".")
    supported = figure.canvas.get_supported_filetypes()
    if suffix not in supported:
        raise ValueError(
            f"'{path}': unknown figure type, valid are .{', .'.join(sorted(supported))}"
        )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=suffix)
    return path
