"""ECA: channel attention by a one-dimensional convolution across the channels.

ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, Wang, Wu, Zhu, Li,
Zuo, Hu, CVPR 2020 (arXiv 1910.03151), and its released code.

    w = sigmoid(conv1d_k(mean_HW(x))),   one filter, no bias, zero padding (k - 1) / 2

The paper's rule is ``k = |log2(C) / 2 + 1/2|_odd``, the released models have one k per stage; for
ResNet-50 the two differ (5, 5, 5, 7 and 3, 5, 5, 7).
"""

from __future__ import annotations

import math
from typing import Any

from mxnet import init
from mxnet.gluon import HybridBlock, nn

from gluon_attn.blocks.base import BLOCKS, AttentionBlock, Slot, Tensor
from gluon_attn.blocks.gates import global_mean

# Kernel of each stage of the released models and the channels they were trained with.
RELEASED = {
    "resnet18": ((3, 5, 7, 7), 64),
    "resnet34": ((3, 3, 5, 7), 64),
    "resnet50": ((3, 5, 5, 7), 256),
    "resnet101": ((3, 3, 5, 7), 256),
    "resnet152": ((3, 3, 5, 7), 256),
}


def rule_kernel(channels: int, gamma: int = 2, b: int = 1) -> int:
    """Return the kernel of the paper's rule (Eq. 12): ``|log2(C) / gamma + b / gamma|_odd``.

    As in the released code, the number is cut to a whole one and an even one raised by 1.
    """
    kernel = int(abs((math.log2(channels) + b) / gamma))
    return kernel if kernel % 2 else kernel + 1


class ECAGate(HybridBlock):
    """Channel gate of ECA; ``kernel`` is k, odd."""

    def __init__(self, kernel: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel={kernel!r}: valid are odd numbers from 1")
        with self.name_scope():
            # The released code leaves PyTorch's start of a convolution: uniform in +-1/sqrt(k).
            self.conv = nn.Conv2D(
                1, (kernel, 1), padding=(kernel // 2, 0), use_bias=False, in_channels=1,
                weight_initializer=init.Uniform(kernel**-0.5),
            )  # fmt: skip

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        row = F.transpose(global_mean(F, x), axes=(0, 2, 1, 3))  # (B, 1, C, 1): C is a height
        return F.sigmoid(F.transpose(self.conv(row), axes=(0, 2, 1, 3)))


@BLOCKS.register("eca")
class ECA(AttentionBlock):
    """Efficient channel attention; without a kernel it has that of the paper's rule.

    In the slot of a ResNet whose model was released (18 … 152 at their full width) it has the
    released kernel of its stage, else that of the paper's rule; ``eca_rule`` has always the latter.
    """

    def __init__(self, channels: int, kernel: int | None = None, **kwargs: Any) -> None:
        super().__init__(channels, **kwargs)
        self.kernel = rule_kernel(channels) if kernel is None else kernel
        with self.name_scope():
            self.add_gate("channel", ECAGate(self.kernel))

    @classmethod
    def in_slot(cls, channels: int, slot: Slot) -> ECA:
        kernels, first = RELEASED.get(slot.net, ((), 0))
        if channels != first * 2 ** (slot.stage - 1):
            return cls(channels)
        return cls(channels, kernels[slot.stage - 1])


@BLOCKS.register("eca_rule")
class ECARule(ECA):
    """Efficient channel attention with the kernel of the paper's rule everywhere."""

    @classmethod
    def in_slot(cls, channels: int, slot: Slot) -> ECA:
        return cls(channels)
