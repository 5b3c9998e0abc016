"""The kinds of results as reports, and several models side by side.

``MULTILABEL``, ``ACCURACY``, ``CLASSIFICATION`` and ``RETRIEVAL`` show and write what
``evaluate_multilabel``, ``evaluate_attributes``, ``evaluate_classification`` and
``evaluate_retrieval`` return: ``MULTILABEL.write(result, folder, "test")``.
"""

from __future__ import annotations

import math
from typing import Callable, Iterable, Mapping, Sequence

from gluon_attn.core.schema import MULTICLASS
from gluon_attn.metrics import attributes, multilabel
from gluon_attn.metrics.tables import (
    MEAN,
    Column,
    Report,
    Result,
    Row,
    Table,
    columns_of,
    notes_text,
    side_by_side,
    table_text,
    with_nan,
)

SHOWN = 20  # classes and pairs of a classification that people are shown

# multi-label

COUNTS = {"positives": "pos", "negatives": "neg", "unspecified": "unspec"}
HEADINGS = {
    "ap": "AP", "ap_sklearn": "AP (sklearn)", "accuracy": "accuracy", "precision": "precision",
    "recall": "recall", "f1": "F1", "ma": "mA",
}  # fmt: skip
MEAN_OF_CLASSES = f"{MEAN} and classes"
# The rows under the attributes: which overall number stands in which column.
SUMMARY_ROWS = {
    MEAN: {
        "ap": "mAP", "ap_sklearn": "mAP_sklearn", "accuracy": "accuracy", "precision": "CP",
        "recall": "CR", "f1": "CF1", "ma": "mA",
    },
    "pooled over labels": {"precision": "OP", "recall": "OR", "f1": "OF1"},
    "mean over instances": {
        key: f"instance_{key}" for key in ("accuracy", "precision", "recall", "f1")
    },
}  # fmt: skip
COMPARED = {
    "mAP": "mAP", "mAP (sklearn)": "mAP_sklearn", "mA": "mA",
    "instance accuracy": "instance_accuracy", "instance precision": "instance_precision",
    "instance recall": "instance_recall", "instance F1": "instance_f1",
}  # fmt: skip


def _multilabel_tables(result: Result) -> list[Table]:
    rows = result["attributes"]
    counts = {
        key: heading
        for key, heading in COUNTS.items()
        if key != "unspecified" or any(row[key] for row in rows)
    }
    heading = "attribute or class" if result.get("classes") else "attribute"
    columns = [Column("name", heading, str), *columns_of(counts, str), *columns_of(HEADINGS)]
    return [Table(columns, rows, _summary(result))]


def _mean_of(result: Result) -> str:
    return MEAN_OF_CLASSES if result.get("classes") else MEAN


def _summary(result: Result) -> list[Row]:
    names = {MEAN: _mean_of(result)}
    return [
        {
            "name": names.get(name, name),
            **{column: result["overall"][key] for column, key in keys.items()},
        }
        for name, keys in SUMMARY_ROWS.items()
    ]


def _multilabel_lines(result: Result) -> list[Row]:
    """``kind`` is ``attribute`` or ``overall``; mAP stands in ``ap``, CP in ``precision``."""
    attribute = [{"kind": "attribute", **row} for row in result["attributes"]]
    return attribute + [{"kind": "overall", **row} for row in _summary(result)]


def _multilabel_notes(result: Result) -> list[str]:
    overall = (
        f"The {_mean_of(result)} gives mAP, mA, CP, CR and CF1 (CF1 from CP and CR), pooling "
        "gives OP, OR and OF1; an attribute with positives that is never predicted has precision 0 "
        "in CP, one without positives is left out of CP and CR."
    )
    classes = (
        "A class of an attribute (attribute=class) counts here as a binary attribute of its own; "
        "the table of accuracy takes the most probable class, and its mean is over attributes."
    )
    lines = [classes] if result.get("classes") else []
    return [*lines, *_protocol(result), overall, *_undefined([result], multilabel.MEASURES)]


def _protocol(result: Result) -> list[str]:
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


def _undefined(results: Sequence[Result], measures: Iterable[str]) -> list[str]:
    """Return one sentence for each group of measures that is undefined for the same attributes."""
    groups: dict[tuple[str, str], list[str]] = {}
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


def _read_multilabel(content: Result) -> Result:
    rows = [{**row, **with_nan(row, multilabel.MEASURES)} for row in content["attributes"]]
    overall = with_nan(content["overall"], content["overall"])
    return {**content, "attributes": rows, "overall": overall}


MULTILABEL = Report(
    "a multi-label result", _multilabel_tables, _multilabel_notes,
    ("kind", "name", *COUNTS, *HEADINGS), _multilabel_lines, read=_read_multilabel, indent=2,
)  # fmt: skip


# accuracy of attributes

ACCURACIES = dict(zip(attributes.MEASURES, ("accuracy", "without none", "balanced", "majority")))
OF_CLASS = ("precision", "recall")


def _accuracy_tables(result: Result) -> list[Table]:
    rows = []
    for row in result["attributes"]:
        several = row["kind"] == MULTICLASS
        kind = f"{len(row['classes'])} classes" if several else "binary"
        rows.append({**row, "kind": kind, "none": str(row["none"]) if several else ""})
    columns = columns_of(
        {"name": "attribute", "kind": "kind", "known": "known", "none": "none"}, str
    )
    overall = {"name": MEAN, **result["overall"]}
    tables = [Table([*columns, *columns_of(ACCURACIES)], rows, [overall])]
    columns = columns_of({"name": "class", "positives": "pos", "predicted": "predicted"}, str)
    columns += columns_of({key: key for key in OF_CLASS})
    classes = [
        {**c, "name": f"{row['name']}: {c['name']}"}
        for row in result["attributes"]
        for c in row["classes"]
    ]
    return tables + ([Table(columns, classes)] if classes else [])


def _accuracy_notes(result: Result) -> list[str]:
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


def _accuracy_lines(result: Result) -> list[Row]:
    """``row`` is ``attribute``, ``class`` (named ``attribute=class``) or ``overall``."""
    lines: list[Row] = []
    for row in result["attributes"]:
        lines.append({"row": "attribute", **row})
        lines += [
            {"row": "class", **c, "name": f"{row['name']}={c['name']}"} for c in row["classes"]
        ]
    return [*lines, {"row": "overall", "name": MEAN, **result["overall"]}]


def _read_accuracy(content: Result) -> Result:
    for row in content["attributes"]:
        row.update(with_nan(row, attributes.MEASURES))
        for c in row["classes"]:
            c.update(with_nan(c, OF_CLASS))
    content["overall"].update(with_nan(content["overall"], attributes.MEASURES))
    return content


ACCURACY = Report(
    "an accuracy result", _accuracy_tables, _accuracy_notes,
    ("row", "name", "kind", "known", "none", "positives", "predicted", *ACCURACIES, *OF_CLASS),
    _accuracy_lines, read=_read_accuracy, indent=2,
)  # fmt: skip


def lowest(result: Result, measure: str) -> float:
    """Return the lowest defined value of a measure over the attributes, nan if there is none."""
    values = [row[measure] for row in result["attributes"] if row[measure] == row[measure]]
    return min(values, default=float("nan"))


# single-label

OF_CLASSES = ("recall", "precision", "f1")


def _class_tables(result: Result) -> list[Table]:
    overall = [{"name": name, "value": value} for name, value in result["overall"].items()]
    seen = [row for row in result["classes"] if row["images"]]
    worst = [
        {**row, "taken": f"{row['confused_with']} ({row['confused']})" if row["confused"] else "-"}
        for row in sorted(seen, key=lambda row: row["recall"])[:SHOWN]
    ]
    note = f"Classes: the {len(worst)} with the lowest recall; all are in the CSV file."
    columns = [
        Column("name", "class", str), Column("images", "images", str),
        *(Column(key, key) for key in OF_CLASSES), Column("taken", "most often taken for", str),
    ]  # fmt: skip
    tables = [
        Table([Column("name", "measure", str), Column("value", "%")], overall),
        Table(columns, worst, note=note if len(worst) < len(result["classes"]) else ""),
    ]
    if result["confusions"]:
        headings = {"true": "true class", "predicted": "predicted", "images": "images"}
        tables.append(Table(columns_of(headings, str), result["confusions"][:SHOWN]))
    return tables


def _class_notes(result: Result) -> list[str]:
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


def _class_lines(result: Result) -> list[Row]:
    overall = [
        {"row": "overall", "name": name, "value": value}
        for name, value in result["overall"].items()
    ]
    return overall + [{"row": "class", **row} for row in result["classes"]]


CLASSIFICATION = Report(
    "a single-label result", _class_tables, _class_notes,
    ("row", "name", "value", "images", "correct", "predicted", *OF_CLASSES, "confused_with",
     "confused"),
    _class_lines,
)  # fmt: skip


# retrieval


def _retrieval_scores(result: Result) -> list[str]:
    return ["mAP", "mAP_rectangle", *(name for name in result if name.startswith("rank"))]


def _retrieval_tables(result: Result) -> list[Table]:
    rows = [{"name": name, "value": 100 * result[name]} for name in _retrieval_scores(result)]
    columns = [Column("name", "measure", str), Column("value", "%", lambda v: f"{v:.2f}")]
    return [Table(columns, rows)]


def _retrieval_notes(result: Result) -> list[str]:
    lines = [
        f"{result['queries']} single queries, {result['gallery']} gallery images, "
        f"{result['metric']} distance.",
        "Gallery images of the query's identity in its own camera and junk (identity -1) are "
        "passed over; distractors count as wrong.",
        '"mAP" is the area under the precision-recall curve by the trapezoid rule, as in the '
        'released evaluation code of Market-1501; "mAP_rectangle" is the mean of the precisions at '
        "the right images, as in most later code.",
    ]
    if result["unanswerable"]:
        lines.append(
            f"{result['unanswerable']} queries without a match in another camera are left out."
        )
    return lines


def _retrieval_lines(result: Result) -> list[Row]:
    """One line per query, called by its number or, where the result has ``names``, by its name."""
    first = result["first"]
    names = result.get("names") or range(len(first))
    return [
        {
            "query": name, "first_match": int(first[k]) or None,
            "ap": float(result["ap"][k]), "ap_rectangle": float(result["ap_rectangle"][k]),
        }
        for k, name in enumerate(names)
    ]  # fmt: skip


def _retrieval_content(result: Result) -> Result:
    keys = (*_retrieval_scores(result), "queries", "unanswerable", "gallery", "metric")
    return {**{key: result[key] for key in keys}, "cmc": list(map(float, result["cmc"]))}


RETRIEVAL = Report(
    "a retrieval result", _retrieval_tables, _retrieval_notes,
    ("query", "first_match", "ap", "ap_rectangle"), _retrieval_lines, _retrieval_content,
)  # fmt: skip


# comparisons


def compare(
    results: Mapping[str, Result | Sequence[Result]], style: str = "console", measure: str = "ap"
) -> str:
    """Return a table of several models side by side, one line per attribute, then the overall ones.

    With two models a column shows the difference, second minus first, in percentage points. A model
    has what ``evaluate_multilabel`` returned, or a list of that from runs with different seeds,
    shown as mean and standard deviation (n - 1). ``measure`` is one of ``multilabel.MEASURES``.
    Raises a ValueError if attributes or numbers of positives and negatives differ.
    """
    runs: dict[str, Sequence[Result]] = {
        name: r if isinstance(r, (list, tuple)) else [r]  # type: ignore[list-item]  # a Result
        for name, r in results.items()
    }
    if measure not in multilabel.MEASURES:
        raise ValueError(f"measure {measure!r}: valid are {', '.join(multilabel.MEASURES)}")
    first = _require_same_data(runs)
    table = []
    for a, row in enumerate(first["attributes"]):
        values = [[r["attributes"][a][measure] for r in rs] for rs in runs.values()]
        table.append([row["name"], str(row["positives"]), *side_by_side(values)])
    for label, key in COMPARED.items():
        values = [[r["overall"][key] for r in rs] for rs in runs.values()]
        table.append([label, "", *side_by_side(values)])
    header = [f"{HEADINGS[measure]} %", "pos", *runs] + ["difference"] * (len(runs) == 2)
    text = table_text(table, header, style, rule_after=len(first["attributes"]))
    return text + "\n\n" + notes_text(_compared_notes(runs, measure), style) + "\n"


def compare_accuracy(
    results: Mapping[str, Sequence[Result]], style: str = "console", measure: str = "accuracy"
) -> str:
    """Return a table of several models side by side: attributes, their mean, and the worst one.

    A model has results of :func:`evaluate_attributes` from runs with different seeds, shown as mean
    and standard deviation (n - 1); "worst" is the lowest value of each run. ``measure`` is one of
    ``attributes.MEASURES``. Raises a ValueError if the attributes differ.
    """
    if measure not in ACCURACIES:
        raise ValueError(f"measure {measure!r}: valid are {', '.join(ACCURACIES)}")
    every = [result for runs in results.values() for result in runs]
    names = [[row["name"] for row in result["attributes"]] for result in every]
    if not every or any(n != names[0] for n in names):
        raise ValueError("results of the same attributes are needed")
    wanted: dict[str, Callable[[Result], float]] = {
        "mean": lambda r: r["overall"][measure],
        "worst": lambda r: lowest(r, measure),
    }
    rows = [
        [name, *side_by_side([r["attributes"][a][measure] for r in rs] for rs in results.values())]
        for a, name in enumerate(names[0])
    ]
    rows += [
        [name, *side_by_side([of(r) for r in runs] for runs in results.values())]
        for name, of in wanted.items()
    ]
    header = [f"{ACCURACIES[measure]} %", *results] + ["difference"] * (len(results) == 2)
    return table_text(rows, header, style, rule_after=len(names[0]))


def _compared_notes(runs: Mapping[str, Sequence[Result]], measure: str) -> list[str]:
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


def _require_same_data(runs: Mapping[str, Sequence[Result]]) -> Result:
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
