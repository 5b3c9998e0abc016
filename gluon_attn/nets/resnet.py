"""ResNet v1 and v1b with named taps and an attention slot.

Deep Residual Learning for Image Recognition, He, Zhang, Ren, Sun, CVPR 2016.

The nets are Gluon's own ``ResNetV1`` (same structure, so the same parameter names
``features.4.0.body.0.weight`` and the same weight files) with three additions:

* ``taps``: named stage activations that are returned beside the logits;
* ``attention``: an attention block on the residual branch, after its last batch-norm and before
  the addition, in every unit of the chosen stages;
* ``width``: base width, 64 in the paper; smaller ones make nets that train on a CPU in minutes.

``v1`` is Gluon's variant (bottlenecks with the stride and a bias on the 1x1 convolutions);
``v1b`` has the stride on the 3x3 convolution and no biases, as in GluonCV's v1b and in torchvision.
"""

from __future__ import annotations

from mxnet.gluon import nn
from mxnet.gluon.model_zoo.vision.resnet import (
    BasicBlockV1,
    BottleneckV1,
    ResNetV1,
    resnet_spec,
)

from gluon_attn.blocks import Slot
from gluon_attn.nets.attention import add_attention, attention_blocks
from gluon_attn.nets.taps import TappedStage, parse_tap

DEPTHS = tuple(sorted(resnet_spec))
VERSIONS = ("v1", "v1b")


class BottleneckV1b(BottleneckV1):
    """Bottleneck with the stride on the 3x3 convolution and no convolution biases.

    Replaces the three convolutions of Gluon's ``BottleneckV1``; the positions in ``body`` stay.
    """

    inner_width = 1  # factor on the filters of the 3x3 convolution

    def __init__(self, channels, stride, downsample=False, in_channels=0, **kwargs):
        super().__init__(channels, stride, downsample, in_channels, **kwargs)
        inner = channels // 4 * self.inner_width
        self.body = nn.HybridSequential(prefix="")
        for filters, kernel, strides, padding in (
            (inner, 1, 1, 0),
            (inner, 3, stride, 1),
            (channels, 1, 1, 0),
        ):
            self.body.add(nn.Conv2D(filters, kernel, strides, padding, use_bias=False))
            self.body.add(nn.BatchNorm())
            if filters != channels:
                self.body.add(nn.Activation("relu"))


class ResNet(ResNetV1):
    """ResNet v1 / v1b that returns its logits and, if asked, named stage activations.

    Inputs: image ``(B, 3, H, W)`` float32. Outputs: logits ``(B, classes)``; with taps a list
    ``[logits, activation, …]`` named by ``output_names``.

    Args:
        block: Residual unit class with Gluon's signature.
        layers: Units of each stage.
        channels: Channels of the stem and of each stage.
        classes: Length of the logits.
        taps: Names such as ``stage3_activation22``, any number, any order.
        attention: Name of a registered attention block for all stages, or a dict
            ``{'stage4': name}``, or None.
        thumbnail: Gluon's stem for small images (one 3x3 convolution).
        structure: Name of this structure for blocks that have published settings per net, such
            as ``resnet50``.

    Raises:
        ValueError: Unknown tap, attention block or stage.
    """

    def __init__(
        self,
        block,
        layers,
        channels,
        classes=1000,
        taps=(),
        attention=None,
        thumbnail=False,
        structure="",
        **kwargs,
    ):
        # Set first: Gluon's constructor calls _make_layer.
        self._attention = attention_per_stage(attention, len(layers))
        self._structure = structure
        super().__init__(block, layers, channels, classes=classes, thumbnail=thumbnail, **kwargs)
        stages = [s for s in self.features if isinstance(s, TappedStage)]
        self.classes = classes
        self.taps = tuple(taps)
        self.output_names = ("logits",) + self.taps
        self.attention_outputs = ()
        for stage, unit in (parse_tap(name, layers) for name in dict.fromkeys(self.taps)):
            stages[stage].taps += (unit,)
        self.tap_names = tuple(
            f"stage{s + 1}_activation{k}" for s, units in enumerate(layers) for k in range(units)
        )

    def _make_layer(self, block, layers, channels, stride, stage_index, in_channels=0):
        layer = TappedStage(prefix=f"stage{stage_index}_")
        attention = self._attention.get(f"stage{stage_index}")
        with layer.name_scope():
            for number in range(layers):
                unit = block(
                    channels,
                    stride if number == 0 else 1,
                    number == 0 and channels != in_channels,
                    in_channels=in_channels if number == 0 else channels,
                    prefix="",
                )
                if attention is not None:
                    slot = Slot(self._structure, stage_index, number)
                    add_attention(unit, attention, channels, slot)
                layer.add(unit)
        return layer

    def attention_blocks(self):
        """Return ``[(name, block), …]`` in network order; names such as ``stage3_unit22``."""
        return attention_blocks(self)

    def hybrid_forward(self, F, x):
        """Return the logits, followed by the tapped activations in the order of ``taps``."""
        tapped = {}
        stage_number = 0
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, TappedStage):
                stage_number += 1
                if layer.taps:
                    names = [f"stage{stage_number}_activation{k}" for k in layer.taps]
                    tapped.update(zip(names, x[1:]))
                    x = x[0]
        logits = self.output(x)
        return [logits] + [tapped[name] for name in self.taps] if self.taps else logits


def resnet(depth, version="v1", classes=1000, width=64, taps=(), attention=None, **kwargs):
    """Build a ResNet.

    Args:
        depth: 18, 34, 50, 101 or 152.
        version: ``'v1'`` or ``'v1b'``.
        classes: Length of the logits.
        width: Channels of the stem; the stages scale with it.
        taps: See :class:`ResNet`; ``None`` means the last activation of stages 3 and 4.
        attention: See :class:`ResNet`.

    Raises:
        ValueError: Unknown depth, version, tap or attention block.
    """
    if depth not in DEPTHS:
        raise ValueError(f"ResNet depth {depth}: valid are {', '.join(map(str, DEPTHS))}")
    if version not in VERSIONS:
        raise ValueError(f"ResNet version {version!r}: valid are {', '.join(VERSIONS)}")
    if not isinstance(width, int) or width < 1:
        raise ValueError(f"ResNet width {width!r}: valid are whole numbers from 1")
    taps = (taps,) if isinstance(taps, str) else taps  # "key=value" without a comma gives a text
    kind, layers, channels = resnet_spec[depth]
    channels = [c * width // 64 for c in channels]
    bottleneck = BottleneckV1 if version == "v1" else BottleneckV1b
    if taps is None:
        taps = last_activations(layers)
    return ResNet(
        BasicBlockV1 if kind == "basic_block" else bottleneck,
        layers, channels, classes=classes, taps=taps, attention=attention,
        structure=f"resnet{depth}", **kwargs
    )  # fmt: skip


def last_activations(layers):
    """Return the names of the last activation of the last two stages.

    For ResNet-101 these are ``stage3_activation22`` and ``stage4_activation2``, the two that the
    VAA supplement names.
    """
    return tuple(f"stage{s}_activation{layers[s - 1] - 1}" for s in (len(layers) - 1, len(layers)))


def attention_per_stage(attention, count):
    """Return ``{'stage1': block, …}`` of an ``attention`` argument, for ``count`` stages.

    Raises:
        ValueError: Unknown stage.
    """
    stages = [f"stage{number + 1}" for number in range(count)]
    if attention is None:
        return {}
    if isinstance(attention, str):
        return dict.fromkeys(stages, attention)
    for stage in attention:
        if stage not in stages:
            raise ValueError(f"attention stage {stage!r}: valid are {', '.join(stages)}")
    return dict(attention)
