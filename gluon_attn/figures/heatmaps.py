"""Attention maps laid over their images, and people in a scene with their attributes."""

from __future__ import annotations

import cv2
import matplotlib
import numpy as np
from matplotlib.patches import Rectangle

from gluon_attn.figures.canvas import (
    NEUTRAL,
    RIGHT,
    SMALL,
    WRONG,
    colour,
    new_figure,
    save,
)
from gluon_attn.figures.fonts import measure

COLOUR_MAP = "inferno"  # perceptually uniform: equal steps of attention look equally large
KEY = "truth: ✓ positive, ✗ negative, ? unspecified; decision: green right, red wrong"
STRENGTH = 0.75  # opacity where attention is highest


def heatmap_overlay(image, attention, limits=None, strength=STRENGTH, colour_map=COLOUR_MAP):
    """Lay one attention map over its image, more opaque where attention is higher.

    The map is enlarged to the image with cubic interpolation and scaled so that ``limits`` become 0
    and 1. A constant map singles out no place, so it leaves the image as it is.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        attention: ``(h, w)`` finite numbers of any size and range, NumPy.
        limits: ``(low, high)`` of the scale; by default the map's own minimum and maximum. Give the
            same ones to several maps to compare their strengths.
        strength: Opacity in [0, 1] at the high limit.
        colour_map: The name of a matplotlib colour map.

    Returns:
        ``(H, W, 3)`` uint8, RGB.

    Raises:
        TypeError: If the image is not uint8.
        ValueError: If a shape is wrong, or the map is not finite.
    """
    image, attention = _checked_image(image), np.asarray(attention)
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
    colours = matplotlib.colormaps[colour_map](scaled)[..., :3] * 255
    alpha = strength * scaled[..., None]
    return np.rint((1 - alpha) * image + alpha * colours).astype(np.uint8)


def _checked_image(image):
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise TypeError(f"image must be uint8 in 0..255, is {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"image {image.shape}: must be (H, W, 3)")
    return image


def heatmap_grid(
    images, attentions, names, probs, labels, path, attributes=None, mask=None, threshold=0.5
):
    """Draw each image and, beside it, the attention of several attributes laid over it.

    Over each overlay stand the attribute's name, its probability and the truth: a tick for
    positive, a cross for negative, "?" for unspecified. The title is green where the decision is
    right, red where it is wrong, grey where the truth is not known.

    Args:
        images: N images ``(H, W, 3)`` uint8, RGB; sizes may differ.
        attentions: ``(N, A, h, w)``, or a dict from tap name to such arrays: one line per tap.
        names: The A attribute names.
        probs: ``(N, A)`` probabilities.
        labels: ``(N, A)`` in {0, 1}, or None if the truth is not known.
        path: Where to write; the suffix decides the type.
        attributes: Names or column numbers to show; by default up to six of them, those most often
            true (or probable, without labels) in these images.
        mask: ``(N, A)`` in {0, 1}, or None for all known.
        threshold: The decision is positive where ``probs >= threshold``; a number, or ``(A,)``.

    Returns:
        The Path written.

    Raises:
        TypeError: If an image is not uint8.
        ValueError: If shapes do not fit or an attribute is not known.
    """
    images = [_checked_image(image) for image in images]
    taps = attentions if isinstance(attentions, dict) else {"": attentions}
    taps = {name: np.asarray(maps) for name, maps in taps.items()}
    probs = np.asarray(probs, dtype=np.float64)
    truth = _truth(labels, mask, probs.shape)
    _require_shapes(images, taps, names, probs)
    shown = _columns(attributes, names, probs, truth)
    correct = (probs >= np.asarray(threshold)) == (truth == 1)
    columns = len(shown) + 1
    side = min(1.5, 10.5 / columns)
    titles, size = _titles(names, probs, truth, shown, side, labels is not None)
    heights = [side * image.shape[0] / image.shape[1] for image in images for _ in taps]
    title = 0.18 + 0.11 * titles[0, shown[0]].count("\n")
    total = sum(heights) + title * len(images) + 0.04 * len(heights) + 0.2
    figure = new_figure(side * columns + 0.25, total, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.015, wspace=0.01, hspace=0.01)
    grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for line, (n, t) in zip(grid, np.ndindex(len(images), len(taps))):
        tap, maps = list(taps.items())[t]
        _picture(line[0], images[n] if t == 0 else None, "input" if t == 0 else "", size)
        line[1].set_ylabel(tap, fontsize=SMALL - 1, color=NEUTRAL, labelpad=2)
        for axes, a in zip(line[1:], shown):
            ink = (RIGHT if correct[n, a] else WRONG) if truth[n, a] >= 0 else NEUTRAL
            overlay = heatmap_overlay(images[n], maps[n, a])
            _picture(axes, overlay, titles[n, a] if t == 0 else "", size, ink)
    if labels is not None:
        figure.supxlabel(KEY, fontsize=SMALL - 1, color=NEUTRAL)
    return save(figure, path)


def _titles(names, probs, truth, shown, side, labelled):
    """Return the title of each cell and a font size at which it fits ``side`` inches."""
    titles = np.full(truth.shape, "", dtype=object)
    em = 0.62 / 72  # a character's mean width in inches per point of font size
    longest = max(len(names[a]) for a in shown)
    gap = " " if (longest + 7) * em * SMALL < side else "\n"
    for n, a in np.ndindex(truth.shape):
        mark = {1: " ✓", 0: " ✗"}.get(truth[n, a], " ?" if labelled else "")
        titles[n, a] = f"{names[a]}{gap}{probs[n, a]:.2f}{mark}"
    characters = max(longest + 7 if gap == " " else longest, 6)
    return titles, max(4, min(SMALL, side / (em * characters)))


def _truth(labels, mask, shape):
    """Return ``(N, A)``: 1 positive, 0 negative, -1 not known."""
    if labels is None:
        return np.full(shape, -1)
    labels = np.asarray(labels)
    known = np.ones(shape, bool) if mask is None else np.asarray(mask) != 0
    if labels.shape != shape or known.shape != shape:
        raise ValueError(f"labels {labels.shape} and mask {known.shape}: must be as probs, {shape}")
    return np.where(known, (labels == 1).astype(int), -1)


def _require_shapes(images, taps, names, probs):
    expected = (len(images), len(names))
    if not taps or 0 in expected:
        raise ValueError("no image, attention map or attribute to draw")
    if probs.shape != expected:
        raise ValueError(f"probs {probs.shape}: must be {expected}, images by names")
    for tap, maps in taps.items():
        if maps.ndim != 4 or maps.shape[:2] != expected:
            where = f" of '{tap}'" if tap else ""
            raise ValueError(f"attention{where} {maps.shape}: must be {expected} + (h, w)")


def _columns(attributes, names, probs, truth, most=6):
    """Return the columns to show, in the order asked for or else in the data set's."""
    names = list(names)
    if attributes is None:
        weight = (truth == 1).sum(axis=0) + probs.mean(axis=0)
        return sorted(np.argsort(-weight, kind="stable")[:most].tolist())
    unknown = [a for a in attributes if a not in names and a not in range(len(names))]
    if unknown or not len(attributes):
        raise ValueError(f"attributes {unknown}: valid are {', '.join(names)}")
    return [names.index(a) if a in names else int(a) for a in attributes]


def _picture(axes, image, title, size, ink="black"):
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=size, color=ink, pad=2, linespacing=1)
    if image is not None:
        axes.imshow(image, interpolation="antialiased")


def scene_overview(image, boxes, texts, path):
    """Draw the boxes of people in a picture, each with its text beside it.

    A text stands where it covers least of the other texts and boxes: above, below, right, left or
    inside its box.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        boxes: ``(K, 4)``: x, y, width, height in pixels. Parts outside the image are not drawn.
        texts: K strings or lists of strings (one line each), e.g. predicted attribute names.
        path: Where to write; the suffix decides the type.

    Returns:
        The Path written.

    Raises:
        TypeError: If the image is not uint8.
        ValueError: If shapes do not fit.
    """
    image, boxes = _checked_image(image), np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
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
    taken = []
    for k, (box, text) in enumerate(zip(boxes, texts)):
        lines = text if isinstance(text, str) else "\n".join(text)
        if lines:
            taken.append(_place_text(axes, lines, box, colour(k), taken, np.delete(boxes, k, 0)))
    return save(figure, path)


def _place_text(axes, text, box, edge, taken, others):
    """Write a text at its best place round a box; return its x, y, width, height in pixels."""
    style = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": edge, "alpha": 0.88}
    written = axes.text(0, 0, text, fontsize=SMALL, va="top", linespacing=1.15, bbox=style)
    measure(written)
    extent = written.get_bbox_patch().get_window_extent().transformed(axes.transData.inverted())
    w, h = abs(extent.width), abs(extent.height)
    inset = (0 - extent.x0, 0 - min(extent.y0, extent.y1))  # from the frame to the text in it
    x, y, box_w, box_h = box
    right, bottom = axes.get_xlim()[1] - w, axes.get_ylim()[0] - h
    places = [
        (x, y - h), (x, y + box_h), (x + box_w, y), (x - w, y), (x, y), (x, y + box_h - h),
    ]  # fmt: skip
    places = [
        (min(max(px, 0), max(right, 0)), min(max(py, 0), max(bottom, 0))) for px, py in places
    ]
    costs = [
        4 * sum(_shared((px, py, w, h), other) for other in taken)
        + sum(_shared((px, py, w, h), other) for other in others)
        + 1.5 * _shared((px, py, w, h), box)
        for px, py in places
    ]
    px, py = places[int(np.argmin(costs))]
    written.set_position((px + inset[0], py + inset[1]))
    return px, py, w, h


def _shared(a, b):
    """Return the area that two boxes x, y, width, height have in common."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(across, 0) * max(down, 0)
