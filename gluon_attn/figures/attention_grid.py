"""Attention of several nets side by side: top classes, Grad-CAM pairs, guided back-propagation.

The layouts are those of three supplements: ICASC's Figures 1 and 2, DREAL's Figures 2 and 3,
AutoLA's Figure 3. Every map is scaled to its own maximum, which the colour bar says.
"""

from __future__ import annotations

import textwrap

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable

from gluon_attn.figures.canvas import MEDIUM, NEUTRAL, SMALL, new_figure, save
from gluon_attn.figures.heatmaps import COLOUR_MAP, heatmap_overlay

FRAME = "#E8000B"  # red, as in the supplement of ICASC
SIDE = 1.25  # inches of one picture


def overlay(image, attention):
    """Lay an attention map ``(h, w)``, >= 0, over an image, scaled to its own maximum."""
    attention = np.asarray(attention)
    return heatmap_overlay(image, attention, limits=(0, attention.max()))


def gradient_picture(gradient, percentile=99.5):
    """Return a gradient ``(3, H, W)`` as a picture ``(H, W, 3)`` uint8: grey is 0.

    Args:
        gradient: Gradient of a score with respect to the pixels, NumPy.
        percentile: Of the absolute values, which becomes black or white; the few larger ones would
            leave everything else grey.
    """
    gradient = np.asarray(gradient, np.float64).transpose(1, 2, 0)
    scale = np.percentile(np.abs(gradient), percentile)
    scale = scale if scale > 0 else max(np.abs(gradient).max(), 1e-30)
    return np.rint(np.clip(127.5 + 127.5 * gradient / scale, 0, 255)).astype(np.uint8)


def top_class_grid(rows, truths, path, side=SIDE):
    """Draw each image with the attention maps of the classes that each net ranks highest.

    An image takes one line per net, in the order of ``rows``: the baseline goes first, so that it
    stands above. The maps of true classes are framed in red; where no map is framed, no true class
    is among them.

    Args:
        rows: ``{net: [per image: (image, [(class name, probability, map, is_true), …])]}``; images
            ``(H, W, 3)`` uint8 as the net sees them, maps ``(h, w)`` >= 0.
        truths: Text under each image: its true class or classes.
        path: Where to write; the suffix decides the type.
        side: Width of a picture in inches.

    Returns:
        The Path written.

    Raises:
        ValueError: Nothing to draw, or the nets have different numbers of images.
    """
    counts = {name: len(images) for name, images in rows.items()}
    if not len(truths) or set(counts.values()) != {len(truths)}:
        raise ValueError(f"images per net {counts}: every net needs {len(truths)}, at least 1")
    most = max(len(maps) for images in rows.values() for _, maps in images)
    names = list(rows)
    lines = len(truths) * len(names)
    longest = max(len(name) for images in rows.values() for _, m in images for name, *_ in m)
    size = max(4.5, min(SMALL, 72 * side / (0.62 * max(longest, 5))))
    figure = new_figure((most + 1) * side + 0.9, lines * (side + 0.32) + 0.35, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.02, wspace=0.01, hspace=0.01)
    grid = figure.subplots(lines, most + 1, squeeze=False)
    for line, axes in enumerate(grid):
        n, k = divmod(line, len(names))
        image, maps = rows[names[k]][n]
        _picture(axes[0], image if k == 0 else None)
        if k == 0:
            text = "\n".join(textwrap.wrap(truths[n], 22)[:3])
            axes[0].set_xlabel(text, fontsize=SMALL, color=FRAME, labelpad=2)
        axes[1].set_ylabel(_short(names[k]), fontsize=SMALL, color=NEUTRAL, labelpad=2)
        for place, found in zip(axes[1:], maps):
            _top_class(place, image, found, size)
        for place in axes[1 + len(maps) :]:
            place.set_axis_off()
    _colour_bar(figure, grid)
    return save(figure, path)


def _top_class(axes, image, found, size):
    name, probability, attention, is_true = found
    _picture(axes, overlay(image, attention))
    axes.set_title(f"{name}\n{probability:.2f}", fontsize=size, pad=2, linespacing=1)
    if is_true:
        # Not spines[:].set(...), which matplotlib 3.7 (Python 3.8) lacks.
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color(FRAME)
        axes.spines[:].set_linewidth(2.5)


def map_pairs(rows, labels, path, side=SIDE):
    """Draw one column per image and one line per net: attention laid over the image.

    Args:
        rows: ``{net: [per image: (image, map)]}``; images uint8, maps ``(h, w)`` >= 0.
        labels: Text under each column: the class.
        path: Where to write; the suffix decides the type.
        side: Width of a picture in inches.

    Returns:
        The Path written.

    Raises:
        ValueError: Nothing to draw, or the nets have different numbers of images.
    """
    counts = {name: len(images) for name, images in rows.items()}
    if not len(labels) or set(counts.values()) != {len(labels)}:
        raise ValueError(f"images per net {counts}: every net needs {len(labels)}, at least 1")
    figure = new_figure(len(labels) * side + 1.0, (len(rows) + 1) * side + 0.5,
                        layout="constrained")  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.02, wspace=0.01, hspace=0.01)
    grid = figure.subplots(len(rows) + 1, len(labels), squeeze=False)
    for axes, (image, _) in zip(grid[0], next(iter(rows.values()))):
        _picture(axes, image)
    grid[0, 0].set_ylabel("input", fontsize=SMALL, color=NEUTRAL)
    for line, (name, images) in zip(grid[1:], rows.items()):
        for axes, (image, attention) in zip(line, images):
            _picture(axes, overlay(image, attention))
        line[0].set_ylabel(_short(name), fontsize=SMALL, color=NEUTRAL)
    for axes, label in zip(grid[-1], labels):
        axes.set_xlabel("\n".join(textwrap.wrap(label, 20)[:3]), fontsize=SMALL, labelpad=2)
    _colour_bar(figure, grid)
    return save(figure, path)


def side_by_side(inputs, labels, groups, path, side=SIDE):
    """Draw one line per image: the input, then one group of pictures after another.

    Args:
        inputs: N images ``(H, W, 3)`` uint8.
        labels: Text at the left of each line: the class.
        groups: ``{title: {net: [N pictures uint8]}}``, such as Grad-CAM and guided
            back-propagation, each of the same nets.
        path: Where to write; the suffix decides the type.
        side: Width of a picture in inches.

    Returns:
        The Path written.

    Raises:
        ValueError: Nothing to draw, or a net has another number of pictures than there are inputs.
    """
    for title, nets in groups.items():
        for name, pictures in nets.items():
            if len(pictures) != len(inputs):
                raise ValueError(f"{title} of '{name}': {len(pictures)} pictures for {len(inputs)}")
    if not len(inputs) or not groups:
        raise ValueError("no image or no group of pictures to draw")
    gap = 0.12  # between groups, in widths of a picture
    widths = [1.0]
    for nets in groups.values():
        widths += [gap] + [1.0] * len(nets)
    height = len(inputs) * side + 0.65
    figure = new_figure(sum(widths) * side + 0.35, height, layout="constrained")
    figure.get_layout_engine().set(
        w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01, rect=(0, 0, 1, 1 - 0.24 / height)
    )  # room for the titles of the groups, which are no part of the layout
    grid = figure.subplots(len(inputs), len(widths), squeeze=False, width_ratios=widths)
    _column(grid[:, 0], "input", inputs)
    for axes, label in zip(grid[:, 0], labels):
        axes.set_ylabel("\n".join(textwrap.wrap(label, 20)[:3]), fontsize=SMALL, labelpad=2)
    first = 1
    for title, nets in groups.items():
        for axes in grid[:, first]:
            axes.set_axis_off()
        for k, (name, pictures) in enumerate(nets.items()):
            _column(grid[:, first + 1 + k], _short(name), pictures)
        left, right = grid[0, first + 1], grid[0, first + len(nets)]
        _group_title(figure, title, left, right)
        first += 1 + len(nets)
    return save(figure, path)


def _column(column, title, pictures):
    for axes, picture in zip(column, pictures):
        _picture(axes, picture)
    column[0].set_title(title, fontsize=SMALL, color=NEUTRAL, pad=3)


def _group_title(figure, title, left, right):
    """Write a title in the middle above two axes."""
    figure.draw_without_rendering()  # places the axes
    middle = (left.get_position().x0 + right.get_position().x1) / 2
    text = figure.text(middle, 1 - 0.04 / figure.get_figheight(), title, fontsize=MEDIUM,
                       ha="center", va="top")  # fmt: skip
    text.set_in_layout(False)


def _short(name, longest=24):
    """Return a net's name in lines that fit beside a picture."""
    return "\n".join(textwrap.wrap(name, longest)[:2])


def _picture(axes, image):
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_visible(False)
    if image is not None:
        axes.imshow(image, interpolation="antialiased")


def _colour_bar(figure, grid):
    """Add the scale that all maps share."""
    scale = ScalarMappable(cmap=matplotlib.colormaps[COLOUR_MAP])
    scale.set_clim(0, 1)
    height = figure.get_figheight()
    bar = figure.colorbar(
        scale, ax=grid, location="right", shrink=min(1, 2.2 / height), aspect=18, pad=0.02,
        ticks=(0, 0.5, 1),
    )  # fmt: skip
    bar.set_label("attention / its maximum in the map", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL, length=2)
    bar.outline.set_visible(False)
