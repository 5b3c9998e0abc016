"""The engines that the inference benchmark compares, and the files that each of them reads.

Everything starts from one export directory, so all engines run the same network with the same
parameters. What an engine needs beside it (a *product*: the ONNX file, an int8 graph, PyTorch's
weights) is made first, each in a process of its own. An engine is opened in a process of its own
too, and that process imports nothing but what the engine needs: hence the few lines for ONNX
Runtime and OpenVINO here, where :mod:`gluon_attn.export.backends` would import MXNet.

int8 graphs made here are calibrated on random images: good for speed, worthless for accuracy.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, NamedTuple

import numpy as np

CALIBRATION_IMAGES = 16
PREPROCESS = {"mean": (123.68, 116.779, 103.939), "std": (58.393, 57.12, 57.375)}
INSTALL = {
    "onnxruntime": 'pip install "gluon_attn[onnx]"',
    "openvino": 'pip install "gluon_attn[bench]"',
    "torch": 'pip install "gluon_attn[bench]"',
    "nncf": "pip install nncf",
}


Spec = Dict[str, Any]  # see open_engine
Run = Callable[[np.ndarray], np.ndarray]


class Engine(NamedTuple):
    """A way to run the network.

    Attributes:
        name: As in the rows of the results.
        precision: ``'fp32'``, ``'bf16'`` or ``'int8'``.
        library: Module whose import is not counted as loading.
        product: Key of ``PRODUCTS`` that it reads.
        open: ``(spec, batch, threads) -> run``, with ``run(images (B, 3, H, W)) -> logits (B, A)``.
    """

    name: str
    precision: str
    library: str
    product: str
    open: Callable[[Spec, int, int], Run]

    @property
    def label(self) -> str:
        """Engine and precision."""
        return f"{self.name} {self.precision}"


def arguments_of(model: str, options: dict | None = None) -> dict:
    """Return all arguments of a zoo model as a dict, those of ``options`` and the defaults.

    Raises:
        ValueError: Unknown model.
    """
    from model_zoo.registry import MODELS

    signature = inspect.signature(MODELS.get(model.lower()))
    return dict({k: p.default for k, p in signature.parameters.items()}, **(options or {}))


def open_engine(
    key: tuple[str, str], spec: Spec, batch: int, threads: int
) -> tuple[Callable, dict]:
    """Open an engine in this process and run it once.

    ``key`` is its name and precision. ``spec`` says about the network: ``model``, ``options``,
    ``arguments``, ``folder``, ``export`` and ``products``.

    Returns:
        ``(call, facts)``: a function without arguments that runs the network on a fixed batch, and
        ``load_s`` (files to first result, without importing the library) and ``logits (B, A)``.

    Raises:
        ImportError, ValueError: It is not installed, or cannot run here.
    """
    engine = next(e for e in ENGINES if (e.name, e.precision) == key)
    import_library(engine.library)
    images = random_images(batch, spec["arguments"]["input_size"])
    started = time.perf_counter()
    run = engine.open(spec, batch, threads)
    logits = np.array(run(images))
    facts = {"load_s": time.perf_counter() - started, "logits": logits}
    return functools.partial(run, images), facts


def random_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Return ``(count, 3, size, size)`` float32, distributed as normalised images are."""
    shape = (count, 3, size, size)
    return np.random.RandomState(seed).normal(size=shape).astype(np.float32)


# ---------------------------------------------------------------------------------------- MXNet


def _first(outputs: Any) -> np.ndarray:
    return (outputs[0] if isinstance(outputs, (list, tuple)) else outputs).asnumpy()


def _open_net(spec: Spec, batch: int, threads: int, static: bool) -> Run:
    """The Gluon net itself, hybridized or not; it returns its maps too."""
    import mxnet as mx

    from gluon_attn.train import use_static_graph
    from model_zoo import get_model
    from model_zoo.params_io import load_into

    net = get_model(spec["model"], **spec["options"])
    net.initialize(mx.init.Zero())
    load_into(net, next(f for f in spec["products"]["export"] if f.endswith(".params")))
    if static:
        use_static_graph(net)
    return lambda images: _first(net(mx.nd.array(images)))


def _open_export(spec: Spec, batch: int, threads: int, **options: Any) -> Run:
    """The exported graph; ``options`` are those of :func:`load_exported`."""
    import mxnet as mx

    from gluon_attn.export import load_exported

    block, _ = load_exported(spec["export"], **options)
    block.hybridize(static_alloc=True, static_shape=True)
    return lambda images: _first(block(mx.nd.array(images)))


# ------------------------------------------------------------------------------- other engines


def _open_onnxruntime(spec: Spec, batch: int, threads: int, product: str) -> Run:
    """The ONNX file on ONNX Runtime's CPU provider."""
    onnxruntime = import_library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        spec["products"][product][0], options, providers=["CPUExecutionProvider"]
    )
    entry, first = session.get_inputs()[0].name, [session.get_outputs()[0].name]
    return lambda images: session.run(first, {entry: images})[0]


def _open_openvino(spec: Spec, batch: int, threads: int, product: str, *, hint: str) -> Run:
    """The model on OpenVINO's CPU plugin, with a fixed batch as the other static graphs have."""
    core = import_library("openvino").Core()
    valid = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if hint == "bf16" and "BF16" not in valid:
        raise ValueError(f"OpenVINO has no bfloat16 for this processor, only {', '.join(valid)}")
    side = spec["arguments"]["input_size"]
    model = core.read_model(spec["products"][product][0])
    model.reshape([batch, 3, side, side])
    # The hint is needed for float32 too: where there is AMX, bfloat16 is the default.
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": hint,
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda images: request.infer([images])[0]


def _open_torch(spec: Spec, batch: int, threads: int, **options: Any) -> Run:
    from tools.bench import torch_nets

    path = spec["products"]["torch"][0]
    return torch_nets.open_runner(spec["arguments"], path, threads, **options)


def import_library(library: str) -> Any:
    """Import and return a module, or raise ImportError that says what to install."""
    try:
        return importlib.import_module(library)
    except (ImportError, AttributeError) as error:  # the latter where versions do not fit
        package = library.split(".")[0]
        missing = getattr(error, "name", None)
        other = missing and missing.split(".")[0] != package
        hint = f"pip install {missing}" if other else INSTALL.get(package, "see README.md")
        raise ImportError(f"{library} cannot be imported ({error}): {hint}") from error


_part = functools.partial
_TORCH: dict[str, dict] = {
    "torch": {},
    "torch-channels-last": {"channels_last": True},
    "torch-compile": {"compiled": True},
}
_EXPORT, _ONNX, _VINO = "gluon_attn.export", _open_onnxruntime, _open_openvino

# The hybridized net comes first: it is what all others are compared with.
ENGINES = (
    Engine("mxnet", "fp32", "model_zoo", "export", _part(_open_net, static=True)),
    Engine("mxnet-imperative", "fp32", "model_zoo", "export", _part(_open_net, static=False)),
    Engine("mxnet-export", "fp32", _EXPORT, "export", _open_export),
    Engine("mxnet-fused", "fp32", _EXPORT, "export", _part(_open_export, fused=True)),
    Engine("mxnet-export", "bf16", _EXPORT, "bf16", _part(_open_export, precision="bf16")),
    Engine("mxnet-export", "int8", _EXPORT, "int8", _part(_open_export, precision="int8")),
    *(
        Engine("onnxruntime", precision, "onnxruntime", product, _part(_ONNX, product=product))
        for precision, product in (("fp32", "onnx"), ("int8", "onnx-int8"))
    ),
    *(
        Engine("openvino", precision, "openvino", file, _part(_VINO, product=file, hint=hint))
        for precision, file, hint in (
            ("fp32", "onnx", "f32"),
            ("bf16", "onnx", "bf16"),
            ("int8", "openvino-int8", "f32"),
        )
    ),
    *(
        Engine(name, precision, "torch", "torch", _part(_open_torch, precision=precision, **how))
        for name, how in _TORCH.items()
        for precision in ("fp32", "bf16")
    ),
)


# ------------------------------------------------------------------------------------- products


def make_export(spec: Spec) -> list[str]:
    """Export the network with random weights, unless ``spec['export']`` holds an export already."""
    import mxnet as mx

    from gluon_attn.export import export_model
    from gluon_attn.export.sidecar import read_sidecar
    from gluon_attn.runtime import seed_everything
    from model_zoo import get_model

    if not Path(spec["export"]).exists():
        seed_everything(0)
        net = get_model(spec["model"], **spec["options"])
        net.initialize(mx.init.Xavier())
        side = spec["arguments"]["input_size"]
        settle(net, mx.nd.array(random_images(4, side, seed=2)))
        names = [f"class{number}" for number in range(net.classes)]
        extra = {"weights": "random"}
        export_model(
            net, spec["export"], spec["model"], names, side, PREPROCESS, check=False, extra=extra
        )
    files = read_sidecar(spec["export"])["files"]
    return [str(Path(spec["export"], files[key]["file"])) for key in ("symbol", "params")]


def settle(net: Any, images: Any) -> None:
    """Move the running statistics of all batch-norms half of the way to those of a batch.

    With those of a new net, the activations of a deep random one grow beyond all bounds. Half of
    the way, because a channel that hardly varies would be blown up, and rounding errors with it.
    """
    from mxnet import autograd, nd

    before = [(layer, layer._kwargs["momentum"]) for layer in norms(net)]
    for layer, _ in before:
        layer._kwargs["momentum"] = 0.5
    with autograd.record():
        outputs = net(images)
    autograd.backward(outputs)  # it is the backward pass that updates running statistics
    nd.waitall()
    for layer, momentum in before:
        layer._kwargs["momentum"] = momentum


def norms(net: Any) -> list:
    """Return the batch-norm layers of a net."""
    found: list = []
    net.apply(found.append)
    return [block for block in found if "momentum" in getattr(block, "_kwargs", {})]


def _make_variant(spec: Spec, name: str) -> list[str]:
    """Add a variant to the export, unless it has it."""
    from gluon_attn.export.sidecar import read_sidecar
    from gluon_attn.export.writer import add_variants

    if name not in read_sidecar(spec["export"]):
        add_variants(spec["export"], [_variant(name, spec)])
    files = read_sidecar(spec["export"])["files"]
    found = [entry["file"] for key, entry in files.items() if key.split("_")[0] == name]
    return [str(Path(spec["export"], file)) for file in found]


def _variant(kind: str, spec: Spec) -> Any:
    if kind == "onnx":
        from gluon_attn.export.onnx import OnnxVariant

        return OnnxVariant()
    if kind == "bf16":
        from gluon_attn.export.precision import Bf16Variant

        return Bf16Variant()
    from gluon_attn.export.int8 import Int8Variant

    side = spec["arguments"]["input_size"]
    # Nothing is measured but speed: any score will do, and none is lost.
    return Int8Variant(
        random_images(CALIBRATION_IMAGES, side, seed=1),
        score=lambda run: 0.0,
        baseline=0.0,
        modes=("naive",),
        fingerprint="random images, for speed only",
    )


def quantize_onnx(spec: Spec) -> list[str]:
    """Quantize the ONNX file with ONNX Runtime's own tools: QDQ, per channel."""
    from gluon_attn.runtime import has_vnni

    import_library("onnxruntime")
    quantization = import_library("onnxruntime.quantization")
    shapes = import_library("onnxruntime.quantization.shape_inference")
    source, target = spec["products"]["onnx"][0], Path(spec["folder"], "int8.onnx")
    entry, batches = "data", iter(_calibration(spec))

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict | None:
            images = next(batches, None)
            return None if images is None else {entry: images}

    prepared = target.with_name("prepared.onnx")
    shapes.quant_pre_process(source, str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        # Without VNNI the sum of two products is kept in 16 bits, which eight-bit weights exceed.
        reduce_range=not has_vnni(),
    )
    prepared.unlink()
    return [str(target)]


def quantize_openvino(spec: Spec) -> list[str]:
    """Quantize the ONNX file with OpenVINO's own tool, nncf."""
    openvino, nncf = import_library("openvino"), import_library("nncf")
    model = openvino.Core().read_model(spec["products"]["onnx"][0])
    quantized = nncf.quantize(
        model, nncf.Dataset(list(_calibration(spec))), subset_size=CALIBRATION_IMAGES
    )
    target = Path(spec["folder"], "openvino-int8.xml")
    openvino.save_model(quantized, str(target), compress_to_fp16=False)
    return [str(target), str(target.with_suffix(".bin"))]


def save_for_torch(spec: Spec) -> list[str]:
    """Copy the parameters into the PyTorch network and save them there."""
    from tools.bench import torch_nets

    module = torch_nets.build(**spec["arguments"])  # says at once if PyTorch is missing
    from model_zoo.adapters.read import read_params

    params = read_params(spec["products"]["export"][1])
    arrays = {name: value.asnumpy() for name, value in params.items()}
    torch_nets.copy_parameters(arrays, module)
    path = Path(spec["folder"], "torch.pt")
    torch_nets.save(module, path)
    return [str(path)]


def _calibration(spec: Spec) -> Iterator[np.ndarray]:
    """Yield the calibration images, one by one, each ``(1, 3, H, W)``."""
    images = random_images(CALIBRATION_IMAGES, spec["arguments"]["input_size"], seed=1)
    yield from np.split(images, len(images))


# In the order of making: later ones may read earlier ones.
PRODUCTS = {
    "export": make_export,
    "onnx": _part(_make_variant, name="onnx"),
    "int8": _part(_make_variant, name="int8"),
    "bf16": _part(_make_variant, name="bf16"),
    "onnx-int8": quantize_onnx,
    "openvino-int8": quantize_openvino,
    "torch": save_for_torch,
}
NEEDS = {"onnx-int8": "onnx", "openvino-int8": "onnx"}  # beside the export
