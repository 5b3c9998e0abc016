"""ONNX: the export's float32 graph as one file that other engines read.

MXNet 1.9.1 converts the operators. Five things its exporter does are put right here: it stamps the
model with the newest operator set that the onnx package knows, whatever set it wrote; it checks the
graph against that newest set too; it lists outputs in the order in which the graph reaches them;
it lists every weight as an input, which forbids engines to fold or pack it; and it copies a size 0,
"as it is", where ONNX means none. Then the graph is made plain
(:mod:`gluon_attn.export.onnx_plain`). The result is compared with MXNet in ONNX Runtime, in memory,
before a file is written.
"""

from __future__ import annotations

import contextlib
import json
import threading

import mxnet as mx
import numpy as np

from gluon_attn.core.errors import first_line
from gluon_attn.core.files import write_bytes
from gluon_attn.export.backends import import_onnxruntime, open_onnx_session
from gluon_attn.export.graph_file import load_graph
from gluon_attn.export.onnx_graph import BATCH
from gluon_attn.export.onnx_plain import make_plain
from gluon_attn.export.sidecar import ExportError, read_verified
from gluon_attn.export.symbol import INPUT, make_block
from gluon_attn.export.variants import Variant

TOLERANCE = 1e-5  # of max(1, |output|)
BATCHES = (1, 2, 3)
OPSETS = (12, 13)  # what MXNet's exporter writes
IR_VERSION = 7  # the file format that came with opset 12, read by every later engine
LARGEST = 2**31 - 1  # bytes in one protobuf message

_exporter_lock = threading.Lock()


class OnnxVariant(Variant):
    """Writes ``NAME.onnx``: one file, weights inside, free batch size, outputs as in the sidecar.

    Args:
        opset: ONNX operator set, 12 or 13.

    Raises:
        ValueError: An operator set that MXNet's exporter does not write.
    """

    name = "onnx"

    def __init__(self, opset=13):
        if opset not in OPSETS:
            raise ValueError(f"opset {opset!r}: MXNet's exporter writes {OPSETS[0]} and 13")
        self.opset = opset

    def write(self, directory, sidecar):
        """Convert, check with onnx, compare in ONNX Runtime, then write the file.

        See :meth:`gluon_attn.export.variants.Variant.write`. The entry holds ``opset`` and
        ``ir_version``; of the comparison ``max_abs_diff`` and ``tolerance``, relative to the larger
        of 1 and the output's magnitude, and the ``batch`` sizes; and the versions of ``mxnet``,
        ``onnx`` and ``onnxruntime``.

        Raises:
            ExportError: onnx or onnxruntime is not installed, the graph has an operator that the
                exporter lacks, or the numbers differ; nothing is written.
        """
        onnx, _ = require_packages()
        symbol, arrays = _read_graph(directory, sidecar)
        size = sum(array.size * 4 for array in arrays.values())
        if size > LARGEST:  # before the conversion, whose own steps fail on more
            raise ExportError(f"{sidecar['name']}: {size} bytes of weights; ONNX takes up to 2 GB")
        model = convert(symbol, arrays, sidecar, self.opset)
        raw = model.SerializeToString(deterministic=True)
        entry = {"opset": self.opset, "ir_version": IR_VERSION}
        entry.update(_compare(raw, symbol, arrays, sidecar))
        entry.update(mxnet=mx.__version__, onnx=onnx.__version__)
        file = f"{sidecar['name']}.onnx"
        write_bytes(directory / file, raw)
        return {"onnx": file}, entry


def supported_operators(opset=13):
    """Return the set of MXNet operators that MXNet's exporter can convert; asks its registry.

    Raises:
        ExportError: onnx is not installed.
    """
    _import_onnx()
    from mxnet.onnx import get_operator_support

    return set(get_operator_support(opset))


def unsupported_operators(symbol, opset=13):
    """Return the sorted operators of an MXNet symbol that the exporter lacks."""
    used = {node["op"] for node in json.loads(symbol.tojson())["nodes"]}
    return sorted(used - supported_operators(opset))


def convert(symbol, arrays, sidecar, opset=13):
    """Return the ONNX model of a graph.

    Args:
        symbol: The graph, input ``data``.
        arrays: ``arg:``/``aux:`` names to float32 NDArrays.
        sidecar: Contents of the sidecar; its outputs give order and names.
        opset: See :class:`OnnxVariant`.

    Raises:
        ExportError: An operator or a combination that the exporter or onnx does not take.
    """
    onnx, _ = require_packages()
    missing = unsupported_operators(symbol, opset)
    if missing:
        raise ExportError(
            f"{sidecar['name']}: no ONNX conversion for {', '.join(missing)}; write the net "
            "without these operators (gluon_attn.export.onnx_model.supported_operators lists those "
            "that convert)"
        )
    weights = {name.split(":", 1)[-1]: array for name, array in arrays.items()}
    try:
        graph = _mxnet_graph(onnx, symbol, weights, sidecar, opset)
        _mend(onnx, graph, sidecar)
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


def require_packages():
    """Return the packages onnx and onnxruntime.

    Raises:
        ExportError: One is not installed, or its version does not do; says what to install.
    """
    try:
        return _import_onnx(), import_onnxruntime()
    except ImportError as error:
        raise ExportError(f"the ONNX file cannot be checked: {error}") from error


def _import_onnx():
    """Return the onnx package, or raise ExportError with a remedy."""
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


def _read_graph(directory, sidecar):
    text = read_verified(directory, sidecar["files"]["symbol"])
    return load_graph(text, read_verified(directory, sidecar["files"]["params"]), directory)


def _mxnet_graph(onnx, symbol, weights, sidecar, opset):
    """Return the graph as MXNet's exporter makes it.

    Its public function takes no operator set: the class behind it does.
    """
    sample = tuple(sidecar["input"]["shape"][1:])
    with _exporter(onnx, opset) as exporter:
        return exporter().create_onnx_graph_proto(
            symbol,
            weights,
            [(1,) + sample],
            [onnx.TensorProto.FLOAT],
            opset_version=opset,
            dynamic=True,
            dynamic_input_shapes=[(BATCH,) + sample],
        )


@contextlib.contextmanager
def _exporter(onnx, opset):
    """Yield the class of MXNet's exporter, set up for the time of one conversion.

    It calls onnx's checker without saying which operator set to judge by, and writes weights as
    lists of numbers, which takes ten times as long as bytes.
    """
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    context, converters = onnx.checker.DEFAULT_CONTEXT, MXNetGraph.registry_[OPSETS[0]]
    with _exporter_lock:
        newest, convert_variable = dict(context.opset_imports), converters["null"]

        def as_bytes(node, **options):
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


def _mend(onnx, graph, sidecar):
    """Put inputs, outputs and weights of an exported graph in order."""
    info = onnx.helper.make_tensor_value_info
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
            sizes = np.maximum(onnx.numpy_helper.to_array(weight), 1)
            weight.CopyFrom(onnx.numpy_helper.from_array(sizes, weight.name))
    for field, values in (("output", outputs), ("initializer", weights), ("input", inputs)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    graph.name = sidecar["name"]


def _compare(raw, symbol, arrays, sidecar):
    """Run the model beside MXNet; return the figures or raise ExportError."""
    _, onnxruntime = require_packages()
    session = open_onnx_session(raw)
    block = make_block(symbol, arrays)
    names = [output["name"] for output in sidecar["outputs"]]
    shape = (max(BATCHES), *sidecar["input"]["shape"][1:])
    images = np.random.RandomState(0).normal(size=shape).astype(np.float32)  # as normalised ones
    worst = 0.0
    for batch in BATCHES:
        expected = block(mx.nd.array(images[:batch]))
        expected = expected if isinstance(expected, (list, tuple)) else [expected]
        actual = session.run(names, {INPUT: images[:batch]})
        for ours, theirs in zip(expected, actual):
            ours = ours.asnumpy()
            scaled = np.abs(theirs - ours) / np.maximum(1.0, np.abs(ours))
            worst = max(worst, float(scaled.max()))
    if not worst <= TOLERANCE:  # so that NaN fails as well
        raise ExportError(
            f"{sidecar['name']}: ONNX Runtime differs from MXNet by {worst:.3g} of "
            f"max(1, |output|); at most {TOLERANCE:g} is allowed. Nothing was written"
        )
    figures = {"max_abs_diff": worst, "tolerance": TOLERANCE, "batch": list(BATCHES)}
    return dict(figures, onnxruntime=onnxruntime.__version__)
