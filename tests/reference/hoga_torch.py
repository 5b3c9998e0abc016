"""Every operation and the block of AutoLA in PyTorch, from their definitions; needs PyTorch.

Plain functions of ``x`` and a dict of parameters. Names of parameters are those under which our
blocks store them; apart from that nothing here comes from the package.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


class Layers:
    """Parameters below a prefix, and whether batch norm uses the batch's statistics."""

    def __init__(self, parameters, train, prefix=""):
        self.parameters, self.train, self.prefix = parameters, train, prefix

    def below(self, name):
        return Layers(self.parameters, self.train, f"{self.prefix}{name}.")

    def get(self, name):
        return self.parameters.get(self.prefix + name)

    def conv(self, name, x, **options):
        return F.conv2d(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"), **options)

    def norm(self, name, x):
        mean, var = (self.get(f"{name}.running_{n}").detach() for n in ("mean", "var"))
        gamma, beta = self.get(f"{name}.gamma"), self.get(f"{name}.beta")
        return F.batch_norm(x, mean.clone(), var.clone(), gamma, beta, self.train, eps=1e-5)


def pool(x):
    return torch.stack([x.amax(dim=1), x.mean(dim=1)], dim=1)


def dense_gate(layers, vectors):
    """Return sigmoid(sum of W2 relu(W1 v)), (B, c, 1, 1), of the given (B, c) vectors."""
    total = 0
    for v in vectors:
        v = v[:, :, None, None]
        total = total + layers.conv("excite", layers.conv("squeeze", v).relu())
    return torch.sigmoid(total)


def separable(layers, first, x, dilation=1):
    x = layers.conv(str(first), x, padding=dilation, dilation=dilation, groups=x.shape[1])
    return layers.norm(str(first + 2), layers.conv(str(first + 1), x))


def sep_conv(layers, x):
    body = layers.below("gate.body")
    return torch.sigmoid(separable(body, 4, separable(body, 0, x).relu())) * x


def sep_conv_spatial(layers, x):
    body = layers.below("gate.body")
    return torch.sigmoid(separable(body, 4, separable(body, 0, pool(x)).relu())) * x


def dil_conv(layers, x):
    return torch.sigmoid(separable(layers.below("gate.body"), 0, x, dilation=2)) * x


def dil_conv_spatial(layers, x):
    body = layers.below("gate.body")
    y = body.conv("1", body.conv("0", pool(x), padding=2, dilation=2))
    return torch.sigmoid(body.norm("2", y)) * x


def squeeze_excite(layers, x):
    return dense_gate(layers.below("gate"), [x.mean(dim=(2, 3))]) * x


def se_mean_max(layers, x):
    return dense_gate(layers.below("gate"), [x.mean(dim=(2, 3)), x.amax(dim=(2, 3))]) * x


def cbam(layers, x):
    x = dense_gate(layers.below("channel"), [x.mean(dim=(2, 3)), x.amax(dim=(2, 3))]) * x
    body = layers.below("spatial.body")
    return torch.sigmoid(body.norm("1", body.conv("0", pool(x), padding=3))) * x


OPERATIONS = {
    "none": lambda layers, x: x * 0,
    "skip_connect": lambda layers, x: x,
    "sep_conv_3x3": sep_conv,
    "dil_conv_3x3": dil_conv,
    "sep_conv_3x3_spatial": sep_conv_spatial,
    "dil_conv_3x3_spatial": dil_conv_spatial,
    "SE": squeeze_excite,
    "SE_A_M": se_mean_max,
    "CBAM": cbam,
}


def rescaled(layers, x, reduction):
    """SE_r; without hidden units its gate is sigmoid(0)."""
    return squeeze_excite(layers, x) if x.shape[1] // reduction else torch.sigmoid(0 * x) * x


def hoga(layers, x, edges, reductions=(8, 8)):
    """Return the block's output for ten (operation, source), node by node."""
    groups = torch.chunk(x, 4, dim=1)
    nodes, number = [], 0
    for own in range(4):
        total = 0
        for _ in range(own + 1):
            name, source = edges[number]
            data = groups[own] if source == 0 else nodes[source - 1]
            total = total + OPERATIONS[name](layers.below(f"edges.{number}"), data)
            number += 1
        nodes.append(total)
    descriptor = rescaled(layers.below("descriptor"), sum(groups), reductions[0])
    project = layers.below("project")
    y = torch.cat([*nodes, descriptor], dim=1)
    y = project.norm("1", project.conv("0", y)).relu()
    y = project.norm("4", project.conv("3", y))
    return rescaled(layers.below("rescale"), y + x, reductions[1])
