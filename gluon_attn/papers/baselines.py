"""Training without a paper's method: one loss for classes and attributes, two for identities.

The **plain baseline** is what every method is compared with: a backbone and its classification
loss. "ResNet-101" in the tables of the VAA paper (Sarafianos, Xu, Kakadiaris, ECCV 2018),
"ResNet-18" and others in those of ICASC (Wang et al., ICCV 2019).

The **re-identification baseline** learns the training identities with a softmax and, from the same
pooled features, distances with the batch-hard triplet loss (Hermans, Beyer, Leibe,
arXiv:1703.07737, 2017). After training the features alone are used: images of new people are
compared by distance. DREAL (Li and Chen, ECCV 2020) is added to such a baseline; the documents we
have name the data sets but not the losses, so their combination here is an assumption
(docs/reid.md).
"""

from __future__ import annotations

from typing import Any, Mapping

from mxnet.gluon import HybridBlock

from gluon_attn.core.batch import Batch
from gluon_attn.core.schema import Schema
from gluon_attn.losses.classification import objective
from gluon_attn.losses.triplet import BatchHardTripletLoss, SoftTripletLoss
from gluon_attn.method import METHODS, Method, Outputs
from gluon_attn.papers.vaa.losses import WeightedFocalLoss

IDENTITY_OPTIONS = {
    "images_per_identity": 4,  # K of a batch of P K images; the loader asks for it
    "margin": 0.3,
    "soft_margin": False,  # True: log(1 + exp(.)) in place of a margin
    "softmax_weight": 1.0,
    "triplet_weight": 1.0,
    "erase": 0.0,  # probability of random erasing; the loader asks for it
}


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


class IdentityLosses:
    """Losses of a batch of identities, the classes of ``schema``; the net gives an 'embedding'."""

    def __init__(self, options: Mapping[str, Any], net: HybridBlock, schema: Schema | None) -> None:
        names = getattr(net, "output_names", ("logits",))
        if "embedding" not in names:
            raise ValueError(
                f"{type(net).__name__} has the outputs {', '.join(names)}; the triplet loss needs "
                "'embedding' (zoo models named reid_...)"
            )
        if schema is None or not schema.is_single_label:
            raise ValueError(
                "identities must be the classes of a single-label data set, such as dataset="
                "reid_market; these data have attributes"
            )
        for name in ("softmax_weight", "triplet_weight"):
            if options[name] < 0:
                raise ValueError(f"{name}={options[name]}: must not be negative")
        if options["images_per_identity"] < 2:
            raise ValueError(
                f"images_per_identity={options['images_per_identity']}: a triplet needs at least 2"
            )
        self._weights = {"softmax": options["softmax_weight"], "triplet": options["triplet_weight"]}
        self._softmax = objective(schema)
        soft = options["soft_margin"]
        self._triplet = SoftTripletLoss() if soft else BatchHardTripletLoss(options["margin"])
        self._triplet.hybridize()

    def __call__(self, outputs: Outputs, batch: Batch) -> Outputs:
        """Return ``{'softmax': (B,), 'triplet': (B,)}``, weighted; those of weight 0 are left out.

        The batch is one device's share: whole identities, K rows each.
        """
        losses = {}
        if self._weights["softmax"]:
            loss = self._softmax(outputs["logits"], batch.label, batch.mask)
            losses["softmax"] = loss * self._weights["softmax"]
        if self._weights["triplet"]:
            loss = self._triplet(outputs["embedding"], batch.label, batch.mask)
            losses["triplet"] = loss * self._weights["triplet"]
        return losses


@METHODS.register("reid")
class ReidBaseline(Method):
    """Train all parameters on softmax and triplet loss; see :class:`IdentityLosses`.

    The hardest images are looked for in one device's share of a batch.
    """

    OPTIONS = dict(IDENTITY_OPTIONS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._losses = IdentityLosses(self.options, self.net, self.task.schema)

    def losses(self, outputs: Outputs, batch: Batch) -> Outputs:
        return self._losses(outputs, batch)
