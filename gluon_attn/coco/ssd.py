"""SSD300 on our ResNets: the modified backbone, extra layers with batch-norm, predictors.

SSD: Single Shot MultiBox Detector, Liu et al., ECCV 2016; the ResNet backbone as in the supplement
of Auto Learning Attention, Ma et al., NeurIPS 2020: "The conv5_x, average pooling, fc, and the
softmax layers are removed […]. All strides in conv4_x are set to 1. Detector heads are enhanced by
additional BatchNorm layers after each convolution." GluonCV gives anchors, predictors and decoder.

Legend: B batch, N anchors (8732 at 300 x 300), K classes. Assumptions: docs/detection.md.
"""

from __future__ import annotations

import math

from mxnet.gluon import HybridBlock, nn

from gluon_attn.coco.features import StageFeatures
from gluon_attn.coco.gluoncv_parts import gluoncv_module
from gluon_attn.coco.nms import CLIP, ClasswiseNms
from gluon_attn.nets import attention_blocks

STDS = (0.1, 0.1, 0.2, 0.2)  # of the offsets: centre x, y, width, height
EXTRA_FILTERS = (512, 512, 256, 256, 256)
RATIOS = ((1, 2, 0.5),) + ((1, 2, 0.5, 3, 1 / 3),) * 3 + ((1, 2, 0.5),) * 2
HALVING = 3  # the first extra layers halve the map, those behind cut a border of one off


def feature_sizes(input_size, levels=6):
    """Return the side of every map that is predicted from: 38, 19, 10, 5, 3, 1 for 300 pixels.

    Raises:
        ValueError: The input is too small for so many levels, or the levels are not 2 to 6.
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


def anchor_sizes(input_size, levels=6):
    """Return the ``levels + 1`` anchor sides in pixels: 21, 45, 99, …, 315 for 300 and 6 levels."""
    step = 0.9 / (levels - 1)
    shares = [0.07] + [0.15 + step * k for k in range(levels)]
    return [share * input_size for share in shares]


def anchor_steps(input_size, levels=6):
    """Return the distance of anchors in pixels on every level: 8, 16, 32, 64, 100, 300."""
    sizes = feature_sizes(input_size, levels)
    return [2 ** (3 + k) if k <= HALVING else input_size / side for k, side in enumerate(sizes)]


class SsdPredictions(HybridBlock):
    """What SSD predicts for every anchor: the part that is trained.

    Input: image ``(B, 3, S, S)`` float32. Outputs: logits ``(B, N, K + 1)``, background first;
    offsets ``(B, N, 4)``; anchors ``(1, N, 4)``: centre x, y, width, height in pixels.

    Args:
        trunk: :class:`gluon_attn.coco.features.StageFeatures` of stage 3 at stride 8.
        classes: K, without background.
        input_size: S in pixels.
        levels: Number of maps that are predicted from.
        width: Base width of the backbone; the extra layers scale with it.
        predictor_norm: Whether a batch-norm follows each predictor as well.
    """

    output_names = ("logits", "offsets", "anchors")

    def __init__(self, trunk, classes, input_size, levels, width, predictor_norm, **kwargs):
        super().__init__(**kwargs)
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
            for k in range(levels):
                generator = anchor(
                    k, (input_size, input_size), (sizes[k], sizes[k + 1]), RATIOS[k], steps[k],
                    (sides[k], sides[k]), clip=True,
                )  # fmt: skip
                self.anchors.add(generator)
                for predictors, columns in (
                    (self.class_predictors, self._columns), (self.box_predictors, 4),
                ):  # fmt: skip
                    layer = nn.HybridSequential()
                    layer.add(predictor(generator.num_depth * columns))
                    if predictor_norm:
                        layer.add(nn.BatchNorm())
                    predictors.add(layer)

    def hybrid_forward(self, F, x):
        """Return logits, offsets and anchors."""
        maps = list(self.trunk(x))
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        logits, offsets = (
            F.concat(*(F.Flatten(F.transpose(predict(m), axes=(0, 2, 3, 1)))
                       for m, predict in zip(maps, predictors)), dim=1)
            for predictors in (self.class_predictors, self.box_predictors)
        )  # fmt: skip
        anchors = F.concat(*(anchor(m) for m, anchor in zip(maps, self.anchors)), dim=1)
        logits = F.reshape(logits, shape=(0, -1, self._columns))
        return logits, F.reshape(offsets, shape=(0, -1, 4)), anchors


class SSD(HybridBlock):
    """The detector: image in, detections out.

    Input: image ``(B, 3, S, S)`` float32, RGB, normalised. Outputs: classes ``(B, D)``, scores
    ``(B, D)``, boxes ``(B, D, 4)`` as :class:`gluon_attn.coco.nms.ClasswiseNms` gives them,
    in pixels of the input; with ``candidates`` then the class probabilities ``(B, N, K)`` and boxes
    ``(B, N, 4)`` before suppression.

    Args:
        raw: :class:`SsdPredictions`.
        nms: :class:`gluon_attn.coco.nms.ClasswiseNms`.
        candidates: Whether the candidates are outputs too.

    Attributes:
        output_names: Names of the outputs.
        backbone: The complete ResNet, for loading its weights.
        task: 'detection'.
    """

    task, method, fit = "detection", "ssd", "stretch"
    taps, tap_names, attention_outputs = (), (), ()

    def __init__(self, raw, nms, candidates=False, **kwargs):
        super().__init__(**kwargs)
        self.classes, self._candidates = nms.classes, candidates
        self.output_names = ("classes", "scores", "boxes")
        self.output_names += ("candidate_scores", "candidate_boxes") if candidates else ()
        self.raw, self.nms = raw, nms
        self.decode = gluoncv_module("nn.coder").NormalizedBoxCenterDecoder(STDS, clip=CLIP)

    @property
    def backbone(self):
        """The complete ResNet."""
        return self.raw.trunk.whole

    def attention_blocks(self):
        """Return ``[(name, block), …]`` in network order; names such as ``stage3_unit5``."""
        return attention_blocks(self)

    def with_candidates(self):
        """Return a view of this net, on its parameters, with the candidates as further outputs."""
        view = SSD(self.raw, self.nms, candidates=True)
        view.input_size = self.input_size
        return view

    def hybrid_forward(self, F, x):
        """Return the detections, and the candidates if they are outputs."""
        logits, offsets, anchors = self.raw(x)
        scores = F.slice_axis(F.softmax(logits, axis=-1), axis=2, begin=1, end=None)
        boxes = self.decode(offsets, anchors)
        found = list(self.nms(scores, boxes))
        return found + [scores, boxes] if self._candidates else found


def ssd(
    resnet, classes=80, input_size=300, levels=6, width=64, predictor_norm=False, nms_overlap=0.45,
    score_threshold=0.05, per_class=200, detections=100,
):  # fmt: skip
    """Build SSD on a ResNet.

    Args:
        resnet: Net of :func:`gluon_attn.nets.resnet`, v1b, without taps; it is taken over.
        classes, input_size, levels, width, predictor_norm: See :class:`SsdPredictions`.
        nms_overlap, score_threshold, per_class, detections: See
            :class:`gluon_attn.coco.nms.ClasswiseNms`.

    Raises:
        ValueError: Sizes that do not fit; the message says what is valid.
        ImportError: GluonCV is not installed.
    """
    feature_sizes(input_size, levels)
    trunk = StageFeatures(resnet, stages=(3,), keep=(3,))
    raw = SsdPredictions(trunk, classes, input_size, levels, width, predictor_norm)
    nms = ClasswiseNms(classes, nms_overlap, score_threshold, per_class, detections)
    net = SSD(raw, nms)
    net.input_size = (input_size, input_size)
    return net


def _extra_layer(filters, halves):
    """Return 1x1 and 3x3 convolution, each with batch-norm and ReLU."""
    layer = nn.HybridSequential()
    strides, padding = (2, 1) if halves else (1, 0)
    for channels, kernel, stride, pad in ((filters // 2, 1, 1, 0), (filters, 3, strides, padding)):
        layer.add(nn.Conv2D(channels, kernel, stride, pad, use_bias=False))
        layer.add(nn.BatchNorm(), nn.Activation("relu"))
    return layer
