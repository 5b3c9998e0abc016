"""Mixed precision in training: layers in bfloat16 or float16, parameters and scores in float32.

MXNet's own switch, ``amp.init`` of ``mxnet.contrib``, wraps the operators of the whole process and
cannot be undone: it would also reach validation, losses, exports and every other net. Here the
graph of the trained net alone is rewritten, and it runs only inside a training step. So the net
itself stays a float32 net: its parameters, their gradients, what is validated, saved and exported.

Three parts:

* :func:`require` says what runs where;
* :func:`lowered` is the rewriting, and the law which layers compute in the lower precision;
* :class:`LossScaler` keeps the gradients of float16 in range.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any, Callable, Tuple

import mxnet as mx
import numpy as np
from mxnet import gluon
from mxnet.gluon.block import _flatten, _regroup

from gluon_attn.nets.graphs import Graph, GraphBlock, copy_into
from gluon_attn.registry import unknown_name
from gluon_attn.runtime import cpu_flags, has_avx512

KINDS = ("none", "bfloat16", "float16")
FLOAT32 = "float32"

BLOCK = 16  # channels of a block in oneDNN's bfloat16 kernels
LARGEST_KERNEL = 49  # positions; see `multiplies`
FOLLOWERS = ("BatchNorm", "Pooling", "relu")  # elementwise_add: see `lowered`

logger = logging.getLogger(__name__)

Entry = Tuple[int, int]


def require(kind: str, ctx: list[mx.Context]) -> None:
    """Refuse a precision that training does not have on this device.

    Raises:
        ValueError: Unknown; or float16 on a CPU, bfloat16 on a GPU or on a CPU without AVX-512.
    """
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
    """The precision in which a method trains; blocks compute in it inside a ``with`` statement.

    Args:
        kind: One of ``KINDS``.
        ctx: Contexts that train.

    Attributes:
        scaler: :class:`LossScaler` for float16; else None.

    Raises:
        ValueError: See :func:`require`.
    """

    def __init__(self, kind: str, ctx: list[mx.Context]) -> None:
        require(kind, ctx)
        if kind == "bfloat16" and "avx512_bf16" not in cpu_flags():
            logger.warning(
                "amp=bfloat16: this processor has no bfloat16 instructions (avx512_bf16), oneDNN "
                "emulates them; amp=none is probably faster"
            )
        self.kind = kind
        self.active = False
        self.scaler = LossScaler() if kind == "float16" else None

    def __enter__(self) -> MixedPrecision:
        self.active = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.active = False

    def install(self, block: gluon.HybridBlock) -> gluon.HybridBlock:
        """Let ``block``, and every block inside it that is called by itself, obey; return it.

        Raises:
            ValueError: It is not hybridized, so there is no graph to rewrite.
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
        self._lowered: Any = None

    def __call__(self, *args: Any) -> Any:
        block = self._block
        if not self._precision.active:
            return gluon.HybridBlock._call_cached_op(block, *args)
        if block._cached_op is None:
            block._build_cache(*args)
        if self._source is not block._cached_graph:  # which hybridize() makes anew
            self._source = block._cached_graph
            self._lowered = self._build(*self._source)
        names = [symbol.name for symbol in self._source[0]]
        arrays = [array for array in _flatten(args, "input")[0] if array is not None]
        found = self._lowered.run(dict(zip(names, arrays)))
        return _regroup(list(found.values()), block._out_format)

    def _build(self, inputs: list[mx.sym.Symbol], symbol: mx.sym.Symbol) -> GraphBlock:
        params = self._block.collect_params()
        shapes = {parameter.name: parameter.shape for parameter in params.values()}
        graph, entries = lowered(list(symbol), shapes, self._precision.kind)
        gives = {f"output{number}": entry for number, entry in enumerate(entries)}
        return GraphBlock(graph, [variable.name for variable in inputs], gives, params)


def lowered(
    symbols: list[mx.sym.Symbol], shapes: dict[str, tuple[int, ...]], kind: str
) -> tuple[Graph, list[Entry]]:
    """Return a float32 graph with the layers of :func:`multiplies` in ``kind``.

    Batch-norm, pooling and ReLU compute in the precision of what they read, batch-norm with
    float32 parameters and statistics; an addition in the lower one of its two inputs, because a
    residual branch is rounded already. Everything else, parameters and outputs are float32: the
    casts are part of the graph, one for each value and precision.

    Args:
        symbols: Graph of a net, with one output each.
        shapes: Of its parameters, by name.
        kind: 'bfloat16' or 'float16'.

    Returns:
        ``(graph, entries)`` of the outputs, on the same variables.
    """
    source, wanted = Graph.of(symbols)
    target, takes = Graph(), multiplies(kind)
    cast = _Casts(target)

    def rewrite(number: int, node: dict, inputs: list[Entry]) -> Entry:
        second = source.nodes[node["inputs"][1][0]]["name"] if len(inputs) > 1 else ""
        if takes(node, shapes.get(second, ())):
            lower = inputs
        else:
            lower = _followed(node, [entry in cast.low for entry in inputs], inputs)
        given = [cast(entry, kind if entry in lower else FLOAT32) for entry in inputs]
        entry = target.copy(node, given)
        if lower:
            cast.low.add(entry)
        return entry

    entries = copy_into(target, source, wanted, {}, rewrite)
    return target, [cast(entry, FLOAT32) for entry in entries]


def _followed(node: dict, low: list[bool], inputs: list[Entry]) -> list[Entry]:
    """Return which inputs of a layer without weights are taken in the lower precision."""
    if node["op"] == "elemwise_add":
        return inputs if any(low) else []
    relu = node["op"] == "Activation" and node["attrs"].get("act_type") == "relu"
    return inputs[:1] if (relu or node["op"] in FOLLOWERS) and low[0] else []


def multiplies(kind: str) -> Callable[[dict, tuple[int, ...]], bool]:
    """Return the function ``(node, shape of its weight)`` that chooses the layers of ``kind``."""
    return _in_bfloat16 if kind == "bfloat16" else _in_float16


def _in_float16(node: dict, weight: tuple[int, ...]) -> bool:
    """All layers with weights: what cuDNN and cuBLAS have float16 kernels for."""
    return node["op"] in ("Convolution", "Deconvolution", "FullyConnected")


def _in_bfloat16(node: dict, weight: tuple[int, ...]) -> bool:
    """Convolutions for which oneDNN 2.4 has fast kernels and which use a weight often.

    The kernels want whole blocks of input and output channels in every group; all others are
    computed through copies, several times slower than in float32. Every step casts every weight, so
    layers that use one only once per image, as dense layers and convolutions as large as the map,
    stay float32, too.
    """
    if node["op"] != "Convolution":
        return False
    groups = int(node["attrs"].get("num_group", 1))
    filled = weight[0] // groups % BLOCK == 0 and weight[1] % BLOCK == 0
    return filled and int(np.prod(weight[2:])) <= LARGEST_KERNEL


class _Casts:
    """Casts of entries of a graph, each made once.

    Attributes:
        low: Entries that are not float32.
    """

    def __init__(self, graph: Graph) -> None:
        self.low: set = set()
        self._graph = graph
        self._made: dict[tuple[Entry, str], Entry] = {}

    def __call__(self, entry: Entry, kind: str) -> Entry:
        """Return ``entry`` in precision ``kind``."""
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

    Attributes:
        scale: The factor of the next step.
    """

    LARGEST, SMALLEST, PATIENCE = 2.0**24, 2.0**-14, 2000
    _CHUNK = 200  # arrays that one operator looks at

    def __init__(self) -> None:
        self.scale = 2.0**16
        self._steps = 0  # since the last change

    def step(self, trainer: gluon.Trainer, size: int) -> bool:
        """Update from gradients of scaled losses; return False if they overflowed.

        Raises:
            ValueError: Gradients overflow at any scale.
        """
        trainer.allreduce_grads()
        finite = self._finite(trainer)
        if finite:
            trainer.update(size * self.scale)
        self._adapt(finite)
        return finite

    def _finite(self, trainer: gluon.Trainer) -> bool:
        arrays = [p.list_grad()[0] for p in trainer._params if p.grad_req != "null"]
        chunks = [arrays[k : k + self._CHUNK] for k in range(0, len(arrays), self._CHUNK)]
        found = [mx.nd.multi_all_finite(*chunk, num_arrays=len(chunk)) for chunk in chunks]
        return all(array.asscalar() for array in found)

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

    def state(self) -> np.ndarray:
        """Return what :meth:`load_state` takes, ``(2,)`` float64."""
        return np.array([self.scale, self._steps], np.float64)

    def load_state(self, state: np.ndarray) -> None:
        """Continue where another scaler stood."""
        self.scale, self._steps = float(state[0]), int(state[1])
