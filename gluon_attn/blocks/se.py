"""Squeeze-and-excitation: channel attention from the mean of each channel.

Squeeze-and-Excitation Networks, Hu, Shen, Sun, CVPR 2018.

    s = sigmoid(W2 relu(W1 mean_HW(x) + b1) + b2),    W1: C -> C/r,  r = 16

Weights and biases start as in the PyTorch code of SRM (Lee et al., ICCV 2019), which the published
SE numbers of that paper come from.

Deviation: in narrow nets, C < r, the hidden width is 1 instead of 0.
"""

from __future__ import annotations

from mxnet.gluon import HybridBlock, nn

from gluon_attn.blocks.base import BLOCKS, AttentionBlock, global_mean, hidden_size, uniform_start


class SEGate(HybridBlock):
    """Channel gate of SE.

    Inputs: ``x (B, C, H, W)``. Outputs: map ``(B, C, 1, 1)`` in (0, 1).

    Args:
        channels: C.
        reduction: r.
        bias: Whether the two layers have biases.
    """

    def __init__(self, channels, reduction=16, bias=True, **kwargs):
        super().__init__(**kwargs)
        hidden = hidden_size(channels, reduction)
        with self.name_scope():
            self.reduce = nn.Dense(
                hidden, activation="relu", use_bias=bias, in_units=channels,
                weight_initializer=uniform_start(channels),
                bias_initializer=uniform_start(channels),
            )  # fmt: skip
            self.expand = nn.Dense(
                channels, use_bias=bias, in_units=hidden,
                weight_initializer=uniform_start(hidden),
                bias_initializer=uniform_start(hidden),
            )  # fmt: skip

    def hybrid_forward(self, F, x):
        """Return the map."""
        # A Dense layer straight behind a convolution fails in quantised graphs.
        squeezed = F.Flatten(global_mean(F, x))
        gate = F.sigmoid(self.expand(self.reduce(squeezed)))
        return F.reshape(gate, shape=(0, 0, 1, 1))


@BLOCKS.register("se")
class SE(AttentionBlock):
    """Squeeze-and-excitation block; see :class:`SEGate` for the arguments.

    With biases ResNet-50 has the published 28.09 M parameters, without 28.07 M.
    """

    def __init__(self, channels, reduction=16, bias=True, **kwargs):
        super().__init__(channels, **kwargs)
        with self.name_scope():
            self.add_gate("channel", SEGate(channels, reduction, bias))
