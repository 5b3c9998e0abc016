"""AWMT: adaptively weighted multi-task learning of attributes.

Adaptively Weighted Multi-task Deep Network for Person Attribute Classification, He, Wang, Fu, Feng,
Jiang, Xue, ACM MM 2017 ("paper"), with the authors' Caffe code ("code").

One net predicts all attributes; the squared error of attribute j counts with a weight lambda_j.
Every k iterations the weights are made anew from the validation loss of each attribute and from how
much that loss has changed since the k iterations before (Algorithms 1 and 2).

Legend: B batch, A outputs, M attributes (one or several outputs each, see
:mod:`gluon_attn.core.schema`), k window.

Deviations, all listed in docs/awmt.md: a guard against zeros; training and validation images take
two forward passes instead of one of 20 images, which with frozen batch-norm gives the same numbers
and spares the backward pass of the validation half.
"""

from __future__ import annotations

import logging

import mxnet as mx
import numpy as np
from mxnet import gluon

from gluon_attn.core.schema import MULTICLASS, Schema
from gluon_attn.method import METHODS, Method
from gluon_attn.nets.graph import frozen_view
from gluon_attn.papers.awmt.losses import WeightedSquaredLoss, squared_error

logger = logging.getLogger("gluon_attn.awmt")

EPS = 1e-8  # stands for a trend or a loss of 0, which Algorithm 2 would divide by


class ValidationLossTrend:
    """Weights of M tasks from the trend of their validation losses (Algorithms 1 and 2).

    Args:
        num_tasks: M.
        window: k, iterations between two updates; the first update is in iteration 2 k.

    Attributes:
        weights: ``(M,)`` float64, the current lambda; mean 1.
        count: Iterations so far.

    Raises:
        ValueError: An argument is not positive.
    """

    def __init__(self, num_tasks, window=200):
        if num_tasks < 1 or window < 1:
            raise ValueError(f"num_tasks={num_tasks}, window={window}: both must be positive")
        self.num_tasks, self.window, self.count = int(num_tasks), int(window), 0
        self.weights = np.ones(self.num_tasks)
        self._rows, self._previous, self._history = [], None, []

    def step(self, val_losses):
        """Take the validation losses of one iteration; return the weights to use in it.

        Args:
            val_losses: ``(M,)``, >= 0; nan where a task was not measured.

        Returns:
            ``(M,)`` float64.

        Raises:
            ValueError: Another shape, a negative or an infinite loss.
        """
        losses = np.array(val_losses, np.float64)
        if losses.shape != (self.num_tasks,) or (losses < 0).any() or np.isinf(losses).any():
            raise ValueError(
                f"iteration {self.count + 1}: needs {self.num_tasks} finite losses >= 0 (nan: not "
                f"measured), got {losses.tolist()}; if they grow without bound, lower lr"
            )
        self._rows.append(losses)
        self.count += 1
        if self.count % self.window == 0:
            self._finish_window()
        return self.weights.copy()

    def _finish_window(self):
        current = _mean_of_known(np.array(self._rows))
        if self._previous is not None:
            current = np.where(np.isnan(current), self._previous, current)
            self.weights = update_weights(current, self._previous)
        self._previous, self._rows = current, []
        self._history.append((self.count, self.weights, current))

    def history(self):
        """Return ``iterations (U,)``, ``weights (U, M)`` and mean ``losses (U, M)`` of all windows.

        The weights are those that the end of the window led to; after the first they are 1.
        """
        iterations, weights, losses = zip(*self._history) if self._history else ((), (), ())
        shape = (-1, self.num_tasks)
        return {
            "iterations": np.array(iterations, np.int64),
            "weights": np.array(weights, np.float64).reshape(shape),
            "losses": np.array(losses, np.float64).reshape(shape),
        }

    def state(self):
        """Return everything needed to continue, as NumPy arrays."""
        state = {f"history_{name}": array for name, array in self.history().items()}
        nothing = np.full(self.num_tasks, np.nan)
        state.update(
            count=np.array(self.count, np.int64), weights=self.weights.copy(),
            previous=nothing if self._previous is None else self._previous.copy(),
            rows=np.array(self._rows, np.float64).reshape(-1, self.num_tasks),
        )  # fmt: skip
        return state

    def load_state(self, state):
        """Continue from what :meth:`state` returned.

        Raises:
            ValueError: It belongs to other tasks or to another window.
        """
        count, rows = int(state["count"]), np.asarray(state["rows"])
        if state["weights"].shape != (self.num_tasks,) or len(rows) != count % self.window:
            raise ValueError(
                f"a state of {len(state['weights'])} tasks with {len(rows)} of {count} iterations "
                f"in its window does not fit {self.num_tasks} tasks and window {self.window}"
            )
        self.count, self.weights = count, np.array(state["weights"], np.float64)
        self._rows = [np.array(row, np.float64) for row in rows]
        self._previous = None if count < self.window else np.array(state["previous"], np.float64)
        parts = (state[f"history_{n}"] for n in ("iterations", "weights", "losses"))
        self._history = [(int(i), np.array(w), np.array(x)) for i, w, x in zip(*parts)]


def update_weights(current, previous):
    """Return the new weights, ``(M,)`` with mean 1 (Algorithm 2).

    Args:
        current: ``(M,)`` mean validation losses of the last k iterations.
        previous: The same of the k iterations before. Tasks that are nan in either get weight 1.
    """
    known = ~(np.isnan(current) | np.isnan(previous))
    weights = np.ones(len(current))
    if not known.any():
        return weights
    loss = np.maximum(current[known], EPS)
    trend = np.maximum(np.abs(current[known] - previous[known]) / loss, EPS)
    product = (trend / trend.mean()) * (loss / loss.mean())
    weights[known] = product / product.mean()
    return weights


def _mean_of_known(rows):
    """Return the mean of each column over its defined values, nan if there are none."""
    known = ~np.isnan(rows)
    count = known.sum(axis=0)
    total = np.where(known, rows, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(rows.shape[1], np.nan), where=count > 0)


class TaskWeights:
    """The weights during training: measures validation losses, holds lambda on every device.

    Losses stay on the devices; they are read once per window, in the iteration that needs them.

    Args:
        method: The method that trains: its net, devices and task.
        window: k.
        error: Function ``(F, logits, label) -> (B, A)``, the loss whose trend is followed.
        no_class: ``'ignore'`` or ``'negative'``: what a multi-class attribute of which no class is
            positive ("no colour") does in training and in the validation loss.

    Raises:
        ValueError: A bad setting.
    """

    def __init__(self, method, window, error=squared_error, no_class="ignore"):
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
        self._view, self._pending = None, []
        self._place()

    def _place(self):
        columns = self.trend.weights.astype(np.float32) @ self.schema.membership()
        self._weights = {c: mx.nd.array(columns, ctx=c) for c in self.ctx}

    def weight(self, ctx):
        """Return the weight of every output, ``(A,)`` NDArray on ``ctx``."""
        return self._weights[ctx]

    def mask(self, batch):
        """Return the mask of a Batch, 0 also where ``no_class`` says ignore."""
        ctx = batch.label.context
        if not self._always:
            return batch.mask
        positive = mx.nd.dot(batch.label * batch.mask, self._members[ctx], transpose_b=True) > 0
        kept = mx.nd.broadcast_maximum(positive, self._always[ctx].expand_dims(0))
        return batch.mask * mx.nd.dot(kept, self._members[ctx])

    def observe(self, parts):
        """Measure the validation losses of this iteration, and update the weights if it is time.

        Args:
            parts: Batches, one per device. They run as in training, with dropout, but with
                batch-norm on its running statistics.
        """
        self._view = self._view or self._method.frozen_view()
        total = 0
        for part in parts:
            logits = self._method.named(self._view(part.image))["logits"]
            mask, members = self.mask(part), self._members[part.label.context]
            error = self._error(mx.nd, logits, part.label) * mask
            sums = mx.nd.stack(error.sum(axis=0), mask.sum(axis=0))
            total = mx.nd.dot(sums, members, transpose_b=True).as_in_context(self.ctx[0]) + total
        self._pending.append(total)
        self._images = sum(len(part.index) for part in parts)
        if (self.trend.count + len(self._pending)) % self.trend.window == 0:
            self.read()
            self._place()

    def read(self):
        """Take the losses that are still on the device over into the trend; this waits."""
        if not self._pending:
            return
        found = mx.nd.stack(*self._pending).asnumpy().astype(np.float64)
        self._pending = []
        for sums, known in found:
            # The sum over the images, averaged over an attribute's outputs; where labels are
            # unspecified, scaled to what all images would give.
            mean = np.divide(sums, known, out=np.full(len(sums), np.nan), where=known > 0)
            self.trend.step(mean * self._images)

    def report(self):
        """Return weights, losses of the last window, and iterations, for the log."""
        self.read()
        history, names = self.trend.history(), self.schema.names
        record = {
            "iterations": self.trend.count,
            "task_weights": dict(zip(names, self.trend.weights.tolist())),
        }
        if len(history["losses"]):
            record["task_losses"] = dict(zip(names, history["losses"][-1].tolist()))
        text = ", ".join(f"{name} {w:.2f}" for name, w in record["task_weights"].items())
        logger.info("weights after iteration %d: %s", self.trend.count, text)
        return record

    def history(self):
        """Return :meth:`ValidationLossTrend.history` with the attribute ``names``."""
        return dict(self.trend.history(), names=self.schema.names)

    def state(self):
        """Return everything needed to continue, as NumPy arrays."""
        self.read()
        return {f"trend_{name}": array for name, array in self.trend.state().items()}

    def load_state(self, state):
        """Continue from what :meth:`state` returned."""
        own = {n[len("trend_") :]: a for n, a in state.items() if n.startswith("trend_")}
        self.trend.load_state(own)
        self._pending = []
        self._place()


class WeightedMethod(Method):
    """What the methods with adaptive weights share; ``self.tasks`` is their TaskWeights."""

    def frozen_view(self) -> gluon.SymbolBlock:
        """Return the net with batch-norm on its running statistics, in the precision of a step."""
        return self.precision.install(frozen_view(self.net))

    @property
    def held_out_size(self):
        """Validation images per step: ``val_batch_size``, or 0 with fixed weights."""
        return self.options["val_batch_size"] if self.options["adaptive"] else 0

    def before_step(self, held_out):
        """Update the weights from validation images."""
        self.tasks.observe(held_out)

    def report(self):
        """Return the weights and validation losses."""
        return self.tasks.report() if self.options["adaptive"] else {}

    def task_history(self):
        """Return the history of the weights, or None if they are fixed."""
        return self.tasks.history() if self.options["adaptive"] else None

    def state(self):
        """Return the state of the weights beside that of the method they are added to."""
        return dict(super().state(), **(self.tasks.state() if self.options["adaptive"] else {}))

    def load_state(self, state):
        """Take over what :meth:`state` returned."""
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

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name, lowest in (("val_batch_size", 1), ("fc_bias_lr", 0)):
            if self.options[name] < lowest:
                raise ValueError(f"{name}={self.options[name]}: must be >= {lowest}")
        self.tasks = TaskWeights(self, self.options["window"], no_class=self.options["no_class"])
        self._heads = self._trained_heads()
        self._net = self.frozen_view() if self.options["freeze_batch_norm"] else self.net
        self._loss = WeightedSquaredLoss()
        self._loss.hybridize()

    def _trained_heads(self):
        """Return ``{name of the loss: name of the output}``."""
        choice = self.options["heads"]
        if choice not in ("prediction", "each"):
            raise ValueError(f"heads={choice!r}: valid are prediction, each")
        names = getattr(self.net, "output_names", ())
        several = [name for name in names if name.startswith("logits_")]
        if choice == "each" and several:
            return {f"squared_{name[len('logits_') :]}": name for name in several}
        return {"squared": "logits"}

    def begin_phase(self, phase):
        """Train everything; the classifier's bias has its own rate and no decay."""
        super().begin_phase(phase)
        classifier = getattr(getattr(self.net, "backbone", self.net), "output", None)
        if getattr(classifier, "bias", None) is not None:
            classifier.bias.lr_mult, classifier.bias.wd_mult = self.options["fc_bias_lr"], 0.0

    def forward(self, image):
        """Return the named outputs, with frozen or with learning batch-norm statistics."""
        return self.named(self._net(image))

    def losses(self, outputs, batch):
        """Return the weighted squared error of every head that is trained, each ``(B,)``."""
        weight, mask = self.tasks.weight(batch.label.context), self.tasks.mask(batch)
        return {
            loss: self._loss(outputs[name], batch.label, mask, weight)
            for loss, name in self._heads.items()
        }
