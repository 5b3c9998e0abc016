"""Static HTML pages, readable without a server: the demo's summary, and the gallery.

A page is one file beside its images; the gallery's has a few lines of script for the filter.
"""

from __future__ import annotations

import html
import os
import re
from typing import Any, NamedTuple, Sequence

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
MORE_STYLE = """
body { max-width: 76rem; }
nav a { margin-right: 1.2rem; }
.scroll { overflow-x: auto; }
.scores th, .scores td { white-space: nowrap; }
.scores th:nth-child(-n+3), .scores td:nth-child(-n+3) { text-align: left; }
.scores td:nth-child(3) { white-space: normal; min-width: 14rem; }
.controls { position: sticky; top: 0; background: #fff; padding: .6rem 0; z-index: 1;
            border-bottom: 1px solid #e3e7ee; }
.controls select { font: inherit; padding: .15rem .4rem; }
.person { display: grid; grid-template-columns: 9.5rem 1fr; gap: 1rem; padding: 1rem 0;
          border-bottom: 1px solid #e3e7ee; }
.person > figure { margin: 0; } .person .id { overflow-wrap: anywhere; }
.net { margin-bottom: .6rem; } .net h4 { margin: 0 0 .2rem; font-weight: 600; font-size: .95rem; }
.net h4 span { font-weight: 400; color: #5b6675; }
.maps { display: flex; flex-wrap: wrap; gap: .5rem; }
.map { width: 7rem; margin: 0; font-size: .8rem; line-height: 1.25; }
.map img { width: 7rem; height: 7rem; display: block; }
.map.hidden { display: none; }
.map figcaption { margin-top: .15rem; }
.right { color: #17713a; } .wrong { color: #a4262c; }
"""
SCRIPT = """
const choice = document.getElementById('attribute');
function show() {
  document.querySelectorAll('.map').forEach(function (map) {
    const wanted = choice.value === 'shown' ? map.dataset.shown === '1'
      : choice.value === 'all' || map.dataset.attribute === choice.value;
    map.classList.toggle('hidden', !wanted);
  });
}
choice.addEventListener('change', show); show();
"""
MOST = 5  # maps of an image that are shown before a choice is made


def write_page(path: str, title: str, style: str, parts: Sequence[str]) -> None:
    """Write a page of HTML parts, all in one file but for its images."""
    body = "\n".join(parts)
    write_text(
        path,
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><style>{style}</style></head>\n<body>\n{body}\n"
        "</body></html>\n",
    )


def _figure(source: str, caption: str) -> str:
    return f"<figure><img src='{html.escape(source)}' alt='{html.escape(caption)}'></figure>"


def _table_of(heads: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    """Return a table of texts and of finished rows."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join(rows)
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


# ------------------------------------------------------------------------------------ the demo


def write_summary(
    path: str,
    about: tuple[str, str],
    results: dict[str, dict],
    *,
    figures: dict[str, str],
    predicted: Sequence[str],
    seconds: dict[str, float],
    name: str,
    export: str,
) -> str:
    """Write the demo's page and return ``path``.

    Args:
        about: Title, and what was done on which data.
        results: ``{title: what evaluate_multilabel returned}`` of two models on the same data.
        figures: ``{caption: path}``.
        predicted: Paths of scenes predicted from the export.
        seconds: ``{title: seconds of training}``.
        name: Of the exported model.
        export: Its export directory.
    """
    folder = os.path.dirname(path)
    first = next(iter(results.values()))
    spent = ", ".join(f"{html.escape(t)} {s:.0f} s" for t, s in seconds.items())
    parts = [
        f"<h1>{html.escape(about[0])}</h1>",
        f"<p>{first['samples']} test people, {len(first['attributes'])} attributes. "
        f"{html.escape(about[1])}</p>",
        "<h2>Average precision on the test split, %</h2>",
        _precisions(results),
        "<p class='small'>AP interpolated (VOC area); unspecified labels are left out; decisions "
        f"at {first['threshold']}. Training time: {spent}. One seed; docs/results.md has "
        "several.</p>",
    ]
    for caption, figure in figures.items():
        source = os.path.relpath(figure, folder)
        parts += [f"<h2>{html.escape(caption)}</h2>", _figure(source, caption)]
    parts.append("<h2>Predictions of the exported model</h2>")
    parts += [_figure(os.path.relpath(p, folder), "predicted attributes") for p in predicted]
    parts += [
        "<h2>Use the export</h2>",
        f"<p>{html.escape(name)} lies in <code>{html.escape(os.path.basename(export))}/"
        "</code> as symbol, params and a sidecar. It runs on plain MXNet.</p>",
        f"<pre>python tools/predict.py {html.escape(export)} IMAGE_OR_FOLDER</pre>",
        *_try([export] if os.path.isdir(os.path.join(export, "web")) else []),
    ]
    write_page(path, "gluon_attn demo", STYLE, parts)
    return path


def _try(exports: Sequence[str]) -> list[str]:
    """Return how to open the pages of exports, empty if there is none."""
    if not exports:
        return []
    commands = "\n".join(f"python tools/serve.py {html.escape(export)}" for export in exports)
    return [
        "<p>Try it in a browser, with images of your own that stay on this machine:</p>",
        f"<pre>{commands}</pre>",
    ]


def _precisions(results: dict[str, dict]) -> str:
    runs = list(results.values())
    rows = [
        (row["name"], row["positives"], [r["attributes"][a]["ap"] for r in runs], "")
        for a, row in enumerate(runs[0]["attributes"])
    ]
    overall = (("mAP", "mAP"), ("mA", "mA"), ("instance F1", "instance_f1"))
    rows += [
        (label, "", [r["overall"][key] for r in runs], " class='overall'") for label, key in overall
    ]
    lines = []
    for name, positives, values, kind in rows:
        cells = "".join(f"<td>{_percent(v)}</td>" for v in values) + _gain(values)
        lines.append(f"<tr{kind}><td>{html.escape(name)}</td><td>{positives}</td>{cells}</tr>")
    return _table_of(["attribute", "positives", *results, "gain"], lines)


def _gain(values: Sequence[float]) -> str:
    gain = values[-1] - values[0]
    if gain != gain:
        return "<td>-</td>"
    kind = "up" if gain >= 0 else "down"
    return f"<td class='{kind}'>{100 * gain:+.1f}</td>"


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:.1f}"


# --------------------------------------------------------------------------------- the gallery


class Look(NamedTuple):
    """Where one net looks in one image, class by class.

    Attributes:
        net: Name of the net.
        kind: What the maps are.
        probabilities: ``(A,)``.
        files: Paths of the A maps, relative to the page.
    """

    net: str
    kind: str
    probabilities: Any
    files: list[str]


class Image(NamedTuple):
    """One chosen test image.

    Attributes:
        sample: Its id in the data set.
        file: Relative to the page.
        truth: ``(A,)``: 1 positive, 0 negative, -1 not known.
        looks: Of every net.
    """

    sample: str
    file: str
    truth: Any
    looks: list[Look]


class Contents(NamedTuple):
    """What the gallery shows.

    Attributes:
        split: Name of the split.
        samples: Its number of samples.
        attributes: A names.
        table: Head and rows, texts.
        images: Those with maps.
        figures: ``{caption: file}``.
        single: Whether the data are single-label.
        exports: Exports with a page to try a net on, paths.
    """

    split: str
    samples: int
    attributes: list[str]
    table: tuple[list[str], list[list[str]]]
    images: list[Image]
    figures: dict[str, str]
    single: bool
    exports: Sequence[str] = ()


def write_gallery(path: str, contents: Contents) -> None:
    """Write the gallery's page."""
    links = "".join(
        f"<a href='#p{n}'>{html.escape(caption)}</a>" for n, caption in enumerate(contents.figures)
    )
    heads, rows = contents.table
    lines = ["".join(f"<td>{html.escape(text)}</td>" for text in row) for row in rows]
    table = _table_of(heads, [f"<tr>{line}</tr>" for line in lines], " class='scores'")
    parts = [
        "<h1>Gallery</h1>",
        f"<nav><a href='#scores'>Scores</a><a href='#maps'>Attention</a>{links}</nav>",
        f"<h2 id='scores'>Scores on the {html.escape(contents.split)} split, "
        f"{contents.samples} samples</h2>",
        f"<div class='scroll'>{table}</div>",
        *_try(contents.exports),
        "<h2 id='maps'>Where the nets look</h2>",
        _explanation(contents),
        _controls(contents),
        *(_person(image, contents) for image in contents.images),
    ]
    for number, (caption, file) in enumerate(contents.figures.items()):
        parts += [f"<h2 id='p{number}'>{html.escape(caption)}</h2>", _figure(file, caption)]
    parts.append(f"<script>{SCRIPT}</script>")
    write_page(path, "gluon_attn gallery", STYLE + MORE_STYLE, parts)


def _explanation(contents: Contents) -> str:
    kinds = sorted({look.kind for image in contents.images for look in image.looks})
    return (
        "<p class='small'>Images were chosen to show many classes, without a look at any "
        f"prediction. Maps: {html.escape(', '.join(kinds))}; each is scaled by its own smallest "
        "and largest value. Under a map: class, probability, and what is known: ✓ positive, ✗ "
        "negative, ? unspecified; green is a right decision, red a wrong one.</p>"
    )


def _controls(contents: Contents) -> str:
    options = "".join(
        f"<option value='{k}'>{html.escape(name)}</option>"
        for k, name in enumerate(contents.attributes)
    )
    return (
        "<p class='controls'><label>Show <select id='attribute'>"
        "<option value='shown'>positive and most probable classes</option>"
        f"<option value='all'>all classes</option>{options}</select></label></p>"
    )


def _person(image: Image, contents: Contents) -> str:
    # One order for all nets, so that the same class stands under itself.
    mean = sum(look.probabilities for look in image.looks) / len(image.looks)
    order = sorted(range(len(mean)), key=lambda k: (image.truth[k] != 1, -mean[k]))
    first = {k for rank, k in enumerate(order) if image.truth[k] == 1 or rank < MOST}
    nets = "".join(
        f"<div class='net'><h4>{html.escape(look.net)} <span>{html.escape(look.kind)}</span></h4>"
        f"<div class='maps'>{_maps(look, image, contents, order, first)}</div></div>"
        for look in image.looks
    )
    sample = re.sub("([/_])", r"\1<wbr>", html.escape(image.sample))  # where a long one may break
    return (
        f"<div class='person'><figure><img src='{html.escape(image.file)}' alt=''>"
        f"<figcaption class='small id'>{sample}</figcaption></figure>"
        f"<div>{nets}</div></div>"
    )


def _maps(look: Look, image: Image, contents: Contents, order: list[int], first: set[int]) -> str:
    best, cells = int(look.probabilities.argmax()), []
    for k in order:
        truth, name = image.truth[k], html.escape(contents.attributes[k])
        decided = k == best if contents.single else look.probabilities[k] >= 0.5
        kind = "" if truth < 0 else "right" if decided == bool(truth) else "wrong"
        mark = {1: "✓", 0: "✗"}.get(int(truth), "?")
        cells.append(
            f"<figure class='map' data-attribute='{k}' data-shown='{int(k in first)}'>"
            f"<img loading='lazy' src='{html.escape(look.files[k])}' alt='{name}'>"
            f"<figcaption class='{kind}'>{name} "
            f"{100 * look.probabilities[k]:.0f}&nbsp;%&nbsp;{mark}</figcaption></figure>"
        )
    return "".join(cells)
