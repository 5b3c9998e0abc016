"""CIFAR ResNets and their attention blocks in NumPy, on state dicts as PyTorch programs write them.

He et al., CVPR 2016, section 4.2, with both of its shortcuts: A, every second pixel and channels of
zeros; B, a projection. Behind the last batch-norm of a unit one of SE (Hu et al., CVPR 2018), CBAM
(Woo et al., ECCV 2018), SRM (Lee et al., ICCV 2019) or ECA (Wang et al., CVPR 2020).
"""

from __future__ import annotations

import numpy as np

EPSILON = 1e-5


def random_state(
    rng, units=1, width=16, option="B", block=None, shortcut="shortcut", head="linear"
):
    """Return a state dict; ``block`` is None, se, se_bias, cbam, srm, srm_se or eca."""
    state = {}

    def norm(name, channels):
        state[f"{name}.weight"] = rng.uniform(0.5, 1.5, channels)
        state[f"{name}.bias"] = rng.uniform(-0.5, 0.5, channels)
        state[f"{name}.running_mean"] = rng.uniform(-0.5, 0.5, channels)
        state[f"{name}.running_var"] = rng.uniform(0.5, 1.5, channels)

    def weight(name, *shape):
        state[name] = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)

    def attention(unit, channels):
        hidden = max(1, channels // 16)
        names = {"se": "se.fc.0 se.fc.2", "srm_se": "rclb.fc.0 rclb.fc.2",
                 "cbam": "cbam.ChannelGate.mlp.1 cbam.ChannelGate.mlp.3"}  # fmt: skip
        fc = names.get("se" if block == "se_bias" else block, "")
        for name, shape in zip(fc.split(), ((hidden, channels), (channels, hidden))):
            weight(f"{unit}.{name}.weight", *shape)
            if block != "se":
                state[f"{unit}.{name}.bias"] = rng.uniform(-0.5, 0.5, shape[0])
        if block == "cbam":
            weight(f"{unit}.cbam.SpatialGate.spatial.conv.weight", 1, 2, 7, 7)
            norm(f"{unit}.cbam.SpatialGate.spatial.bn", 1)
        if block == "srm":
            weight(f"{unit}.rclb.cfc", channels, 2)
            norm(f"{unit}.rclb.bn", channels)
        if block == "eca":
            weight(f"{unit}.eca.conv.weight", 1, 1, 3)

    weight("conv1.weight", width, 3, 3, 3)
    norm("bn1", width)
    before = width
    for stage in range(3):
        after = width << stage
        for number in range(units):
            unit = f"layer{stage + 1}.{number}"
            weight(f"{unit}.conv1.weight", after, before, 3, 3)
            norm(f"{unit}.bn1", after)
            weight(f"{unit}.conv2.weight", after, after, 3, 3)
            norm(f"{unit}.bn2", after)
            attention(unit, after)
            if before != after and option == "B":
                weight(f"{unit}.{shortcut}.0.weight", after, before, 1, 1)
                norm(f"{unit}.{shortcut}.1", after)
            before = after
    weight(f"{head}.weight", 10, before)
    state[f"{head}.bias"] = rng.uniform(-0.5, 0.5, 10)
    return {name: array.astype(np.float32) for name, array in state.items()}


def convolve(x, kernel, stride=1):
    """Return the convolution of ``(B, C, H, W)``, padded so that stride 1 keeps the size."""
    pad = kernel.shape[-1] // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows[:, :, ::stride, ::stride], kernel)


def normalise(x, state, name):
    """Return the batch-norm of inference."""
    gamma, beta, mean, var = (
        state[f"{name}.{leaf}"][:, None, None]
        for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    return gamma * (x - mean) / np.sqrt(var + EPSILON) + beta


def sigmoid(x):
    """Return the logistic function."""
    return 1 / (1 + np.exp(-x))


def attend(x, state, unit):
    """Return ``x`` behind the attention block of a unit, if it has one."""

    def dense(value, name):
        bias = state.get(f"{name}.bias", 0)
        return value @ state[f"{name}.weight"].T + bias

    def perceptron(value, first, second):
        return dense(np.maximum(dense(value, first), 0), second)

    for start in (f"{unit}.se.fc", f"{unit}.rclb.fc"):
        if f"{start}.0.weight" in state:
            scores = perceptron(x.mean((2, 3)), f"{start}.0", f"{start}.2")
            return x * sigmoid(scores)[:, :, None, None]
    if f"{unit}.rclb.cfc" in state:
        style = np.stack([x.mean((2, 3)), x.std((2, 3), ddof=1)], 2)
        scores = (style * state[f"{unit}.rclb.cfc"]).sum(2)[:, :, None, None]
        return x * sigmoid(normalise(scores, state, f"{unit}.rclb.bn"))
    if f"{unit}.eca.conv.weight" in state:
        padded = np.pad(x.mean((2, 3)), ((0, 0), (1, 1)))
        kernel = state[f"{unit}.eca.conv.weight"][0, 0]
        scores = sum(padded[:, k : k + x.shape[1]] * kernel[k] for k in range(3))
        return x * sigmoid(scores)[:, :, None, None]
    if f"{unit}.cbam.ChannelGate.mlp.1.weight" in state:
        names = [f"{unit}.cbam.ChannelGate.mlp.{k}" for k in (1, 3)]
        scores = perceptron(x.mean((2, 3)), *names) + perceptron(x.max((2, 3)), *names)
        x = x * sigmoid(scores)[:, :, None, None]
        spatial = f"{unit}.cbam.SpatialGate.spatial"
        pooled = np.stack([x.max(1), x.mean(1)], 1)
        scores = normalise(
            convolve(pooled, state[f"{spatial}.conv.weight"]), state, f"{spatial}.bn"
        )
        return x * sigmoid(scores)
    return x


def forward(state, x):
    """Return the logits of images ``(B, 3, H, W)``, in double precision."""
    state = {name: array.astype(np.float64) for name, array in state.items()}
    x = np.maximum(normalise(convolve(x, state["conv1.weight"]), state, "bn1"), 0)
    for stage in range(1, 4):
        number = 0
        while f"layer{stage}.{number}.conv1.weight" in state:
            unit = f"layer{stage}.{number}"
            stride = 2 if stage > 1 and number == 0 else 1
            y = convolve(x, state[f"{unit}.conv1.weight"], stride)
            y = np.maximum(normalise(y, state, f"{unit}.bn1"), 0)
            y = normalise(convolve(y, state[f"{unit}.conv2.weight"]), state, f"{unit}.bn2")
            y = attend(y, state, unit)
            for name in (f"{unit}.shortcut", f"{unit}.downsample"):
                if f"{name}.0.weight" in state:
                    projected = convolve(x, state[f"{name}.0.weight"], stride)
                    x = normalise(projected, state, f"{name}.1")
            if x.shape != y.shape:
                planes = y.shape[1]
                sides = (planes // 4, planes // 4)
                x = np.pad(x[:, :, ::2, ::2], ((0, 0), sides, (0, 0), (0, 0)))
            x, number = np.maximum(x + y, 0), number + 1
    head = "linear" if "linear.weight" in state else "fc"
    return x.mean((2, 3)) @ state[f"{head}.weight"].T + state[f"{head}.bias"]
