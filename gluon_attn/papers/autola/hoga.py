"""High-order group attention (HOGA): the block that Auto Learning Attention searches.

Auto Learning Attention, Ma, Zhang, Xia, Tao, NeurIPS 2020 ("paper"), with the authors' code
("code").

Legend: B batch, C channels, K = 4 groups, c = C / 4, SE_r squeeze-and-excitation with C // r hidden
units and no bias.

    x_1 … x_4 = groups of the channels of x
    g         = SE_r1(x_1 + x_2 + x_3 + x_4)
    node_i    = sum over the edges into node i of operation(source);  source 0 is x_i
    y         = BN(conv1x1(ReLU(BN(conv1x1(concat(node_1 … node_4, g))))))       5c -> C -> C
    out       = SE_r2(y + x)

Searched with r1 = 4 and r2 = 16, trained with r1 = r2 = 8 (code).

Deviations, all listed in docs/autola.md: none in the numbers. In narrow nets c // r1 is 0 and the
code's gate is the constant sigmoid(0) = 0.5, which has no parameters here; ``narrow='floor'`` takes
one hidden unit instead.
"""

from __future__ import annotations

from typing import Any, Sequence

from mxnet.gluon import HybridBlock, nn

from gluon_attn.blocks.base import BLOCKS, AttentionBlock, Tensor
from gluon_attn.blocks.gates import apply_map
from gluon_attn.papers.autola.genotype import NODES, Genotype, find_genotype
from gluon_attn.papers.autola.operations import ConvolutionGate, PlainNorm, conv, norm, operation

REDUCTIONS = (8, 8)  # r1, r2 when an architecture is trained
SEARCH_REDUCTIONS = (4, 16)  # while it is searched
NARROW = ("constant", "floor")


class SqueezeExcite(HybridBlock):
    """SE_r: input times a channel gate made of its means, ``(B, C, H, W)`` to the same shape.

    Where C // r is 0, ``narrow='constant'`` makes the gate 0.5, as that of a layer without units,
    and ``'floor'`` gives it one hidden unit.
    """

    def __init__(
        self, channels: int, reduction: int, narrow: str = "constant", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if narrow not in NARROW:
            raise ValueError(f"narrow={narrow!r}: valid are {', '.join(NARROW)}")
        self.gate = None
        if channels // reduction or narrow == "floor":
            with self.name_scope():
                self.gate = ConvolutionGate(channels, reduction, biases=None)

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        return 0.5 * x if self.gate is None else apply_map(F, "channel", x, self.gate(x))


class GroupAttention(AttentionBlock):
    """All of the block but its edges; a sub-class says what the nodes are.

    ``channels`` is C, a multiple of 4; ``reductions`` are r1 and r2.
    """

    place = "inner"

    def __init__(
        self, channels: int, reductions: Sequence[int] = REDUCTIONS, narrow: str = "constant",
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(channels, **kwargs)
        if channels % NODES:
            raise ValueError(f"channels={channels}: valid are multiples of {NODES}")
        self.group = channels // NODES
        with self.name_scope():
            self.descriptor = SqueezeExcite(self.group, reductions[0], narrow)
            self.project = nn.HybridSequential(prefix="project_")
            with self.project.name_scope():
                wide = channels + self.group
                first = PlainNorm if wide % 16 == 8 else nn.BatchNorm
                self.project.add(
                    conv(channels, wide), norm(channels, kind=first), nn.Activation("relu"),
                    conv(channels, channels), norm(channels),
                )  # fmt: skip
            self.rescale = SqueezeExcite(channels, reductions[1], narrow)

    def hybrid_forward(self, F: Any, x: Tensor, *inputs: Tensor) -> Tensor:
        groups = list(F.split(x, num_outputs=NODES, axis=1))
        nodes = self.nodes(F, x, groups, *inputs)
        y = self.join(F, [*nodes, self.descriptor(F.add_n(*groups))])
        return self.rescale(self.project(y) + x)

    def join(self, F: Any, arrays: Sequence[Tensor]) -> Tensor:
        """Return arrays ``(B, …, H, W)`` as one, along the channels."""
        return F.concat(*arrays, dim=1)

    def nodes(self, F: Any, x: Tensor, groups: Sequence[Tensor], *inputs: Tensor) -> list[Tensor]:
        """Return the four nodes, each ``(B, c, H, W)``, of ``x``, its groups and further inputs."""
        raise NotImplementedError


@BLOCKS.register("hoga")
class HOGA(GroupAttention):
    """High-order group attention with the operations of a genotype, in any form that
    :func:`gluon_attn.papers.autola.genotype.find_genotype` understands.

    ``affine`` says whether batch norms inside the operations have scale and shift.
    """

    default: str | Genotype = "autola_cifar10"
    narrow = "constant"

    def __init__(
        self, channels: int, genotype: str | Genotype | None = None,
        reductions: Sequence[int] = REDUCTIONS, affine: bool = True, *,
        narrow: str | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(channels, reductions, narrow or self.narrow, **kwargs)
        self.genotype = find_genotype(self.default if genotype is None else genotype)
        with self.name_scope():
            self.edges = nn.HybridSequential(prefix="edge_")
            with self.edges.name_scope():
                self.edges.add(
                    *(operation(name, self.group, affine) for name in self.genotype.operations)
                )

    def nodes(self, F: Any, x: Tensor, groups: Sequence[Tensor], *inputs: Tensor) -> list[Tensor]:
        edges = iter(self.edges)
        nodes: list[Tensor] = []
        for group, own in zip(groups, self.genotype.nodes):
            sources = [group, *nodes]
            terms = [next(edges)(sources[source]) for _, source in own]
            nodes.append(F.add_n(*terms) if len(terms) > 1 else terms[0])
        return nodes

    @classmethod
    def variant(cls, text: str) -> type[HOGA]:
        """Return the block for the slot name ``hoga:TEXT``, TEXT being a genotype."""
        return type(cls.__name__, (cls,), {"default": find_genotype(text)})


@BLOCKS.register("hog_se")
class HogSE(HOGA):
    """The same structure with SE on all edges, a control of the paper."""

    default = "hog_se"


@BLOCKS.register("hog_cbam")
class HogCBAM(HOGA):
    """The same structure with CBAM on all edges, a control of the paper."""

    default = "hog_cbam"


@BLOCKS.register("hoga_floor")
class HogaFloor(HOGA):
    """HOGA with at least one hidden unit in every gate, also in narrow nets."""

    narrow = "floor"
