"""ResNets with named taps and an attention slot: for ImageNet, for small images, and wide ones.

Deep Residual Learning for Image Recognition, He, Zhang, Ren, Sun, CVPR 2016 ("paper").
Wide Residual Networks, Zagoruyko, Komodakis, BMVC 2016.

The nets are Gluon's own ``ResNetV1`` (same structure, so the same parameter names
``features.4.0.body.0.weight`` and the same weight files) with named ``taps``, an ``attention``
block on the residual branch, after its last batch-norm and before the addition, and a base
``width``, 64 in the paper; smaller ones make nets that train on a CPU in minutes.

``v1`` is Gluon's variant (bottlenecks with the stride and a bias on the 1x1 convolutions);
``v1b`` has the stride on the 3x3 convolution and no biases, as in GluonCV's v1b and in torchvision.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence, Union

from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.model_zoo.vision.resnet import BasicBlockV1, BottleneckV1, ResNetV1, resnet_spec

from gluon_attn.blocks import Slot
from gluon_attn.blocks.gates import global_mean
from gluon_attn.nets.attention import add_attention
from gluon_attn.nets.taps import (
    TappedNet,
    TappedStage,
    Taps,
    Tensor,
    check_choice,
    check_sizes,
    chosen_taps,
)

DEPTHS = tuple(sorted(resnet_spec))
VERSIONS = ("v1", "v1b")
CIFAR_DEPTHS = (8, 14, 20, 32, 44, 56, 110)  # 8 and 14 are for small experiments

Attention = Union[str, Mapping[str, str], None]


class BottleneckV1b(BottleneckV1):
    """Bottleneck with the stride on the 3x3 convolution and no convolution biases.

    Replaces the three convolutions of Gluon's ``BottleneckV1``; the positions in ``body`` stay.
    """

    inner_width = 1  # factor on the filters of the 3x3 convolution

    def __init__(
        self, channels: int, stride: int, downsample: bool = False, in_channels: int = 0,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(channels, stride, downsample, in_channels, **kwargs)
        inner = channels // 4 * self.inner_width
        self.body = nn.HybridSequential(prefix="")
        for filters, kernel, strides in ((inner, 1, 1), (inner, 3, stride), (channels, 1, 1)):
            self.body.add(nn.Conv2D(filters, kernel, strides, kernel // 2, use_bias=False))
            self.body.add(nn.BatchNorm())
            if filters != channels:
                self.body.add(nn.Activation("relu"))


class WideBottleneckV1b(BottleneckV1b):
    """Bottleneck v1b whose 3x3 convolution has twice the filters."""

    inner_width = 2


class ResNet(TappedNet, ResNetV1):
    """ResNet v1 / v1b that returns its logits and, if asked, named stage activations.

    Inputs: image ``(B, 3, H, W)`` float32. Outputs: see :class:`TappedNet`.

    Args:
        channels: Channels of the stem and of each stage.
        taps: Names such as ``stage3_activation22``, any number, any order.
        attention: Name of a registered attention block for all stages, or a dict
            ``{'stage4': name}``, or None.
        thumbnail: Gluon's stem for small images (one 3x3 convolution).
        structure: Name of this structure for blocks that have published settings per net, such
            as ``resnet50``.
    """

    def __init__(
        self, block: type[HybridBlock], layers: Sequence[int], channels: Sequence[int], *,
        classes: int = 1000, taps: Sequence[str] = (), attention: Attention = None,
        thumbnail: bool = False, structure: str = "", **kwargs: Any,
    ) -> None:  # fmt: skip
        # Set first: Gluon's constructor calls _make_layer.
        self._attention = attention_per_stage(
            attention, [f"stage{number}" for number in range(1, len(layers) + 1)]
        )
        self._structure = structure
        super().__init__(block, layers, channels, classes=classes, thumbnail=thumbnail, **kwargs)
        self.classes = classes
        self._set_taps(taps)

    def _make_layer(
        self, block: type[HybridBlock], layers: int, channels: int, stride: int,
        stage_index: int, in_channels: int = 0,
    ) -> TappedStage:  # fmt: skip
        layer = TappedStage(prefix=f"stage{stage_index}_")
        attention = self._attention.get(f"stage{stage_index}")
        with layer.name_scope():
            for number in range(layers):
                unit = block(channels, stride, channels != in_channels, in_channels, prefix="")
                stride, in_channels = 1, channels
                if attention is not None:
                    slot = Slot(self._structure, stage_index, number)
                    add_attention(unit, attention, channels, slot)
                layer.add(unit)
        return layer


class GlobalMean(nn.GlobalAvgPool2D):
    """Global average pooling, ``(B, C, H, W)`` to ``(B, C, 1, 1)``, as a matrix product.

    For maps of 8 x 8, MXNet gives the gradient of its pooling a memory layout for which oneDNN's
    batch-norm has no kernel on a CPU: CIFAR's ResNets train 1.5 to 2 times as fast without it. An
    export has the pooling.
    """

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        return global_mean(F, x)


class CifarResNet(ResNet):
    """ResNet for small images: 3 stages of n units, 6n + 2 layers (paper, section 4.2).

    A 3x3 convolution with batch-norm and ReLU, three stages of n units of two 3x3 convolutions with
    w, 2w and 4w filters, the second and third stage at half the resolution of the one before,
    global average pooling, one dense layer. At 32x32 pixels the maps are 32, 16 and 8 wide.

    Deviation: where the width changes, the shortcut is a 1x1 convolution with batch-norm (the
    paper's option B), as in the code of AutoLA (Ma et al., NeurIPS 2020); the paper's CIFAR nets
    pad zeros.

    Inputs: image ``(B, 3, H, W)`` float32, sides from 4. ``units`` is n, ``width`` w.
    """

    def __init__(self, units: int, width: int, **kwargs: Any) -> None:
        channels = [width, width, 2 * width, 4 * width]
        super().__init__(BasicBlockV1, [units] * 3, channels, thumbnail=True, **kwargs)
        convolution, *stages, pool = list(self.features)
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            self.features.add(convolution, nn.BatchNorm(in_channels=width), nn.Activation("relu"))
            self.features.add(*stages, GlobalMean(prefix=pool.prefix))


def resnet(
    depth: int, version: str = "v1", classes: int = 1000, width: int = 64, *, taps: Taps = (),
    attention: Attention = None, **kwargs: Any,
) -> ResNet:  # fmt: skip
    """Build a ResNet of depth 18, 34, 50, 101 or 152; ``width`` is that of the stem.

    ``taps=None`` means the last activation of stages 3 and 4.
    """
    check_choice("ResNet depth", depth, DEPTHS)
    check_choice("ResNet version", version, VERSIONS)
    check_sizes("ResNet", width=width)
    kind, layers, channels = resnet_spec[depth]
    bottleneck = BottleneckV1 if version == "v1" else BottleneckV1b
    return ResNet(
        BasicBlockV1 if kind == "basic_block" else bottleneck, layers,
        [c * width // 64 for c in channels], classes=classes, taps=chosen_taps(taps, layers),
        attention=attention, structure=f"resnet{depth}", **kwargs,
    )  # fmt: skip


def cifar_resnet(
    depth: int, classes: int = 10, width: int = 16, *, taps: Taps = (),
    attention: Attention = None, **kwargs: Any,
) -> CifarResNet:  # fmt: skip
    """Build a ResNet for small images, of depth 8, 14, 20, 32, 44, 56 or 110: 6n + 2 layers.

    ``width`` is that of the first stage: 16 in the paper, 64 in AutoLA's CIFAR-100 nets.
    ``taps=None`` means the last activation of the last two stages.
    """
    check_choice("CIFAR ResNet depth", depth, CIFAR_DEPTHS)
    check_sizes("CIFAR ResNet", width=width)
    units = (depth - 2) // 6
    return CifarResNet(
        units, width, classes=classes, taps=chosen_taps(taps, [units] * 3), attention=attention,
        structure=f"cifar_resnet{depth}", **kwargs,
    )  # fmt: skip


def wide_resnet(
    depth: int = 50, factor: float = 2, classes: int = 1000, width: int = 64, *, taps: Taps = (),
    attention: Attention = None, **kwargs: Any,
) -> ResNet:  # fmt: skip
    """Build a wide ResNet, in the form v1b.

    Units of three convolutions (depth 50, 101, 152): the 3x3 convolution has twice the filters, the
    outputs stay as wide as in the ResNet (WRN-50-2-bottleneck). Units of two convolutions (depth
    18, 34): all four stages are ``factor`` times as wide (WRN-18-1.5, WRN-18-2). The stem stays as
    it is: ``width``, 64 in the paper.
    """
    check_choice("wide ResNet depth", depth, DEPTHS)
    check_sizes("wide ResNet", width=width)
    kind, layers, channels = resnet_spec[depth]
    channels = [c * width // 64 for c in channels]
    basic = kind == "basic_block"
    if basic:
        channels[1:] = [int(c * factor) for c in channels[1:]]
    if (not basic and factor != 2) or min(channels) < 1:
        valid = "numbers that leave a filter in every stage" if basic else "2"
        raise ValueError(f"wide ResNet-{depth} factor {factor}: valid is {valid}")
    return ResNet(
        BasicBlockV1 if basic else WideBottleneckV1b, layers, channels, classes=classes,
        taps=chosen_taps(taps, layers), attention=attention, structure=f"wide_resnet{depth}",
        **kwargs,
    )  # fmt: skip


def attention_per_stage(attention: Attention, stages: Sequence[str]) -> dict[str, str]:
    """Return ``{'stage1': block, …}`` of an ``attention`` argument, for stages that take blocks."""
    if attention is None:
        return {}
    if isinstance(attention, str):
        return dict.fromkeys(stages, attention)
    for stage in attention:
        check_choice("attention stage", stage, stages)
    return dict(attention)
