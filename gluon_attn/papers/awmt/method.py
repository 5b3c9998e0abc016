"""AWMT: adaptively weighted multi-task learning of attributes.

Adaptively Weighted Multi-task Deep Network for Person Attribute Classification, He, Wang, Fu, Feng,
Jiang, Xue, ACM MM 2017 ("paper"), with the authors' Caffe code ("code").

One net predicts all attributes; the squared error of attribute j counts with a weight lambda_j,
which follows its validation loss (:mod:`gluon_attn.papers.awmt.trend`).

Legend: B batch, A outputs, M attributes (one or several outputs each, see
:mod:`gluon_attn.core.schema`), k window.

Deviation, listed in docs/awmt.md: training and validation images take two forward passes instead of
one of 20 images, which with frozen batch-norm gives the same numbers and spares the backward pass
of the validation half.
"""

from __future__ import annotations

import logging
from typing import Any, Callable

import mxnet as mx
import numpy as np
from mxnet import gluon

from gluon_attn.core.batch import Batch
from gluon_attn.core.schema import MULTICLASS, Schema
from gluon_attn.method import METHODS, Method, Outputs, State
from gluon_attn.nets.graph import frozen_view
from gluon_attn.papers.awmt.losses import WeightedSquaredLoss, squared_error
from gluon_attn.papers.awmt.trend import ValidationLossTrend, mean_of_known

logger = logging.getLogger("gluon_attn.awmt")


class TaskWeights:
    """The weights during training: measures validation losses, holds lambda on every device.

    Losses stay on the devices; they are read once per window, in the iteration that needs them,
    and added up over the workers, so that all have the same weights.
    ``error`` is the function ``(F, logits, label) -> (B, A)`` whose trend is followed;
    ``no_class``, ``'ignore'`` or ``'negative'``, is what a multi-class attribute of which no class
    is positive ("no colour") does in training and in the validation loss.
    """

    def __init__(
        self, method: WeightedMethod, window: int, error: Callable[..., Any] = squared_error,
        no_class: str = "ignore",
    ) -> None:  # fmt: skip
        if no_class not in ("ignore", "negative"):
            raise ValueError(f"no_class={no_class!r}: valid are ignore, negative")
        self._method, self._error, self.ctx = method, error, method.ctx
        self.schema = method.task.schema or Schema.binary(method.task.names)
        self.trend = ValidationLossTrend(len(self.schema), window)
        members = self.schema.membership()
        self._members = {c: mx.nd.array(members, ctx=c) for c in self.ctx}
        several = [float(a.kind == MULTICLASS) for a in self.schema.attributes]
        drops = any(several) and no_class == "ignore"
        self._always = {c: mx.nd.array(1 - np.array(several), ctx=c) for c in self.ctx if drops}
        self._view: gluon.SymbolBlock | None = None
        self._pending: list[mx.nd.NDArray] = []
        self._place()

    def _place(self) -> None:
        columns = self.trend.weights.astype(np.float32) @ self.schema.membership()
        self._weights = {c: mx.nd.array(columns, ctx=c) for c in self.ctx}

    def weight(self, ctx: mx.Context) -> mx.nd.NDArray:
        """Return the weight of every output, ``(A,)``."""
        return self._weights[ctx]

    def mask(self, batch: Batch) -> mx.nd.NDArray:
        """Return the mask of a batch, 0 also where ``no_class`` says ignore."""
        ctx = batch.label.context
        if not self._always:
            return batch.mask
        positive = mx.nd.dot(batch.label * batch.mask, self._members[ctx], transpose_b=True) > 0
        kept = mx.nd.broadcast_maximum(positive, self._always[ctx].expand_dims(0))
        return batch.mask * mx.nd.dot(kept, self._members[ctx])

    def observe(self, parts: list[Batch]) -> None:
        """Measure the validation losses of this iteration, and update the weights if it is time.

        The images, one Batch per device, run as in training, with dropout, but with batch-norm on
        its running statistics.
        """
        self._view = self._view or self._method.frozen_view()
        total: Any = 0
        for part in parts:
            logits = self._method.named(self._view(part.image))["logits"]
            mask, members = self.mask(part), self._members[part.label.context]
            error = self._error(mx.nd, logits, part.label) * mask
            sums = mx.nd.stack(error.sum(axis=0), mask.sum(axis=0))
            total = mx.nd.dot(sums, members, transpose_b=True).as_in_context(self.ctx[0]) + total
        self._pending.append(total)
        self._images = sum(map(self._method.rows, parts))
        if (self.trend.count + len(self._pending)) % self.trend.window == 0:
            self.read()
            self._place()

    def read(self) -> None:
        """Take the losses that are still on the device over into the trend; this waits."""
        if not self._pending:
            return
        found = mx.nd.stack(*self._pending).asnumpy()
        found = self._method.workers.total("held out", found).astype(np.float64)
        self._pending = []
        for sums, known in found:
            # The sum over the images, averaged over an attribute's outputs; where labels are
            # unspecified, scaled to what all images would give.
            self.trend.step(mean_of_known(sums, known) * self._images)

    def report(self) -> dict[str, Any]:
        """Return weights, losses of the last window, and iterations, for the log."""
        self.read()
        history, names = self.trend.history(), self.schema.names
        record: dict[str, Any] = {
            "iterations": self.trend.count,
            "task_weights": dict(zip(names, self.trend.weights.tolist())),
        }
        if len(history["losses"]):
            record["task_losses"] = dict(zip(names, history["losses"][-1].tolist()))
        text = ", ".join(f"{name} {w:.2f}" for name, w in record["task_weights"].items())
        logger.info("weights after iteration %d: %s", self.trend.count, text)
        return record

    def history(self) -> dict[str, Any]:
        """Return :meth:`ValidationLossTrend.history` with the attribute ``names``."""
        return {**self.trend.history(), "names": self.schema.names}

    def state(self) -> State:
        self.read()
        return {f"trend_{name}": array for name, array in self.trend.state().items()}

    def load_state(self, state: State) -> None:
        own = {n[len("trend_") :]: a for n, a in state.items() if n.startswith("trend_")}
        self.trend.load_state(own)
        self._pending = []
        self._place()


class WeightedMethod(Method):
    """What the methods with adaptive weights share; ``self.tasks`` is their TaskWeights."""

    tasks: TaskWeights

    def frozen_view(self) -> gluon.SymbolBlock:
        """Return the net with batch-norm on its running statistics, in the precision of a step."""
        return self.precision.install(frozen_view(self.net))

    @property
    def held_out_size(self) -> int:
        return self.options["val_batch_size"] if self.options["adaptive"] else 0

    def before_step(self, held_out: list[Batch]) -> None:
        self.tasks.observe(held_out)

    def report(self) -> dict[str, Any]:
        return self.tasks.report() if self.options["adaptive"] else {}

    def task_history(self) -> dict[str, Any] | None:
        return self.tasks.history() if self.options["adaptive"] else None

    def state(self) -> State:
        return {**super().state(), **(self.tasks.state() if self.options["adaptive"] else {})}

    def load_state(self, state: State) -> None:
        super().load_state(state)
        if self.options["adaptive"]:
            self.tasks.load_state(state)


@METHODS.register("awmt")
class AWMT(WeightedMethod):
    """Weighted squared error on labels of -1 and 1; the decision is logit > 0 (tau = 0).

    Works on any net and any schema. ``adaptive=false`` is the paper's basic model.
    """

    OPTIONS = {
        "window": 200,  # k; paper
        "val_batch_size": 10,  # paper: 10 of the 20 images of a batch
        "adaptive": True,  # False: all weights stay 1
        "freeze_batch_norm": True,  # authors' code; from random weights it must be False
        "fc_bias_lr": 2.0,  # factor on the classifier bias, which does not decay; authors' code
        "no_class": "ignore",
        "heads": "prediction",  # or "each": every logit vector of a net that has several
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.check_at_least(val_batch_size=1, fc_bias_lr=0)
        self.tasks = TaskWeights(self, self.options["window"], no_class=self.options["no_class"])
        self._heads = self._trained_heads()
        self._net = self.frozen_view() if self.options["freeze_batch_norm"] else self.net
        self._loss = WeightedSquaredLoss()
        self._loss.hybridize()

    def _trained_heads(self) -> dict[str, str]:
        """Return ``{name of the loss: name of the output}``."""
        choice = self.options["heads"]
        if choice not in ("prediction", "each"):
            raise ValueError(f"heads={choice!r}: valid are prediction, each")
        names = getattr(self.net, "output_names", ())
        several = [name for name in names if name.startswith("logits_")]
        if choice == "each" and several:
            return {f"squared_{name[len('logits_') :]}": name for name in several}
        return {"squared": "logits"}

    def begin_phase(self, phase: str) -> None:
        """Train everything; the classifier's bias has its own rate and no decay."""
        super().begin_phase(phase)
        classifier = getattr(getattr(self.net, "backbone", self.net), "output", None)
        bias: Any = getattr(classifier, "bias", None)
        if bias is not None:
            bias.lr_mult, bias.wd_mult = self.options["fc_bias_lr"], 0.0

    def forward(self, image: mx.nd.NDArray) -> Outputs:
        return self.named(self._net(image))

    def losses(self, outputs: Outputs, batch: Batch) -> Outputs:
        weight, mask = self.tasks.weight(batch.label.context), self.tasks.mask(batch)
        return {
            loss: self._loss(outputs[name], batch.label, mask, weight)
            for loss, name in self._heads.items()
        }
