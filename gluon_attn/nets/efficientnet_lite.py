"""EfficientNet-Lite with named taps and an attention slot.

EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, Tan, Le, ICML 2019, in the
"Lite" form that its authors published in 2020 (TPU repository, ``efficientnet/lite``): no
squeeze-and-excitation, ReLU6 instead of Swish, stem and head of fixed width. Its ImageNet weights
can be installed with pip, and it fine-tunes on a CPU: 0.4 billion multiply-adds for Lite0.

Stages are numbered as the seven groups of the paper's Table 1 that repeat a block, from 1; the head
convolution, which makes the last map before the pooling, is stage 8. ``stage5_activation2`` is the
last activation at 1/16 of the input size in Lite0, ``stage8_activation0`` the last map, at 1/32.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Sequence

from mxnet.gluon import HybridBlock, nn

from gluon_attn.blocks import Slot
from gluon_attn.core.tracing import is_for_inference
from gluon_attn.nets.attention import add_attention
from gluon_attn.nets.resnet import Attention, attention_per_stage
from gluon_attn.nets.taps import TappedNet, TappedStage, Taps, Tensor, check_choice, chosen_taps


class Group(NamedTuple):
    """A row of Table 1 of the paper: blocks of one kind, the first of which has the stride."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    filters: int


GROUPS = (
    Group(1, 3, 1, 1, 16),
    Group(2, 3, 2, 6, 24),
    Group(2, 5, 2, 6, 40),
    Group(3, 3, 2, 6, 80),
    Group(3, 5, 1, 6, 112),
    Group(4, 5, 2, 6, 192),
    Group(1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280  # not scaled in the Lite nets


class Variant(NamedTuple):
    """Factors on filters and repeats, the published input size, and dropout before the classifier.

    Source: ``efficientnet_lite_builder.py`` of the authors' TPU repository.
    """

    width: float
    depth: float
    input_size: int
    dropout: float


VARIANTS = {
    0: Variant(1.0, 1.0, 224, 0.2),
    1: Variant(1.0, 1.1, 240, 0.2),
    2: Variant(1.1, 1.2, 260, 0.3),
}


class ReLU6(HybridBlock):
    """min(max(x, 0), 6), whose derivative is 0 at 0 as that of a ReLU.

    MXNet's clip takes its three branches value by value, and half of the values below 0 make that
    hard to predict: behind a ReLU, which oneDNN does in its own layout, a training step of
    EfficientNet-Lite0 is 1.7 times as fast. An export has the clip alone, which becomes part of the
    convolution before it, also in int8.
    """

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        return F.clip(x if is_for_inference() else F.Activation(x, act_type="relu"), 0, 6)


class SameConv2D(nn.Conv2D):
    """A convolution without bias, padded as TensorFlow's "SAME".

    The result has ``ceil(n / stride)`` pixels a side. Where the padding is odd, the further pixel
    is on the right and at the bottom, which Gluon's own ``padding`` cannot say: so it depends on
    the size of the input, ``(H, W)``, which must be known.
    """

    def __init__(
        self, filters: int, kernel: int, stride: int, size: Sequence[int], *, in_channels: int,
        groups: int = 1,
    ) -> None:  # fmt: skip
        totals = [max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in size]
        even = not any(total % 2 for total in totals)
        super().__init__(
            filters, kernel, stride, tuple(total // 2 for total in totals) if even else 0,
            groups=groups, use_bias=False, in_channels=in_channels,
        )  # fmt: skip
        sides = [side for total in totals for side in (total // 2, total - total // 2)]
        self._sides = None if even else (0, 0, 0, 0, *sides)

    def hybrid_forward(self, F: Any, x: Tensor, weight: Tensor, bias: Tensor = None) -> Tensor:
        if self._sides is not None:
            x = F.pad(x, mode="constant", constant_value=0, pad_width=self._sides)
        return super().hybrid_forward(F, x, weight, bias)


class InvertedResidual(HybridBlock):
    """MBConv: widen with a 1x1 convolution, filter each channel, narrow without an activation.

    ``body`` has the layout of a ResNet bottleneck, so attention blocks find their place in it as
    they do there: at its end, or, for those made for it, behind the middle convolution. ``size`` is
    that of the input; ``stride`` may differ from the group's. ``is_residual``: a shortcut goes by.
    """

    def __init__(
        self, group: Group, in_channels: int, filters: int, stride: int, size: Sequence[int],
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        middle = in_channels * group.expand
        self.is_residual = stride == 1 and in_channels == filters
        self.body = nn.HybridSequential(prefix="")
        if group.expand > 1:
            self.body.add(*_conv(middle, 1, 1, size, in_channels=in_channels), ReLU6())
        self.body.add(
            *_conv(middle, group.kernel, stride, size, in_channels=middle, groups=middle), ReLU6()
        )
        self.body.add(*_conv(filters, 1, 1, size, in_channels=middle))

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        return x + self.body(x) if self.is_residual else self.body(x)


class EfficientNetLite(TappedNet, HybridBlock):
    """EfficientNet-Lite that returns its logits and, if asked, named stage activations.

    Inputs: image ``(B, 3, H, W)`` float32, ``(RGB - 127) / 128``; its size decides the padding of
    strided convolutions. Outputs: see :class:`TappedNet`. ``taps`` and ``attention`` are as in
    :class:`gluon_attn.nets.resnet.ResNet`, but only units with a shortcut have a slot: gates start
    half closed, and one after another without a way around them they would wipe out what trained
    weights know. Stages 1 and 7 and the head have none.
    """

    def __init__(
        self, variant: Variant, input_size: Sequence[int], *, classes: int = 1000,
        taps: Sequence[str] = (), attention: Attention = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        repeats = [_repeats(number, variant.depth) for number in range(len(GROUPS))]
        slots = [f"stage{number}" for number, count in enumerate(repeats, 1) if count > 1]
        blocks = attention_per_stage(attention, slots)
        self.classes = classes
        size, channels = tuple(input_size), STEM
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            self.features.add(*_conv(STEM, 3, 2, size, in_channels=3), ReLU6())
            size = _halved(size)
            for number, (group, count) in enumerate(zip(GROUPS, repeats), 1):
                filters = _filters(group.filters, variant.width)
                halved = number < len(GROUPS) and GROUPS[number].stride == 2  # by the next one
                stage = TappedStage(halved, prefix=f"stage{number}_")
                with stage.name_scope():
                    for k in range(count):
                        stride = group.stride if k == 0 else 1
                        unit = InvertedResidual(group, channels, filters, stride, size, prefix="")
                        if f"stage{number}" in blocks and unit.is_residual:
                            block = blocks[f"stage{number}"]
                            add_attention(unit, block, filters, Slot("", number, k))
                        stage.add(unit)
                        size, channels = (_halved(size) if stride == 2 else size), filters
                self.features.add(stage)
            head = TappedStage(prefix=f"stage{len(GROUPS) + 1}_")
            with head.name_scope():
                unit = nn.HybridSequential(prefix="")
                unit.add(*_conv(HEAD, 1, 1, size, in_channels=channels), ReLU6())
                head.add(unit)
            self.features.add(head, nn.GlobalAvgPool2D(), nn.Flatten())
            self.output = nn.Dense(classes, in_units=HEAD)
        self._set_taps(taps)


def efficientnet_lite(
    number: int = 0, input_size: Sequence[int] | None = None, *, classes: int = 1000,
    taps: Taps = (), attention: Attention = None, **kwargs: Any,
) -> EfficientNetLite:  # fmt: skip
    """Build EfficientNet-Lite 0, 1 or 2, by default for its published input size (224, 240, 260).

    ``taps=None`` means the last activation at 1/16 of the input size and the last map, which is
    where VAA's taps are in a ResNet.
    """
    check_choice("EfficientNet-Lite", number, tuple(VARIANTS))
    variant = VARIANTS[number]
    if taps is None:
        taps = (f"stage5_activation{_repeats(4, variant.depth) - 1}", "stage8_activation0")
    size = input_size or (variant.input_size, variant.input_size)
    return EfficientNetLite(
        variant, size, classes=classes, taps=chosen_taps(taps, ()), attention=attention, **kwargs
    )


def unit_counts(number: int) -> list[int]:
    """Return how many blocks each of the seven stages of EfficientNet-Lite ``number`` has."""
    return [_repeats(stage, VARIANTS[number].depth) for stage in range(len(GROUPS))]


def _conv(
    filters: int, kernel: int, stride: int, size: Sequence[int], *, in_channels: int,
    groups: int = 1,
) -> list[Any]:  # fmt: skip
    """Return a convolution and its batch-norm.

    Epsilon is the published one. The momentum of the running statistics is Gluon's 0.9 and not the
    published 0.99 (an assumption): fine-tuning has too few steps for that.
    """
    return [
        SameConv2D(filters, kernel, stride, size, in_channels=in_channels, groups=groups),
        nn.BatchNorm(epsilon=1e-3, in_channels=filters),
    ]


def _repeats(stage: int, depth: float) -> int:
    """Return the scaled number of blocks; the first and the last group are not scaled."""
    count = GROUPS[stage].repeats
    return count if stage in (0, len(GROUPS) - 1) else math.ceil(count * depth)


def _filters(filters: int, width: float) -> int:
    """Return the scaled number of filters, a multiple of 8 and never below nine tenths."""
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def _halved(size: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.ceil(n / 2) for n in size)
