"""Detection and keypoints on our backbones, made of GluonCV's parts.

Importing this package registers its methods; the models and data sets register where their modules
are imported. GluonCV itself is imported when a net is built.
"""

from __future__ import annotations

from gluon_attn.coco import faster_rcnn, keypoints, ssd

__all__ = ["faster_rcnn", "keypoints", "ssd"]
