"""Where synthetic pedestrians stand, and what stands in front of them.

Distractors are there on purpose: stripes, emblems, posters with faces (some with sunglasses) and
hat-like shapes appear away from any person, so that a texture found anywhere in the image does
not give an attribute away.
"""

from __future__ import annotations

from typing import Any, Callable

import cv2
import numpy as np

from gluon_attn.data.synthetic.drawing import (
    EMBLEMS,
    WORDS,
    Canvas,
    capsule,
    ellipse,
    emblem,
    patch,
    random_colour,
    rect,
    stripes,
)

PLACES = ("street", "park", "indoor", "stadium", "shop", "beach")
OCCLUDERS = ("hedge", "barrier", "desk", "crate", "pole", "sign")


def paint_background(rng: np.random.Generator, height: int, width: int) -> Any:
    """Return an opaque ``Canvas`` showing a random place, its horizon, and the place's name."""
    place = PLACES[rng.integers(len(PLACES))]
    canvas = Canvas(height, width, relief=3.0)
    horizon = height * rng.uniform(0.3, 0.55)
    blue, pale = np.array([125, 170, 225]), np.array([225, 228, 232])
    grey = rng.uniform(0, 0.9)
    sky = np.stack([blue * (1 - grey) + pale * grey * 0.85, pale]) * rng.uniform(0.6, 1.05)
    ground = random_colour(rng, 60, 180, 0.25) * 0.6 + rng.uniform(20, 80)
    if place in ("park", "stadium"):
        ground = np.array([98, 132, 72]) + rng.uniform(-18, 18, 3) + rng.uniform(-20, 20)
    elif place == "beach":
        ground = np.array([212, 194, 154]) + rng.uniform(-12, 12, 3)
    ramp = np.linspace(0, 1.3, height, dtype=np.float32)[:, None]
    canvas.rgb[:] = sky[0][:, None, None] * (1 - ramp) + sky[1][:, None, None] * ramp
    canvas.alpha[:] = 1.0
    floor = rect(-2, horizon, width + 2, height + 2)
    canvas.paint([floor], ground, texture=_dirt(rng, height, width))
    _FURNITURE[place](canvas, rng, horizon)
    for _ in range(rng.poisson(1.5)):
        _poster(canvas, rng, horizon)
    return canvas, horizon, place


def _dirt(rng: np.random.Generator, height: int, width: int) -> Callable[..., np.ndarray]:
    """Return a texture of smooth blotches and fine grain, as asphalt or grass has."""
    coarse = rng.normal(0, 9, (max(2, height // 24), max(2, width // 24))).astype(np.float32)
    noise: Any = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noise += rng.standard_normal((height, width), np.float32) * np.float32(rng.uniform(1, 6))
    return lambda x, y, fill: fill + patch(noise, x, y)


def _street(canvas: Canvas, rng: np.random.Generator, horizon: float) -> None:
    x, width = -20.0, canvas.alpha.shape[1]
    while x < width:
        w, top = rng.uniform(50, 130), horizon * rng.uniform(-0.1, 0.6)
        wall, glass = random_colour(rng, 80, 225, 0.35), random_colour(rng, 40, 130, 0.3)
        canvas.paint([rect(x, top, x + w, horizon + 6)], wall, 0.1)
        pane = rng.uniform(8, 15)
        rows = np.arange(top + 8, horizon - pane, pane * 1.9)
        columns = np.arange(x + 6, x + w - pane, pane * 1.6)
        panes = [rect(wx, wy, wx + pane * 0.6, wy + pane) for wy in rows for wx in columns]
        if panes:
            canvas.paint(panes, glass)
        x += w
    _crowd(canvas, rng, horizon, rng.integers(0, 6))


def _park(canvas: Canvas, rng: np.random.Generator, horizon: float) -> None:
    width = canvas.alpha.shape[1]
    for _ in range(rng.integers(3, 8)):
        x, size = rng.uniform(0, width), rng.uniform(25, 60)
        trunk = capsule((x, horizon + 8), (x, horizon - size), size * 0.09, size * 0.06)
        canvas.paint([trunk], np.array([95, 70, 50]) + rng.uniform(-20, 20), 0.3)
        leaf = np.array([70, 108, 52]) + rng.uniform(-20, 20, 3) + rng.uniform(-25, 25)
        places, wide, high = rng.uniform(-0.45, 0.45, (6, 2)), size * 0.5, size * 0.42
        puffs = [ellipse(x + a * size, horizon - size * (1.2 + b), wide, high) for a, b in places]
        canvas.paint(puffs, leaf, 0.35)
    _crowd(canvas, rng, horizon, rng.integers(0, 4))


def _indoor(canvas: Canvas, rng: np.random.Generator, horizon: float) -> None:
    width = canvas.alpha.shape[1]
    wall = random_colour(rng, 110, 240, 0.35)
    panel = stripes(rng.uniform(25, 80), rng.choice([0.0, 0.0, np.pi / 2]), wall * 0.88, 0.5)
    backdrop = rect(-2, -2, width + 2, horizon + 20)
    canvas.paint([backdrop], wall, 0, panel if rng.random() < 0.6 else None)
    canvas.paint([rect(-2, horizon + 14, width + 2, horizon + 20)], wall * 0.6)
    for _ in range(rng.integers(1, 3)):
        x, w = rng.uniform(0, width), rng.uniform(40, 80)
        frame = rect(x, horizon * 0.15, x + w, horizon * 0.75)
        canvas.paint([frame], random_colour(rng, vivid=0.5), 0.1)
    for _ in range(2):
        _poster(canvas, rng, horizon)


def _stadium(canvas: Canvas, rng: np.random.Generator, horizon: float) -> None:
    width = canvas.alpha.shape[1]
    canvas.paint([rect(-2, -2, width + 2, horizon)], random_colour(rng, 70, 150, 0.3))
    palette = [random_colour(rng, vivid=0.7) for _ in range(4)]
    for colour in palette:
        spots = rng.uniform((0, 0), (width, horizon - 8), (60, 2))
        canvas.paint([ellipse(x, y, 3, 4, points=8) for x, y in spots], colour)
    canvas.paint([rect(-2, horizon - 10, width + 2, horizon + 4)], random_colour(rng))
    for x in np.arange(rng.uniform(0, 60), width, 90):
        emblem(canvas, (x, horizon - 3), 6, random_colour(rng), **_sign(rng))


def _shop(canvas: Canvas, rng: np.random.Generator, horizon: float) -> None:
    width = canvas.alpha.shape[1]
    canvas.paint([rect(-2, -2, width + 2, horizon + 8)], random_colour(rng, 100, 220, 0.35))
    awning = stripes(rng.uniform(9, 22), 0.0, random_colour(rng))
    cloth = rect(-2, horizon * 0.1, width + 2, horizon * 0.35)
    canvas.paint([cloth], random_colour(rng), 0.1, awning)
    canvas.paint([rect(10, horizon * 0.42, width - 10, horizon)], random_colour(rng, 40, 110, 0.3))
    for x in np.arange(25, width - 20, rng.uniform(28, 50)):  # goods: hat-like and bag-like shapes
        y, r, colour = horizon * rng.uniform(0.55, 0.85), rng.uniform(6, 12), random_colour(rng)
        dome = ellipse(x, y, r * 0.6, r * 0.7, start=np.pi, stop=2 * np.pi)
        canvas.paint([dome, ellipse(x, y, r, r * 0.25)], colour, 0.3)
    emblem(canvas, (width / 2, horizon * 0.22), horizon * 0.1, random_colour(rng), **_sign(rng))


def _beach(canvas: Canvas, rng: np.random.Generator, horizon: float) -> None:
    width = canvas.alpha.shape[1]
    sea = np.array([65, 125, 160]) + rng.uniform(-18, 18, 3)
    water = rect(-2, horizon - 30, width + 2, horizon + 8)
    canvas.paint([water], sea, 0, stripes(5, 1.57, sea * 1.1, 0.3))
    for _ in range(rng.integers(1, 4)):
        x, y, r = rng.uniform(0, width), horizon + rng.uniform(-20, 10), rng.uniform(25, 50)
        canvas.paint([capsule((x, y + r), (x, y), 1.5, 1.5)], (120, 100, 80))
        shade = ellipse(x, y, r, r * 0.6, start=np.pi, stop=2 * np.pi)
        canvas.paint([shade], random_colour(rng), 0.3, stripes(r * 0.35, 0.0, random_colour(rng)))
    _crowd(canvas, rng, horizon, rng.integers(0, 4))


def _crowd(canvas: Canvas, rng: np.random.Generator, horizon: float, count: int) -> None:
    """Far-away people, too small to be annotated."""
    for _ in range(count):
        x, h = rng.uniform(0, canvas.alpha.shape[1]), rng.uniform(18, 32)
        y = horizon + rng.uniform(0, 12)
        legs = capsule((x, y - h * 0.45), (x, y), h * 0.12, h * 0.08)
        canvas.paint([legs], random_colour(rng, 30, 90))
        torso = capsule((x, y - h * 0.75), (x, y - h * 0.45), h * 0.14, h * 0.12)
        canvas.paint([torso], random_colour(rng))
        canvas.paint([ellipse(x, y - h * 0.95, h * 0.09, h * 0.11)], (190, 150, 125))


def _sign(rng: np.random.Generator) -> dict[str, str]:
    return {"kind": EMBLEMS[rng.integers(len(EMBLEMS))], "word": WORDS[rng.integers(len(WORDS))]}


def _poster(canvas: Canvas, rng: np.random.Generator, horizon: float) -> None:
    """A poster, banner or cloth: a face, an emblem, stripes or a patch of print."""
    width = canvas.alpha.shape[1]
    w, h = rng.uniform(22, 60), rng.uniform(24, 60)
    x, y = rng.uniform(0, width - w), rng.uniform(0, max(4, horizon - h * 0.6))
    paper, ink = random_colour(rng, 120, 250), random_colour(rng, 20, 160)
    kind = rng.integers(4)
    bars = stripes(rng.uniform(4, 10), rng.choice([0.0, np.pi / 2]), ink)
    canvas.paint([rect(x, y, x + w, y + h)], paper, 0.1, bars if kind == 0 else None)
    cx, cy, r = x + w / 2, y + h / 2, min(w, h) * 0.3
    if kind == 1:
        emblem(canvas, (cx, cy), r, ink, **_sign(rng))
    elif kind == 2:
        canvas.paint([ellipse(cx, cy - r * 0.2, r, r * 1.15)], ink * 0.5)
        skin = np.array([205, 160, 130]) * rng.uniform(0.5, 1.1)
        canvas.paint([ellipse(cx, cy, r * 0.8, r)], skin, 0.3)
        wide = r * (0.3 if rng.random() < 0.5 else 0.1)  # sunglasses or eyes
        eyes = [ellipse(cx + s * r * 0.35, cy - r * 0.1, wide, r * 0.2) for s in (-1, 1)]
        canvas.paint(eyes, (20, 20, 25))
    elif kind == 3:
        for i in range(4):
            top, right = y + (0.15 + 0.2 * i) * h, x + w * rng.uniform(0.5, 0.95)
            canvas.paint([rect(x + 4, top, right, y + (0.22 + 0.2 * i) * h)], ink)


_FURNITURE = {
    "street": _street, "park": _park, "indoor": _indoor,
    "stadium": _stadium, "shop": _shop, "beach": _beach,
}  # fmt: skip


def paint_occluder(
    rng: np.random.Generator, height: int, width: int, top: Any, *, left: Any, right: float
) -> Canvas:
    """Return a ``Canvas`` of the scene's size with one object in the foreground.

    ``top`` is its upper edge, ``left`` and ``right`` the part of the scene it covers, in pixels.
    """
    canvas, kind = Canvas(height, width, relief=3.0), OCCLUDERS[rng.integers(len(OCCLUDERS))]
    colour, bottom = random_colour(rng, 50, 210, 0.5), height + 6
    bars = stripes(rng.uniform(6, 16), rng.choice([0.0, 0.8, np.pi / 2]), random_colour(rng))
    if kind == "hedge":
        green = np.array([55, 100, 45]) + rng.uniform(-20, 30, 3)
        across = np.arange(left, right, 11)
        puffs = [ellipse(x, top + 9 + rng.uniform(-4, 4), 13, 11) for x in across]
        body = rect(left, top + 9, right, bottom)
        canvas.paint(puffs + [body], green, 0.4, _dirt(rng, height, width))
    elif kind == "barrier":
        gap = max(24, (right - left) / 3)
        posts = [rect(x, top, x + 5, bottom) for x in np.arange(left, right + 4, gap)]
        canvas.paint(posts, colour * 0.6, 0.3)
        rails = [rect(left, y, right, y + 15) for y in np.arange(top + 4, max(bottom, top + 5), 24)]
        canvas.paint(rails, colour, 0.2, bars if rng.random() < 0.5 else None)
    elif kind == "pole":
        x = (left + right) / 2
        canvas.paint([rect(x - 4, -4, x + 4, bottom)], colour * 0.7, 0.4)
        canvas.paint([ellipse(x, top, 14, 14)], colour, 0.2)
    else:
        striped = kind == "crate" and rng.random() < 0.4
        canvas.paint([rect(left, top, right, bottom)], colour, 0.2, bars if striped else None)
        if kind == "desk":
            canvas.paint([rect(left - 5, top - 3, right + 5, top + 6)], colour * 1.2, 0.3)
        else:
            emblem(canvas, ((left + right) / 2, top + 20), 10, random_colour(rng), **_sign(rng))
    return canvas
