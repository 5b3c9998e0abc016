"""ResNets for small pictures: 3 stages, 6n + 2 layers.

Deep Residual Learning for Image Recognition, He, Zhang, Ren, Sun, CVPR 2016, section 4.2.

A 3x3 convolution with batch-norm and ReLU, three stages of n units of two 3x3 convolutions with
w, 2w and 4w filters, the second and third stage at half the resolution of the one before, global
average pooling, one dense layer. At 32x32 pixels the maps are 32, 16 and 8 wide.

Deviation: where the width changes, the shortcut is a 1x1 convolution with batch-norm (the paper's
option B), as in the code of AutoLA (Ma et al., NeurIPS 2020); the paper's CIFAR nets pad zeros.
"""

from __future__ import annotations

from mxnet.gluon import nn
from mxnet.gluon.model_zoo.vision.resnet import BasicBlockV1

from gluon_attn.nets.resnet import ResNet, last_activations

CIFAR_DEPTHS = (8, 14, 20, 32, 44, 56, 110)  # 8 and 14 are for small experiments


class CifarResNet(ResNet):
    """ResNet of three stages for small pictures; taps, attention and outputs as :class:`ResNet`.

    Inputs: image ``(B, 3, H, W)`` float32, sides from 4. Outputs: logits ``(B, classes)``; with
    taps a list ``[logits, activation, …]`` named by ``output_names``.

    Args:
        units: n, units of each stage.
        width: w, filters of the first stage.
        **kwargs: ``classes``, ``taps``, ``attention``, ``structure`` of :class:`ResNet`.
    """

    def __init__(self, units, width, **kwargs):
        channels = [width, width, 2 * width, 4 * width]
        super().__init__(BasicBlockV1, [units] * 3, channels, thumbnail=True, **kwargs)
        convolution, *rest = list(self.features)
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            self.features.add(convolution, nn.BatchNorm(in_channels=width), nn.Activation("relu"))
            self.features.add(*rest)


def cifar_resnet(depth, classes=10, width=16, taps=(), attention=None, **kwargs):
    """Build a ResNet for small pictures.

    Args:
        depth: 6n + 2 layers: 8, 14, 20, 32, 44, 56 or 110.
        classes: Length of the logits.
        width: Filters of the first stage; 16 in the paper, 64 in AutoLA's CIFAR-100 nets.
        taps: Names such as ``stage3_activation2``; ``None`` means the last activation of the last
            two stages.
        attention: Name of a block for all stages, ``{'stage3': name}`` or None.

    Raises:
        ValueError: Unknown depth, tap or attention block.
    """
    if depth not in CIFAR_DEPTHS:
        valid = ", ".join(map(str, CIFAR_DEPTHS))
        raise ValueError(f"CIFAR ResNet depth {depth}: valid are {valid}")
    if not isinstance(width, int) or width < 1:
        raise ValueError(f"CIFAR ResNet width {width!r}: valid are whole numbers from 1")
    taps = (taps,) if isinstance(taps, str) else taps  # "key=value" without a comma gives a text
    units = (depth - 2) // 6
    if taps is None:
        taps = last_activations([units] * 3)
    return CifarResNet(
        units, width, classes=classes, taps=taps, attention=attention,
        structure=f"cifar_resnet{depth}", **kwargs
    )  # fmt: skip
