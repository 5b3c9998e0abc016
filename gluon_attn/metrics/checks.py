"""Checks of what metrics are given: an impossible value is named, never averaged in."""

from __future__ import annotations

import numpy as np

from gluon_attn.core.errors import NotFiniteError


def as_array(values):
    """Return ``values`` as a NumPy array; an MXNet NDArray is copied in one piece."""
    return values.asnumpy() if hasattr(values, "asnumpy") else np.asarray(values)


def checked(scores, labels, mask, dimensions):
    """Return float64 scores, boolean labels and boolean known; 0 and False where not known.

    Raises:
        ValueError: If shapes differ, or a mask value or known label is not 0 or 1; the message
            names the first such row and attribute.
        NotFiniteError: If a known score is not finite.
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
    _require(np.isfinite(scores) | ~known, scores, "score", "must be finite", NotFiniteError)
    return np.where(known, scores, 0).astype(np.float64), (labels == 1) & known, known


def require_probabilities(probs, known):
    """Raise a ValueError if a known score is no probability."""
    rule = "must be a probability in [0, 1]: apply the sigmoid to logits first"
    _require((probs >= 0) & (probs <= 1) | ~known, probs, "score", rule)


def checked_names(names, count):
    """Return ``count`` different attribute names as strings, made up if ``names`` is None.

    Raises:
        ValueError: If there are more or fewer names, or one is repeated.
    """
    names = [f"attribute{a}" for a in range(count)] if names is None else [str(n) for n in names]
    if len(names) != count:
        raise ValueError(f"{len(names)} names for {count} attributes")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"attribute names must differ, repeated: {', '.join(repeated)}")
    return names


def _require(good, values, what, rule, kind=ValueError):
    """Raise an error that names the first position where ``good`` is False."""
    if not good.all():
        position = tuple(np.argwhere(~good)[0].tolist())
        where = f"row {position[0]}" + "".join(f", attribute {a}" for a in position[1:])
        raise kind(
            f"{what} at {where} is {values[position]} and {rule}; {int((~good).sum())} such in all"
        )
