"""The head of a synthetic pedestrian: hair, face, glasses, masks, hats.

Every cue has a near miss: clear glasses and sunglasses, scarf or beard and mask, hair band and hat,
bob and long hair.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gluon_attn.data.synthetic.drawing import capsule, ellipse, rect, spline
from gluon_attn.data.synthetic.figure import Figure

CENTRE = 0.085  # height of the middle of the head
RX = 0.059  # half its width
ZOOM = 1.18  # heads a little large, so that glasses cover pixels in a person of 100 pixels


def paint_mane(f: Figure) -> None:
    """Long hair behind the neck and shoulders, painted before the torso."""
    f.zoom = ZOOM
    f.fill(_mane(f), colour=f.look.hair * 0.85, shade=0.4)
    f.zoom = 1.0


def _mane(f: Figure) -> np.ndarray:
    x, end = f.head_x, f.look.hair_length
    right = [(0.066, 0.06), (0.082, 0.13), (0.1, 0.22), (0.085, end - 0.01), (0.03, end + 0.012)]
    left = [(-a, b) for a, b in right[::-1]]
    return spline([(x, 0.0)] + [(x + a, b) for a, b in right + left])


def paint_head(f: Figure) -> None:
    """Paint the head of figure ``f`` over its torso."""
    o, k, x = f.outfit, f.look, f.head_x
    f.zoom = ZOOM
    wide = RX * (1.06 if o.male else 0.96)
    bob = (not o.male or k.boyish) and not o.long_hair and k.hair_style == "bob"
    if bob:
        f.fill(ellipse(x, 0.095, wide * 1.32, 0.078), colour=k.hair * 0.85)
    for side in (-1, 1):  # the ear on the far side disappears as the head turns
        if side * f.sin < 0.45:
            f.fill(ellipse(x + side * wide, CENTRE + 0.008, 0.011, 0.018), colour=k.skin * 0.9)
    _skull(f, x, wide)
    if k.back:
        _back_of_head(f, x, wide)
    else:
        _face(f, x + 0.032 * f.sin, 0.6 + 0.4 * f.cos)
        _hair(f, x, wide)
        _worn_on_face(f, x + 0.032 * f.sin, wide)
    _worn_on_head(f, x, wide)
    f.zoom = 1.0


def _skull(f: Figure, x: float, wide: float) -> None:
    male = f.outfit.male
    half = [(0, 0.006), (wide * 0.8, 0.03), (wide, 0.08), (wide * (0.72 if male else 0.5), 0.14)]
    half.append((0, 0.163 + 0.004 * male))
    whole = half + [(-a, b) for a, b in half[3:0:-1]]
    f.fill(spline([(x + a, b) for a, b in whole]), colour=f.look.skin)


def _worn_on_head(f: Figure, x: float, wide: float) -> Any:
    o, k = f.outfit, f.look
    if k.scarf and o.top != "suit":
        end = capsule((x + 0.03, 0.18), (x + 0.04, 0.29), 0.018, 0.022, flat_end=True)
        f.fill(capsule((x - 0.045, 0.178), (x + 0.045, 0.178), 0.024, 0.024), colour=k.extra)
        f.fill(end, colour=k.extra * 0.9)
    if o.hat:
        return _HATS[k.hat_style](f, x, wide * 1.06)
    if o.top == "long" and k.long_style == "hoodie" and k.hood_up:
        _hood(f, x, wide)
    elif k.headphones:
        arc = ellipse(x, 0.08, wide * 1.15, 0.09, start=np.pi, stop=2 * np.pi)
        f.line(arc, k.extra * 0.6, 0.012)
        f.fill(*[ellipse(x + s * wide * 1.1, 0.085, 0.014, 0.024) for s in (-1, 1)], colour=k.extra)
    elif k.band:
        arc = ellipse(x, CENTRE, wide * 1.1, 0.075, start=np.pi * 1.12, stop=np.pi * 1.88)
        f.line(arc, k.hat, 0.016)


def _back_of_head(f: Figure, x: float, wide: float) -> None:
    k = f.look
    if f.outfit.long_hair:
        f.fill(_mane(f), colour=k.hair, shade=0.45)
        for t in (-0.5, 0.0, 0.5):
            lock = [(x + t * 0.08, 0.05), (x + t * 0.13, k.hair_length - 0.02)]
            f.line(lock, k.hair * 0.7, 0.005)
        return
    outline = [(x, -0.006), (x + wide, 0.03), (x + wide, 0.1), (x + 0.03, 0.145)]
    outline += [(x - 0.03, 0.145), (x - wide, 0.1), (x - wide, 0.03)]
    f.fill(spline(outline), colour=k.hair)
    if not f.outfit.male and k.hair_style == "bun":
        f.fill(ellipse(x, 0.02, 0.032, 0.03), colour=k.hair * 0.8)


def _face(f: Figure, x: float, squeeze: float) -> None:
    o, k = f.outfit, f.look
    eyes = [x - 0.024 * squeeze, x + 0.024 * squeeze]
    for ex in eyes:
        f.fill(ellipse(ex, 0.08, 0.0115, 0.007), colour=(245, 245, 245), shade=0)
        f.fill(ellipse(ex + 0.002 * f.sin, 0.08, 0.006, 0.0065), colour=(45, 35, 30), shade=0)
        f.line([(ex - 0.013, 0.066), (ex + 0.013, 0.065)], k.hair * 0.7, 0.007 if o.male else 0.005)
        if not o.male and k.made_up:
            f.line([(ex - 0.013, 0.076), (ex, 0.072), (ex + 0.013, 0.075)], (25, 20, 20), 0.004)
    nose = [(x + 0.004 * f.sin, 0.082), (x + 0.007, 0.106), (x - 0.004, 0.108)]
    f.line(nose, k.skin * 0.7, 0.005)
    if o.male and k.beard:
        beard = [(-0.05, 0.09), (-0.044, 0.118), (0, 0.113), (0.044, 0.118), (0.05, 0.09)]
        beard += [(0.042, 0.145), (0, 0.172), (-0.042, 0.145)]
        f.fill(np.array(beard) * (1, 1) + (x * 0.8, 0), colour=k.hair, shade=0.2, opacity=0.92)
    lips = k.skin * (0.72, 0.55, 0.55)
    if not o.male:
        lips = np.array([190, 45, 60]) if k.made_up else k.skin * (0.85, 0.55, 0.55)
    f.fill(ellipse(x, 0.128, 0.017 * squeeze, 0.004 if o.male else 0.0065), colour=lips, shade=0)


def _hair(f: Figure, x: float, wide: float) -> None:
    o, k = f.outfit, f.look
    side = [(wide * 1.06, 0.08), (wide * 1.05, 0.03), (0.03, -0.008)]
    crown = [(-a, b) for a, b in side] + side[::-1]
    fringe = [(wide * 0.86, 0.055), (0.02, 0.036), (-0.02, 0.042), (-wide * 0.86, 0.055)]
    fringe = [(a + (abs(a) == 0.02) * 0.02 * f.sin, b) for a, b in fringe]
    f.fill(spline([(x + a, b) for a, b in crown + fringe]), colour=k.hair, shade=0.4)
    lock: list[Any] = []
    if o.long_hair:  # locks that fall over the shoulders
        end = k.hair_length - 0.025
        lock = [(wide * 0.8, 0.04), (wide * 1.25, 0.06), (0.082, 0.15), (0.088, end - 0.03)]
        lock += [(0.066, end), (0.05, 0.19), (wide * 0.93, 0.11)]
    elif not o.male and k.hair_style == "bun":
        f.fill(ellipse(x - 0.02 * f.sin, -0.014, 0.03, 0.026), colour=k.hair * 0.9)
    elif (not o.male or k.boyish) and k.hair_style == "bob":
        lock = [(wide * 0.85, 0.04), (wide * 1.25, 0.06), (wide * 1.32, 0.13)]
        lock += [(wide * 0.95, 0.155), (wide * 0.9, 0.09)]
    for sign in (-1, 1) if lock else ():
        f.fill(spline([(x + sign * a, b) for a, b in lock]), colour=k.hair, shade=0.42)


def _worn_on_face(f: Figure, x: float, wide: float) -> None:
    o, k = f.outfit, f.look
    if o.mask:
        cover = [(-0.05, 0.098), (0, 0.09), (0.05, 0.098), (0.043, 0.142), (0, 0.17)]
        cover += [(-0.043, 0.142)]
        f.fill(np.array(cover) + (x * 0.85, 0), colour=k.mask, shade=0.2)
        for y in (0.115, 0.132):
            f.line([(x * 0.85 - 0.04, y), (x * 0.85 + 0.04, y)], k.mask * 0.8, 0.003)
        for side in (-1, 1):
            string = [(x * 0.85 + side * 0.046, 0.102), (f.head_x + side * wide, 0.082)]
            f.line(string, k.mask * 0.9, 0.004)
    if o.sunglass:
        lenses = [ellipse(x + side * 0.026, 0.082, 0.024, 0.0165) for side in (-1, 1)]
        f.fill(*lenses, colour=(18, 18, 24), shade=0)
        f.line([(x - 0.03, 0.074), (x + 0.03, 0.074)], (18, 18, 24), 0.008)
        for side in (-1, 1):
            f.line([(x + side * 0.045, 0.076), (f.head_x + side * wide, 0.08)], (18, 18, 24), 0.006)
            glint = [(x + side * 0.026 - 0.012, 0.077), (x + side * 0.026 - 0.002, 0.074)]
            f.line(glint, (150, 160, 170), 0.005)
    elif k.glasses:
        for side in (-1, 1):
            rim, thick = f.at(ellipse(x + side * 0.026, 0.081, 0.021, 0.016)), 0.005 * f.zoom
            f.canvas.stroke(rim, k.hair * 0.6, thick * f.scale, True)
        f.line([(x - 0.006, 0.08), (x + 0.006, 0.08)], k.hair * 0.6, 0.005)


def _hood(f: Figure, x: float, wide: float) -> None:
    """A hood is no hat: it frames the face in the cloth of the top."""
    outer = ellipse(x, 0.085, wide * 1.35, 0.105, points=40)
    inner = ellipse(x + 0.02 * f.sin, 0.09, wide * 0.9, 0.07, points=40)[::-1]
    shape = outer if f.look.back else np.concatenate([outer, inner])
    f.fill(shape, colour=f.top * 0.95, shade=0.4)


def _dome(f: Figure, x: float, wide: float, top: Any, *, base: float) -> None:
    arc = ellipse(x, base, wide * 1.08, base - top, start=np.pi, stop=2 * np.pi)
    f.fill(arc, colour=f.look.hat, shade=0.5)


def _cap(f: Figure, x: float, wide: float) -> None:
    _dome(f, x, wide, -0.03, base=0.05)
    if not f.look.back:
        peak = x + 0.05 * f.sin
        f.fill(ellipse(peak, 0.05, wide * 1.0, 0.014), colour=f.look.hat * 0.7, shade=0.3)


def _beanie(f: Figure, x: float, wide: float) -> None:
    _dome(f, x, wide, -0.035, base=0.05)
    f.fill(rect(x - wide * 1.1, 0.03, x + wide * 1.1, 0.055), colour=f.look.hat * 0.75, shade=0.2)
    f.fill(ellipse(x, -0.042, 0.016, 0.014), colour=f.look.hat * 1.2)


def _sunhat(f: Figure, x: float, wide: float) -> None:
    f.fill(ellipse(x, 0.042, wide * 2.1, 0.022), colour=f.look.hat * 0.85, shade=0.3)
    _dome(f, x, wide * 0.95, -0.03, base=0.04)
    f.fill(rect(x - wide, 0.022, x + wide, 0.036), colour=f.look.extra, shade=0)


def _helmet(f: Figure, x: float, wide: float) -> None:
    _dome(f, x, wide * 1.08, -0.042, base=0.045)
    f.fill(rect(x - wide * 1.35, 0.038, x + wide * 1.35, 0.05), colour=f.look.hat * 0.8, shade=0.2)
    f.line([(x, -0.04), (x, 0.035)], f.look.hat * 0.75, 0.012)


def _fedora(f: Figure, x: float, wide: float) -> None:
    crown = [(-0.85, 0.035), (-0.75, -0.03), (-0.2, -0.045), (0, -0.036), (0.2, -0.045)]
    crown += [(0.75, -0.03), (0.85, 0.035)]
    f.fill(np.array([(x + a * wide, b) for a, b in crown]), colour=f.look.hat, shade=0.4)
    f.fill(rect(x - wide * 0.86, 0.014, x + wide * 0.86, 0.034), colour=f.look.hat * 0.4, shade=0)
    f.fill(ellipse(x, 0.038, wide * 1.6, 0.013), colour=f.look.hat * 0.9, shade=0.3)


_HATS = {"cap": _cap, "beanie": _beanie, "sunhat": _sunhat, "helmet": _helmet, "fedora": _fedora}
