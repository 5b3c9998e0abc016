"""Mixed precision in training: layers in bfloat16 or float16, parameters and scores in float32.

MXNet's own switch, ``amp.init`` of ``mxnet.contrib``, wraps the operators of the whole process and
cannot be undone: it would also reach validation, losses, exports and every other net. Here the
graph of the trained net alone is rewritten, and it runs only inside a training step. So the net
itself stays a float32 net: its parameters, their gradients, what is validated, saved and exported.
"""

from __future__ import annotations

import logging
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt
from mxnet import gluon
from mxnet.gluon.block import _flatten, _regroup

from gluon_attn.core.registry import unknown_name
from gluon_attn.env.cpu import overruns_with_amx
from gluon_attn.nets.graph import Entry, Graph, GraphBlock, Node
from gluon_attn.runtime import cpu_flags, has_avx512

KINDS = ("none", "bfloat16", "float16")
FLOAT32 = "float32"

BLOCK = 16  # channels of a block in oneDNN's bfloat16 kernels
POSITIONS = 9  # of an image's output map, from which casting a weight pays
_MULTIPLYING = ("Convolution", "Deconvolution", "FullyConnected")
_FOLLOWING = ("BatchNorm", "Pooling", "relu")

logger = logging.getLogger(__name__)


def require(kind: str, ctx: list[mx.Context]) -> None:
    """Refuse float16 on a CPU, and bfloat16 on a GPU or on a CPU without AVX-512."""
    if kind not in KINDS:
        raise ValueError(unknown_name("amp", kind, KINDS))
    if kind == "none":
        return
    device = ctx[0].device_type
    runs = device == "gpu" if kind == "float16" else device == "cpu" and has_avx512()
    if not runs:
        raise ValueError(
            f"amp={kind} on {device}: float16 needs a GPU, bfloat16 a CPU with AVX-512; "
            "use amp=none here"
        )


class MixedPrecision:
    """The precision in which a method trains; blocks compute in it inside a ``with`` statement."""

    def __init__(self, kind: str, ctx: list[mx.Context]) -> None:
        require(kind, ctx)
        if kind == "bfloat16" and "avx512_bf16" not in cpu_flags():
            logger.warning(
                "amp=bfloat16: this processor has no bfloat16 instructions (avx512_bf16); oneDNN "
                "emulates them, and a step takes about twice as long as with amp=none"
            )
        self.kind = kind
        self.active = False
        self.scaler = LossScaler() if kind == "float16" else None

    def __enter__(self) -> MixedPrecision:
        self.active = True
        return self

    def __exit__(self, *_: object) -> None:
        self.active = False

    def install(self, block: gluon.HybridBlock) -> gluon.HybridBlock:
        """Let ``block``, hybridized, and every block in it that is called by itself obey; return
        it.
        """
        if self.kind != "none":
            if not block._active:
                raise ValueError(f"amp={self.kind} works on the net's graph; use hybridize=true")
            block.apply(lambda part: setattr(part, "_call_cached_op", _Switch(part, self)))
        return block


class _Switch:
    """Stands for a hybridized block's call: float32, or its lowered graph while that is active."""

    def __init__(self, block: gluon.HybridBlock, precision: MixedPrecision) -> None:
        self._block, self._precision = block, precision
        self._source: Any = None
        self._layers: dict[tuple, frozenset] = {}  # of the shapes of the inputs
        self._lowered: dict[frozenset, GraphBlock] = {}  # of the layers; as a rule there is one

    def __call__(self, *args: Any) -> Any:
        block = self._block
        if not self._precision.active:
            return gluon.HybridBlock._call_cached_op(block, *args)
        if block._cached_op is None:
            block._build_cache(*args)
        if self._source is not block._cached_graph:  # which hybridize() makes again
            self._source, self._layers, self._lowered = block._cached_graph, {}, {}
        names = [symbol.name for symbol in self._source[0]]
        arrays = [array for array in _flatten(args, "input")[0] if array is not None]
        values = dict(zip(names, arrays))
        return _regroup(list(self._graph(values).run(values).values()), block._out_format)

    def _graph(self, values: dict[str, mx.nd.NDArray]) -> GraphBlock:
        symbols, kind = list(self._source[1]), self._precision.kind
        shapes = {name: array.shape for name, array in values.items()}
        key = tuple(shapes.values())
        if key not in self._layers:
            self._layers[key] = low_layers(symbols, shapes, kind)
        layers = self._layers[key]
        if layers not in self._lowered:
            graph, entries = lowered(symbols, layers, kind)
            gives = {f"output{number}": entry for number, entry in enumerate(entries)}
            params = self._block.collect_params()
            self._lowered[layers] = GraphBlock(graph, list(values), gives, params)
        return self._lowered[layers]


def low_layers(
    symbols: list[mx.sym.Symbol], shapes: dict[str, tuple[int, ...]], kind: str
) -> frozenset:
    """Return the names of the layers that compute in ``kind``: the law.

    * float16: all convolutions, deconvolutions and dense layers.
    * bfloat16: convolutions, if oneDNN 2.4 has fast kernels for them and they use a weight often.
      Those kernels want whole blocks of 16 input and output channels in every group; what has not
      is computed through copies, several times slower than in float32. Every step casts every
      weight, so a layer must use it at ``POSITIONS`` places of an image: dense layers and
      convolutions on tiny maps stay float32. So do maps of width 1, where the kernels' gradient of
      a strided convolution reads memory that is not written, and what `overruns_with_amx` names.

    Which layers are low depends on the graph and the shapes of its inputs alone, so a resumed run
    has the same.
    """
    graph, _ = Graph.of(symbols)
    if kind == "float16":
        return frozenset(node.name for node in graph.nodes if node.op in _MULTIPLYING)
    internals = mx.sym.Group(symbols).get_internals()
    _, outputs, _ = internals.infer_shape_partial(**shapes)
    known = dict(zip(internals.list_outputs(), outputs))
    found = []
    for node in graph.nodes:
        if node.op == "Convolution":
            made = graph.nodes[node.inputs[1][0]]
            weight = known[made.name + ("" if made.op == "null" else "_output")]
            if _fast_in_bfloat16(node.attrs, weight, known[f"{node.name}_output"]):
                found.append(node.name)
    return frozenset(found)


def _fast_in_bfloat16(attrs: dict, weight: tuple[int, ...], output: tuple[int, ...]) -> bool:
    filters = weight[0] // int(attrs.get("num_group", 1))
    blocks = filters % BLOCK == 0 and weight[1] % BLOCK == 0
    pays = blocks and len(output) == 4 and output[2] * output[3] >= POSITIONS and output[3] > 1
    return pays and not overruns_with_amx(attrs, output)


def lowered(
    symbols: list[mx.sym.Symbol], layers: frozenset, kind: str
) -> tuple[Graph, list[Entry]]:
    """Return a float32 graph with some of its layers in ``kind``, and the entries of its outputs.

    Batch-norm, ReLU and pooling, but for global pooling, compute in the precision of what they
    read, batch-norm with float32 parameters and statistics; an addition in the lower one of its two
    inputs, because a residual branch is rounded already. Everything else, parameters and outputs
    are float32: the casts are part of the graph, one for each value and precision.

    (Behind oneDNN's gradient of global pooling in blocks of channels, batch-norm would fall back to
    its reference code. The cast in front of it puts the channels in order.)
    """
    source, wanted = Graph.of(symbols)
    target = Graph()
    cast = _Casts(target)

    def rewrite(target: Graph, number: int, node: Node, inputs: list[Entry]) -> Entry:
        if node.op in _MULTIPLYING:
            low = inputs if node.name in layers else []
        else:
            low = _followed(node, inputs, cast.low)
        given = [cast(entry, kind if entry in low else FLOAT32) for entry in inputs]
        entry = target.copy(node, given)
        if low:
            cast.low.add(entry)
        return entry

    entries = target.take(source, wanted, {}, rewrite)
    return target, [cast(entry, FLOAT32) for entry in entries]


def _followed(node: Node, inputs: list[Entry], low: set[Entry]) -> list[Entry]:
    """Return which inputs of a layer without weights are taken in the lower precision."""
    if node.op == "elemwise_add":
        return inputs if low.intersection(inputs) else []
    relu = node.op == "Activation" and node.attrs.get("act_type") == "relu"
    follows = relu or node.op in _FOLLOWING and not node.flag("global_pool")
    return inputs[:1] if follows and inputs[0] in low else []


class _Casts:
    """Casts of entries of a graph, each made once; ``low`` holds those that are not float32."""

    def __init__(self, graph: Graph) -> None:
        self.low: set[Entry] = set()
        self._graph = graph
        self._made: dict[tuple[Entry, str], Entry] = {}

    def __call__(self, entry: Entry, kind: str) -> Entry:
        if (entry in self.low) == (kind != FLOAT32):
            return entry
        if (entry, kind) not in self._made:
            self._made[entry, kind] = self._graph.add("amp_cast", entry, dtype=kind)
            if kind != FLOAT32:
                self.low.add(self._made[entry, kind])
        return self._made[entry, kind]


class LossScaler:
    """Dynamic scale of the loss, so that small gradients do not vanish in float16.

    The loss is multiplied by the scale, and the update divides by it. A step whose gradients are
    not finite is left out and halves the scale; 2,000 steps in a row without one double it
    (Micikevicius et al., ICLR 2018, section 3.2). Scales are powers of two, so they round nothing.

    MXNet's own scaler uses each new scale one step late, which leaves out two steps each time.
    """

    LARGEST, SMALLEST, PATIENCE = 2.0**24, 2.0**-14, 2000
    _CHUNK = 200  # arrays that one operator looks at

    def __init__(self) -> None:
        self.scale = 2.0**16
        self._steps = 0  # since the last change

    def step(self, trainer: gluon.Trainer, size: int) -> bool:
        """Update from gradients of scaled losses; return False if they overflowed."""
        trainer.allreduce_grads()
        arrays = [p.list_grad()[0] for p in trainer._params if p.grad_req != "null"]
        chunks = [arrays[k : k + self._CHUNK] for k in range(0, len(arrays), self._CHUNK)]
        found = [mx.nd.multi_all_finite(*chunk, num_arrays=len(chunk)) for chunk in chunks]
        finite = all(array.asscalar() for array in found)
        if finite:
            trainer.update(size * self.scale)
        self._adapt(finite)
        return finite

    def _adapt(self, finite: bool) -> None:
        self._steps = self._steps + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self._steps == self.PATIENCE:
            self.scale, self._steps = min(self.scale * 2, self.LARGEST), 0
        if self.scale < self.SMALLEST:
            raise ValueError(
                "amp=float16: gradients are not finite at any loss scale: training has diverged; "
                "lower lr, or use amp=none"
            )

    def state(self) -> npt.NDArray[np.float64]:
        """Return what :meth:`load_state` takes, ``(2,)`` float64."""
        return np.array([self.scale, self._steps], np.float64)

    def load_state(self, state: npt.NDArray[np.float64]) -> None:
        self.scale, self._steps = float(state[0]), int(state[1])
