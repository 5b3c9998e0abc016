"""VAA with AWMT's weights: a combination of two papers, in neither of them.

To train VAA's net with AWMT's own loss, use method ``awmt`` with a VAA model and ``heads=each``.
"""

from __future__ import annotations

from typing import Any

import mxnet as mx

from gluon_attn.core.batch import Batch
from gluon_attn.losses.classification import binary_cross_entropy
from gluon_attn.method import METHODS, Outputs
from gluon_attn.papers.awmt.method import TaskWeights, WeightedMethod
from gluon_attn.papers.vaa.method import VAATraining


@METHODS.register("vaa_awmt")
class WeightedVAA(WeightedMethod, VAATraining):
    """VAA's losses, each attribute weighted by the trend of its validation cross-entropy.

    The weights start to move in phase ``joint``.
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
