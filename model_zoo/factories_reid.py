"""Nets for person re-identification: ResNets that return logits and the embedding.

===============================  ==============================================================
``reid_resnet50_market``         ResNet-50, v1b, for the 751 training identities of Market-1501
``reid_resnet50_duke``           the same for the 702 of DukeMTMC-reID
``reid_resnet18_w16_synthetic``  a quarter-width ResNet-18 at 64 x 32: trains on a CPU in minutes
===============================  ==============================================================

Attention blocks are an argument: ``get_model("reid_resnet50_market", attention="se")``.
"""

from __future__ import annotations

from gluon_attn.nets import resnet
from gluon_attn.nets.embedding import EmbeddingNet, keep_resolution
from gluon_attn.nets.init import xavier
from model_zoo.factories import infer_shapes
from model_zoo.names import register


def reid_resnet(
    depth=50, version="v1b", classes=751, input_size=256, width=64, attention=None, last_stride=2
):  # fmt: skip
    """Build a ResNet with the outputs logits and embedding, for pictures twice as high as wide.

    ``input_size`` is the height of the input in pixels; its width is half of it. ``last_stride`` is
    the stride of the last stage, 2 as published or 1. ``attention`` is a block, or a dict
    ``{'stage4': block}``.
    """
    if not isinstance(input_size, int) or input_size < 2 or input_size % 2:
        raise ValueError(f"input_size={input_size!r}: the height must be even, the width is half")
    if last_stride not in (1, 2):
        raise ValueError(f"last_stride={last_stride!r}: valid are 1 and 2")
    net = resnet(depth, version, classes, width, attention=attention)
    if last_stride == 1:
        keep_resolution(net)
    net.output.weight.init = xavier()
    net = EmbeddingNet(net)
    net.input_size = (input_size, input_size // 2)
    return infer_shapes(net)


register("reid_resnet50_market", reid_resnet, classes=751)
register("reid_resnet50_duke", reid_resnet, classes=702)
register("reid_resnet18_w16_synthetic", reid_resnet, depth=18, width=16, input_size=64, classes=40)
