"""Models of this package, registered in the model zoo.

=====================================  =========================================================
``ssd300_resnet50_coco``               SSD300 on the modified ResNet-50 (v1b), 80 categories
``faster_rcnn_fpn_resnet50_coco``      Faster R-CNN with FPN on ResNet-50 (v1b)
``simple_pose_resnet50_coco``          Simple Baselines, ResNet-50 (v1b), 17 heat-maps, 256 x 192
``ssd300_se_resnet50_coco``            the same with SE in every unit; all also with CBAM or HOGA
``ssd96_resnet18_w16_tiny``            a quarter-width ResNet-18 at 96 px, four maps, 5 classes
``faster_rcnn_fpn_resnet18_w16_tiny``  the same at up to 96 x 128 px; both also with each block
``simple_pose_resnet18_w16_tiny``      the same at 128 x 96, for trying things out
=====================================  =========================================================

Detectors need GluonCV. Keypoint nets return heat-maps, no logits. Other blocks and depths are
arguments: ``get_model("ssd300_resnet50_coco", attention="eca", depth=34)``.
"""

from __future__ import annotations

from gluon_attn.coco.faster_rcnn import faster_rcnn
from gluon_attn.coco.keypoints import simple_pose
from gluon_attn.coco.ssd import ssd
from model_zoo.registry import register

BLOCKS = (None, "se", "cbam", "hoga")
TINY = 5  # categories of the tiny set of the tests


def _register_all() -> None:
    small = {"depth": 18, "width": 16, "classes": TINY, "input_size": 96}
    two = {
        "long_size": 128, "fpn_channels": 32, "hidden": 64, "train_proposals": 100,
        "test_proposals": 50, "anchor_scale": 4, "frozen_stages": 0, "norm_eval": False,
    }  # fmt: skip
    for block in BLOCKS:
        infix, options = f"{block}_" if block else "", {"attention": block}
        tiny = {**small, **options}
        register(f"ssd300_{infix}resnet50_coco", ssd, **options)
        register(f"ssd96_{infix}resnet18_w16_tiny", ssd, levels=4, **tiny)
        register(f"faster_rcnn_fpn_{infix}resnet50_coco", faster_rcnn, **options)
        register(f"faster_rcnn_fpn_{infix}resnet18_w16_tiny", faster_rcnn, **two, **tiny)
        register(f"simple_pose_{infix}resnet50_coco", simple_pose, **options)
    register("simple_pose_resnet18_w16_tiny", simple_pose, depth=18, width=16, input_size=128)


_register_all()
