"""A trained net cut into trunk, last stage and head, for gradients of its scores in inference.

MXNet 1.9.1 with oneDNN gives wrong, varying gradients of a batch-norm that was recorded in
inference mode (``autograd.record(train_mode=False)``), also of one with ``use_global_stats``. Right
are those of a batch-norm with ``use_global_stats`` that was recorded in training mode. So the parts
are made of such batch-norms and have no dropout, and are recorded in training mode.
"""

from __future__ import annotations

import contextlib

from mxnet.gluon import nn

from gluon_attn.nets.parts import split_net


@contextlib.contextmanager
def inference_layers(net):
    """Let a net be traced with layers that do in every mode what they do in inference.

    Batch-norms use their running statistics, dropout does nothing. The net is as before afterwards.
    """
    norms, dropouts = [], []
    net.apply(lambda block: norms.append(block) if isinstance(block, nn.BatchNorm) else None)
    net.apply(lambda block: dropouts.append(block) if isinstance(block, nn.Dropout) else None)
    before = [norm._kwargs["use_global_stats"] for norm in norms], [d._rate for d in dropouts]
    try:
        for norm in norms:
            norm._kwargs["use_global_stats"] = True
        for dropout in dropouts:
            dropout._rate = 0
        yield
    finally:
        for norm, value in zip(norms, before[0]):
            norm._kwargs["use_global_stats"] = value
        for dropout, value in zip(dropouts, before[1]):
            dropout._rate = value


class InferenceParts:
    """The three parts, for :class:`gluon_attn.papers.icasc_gradients.ScorePass` (``train=True``).

    Args:
        net: See :func:`gluon_attn.nets.parts.split_net`.

    Attributes:
        trunk, stage, head, inner, last: As :class:`gluon_attn.nets.parts.Parts`.
    """

    def __init__(self, net):
        with inference_layers(net):
            parts = split_net(net)
        self.trunk, self.stage, self.head = parts.trunk, parts.stage, parts.head
        self.inner, self.last = parts.inner, parts.last

    def masks(self, shape, context):
        """Return the dropout masks of a pass: none."""
        return {}
