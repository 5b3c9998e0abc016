"""What the training loop knows about a paper; ``papers`` implement one :class:`Method` each.

Most only say what their losses are (:meth:`Method.losses`). Those that alternate between several
objectives override :meth:`Method.train_step`.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, Mapping, NamedTuple, Sequence

import mxnet as mx
import numpy.typing as npt
from mxnet import autograd, gluon

from gluon_attn.amp import MixedPrecision
from gluon_attn.core.batch import Batch
from gluon_attn.core.registry import Registry, unknown_name
from gluon_attn.core.schema import Schema
from gluon_attn.workers import SharedTrainer, current

METHODS = Registry("method")

Array = npt.NDArray[Any]
Outputs = Dict[str, Any]  # NDArrays by name
State = Dict[str, Array]


class Task(NamedTuple):
    """What a method may know about the training data; sample ids are 0 … num_samples - 1.

    ``names`` are in the order of the logits, ``prior (A,)`` is the positive fraction of each in the
    training set, and ``schema`` that of the columns; None: every name is a binary attribute.
    """

    names: Sequence[str]
    num_samples: int
    prior: Any
    schema: Schema | None = None


class Optimization(NamedTuple):
    """How parameters are updated.

    Attributes:
        params: Arguments of the MXNet optimiser (momentum, wd, …), without the learning rate.
        accumulate: Micro-batches per batch on each device. Their gradients add up before the one
            update, so memory falls and, but for batch-norm statistics, nothing else changes.
        amp: Precision of the net inside a step, see :mod:`gluon_attn.amp`. With ``float16`` losses
            are scaled, and every step reads one flag back from the device.
    """

    optimizer: str = "sgd"
    params: Mapping[str, Any] = {}
    accumulate: int = 1
    amp: str = "none"


class Method:
    """A net, its losses, its optimiser and whatever state they need.

    A batch is split evenly over the contexts ``ctx``; ``net.output_names[0]`` is ``'logits'``.
    ``options`` are values for names in ``OPTIONS``, which holds all of a method's own settings with
    their defaults.

    Attributes:
        workers: The group that trains together; each has its share of every batch, gradients add
            up, and what one alone has seen it must tell the others by the end of an epoch.
        precision: :class:`gluon_attn.amp.MixedPrecision` of the steps. Blocks that a step calls
            and that are no part of the net, such as views of it, must be installed there, too.
    """

    OPTIONS: dict[str, Any] = {}
    FLOAT32_ONLY = ""  # why the method has no mixed precision; empty: it has

    def __init__(
        self, net: gluon.HybridBlock, ctx: Iterable[mx.Context], task: Task,
        optimization: Optimization, *, options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        for name, value in (options or {}).items():
            _check_option(type(self), name, value)
        self.net, self.ctx, self.task, self.optimization = net, list(ctx), task, optimization
        self.options: dict[str, Any] = {**self.OPTIONS, **(options or {})}
        if optimization.amp != "none" and self.FLOAT32_ONLY:
            raise ValueError(
                f"{type(self).__name__} trains in float32 only, {self.FLOAT32_ONLY}; use amp=none"
            )
        self.precision = MixedPrecision(optimization.amp, self.ctx)
        self.precision.install(net)
        self.workers = current()
        self.trainers: dict[str, gluon.Trainer] = {}
        self.epoch = 0
        self.phase: Any = None  # name of the phase; None before the first epoch

    # -- what a paper overrides ----------------------------------------------------------------
    def phase_of(self, epoch: int) -> str:
        """Return the name of the phase that ``epoch`` (from 0) belongs to."""
        return "joint"

    def is_complete(self, epoch: int) -> bool:
        """Tell whether no loss of the method waits for a later epoch than ``epoch`` (from 0)."""
        return True

    def begin_phase(self, phase: str) -> None:
        """Choose what is trained in ``phase`` and create its trainer if there is none yet."""
        self.train_parameters(phase, self.net.collect_params())

    def forward(self, image: mx.nd.NDArray) -> Outputs:
        """Return the named outputs of the net for one device's share of a batch."""
        return self.named(self.net(image))

    def losses(self, outputs: Outputs, batch: Batch) -> Outputs:
        """Return ``{name: (B,) NDArray}``; their sum is minimised."""
        raise NotImplementedError

    @property
    def held_out_size(self) -> int:
        """Validation images that the method wants to see before every step; 0 for none."""
        return 0

    def before_step(self, held_out: list[Batch]) -> None:
        """Look at ``held_out_size`` validation images, one Batch per device; not recorded."""

    def after_step(self, outputs: Outputs, batch: Batch) -> None:
        """Update the method's own state from one device's share of a finished batch."""

    def end_epoch(self) -> None:
        """Update the method's own state at the end of an epoch; merge that of all workers."""

    def report(self) -> dict[str, Any]:
        """Return what the log record of the epoch says beyond losses and scores, JSON-able.

        All workers call it once an epoch, behind :meth:`end_epoch`.
        """
        return {}

    def task_history(self) -> dict[str, Any] | None:
        """Return how the weights of the tasks went: ``names`` (M), ``iterations`` ``(U,)``,
        ``weights`` and ``losses`` ``(U, M)``; None if the method has no such weights.
        """
        return None

    def state(self) -> State:
        """Return the method's own state as NumPy arrays, the same on all workers."""
        return {}

    def load_state(self, state: State) -> None:
        """Take over what :meth:`state` returned."""

    # -- what the training loop calls ----------------------------------------------------------
    def begin_epoch(self, epoch: int) -> None:
        """Prepare ``epoch`` (from 0): switch the phase if it changes."""
        self.epoch = epoch
        phase = self.phase_of(epoch)
        if phase != self.phase:
            self.begin_phase(phase)
            self.phase = phase

    @property
    def trainer(self) -> gluon.Trainer:
        """The trainer of the current phase."""
        return self.trainers[self.phase]

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of the current phase."""
        self.trainer.set_learning_rate(lr)

    def check_at_least(self, **lowest: float) -> None:
        """Refuse options that are below their lowest values."""
        for name, value in lowest.items():
            if self.options[name] < value:
                raise ValueError(f"{name}={self.options[name]}: must be >= {value}")

    def check_choices(self, choices: Mapping[str, Sequence[str]], what: str = "") -> None:
        """Refuse options that are none of their valid values; ``what`` precedes their names."""
        for name, valid in choices.items():
            if self.options[name] not in valid:
                raise ValueError(unknown_name(what + name, self.options[name], valid))

    def named(self, outputs: Any) -> Outputs:
        """Return what the net returned as a dict by ``net.output_names``."""
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return dict(zip(getattr(self.net, "output_names", ("logits",)), outputs))

    def train_step(self, batch: Batch, held_out: Batch | None = None) -> Outputs:
        """Make one update from ``batch`` without waiting for any device.

        ``held_out`` are ``held_out_size`` validation images, for :meth:`before_step`. Returns
        ``{name: NDArray (1,)}``: every loss summed over the batch, and ``'loss'``, their total.
        """
        with self.precision:
            return self._train_step(batch, held_out)

    def _train_step(self, batch: Batch, held_out: Batch | None) -> Outputs:
        if held_out is not None:
            with autograd.pause(train_mode=True):
                self.before_step(split_batch(held_out, self.ctx))
        micro, scaler = self.optimization.accumulate, self.precision.scaler
        parts = split_batch(batch, self.ctx, micro)
        if micro > 1:
            self.net.collect_params().zero_grad()
        finished = []
        for step in range(micro):
            finished += self.differentiate(parts[step::micro])
        (scaler.step if scaler else gluon.Trainer.step)(self.trainer, self.rows(batch))
        with autograd.pause():
            totals: dict[str, list[mx.nd.NDArray]] = {}
            for outputs, losses, part in finished:
                self.after_step(outputs, part)
                for name, value in losses.items():
                    totals.setdefault(name, []).append(value.sum().as_in_context(self.ctx[0]))
            return {name: sum_of(values) for name, values in totals.items()}

    def rows(self, batch: Batch) -> int:
        """Return :meth:`gluon_attn.workers.Workers.rows` of this method's group."""
        return self.workers.rows(batch)

    def differentiate(self, parts: list[Batch]) -> list[tuple[Outputs, Outputs, Batch]]:
        """Make the gradients of one part per device; return outputs and losses, ``loss`` too."""
        found, scaled, scaler = [], [], self.precision.scaler
        with autograd.record():
            for part in parts:
                outputs = self.forward(part.image)
                losses = self.losses(outputs, part)
                total = sum_of(losses.values())
                scaled.append(total * scaler.scale if scaler else total)
                found.append((outputs, dict(losses, loss=total), part))
        autograd.backward(scaled)
        return found

    def train_parameters(self, phase: str, parameters: gluon.ParameterDict) -> None:
        """Let only ``parameters`` receive gradients, and give them a trainer.

        Each phase has its own, so momentum starts from 0 when what is trained changes.
        """
        write = "add" if self.optimization.accumulate > 1 else "write"
        chosen = set(parameters.keys())
        for name, parameter in self.net.collect_params().items():
            parameter.grad_req = write if name in chosen else "null"
        if phase not in self.trainers:
            optimizer, settings = self.optimization.optimizer, self.optimization.params
            self.trainers[phase] = self.new_trainer(parameters, optimizer, settings)

    def new_trainer(
        self, parameters: gluon.ParameterDict, optimizer: str, settings: Mapping[str, Any]
    ) -> gluon.Trainer:
        """Return a trainer that adds gradients up over all devices and workers."""
        if self.workers.size > 1:
            return SharedTrainer(parameters, optimizer, dict(settings))
        several = {"kvstore": "device", "update_on_kvstore": False} if len(self.ctx) > 1 else {}
        return gluon.Trainer(parameters, optimizer, dict(settings), **{"kvstore": None, **several})


def _check_option(method: type[Method], name: str, value: Any) -> None:
    """Refuse an unknown option, or a value of another type than its default's."""
    if name not in method.OPTIONS:
        raise ValueError(unknown_name(f"{method.__name__} option", name, method.OPTIONS))
    wanted = type(method.OPTIONS[name])
    fits = isinstance(value, (int, float) if wanted is float else wanted)
    if not fits or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"{method.__name__} option {name} must be {wanted.__name__}: {value!r}")


def split_batch(batch: Batch, ctx: Sequence[mx.Context], micro: int = 1) -> list[Batch]:
    """Return ``len(ctx) * micro`` batches, device by device, of near-equal size."""
    count = len(ctx) * micro
    rows = len(batch.index)
    if rows < count:
        raise ValueError(
            f"a batch of {rows} cannot be split over {len(ctx)} device(s) x {micro} micro-batches"
        )
    edges = [rows * k // count for k in range(count + 1)]
    parts = []
    for k in range(count):
        device, cut = ctx[k // micro], slice(edges[k], edges[k + 1])
        image, label, mask = (a[cut].as_in_context(device) for a in batch[:3])
        parts.append(Batch(image, label, mask, batch.index[cut]))
    return parts


def sum_of(arrays: Iterable[mx.nd.NDArray]) -> mx.nd.NDArray:
    """Return the sum of a non-empty sequence of arrays of one shape."""
    total, *rest = arrays
    for array in rest:
        total = total + array
    return total
