"""Batches of P identities with K pictures each, as the batch-hard triplet loss needs them.

Hermans, Beyer, Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017: a batch
is P random identities and K random pictures of each. Here a pass visits every identity once, in
random order; what does not fill the last batch is left out of this pass. So identities count alike
however many pictures they have, and a pass is much shorter than one over all pictures: recipes
count iterations.

Which pictures come, and how they are augmented, depends on (seed, pass) only, so a resumed run
repeats them.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np

from gluon_attn.core.batch import Batch
from gluon_attn.data.loader import BufferPool, Loader


class IdentitySampler:
    """The order of pictures of every pass: K rows of one identity, K of the next, and so on.

    An identity with fewer than K pictures gives all of them, and further ones drawn again.

    Args:
        targets: ``(N,)`` number of the identity on each picture.
        identities: P, per batch.
        images: K, per identity.
        seed: Non-negative integer.

    Raises:
        ValueError: P or K below 2 (nothing to compare with), or fewer than P identities.
    """

    def __init__(self, targets, identities, images, seed=0):
        targets = np.asarray(targets)
        if identities < 2 or images < 2 or seed < 0:
            raise ValueError(
                f"identities={identities}, images={images}: a triplet needs at least 2 of each; "
                f"seed={seed} must not be negative"
            )
        order = np.argsort(targets, kind="stable")
        _, starts = np.unique(targets[order], return_index=True)
        self._pictures = np.split(order, starts[1:])
        if len(self._pictures) < identities:
            raise ValueError(
                f"the data show {len(self._pictures)} identities, a batch wants {identities}; use "
                "a smaller batch_size"
            )
        self.identities, self.images, self.seed = int(identities), int(images), int(seed)

    @property
    def batch_size(self):
        """Pictures per batch, P K."""
        return self.identities * self.images

    def __len__(self):
        """Return the number of batches of a pass."""
        return len(self._pictures) // self.identities

    def order(self, epoch):
        """Return the positions of a pass, ``(len * P * K,)`` int64, batch after batch."""
        rng = np.random.default_rng((self.seed, epoch, 0))
        people = rng.permutation(len(self._pictures))[: len(self) * self.identities]
        return np.concatenate([self._some_of(self._pictures[k], rng) for k in people])

    def _some_of(self, pictures, rng):
        if len(pictures) >= self.images:
            return rng.permutation(pictures)[: self.images]
        again = rng.choice(pictures, self.images - len(pictures))
        return np.concatenate([rng.permutation(pictures), again])


class RectangleLoader(Loader):
    """A :class:`Loader` whose transform makes rectangles: ``transform.size`` is ``(H, W)``.

    Args:
        dataset, transform, batch_size, others: See :class:`Loader`; there is no ``cache``.
    """

    def __init__(self, dataset, transform, batch_size, **others):
        super().__init__(dataset, transform, batch_size, **others)
        self._buffers = BufferPool((self.batch_size, 3) + tuple(transform.size))


class IdentityLoader(RectangleLoader):
    """Training batches in the order of an :class:`IdentitySampler`.

    Args:
        dataset: Single-label data set whose classes are identities.
        transform: Training transform with a ``size`` of ``(H, W)``.
        identities: P.
        images: K.
        seed, workers, ctx: See :class:`Loader`.
    """

    def __init__(self, dataset, transform, identities, images, seed=0, workers=0, ctx=None):
        self.sampler = IdentitySampler(dataset.targets, identities, images, seed)
        super().__init__(
            dataset, transform, self.sampler.batch_size, seed=seed, workers=workers, ctx=ctx
        )

    def __len__(self):
        return len(self.sampler)

    def order(self, epoch):
        """Return the positions of a pass, ``(len * B,)`` int64."""
        return self.sampler.order(epoch)

    def draws(self, epoch):
        """Return the random numbers of the augmentation, one row per place in the order.

        Not per picture, as in :class:`Loader`: one that comes twice must not look the same twice.
        """
        shape = (len(self) * self.batch_size, self.transform.draws)
        return np.random.default_rng((self.seed, epoch, 1)).random(shape)

    def __iter__(self):
        order, draws, size = self.order(self.epoch), self.draws(self.epoch), self.batch_size
        cuts = (slice(k, k + size) for k in range(self.start * size, len(self) * size, size))
        jobs = ((order[cut], _Rows(draws[cut])) for cut in cuts)
        for batch in self._ahead(jobs) if self.workers else (self._make(*job) for job in jobs):
            if self.ctx != mx.cpu():
                batch = Batch(*(a.as_in_context(self.ctx) for a in batch[:3]), batch.index)
            yield batch


class _Rows:
    """The random numbers of one batch, in its order, whichever pictures are asked for."""

    def __init__(self, rows):
        self._rows = rows

    def __getitem__(self, pictures):
        return self._rows
