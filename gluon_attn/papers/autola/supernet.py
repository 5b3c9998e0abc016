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
    DepthWise,
    channel_pool,
    norm,
    side_by_side,
)

ALPHA_SCALE = 1e-3  # of the normal distribution that the code draws alpha from


class PairConv(HybridBlock):
    """For each edge a convolution from its two channels to one: ``(B, 2 E, H, W) -> (B, E, H, W)``.

    Computed as a depth-wise convolution whose outputs are added in pairs.
    """

    def __init__(self, edges: int, kernel: int, dilation: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._edges = edges
        with self.name_scope():
            self.each = DepthWise(2 * edges, kernel, dilation)

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        pairs = F.reshape(self.each(x), shape=(-1, 2, -2))
        first, second = F.split(pairs, num_outputs=2, axis=1)
        return F.reshape(first + second, shape=(-1, self._edges, -2))


def grouped(filters: int, channels: int, edges: int, use_bias: bool = False) -> nn.Conv2D:
    """Return a 1x1 convolution of E edges, each from ``channels`` to ``filters``."""
    return nn.Conv2D(
        filters * edges, 1, groups=edges, use_bias=use_bias, in_channels=channels * edges
    )


def sequence(*layers: HybridBlock) -> nn.HybridSequential:
    block = nn.HybridSequential()
    block.add(*layers)
    return block


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
            self.sep = sequence(
                DepthWise(wide), grouped(c, c, edges), norm(wide, affine=False),
                nn.Activation("relu"), DepthWise(wide), grouped(c, c, edges),
            )  # fmt: skip
            self.dil = sequence(DepthWise(wide, dilation=2), grouped(c, c, edges))
            self.sep_spatial = sequence(
                DepthWise(2 * edges), grouped(2, 2, edges), norm(2 * edges, affine=False),
                nn.Activation("relu"), DepthWise(2 * edges), grouped(1, 2, edges),
            )  # fmt: skip
            self.dil_spatial = sequence(PairConv(edges, 3, dilation=2), grouped(1, 1, edges))
            self.se, self.se_a_m = ChannelGates(c, edges), ChannelGates(c, edges)
            self.cbam = ChannelGates(c, edges, use_bias=True)
            self.cbam_spatial = sequence(PairConv(edges, 7), norm(edges, affine=False))
            self.norm = norm(2 * wide, affine=False)
            self.spatial_norm = norm(2 * edges, affine=False)

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
        # A 1x1 convolution weights and adds in one go; its gradients are matrix products.
        mix = [
            F.diag(F.repeat(F.reshape(share[name], shape=(-1,)), repeats=self._channels))
            for name in ("sep_conv_3x3", "dil_conv_3x3")
        ]
        wide = self._edges * self._channels
        kernel = F.reshape(F.concat(*mix, dim=1), shape=(wide, 2 * wide, 1, 1))
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
        weights = {n: F.reshape(s, shape=(1, e, 1, 1)) for n, s in share.items()}
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
        rows = (spatial, ones, self._spatial(F, pool, weights))
        left = F.concat(*(F.reshape(a, shape=(-1, c, 1)) for a in columns), dim=2)
        right = F.concat(*(F.reshape(a, shape=(-3, 1, -1)) for a in rows), dim=1)
        return F.reshape_like(F.batch_dot(left, right), x)

    def _spatial(self, F: Any, pool: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of the gates of the spatial operations, ``(B, E, H, W)``."""
        scores = side_by_side(F, [self.sep_spatial(pool), self.dil_spatial(pool)])
        gates = F.Activation(self.spatial_norm(scores), act_type="sigmoid")
        first, second = F.split(gates, num_outputs=2, axis=1)
        first = F.broadcast_mul(first, weights["sep_conv_3x3_spatial"])
        return first + F.broadcast_mul(second, weights["dil_conv_3x3_spatial"])

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
