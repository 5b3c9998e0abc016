"""One factory per family; every model of the zoo is registered here.

===========================  ===============================================================
``resnet50_v1``, ``_v1b``    ResNet for 1000 ImageNet classes (18, 34, 50, 101, 152)
``resnet101_wider``          plain ResNet for the 14 WIDER attributes: the baseline
``vaa_resnet101``            VAA as in the supplement, 14 outputs
``vaa_resnet101_wider``      the same, under the data set's name
``…_v1b…``                   the same on the bias-free backbone
``vaa_resnet101_released…``  VAA as in the authors' repository (three taps, wider heads)
``awmt_resnet50``            ResNet-50 with dropout 0.5 before the classifier, for any attributes
``…_w16_synthetic``          a quarter-width ResNet-18 at 112 px: trains on a CPU in minutes
===========================  ===============================================================
"""

from __future__ import annotations

import mxnet as mx
from mxnet.gluon import nn

from gluon_attn.nets import DEPTHS, resnet
from gluon_attn.nets.init import xavier
from gluon_attn.papers.vaa import VAA
from model_zoo.names import WIDER_ATTRIBUTES, register

ATTRIBUTES = len(WIDER_ATTRIBUTES)
RELEASED_TAPS = ("stage3_activation19", "stage3_activation22", "stage4_activation2")


def plain_resnet(
    depth=101, version="v1", classes=1000, input_size=224, width=64, taps=(), attention=None,
    dropout=0.0,
):  # fmt: skip
    """Build a ResNet; see :func:`classifier` for ``input_size`` and ``dropout``."""
    return classifier(
        resnet(depth, version, classes, width, taps=taps, attention=attention), input_size, dropout
    )


def classifier(net, input_size, dropout=0.0):
    """Complete a net with ``features`` and ``output`` as a model of the zoo.

    Args:
        net: The net.
        input_size: Side of the input in pixels; only used to infer parameter shapes.
        dropout: Share of the features that is dropped before the classifier in training.

    Raises:
        ValueError: ``dropout`` out of range.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: valid are 0 (none) to below 1")
    if dropout:
        net.features.add(nn.Dropout(dropout))  # has no parameters, so weight files stay the same
    net.input_size = (input_size, input_size)
    net.output.weight.init = xavier()
    return infer_shapes(net)


def vaa_resnet(
    depth=101, version="v1", classes=ATTRIBUTES, input_size=224, width=64, taps=None,
    variant="supplement", attention=None,
):  # fmt: skip
    """Build VAA on a ResNet; without ``taps``, on the last activation of stages 3 and 4.

    ``width`` is the backbone's base width, 64 in the paper; the attention modules scale with it.
    """
    backbone = resnet(depth, version, classes, width, taps=taps, attention=attention)
    return infer_shapes(VAA(backbone, (input_size, input_size), variant, width / 64))


def infer_shapes(net):
    """Complete all parameter shapes now, so that nothing waits for the first forward pass."""
    net.infer_shape(mx.nd.zeros((1, 3) + tuple(net.input_size)))
    return net


def _register_all():
    wider = {"classes": ATTRIBUTES}
    for depth in DEPTHS:
        for version in ("v1", "v1b"):
            net = {"depth": depth, "version": version}
            infix = "" if version == "v1" else "_v1b"
            register(f"resnet{depth}_{version}", plain_resnet, **net)
            register(f"resnet{depth}{infix}_wider", plain_resnet, **net, **wider)
            register(f"vaa_resnet{depth}{infix}", vaa_resnet, **net)
            register(f"vaa_resnet{depth}{infix}_wider", vaa_resnet, **net)
    released = {"depth": 101, "taps": RELEASED_TAPS, "variant": "released"}
    register("vaa_resnet101_released_wider", vaa_resnet, **released)
    register("awmt_resnet50", plain_resnet, depth=50, dropout=0.5, **wider)
    small = {"depth": 18, "width": 16, "input_size": 112}
    register("resnet18_w16_synthetic", plain_resnet, **small, **wider)
    register("vaa_resnet18_w16_synthetic", vaa_resnet, **small)


_register_all()
