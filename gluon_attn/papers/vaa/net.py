"""VAA's net: a primary net with attention modules on two of its activations.

Deep Imbalanced Attribute Classification using Visual Attention Aggregation, Sarafianos, Xu,
Kakadiaris, ECCV 2018, with its supplementary material ("supplement").

The primary net (ResNet-101) makes one logit vector. On two of its activations sit attention
modules, each with a logit vector of its own. The prediction is the sigmoid of the mean logit.

Legend: B batch, A attributes, C channels of a tap, h w its map size, C_k a 1x1 convolution with k
filters + batch-norm + ReLU.

Deviation, listed in docs/vaa.md: the mean runs over 3 logit vectors because there are two modules
(the released code has three modules and divides by 4).
"""

from __future__ import annotations

from typing import Any, Sequence

from mxnet.gluon import HybridBlock, nn

from gluon_attn.nets import activation_shapes
from gluon_attn.nets.init import xavier

Tensor = Any  # NDArray or Symbol

# filters and kernels of the attention branch, then filters of the classifier's three convolutions
VARIANTS: dict[str, dict[str, Any]] = {
    "supplement": {"mask": ((256, 1), (256, 1)), "classifier": (256, 512, 512)},
    "released": {"mask": ((512, 1), (512, 3)), "classifier": (256, 512, 1024)},
}


class AttentionModule(HybridBlock):
    """Attention, confidence and classifier on one activation of the primary net.

    Supplement: attention C_256 - C_256 - conv(A), normalised over the h x w positions of each
    attribute; confidence conv(A) + sigmoid on the same input; their product goes through
    C_256 - C_512 - C_512 - D_A, where the last convolution covers the whole map.

    Inputs: ``(B, C, h, w)``. Outputs: logits ``(B, A)``; attention ``(B, A, h, w)``, >= 0 and
    summing to 1 over each map; confidence ``(B, A, h, w)`` in (0, 1).

    ``shape`` is ``(C, h, w)``; ``scale`` is a factor on all filter counts but A: 1 in the paper,
    less for small nets.
    """

    def __init__(
        self, classes: int, shape: Sequence[int], variant: str = "supplement", scale: float = 1,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        if variant not in VARIANTS:
            raise ValueError(f"VAA variant {variant!r}: valid are {', '.join(VARIANTS)}")
        in_channels, self._map_size = shape[0], tuple(shape[1:])
        first, second, third = (round(f * scale) for f in VARIANTS[variant]["classifier"])
        with self.name_scope():
            self.mask = nn.HybridSequential(prefix="mask_")
            with self.mask.name_scope():
                channels = in_channels
                for filters, kernel in VARIANTS[variant]["mask"]:
                    filters = round(filters * scale)
                    self.mask.add(*conv_bn_relu(filters, kernel, channels, padding=kernel // 2))
                    channels = filters
                self.mask.add(_head(classes, channels))
            self.confidence = _head(classes, in_channels, prefix="confidence_")
            self.classifier = nn.HybridSequential(prefix="classifier_")
            with self.classifier.name_scope():
                self.classifier.add(
                    *conv_bn_relu(first, 1, classes),
                    *conv_bn_relu(second, 1, first),
                    *conv_bn_relu(third, self._map_size, second),
                    # An explicit Flatten: a Dense right behind a fused convolution fails in oneDNN.
                    nn.Flatten(),
                    nn.Dense(classes, in_units=third, weight_initializer=xavier()),
                )

    def hybrid_forward(self, F: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = F.reshape(self.mask(x), shape=(0, 0, -1))
        attention = F.reshape(F.softmax(scores, axis=-1), shape=(0, 0) + self._map_size)
        confidence = F.sigmoid(self.confidence(x))
        # broadcast_mul, not *: an elementwise product does not quantize.
        return self.classifier(F.broadcast_mul(attention, confidence)), attention, confidence


def conv_bn_relu(filters: int, kernel: Any, in_channels: int, padding: int = 0) -> list[Any]:
    """Return C_k as a list of layers, for any kernel."""
    convolution = nn.Conv2D(
        filters, kernel, padding=padding, in_channels=in_channels, weight_initializer=xavier()
    )
    return [convolution, nn.BatchNorm(in_channels=filters), nn.Activation("relu")]


def _head(classes: int, in_channels: int, **kwargs: Any) -> nn.Conv2D:
    return nn.Conv2D(classes, 1, in_channels=in_channels, weight_initializer=xavier(), **kwargs)


class AttentionHeads(HybridBlock):
    """One attention module per tap, and the aggregation of all logits.

    Inputs: logits of the primary net ``(B, A)``, then one activation per tap. Outputs: mean logits,
    primary logits, then logits, attention and confidence of each module.
    """

    def __init__(self, modules: Sequence[AttentionModule], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.attention = nn.HybridSequential(prefix="")
        self.attention.add(*modules)

    def hybrid_forward(self, F: Any, logits: Tensor, *activations: Tensor) -> tuple[Tensor, ...]:
        results = [m(x) for m, x in zip(self.attention._children.values(), activations)]
        module_logits, attention, confidence = zip(*results)
        every = (logits,) + module_logits
        return (F.add_n(*every) / len(every),) + every + attention + confidence


class VAA(HybridBlock):
    """Primary net with attention modules on its taps.

    Inputs: image ``(B, 3, H, W)`` float32; H and W are fixed by ``input_size`` because the
    classifiers' last convolution covers the whole map. Outputs, named by ``output_names``:
    ``logits`` (the mean of all logits), ``logits_backbone``, ``logits_<tap>``…,
    ``attention_<tap>``…, ``confidence_<tap>``….

    The backbone returns ``[logits, tap, …]``. Variant is ``'supplement'`` (the paper) or
    ``'released'`` (the authors' repository); ``scale`` is a factor on the filter counts of the
    attention modules.
    """

    def __init__(
        self, backbone: HybridBlock, input_size: Sequence[int] = (224, 224),
        variant: str = "supplement", scale: float = 1, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        if not backbone.taps:
            raise ValueError("VAA needs a backbone with at least one tap")
        self.input_size, self.variant, self.taps = tuple(input_size), variant, backbone.taps
        self.classes = backbone.classes
        shapes = activation_shapes(backbone, self.input_size)
        with self.name_scope():
            self.backbone = backbone
            self.backbone.output.weight.init = xavier()
            modules = [
                AttentionModule(self.classes, shapes[tap], variant, scale, prefix=f"{tap}_")
                for tap in self.taps
            ]
            self.heads = AttentionHeads(modules, prefix="heads_")
        of_taps = {
            kind: tuple(f"{kind}_{tap}" for tap in self.taps)
            for kind in ("logits", "attention", "confidence")
        }
        self.attention_outputs = of_taps["attention"]
        self.output_names = ("logits", "logits_backbone") + sum(of_taps.values(), ())

    def hybrid_forward(self, F: Any, x: Tensor) -> tuple[Tensor, ...]:
        return self.heads(*self.backbone(x))
