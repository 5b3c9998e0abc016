"""Detection and keypoints on our backbones, made of GluonCV's parts.

Importing this package registers the training methods; GluonCV itself is imported when a net is
built.
"""

from __future__ import annotations

from gluon_attn.coco import faster_rcnn_method, keypoints_method, ssd_method

__all__ = ["faster_rcnn_method", "keypoints_method", "ssd_method"]
