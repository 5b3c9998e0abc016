"""Tables of person re-identification: console, Markdown, CSV and JSON, each with its protocol.

Input is the dict that :func:`gluon_attn.metrics.retrieval.evaluate_retrieval` returns.
"""

from __future__ import annotations

import csv
import io

from gluon_attn.core.files import json_text
from gluon_attn.metrics.layout import field, notes_text, table_text, write_texts

MAIN = ("mAP", "mAP_rectangle")


def retrieval_text(result, style="console"):
    """Return mAP, CMC and the protocol.

    Args:
        result: What ``evaluate_retrieval`` returned.
        style: ``'console'`` or ``'markdown'``.
    """
    rows = [[name, f"{100 * result[name]:.2f}"] for name in (*MAIN, *_ranks(result))]
    parts = [table_text(rows, ["measure", "%"], style)]
    parts.append(notes_text(["Percentages.", *retrieval_notes(result)], style))
    return "\n\n".join(parts) + "\n"


def retrieval_notes(result):
    """Return the protocol of a result as a list of sentences."""
    lines = [
        f"{result['queries']} single queries, {result['gallery']} gallery pictures, "
        f"{result['metric']} distance.",
        "Gallery pictures of the query's identity in its own camera and junk (identity -1) are "
        "passed over; distractors count as wrong.",
        '"mAP" is the area under the precision-recall curve by the trapezoid rule, as in the '
        'released evaluation code of Market-1501; "mAP_rectangle" is the mean of the precisions at '
        "the right pictures, as in most later code.",
    ]
    if result["unanswerable"]:
        lines.append(
            f"{result['unanswerable']} queries without a match in another camera are left out."
        )
    return lines


def retrieval_csv(result, names=None):
    """Return one line per query as CSV text; fields of queries that are left out are empty.

    Args:
        result: What ``evaluate_retrieval`` returned.
        names: Names of the Q queries; None numbers them.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("query", "first_match", "ap", "ap_rectangle"))
    count = len(result["first"])
    for k, name in enumerate(range(count) if names is None else names):
        values = [field(float(result[key][k])) for key in ("ap", "ap_rectangle")]
        writer.writerow((name, int(result["first"][k]) or "", *values))
    return stream.getvalue()


def retrieval_json(result):
    """Return everything but the single queries as JSON text."""
    content = {name: result[name] for name in (*MAIN, *_ranks(result))}
    content.update({key: result[key] for key in ("queries", "unanswerable", "gallery", "metric")})
    content.update(cmc=list(map(float, result["cmc"])), notes=retrieval_notes(result))
    return json_text(content)


def write_retrieval(result, directory, stem, names=None):
    """Write ``stem.txt``, ``.md``, ``.csv`` (one line per query) and ``.json``.

    Returns:
        A dict from suffix to the path written.

    Raises:
        OSError: If a file cannot be written; older files of that name are then untouched.
    """
    texts = {
        "txt": retrieval_text(result), "md": retrieval_text(result, "markdown"),
        "csv": retrieval_csv(result, names), "json": retrieval_json(result),
    }  # fmt: skip
    return write_texts(texts, directory, stem)


def _ranks(result):
    return [name for name in result if name.startswith("rank")]
