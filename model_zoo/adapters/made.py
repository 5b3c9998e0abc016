"""Parameters that our nets have and those of other packages lack: what makes both the same net.

Each function takes our names of the net and the file's parameters under our names, and returns the
missing ones.
"""

from __future__ import annotations

import logging
import re
from typing import Iterable

import mxnet as mx
import numpy as np

EPSILON = 1e-5  # of batch-norm, ours and PyTorch's
SHORTCUT = re.compile(r"(features\.\d+\.\d+)\.downsample\.([01])\.(\w+)")

log = logging.getLogger(__name__)


def zero_biases(targets: Iterable[str], params: dict) -> dict:
    """Return biases of 0 for squeeze-and-excitation without biases."""
    made = {}
    for name in targets:
        layer, _, leaf = name.rpartition(".")
        weight = params.get(f"{layer}.weight")
        gate = leaf == "bias" and layer.endswith((".channel.reduce", ".channel.expand"))
        if gate and name not in params and weight is not None:
            made[name] = mx.nd.zeros(weight.shape[:1])
    return made


def parameter_free_shortcuts(targets: Iterable[str], params: dict) -> dict:
    """Return the projections that equal the shortcuts without parameters of CIFAR ResNets.

    The paper's option A takes every second pixel in both directions and adds channels of zeros, as
    many in front as behind: ``pad(x[:, :, ::2, ::2], planes // 4)``. Our nets have option B there,
    a convolution 1x1 of stride 2 with batch-norm. With a kernel that is 1 from channel ``i`` to
    ``i + planes // 4`` and 0 elsewhere, and a batch-norm with scale 1, shift 0, mean 0 and variance
    ``1 - eps``, it computes the same: products with 0 and 1 are exact, and
    ``x / sqrt(1 - eps + eps)`` is x up to one rounding.

    Only where the file has no shortcut at all: a file that lacks some is damaged.
    """
    wanted = [match for match in map(SHORTCUT.fullmatch, targets) if match]
    if not wanted or any(SHORTCUT.fullmatch(name) for name in params):
        return {}
    made = {}
    for match in wanted:
        first = params.get(f"{match[1]}.body.0.weight")
        if first is None or first.shape[0] != 2 * first.shape[1] or first.shape[1] % 2:
            return {}
        made[match[0]] = mx.nd.array(_identity(match[2], match[3], *first.shape[:2]))
    log.info("no weights of shortcuts: taken as those without parameters, zeros on both sides")
    return made


def _identity(layer: str, leaf: str, out: int, channels: int) -> np.ndarray:
    if layer == "1":
        value = {"gamma": 1, "running_var": 1 - EPSILON}.get(leaf, 0)
        return np.full(out, value, np.float32)
    kernel = np.zeros((out, channels, 1, 1), np.float32)
    kernel[np.arange(channels) + out // 4, np.arange(channels)] = 1
    return kernel
