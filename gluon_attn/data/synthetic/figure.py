"""The body of a synthetic pedestrian: pose, limbs, the garments' shapes, and what is on the chest.

Body frame: the unit is the person's height, ``(0, 0)`` the top of the head, ``(0, 1)`` between the
feet, ``x`` to the right of the image. Several fronts are near misses on purpose: an open jacket
without a tie is not formal, a pocket is not a logo.
"""

from __future__ import annotations

from typing import Any, Callable

import numpy as np

from gluon_attn.data.synthetic.drawing import (
    Canvas,
    capsule,
    ellipse,
    emblem,
    patch,
    rect,
    spline,
    stripes,
)

LONG_SLEEVED = ("suit", "long", "robe")
NECK = np.array([0.0, 0.165], np.float32)


def _symmetric(half: Any, smooth: bool = True) -> np.ndarray:
    """Return the outline whose right half, from top to bottom, is ``half``; ends lie on x = 0."""
    right = np.array(half, np.float32)
    whole = np.concatenate([right, right[-2:0:-1] * (-1, 1)])
    return spline(whole) if smooth else whole


class Figure:
    """The painter of one person; coordinates are body frame, ``at`` turns them into pixels."""

    def __init__(self, outfit: Any, look: Any, scale: float) -> None:
        self.outfit, self.look, self.scale = outfit, look, scale
        relief = max(1.0, scale * 0.011)
        self.canvas = Canvas(int(scale * 1.4), int(scale * 1.2), (look.light, -0.7), relief)
        self.origin = np.array([scale * 0.6, scale * 1.34], np.float32)
        self.c, self.s = np.cos(look.lean), np.sin(look.lean)
        # A tie seen from the side is no tie.
        turn = look.yaw * (0.35 if outfit.top == "suit" else 0.85)
        self.sin, self.cos = np.sin(turn), np.cos(turn)
        self.f = np.sqrt(self.cos**2 + (0.62 * self.sin) ** 2)
        shoulder, waist, hip = (0.122, 0.09, 0.093) if outfit.male else (0.104, 0.074, 0.102)
        wide = look.build * self.f
        self.shoulder, self.waist = shoulder * wide * (1 + look.figure[0]), waist * wide
        self.hip = hip * wide * (1 + look.figure[1])
        self.top = look.suit if outfit.top == "suit" else look.top
        self.head_x = 0.018 * self.sin
        self.zoom = 1.0  # enlarges around the neck whatever is painted while it is not 1

    def at(self, points: Any) -> np.ndarray:
        """Return pixels for body-frame points ``(N, 2)`` or ``(2,)``."""
        p = np.asarray(points, np.float32)
        if self.zoom != 1.0:
            p = NECK + (p - NECK) * self.zoom
        p = p - (0, 1)
        x, y = p[..., 0], p[..., 1]
        turned = np.stack([x * self.c - y * self.s, x * self.s + y * self.c], -1)
        return (turned * self.scale + self.origin).astype(np.float32)

    def fill(self, *shapes: Any, colour: Any, shade: float = 0.35, **options: Any) -> None:
        """Fill the union of shapes given in the body frame."""
        self.canvas.paint([self.at(s) for s in shapes], colour, shade, **options)

    def line(self, points: Any, colour: Any, width: float, opacity: float = 1.0) -> None:
        """Draw a line; ``width`` is in body units."""
        wide = width * self.scale * self.zoom
        self.canvas.stroke(self.at(points), colour, wide, opacity=opacity)

    def _joints(self, i: int) -> Any:
        side, bend = (-1, 1)[i], self.look.knees[i]
        narrow = {"robe": 0.3, "skirt": 0.6}.get(self.outfit.lower, 1.0)
        a, hip = self.look.legs[i] * narrow, np.array([(-1, 1)[i] * self.hip * 0.52, 0.5])
        knee = hip + 0.235 * np.array([np.sin(a), np.cos(a)])
        b = a - bend * np.sign(self.look.yaw + 1e-6) - 0.02 * side
        return hip, knee, knee + 0.225 * np.array([np.sin(b), np.cos(b)])

    def _leg(self, i: int, upto: float, loose: float = 0.0) -> list[np.ndarray]:
        """Return the shapes of leg ``i`` from the hip; ``upto`` 1 is the knee, 2 the ankle."""
        hip, knee, ankle = self._joints(i)
        build = self.look.build * (0.55 + 0.45 * self.f)
        r = np.array([0.054, 0.04, 0.027]) * build + loose
        if upto <= 1:
            end, re = hip + (knee - hip) * upto, r[0] + (r[1] - r[0]) * upto
            return [capsule(hip, end, r[0], re, flat_end=True)]
        end, re = knee + (ankle - knee) * (upto - 1), r[1] + (r[2] - r[1]) * (upto - 1)
        return [capsule(hip, knee, r[0], r[1]), capsule(knee, end, r[1], re, flat_end=True)]

    def legs(self) -> None:
        for i in (0, 1):
            hip, knee, ankle = self._joints(i)
            self.fill(*self._leg(i, 2.0), colour=self.look.skin)
            toe = 0.03 * self.sin + 0.012 * (-1, 1)[i]
            foot = ellipse(ankle[0] + toe, ankle[1] + 0.022, 0.03 + abs(toe) * 0.5, 0.022)
            self.fill(foot, capsule(ankle, ankle + (0, 0.015), 0.024, 0.026), colour=self.look.shoe)

    def lower(self) -> Any:
        lower, k = self.outfit.lower, self.look
        if lower in ("skirt", "robe"):
            return self._skirt(lower)
        half = [(0, 0.45), (self.waist, 0.45), (self.hip, 0.51), (self.hip * 0.8, 0.56), (0, 0.58)]
        pelvis = _symmetric(half)
        reach = {"shorts": k.shorts, "capri": k.capri, "cropped_jeans": 1.72, "swim": 0.08}
        reach = reach.get(lower, 1.98)
        loose = {"shorts": 0.016, "capri": 0.012, "long": 0.011, "swim": 0.003}.get(lower, 0.006)
        suit = self.outfit.top == "suit" and lower == "long"
        denim = "jeans" in lower
        colour = k.suit if suit else k.denim if denim else k.trousers
        texture = self._denim() if denim else self._weave() if k.coarse and not suit else None
        legs = self._leg(0, reach, loose) + self._leg(1, reach, loose)
        self.fill(pelvis, *legs, colour=colour, texture=texture, shade=0.45)
        for i in (0, 1):
            self._trouser_details(i, reach, colour, denim)

    def _trouser_details(self, i: int, reach: float, colour: Any, denim: bool) -> None:
        hip, knee, ankle = self._joints(i)
        side = (-1, 1)[i]
        self.line([(0, 0.53), (0, 0.57), (side * 0.008, 0.62)], colour * 0.7, 0.004)
        if self.outfit.lower in ("long", "capri"):
            crease = [hip + (0, 0.06), knee, knee + (ankle - knee) * (reach - 1)]
            self.line(crease, colour * 0.82, 0.005)
        if denim:
            thread, edge = (205, 160, 90), side * self.hip
            out = np.array([side * 0.043, 0]) * self.look.build
            self.line([hip + out, knee + out * 0.75], thread, 0.003, 0.8)
            self.line(
                [(edge * 0.95, 0.515), (edge * 0.6, 0.535), (edge * 0.45, 0.475)], thread, 0.004
            )
            if self.outfit.lower == "cropped_jeans":
                a, b = (knee + (ankle - knee) * t for t in (0.64, 0.76))
                hem, pale = capsule(a, b, 0.036, 0.036, flat_end=True), colour * 1.5 + 25
                self.fill(hem, colour=np.minimum(pale, 240), shade=0.2)

    def _denim(self) -> Callable[..., np.ndarray]:
        rng = np.random.default_rng(self.look.grain)
        shape = self.canvas.alpha.shape
        noise = rng.normal(0, 16, (shape[0], shape[1] // 3 + 1)).astype(np.float32).repeat(3, 1)
        spots = [self.at((hip + knee) / 2) for hip, knee, _ in map(self._joints, (0, 1))]

        def texture(x: Any, y: Any, fill: Any) -> np.ndarray:
            light = patch(noise, x, y)
            for sx, sy in spots:
                far = ((x - sx) / 0.03) ** 2 + ((y - sy) / 0.1) ** 2
                light = light + 40 * np.exp(-far / self.scale**2)
            return fill + light

        return texture

    def _weave(self) -> Callable[..., np.ndarray]:
        """A coarse cloth that is not denim: speckled, but without seams and worn patches."""
        rng = np.random.default_rng(self.look.grain)
        height, width = self.canvas.alpha.shape
        noise = rng.normal(1, 0.1, (height // 3 + 1, width // 3 + 1)).astype(np.float32)
        noise = noise.repeat(3, 0).repeat(3, 1)
        return lambda x, y, fill: fill * patch(noise, x, y)

    def _skirt(self, lower: str) -> None:
        suit = self.outfit.top == "suit" and self.look.suit_skirt
        colour = self.look.suit if suit else self.look.trousers
        hem, flare = (self.look.hem, 1.0 if suit else 1.45) if lower == "skirt" else (0.945, 1.5)
        if lower == "robe":
            colour = self.top
        w = max(self.hip * flare, 0.1)
        outline = [(-self.waist, 0.43), (self.waist, 0.43), (self.hip, 0.51), (w, hem)]
        outline += [(0, hem + 0.014), (-w, hem), (-self.hip, 0.51)]
        self.fill(np.array(outline), colour=colour, shade=0.45)
        for t in np.linspace(-0.75, 0.75, 3 if suit else 6):
            self.line([(t * self.hip * 0.9, 0.53), (t * w, hem)], colour * 0.72, 0.006)

    def _outline(self) -> np.ndarray:
        o = self.outfit
        hem = {"suit": 0.555, "long": 0.53, "tshirt": 0.525, "polo": 0.52}.get(o.top, 0.5)
        bust = 0.0 if o.male else 0.008
        w = self.shoulder
        half = [(0, 0.178), (0.035, 0.178), (w * 0.8, 0.196), (w, 0.225), (w * 0.9 + bust, 0.29)]
        half += [(self.waist, 0.4), (self.hip, hem - 0.02), (self.hip * 0.9, hem), (0, hem)]
        return _symmetric(half)

    def skin(self) -> None:
        """Paint neck and torso as they are under the clothes."""
        neck = capsule((self.head_x, 0.13), (0, 0.19), 0.031, 0.037)
        self.fill(neck, colour=self.look.skin * 0.9)
        self.fill(self._outline(), colour=self.look.skin)

    def torso(self) -> None:
        """Paint the top without its sleeves."""
        o, outline = self.outfit, self._outline()
        if o.top == "bare":
            return
        texture = self._print()
        if o.top in ("tank", "gown"):
            w = self.shoulder
            straps = [capsule((s * 0.5, 0.2), (s * 0.55, 0.28), 0.014, 0.02) for s in (-w, w)]
            half = [(0, 0.275), (w * 0.75, 0.26), (w * 0.86, 0.29), (self.waist, 0.4)]
            body = half + [(self.hip, 0.48), (self.hip * 0.9, 0.5), (0, 0.5)]
            self.fill(_symmetric(body, smooth=False), *straps, colour=self.top, texture=texture)
            return
        self.fill(outline, colour=self.top, texture=texture)

    def _print(self) -> Any:
        """Return the cloth's texture: stripes if the outfit says so, else perhaps a distractor."""
        k, kind = self.look, "stripe" if self.outfit.stripe else self.look.pattern
        if self.outfit.top in ("suit", "robe", "gown") and not self.outfit.stripe:
            kind = None
        other, period = k.print, k.stripe_period * self.scale
        plane = np.asarray(other, np.float32).reshape(3, 1, 1)
        if kind == "stripe":
            return stripes(period, k.stripe_angle + k.lean, other)
        if kind == "block":
            edge = self.at((0, 0.33))[1]
            return lambda x, y, fill: np.where(y > edge, plane, fill) + 0 * x
        if kind == "dots":
            r = period * 0.6

            def dots(x: Any, y: Any, fill: Any) -> np.ndarray:
                near = (np.mod(x, r) - r / 2) ** 2 + (np.mod(y, r) - r / 2) ** 2
                return np.where(near < r * r * 0.07, plane, fill)

            return dots
        if kind == "plaid":
            across, down = stripes(period, 0.0, other), stripes(period, np.pi / 2, other)
            return lambda x, y, fill: (fill + across(x, y, fill) + down(x, y, fill)) / 3
        return None

    def arm(self, i: int) -> None:
        o, k, side = self.outfit, self.look, (-1, 1)[i]
        a, bend = k.arms[i]
        r = np.array([0.033, 0.026, 0.02]) * (0.6 + 0.4 * k.build) * (1.08 if o.male else 0.92)
        start = np.array([side * (self.shoulder - 0.028), 0.238])
        elbow = start + 0.152 * np.array([side * np.sin(a), np.cos(a)])
        hand = elbow + 0.145 * np.array([side * np.sin(a + bend), np.cos(a + bend)])
        limbs = capsule(start, elbow, r[0], r[1]), capsule(elbow, hand, r[1], r[2])
        self.fill(*limbs, colour=k.skin)
        x, y = hand + (hand - elbow) * 0.09
        self.fill(ellipse(x, y, 0.021, 0.024), colour=k.skin)
        self._sleeve(start, elbow, hand, r)

    def _sleeve(self, start: Any, elbow: Any, hand: Any, r: Any) -> None:
        o, k, texture = self.outfit, self.look, self._print()
        if o.top in LONG_SLEEVED:
            wide, reach = 0.022 if o.top == "robe" else 0.009, 0.93 if o.top != "long" else k.sleeve
            end, re = elbow + (hand - elbow) * reach, r[2] + wide
            arm = [capsule(start, elbow, r[0] + 0.009, r[1] + 0.009)]
            arm.append(capsule(elbow, end, r[1] + 0.009, re, flat_end=True))
            self.fill(*arm, colour=self.top, texture=texture)
            cuff = capsule(elbow + (end - elbow) * 0.94, end, re, re, flat_end=True)
            self.fill(cuff, colour=(238, 238, 238) if o.top == "suit" else self.top * 0.8)
        elif o.top in ("tshirt", "polo"):
            end, re = start + (elbow - start) * k.short_sleeve, r[1] + 0.018
            upper = capsule(start, end, r[0] + 0.008, re, flat_end=True)
            self.fill(upper, colour=self.top, texture=texture)
            if o.top == "polo":
                hem = capsule(end - (elbow - start) * 0.1, end, re, re, flat_end=True)
                self.fill(hem, colour=k.print)

    def bag(self) -> None:
        """A bag, perhaps striped or with an emblem: print that is not on the person's chest."""
        k, side = self.look, 1 if self.look.yaw > 0 else -1
        colour, texture = k.bag_colour, None
        if k.bag_print == "stripes":
            texture = stripes(0.03 * self.scale, np.pi / 2, 255 - colour)
        x, y, w, h = side * (self.hip + 0.06), 0.66, 0.055, 0.055
        if k.bag == "backpack":
            x, y, w, h = 0.0, 0.305, self.shoulder * (0.75 if k.back else 1.2), 0.1
        elif k.bag == "shoulder":
            y = 0.56
            self.line([(-side * self.shoulder * 0.55, 0.2), (x, y - h)], colour * 0.7, 0.012)
        elif k.bag == "hand":
            self.line([(x - 0.03, y - h), (x, y - h - 0.05), (x + 0.03, y - h)], colour * 0.6, 0.01)
        bulge = [(-1, -1), (0, -1.08), (1, -1), (1.06, 0), (1, 1), (0, 1.05), (-1, 1), (-1.06, 0)]
        corners = np.array(bulge) * (w, h) + (x, y)
        self.fill(spline(corners), colour=colour, texture=texture, shade=0.4)
        if k.bag_print == "logo":
            size, ink = 0.03 * self.scale, 255 - colour
            emblem(self.canvas, self.at((x, y)), size, ink, kind=k.logo_kind, word=k.logo_word)


def paint_chest(f: Figure) -> None:
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


def _logo(f: Figure, x: float) -> None:
    k = f.look
    size = 0.032 if k.logo_small else 0.046
    place = (x + 0.045 * f.f, 0.272) if k.logo_small else (x * 0.8, 0.325)
    if f.outfit.stripe or k.pattern:  # a plain patch under the sign keeps it legible
        f.fill(ellipse(place[0], place[1], size * 1.3, size * 1.3), colour=f.top, shade=0)
    emblem(f.canvas, f.at(place), size * f.scale, k.print, kind=k.logo_kind, word=k.logo_word)


def _mirrored(points: Any, x: float, side: Any) -> np.ndarray:
    return np.array([(x + side * px, py) for px, py in points])


def _suit(f: Figure, x: float) -> None:
    suit = f.look.suit
    shirt = [(x - 0.042, 0.183), (x + 0.042, 0.183), (x + 0.004, 0.375), (x - 0.004, 0.375)]
    f.fill(np.array(shirt), colour=(240, 240, 240), shade=0.1)
    half = [(0.013, 0.19), (0.007, 0.21), (0.017, 0.335), (0.0, 0.365)]
    tie = np.concatenate([_mirrored(half, x, 1), _mirrored(half[::-1], x, -1)])
    f.fill(tie, colour=f.look.tie, shade=0.2)
    _lapels(f, x, suit)


def _lapels(f: Figure, x: float, suit: Any) -> None:
    edge = [(0.04, 0.18), (0.075, 0.25), (0.05, 0.265), (0.056, 0.285), (0.0, 0.395), (0.014, 0.33)]
    for side in (-1, 1):
        lapel = _mirrored(edge, x, side)
        f.fill(lapel, colour=suit * 1.25 + 8, shade=0.3)
        f.line(lapel, suit * 0.5, 0.004)
    f.line([(x, 0.395), (x + 0.01, 0.55)], suit * 0.5, 0.006)
    buttons = [ellipse(x + 0.008, y, 0.006, 0.006) for y in (0.42, 0.46)]
    f.fill(*buttons, colour=suit * 0.4, shade=0)


def _neckline(f: Figure, x: float, depth: float, colour: Any) -> None:
    f.fill(ellipse(x * 0.6, 0.184, 0.044, depth), colour=colour * 0.75, shade=0)
    f.fill(ellipse(x * 0.6, 0.18, 0.036, depth * 0.8), colour=f.look.skin * 0.92, shade=0)


def _tshirt(f: Figure, x: float) -> None:
    _neckline(f, x, 0.03, f.top)


def _robe(f: Figure, x: float) -> None:
    _neckline(f, x, 0.025, f.top)
    f.line([(x, 0.21), (x, 0.93)], f.top * 0.6, 0.007)


def _collar(f: Figure, x: float, colour: Any) -> None:
    f.fill(ellipse(x * 0.7, 0.182, 0.03, 0.02), colour=f.look.skin * 0.9, shade=0)
    edge = [(0.045, 0.17), (0.05, 0.2), (0.016, 0.222), (0.0, 0.198), (0.03, 0.172)]
    for side in (-1, 1):
        f.fill(_mirrored(edge, x, side), colour=colour, shade=0.3)


def _buttons(f: Figure, x: float, first: float, last: float, *, count: int) -> None:
    f.line([(x, first - 0.01), (x, last)], f.top * 0.65, 0.005)
    dots = [ellipse(x, y, 0.006, 0.006, points=10) for y in np.linspace(first, last, count)]
    f.fill(*dots, colour=f.top * 0.4 if f.top.mean() > 110 else (225, 225, 215), shade=0)


def _polo(f: Figure, x: float) -> None:
    _collar(f, x, f.look.print)
    _buttons(f, x, 0.225, 0.265, count=3)


def _shirt(f: Figure, x: float) -> None:
    _collar(f, x, np.minimum(f.top * 1.15, 255))
    _buttons(f, x, 0.23, 0.5, count=7)


def _sweater(f: Figure, x: float) -> None:
    _neckline(f, x, 0.02, f.top)
    f.fill(rect(-f.hip * 0.9, 0.508, f.hip * 0.9, 0.53), colour=f.top * 0.75, shade=0.2)


def _hoodie(f: Figure, x: float) -> None:
    f.fill(ellipse(x * 0.6, 0.185, 0.064, 0.032), colour=f.top * 0.75, shade=0.4)
    f.fill(ellipse(x * 0.6, 0.18, 0.034, 0.024), colour=f.look.skin * 0.9, shade=0)
    for side in (-1, 1):
        f.line(_mirrored([(0.02, 0.205), (0.022, 0.27)], x, side), (235, 235, 230), 0.005)
    pouch = [(-0.05, 0.49), (-0.035, 0.43), (0.035, 0.43), (0.05, 0.49)]
    f.line(_mirrored(pouch, x, 1), f.top * 0.6, 0.006)


def _zip(f: Figure, x: float) -> None:
    f.fill(rect(x - 0.036, 0.165, x + 0.036, 0.195), colour=f.top * 0.8, shade=0.2)
    f.line([(x, 0.175), (x, 0.525)], (200, 200, 205), 0.007)


def _open(f: Figure, x: float) -> None:
    """An open jacket without a tie: the nearest thing to a suit that is not formal."""
    half = [(0.05, 0.185), (0.03, 0.35), (0.04, 0.525)]
    inside = np.concatenate([_mirrored(half, x, 1), _mirrored(half[::-1], x, -1)])
    f.fill(inside, colour=f.look.inner, shade=0.15)
    _neckline(f, x, 0.026, f.look.inner)
    for side in (-1, 1):
        f.line(_mirrored(half, x, side), f.top * 0.55, 0.008)


def _blazer(f: Figure, x: float) -> None:
    """A jacket with lapels over an open collar: all of a suit but the tie."""
    shirt = [(x - 0.045, 0.183), (x + 0.045, 0.183), (x + 0.004, 0.375), (x - 0.004, 0.375)]
    f.fill(np.array(shirt), colour=f.look.inner, shade=0.1)
    _neckline(f, x, 0.03, f.look.inner)
    _lapels(f, x, f.top)


_FRONTS = {
    "suit": _suit, "tshirt": _tshirt, "polo": _polo, "robe": _robe, "shirt": _shirt,
    "sweater": _sweater, "hoodie": _hoodie, "zip": _zip, "open": _open, "blazer": _blazer,
}  # fmt: skip
