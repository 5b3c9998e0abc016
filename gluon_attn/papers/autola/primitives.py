"""The nine candidate operations of Auto Learning Attention.

Auto Learning Attention, Ma, Zhang, Xia, Tao, NeurIPS 2020 ("paper"), with the authors' code
("code").

Every operation maps ``(B, c, H, W)`` to the same shape. ``none`` gives zeros, ``skip_connect`` its
input; each of the others multiplies its input by a gate in (0, 1):

=========================  ================  ====================================================
operation                  gate              from
=========================  ================  ====================================================
``sep_conv_3x3``           ``(B, c, H, W)``  dw3x3, pw, BN, ReLU, dw3x3, pw, BN, sigmoid
``dil_conv_3x3``           ``(B, c, H, W)``  dw3x3 with dilation 2, pw, BN, sigmoid
``sep_conv_3x3_spatial``   ``(B, 1, H, W)``  the first, from two channels to two to one, on P
``dil_conv_3x3_spatial``   ``(B, 1, H, W)``  conv3x3 with dilation 2 to one channel, pw, BN, sigmoid
``SE``                     ``(B, c, 1, 1)``  two dense layers on the means, no bias, sigmoid
``SE_A_M``                 ``(B, c, 1, 1)``  the same two layers on means and maxima, added, sigmoid
``CBAM``                   both              as SE_A_M with bias; then conv7x7 on P of its product
=========================  ================  ====================================================

P is the *channel pool*: maximum and mean over the channels, in that order. dw and pw are depth-wise
and 1x1 convolutions; no convolution has a bias. The dense layers have c // 4 units inside.

A gate is a block of its own, and what it reads is said in :data:`READS`, so that the super-network
of a search can compute each pooled map once for all gates (:mod:`gluon_attn.papers.autola`).
"""

from __future__ import annotations

from mxnet.gluon import HybridBlock, nn

from gluon_attn.core.registry import unknown_name
from gluon_attn.papers.autola.genotype import OPERATIONS

REDUCTION = 4  # of the dense layers inside an operation; code
# What a gate is called with, in order; a key of ``SUMMARIES`` each.
READS = {
    "sep_conv_3x3": ("x",),
    "dil_conv_3x3": ("x",),
    "sep_conv_3x3_spatial": ("pooled",),
    "dil_conv_3x3_spatial": ("pooled",),
    "SE": ("mean",),
    "SE_A_M": ("mean", "max"),
    "CBAM": ("mean", "max"),
}


def channel_pool(F, x, channels):
    """Return maximum and mean over the channels, ``(B, 2, H, W)``.

    By halving: MXNet reduces over a middle axis ten times as slowly as it adds two halves.

    Args:
        F: ``mxnet.nd`` or ``mxnet.sym``.
        x: ``(B, c, H, W)``.
        channels: c.
    """
    highest, total, left = x, x, channels
    while left % 2 == 0:
        highest = F.maximum(*F.split(highest, num_outputs=2, axis=1))
        first, second = F.split(total, num_outputs=2, axis=1)
        total, left = first + second, left // 2
    if left > 1:
        highest = F.max(highest, axis=1, keepdims=True)
        total = F.sum(total, axis=1, keepdims=True)
    # Not concat: in static graphs oneDNN's fails now and then on arrays that are reshaped later.
    parts = (F.squeeze(part, axis=1) for part in (highest, total * (1.0 / channels)))
    return F.stack(*parts, axis=1)


def global_mean(F, x, channels=None):
    """Return the mean of every channel, ``(B, c, 1, 1)``.

    Not a global Pooling: its gradient takes oneDNN a hundred times as long on maps of 32 x 32.
    """
    return F.mean(x, axis=(2, 3), keepdims=True)


def global_max(F, x, channels=None):
    """Return the maximum of every channel, ``(B, c, 1, 1)``.

    Not a global Pooling, whose gradient is wrong in MXNet outside of training mode (oneDNN).
    """
    return F.max(x, axis=(2, 3), keepdims=True)


# How to make what a gate reads, as functions (F, x, channels).
SUMMARIES = {
    "x": lambda F, x, channels: x,
    "pooled": channel_pool,
    "mean": global_mean,
    "max": global_max,
}


def conv(filters, in_channels, kernel=1, dilation=1, groups=1):
    """Return a convolution without bias that keeps the map's size."""
    return nn.Conv2D(
        filters, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=groups,
        use_bias=False, in_channels=in_channels,
    )  # fmt: skip


def norm(channels, affine=True):
    """Return a batch normalisation, with or without learnt scale and shift."""
    return nn.BatchNorm(in_channels=channels, center=affine, scale=affine)


def separable(filters, channels, affine, dilation=1):
    """Return the layers dw3x3, pw, BN."""
    return [
        conv(channels, channels, 3, dilation, groups=channels),
        conv(filters, channels),
        norm(filters, affine),
    ]


def hidden_units(channels, reduction):
    """Return the width of the layer inside a channel gate, at least 1."""
    return max(1, channels // reduction)


class LayerGate(HybridBlock):
    """A sigmoid behind convolutions; inputs x or P, output ``(B, c or 1, H, W)``."""

    def __init__(self, *layers, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.body = nn.HybridSequential(prefix="")
            self.body.add(*layers)

    def hybrid_forward(self, F, x):
        """Return the gate."""
        return F.sigmoid(self.body(x))


class ChannelGate(HybridBlock):
    """Two dense layers, shared by all given descriptors of the channels.

    Inputs: one or two of mean and max, ``(B, c, 1, 1)``. Output: ``(B, c, 1, 1)`` in (0, 1).

    Args:
        channels: c.
        reduction: The layer inside has c // reduction units, at least one.
        use_bias: Whether the layers have biases.
    """

    def __init__(self, channels, reduction=REDUCTION, use_bias=False, **kwargs):
        super().__init__(**kwargs)
        units = hidden_units(channels, reduction)
        # 1x1 convolutions on 1x1 maps are the dense layers, without reshaping.
        with self.name_scope():
            self.squeeze = nn.Conv2D(units, 1, use_bias=use_bias, in_channels=channels)
            self.excite = nn.Conv2D(channels, 1, use_bias=use_bias, in_channels=units)

    def hybrid_forward(self, F, mean, maximum=None):
        """Return the gate."""
        score = self.excite(F.relu(self.squeeze(mean)))
        if maximum is not None:
            score = score + self.excite(F.relu(self.squeeze(maximum)))
        return F.sigmoid(score)


class Gated(HybridBlock):
    """An operation with one gate: input times gate.

    Args:
        name: A key of ``READS`` but CBAM.
        channels: c.
        affine: Whether batch norms have scale and shift.
    """

    def __init__(self, name, channels, affine=True, **kwargs):
        super().__init__(**kwargs)
        self._reads, self._channels = READS[name], channels
        with self.name_scope():
            self.gate = gate_of(name, channels, affine)

    def hybrid_forward(self, F, x):
        """Return ``(B, c, H, W)``."""
        read = [SUMMARIES[what](F, x, self._channels) for what in self._reads]
        return F.broadcast_mul(x, self.gate(*read))


class CBAM(HybridBlock):
    """Channel gate, then spatial gate on the product: conv7x7, BN, sigmoid of its channel pool.

    Reference: CBAM, Woo, Park, Lee, Kweon, ECCV 2018, in the form of the code.
    """

    def __init__(self, channels, affine=True, **kwargs):
        super().__init__(**kwargs)
        self._channels = channels
        with self.name_scope():
            self.channel = ChannelGate(channels, use_bias=True)
            self.spatial = LayerGate(conv(1, 2, 7), norm(1, affine))

    def hybrid_forward(self, F, x):
        """Return ``(B, c, H, W)``."""
        x = F.broadcast_mul(x, self.channel(global_mean(F, x), global_max(F, x)))
        return F.broadcast_mul(x, self.spatial(channel_pool(F, x, self._channels)))


class Zeros(HybridBlock):
    """The operation ``none``: zeros, and no gradient."""

    def hybrid_forward(self, F, x):
        """Return zeros of the input's shape."""
        return F.zeros_like(x)


class Skip(HybridBlock):
    """The operation ``skip_connect``: the identity."""

    def hybrid_forward(self, F, x):
        """Return the input."""
        return F.identity(x)


def gate_of(name, channels, affine=True):
    """Return the gate of an operation that has a single one.

    Args:
        name: An operation with one gate.
        channels: c.
        affine: Whether batch norms have scale and shift.
    """
    if name == "sep_conv_3x3":
        second = separable(channels, channels, affine)
        return LayerGate(*separable(channels, channels, affine), nn.Activation("relu"), *second)
    if name == "dil_conv_3x3":
        return LayerGate(*separable(channels, channels, affine, dilation=2))
    if name == "sep_conv_3x3_spatial":
        return LayerGate(*separable(2, 2, affine), nn.Activation("relu"), *separable(1, 2, affine))
    if name == "dil_conv_3x3_spatial":
        return LayerGate(conv(1, 2, 3, dilation=2), conv(1, 1), norm(1, affine))
    return ChannelGate(channels)


def operation(name, channels, affine=True):
    """Return a candidate operation, ``(B, c, H, W)`` to the same shape.

    Args:
        name: One of ``OPERATIONS``.
        channels: c.
        affine: Whether batch norms have scale and shift: yes when an architecture is trained, no
            while it is searched.

    Raises:
        ValueError: Unknown name.
    """
    if name not in OPERATIONS:
        raise ValueError(unknown_name("operation", name, OPERATIONS))
    if name == "none":
        return Zeros()
    if name == "skip_connect":
        return Skip()
    if name == "CBAM":
        return CBAM(channels, affine)
    return Gated(name, channels, affine)
