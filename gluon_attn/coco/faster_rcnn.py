"""Faster R-CNN with a feature pyramid on our ResNets: net, targets, losses and training.

Faster R-CNN, Ren, He, Girshick, Sun, NeurIPS 2015; Feature Pyramid Networks for Object Detection,
Lin et al., CVPR 2017. The supplement of Auto Learning Attention, Ma et al., NeurIPS 2020, takes
"FPN neck, RPN Head, and ROI Head" and "all the parameters" from mmdetection: docs/detection.md.
Both stages are trained at once ("approximate joint training", section 3.2). GluonCV gives the
pyramid, anchors, proposals, the sampler of proposals and the coders.

Legend: B batch, N anchors of all levels, M boxes, R proposals, S sampled ones, K classes.
"""

from __future__ import annotations

from typing import Any, Sequence

import mxnet as mx
from mxnet import autograd, nd
from mxnet.gluon import HybridBlock, nn

from gluon_attn.coco.parts import (
    CLIP,
    KEEP_ALL,
    ClasswiseNms,
    CocoNet,
    DetectorMethod,
    StageFeatures,
    Tensor,
    gluoncv_module,
    infer_shapes,
    layers_of,
    pyramid,
    trainable,
)
from gluon_attn.core.batch import Batch
from gluon_attn.method import METHODS
from gluon_attn.nets import resnet

STRIDES = (4, 8, 16, 32, 64)  # of the pyramid's maps P2 … P6
LEVELS = len(STRIDES)
ANCHOR_RATIOS = (0.5, 1.0, 2.0)
STDS = (0.1, 0.1, 0.2, 0.2)  # of the offsets from proposals; those from anchors are not scaled
RPN_OVERLAP = 0.7
CANONICAL, CANONICAL_LEVEL = 224.0, 4  # a proposal of 224 x 224 pixels is looked at on P4
ROI_SIZE, ROI_SAMPLES = (7, 7), 2
POSITIVE, NEGATIVE, LEAST = 0.7, 0.3, 0.3  # overlaps of anchors; LEAST: of the best one of a box
EPSILON = 1e-7


class FirstStage(HybridBlock):
    """Backbone, pyramid of ``channels`` and region proposal head.

    Image ``(B, 3, H, W)`` to, each from P2 to P6: five logits ``(B, n, 1)``, five offsets ``(B, n,
    4)``, five anchors ``(1, n, 4)``; then the maps P2 to P5. ``frame`` is height and width of the
    largest input, ``anchor_scale`` the side of a square anchor in strides of its level.
    """

    def __init__(
        self, trunk: StageFeatures, channels: int, frame: Sequence[int], anchor_scale: float
    ) -> None:
        super().__init__()
        anchor = gluoncv_module("model_zoo.rcnn.rpn.anchor").RPNAnchorGenerator
        head = gluoncv_module("model_zoo.rcnn.rpn.rpn").RPNHead
        with self.name_scope():
            self.trunk = trunk
            self.neck = pyramid(channels)
            self.head = head(channels, len(ANCHOR_RATIOS))
            self.anchors = nn.HybridSequential()
            for stride in STRIDES:
                sides = (-(-max(frame) // stride),) * 2
                self.anchors.add(anchor(stride, stride, ANCHOR_RATIOS, (anchor_scale,), sides))

    def hybrid_forward(self, F: Any, x: Tensor) -> list:
        maps = self.neck(*self.trunk(x))
        found = [self.head(m)[2:] for m in maps]
        anchors = [generate(m) for m, generate in zip(maps, self.anchors)]
        return [f[0] for f in found] + [f[1] for f in found] + anchors + list(maps[:4])


class Proposals(HybridBlock):
    """The best boxes of all levels, each level suppressed on its own; no gradient passes.

    Inputs: image (only its size counts), then the first 15 outputs of :class:`FirstStage`. Outputs:
    boxes ``(B, R, 4)`` corners in pixels; scores ``(B, R, 1)``, -1 in rows without a proposal.
    ``count`` is R, and how many anchors of a level take part.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count
        proposal = gluoncv_module("model_zoo.rcnn.rpn.proposal").RPNProposal
        self.refine = proposal(CLIP, 0, (1.0, 1.0, 1.0, 1.0))

    def hybrid_forward(self, F: Any, image: Tensor, *found: Tensor) -> tuple:
        common = {"coord_start": 1, "score_index": 0, "id_index": -1, "topk": self._count}
        rows = []
        for level in range(LEVELS):
            logits, offsets, anchors = (found[level + k * LEVELS] for k in range(3))
            scores = F.sigmoid(F.BlockGrad(logits))
            row = self.refine(anchors, scores, F.BlockGrad(offsets), F.BlockGrad(image))
            rows.append(F.contrib.box_nms(row, overlap_thresh=RPN_OVERLAP, **common))
        best = F.contrib.box_nms(F.concat(*rows, dim=1), overlap_thresh=KEEP_ALL, **common)
        best = F.BlockGrad(F.slice_axis(best, axis=1, begin=0, end=self._count))
        boxes = F.slice_axis(best, axis=2, begin=1, end=5)
        return boxes, F.slice_axis(best, axis=2, begin=0, end=1)


class RoiHead(HybridBlock):
    """What the maps say about boxes: two shared dense layers on 7 x 7 aligned features.

    Inputs: boxes ``(B, R, 4)`` corners in pixels; maps P2 to P5. Outputs: logits ``(B, R, K + 1)``,
    background first; offsets ``(B, R, K, 4)``, of each class.
    """

    def __init__(self, classes: int, channels: int, hidden: int) -> None:
        super().__init__()
        self._classes = classes
        inputs = channels * ROI_SIZE[0] * ROI_SIZE[1]
        uniform, normal = mx.init.Xavier(), mx.init.Normal
        with self.name_scope():
            self.shared = nn.HybridSequential()
            for units in (inputs, hidden):
                layer = nn.Dense(hidden, in_units=units, weight_initializer=uniform)
                self.shared.add(layer, nn.Activation("relu"))
            self.classify = nn.Dense(classes + 1, in_units=hidden, weight_initializer=normal(0.01))
            self.refine = nn.Dense(4 * classes, in_units=hidden, weight_initializer=normal(0.001))

    def hybrid_forward(self, F: Any, boxes: Tensor, *maps: Tensor) -> tuple:
        number = F.reshape(F.contrib.arange_like(boxes, axis=0), shape=(-1, 1, 1))
        first = F.slice_axis(boxes, axis=2, begin=0, end=1)
        rows = F.reshape(F.concat(F.broadcast_like(number, first), boxes, dim=2), shape=(-3, 0))
        features = self.shared(F.Flatten(_aligned(F, rows, maps)))
        logits, offsets = (
            F.reshape_like(head(features), boxes, lhs_begin=0, lhs_end=1, rhs_begin=0, rhs_end=2)
            for head in (self.classify, self.refine)
        )
        return logits, F.reshape(offsets, shape=(0, 0, self._classes, 4))


def _aligned(F: Any, rows: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """Return the features ``(R, C, 7, 7)`` of boxes with batch numbers, each from its own level."""
    x1, y1, x2, y2 = (F.slice_axis(rows, axis=1, begin=k, end=k + 1) for k in range(1, 5))
    area = F.broadcast_mul(F.relu(x2 - x1), F.relu(y2 - y1))
    level = F.floor(CANONICAL_LEVEL + F.log2(F.sqrt(area) / CANONICAL + 1e-6))  # Eq. 1, FPN
    level = F.reshape(F.clip(level, 2, 5), shape=(-1, 1, 1, 1))
    pooled = []
    # All boxes on all levels: a box of image -1, which MXNet passes over, has arbitrary features
    # on the CPU and puts a zero into those of the first box.
    for k, (features, stride) in enumerate(zip(maps, STRIDES)):
        size = {"pooled_size": ROI_SIZE, "sample_ratio": ROI_SAMPLES}
        found = F.contrib.ROIAlign(features, rows, spatial_scale=1 / stride, **size)
        here = F.broadcast_like(level == k + 2, found)
        pooled.append(F.where(here, found, F.zeros_like(found)))
    return F.add_n(*pooled)


class FasterRCNN(CocoNet):
    """The detector: image in, detections out.

    Image ``(B, 3, H, W)`` float32, RGB, normalised, sides multiples of 32, to classes ``(B, D)``,
    scores ``(B, D)`` and boxes ``(B, D, 4)`` as :class:`gluon_attn.coco.parts.ClasswiseNms` gives
    them, in pixels of the input. ``nms`` takes boxes of each class; ``proposals``: how many in
    training and in the test.
    """

    task, method, fit = "detection", "faster_rcnn", "pad"
    output_names = ("classes", "scores", "boxes")

    sides: tuple[int, int]  # most pixels of the shorter and of the longer side of an image
    frozen_stages: int

    def __init__(
        self, first: FirstStage, roi: RoiHead, nms: ClasswiseNms, proposals: tuple[int, int]
    ) -> None:
        super().__init__()
        self.classes = nms.classes
        self.train_proposals, self.test_proposals = proposals
        self.first, self.roi = first, roi
        self.propose, self.nms = Proposals(self.test_proposals), nms
        # The plain operators: MXNet's own decoder takes the first image's boxes for all.
        self.decode = gluoncv_module("nn.coder").NormalizedBoxCenterDecoder(
            STDS, convert_anchor=True, clip=CLIP, minimal_opset=True
        )

    @property
    def backbone(self) -> HybridBlock:
        """The complete ResNet, for loading its weights."""
        return self.first.trunk.whole

    def frozen_parameters(self) -> list:
        return self.first.trunk.parameters_of_stages(self.frozen_stages)

    def hybrid_forward(self, F: Any, x: Tensor) -> list:
        found = self.first(x)
        boxes, proposal_scores = self.propose(x, *found[: 3 * LEVELS])
        logits, offsets = self.roi(boxes, *found[3 * LEVELS :])
        scores = F.slice_axis(F.softmax(logits, axis=-1), axis=2, begin=1, end=None)
        scores = F.broadcast_mul(scores, proposal_scores > 0)  # rows without a proposal count not
        return list(self.nms(scores, self.decode(offsets, F.expand_dims(boxes, axis=2))))


def faster_rcnn(
    depth: int = 50,
    classes: int = 80,
    input_size: int = 800,
    width: int = 64,
    *,
    long_size: int = 1333,
    attention: Any = None,
    frozen_stages: int = 1,
    norm_eval: bool = True,
    fpn_channels: int = 256,
    hidden: int = 1024,
    train_proposals: int = 2000,
    test_proposals: int = 1000,
    nms_overlap: float = 0.5,
    score_threshold: float = 0.05,
    detections: int = 100,
    anchor_scale: float = 8,
) -> FasterRCNN:
    """Build Faster R-CNN with FPN on a ResNet v1b (:func:`gluon_attn.nets.resnet`).

    Args:
        input_size, long_size: Most pixels of the shorter and of the longer side of an image.
        frozen_stages: The stem and so many stages are not trained; 0: all is trained.
        norm_eval: Whether batch-norm of the backbone uses its running statistics in training.
        train_proposals, test_proposals: Anchors of a level that take part, and proposals.
        nms_overlap, score_threshold, detections: Of the last suppression.

    Raises ValueError: sizes or counts that do not fit; ImportError without GluonCV.
    """
    sides = (input_size, long_size)
    if not 1 <= sides[0] <= sides[1] or not 0 <= frozen_stages <= 4:
        raise ValueError(
            f"sides={sides}, frozen_stages={frozen_stages}: need 1 <= shorter <= longer "
            "side, and 0 to 4 stages"
        )
    frame = tuple(-(-side // 32) * 32 for side in sides)  # height and width for wide images
    backbone = resnet(depth, "v1b", width=width, attention=attention)
    trunk = StageFeatures(backbone, stages=(1, 2, 3, 4))
    for norm in layers_of(trunk, nn.BatchNorm) if norm_eval else ():
        norm._kwargs["use_global_stats"] = True
    counts = {"per_class": test_proposals, "detections": detections}
    nms = ClasswiseNms(classes, nms_overlap, score_threshold, own_boxes=True, **counts)
    first = FirstStage(trunk, fpn_channels, frame, anchor_scale)
    roi = RoiHead(classes, fpn_channels, hidden)
    net = FasterRCNN(first, roi, nms, (train_proposals, test_proposals))
    net.input_size, net.sides, net.frozen_stages = frame, sides, frozen_stages
    return infer_shapes(net, net)


class RpnTargets:
    """Which anchors the region proposal head learns from, chosen on the device.

    Ren et al., section 3.1.2 and 3.1.3: an anchor is positive from an overlap of 0.7 or if no other
    overlaps a box more, negative below 0.3; 256 ``samples`` of an image are drawn, half of them
    positive at most (``positives``). Anchors that cross the image's border are left out. GluonCV
    has the same in NumPy, drawn from a global generator that the threads of a loader would share.
    """

    def __init__(self, samples: int = 256, positives: float = 0.5) -> None:
        self._samples, self._most = samples, int(round(samples * positives))

    def __call__(self, anchors: Tensor, boxes: Tensor, extent: Tensor) -> tuple:
        """Return labels ``(N,)``: 1, 0, or -1 for anchors not drawn; and offsets ``(N, 4)``.

        ``anchors`` are ``(N, 4)`` and ``boxes`` ``(M, 4)`` corners in pixels, -1 in rows without a
        box; ``extent`` is width and height of the image.
        """
        inside = (anchors[:, :2] >= 0).min(axis=1) * nd.broadcast_lesser(
            anchors[:, 2:], nd.expand_dims(extent, axis=0)
        ).min(axis=1)
        overlap = nd.contrib.box_iou(anchors, boxes, format="corner")
        inside = nd.broadcast_like(nd.expand_dims(inside, axis=1), overlap)
        overlap = nd.where(inside, overlap, -nd.ones_like(overlap))
        best = overlap.max(axis=1)
        best_of_box = overlap.max(axis=0, keepdims=True)
        closest = nd.broadcast_greater_equal(overlap + EPSILON, best_of_box)
        closest = nd.broadcast_mul(closest, best_of_box >= LEAST).max(axis=1)
        positive = nd.broadcast_maximum(best >= POSITIVE, closest)
        negative = (best < NEGATIVE) * (best >= 0) * (1 - positive)
        random = nd.random.uniform(shape=anchors.shape[:1], ctx=anchors.context)
        positive = _choose(positive, random, self._most)
        negative = _choose(negative, random, self._samples - positive.sum())
        labels = positive - (1 - positive) * (1 - negative)
        rows = (positive, overlap.argmax(axis=1), anchors, boxes)
        means, stds = nd.zeros((4,), ctx=anchors.context), nd.ones((4,), ctx=anchors.context)
        samples, matches, anchors, refs = (nd.expand_dims(row, axis=0) for row in rows)
        offsets, _ = nd.contrib.box_encode(samples, matches, anchors, refs, means, stds)
        return labels, offsets[0]


def _choose(candidates: Tensor, random: Tensor, count: Any) -> Tensor:
    """Return ``count`` of the candidates, or all if they are fewer, as 1 among 0."""
    place = nd.argsort(nd.argsort(random * candidates, is_ascend=False))
    few = place < count if isinstance(count, int) else nd.broadcast_lesser(place, count)
    return few * candidates


class TwoStageLoss(HybridBlock):
    """Cross-entropies and smooth L1 of both stages (Ren et al., Eq. 1).

    Every sum over the batch is divided by the number of samples of its stage in the batch, and
    comes as one value per image whose mean over the images is that quotient.

    Inputs: rpn logits ``(B, N)``, offsets ``(B, N, 4)``, labels ``(B, N)`` in {1, 0, -1}, offset
    targets; then logits ``(B, S, K + 1)``, offsets ``(B, S, K, 4)``, classes ``(B, S)`` from 1, 0
    background, -1 not sampled, and offset targets ``(B, S, 4)``. Outputs: four losses ``(B,)``.
    Smooth L1 turns from a parabola to a line at ``rpn_beta`` and ``beta``.
    """

    output_names = ("rpn_class", "rpn_box", "class", "box")

    def __init__(self, rpn_beta: float = 1 / 9, beta: float = 1.0) -> None:
        super().__init__()
        self._rpn, self._roi = rpn_beta**-0.5, beta**-0.5  # the operator's scalar: |x| < 1 / s^2

    def hybrid_forward(self, F: Any, rpn_logits: Tensor, *others: Tensor) -> list:
        rpn_offsets, rpn_labels, rpn_targets, logits, offsets, classes, targets = others
        sampled, positive = rpn_labels >= 0, rpn_labels > 0
        # log(1 + exp(x)) - y x, without overflow
        entropy = F.relu(rpn_logits) - rpn_logits * positive
        entropy = entropy + F.Activation(-F.abs(rpn_logits), act_type="softrelu")
        distance = F.sum(F.smooth_l1(rpn_offsets - rpn_targets, scalar=self._rpn), axis=2)
        first = [_mean(F, entropy * sampled, sampled), _mean(F, distance * positive, sampled)]
        sampled, positive = classes >= 0, classes > 0
        entropy = -F.pick(F.log_softmax(logits, axis=-1), F.relu(classes), axis=-1)
        own = F.broadcast_like(F.expand_dims(F.relu(classes - 1), axis=2), targets)
        found = F.pick(F.transpose(offsets, axes=(0, 1, 3, 2)), own, axis=3)  # (B, S, 4)
        distance = F.sum(F.smooth_l1(found - targets, scalar=self._roi), axis=2)
        second = [_mean(F, entropy * sampled, sampled), _mean(F, distance * positive, sampled)]
        return first + second


def _mean(F: Any, values: Tensor, sampled: Tensor) -> Tensor:
    """Return an image's sum, times images over all samples, ``(B,)``."""
    per_image = F.sum(values, axis=1)
    images = F.sum(F.ones_like(per_image))
    return F.broadcast_mul(per_image, F.broadcast_div(images, F.maximum(F.sum(sampled), 1)))


@METHODS.register("faster_rcnn")
class FasterRcnnMethod(DetectorMethod):
    """Train a :class:`FasterRCNN`; no anchor outside of an image's frame is learnt."""

    trains = "faster_rcnn"
    OPTIONS = dict(
        DetectorMethod.WARM_UP,
        warmup_updates=500,
        warmup_start=0.001,
        rpn_samples=256,
        rpn_positives=0.5,
        samples=512,
        positives=0.25,
        overlap=0.5,  # from which a proposal is positive
        rpn_beta=1 / 9,
        beta=1.0,
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        net, options = self.net, self.options
        if not 0 < options["samples"] <= net.train_proposals:
            raise ValueError(
                f"samples={options['samples']}: must be positive and at most the proposals in "
                f"training, {net.train_proposals} (model_options.train_proposals)"
            )
        self._samplers: dict = {}
        self._propose = Proposals(net.train_proposals)
        self._rpn_targets = RpnTargets(options["rpn_samples"], options["rpn_positives"])
        self._loss = TwoStageLoss(options["rpn_beta"], options["beta"])
        coder = gluoncv_module("nn.coder")
        self._encode_class = coder.MultiClassEncoder()
        self._encode_box = coder.NormalizedBoxCenterEncoder(stds=STDS)
        for block in (self._propose, self._loss):
            block.hybridize()

    def begin_phase(self, phase: str) -> None:
        self.train_parameters(phase, trainable(self.net, self.net.frozen_parameters()))

    def forward(self, image: Tensor) -> dict:
        return {"first": self.net.first(image), "image": image}

    def losses(self, outputs: dict, batch: Batch) -> dict:
        found = outputs["first"]
        frame, objects = batch.label[:, 0, 2:4], batch.label[:, 1:]
        boxes, classes = objects[:, :, :4], objects[:, :, 4]
        anchors = nd.concat(*found[2 * LEVELS : 3 * LEVELS], dim=1)[0]
        with autograd.pause(), batch.image.context:  # the sampler draws on the current device
            pairs = [self._rpn_targets(anchors, b, f) for b, f in zip(boxes, frame)]
            rpn_labels, rpn_targets = (nd.stack(*arrays) for arrays in zip(*pairs))
            proposals, scores = self._propose(outputs["image"], *found[: 3 * LEVELS])
            rois, kinds, matches = self._sampler(*boxes.shape[:2])(proposals, scores, boxes)
            labels = self._encode_class(kinds, matches, classes)
            targets, _ = self._encode_box(kinds, matches, rois, boxes)
        logits, offsets = self.net.roi(rois, *found[3 * LEVELS :])
        rpn_logits = nd.concat(*found[:LEVELS], dim=1).squeeze(axis=2)
        rpn_offsets = nd.concat(*found[LEVELS : 2 * LEVELS], dim=1)
        first, second = (rpn_labels, rpn_targets), (logits, offsets, labels, targets)
        losses = self._loss(rpn_logits, rpn_offsets, *first, *second)
        return dict(zip(self._loss.output_names, losses))

    def _sampler(self, images: int, rows: int) -> Any:
        if (images, rows) not in self._samplers:
            module = gluoncv_module("model_zoo.rcnn.faster_rcnn.rcnn_target")
            counts = images, self.net.train_proposals, self.options["samples"]
            shares = self.options["overlap"], self.options["positives"]
            self._samplers[images, rows] = module.RCNNTargetSampler(*counts, *shares, rows)
        return self._samplers[images, rows]
