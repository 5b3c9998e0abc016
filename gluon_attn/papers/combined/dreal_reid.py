"""DREAL on a person re-identification baseline: rewards for modules, softmax and triplet loss.

The classification loss L_c of DREAL is replaced by both losses of the baseline; the reward stays
what an attention module adds to the probability of the right identity. How the paper combines them
is unknown to us (assumption).
"""

from __future__ import annotations

from typing import Any

from gluon_attn.core.batch import Batch
from gluon_attn.method import METHODS, Outputs
from gluon_attn.papers.baselines import reid
from gluon_attn.papers.dreal.method import DREAL


@METHODS.register("dreal_reid")
class DrealReid(DREAL):
    """DREAL with the baseline's losses of identities in place of L_c; options are those of both."""

    OPTIONS = dict(DREAL.OPTIONS, **reid.OPTIONS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._identity = reid.IdentityLosses(self.options, self.net, self.task.schema)

    def losses(self, outputs: Outputs, batch: Batch) -> Outputs:
        losses = super().losses(outputs, batch)
        losses.pop("classification")
        return dict(self._identity(outputs, batch), **losses)
