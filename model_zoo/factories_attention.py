"""ResNets for small pictures, wide ResNets, and ResNets with an attention block in every unit.

=================================  ==========================================================
``se_resnet50``                    SE, CBAM, SRM or ECA in ResNet v1b (18 … 152), 1000 classes
``cifar_resnet20_cifar10``         ResNet for 32x32 pixels (20 … 110), also ``_cifar100``
``cifar_resnet20_w64_cifar100``    the same, base width 64, as in AutoLA's CIFAR-100 runs
``se_resnet20_cifar10``            with a block (20, 32, 56), also ``_w64_cifar100``
``wide_resnet50_2``                wide ResNet v1b (18, 50, 101), 1000 classes
``resnet18_w16_digits``            a quarter-width ResNet-18 for 10 digits, 64 px: trains on a CPU
``se_resnet18_w16_digits``         the same with a block
=================================  ==========================================================

Every other ResNet of the zoo takes a block too: ``get_model("vaa_resnet101", attention="srm")``.
"""

from __future__ import annotations

from gluon_attn.nets import DEPTHS, cifar_resnet, wide_resnet
from model_zoo.factories import classifier, plain_resnet
from model_zoo.names import register

BLOCK_NAMES = ("se", "cbam", "srm", "eca")
CIFAR = {"cifar10": 10, "cifar100": 100}


def small_resnet(
    depth=20, classes=10, input_size=32, width=16, taps=(), attention=None, dropout=0.0
):
    """Build a ResNet of three stages for small pictures; arguments as ``plain_resnet``."""
    return classifier(
        cifar_resnet(depth, classes, width, taps=taps, attention=attention), input_size, dropout
    )


def wider_resnet(
    depth=50, factor=2, classes=1000, input_size=224, width=64, taps=(), attention=None,
    dropout=0.0,
):  # fmt: skip
    """Build a wide ResNet v1b, ``factor`` times as wide; arguments as ``plain_resnet``."""
    net = wide_resnet(depth, factor, classes, width, taps=taps, attention=attention)
    return classifier(net, input_size, dropout)


def _register_all():
    digits = {"depth": 18, "version": "v1b", "width": 16, "input_size": 64, "classes": 10}
    register("resnet18_w16_digits", plain_resnet, **digits)
    for block in BLOCK_NAMES:
        register(f"{block}_resnet18_w16_digits", plain_resnet, attention=block, **digits)
        for depth in DEPTHS:
            net = {"depth": depth, "version": "v1b", "attention": block}
            register(f"{block}_resnet{depth}", plain_resnet, **net)
    for depth in (20, 32, 44, 56, 110):
        for data, classes in CIFAR.items():
            net = {"depth": depth, "classes": classes}
            register(f"cifar_resnet{depth}_{data}", small_resnet, **net)
    for depth in (20, 32, 56):
        wide = {"depth": depth, "classes": 100, "width": 64}
        register(f"cifar_resnet{depth}_w64_cifar100", small_resnet, **wide)
        for block in BLOCK_NAMES:
            register(f"{block}_resnet{depth}_cifar10", small_resnet, depth=depth, attention=block)
            register(f"{block}_resnet{depth}_w64_cifar100", small_resnet, attention=block, **wide)
    for depth in (18, 50, 101):
        register(f"wide_resnet{depth}_2", wider_resnet, depth=depth)


_register_all()
