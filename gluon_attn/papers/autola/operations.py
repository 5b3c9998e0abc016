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
"""

from __future__ import annotations

from typing import Any, Sequence

from mxnet.gluon import HybridBlock, nn

from gluon_attn.blocks import AttentionBlock
from gluon_attn.blocks.base import Tensor
from gluon_attn.blocks.gates import (
    ChannelGate,
    RowConv,
    Start,
    global_max,
    global_mean,
    pool_channels,
    zero_start,
)
from gluon_attn.core.registry import unknown_name
from gluon_attn.papers.autola.genotype import OPERATIONS

REDUCTION = 4  # of the dense layers inside an operation; code
LANES = 8  # channels that oneDNN's depth-wise kernels take at once


def channel_pool(F: Any, x: Tensor, channels: int) -> Tensor:
    """Return P: maximum and mean over the channels, ``(B, 2, H, W)``."""
    # Not concat: in static graphs oneDNN's fails now and then on arrays that are reshaped later.
    return F.stack(*(F.squeeze(part, axis=1) for part in pool_channels(F, x, channels)), axis=1)


def side_by_side(F: Any, arrays: Sequence[Tensor]) -> Tensor:
    """Join maps ``(B, …, H, W)`` along the channels.

    As a plain concat, but with H and W in one axis: then MXNet leaves it to its own code instead of
    oneDNN's, whose gradient fails where channels are no multiples of 16.
    """
    flat = F.concat(*(F.reshape(a, shape=(0, 0, -1)) for a in arrays), dim=1)
    return F.reshape_like(flat, arrays[0], lhs_begin=2, lhs_end=3, rhs_begin=2, rhs_end=4)


def conv(filters: int, in_channels: int, kernel: int = 1, dilation: int = 1) -> nn.Conv2D:
    """Return a convolution without bias that keeps the map's size."""
    return nn.Conv2D(
        filters, kernel, padding=dilation * (kernel // 2), dilation=dilation, use_bias=False,
        in_channels=in_channels,
    )  # fmt: skip


class DepthWise(nn.Conv2D):
    """Depth-wise convolution without bias that keeps the map's size.

    Other numbers of channels than multiples of 8 make oneDNN fall back to kernels that are two to
    three times as slow, so the input is filled up with copies of its channels and weights of 0.
    """

    def __init__(
        self, channels: int, kernel: int = 3, dilation: int = 1, *, fill: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(
            channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=channels,
            use_bias=False, in_channels=channels, **kwargs,
        )  # fmt: skip
        self._more = -channels % LANES if fill else 0
        if self._more > channels:
            self._more = 0

    def hybrid_forward(self, F: Any, x: Tensor, weight: Tensor, bias: Tensor = None) -> Tensor:
        if not self._more:
            return super().hybrid_forward(F, x, weight)
        twice = self._more == self._channels  # then all that an export needs is Concat and Split
        x = side_by_side(F, [x, x if twice else F.slice_axis(x, axis=1, begin=0, end=self._more)])
        kernel = F.reshape(weight, shape=(self._channels, -1))
        rows = kernel if twice else F.slice_axis(kernel, axis=0, begin=0, end=self._more)
        kernel = F.concat(kernel, F.zeros_like(rows), dim=0)
        kernel = F.reshape(kernel, shape=(-1, 1) + self._kwargs["kernel"])
        wide = self._channels + self._more
        y = F.Convolution(x, kernel, **dict(self._kwargs, num_filter=wide, num_group=wide))
        if twice:
            return F.split(y, num_outputs=2, axis=1)[0]
        return F.slice_axis(y, axis=1, begin=0, end=self._channels)


def norm(channels: int, affine: bool = True, kind: type[nn.BatchNorm] = nn.BatchNorm) -> Any:
    """Return a batch normalisation; not affine, as while searching: no learnt scale and shift."""
    return kind(in_channels=channels, center=affine, scale=affine)


class PlainNorm(nn.BatchNorm):
    """Batch normalisation that reads its input in plain order, not in oneDNN's blocks of channels.

    Behind a convolution of 8 (2 k + 1) channels these are blocks of 8, its gradient comes in blocks
    of 16, and MXNet's code for such a pair takes twenty times as long.
    """

    def hybrid_forward(self, F: Any, x: Tensor, *args: Tensor, **params: Tensor) -> Tensor:
        plain = F.reshape_like(F.reshape(x, shape=(0, 0, -1)), x)
        return super().hybrid_forward(F, plain, *args, **params)


def separable(filters: int, channels: int, affine: bool, dilation: int = 1) -> list[Any]:
    """Return the layers dw3x3, pw, BN."""
    fill = channels == LANES // 2 and dilation == 1  # elsewhere it gains little or nothing
    depth_wise = DepthWise(channels, 3, dilation, fill=fill)
    return [depth_wise, conv(filters, channels), norm(filters, affine)]


class LayerGate(HybridBlock):
    """A sigmoid behind convolutions of x, or with ``pooled`` = c of its channel pool."""

    def __init__(self, *layers: HybridBlock, pooled: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._pooled = pooled
        with self.name_scope():
            self.body = nn.HybridSequential(prefix="")
            self.body.add(*layers)

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        scores = self.body(channel_pool(F, x, self._pooled) if self._pooled else x)
        return F.Activation(scores, act_type="sigmoid")  # oneDNN's, four times as fast


class ConvolutionGate(ChannelGate):
    """The channel gate whose layers are 1x1 convolutions on 1x1 maps, as in the code.

    So AutoLA's weight files have them; the layers start as the net's initialiser says.
    """

    def _add_layers(self, channels: int, hidden: int, biases: Start | None) -> None:
        self.squeeze = nn.Conv2D(hidden, 1, use_bias=biases is not None, in_channels=channels)
        self.excite = nn.Conv2D(channels, 1, use_bias=biases is not None, in_channels=hidden)

    def _score(self, F: Any, pooled: Tensor) -> Tensor:
        return self.excite(F.relu(self.squeeze(pooled)))


class Zeros(HybridBlock):
    """The operation ``none``: zeros, and no gradient."""

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        return F.zeros_like(x)


class Skip(HybridBlock):
    """The operation ``skip_connect``: the identity."""

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        return F.identity(x)


class Gated(AttentionBlock):
    """An operation that multiplies its input by gates; all but ``none`` and ``skip_connect``."""

    def __init__(self, name: str, channels: int, affine: bool = True, **kwargs: Any) -> None:
        super().__init__(channels, **kwargs)
        c, relu = channels, nn.Activation
        means, both = (global_mean,), (global_mean, global_max)
        with self.name_scope():
            if name == "sep_conv_3x3":
                layers = [*separable(c, c, affine), relu("relu"), *separable(c, c, affine)]
                self.add_gate("full", LayerGate(*layers), "gate")
            elif name == "dil_conv_3x3":
                self.add_gate("full", LayerGate(*separable(c, c, affine, dilation=2)), "gate")
            elif name == "sep_conv_3x3_spatial":
                layers = [*separable(2, 2, affine), relu("relu"), *separable(1, 2, affine)]
                self.add_gate("spatial", LayerGate(*layers, pooled=c), "gate")
            elif name == "dil_conv_3x3_spatial":
                layers = [conv(1, 2, 3, dilation=2), conv(1, 1), norm(1, affine)]
                self.add_gate("spatial", LayerGate(*layers, pooled=c), "gate")
            elif name == "SE":
                self.add_gate("channel", ConvolutionGate(c, REDUCTION, means, biases=None), "gate")
            elif name == "SE_A_M":
                self.add_gate("channel", ConvolutionGate(c, REDUCTION, both, biases=None), "gate")
            else:  # CBAM, Woo, Park, Lee, Kweon, ECCV 2018, in the form of the code
                self.add_gate("channel", ConvolutionGate(c, REDUCTION, both, biases=zero_start))
                self.add_gate("spatial", LayerGate(RowConv(2, 7), norm(1, affine), pooled=c))


def operation(name: str, channels: int, affine: bool = True) -> HybridBlock:
    """Return a candidate operation by name, ``(B, c, H, W)`` to the same shape.

    Batch norms are affine when an architecture is trained, not while it is searched.
    """
    if name not in OPERATIONS:
        raise ValueError(unknown_name("operation", name, OPERATIONS))
    if name in ("none", "skip_connect"):
        return Zeros() if name == "none" else Skip()
    return Gated(name, channels, affine)
