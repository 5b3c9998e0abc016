"""The plain baseline every method is compared with: a backbone and its classification loss.

"ResNet-101" in the tables of the VAA paper (Sarafianos, Xu, Kakadiaris, ECCV 2018), "ResNet-18"
and others in those of ICASC (Wang et al., ICCV 2019).
"""

from __future__ import annotations

from gluon_attn.losses.objective import objective
from gluon_attn.method import METHODS, Method


@METHODS.register("baseline")
class Baseline(Method):
    """Train all parameters on the cross-entropy of ``logits``; see :class:`Method`.

    The loss follows the data: softmax for single-label classification, masked binary
    cross-entropy (``bce``) otherwise; see :func:`gluon_attn.losses.objective.objective`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        schema = self.task.schema
        self._name = "ce" if schema is not None and schema.is_single_label else "bce"
        self._loss = objective(schema)

    def losses(self, outputs, batch):
        """Return the cross-entropy, ``(B,)``."""
        return {self._name: self._loss(outputs["logits"], batch.label, batch.mask)}
