"""The workers of a run on several machines, and what they tell one another.

MXNet's kvstore carries everything: the parameter server of the wheel (``dist_sync``,
``dist_device_sync``) or Horovod. A process belongs to one group at most, as it can have one
distributed kvstore at most (a second one hangs); :func:`current` is it, a group of one by default.

Every call below is collective: all workers make it, in the same order, with the same shapes.
"""

from __future__ import annotations

import os
from typing import Any, Sequence

import mxnet as mx
import numpy as np
import numpy.typing as npt

from gluon_attn.core.batch import Batch
from gluon_attn.core.registry import unknown_name

KINDS = ("dist_sync", "dist_device_sync", "horovod")
Array = npt.NDArray[Any]


class Workers:
    """``size`` workers, of which this one is number ``rank``; 0 writes files."""

    def __init__(self, kvstore: Any = None) -> None:
        self._kvstore = kvstore
        self.rank: int = 0 if kvstore is None else kvstore.rank
        self.size: int = 1 if kvstore is None else kvstore.num_workers
        self._known: set[str] = set()

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that writes."""
        return self.rank == 0

    def rows(self, batch: Batch) -> int:
        """Return the rows of the whole batch of which ``batch`` is this worker's share."""
        return len(batch.index) * self.size

    def add_up(self, name: str, arrays: Sequence[mx.nd.NDArray], priority: int = 0) -> None:
        """Replace the arrays, one per device, by their sum over devices and workers.

        Waits for nothing; ``name`` stays with one shape. Two workers get the sum that one process
        with two devices gets; of more, the order of adding, and so the last bit, may change.
        """
        if self._kvstore is None:
            return
        values = list(arrays)
        if name not in self._known:
            self._known.add(name)
            scratch = values[0].zeros_like()
            self._kvstore.broadcast(name, scratch, scratch)
        self._kvstore.pushpull(name, values, out=values, priority=priority)

    def total(self, name: str, values: Any) -> Array:
        """Return the sum of an array over the workers; float32 on the way if there are several."""
        values = np.asarray(values)
        if self.size == 1:
            return values
        array = mx.nd.array(values.reshape(-1), dtype=np.float32)
        self.add_up(f"{name} {values.shape}", [array])
        return array.asnumpy().reshape(values.shape).astype(values.dtype)

    def merge(self, name: str, arrays: Sequence[Array], mine: Array) -> list[Array]:
        """Return arrays whose rows are each from the worker that has it.

        ``mine (N,)`` is 1 for the rows of this worker, else 0. A row that several have becomes
        their mean; one that none has stays this worker's.
        """
        if self.size == 1:
            return list(arrays)
        owners, merged = self.total(f"{name} owners", mine), []
        for number, array in enumerate(arrays):
            rows = (slice(None), *[None] * (array.ndim - 1))
            own, found = np.where(mine[rows] > 0, array, 0), np.zeros_like(array)
            for part in range(1 + (array.dtype == np.float64)):  # two float32 hold a float64
                sent = own.astype(np.float32)
                found = found + self.total(f"{name} {number} {part}", sent)
                own = own - sent
            found = found / np.maximum(owners, 1)[rows]
            merged.append(np.where(owners[rows] > 0, found, array).astype(array.dtype))
        return merged

    def wait(self) -> None:
        """Return when all workers are here."""
        self.total("wait", np.zeros(1, np.float32))

    def check_equal(self, number: int, what: str) -> None:
        """Raise a ValueError, on all workers, unless all have the same small number."""
        found = np.zeros(self.size, np.float32)
        found[self.rank] = number
        found = self.total("equal", found)
        if (found != found[0]).any():
            told = ", ".join(f"worker {k}: {value:g}" for k, value in enumerate(found))
            raise ValueError(f"{what} differs ({told}); is the folder the same on all hosts?")

    def make_equal(self, net: Any) -> None:
        """Average the running statistics of a net over the workers.

        They take no part in the sums of gradients, and each worker has seen its own images. The
        mean of the variances leaves out how far the means are apart.
        """
        if self.size == 1:
            return
        mx.nd.waitall()  # running statistics read straight after a static step can be stale
        for name, parameter in net._collect_params_with_prefix().items():
            if not parameter._differentiable:
                array = parameter.data(parameter.list_ctx()[0]).copy()
                self.add_up(f"statistics {name}", [array])
                parameter.set_data(array / self.size)


class _Horovod:
    """Horovod with the two calls of a kvstore that are needed here."""

    def __init__(self) -> None:
        try:
            import horovod.mxnet as hvd
        except ImportError:
            raise ImportError(
                "--kvstore horovod needs Horovod: HOROVOD_WITH_MXNET=1 HOROVOD_WITH_GLOO=1 pip "
                "install --no-build-isolation horovod==0.28.1 (or use --kvstore dist_sync)"
            ) from None
        hvd.init()
        self._hvd, self.rank, self.num_workers = hvd, hvd.rank(), hvd.size()

    def broadcast(self, key: str, value: Any, out: Any) -> None:
        """Do nothing: Horovod's sums need no value to begin with."""

    def pushpull(self, key: str, value: list[Any], out: list[Any], priority: int = 0) -> None:
        total = value[0]
        for other in value[1:]:
            total += other.as_in_context(total.context)
        self._hvd.allreduce_(total, average=False, name=key, priority=priority)
        for array in out[1:]:
            total.copyto(array)


_current = Workers()
_kind: str | None = None


def current() -> Workers:
    """Return the group that this process belongs to."""
    return _current


def join(kind: str | None) -> Workers:
    """Join the group that this process was started in, once; wait until all have joined.

    ``kind`` is one of ``KINDS``; None leaves everything as it is. Raises a ValueError for a process
    that was not started as a worker, and an ImportError without Horovod.
    """
    global _current, _kind
    if kind is None or kind == _kind:
        return _current
    if kind not in KINDS:
        raise ValueError(unknown_name("kvstore", kind, KINDS))
    if _kind is not None:
        raise ValueError(f"kvstore={kind}: this process has joined as {_kind} already")
    if kind != "horovod" and os.environ.get("DMLC_ROLE") != "worker":
        raise ValueError(
            f"--kvstore {kind} needs a scheduler, servers and workers; start all of them with: "
            f"gluon-attn launch -n 2 -- train --kvstore {kind} …"
        )
    _current, _kind = Workers(_Horovod() if kind == "horovod" else mx.kv.create(kind)), kind
    return _current


class SharedTrainer(mx.gluon.Trainer):
    """A trainer whose gradients add up over the devices and workers of the group.

    Every worker then makes the same update; the servers only add.
    """

    def __init__(self, parameters: Any, *args: Any) -> None:
        super().__init__(parameters, *args, kvstore=None)
        self._workers = current()

    def _allreduce_grads(self) -> None:
        for number, parameter in enumerate(self._params):
            if parameter.grad_req != "null":
                gradients = parameter.list_grad()
                self._workers.add_up(f"gradient {parameter.name}", gradients, -number)
