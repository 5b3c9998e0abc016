"""Drawing one person whose 14 WIDER attributes can be seen.

``Outfit`` says what is true of the person, ``Look`` holds everything else (pose, proportions,
colours, distractors), so that one attribute can be toggled with all else equal.

Body frame: the unit is the person's height, ``(0, 0)`` the top of the head, ``(0, 1)`` between the
feet, ``x`` to the right of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import cv2
import numpy as np

from gluon_attn.data.synthetic.drawing import EMBLEMS, WORDS, random_colour
from gluon_attn.data.synthetic.pedestrian_body import LONG_SLEEVED, Figure
from gluon_attn.data.synthetic.pedestrian_head import paint_head, paint_mane
from gluon_attn.data.synthetic.pedestrian_tops import paint_chest

ATTRIBUTES = (
    "Male", "longHair", "sunglass", "Hat", "Tshirt", "longSleeve", "formal",
    "shorts", "jeans", "longPants", "skirt", "faceMask", "logo", "stripe",
)  # fmt: skip
TOPS = ("suit", "tshirt", "long", "polo", "tank", "robe", "gown", "bare")
LOWERS = ("long", "jeans", "cropped_jeans", "shorts", "skirt", "capri", "swim", "robe")
SKIN = np.array(
    [
        (244, 208, 177),
        (231, 180, 143),
        (208, 151, 112),
        (165, 114, 79),
        (115, 76, 53),
        (84, 57, 42),
    ],
    np.float32,
)
HAIR = np.array(
    [(28, 24, 24), (52, 36, 28), (96, 62, 38), (205, 165, 95), (150, 145, 140), (140, 65, 35)],
    np.float32,
)
SUITS = np.array(
    [(30, 34, 52), (40, 40, 44), (22, 22, 24), (98, 100, 108), (70, 58, 50), (52, 66, 92)],
    np.float32,
)
MASKS = ((235, 240, 242), (150, 195, 222), (28, 28, 32), (205, 170, 190))
DENIM = np.array(
    [(58, 84, 130), (44, 62, 98), (96, 128, 168), (72, 98, 136), (58, 60, 66)], np.float32
)

# Where an attribute shows: (x0, y0, x1, y1) in the body frame
REGIONS = {
    "hat": (-0.17, -0.13, 0.17, 0.12),
    "head": (-0.1, -0.04, 0.1, 0.19),
    "hair": (-0.15, -0.13, 0.15, 0.45),
    "face": (-0.11, 0.02, 0.11, 0.21),
    "chest": (-0.17, 0.16, 0.17, 0.56),
    "top": (-0.55, -0.25, 0.55, 0.72),
    "thighs": (-0.25, 0.56, 0.25, 0.95),
    "legs": (-0.4, 0.4, 0.4, 1.04),
    "body": (-0.55, -0.25, 0.55, 1.04),
}


@dataclass(frozen=True)
class Outfit:
    """What is true of a person; ``top`` is one of ``TOPS``, ``lower`` one of ``LOWERS``.

    ``cropped_jeans`` end above the ankle: jeans, but not long trousers.
    """

    male: bool = True
    long_hair: bool = False
    sunglass: bool = False
    hat: bool = False
    top: str = "tshirt"
    lower: str = "long"
    mask: bool = False
    logo: bool = False
    stripe: bool = False

    def attributes(self):
        """Return the 14 truths in the order of ``ATTRIBUTES``."""
        return (
            self.male, self.long_hair, self.sunglass, self.hat, self.top == "tshirt",
            self.top in LONG_SLEEVED, self.top == "suit", self.lower == "shorts",
            self.lower in ("jeans", "cropped_jeans"), self.lower in ("long", "jeans"),
            self.lower == "skirt", self.mask, self.logo, self.stripe,
        )  # fmt: skip


def _cloth(rng):
    """Return a garment colour: greys, muted and vivid ones."""
    hue, sat, val = rng.random(), rng.random() ** 1.2, rng.uniform(0.2, 0.97)
    hsv = np.array([[[hue * 180, sat * 215, val * 255]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def _away(colour, rng, gap=110):
    """Return a colour that differs clearly from ``colour``: print must be visible."""
    for _ in range(20):
        other = random_colour(rng, 5, 250)
        if np.abs(other - colour).sum() > gap * 1.7:
            return other
    return np.where(colour.mean() > 127, 20.0, 240.0) * np.ones(3, np.float32)


def sample_look(rng, back=False):
    """Return everything about a person but the outfit, as a namespace of plain values.

    Args:
        rng: NumPy Generator.
        back: Whether the person is seen from behind.
    """
    look = SimpleNamespace(
        back=back, light=rng.uniform(-0.8, 0.8), grain=int(rng.integers(1 << 31))
    )
    for part in (_pose, _head_look, _clothes_look, _print_look, _extras_look):
        vars(look).update(part(rng))
    look.print = _away(look.top, rng)
    return look


def _pose(rng):
    arms = [[rng.uniform(0.05, 0.5), rng.uniform(-0.5, 0.45)] for _ in range(2)]
    if rng.random() < 0.1:  # raised
        arms[1] = [rng.uniform(2.3, 2.8), rng.uniform(-0.2, 0.6)]
    if rng.random() < 0.15:  # hand on the hip
        arms[0] = [rng.uniform(0.55, 0.75), -rng.uniform(1.5, 1.9)]
    walking = rng.random() < 0.45
    spread = rng.uniform(0.12, 0.34) if walking else rng.uniform(0.0, 0.1)
    return {
        "arms": arms,
        "legs": [-spread + rng.normal(0, 0.03), spread + rng.normal(0, 0.03)],
        "knees": rng.uniform(0, 0.3, 2) * walking,
        "yaw": rng.uniform(-1, 1),
        "lean": rng.normal(0, 0.045),
        "build": rng.uniform(0.88, 1.2),
        "figure": rng.normal(0, 0.08, 2),
    }


def _head_look(rng):
    return {
        "skin": SKIN[rng.integers(6)] * rng.uniform(0.92, 1.05),
        "hair": HAIR[rng.integers(6)] + rng.uniform(-8, 8, 3),
        "hair_length": rng.uniform(0.27, 0.38),
        "hair_style": _one_of(rng, ("pixie", "bob", "bun")),
        "beard": rng.random() < 0.38,
        "made_up": rng.random() < 0.5,
        "boyish": rng.random() < 0.25,
        "hood_up": rng.random() < 0.35,
        "headphones": rng.random() < 0.08,
        "hat_style": _one_of(rng, ("cap", "beanie", "sunhat", "helmet", "fedora")),
        "hat": _cloth(rng),
        "mask": np.float32(_one_of(rng, MASKS)),
    }


def _clothes_look(rng):
    trousers = _cloth(rng) * 0.8
    if rng.random() < 0.4:  # blue, but not denim
        trousers = np.array([45, 65, 120]) + rng.uniform(-20, 20, 3)
    bright = rng.random() < 0.4
    return {
        "top": _cloth(rng),
        "inner": _cloth(rng),
        "long_style": _one_of(rng, ("sweater", "hoodie", "shirt", "zip", "open", "blazer")),
        "trousers": trousers,
        "coarse": rng.random() < 0.35,
        "denim": DENIM[rng.integers(len(DENIM))],
        "shorts": rng.uniform(0.55, 0.98),
        "capri": rng.uniform(1.15, 1.6),
        "sleeve": _one_of(rng, (0.93, 0.93, 0.93, 0.55)),
        "short_sleeve": rng.uniform(0.5, 0.95),
        "hem": rng.uniform(0.64, 0.73),
        "shoe": rng.uniform(20, 240, 3) if bright else rng.uniform(15, 60, 3),
        "suit": SUITS[rng.integers(6)],
        "suit_skirt": rng.random() < 0.5,
        "tie": _away(np.float32([235, 235, 235]), rng),
    }


def _print_look(rng):
    return {
        "logo_kind": _one_of(rng, EMBLEMS),
        "logo_word": _one_of(rng, WORDS),
        "logo_small": rng.random() < 0.4,
        "stripe_angle": _one_of(rng, (np.pi / 2, np.pi / 2, np.pi / 2, 0.0, 0.8)),
        "stripe_period": rng.uniform(0.034, 0.056),
        "pattern": _choice(rng, plaid=0.06, dots=0.06, block=0.1),
    }


def _extras_look(rng):
    """The near misses worn by people who lack the attribute, and things carried."""
    return {
        "glasses": rng.random() < 0.25,
        "band": rng.random() < 0.22,
        "scarf": rng.random() < 0.14,
        "pocket": rng.random() < 0.2,
        "necklace": rng.random() < 0.12,
        "bag": _choice(rng, shoulder=0.1, hand=0.1, backpack=0.08),
        "bag_colour": _cloth(rng),
        "bag_print": _choice(rng, logo=0.35, stripes=0.35),
        "extra": _cloth(rng),
    }


def _one_of(rng, values):
    return values[rng.integers(len(values))]


def _choice(rng, **odds):
    """Return one of the names with its probability, or None with what is left."""
    draw = rng.random()
    for name, p in odds.items():
        draw -= p
        if draw < 0:
            return name
    return None


def draw_person(outfit, look, height):
    """Draw one person.

    Args:
        outfit: ``Outfit``.
        look: What ``sample_look`` returned.
        height: Height of the body in pixels, without hat or raised arms.

    Returns:
        ``rgb`` ``(h, w, 3)`` float32 premultiplied by alpha, ``alpha`` ``(h, w)`` float32 in 0..1,
        and ``regions``: name -> ``(x0, y0, x1, y1)`` in pixels of the patch (see ``REGIONS``).
    """
    # Drawn larger and averaged down: soft edges even where a feature is a pixel wide
    larger = float(np.clip(270 / height, 1.25, 2.0))
    figure = Figure(outfit, look, height * larger)
    _paint(figure)
    size = (int(round(height * 1.2)), int(round(height * 1.4)))
    rgb = cv2.resize(figure.canvas.image(), size, interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(figure.canvas.alpha, size, interpolation=cv2.INTER_AREA)
    regions = {}
    for name, (x0, y0, x1, y1) in REGIONS.items():
        corners = figure.at([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) / larger
        regions[name] = tuple(float(v) for v in np.r_[corners.min(0), corners.max(0)])
    return rgb, alpha, regions


def _paint(figure):
    """Paint from back to front; the arm on the far side goes behind the torso."""
    outfit, look = figure.outfit, figure.look
    far = 0 if figure.sin < 0 else 1
    if outfit.long_hair and not look.back:
        paint_mane(figure)
    if look.bag == "backpack" and not look.back:
        figure.bag()
    figure.arm(far)
    figure.legs()
    figure.skin()
    figure.lower()
    figure.torso()
    paint_chest(figure)
    figure.arm(1 - far)
    paint_head(figure)
    if look.bag and (look.bag != "backpack" or look.back):
        figure.bag()
