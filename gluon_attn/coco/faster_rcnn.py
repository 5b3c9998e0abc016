"""Faster R-CNN with a feature pyramid on our ResNets, made of GluonCV's parts.

Faster R-CNN, Ren, He, Girshick, Sun, NeurIPS 2015; Feature Pyramid Networks for Object Detection,
Lin et al., CVPR 2017. The supplement of Auto Learning Attention, Ma et al., NeurIPS 2020, takes
"FPN neck, RPN Head, and ROI Head" and "all the parameters" from mmdetection: docs/detection.md.

Legend: B batch, N anchors of all levels, R proposals, K classes, D detections.
"""

from __future__ import annotations

import mxnet as mx
from mxnet import gluon
from mxnet.gluon import HybridBlock, nn

from gluon_attn.coco.features import StageFeatures, fix_statistics
from gluon_attn.coco.gluoncv_parts import gluoncv_module
from gluon_attn.coco.nms import CLIP, KEEP_ALL, ClasswiseNms
from gluon_attn.nets import attention_blocks

STRIDES = (4, 8, 16, 32, 64)  # of the pyramid's maps P2 … P6
ANCHOR_RATIOS = (0.5, 1.0, 2.0)
STDS = (0.1, 0.1, 0.2, 0.2)  # of the offsets from proposals; those from anchors are not scaled
RPN_OVERLAP = 0.7
CANONICAL, CANONICAL_LEVEL = 224.0, 4  # a proposal of 224 x 224 pixels is looked at on P4
ROI_SIZE, ROI_SAMPLES = (7, 7), 2


def frame_of(sides, multiple=32):
    """Return height and width of the frame for wide pictures: both sides rounded up."""
    return tuple(-(-side // multiple) * multiple for side in sides)


def pyramid(channels):
    """Return GluonCV's FPN as a block of its own: C2 … C5 to P2 … P6, P6 by subsampling P5."""

    class Neck(gluoncv_module("nn.feature").FPNFeatureExpander, _SeveralInputs):
        """The pyramid alone: GluonCV's grows it on a backbone of one input."""

    names = [f"c{k}" for k in range(2, 6)]
    with mx.name.NameManager():  # else the names that are looked up carry the prefix of a scope
        inputs = [mx.sym.var(name, dtype="float32") for name in names]
        taps = [mx.sym.identity(v, name=f"{name}_in") for v, name in zip(inputs, names)]
        block = Neck(
            mx.sym.Group(taps), [f"{name}_in" for name in names], [channels] * 4, use_1x1=True,
            use_upsample=True, use_elewadd=True, use_p6=True, p6_conv=False, no_bias=False,
            inputs=inputs,
        )  # fmt: skip
    for name, parameter in block.collect_params().items():
        parameter.init = "zeros" if name.endswith("bias") else mx.init.Xavier()
    return block


class _SeveralInputs(gluon.SymbolBlock):
    """Takes a group of inputs apart, as SymbolBlock wants a list."""

    def __init__(self, outputs, inputs, params=None):
        super().__init__(outputs, [inputs[k] for k in range(len(inputs.list_outputs()))], params)


class FirstStage(HybridBlock):
    """Backbone, pyramid and region proposal head.

    Input: image ``(B, 3, H, W)`` float32. Outputs, each from P2 to P6: five logits ``(B, n, 1)``,
    five offsets ``(B, n, 4)``, five anchors ``(1, n, 4)``; then the maps P2 to P5.

    Args:
        trunk: StageFeatures of stages 1 to 4.
        channels: Of the pyramid and the head.
        frame: Height and width of the largest input.
        anchor_scale: Side of a square anchor, in strides of its level.
    """

    def __init__(self, trunk, channels, frame, anchor_scale, **kwargs):
        super().__init__(**kwargs)
        anchor = gluoncv_module("model_zoo.rcnn.rpn.anchor").RPNAnchorGenerator
        head = gluoncv_module("model_zoo.rcnn.rpn.rpn").RPNHead
        with self.name_scope():
            self.trunk = trunk
            self.neck = pyramid(channels)
            self.head = head(channels, len(ANCHOR_RATIOS))
            self.anchors = nn.HybridSequential()
            for stride in STRIDES:
                side = -(-max(frame) // stride)
                self.anchors.add(
                    anchor(stride, stride, ANCHOR_RATIOS, (anchor_scale,), (side, side))
                )

    def hybrid_forward(self, F, x):
        """Return logits, offsets and anchors of every level, and the maps."""
        maps = self.neck(*self.trunk(x))
        found = [self.head(m)[2:] for m in maps]
        anchors = [generate(m) for m, generate in zip(maps, self.anchors)]
        return [f[0] for f in found] + [f[1] for f in found] + anchors + list(maps[:4])


class Proposals(HybridBlock):
    """The best boxes of all levels, each level suppressed on its own.

    Inputs: image (only its size counts), then the first 15 outputs of :class:`FirstStage`. Outputs:
    boxes ``(B, R, 4)`` corners in pixels; scores ``(B, R, 1)``, -1 in rows without a proposal. No
    gradient passes.

    Args:
        per_level: Anchors of a level that take part.
        total: R.
    """

    def __init__(self, per_level, total, **kwargs):
        super().__init__(**kwargs)
        self._per_level, self._total = per_level, total
        proposal = gluoncv_module("model_zoo.rcnn.rpn.proposal").RPNProposal
        self.refine = proposal(CLIP, 0, (1.0, 1.0, 1.0, 1.0))

    def hybrid_forward(self, F, image, *found):
        """Return boxes and scores."""
        levels, common = len(STRIDES), {"coord_start": 1, "score_index": 0, "id_index": -1}
        rows = []
        for k in range(levels):
            scores = F.sigmoid(F.BlockGrad(found[k]))
            row = self.refine(
                found[2 * levels + k], scores, F.BlockGrad(found[levels + k]), F.BlockGrad(image)
            )
            row = F.contrib.box_nms(row, overlap_thresh=RPN_OVERLAP, topk=self._per_level, **common)
            rows.append(row)
        rows = F.contrib.box_nms(
            F.concat(*rows, dim=1), overlap_thresh=KEEP_ALL, topk=self._total, **common
        )
        rows = F.BlockGrad(F.slice_axis(rows, axis=1, begin=0, end=self._total))
        boxes = F.slice_axis(rows, axis=2, begin=1, end=5)
        return boxes, F.slice_axis(rows, axis=2, begin=0, end=1)


class RoiHead(HybridBlock):
    """What the maps say about boxes: two shared dense layers on 7 x 7 aligned features.

    Inputs: boxes ``(B, R, 4)`` corners in pixels; maps P2 to P5. Outputs: logits ``(B, R, K + 1)``,
    background first; offsets ``(B, R, K, 4)``, of each class.

    Args:
        classes: K.
        channels: Of the maps.
        hidden: Units of the dense layers.
    """

    def __init__(self, classes, channels, hidden, **kwargs):
        super().__init__(**kwargs)
        self._classes = classes
        inputs = channels * ROI_SIZE[0] * ROI_SIZE[1]
        uniform = mx.init.Xavier()
        with self.name_scope():
            self.shared = nn.HybridSequential()
            for units in (inputs, hidden):
                layer = nn.Dense(hidden, in_units=units, weight_initializer=uniform)
                self.shared.add(layer, nn.Activation("relu"))
            self.classify = nn.Dense(
                classes + 1, in_units=hidden, weight_initializer=mx.init.Normal(0.01)
            )
            self.refine = nn.Dense(
                4 * classes, in_units=hidden, weight_initializer=mx.init.Normal(0.001)
            )

    def hybrid_forward(self, F, boxes, *maps):
        """Return logits and offsets."""
        number = F.reshape(F.contrib.arange_like(boxes, axis=0), shape=(-1, 1, 1))
        first = F.slice_axis(boxes, axis=2, begin=0, end=1)
        rows = F.reshape(F.concat(F.broadcast_like(number, first), boxes, dim=2), shape=(-3, 0))
        features = self.shared(F.Flatten(_aligned(F, rows, maps)))
        logits, offsets = (
            F.reshape_like(head(features), boxes, lhs_begin=0, lhs_end=1, rhs_begin=0, rhs_end=2)
            for head in (self.classify, self.refine)
        )
        return logits, F.reshape(offsets, shape=(0, 0, self._classes, 4))


class FasterRCNN(HybridBlock):
    """The detector: image in, detections out.

    Input: image ``(B, 3, H, W)`` float32, RGB, normalised, sides multiples of 32. Outputs: classes
    ``(B, D)``, scores ``(B, D)``, boxes ``(B, D, 4)`` as
    :class:`gluon_attn.coco.nms.ClasswiseNms` gives them, in pixels of the input.

    Args:
        first: :class:`FirstStage`.
        roi: :class:`RoiHead`.
        nms: ClasswiseNms for boxes of each class.
        proposals: Anchors of a level that take part, and proposals, in training and in the test.
        frozen_stages: As in :func:`faster_rcnn`.

    Attributes:
        output_names: Names of the outputs.
        backbone: The complete ResNet, for loading its weights.
        sides: Most pixels of the shorter and of the longer side of a picture.
        task: 'detection'.
    """

    task, method, fit = "detection", "faster_rcnn", "pad"
    taps, tap_names, attention_outputs = (), (), ()
    output_names = ("classes", "scores", "boxes")

    def __init__(self, first, roi, nms, proposals, frozen_stages, **kwargs):
        super().__init__(**kwargs)
        self.classes, self.frozen_stages = nms.classes, frozen_stages
        self.train_proposals, self.test_proposals = proposals
        self.first, self.roi = first, roi
        self.propose, self.nms = Proposals(self.test_proposals, self.test_proposals), nms
        # The plain operators: MXNet's own decoder takes the first picture's boxes for all.
        self.decode = gluoncv_module("nn.coder").NormalizedBoxCenterDecoder(
            STDS, convert_anchor=True, clip=CLIP, minimal_opset=True
        )

    @property
    def backbone(self):
        """The complete ResNet."""
        return self.first.trunk.whole

    def attention_blocks(self):
        """Return ``[(name, block), …]`` in network order; names such as ``stage3_unit5``."""
        return attention_blocks(self)

    def frozen_parameters(self):
        """Return the parameters that are not trained, as a list."""
        return self.first.trunk.parameters_of_stages(self.frozen_stages)

    def hybrid_forward(self, F, x):
        """Return the detections."""
        found = self.first(x)
        boxes, proposal_scores = self.propose(x, *found[: 3 * len(STRIDES)])
        logits, offsets = self.roi(boxes, *found[3 * len(STRIDES) :])
        scores = F.slice_axis(F.softmax(logits, axis=-1), axis=2, begin=1, end=None)
        scores = F.broadcast_mul(scores, proposal_scores > 0)  # rows without a proposal count not
        return list(self.nms(scores, self.decode(offsets, F.expand_dims(boxes, axis=2))))


def faster_rcnn(
    resnet, classes=80, sides=(800, 1333), frozen_stages=1, norm_eval=True, fpn_channels=256,
    hidden=1024, train_proposals=2000, test_proposals=1000, nms_overlap=0.5, score_threshold=0.05,
    detections=100, anchor_scale=8,
):  # fmt: skip
    """Build Faster R-CNN with FPN on a ResNet.

    Args:
        resnet: Net of :func:`gluon_attn.nets.resnet`, v1b, without taps; it is taken over.
        classes: K, without background.
        sides: Most pixels of the shorter and of the longer side of a picture.
        frozen_stages: The stem and so many stages are not trained; 0: all is trained.
        norm_eval: Whether batch-norm of the backbone uses its running statistics in training.
        fpn_channels, hidden: See :class:`FirstStage` and :class:`RoiHead`.
        train_proposals, test_proposals: Anchors of a level that take part, and proposals.
        nms_overlap, score_threshold, detections: Of the last suppression.
        anchor_scale: See :class:`FirstStage`.

    Raises:
        ValueError: Sizes or counts that do not fit.
        ImportError: GluonCV is not installed.
    """
    if not 1 <= sides[0] <= sides[1] or not 0 <= frozen_stages <= 4:
        raise ValueError(
            f"sides={tuple(sides)}, frozen_stages={frozen_stages}: need 1 <= shorter <= longer "
            "side, and 0 to 4 stages"
        )
    frame = frame_of(sides)
    trunk = StageFeatures(resnet, stages=(1, 2, 3, 4))
    if norm_eval:
        fix_statistics(trunk)
    nms = ClasswiseNms(
        classes, nms_overlap, score_threshold, test_proposals, detections
    ).with_own_boxes()
    net = FasterRCNN(
        FirstStage(trunk, fpn_channels, frame, anchor_scale),
        RoiHead(classes, fpn_channels, hidden), nms, (train_proposals, test_proposals),
        frozen_stages,
    )  # fmt: skip
    net.input_size, net.sides = frame, tuple(sides)
    return net


def _aligned(F, rows, maps):
    """Return the features ``(R, C, 7, 7)`` of boxes with batch numbers, each from its own level."""
    x1, y1, x2, y2 = (F.slice_axis(rows, axis=1, begin=k, end=k + 1) for k in range(1, 5))
    area = F.broadcast_mul(F.relu(x2 - x1), F.relu(y2 - y1))
    level = F.floor(CANONICAL_LEVEL + F.log2(F.sqrt(area) / CANONICAL + 1e-6))  # Eq. 1, FPN
    level = F.reshape(F.clip(level, 2, 5), shape=(-1, 1, 1, 1))
    pooled = []
    # All boxes on all levels: a box of picture -1, which MXNet passes over, has arbitrary features
    # on the CPU and puts a zero into those of the first box.
    for k, (features, stride) in enumerate(zip(maps, STRIDES)):
        found = F.contrib.ROIAlign(
            features, rows, pooled_size=ROI_SIZE, spatial_scale=1 / stride,
            sample_ratio=ROI_SAMPLES,
        )  # fmt: skip
        here = F.broadcast_like(level == k + 2, found)
        pooled.append(F.where(here, found, F.zeros_like(found)))
    return F.add_n(*pooled)
