"""Wide ResNets for ImageNet-sized pictures.

Wide Residual Networks, Zagoruyko, Komodakis, BMVC 2016.

Units of three convolutions (depth 50, 101, 152): the 3x3 convolution has twice the filters, the
outputs stay as wide as in the ResNet (WRN-50-2-bottleneck). Units of two convolutions (depth 18,
34): all four stages are ``factor`` times as wide (WRN-18-1.5, WRN-18-2). The stem stays as it is.
"""

from __future__ import annotations

from mxnet.gluon.model_zoo.vision.resnet import BasicBlockV1, resnet_spec

from gluon_attn.nets.resnet import DEPTHS, BottleneckV1b, ResNet, last_activations


class WideBottleneckV1b(BottleneckV1b):
    """Bottleneck v1b whose 3x3 convolution has twice the filters."""

    inner_width = 2


def wide_resnet(depth=50, factor=2, classes=1000, width=64, taps=(), attention=None, **kwargs):
    """Build a wide ResNet, in the form v1b.

    Args:
        depth: 18, 34, 50, 101 or 152.
        factor: How many times as wide; 2 for depths of 50 and more, any for 18 and 34.
        classes: Length of the logits.
        width: Channels of the stem; 64 in the paper.
        taps: As in :func:`gluon_attn.nets.resnet`.
        attention: As in :func:`gluon_attn.nets.resnet`.

    Raises:
        ValueError: Unknown depth, factor, tap or attention block.
    """
    if depth not in DEPTHS:
        raise ValueError(f"wide ResNet depth {depth}: valid are {', '.join(map(str, DEPTHS))}")
    if not isinstance(width, int) or width < 1:
        raise ValueError(f"wide ResNet width {width!r}: valid are whole numbers from 1")
    kind, layers, channels = resnet_spec[depth]
    channels = [c * width // 64 for c in channels]
    if kind == "basic_block":
        channels[1:] = [int(c * factor) for c in channels[1:]]
    if (kind != "basic_block" and factor != 2) or min(channels) < 1:
        valid = "2" if kind != "basic_block" else "numbers that leave a filter in every stage"
        raise ValueError(f"wide ResNet-{depth} factor {factor}: valid is {valid}")
    taps = (taps,) if isinstance(taps, str) else taps  # "key=value" without a comma gives a text
    if taps is None:
        taps = last_activations(layers)
    return ResNet(
        BasicBlockV1 if kind == "basic_block" else WideBottleneckV1b,
        layers, channels, classes=classes, taps=taps, attention=attention,
        structure=f"wide_resnet{depth}", **kwargs
    )  # fmt: skip
