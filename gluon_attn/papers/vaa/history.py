"""Prediction history and the weights it gives to samples whose predictions waver.

Deep Imbalanced Attribute Classification using Visual Attention Aggregation, Sarafianos, Xu,
Kakadiaris, ECCV 2018: the loss of an attention module is (1 + std_s(H)) times cross-entropy, where

    std_s(H) = sqrt( var(p_H) + var(p_H)^2 / (|H| - 1) )

is taken per sample and attribute over the probabilities p_H of the last ``|H|`` epochs. var divides
by ``|H|``, as the authors' code does.

Deviations from the released code: rows are found by sample id, so the data may be shuffled (that
code indexes by batch position and must not shuffle), and only rows that were filled count (that
code includes the zeros its buffer starts with).
"""

from __future__ import annotations

from typing import Any, Sequence, Union

import mxnet as mx
import numpy as np

from gluon_attn.method import Array, State
from gluon_attn.workers import Workers

Index = Union[Sequence[int], Array, Any]  # or an NDArray


class PredictionHistory:
    """The last ``length`` predicted probabilities of every training sample, ids from 0.

    Lives on one device so that neither writing nor reading waits for the host. Memory there is
    ``4 * length * num_samples * num_attributes`` bytes (8 MB for WIDER-Attribute's 28,340 x 14
    at length 5), plus 4 bytes a sample on the host.
    """

    def __init__(
        self, num_samples: int, num_attributes: int, length: int = 5,
        ctx: mx.Context | None = None,
    ) -> None:  # fmt: skip
        if num_samples < 1 or num_attributes < 1 or length < 2:
            raise ValueError(
                "PredictionHistory needs num_samples >= 1, num_attributes >= 1 and length >= 2, "
                f"got {num_samples}, {num_attributes}, {length}"
            )
        self.num_samples, self.num_attributes, self.length = num_samples, num_attributes, length
        self.ctx = ctx or mx.cpu()
        self._rows = mx.nd.zeros((length * num_samples, num_attributes), ctx=self.ctx)
        self._count = np.zeros(num_samples, dtype=np.int32)  # predictions seen, ever, per sample
        self._shared = self._count.copy()  # of them, those that all workers know

    @property
    def nbytes(self) -> int:
        """Bytes that the history holds on its device."""
        return 4 * self.length * self.num_samples * self.num_attributes

    def update(self, index: Index, probs: Any) -> None:
        """Store one new prediction ``(B, A)`` for each sample of a batch, dropping its oldest.

        Negative ids (padding rows) are ignored. An id may appear once in a batch.
        """
        index = self._checked(index)
        if tuple(probs.shape) != (len(index), self.num_attributes):
            raise ValueError(
                f"probs must be {(len(index), self.num_attributes)}, got {tuple(probs.shape)}"
            )
        if not isinstance(probs, mx.nd.NDArray):
            probs = mx.nd.array(probs, dtype="float32")
        kept = np.flatnonzero(index >= 0)
        if len(kept) == 0:  # nothing but padding, of which `take` makes no array
            return
        if len(kept) < len(index):
            probs = probs.take(_on_device(kept, probs.context))
            index = index[kept]
        if len(np.unique(index)) < len(index):
            raise ValueError("PredictionHistory.update: a sample id appears twice in the batch")
        slot = self._count[index] % self.length
        rows = _on_device(slot * self.num_samples + index, self.ctx)
        self._rows[rows] = probs.astype("float32").as_in_context(self.ctx)
        self._count[index] += 1

    def std(self, index: Index) -> mx.nd.NDArray:
        """Return std_s(H) of each sample of a batch, ``(B, A)`` float32 NDArray.

        0 where fewer than two predictions are known (and for padding rows), so that the weight
        1 + std is 1 there.
        """
        index = self._checked(index)
        safe = np.maximum(index, 0)
        filled = np.minimum(self._count[safe], self.length) * (index >= 0)
        slots = np.arange(self.length)[:, None]
        rows = _on_device(slots * self.num_samples + safe, self.ctx)
        known = _on_device((slots < filled)[..., None].astype(np.float32), self.ctx)
        n = _on_device(np.maximum(filled, 1)[:, None].astype(np.float32), self.ctx)
        p = self._rows.take(rows)  # (length, B, A)
        mean = (p * known).sum(axis=0) / n
        var = (mx.nd.square(p - mean.expand_dims(0)) * known).sum(axis=0) / n
        return mx.nd.sqrt(var + mx.nd.square(var) / mx.nd.maximum(n - 1, 1))

    def share(self, workers: Workers) -> None:
        """Take over what the other workers have stored since the last call, and tell them.

        The worker that sees a sample in an epoch owns its row. One that several have seen, as in an
        epoch longer than a pass, counts once, with the mean.
        """
        if workers.size > 1:
            mine = (self._count > self._shared).astype(np.float32)
            rows = self._rows.asnumpy().reshape(self.length, self.num_samples, -1)
            parts = (np.moveaxis(rows, 1, 0), self._count)
            merged, count = workers.merge("history", parts, mine)
            self._rows[:] = mx.nd.array(np.moveaxis(merged, 0, 1).reshape(self._rows.shape))
            self._count[:] = count
        self._shared = self._count.copy()

    def state(self) -> State:
        return {"rows": self._rows.asnumpy(), "count": self._count.copy()}

    def load_state(self, state: State) -> None:
        if state["rows"].shape != self._rows.shape or state["count"].shape != self._count.shape:
            raise ValueError(
                f"prediction history of shape {state['rows'].shape} does not fit this run's "
                f"{self._rows.shape} (length x samples, attributes): other data or other length"
            )
        self._rows[:] = mx.nd.array(state["rows"], ctx=self.ctx)
        self._count[:] = state["count"]
        self._shared = self._count.copy()

    def _checked(self, index: Index) -> Array:
        if isinstance(index, mx.nd.NDArray):
            index = index.asnumpy()
        index = np.asarray(index).astype(np.int64).reshape(-1)
        if len(index) and index.max() >= self.num_samples:
            raise ValueError(f"sample id {index.max()}: valid are 0 … {self.num_samples - 1}")
        return index


def _on_device(array: Array, ctx: mx.Context) -> mx.nd.NDArray:
    """Return a NumPy array as an NDArray without waiting for anything.

    ``mx.nd.array`` waits until the CPU's queue of operations is empty, which would serialise
    training; ``from_numpy`` shares the memory instead. int64 indices become int32.
    """
    array = np.ascontiguousarray(array, np.int32 if array.dtype.kind == "i" else array.dtype)
    return mx.nd.from_numpy(array).as_in_context(ctx)
