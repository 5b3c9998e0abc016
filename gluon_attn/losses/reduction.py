"""The one place where a loss per attribute becomes a loss per sample."""

from __future__ import annotations


def mean_over_attributes(F, loss, mask):
    """Return ``(B,)``: the masked sum over attributes divided by the number of attributes A.

    Dividing by A, not by the number of known labels, is Gluon's convention for sample weights: how
    much one label pulls does not depend on how many others happen to be unspecified.

    Args:
        loss: ``(B, A)``.
        mask: ``(B, A)`` in {0, 1}; 0 takes the entry and its gradient out.
    """
    return F.mean(F.broadcast_mul(loss, mask), axis=0, exclude=True)
