"""ICASC in PyTorch, written from the paper: a small ResNet, attention maps, losses, all gradients.

The net is a function of a dict of arrays named as in Gluon, so that no module of the library under
test takes part. Everything runs in float64; ``create_graph=True`` keeps the channel weights
differentiable (the exact gradient), ``detach`` makes them constants.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def norm(params, name, x):
    """Batch-norm with the statistics of the batch."""
    return F.batch_norm(
        x, None, None, params[name + ".gamma"], params[name + ".beta"], training=True, eps=1e-5
    )


def unit(params, name, x, stride):
    """A basic residual unit."""
    y = F.conv2d(x, params[name + ".body.0.weight"], stride=stride, padding=1)
    y = torch.relu(norm(params, name + ".body.1", y))
    y = F.conv2d(y, params[name + ".body.3.weight"], padding=1)
    y = norm(params, name + ".body.4", y)
    if name + ".downsample.0.weight" in params:
        x = F.conv2d(x, params[name + ".downsample.0.weight"], stride=stride)
        x = norm(params, name + ".downsample.1", x)
    return torch.relu(x + y)


def features(params, image):
    """Return the inner and the last feature map of a ResNet-18."""
    x = F.conv2d(image, params["features.0.weight"], stride=2, padding=3)
    x = F.max_pool2d(torch.relu(norm(params, "features.1", x)), 3, 2, 1)
    for stage in range(4, 8):
        inner = x
        for number in range(2):
            x = unit(params, f"features.{stage}.{number}", x, 1 + (stage > 4 and number == 0))
    return inner, x


def attention(feature, gradient, kind):
    """Equations 1 and 2."""
    positions = feature.shape[2] * feature.shape[3]
    if kind == "grad_cam":
        alpha = gradient.sum((2, 3)) / positions
        return torch.relu((alpha[:, :, None, None] * feature).sum(1))
    weights = torch.relu(gradient).sum((2, 3))
    return torch.relu((weights[:, :, None, None] * feature).sum(1)) / positions


def separation(true, confusing, mask):
    """Equation 3, per image."""
    shared = (torch.minimum(true, confusing) * mask).sum((1, 2))
    return 2 * shared / ((true + confusing).sum((1, 2)) + 1e-6)


def losses(params, image, label, kind="channel_weighted", exact=False, multi=False):
    """Return the terms of equation 6 summed over the batch, and all four gradients of scores."""
    inner, last = features(params, image)
    logits = last.mean((2, 3)) @ params["output.weight"].T + params["output.bias"]
    with torch.no_grad():
        confusing = F.one_hot((logits - 1e9 * label).argmax(1), logits.shape[1]).double()
    found = []
    for vector in (label, confusing):
        score = (logits * vector).sum()
        grads = torch.autograd.grad(score, [inner, last], create_graph=True)
        found.append(grads if exact else [g.detach() for g in grads])
    maps = [[attention(f, g, kind) for f, g in zip((inner, last), pair)] for pair in found]
    (true_inner, true), (conf_inner, conf) = maps
    sigma = 0.55 * true.amax((1, 2), keepdim=True)
    mask = 1 / (1 + torch.exp(-100 * (true - sigma)))
    large = F.interpolate(
        mask[:, None], size=inner.shape[2:], mode="bilinear", align_corners=False
    )[:, 0]
    if multi:
        entropy = F.binary_cross_entropy_with_logits(logits, label, reduction="none").mean(1)
    else:
        entropy = -(torch.log_softmax(logits, 1) * label).sum(1)
    inside = (true_inner * large).sum((1, 2)) / (true_inner.sum((1, 2)) + 1e-6)
    terms = {
        "class": entropy, "as_inner": separation(true_inner, conf_inner, large),
        "as_last": separation(true, conf, mask), "ac": 0.8 - inside,
    }  # fmt: skip
    return {name: value.sum() for name, value in terms.items()}, found
