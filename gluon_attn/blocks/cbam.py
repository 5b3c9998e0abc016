"""CBAM: channel attention, then spatial attention.

CBAM: Convolutional Block Attention Module, Woo, Park, Lee, Kweon, ECCV 2018, and its released code.

    channel gate  sigmoid(MLP(mean_HW(x)) + MLP(max_HW(x))),  MLP: C -> C/16 -> C, ReLU, biases
    spatial gate  sigmoid(BN(conv7x7([max_C(x); mean_C(x)]))),  2 -> 1 filters, no bias

As in the released code the batch-norm of the spatial gate has eps 1e-5, keeps 0.99 of its running
statistics in each step, and its scale starts at 0, so that the gate starts as the constant 1/2; the
MLP starts as PyTorch's, with biases 0, the 7x7 convolution normal with variance 2 / fan-out.

Deviation: in narrow nets, C < 16, the hidden width is 1 instead of 0.
"""

from __future__ import annotations

import math

from mxnet import init
from mxnet.gluon import HybridBlock, nn

from gluon_attn.blocks.base import (
    BLOCKS,
    AttentionBlock,
    global_mean,
    hidden_size,
    uniform_start,
)


class ChannelGate(HybridBlock):
    """Channel gate of CBAM: one MLP on the mean and on the maximum of each channel.

    Inputs: ``x (B, C, H, W)``. Outputs: map ``(B, C, 1, 1)`` in (0, 1).

    Args:
        channels: C.
        reduction: r, 16 in the paper.
        bias: Whether the two layers have biases.
    """

    def __init__(self, channels, reduction=16, bias=True, **kwargs):
        super().__init__(**kwargs)
        hidden = hidden_size(channels, reduction)
        with self.name_scope():
            self.reduce = nn.Dense(
                hidden, activation="relu", use_bias=bias, in_units=channels,
                weight_initializer=uniform_start(channels),
            )  # fmt: skip
            self.expand = nn.Dense(
                channels, use_bias=bias, in_units=hidden, weight_initializer=uniform_start(hidden)
            )

    def hybrid_forward(self, F, x):
        """Return the map."""
        mean = global_mean(F, x)
        # Not F.Pooling: its gradient is wrong on a CPU when recorded in predict mode.
        high = F.max(x, axis=(2, 3), keepdims=True)
        # A Dense layer straight behind a convolution fails in quantised graphs: Flatten.
        scores = [self.expand(self.reduce(F.Flatten(pooled))) for pooled in (mean, high)]
        gate = F.sigmoid(F.broadcast_add(*scores))
        return F.reshape(gate, shape=(0, 0, 1, 1))


class ChannelPool(HybridBlock):
    """Maximum and mean of all channels at each position.

    MXNet's own reductions over the channel axis are several times slower on a CPU than slices that
    are compared and added elementwise, so most of the work is done by those.

    Inputs: ``x (B, C, H, W)``. Outputs: ``(B, 2, H, W)``: maximum, mean.

    Args:
        channels: C.
    """

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self._slices = math.gcd(channels, 16)

    def hybrid_forward(self, F, x):
        """Return the two maps."""
        high, total = x, x
        if self._slices > 1:
            slices = list(F.SliceChannel(x, num_outputs=self._slices, axis=1))
            total = F.add_n(*slices) / self._slices
            while len(slices) > 1:
                slices = [F.maximum(a, b) for a, b in zip(slices[::2], slices[1::2])]
            high = slices[0]
        return F.concat(
            F.max(high, axis=1, keepdims=True), F.mean(total, axis=1, keepdims=True), dim=1
        )


class SpatialGate(HybridBlock):
    """Spatial gate of CBAM: a convolution over the maximum and the mean of all channels.

    Inputs: ``x (B, C, H, W)``. Outputs: map ``(B, 1, H, W)`` in (0, 1).

    Args:
        channels: C.
        kernel: Odd side of the convolution, 7 in the paper.
        gamma_init: Scale of the batch-norm at the start; 0 in the released ImageNet code.
    """

    def __init__(self, channels, kernel=7, gamma_init="zeros", **kwargs):
        super().__init__(**kwargs)
        if not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel={kernel!r}: valid are odd numbers from 1")
        with self.name_scope():
            self.pool = ChannelPool(channels)
            self.conv = nn.Conv2D(
                1, kernel, padding=kernel // 2, use_bias=False, in_channels=2,
                weight_initializer=init.Xavier("gaussian", "out", 2),  # variance 2 / fan-out
            )  # fmt: skip
            self.norm = nn.BatchNorm(
                momentum=0.99, epsilon=1e-5, in_channels=1, gamma_initializer=gamma_init
            )

    def hybrid_forward(self, F, x):
        """Return the map."""
        return F.sigmoid(self.norm(self.conv(self.pool(x))))


@BLOCKS.register("cbam")
class CBAM(AttentionBlock):
    """Channel gate, then spatial gate; see :class:`ChannelGate` and :class:`SpatialGate`."""

    def __init__(self, channels, reduction=16, kernel=7, **kwargs):
        super().__init__(channels, **kwargs)
        with self.name_scope():
            self.add_gate("channel", ChannelGate(channels, reduction))
            self.add_gate("spatial", SpatialGate(channels, kernel))
