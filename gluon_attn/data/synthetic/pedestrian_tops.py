"""The front of a synthetic pedestrian's top: collars, buttons, ties, pockets and printed signs.

``paint_chest`` works on a ``Figure`` whose torso is painted. Several fronts are near misses on
purpose: an open jacket without a tie is not formal, a pocket is not a logo.
"""

from __future__ import annotations

import numpy as np

from gluon_attn.data.synthetic.drawing import ellipse, emblem, rect


def paint_chest(f):
    """Paint what tells one top from another onto figure ``f``."""
    o, k = f.outfit, f.look
    x = 0.05 * f.sin  # the middle of the chest moves as the person turns
    if not k.back:
        front = _FRONTS.get(k.long_style if o.top == "long" else o.top)
        if front:
            front(f, x)
    elif o.top == "suit":
        f.line([(0, 0.42), (0, 0.55)], f.top * 0.6, 0.006)
    if k.pocket and o.top in ("tshirt", "polo", "long") and not o.logo and not k.back:
        corners = [(0.022, 0.275), (0.022, 0.315), (0.062, 0.315), (0.062, 0.275), (0.022, 0.275)]
        f.line(np.array(corners) + (x, 0), f.top * 0.65, 0.005)
    if k.necklace and o.top in ("tank", "tshirt", "bare", "gown") and not k.back:
        f.line([(x - 0.03, 0.19), (x, 0.25), (x + 0.03, 0.19)], k.extra, 0.006)
    if o.logo:
        _logo(f, x)


def _logo(f, x):
    k = f.look
    size = 0.032 if k.logo_small else 0.046
    place = (x + 0.045 * f.f, 0.272) if k.logo_small else (x * 0.8, 0.325)
    if f.outfit.stripe or k.pattern:  # a plain patch under the sign keeps it legible
        f.fill(ellipse(*place, size * 1.3, size * 1.3), colour=f.top, shade=0)
    emblem(f.canvas, f.at(place), size * f.scale, k.print, k.logo_kind, k.logo_word)


def _mirrored(points, x, side):
    return np.array([(x + side * px, py) for px, py in points])


def _suit(f, x):
    suit = f.look.suit
    shirt = [(x - 0.042, 0.183), (x + 0.042, 0.183), (x + 0.004, 0.375), (x - 0.004, 0.375)]
    f.fill(np.array(shirt), colour=(240, 240, 240), shade=0.1)
    half = [(0.013, 0.19), (0.007, 0.21), (0.017, 0.335), (0.0, 0.365)]
    tie = np.concatenate([_mirrored(half, x, 1), _mirrored(half[::-1], x, -1)])
    f.fill(tie, colour=f.look.tie, shade=0.2)
    _lapels(f, x, suit)


def _lapels(f, x, suit):
    edge = [(0.04, 0.18), (0.075, 0.25), (0.05, 0.265), (0.056, 0.285), (0.0, 0.395), (0.014, 0.33)]
    for side in (-1, 1):
        lapel = _mirrored(edge, x, side)
        f.fill(lapel, colour=suit * 1.25 + 8, shade=0.3)
        f.line(lapel, suit * 0.5, 0.004)
    f.line([(x, 0.395), (x + 0.01, 0.55)], suit * 0.5, 0.006)
    buttons = [ellipse(x + 0.008, y, 0.006, 0.006) for y in (0.42, 0.46)]
    f.fill(*buttons, colour=suit * 0.4, shade=0)


def _neckline(f, x, depth, colour):
    f.fill(ellipse(x * 0.6, 0.184, 0.044, depth), colour=colour * 0.75, shade=0)
    f.fill(ellipse(x * 0.6, 0.18, 0.036, depth * 0.8), colour=f.look.skin * 0.92, shade=0)


def _tshirt(f, x):
    _neckline(f, x, 0.03, f.top)


def _robe(f, x):
    _neckline(f, x, 0.025, f.top)
    f.line([(x, 0.21), (x, 0.93)], f.top * 0.6, 0.007)


def _collar(f, x, colour):
    f.fill(ellipse(x * 0.7, 0.182, 0.03, 0.02), colour=f.look.skin * 0.9, shade=0)
    edge = [(0.045, 0.17), (0.05, 0.2), (0.016, 0.222), (0.0, 0.198), (0.03, 0.172)]
    for side in (-1, 1):
        f.fill(_mirrored(edge, x, side), colour=colour, shade=0.3)


def _buttons(f, x, first, last, count):
    f.line([(x, first - 0.01), (x, last)], f.top * 0.65, 0.005)
    dots = [ellipse(x, y, 0.006, 0.006, points=10) for y in np.linspace(first, last, count)]
    f.fill(*dots, colour=f.top * 0.4 if f.top.mean() > 110 else (225, 225, 215), shade=0)


def _polo(f, x):
    _collar(f, x, f.look.print)
    _buttons(f, x, 0.225, 0.265, 3)


def _shirt(f, x):
    _collar(f, x, np.minimum(f.top * 1.15, 255))
    _buttons(f, x, 0.23, 0.5, 7)


def _sweater(f, x):
    _neckline(f, x, 0.02, f.top)
    f.fill(rect(-f.hip * 0.9, 0.508, f.hip * 0.9, 0.53), colour=f.top * 0.75, shade=0.2)


def _hoodie(f, x):
    f.fill(ellipse(x * 0.6, 0.185, 0.064, 0.032), colour=f.top * 0.75, shade=0.4)
    f.fill(ellipse(x * 0.6, 0.18, 0.034, 0.024), colour=f.look.skin * 0.9, shade=0)
    for side in (-1, 1):
        f.line(_mirrored([(0.02, 0.205), (0.022, 0.27)], x, side), (235, 235, 230), 0.005)
    pouch = [(-0.05, 0.49), (-0.035, 0.43), (0.035, 0.43), (0.05, 0.49)]
    f.line(_mirrored(pouch, x, 1), f.top * 0.6, 0.006)


def _zip(f, x):
    f.fill(rect(x - 0.036, 0.165, x + 0.036, 0.195), colour=f.top * 0.8, shade=0.2)
    f.line([(x, 0.175), (x, 0.525)], (200, 200, 205), 0.007)


def _open(f, x):
    """An open jacket without a tie: the nearest thing to a suit that is not formal."""
    half = [(0.05, 0.185), (0.03, 0.35), (0.04, 0.525)]
    inside = np.concatenate([_mirrored(half, x, 1), _mirrored(half[::-1], x, -1)])
    f.fill(inside, colour=f.look.inner, shade=0.15)
    _neckline(f, x, 0.026, f.look.inner)
    for side in (-1, 1):
        f.line(_mirrored(half, x, side), f.top * 0.55, 0.008)


def _blazer(f, x):
    """A jacket with lapels over an open collar: all of a suit but the tie."""
    shirt = [(x - 0.045, 0.183), (x + 0.045, 0.183), (x + 0.004, 0.375), (x - 0.004, 0.375)]
    f.fill(np.array(shirt), colour=f.look.inner, shade=0.1)
    _neckline(f, x, 0.03, f.look.inner)
    _lapels(f, x, f.top)


_FRONTS = {
    "suit": _suit, "tshirt": _tshirt, "polo": _polo, "robe": _robe, "shirt": _shirt,
    "sweater": _sweater, "hoodie": _hoodie, "zip": _zip, "open": _open, "blazer": _blazer,
}  # fmt: skip
