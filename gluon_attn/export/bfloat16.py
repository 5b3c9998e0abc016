"""The bfloat16 form of an export: mixed precision with fused operators, for CPUs with AVX-512.

MXNet's mixed precision (``amp``) makes convolutions and dense layers bfloat16 and leaves softmax,
sigmoid and the like in float32. Three things decide whether the result can be saved and is fast:

* convert first, fuse second: the conversion knows ``Convolution``, not the fused operator, and
  would leave a fused graph in float32;
* weights are stored as the converted graph wants them (``cast_optional_params``), which fused
  operators need and which halves the file;
* the casts are part of the graph: Gluon's and the symbol's default way of saving drops them.

oneDNN has no bfloat16 kernels for processors without AVX-512, not even slow ones. What cannot run
cannot be checked, so there the variant refuses.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np
from mxnet.contrib import amp

from gluon_attn.export.int8 import check_parity, measure, write_graph
from gluon_attn.export.rewrite import flatten_before_dense, read_graph, rename_outputs
from gluon_attn.export.sidecar import ExportError
from gluon_attn.export.symbol import INPUT, check_shapes, fuse, make_block, require_cpu
from gluon_attn.export.variants import Variant
from gluon_attn.export.writer import random_batch
from gluon_attn.runtime import versions

BFLOAT16 = np.dtype([("bfloat16", np.uint16)])  # MXNet's type for it


class Bf16Variant(Variant):
    """Writes ``NAME-bf16-symbol.json`` and ``NAME-bf16-0000.params``.

    Args:
        score: Function ``score(run)`` to points, as for
            :class:`gluon_attn.export.int8.Int8Variant`; None measures nothing.
        max_drop: Points that may be lost against float32.

    Raises:
        ValueError: A negative ``max_drop``.
    """

    name = "bf16"

    def __init__(self, score=None, max_drop=0.1):
        if not max_drop >= 0:
            raise ValueError(f"max_drop {max_drop}: valid are 0 and more points")
        self._score, self._max_drop = score, max_drop

    def write(self, directory, sidecar):
        """Convert, check and write; see :meth:`gluon_attn.export.variants.Variant.write`.

        The entry holds ``parity``, ``versions`` and ``max_drop``, and ``float32_score``, ``score``
        and ``drop``, which are None if nothing was measured.

        Raises:
            ExportError: This processor cannot run bfloat16, the drop is larger than allowed, or
                plain MXNet gives other numbers.
        """
        try:
            require_cpu(self.name)
        except ExportError as error:
            raise ExportError(
                f"a bf16 variant has to be run to be checked, and cannot be here: {error}. Make it "
                "on such a processor, from the same export (tools/export.py --export DIR --bf16)"
            ) from error
        float32 = read_graph(directory, sidecar)
        symbol, arrays = convert(*float32, [output["name"] for output in sidecar["outputs"]])
        check_shapes(symbol, arrays, sidecar, self.name)
        entry = {"float32_score": None, "score": None, "drop": None, "max_drop": self._max_drop}
        if self._score is not None:
            entry.update(self._measure(float32, (symbol, arrays)))
        files = write_graph(directory, f"{sidecar['name']}-bf16", symbol, arrays, self.name)
        batch = random_batch(sidecar["input"])
        entry["parity"] = check_parity(directory, files, make_block(symbol, arrays), batch)
        entry["versions"] = versions()
        return files, entry

    def _measure(self, float32, converted):
        baseline = measure(self._score, make_block(*float32), "float32")
        score = measure(self._score, make_block(*converted), self.name)
        if baseline - score > self._max_drop:
            raise ExportError(
                f"bf16 loses {baseline - score:.2f} points ({baseline:.2f} in float32, {score:.2f} "
                f"in bfloat16); allowed are {self._max_drop:g}. Nothing was written"
            )
        return {"float32_score": baseline, "score": score, "drop": baseline - score}


def convert(symbol, arrays, names):
    """Return a float32 graph in mixed precision, fused.

    Args:
        symbol: The float32 graph.
        arrays: Its parameters by ``arg:``/``aux:`` names; they are left alone.
        names: Names of its outputs.

    Returns:
        ``(symbol, arrays)``: input and outputs are float32; weights and biases of convolutions and
        dense layers bfloat16, those of batch-norms float32. Save the graph with
        ``tojson(remove_amp_cast=False)``.
    """
    parts = {"arg": {}, "aux": {}}
    for name, value in arrays.items():
        kind, _, plain = name.partition(":")
        parts[kind][plain] = value
    converted, args, aux = amp.convert_model(
        flatten_before_dense(symbol),
        parts["arg"],
        parts["aux"],
        target_dtype="bfloat16",
        cast_optional_params=True,
    )
    fused = fuse(_float32_outputs(converted))
    result = {f"arg:{name}": value for name, value in args.items()}
    result.update({f"aux:{name}": value for name, value in aux.items()})
    return rename_outputs(fused, names), dict(sorted(result.items()))


def _float32_outputs(symbol):
    """Cast outputs that would be bfloat16, which NumPy and other software cannot read."""
    _, types, _ = symbol.infer_type(**{INPUT: np.float32})
    outputs = list(symbol)
    if all(kind == np.float32 for kind in types):
        return symbol
    return mx.sym.Group(
        [
            output if kind == np.float32 else mx.sym.amp_cast(output, dtype="float32")
            for output, kind in zip(outputs, types)
        ]
    )
