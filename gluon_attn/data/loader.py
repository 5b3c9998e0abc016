"""Batches from a data set: shuffled, augmented, in parallel, and the same every time.

The order of an epoch depends on (seed, epoch) only, a sample's augmentation on (seed, epoch,
position) only. So results do not depend on the number of workers, and a resumed epoch repeats.

Workers are threads, each making whole batches: OpenCV and NumPy let go of Python's lock while they
work. ``gluon.data.DataLoader`` is not used because its forked workers repeat each other's random
draws, and because it waits for all of the engine's work at construction and leaves its threads
behind when a loop is left early.
"""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import cv2
import mxnet as mx
import numpy as np

from gluon_attn.core.batch import PADDING, Batch
from gluon_attn.data.cache import CachedDataset

LAST = ("pad", "discard")


class Loader:
    """Iterates over a data set in batches of constant size.

    Iterating yields :class:`gluon_attn.core.batch.Batch`: image ``(B, 3, S, S)`` float32, label
    and mask
    ``(B, A)`` float32, on ``ctx``; index ``(B,)`` int64 NumPy. Every iteration runs one epoch, the
    one set by :meth:`set_epoch`.

    Args:
        dataset: AttributeDataset.
        transform: TrainTransform or EvalTransform.
        batch_size: B.
        shuffle: Whether each epoch has its own random order.
        seed: Non-negative integer from which order and augmentation are derived.
        workers: Threads that make batches ahead; 0 makes them in the caller's thread.
        last: What happens to samples that do not fill the last batch: 'pad' adds black rows with
            mask 0 and index ``PADDING`` (the shape stays, so a static graph is not planned anew);
            'discard' leaves them out, as training wants it.
        ctx: Where the arrays of a batch live.
        cache: Whether to keep decoded pictures in memory; see :class:`CachedDataset`.

    Raises:
        ValueError: If an argument is out of range or there would be no batch.
    """

    def __init__(
        self,
        dataset,
        transform,
        batch_size,
        shuffle=False,
        seed=0,
        workers=0,
        last="pad",
        ctx=None,
        cache=False,
    ):
        if last not in LAST:
            raise ValueError(f"last={last!r}: valid are {', '.join(LAST)}")
        if batch_size < 1 or seed < 0 or workers < 0:
            raise ValueError(
                f"batch_size={batch_size} must be positive, seed={seed} and workers={workers} "
                "must not be negative"
            )
        if last == "discard" and len(dataset) < batch_size:
            raise ValueError(
                f"{len(dataset)} samples do not fill one batch of {batch_size}; use a smaller "
                "batch or last='pad'"
            )
        self.dataset = CachedDataset(dataset, transform.resize) if cache else dataset
        self.transform, self.batch_size = transform, int(batch_size)
        self.shuffle, self.seed, self.workers, self.last = shuffle, int(seed), int(workers), last
        self.ctx = mx.cpu() if ctx is None else ctx
        self.epoch, self.start = 0, 0
        # A packed picture has the transform's size, so that only the crop needs decoding.
        self._windows = hasattr(self.dataset, "get_window") and dataset.size == transform.resize
        self._buffers = BufferPool((self.batch_size, 3, transform.size, transform.size))

    def set_epoch(self, epoch, start=0):
        """Choose which epoch the next iteration is, and with which of its batches it begins."""
        if epoch < 0 or not 0 <= start <= len(self):
            raise ValueError(f"epoch={epoch}, start={start}: an epoch has {len(self)} batches")
        self.epoch, self.start = int(epoch), int(start)

    def __len__(self):
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (self.last == "pad" and rest > 0)

    def order(self, epoch):
        """Return the positions of all samples in the order of an epoch, ``(N,)`` int64."""
        if not self.shuffle:
            return np.arange(len(self.dataset))
        return np.random.default_rng((self.seed, epoch, 0)).permutation(len(self.dataset))

    def draws(self, epoch):
        """Return the random numbers of an epoch's augmentation, one row per position."""
        shape = (len(self.dataset), self.transform.draws)
        return np.random.default_rng((self.seed, epoch, 1)).random(shape)

    def __iter__(self):
        order, draws, size = self.order(self.epoch), self.draws(self.epoch), self.batch_size
        starts = range(self.start * size, len(self) * size, size)
        jobs = ((order[k : k + size], draws) for k in starts)
        for batch in self._ahead(jobs) if self.workers else (self._make(*job) for job in jobs):
            if self.ctx != mx.cpu():
                batch = Batch(*(a.as_in_context(self.ctx) for a in batch[:3]), batch.index)
            yield batch

    def _ahead(self, jobs):
        """Yield the batches of ``jobs`` in order, up to two per worker being made ahead."""
        cv2.setNumThreads(0)  # the threads here are the parallelism; OpenCV's own would fight them
        pool = ThreadPoolExecutor(self.workers, "loader", _give_way)
        pending = collections.deque()
        try:
            for job in jobs:
                pending.append(pool.submit(self._make, *job))
                if len(pending) > 2 * self.workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # at the end, after an error, and when the caller leaves its loop
            for future in pending:
                future.cancel()
            pool.shutdown()

    def _make(self, indices, draws):
        """Return the Batch of some samples, on the CPU."""
        count, attributes = len(indices), self.dataset.label.shape[1]
        images = self._buffers.take()
        labels, masks = (np.zeros((self.batch_size, attributes), np.float32) for _ in range(2))
        index = np.full(self.batch_size, PADDING, np.int64)
        index[:count] = indices
        images[count:] = 0
        # Python numbers and few steps per picture: this part holds the lock that threads share.
        for row, (i, random) in enumerate(zip(indices.tolist(), draws[indices].tolist())):
            if self._windows:
                sample = self.dataset.get_window(i, self.transform.window(random))
            else:
                sample = self.dataset[i][:3] + (None,)
            image, labels[row], masks[row], corner = sample
            self.transform(image, random, images[row], corner)
        return Batch(self._buffers.wrap(images), *map(mx.nd.from_numpy, (labels, masks)), index)


class BufferPool:
    """Memory that batches are made in, lent to MXNet without a copy and used again.

    Touching 19 MB of fresh memory and copying them once takes as long as decoding half of the
    pictures that go there (4 KB pages, each zeroed by the kernel at its first use).

    MXNet holds a reference to the NumPy array that it was lent until no NDArray, view or pending
    operation uses the memory; when that reference goes, the memory comes back here.

    Args:
        shape: Of every buffer, float32.
    """

    def __init__(self, shape):
        self._shape = shape
        self._free = collections.deque()  # its append and pop are atomic

    def take(self):
        """Return a float32 array with arbitrary contents."""
        try:
            return self._free.pop()
        except IndexError:
            return np.empty(self._shape, np.float32)

    def wrap(self, buffer):
        """Return an NDArray over a buffer; it must not be written to from now on."""
        lent = buffer.view()
        weakref.finalize(lent, self._free.append, buffer).atexit = False
        return mx.nd.from_numpy(lent)


def _give_way():
    """Let compute threads go first: OpenMP's wait for each other, so one that is held up holds all.

    Only Linux has a priority per thread; elsewhere, or where it is not allowed, nothing happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
