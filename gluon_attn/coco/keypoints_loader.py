"""Batches of people for keypoint nets: heat-maps to learn from, or crops to evaluate."""

from __future__ import annotations

import mxnet as mx
import numpy as np

from gluon_attn.core.batch import PADDING, Batch
from gluon_attn.data.images import BadImageError
from gluon_attn.data.loader import BufferPool, Loader


class PoseLoader(Loader):
    """Training batches: ``label`` are heat-maps ``(B, K, h, w)``, ``mask`` weights ``(B, K)``.

    Args:
        dataset: :class:`gluon_attn.coco.dataset.CocoKeypoints`.
        transform: PoseTrainTransform.
        batch_size, others: See :class:`gluon_attn.data.Loader`.
    """

    def __init__(self, dataset, transform, batch_size, **others):
        super().__init__(dataset, transform, batch_size, **others)
        shape = (self.batch_size, len(dataset.keypoint_names)) + transform.target_size
        self._targets = BufferPool(shape)

    def _make(self, indices, draws):
        images, targets = self._buffers.take(), self._targets.take()
        masks = np.zeros(targets.shape[:2], np.float32)
        index = np.full(self.batch_size, PADDING, np.int64)
        index[: len(indices)] = indices
        images[len(indices) :], targets[len(indices) :] = 0, 0
        for row, (i, random) in enumerate(zip(indices.tolist(), draws[indices].tolist())):
            image, box, keypoints, _ = self.dataset[i]
            _, _, masks[row] = self.transform(
                image, without_last_pixel(box), keypoints, random, images[row], targets[row]
            )
        return Batch(
            self._buffers.wrap(images), self._targets.wrap(targets), mx.nd.from_numpy(masks), index
        )


class People:
    """Boxes of people in pictures, whose keypoints are to be found.

    Args:
        read: Function from an image id to the picture, uint8 ``(H, W, 3)`` RGB.
        image_ids: N ids.
        boxes: ``(N, 4)`` corners x1, y1, x2, y2 in pixels.
        scores: ``(N,)`` of the boxes; None means 1.
        on_bad_image: 'error' raises where a picture cannot be read; 'skip' lists it.

    Attributes:
        skipped: ``[(image id, reason), ...]`` met so far.
    """

    def __init__(self, read, image_ids, boxes, scores=None, on_bad_image="error"):
        self.read, self.image_ids = read, list(image_ids)
        self.boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        self.scores = np.ones(len(self.boxes)) if scores is None else np.asarray(scores, float)
        self.on_bad_image, self.skipped = on_bad_image, []
        if not len(self.image_ids) == len(self.boxes) == len(self.scores):
            raise ValueError(
                f"{len(self.image_ids)} images, {len(self.boxes)} boxes, {len(self.scores)} scores"
            )

    def __len__(self):
        return len(self.image_ids)

    @classmethod
    def of(cls, dataset):
        """Return the annotated people of a :class:`gluon_attn.coco.dataset.CocoKeypoints`."""
        boxes = [without_last_pixel(dataset.person(i)[0]) for i in range(len(dataset))]
        return cls(
            dataset.read_image_id, dataset.image_ids, boxes, on_bad_image=dataset.on_bad_image
        )


class PeopleLoader(Loader):
    """Evaluation batches in order, the last one padded; ``mask`` ``(B, 1)`` is 0 if not readable.

    Args:
        people: :class:`People`.
        transform: PoseEvalTransform.
        batch_size, others: See :class:`gluon_attn.data.Loader`.
    """

    def _make(self, indices, draws):
        images, masks = self._buffers.take(), np.zeros((self.batch_size, 1), np.float32)
        index = np.full(self.batch_size, PADDING, np.int64)
        index[: len(indices)] = indices
        images[len(indices) :] = 0
        people = self.dataset
        for row, i in enumerate(indices.tolist()):
            try:
                image = people.read(people.image_ids[i])
            except BadImageError as error:
                if people.on_bad_image == "error":
                    raise
                people.skipped.append((people.image_ids[i], error.reason))
                images[row] = 0
                continue
            self.transform(image, people.boxes[i], images[row])
            masks[row] = 1
        marks = mx.nd.from_numpy(masks)
        return Batch(self._buffers.wrap(images), marks, marks, index)


def without_last_pixel(box):
    """Return a box whose right and lower borders are pixels that belong to it.

    The released code counts annotated boxes so: x2 = x1 + width - 1, at most the last column.
    """
    x1, y1, x2, y2 = box
    return np.array([x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)], np.float32)
