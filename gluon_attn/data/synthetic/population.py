"""Who walks through the synthetic data: outfits whose attribute rates follow WIDER-Attribute.

Rates are positives over *all* boxes, unspecified ones included, because that is what the class
weights published with VAA measure (weight = negatives / positives, unspecified counted as negative;
positive rate = 1 / (1 + weight)). "Male" has weight 1 there, which only says "at least half"; 0.55
is an assumption.

What excludes what (a skirt excludes trousers, a suit implies long sleeves, ...) is a table of
sex x top x lower garment with zeros in the impossible cells. Iterative proportional fitting
(Deming and Stephan, 1940) turns it into probabilities with exactly the wanted marginals. The other
attributes are drawn given the cell, with odds scaled so that their overall rates are met too.
"""

from __future__ import annotations

import numpy as np

from gluon_attn.data.synthetic.pedestrian import LOWERS, TOPS, Outfit

RATES = {
    "Male": 0.55, "longHair": 0.224, "sunglass": 0.051, "Hat": 0.228, "Tshirt": 0.217,
    "longSleeve": 0.467, "formal": 0.074, "shorts": 0.147, "jeans": 0.085, "longPants": 0.364,
    "skirt": 0.102, "faceMask": 0.034, "logo": 0.266, "stripe": 0.053,
}  # fmt: skip

# Share of people whose label is lost, or recorded as negative, because the part is hidden, small or
# seen from behind, measured on drawn scenes. Truths are drawn more often by this much.
HIDDEN = {
    "Male": 0.08, "longHair": 0.02, "sunglass": 0.02, "Hat": 0.02, "Tshirt": 0.02,
    "longSleeve": 0.02, "formal": 0.02, "shorts": 0.17, "jeans": 0.17, "longPants": 0.17,
    "skirt": 0.17, "faceMask": 0.02, "logo": 0.02, "stripe": 0.02,
}  # fmt: skip


def truth_rate(name):
    """Return how often ``name`` must be true for its *recorded* rate to be ``RATES[name]``."""
    return RATES[name] / (1.0 - HIDDEN[name])


def fit_table(table, marginals, rounds=200):
    """Scale ``table`` until it has the given marginals, keeping its zeros and odds ratios.

    Args:
        table: Non-negative array, one axis per variable.
        marginals: One probability vector per axis.
        rounds: Sweeps over the axes.

    Raises:
        ValueError: If the zeros make the marginals unreachable.
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


def _marginals():
    tshirt, long_, suit = (truth_rate(n) for n in ("Tshirt", "longSleeve", "formal"))
    robe = 0.06
    rest = 1.0 - tshirt - long_
    shares = {"polo": 0.42, "tank": 0.37, "gown": 0.11, "bare": 0.10}
    tops = {"suit": suit, "tshirt": tshirt, "long": long_ - suit - robe, "robe": robe}
    tops.update({name: rest * share for name, share in shares.items()})
    shorts, jeans, skirt, trousers = (
        truth_rate(n) for n in ("shorts", "jeans", "skirt", "longPants")
    )
    lowers = {
        "shorts": shorts,
        "skirt": skirt,
        "jeans": jeans * 0.55,
        "cropped_jeans": jeans * 0.45,
    }
    lowers.update(long=trousers - jeans * 0.55, robe=robe + rest * shares["gown"])
    lowers["swim"] = 0.04
    lowers["capri"] = 1.0 - sum(lowers.values())
    male = truth_rate("Male")
    return [
        np.array([1 - male, male]),
        np.array([tops[t] for t in TOPS]),
        np.array([lowers[name] for name in LOWERS]),
    ]


def _affinity():
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


_ODDS = {  # how much likelier than usual, by (sex, top); the overall rate is fitted
    "longHair": lambda male, top: 0.1 if male else 1.0,
    "Hat": lambda male, top: (1.3 if male else 0.9) * (0.3 if top == "suit" else 1.0),
    "sunglass": lambda male, top: 2.0 if top in ("tank", "bare") else 1.0,
    "faceMask": lambda male, top: 2.0 if top in ("long", "robe") else 0.7,
    "logo": lambda male, top: {"tshirt": 2.2, "long": 1.2, "polo": 1.0, "tank": 1.0}.get(top, 0.0),
    "stripe": lambda male, top: {"tshirt": 1.4, "long": 1.0, "polo": 1.3, "tank": 0.8}.get(
        top, 0.0
    ),
}


class Population:
    """Draws outfits. Build once; ``sample`` costs microseconds."""

    def __init__(self):
        self.table = fit_table(_affinity(), _marginals())
        by_sex_top = self.table.sum(2)
        self.chance = {}
        for name, odds in _ODDS.items():
            weight = np.array([[odds(bool(sex), top) for top in TOPS] for sex in (0, 1)])
            self.chance[name] = _scale_odds(weight, by_sex_top, truth_rate(name))
        self._flat = np.cumsum(self.table.ravel() / self.table.sum())

    def sample(self, rng):
        """Return an ``Outfit``."""
        cell = min(int(np.searchsorted(self._flat, rng.random())), self._flat.size - 1)
        sex, top, lower = np.unravel_index(cell, self.table.shape)
        drawn = {name: bool(rng.random() < p[sex, top]) for name, p in self.chance.items()}
        return Outfit(
            male=bool(sex), top=TOPS[top], lower=LOWERS[lower], long_hair=drawn["longHair"],
            sunglass=drawn["sunglass"], hat=drawn["Hat"], mask=drawn["faceMask"],
            logo=drawn["logo"], stripe=drawn["stripe"],
        )  # fmt: skip


def _scale_odds(weight, cells, rate):
    """Return probabilities proportional to ``weight`` (capped at 0.9) with overall ``rate``."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        if (np.minimum(weight * middle, 0.9) * cells).sum() < rate:
            low = middle
        else:
            high = middle
    return np.minimum(weight * low, 0.9)
