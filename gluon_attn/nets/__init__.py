"""Backbones with named taps and an attention slot."""

from __future__ import annotations

from gluon_attn.nets.attention import attention_blocks, attention_view
from gluon_attn.nets.efficientnet_lite import EfficientNetLite, efficientnet_lite
from gluon_attn.nets.resnet import (
    CIFAR_DEPTHS,
    DEPTHS,
    CifarResNet,
    ResNet,
    cifar_resnet,
    resnet,
    wide_resnet,
)
from gluon_attn.nets.taps import activation_shapes, name_outputs
from gluon_attn.nets.vgg import VGG, VGG_DEPTHS, vgg

__all__ = [
    "CIFAR_DEPTHS", "DEPTHS", "VGG", "VGG_DEPTHS", "CifarResNet", "EfficientNetLite", "ResNet",
    "activation_shapes", "attention_blocks", "attention_view", "cifar_resnet", "efficientnet_lite",
    "name_outputs", "resnet", "vgg", "wide_resnet",
]  # fmt: skip
