"""SRM: channel attention from the mean and the standard deviation of each channel.

SRM: A Style-based Recalibration Module for Convolutional Neural Networks, Lee, Kim, Nam,
ICCV 2019, and its released code.

    t_c = [mean_HW(x_c), std_HW(x_c)]      std = sqrt(var + 1e-5), var divides by HW - 1
    g_c = sigmoid(BN(w_c . t_c))           one pair of weights per channel, batch-norm over B

As in the released code w starts at 0 and none of the module's parameters is decayed. With w = 0
the gate is 1/2 everywhere.

Deviation: on a map of one pixel var is 0; the released code divides 0 by 0.
"""

from __future__ import annotations

from typing import Any

from mxnet.gluon import HybridBlock, nn

from gluon_attn.blocks.base import BLOCKS, AttentionBlock, Tensor
from gluon_attn.blocks.gates import global_mean, spread

EPSILON = 1e-5  # of the standard deviation and of the batch-norm


class SRMGate(HybridBlock):
    """Channel gate of SRM."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            # [0]: weight of the mean, [1]: of the standard deviation
            self.weight = self.params.get("weight", shape=(2, channels, 1, 1), init="zeros")
            self.norm = nn.BatchNorm(momentum=0.9, epsilon=EPSILON, in_channels=channels)
        for parameter in (self.weight, self.norm.gamma, self.norm.beta):
            parameter.wd_mult = 0.0

    def hybrid_forward(self, F: Any, x: Tensor, weight: Tensor) -> Tensor:
        mean = global_mean(F, x)
        # The variance does not change with the mean it is taken about, to first order: no gradient.
        centred = F.broadcast_sub(x, spread(F, "channel", F.BlockGrad(mean), x))
        variance = global_mean(F, F.square(centred))  # divided by HW
        ones = F.ones_like(F.slice_axis(x, axis=1, begin=0, end=1))
        pixels = F.sum(ones, axis=(2, 3), keepdims=True)  # HW, without asking for a shape
        correction = F.broadcast_div(pixels, F.maximum(pixels - 1, 1))
        std = F.sqrt(F.broadcast_mul(variance, correction) + EPSILON)
        style = F.broadcast_add(
            F.broadcast_mul(mean, F.slice_axis(weight, axis=0, begin=0, end=1)),
            F.broadcast_mul(std, F.slice_axis(weight, axis=0, begin=1, end=2)),
        )
        return F.sigmoid(self.norm(style))


@BLOCKS.register("srm")
class SRM(AttentionBlock):
    """Style-based recalibration module; 4C parameters, see :class:`SRMGate`."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(channels, **kwargs)
        with self.name_scope():
            self.add_gate("channel", SRMGate(channels))
