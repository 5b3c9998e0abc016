"""Sessions of ONNX Runtime, on the CPU or on a GPU, that run where they were told to or not at all.

Left alone, ONNX Runtime runs on the CPU what a GPU's provider does not take or cannot start for,
and says so on standard error only. Here that is an error with its reason. TensorRT may leave
operators to CUDA, which is the same GPU.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from gluon_attn.core.errors import first_line
from gluon_attn.export.sidecar import ExportError

PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


def import_onnxruntime() -> Any:
    """Return the onnxruntime package; an ImportError says how to get it."""
    try:
        import onnxruntime
    except Exception as error:  # beside ImportError what an unsuited NumPy makes it raise
        hint = 'pip install "gluon_attn[onnx]"'
        message = f"onnxruntime cannot be imported ({first_line(error)}): {hint}"
        raise ImportError(message) from error
    return onnxruntime


def require_provider(provider: str, device: str) -> None:
    """Raise a ValueError if the installed package has no ``'cuda'`` or ``'tensorrt'``."""
    valid = import_onnxruntime().get_available_providers()
    if PROVIDERS[provider] not in valid:
        raise ValueError(
            f"{device}: this onnxruntime has only {', '.join(valid)}; pip install onnxruntime-gpu "
            f"instead of onnxruntime{' and TensorRT' * (provider == 'tensorrt')}, or use ctx 'cpu'"
        )


def open_onnx_session(
    raw: bytes,
    threads: int | None = None,
    provider: str = "cpu",
    number: int = 0,
    *,
    optimize: bool = True,
    half: bool = False,
) -> Any:
    """Return an ONNX Runtime session of a model's bytes.

    Args:
        threads: On the CPU; None takes as many as MXNet.
        provider: ``'cpu'``, or of GPU ``number`` ``'cuda'`` or ``'tensorrt'``.
        optimize: Some graphs cannot be.
        half: The model computes in float16, which TensorRT must be told.

    Raises ImportError without onnxruntime; ExportError: it does not take the model; ValueError: it
    cannot run the whole of it on that GPU.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # errors; its warnings are about graphs it repairs itself
    if provider == "cpu":
        try:
            return onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own exceptions have no common base
            raise ExportError(f"ONNX Runtime refuses the model: {first_line(error)}") from error
    device = f"gpu:{number}"
    require_provider(provider, device)
    if hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on: CUDA and cuDNN of packages from PyPI
        onnxruntime.preload_dlls()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # Without TF32, whose ten bits would not give the numbers that were checked at export.
    providers = [(PROVIDERS["cuda"], {"device_id": number, "use_tf32": 0})]
    if provider == "tensorrt":
        providers.insert(
            0, (PROVIDERS[provider], {"device_id": number, "trt_fp16_enable": int(half)})
        )
    what = f"{device}: ONNX Runtime cannot run the net there with {PROVIDERS[provider]}"
    try:
        # enable_fallback: Python's own, which tries again with other providers
        session = onnxruntime.InferenceSession(
            raw, options, providers=providers, enable_fallback=False
        )
    except Exception as error:
        reason = f"{first_line(error)}; {_why(onnxruntime, provider)}"
        raise ValueError(f"{what}: {reason}; use ctx 'cpu'") from error
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise ValueError(f"{what}: {_why(onnxruntime, provider)}; use ctx 'cpu'")
    return session


def _why(onnxruntime: Any, provider: str) -> str:
    """Return why a provider did not start, as far as its library tells."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    for name in ("shared", provider):
        try:
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"), ctypes.RTLD_GLOBAL)
        except OSError as error:
            return first_line(error)
    return "its libraries load; is there such a GPU, its driver, and memory?"


def default_threads() -> int:
    """Return the number of compute threads that MXNet starts with."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else os.cpu_count() or 1
