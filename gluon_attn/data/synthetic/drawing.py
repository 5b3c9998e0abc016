"""Anti-aliased painting with OpenCV: shapes, a canvas with transparency, textures and emblems.

All colours are RGB in 0..255, all coordinates are pixels ``(x, y)``.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

EMBLEMS = ("star", "ring", "triangle", "bolt", "bars", "letters", "heart")
WORDS = ("NYC", "GO", "A1", "TEAM", "23", "7", "RUN", "K", "ZED", "88")


def rect(x0, y0, x1, y1):
    """Return the four corners of an axis-aligned rectangle, ``(4, 2)``."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)


def ellipse(cx, cy, rx, ry, angle=0.0, start=0.0, stop=2 * np.pi, points=28):
    """Return ``points`` points on an arc of an ellipse turned by ``angle`` radians."""
    unit = _arc(start, stop, points)
    if angle == 0.0:
        return (unit * (rx, ry) + (cx, cy)).astype(np.float32)
    c, s = math.cos(angle), math.sin(angle)
    return (unit @ ((rx * c, rx * s), (-ry * s, ry * c)) + (cx, cy)).astype(np.float32)


@lru_cache(maxsize=64)
def _arc(start, stop, points):
    t = np.linspace(start, stop, points)
    return np.stack([np.cos(t), np.sin(t)], 1)


def capsule(a, b, ra, rb, flat_end=False):
    """Return the outline of a limb: a tapered bar from ``a`` to ``b`` with round ends."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    angle = math.atan2(b[1] - a[1], b[0] - a[0])
    tail = ellipse(a[0], a[1], ra, ra, angle, np.pi / 2, 3 * np.pi / 2, 10)
    if flat_end:
        side = np.array([math.sin(angle), -math.cos(angle)], np.float32) * rb
        return np.concatenate([tail, [b + side, b - side]]).astype(np.float32)
    return np.concatenate([tail, ellipse(b[0], b[1], rb, rb, angle, -np.pi / 2, np.pi / 2, 10)])


def _spline_basis(steps):
    t = np.arange(steps, dtype=np.float32)[:, None] / steps
    return 0.5 * np.hstack(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3]
    )


_BASIS = _spline_basis(6)


def spline(points):
    """Return a smooth closed curve (Catmull-Rom) through ``points`` ``(N, 2)``."""
    p = np.asarray(points, np.float32)
    knots = np.stack([np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)], 1)
    return np.einsum("sk,nkd->nsd", _BASIS, knots).reshape(-1, 2)


class Canvas:
    """A float picture with transparency; ``rgb`` ``(3, H, W)`` is premultiplied by ``alpha``.

    Channels come first because NumPy blends planes several times faster than pixels.

    Args:
        height, width: Size in pixels.
        light: Unit-free direction towards the light ``(x, y)``; ``y`` negative is from above.
        relief: Width in pixels of the shaded rim of a shape.
    """

    def __init__(self, height, width, light=(-0.5, -0.8), relief=4.0):
        self.rgb = np.zeros((3, height, width), np.float32)
        self.alpha = np.zeros((height, width), np.float32)
        self.light, self.relief = light, relief

    def paint(self, shapes, colour, shade=0.0, texture=None, opacity=1.0):
        """Fill the union of ``shapes`` with ``colour``.

        Args:
            shapes: List of ``(N, 2)`` outlines.
            colour: RGB, 0..255.
            shade: Strength of the relief: 0 flat, 0.5 strongly rounded.
            texture: ``f(x, y, fill) -> fill`` with pixel grids ``x`` ``(1, W)``, ``y`` ``(H, 1)``
                and ``fill`` broadcastable to ``(3, H, W)``.
            opacity: 0..1.
        """
        spot = self._spot(np.concatenate(shapes)) if shapes else None
        if spot is None:
            return
        x0, y0, x1, y1 = spot
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        for shape in shapes:
            corners = np.round((shape - (x0, y0)) * 16).astype(np.int32)
            cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, 4)
        self._blend(spot, mask, colour, shade, texture, opacity)

    def image(self):
        """Return ``(H, W, 3)`` float32, premultiplied."""
        return cv2.merge(list(self.rgb))

    def stroke(self, points, colour, width, closed=False, opacity=1.0):
        """Draw a line ``width`` pixels wide through ``points``."""
        points = np.asarray(points, np.float32)
        spot = self._spot(points, int(width) + 2)
        if spot is None:
            return
        x0, y0, x1, y1 = spot
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        line = [np.round((points - (x0, y0)) * 16).astype(np.int32)]
        cv2.polylines(mask, line, closed, 255, max(1, int(round(width))), cv2.LINE_AA, 4)
        self._blend(spot, mask, colour, 0.0, None, opacity * min(1.0, max(width, 0.4)))

    def text(self, centre, word, height, colour):
        """Write ``word``, its capitals ``height`` pixels high, around ``centre``."""
        thick = max(1, int(round(height * 0.22)))
        font = cv2.FONT_HERSHEY_SIMPLEX
        (w, h), _ = cv2.getTextSize(word, font, height / 21.0, thick)
        corner = np.array([centre[0] - w / 2, centre[1] - h / 2], np.float32)
        spot = self._spot(np.stack([corner, corner + (w, h)]), thick + 1)
        if spot is None:
            return
        mask = np.zeros((spot[3] - spot[1], spot[2] - spot[0]), np.uint8)
        org = (int(corner[0]) - spot[0], int(corner[1]) + h - spot[1])
        cv2.putText(mask, word, org, font, height / 21.0, 255, thick, cv2.LINE_AA)
        self._blend(spot, mask, colour, 0.0, None, 1.0)

    def _spot(self, points, margin=2):
        height, width = self.alpha.shape
        x0, y0 = np.floor(points.min(0)).astype(int) - margin
        x1, y1 = np.ceil(points.max(0)).astype(int) + margin + 1
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def _blend(self, spot, mask, colour, shade, texture, opacity):
        x0, y0, x1, y1 = spot
        m = mask.astype(np.float32) * (opacity / 255.0)
        fill = np.asarray(colour, np.float32).reshape(3, 1, 1)
        if texture is not None:
            x = np.arange(x0, x1, dtype=np.float32)[None]
            fill = texture(x, np.arange(y0, y1, dtype=np.float32)[:, None], fill)
        if shade:
            fill = fill * self._relief(m, shade)
        keep, rgb, alpha = 1.0 - m, self.rgb[:, y0:y1, x0:x1], self.alpha[y0:y1, x0:x1]
        rgb *= keep
        rgb += fill * m
        alpha *= keep
        alpha += m

    def _relief(self, m, shade):
        """Rim lighting: the blurred mask is taken as a height field and lit from one side."""
        soft = cv2.GaussianBlur(m, (0, 0), self.relief, borderType=cv2.BORDER_CONSTANT)
        gx = cv2.Sobel(soft, cv2.CV_32F, 1, 0, ksize=1)
        gy = cv2.Sobel(soft, cv2.CV_32F, 0, 1, ksize=1)
        tilt = (gx * -self.light[0] + gy * -self.light[1]) * self.relief * 1.3
        return np.maximum(0.72 + 0.28 * soft + shade * tilt, 0.3)


def emblem(canvas, centre, size, colour, kind, word="GO"):
    """Paint a small printed sign: ``kind`` is one of ``EMBLEMS``; ``size`` is its radius."""
    x, y = centre
    if kind == "letters":
        canvas.text(centre, word, size * (1.9 if len(word) == 1 else 1.35), colour)
    elif kind == "ring":
        ring = ellipse(x, y, size * 0.8, size * 0.8)
        canvas.stroke(ring, colour, max(1.0, size * 0.35), True)
        canvas.paint([ellipse(x, y, size * 0.3, size * 0.3)], colour)
    elif kind == "star":
        outer, inner = ellipse(x, y, size, size, -np.pi / 2, points=6)[:5], []
        inner = ellipse(x, y, size * 0.42, size * 0.42, -np.pi / 2 + np.pi / 5, points=6)[:5]
        canvas.paint([np.stack([outer, inner], 1).reshape(-1, 2)], colour)
    elif kind == "triangle":
        canvas.paint([ellipse(x, y, size, size, -np.pi / 2, points=4)[:3]], colour)
    elif kind == "bolt":
        zigzag = [(0.1, -1), (-0.6, 0.2), (-0.05, 0.1), (-0.2, 1), (0.6, -0.3), (0.05, -0.2)]
        canvas.paint([np.array(zigzag, np.float32) * size + (x, y)], colour)
    elif kind == "bars":
        for i in (-1, 0, 1):
            top = y - size * (0.3 + 0.25 * (i + 1))
            canvas.paint(
                [rect(x + (0.6 * i - 0.2) * size, top, x + (0.6 * i + 0.2) * size, y + size * 0.7)],
                colour,
            )
    else:  # heart
        lobes = [
            ellipse(x + s * size * 0.4, y - size * 0.3, size * 0.48, size * 0.45) for s in (-1, 1)
        ]
        tip = np.array(
            [[x - size * 0.85, y - 0.1 * size], [x + size * 0.85, y - 0.1 * size], [x, y + size]]
        )
        canvas.paint(lobes + [tip.astype(np.float32)], colour)


def stripes(period, angle, other, duty=0.5):
    """Return a texture of bars of colour ``other``, ``period`` pixels apart."""
    other = np.asarray(other, np.float32).reshape(3, 1, 1)

    def texture(x, y, fill):
        phase = (x * np.cos(angle) + y * np.sin(angle)) / period
        return np.where(phase - np.floor(phase) < duty, other, fill)

    return texture


def random_colour(rng, low=30, high=235, vivid=1.0):
    """Return a random RGB colour; ``vivid`` 0 makes it grey."""
    colour = rng.uniform(low, high, 3)
    return (colour.mean() + (colour - colour.mean()) * vivid).astype(np.float32)
