"""The plain baseline every method is compared with: a backbone and masked cross-entropy.

"ResNet-101" in the tables of the VAA paper (Sarafianos, Xu, Kakadiaris, ECCV 2018).
"""

from __future__ import annotations

from gluon_attn.losses.classification import MaskedBCELoss
from gluon_attn.method import METHODS, Method


@METHODS.register("baseline")
class Baseline(Method):
    """Train all parameters on the masked cross-entropy of ``logits``; see :class:`Method`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._bce = MaskedBCELoss()
        self._bce.hybridize()

    def losses(self, outputs, batch):
        """Return the cross-entropy, ``(B,)``."""
        return {"bce": self._bce(outputs["logits"], batch.label, batch.mask)}
