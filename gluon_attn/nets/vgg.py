"""VGG with named taps.

Very Deep Convolutional Networks for Large-Scale Image Recognition, Simonyan, Zisserman, ICLR 2015.

Gluon's ``VGG`` with the convolutions of every stage in a
:class:`gluon_attn.nets.taps.TappedStage`, so that stages can be tapped and the net can be cut
between them; ``stage5_activation3`` is the last convolution layer of VGG-19,
``stage4_activation3`` that of the penultimate block. Parameter names stay Gluon's
(``features.0.weight``, ``features.2.weight``, …), and so do weight files.
"""

from __future__ import annotations

from typing import Any, Iterator, Sequence

from mxnet.gluon import HybridBlock, Parameter, nn
from mxnet.gluon.model_zoo.vision.vgg import vgg_spec
from mxnet.initializer import Xavier

from gluon_attn.nets.taps import (
    TappedNet,
    TappedStage,
    Taps,
    Tensor,
    check_choice,
    check_sizes,
    chosen_taps,
)

VGG_DEPTHS = tuple(sorted(vgg_spec))


class VGG(TappedNet, HybridBlock):
    """VGG that returns its logits and, if asked, named stage activations.

    Inputs: image ``(B, 3, H, W)`` float32, sides from 32. Outputs: see :class:`TappedNet`; taps lie
    in front of the stage's max-pooling. ``layers`` and ``filters`` are those of each stage,
    ``hidden`` the units of the two dense layers, 4096 in the paper. ``pool`` is the side to which
    the last maps are pooled (mean) in front of them: with 7, weights made at 224 pixels fit every
    input, as in torchvision.
    """

    def __init__(
        self, layers: Sequence[int], filters: Sequence[int], classes: int = 1000,
        batch_norm: bool = False, *, hidden: int = 4096, taps: Sequence[str] = (),
        pool: int | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.classes = classes
        random = {"weight_initializer": "normal", "bias_initializer": "zeros"}
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            for units, width in zip(layers, filters):
                self.features.add(_stage(units, width, batch_norm), nn.MaxPool2D(strides=2))
            if pool:
                self.features.add(AdaptivePool(pool))
            for _ in range(2):
                self.features.add(nn.Dense(hidden, activation="relu", **random), nn.Dropout(0.5))
            self.output = nn.Dense(classes, **random)
        self._set_taps(taps)

    def _collect_params_with_prefix(self, prefix: str = "") -> dict[str, Parameter]:
        """Return the parameters by Gluon's flat names, which saving and loading go by."""
        prefix = prefix + "." if prefix else ""
        found = {}
        for number, layer in enumerate(self._flat_features()):
            found.update(layer._collect_params_with_prefix(f"{prefix}features.{number}"))
        found.update(self.output._collect_params_with_prefix(prefix + "output"))
        return found

    def _flat_features(self) -> Iterator[HybridBlock]:
        """Yield the layers of ``features`` in the order and number of Gluon's VGG."""
        for layer in self.features:
            if isinstance(layer, TappedStage):
                for unit in layer:
                    yield from unit
            elif not isinstance(layer, AdaptivePool):  # which Gluon's does not have
                yield layer


class AdaptivePool(HybridBlock):
    """Mean pooling to ``side`` pixels, whatever the size of the maps."""

    def __init__(self, side: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._side = int(side)

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        return F.contrib.AdaptiveAvgPooling2D(x, output_size=self._side)


def _stage(units: int, filters: int, batch_norm: bool) -> TappedStage:
    """Return a stage of 3x3 convolutions, each with its ReLU."""
    stage = TappedStage(prefix="")  # no prefix of their own: names are those of Gluon's flat net
    for _ in range(units):
        unit, start = nn.HybridSequential(prefix=""), Xavier("gaussian", "out", 2)
        unit.add(nn.Conv2D(filters, 3, padding=1, weight_initializer=start))
        if batch_norm:
            unit.add(nn.BatchNorm())
        unit.add(nn.Activation("relu"))
        stage.add(unit)
    return stage


def vgg(
    depth: int, classes: int = 1000, batch_norm: bool = False, width: int = 64, *,
    hidden: int = 4096, taps: Taps = (), pool: int | None = None, **kwargs: Any,
) -> VGG:  # fmt: skip
    """Build a VGG of depth 11, 13, 16 or 19; ``width``, 64 in the paper, is that of the first
    stage.

    ``taps=None`` means the last activation of stages 4 and 5.
    """
    check_choice("VGG depth", depth, VGG_DEPTHS)
    check_sizes("VGG", width=width, hidden=hidden, pool=pool or 1)
    layers, filters = vgg_spec[depth]
    return VGG(
        layers, [max(1, f * width // 64) for f in filters], classes=classes, batch_norm=batch_norm,
        hidden=hidden, taps=chosen_taps(taps, layers), pool=pool, **kwargs,
    )  # fmt: skip
