"""What gates are made of: pooled maps, products that are fast on a CPU, and two dense layers.

MXNet's broadcasting operators and its global pooling have slow gradients on a CPU; the functions
here give the same numbers by matrix products and elementwise operators. An export, which needs no
gradients, has the plain operators (:mod:`gluon_attn.core.tracing`).

Legend: F ``mx.nd`` or ``mx.sym``, B batch, C channels, H W map size, r reduction.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Sequence

from mxnet import init
from mxnet.gluon import HybridBlock, nn

from gluon_attn.core.tracing import is_for_inference

Tensor = Any  # NDArray or Symbol
Pool = Callable[[Any, Tensor], Tensor]  # (F, x) to (B, C, 1, 1)
Start = Callable[[int], init.Initializer]  # fan-in to how a parameter starts


def apply_map(F: Any, kind: str, x: Tensor, attention: Tensor) -> Tensor:
    """Return ``x * attention`` with the numbers and gradients of ``F.broadcast_mul``, but faster.

    Maps are ``(B, C, 1, 1)`` of kind ``'channel'``, ``(B, 1, H, W)`` of kind ``'spatial'`` and
    ``(B, C, H, W)`` of kind ``'full'``.
    """
    # broadcast_mul, not *: an elementwise product does not quantize.
    return F.broadcast_mul(x, attention if kind == "full" else spread(F, kind, attention, x))


def spread(F: Any, kind: str, values: Tensor, x: Tensor) -> Tensor:
    """Return ``values`` repeated to the shape of ``x``, as a matrix product with ones.

    In an export they are left as they are: the operator that joins them with ``x`` broadcasts.
    MXNet's broadcasting operators sum the gradient of the smaller array slowly on a CPU (for 256
    channels of 56 x 56 it costs more than a 1x1 convolution); those of two equal shapes and the
    product are fast. Kinds are those of :func:`apply_map`, but ``'full'``.
    """
    if is_for_inference():
        return values
    if kind == "channel":
        left, right = values, F.ones_like(F.slice_axis(x, axis=1, begin=0, end=1))
    else:
        corner = F.slice_axis(F.slice_axis(x, axis=2, begin=0, end=1), axis=3, begin=0, end=1)
        left, right = F.ones_like(corner), values
    product = F.batch_dot(F.reshape(left, shape=(0, -1, 1)), F.reshape(right, shape=(0, 1, -1)))
    return F.reshape_like(product, x)


def global_mean(F: Any, x: Tensor) -> Tensor:
    """Return the mean of each channel, ``(B, C, 1, 1)``, as a matrix product.

    On a CPU the gradient of MXNet's global average pooling takes up to fifty times as long (maps
    of 32 x 32), and its mean over two axes four to eight times. An export has the pooling.
    """
    if is_for_inference():
        return F.Pooling(x, global_pool=True, pool_type="avg", kernel=(1, 1))
    flat = F.reshape(x, shape=(0, 0, -1))
    ones = F.ones_like(F.slice_axis(flat, axis=1, begin=0, end=1))
    shares = F.broadcast_div(ones, F.sum(ones, axis=2, keepdims=True))  # 1 / HW each
    return F.expand_dims(F.batch_dot(flat, shares, transpose_b=True), axis=3)


def global_max(F: Any, x: Tensor) -> Tensor:
    """Return the maximum of each channel, ``(B, C, 1, 1)``.

    Not as a pooling, whose gradient is wrong on a CPU when recorded in predict mode. An export has
    the pooling, which takes a fifth to a tenth of the time.
    """
    if is_for_inference():
        return F.Pooling(x, global_pool=True, pool_type="max", kernel=(1, 1))
    return F.max(x, axis=(2, 3), keepdims=True)


def pool_channels(F: Any, x: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Return maximum and mean over the channels at each position, each ``(B, 1, H, W)``.

    MXNet's own reductions over the channel axis are several times slower on a CPU than slices that
    are compared and added elementwise, so most of the work is done by those.
    """
    high, total, count = x, x, math.gcd(channels, 16)
    if count > 1:
        slices = list(F.SliceChannel(x, num_outputs=count, axis=1))
        total = F.add_n(*slices) / count
        while len(slices) > 1:
            slices = [F.maximum(a, b) for a, b in zip(slices[::2], slices[1::2])]
        high = slices[0]
    if count == channels:
        return high, total
    return F.max(high, axis=1, keepdims=True), F.mean(total, axis=1, keepdims=True)


class RowConv(nn.Conv2D):
    """Convolution with a wide kernel of few channels to one; no bias, and the map keeps its size.

    The numbers are a plain convolution's up to rounding. That one is a matrix product on a CPU
    which copies each value for all ``kernel ** 2`` places and then multiplies by a single row.
    Here each row of the kernel is a filter, and their results are shifted and added: a training
    step takes 0.37 of the time for maps of 32 x 32, 0.43 for 16 x 16 (64 images, one thread). An
    export has the plain operator.
    """

    def __init__(self, in_channels: int, kernel: int, **kwargs: Any) -> None:
        super().__init__(
            1, kernel, padding=kernel // 2, use_bias=False, in_channels=in_channels, **kwargs
        )

    def hybrid_forward(self, F: Any, x: Tensor, weight: Tensor, bias: Tensor = None) -> Tensor:
        side = self._kwargs["kernel"][0]
        if side == 1 or is_for_inference():
            return super().hybrid_forward(F, x, weight)
        filters = F.transpose(weight, axes=(2, 1, 0, 3))
        settings = dict(self._kwargs, kernel=(1, side), num_filter=side)
        parts = F.SliceChannel(F.Convolution(x, filters, **settings), num_outputs=side, axis=1)
        shifted = (
            F.slice_axis(part, axis=2, begin=row, end=row - side + 1 or None)
            for row, part in enumerate(parts)
        )
        return F.add_n(*shifted)


def hidden_size(channels: int, reduction: int) -> int:
    """Return the width of a gate's bottleneck: C // r, at least 1.

    The published code takes C // r, which is 0 in narrow nets (C < r); Gluon has no layer of
    width 0, and a gate without hidden units would be constant.
    """
    if not isinstance(reduction, int) or reduction < 1:
        raise ValueError(f"reduction={reduction!r}: valid are whole numbers from 1")
    return max(1, channels // reduction)


def uniform_start(fan_in: int) -> init.Initializer:
    """Return the start of the released code's dense layers, PyTorch's: uniform +-1/sqrt(fan_in).

    Such a parameter ignores the initialiser given to ``net.initialize``, which is meant for the
    convolutions.
    """
    return init.Uniform(fan_in**-0.5)


def zero_start(fan_in: int) -> init.Initializer:
    """Return the start of biases at 0, whatever the fan-in."""
    return init.Zero()


class ChannelGate(HybridBlock):
    """Channel gate of two layers, shared by all pooled maps: of SE, CBAM and AutoLA's operations.

        sigmoid(sum over pools p of W2 relu(W1 p(x) + b1) + b2),    W1: C -> C/r

    Inputs: ``x (B, C, H, W)``. Outputs: map ``(B, C, 1, 1)`` in (0, 1). ``reduction`` is r;
    ``biases`` says how the biases start; None: there are none.
    """

    def __init__(
        self, channels: int, reduction: int = 16, pools: Sequence[Pool] = (global_mean,),
        *, biases: Start | None = zero_start, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self._pools = tuple(pools)
        with self.name_scope():
            self._add_layers(channels, hidden_size(channels, reduction), biases)

    def _add_layers(self, channels: int, hidden: int, biases: Start | None) -> None:
        self.reduce, self.expand = (
            nn.Dense(
                units, use_bias=biases is not None, in_units=fan_in, activation=activation,
                weight_initializer=uniform_start(fan_in),
                bias_initializer=(biases or zero_start)(fan_in),
            )
            for units, fan_in, activation in ((hidden, channels, "relu"), (channels, hidden, None))
        )  # fmt: skip

    def _score(self, F: Any, pooled: Tensor) -> Tensor:
        # A Dense layer straight behind a convolution fails in quantised graphs: Flatten.
        return self.expand(self.reduce(F.Flatten(pooled)))

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        scores = [self._score(F, pool(F, x)) for pool in self._pools]
        total = F.broadcast_add(*scores) if len(scores) > 1 else scores[0]
        return F.reshape(F.sigmoid(total), shape=(0, 0, 1, 1))
