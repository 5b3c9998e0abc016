"""Batches of pictures with boxes, of one frame each; otherwise as :class:`Loader` makes them."""

from __future__ import annotations

import mxnet as mx
import numpy as np

from gluon_attn.core.batch import PADDING, Batch
from gluon_attn.data.loader import Loader

ROWS = 8  # labels are padded to a multiple of so many rows: few shapes


class DetectionLoader(Loader):
    """Iterates over pictures with boxes.

    A batch's ``image`` is ``(B, 3, H, W)``, where H and W depend on whether its pictures are wide
    or high if the transform's frame does; ``label`` is ``(B, 1 + M, 5)``: x1, y1, x2, y2 in pixels
    of the image, and class, -1 in rows without a box. Row 0 is no object but the frame that the
    picture itself takes, ``(0, 0, width, height, -1)``. ``mask`` ``(B, 1 + M)`` is 1 where an
    object is.

    Args:
        dataset: ``dataset[i]`` is ``(image, boxes, classes, i)``; ``dataset.size(i)`` is
            ``(width, height)``.
        transform: One of :mod:`gluon_attn.coco.detection_transforms`.
        batch_size, shuffle, seed, workers, last: See :class:`Loader`.

    Raises:
        ValueError: As :class:`Loader`; or no frame has pictures enough for one batch.
    """

    def __init__(
        self, dataset, transform, batch_size, shuffle=False, seed=0, workers=0, last="pad"
    ):
        super().__init__(
            dataset, transform, batch_size, shuffle, seed=seed, workers=workers, last=last
        )
        frames = [transform.frame(*dataset.size(i)) for i in range(len(dataset))]
        kinds = {frame: k for k, frame in enumerate(sorted(set(frames)))}
        self._kinds = np.array([kinds[frame] for frame in frames])
        if not len(self):
            raise ValueError(
                f"{len(dataset)} pictures in {len(kinds)} frames do not fill one batch of "
                f"{batch_size}; use a smaller batch or last='pad'"
            )

    def __len__(self):
        counts = np.bincount(self._kinds)
        return int(sum(-(-n // self.batch_size) if self.last == "pad" else n // self.batch_size
                       for n in counts))  # fmt: skip

    def batches(self, epoch):
        """Return the positions of the samples of every batch of an epoch: a list of arrays.

        The frames alternate at random when shuffled.
        """
        order, size, found = self.order(epoch), self.batch_size, []
        for kind in range(self._kinds.max() + 1):
            rows = order[self._kinds[order] == kind]
            parts = [rows[k : k + size] for k in range(0, len(rows), size)]
            found += [p for p in parts if len(p) == size or self.last == "pad"]
        if self.shuffle:
            places = np.random.default_rng((self.seed, epoch, 2)).permutation(len(found))
            found = [found[k] for k in places]
        return found

    def __iter__(self):
        draws = self.draws(self.epoch)
        jobs = ((rows, draws) for rows in self.batches(self.epoch)[self.start :])
        yield from self._ahead(jobs) if self.workers else (self._make(*job) for job in jobs)

    def _make(self, indices, draws):
        framed = []
        for i in indices.tolist():
            random = float(draws[i, 0]) if draws.shape[1] else None
            framed.append(self.transform(*self.dataset[i][:3], random))
        most = max(len(sample.boxes) for sample in framed)
        rows = 1 + max(ROWS, -(-most // ROWS) * ROWS)
        images = np.zeros((self.batch_size, *framed[0].image.shape), np.float32)
        label = np.full((self.batch_size, rows, 5), -1, np.float32)
        mask = np.zeros((self.batch_size, rows), np.float32)
        index = np.full(self.batch_size, PADDING, np.int64)
        index[: len(indices)] = indices
        for k, sample in enumerate(framed):
            images[k] = sample.image
            count = len(sample.boxes)
            label[k, 0, :4] = 0, 0, *sample.extent
            label[k, 1 : 1 + count, :4], label[k, 1 : 1 + count, 4] = sample.boxes, sample.classes
            mask[k, 1 : 1 + count] = 1
        return Batch(*map(mx.nd.from_numpy, (images, label, mask)), index)
