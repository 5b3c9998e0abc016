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

from typing import Any

from mxnet import init
from mxnet.gluon import HybridBlock, nn

from gluon_attn.blocks.base import BLOCKS, AttentionBlock, Tensor
from gluon_attn.blocks.gates import ChannelGate, RowConv, global_max, global_mean, pool_channels


class SpatialGate(HybridBlock):
    """A convolution over the maximum and the mean of all channels; map ``(B, 1, H, W)`` in (0, 1).

    The side of the convolution is odd, 7 in the paper; the scale of the batch-norm starts at 0, as
    in the released ImageNet code.
    """

    def __init__(
        self, channels: int, kernel: int = 7, gamma_init: str = "zeros", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel={kernel!r}: valid are odd numbers from 1")
        self._channels = channels
        with self.name_scope():
            start = init.Xavier("gaussian", "out", 2)  # variance 2 / fan-out
            self.conv = RowConv(2, kernel, weight_initializer=start)
            self.norm = nn.BatchNorm(
                momentum=0.99, epsilon=1e-5, in_channels=1, gamma_initializer=gamma_init
            )

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        pooled = F.concat(*pool_channels(F, x, self._channels), dim=1)
        return F.sigmoid(self.norm(self.conv(pooled)))


@BLOCKS.register("cbam")
class CBAM(AttentionBlock):
    """Channel gate of the mean and the maximum of each channel, then :class:`SpatialGate`."""

    def __init__(self, channels: int, reduction: int = 16, kernel: int = 7, **kwargs: Any) -> None:
        super().__init__(channels, **kwargs)
        with self.name_scope():
            self.add_gate("channel", ChannelGate(channels, reduction, (global_mean, global_max)))
            self.add_gate("spatial", SpatialGate(channels, kernel))
