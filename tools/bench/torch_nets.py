"""Our networks once more in PyTorch, with the same parameters, to compare speed with.

They stand here and not in the tests because the benchmark runs them; the parity tests hold them and
ours to the same numbers, so that the two are checked against each other.

ResNet: Deep Residual Learning for Image Recognition, He, Zhang, Ren, Sun, CVPR 2016, in the two
layouts of :mod:`gluon_attn.nets.resnet`. VAA's attention modules: as docs/vaa.md has them from the
paper's supplement, equations 1 to 4. Blocks are called as in our nets (``backbone.features.4.0.
body.0``), so that parameters are copied by name.

This is the only module that imports PyTorch, and it does so inside functions. It never imports
MXNet: in a process that measures PyTorch, nothing else should take memory or threads.

Legend: B batch, A attributes, C channels, h w size of an activation.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np

# Residual units of each stage, and whether they are bottlenecks (table 1 of the ResNet paper)
UNITS = {
    18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False), 50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True), 152: ((3, 8, 36, 3), True),
}  # fmt: skip
MASK, CLASSIFIER = (256, 256), (256, 512, 512)  # filters of VAA's branches (supplement)
RENAMED = {"gamma": "weight", "beta": "bias"}  # of batch normalisation
HINT = 'pip install "gluon_attn[bench]"'
PRECISIONS = ("fp32", "bf16")


def build(
    depth: int = 101,
    version: str = "v1",
    classes: int = 14,
    input_size: int = 224,
    *,
    width: int = 64,
    taps: Sequence[str] | None = (),
    variant: str | None = None,
    attention: Any = None,
    dropout: float = 0.0,
) -> Any:
    """Return a zoo network as a torch module, ``(B, 3, H, W)`` to logits.

    Args:
        depth: 18, 34, 50, 101 or 152.
        version: ``'v1'``: bottlenecks with the stride and a bias on the 1x1 convolutions;
            ``'v1b'``: stride on the 3x3, no biases.
        classes: A.
        input_size: H = W in pixels.
        width: Channels of the stem; all others scale with it.
        taps: Activations with an attention module; None means the last of stages 3 and 4.
        variant: ``'supplement'`` for VAA, None for the plain ResNet.
        attention: Attention slot of our ResNet; only None.
        dropout: Before the classifier of our ResNet; only 0.

    Returns:
        A module in training mode. Plain: logits ``(B, A)``. VAA: ``(mean logits, backbone logits,
        logits of each module…)``, each ``(B, A)``.

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: A network that is not written here.
    """
    nn = _torch().nn
    if depth not in UNITS or version not in ("v1", "v1b"):
        raise ValueError(f"ResNet-{depth} {version}: valid are {sorted(UNITS)} with v1 or v1b")
    if attention is not None or dropout or variant not in (None, "supplement"):
        raise ValueError(
            f"attention={attention}, dropout={dropout}, variant={variant}: written for PyTorch "
            "are the plain ResNet and VAA's supplement"
        )
    units, bottleneck = UNITS[depth]
    if taps is None:
        taps = (f"stage3_activation{units[2] - 1}", f"stage4_activation{units[3] - 1}")
    tapped = tuple(_parse_tap(name, units) for name in taps)
    backbone = _resnet(units, bottleneck, version, classes, width=width, taps=tapped)
    if variant is None:
        return backbone
    expansion = 4 if bottleneck else 1
    modules = []
    for stage, _ in tapped:
        side = -(-input_size // (4 << stage))  # every halving rounds up
        modules.append(_attention_module(width * expansion << stage, side, classes, width / 64))
    heads = _compose(None, attention=nn.ModuleList(modules))
    return _compose(_aggregate, backbone=backbone, heads=heads)


def copy_parameters(arrays: dict[str, np.ndarray], module: Any) -> None:
    """Copy our parameters into a torch module, by name.

    Args:
        arrays: Dict of structural names (``save_parameters``, or an export without its ``arg:`` and
            ``aux:``) to float32 NumPy arrays.
        module: What :func:`build` returned for the same network.

    Raises:
        ValueError: A name or a shape that only one of the two has; nothing is copied.
    """
    torch = _torch()
    given = {_torch_name(name): value for name, value in arrays.items()}
    wanted = {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    odd = sorted(set(given) ^ set(wanted))
    odd += [n for n in given if n in wanted and tuple(given[n].shape) != tuple(wanted[n].shape)]
    if odd:
        raise ValueError(f"{len(odd)} parameters do not fit the network, first: {odd[:4]}")
    with torch.no_grad():
        for name, value in given.items():
            wanted[name].copy_(torch.tensor(value))


def save(module: Any, path: str | Path) -> None:
    """Write the parameters of a module."""
    _torch().save(module.state_dict(), str(path))


def open_runner(
    arguments: dict,
    path: str | Path,
    threads: int,
    *,
    channels_last: bool = False,
    compiled: bool = False,
    precision: str = "fp32",
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images ``(B, 3, H, W)`` to logits ``(B, A)``, float32 NumPy arrays.

    Args:
        arguments: Of :func:`build`.
        path: File of :func:`save`.
        threads: Compute threads of the process.
        channels_last: Keep arrays with the channels innermost, as oneDNN's kernels like them.
        compiled: Compile with ``torch.compile`` (which needs a C++ compiler) and with
            channels_last.
        precision: ``'fp32'`` or ``'bf16'``, of weights and activations.

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: bf16 on a processor for which PyTorch has no such kernels.
    """
    torch = _torch()
    torch.set_num_threads(threads)
    dtype = _dtype(precision)
    order = torch.channels_last if channels_last or compiled else torch.contiguous_format
    net = build(**arguments)
    net.load_state_dict(torch.load(str(path), weights_only=True))
    net = net.eval().to(dtype=dtype, memory_format=order)
    if compiled:
        net = torch.compile(net)

    @torch.inference_mode()
    def run(images: np.ndarray) -> np.ndarray:
        outputs = net(torch.tensor(images).to(dtype=dtype, memory_format=order))
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        return logits.float().numpy()

    return run


def open_trainer(
    arguments: dict,
    batch: int,
    threads: int,
    *,
    channels_last: bool = False,
    precision: str = "fp32",
    lr: float = 1e-4,
) -> Callable[[], float]:
    """Return a function that makes one training step of a network on a fixed random batch.

    The loss is the cross-entropy of every logit vector that training uses (of VAA: the backbone's
    and the modules'), the update SGD with momentum 0.9 and weight decay 5e-4. With bf16 the
    parameters stay float32 and the operators cast (autocast).

    Raises:
        ImportError, ValueError: As for :func:`open_runner`.
    """
    torch = _torch()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    dtype = _dtype(precision)
    order = torch.channels_last if channels_last else torch.contiguous_format
    net = build(**arguments).train().to(memory_format=order)
    side = arguments["input_size"]
    images = torch.randn(batch, 3, side, side).to(memory_format=order)
    labels = (torch.rand(batch, arguments["classes"]) < 0.3).float()
    update = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits

    def step() -> float:
        update.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            outputs = net(images)
        trained = outputs[1:] if isinstance(outputs, tuple) else (outputs,)
        loss = sum(entropy(logits.float(), labels) for logits in trained)
        loss.backward()
        update.step()
        return loss.item()

    return step


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"PyTorch cannot be imported ({error}): {HINT}") from error
    return torch


def _dtype(precision: str) -> Any:
    torch = _torch()
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: valid are {', '.join(PRECISIONS)}")
    if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise ValueError("PyTorch has no bfloat16 kernels for this processor (it needs AVX-512)")
    return torch.bfloat16 if precision == "bf16" else torch.float32


@functools.lru_cache(maxsize=None)
def _composed_class() -> Any:
    """Return the one torch class that all blocks are of; a function, as torch may be absent."""

    class Composed(_torch().nn.Module):
        def __init__(self, rule: Callable, children: dict) -> None:
            super().__init__()
            self.rule = rule
            for name, child in children.items():
                setattr(self, name, child)

        def forward(self, *inputs: Any) -> Any:
            return self.rule(self, *inputs)

    return Composed


def _compose(rule: Callable | None, **children: Any) -> Any:
    """Return a module with these children whose forward is ``rule(module, *inputs)``."""
    return _composed_class()(rule, children)


# ---------------------------------------------------------------------------------------- ResNet


def _resnet(
    units: Sequence[int], bottleneck: bool, version: str, classes: int, *, width: int, taps: tuple
) -> Any:
    """Return the backbone: logits, or with taps ``(logits, activation, …)``."""
    nn = _torch().nn
    stem = nn.Conv2d(3, width, 7, 2, 3, bias=False)
    features = [stem, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage, count in enumerate(units):
        filters = width * (4 if bottleneck else 1) << stage
        stack = []
        for number in range(count):
            stride = 2 if stage and not number else 1
            stack.append(_unit(channels, filters, stride, version if bottleneck else ""))
            channels = filters
        features.append(nn.Sequential(*stack))
    features.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    net = _compose(
        _run_resnet, features=nn.ModuleList(features), output=nn.Linear(channels, classes)
    )
    net.taps = taps
    return net


def _run_resnet(self: Any, x: Any) -> Any:
    tapped = {}
    for place, layer in enumerate(self.features):
        if 4 <= place < 8:
            for number, unit in enumerate(layer):
                x = unit(x)
                tapped[place - 4, number] = x
        else:
            x = layer(x)
    logits = self.output(x)
    return (logits, *(tapped[tap] for tap in self.taps)) if self.taps else logits


def _unit(channels: int, filters: int, stride: int, version: str) -> Any:
    """Return a residual unit: relu(shortcut + body), the shortcut projected where shapes differ.

    ``version`` is that of the bottlenecks, empty for basic units.
    """
    nn = _torch().nn
    if not version:
        plan = ((filters, 3, stride, False), (filters, 3, 1, False))
    elif version == "v1":
        inner = filters // 4
        plan = ((inner, 1, stride, True), (inner, 3, 1, False), (filters, 1, 1, True))
    else:
        inner = filters // 4
        plan = ((inner, 1, 1, False), (inner, 3, stride, False), (filters, 1, 1, False))
    body, inputs = [], channels
    for position, (outputs, kernel, step, bias) in enumerate(plan):
        if position:
            body.append(nn.ReLU())
        body.append(nn.Conv2d(inputs, outputs, kernel, step, kernel // 2, bias=bias))
        body.append(nn.BatchNorm2d(outputs))
        inputs = outputs
    children = {"body": nn.Sequential(*body)}
    if stride != 1 or channels != filters:
        projection = nn.Conv2d(channels, filters, 1, stride, bias=False)
        children["downsample"] = nn.Sequential(projection, nn.BatchNorm2d(filters))
    return _compose(_run_unit, **children)


def _run_unit(self: Any, x: Any) -> Any:
    shortcut = self.downsample(x) if hasattr(self, "downsample") else x
    return (shortcut + self.body(x)).relu()


# ------------------------------------------------------------------------------------------- VAA


def _attention_module(channels: int, side: int, classes: int, scale: float) -> Any:
    """Return logits ``(B, A)`` from an activation ``(B, C, side, side)``; docs/vaa.md, Eq. 1-3."""
    nn = _torch().nn

    def block(inputs: int, outputs: int, kernel: int = 1) -> list:
        convolution = nn.Conv2d(inputs, outputs, kernel)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    first, second = (round(f * scale) for f in MASK)
    mask = [*block(channels, first), *block(first, second), nn.Conv2d(second, classes, 1)]
    first, second, third = (round(f * scale) for f in CLASSIFIER)
    classifier = [*block(classes, first), *block(first, second), *block(second, third, side)]
    classifier += [nn.Flatten(), nn.Linear(third, classes)]
    return _compose(
        _run_attention, mask=nn.Sequential(*mask), confidence=nn.Conv2d(channels, classes, 1),
        classifier=nn.Sequential(*classifier),
    )  # fmt: skip


def _run_attention(self: Any, x: Any) -> Any:
    scores = self.mask(x)
    attention = scores.flatten(2).softmax(-1).view(scores.shape)  # Eq. 1
    return self.classifier(attention * self.confidence(x).sigmoid())  # Eq. 2, 3


def _aggregate(self: Any, image: Any) -> tuple:
    logits, *activations = self.backbone(image)
    every = [logits, *(m(x) for m, x in zip(self.heads.attention, activations))]
    return (sum(every) / len(every), *every)  # Eq. 4


def _parse_tap(name: str, units: Sequence[int]) -> tuple[int, int]:
    found = re.fullmatch(r"stage([1-4])_activation(\d+)", name)
    if not found or int(found.group(2)) >= units[int(found.group(1)) - 1]:
        raise ValueError(
            f"tap {name!r}: valid are stage1_activation0 … stage4_activation{units[3] - 1}"
        )
    return int(found.group(1)) - 1, int(found.group(2))


def _torch_name(name: str) -> str:
    head, _, last = name.rpartition(".")
    return f"{head}.{RENAMED.get(last, last)}"
