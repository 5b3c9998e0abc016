"""Learning-rate schedules, one value per epoch, or per batch where a paper asks for it.

MXNet's own schedulers count updates and know nothing of the validation score; ``Plateau`` is the
one the VAA supplement asks for.
"""

from __future__ import annotations

import math
from typing import Any

from gluon_attn.core.recipe import Recipe
from gluon_attn.core.registry import Registry

SCHEDULES = Registry("schedule")


class Schedule:
    """Base: the recipe's learning rate after an optional linear warm-up."""

    every_batch = False  # whether :meth:`lr_within` changes from batch to batch

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.base, self.lowest = recipe, recipe.lr, recipe.lr_min

    def lr_within(self, epoch: int, done: float) -> float:
        """Return the learning rate of a batch before which ``done`` (0 to below 1) of it passed."""
        return self.lr(epoch)

    def lr(self, epoch: int) -> float:
        """Return the learning rate of ``epoch`` (from 0)."""
        warmup = self.recipe.warmup_epochs
        if epoch < warmup:
            return self.base * (epoch + 1) / (warmup + 1)
        return self.after_warmup(epoch)

    def after_warmup(self, epoch: int) -> float:
        """Return the learning rate of an epoch behind the warm-up."""
        return self.base

    def record(self, score: float) -> None:
        """Take note of an epoch's validation score, higher is better; nan changes nothing."""

    def restart(self) -> None:
        """Forget the scores seen so far (called when a new phase of training begins)."""

    def state(self) -> dict[str, Any]:
        """Return what has to be saved, JSON-able."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned."""


SCHEDULES.register("constant")(Schedule)


@SCHEDULES.register("step")
class Step(Schedule):
    """Multiply by ``lr_factor`` at each epoch in ``lr_epochs``."""

    def after_warmup(self, epoch: int) -> float:
        passed = sum(epoch >= e for e in self.recipe.lr_epochs)
        return max(self.base * self.recipe.lr_factor**passed, self.lowest)


@SCHEDULES.register("cosine")
class Cosine(Schedule):
    """Half a cosine from ``lr`` to ``lr_min`` over the epochs behind the warm-up."""

    def after_warmup(self, epoch: int) -> float:
        length = max(self.recipe.epochs - self.recipe.warmup_epochs, 1)
        done = (epoch - self.recipe.warmup_epochs + 0.5) / length
        return self.lowest + (self.base - self.lowest) * (1 + math.cos(math.pi * done)) / 2


@SCHEDULES.register("cyclic_cosine")
class CyclicCosine(Schedule):
    """Half a cosine from ``lr`` to ``lr_min`` in every cycle, from batch to batch.

    Cycles begin at the epochs in ``lr_epochs``; without any there is one cycle, as in the ICASC
    supplement ("cyclic cosine annealing with a cycle of one").

    Reference: Huang et al., Snapshot Ensembles: Train 1, Get M for Free, ICLR 2017, Eq. 2, whose
    cycles are all of one length; it counts batches from 1, so the first has the full rate.
    """

    every_batch = True

    def lr_within(self, epoch: int, done: float) -> float:
        warmup = self.recipe.warmup_epochs
        if epoch < warmup:
            return self.lr(epoch)
        edges = [warmup, *sorted(self.recipe.lr_epochs), self.recipe.epochs]
        start = max(edge for edge in edges if edge <= epoch)
        end = min((edge for edge in edges if edge > epoch), default=epoch + 1)
        share = (epoch + done - start) / (end - start)
        return self.lowest + (self.base - self.lowest) * (1 + math.cos(math.pi * share)) / 2

    def after_warmup(self, epoch: int) -> float:
        return self.lr_within(epoch, 0.0)


@SCHEDULES.register("plateau")
class Plateau(Schedule):
    """Multiply by ``lr_factor`` after more than ``lr_patience`` epochs without a better score.

    VAA supplement: "divided by 10 (until 0.00001) when the error plateaus in the validation set";
    the patience of 10 epochs is the authors' code's.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.current, self.best, self.waited = self.base, -math.inf, 0

    def after_warmup(self, epoch: int) -> float:
        return self.current

    def record(self, score: float) -> None:
        if math.isnan(score):
            return
        if score > self.best:
            self.best, self.waited = score, 0
            return
        self.waited += 1
        if self.waited > self.recipe.lr_patience:
            self.current = max(self.current * self.recipe.lr_factor, self.lowest)
            self.waited = 0

    def restart(self) -> None:
        self.current, self.best, self.waited = self.base, -math.inf, 0

    def state(self) -> dict[str, Any]:
        best = self.best if math.isfinite(self.best) else None
        return {"current": self.current, "best": best, "waited": self.waited}

    def load_state(self, state: dict[str, Any]) -> None:
        best = state["best"]  # checkpoints of before may hold nan
        known = best is not None and math.isfinite(best)
        self.current, self.waited = state["current"], state["waited"]
        self.best = best if known else -math.inf
