"""At which precision an export runs: loading one, float16 and bfloat16 (int8 has its own module).

**bfloat16**, for CPUs with AVX-512, is a form with files of its own. MXNet's mixed precision
(``amp``) makes convolutions and dense layers bfloat16 and leaves softmax, sigmoid and the like in
float32. Three things decide whether the result can be saved and is fast:

* convert first, fuse second: the conversion knows ``Convolution``, not the fused operator, and
  would leave a fused graph in float32;
* weights are stored as the converted graph wants them (``cast_optional_params``), which fused
  operators need and which halves the file;
* the casts are part of the graph: Gluon's and the symbol's default way of saving drops them.

oneDNN has no bfloat16 kernels for processors without AVX-512, not even slow ones. What cannot run
cannot be checked, so there the form refuses.

**float16**, for a GPU, is made from the float32 files when they load: half of the precision is
simply left away. Weights and activations are float16; batch-norm's parameters and statistics stay
float32, as cuDNN wants them, and so do input and outputs. MXNet has no float16 convolution on the
CPU.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import weakref
from pathlib import Path
from typing import Any, Callable

import mxnet as mx
import numpy as np
from mxnet.contrib import amp

from gluon_attn.core.errors import first_line
from gluon_attn.core.reading import load_params
from gluon_attn.core.text import PathLike
from gluon_attn.env.cpu import amx_is_on, has_avx512, has_vnni
from gluon_attn.export import graph as graphs
from gluon_attn.export import int8_weights, parity
from gluon_attn.export.graph import INPUT, Arrays, Graph, Symbol, make_block
from gluon_attn.export.sidecar import (
    ExportError,
    Sidecar,
    check_bytes,
    read_sidecar,
    read_verified,
)
from gluon_attn.export.widen import widen_convolutions
from gluon_attn.export.writer import Variant, write_files
from gluon_attn.runtime import versions

Score = Callable[[Callable[[np.ndarray], np.ndarray]], float]  # of a function from batch to logits

PRECISIONS = ("fp32", "int8", "bf16", "fp16")
_PART = 1 << 30  # bytes: Linux reads less than 2 GiB at once
BFLOAT16 = np.dtype([("bfloat16", np.uint16)])  # MXNet's type for it

logger = logging.getLogger(__name__)


def load_exported(
    directory: PathLike, ctx: Any = None, precision: str = "fp32", fused: bool = False
) -> tuple[Any, Sidecar]:
    """Load an export directory, having verified it; return ``(block, sidecar)``.

    The block is a SymbolBlock from ``(B, 3, H, W)`` float32 to the outputs that the sidecar lists
    (a bare array if there is one), float32, without gradients. Do hybridize with
    ``static_alloc=True, static_shape=True``: without, oneDNN rearranges every weight in every call.
    An int8 form with int8 weights is an :class:`gluon_attn.export.int8_weights.Int8Block` instead,
    static by itself.

    Args:
        ctx: Context for the parameters; the CPU by default.
        precision: ``'fp32'``; ``'fp16'``, for a GPU; or ``'int8'`` or ``'bf16'`` if the export has
            it, for the CPU.
        fused: Of ``'fp32'``, the graph as :func:`gluon_attn.export.graph.fuse` makes it: faster,
            for the CPU. With AVX-512 some parameters get more channels, all of them zero.

    Raises FileNotFoundError; ExportError: no export, one of a newer version, a file truncated,
    changed or not fitting the others (found before anything runs), or without such a precision, or
    this processor cannot run it; ValueError: unknown precision, or one that the context or
    ``fused`` does not go with.
    """
    ctx = ctx or mx.cpu()
    _check_request(precision, fused, ctx)
    sidecar = read_sidecar(directory)
    prefix = "" if precision in ("fp32", "fp16") else f"{precision}_"
    if f"{prefix}symbol" not in sidecar["files"]:
        raise ExportError(
            f"{directory} has no {precision} graph; add it with tools/export.py --export "
            f"{directory} --{precision}"
        )
    require_cpu(precision, sidecar.get(precision))
    text = read_verified(directory, sidecar["files"][f"{prefix}symbol"])
    entry = sidecar["files"][f"{prefix}params"]
    raw = read_verified(directory, entry)
    packed = precision == "int8" and sidecar["int8"].get("weights") == "int8"
    load = int8_weights.load_arrays if packed else load_params
    symbol, arrays = graphs.load_graph(text, raw, directory, load)
    graphs.check_shapes(symbol, arrays, sidecar, directory)
    if precision == "fp16":
        symbol, arrays = to_float16(symbol, arrays)
    if precision in ("int8", "bf16"):  # made by an earlier version, or where AMX was off
        symbol = graphs.avoid_overruns(symbol, sidecar["input"]["shape"][1:])
    if packed:
        return _open_int8(Path(directory), entry, symbol, arrays), sidecar
    if fused:
        if has_avx512():
            symbol, arrays = widen_convolutions(symbol, arrays)
        symbol = graphs.fuse(symbol)
    return make_block(symbol, arrays, ctx), sidecar


def _open_int8(directory: Path, entry: dict[str, Any], symbol: Symbol, arrays: Arrays) -> Any:
    """Return the block, whose file stays open: the directory may be replaced meanwhile."""
    path = directory / entry["file"]
    file = open(path, "rb")

    def read() -> Arrays:
        parts: list[bytes] = []
        while not parts or parts[-1]:  # from places of our own: forked processes share the file's
            parts.append(os.pread(file.fileno(), _PART, sum(map(len, parts))))
        data = check_bytes(b"".join(parts), entry, path)
        return dict(int8_weights.load_arrays(data, path))

    block = int8_weights.Int8Block(*int8_weights.unpack(symbol), arrays, read)
    weakref.finalize(block, file.close)
    return block


def require_cpu(precision: str, entry: Any = None) -> None:
    """Refuse bf16 without AVX-512; warn where int8 gives other numbers than its entry says."""
    if precision == "bf16" and not has_avx512():
        raise ExportError(
            "bf16 needs a processor with AVX-512 (avx512bw, avx512dq, avx512vl), and oneDNN has no "
            "bfloat16 kernels for this one; use fp32 or int8 here"
        )
    if precision == "int8" and entry and entry.get("vnni") and not has_vnni():
        logger.warning(
            "this int8 graph was measured on a processor with VNNI instructions, which this one "
            "lacks: large sums saturate here, and the recorded drop of %.2f points does not hold",
            entry["drop"],
        )


def _check_request(precision: str, fused: bool, ctx: Any) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: valid are {', '.join(PRECISIONS)}")
    if fused and precision != "fp32":
        raise ValueError(f"fused=True goes with fp32; the {precision} graph is always fused")
    on_cpu = ctx.device_type == "cpu"
    if precision == "fp16" and on_cpu:
        raise ValueError("fp16 runs on a GPU only; on the CPU use fp32, or int8 or bf16")
    if not on_cpu and (fused or precision not in ("fp32", "fp16")):
        what = "the fused graph" if fused else precision
        raise ValueError(f"{what} runs on the CPU only, not on {ctx}; use fp32 there")


def measure(score: Score, block: Any, what: str) -> float:
    """Return ``score(run)`` of a block, hybridized here, as a finite float; else an ExportError."""
    graphs.static(block)
    try:
        points = float(score(lambda batch: graphs.logits_of(block, batch)))
    except mx.base.MXNetError as error:
        raise ExportError(f"{what}: the graph does not run: {first_line(error)}") from error
    if not math.isfinite(points):
        raise ExportError(f"{what}: the score is {points}; is there data for every attribute?")
    return points


def write_checked(
    directory: Path,
    sidecar: Sidecar,
    form: str,
    graph: Graph,
    *,
    batch: np.ndarray,
    block: Any = None,
) -> tuple[dict[str, str], dict[str, Any]]:
    """Write the graph of ``'int8'`` or ``'bf16'``; return its ``files`` and its ``parity``.

    It is compared with plain MXNet on a batch of 3; an ExportError if shapes or numbers differ.
    ``block`` runs the graph here, if not as any other.
    """
    graphs.check_shapes(*graph, sidecar, form)
    files = write_files(directory, f"{sidecar['name']}-{form}", *graph, prefix=f"{form}_")
    parts = parity.parts_of(batch)
    figures = parity.check_parity(
        [directory / file for file in files.values()],
        parts,
        parity.outputs_of(block or graphs.static(make_block(*graph)), parts),
        what=f"{', '.join(files.values())} give other numbers in plain MXNet,",
        tolerance=parity.TOLERANCE_OTHER_KERNELS if amx_is_on() else parity.TOLERANCE,
    )
    return files, figures


class Bf16Variant(Variant):
    """Writes ``NAME-bf16-symbol.json`` and ``NAME-bf16-0000.params``.

    ``score`` as for :class:`gluon_attn.export.int8.Int8Variant`, None measures nothing;
    ``max_drop`` points may be lost against float32, 0 or more.
    """

    name = "bf16"

    def __init__(self, score: Score | None = None, max_drop: float = 0.1) -> None:
        if not max_drop >= 0:
            raise ValueError(f"max_drop {max_drop}: valid are 0 and more points")
        self._score, self._max_drop = score, max_drop

    def write(self, directory: Path, sidecar: Sidecar) -> tuple[dict[str, str], dict[str, Any]]:
        """Convert, check and write.

        The entry holds ``parity``, ``versions`` and ``max_drop``, and ``float32_score``, ``score``
        and ``drop``, which are None if nothing was measured. An ExportError if this processor
        cannot run bfloat16, the drop is larger than allowed, or plain MXNet gives other numbers.
        """
        try:
            require_cpu(self.name)
        except ExportError as error:
            raise ExportError(
                f"a bf16 variant has to be run to be checked, and cannot be here: {error}. Make it "
                "on such a processor, from the same export (tools/export.py --export DIR --bf16)"
            ) from error
        float32 = graphs.read_graph(directory, sidecar)
        converted = to_bfloat16(*float32, sidecar)
        entry: dict[str, Any] = dict.fromkeys(("float32_score", "score", "drop"))
        entry["max_drop"] = self._max_drop
        if self._score is not None:
            old = measure(self._score, make_block(*float32), "float32")
            new = measure(self._score, make_block(*converted), self.name)
            if old - new > self._max_drop:
                raise ExportError(
                    f"bf16 loses {old - new:.2f} points ({old:.2f} in float32, {new:.2f} in "
                    f"bfloat16); allowed are {self._max_drop:g}. Nothing was written"
                )
            entry.update(float32_score=old, score=new, drop=old - new)
        batch = parity.random_batch(sidecar["input"])
        files, figures = write_checked(directory, sidecar, self.name, converted, batch=batch)
        return files, dict(entry, parity=figures, versions=versions())


def to_bfloat16(symbol: Symbol, arrays: Arrays, sidecar: Sidecar) -> Graph:
    """Return a float32 graph in mixed precision, fused; its own arrays are left alone.

    Input and outputs are float32; weights and biases of convolutions and dense layers bfloat16,
    those of batch-norms and of the first convolution, which reads three colours, float32. Save the
    graph with ``tojson(remove_amp_cast=False)``.
    """
    symbol = graphs.avoid_overruns(symbol, sidecar["input"]["shape"][1:])
    converted, args, aux = amp.convert_model(
        graphs.flatten_before_dense(symbol), *graphs.split_arrays(arrays),
        target_dtype="bfloat16", cast_optional_params=True,
        excluded_sym_names=_odd_convolutions(symbol, arrays),
    )  # fmt: skip
    fused = graphs.fuse(_float32_outputs(converted))
    return graphs.rename_outputs(fused, sidecar), graphs.join_arrays(args, aux)


def _odd_convolutions(symbol: Symbol, arrays: Arrays) -> list[str]:
    """Return the convolutions that read an odd number of channels, such as the three colours.

    bfloat16 is multiplied in pairs, and oneDNN has no fast code for these: in float32 they take no
    longer, and what follows gets its input in the layout that it wants.
    """
    nodes = graphs.nodes_of(symbol)
    odd = {name for name, a in arrays.items() if a.ndim > 2 and a.shape[1] % 2}
    return [
        node["name"]
        for node in nodes
        if node["op"] == "Convolution" and node["attrs"].get("num_group", "1") == "1"
        and f"arg:{nodes[node['inputs'][1][0]]['name']}" in odd
    ]  # fmt: skip


def _float32_outputs(symbol: Symbol) -> Symbol:
    """Cast outputs that would be bfloat16, which NumPy and other software cannot read."""
    _, types, _ = symbol.infer_type(**{INPUT: np.float32})
    if all(kind == np.float32 for kind in types):
        return symbol
    pairs = zip(symbol, types)
    cast = functools.partial(mx.sym.amp_cast, dtype="float32")
    return mx.sym.Group([out if kind == np.float32 else cast(out) for out, kind in pairs])


def to_float16(symbol: Symbol, arrays: Arrays) -> Graph:
    """Return a float32 graph from float32 ``data`` to float32 outputs that computes in float16."""
    graph = graphs.json_of(symbol)
    nodes = graph["nodes"]
    norms = [node for node in nodes if node["op"] == "BatchNorm"]
    kept = {nodes[source]["name"] for node in norms for source, *_ in node["inputs"][1:]}
    for node in nodes:
        if node["op"] == "null":  # MXNet's numbers of float32 and float16, in graphs
            node.setdefault("attrs", {})["__dtype__"] = "0" if node["name"] in kept else "2"
    data = mx.sym.cast(mx.sym.var(INPUT, dtype="float32"), "float16")
    inner = graphs.symbol_of(graph)
    outputs = [mx.sym.cast(out, "float32") for out in inner(**{INPUT: data})]
    halved = {
        name: array if name.split(":", 1)[-1] in kept else array.astype(np.float16)
        for name, array in arrays.items()
    }
    return mx.sym.Group(outputs), halved
