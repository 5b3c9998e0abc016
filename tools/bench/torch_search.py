"""The super-network of the search in PyTorch, as one writes it there: a module per operation.

PyTorch is imported inside functions; MXNet never is.

Legend: B batch, c channels of a group, alpha (10 edges, 9 operations).
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

from tools.bench.torch_nets import _compose, _torch

NODES = 4
REDUCTION, R1, R2 = 4, 4, 16


def _conv(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1, *, groups: int = 1) -> Any:
    padding = dilation * (kernel // 2)
    return _torch().nn.Conv2d(
        inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups, bias=False
    )


def _norm(channels: int) -> Any:
    return _torch().nn.BatchNorm2d(channels, affine=False)


def _gated(build: Callable, layers: Sequence) -> Any:
    """Return the operation input times sigmoid of what ``layers`` make of ``build(input)``."""
    nn = _torch().nn

    def rule(self: Any, x: Any) -> Any:
        return self.body(build(x)).sigmoid() * x

    return _compose(rule, body=nn.Sequential(*layers))


def _pool(x: Any) -> Any:
    torch = _torch()
    return torch.stack([x.max(dim=1)[0], x.mean(dim=1)], dim=1)


def _dense(channels: int, reduction: int, bias: bool = False) -> Any:
    nn, units = _torch().nn, max(1, channels // reduction)
    return nn.Sequential(
        nn.Linear(channels, units, bias=bias), nn.ReLU(), nn.Linear(units, channels, bias=bias)
    )


def _channel(self: Any, x: Any) -> Any:
    score = self.dense(x.mean(dim=(2, 3)))
    if self.both:
        score = score + self.dense(x.amax(dim=(2, 3)))
    return score.sigmoid()[:, :, None, None] * x


def squeeze_excite(channels: int, reduction: int, both: bool = False, bias: bool = False) -> Any:
    """Return input times a channel gate of its means, or of means and maxima."""
    block = _compose(_channel, dense=_dense(channels, reduction, bias))
    block.both = both
    return block


def operations(c: int) -> Any:
    """Return the nine operations for c channels, in the order of alpha's columns."""
    nn = _torch().nn

    def separable(inputs: int, outputs: int) -> list:
        return [_conv(inputs, inputs, 3, groups=inputs), _conv(inputs, outputs), _norm(outputs)]

    spatial = _gated(_pool, [_conv(2, 1, 7), _norm(1)])
    return nn.ModuleList([
        _compose(lambda self, x: x * 0),
        _compose(lambda self, x: x),
        _gated(lambda x: x, [*separable(c, c), nn.ReLU(), *separable(c, c)]),
        _gated(lambda x: x, [_conv(c, c, 3, 2, groups=c), _conv(c, c), _norm(c)]),
        _gated(_pool, [*separable(2, 2), nn.ReLU(), *separable(2, 1)]),
        _gated(_pool, [_conv(2, 1, 3, 2), _conv(1, 1), _norm(1)]),
        squeeze_excite(c, REDUCTION),
        squeeze_excite(c, REDUCTION, both=True),
        nn.Sequential(squeeze_excite(c, REDUCTION, both=True, bias=True), spatial),
    ])  # fmt: skip


def _attend(self: Any, x: Any, weights: Any) -> Any:
    torch = _torch()
    groups, edge = torch.chunk(x, NODES, dim=1), 0
    nodes: list = []
    for node in range(NODES):
        total: Any = 0
        for source in range(node + 1):
            given = nodes[source - 1] if source else groups[node]
            for weight, operation in zip(weights[edge], self.edges[edge]):
                total = total + weight * operation(given)
            edge += 1
        nodes.append(total)
    y = torch.cat([*nodes, self.descriptor(sum(groups))], dim=1)
    return self.rescale(self.project(y) + x)


def attention(channels: int) -> Any:
    """Return the mixed block, ``(x, softmax of alpha)`` to the shape of x."""
    nn, c = _torch().nn, channels // NODES
    project = nn.Sequential(
        _conv(channels + c, channels), nn.BatchNorm2d(channels), nn.ReLU(),
        _conv(channels, channels), nn.BatchNorm2d(channels),
    )  # fmt: skip
    return _compose(
        _attend, edges=nn.ModuleList([operations(c) for _ in range(10)]), project=project,
        descriptor=squeeze_excite(c, R1), rescale=squeeze_excite(channels, R2),
    )  # fmt: skip


def _run_unit(self: Any, x: Any, weights: Any) -> Any:
    return (self.attention(self.body(x), weights) + self.shortcut(x)).relu()


def _run(self: Any, image: Any) -> Any:
    weights = self.alpha.softmax(dim=1)
    x = self.stem(image)
    for unit in self.units:
        x = unit(x, weights)
    return self.output(x.mean(dim=(2, 3)))


def super_network(depth: int = 20, classes: int = 10, width: int = 16) -> Any:
    """Return the super-network on a CIFAR ResNet, ``(B, 3, H, W)`` to logits."""
    torch = _torch()
    nn = torch.nn

    def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return [convolution, nn.BatchNorm2d(outputs)]

    units, inputs = [], width
    for stage in range(3):
        outputs = width << stage
        for number in range((depth - 2) // 6):
            stride = 2 if stage and not number else 1
            body = [
                *conv_norm(inputs, outputs, 3, stride),
                nn.ReLU(),
                *conv_norm(outputs, outputs, 3),
            ]
            plain = nn.Sequential(
                *(conv_norm(inputs, outputs, 1, stride) if inputs != outputs else [])
            )
            parts = {"shortcut": plain, "attention": attention(outputs)}
            units.append(_compose(_run_unit, body=nn.Sequential(*body), **parts))
            inputs = outputs
    stem = nn.Sequential(*conv_norm(3, width, 3), nn.ReLU())
    output = nn.Linear(inputs, classes)
    net = _compose(_run, stem=stem, units=nn.ModuleList(units), output=output)
    net.alpha = nn.Parameter(1e-3 * torch.randn(10, 9))
    return net


def open_step(depth: int, batch: int, threads: int, side: int = 32) -> Callable[[], float]:
    """Return a function that makes one first-order search step on fixed random batches.

    The step is the authors': alpha by Adam on one batch, the weights by SGD on another, with the
    gradient's norm clipped. Images are ``side`` pixels wide.
    """
    torch = _torch()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = super_network(depth)
    weights = [p for name, p in net.named_parameters() if name != "alpha"]
    sgd = torch.optim.SGD(weights, 0.025, momentum=0.9, weight_decay=5e-4)
    adam = torch.optim.Adam([net.alpha], 3e-3, betas=(0.5, 0.999), weight_decay=1e-3)
    criterion = torch.nn.CrossEntropyLoss()
    data = [(torch.randn(batch, 3, side, side), torch.randint(10, (batch,))) for _ in range(2)]

    def step() -> float:
        adam.zero_grad()
        # As there: gradients of the weights are made as well, and thrown away.
        criterion(net(data[1][0]), data[1][1]).backward()
        adam.step()
        sgd.zero_grad()
        loss = criterion(net(data[0][0]), data[0][1])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 5.0)
        sgd.step()
        return loss.item()

    return step
