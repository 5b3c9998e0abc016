"""Batches from a data set: shuffled, augmented, in parallel, and the same every time.

The order of an epoch depends on (seed, epoch) only, a sample's augmentation on (seed, epoch,
position) only. So results do not depend on the number of workers, and a resumed epoch repeats.

Workers are threads, each making whole batches: OpenCV and NumPy let go of Python's lock while they
work. The forked workers of ``gluon.data.DataLoader`` repeat each other's random draws; it also
waits for the engine at construction and leaves its threads behind when a loop is left early.

:class:`IdentityLoader` makes batches of P identities with K images each, as the batch-hard triplet
loss needs them (Hermans, Beyer, Leibe, "In Defense of the Triplet Loss for Person
Re-Identification", 2017). Here a pass visits every identity once, in random order; what does not
fill the last batch is left out of this pass. So identities count alike however many images they
have, and a pass is much shorter than one over all images: recipes count iterations.
"""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Iterable, Iterator, Tuple

import cv2
import mxnet as mx
import numpy as np

from gluon_attn.core.batch import PADDING, Batch
from gluon_attn.data.views import CachedDataset

LAST = ("pad", "discard")
Job = Tuple[np.ndarray, Any]  # positions of a batch, and random numbers by position


class Loader:
    """Iterates over a data set in batches of constant size.

    Iterating yields :class:`gluon_attn.core.batch.Batch`: image ``(B, 3, H, W)`` float32, label and
    mask ``(B, A)`` float32, on ``ctx``; index ``(B,)`` int64 NumPy. Every iteration runs one epoch,
    the one set by :meth:`set_epoch`. ValueError: there would be no batch.

    Args:
        dataset: AttributeDataset.
        transform: See :mod:`gluon_attn.data.transforms`.
        seed: Non-negative integer from which order and augmentation are derived.
        workers: Threads that make batches ahead; 0 makes them in the caller's thread.
        last: What happens to samples that do not fill the last batch: 'pad' adds black rows with
            mask 0 and index ``PADDING`` (the shape stays, so a static graph is not planned again);
            'discard' leaves them out, as training wants it.
        cache: Whether to keep decoded images in memory; see :class:`CachedDataset`.
    """

    def __init__(
        self,
        dataset: Any,
        transform: Any,
        batch_size: int,
        shuffle: bool = False,
        *,
        seed: int = 0,
        workers: int = 0,
        last: str = "pad",
        ctx: mx.Context | None = None,
        cache: bool = False,
    ) -> None:
        if last not in LAST:
            raise ValueError(f"last={last!r}: valid are {', '.join(LAST)}")
        if batch_size < 1 or seed < 0 or workers < 0:
            raise ValueError(
                f"batch_size={batch_size} must be positive, seed={seed} and workers={workers} "
                "must not be negative"
            )
        if last == "discard" and len(dataset) < batch_size:
            found = f"{len(dataset)} samples do not fill one batch of {batch_size}"
            raise ValueError(
                f"{found}; use a smaller batch_size (a loader of your own: last='pad')"
            )
        self.dataset: Any = CachedDataset(dataset, transform.resize) if cache else dataset
        self.transform, self.batch_size = transform, int(batch_size)
        self.shuffle, self.seed, self.workers, self.last = shuffle, int(seed), int(workers), last
        self.ctx = mx.cpu() if ctx is None else ctx
        self.epoch, self.start = 0, 0
        # A packed image has the transform's size, so that only the crop needs decoding.
        self._windows = hasattr(self.dataset, "get_window") and dataset.size == transform.resize
        self.set_share(0, 1)

    def set_share(self, number: int, count: int) -> None:
        """Make only the rows of every batch that are share ``number`` of ``count``, from 0.

        Orders and random numbers stay those of the whole batch, whatever ``count`` is.
        """
        first, end = (self.batch_size * k // count for k in (number, number + 1))
        if not 0 <= first < end:
            raise ValueError(f"a batch of {self.batch_size} has no share {number} of {count}")
        self.share, self.rows = slice(first, end), end - first
        size = self.transform.size
        sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        self._buffers = BufferPool((self.rows, 3, *sides))

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose which epoch the next iteration is, and with which of its batches it begins."""
        if epoch < 0 or not 0 <= start <= len(self):
            raise ValueError(f"epoch={epoch}, start={start}: an epoch has {len(self)} batches")
        self.epoch, self.start = int(epoch), int(start)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (self.last == "pad" and rest > 0)

    def order(self, epoch: int) -> np.ndarray:
        """Return the positions of all samples in the order of an epoch, int64."""
        if not self.shuffle:
            return np.arange(len(self.dataset))
        return np.random.default_rng((self.seed, epoch, 0)).permutation(len(self.dataset))

    def draws(self, epoch: int) -> np.ndarray:
        """Return the random numbers of an epoch's augmentation, one row per position."""
        shape = (len(self.dataset), self.transform.draws)
        return np.random.default_rng((self.seed, epoch, 1)).random(shape)

    def jobs(self, epoch: int) -> Iterator[Job]:
        """Yield positions and random numbers of the batches of an epoch."""
        order, draws = self.order(epoch), self.draws(epoch)
        for k in range(self.start, len(self)):
            yield order[k * self.batch_size : (k + 1) * self.batch_size], draws

    def __iter__(self) -> Iterator[Batch]:
        jobs = ((rows[self.share], draws) for rows, draws in self.jobs(self.epoch))
        for batch in self._ahead(jobs) if self.workers else (self._make(*job) for job in jobs):
            if self.ctx != mx.cpu():
                batch = Batch._make([*(a.as_in_context(self.ctx) for a in batch[:3]), batch.index])
            yield batch

    def _ahead(self, jobs: Iterable[Job]) -> Iterator[Batch]:
        """Yield the batches of ``jobs`` in order, up to two per worker being made ahead."""
        cv2.setNumThreads(0)  # the threads here are the parallelism; OpenCV's own would fight them
        pool = ThreadPoolExecutor(self.workers, "loader", _give_way)
        pending: collections.deque[Any] = collections.deque()
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

    def _make(self, positions: np.ndarray, draws: Any) -> Batch:
        """Return the Batch of some samples, on the CPU."""
        count, attributes = len(positions), self.dataset.label.shape[1]
        images = self._buffers.take()
        labels, masks = (np.zeros((self.rows, attributes), np.float32) for _ in range(2))
        index = np.full(self.rows, PADDING, np.int64)
        index[:count] = positions
        images[count:] = 0
        # Python numbers and few steps per image: this part holds the lock that threads share.
        for row, (i, random) in enumerate(zip(positions.tolist(), draws[positions].tolist())):
            if self._windows:
                sample = self.dataset.get_window(i, self.transform.window(random))
            else:
                sample = (*self.dataset[i][:3], None)
            image, labels[row], masks[row], corner = sample
            self.transform(image, random, images[row], corner)
        label, mask = mx.nd.from_numpy(labels), mx.nd.from_numpy(masks)
        return Batch(self._buffers.wrap(images), label, mask, index)


class BufferPool:
    """Memory that batches are made in, float32, lent to MXNet without a copy and used again.

    Touching 19 MB of fresh memory and copying them once takes as long as decoding half of the
    images that go there (4 KB pages, each zeroed by the kernel at its first use).

    MXNet holds a reference to the NumPy array that it was lent until no NDArray, view or pending
    operation uses the memory; when that reference goes, the memory comes back here.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: collections.deque[np.ndarray] = collections.deque()  # append, pop are atomic

    def take(self) -> np.ndarray:
        """Return a float32 array with arbitrary contents."""
        try:
            return self._free.pop()
        except IndexError:
            return np.empty(self._shape, np.float32)

    def wrap(self, buffer: np.ndarray) -> mx.nd.NDArray:
        """Return an NDArray over a buffer; it must not be written to from now on."""
        lent = buffer.view()
        weakref.finalize(lent, self._free.append, buffer).atexit = False
        return mx.nd.from_numpy(lent)


def _give_way() -> None:
    """Let compute threads go first: OpenMP's wait for each other, so one that is held up holds all.

    Only Linux has a priority per thread; elsewhere, or where it is not allowed, nothing happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


class IdentitySampler:
    """The order of images of every pass: K of one identity, K of the next, and so on.

    An identity with fewer than K images gives all of them, and further ones repeated at random.
    The order depends on (seed, pass) only, so a resumed run repeats it.

    ``targets`` are ``(N,)`` numbers of the identity on each image; ``identities`` is P per batch,
    ``images`` K per identity, both at least 2, to compare with.
    """

    def __init__(self, targets: Any, identities: int, images: int, seed: int = 0) -> None:
        targets = np.asarray(targets)
        if identities < 2 or images < 2 or seed < 0:
            raise ValueError(
                f"identities={identities}, images={images}: a triplet needs at least 2 of each; "
                f"seed={seed} must not be negative"
            )
        order = np.argsort(targets, kind="stable")
        _, starts = np.unique(targets[order], return_index=True)
        self._images: list[np.ndarray] = np.split(order, starts[1:])
        if len(self._images) < identities:
            told = f"the data show {len(self._images)} identities, a batch wants {identities}"
            raise ValueError(f"{told}; use a smaller batch_size")
        self.identities, self.images, self.seed = int(identities), int(images), int(seed)

    @property
    def batch_size(self) -> int:
        """Images per batch, P K."""
        return self.identities * self.images

    def __len__(self) -> int:
        """Return the number of batches of a pass."""
        return len(self._images) // self.identities

    def order(self, epoch: int) -> np.ndarray:
        """Return the positions of a pass, ``(len * P * K,)`` int64, batch after batch."""
        rng = np.random.default_rng((self.seed, epoch, 0))
        people = rng.permutation(len(self._images))[: len(self) * self.identities]
        parts: list[np.ndarray] = []
        for images in (self._images[k] for k in people):
            lacking = self.images - len(images)
            again = [rng.choice(images, lacking)] if lacking > 0 else []
            parts += [rng.permutation(images)[: self.images], *again]
        return np.concatenate(parts)


class IdentityLoader(Loader):
    """Training batches in the order of an :class:`IdentitySampler`; the classes are identities."""

    def __init__(
        self,
        dataset: Any,
        transform: Any,
        identities: int,
        images: int,
        *,
        seed: int = 0,
        workers: int = 0,
        ctx: mx.Context | None = None,
    ) -> None:
        self.sampler = IdentitySampler(dataset.targets, identities, images, seed)
        super().__init__(
            dataset, transform, self.sampler.batch_size, seed=seed, workers=workers, ctx=ctx
        )

    def __len__(self) -> int:
        return len(self.sampler)

    def order(self, epoch: int) -> np.ndarray:
        return self.sampler.order(epoch)

    def draws(self, epoch: int) -> np.ndarray:
        """One row per place in the order: an image that comes twice must not look the same."""
        shape = (len(self) * self.batch_size, self.transform.draws)
        return np.random.default_rng((self.seed, epoch, 1)).random(shape)

    def jobs(self, epoch: int) -> Iterator[Job]:
        order, draws, size = self.order(epoch), self.draws(epoch), self.batch_size
        for k in range(self.start * size, len(self) * size, size):
            yield order[k : k + size], _Rows(draws[k : k + size][self.share])


class _Rows:
    """The random numbers of one batch, in its order, whichever images are asked for."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        return self._rows
