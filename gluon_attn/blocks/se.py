"""Squeeze-and-excitation: channel attention from the mean of each channel.

Squeeze-and-Excitation Networks, Hu, Shen, Sun, CVPR 2018.

    s = sigmoid(W2 relu(W1 mean_HW(x) + b1) + b2),    W1: C -> C/r,  r = 16

Weights and biases start as in the PyTorch code of SRM (Lee et al., ICCV 2019), which the published
SE numbers of that paper come from.

Deviation: in narrow nets, C < r, the hidden width is 1 instead of 0.
"""

from __future__ import annotations

from typing import Any

from gluon_attn.blocks.base import BLOCKS, AttentionBlock
from gluon_attn.blocks.gates import ChannelGate, uniform_start


@BLOCKS.register("se")
class SE(AttentionBlock):
    """Squeeze-and-excitation block.

    With biases ResNet-50 has the published 28.09 M parameters, without 28.07 M.
    """

    def __init__(
        self, channels: int, reduction: int = 16, bias: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(channels, **kwargs)
        biases = uniform_start if bias else None
        with self.name_scope():
            self.add_gate("channel", ChannelGate(channels, reduction, biases=biases))
