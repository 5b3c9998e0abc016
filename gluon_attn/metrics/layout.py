"""How tables of results are laid out: cells, console and Markdown tables, notes, files."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

from tabulate import tabulate

from gluon_attn.core.files import or_nan, write_text

WIDTH = 100  # of the notes under a console table
FORMATS = {"console": "simple", "markdown": "pipe"}


def table_text(rows, header, style, rule_after=None):
    """Lay out text cells, the first column to the left, the others to the right.

    Args:
        rows: Lists of cells.
        header: One heading per column.
        style: ``'console'`` or ``'markdown'``.
        rule_after: Rows before the overall ones, which a line sets off on the console and which
            Markdown prints in bold; None for none.

    Raises:
        ValueError: An unknown style.
    """
    if style not in FORMATS:
        raise ValueError(f"style {style!r}: valid are {', '.join(FORMATS)}")
    rule_after = len(rows) if rule_after is None else rule_after
    rows = [[" ".join(str(cell).split()) for cell in row] for row in rows]
    header = [" ".join(str(cell).split()) for cell in header]
    if style == "markdown":
        rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
        header = [cell.replace("|", "\\|") for cell in header]
        rows[rule_after:] = [[f"**{row[0]}**", *row[1:]] for row in rows[rule_after:]]
    align = ("left", *("right" for _ in header[1:]))
    # tabulate 0.9 fails on the alignment of columns in a table without rows.
    align = align if rows else None
    text = tabulate(rows, header, FORMATS[style], disable_numparse=True, colalign=align)
    if style == "console" and 0 < rule_after < len(rows):
        lines = text.split("\n")
        lines.insert(2 + rule_after, lines[1])
        text = "\n".join(lines)
    return text


def notes_text(lines, style):
    """Return sentences as a Markdown list, or as lines broken for the console."""
    if style == "markdown":
        return "\n".join(f"* {line}" for line in lines)
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines)


def percent(value, spread=None):
    """Return a fraction as a percentage with one decimal, "-" if it is undefined."""
    if value is None or math.isnan(value):
        return "-"
    return f"{100 * value:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def decimal(value: float | None, digits: int = 4, sign: str = "") -> str:
    """Return a number with so many decimals, "-" if it is undefined; ``sign='+'`` shows a plus."""
    return "-" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"


def field(value):
    """Return a fraction at full precision for CSV, empty if it is undefined."""
    return "" if value is None or math.isnan(value) else repr(value)


def with_nan(values, keys):
    """Return the entries ``keys`` of a dict with nan for None."""
    return {key: or_nan(values[key]) for key in keys}


def mean_and_spread(values):
    """Return mean and standard deviation (n - 1); the latter is None for fewer than two."""
    mean = sum(values) / len(values)
    if len(values) < 2 or math.isnan(mean):
        return mean, None
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def mean_interval(values, level=0.95):
    """Return the ends of Student's confidence interval of the mean, or None for fewer than two.

    Args:
        values: Numbers that may be taken for normally distributed, such as differences by seed.
        level: Share in (0, 1).
    """
    from scipy.stats import t

    mean, spread = mean_and_spread(values)
    if spread is None:
        return None
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    return mean - half, mean + half


def spread_text(values, digits=1):
    """Return mean ± standard deviation (n - 1) of numbers as text."""
    mean, spread = mean_and_spread(values)
    return decimal(mean, digits) + ("" if spread is None else f" ± {spread:.{digits}f}")


def paired_differences(ours, base):
    """Return ours minus base, seed by seed.

    Raises:
        ValueError: Not as many of one as of the other.
    """
    if len(ours) != len(base):
        raise ValueError(f"{len(ours)} and {len(base)} numbers: differences are taken by seed")
    return [a - b for a, b in zip(ours, base)]


def difference_text(differences, digits=1, spread=False):
    """Return the mean of paired differences with Student's 95 % interval as text.

    Args:
        differences: Numbers, as :func:`paired_differences` gives them.
        digits: Decimals.
        spread: Whether the standard deviation (n - 1) is shown as well.
    """
    mean, deviation = mean_and_spread(differences)
    ends = mean_interval(differences)
    text = decimal(mean, digits, "+")
    if spread and deviation is not None:
        text += f" ± {deviation:.{digits}f}"
    return text + ("" if ends is None else f" [{ends[0]:+.{digits}f}, {ends[1]:+.{digits}f}]")


def side_by_side(values):
    """Return one cell per model from its runs' values, and the difference if there are two."""
    means = [mean_and_spread(runs)[0] for runs in values]
    cells = [percent(*mean_and_spread(runs)) for runs in values]
    if len(values) == 2:
        difference = 100 * (means[1] - means[0])
        cells.append("-" if math.isnan(difference) else f"{difference:+.1f}")
    return cells


def write_texts(texts, directory, stem):
    """Write ``{suffix: text}`` as ``stem.suffix``, each whole or not at all; return the paths.

    Raises:
        OSError: If a file cannot be written; older files of that name are then untouched.
    """
    paths = {suffix: Path(directory) / f"{stem}.{suffix}" for suffix in texts}
    for suffix, text in texts.items():
        write_text(paths[suffix], text)
    return paths
