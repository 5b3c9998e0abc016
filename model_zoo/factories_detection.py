"""Detectors for the 80 categories of COCO, with each attention block in the backbone's slot.

=====================================  ========================================================
``ssd300_resnet50_coco``               SSD300 on the modified ResNet-50 (v1b)
``ssd300_se_resnet50_coco``            with SE, CBAM or HOGA
``faster_rcnn_fpn_resnet50_coco``      Faster R-CNN with FPN on ResNet-50 (v1b)
``faster_rcnn_fpn_se_resnet50_coco``   with SE, CBAM or HOGA
``ssd96_resnet18_w16_tiny``            a quarter-width ResNet-18 at 96 px, four maps, 5 classes;
                                       also with each block
``faster_rcnn_fpn_resnet18_w16_tiny``  the same at up to 96 x 128 px
=====================================  ========================================================

They need GluonCV. Other blocks and depths are arguments: ``get_model("ssd300_resnet50_coco",
attention="eca", depth=34)``.
"""

from __future__ import annotations

import mxnet as mx

from gluon_attn.coco.faster_rcnn import faster_rcnn
from gluon_attn.coco.ssd import ssd
from gluon_attn.nets import resnet
from model_zoo.names import register

BLOCKS = (None, "se", "cbam", "hoga")
TINY = 5  # categories that data/tiny_coco.py draws


def ssd_resnet(
    depth=50, classes=80, input_size=300, width=64, attention=None, levels=6, predictor_norm=False,
    nms_overlap=0.45, score_threshold=0.05, per_class=200, detections=100,
):  # fmt: skip
    """Build SSD on a ResNet v1b; see :func:`gluon_attn.coco.ssd.ssd`."""
    net = ssd(
        resnet(depth, "v1b", 1000, width, attention=attention), classes, input_size, levels, width,
        predictor_norm, nms_overlap, score_threshold, per_class, detections,
    )  # fmt: skip
    return _complete(net, net.raw)


def faster_rcnn_resnet(
    depth=50, classes=80, input_size=800, long_size=1333, width=64, attention=None,
    frozen_stages=1, norm_eval=True, fpn_channels=256, hidden=1024, train_proposals=2000,
    test_proposals=1000, nms_overlap=0.5, score_threshold=0.05, detections=100, anchor_scale=8,
):  # fmt: skip
    """Build Faster R-CNN with FPN on a ResNet v1b.

    ``input_size`` is the shorter side of pictures in pixels, ``long_size`` the most that the longer
    one may become; see :func:`gluon_attn.coco.faster_rcnn.faster_rcnn`.
    """
    net = faster_rcnn(
        resnet(depth, "v1b", 1000, width, attention=attention), classes, (input_size, long_size),
        frozen_stages, norm_eval, fpn_channels, hidden, train_proposals, test_proposals,
        nms_overlap, score_threshold, detections, anchor_scale,
    )  # fmt: skip
    return _complete(net, net)


def _complete(net, traced):
    """Infer all parameter shapes from a symbol: running a detector takes time."""
    outputs = traced(mx.sym.var("data"))
    group = mx.sym.Group(list(outputs))
    arguments, _, auxiliary = group.infer_shape(data=(1, 3) + tuple(net.input_size))
    shapes = dict(zip(group.list_arguments(), arguments))
    shapes.update(zip(group.list_auxiliary_states(), auxiliary))
    for name, parameter in net.collect_params().items():
        parameter.shape = shapes[name]
    return net


def _register_all():
    small = {"depth": 18, "width": 16, "classes": TINY, "input_size": 96}
    two = {
        "long_size": 128, "fpn_channels": 32, "hidden": 64, "train_proposals": 100,
        "test_proposals": 50, "anchor_scale": 4, "frozen_stages": 0, "norm_eval": False,
    }  # fmt: skip
    for block in BLOCKS:
        infix = f"{block}_" if block else ""
        options = {"attention": block}
        register(f"ssd300_{infix}resnet50_coco", ssd_resnet, **options)
        register(f"ssd96_{infix}resnet18_w16_tiny", ssd_resnet, levels=4, **small, **options)
        register(f"faster_rcnn_fpn_{infix}resnet50_coco", faster_rcnn_resnet, **options)
        register(
            f"faster_rcnn_fpn_{infix}resnet18_w16_tiny", faster_rcnn_resnet, **small, **two,
            **options,
        )  # fmt: skip


_register_all()
