"""The plain baseline every method is compared with: a backbone and its classification loss.

"ResNet-101" in the tables of the VAA paper (Sarafianos, Xu, Kakadiaris, ECCV 2018), "ResNet-18"
and others in those of ICASC (Wang et al., ICCV 2019).
"""

from __future__ import annotations

from typing import Any

from gluon_attn.core.batch import Batch
from gluon_attn.losses.classification import objective
from gluon_attn.method import METHODS, Method, Outputs
from gluon_attn.papers.vaa.losses import WeightedFocalLoss


@METHODS.register("baseline")
class Baseline(Method):
    """Train all parameters on the cross-entropy of ``logits``.

    The loss follows the data: softmax for single-label classification, masked binary cross-entropy
    (``bce``) otherwise; see :func:`gluon_attn.losses.classification.objective`. With ``focal``, for
    attributes only, it is VAA's weighted focal loss on the plain net, the control that tells what
    of VAA's gain is the loss's and what the attention's.
    """

    OPTIONS = {"focal": False, "gamma": 2.0, "weighting": "prior"}  # the last two as in VAA

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        schema = self.task.schema
        single = schema is not None and schema.is_single_label
        self._name = "ce" if single else "bce"
        self._loss = objective(schema)
        if self.options["focal"]:
            if single:
                raise ValueError(
                    "focal=true: the weighted focal loss is for attributes, not classes"
                )
            self._name, gamma = "focal", self.options["gamma"]
            self._loss = WeightedFocalLoss(self.task.prior, gamma, self.options["weighting"])
            self._loss.collect_params().reset_ctx(self.ctx)
            self._loss.hybridize()

    def losses(self, outputs: Outputs, batch: Batch) -> Outputs:
        return {self._name: self._loss(outputs["logits"], batch.label, batch.mask)}
