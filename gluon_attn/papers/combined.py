"""Two methods in one run: VAA with AWMT's weights, DREAL on a re-identification baseline."""

from __future__ import annotations

from typing import Any

import mxnet as mx

from gluon_attn.core.batch import Batch
from gluon_attn.losses.classification import binary_cross_entropy
from gluon_attn.method import METHODS, Outputs
from gluon_attn.papers.awmt.method import TaskWeights, WeightedMethod
from gluon_attn.papers.baselines import IDENTITY_OPTIONS, IdentityLosses
from gluon_attn.papers.dreal.method import DREAL
from gluon_attn.papers.vaa.method import VAATraining


@METHODS.register("vaa_awmt")
class WeightedVAA(WeightedMethod, VAATraining):
    """VAA's losses, each attribute weighted by the trend of its validation cross-entropy.

    In neither paper. The weights start to move in phase ``joint``. To train VAA's net with AWMT's
    own loss, use method ``awmt`` with a VAA model and ``heads=each``.
    """

    OPTIONS = dict(VAATraining.OPTIONS, window=200, val_batch_size=10, adaptive=True)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tasks = TaskWeights(self, self.options["window"], binary_cross_entropy, "negative")

    def before_step(self, held_out: list[Batch]) -> None:
        if self.phase == "joint":
            super().before_step(held_out)

    def losses(self, outputs: Outputs, batch: Batch) -> Outputs:
        """Return VAA's losses; they are linear in the mask, which so carries the weights."""
        weight = self.tasks.weight(batch.mask.context).expand_dims(0)
        mask = mx.nd.broadcast_mul(batch.mask, weight)
        return super().losses(outputs, batch._replace(mask=mask))


@METHODS.register("dreal_reid")
class DrealReid(DREAL):
    """DREAL with the losses of identities in place of L_c; options are those of both.

    The reward stays what an attention module adds to the probability of the right identity. How the
    paper combines them is unknown to us (assumption).
    """

    OPTIONS = dict(DREAL.OPTIONS, **IDENTITY_OPTIONS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._identity = IdentityLosses(self.options, self.net, self.task.schema)

    def losses(self, outputs: Outputs, batch: Batch) -> Outputs:
        losses = super().losses(outputs, batch)
        losses.pop("classification")
        return dict(self._identity(outputs, batch), **losses)
