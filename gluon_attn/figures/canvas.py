"""What all figures share: an off-screen figure, colours, panels, legends, saving, texts.

Names of attributes and classes come from the data: ``$5 to $10``, ``_``, ``%`` or Chinese are names
like any other. Matplotlib reads what stands between two dollars as a formula, and draws boxes where
its font lacks a character although another font has it; here texts are drawn as they are written.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import warnings
from pathlib import Path
from typing import Any, Collection, Iterable, Iterator, Sequence, Union

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.text import Text

from gluon_attn.core.files import atomic_path

PathLike = Union[str, "os.PathLike[str]"]
Axes = Any  # matplotlib's; its stubs differ between releases
Canvas = Any  # a figure

# Okabe and Ito's palette (distinguishable with the common colour-vision deficiencies), darkest
# first; black is kept for text.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
RIGHT, WRONG, NEUTRAL = "#00694B", "#B53A00", "#666666"
DPI = 150
SMALL, MEDIUM, LARGE = 7, 8.5, 10  # points
FONTS = ("CJK", "Noto Sans", "Sans", "")  # parts of names of font families, the best first

logger = logging.getLogger("gluon_attn.figures")

_warned: list[bool] = []  # whether missing characters have been told in this process


def colour(number: int) -> str:
    """Return the colour of the ``number``-th model, line or box."""
    return COLOURS[number % len(COLOURS)]


def new_figure(width: float, height: float, **options: Any) -> Canvas:
    """Return a figure of ``width`` x ``height`` inches with an Agg canvas and literal texts."""
    figure = LiteralFigure(figsize=(width, height), dpi=DPI, facecolor="white", **options)
    FigureCanvasAgg(figure)
    return figure


def square_columns(count: int) -> int:
    """Return how many columns of panels make a figure slightly wider than high."""
    return min(count, max(1, math.ceil(math.sqrt(1.2 * count))))


def panels(figure: Canvas, rows: int, columns: int, used: int, **options: Any) -> list[Axes]:
    """Return the first ``used`` of rows x columns panels, line by line; the others are hidden."""
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat[used:]:
        axes.set_visible(False)
    return list(grid.flat[:used])


def stage_lines(names: Iterable[str], per_row: int, even: bool = False) -> list[list[str]]:
    """Return names of layers by lines of panels: every stage begins a line of its own.

    The part of a name before the first underscore is its stage: ``stage3_unit0``. ``even`` makes
    the lines of a long stage equally long.
    """
    stages: dict[str, list[str]] = {}
    for name in names:
        stages.setdefault(name.partition("_")[0], []).append(name)
    if even:
        widest = max(map(len, stages.values()))
        per_row = math.ceil(widest / math.ceil(widest / per_row))
    return [row[k : k + per_row] for row in stages.values() for k in range(0, len(row), per_row)]


def quiet(axes: Axes, grid: str = "both") -> None:
    """Take away what distracts: upper and right frame, ticks; add a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(labelsize=SMALL, length=0, colors="#333333")
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color="#E6E6E6", linewidth=0.6)


def legend(owner: Any, handles: Iterable[Any], labels: Sequence[str], **options: Any) -> None:
    """Add a legend to a figure or axes; labels may begin with "_", which matplotlib leaves out."""
    options = {"fontsize": SMALL, "frameon": False, **options}
    drawn = owner.legend(handles, ["-"] * len(labels), **options)
    for text, label in zip(drawn.get_texts(), labels):
        text.set_text(label)


def line_legend(figure: Canvas, axes: Axes, labels: Sequence[str], most: int = 4) -> None:
    """Name lines of the first colours above a figure, at most so many side by side."""
    handles = [axes.plot([], [], color=colour(k), lw=1.6)[0] for k in range(len(labels))]
    columns = min(len(labels), most)
    legend(figure, handles, labels, loc="outside upper center", ncols=columns, fontsize=MEDIUM)


def checked_image(image: Any) -> np.ndarray:
    """Return an image ``(H, W, 3)`` uint8 as an array; TypeError or ValueError for others."""
    image = np.ascontiguousarray(image)
    if image.dtype != np.uint8:
        raise TypeError(f"image must be uint8 in 0..255, is {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"image {image.shape}: must be (H, W, 3)")
    return image


def save(figure: Canvas, path: PathLike) -> Path:
    """Write the figure by way of a temporary file beside it and return its Path.

    Raises a ValueError for a suffix that matplotlib cannot write; after an OSError an older file is
    untouched.
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


# Texts as they are written


class LiteralFigure(Figure):
    """A figure whose texts are drawn as they are written: a ``$`` begins no formula."""

    def draw(self, renderer: Any) -> None:
        with _prepared(self.findobj(Text)):
            super().draw(renderer)


def measure(text: Any) -> None:
    """Let a text and the frame round it know their places, as they will be drawn."""
    with _prepared([text]):
        text.update_bbox_position_size(text.figure.canvas.get_renderer())


@contextlib.contextmanager
def _prepared(texts: Iterable[Text]) -> Iterator[None]:
    """Prepare texts; what no font has is told here, once, and not at every drawing."""
    _tell(set().union(*map(_literal, texts)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ ")
        yield


def _literal(text: Text) -> set[str]:
    """Let a text be drawn as it is written; return its characters that no font has."""
    text.set_parse_math(False)
    text.set_usetex(False)
    if text.get_text().isascii():
        return set()
    families, lost = families_for(frozenset(text.get_text()), tuple(text.get_fontfamily()))
    text.set_fontfamily(list(families))
    return set(lost)


@functools.lru_cache(maxsize=None)
def families_for(characters: frozenset[str], own: tuple[str, ...]) -> tuple[Any, frozenset[str]]:
    """Return the font families for some characters, ``own`` first, and which no font has."""
    chosen, lost = list(own), _lacking(characters, own)
    for name in _others() if lost else ():
        left = _lacking(lost, (name,))
        if len(left) < len(lost):
            chosen.append(name)
            lost = left
        if not lost:
            break
    return tuple(chosen), lost


def file_for(text: str) -> str:
    """Return the font file that has the most characters of a text, for drawing by others."""
    families, lost = families_for(frozenset(text), tuple(FontProperties().get_family()))
    _tell(lost)
    files = [file for file in map(_file, families) if file]
    return max(files, key=lambda file: sum(_has(file, c) for c in text))


def _lacking(characters: Iterable[str], families: Iterable[str]) -> frozenset[str]:
    files = [file for file in map(_file, families) if file]
    return frozenset(
        c for c in characters if not c.isspace() and not any(_has(file, c) for file in files)
    )


@functools.lru_cache(maxsize=None)
def _file(family: str) -> str | None:
    try:
        properties = FontProperties(family=[family])  # a text would be read as a pattern
        return str(font_manager.findfont(properties, fallback_to_default=False))
    except ValueError:
        return None


def _has(file: str, character: str) -> bool:
    return font_manager.get_font(file).get_char_index(ord(character)) != 0


@functools.lru_cache(maxsize=None)
def _others() -> tuple[str, ...]:
    """Return the names of all installed families, those first that are likely to be wanted."""
    known = {entry.fname for entry in fontManager.ttflist}
    for file in set(font_manager.findSystemFonts()) - known:  # installed after matplotlib's list
        try:
            fontManager.addfont(file)
        except (RuntimeError, OSError, ValueError):  # of a kind that matplotlib cannot draw
            continue
    names = {e.name for e in fontManager.ttflist if "last resort" not in e.name.lower()}
    readable = [name for name in names if _is_readable(name)]
    rank = {n: next(k for k, part in enumerate(FONTS) if part in n) for n in readable}
    return tuple(sorted(readable, key=lambda name: (rank[name], name)))


def _is_readable(name: str) -> bool:
    try:
        file = _file(name)
        return bool(file) and _has(str(file), " ") is not None
    except (RuntimeError, OSError):
        return False


def _tell(lost: Collection[str]) -> None:
    """Warn once in a process that characters are drawn as boxes."""
    if not lost or _warned:
        return
    _warned.append(True)
    shown = "".join(sorted(lost)[:20])
    logger.warning(
        "No installed font has the characters %s%s: figures show boxes in their place. Install a "
        "font that has them, such as Noto Sans CJK (Debian: fonts-noto-cjk), or name it in "
        "matplotlib's setting font.family",
        shown,
        " and others" if len(lost) > 20 else "",
    )
