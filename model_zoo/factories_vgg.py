"""VGG nets.

==============================  ==========================================================
``vgg19``, ``vgg19_bn``         VGG for 1000 ImageNet classes (11, 13, 16, 19)
``vgg11_w8_digits``             an eighth of the width for 10 digits, 64 px: trains on a CPU
==============================  ==========================================================
"""

from __future__ import annotations

from gluon_attn.nets.vgg import VGG_DEPTHS, vgg
from model_zoo.factories import infer_shapes
from model_zoo.names import register


def plain_vgg(
    depth=16, classes=1000, input_size=224, batch_norm=False, width=64, hidden=4096, taps=(),
    pool=0,
):  # fmt: skip
    """Build a VGG; ``input_size`` fixes the size of the first dense layer unless ``pool`` does.

    ``pool`` is the side to which the last maps are pooled in front of it, 0 for no such pooling:
    with 7, weights made at 224 pixels fit every input size.
    """
    net = vgg(depth, classes, batch_norm, width, hidden=hidden, taps=taps, pool=pool or None)
    net.input_size = (input_size, input_size)
    return infer_shapes(net)


def _register_all():
    for depth in VGG_DEPTHS:
        register(f"vgg{depth}", plain_vgg, depth=depth)
        register(f"vgg{depth}_bn", plain_vgg, depth=depth, batch_norm=True)
    small = {"width": 8, "hidden": 64, "input_size": 64, "classes": 10}
    register("vgg11_w8_digits", plain_vgg, depth=11, **small)


_register_all()
