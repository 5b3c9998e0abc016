"""Learning-rate schedules, one value per epoch, or per batch where a paper asks for it.

MXNet's own schedulers count updates and know nothing of the validation score; ``Plateau`` is the
one the VAA supplement asks for.
"""

from __future__ import annotations

import math

from gluon_attn.core.registry import Registry

SCHEDULES = Registry("schedule")


class Schedule:
    """Base: a constant learning rate after an optional linear warm-up.

    Args:
        lr: Learning rate at the start.
        epochs: Length of the run.
        warmup_epochs: Epochs over which the learning rate rises linearly.
        lr_factor, lr_patience, lr_epochs, lr_min: See :class:`gluon_attn.core.recipe.Recipe`.
    """

    def __init__(
        self, lr, epochs, warmup_epochs=0, lr_factor=0.1, lr_patience=10, lr_epochs=(), lr_min=0.0
    ):
        self.base, self.epochs, self.warmup_epochs = lr, epochs, warmup_epochs
        self.factor, self.patience = lr_factor, lr_patience
        self.at, self.lowest = tuple(lr_epochs), lr_min

    every_batch = False  # whether :meth:`lr_within` changes from batch to batch

    def lr_within(self, epoch, done):
        """Return the learning rate of a batch before which ``done`` (0 to below 1) of it passed."""
        return self.lr(epoch)

    def lr(self, epoch):
        """Return the learning rate of ``epoch`` (from 0)."""
        if epoch < self.warmup_epochs:
            return self.base * (epoch + 1) / (self.warmup_epochs + 1)
        return self.after_warmup(epoch)

    def after_warmup(self, epoch):
        """Return the learning rate of an epoch behind the warm-up."""
        return self.base

    def record(self, score: float) -> None:
        """Take note of the validation score (higher is better) of the epoch that has ended.

        A score that is undefined (nan) says nothing, and changes nothing.
        """

    def restart(self):
        """Forget the scores seen so far (called when a new phase of training begins)."""

    def state(self):
        """Return what has to be saved, JSON-able."""
        return {}

    def load_state(self, state):
        """Take over what :meth:`state` returned."""


SCHEDULES.register("constant")(Schedule)


@SCHEDULES.register("step")
class Step(Schedule):
    """Multiply by ``lr_factor`` at each epoch in ``lr_epochs``."""

    def after_warmup(self, epoch):
        """Return ``lr * factor ** (steps passed)``."""
        return max(self.base * self.factor ** sum(epoch >= e for e in self.at), self.lowest)


@SCHEDULES.register("cosine")
class Cosine(Schedule):
    """Half a cosine from ``lr`` to ``lr_min`` over the epochs behind the warm-up."""

    def after_warmup(self, epoch):
        """Return the value in the middle of ``epoch``."""
        length = max(self.epochs - self.warmup_epochs, 1)
        done = (epoch - self.warmup_epochs + 0.5) / length
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

    def lr_within(self, epoch, done):
        """Return the learning rate at ``epoch + done`` epochs."""
        if epoch < self.warmup_epochs:
            return self.lr(epoch)
        edges = [self.warmup_epochs, *sorted(self.at), self.epochs]
        start = max(edge for edge in edges if edge <= epoch)
        end = min((edge for edge in edges if edge > epoch), default=epoch + 1)
        share = (epoch + done - start) / (end - start)
        return self.lowest + (self.base - self.lowest) * (1 + math.cos(math.pi * share)) / 2

    def after_warmup(self, epoch):
        """Return the learning rate with which ``epoch`` begins."""
        return self.lr_within(epoch, 0.0)


@SCHEDULES.register("plateau")
class Plateau(Schedule):
    """Multiply by ``lr_factor`` after more than ``lr_patience`` epochs without a better score.

    VAA supplement: "divided by 10 (until 0.00001) when the error plateaus in the validation set";
    the patience of 10 epochs is the authors' code's.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.current, self.best, self.waited = self.base, -math.inf, 0

    def after_warmup(self, epoch):
        """Return the current value."""
        return self.current

    def record(self, score: float) -> None:
        """Count epochs without improvement; one without a score (nan) is passed over."""
        if math.isnan(score):
            return
        if score > self.best:
            self.best, self.waited = score, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.current, self.waited = max(self.current * self.factor, self.lowest), 0

    def restart(self):
        """Start again from ``lr`` with no score seen."""
        self.current, self.best, self.waited = self.base, -math.inf, 0

    def state(self):
        """Return the current value, the best score (None before the first), the epochs waited."""
        best = self.best if math.isfinite(self.best) else None
        return {"current": self.current, "best": best, "waited": self.waited}

    def load_state(self, state):
        """Take over what :meth:`state` returned."""
        best = state["best"]  # checkpoints of before may hold nan
        known = best is not None and math.isfinite(best)
        self.current, self.waited = state["current"], state["waited"]
        self.best = best if known else -math.inf
