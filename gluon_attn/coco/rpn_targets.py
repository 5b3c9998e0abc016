"""Which anchors the region proposal head learns from, chosen on the device.

Ren et al., NeurIPS 2015, section 3.1.2 and 3.1.3: an anchor is positive from an overlap of 0.7 or
if no other overlaps a box more, negative below 0.3; 256 of a picture are drawn, half of them
positive at most. Anchors that cross the picture's border are left out. GluonCV has the same in
NumPy, drawn from a global generator that the threads of a loader would share.

Legend: N anchors, M boxes.
"""

from __future__ import annotations

from mxnet import nd

POSITIVE, NEGATIVE, LEAST = 0.7, 0.3, 0.3  # LEAST: of the best anchor of a box
EPSILON = 1e-7


class RpnTargets:
    """Choose anchors and encode the boxes that they stand for.

    Args:
        samples: Anchors of a picture.
        positives: Share of them that may be positive.
    """

    def __init__(self, samples=256, positives=0.5):
        self._samples, self._most = samples, int(round(samples * positives))

    def __call__(self, anchors, boxes, extent):
        """Return labels ``(N,)``: 1, 0, or -1 for anchors not drawn; and offsets ``(N, 4)``.

        Args:
            anchors: ``(N, 4)`` corners in pixels.
            boxes: ``(M, 4)`` corners; rows without a box hold -1.
            extent: ``(2,)`` width and height of the picture.
        """
        inside = (anchors[:, :2] >= 0).min(axis=1) * nd.broadcast_lesser(
            anchors[:, 2:], nd.expand_dims(extent, axis=0)
        ).min(axis=1)
        overlap = nd.contrib.box_iou(anchors, boxes, format="corner")
        overlap = nd.where(nd.broadcast_like(nd.expand_dims(inside, axis=1), overlap), overlap,
                           -nd.ones_like(overlap))  # fmt: skip
        best = overlap.max(axis=1)
        best_of_box = overlap.max(axis=0, keepdims=True)
        closest = nd.broadcast_greater_equal(overlap + EPSILON, best_of_box)
        closest = nd.broadcast_mul(closest, best_of_box >= LEAST).max(axis=1)
        positive = nd.broadcast_maximum(best >= POSITIVE, closest)
        negative = (best < NEGATIVE) * (best >= 0) * (1 - positive)
        random = nd.random.uniform(shape=anchors.shape[:1], ctx=anchors.context)
        positive = _draw(positive, random, self._most)
        negative = _draw(negative, random, self._samples - positive.sum())
        labels = positive - (1 - positive) * (1 - negative)
        offsets, _ = nd.contrib.box_encode(
            nd.expand_dims(positive, axis=0), nd.expand_dims(overlap.argmax(axis=1), axis=0),
            nd.expand_dims(anchors, axis=0), nd.expand_dims(boxes, axis=0),
            nd.zeros((4,), ctx=anchors.context), nd.ones((4,), ctx=anchors.context),
        )  # fmt: skip
        return labels, offsets[0]


def _draw(chosen, random, count):
    """Return ``count`` of the chosen ones, or all if they are fewer, as 1 among 0."""
    place = nd.argsort(nd.argsort(random * chosen, is_ascend=False))
    few = place < count if isinstance(count, int) else nd.broadcast_lesser(place, count)
    return few * chosen
