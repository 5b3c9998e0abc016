"""Texts as they are written: no mathematics between dollars, and a font that has the characters.

Names of attributes and classes come from the data: ``$5 to $10``, ``_``, ``%`` or Chinese are names
like any other. Matplotlib reads what stands between two dollars as a formula, and draws boxes where
its font lacks a character although another font has it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from typing import Any, Iterable, Iterator

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.text import Text

logger = logging.getLogger("gluon_attn.figures")

PREFERRED = ("CJK", "Noto Sans", "Sans", "")  # parts of names of families, the best first
_warned = []  # whether missing characters have been told in this process


class LiteralFigure(Figure):
    """A figure whose texts are drawn as they are written."""

    def draw(self, renderer: Any) -> None:
        """Draw, having prepared every text."""
        with _told(self.findobj(Text)):
            super().draw(renderer)


def measure(text: Text) -> None:
    """Let a text and the frame round it know their places, as they will be drawn."""
    with _told([text]):
        text.update_bbox_position_size(text.figure.canvas.get_renderer())


@contextlib.contextmanager
def _told(texts: Iterable[Text]) -> Iterator[None]:
    """Prepare texts; what no font has is told here, once, and not at every drawing."""
    _tell(set().union(*map(literal, texts)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ ")
        yield


def literal(text: Text) -> set:
    """Let a text be drawn as it is written; return its characters that no font has."""
    text.set_parse_math(False)
    text.set_usetex(False)
    if text.get_text().isascii():
        return set()
    families, lost = families_for(frozenset(text.get_text()), tuple(text.get_fontfamily()))
    text.set_fontfamily(list(families))
    return set(lost)


@functools.lru_cache(maxsize=None)
def families_for(characters: frozenset, own: tuple) -> tuple[tuple, frozenset]:
    """Return the font families for some characters, and which of them no installed font has.

    Args:
        characters: To be drawn.
        own: Families that are preferred; they come first.
    """
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
    """Return the font file that has the most characters of a text, in matplotlib's own font first.

    For what is drawn without matplotlib.
    """
    families, lost = families_for(frozenset(text), tuple(FontProperties().get_family()))
    _tell(lost)
    files = [_file(family) for family in families]
    return max(filter(None, files), key=lambda file: sum(_has(file, c) for c in text))


def _lacking(characters: Iterable[str], families: tuple) -> frozenset:
    files = [file for file in map(_file, families) if file]
    return frozenset(
        c for c in characters if not c.isspace() and not any(_has(file, c) for file in files)
    )


@functools.lru_cache(maxsize=None)
def _file(family: str) -> str | None:
    """Return the file of a family, or None if it is not installed."""
    try:
        properties = FontProperties(family=[family])  # a text would be read as a pattern
        return font_manager.findfont(properties, fallback_to_default=False)
    except ValueError:
        return None


def _has(file: str, character: str) -> bool:
    return font_manager.get_font(file).get_char_index(ord(character)) != 0


@functools.lru_cache(maxsize=None)
def _others() -> tuple:
    """Return the names of all installed families, those first that are likely to be wanted."""
    known = {entry.fname for entry in fontManager.ttflist}
    for file in set(font_manager.findSystemFonts()) - known:  # installed after matplotlib's list
        try:
            fontManager.addfont(file)
        except (RuntimeError, OSError, ValueError):  # of a kind that matplotlib cannot draw
            continue
    names = {e.name for e in fontManager.ttflist if "last resort" not in e.name.lower()}
    readable = [name for name in names if _is_readable(name)]
    rank = {n: next(k for k, part in enumerate(PREFERRED) if part in n) for n in readable}
    return tuple(sorted(readable, key=lambda name: (rank[name], name)))


def _is_readable(name: str) -> bool:
    try:
        return bool(_file(name)) and _has(_file(name), " ") is not None
    except (RuntimeError, OSError):
        return False


def _tell(lost: Iterable[str]) -> None:
    """Warn once in a process that characters are drawn as boxes."""
    if not lost or _warned:
        return
    _warned.append(True)
    shown = "".join(sorted(lost)[:20])
    logger.warning(
        "No installed font has the characters %s%s: figures show boxes in their place. Install a "
        "font that has them, such as Noto Sans CJK (Debian: fonts-noto-cjk), or name it in "
        "matplotlib's setting font.family", shown, " and others" if len(lost) > 20 else "",
    )  # fmt: skip
