"""Engines that can run an export directory, behind one small interface.

A backend is a class with ``run(batch (B, 3, H, W) float32) -> [output, ...]`` in the order of the
sidecar's ``outputs``, as NumPy arrays, safe to be called from several threads. All files are
compared with the sidecar's checksums before an engine sees them.

===============  =========  ===========================  ==============
name             precision  file of the export           needs
===============  =========  ===========================  ==============
``mxnet``        float32    the graph itself             nothing
``mxnet-fused``  float32    the graph itself             nothing
``mxnet-int8``   int8       int8 variant                 nothing
``mxnet-bf16``   bfloat16   bf16 variant                 AVX-512
``mxnet-fp16``   float16    the graph itself             a GPU
``onnxruntime``  float32    ONNX variant                 onnxruntime
``openvino``     float32    ONNX variant                 openvino
===============  =========  ===========================  ==============

``mxnet-fused`` joins convolution, batch-norm, addition and activation in one operator: faster than
``mxnet``, on the CPU only, and equal to it up to rounding.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
import threading
from typing import Any, NamedTuple

import mxnet as mx
import numpy as np

from gluon_attn.core.errors import first_line
from gluon_attn.export.sidecar import ExportError, read_sidecar, read_verified
from gluon_attn.export.symbol import INPUT, PRECISIONS, load_exported
from gluon_attn.runtime import contexts, has_avx512


class MXNetBackend:
    """Runs an export on MXNet.

    Args:
        directory: The export directory.
        ctx: Context, or its name (``'cpu'``, ``'gpu:0'``); int8 and bf16 run on the CPU only, fp16
            on a GPU only.
        threads: Compute threads; they belong to the process, not to this object. None leaves them.
        precision: ``'fp32'``, ``'fp16'``, ``'int8'`` or ``'bf16'``; the last two are variants that
            the export must hold.
        fused: Of fp32, the fused graph.

    Raises:
        FileNotFoundError: The directory or one of its files is missing.
        ValueError: Damaged export, a variant that it does not hold, or a device that cannot run it.
    """

    def __init__(self, directory, ctx=None, threads=None, precision="fp32", fused=False):
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r}: valid are {', '.join(PRECISIONS)}")
        sidecar = read_sidecar(directory)
        kind = "fused" if fused else precision
        require("mxnet" if kind == "fp32" else f"mxnet-{kind}", sidecar, ctx)
        if threads is not None:
            mx.base.check_call(mx.base._LIB.MXSetNumOMPThreads(ctypes.c_int(threads)))
        self.ctx = parse_context(ctx)
        self._shape = tuple(sidecar["input"]["shape"][1:])
        self._block, _ = load_exported(directory, self.ctx, precision, fused)
        # Without static_shape oneDNN would reorder all weights at every call.
        self._block.hybridize(static_alloc=True, static_shape=True)
        # A static graph has one set of buffers: one caller at a time, and outputs are copied out.
        self._lock = threading.Lock()

    def run(self, batch):
        """Return the outputs of ``batch (B, 3, H, W)`` float32, as NumPy arrays."""
        check_batch(batch, self._shape)
        with self._lock:
            outputs = self._block(mx.nd.array(batch, ctx=self.ctx))
            outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
            return [out.asnumpy() for out in outputs]


class OnnxRuntimeBackend:
    """Runs an export's ONNX file on ONNX Runtime, in float32.

    Args:
        directory: The export directory.
        ctx: As for :class:`MXNetBackend`; a GPU needs the package onnxruntime-gpu, not MXNet's.
        threads: Compute threads of this session; None takes as many as MXNet uses.

    Raises:
        ImportError: onnxruntime is not installed.
        FileNotFoundError, ValueError: As for :class:`MXNetBackend`.
    """

    def __init__(self, directory, ctx=None, threads=None):
        sidecar, raw = _read_onnx("onnxruntime", directory, ctx)
        self._shape = tuple(sidecar["input"]["shape"][1:])
        self._names = [output["name"] for output in sidecar["outputs"]]
        self._session = open_onnx_session(raw, threads, *parse_device(ctx))

    def run(self, batch):
        """Return the outputs of ``batch (B, 3, H, W)`` float32, as NumPy arrays."""
        check_batch(batch, self._shape)
        # A session may be shared: every run has its own buffers.
        return self._session.run(self._names, {INPUT: np.ascontiguousarray(batch)})


class OpenVINOBackend:
    """Runs an export's ONNX file on OpenVINO, in float32, on the CPU.

    Args:
        directory: The export directory.
        ctx: None or ``'cpu'``.
        threads: Compute threads of this object; None takes as many as MXNet uses.

    Raises:
        ImportError: openvino is not installed.
        FileNotFoundError, ValueError: As for :class:`MXNetBackend`.
    """

    def __init__(self, directory, ctx=None, threads=None):
        sidecar, raw = _read_onnx("openvino", directory, ctx)
        import openvino

        self._shape = tuple(sidecar["input"]["shape"][1:])
        self._names = [output["name"] for output in sidecar["outputs"]]
        options = {
            "INFERENCE_NUM_THREADS": threads or default_threads(),
            "PERFORMANCE_HINT": "LATENCY",  # one stream, that of our one caller, with all threads
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it
        }
        core = openvino.Core()
        try:
            compiled = core.compile_model(core.read_model(raw), "CPU", options)
        except RuntimeError as error:
            raise ExportError(f"{directory}: OpenVINO: {first_line(error)}") from error
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()  # a request has one set of buffers

    def run(self, batch):
        """Return the outputs of ``batch (B, 3, H, W)`` float32, as NumPy arrays."""
        check_batch(batch, self._shape)
        with self._lock:
            results = self._request.infer({INPUT: np.ascontiguousarray(batch)})
            return [np.array(results[name]) for name in self._names]


BACKENDS = {
    "mxnet": MXNetBackend,
    "mxnet-fused": functools.partial(MXNetBackend, fused=True),
    "mxnet-int8": functools.partial(MXNetBackend, precision="int8"),
    "mxnet-bf16": functools.partial(MXNetBackend, precision="bf16"),
    "mxnet-fp16": functools.partial(MXNetBackend, precision="fp16"),
    "onnxruntime": OnnxRuntimeBackend,
    "openvino": OpenVINOBackend,
}


class Needs(NamedTuple):
    """What a backend runs and what it cannot do without."""

    precision: str
    variant: Any = None  # of the export: prefix of its keys in the sidecar's files
    package: Any = None
    install: Any = None  # what to give to pip
    gpu: bool = False  # whether it has a GPU path
    cpu: bool = True  # and a CPU path


NEEDS = {
    "mxnet": Needs("fp32", gpu=True),
    "mxnet-fused": Needs("fp32"),
    "mxnet-int8": Needs("int8", "int8"),
    "mxnet-bf16": Needs("bf16", "bf16"),
    "mxnet-fp16": Needs("fp16", gpu=True, cpu=False),
    "onnxruntime": Needs("fp32", "onnx", "onnxruntime", "gluon_attn[onnx]", gpu=True),
    "openvino": Needs("fp32", "onnx", "openvino", "openvino"),
}


def obstacle(name, sidecar, ctx=None):
    """Return what keeps a backend from running an export here, as an exception, or None.

    Args:
        name: A key of ``BACKENDS``.
        sidecar: Contents of the export's sidecar.
        ctx: See :class:`MXNetBackend`.

    Returns:
        ImportError, ValueError or None; nothing of the engine has been loaded.
    """
    needs = NEEDS[name]
    keys = [key for key in sidecar["files"] if key.split("_")[0] == needs.variant]
    if needs.variant is not None and not keys:
        return ValueError(
            f"backend '{name}': export '{sidecar['name']}' has no {needs.variant} variant; add it "
            f"with tools/export.py --export … --{needs.variant}, or use backend 'mxnet'"
        )
    if needs.package is not None and importlib.util.find_spec(needs.package) is None:
        return ImportError(
            f"backend '{name}' needs {needs.package}: pip install \"{needs.install}\", or use "
            "backend 'mxnet'"
        )
    try:
        kind, _ = parse_device(ctx) if name == "onnxruntime" else _kind_of(parse_context(ctx))
    except ValueError as error:
        return error
    if kind == "gpu" and not needs.gpu:
        return ValueError(f"backend '{name}' runs on the CPU only, not on {ctx}")
    if kind == "cpu" and not needs.cpu:
        return ValueError(f"backend '{name}' runs on a GPU only: give ctx 'gpu:0' (--ctx gpu:0)")
    if needs.precision == "bf16" and not has_avx512():
        return ValueError(
            f"backend '{name}': bfloat16 needs a processor with AVX-512 (avx512bw, avx512dq, "
            "avx512vl), and DNNL_MAX_CPU_ISA must not forbid it; use backend 'mxnet'"
        )
    return None


def require(name, sidecar, ctx=None):
    """Raise what :func:`obstacle` returns."""
    problem = obstacle(name, sidecar, ctx)
    if problem is not None:
        raise problem


def import_onnxruntime():
    """Return the onnxruntime package.

    Raises:
        ImportError: It is not installed; says how to get it.
    """
    try:
        import onnxruntime
    except Exception as error:  # beside ImportError what an unsuited NumPy makes it raise
        hint = 'pip install "gluon_attn[onnx]"'
        message = f"onnxruntime cannot be imported ({first_line(error)}): {hint}"
        raise ImportError(message) from error
    return onnxruntime


def open_onnx_session(raw, threads=None, kind="cpu", number=0, *, optimize=True):
    """Return an ONNX Runtime session of a model in memory.

    Args:
        raw: The model's bytes.
        threads: Compute threads; None takes as many as MXNet uses.
        kind: ``'cpu'`` or ``'gpu'``.
        number: Of the GPU.
        optimize: Whether the graph is optimized first, which fails for some.

    Raises:
        ImportError: onnxruntime is not installed.
        ExportError: It does not take the model.
        ValueError: It has no such GPU.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # errors; its warnings are about graphs it mends itself
    providers = ["CPUExecutionProvider"]
    if kind == "gpu":
        # Without TF32, whose ten bits would not give the numbers that were checked at export.
        cuda = {"device_id": number, "use_tf32": 0}
        providers.insert(0, ("CUDAExecutionProvider", cuda))
        valid = onnxruntime.get_available_providers()
        if "CUDAExecutionProvider" not in valid:
            raise ValueError(
                f"gpu:{number}: this onnxruntime has only {', '.join(valid)}; pip install "
                "onnxruntime-gpu instead of onnxruntime, or use ctx 'cpu'"
            )
    try:
        session = onnxruntime.InferenceSession(raw, options, providers=providers)
    except Exception as error:  # its own exceptions have no common base
        raise ExportError(f"ONNX Runtime refuses the model: {first_line(error)}") from error
    if kind == "gpu" and session.get_providers()[0] != "CUDAExecutionProvider":
        # It falls back to the CPU with a line on standard error only.
        raise ValueError(f"gpu:{number}: ONNX Runtime could not start CUDA there; use ctx 'cpu'")
    return session


def check_batch(batch, shape):
    """Raise ValueError unless ``batch`` is a float32 array ``(B, *shape)`` with B of 1 or more."""
    if not isinstance(batch, np.ndarray) or batch.dtype != np.float32:
        given = f"{batch.dtype} array" if isinstance(batch, np.ndarray) else type(batch).__name__
        raise ValueError(f"batch is a {given}: give a NumPy array, float32")
    if batch.ndim != 1 + len(shape) or batch.shape[1:] != shape or not len(batch):
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"batch has shape {batch.shape}: give (B, {wanted}), channels R, G, B")


def parse_context(ctx):
    """Return an MXNet context from a context, a name such as ``'gpu:0'``, or None for the CPU.

    Raises:
        ValueError: Not one context, or a GPU that cannot be used.
    """
    if isinstance(ctx, mx.Context):
        return ctx
    found = contexts("cpu" if ctx is None else ctx)
    if len(found) != 1:
        raise ValueError(f"ctx '{ctx}': a predictor runs on one device, cpu or gpu:N")
    return found[0]


def parse_device(ctx):
    """Return ``(kind, number)`` of a device, whether MXNet can use it or not.

    Raises:
        ValueError: Not one device.
    """
    match = re.fullmatch(r"gpu(?::(\d+))?", ctx.strip().lower()) if isinstance(ctx, str) else None
    return ("gpu", int(match.group(1) or 0)) if match else _kind_of(parse_context(ctx))


def default_threads():
    """Return the number of compute threads that MXNet starts with."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else os.cpu_count() or 1


def _kind_of(context):
    return context.device_type, context.device_id


def _read_onnx(name, directory, ctx):
    """Return ``(sidecar, verified bytes of the ONNX file)``, once the backend can run it."""
    sidecar = read_sidecar(directory)
    require(name, sidecar, ctx)
    return sidecar, read_verified(directory, sidecar["files"]["onnx"])
