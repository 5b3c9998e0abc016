"""Drawing one person whose 14 WIDER attributes can be seen, and who walks through the data.

``Outfit`` says what is true of the person, ``Look`` holds everything else (pose, proportions,
colours, distractors), so that one attribute can be toggled with all else equal.

``Population`` draws outfits whose attribute rates follow WIDER-Attribute. Rates are positives over
*all* boxes, unspecified ones included, because that is what the class weights published with VAA
measure (weight = negatives / positives, unspecified counted as negative; positive rate = 1 / (1 +
weight)). "Male" has weight 1 there, which only says "at least half"; 0.55 is an assumption.

What excludes what (a skirt excludes trousers, a suit implies long sleeves, ...) is a table of sex x
top x lower garment with zeros in the impossible cells. Iterative proportional fitting (Deming and
Stephan, 1940) turns it into probabilities with exactly the wanted marginals. The other attributes
are sampled given the cell, with odds scaled so that their overall rates are met too.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from gluon_attn.data.synthetic.drawing import EMBLEMS, WORDS, random_colour
from gluon_attn.data.synthetic.figure import LONG_SLEEVED, Figure, paint_chest
from gluon_attn.data.synthetic.head import paint_head, paint_mane

ATTRIBUTES = (
    "Male", "longHair", "sunglass", "Hat", "Tshirt", "longSleeve", "formal",
    "shorts", "jeans", "longPants", "skirt", "faceMask", "logo", "stripe",
)  # fmt: skip
TOPS = ("suit", "tshirt", "long", "polo", "tank", "robe", "gown", "bare")
LOWERS = ("long", "jeans", "cropped_jeans", "shorts", "skirt", "capri", "swim", "robe")


SKIN, HAIR, SUITS = np.array([
    [(244, 208, 177), (231, 180, 143), (208, 151, 112), (165, 114, 79), (115, 76, 53),
     (84, 57, 42)],
    [(28, 24, 24), (52, 36, 28), (96, 62, 38), (205, 165, 95), (150, 145, 140), (140, 65, 35)],
    [(30, 34, 52), (40, 40, 44), (22, 22, 24), (98, 100, 108), (70, 58, 50), (52, 66, 92)],
], np.float32)  # fmt: skip
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

    def attributes(self) -> tuple[bool, ...]:
        """Return the 14 truths in the order of ``ATTRIBUTES``."""
        return (
            self.male, self.long_hair, self.sunglass, self.hat, self.top == "tshirt",
            self.top in LONG_SLEEVED, self.top == "suit", self.lower == "shorts",
            self.lower in ("jeans", "cropped_jeans"), self.lower in ("long", "jeans"),
            self.lower == "skirt", self.mask, self.logo, self.stripe,
        )  # fmt: skip


def _cloth(rng: np.random.Generator) -> np.ndarray:
    """Return a garment colour: greys, muted and vivid ones."""
    hue, sat, val = rng.random(), rng.random() ** 1.2, rng.uniform(0.2, 0.97)
    hsv = np.array([[[hue * 180, sat * 215, val * 255]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def _away(colour: Any, rng: np.random.Generator, gap: float = 110) -> np.ndarray:
    """Return a colour that differs clearly from ``colour``: print must be visible."""
    for _ in range(20):
        other = random_colour(rng, 5, 250)
        if np.abs(other - colour).sum() > gap * 1.7:
            return other
    return np.where(colour.mean() > 127, 20.0, 240.0) * np.ones(3, np.float32)


def sample_look(rng: np.random.Generator, back: bool = False) -> SimpleNamespace:
    """Return everything about a person but the outfit; ``back``: seen from behind."""
    light, grain = rng.uniform(-0.8, 0.8), int(rng.integers(1 << 31))
    look = SimpleNamespace(back=back, light=light, grain=grain)
    for part in (_pose, _head_look, _clothes_look, _print_look, _extras_look):
        vars(look).update(part(rng))
    look.print = _away(look.top, rng)
    return look


def _pose(rng: np.random.Generator) -> dict[str, Any]:
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


def _head_look(rng: np.random.Generator) -> Any:
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


def _clothes_look(rng: np.random.Generator) -> Any:
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
        "tie": _away(np.array([235, 235, 235], np.float32), rng),
    }


def _print_look(rng: np.random.Generator) -> Any:
    return {
        "logo_kind": _one_of(rng, EMBLEMS),
        "logo_word": _one_of(rng, WORDS),
        "logo_small": rng.random() < 0.4,
        "stripe_angle": _one_of(rng, (np.pi / 2, np.pi / 2, np.pi / 2, 0.0, 0.8)),
        "stripe_period": rng.uniform(0.034, 0.056),
        "pattern": _choice(rng, plaid=0.06, dots=0.06, block=0.1),
    }


def _extras_look(rng: np.random.Generator) -> Any:
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


def _one_of(rng: np.random.Generator, values: Any) -> Any:
    return values[rng.integers(len(values))]


def _choice(rng: np.random.Generator, **odds: Any) -> Any:
    """Return one of the names with its probability, or None with what is left."""
    draw = rng.random()
    for name, p in odds.items():
        draw -= p
        if draw < 0:
            return name
    return None


def draw_person(outfit: Any, look: Any, height: float) -> Any:
    """Draw one person; ``height`` is that of the body in pixels, without hat or raised arms.

    Returns ``rgb`` ``(h, w, 3)`` float32 premultiplied by alpha, ``alpha`` ``(h, w)`` float32 in
    0..1, and ``regions``: name -> ``(x0, y0, x1, y1)`` in pixels of the patch (see ``REGIONS``).
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


def _paint(figure: Any) -> None:
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


RATES = {
    "Male": 0.55, "longHair": 0.224, "sunglass": 0.051, "Hat": 0.228, "Tshirt": 0.217,
    "longSleeve": 0.467, "formal": 0.074, "shorts": 0.147, "jeans": 0.085, "longPants": 0.364,
    "skirt": 0.102, "faceMask": 0.034, "logo": 0.266, "stripe": 0.053,
}  # fmt: skip

# Share of people whose label is lost, or recorded as negative, because the part is hidden, small or
# seen from behind, measured on such scenes. Truths are sampled more often by this much.
HIDDEN = {
    "Male": 0.08, "longHair": 0.02, "sunglass": 0.02, "Hat": 0.02, "Tshirt": 0.02,
    "longSleeve": 0.02, "formal": 0.02, "shorts": 0.17, "jeans": 0.17, "longPants": 0.17,
    "skirt": 0.17, "faceMask": 0.02, "logo": 0.02, "stripe": 0.02,
}  # fmt: skip


def truth_rate(name: str) -> float:
    """Return how often ``name`` must be true for its *recorded* rate to be ``RATES[name]``."""
    return RATES[name] / (1.0 - HIDDEN[name])


def fit_table(table: Any, marginals: Any, rounds: int = 200) -> np.ndarray:
    """Scale ``table`` until it has the given marginals, keeping its zeros and odds ratios.

    ``marginals`` has a probability vector per axis. ValueError: the zeros make them unreachable.
    """
    table = np.array(table, np.float64)
    for _ in range(rounds):
        for axis, wanted in enumerate(marginals):
            others = tuple(i for i in range(table.ndim) if i != axis)
            shape = [-1 if i == axis else 1 for i in range(table.ndim)]
            have = table.sum(others)
            ratio = np.divide(wanted, have, out=np.zeros_like(have), where=have > 0)
            table *= ratio.reshape(shape)
    for axis, wanted in enumerate(marginals):
        others = tuple(i for i in range(table.ndim) if i != axis)
        if not np.allclose(table.sum(others), wanted, atol=1e-4):
            raise ValueError(f"no table with these zeros has the marginal {wanted} on axis {axis}")
    return table


def _marginals() -> list[np.ndarray]:
    tshirt, long_, suit = (truth_rate(n) for n in ("Tshirt", "longSleeve", "formal"))
    robe = 0.06
    rest = 1.0 - tshirt - long_
    shares = {"polo": 0.42, "tank": 0.37, "gown": 0.11, "bare": 0.10}
    tops = {"suit": suit, "tshirt": tshirt, "long": long_ - suit - robe, "robe": robe}
    tops.update({name: rest * share for name, share in shares.items()})
    jeans, trousers, male = (truth_rate(n) for n in ("jeans", "longPants", "Male"))
    lowers = {name: truth_rate(name) for name in ("shorts", "skirt")}
    lowers.update(jeans=jeans * 0.55, cropped_jeans=jeans * 0.45, long=trousers - jeans * 0.55)
    lowers.update(robe=robe + rest * shares["gown"], swim=0.04)
    lowers["capri"] = 1.0 - sum(lowers.values())
    columns = ([1 - male, male], [tops[t] for t in TOPS], [lowers[name] for name in LOWERS])
    return [np.array(column) for column in columns]


def _affinity() -> np.ndarray:
    """Return the unscaled table ``(sex, top, lower)``: 0 impossible, 1 usual."""
    table = np.ones((2, len(TOPS), len(LOWERS)))
    top, low = {n: i for i, n in enumerate(TOPS)}, {n: i for i, n in enumerate(LOWERS)}
    table[:, :, low["robe"]] = 0
    for whole in ("robe", "gown"):
        table[:, top[whole]] = 0
        table[:, top[whole], low["robe"]] = 1
    table[:, top["suit"]] = 0
    table[:, top["suit"], low["long"]] = 1
    table[0, top["suit"], low["skirt"]] = 1
    table[:, top["bare"], low["skirt"]] = 0
    table[:, top["long"], low["swim"]] = 0
    table[:, top["tank"], low["shorts"]] = 2
    table[:, top["long"], low["shorts"]] = 0.4
    table[:, :, low["swim"]] *= 0.5
    table[:, top["bare"], low["swim"]] = 3
    table[1, :, low["skirt"]] = 0
    table[1, top["gown"]] = 0
    table[0, top["bare"]] = 0
    table[1, top["suit"]] *= 3
    return table


_PRINTED = {
    "logo": {"tshirt": 2.2, "long": 1.2, "polo": 1.0, "tank": 1.0},
    "stripe": {"tshirt": 1.4, "long": 1.0, "polo": 1.3, "tank": 0.8},
}
_ODDS = {  # how much likelier than usual, by (sex, top); the overall rate is fitted
    "longHair": lambda male, top: 0.1 if male else 1.0,
    "Hat": lambda male, top: (1.3 if male else 0.9) * (0.3 if top == "suit" else 1.0),
    "sunglass": lambda male, top: 2.0 if top in ("tank", "bare") else 1.0,
    "faceMask": lambda male, top: 2.0 if top in ("long", "robe") else 0.7,
    "logo": lambda male, top: _PRINTED["logo"].get(top, 0.0),
    "stripe": lambda male, top: _PRINTED["stripe"].get(top, 0.0),
}


class Population:
    """Draws outfits. Build once; ``sample`` costs microseconds."""

    def __init__(self) -> None:
        self.table = fit_table(_affinity(), _marginals())
        by_sex_top = self.table.sum(2)
        self.chance = {}
        for name, odds in _ODDS.items():
            weight = np.array([[odds(bool(sex), top) for top in TOPS] for sex in (0, 1)])
            self.chance[name] = _scale_odds(weight, by_sex_top, truth_rate(name))
        self._flat = np.cumsum(self.table.ravel() / self.table.sum())

    def sample(self, rng: np.random.Generator) -> Outfit:
        """Return an ``Outfit``."""
        cell = min(int(np.searchsorted(self._flat, rng.random())), self._flat.size - 1)
        sex, top, lower = np.unravel_index(cell, self.table.shape)
        true = {name: bool(rng.random() < p[sex, top]) for name, p in self.chance.items()}
        return Outfit(
            male=bool(sex), top=TOPS[top], lower=LOWERS[lower], long_hair=true["longHair"],
            sunglass=true["sunglass"], hat=true["Hat"], mask=true["faceMask"],
            logo=true["logo"], stripe=true["stripe"],
        )  # fmt: skip


def _scale_odds(weight: Any, cells: Any, rate: float) -> np.ndarray:
    """Return probabilities proportional to ``weight`` (capped at 0.9) with overall ``rate``."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        if (np.minimum(weight * middle, 0.9) * cells).sum() < rate:
            low = middle
        else:
            high = middle
    return np.minimum(weight * low, 0.9)
