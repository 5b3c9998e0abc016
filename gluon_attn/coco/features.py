"""Our ResNets as the features of detectors: the maps of chosen stages, without pooling and classifier.

Attention blocks of the net stay where they are.
"""  # noqa: E501

from __future__ import annotations

from mxnet.gluon import HybridBlock, nn

from gluon_attn.nets import attention_blocks
from gluon_attn.nets.taps import TappedStage


class StageFeatures(HybridBlock):
    """The stem and the first stages of a ResNet.

    Its parameters are those of the net and keep their names (``features.4.0.body.0.weight``).

    Input: image ``(B, 3, H, W)`` float32. Outputs: list of the maps of ``stages``, in order.

    Args:
        net: ResNet (:func:`gluon_attn.nets.resnet`) without taps, not yet run.
        stages: Numbers of the stages, from 1, whose maps are wanted; later ones are left out.
        keep: Numbers of stages that keep the resolution of the one before: all strides 1.

    Attributes:
        whole: The complete net, of which weight files are.

    Raises:
        ValueError: A net with taps or without such stages.
    """

    def __init__(self, net, stages=(2, 3, 4), keep=(), **kwargs):
        super().__init__(**kwargs)
        layers = list(net.features)
        places = [k for k, layer in enumerate(layers) if isinstance(layer, TappedStage)]
        valid = range(1, len(places) + 1)
        if getattr(net, "taps", ()) or not stages or not {*stages, *keep} <= set(valid):
            raise ValueError(
                f"features of stages {tuple(stages)} (stride 1: {tuple(keep)}) of a "
                f"{type(net).__name__}: it must have no taps, and its stages are {list(valid)}"
            )
        for number in keep:
            _set_strides(layers[places[number - 1]])
        self._wanted = [places[number - 1] for number in sorted(stages)]
        self._whole = _Unregistered(net)
        self.features = nn.HybridSequential(prefix="")
        for layer in layers[: self._wanted[-1] + 1]:
            self.features.add(layer)

    @property
    def whole(self):
        """The complete net."""
        return self._whole.block

    def attention_blocks(self):
        """Return ``[(name, block), …]`` in network order; names such as ``stage3_unit5``."""
        return attention_blocks(self)

    def parameters_of_stages(self, count):
        """Return the parameters of the stem and the first ``count`` stages, as a list.

        Args:
            count: 0 for none at all, 1 for the stem and stage 1, …
        """
        found, passed = [], 0
        for layer in self.features:
            passed += isinstance(layer, TappedStage)
            if count and passed <= count:
                found += layer.collect_params().values()
        return found

    def hybrid_forward(self, F, x):
        """Return the maps of the chosen stages."""
        maps = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self._wanted:
                maps.append(x)
        return maps


def fix_statistics(block):
    """Let every batch-norm inside ``block`` use its running statistics, in training as well."""
    norms = []
    block.apply(lambda b: norms.append(b) if isinstance(b, nn.BatchNorm) else None)
    for norm in norms:
        norm._kwargs["use_global_stats"] = True


def no_decay_of_vectors(block):
    """Take all biases, batch-norm parameters and other vectors out of the weight decay."""
    for parameter in block.collect_params().values():
        if len(parameter.shape) == 1 or parameter.name.endswith("bias"):
            parameter.wd_mult = 0.0


class _Unregistered:
    """Holds a block that must not become a child."""

    def __init__(self, block):
        self.block = block


def _set_strides(stage):
    convolutions = []
    stage.apply(lambda b: convolutions.append(b) if isinstance(b, nn.Conv2D) else None)
    for convolution in convolutions:
        if convolution._kwargs["stride"] == (2, 2):
            convolution._kwargs["stride"] = (1, 1)
