"""Attention maps of a class score, from a feature map and the score's gradient there."""

from __future__ import annotations

from gluon_attn.maps.channel import channel_weighted
from gluon_attn.maps.gradcam import grad_cam

MAPS = {"channel_weighted": channel_weighted, "grad_cam": grad_cam}

__all__ = ["MAPS", "channel_weighted", "grad_cam"]
