"""The gallery's page: static HTML with relative links and a few lines of script for the filter."""

from __future__ import annotations

import html
import re
from typing import NamedTuple

from tools.site.summary import STYLE, write_page

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


class Contents(NamedTuple):
    """What the page shows.

    Attributes:
        split: Name of the split.
        samples: Its number of samples.
        attributes: A names.
        table: Head and rows, texts.
        images: List of :class:`tools.site.gallery.Image`.
        pictures: ``{caption: file}``.
        single: Whether the data are single-label.
    """

    split: str
    samples: int
    attributes: list
    table: tuple
    images: list
    pictures: dict
    single: bool


def write(path, contents):
    """Write the page to ``path``."""
    parts = [
        "<h1>Gallery</h1>",
        "<nav><a href='#scores'>Scores</a><a href='#maps'>Attention</a>"
        + "".join(f"<a href='#p{n}'>{html.escape(c)}</a>"
                  for n, c in enumerate(contents.pictures)) + "</nav>",
        f"<h2 id='scores'>Scores on the {html.escape(contents.split)} split, "
        f"{contents.samples} samples</h2>",
        _table(*contents.table),
        "<h2 id='maps'>Where the nets look</h2>", _explanation(contents), _controls(contents),
        *(_person(image, contents) for image in contents.images),
    ]  # fmt: skip
    for number, (caption, file) in enumerate(contents.pictures.items()):
        parts.append(f"<h2 id='p{number}'>{html.escape(caption)}</h2>")
        parts.append(
            f"<figure><img src='{html.escape(file)}' alt='{html.escape(caption)}'></figure>"
        )
    parts.append(f"<script>{SCRIPT}</script>")
    write_page(path, "gluon_attn gallery", STYLE + MORE_STYLE, parts)


def _table(head, rows):
    head = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    table = f"<table class='scores'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='scroll'>{table}</div>"


def _explanation(contents):
    kinds = sorted({look.kind for image in contents.images for look in image.looks})
    return (
        "<p class='small'>Images were chosen to show many classes, without a look at any "
        f"prediction. Maps: {html.escape(', '.join(kinds))}; each is scaled by its own smallest "
        "and largest value. Under a map: class, probability, and what is known: ✓ positive, ✗ "
        "negative, ? unspecified; green is a right decision, red a wrong one.</p>"
    )


def _controls(contents):
    options = "".join(
        f"<option value='{k}'>{html.escape(name)}</option>"
        for k, name in enumerate(contents.attributes)
    )
    return (
        "<p class='controls'><label>Show <select id='attribute'>"
        "<option value='shown'>positive and most probable classes</option>"
        f"<option value='all'>all classes</option>{options}</select></label></p>"
    )


def _person(image, contents):
    # One order for all nets, so that the same class stands under itself.
    mean = sum(look.probabilities for look in image.looks) / len(image.looks)
    order = sorted(range(len(mean)), key=lambda k: (image.truth[k] != 1, -mean[k]))
    first = {k for rank, k in enumerate(order) if image.truth[k] == 1 or rank < MOST}
    nets = "".join(
        f"<div class='net'><h4>{html.escape(look.net)} <span>{html.escape(look.kind)}</span></h4>"
        f"<div class='maps'>{_maps(look, image.truth, contents, order, first)}</div></div>"
        for look in image.looks
    )
    sample = re.sub("([/_])", r"\1<wbr>", html.escape(image.sample))  # where a long one may break
    return (
        f"<div class='person'><figure><img src='{html.escape(image.file)}' alt=''>"
        f"<figcaption class='small id'>{sample}</figcaption></figure>"
        f"<div>{nets}</div></div>"
    )


def _maps(look, truth, contents, order, first):
    best = int(look.probabilities.argmax())
    cells = []
    for k in order:
        decided = k == best if contents.single else look.probabilities[k] >= 0.5
        cells.append(_map(look, truth[k], k, contents.attributes[k], k in first, decided))
    return "".join(cells)


def _map(look, truth, k, name, shown, decided):
    kind = "" if truth < 0 else " right" if decided == bool(truth) else " wrong"
    mark = {1: "✓", 0: "✗"}.get(int(truth), "?")
    return (
        f"<figure class='map' data-attribute='{k}' data-shown='{int(shown)}'>"
        f"<img loading='lazy' src='{html.escape(look.files[k])}' alt='{html.escape(name)}'>"
        f"<figcaption class='{kind.strip()}'>{html.escape(name)} "
        f"{100 * look.probabilities[k]:.0f}&nbsp;%&nbsp;{mark}</figcaption></figure>"
    )
