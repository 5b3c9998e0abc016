"""What an attention block is, and the registry that the attention slot of a net reads.

A block is a chain of *gates*. A gate looks at its input ``x`` and returns an attention map that
``x`` is multiplied with: ``(B, C, 1, 1)`` for a channel gate, ``(B, 1, H, W)`` for a spatial one.
In the words of reinforcement learning the gate's input is the state and the map is the action.

Legend: B batch, C channels, H W map size, r reduction.
"""

from __future__ import annotations

from typing import NamedTuple

from mxnet import init
from mxnet.gluon import HybridBlock

from gluon_attn.core.registry import Registry


class BlockRegistry(Registry):
    """Blocks by name; ``NAME:TEXT`` is a variant of a block that has variants, as HOGA has."""

    def get(self, name):
        """Return the entry called ``name``.

        Raises:
            ValueError: If there is none, or it has no variants; what its ``variant`` raises.
        """
        head, found, text = str(name).partition(":")
        entry = super().get(head)
        if not found:
            return entry
        if not hasattr(entry, "variant"):
            raise ValueError(f"{self.kind} '{head}' has no variants, '{name}' was asked for")
        return entry.variant(text)


BLOCKS = BlockRegistry("attention block")
BLOCKS.register_later("hoga", "gluon_attn.papers.autola.hoga")
PLACES = ("branch", "inner")


class Slot(NamedTuple):
    """Where in a net a block sits; for blocks whose published form depends on it.

    Attributes:
        net: Name of the backbone's structure: ``resnet50``, ``cifar_resnet20``,
            ``wide_resnet50``.
        stage: From 1, as in the names of taps.
        unit: From 0, as in the names of taps: the unit of ``stage3_activation22`` is 22.
    """

    net: str
    stage: int
    unit: int

    @property
    def name(self):
        """Return the name of the block in its net, such as ``stage3_unit22``."""
        return f"stage{self.stage}_unit{self.unit}"


class AttentionBlock(HybridBlock):
    """A chain of gates: ``x <- x * gate(x)`` for each gate in turn.

    Inputs: ``x (B, C, H, W)`` float32. Outputs: the same shape.

    Subclasses add their gates in the constructor. Subclasses that are no such chain leave
    ``gates`` empty and have a ``hybrid_forward`` of their own.

    Attributes:
        channels: C.
        gates: Tuple of ``(kind, gate)``; kind is ``'channel'`` or ``'spatial'``.
        place: Where in a residual unit the block goes. ``'branch'``: behind the last batch-norm of
            the residual branch. ``'inner'``: in a bottleneck behind the batch-norm of the 3x3
            convolution, before its ReLU; in a unit of two convolutions as ``'branch'``.
    """

    place = "branch"

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels={channels!r}: valid are whole numbers from 1")
        self.channels = channels
        self.gates = ()

    @classmethod
    def in_slot(cls, channels, slot):
        """Return the block for a place in a net; the same everywhere unless overridden.

        Args:
            channels: C.
            slot: :class:`Slot`.
        """
        return cls(channels)

    def add_gate(self, kind, gate):
        """Append ``gate``, of kind ``'channel'`` or ``'spatial'``; it is also ``self.<kind>``."""
        self.gates += ((kind, gate),)
        setattr(self, kind, gate)

    def hybrid_forward(self, F, x):
        """Multiply ``x`` with the map of each gate in turn."""
        for kind, gate in self.gates:
            x = apply_map(F, kind, x, gate(x))
        return x


def apply_map(F, kind, x, attention):
    """Return ``x * attention``, where ``attention`` is the map of a gate.

    The numbers and the gradients are those of ``F.broadcast_mul(x, attention)``; see
    :func:`spread` for what is gained.

    Args:
        F: ``mx.nd`` or ``mx.sym``.
        kind: ``'channel'`` or ``'spatial'``.
        x: ``(B, C, H, W)``.
        attention: ``(B, C, 1, 1)`` or ``(B, 1, H, W)``.
    """
    return F.broadcast_mul(x, spread(F, kind, attention, x))


def spread(F, kind, values, x):
    """Return ``values`` repeated to the shape of ``x``, as a matrix product with ones.

    MXNet's broadcasting operators sum the gradient of the smaller array slowly on a CPU (for 256
    channels of 56 x 56 it costs more than a 1x1 convolution); those of two equal shapes and the
    product are fast.

    Args:
        F: ``mx.nd`` or ``mx.sym``.
        kind: ``'channel'`` for ``values (B, C, 1, 1)``, ``'spatial'`` for ``(B, 1, H, W)``.
        values: See ``kind``.
        x: ``(B, C, H, W)``; only its shape counts.
    """
    if kind == "channel":
        ones = F.ones_like(F.slice_axis(x, axis=1, begin=0, end=1))
        left, right = values, ones
    else:
        corner = F.slice_axis(F.slice_axis(x, axis=2, begin=0, end=1), axis=3, begin=0, end=1)
        left, right = F.ones_like(corner), values
    product = F.batch_dot(F.reshape(left, shape=(0, -1, 1)), F.reshape(right, shape=(0, 1, -1)))
    return F.reshape_like(product, x)


def global_mean(F, x):
    """Return the mean of each channel, ``(B, C, 1, 1)``, as a matrix product.

    On a CPU the gradient of MXNet's global average pooling takes up to fifty times as long (maps
    of 32 x 32), and its mean over two axes four to eight times.

    Args:
        F: ``mx.nd`` or ``mx.sym``.
        x: ``(B, C, H, W)``.
    """
    flat = F.reshape(x, shape=(0, 0, -1))
    ones = F.ones_like(F.slice_axis(flat, axis=1, begin=0, end=1))
    shares = F.broadcast_div(ones, F.sum(ones, axis=2, keepdims=True))  # 1 / HW each
    return F.expand_dims(F.batch_dot(flat, shares, transpose_b=True), axis=3)


def find_block(name):
    """Return the block class of a name in the slot.

    Args:
        name: A name in ``BLOCKS`` or, for a block with a class method ``variant(text)``, the name,
            a colon and the text: ``hoga:found.json``.

    Raises:
        ValueError: Unknown name, or the block has no variants; the message lists the valid names.
    """
    kind, colon, text = str(name).partition(":")
    entry = BLOCKS.get(kind)
    if not colon:
        return entry
    if not hasattr(entry, "variant"):
        raise ValueError(f"attention block '{name}': '{kind}' has no variants, write '{kind}'")
    return entry.variant(text)


def build_block(name, channels, slot):
    """Return the block ``name`` for a place in a net.

    Args:
        name: As :func:`find_block`.
        channels: C.
        slot: :class:`Slot`.

    Raises:
        ValueError: Unknown name; the message lists the valid ones.
    """
    entry = find_block(name)
    in_slot = getattr(entry, "in_slot", None)
    return in_slot(channels, slot) if in_slot else entry(channels)


def hidden_size(channels, reduction):
    """Return the width of a gate's bottleneck: C // r, at least 1.

    The published code takes C // r, which is 0 in narrow nets (C < r); Gluon has no layer of
    width 0, and a gate without hidden units would be constant.

    Raises:
        ValueError: ``reduction`` is no whole number from 1.
    """
    if not isinstance(reduction, int) or reduction < 1:
        raise ValueError(f"reduction={reduction!r}: valid are whole numbers from 1")
    return max(1, channels // reduction)


def uniform_start(fan_in):
    """Return the start of the released code's dense layers, PyTorch's: uniform +-1/sqrt(fan_in).

    Such a parameter ignores the initialiser given to ``net.initialize``, which is meant for the
    convolutions.
    """
    return init.Uniform(fan_in**-0.5)
