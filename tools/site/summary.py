"""The demo's summary page: one static HTML file with relative links, readable without a server."""

from __future__ import annotations

import html
import os

from gluon_attn.core.files import write_text

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2430; background: #fff; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #e3e7ee; }
th:first-child, td:first-child { text-align: left; }
tr.overall td { font-weight: 600; border-bottom-color: #c5ccd8; }
td.up { color: #17713a; } td.down { color: #a4262c; }
img { max-width: 100%; border: 1px solid #e3e7ee; border-radius: 4px; }
figure { margin: 1rem 0; }
code, pre { background: #f3f5f8; border-radius: 4px; padding: .1rem .3rem; }
pre { padding: .8rem; overflow-x: auto; } .small { color: #5b6675; font-size: .9rem; }
"""


def write(path, results, pictures, predicted, seconds, trained, export):
    """Write the page.

    Args:
        path: Where to write.
        results: ``{title: what evaluate_multilabel returned}`` of two models on the same data.
        pictures: ``{caption: path}``.
        predicted: Paths of scenes predicted from the export.
        seconds: ``{title: seconds of training}``.
        trained: The exported model.
        export: Its export directory.

    Returns:
        ``path``.
    """
    folder = os.path.dirname(path)
    first = next(iter(results.values()))
    parts = [
        "<h1>Visual attention aggregation on synthetic pedestrians</h1>",
        f"<p>{first['samples']} test people, 14 attributes. Both models were trained from scratch "
        "on the same pictures for the same number of epochs: a plain backbone with cross-entropy, "
        "and VAA on the same backbone. Drawn people are not photographs: these figures say that "
        "the code works, not how well the method does on real data.</p>",
        "<h2>Average precision on the test split, %</h2>", _table(results),
        _note(first, seconds),
    ]  # fmt: skip
    for caption, picture in pictures.items():
        parts += [f"<h2>{html.escape(caption)}</h2>", _figure(picture, folder, caption)]
    parts.append("<h2>Predictions of the exported model</h2>")
    parts += [_figure(picture, folder, "predicted attributes") for picture in predicted]
    parts += [
        "<h2>Use the export</h2>",
        f"<p>{html.escape(trained.name)} lies in <code>{html.escape(os.path.basename(export))}/"
        "</code> as symbol, params and a sidecar. It runs on plain MXNet.</p>",
        f"<pre>python tools/predict.py {html.escape(export)} IMAGE_OR_FOLDER</pre>",
    ]
    write_page(path, "gluon_attn demo", STYLE, parts)
    return path


def write_page(path, title, style, parts):
    """Write a page of HTML parts, all in one file but for its pictures."""
    body = "\n".join(parts)
    write_text(
        path,
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><style>{style}</style></head>\n<body>\n{body}\n"
        "</body></html>\n",
    )


def _table(results):
    titles = list(results)
    runs = list(results.values())
    rows = [
        (row["name"], row["positives"], [r["attributes"][a]["ap"] for r in runs], "")
        for a, row in enumerate(runs[0]["attributes"])
    ]
    overall = (("mAP", "mAP"), ("mA", "mA"), ("instance F1", "instance_f1"))
    rows += [
        (label, "", [r["overall"][key] for r in runs], " class='overall'") for label, key in overall
    ]
    heads = ["attribute", "positives", *titles, "gain"]
    head = "".join(f"<th>{html.escape(t)}</th>" for t in heads)
    body = "".join(
        f"<tr{kind}><td>{html.escape(name)}</td><td>{positives}</td>"
        + "".join(f"<td>{_percent(v)}</td>" for v in values) + _gain(values) + "</tr>"
        for name, positives, values, kind in rows
    )  # fmt: skip
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _gain(values):
    gain = values[-1] - values[0]
    if gain != gain:
        return "<td>-</td>"
    kind = "up" if gain >= 0 else "down"
    return f"<td class='{kind}'>{100 * gain:+.1f}</td>"


def _percent(value):
    return "-" if value != value else f"{100 * value:.1f}"


def _note(result, seconds):
    spent = ", ".join(f"{html.escape(t)} {s:.0f} s" for t, s in seconds.items())
    return (
        "<p class='small'>AP interpolated (VOC area); unspecified labels are left out; decisions "
        f"at {result['threshold']}. Training time: {spent}. One seed; docs/results.md has "
        "several.</p>"
    )


def _figure(path, folder, caption):
    source = html.escape(os.path.relpath(path, folder))
    return f"<figure><img src='{source}' alt='{html.escape(caption)}'></figure>"
