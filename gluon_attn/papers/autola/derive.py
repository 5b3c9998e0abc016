"""From architecture parameters to a genotype, and what can be said about them on the way.

Auto Learning Attention, Ma, Zhang, Xia, Tao, NeurIPS 2020 ("paper"), with the authors' code
("code").
"""

from __future__ import annotations

import numpy as np

from gluon_attn.papers.autola.genotype import EDGES, OPERATIONS, of_operations

NONE = OPERATIONS.index("none")


def shares(alpha):
    """Return softmax(alpha) of each edge, ``(10, 9)`` float64.

    Args:
        alpha: ``(10, 9)``: edges in the order of ``EDGES``, operations in that of ``OPERATIONS``.

    Raises:
        ValueError: Another shape, or a value that is not finite.
    """
    alpha = np.asarray(alpha, np.float64)
    if alpha.shape != (len(EDGES), len(OPERATIONS)) or not np.isfinite(alpha).all():
        raise ValueError(
            f"alpha of shape {alpha.shape}: needs {len(EDGES)} edges x {len(OPERATIONS)} "
            "operations, all finite"
        )
    weights = np.exp(alpha - alpha.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def strengths(alpha):
    """Return the largest share of each edge without ``none``, ``(10,)``; code: edge strength."""
    return np.delete(shares(alpha), NONE, axis=1).max(axis=1)


def entropy(alpha):
    """Return the entropy of the shares of each edge in nats, ``(10,)``: from ln 9 to 0."""
    weights = shares(alpha)
    return -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1)


def derive(alpha):
    """Return the genotype of architecture parameters.

    Every edge is kept, with its strongest operation other than ``none`` (code). Of equal ones the
    first in the order of ``OPERATIONS`` is taken.

    Args:
        alpha: See :func:`shares`.
    """
    weights = shares(alpha)
    weights[:, NONE] = -1
    return of_operations(OPERATIONS[k] for k in weights.argmax(axis=1))


def random_genotype(seed):
    """Return a genotype whose ten operations are drawn uniformly, ``none`` left out.

    Args:
        seed: Non-negative integer, or a sequence of such.
    """
    rng = np.random.default_rng(seed)
    valid = [name for name in OPERATIONS if name != "none"]
    return of_operations(valid[k] for k in rng.integers(len(valid), size=len(EDGES)))
