"""A net with batch-norm on its running statistics, as a second view of the same parameters."""

from __future__ import annotations

import mxnet as mx
from mxnet import gluon
from mxnet.gluon import nn


def frozen_view(net):
    """Return a block that computes ``net`` with batch-norm on its running statistics.

    It shares the parameters, so scale and shift learn through it; the statistics never change,
    whatever the mode, and samples of a batch do not influence one another.

    Args:
        net: HybridBlock of one input; it is left as it is.
    """
    norms = []
    net.apply(lambda block: norms.append(block) if isinstance(block, nn.BatchNorm) else None)
    before = [norm._kwargs["use_global_stats"] for norm in norms]
    data = mx.sym.var("data", dtype="float32")
    try:
        for norm in norms:
            norm._kwargs["use_global_stats"] = True
        outputs = net(data)
    finally:
        for norm, value in zip(norms, before):
            norm._kwargs["use_global_stats"] = value
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else outputs
    view = gluon.SymbolBlock(outputs, [data], params=net.collect_params())
    view.hybridize(static_alloc=True, static_shape=True)
    return view
