"""Tables of multi-label results: console, Markdown, CSV and JSON, each with its protocol.

Input is the dict that ``gluon_attn.metrics.multilabel.evaluate_multilabel`` returns. Console and
Markdown show percentages with one decimal and "-" for undefined values; CSV and JSON hold fractions
at full precision, with an empty field and ``null``. Attributes stay in the order of the data set.
"""

from __future__ import annotations

import csv
import io
import json

from gluon_attn.core.files import json_text
from gluon_attn.metrics.layout import (
    field,
    notes_text,
    percent,
    side_by_side,
    table_text,
    with_nan,
    write_texts,
)
from gluon_attn.metrics.multilabel import MEASURES

COUNTS = ("positives", "negatives", "unspecified")
HEADINGS = {
    "positives": "pos",
    "negatives": "neg",
    "unspecified": "unspec",
    "ap": "AP",
    "ap_sklearn": "AP (sklearn)",
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "ma": "mA",
}
# The rows under the attributes: which overall number stands in which column.
SUMMARY_ROWS = {
    "mean over attributes": {
        "ap": "mAP",
        "ap_sklearn": "mAP_sklearn",
        "accuracy": "accuracy",
        "precision": "CP",
        "recall": "CR",
        "f1": "CF1",
        "ma": "mA",
    },
    "pooled over labels": {"precision": "OP", "recall": "OR", "f1": "OF1"},
    "mean over instances": {
        "accuracy": "instance_accuracy",
        "precision": "instance_precision",
        "recall": "instance_recall",
        "f1": "instance_f1",
    },
}
COMPARED = {
    "mAP": "mAP",
    "mAP (sklearn)": "mAP_sklearn",
    "mA": "mA",
    "instance accuracy": "instance_accuracy",
    "instance precision": "instance_precision",
    "instance recall": "instance_recall",
    "instance F1": "instance_f1",
}


def to_console(result):
    """Return the per-attribute table, overall rows and protocol notes as plain text."""
    return _render(result, "console")


def to_markdown(result):
    """Return the same as :func:`to_console` as a GitHub-flavoured Markdown table and list."""
    return _render(result, "markdown")


def to_csv(result):
    """Return the table as CSV text, fractions at full precision, undefined fields empty.

    The column ``kind`` is ``attribute`` or ``overall``. An overall number stands in the column of
    what it summarises: mAP in ``ap``, CP and OP in ``precision``, and so on.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("kind", "name", *HEADINGS))
    for row in result["attributes"]:
        writer.writerow(("attribute", row["name"], *(field(row[key]) for key in HEADINGS)))
    for name, row in _summary(result).items():
        writer.writerow(("overall", name, *(field(row.get(key)) for key in HEADINGS)))
    return stream.getvalue()


def to_json(result):
    """Return the result with its notes as JSON text; undefined values are ``null``."""
    content = {**result, "notes": notes(result)}
    return json_text(content, 2)


def from_json(text):
    """Return the result that :func:`to_json` wrote, ``null`` as nan again.

    Raises:
        ValueError: If the text is not JSON or not such a result.
    """
    content = json.loads(text)
    try:
        rows = [{**row, **with_nan(row, MEASURES)} for row in content["attributes"]]
        overall = with_nan(content["overall"], content["overall"])
        return {**content, "attributes": rows, "overall": overall}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a multi-label result, as to_json writes it: {error!r}") from error


def write_report(result, directory, stem):
    """Write ``stem.txt``, ``.md``, ``.csv`` and ``.json``, each whole or not at all.

    Args:
        result: What ``evaluate_multilabel`` returned.
        directory: Made if missing.
        stem: File name without suffix.

    Returns:
        A dict from suffix (``'txt'``, ``'md'``, ``'csv'``, ``'json'``) to the path written.

    Raises:
        OSError: If a file cannot be written; older files of that name are then untouched.
    """
    texts = {
        "txt": to_console(result),
        "md": to_markdown(result),
        "csv": to_csv(result),
        "json": to_json(result),
    }
    return write_texts(texts, directory, stem)


def compare(results, style="console", measure="ap"):
    """Return a table of several models side by side, one line per attribute, then the overall ones.

    With two models a column shows the difference, second minus first, in percentage points.

    Args:
        results: A dict from model name to what ``evaluate_multilabel`` returned, or to a list of
            such dicts from runs with different seeds, shown as mean and standard deviation (n - 1).
        style: ``'console'`` or ``'markdown'``.
        measure: The per-attribute measure: one of ``ap``, ``ap_sklearn``, ``accuracy``,
            ``precision``, ``recall``, ``f1``, ``ma``.

    Raises:
        ValueError: If there is no result, the measure or style is unknown, or the results are not
            of the same data: attributes or numbers of positives and negatives differ.
    """
    runs = {name: r if isinstance(r, (list, tuple)) else [r] for name, r in results.items()}
    if measure not in MEASURES:
        raise ValueError(f"measure {measure!r}: valid are {', '.join(MEASURES)}")
    first = _require_same_data(runs)
    table = []
    for a, row in enumerate(first["attributes"]):
        values = [[r["attributes"][a][measure] for r in rs] for rs in runs.values()]
        table.append([row["name"], str(row["positives"]), *side_by_side(values)])
    for label, key in COMPARED.items():
        values = [[r["overall"][key] for r in rs] for rs in runs.values()]
        table.append([label, "", *side_by_side(values)])
    header = [HEADINGS[measure] + " %", "pos", *runs] + (["difference"] if len(runs) == 2 else [])
    text = table_text(table, header, style, rule_after=len(first["attributes"]))
    return text + "\n\n" + notes_text(_compared_notes(runs, measure), style) + "\n"


def notes(result):
    """Return the protocol of a result, and what was undefined, as a list of sentences."""
    overall = (
        "The mean over attributes gives mAP, mA, CP, CR and CF1 (CF1 from CP and CR), pooling "
        "gives OP, OR and OF1; an attribute with positives that is never predicted has precision 0 "
        "in CP, one without positives is left out of CP and CR."
    )
    return [*_protocol(result), overall, *_undefined([result], MEASURES)]


def _protocol(result):
    threshold = result["threshold"]
    threshold = threshold if isinstance(threshold, float) else "a threshold per attribute"
    unspecified = sum(row["unspecified"] for row in result["attributes"])
    total = result["samples"] * len(result["attributes"])
    empty = result["samples_without_positives"]
    treated = {"leave-out": "left out of", "zero": "counted as 0 in"}[result["empty"]]
    return [
        f"{result['samples']} samples; {unspecified} of {total} labels are unspecified and count "
        "nowhere.",
        f"An attribute is predicted where its probability is at least {threshold}.",
        "AP is the area under the interpolated precision-recall curve (PASCAL VOC, all points); "
        "AP (sklearn) is not interpolated; samples with equal scores share a threshold.",
        "mA is the mean of (true positive rate + true negative rate) / 2.",
        "Instance metrics follow the RAP / PETA protocol, F1 from mean precision and mean recall; "
        f"{empty} samples without a positive label are {treated} the instance means.",
    ]


def _summary(result):
    """Return for each overall row the values by column."""
    return {
        name: {column: result["overall"][key] for column, key in keys.items()}
        for name, keys in SUMMARY_ROWS.items()
    }


def _render(result, style):
    counts = [key for key in COUNTS if key != "unspecified" or any(_unspecified(result))]
    columns = [*counts, *MEASURES]
    table = [
        [row["name"], *(str(row[key]) for key in counts), *(percent(row[key]) for key in MEASURES)]
        for row in result["attributes"]
    ]
    for name, row in _summary(result).items():
        cells = (percent(row[key]) if key in row else "" for key in MEASURES)
        table.append([name, *("" for _ in counts), *cells])
    header = ["attribute", *(HEADINGS[key] for key in columns)]
    text = table_text(table, header, style, rule_after=len(result["attributes"]))
    return text + "\n\n" + notes_text(["Percentages.", *notes(result)], style) + "\n"


def _unspecified(result):
    return (row["unspecified"] for row in result["attributes"])


def _compared_notes(runs, measure):
    """Return what all results share once, and what differs under the name of each model."""
    lines = ["Percentages."]
    if any(len(results) > 1 for results in runs.values()):
        several = (f"{name} {len(rs)}" for name, rs in runs.items())
        lines.append(f"Mean ± standard deviation over runs: {', '.join(several)}.")
    each = {name: _protocol(results[0]) for name, results in runs.items()}
    shared = [line for line in next(iter(each.values())) if all(line in p for p in each.values())]
    lines += shared
    for name, protocol in each.items():
        lines += [f"{name}: {line}" for line in protocol if line not in shared]
        lines += [f"{name}: {line}" for line in _undefined(runs[name], [measure])]
    return lines


def _undefined(results, measures):
    """Return one sentence for each group of measures that is undefined for the same attributes."""
    groups = {}
    order = [row["name"] for row in results[0]["attributes"]]
    for measure in measures:
        names = {name for result in results for name in result["undefined"].get(measure, ())}
        # Precision stands apart: in CP, "never predicted" counts 0 where there are positives.
        rule = "in this table" if measure == "precision" else "and left out of means"
        if names:
            key = rule, ", ".join(sorted(names, key=order.index))
            groups.setdefault(key, []).append(HEADINGS[measure])
    return [
        f"Undefined {rule}: {', '.join(measures)} of {names}."
        for (rule, names), measures in groups.items()
    ]


def _require_same_data(runs):
    every = [(name, result) for name, results in runs.items() for result in results]
    if not every:
        raise ValueError("nothing to compare: no results were given")
    keys = ("name", "positives", "negatives")
    reference = [tuple(row[key] for key in keys) for row in every[0][1]["attributes"]]
    for name, result in every[1:]:
        found = [tuple(row[key] for key in keys) for row in result["attributes"]]
        if found != reference:
            a = next((i for i, (x, y) in enumerate(zip(reference, found)) if x != y), None)
            where = f"{len(reference)} and {len(found)} attributes"
            if a is not None:
                where = f"attribute {a}: {reference[a]} and {found[a]} (name, positives, negatives)"
            raise ValueError(
                f"'{every[0][0]}' and '{name}' were not measured on the same data: {where}"
            )
    return every[0][1]
