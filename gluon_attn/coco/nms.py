"""From class probabilities and boxes to detections: suppression within each class, then the best.

Legend: B batch, N candidates, K classes, P kept per class, D detections.
"""

from __future__ import annotations

from mxnet.gluon import HybridBlock

CLIP = 4.135  # log(1000 / 16): most that a side may be stretched, as a logarithm; keeps exp finite
KEEP_ALL = 2.0  # an overlap that no two boxes reach: box_nms then only sorts


class ClasswiseNms(HybridBlock):
    """Non-maximum suppression in each class, then the D detections of the highest scores.

    Inputs: scores ``(B, N, K)`` in [0, 1] without background; boxes ``(B, N, 4)``, or
    ``(B, N, K, 4)`` where each class has its own: corners x1, y1, x2, y2. Outputs: classes
    ``(B, D)`` counted from 0, scores ``(B, D)`` falling, boxes ``(B, D, 4)``; -1 everywhere in rows
    without a detection.

    Args:
        classes: K.
        overlap: Intersection over union above which the lower score is dropped.
        threshold: Score that a candidate must exceed.
        per_class: P: so many candidates of a class take part and are kept.
        detections: D.

    Raises:
        ValueError: A threshold outside [0, 1], or a count below 1.
    """

    def __init__(
        self, classes, overlap=0.45, threshold=0.05, per_class=200, detections=100, **kwargs
    ):
        super().__init__(**kwargs)
        if not (0 <= overlap <= 1 and 0 <= threshold <= 1):
            raise ValueError(f"overlap={overlap}, threshold={threshold}: valid are 0 to 1")
        if min(classes, per_class, detections) < 1:
            raise ValueError(
                f"classes={classes}, per_class={per_class}, detections={detections}: must be "
                "positive"
            )
        self.classes, self.detections = classes, min(detections, classes * per_class)
        self._rules = {"overlap_thresh": overlap, "valid_thresh": threshold, "topk": per_class}
        self._own_boxes = False

    def with_own_boxes(self):
        """Expect boxes ``(B, N, K, 4)``; return self."""
        self._own_boxes = True
        return self

    def hybrid_forward(self, F, scores, boxes):
        """Return classes, scores and boxes of the detections."""
        scores = F.expand_dims(F.transpose(scores, axes=(0, 2, 1)), axis=3)  # (B, K, N, 1)
        if self._own_boxes:
            boxes = F.transpose(boxes, axes=(0, 2, 1, 3))
        else:
            boxes = F.broadcast_axis(F.expand_dims(boxes, axis=1), axis=1, size=self.classes)
        numbers = F.reshape(F.contrib.arange_like(scores, axis=1), shape=(1, -1, 1, 1))
        rows = F.concat(F.broadcast_like(numbers, scores), scores, boxes, dim=3)
        rows = F.reshape(rows, shape=(-3, 0, 0))  # (B K, N, 6)
        common = {"id_index": 0, "score_index": 1, "coord_start": 2, "force_suppress": False}
        rows = F.contrib.box_nms(rows, **self._rules, **common)
        rows = F.slice_axis(rows, axis=1, begin=0, end=self._rules["topk"])
        rows = F.reshape(F.reshape(rows, shape=(-4, -1, self.classes, 0, 0)), shape=(0, -3, 0))
        rows = F.contrib.box_nms(
            rows, overlap_thresh=KEEP_ALL, valid_thresh=0, topk=self.detections, **common
        )
        rows = F.slice_axis(rows, axis=1, begin=0, end=self.detections)
        classes, found, boxes = (
            F.slice_axis(rows, axis=2, begin=begin, end=end)
            for begin, end in ((0, 1), (1, 2), (2, 6))
        )
        return F.reshape(classes, shape=(0, -1)), F.reshape(found, shape=(0, -1)), boxes
