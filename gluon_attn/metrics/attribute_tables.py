"""Tables of accuracy per attribute: console, Markdown, CSV and JSON, each with its protocol.

Input is the dict that :func:`gluon_attn.metrics.attributes.evaluate_attributes` returns. Console
and Markdown show percentages with one decimal and "-" for undefined values; CSV and JSON hold
fractions at full precision, with an empty field and ``null``.
"""

from __future__ import annotations

import csv
import io
import json

from gluon_attn.core.files import json_text
from gluon_attn.core.schema import MULTICLASS
from gluon_attn.metrics.attributes import MEASURES
from gluon_attn.metrics.layout import (
    field,
    notes_text,
    percent,
    side_by_side,
    table_text,
    with_nan,
    write_texts,
)

HEADINGS = {
    "accuracy": "accuracy",
    "accuracy_without_none": "without none",
    "balanced": "balanced",
    "majority": "majority",
}


def accuracy_text(result, style="console"):
    """Return the accuracy table, one of the classes if there are any, and the protocol.

    Args:
        result: What ``evaluate_attributes`` returned.
        style: ``'console'`` or ``'markdown'``.
    """
    rows = [
        [row["name"], _kind(row), str(row["known"]), _none(row),
         *(percent(row[m]) for m in MEASURES)]
        for row in result["attributes"]
    ]  # fmt: skip
    count = len(rows)
    rows.append(["mean", "", "", "", *(percent(result["overall"][m]) for m in MEASURES)])
    header = ["attribute", "kind", "known", "none", *(HEADINGS[m] for m in MEASURES)]
    parts = [table_text(rows, header, style, rule_after=count)]
    classes = [(row["name"], c) for row in result["attributes"] for c in row["classes"]]
    if classes:
        rows = [
            [f"{name}: {c['name']}", str(c["positives"]), str(c["predicted"]),
             percent(c["precision"]), percent(c["recall"])]
            for name, c in classes
        ]  # fmt: skip
        header = ["class", "pos", "predicted", "precision", "recall"]
        parts.append(table_text(rows, header, style))
    parts.append(notes_text(["Percentages.", *accuracy_notes(result)], style))
    return "\n\n".join(parts) + "\n"


def accuracy_notes(result):
    """Return the protocol of a result, and what was undefined, as a list of sentences."""
    several = any(row["kind"] == MULTICLASS for row in result["attributes"])
    lines = [
        f"{result['samples']} samples; images whose label is unknown do not count for that "
        "attribute.",
        f"A binary attribute is predicted where its probability is at least "
        f"{result['threshold']:g}.",
    ]
    if several:
        lines.append(
            "Of several classes the most probable one is predicted; any class that the image has "
            'is right. "none" counts images with none of the classes: always wrong in "accuracy" '
            '(the official rule), left out in "without none".'
        )
    lines.append(
        '"balanced" is the mean recall of the classes that occur; "majority" is the accuracy of '
        "always predicting the commonest class."
    )
    if result["worst"] is not None:
        lines.append(f"Lowest accuracy: {result['worst']}.")
    if result["undefined"]:
        lines.append(
            f"Without a known label, and left out of means: {', '.join(result['undefined'])}."
        )
    return lines


def accuracy_csv(result):
    """Return attributes, classes and the mean as CSV text, undefined fields empty.

    The column ``row`` is ``attribute``, ``class`` (named ``attribute=class``) or ``overall``.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    counts = ("known", "none", "positives", "predicted")
    writer.writerow(("row", "name", "kind", *counts, *MEASURES, "precision", "recall"))
    for row in result["attributes"]:
        values = [field(row[m]) for m in MEASURES]
        writer.writerow(
            ("attribute", row["name"], row["kind"], row["known"], row["none"], "", "", *values,
             "", "")
        )  # fmt: skip
        for c in row["classes"]:
            blank = ("",) * len(MEASURES)
            writer.writerow(
                ("class", f"{row['name']}={c['name']}", "", "", "", c["positives"],
                 c["predicted"], *blank, field(c["precision"]), field(c["recall"]))
            )  # fmt: skip
    means = [field(result["overall"][m]) for m in MEASURES]
    writer.writerow(("overall", "mean over attributes", "", "", "", "", "", *means, "", ""))
    return stream.getvalue()


def accuracy_json(result):
    """Return the result with its notes as JSON text; undefined values are ``null``."""
    content = {**result, "notes": accuracy_notes(result)}
    return json_text(content, 2)


def accuracy_from_json(text):
    """Return the result that :func:`accuracy_json` wrote, ``null`` as nan again.

    Raises:
        ValueError: If the text is not JSON or not such a result.
    """
    content = json.loads(text)
    try:
        for row in content["attributes"]:
            row.update(with_nan(row, MEASURES))
            for c in row["classes"]:
                c.update(with_nan(c, ("precision", "recall")))
        content["overall"].update(with_nan(content["overall"], MEASURES))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an accuracy result, as accuracy_json writes it: {error!r}") from None
    return content


def write_accuracy(result, directory, stem):
    """Write ``stem.txt``, ``.md``, ``.csv`` and ``.json``, each whole or not at all.

    Returns:
        A dict from suffix to the path written.

    Raises:
        OSError: If a file cannot be written; older files of that name are then untouched.
    """
    texts = {
        "txt": accuracy_text(result), "md": accuracy_text(result, "markdown"),
        "csv": accuracy_csv(result), "json": accuracy_json(result),
    }  # fmt: skip
    return write_texts(texts, directory, stem)


def compare_accuracy(results, style="console", measure="accuracy"):
    """Return a table of several models side by side: attributes, their mean, and the worst one.

    Args:
        results: A dict from model name to a list of results from runs with different seeds, shown
            as mean and standard deviation (n - 1). "worst" is the lowest value of each run.
        style: ``'console'`` or ``'markdown'``.
        measure: One of ``MEASURES``.

    Raises:
        ValueError: If the measure is unknown or the attributes differ.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure {measure!r}: valid are {', '.join(MEASURES)}")
    every = [result for runs in results.values() for result in runs]
    names = [[row["name"] for row in result["attributes"]] for result in every]
    if not every or any(n != names[0] for n in names):
        raise ValueError("results of the same attributes are needed")
    rows = [
        [name, *side_by_side([[r["attributes"][a][measure] for r in runs]
                              for runs in results.values()])]
        for a, name in enumerate(names[0])
    ]  # fmt: skip
    mean = [[r["overall"][measure] for r in runs] for runs in results.values()]
    worst = [[lowest(r, measure) for r in runs] for runs in results.values()]
    rows += [["mean", *side_by_side(mean)], ["worst", *side_by_side(worst)]]
    header = [f"{HEADINGS[measure]} %", *results] + ["difference"] * (len(results) == 2)
    return table_text(rows, header, style, rule_after=len(names[0]))


def lowest(result, measure):
    """Return the lowest defined value of a measure over the attributes, nan if there is none."""
    values = [row[measure] for row in result["attributes"] if row[measure] == row[measure]]
    return min(values, default=float("nan"))


def _kind(row):
    return "binary" if row["kind"] != MULTICLASS else f"{len(row['classes'])} classes"


def _none(row):
    return str(row["none"]) if row["kind"] == MULTICLASS else ""
