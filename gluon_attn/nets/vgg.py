"""VGG with named taps.

Very Deep Convolutional Networks for Large-Scale Image Recognition, Simonyan, Zisserman, ICLR 2015.

Gluon's ``VGG`` with the convolutions of every stage in a
:class:`gluon_attn.nets.taps.TappedStage`, so that stages can be tapped and the net can be cut
between them. Parameter names stay Gluon's (``features.0.weight``, ``features.2.weight``, …), and so
do weight files. Additions:

* ``taps``: named activations that are returned beside the logits: ``stage5_activation3`` is the
  last convolution layer of VGG-19, ``stage4_activation3`` that of the penultimate block;
* ``width``: filters of the first stage, 64 in the paper, and ``hidden``: units of the two dense
  layers, 4096 in the paper;
* ``pool``: side to which the last maps are pooled (mean) in front of the dense layers, whatever
  the input size: with 7, weights made at 224 pixels fit every input, as in torchvision.
"""

from __future__ import annotations

from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.model_zoo.vision.vgg import vgg_spec
from mxnet.initializer import Xavier

from gluon_attn.nets.taps import TappedStage, parse_tap

VGG_DEPTHS = tuple(sorted(vgg_spec))


class VGG(HybridBlock):
    """VGG that returns its logits and, if asked, named stage activations.

    Inputs: image ``(B, 3, H, W)`` float32, sides from 32. Outputs: logits ``(B, classes)``; with
    taps a list ``[logits, activation, …]`` named by ``output_names``. Taps lie in front of the
    stage's max-pooling.

    Args:
        layers: Convolutions of each stage.
        filters: Filters of each stage.
        classes: Length of the logits.
        batch_norm: Whether every convolution is followed by batch-norm.
        hidden: Units of the two dense layers.
        taps: Names such as ``stage5_activation3``, any number, any order.
        pool: Side of the maps that reach the dense layers; None: whatever the input size gives.

    Raises:
        ValueError: Unknown tap.
    """

    attention_outputs = ()

    def __init__(
        self, layers, filters, classes=1000, batch_norm=False, hidden=4096, taps=(), pool=None,
        **kwargs,
    ):  # fmt: skip
        super().__init__(**kwargs)
        self.classes, self.taps = classes, tuple(taps)
        self.output_names = ("logits",) + self.taps
        self.tap_names = tuple(
            f"stage{s + 1}_activation{k}" for s, units in enumerate(layers) for k in range(units)
        )
        random = {"weight_initializer": "normal", "bias_initializer": "zeros"}
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            stages = [_stage(units, width, batch_norm) for units, width in zip(layers, filters)]
            for stage in stages:
                self.features.add(stage, nn.MaxPool2D(strides=2))
            if pool:
                self.features.add(AdaptivePool(pool))
            for _ in range(2):
                self.features.add(nn.Dense(hidden, activation="relu", **random), nn.Dropout(0.5))
            self.output = nn.Dense(classes, **random)
        for stage, unit in (parse_tap(name, layers) for name in dict.fromkeys(self.taps)):
            stages[stage].taps += (unit,)

    def hybrid_forward(self, F, x):
        """Return the logits, followed by the tapped activations in the order of ``taps``."""
        tapped, number = {}, 0
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, TappedStage):
                number += 1
                if layer.taps:
                    names = [f"stage{number}_activation{k}" for k in layer.taps]
                    tapped.update(zip(names, x[1:]))
                    x = x[0]
        logits = self.output(x)
        return [logits] + [tapped[name] for name in self.taps] if self.taps else logits

    def _collect_params_with_prefix(self, prefix=""):
        """Return the parameters under Gluon's names: ``features`` is a flat list of layers there.

        Gluon's method of this name is what saving and loading go by.
        """
        prefix = prefix + "." if prefix else ""
        found = {}
        for number, layer in enumerate(self._flat_features()):
            found.update(layer._collect_params_with_prefix(f"{prefix}features.{number}"))
        found.update(self.output._collect_params_with_prefix(prefix + "output"))
        return found

    def _flat_features(self):
        """Yield the layers of ``features`` in the order and number of Gluon's VGG."""
        for layer in self.features:
            if isinstance(layer, TappedStage):
                for unit in layer:
                    yield from unit
            elif not isinstance(layer, AdaptivePool):  # which Gluon's does not have
                yield layer


class AdaptivePool(HybridBlock):
    """Mean pooling to a fixed side, whatever the size of the maps.

    Args:
        side: Of the result, in pixels.
    """

    def __init__(self, side, **kwargs):
        super().__init__(**kwargs)
        self._side = int(side)

    def hybrid_forward(self, F, x):
        """Return ``(B, C, side, side)``."""
        return F.contrib.AdaptiveAvgPooling2D(x, output_size=self._side)


def _stage(units, filters, batch_norm):
    """Return a stage of 3x3 convolutions, each with its ReLU."""
    stage = TappedStage(prefix="")  # no prefix of their own: names are those of Gluon's flat net
    for _ in range(units):
        unit = nn.HybridSequential(prefix="")
        unit.add(
            nn.Conv2D(
                filters, kernel_size=3, padding=1, bias_initializer="zeros",
                weight_initializer=Xavier("gaussian", "out", 2),
            )
        )  # fmt: skip
        if batch_norm:
            unit.add(nn.BatchNorm())
        unit.add(nn.Activation("relu"))
        stage.add(unit)
    return stage


def vgg(depth, classes=1000, batch_norm=False, width=64, hidden=4096, taps=(), pool=None, **kwargs):
    """Build a VGG.

    Args:
        depth: 11, 13, 16 or 19.
        classes, batch_norm, hidden, pool: See :class:`VGG`.
        width: Filters of the first stage; the others scale with it.
        taps: See :class:`VGG`; ``None`` means the last activation of stages 4 and 5.

    Raises:
        ValueError: Unknown depth or tap; sizes that are not positive.
    """
    if depth not in VGG_DEPTHS:
        raise ValueError(f"VGG depth {depth}: valid are {', '.join(map(str, VGG_DEPTHS))}")
    for name, value in (("width", width), ("hidden", hidden), ("pool", pool or 1)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"VGG {name} {value!r}: valid are whole numbers from 1")
    layers, filters = vgg_spec[depth]
    filters = [max(1, f * width // 64) for f in filters]
    taps = (taps,) if isinstance(taps, str) else taps  # "key=value" without a comma gives a text
    if taps is None:
        taps = tuple(f"stage{s}_activation{layers[s - 1] - 1}" for s in (4, 5))
    return VGG(layers, filters, classes, batch_norm, hidden, taps, pool, **kwargs)
