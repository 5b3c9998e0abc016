"""Tables of results: console, Markdown, CSV and JSON, each with the protocol that made the numbers.

One renderer serves every kind of result: a :class:`Report` says which columns its tables have.
Console and Markdown show percentages and "-" for what is undefined; CSV and JSON hold fractions at
full precision, with an empty field and ``null``. Rows stay in the order of the data set.
"""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Mapping, NamedTuple, Sequence

from tabulate import tabulate

from gluon_attn.core.files import json_text, or_nan, write_text

MEAN = "mean over attributes"  # name of the row
WIDTH = 100  # of the notes under a console table
FORMATS = {"console": "simple", "markdown": "pipe"}

Result = Dict[str, Any]
Row = Mapping[str, Any]


# cells and numbers


def percent(value: float | None, spread: float | None = None) -> str:
    """Return a fraction as a percentage with one decimal, "-" if it is undefined."""
    if value is None or math.isnan(value):
        return "-"
    return f"{100 * value:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def decimal(value: float | None, digits: int = 4, sign: str = "") -> str:
    """Return a number with so many decimals, "-" if it is undefined; ``sign='+'`` shows a plus."""
    return "-" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"


def with_nan(values: Row, keys: Iterable[str]) -> dict[str, float]:
    """Return the entries ``keys`` of a dict with nan for None."""
    return {key: or_nan(values[key]) for key in keys}


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation (n - 1); the latter is None for fewer than two."""
    mean = sum(values) / len(values)
    if len(values) < 2 or math.isnan(mean):
        return mean, None
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Return the ends of Student's confidence interval of the mean, or None for fewer than two.

    It holds for normally distributed values, as differences by seed may be taken to be.
    """
    from scipy.stats import t

    mean, spread = mean_and_spread(values)
    if spread is None:
        return None
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    return mean - half, mean + half


def spread_text(values: Sequence[float], digits: int = 1) -> str:
    """Return mean ± standard deviation (n - 1) of numbers as text."""
    mean, spread = mean_and_spread(values)
    return decimal(mean, digits) + ("" if spread is None else f" ± {spread:.{digits}f}")


def paired_differences(ours: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return ours minus base, seed by seed; ValueError if one has more seeds than the other."""
    if len(ours) != len(base):
        raise ValueError(f"{len(ours)} and {len(base)} numbers: differences are taken by seed")
    return [a - b for a, b in zip(ours, base)]


def difference_text(differences: Sequence[float], digits: int = 1, spread: bool = False) -> str:
    """Return the mean of paired differences with Student's 95 % interval as text."""
    mean, deviation = mean_and_spread(differences)
    ends = mean_interval(differences)
    text = decimal(mean, digits, "+")
    if spread and deviation is not None:
        text += f" ± {deviation:.{digits}f}"
    return text + ("" if ends is None else f" [{ends[0]:+.{digits}f}, {ends[1]:+.{digits}f}]")


def side_by_side(values: Iterable[Sequence[float]]) -> list[str]:
    """Return one cell per model from its runs' values, and the difference if there are two."""
    found = [mean_and_spread(runs) for runs in values]
    cells = [percent(*each) for each in found]
    if len(found) == 2:
        difference = 100 * (found[1][0] - found[0][0])
        cells.append("-" if math.isnan(difference) else f"{difference:+.1f}")
    return cells


# the renderer


def table_text(
    rows: Sequence[Sequence[str]], header: Sequence[str], style: str, rule_after: int | None = None
) -> str:
    """Lay out text cells, the first column to the left, the others to the right.

    ``style`` is ``'console'`` or ``'markdown'``. ``rule_after`` counts the rows before the overall
    ones, which a line sets off on the console and which Markdown prints in bold; None for none.
    """
    if style not in FORMATS:
        raise ValueError(f"style {style!r}: valid are {', '.join(FORMATS)}")
    rule_after = len(rows) if rule_after is None else rule_after
    lines = [[" ".join(str(cell).split()) for cell in row] for row in (header, *rows)]
    if style == "markdown":
        lines = [[cell.replace("|", "\\|") for cell in row] for row in lines]
        for row in lines[1 + rule_after :]:
            row[0] = f"**{row[0]}**"
    # tabulate 0.9 fails on the alignment of columns in a table without rows.
    align = ("left", *("right" for _ in header[1:])) if rows else None
    text = tabulate(lines[1:], lines[0], FORMATS[style], disable_numparse=True, colalign=align)
    if style == "console" and 0 < rule_after < len(rows):
        shown = text.split("\n")
        shown.insert(2 + rule_after, shown[1])
        text = "\n".join(shown)
    return text


def notes_text(lines: Iterable[str], style: str) -> str:
    """Return sentences as a Markdown list, or as lines broken for the console."""
    if style == "markdown":
        return "\n".join(f"* {line}" for line in lines)
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines)


class Column(NamedTuple):
    """A column: which entry of a row it shows, under which heading, and how."""

    key: str
    heading: str
    show: Callable[[Any], str] = percent


class Table(NamedTuple):
    """Rows as dicts, shown by columns; ``overall`` ones stand below, ``note`` is for the notes."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    overall: Sequence[Row] = ()
    note: str = ""

    def text(self, style: str) -> str:
        """Return the table as text."""
        cells = [
            [c.show(row[c.key]) if c.key in row else "" for c in self.columns]
            for row in (*self.rows, *self.overall)
        ]
        return table_text(cells, [c.heading for c in self.columns], style, len(self.rows))


class Report(NamedTuple):
    """How results of one kind are shown, written and read back.

    ``tables`` and ``notes`` (the protocol, and what was undefined) are for people, ``fields`` and
    ``lines`` for the CSV file; ``content`` is what of a result the JSON file holds beside the
    notes, and ``read`` puts nan in the place of its ``null``.
    """

    name: str
    tables: Callable[[Result], list[Table]]
    notes: Callable[[Result], list[str]]
    fields: Sequence[str]
    lines: Callable[[Result], list[Row]]
    content: Callable[[Result], Result] = dict
    read: Callable[[Result], Result] = dict
    indent: int = 1

    def text(self, result: Result, style: str = "console") -> str:
        """Return tables and protocol; ``style`` is ``'console'`` or ``'markdown'``."""
        tables = self.tables(result)
        notes = ["Percentages.", *self.notes(result), *(t.note for t in tables if t.note)]
        parts = [*(table.text(style) for table in tables), notes_text(notes, style)]
        return "\n\n".join(parts) + "\n"

    def csv(self, result: Result) -> str:
        """Return the numbers as CSV text, fractions at full precision, undefined fields empty."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.fields)
        for row in self.lines(result):
            cells = (row.get(key) for key in self.fields)
            writer.writerow("" if cell is None or cell != cell else cell for cell in cells)
        return stream.getvalue()

    def json(self, result: Result) -> str:
        """Return the result with its notes as JSON text; undefined values are ``null``."""
        return json_text({**self.content(result), "notes": self.notes(result)}, self.indent)

    def from_json(self, text: str) -> Result:
        """Return the result that :meth:`json` wrote; ValueError if the text is no such result."""
        content = json.loads(text)
        try:
            return self.read(content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not {self.name}, as its JSON file holds it: {error!r}") from error

    def write(self, result: Result, directory: Any, stem: str) -> dict[str, Path]:
        """Write ``stem.txt``, ``.md``, ``.csv`` and ``.json``, each whole or not at all.

        Returns the paths by suffix.
        """
        texts = {
            "txt": self.text(result), "md": self.text(result, "markdown"),
            "csv": self.csv(result), "json": self.json(result),
        }  # fmt: skip
        paths = {suffix: Path(directory) / f"{stem}.{suffix}" for suffix in texts}
        for suffix, text in texts.items():
            write_text(paths[suffix], text)
        return paths


def columns_of(headings: Mapping[str, str], show: Callable[[Any], str] = percent) -> list[Column]:
    return [Column(key, heading, show) for key, heading in headings.items()]
