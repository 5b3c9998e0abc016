"""Tables of single-label accuracy: console, Markdown, CSV and JSON, each with its protocol.

Input is the dict that :func:`gluon_attn.metrics.classification.evaluate_classification` returns.
Console and Markdown show the worst classes and the commonest confusions in percentages; CSV and
JSON hold every class at full precision.
"""

from __future__ import annotations

import csv
import io
import math

from gluon_attn.core.files import json_text
from gluon_attn.metrics.layout import (
    field,
    notes_text,
    percent,
    table_text,
    write_texts,
)

SHOWN = 20  # classes and pairs in the tables that people read
COLUMNS = ("images", "correct", "predicted", "recall", "precision", "f1")


def classification_text(result, style="console", shown=SHOWN):
    """Return overall accuracy, the classes with the lowest recall, confusions and the protocol.

    Args:
        result: What ``evaluate_classification`` returned.
        style: ``'console'`` or ``'markdown'``.
        shown: How many classes and how many pairs are shown.
    """
    overall = [[name, percent(value)] for name, value in result["overall"].items()]
    parts = [table_text(overall, ["measure", "%"], style)]
    seen = [row for row in result["classes"] if row["images"]]
    worst = sorted(seen, key=lambda row: row["recall"])[:shown]
    rows = [
        [row["name"], str(row["images"]), *(percent(row[c]) for c in COLUMNS[3:]),
         f"{row['confused_with']} ({row['confused']})" if row["confused"] else "-"]
        for row in worst
    ]  # fmt: skip
    parts.append(table_text(rows, ["class", "images", *COLUMNS[3:], "most often taken for"], style))
    pairs = [[p["true"], p["predicted"], str(p["images"])] for p in result["confusions"][:shown]]
    if pairs:
        parts.append(table_text(pairs, ["true class", "predicted", "images"], style))
    notes = classification_notes(result)
    if len(worst) < len(result["classes"]):
        notes.append(f"Classes: the {len(worst)} with the lowest recall; all are in the CSV file.")
    parts.append(notes_text(["Percentages.", *notes], style))
    return "\n\n".join(parts) + "\n"


def classification_notes(result):
    """Return the protocol of a result as a list of sentences."""
    lines = [
        f"{result['samples']} samples, {len(result['classes'])} classes; one crop per image.",
        "Top-k: the right class is among the k highest; of equal scores the lower class number "
        "counts as higher.",
        '"balanced" is the mean recall of the classes that occur; "majority" is the accuracy of '
        "always predicting the commonest class.",
    ]
    margin = result.get("margin", {"distance": None})  # absent in older files
    if margin["distance"] is not None and not math.isnan(margin["distance"]):
        lines.append(
            "Kolmogorov-Smirnov distance between the probabilities of the right and of the most "
            f"probable wrong class: {margin['distance']:.2f}, at {margin['at']:.2f}."
        )
    if result["left_out"]:
        lines.append(f"{result['left_out']} samples without a known class are left out.")
    return lines


def classification_csv(result):
    """Return one line per class and per overall measure as CSV text, undefined fields empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("row", "name", "value", *COLUMNS, "confused_with", "confused"))
    for name, value in result["overall"].items():
        writer.writerow(("overall", name, field(value), *[""] * (len(COLUMNS) + 2)))
    for row in result["classes"]:
        values = [row[c] if isinstance(row[c], int) else field(row[c]) for c in COLUMNS]
        writer.writerow(
            ("class", row["name"], "", *values, row["confused_with"] or "", row["confused"])
        )
    return stream.getvalue()


def classification_json(result):
    """Return the result with its notes as JSON text; undefined values are ``null``."""
    content = {**result, "notes": classification_notes(result)}
    return json_text(content)


def write_classification(result, directory, stem):
    """Write ``stem.txt``, ``.md``, ``.csv`` and ``.json``, each whole or not at all.

    Returns:
        A dict from suffix to the path written.

    Raises:
        OSError: If a file cannot be written; older files of that name are then untouched.
    """
    texts = {
        "txt": classification_text(result), "md": classification_text(result, "markdown"),
        "csv": classification_csv(result), "json": classification_json(result),
    }  # fmt: skip
    return write_texts(texts, directory, stem)
