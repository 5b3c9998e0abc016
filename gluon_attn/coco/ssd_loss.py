"""SSD's training targets and multi-box loss, on the device and without a look at the values.

Liu et al., ECCV 2016, section 2.2: an anchor is positive for the box that it overlaps most, and for
every box that it overlaps by 0.5; three negatives of the highest loss per positive (Eq. 1 to 3).
GluonCV gives the matching and the encoding; its own loss waits for the device in every step.

Legend: B batch, M boxes of a picture, N anchors, K classes.
"""

from __future__ import annotations

from mxnet import autograd, nd
from mxnet.gluon import HybridBlock

from gluon_attn.coco.gluoncv_parts import gluoncv_module
from gluon_attn.coco.ssd import STDS
from gluon_attn.core.registry import unknown_name

NORMALIZE = ("image", "batch")
CHUNK = 8  # pictures that are matched at once: (CHUNK, N, M) arrays, 34 MB each for M = 120


class SsdTargets:
    """Which anchor stands for which box.

    Args:
        overlap: Intersection over union from which an anchor is positive.
    """

    def __init__(self, overlap=0.5):
        # negative_mining_ratio <= 0: every anchor is a positive or a negative; the loss chooses.
        self._generate = gluoncv_module("model_zoo.ssd.target").SSDTargetGenerator(
            iou_thresh=overlap, negative_mining_ratio=-1, stds=STDS
        )

    def __call__(self, anchors, boxes, classes):
        """Return class targets ``(B, N)``, 0 for background, and offsets ``(B, N, 4)``.

        Args:
            anchors: ``(1, N, 4)`` centre x, y, width, height.
            boxes: ``(B, M, 4)`` corners; rows without a box hold -1 and come last.
            classes: ``(B, M)`` from 0; -1 in rows without a box.
        """
        found = []
        with autograd.pause():
            for start in range(0, len(boxes), CHUNK):
                part = slice(start, start + CHUNK)
                found.append(self._generate(anchors, None, boxes[part], classes[part])[:2])
            labels, offsets = (nd.concat(*arrays, dim=0) for arrays in zip(*found))
            # Without any box, every anchor "matches" one of size 0, whose logarithm is -inf.
            positive = nd.broadcast_like(nd.expand_dims(labels > 0, axis=2), offsets)
            return labels, nd.where(positive, offsets, nd.zeros_like(offsets))


class MultiBoxLoss(HybridBlock):
    """Cross-entropy with hard negatives, and smooth L1 of the offsets of positives.

    Inputs: logits ``(B, N, K + 1)``; offsets ``(B, N, 4)``; class targets ``(B, N)``; offset
    targets ``(B, N, 4)``. Outputs: class and box loss, ``(B,)`` each; both are 0 for a picture
    without positives.

    Args:
        negative_ratio: Negatives per positive.
        normalize: 'image' divides each picture's sums by its positives; 'batch' divides all by the
            positives of the batch on this device, times the pictures, so that the mean over
            pictures is Eq. 1 with N the positives of the batch.

    Raises:
        ValueError: A negative ratio, or another normalisation.
    """

    def __init__(self, negative_ratio=3.0, normalize="image", **kwargs):
        super().__init__(**kwargs)
        if normalize not in NORMALIZE:
            raise ValueError(unknown_name("normalization of the SSD loss", normalize, NORMALIZE))
        if negative_ratio < 0:
            raise ValueError(f"negative_ratio={negative_ratio}: must not be negative")
        self._ratio, self._normalize = negative_ratio, normalize

    def hybrid_forward(self, F, logits, offsets, labels, targets):
        """Return the class and the box loss of every picture."""
        positive = labels > 0
        count = F.sum(positive, axis=1)
        entropy = -F.pick(F.log_softmax(logits, axis=-1), labels, axis=-1)
        # Place of every anchor among the negatives, most wrong first; positives come behind.
        wrong = F.BlockGrad(F.broadcast_mul(entropy, positive - 1))
        place = F.argsort(F.argsort(wrong, axis=1), axis=1)
        chosen = F.broadcast_lesser(place, F.expand_dims(count * self._ratio, axis=1))
        # A picture with few negatives would count positives twice: once they are in already.
        counted = F.broadcast_maximum(chosen, positive)
        per_image = F.sum(F.where(counted, entropy, F.zeros_like(entropy)), axis=1)
        distance = F.sum(F.smooth_l1(offsets - targets, scalar=1.0), axis=2)
        boxes = F.sum(F.broadcast_mul(distance, positive), axis=1)
        if self._normalize == "batch":
            share = F.broadcast_div(F.sum(F.ones_like(count)), F.maximum(F.sum(count), 1))
            return F.broadcast_mul(per_image, share), F.broadcast_mul(boxes, share)
        count = F.maximum(count, 1)
        return F.broadcast_div(per_image, count), F.broadcast_div(boxes, count)
