"""What the training loop knows about a paper.

``engine`` calls a :class:`Method`; ``papers`` implement one each. Neither imports the other.

Most papers only say what their losses are (:meth:`Method.losses`). Those that alternate between
several objectives override :meth:`Method.train_step`.
"""

from __future__ import annotations

from typing import NamedTuple

from mxnet import autograd, gluon

from gluon_attn.amp import MixedPrecision
from gluon_attn.core.batch import Batch
from gluon_attn.core.registry import Registry, unknown_name

METHODS = Registry("method")


class Task(NamedTuple):
    """What a method may know about the training data.

    Attributes:
        names: Attribute names, in the order of the logits.
        num_samples: Size of the training set; sample ids are 0 … num_samples - 1.
        prior: ``(A,)`` positive fraction of each attribute in the training set.
        schema: :class:`gluon_attn.core.schema.Schema` of the columns; None: every name is a binary
            attribute.
    """

    names: tuple
    num_samples: int
    prior: object
    schema: object = None


class Optimization(NamedTuple):
    """How parameters are updated.

    Attributes:
        optimizer: Name of an MXNet optimiser.
        params: Its arguments (momentum, wd, …), without the learning rate.
        accumulate: Micro-batches per batch on each device. Their gradients add up before the one
            update, so memory falls and, but for batch-norm statistics, nothing else changes.
        amp: Precision of the net inside a step, see :mod:`gluon_attn.amp`. With ``float16`` losses
            are scaled, and every step reads one flag back from the device.
    """

    optimizer: str = "sgd"
    params: dict = {}
    accumulate: int = 1
    amp: str = "none"


class Method:
    """A net, its losses, its optimiser and whatever state they need.

    Args:
        net: Initialised net on ``ctx``; ``net.output_names[0]`` is ``'logits'``.
        ctx: List of MXNet contexts; a batch is split evenly over them.
        task: What the method may know about the training data.
        optimization: How parameters are updated.
        options: Values for names in ``OPTIONS``, which holds all of a method's own settings with
            their defaults.

    Raises:
        ValueError: An option that the method does not have, or a precision that it or the device
            does not.

    Attributes:
        precision: :class:`gluon_attn.amp.MixedPrecision` of the steps. Blocks that a step calls
            and that are no part of the net, such as views of it, must be installed there, too.
    """

    OPTIONS = {}
    FLOAT32_ONLY = ""  # why the method has no mixed precision; empty: it has

    def __init__(self, net, ctx, task, optimization, options=None):
        for name, value in (options or {}).items():
            _check_option(type(self), name, value)
        self.net, self.ctx, self.task, self.optimization = net, list(ctx), task, optimization
        self.options = dict(self.OPTIONS, **(options or {}))
        if optimization.amp != "none" and self.FLOAT32_ONLY:
            raise ValueError(
                f"{type(self).__name__} trains in float32 only, {self.FLOAT32_ONLY}; use amp=none"
            )
        self.precision = MixedPrecision(optimization.amp, self.ctx)
        self.precision.install(net)
        self.trainers = {}
        self.epoch = 0
        self.phase = None

    # -- what a paper overrides ----------------------------------------------------------------
    def phase_of(self, epoch):
        """Return the name of the phase that ``epoch`` (from 0) belongs to."""
        return "joint"

    def begin_phase(self, phase):
        """Choose what is trained in ``phase`` and create its trainer if there is none yet."""
        self.train_parameters(phase, self.net.collect_params())

    def forward(self, image):
        """Return the named outputs of the net for one device's share of a batch."""
        return self.named(self.net(image))

    def losses(self, outputs, batch):
        """Return ``{name: (B,) NDArray}``; their sum is minimised."""
        raise NotImplementedError

    @property
    def held_out_size(self):
        """Validation images that the method wants to see before every step; 0 for none."""
        return 0

    def before_step(self, held_out):
        """Look at validation images before the update; nothing is recorded for gradients.

        Args:
            held_out: List of Batches, one per device; only if ``held_out_size`` is not 0.
        """

    def after_step(self, outputs, batch):
        """Update the method's own state from one device's share of a finished batch."""

    def end_epoch(self):
        """Update the method's own state at the end of an epoch."""

    def report(self):
        """Return what the log record of the epoch says beyond losses and scores, JSON-able."""
        return {}

    def task_history(self):
        """Return how the weights of the tasks went, or None if the method has no such weights.

        Returns:
            A dict: ``names`` (M), ``iterations`` ``(U,)``, ``weights`` and ``losses`` ``(U, M)``.
        """
        return None

    def state(self):
        """Return the method's own state as ``{name: NumPy array}``."""
        return {}

    def load_state(self, state):
        """Take over what :meth:`state` returned."""

    # -- what the engine calls -----------------------------------------------------------------
    def begin_epoch(self, epoch):
        """Prepare ``epoch`` (from 0): switch the phase if it changes."""
        self.epoch = epoch
        phase = self.phase_of(epoch)
        if phase != self.phase:
            self.begin_phase(phase)
            self.phase = phase

    @property
    def trainer(self):
        """The trainer of the current phase."""
        return self.trainers[self.phase]

    def set_learning_rate(self, lr):
        """Set the learning rate of the current phase."""
        self.trainer.set_learning_rate(lr)

    def named(self, outputs):
        """Return what the net returned as a dict by ``net.output_names``."""
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return dict(zip(getattr(self.net, "output_names", ("logits",)), outputs))

    def train_step(self, batch, held_out=None):
        """Make one update from ``batch`` without waiting for any device.

        Args:
            batch: Training images.
            held_out: Batch of ``held_out_size`` validation images, for :meth:`before_step`.

        Returns:
            ``{name: NDArray (1,)}``: every loss summed over the batch, and ``'loss'``, their total.
        """
        with self.precision:
            return self._train_step(batch, held_out)

    def _train_step(self, batch, held_out):
        if held_out is not None:
            with autograd.pause(train_mode=True):
                self.before_step(split_batch(held_out, self.ctx))
        micro, scaler = self.optimization.accumulate, self.precision.scaler
        parts = split_batch(batch, self.ctx, micro)
        if micro > 1:
            self.net.collect_params().zero_grad()
        totals, finished = {}, []
        for step in range(micro):
            scaled = []
            with autograd.record():
                for part in parts[step::micro]:
                    outputs = self.forward(part.image)
                    losses = self.losses(outputs, part)
                    total = sum_of(losses.values())
                    scaled.append(total * scaler.scale if scaler else total)
                    finished.append((outputs, part))
                    for name, value in dict(losses, loss=total).items():
                        totals.setdefault(name, []).append(value)
            autograd.backward(scaled)
        if scaler:
            scaler.step(self.trainer, len(batch.index))
        else:
            self.trainer.step(len(batch.index))
        with autograd.pause():
            for outputs, part in finished:
                self.after_step(outputs, part)
            return {n: sum_of([v.sum().as_in_context(self.ctx[0]) for v in vs])
                    for n, vs in totals.items()}  # fmt: skip

    def train_parameters(self, phase, parameters):
        """Let only ``parameters`` (a ParameterDict) receive gradients, and give them a trainer.

        Each phase has its own trainer, so momentum starts afresh when the set of trained
        parameters changes.
        """
        write = "add" if self.optimization.accumulate > 1 else "write"
        chosen = set(parameters.keys())
        for name, parameter in self.net.collect_params().items():
            parameter.grad_req = write if name in chosen else "null"
        if phase not in self.trainers:
            self.trainers[phase] = self._new_trainer(parameters)

    def _new_trainer(self, parameters):
        several = len(self.ctx) > 1
        return gluon.Trainer(
            parameters, self.optimization.optimizer, dict(self.optimization.params),
            kvstore="device" if several else None, update_on_kvstore=False if several else None,
        )  # fmt: skip


def _check_option(method, name, value):
    """Refuse an unknown option, or a value of another type than its default's."""
    if name not in method.OPTIONS:
        raise ValueError(unknown_name(f"{method.__name__} option", name, method.OPTIONS))
    wanted = type(method.OPTIONS[name])
    fits = isinstance(value, (int, float) if wanted is float else wanted)
    if not fits or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"{method.__name__} option {name} must be {wanted.__name__}: {value!r}")


def split_batch(batch, ctx, micro=1):
    """Return ``len(ctx) * micro`` batches, device by device, of near-equal size.

    Raises:
        ValueError: The batch has fewer rows than parts.
    """
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
        arrays = [a[cut].as_in_context(device) for a in (batch.image, batch.label, batch.mask)]
        parts.append(Batch(*arrays, batch.index[cut]))
    return parts


def sum_of(arrays):
    """Return the sum of a non-empty sequence of arrays of one shape."""
    arrays = list(arrays)
    total = arrays[0]
    for array in arrays[1:]:
        total = total + array
    return total
