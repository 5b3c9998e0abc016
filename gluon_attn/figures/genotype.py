"""A genotype of high-order group attention as a graph: groups, nodes, operations of the edges.

Auto Learning Attention, Ma, Zhang, Xia, Tao, NeurIPS 2020, whose figure of the searched
architecture this follows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterable, Sequence

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from gluon_attn.figures.canvas import LARGE, MEDIUM, SMALL, Axes, PathLike, colour, new_figure, save

NODES = 4
GROUP_Y, NODE_Y = 1.0, 0.0
STEP = 2.0  # distance of nodes
HALF_WIDTH, HALF_HEIGHT = 0.38, 0.17  # of the boxes, with their round corners
SUBSCRIPTS = "₀₁₂₃₄"
PALE, GREY = "#DDDDDD", "#999999"
# The same colours in all figures; what has no gate is grey.
GATED = (
    "sep_conv_3x3", "dil_conv_3x3", "sep_conv_3x3_spatial", "dil_conv_3x3_spatial", "SE", "CBAM",
    "SE_A_M",
)  # fmt: skip
SHADES = dict(zip(GATED, (*(colour(k) for k in range(6)), "#5B4A9E")))
STYLES = {"skip_connect": "--", "none": ":"}


def draw_genotype(
    edges: Iterable[tuple[str, int]],
    path: PathLike,
    title: str = "",
    strengths: Sequence[float] | None = None,
) -> Path:
    """Draw a genotype of ten ``(operation, source)``, node by node.

    Node i has i edges, from source 0, its group, or from a node j < i. It stands below its group
    x_i, whose edge goes down; edges between nodes go to the right, those over more than one step as
    arcs. Colour and text say the operation. ``strengths``, ten numbers in [0, 1] such as softmax
    weights, decide the lines' widths and stand behind the operations.
    """
    edges = [(str(operation), int(source)) for operation, source in edges]
    count = NODES * (NODES + 1) // 2
    if len(edges) != count or (strengths is not None and len(strengths) != count):
        raise ValueError(f"{len(edges)} edges: a genotype has {count}, and as many strengths")
    figure = new_figure(8.6, 3.6, layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set(xlim=(0.9, NODES * STEP + 2.6), ylim=(-1.75, 1.3))
    nodes = [node for node in range(1, NODES + 1) for _ in range(node)]
    for number, (node, (operation, source)) in enumerate(zip(nodes, edges)):
        if not 0 <= source < node:
            raise ValueError(f"edge {number + 1}: node {node} cannot read source {source}")
        strength = None if strengths is None else float(strengths[number])
        _edge(axes, source, node, operation, strength=strength)
    for node in range(1, NODES + 1):
        _box(axes, node * STEP, GROUP_Y, f"x{SUBSCRIPTS[node]}", face="white")
        _box(axes, node * STEP, NODE_Y, f"node {node}", face=PALE)
    _result(axes)
    axes.set_title(title, fontsize=LARGE, loc="left")
    return save(figure, path)


def _edge(axes: Axes, source: int, node: int, operation: str, *, strength: float | None) -> None:
    shade, x = SHADES.get(operation, GREY), node * STEP
    start_x, span = source * STEP, node - source
    if source == 0:
        start, end, bend = (x, GROUP_Y - HALF_HEIGHT), (x, NODE_Y + HALF_HEIGHT), 0.0
        place = (x, 0.5)
    elif span == 1:
        start, end, bend = (start_x + HALF_WIDTH, NODE_Y), (x - HALF_WIDTH, NODE_Y), 0.0
        place = ((start_x + x) / 2, NODE_Y)
    else:  # from and to the lower edge of the boxes, the longest outermost
        inset, bend = 0.1 * (2 if span == 2 else 0.5), (0.36 if span == 2 else 0.4)
        start, end = (start_x + inset, NODE_Y - HALF_HEIGHT), (x - inset, NODE_Y - HALF_HEIGHT)
        # The middle of a quadratic curve is half as far from its chord as the control point.
        place = ((start_x + x) / 2, start[1] - bend * (end[0] - start[0]) / 2)
    width = 1.6 if strength is None else 0.6 + 3 * strength
    arrow = FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>",
                            mutation_scale=10, shrinkA=0, shrinkB=0, color=shade,
                            ls=STYLES.get(operation, "-"), lw=width)  # fmt: skip
    axes.add_patch(arrow)
    text = (
        operation.replace("_3x3_spatial", "_3x3\n_spatial") if span == 1 and source else operation
    )
    if strength is not None:
        text += ("\n" if span == 1 else " ") + f"{strength:.2f}"
    axes.text(
        *place, text, ha="center", va="center", fontsize=SMALL, color=shade, zorder=3,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )  # fmt: skip


def _box(axes: Axes, x: float, y: float, text: str, *, face: str) -> None:
    pad = 0.04
    corner = (x - HALF_WIDTH + pad, y - HALF_HEIGHT + pad)
    width, height = 2 * (HALF_WIDTH - pad), 2 * (HALF_HEIGHT - pad)
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=f"round,pad={pad}",
                                  facecolor=face, edgecolor="#666666", lw=0.8,
                                  zorder=4))  # fmt: skip
    axes.text(x, y, text, ha="center", va="center", fontsize=MEDIUM, zorder=5)


def _result(axes: Axes) -> None:
    text = "all nodes\nand SE(Σ xᵢ):\n1×1, 1×1,\n+ x, SE"
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "#666666", "lw": 0.8}
    axes.text(NODES * STEP + 1.75, 0.5, text, ha="center", va="center", fontsize=MEDIUM,
              color="#333333", bbox=box)  # fmt: skip
