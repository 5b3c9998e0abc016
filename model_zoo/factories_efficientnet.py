"""EfficientNet-Lite, plain and with VAA.

===============================  ===========================================================
``efficientnet_lite0``           for 1000 ImageNet classes at 224 px (also 1 at 240, 2 at 260)
``vaa_efficientnet_lite0``       VAA on it: taps at 1/16 of the input size and on the last map
``awmt_efficientnet_lite0``      with dropout 0.5 before the classifier, as AWMT has it
===============================  ===========================================================

Other inputs: ``get_model("efficientnet_lite0", input_size=192)``; blocks: ``attention="se"``.
"""

from __future__ import annotations

from typing import Any, Sequence

from mxnet.gluon import HybridBlock, nn

from gluon_attn.nets import efficientnet_lite
from gluon_attn.nets.efficientnet_lite import VARIANTS
from gluon_attn.papers.vaa import VAA
from model_zoo.factories import ATTRIBUTES, infer_shapes
from model_zoo.names import register


def plain_efficientnet(
    number: int = 0, classes: int = 1000, input_size: int = 224, taps: Sequence[str] | str = (),
    attention: Any = None, dropout: float = 0.2,
) -> HybridBlock:  # fmt: skip
    """Build an EfficientNet-Lite; ``dropout`` is that before the classifier in training.

    Raises:
        ValueError: ``dropout`` out of range, unknown number, tap or attention block.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: valid are 0 (none) to below 1")
    size = (input_size, input_size)
    net = efficientnet_lite(number, size, classes=classes, taps=taps, attention=attention)
    if dropout:
        net.features.add(nn.Dropout(dropout))
    net.input_size = size
    return infer_shapes(net)


def vaa_efficientnet(
    number: int = 0, classes: int = ATTRIBUTES, input_size: int = 224,
    taps: Sequence[str] | None = None, variant: str = "supplement", attention: Any = None,
    scale: float = 0.25,
) -> HybridBlock:  # fmt: skip
    """Build VAA on an EfficientNet-Lite.

    ``scale`` is the factor on the filters of the attention modules. At 1, as in the paper, their
    last convolution alone (512 x 512 x 14 x 14) has eleven times the backbone's parameters.
    """
    size = (input_size, input_size)
    backbone = efficientnet_lite(number, size, classes=classes, taps=taps, attention=attention)
    return infer_shapes(VAA(backbone, size, variant, scale))


def _register_all() -> None:
    for number, variant in VARIANTS.items():
        net = {"number": number, "input_size": variant.input_size}
        register(f"efficientnet_lite{number}", plain_efficientnet, dropout=variant.dropout, **net)
        register(f"vaa_efficientnet_lite{number}", vaa_efficientnet, **net)
        register(
            f"awmt_efficientnet_lite{number}", plain_efficientnet, dropout=0.5,
            classes=ATTRIBUTES, **net,
        )  # fmt: skip


_register_all()
