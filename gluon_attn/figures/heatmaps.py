"""Attention maps laid over their images: one net's decisions, several nets side by side, scenes.

The layouts of nets side by side are those of three supplements: ICASC's Figures 1 and 2, DREAL's
Figures 2 and 3, AutoLA's Figure 3. There every map is scaled to its own maximum, which the colour
bar says. Images are ``(H, W, 3)`` uint8, RGB; a TypeError is raised for other types.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, Mapping, Sequence

import cv2
import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.patches import Rectangle

from gluon_attn.figures.canvas import (
    MEDIUM,
    NEUTRAL,
    RIGHT,
    SMALL,
    WRONG,
    Axes,
    Canvas,
    PathLike,
    checked_image,
    colour,
    measure,
    new_figure,
    save,
)

COLOUR_MAP = "inferno"  # perceptually uniform: equal steps of attention look equally large
KEY = "truth: ✓ positive, ✗ negative, ? unspecified; decision: green right, red wrong"
FRAME = "#E8000B"  # red, as in the supplement of ICASC
SIDE = 1.25  # inches of one image
MOST = 6  # attributes that a grid shows by default
PERCENTILE = 99.5  # of a map with a value for every pixel: the strongest colour
EM = 0.62  # a character's mean width, as a share of the font size


def heatmap_overlay(
    image: Any, attention: Any, limits: tuple[float, float] | None = None, strength: float = 0.75
) -> np.ndarray:
    """Lay one attention map ``(h, w)`` over its image, more opaque where attention is higher.

    The map is enlarged to the image with cubic interpolation and scaled so that ``limits`` become 0
    and 1, by default its own minimum and maximum; with the same ones the strengths of several maps
    can be compared. A constant map singles out no place, so it leaves the image as it is.
    ``strength`` is the opacity in [0, 1] at the high limit.
    """
    image, attention = checked_image(image), np.asarray(attention)
    if attention.ndim != 2 or not attention.size:
        raise ValueError(f"attention {attention.shape}: must be (h, w)")
    if not np.isfinite(attention).all():
        raise ValueError("attention has values that are not finite")
    low, high = limits if limits is not None else (attention.min(), attention.max())
    span = float(high) - float(low)
    # Below float32 resolution the differences are rounding errors, not attention.
    if span <= 1e-6 * max(abs(float(low)), abs(float(high))):
        return image.copy()
    scaled = (attention.astype(np.float64) - low) / span
    height, width = image.shape[:2]
    scaled = cv2.resize(scaled, (width, height), interpolation=cv2.INTER_CUBIC)
    scaled = np.clip(scaled, 0, 1)  # cubic interpolation overshoots
    colours = matplotlib.colormaps[COLOUR_MAP](scaled)[..., :3] * 255
    alpha = strength * scaled[..., None]
    return np.asarray(np.rint((1 - alpha) * image + alpha * colours).astype(np.uint8))


def overlay(image: Any, attention: Any) -> np.ndarray:
    """Lay an attention map ``(h, w)``, >= 0, over an image, scaled to its own maximum.

    A map with a value for every pixel (guided back-propagation) is scaled to a high percentile: its
    few largest values would leave nothing else to see.
    """
    attention = np.asarray(attention)
    fine = attention.shape == np.shape(image)[:2]
    return heatmap_overlay(image, attention, (0, _high(attention) if fine else attention.max()))


def gradient_image(gradient: Any, percentile: float = PERCENTILE) -> np.ndarray:
    """Return a gradient ``(3, H, W)`` with respect to pixels as an image; grey is 0.

    The given percentile of the absolute values becomes black or white; the few larger ones would
    leave everything else grey.
    """
    gradient = np.asarray(gradient, np.float64).transpose(1, 2, 0)
    scale = max(_high(np.abs(gradient), percentile), 1e-30)
    scaled = np.rint(np.clip(127.5 + 127.5 * gradient / scale, 0, 255))
    return np.asarray(scaled.astype(np.uint8))


def _high(values: np.ndarray, percentile: float = PERCENTILE) -> float:
    """Return that percentile of values >= 0, or the maximum where fewer are above 0."""
    return float(np.percentile(values, percentile) or values.max())


# One net: images and the attention of several attributes


def heatmap_grid(
    images: Sequence[Any],
    attentions: Any,
    names: Sequence[str],
    probs: Any,
    *,
    labels: Any,
    path: PathLike,
    attributes: Sequence[Any] | None = None,
    mask: Any = None,
    threshold: Any = 0.5,
) -> Path:
    """Draw each image and, beside it, the attention of several attributes laid over it.

    Over each overlay stand the attribute's name, its probability and the truth: a tick for
    positive, a cross for negative, "?" for unspecified. The title is green where the decision is
    right, red where it is wrong, grey where the truth is not known.

    Args:
        attentions: ``(N, A, h, w)``, or a dict from tap name to such arrays: one line per tap.
        probs: ``(N, A)``; positive from ``threshold`` on, which is a number or ``(A,)``.
        labels: ``(N, A)`` in {0, 1}, or None if the truth is not known; ``mask`` alike.
        attributes: Names or column numbers to show; by default up to six of them, those most often
            true (or probable, without labels) in these images.
    """
    images = [checked_image(image) for image in images]
    taps = attentions if isinstance(attentions, dict) else {"": attentions}
    taps = {name: np.asarray(maps) for name, maps in taps.items()}
    probs = np.asarray(probs, dtype=np.float64)
    truth = _truth(labels, mask, probs.shape)
    _require_shapes(images, taps, names, probs)
    shown = _columns(attributes, list(names), probs, truth)
    correct = (probs >= np.asarray(threshold)) == (truth == 1)
    columns = len(shown) + 1
    side = min(1.5, 10.5 / columns)
    longest = max(len(names[a]) for a in shown)
    oneline = (longest + 7) * EM / 72 * SMALL < side
    characters = max(longest + 7 if oneline else longest, 6)
    size = max(4, min(SMALL, side / (EM / 72 * characters)))
    heights = [side * image.shape[0] / image.shape[1] for image in images for _ in taps]
    title = 0.18 + 0.11 * (not oneline)
    total = sum(heights) + title * len(images) + 0.04 * len(heights) + 0.2
    figure = new_figure(side * columns + 0.25, total, layout="constrained")
    _pack(figure, w_pad=0.02, h_pad=0.015)
    grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for line, (n, t) in zip(grid, np.ndindex(len(images), len(taps))):
        tap, maps = list(taps.items())[t]
        _show(line[0], images[n] if t == 0 else None, "input" if t == 0 else "", size)
        line[1].set_ylabel(tap, fontsize=SMALL - 1, color=NEUTRAL, labelpad=2)
        for axes, a in zip(line[1:], shown):
            mark = {1: " ✓", 0: " ✗"}.get(truth[n, a], "" if labels is None else " ?")
            text = f"{names[a]}{' ' if oneline else chr(10)}{probs[n, a]:.2f}{mark}"
            ink = (RIGHT if correct[n, a] else WRONG) if truth[n, a] >= 0 else NEUTRAL
            _show(axes, heatmap_overlay(images[n], maps[n, a]), text if t == 0 else "", size)
            axes.title.set_color(ink)
    if labels is not None:
        figure.supxlabel(KEY, fontsize=SMALL - 1, color=NEUTRAL)
    return save(figure, path)


def _truth(labels: Any, mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return ``(N, A)``: 1 positive, 0 negative, -1 not known."""
    if labels is None:
        return np.full(shape, -1)
    labels = np.asarray(labels)
    known = np.ones(shape, bool) if mask is None else np.asarray(mask) != 0
    if labels.shape != shape or known.shape != shape:
        raise ValueError(f"labels {labels.shape} and mask {known.shape}: must be as probs, {shape}")
    return np.where(known, (labels == 1).astype(int), -1)


def _require_shapes(
    images: Sequence[Any], taps: Mapping[str, np.ndarray], names: Sequence[str], probs: np.ndarray
) -> None:
    expected = (len(images), len(names))
    if not taps or 0 in expected:
        raise ValueError("no image, attention map or attribute to draw")
    if probs.shape != expected:
        raise ValueError(f"probs {probs.shape}: must be {expected}, images by names")
    for tap, maps in taps.items():
        if maps.ndim != 4 or maps.shape[:2] != expected:
            where = f" of '{tap}'" if tap else ""
            raise ValueError(f"attention{where} {maps.shape}: must be {expected} + (h, w)")


def _columns(
    attributes: Sequence[Any] | None, names: list[str], probs: np.ndarray, truth: np.ndarray
) -> list[int]:
    """Return the columns to show, in the order asked for or else in the data set's."""
    if attributes is None:
        weight = (truth == 1).sum(axis=0) + probs.mean(axis=0)
        return sorted(np.argsort(-weight, kind="stable")[:MOST].tolist())
    unknown = [a for a in attributes if a not in names and a not in range(len(names))]
    if unknown or not len(attributes):
        raise ValueError(f"attributes {unknown}: valid are {', '.join(names)}")
    return [names.index(a) if a in names else int(a) for a in attributes]


# Several nets side by side


def top_class_grid(
    rows: Mapping[str, Sequence[Any]], truths: Sequence[str], path: PathLike
) -> Path:
    """Draw each image with the attention maps of the classes that each net ranks highest.

    ``rows`` are ``{net: [per image: (image, [(class name, probability, map, is_true), …])]}``;
    images as the net sees them, maps ``(h, w)`` >= 0. An image takes one line per net, in their
    order: the baseline goes first, so that it stands above. The maps of true classes are framed in
    red; where no map is framed, no true class is among them. ``truths`` are texts under the images.
    """
    _require_images(rows, len(truths))
    most = max(len(maps) for images in rows.values() for _, maps in images)
    names = list(rows)
    lines = len(truths) * len(names)
    longest = max(len(name) for images in rows.values() for _, m in images for name, *_ in m)
    size = max(4.5, min(SMALL, 72 * SIDE / (EM * max(longest, 5))))
    figure = new_figure((most + 1) * SIDE + 0.9, lines * (SIDE + 0.32) + 0.35, layout="constrained")
    _pack(figure)
    grid = figure.subplots(lines, most + 1, squeeze=False)
    for line, axes in enumerate(grid):
        n, k = divmod(line, len(names))
        image, maps = rows[names[k]][n]
        _show(axes[0], image if k == 0 else None)
        if k == 0:
            text = _wrapped(truths[n], 22, lines=3)
            axes[0].set_xlabel(text, fontsize=SMALL, color=FRAME, labelpad=2)
        axes[1].set_ylabel(_wrapped(names[k]), fontsize=SMALL, color=NEUTRAL, labelpad=2)
        for place, (name, probability, attention, is_true) in zip(axes[1:], maps):
            _show(place, overlay(image, attention), f"{name}\n{probability:.2f}", size)
            if is_true:
                # Not spines[:].set(...), which matplotlib 3.7 (Python 3.8) lacks.
                place.spines[:].set_visible(True)
                place.spines[:].set_color(FRAME)
                place.spines[:].set_linewidth(2.5)
        for place in axes[1 + len(maps) :]:
            place.set_axis_off()
    _colour_bar(figure, grid)
    return save(figure, path)


def map_pairs(rows: Mapping[str, Sequence[Any]], labels: Sequence[str], path: PathLike) -> Path:
    """Draw one column per image and one line per net: attention laid over the image.

    ``rows`` are ``{net: [per image: (image, map)]}``, maps ``(h, w)`` >= 0; ``labels`` the classes.
    """
    _require_images(rows, len(labels))
    width, height = len(labels) * SIDE + 1.0, (len(rows) + 1) * SIDE + 0.5
    figure = new_figure(width, height, layout="constrained")
    _pack(figure)
    grid = figure.subplots(len(rows) + 1, len(labels), squeeze=False)
    for axes, (image, _) in zip(grid[0], next(iter(rows.values()))):
        _show(axes, image)
    grid[0, 0].set_ylabel("input", fontsize=SMALL, color=NEUTRAL)
    for line, (name, images) in zip(grid[1:], rows.items()):
        for axes, (image, attention) in zip(line, images):
            _show(axes, overlay(image, attention))
        line[0].set_ylabel(_wrapped(name), fontsize=SMALL, color=NEUTRAL)
    for axes, label in zip(grid[-1], labels):
        axes.set_xlabel(_wrapped(label, 20, lines=3), fontsize=SMALL, labelpad=2)
    _colour_bar(figure, grid)
    return save(figure, path)


def side_by_side(
    inputs: Sequence[Any],
    labels: Sequence[str],
    groups: Mapping[str, Mapping[str, Sequence[Any]]],
    path: PathLike,
) -> Path:
    """Draw one line per image: the input, then one group of images after another.

    ``groups`` are ``{title: {net: [N images]}}``, such as Grad-CAM and guided back-propagation,
    each of the same nets; ``labels`` the classes of the N inputs.
    """
    for title, nets in groups.items():
        for name, found in nets.items():
            if len(found) != len(inputs):
                raise ValueError(f"{title} of '{name}': {len(found)} images for {len(inputs)}")
    if not len(inputs) or not groups:
        raise ValueError("no image or no group of images to draw")
    widths = [1.0]
    for nets in groups.values():
        widths += [0.12, *[1.0] * len(nets)]  # a gap in front of each group
    height = len(inputs) * SIDE + 0.65
    figure = new_figure(sum(widths) * SIDE + 0.35, height, layout="constrained")
    # room for the titles of the groups, which are no part of the layout
    _pack(figure, w_pad=0.02, rect=(0, 0, 1, 1 - 0.24 / height))
    grid = figure.subplots(len(inputs), len(widths), squeeze=False, width_ratios=widths)
    _column(grid[:, 0], "input", inputs)
    for axes, label in zip(grid[:, 0], labels):
        axes.set_ylabel(_wrapped(label, 20, lines=3), fontsize=SMALL, labelpad=2)
    first = 1
    for title, nets in groups.items():
        for axes in grid[:, first]:
            axes.set_axis_off()
        for k, (name, found) in enumerate(nets.items()):
            _column(grid[:, first + 1 + k], _wrapped(name), found)
        _group_title(figure, title, grid[0, first + 1], grid[0, first + len(nets)])
        first += 1 + len(nets)
    return save(figure, path)


def _require_images(rows: Mapping[str, Sequence[Any]], count: int) -> None:
    counts = {name: len(images) for name, images in rows.items()}
    if not count or set(counts.values()) != {count}:
        raise ValueError(f"images per net {counts}: every net needs {count}, at least 1")


def _column(column: Sequence[Axes], title: str, images: Sequence[Any]) -> None:
    for axes, image in zip(column, images):
        _show(axes, image)
    column[0].set_title(title, fontsize=SMALL, color=NEUTRAL, pad=3)


def _group_title(figure: Canvas, title: str, left: Axes, right: Axes) -> None:
    figure.draw_without_rendering()  # places the axes
    middle = (left.get_position().x0 + right.get_position().x1) / 2
    text = figure.text(middle, 1 - 0.04 / figure.get_figheight(), title, fontsize=MEDIUM,
                       ha="center", va="top")  # fmt: skip
    text.set_in_layout(False)


def _pack(figure: Canvas, w_pad: float = 0.03, h_pad: float = 0.02, **options: Any) -> None:
    figure.get_layout_engine().set(w_pad=w_pad, h_pad=h_pad, wspace=0.01, hspace=0.01, **options)


def _wrapped(text: str, width: int = 24, lines: int = 2) -> str:
    return "\n".join(textwrap.wrap(text, width)[:lines])


def _show(axes: Axes, image: Any, title: str = "", size: float = SMALL) -> None:
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, fontsize=size, pad=2, linespacing=1)
    if image is not None:
        axes.imshow(image, interpolation="antialiased")


def _colour_bar(figure: Canvas, grid: np.ndarray) -> None:
    scale = ScalarMappable(cmap=matplotlib.colormaps[COLOUR_MAP])
    scale.set_clim(0, 1)
    shrink = min(1, 2.2 / figure.get_figheight())
    bar = figure.colorbar(scale, ax=grid, location="right", shrink=shrink, aspect=18, pad=0.02,
                          ticks=(0, 0.5, 1))  # fmt: skip
    bar.set_label("attention / its maximum in the map", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL, length=2)
    bar.outline.set_visible(False)


# People in a scene


def scene_overview(image: Any, boxes: Any, texts: Sequence[Any], path: PathLike) -> Path:
    """Draw the boxes of people in a scene, each with its text beside it.

    A text stands where it covers least of the other texts and boxes: above, below, right, left or
    inside its box. Boxes are ``(K, 4)``: x, y, width, height in pixels; parts outside the image are
    not drawn. Texts are strings or lists of strings (one line each).
    """
    image, boxes = checked_image(image), np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if len(boxes) != len(texts):
        raise ValueError(f"{len(texts)} texts for {len(boxes)} boxes")
    height, width = image.shape[:2]
    scale = min(10 / width, 8 / height)
    figure = new_figure(scale * width, scale * height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(image, interpolation="antialiased", aspect="auto")
    axes.set_axis_off()
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    for k, (x, y, w, h) in enumerate(boxes):
        axes.add_patch(Rectangle((x, y), w, h, fill=False, ec="white", lw=3, alpha=0.8))
        axes.add_patch(Rectangle((x, y), w, h, fill=False, ec=colour(k), lw=1.6))
    taken: list[Any] = []
    for k, text in enumerate(texts):
        lines = text if isinstance(text, str) else "\n".join(text)
        if lines:
            taken.append(_place_text(axes, lines, boxes, taken=taken, number=k))
    return save(figure, path)


def _place_text(
    axes: Axes, text: str, boxes: np.ndarray, *, taken: Sequence[Any], number: int
) -> tuple[float, float, float, float]:
    """Write the text of a box at its best place; return its x, y, width, height in pixels."""
    box, others = boxes[number], np.delete(boxes, number, 0)
    style = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour(number),
             "alpha": 0.88}  # fmt: skip
    written = axes.text(0, 0, text, fontsize=SMALL, va="top", linespacing=1.15, bbox=style)
    measure(written)
    extent = written.get_bbox_patch().get_window_extent().transformed(axes.transData.inverted())
    w, h = abs(extent.width), abs(extent.height)
    inset = (0 - extent.x0, 0 - min(extent.y0, extent.y1))  # from the frame to the text in it
    x, y, box_w, box_h = box
    right, bottom = max(axes.get_xlim()[1] - w, 0), max(axes.get_ylim()[0] - h, 0)
    places = [(x, y - h), (x, y + box_h), (x + box_w, y), (x - w, y), (x, y), (x, y + box_h - h)]
    places = [(min(max(px, 0), right), min(max(py, 0), bottom)) for px, py in places]
    costs = [
        4 * sum(_shared((px, py, w, h), other) for other in taken)
        + sum(_shared((px, py, w, h), other) for other in others)
        + 1.5 * _shared((px, py, w, h), box)
        for px, py in places
    ]
    px, py = places[int(np.argmin(costs))]
    written.set_position((px + inset[0], py + inset[1]))
    return px, py, w, h


def _shared(a: Sequence[float], b: Sequence[float]) -> float:
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(across, 0) * max(down, 0)
