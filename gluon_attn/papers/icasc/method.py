"""ICASC: learning with attention separability and consistency.

Sharpen Focus: Learning with Attention Separability and Consistency, Wang, Wu, Karanam, Peng, Singh,
Liu, Metaxas, ICCV 2019 ("paper"), with its supplementary material ("supplement").

Two attention maps of an image, that of its class and that of the class it is most easily taken for,
should lie apart (L_AS, at the inner and at the last feature layer), and the inner layer should look
where the last one does (L_AC):

    L = L_C + L_AS^in + L_AS^la + L_AC                                          (equation 6)

Only training changes: the net and its inference stay what they are.

Legend: B batch, A classes or attributes, A^T and A^Conf attention of the true and of the confusing
class; la last, in inner feature layer.

Deviations and assumptions, all listed in docs/icasc.md: the size of the mask at the inner layer,
images without a known class, small constants.
"""

from __future__ import annotations

import logging
from typing import Any, Iterable, Mapping

import mxnet as mx
from mxnet import autograd
from mxnet.gluon import HybridBlock

from gluon_attn.core.batch import Batch
from gluon_attn.losses.classification import objective
from gluon_attn.method import METHODS, Method, Optimization, Outputs, Task, sum_of
from gluon_attn.nets.graph import Graph, GraphBlock
from gluon_attn.papers.icasc.attention import (
    MAPS,
    Tensor,
    attention_consistency,
    attention_separation,
    module_of,
    normalized,
    resize_like,
    soft_mask,
)
from gluon_attn.papers.icasc.cut import DIRECTIONS, Arrays, Tail
from gluon_attn.papers.icasc.gradients import ExactPass, ScorePass, true_and_confusing

CHOICES = {
    "attention": tuple(sorted(MAPS)),
    "gradient": ("constant", "exact"),
    "mask_resize": ("bilinear", "corners"),
    "inner_mask": ("last", "inner"),
}
SMALL = 1e-4  # an epsilon with which almost empty maps still outweigh a batch
TERMS = ("as_inner", "as_last", "ac")
INPUTS = ("last", "last_true", "last_confusing", "inner", "inner_true", "inner_confusing", "valid")

logger = logging.getLogger("gluon_attn.icasc")


def attention_terms(seen: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the attention losses of equation 6 by name, each ``(B,)``.

    ``seen`` holds NDArrays or Symbols: ``last`` and ``inner`` maps ``(B, C, h, w)``, the gradients
    of both scores there (``last_true``, …), and ``valid`` ``(B,)``, a factor on all terms.
    """
    maps, epsilon = {}, options["epsilon"]
    for layer in ("last", "inner"):
        for score in DIRECTIONS:
            found = MAPS[options["attention"]](seen[layer], seen[f"{layer}_{score}"])
            found = normalized(found, epsilon) if options["normalize"] else found
            maps[f"{layer}_{score}"] = found

    def mask_of(a_true: Tensor) -> Tensor:
        mask = soft_mask(a_true, options["sigma"], options["omega"])
        return module_of(mask).BlockGrad(mask) if options["detach_mask"] else mask

    mask = mask_of(maps["last_true"])
    large = resize_like(mask, maps["inner_true"], options["mask_resize"] == "corners")
    own = large if options["inner_mask"] == "last" else mask_of(maps["inner_true"])
    inner, last = ((maps[f"{at}_true"], maps[f"{at}_confusing"]) for at in ("inner", "last"))
    terms = {
        "as_inner": attention_separation(*inner, own, epsilon),  # Eq. 3
        "as_last": attention_separation(*last, mask, epsilon),  # Eq. 3
        "ac": attention_consistency(inner[0], large, options["theta"], epsilon),  # Eq. 5
    }
    return {name: term * seen["valid"] for name, term in terms.items()}


@METHODS.register("icasc")
class ICASC(Method):
    """Any net with two or more stages, on single-label or multi-label data.

    The classification loss is that of the data (softmax or masked binary cross-entropy, on the
    net's ``logits``). All weights 0 is the plain baseline.
    """

    OPTIONS = {
        "attention": "channel_weighted",  # or "grad_cam"; paper, Eqs. 2 and 1
        "gradient": "constant",  # or "exact": also through the channel weights
        "sigma": 0.55,  # paper, Eq. 4
        "omega": 100.0,  # paper, Eq. 4
        "theta": 0.8,  # paper, Eq. 5
        "weight_as_inner": 1.0,  # paper, Eq. 6
        "weight_as_last": 1.0,
        "weight_ac": 1.0,
        "normalize": False,  # True: maps are divided by their maxima first
        "epsilon": 1e-6,  # in denominators; Grad-CAM needs more (docs/icasc.md)
        "mask_resize": "bilinear",  # to the inner layer; "corners": with corners aligned
        "inner_mask": "last",  # mask of L_AS at the inner layer; "inner": made from its own map
        "detach_mask": False,  # True: no gradient through the mask
        "start_epoch": 0,  # first epoch with attention losses
    }

    FLOAT32_ONLY = "because its losses are made of gradients"

    def __init__(
        self, net: HybridBlock, ctx: Iterable[mx.Context], task: Task,
        optimization: Optimization, *, options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(net, ctx, task, optimization, options=options)
        self.check_choices(CHOICES, "value of ")
        weights = {f"weight_{term}": 0 for term in TERMS}
        self.check_at_least(sigma=0, omega=0, epsilon=1e-12, start_epoch=0, **weights)
        schema = self.task.schema
        if self.options["attention"] == "grad_cam" and self.options["epsilon"] < SMALL:
            logger.warning(
                "attention=grad_cam with epsilon=%g: a single map that is almost empty can end the "
                "training; epsilon=1e-3 prevents that (docs/icasc.md)", self.options["epsilon"],
            )  # fmt: skip
        self._name = "ce" if schema is not None and schema.is_single_label else "bce"
        self._classification = objective(schema)
        self._terms: Any = self._weighted_terms()
        self._tail = Tail(net, self.ctx)
        exact = self.options["gradient"] == "exact"
        self._directional = self._tail.directional() if exact else None

    def _weighted_terms(self) -> GraphBlock | None:
        """Return the attention losses times their weights, as a block; None if there are none."""
        variables = {name: mx.sym.var(name, dtype="float32") for name in INPUTS}
        weights = {term: float(self.options[f"weight_{term}"]) for term in TERMS}
        terms = attention_terms(variables, self.options)
        chosen = {name: weights[name] * terms[name] for name in TERMS if weights[name]}
        if not chosen:
            return None
        graph, entries = Graph.of(chosen.values())
        return GraphBlock(graph, INPUTS, dict(zip(chosen, entries)))

    @property
    def attends(self) -> bool:
        """Whether attention losses are part of the current epoch's loss."""
        return self._terms is not None and self.is_complete(self.epoch)

    def is_complete(self, epoch: int) -> bool:
        return epoch >= self.options["start_epoch"]

    def losses(self, outputs: Outputs, batch: Batch) -> Outputs:
        return {self._name: self._classification(outputs["logits"], batch.label, batch.mask)}

    def differentiate(self, parts: list[Batch]) -> list[tuple[Outputs, Outputs, Batch]]:
        """Make all gradients; with attention there are several passes, one device at a time."""
        if not self.attends:
            return super().differentiate(parts)
        return [({}, self._differentiate(part), part) for part in parts]

    def _differentiate(self, part: Batch) -> dict[str, mx.nd.NDArray]:
        """Make all gradients of one device's share; return its losses, each ``(B,)``."""
        run = ScorePass(self._tail, part.image)
        with autograd.pause():
            true, confusing, valid = true_and_confusing(run.logits, part.label, part.mask)
        vectors, seen = {"true": true, "confusing": confusing}, {"valid": valid}
        for score, vector in vectors.items():
            found = run.gradients(vector, inner="inner" in self._terms.takes)
            seen.update({f"{layer}_{score}": gradient for layer, gradient in found.items()})
        if self._directional is None:
            losses = self._recorded_losses(run, part, seen)
            run.backward(losses["loss"])
            self._tail.update_statistics(run.statistics)
            return losses
        directions = self._directions(run, seen)
        exact = ExactPass(run, self._directional, directions)
        losses = self._recorded_losses(exact, part, seen)
        exact.backward(losses["loss"], vectors)
        self._tail.update_statistics(exact.statistics)
        return losses

    def _recorded_losses(self, run: Any, part: Batch, seen: Arrays) -> dict[str, mx.nd.NDArray]:
        with autograd.record():
            losses = self.losses({"logits": run.logits}, part)
            losses.update(self._terms.run({**seen, "inner": run.inner, "last": run.last}))
            return dict(losses, loss=sum_of(losses.values()))

    def _directions(self, run: ScorePass, seen: Arrays) -> dict[str, mx.nd.NDArray]:
        """Return how the attention losses change with the scores' gradients, dL/dg."""
        maps = {"inner": run.inner.detach(), "last": run.last.detach()}
        names = [n for n in self._terms.takes if n in seen and n != "valid"]
        gradients = {name: seen[name].detach() for name in names}
        for gradient in gradients.values():
            gradient.attach_grad()
        with autograd.record():
            total = sum_of(self._terms.run({**maps, **seen, **gradients}).values())
        return dict(zip(names, autograd.grad(total, list(gradients.values()))))
