"""VAA's training: three phases, and weights from the history of predictions.

Deep Imbalanced Attribute Classification using Visual Attention Aggregation, Sarafianos, Xu,
Kakadiaris, ECCV 2018, with its supplementary material ("supplement").

Deviation, listed in docs/vaa.md: in phase 1 the frozen primary net also keeps its batch-norm
statistics.
"""

from __future__ import annotations

from typing import Any

import mxnet as mx
from mxnet import autograd

from gluon_attn.core.batch import Batch
from gluon_attn.losses.classification import MaskedBCELoss
from gluon_attn.method import METHODS, Method, Outputs, State
from gluon_attn.papers.vaa.history import PredictionHistory
from gluon_attn.papers.vaa.losses import WeightedFocalLoss
from gluon_attn.papers.vaa.net import VAA


@METHODS.register("vaa")
class VAATraining(Method):
    """L = L_w(primary logits) + sum over modules of L_a(module logits).

    L_w is the weighted focal loss, L_a the cross-entropy weighted by 1 + std_s(H). Phase
    ``attention`` trains the modules alone on a frozen primary net, with L_a; phase ``joint`` trains
    everything (supplement, "Training Details"). Both start from a trained primary net. Where there
    is none, phase ``primary`` makes one first, with plain cross-entropy, as the author advises
    ("first reach 83 % with ResNet-101 alone", issue 3 of his repository).
    """

    OPTIONS = {
        "phase0_epochs": 0,  # phase primary; 0: the primary net is given (--base-params)
        "phase1_epochs": 5,  # "a few epochs" (supplement); 5 is an assumption
        "modules_lr": 1.0,  # factor on the modules' learning rate; 1 in the paper
        "gamma": 2.0,  # authors' code
        "weighting": "prior",
        "history_length": 5,  # authors' code
        "history_start": 2,  # first epoch whose predictions are stored; authors' code
        "history_weights": 5,  # first epoch that is weighted by 1 + std; authors' code
    }

    def __init__(self, net: VAA, *args: Any, **kwargs: Any) -> None:
        if not isinstance(net, VAA):
            raise ValueError(
                f"method vaa trains VAA nets, not {type(net).__name__}; choose a model such as "
                "vaa_resnet101_wider, or method=baseline"
            )
        super().__init__(net, *args, **kwargs)
        self.check_at_least(modules_lr=0)
        for parameter in net.heads.collect_params().values():
            parameter.lr_mult = self.options["modules_lr"]
        self._focal = WeightedFocalLoss(
            self.task.prior, self.options["gamma"], self.options["weighting"]
        )
        self._focal.collect_params().reset_ctx(self.ctx)
        self._bce = MaskedBCELoss()
        for loss in (self._focal, self._bce):
            loss.hybridize()
        self.history = PredictionHistory(
            self.task.num_samples, len(self.task.names), self.options["history_length"], self.ctx[0]
        )

    def phase_of(self, epoch: int) -> str:
        """Return ``'primary'`` for ``phase0_epochs``, then ``'attention'``, then ``'joint'``."""
        if epoch < self.options["phase0_epochs"]:
            return "primary"
        before_joint = self.options["phase0_epochs"] + self.options["phase1_epochs"]
        return "attention" if epoch < before_joint else "joint"

    def is_complete(self, epoch: int) -> bool:
        return self.phase_of(epoch) != "primary"

    def begin_phase(self, phase: str) -> None:
        parts = {"primary": self.net.backbone, "attention": self.net.heads, "joint": self.net}
        self.train_parameters(phase, parts[phase].collect_params())

    def forward(self, image: mx.nd.NDArray) -> Outputs:
        """Return the named outputs; a frozen primary net runs as in inference."""
        if self.phase == "joint":
            return super().forward(image)
        if self.phase == "primary":
            logits = self.net.backbone(image)[0]
            return {"logits": logits, "logits_backbone": logits}
        with autograd.pause(train_mode=False):
            frozen = self.net.backbone(image)
        return self.named(self.net.heads(*frozen))

    def losses(self, outputs: Outputs, batch: Batch) -> Outputs:
        """Return the loss of every logit vector that is being trained, each ``(B,)``."""
        label, mask = batch.label, batch.mask
        if self.phase == "primary":
            logits = outputs["logits_backbone"]
            return {"bce_backbone": self._bce(logits, label, mask, label.ones_like())}
        losses = {}
        if self.phase == "joint":
            losses["focal_backbone"] = self._focal(outputs["logits_backbone"], label, mask)
        weight = self._sample_weight(batch)
        for tap in self.net.taps:
            losses[f"bce_{tap}"] = self._bce(outputs[f"logits_{tap}"], label, mask, weight)
        return losses

    def _sample_weight(self, batch: Batch) -> mx.nd.NDArray:
        if self._history_epoch() < self.options["history_weights"]:
            return batch.label.ones_like()
        with autograd.pause():
            return 1 + self.history.std(batch.index).as_in_context(batch.label.context)

    def _history_epoch(self) -> int:
        """Return the epoch as the history counts it: from the start of VAA's own training."""
        return self.epoch - self.options["phase0_epochs"]

    def after_step(self, outputs: Outputs, batch: Batch) -> None:
        """Store the aggregated probabilities under their sample ids."""
        if self._history_epoch() >= self.options["history_start"]:
            self.history.update(batch.index, outputs["logits"].sigmoid())

    def end_epoch(self) -> None:
        """Give all workers what each has predicted of its shard."""
        self.history.share(self.workers)

    def state(self) -> State:
        return {f"history_{name}": array for name, array in self.history.state().items()}

    def load_state(self, state: State) -> None:
        self.history.load_state({name: state[f"history_{name}"] for name in ("rows", "count")})
