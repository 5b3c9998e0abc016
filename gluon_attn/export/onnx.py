"""ONNX: the export's float32 graph as one file that other engines read.

MXNet 1.9.1 converts the operators. Five things its exporter does are put right here: it stamps the
model with the newest operator set that the onnx package knows, whatever set it wrote; it checks the
graph against that newest set too; it lists outputs in the order in which the graph reaches them;
it lists every weight as an input, which forbids engines to fold or pack it; and it copies a size 0,
"as it is", where ONNX means none. Then the graph is made plain
(:mod:`gluon_attn.export.onnx_passes`). The result is compared with MXNet in ONNX Runtime, in
memory, before a file is written.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any, Iterator, Sequence

import mxnet as mx
import numpy as np

from gluon_attn.core.errors import first_line
from gluon_attn.core.files import write_bytes
from gluon_attn.export import parity
from gluon_attn.export.graph import INPUT, Arrays, Symbol, make_block, nodes_of, read_graph
from gluon_attn.export.onnx_graph import BATCH, refill
from gluon_attn.export.onnx_half import halve, observable
from gluon_attn.export.onnx_passes import make_plain
from gluon_attn.export.onnx_session import import_onnxruntime, open_onnx_session
from gluon_attn.export.parity import Parts, Results
from gluon_attn.export.sidecar import ExportError, Sidecar
from gluon_attn.export.writer import Variant

TOLERANCE = parity.TOLERANCE
HALF_TOLERANCE = 0.01  # of float16 against float32; small nets of all families: up to 0.002
OPSETS = (12, 13)  # what MXNet's exporter writes
IR_VERSION = 7  # the file format that came with opset 12, read by every later engine
LARGEST = 2**31 - 1  # bytes in one protobuf message

_exporter_lock = threading.Lock()


class OnnxVariant(Variant):
    """Writes ``NAME.onnx``: one file, weights inside, free batch size, outputs as in the sidecar.

    ``opset`` is 12 or 13; a ValueError for those that MXNet does not write. With ``half`` also
    ``NAME-fp16.onnx``, which computes in float16 (:mod:`gluon_attn.export.onnx_half`).
    """

    name = "onnx"

    def __init__(self, opset: int = 13, half: bool = False) -> None:
        if opset not in OPSETS:
            raise ValueError(f"opset {opset!r}: MXNet's exporter writes {OPSETS[0]} and 13")
        self.opset, self.half = opset, half

    def write(self, directory: Path, sidecar: Sidecar) -> tuple[dict[str, str], dict[str, Any]]:
        """Convert, check with onnx, compare in ONNX Runtime, then write the file.

        The entry holds ``opset`` and ``ir_version``; of the comparison ``max_abs_diff`` and
        ``tolerance``, relative to the larger of 1 and the output's magnitude, and the ``batch``
        sizes; the same of float16 against float32 as ``fp16``; and versions. An ExportError if onnx
        or onnxruntime is not installed, the graph has an operator that the exporter lacks, or the
        numbers differ; nothing is written then.
        """
        onnx, onnxruntime = require_packages()
        symbol, arrays = read_graph(directory, sidecar)
        size = sum(array.size * 4 for array in arrays.values())
        if size > LARGEST:  # before the conversion, whose own steps fail on more
            raise ExportError(f"{sidecar['name']}: {size} bytes of weights; ONNX takes up to 2 GB")
        model = convert(symbol, arrays, sidecar, self.opset)
        parts = parity.parts_of(parity.random_batch(sidecar["input"]))
        names = [out["name"] for out in sidecar["outputs"]]
        raw, found = _run(model, names, parts)
        expected = parity.outputs_of(make_block(symbol, arrays), parts)
        what = f"{sidecar['name']}: ONNX Runtime differs from MXNet"
        entry: dict[str, Any] = {"opset": self.opset, "ir_version": IR_VERSION}
        entry.update(parity.compare(found, expected, parity.BATCHES, what, tolerance=TOLERANCE))
        entry.update(onnxruntime=onnxruntime.__version__)
        entry.update(mxnet=mx.__version__, onnx=onnx.__version__)
        forms = {"onnx": (f"{sidecar['name']}.onnx", raw)}
        if self.half:
            halve(onnx, model)
            onnx.checker.check_model(model, full_check=True)
            raw = model.SerializeToString(deterministic=True)
            _, halved = _run(observable(onnx, model), names, parts, optimize=False)
            what = f"{sidecar['name']}: float16 differs from float32"
            entry["fp16"] = parity.compare(
                halved, found, parity.BATCHES, what, tolerance=HALF_TOLERANCE
            )
            forms["onnx_fp16"] = (f"{sidecar['name']}-fp16.onnx", raw)
        for file, data in forms.values():
            write_bytes(directory / file, data)
        return {key: file for key, (file, _) in forms.items()}, entry


def _run(
    model: Any, names: Sequence[str], parts: Parts, *, optimize: bool = True
) -> tuple[bytes, Results]:
    """Return a model's bytes, and its outputs for named batches in ONNX Runtime."""
    raw = model.SerializeToString(deterministic=True)
    session = open_onnx_session(raw, optimize=optimize)
    return raw, {key: session.run(names, {INPUT: batch}) for key, batch in parts.items()}


def supported_operators(opset: int = 13) -> set[str]:
    """Return the MXNet operators that MXNet's exporter can convert; asks its registry."""
    _import_onnx()
    from mxnet.onnx import get_operator_support

    return set(get_operator_support(opset))


def unsupported_operators(symbol: Symbol, opset: int = 13) -> list[str]:
    """Return the sorted operators of an MXNet symbol that the exporter lacks."""
    return sorted({node["op"] for node in nodes_of(symbol)} - supported_operators(opset))


def convert(symbol: Symbol, arrays: Arrays, sidecar: Sidecar, opset: int = 13) -> Any:
    """Return the ONNX model of a graph; the sidecar's outputs give order and names."""
    onnx, _ = require_packages()
    missing = unsupported_operators(symbol, opset)
    if missing:
        raise ExportError(
            f"{sidecar['name']}: no ONNX conversion for {', '.join(missing)}; write the net "
            "without these operators (gluon_attn.export.onnx.supported_operators lists those that "
            "convert)"
        )
    weights = {name.split(":", 1)[-1]: array for name, array in arrays.items()}
    shape = tuple(sidecar["input"]["shape"][1:])
    try:
        with _exporter(onnx, opset) as exporter:
            # MXNet's public function takes no operator set: the class behind it does.
            graph = exporter().create_onnx_graph_proto(
                symbol, weights, [(1, *shape)], [onnx.TensorProto.FLOAT], opset_version=opset,
                dynamic=True, dynamic_input_shapes=[(BATCH, *shape)],
            )  # fmt: skip
        _put_in_order(onnx, graph, sidecar)
        stamp = onnx.helper.make_opsetid("", opset)
        model = onnx.helper.make_model(graph, opset_imports=[stamp], producer_name="gluon_attn")
        model.ir_version = IR_VERSION
        make_plain(onnx, model, weights)
        onnx.checker.check_model(model, full_check=True)
    except ExportError:
        raise
    # The converters are a hundred functions that raise whatever they meet.
    except Exception as error:
        raise ExportError(
            f"{sidecar['name']}: no ONNX model ({type(error).__name__}: {first_line(error)})"
        ) from error
    return model


def require_packages() -> tuple[Any, Any]:
    """Return the packages onnx and onnxruntime; an ExportError says what to install."""
    try:
        return _import_onnx(), import_onnxruntime()
    except ImportError as error:
        raise ExportError(f"the ONNX file cannot be checked: {error}") from error


def _import_onnx() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
        import onnx.shape_inference
    except Exception as error:  # beside ImportError what an unsuited protobuf raises
        raise ExportError(
            f'ONNX export needs onnx ({first_line(error)}): pip install "gluon_attn[onnx]"'
        ) from error
    try:
        import onnx.mapping  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"onnx {onnx.__version__} no longer has onnx.mapping, which MXNet's exporter needs: "
            'pip install "onnx<1.19"'
        ) from error
    return onnx


@contextlib.contextmanager
def _exporter(onnx: Any, opset: int) -> Iterator[Any]:
    """Yield the class of MXNet's exporter, set up for the time of one conversion.

    It calls onnx's checker without saying which operator set to judge by, and writes weights as
    lists of numbers, which takes ten times as long as bytes.
    """
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    context, converters = onnx.checker.DEFAULT_CONTEXT, MXNetGraph.registry_[OPSETS[0]]
    with _exporter_lock:
        newest, convert_variable = dict(context.opset_imports), converters["null"]

        def as_bytes(node: Any, **options: Any) -> Any:
            if options["is_input"]:
                return convert_variable(node, **options)
            array = options["weights"][node["name"]]
            tensor = onnx.numpy_helper.from_array(array, node["name"])
            options["initializer"].append(tensor)
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, array.shape)
            return [value], (array.dtype,)

        context.opset_imports, converters["null"] = {"": opset}, as_bytes
        try:
            yield MXNetGraph
        finally:
            context.opset_imports, converters["null"] = newest, convert_variable


def _put_in_order(onnx: Any, graph: Any, sidecar: Sidecar) -> None:
    """Put inputs, outputs and weights of an exported graph in order."""
    info, to_array = onnx.helper.make_tensor_value_info, onnx.numpy_helper.to_array
    found = {value.name for value in graph.output}
    wanted = [output["name"] for output in sidecar["outputs"]]
    if found != set(wanted):
        raise ExportError(f"{sidecar['name']}: ONNX outputs {sorted(found)}, expected {wanted}")
    outputs = [
        info(output["name"], onnx.TensorProto.FLOAT, [BATCH, *output["shape"][1:]])
        for output in sidecar["outputs"]
    ]
    used = {name for node in graph.node for name in node.input}
    weights = [weight for weight in graph.initializer if weight.name in used]
    inputs = [value for value in graph.input if value.name == INPUT]
    targets = {node.input[1] for node in graph.node if node.op_type == "Expand"}
    for weight in weights:
        if weight.name in targets:  # 0 is "as it is" to MXNet, and 1 to ONNX
            sizes = np.maximum(to_array(weight), 1)
            weight.CopyFrom(onnx.numpy_helper.from_array(sizes, weight.name))
    refill(graph, output=outputs, initializer=weights, input=inputs)
    graph.name = sidecar["name"]
