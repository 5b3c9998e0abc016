"""SSD300 on our ResNets: net, targets, loss and training.

SSD: Single Shot MultiBox Detector, Liu et al., ECCV 2016; the ResNet backbone as in the supplement
of Auto Learning Attention, Ma et al., NeurIPS 2020: "The conv5_x, average pooling, fc, and the
softmax layers are removed […]. All strides in conv4_x are set to 1. Detector heads are enhanced by
additional BatchNorm layers after each convolution." GluonCV gives anchors, predictors, the coder
and the matching; its loss is not used: it waits for the device in every step.

Legend: B batch, N anchors (8732 at 300 x 300), K classes, M boxes. Assumptions: docs/detection.md.
"""

from __future__ import annotations

import math
from typing import Any

from mxnet import autograd, nd
from mxnet.gluon import HybridBlock, nn

from gluon_attn.coco.parts import (
    CLIP,
    ClasswiseNms,
    CocoNet,
    DetectorMethod,
    StageFeatures,
    Tensor,
    gluoncv_module,
    infer_shapes,
    trainable,
)
from gluon_attn.core.batch import Batch
from gluon_attn.core.registry import unknown_name
from gluon_attn.method import METHODS
from gluon_attn.nets import resnet

STDS = (0.1, 0.1, 0.2, 0.2)  # of the offsets: centre x, y, width, height
EXTRA_FILTERS = (512, 512, 256, 256, 256)
RATIOS = ((1, 2, 0.5),) + ((1, 2, 0.5, 3, 1 / 3),) * 3 + ((1, 2, 0.5),) * 2
HALVING = 3  # the first extra layers halve the map, those behind cut a border of one off
NORMALIZE = ("image", "batch")
CHUNK = 8  # images that are matched at once: (CHUNK, N, M) arrays, 34 MB each for M = 120


def feature_sizes(input_size: int, levels: int = 6) -> list[int]:
    """Return the side of every map that is predicted from: 38, 19, 10, 5, 3, 1 for 300 pixels.

    A ValueError if the input is too small for so many levels, or the levels are not 2 to 6.
    """
    if not 2 <= levels <= len(RATIOS):
        raise ValueError(f"levels={levels}: valid are 2 to {len(RATIOS)}")
    sizes = [math.ceil(input_size / 8)]
    for number in range(levels - 1):
        sizes.append(math.ceil(sizes[-1] / 2) if number < HALVING else sizes[-1] - 2)
    if sizes[-1] < 1 or len(set(sizes)) < levels:
        raise ValueError(
            f"input_size={input_size} gives maps of sides {sizes}; use a larger input or fewer "
            f"levels than {levels}"
        )
    return sizes


def anchor_sizes(input_size: int, levels: int = 6) -> list[float]:
    """Return the ``levels + 1`` anchor sides in pixels: 21, 45, 99, …, 315 for 300 and 6 levels."""
    step = 0.9 / (levels - 1)
    shares = [0.07] + [0.15 + step * k for k in range(levels)]
    return [share * input_size for share in shares]


def anchor_steps(input_size: int, levels: int = 6) -> list[float]:
    """Return the distance of anchors in pixels on every level: 8, 16, 32, 64, 100, 300."""
    sizes = feature_sizes(input_size, levels)
    return [2 ** (3 + k) if k <= HALVING else input_size / side for k, side in enumerate(sizes)]


class SsdPredictions(HybridBlock):
    """What SSD predicts for every anchor: the part that is trained.

    Image ``(B, 3, S, S)`` to logits ``(B, N, K + 1)``, background first; offsets ``(B, N, 4)``;
    anchors ``(1, N, 4)``: centre x, y, width, height in pixels. ``trunk`` is stage 3 at stride 8;
    the extra layers scale with the ``width`` of the backbone; with ``predictor_norm`` a batch-norm
    follows each predictor as well.
    """

    output_names = ("logits", "offsets", "anchors")

    def __init__(
        self,
        trunk: StageFeatures,
        classes: int,
        input_size: int,
        *,
        levels: int,
        width: int,
        predictor_norm: bool,
    ) -> None:
        super().__init__()
        self._columns = classes + 1
        anchor = gluoncv_module("model_zoo.ssd.anchor").SSDAnchorGenerator
        predictor = gluoncv_module("nn.predictor").ConvPredictor
        sizes, steps = anchor_sizes(input_size, levels), anchor_steps(input_size, levels)
        sides = feature_sizes(input_size, levels)
        with self.name_scope():
            self.trunk = trunk
            self.extra = nn.HybridSequential()
            for number, filters in enumerate(EXTRA_FILTERS[: levels - 1]):
                self.extra.add(_extra_layer(max(8, filters * width // 64), number < HALVING))
            self.class_predictors = nn.HybridSequential()
            self.box_predictors = nn.HybridSequential()
            self.anchors = nn.HybridSequential()
            heads = ((self.class_predictors, self._columns), (self.box_predictors, 4))
            frame = (input_size, input_size)
            for k, side in enumerate(sides):
                places = {"step": steps[k], "alloc_size": (side, side), "clip": True}
                generator = anchor(k, frame, sizes[k : k + 2], RATIOS[k], **places)
                self.anchors.add(generator)
                for predictors, columns in heads:
                    layer = nn.HybridSequential()
                    layer.add(predictor(generator.num_depth * columns))
                    if predictor_norm:
                        layer.add(nn.BatchNorm())
                    predictors.add(layer)

    def hybrid_forward(self, F: Any, x: Tensor) -> tuple:
        maps = list(self.trunk(x))
        for layer in self.extra:
            maps.append(layer(maps[-1]))

        def flat(predictors: nn.HybridSequential) -> Tensor:
            found = (predict(m) for m, predict in zip(maps, predictors))
            return F.concat(*(F.Flatten(F.transpose(f, axes=(0, 2, 3, 1))) for f in found), dim=1)

        logits = F.reshape(flat(self.class_predictors), shape=(0, -1, self._columns))
        offsets = F.reshape(flat(self.box_predictors), shape=(0, -1, 4))
        anchors = F.concat(*(anchor(m) for m, anchor in zip(maps, self.anchors)), dim=1)
        return logits, offsets, anchors


def _extra_layer(filters: int, halves: bool) -> nn.HybridSequential:
    """Return 1x1 and 3x3 convolution, each with batch-norm and ReLU."""
    layer = nn.HybridSequential()
    strides, padding = (2, 1) if halves else (1, 0)
    for channels, kernel, stride, pad in ((filters // 2, 1, 1, 0), (filters, 3, strides, padding)):
        layer.add(nn.Conv2D(channels, kernel, stride, pad, use_bias=False))
        layer.add(nn.BatchNorm(), nn.Activation("relu"))
    return layer


class SSD(CocoNet):
    """The detector: image in, detections out.

    Image ``(B, 3, S, S)`` float32, RGB, normalised, to classes ``(B, D)``, scores ``(B, D)`` and
    boxes ``(B, D, 4)`` as :class:`gluon_attn.coco.parts.ClasswiseNms` gives them, in pixels of the
    input; with ``candidates`` then the class probabilities ``(B, N, K)`` and boxes ``(B, N, 4)``
    before suppression.
    """

    task, method, fit = "detection", "ssd", "stretch"

    def __init__(self, raw: SsdPredictions, nms: ClasswiseNms, candidates: bool = False) -> None:
        super().__init__()
        self.classes, self._candidates = nms.classes, candidates
        self.output_names: tuple = ("classes", "scores", "boxes")
        self.output_names += ("candidate_scores", "candidate_boxes") if candidates else ()
        self.raw, self.nms = raw, nms
        self.decode = gluoncv_module("nn.coder").NormalizedBoxCenterDecoder(STDS, clip=CLIP)

    @property
    def backbone(self) -> HybridBlock:
        """The complete ResNet, for loading its weights."""
        return self.raw.trunk.whole

    def with_candidates(self) -> SSD:
        """Return a view of this net, on its parameters, with the candidates as further outputs."""
        view = SSD(self.raw, self.nms, candidates=True)
        view.input_size = self.input_size
        return view

    def hybrid_forward(self, F: Any, x: Tensor) -> list:
        logits, offsets, anchors = self.raw(x)
        scores = F.slice_axis(F.softmax(logits, axis=-1), axis=2, begin=1, end=None)
        boxes = self.decode(offsets, anchors)
        found = list(self.nms(scores, boxes))
        return found + [scores, boxes] if self._candidates else found


def ssd(
    depth: int = 50,
    classes: int = 80,
    input_size: int = 300,
    width: int = 64,
    *,
    attention: Any = None,
    levels: int = 6,
    predictor_norm: bool = False,
    nms_overlap: float = 0.45,
    score_threshold: float = 0.05,
    per_class: int = 200,
    detections: int = 100,
) -> SSD:
    """Build SSD on a ResNet v1b (:func:`gluon_attn.nets.resnet`).

    Further arguments are those of :class:`SsdPredictions` and
    :class:`gluon_attn.coco.parts.ClasswiseNms`. A ValueError for sizes that do not fit; an
    ImportError without GluonCV.
    """
    feature_sizes(input_size, levels)
    backbone = resnet(depth, "v1b", width=width, attention=attention)
    trunk = StageFeatures(backbone, stages=(3,), keep=(3,))
    raw = SsdPredictions(
        trunk, classes, input_size, levels=levels, width=width, predictor_norm=predictor_norm
    )
    nms = ClasswiseNms(
        classes, nms_overlap, score_threshold, per_class=per_class, detections=detections
    )
    net = SSD(raw, nms)
    net.input_size = (input_size, input_size)
    return infer_shapes(net, raw)


class SsdTargets:
    """Which anchor stands for which box: the best one of it, and those from ``overlap`` on."""

    def __init__(self, overlap: float = 0.5) -> None:
        # negative_mining_ratio <= 0: every anchor is a positive or a negative; the loss chooses.
        self._generate = gluoncv_module("model_zoo.ssd.target").SSDTargetGenerator(
            iou_thresh=overlap, negative_mining_ratio=-1, stds=STDS
        )

    def __call__(self, anchors: Tensor, boxes: Tensor, classes: Tensor) -> tuple:
        """Return class targets ``(B, N)``, 0 for background, and offsets ``(B, N, 4)``.

        ``anchors`` are ``(1, N, 4)`` centre x, y, width, height; ``boxes`` ``(B, M, 4)`` corners
        and ``classes`` ``(B, M)`` from 0, -1 in rows without a box, which come last.
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
    """Cross-entropy with hard negatives, and smooth L1 of the offsets of positives (Eq. 1 to 3).

    Inputs: logits ``(B, N, K + 1)``; offsets ``(B, N, 4)``; class targets ``(B, N)``; offset
    targets ``(B, N, 4)``. Outputs: class and box loss, ``(B,)`` each; both are 0 for an image
    without positives. There are ``negative_ratio`` negatives per positive. ``normalize`` 'image'
    divides each image's sums by its positives; 'batch' divides all by the positives of the batch on
    this device, times the images, so that the mean over images is Eq. 1 with N the positives of the
    batch.
    """

    def __init__(self, negative_ratio: float = 3.0, normalize: str = "image") -> None:
        super().__init__()
        if normalize not in NORMALIZE:
            raise ValueError(unknown_name("normalization of the SSD loss", normalize, NORMALIZE))
        if negative_ratio < 0:
            raise ValueError(f"negative_ratio={negative_ratio}: must not be negative")
        self._ratio, self._normalize = negative_ratio, normalize

    def hybrid_forward(
        self, F: Any, logits: Tensor, offsets: Tensor, labels: Tensor, targets: Tensor
    ) -> tuple:
        positive = labels > 0
        count = F.sum(positive, axis=1)
        entropy = -F.pick(F.log_softmax(logits, axis=-1), labels, axis=-1)
        # Place of every anchor among the negatives, most wrong first; positives come behind.
        wrong = F.BlockGrad(F.broadcast_mul(entropy, positive - 1))
        place = F.argsort(F.argsort(wrong, axis=1), axis=1)
        chosen = F.broadcast_lesser(place, F.expand_dims(count * self._ratio, axis=1))
        # An image with few negatives would count positives twice: once they are in already.
        counted = F.broadcast_maximum(chosen, positive)
        per_image = F.sum(F.where(counted, entropy, F.zeros_like(entropy)), axis=1)
        distance = F.sum(F.smooth_l1(offsets - targets, scalar=1.0), axis=2)
        boxes = F.sum(F.broadcast_mul(distance, positive), axis=1)
        if self._normalize == "batch":
            share = F.broadcast_div(F.sum(F.ones_like(count)), F.maximum(F.sum(count), 1))
            return F.broadcast_mul(per_image, share), F.broadcast_mul(boxes, share)
        count = F.maximum(count, 1)
        return F.broadcast_div(per_image, count), F.broadcast_div(boxes, count)


@METHODS.register("ssd")
class SsdMethod(DetectorMethod):
    """Train a :class:`SSD`: its loss, no weight decay of vectors, linear warm-up."""

    trains = "ssd"
    OPTIONS = dict(
        DetectorMethod.WARM_UP,
        warmup_epochs=1.0,
        overlap=0.5,
        negative_ratio=3.0,
        normalize="image",  # or 'batch'
        decay_vectors=False,  # whether biases and batch-norm decay, too
        expand=4.0,  # largest side of the canvas around an image; 1: none. The loader asks for it
        crop=True,  # the loader asks for it
        colour=True,  # the loader asks for it
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._targets = SsdTargets(self.options["overlap"])
        self._loss = MultiBoxLoss(self.options["negative_ratio"], self.options["normalize"])
        self._loss.hybridize()

    def begin_phase(self, phase: str) -> None:
        if not self.options["decay_vectors"]:
            for parameter in self.net.collect_params().values():
                if len(parameter.shape) == 1 or parameter.name.endswith("bias"):
                    parameter.wd_mult = 0.0
        self.train_parameters(phase, trainable(self.net))

    def forward(self, image: Tensor) -> dict:
        return dict(zip(self.net.raw.output_names, self.net.raw(image)))

    def losses(self, outputs: dict, batch: Batch) -> dict:
        boxes, classes = batch.label[:, 1:, :4], batch.label[:, 1:, 4]
        labels, targets = self._targets(outputs["anchors"], boxes, classes)
        found = self._loss(outputs["logits"], outputs["offsets"], labels, targets)
        return dict(zip(("class", "box"), found))
