"""Checks of what metrics are given: an impossible value is named, never averaged in."""

from __future__ import annotations

from typing import Any, Optional, Sequence

import numpy as np
from numpy.typing import NDArray

from gluon_attn.core.errors import NotFiniteError

Array = NDArray[Any]
Arrays = Any  # NumPy, nested lists, or anything with ``asnumpy()``
Names = Optional[Sequence[str]]


def as_array(values: Arrays) -> Array:
    """Return ``values`` as a NumPy array; an MXNet NDArray is copied in one piece."""
    return np.asarray(values.asnumpy() if hasattr(values, "asnumpy") else values)


def checked(
    scores: Arrays, labels: Arrays, mask: Arrays, dimensions: int
) -> tuple[Array, Array, Array]:
    """Return float64 scores, boolean labels and boolean known; 0 and False where not known.

    Raises a ValueError if shapes differ, or a mask value or known label is not 0 or 1, and a
    NotFiniteError if a known score is not finite; the message names the first such place.
    """
    scores, labels = as_array(scores), as_array(labels)
    known = np.ones(labels.shape, bool) if mask is None else as_array(mask)
    if scores.ndim != dimensions or not scores.shape == labels.shape == known.shape:
        raise ValueError(
            f"scores {scores.shape}, labels {labels.shape}, mask {known.shape}: "
            f"all must be {'(N,)' if dimensions == 1 else '(N, A)'}"
        )
    if known.dtype != bool:
        _require((known == 0) | (known == 1), known, "mask", "must be 0 or 1")
        known = known == 1
    binary = (labels == 0) | (labels == 1) | ~known
    _require(binary, labels, "label", "must be 0 or 1 where the mask is 1")
    _require(np.isfinite(scores) | ~known, scores, "score", "must be finite", kind=NotFiniteError)
    return np.where(known, scores, 0).astype(np.float64), (labels == 1) & known, known


def require_probabilities(probs: Array, known: Array) -> None:
    """Raise a ValueError if a known score is no probability."""
    rule = "must be a probability in [0, 1]: apply the sigmoid to logits first"
    _require((probs >= 0) & (probs <= 1) | ~known, probs, "score", rule)


def checked_names(names: Names, count: int) -> list[str]:
    """Return ``count`` different attribute names as strings, made up if ``names`` is None."""
    names = [f"attribute{a}" for a in range(count)] if names is None else [str(n) for n in names]
    if len(names) != count:
        raise ValueError(f"{len(names)} names for {count} attributes")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"attribute names must differ, repeated: {', '.join(repeated)}")
    return names


def mean_of_defined(values: Arrays) -> float:
    """Return the mean of the values that are not nan, nan if there is none."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def _require(
    good: Array, values: Array, what: str, rule: str, *, kind: type[ValueError] = ValueError
) -> None:
    if not good.all():
        position = tuple(np.argwhere(~good)[0].tolist())
        where = f"row {position[0]}" + "".join(f", attribute {a}" for a in position[1:])
        raise kind(
            f"{what} at {where} is {values[position]} and {rule}; {int((~good).sum())} such in all"
        )
