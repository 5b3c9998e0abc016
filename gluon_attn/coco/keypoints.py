"""Simple Baselines for keypoints: a ResNet, three transposed convolutions, one heat-map each.

Xiao, Wu, Wei, "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018. AutoLA's
supplement compares attention blocks in the residual units of its ResNet-50.

Legend: B batch, K keypoints, H W input size; heat-maps are (H / 4, W / 4).
"""

from __future__ import annotations

from mxnet import init
from mxnet.gluon import HybridBlock, nn

from gluon_attn.coco.features import StageFeatures
from gluon_attn.nets import attention_blocks

FILTERS, LAYERS, KERNEL = 256, 3, 4
SMALL = 0.001  # deviation of the initial weights of everything behind the backbone


class SimplePose(HybridBlock):
    """Backbone, three times (transposed convolution, batch-norm, ReLU), 1x1 convolution.

    Input: ``(B, 3, H, W)`` float32, H and W multiples of 32. Output: heat-maps
    ``(B, K, H / 4, W / 4)``, about 1 at a keypoint and 0 elsewhere; no activation.

    Args:
        net: ResNet without taps; its parts are taken over.
        keypoints: K.
        filters: Of each transposed convolution, 256 in the paper.

    Attributes:
        backbone: Its stem and stages; parameters keep their names.
        classes: K.
        output_names: ``('heatmaps',)``.
    """

    task = "keypoints"

    def __init__(self, net, keypoints=17, filters=FILTERS, **kwargs):
        super().__init__(**kwargs)
        self.classes, self.output_names = keypoints, ("heatmaps",)
        self.taps, self.tap_names, self.attention_outputs = (), (), ()
        normal = init.Normal(SMALL)
        self.backbone = StageFeatures(net, stages=(4,))
        # Trainers sort parameters by name; names of a scope do not depend on what was built before.
        with self.name_scope():
            self.head = nn.HybridSequential(prefix="head_")
            with self.head.name_scope():
                for _ in range(LAYERS):
                    self.head.add(
                        nn.Conv2DTranspose(
                            filters, KERNEL, strides=2, padding=1, use_bias=False,
                            weight_initializer=normal,
                        ),
                        nn.BatchNorm(),
                        nn.Activation("relu"),
                    )  # fmt: skip
            self.output = nn.Conv2D(
                keypoints, 1, weight_initializer=normal, bias_initializer="zeros"
            )  # fmt: skip

    def attention_blocks(self):
        """Return ``[(name, block), …]`` in network order; names such as ``stage3_unit5``."""
        return attention_blocks(self)

    def hybrid_forward(self, F, x):
        """Return the heat-maps."""
        return self.output(self.head(self.backbone(x)[0]))
