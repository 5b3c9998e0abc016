"""Backbones with named taps and an attention slot."""

from __future__ import annotations

from gluon_attn.nets.resnet import DEPTHS, ResNet, resnet
from gluon_attn.nets.taps import activation_shapes, name_outputs

__all__ = ["DEPTHS", "ResNet", "activation_shapes", "name_outputs", "resnet"]
