"""The super-network of AutoLA's search: all nine operations on all ten edges of every block.

Auto Learning Attention, Ma, Zhang, Xia, Tao, NeurIPS 2020 ("paper"), with the authors' code
("code").

    edge output = sum over operations o of softmax(alpha)_o operation_o(source)

with one alpha (10 edges x 9 operations) for all blocks. Numbers are those of the operations in
:mod:`gluon_attn.papers.autola.operations`, one by one (tested); how they are computed differs:

* Edges that can be computed together are: the four that read the groups, then the three that read
  node 1, the two that read node 2, and the last. Their channels lie side by side, so each of the
  four passes has wide layers instead of many narrow ones.
* Every operation but two is input times gate, so the *gates* are added, and the sum is multiplied
  with the input once. Channel gates are added while they are vectors, spatial ones while they are
  single maps.
* What several operations or edges read is made once: channel pools, means and maxima.
* Convolutions that oneDNN is slow at are written as plain ones: see ``Stack`` and ``PairConv``.

Legend: B batch, E edges of a pass, c channels of a group, H W map size.
"""

from __future__ import annotations

from typing import Any, Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.model_zoo.vision.resnet import BasicBlockV1

from gluon_attn.blocks.base import Tensor
from gluon_attn.blocks.gates import global_max, global_mean, hidden_size
from gluon_attn.nets.resnet import ResNet
from gluon_attn.nets.taps import TappedStage
from gluon_attn.papers.autola.genotype import EDGES, NODES, OPERATIONS
from gluon_attn.papers.autola.hoga import SEARCH_REDUCTIONS, GroupAttention
from gluon_attn.papers.autola.operations import (
    REDUCTION,
    PlainNorm,
    channel_pool,
    norm,
    side_by_side,
)

ALPHA_SCALE = 1e-3  # of the normal distribution that the code draws alpha from

# How graphs of a super-network run. A search has two, one for alpha and one for the weights, that
# never run at once: static memory would be held for both all the time. Pushing 60 operators at once
# instead of 15 makes up for half of the time that it saves.
GRAPH = {
    "static_alloc": False, "static_shape": False, "forward_bulk_size": 60, "backward_bulk_size": 60,
}  # fmt: skip


def dense_kernel(F: Any, weight: Tensor, edges: int, shape: tuple[int, int, int]) -> Tensor:
    """Return the kernel ``(E f, E c, k, k)`` of the convolution without groups that equals the one
    in E groups with ``weight`` ``(E f, c, k, k)``: zeros between the edges. ``shape`` is (f, c, k).
    """
    filters, channels, side = shape
    if edges > 1:
        flat = F.reshape(weight, shape=(edges, filters, 1, -1))
        ones = F.ones_like(F.slice_axis(F.reshape(weight, shape=(-1,)), axis=0, begin=0, end=edges))
        own = F.reshape(F.diag(ones), shape=(edges, 1, edges, 1))
        weight = F.broadcast_mul(flat, own)
    return F.reshape(weight, shape=(edges * filters, edges * channels, side, side))


def value_of(F: Any, parameter: Any, x: Tensor) -> Tensor:
    """Return a child's parameter as this block's own would arrive, beside input ``x``."""
    return parameter.var() if F is mx.sym else parameter.data(x.context)


class ChannelConv(nn.Conv2D):
    """A depth-wise convolution without bias that keeps the map's size; run by those who hold it."""

    def __init__(self, channels: int, kernel: int = 3, dilation: int = 1) -> None:
        super().__init__(
            channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=channels,
            use_bias=False, in_channels=channels,
        )  # fmt: skip


def plain_norm(channels: int) -> Any:
    """Return a batch norm that is not affine, for maps in any order."""
    return norm(channels, affine=False, kind=PlainNorm)


class Stack(nn.HybridSequential):
    """Layers of E edges side by side, ``(B, E c, H, W)`` to ``(B, E f, H, W)``.

    A depth-wise convolution and the 1x1 convolution behind it run as one plain convolution, whose
    kernel is the product of both and zero between edges. In channels so few oneDNN's kernels for
    it are several times as fast as those for the parts, above all their gradients, and one map
    less is kept.
    """

    def __init__(self, edges: int, *layers: HybridBlock) -> None:
        super().__init__()
        self._edges = edges
        self.add(*layers)

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        layers = iter(self._children.values())
        for layer in layers:
            merged = isinstance(layer, ChannelConv)
            x = self._merged(F, x, layer, next(layers)) if merged else layer(x)
        return x

    def _merged(self, F: Any, x: Tensor, first: nn.Conv2D, second: nn.Conv2D) -> Tensor:
        e, settings = self._edges, first._kwargs
        side, c, f = settings["kernel"][0], first._channels // e, second._channels // e
        each = F.reshape(value_of(F, first.weight, x), shape=(e, 1, c, -1))
        mix = F.reshape(value_of(F, second.weight, x), shape=(e, f, c, 1))
        kernel = dense_kernel(F, F.broadcast_mul(mix, each), e, (f, c, side))
        if e != 3:
            return F.Convolution(x, kernel, **dict(settings, num_filter=e * f, num_group=1))
        # Channels of three edges fill no blocks of oneDNN's: a fourth has weights of 0.
        x = side_by_side(F, [x, F.slice_axis(x, axis=1, begin=0, end=c)])
        for axis, more in ((0, f), (1, c)):
            part = F.slice_axis(kernel, axis=axis, begin=0, end=more)
            kernel = F.concat(kernel, F.zeros_like(part), dim=axis)
        y = F.Convolution(x, kernel, **dict(settings, num_filter=4 * f, num_group=1))
        return F.slice_axis(y, axis=1, begin=0, end=3 * f)


class PairConv(HybridBlock):
    """For each edge a convolution from its two channels to one: ``(B, 2 E, H, W) -> (B, E, H, W)``.

    Its kernels are laid over every tile of 4 x 4 outputs, which become 16 channels of a convolution
    with stride 4: so few channels in so large kernels leave oneDNN little to do at once otherwise.
    """

    TILE = 4

    def __init__(self, edges: int, kernel: int, dilation: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._edges, self._side = edges, kernel
        with self.name_scope():
            self.each = ChannelConv(2 * edges, kernel, dilation)

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        weight = F.reshape(value_of(F, self.each.weight, x), shape=(self._edges, 2, 0, 0))
        return self._tiled(F, x, weight) if self._side > 3 else self._plain(F, x, weight)

    def _plain(self, F: Any, x: Tensor, weight: Tensor) -> Tensor:
        e, settings = self._edges, self.each._kwargs
        kernel = dense_kernel(F, weight, e, (1, 2, self._side))
        return F.Convolution(x, kernel, **dict(settings, num_filter=e, num_group=1))

    def _tiled(self, F: Any, x: Tensor, weight: Tensor) -> Tensor:
        e, t, side = self._edges, self.TILE, self._side + self.TILE - 1
        more = (0,) * 5 + (t - 1, 0, t - 1)
        flat = F.pad(weight, mode="constant", constant_value=0, pad_width=more)
        flat = F.reshape(flat, shape=(2 * e, side * side))
        flat = F.concat(flat, F.zeros_like(F.slice_axis(flat, axis=1, begin=0, end=1)), dim=1)
        # Repeated and read in rows one shorter than they are, row r is shifted by r; kernels of the
        # output in row dy and column dx of a tile are those of r = side dy + dx.
        flat = F.slice_axis(F.tile(flat, reps=(1, t * side)), axis=1, begin=0, end=t * side**3)
        rows = F.slice_axis(F.reshape(flat, shape=(2 * e, t, side, -1)), axis=2, begin=0, end=t)
        rows = F.transpose(F.reshape(rows, shape=(e, 2, t * t, -1)), axes=(0, 2, 1, 3))
        kernel = F.reshape(rows, shape=(e * t * t, 2, side, side))
        tiles = F.Convolution(
            x, kernel, kernel=(side, side), stride=(t, t), pad=(self._side // 2 + t,) * 2,
            num_filter=e * t * t, num_group=e, no_bias=True,
        )  # fmt: skip
        whole = F.depth_to_space(F.reshape(tiles, shape=(-1, t * t, -2)), block_size=t)
        return F.reshape(F.Crop(whole, x, offset=(t, t), num_args=2), shape=(-1, e, -2))


def grouped(filters: int, channels: int, edges: int, use_bias: bool = False) -> nn.Conv2D:
    """Return a 1x1 convolution of E edges, each from ``channels`` to ``filters``."""
    return nn.Conv2D(
        filters * edges, 1, groups=edges, use_bias=use_bias, in_channels=channels * edges
    )


class ChannelGates(HybridBlock):
    """The dense layers of a channel gate for E edges.

    Inputs: one or two of mean and max, ``(B, E c, 1, 1)``. Output: gates of the same shape.
    """

    def __init__(self, channels: int, edges: int, use_bias: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        units = hidden_size(channels, REDUCTION)
        with self.name_scope():
            self.squeeze = grouped(units, channels, edges, use_bias)
            self.excite = grouped(channels, units, edges, use_bias)

    def hybrid_forward(self, F: Any, mean: Tensor, maximum: Tensor = None) -> Tensor:
        score = self.excite(F.relu(self.squeeze(mean)))
        if maximum is not None:
            score = score + self.excite(F.relu(self.squeeze(maximum)))
        return F.sigmoid(score)


class EdgePass(HybridBlock):
    """All operations on E edges, mixed.

    Inputs: x, the sources ``(B, E c, H, W)`` side by side or, with ``shared``, the one source
    ``(B, c, H, W)`` that all edges read; weight ``(E, 9)``, the softmax of alpha.
    Output: ``(B, E c, H, W)``.
    """

    def __init__(self, channels: int, edges: int, shared: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._channels, self._edges, self._copies = channels, edges, edges if shared else 1
        c, wide = channels, channels * edges
        with self.name_scope():
            self.sep = Stack(
                edges, ChannelConv(wide), grouped(c, c, edges), plain_norm(wide),
                nn.Activation("relu"), ChannelConv(wide), grouped(c, c, edges),
            )  # fmt: skip
            self.dil = Stack(edges, ChannelConv(wide, dilation=2), grouped(c, c, edges))
            self.sep_spatial = Stack(
                edges, ChannelConv(2 * edges), grouped(2, 2, edges), plain_norm(2 * edges),
                nn.Activation("relu"), ChannelConv(2 * edges), grouped(1, 2, edges),
            )  # fmt: skip
            self.dil_spatial = Stack(edges, PairConv(edges, 3, dilation=2), grouped(1, 1, edges))
            self.se, self.se_a_m = ChannelGates(c, edges), ChannelGates(c, edges)
            self.cbam = ChannelGates(c, edges, use_bias=True)
            self.cbam_spatial = Stack(edges, PairConv(edges, 7), plain_norm(edges))
            self.norm = plain_norm(2 * wide)
            self.spatial_norm = plain_norm(2 * edges)

    def hybrid_forward(self, F: Any, x: Tensor, weight: Tensor) -> Tensor:
        share = dict(zip(OPERATIONS, F.split(weight, num_outputs=len(OPERATIONS), axis=1)))
        pool = F.reshape(self._pool(F, x), shape=(-1, 2 * self._edges // self._copies, -2))
        mean, maximum = global_mean(F, x), global_max(F, x)
        if self._copies > 1:
            seen = (x, pool, mean, maximum)
            x, pool, mean, maximum = (side_by_side(F, [a] * self._copies) for a in seen)
        deep = self._deep(F, x, share)
        low_rank = self._low_rank(F, x, pool=pool, mean=mean, maximum=maximum, share=share)
        return x * (deep + low_rank)

    def _pool(self, F: Any, x: Tensor) -> Tensor:
        """Return the channel pools of each source or edge, ``(B times their number, 2, H, W)``."""
        return channel_pool(F, F.reshape(x, shape=(-1, self._channels, -2)), self._channels)

    def _deep(self, F: Any, x: Tensor, share: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of the two gates that differ in every value."""
        scores = self.norm(side_by_side(F, [self.sep(x), self.dil(x)]))
        gates = F.Activation(scores, act_type="sigmoid")
        names = ("sep_conv_3x3", "dil_conv_3x3")
        return self._weighted(F, gates, [share[name] for name in names], self._channels)

    def _weighted(self, F: Any, gates: Tensor, shares: Sequence[Tensor], repeats: int) -> Tensor:
        """Return the weighted sum of two halves of ``gates``, ``repeats`` channels an edge."""
        # A 1x1 convolution weights and adds in one go; its gradients are matrix products.
        flat = (F.repeat(F.reshape(s, shape=(-1,)), repeats=repeats) for s in shares)
        wide = self._edges * repeats
        kernel = F.concat(*(F.diag(s) for s in flat), dim=1)
        kernel = F.reshape(kernel, shape=(wide, 2 * wide, 1, 1))
        return F.Convolution(gates, kernel, kernel=(1, 1), num_filter=wide, no_bias=True)

    def _low_rank(
        self, F: Any, x: Tensor, *, pool: Tensor, mean: Tensor, maximum: Tensor,
        share: dict[str, Tensor],
    ) -> Tensor:  # fmt: skip
        """Return the weighted sum of all other gates.

        For each edge it is a matrix (c, H W) of rank 3: the product of CBAM's two gates, the
        channel gates the same everywhere, the spatial gates the same for all channels.
        """
        c, e = self._channels, self._edges
        spread = {
            n: F.reshape(F.repeat(s, repeats=c), shape=(1, e * c, 1, 1)) for n, s in share.items()
        }
        channel = self.cbam(mean, maximum)
        ones = F.ones_like(F.slice_axis(x, axis=1, begin=0, end=e))  # (B, E, H, W)
        spatial = self._cbam_spatial(F, x, channel, ones)
        everywhere = F.broadcast_add(
            F.broadcast_mul(self.se(mean), spread["SE"])
            + F.broadcast_mul(self.se_a_m(mean, maximum), spread["SE_A_M"]),
            spread["skip_connect"],
        )
        columns = (F.broadcast_mul(channel, spread["CBAM"]), everywhere, F.ones_like(channel))
        rows = (spatial, ones, self._spatial(F, pool, share))
        left = F.concat(*(F.reshape(a, shape=(-1, c, 1)) for a in columns), dim=2)
        right = F.concat(*(F.reshape(a, shape=(-3, 1, -1)) for a in rows), dim=1)
        return F.reshape_like(F.batch_dot(left, right), x)

    def _spatial(self, F: Any, pool: Tensor, share: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of the gates of the spatial operations, ``(B, E, H, W)``."""
        scores = side_by_side(F, [self.sep_spatial(pool), self.dil_spatial(pool)])
        gates = F.Activation(self.spatial_norm(scores), act_type="sigmoid")
        names = ("sep_conv_3x3_spatial", "dil_conv_3x3_spatial")
        return self._weighted(F, gates, [share[name] for name in names], 1)

    def _cbam_spatial(self, F: Any, x: Tensor, channel: Tensor, ones: Tensor) -> Tensor:
        """Return CBAM's spatial gate, made of the input times the channel gate."""
        # The gate as a full map, since MXNet is slow at summing gradients of what was broadcast.
        left = F.reshape(channel, shape=(-1, self._channels, 1))
        gate = F.reshape_like(F.batch_dot(left, F.reshape(ones, shape=(-3, 1, -1))), x)
        pool = F.reshape(self._pool(F, x * gate), shape=(-1, 2 * self._edges, -2))
        return F.Activation(self.cbam_spatial(pool), act_type="sigmoid")


# The passes: positions in EDGES of those that read the groups, node 1, node 2 and node 3.
PASSES = tuple(
    tuple(k for k, (_, source) in enumerate(EDGES) if source == number) for number in range(NODES)
)


class SearchHOGA(GroupAttention):
    """The attention block in which every edge is a mixture of all operations.

    Inputs: x ``(B, C, H, W)``; four arrays ``(E, 9)``, the mixture weights of each pass.
    """

    def __init__(
        self, channels: int, reductions: Sequence[int] = SEARCH_REDUCTIONS, **kwargs: Any
    ) -> None:
        super().__init__(channels, reductions, **kwargs)
        with self.name_scope():
            self.passes = nn.HybridSequential(prefix="pass_")
            with self.passes.name_scope():
                for source, edges in enumerate(PASSES):
                    self.passes.add(EdgePass(self.group, len(edges), shared=source > 0))

    def join(self, F: Any, arrays: Sequence[Tensor]) -> Tensor:
        return side_by_side(F, arrays)

    def nodes(self, F: Any, x: Tensor, groups: Sequence[Tensor], *weights: Tensor) -> list[Tensor]:
        terms: list[list[Tensor]] = [[] for _ in range(NODES)]
        nodes: list[Tensor] = []
        for source, (edges, mixed) in enumerate(zip(PASSES, self.passes)):
            outputs = mixed(nodes[source - 1] if source else x, weights[source])
            several = len(edges) > 1  # else F.split gives no list
            outputs = F.split(outputs, num_outputs=len(edges), axis=1) if several else [outputs]
            for edge, output in zip(edges, list(outputs)):
                terms[EDGES[edge][0] - 1].append(output)
            own = terms[source]
            nodes.append(F.add_n(*own) if len(own) > 1 else own[0])
        return nodes


class SearchUnit(HybridBlock):
    """A residual unit of two convolutions with the mixed block behind its last batch norm."""

    def __init__(
        self, unit: BasicBlockV1, channels: int, reductions: Sequence[int], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.body, self.downsample = unit.body, unit.downsample
        with self.name_scope():
            self.attention = SearchHOGA(channels, reductions)

    def hybrid_forward(self, F: Any, x: Tensor, *weights: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.attention(self.body(x), *weights) + shortcut)


class SuperNet(HybridBlock):
    """A ResNet in which every unit has the mixed block; ``alpha`` is ``(10, 9)``.

    Inputs: image ``(B, 3, H, W)`` float32. Output: logits ``(B, classes)``. The layers of the
    backbone are taken over; its units have two convolutions, it has neither taps nor attention.
    """

    output_names = ("logits",)
    attention_outputs: tuple[str, ...] = ()

    def __init__(
        self, backbone: ResNet, reductions: Sequence[int] = SEARCH_REDUCTIONS, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        _check_backbone(backbone)
        self.classes = backbone.classes
        stages = [k for k, layer in enumerate(backbone.features) if isinstance(layer, TappedStage)]
        layers = list(backbone.features)
        with self.name_scope():
            self.alpha = self.params.get(
                "alpha", shape=(len(EDGES), len(OPERATIONS)), init=mx.init.Normal(ALPHA_SCALE)
            )
            self.stem, self.tail = (nn.HybridSequential(prefix=f"{n}_") for n in ("stem", "tail"))
            self.stem.add(*layers[: stages[0]])
            self.units = nn.HybridSequential(prefix="units_")
            with self.units.name_scope():
                for unit in (u for k in stages for u in layers[k]):
                    channels = list(unit.body)[-2].weight.shape[0]
                    self.units.add(SearchUnit(unit, channels, reductions))
            self.tail.add(*layers[stages[-1] + 1 :])
            self.output = backbone.output

    def hybridize(self, active: bool = True, **kwargs: Any) -> None:
        """As Gluon's, without memory of its own: as ``GRAPH`` says."""
        super().hybridize(active, **dict(kwargs, **GRAPH))

    def hybrid_forward(self, F: Any, x: Tensor, alpha: Tensor) -> Tensor:
        share = F.softmax(alpha, axis=1)
        rows = F.split(share, num_outputs=len(EDGES), axis=0)
        weights = [F.concat(*(rows[k] for k in edges), dim=0) for edges in PASSES]
        x = self.stem(x)
        for unit in self.units._children.values():
            x = unit(x, *weights)
        return self.output(self.tail(x))


def _check_backbone(backbone: ResNet) -> None:
    if backbone.taps or backbone.attention_blocks():
        raise ValueError("the backbone of a search has neither taps nor attention blocks")
    for stage in (s for s in backbone.features if isinstance(s, TappedStage)):
        for unit in stage:
            if not isinstance(unit, BasicBlockV1):
                raise ValueError(
                    f"{type(unit).__name__}: the search knows units of two convolutions, such as "
                    "those of ResNet-18, -34 and the CIFAR ResNets"
                )
