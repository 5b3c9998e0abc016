"""Training of Faster R-CNN with FPN: both stages at once, four losses.

Ren et al., NeurIPS 2015, Eq. 1 and section 3.2 ("approximate joint training"); settings of
mmdetection as far as docs/detection.md says. GluonCV gives the sampler and the encoding of boxes.

Legend: B pictures of a device, N anchors, M boxes, S sampled proposals, K classes.
"""

from __future__ import annotations

from mxnet import autograd, nd
from mxnet.gluon import HybridBlock

from gluon_attn.coco import warmup
from gluon_attn.coco.faster_rcnn import STDS, STRIDES, Proposals
from gluon_attn.coco.gluoncv_parts import gluoncv_module
from gluon_attn.coco.rpn_targets import RpnTargets
from gluon_attn.coco.ssd_method import trainable
from gluon_attn.method import METHODS, Method


class TwoStageLoss(HybridBlock):
    """Cross-entropies and smooth L1 of both stages.

    Every sum over the batch is divided by the number of samples of its stage in the batch, and
    comes as one value per picture whose mean over the pictures is that quotient.

    Inputs: rpn logits ``(B, N)``, offsets ``(B, N, 4)``, labels ``(B, N)`` in {1, 0, -1}, offset
    targets; then logits ``(B, S, K + 1)``, offsets ``(B, S, K, 4)``, classes ``(B, S)`` from 1, 0
    background, -1 not drawn, and offset targets ``(B, S, 4)``. Outputs: four losses ``(B,)``.

    Args:
        rpn_beta, beta: Where smooth L1 turns from a parabola to a line, in each stage.
    """

    def __init__(self, rpn_beta=1 / 9, beta=1.0, **kwargs):
        super().__init__(**kwargs)
        self._rpn, self._roi = rpn_beta**-0.5, beta**-0.5  # the operator's scalar: |x| < 1 / s^2

    def hybrid_forward(
        self, F, rpn_logits, rpn_offsets, rpn_labels, rpn_targets, logits, offsets, classes, targets
    ):
        """Return the class and box losses of the first, then of the second stage."""
        drawn, positive = rpn_labels >= 0, rpn_labels > 0
        # log(1 + exp(x)) - y x, without overflow
        entropy = F.relu(rpn_logits) - rpn_logits * positive
        entropy = entropy + F.Activation(-F.abs(rpn_logits), act_type="softrelu")
        distance = F.sum(F.smooth_l1(rpn_offsets - rpn_targets, scalar=self._rpn), axis=2)
        first = [_mean(F, entropy * drawn, drawn), _mean(F, distance * positive, drawn)]

        drawn, positive = classes >= 0, classes > 0
        entropy = -F.pick(F.log_softmax(logits, axis=-1), F.relu(classes), axis=-1)
        own = F.broadcast_like(F.expand_dims(F.relu(classes - 1), axis=2), targets)
        found = F.pick(F.transpose(offsets, axes=(0, 1, 3, 2)), own, axis=3)  # (B, S, 4)
        distance = F.sum(F.smooth_l1(found - targets, scalar=self._roi), axis=2)
        return first + [_mean(F, entropy * drawn, drawn), _mean(F, distance * positive, drawn)]


@METHODS.register("faster_rcnn")
class FasterRcnnMethod(Method):
    """Train a :class:`gluon_attn.coco.faster_rcnn.FasterRCNN`.

    Batches as for :class:`gluon_attn.coco.ssd_method.SsdMethod`; the first row of a label is
    the frame that the picture takes of the input, and no anchor outside of it is learnt.
    """

    OPTIONS = dict(
        warmup.OPTIONS,
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

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        net, options = self.net, self.options
        if getattr(net, "method", None) != "faster_rcnn":
            raise ValueError(
                f"method 'faster_rcnn' trains models named faster_rcnn…, not a {type(net).__name__}"
            )
        if not 0 < options["samples"] <= net.train_proposals:
            raise ValueError(
                f"samples={options['samples']}: must be positive and at most the proposals in "
                f"training, {net.train_proposals} (model_options.train_proposals)"
            )
        self._warmup = warmup.WarmUp(options, self.task.num_samples)
        self._rate, self._samplers = None, {}
        self._propose = Proposals(net.train_proposals, net.train_proposals)
        self._rpn_targets = RpnTargets(options["rpn_samples"], options["rpn_positives"])
        self._loss = TwoStageLoss(options["rpn_beta"], options["beta"])
        coder = gluoncv_module("nn.coder")
        self._encode_class = coder.MultiClassEncoder()
        self._encode_box = coder.NormalizedBoxCenterEncoder(stds=STDS)
        for block in (self._propose, self._loss):
            block.hybridize()

    def begin_phase(self, phase):
        """Train all parameters but those of the frozen stages."""
        self.train_parameters(phase, trainable(self.net, self.net.frozen_parameters()))

    def forward(self, image):
        """Return the first stage's outputs, and the image, whose size is needed."""
        return {"first": self.net.first(image), "image": image}

    def losses(self, outputs, batch):
        """Return the four losses, each ``(B,)``."""
        found, levels = outputs["first"], len(STRIDES)
        frame, objects = batch.label[:, 0, 2:4], batch.label[:, 1:]
        boxes, classes = objects[:, :, :4], objects[:, :, 4]
        anchors = nd.concat(*found[2 * levels : 3 * levels], dim=1)[0]
        with autograd.pause(), batch.image.context:  # the sampler draws on the current device
            pairs = [self._rpn_targets(anchors, b, f) for b, f in zip(boxes, frame)]
            rpn_labels, rpn_targets = (nd.stack(*arrays) for arrays in zip(*pairs))
            proposals, scores = self._propose(outputs["image"], *found[: 3 * levels])
            rois, kinds, matches = self._sampler(boxes)(proposals, scores, boxes)
            labels = self._encode_class(kinds, matches, classes)
            targets, _ = self._encode_box(kinds, matches, rois, boxes)
        logits, offsets = self.net.roi(rois, *found[3 * levels :])
        losses = self._loss(
            nd.concat(*found[:levels], dim=1).squeeze(axis=2),
            nd.concat(*found[levels : 2 * levels], dim=1), rpn_labels, rpn_targets, logits, offsets,
            labels, targets,
        )  # fmt: skip
        return dict(zip(("rpn_class", "rpn_box", "class", "box"), losses))

    def set_learning_rate(self, lr):
        """Set the learning rate behind the warm-up."""
        self._rate = lr

    def train_step(self, batch, held_out=None):
        """Make one update at the warm-up's share of the learning rate; see :class:`Method`."""
        done = self.trainer.optimizer.num_update
        self.trainer.set_learning_rate(self._rate * self._warmup.factor(done, len(batch.index)))
        return super().train_step(batch, held_out)

    def _sampler(self, boxes):
        """Return GluonCV's sampler for a batch of this many pictures and boxes."""
        size = boxes.shape[:2]
        if size not in self._samplers:
            sampler = gluoncv_module("model_zoo.rcnn.faster_rcnn.rcnn_target").RCNNTargetSampler
            self._samplers[size] = sampler(
                size[0], self.net.train_proposals, self.options["samples"], self.options["overlap"],
                self.options["positives"], size[1],
            )  # fmt: skip
        return self._samplers[size]


def _mean(F, values, drawn):
    """Return a picture's sum, times pictures over all samples, ``(B,)``."""
    per_image = F.sum(values, axis=1)
    pictures = F.sum(F.ones_like(per_image))
    return F.broadcast_mul(per_image, F.broadcast_div(pictures, F.maximum(F.sum(drawn), 1)))
