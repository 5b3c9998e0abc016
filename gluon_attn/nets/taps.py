"""Named activations ("taps") of a backbone, and named outputs of any net.

A tap is named relative to the net, ``stage3_activation22``: Gluon's absolute names carry a prefix
that changes with every instance (``resnetv10_``, ``resnetv11_``), so they cannot be relied on.
"""

from __future__ import annotations

from typing import Any, Sequence, Union

import mxnet as mx
from mxnet.gluon import HybridBlock, nn

from gluon_attn.core.registry import unknown_name
from gluon_attn.nets.attention import attention_blocks

Tensor = Any  # NDArray or Symbol
Taps = Union[Sequence[str], str, None]


class TappedStage(nn.HybridSequential):
    """A stage of residual units that also returns the outputs of chosen units.

    Unit ``k`` of stage ``s`` ends in the ReLU that Gluon calls ``stage{s}_activation{k}``.

    Inputs: ``x (B, C, H, W)``. Outputs: ``x`` after the last unit or, if ``taps`` is not empty, a
    list ``[x, tap, tap, …]`` in the order of ``taps``.

    ``last_of_size`` says that no stage behind it has maps of its size.
    """

    def __init__(self, last_of_size: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.taps: tuple[int, ...] = ()
        self.last_of_size = last_of_size

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        outputs = []
        for unit in self._children.values():
            x = unit(x)
            outputs.append(x)
        return [x] + [outputs[k] for k in self.taps] if self.taps else x


class TappedNet:
    """What backbones share: ``features`` with :class:`TappedStage` in it, ``output``, and taps.

    Stands in front of a HybridBlock among the bases. Outputs: logits ``(B, classes)``; with taps a
    list ``[logits, activation, …]`` named by ``output_names``.

    Attributes:
        taps: Names of the activations that are returned, in this order.
        tap_names: All that the net has.
    """

    features: nn.HybridSequential
    output: nn.Dense
    classes: int
    taps: tuple[str, ...]
    attention_outputs: tuple[str, ...] = ()

    def _set_taps(self, taps: Sequence[str]) -> None:
        """Tap the stages in ``features``; ValueError for a tap that the net does not have."""
        stages = [layer for layer in self.features if isinstance(layer, TappedStage)]
        self.taps = tuple(taps)
        self.output_names = ("logits",) + self.taps
        valid = {
            f"stage{number}_activation{k}": (stage, k)
            for number, stage in enumerate(stages, 1)
            for k in range(len(stage))
        }
        self.tap_names = tuple(valid)
        for name in dict.fromkeys(self.taps):
            if name not in valid:
                raise ValueError(unknown_name("tap", name, valid))
            stage, unit = valid[name]
            stage.taps += (unit,)

    def attention_blocks(self) -> list[tuple[str, HybridBlock]]:
        """Return ``[(name, block), …]`` in network order; names such as ``stage3_unit22``."""
        return attention_blocks(self)

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        tapped: dict[str, Tensor] = {}
        number = 0
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


def chosen_taps(taps: Taps, layers: Sequence[int]) -> tuple[str, ...]:
    """Return the taps that an argument means: names, one name, or None for the last two stages.

    The last activations of the last two stages are, for ResNet-101, ``stage3_activation22`` and
    ``stage4_activation2``, the two that the VAA supplement names. ``layers`` are the units of each.
    """
    if taps is None:
        last_two = (len(layers) - 1, len(layers))
        return tuple(f"stage{s}_activation{layers[s - 1] - 1}" for s in last_two)
    return (taps,) if isinstance(taps, str) else tuple(taps)  # "key=value" without a comma: a text


def check_choice(what: str, value: Any, valid: Sequence[Any]) -> None:
    """Refuse a depth, a version or a variant that a family of nets does not have."""
    if value not in valid:
        raise ValueError(f"{what} {value!r}: valid are {', '.join(map(str, valid))}")


def check_sizes(net: str, **sizes: int | None) -> None:
    """Refuse sizes of a net that are not whole numbers from 1."""
    for name, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{net} {name} {value!r}: valid are whole numbers from 1")


def activation_shapes(net: HybridBlock, input_size: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the shape ``(C, H, W)`` or ``(C,)`` of every output, by name; initialised or not."""
    outputs = net(mx.sym.var("data"))
    group = mx.sym.Group(list(outputs)) if isinstance(outputs, (list, tuple)) else outputs
    _, shapes, _ = group.infer_shape(data=(1, 3) + tuple(input_size))
    return {name: tuple(shape[1:]) for name, shape in zip(net.output_names, shapes)}


def name_outputs(net: HybridBlock, outputs: Any) -> dict[str, Tensor]:
    """Return the outputs of ``net(x)``, bare if there is one, as a dict by ``net.output_names``."""
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    names = getattr(net, "output_names", ("logits",))
    if len(names) != len(outputs):
        kind = type(net).__name__
        raise ValueError(f"{kind} names {len(names)} outputs, returned {len(outputs)}")
    return dict(zip(names, outputs))
