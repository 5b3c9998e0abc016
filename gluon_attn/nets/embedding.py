"""A classifier that also returns its features: the embedding that images are compared by."""

from __future__ import annotations

from typing import Any

from mxnet.gluon import HybridBlock, nn

from gluon_attn.nets.attention import attention_blocks
from gluon_attn.nets.taps import TappedStage, Tensor


class EmbeddingNet(HybridBlock):
    """A net with ``features`` and ``output`` that returns its logits and its pooled features.

    It takes the parts of a net without taps over: parameters, their names (``features…``,
    ``output…``) and so the weight files are those of the net, which should not be used any more.

    Input: image ``(B, 3, H, W)`` float32 of any size. Outputs: logits ``(B, classes)``, embedding
    ``(B, D)``.
    """

    def __init__(self, net: HybridBlock, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not hasattr(net, "features") or not isinstance(getattr(net, "output", None), nn.Dense):
            raise ValueError(f"{type(net).__name__} has no features and output to take over")
        if getattr(net, "taps", ()):
            raise ValueError(f"a net with taps ({', '.join(net.taps)}) gives no plain embedding")
        self.features, self.output = net.features, net.output
        self.classes = getattr(net, "classes", None)
        self.taps, self.tap_names = (), tuple(getattr(net, "tap_names", ()))
        self.output_names = ("logits", "embedding")
        self.task = "reid"
        self.embedding_outputs = ("embedding",)
        self.attention_outputs = ()

    def attention_blocks(self) -> list[tuple[str, HybridBlock]]:
        """Return ``[(name, block), …]`` in network order; names such as ``stage3_unit22``."""
        return attention_blocks(self)

    def hybrid_forward(self, F: Any, x: Tensor) -> list[Tensor]:
        embedding = F.Flatten(self.features(x))
        return [self.output(embedding), embedding]


def keep_resolution(net: HybridBlock) -> None:
    """Let the last stage of a residual net keep the resolution of the one before: stride 1.

    Twice the rows and columns at the same weights; usual in person re-identification (Sun, Zheng,
    Yang, Tian, Wang, "Beyond Part Models", ECCV 2018). To be called before the first forward pass.
    """
    stages = [layer for layer in net.features if isinstance(layer, TappedStage)]
    if not stages:
        raise ValueError(f"{type(net).__name__} has no residual stages")
    convolutions: list[nn.Conv2D] = []
    stages[-1][0].apply(lambda b: convolutions.append(b) if isinstance(b, nn.Conv2D) else None)
    for convolution in convolutions:
        if convolution._kwargs["stride"] == (2, 2):
            convolution._kwargs["stride"] = (1, 1)
