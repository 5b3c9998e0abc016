"""Engines that can run an export directory, behind one small interface, and which is fastest here.

A backend is safe to be called from several threads, and gives NumPy arrays in the order of the
sidecar's ``outputs``. Files are compared with the sidecar's checksums before an engine sees them.

====================  =========  ====================  ===============================
name                  precision  file of the export    needs
====================  =========  ====================  ===============================
``mxnet``             float32    the graph itself      nothing
``mxnet-fused``       float32    the graph itself      nothing
``mxnet-int8``        int8       int8 form             nothing
``mxnet-bf16``        bfloat16   bf16 form             AVX-512
``mxnet-fp16``        float16    the graph itself      a GPU
``onnxruntime``       float32    ONNX form             onnxruntime
``onnxruntime-fp16``  float16    ONNX form in float16  onnxruntime
``tensorrt``          float32    ONNX form             a GPU, onnxruntime-gpu, TensorRT
``tensorrt-fp16``     float16    ONNX form in float16  a GPU, onnxruntime-gpu, TensorRT
``openvino``          float32    ONNX form             openvino
====================  =========  ====================  ===============================

``mxnet-fused`` joins convolution, batch-norm, addition and activation in one operator: faster than
``mxnet``, on the CPU only, and equal to it up to rounding. ``onnxruntime-fp16`` runs on a CPU too,
where it has weights of half precision and computes in float32.

``NAME-speed.json`` in the export directory remembers what was measured, one record per processor,
threads, batch size, device and versions. It is a note, not a part of the export: no checksum covers
it, it may be deleted, and one that cannot be read or written costs a warning only.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import re
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Sequence

import mxnet as mx
import numpy as np
from tqdm import tqdm

from gluon_attn.core.errors import first_line, naming
from gluon_attn.core.files import sha256_of_bytes, write_json
from gluon_attn.core.outputs import as_list
from gluon_attn.core.text import PathLike, read_json
from gluon_attn.env.cpu import has_avx512, has_vnni
from gluon_attn.env.environment import installed_version
from gluon_attn.export.graph import INPUT, static
from gluon_attn.export.onnx_session import (
    default_threads,
    import_onnxruntime,
    open_onnx_session,
    require_provider,
)
from gluon_attn.export.precision import PRECISIONS, load_exported
from gluon_attn.export.sidecar import ExportError, Sidecar, read_sidecar, read_verified
from gluon_attn.runtime import contexts, versions

Record = Dict[str, Any]  # of measured speeds

AUTO, FASTEST, DEFAULT = "auto", "fastest", "mxnet"
FORMAT = "gluon_attn speeds"
KEPT = 100  # records in a file
SECONDS = 2.0  # of runs per backend, at least
DEVICES = {"cpu": "cpu", "gpu": "cuda"}  # ONNX Runtime's names
ENOUGH = 10.0  # seconds after which less than three runs will do

logger = logging.getLogger(__name__)


class Engine:
    """What all backends share: they refuse an export or a batch that is not for them."""

    _run: Callable[[np.ndarray], list[np.ndarray]]  # of a contiguous batch that was checked

    def __init__(self, name: str, directory: PathLike, ctx: Any) -> None:
        self.sidecar = read_sidecar(directory)
        require(name, self.sidecar, ctx)
        self._shape = tuple(self.sidecar["input"]["shape"][1:])
        self._names = [output["name"] for output in self.sidecar["outputs"]]
        self._lock = threading.Lock()

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """Return every output of a batch ``(B, 3, H, W)`` float32, B of 1 or more."""
        if not isinstance(batch, np.ndarray) or batch.dtype != np.float32:
            array = isinstance(batch, np.ndarray)
            given = f"{batch.dtype} array" if array else type(batch).__name__
            raise ValueError(f"batch is a {given}: give a NumPy array, float32")
        if batch.shape[1:] != self._shape or not len(batch):
            wanted = ", ".join(map(str, self._shape))
            raise ValueError(f"batch has shape {batch.shape}: give (B, {wanted}), channels R, G, B")
        return self._run(np.ascontiguousarray(batch))


class StagedEngine(Engine):
    """One that keeps images and outputs on its device, for one caller at a time.

    ``put``, ``compute`` and ``fetch`` are a run in three steps, each finished when it returns.
    """

    put: Callable[[np.ndarray], None]
    compute: Callable[[], None]
    fetch: Callable[[], list[np.ndarray]]

    def _run(self, batch: np.ndarray) -> list[np.ndarray]:
        with self._lock:
            self.put(batch)
            self.compute()
            return self.fetch()


class MXNetBackend(StagedEngine):
    """Runs an export on MXNet, on a context or its name (``'cpu'``, ``'gpu:0'``).

    Its compute threads belong to the process, not to this object; None leaves them. Raises
    FileNotFoundError, or a ValueError for a damaged export, a form that it does not hold, or a
    device that cannot run it.
    """

    def __init__(
        self,
        directory: PathLike,
        ctx: Any = None,
        threads: int | None = None,
        precision: str = "fp32",
        *,
        fused: bool = False,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r}: valid are {', '.join(PRECISIONS)}")
        kind = "fused" if fused else precision
        super().__init__("mxnet" if kind == "fp32" else f"mxnet-{kind}", directory, ctx)
        if threads is not None:
            mx.base.check_call(mx.base._LIB.MXSetNumOMPThreads(ctypes.c_int(threads)))
        self.ctx = parse_context(ctx)
        self._block = static(load_exported(directory, self.ctx, precision, fused)[0])

    def put(self, batch: np.ndarray) -> None:
        self._input = mx.nd.array(batch, ctx=self.ctx)
        self._input.wait_to_read()

    def compute(self) -> None:
        self._outputs = as_list(self._block(self._input))
        for out in self._outputs:
            out.wait_to_read()

    def fetch(self) -> list[np.ndarray]:
        return [out.asnumpy() for out in self._outputs]


class OnnxRuntimeBackend(StagedEngine):
    """Runs an export's ONNX file on ONNX Runtime, as ``'onnxruntime'`` or ``'tensorrt'``.

    A GPU needs the package onnxruntime-gpu, not MXNet's; what it cannot run there it refuses,
    rather than run it on the CPU. Threads are those of this object; None takes as many as MXNet
    uses. An ImportError if the package is not installed; else as above.
    """

    def __init__(
        self,
        directory: PathLike,
        ctx: Any = None,
        threads: int | None = None,
        precision: str = "fp32",
        *,
        kind: str = "onnxruntime",
    ) -> None:
        name = kind if precision == "fp32" else f"{kind}-{precision}"
        super().__init__(name, directory, ctx)
        raw = read_verified(directory, self.sidecar["files"][BACKENDS[name].variant])
        device, number = parse_device(ctx)
        provider = "cpu" if device == "cpu" else "cuda" if kind == "onnxruntime" else kind
        half = precision == "fp16"
        with naming(directory):
            self._session = open_onnx_session(raw, threads, provider, number, half=half)
        self._place = (DEVICES[device], number)
        self._input: Any = None

    def _run(self, batch: np.ndarray) -> list[np.ndarray]:
        if self._place[0] != "cpu":
            return super()._run(batch)
        # There is nothing to copy, and a session may be shared: every run has its own buffers.
        return list(self._session.run(self._names, {INPUT: batch}))

    def put(self, batch: np.ndarray) -> None:
        if self._input is not None and tuple(self._input.shape()) == batch.shape:
            self._input.update_inplace(batch)
            return
        package = import_onnxruntime()
        self._input = package.OrtValue.ortvalue_from_numpy(batch, *self._place)
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(INPUT, self._input)
        for name in self._names:
            self._binding.bind_output(name, *self._place)

    def compute(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def fetch(self) -> list[np.ndarray]:
        return list(self._binding.copy_outputs_to_cpu())


class OpenVINOBackend(Engine):
    """Runs an export's ONNX file on OpenVINO, in float32, on the CPU; as ONNX Runtime."""

    def __init__(self, directory: PathLike, ctx: Any = None, threads: int | None = None) -> None:
        super().__init__("openvino", directory, ctx)
        raw = read_verified(directory, self.sidecar["files"]["onnx"])
        import openvino

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

    def _run(self, batch: np.ndarray) -> list[np.ndarray]:
        with self._lock:  # a request has one set of buffers
            results = self._request.infer({INPUT: batch})
            return [np.array(results[name]) for name in self._names]


class Backend(NamedTuple):
    """How a backend is made, what it runs and what it cannot do without."""

    make: Callable[..., Any]  # of directory, ctx and threads
    precision: str
    variant: str = ""  # form of the export: prefix of its keys in the sidecar's files
    package: str = ""
    install: str = ""  # what to give to pip
    gpu: bool = False  # whether it has a GPU path
    cpu: bool = True  # and a CPU path


BACKENDS = {
    "mxnet": Backend(MXNetBackend, "fp32", gpu=True),
    "mxnet-fused": Backend(partial(MXNetBackend, fused=True), "fp32"),
    "mxnet-int8": Backend(partial(MXNetBackend, precision="int8"), "int8", "int8"),
    "mxnet-bf16": Backend(partial(MXNetBackend, precision="bf16"), "bf16", "bf16"),
    "mxnet-fp16": Backend(partial(MXNetBackend, precision="fp16"), "fp16", gpu=True, cpu=False),
    **{
        name if precision == "fp32" else f"{name}-{precision}": Backend(
            partial(OnnxRuntimeBackend, precision=precision, kind=name),
            precision,
            variant,
            "onnxruntime",
            install="gluon_attn[onnx]",
            gpu=True,
            cpu=name == "onnxruntime",
        )
        for name in ("onnxruntime", "tensorrt")
        for precision, variant in (("fp32", "onnx"), ("fp16", "onnx_fp16"))
    },
    "openvino": Backend(OpenVINOBackend, "fp32", "onnx", "openvino", install="openvino"),
}
ENGINES = ("onnxruntime", "onnxruntime-gpu", "openvino")  # distributions
CHOICES = (*BACKENDS, AUTO, FASTEST)


def obstacle(name: str, sidecar: Sidecar, ctx: Any = None) -> Exception | None:
    """Return what keeps a backend from running an export here, or None; nothing is loaded."""
    needs = BACKENDS[name]
    keys = [key for key in sidecar["files"] if f"{key}_".startswith(f"{needs.variant}_")]
    if needs.variant and not keys:
        parts = needs.variant.split("_")
        return ValueError(
            f"backend '{name}': export '{sidecar['name']}' has no {' '.join(parts)} variant; add "
            f"it with tools/export.py --export … --{' --'.join(parts)}, or use backend 'mxnet'"
        )
    if needs.package and importlib.util.find_spec(needs.package) is None:
        return ImportError(
            f"backend '{name}' needs {needs.package}: pip install \"{needs.install}\", or use "
            "backend 'mxnet'"
        )
    try:
        onnx = needs.package == "onnxruntime"
        kind = parse_device(ctx)[0] if onnx else parse_context(ctx).device_type
        if onnx and kind == "gpu":
            require_provider("tensorrt" if "tensorrt" in name else "cuda", str(ctx))
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


def require(name: str, sidecar: Sidecar, ctx: Any = None) -> None:
    """Raise what :func:`obstacle` returns."""
    problem = obstacle(name, sidecar, ctx)
    if problem is not None:
        raise problem


def parse_context(ctx: Any) -> Any:
    """Return an MXNet context from a context, a name such as ``'gpu:0'``, or None for the CPU."""
    if isinstance(ctx, mx.Context):
        return ctx
    found = contexts("cpu" if ctx is None else ctx)
    if len(found) != 1:
        raise ValueError(f"ctx '{ctx}': a predictor runs on one device, cpu or gpu:N")
    return found[0]


def parse_device(ctx: Any) -> tuple[str, int]:
    """Return ``(kind, number)`` of one device, whether MXNet can use it or not."""
    match = re.fullmatch(r"gpu(?::(\d+))?", ctx.strip().lower()) if isinstance(ctx, str) else None
    if match:
        return "gpu", int(match.group(1) or 0)
    context = parse_context(ctx)
    return context.device_type, context.device_id


def choose(
    backend: str,
    directory: PathLike,
    sidecar: Sidecar,
    ctx: Any = None,
    *,
    batch_size: int = 32,
    threads: int | None = None,
) -> str:
    """Return the name of the backend to use.

    ``backend`` is a key of ``BACKENDS``; ``'fastest'``: the fastest of those that the export and
    this machine allow, measured unless it is remembered; ``'auto'``: the one remembered, else
    ``'mxnet'``; it never measures. ``batch_size`` rows are one run; ``threads`` None: as many as
    MXNet starts with.

    Raises ImportError: the package of the named backend is not installed; ValueError: unknown name,
    or a backend that cannot run this export here.
    """
    if backend not in CHOICES:
        raise ValueError(f"backend {backend!r}: valid are {', '.join(CHOICES)}")
    if backend in BACKENDS:
        require(backend, sidecar, ctx)
        return backend
    key = situation(sidecar, ctx, batch_size, threads)
    path = Path(directory) / f"{sidecar['name']}-speed.json"
    record = _find(_read_speeds(path), key)
    if record is None and backend == FASTEST:
        speeds = measure(directory, sidecar, ctx, batch_size=batch_size, threads=threads)
        record = {**key, "images_per_s": speeds}
        _remember(path, record)
    if record is None:
        return _announce(DEFAULT, "nothing was measured here for this batch size and threads")
    allowed = candidates(sidecar, ctx)
    usable = {name: speed for name, speed in record["images_per_s"].items() if name in allowed}
    if not usable:
        return DEFAULT
    name = max(usable, key=lambda name: usable[name])
    return _announce(name, ", ".join(f"{n} {s:.1f}" for n, s in usable.items()) + " images/s")


def measure(
    directory: PathLike,
    sidecar: Sidecar,
    ctx: Any = None,
    *,
    batch_size: int = 32,
    threads: int | None = None,
) -> dict[str, float]:
    """Return images per second of all :func:`candidates`; one that fails costs a warning.

    Raises FileNotFoundError, or a ValueError if a file is damaged or no backend can run the export.
    """
    shape = (batch_size, *sidecar["input"]["shape"][1:])
    batch = np.random.RandomState(0).normal(size=shape).astype(np.float32)
    names, speeds = candidates(sidecar, ctx), {}
    failures = [str(obstacle(name, sidecar, ctx)) for name in BACKENDS if not names]
    for name in tqdm(names, desc="measuring backends", disable=None, leave=False):
        try:
            engine = BACKENDS[name].make(directory, ctx=ctx, threads=threads)
            speeds[name] = images_per_second(engine, batch)
        except (ExportError, FileNotFoundError):
            raise  # the export is not what it says: no reason to try the next engine
        # An engine may fail in any way of its own; the others still run.
        except Exception as error:
            failures.append(f"{name}: {first_line(error)}")
            logger.warning("backend %s left out: %s", name, first_line(error))
    if not speeds:
        raise ValueError(f"{directory}: no backend can run it here: {'; '.join(failures)}")
    return speeds


def candidates(sidecar: Sidecar, ctx: Any = None) -> list[str]:
    """Return the backends that may be chosen for an export on this machine.

    These are all engines that are installed, at all precisions that the export holds: the loss of
    int8 and bf16 was measured and bounded when they were made. Where that bound does not hold, with
    int8 measured with VNNI instructions and a processor that lacks them, int8 must be asked for;
    and so must float16, whose loss has not been measured.
    """
    excluded = {"fp16"}
    if sidecar.get("int8", {}).get("vnni") and not has_vnni():
        excluded.add("int8")
    names = (name for name, backend in BACKENDS.items() if backend.precision not in excluded)
    return [name for name in names if obstacle(name, sidecar, ctx) is None]


def images_per_second(engine: Any, batch: np.ndarray) -> float:
    """Return the speed of a backend on ``batch``, from its best run after one that is not counted.

    The best, not the mean: other processes only ever make a run slower.
    """
    engine.run(batch)
    times: list[float] = []
    while sum(times) < SECONDS or (len(times) < 3 and sum(times) < ENOUGH):
        start = time.perf_counter()
        engine.run(batch)
        times.append(time.perf_counter() - start)
    return len(batch) / min(times)


def situation(sidecar: Sidecar, ctx: Any, batch_size: int, threads: int | None) -> Record:
    """Return what a speed depends on, as plain JSON values: a record counts where all is equal."""
    known, engines = versions(), {name: installed_version(name) for name in ENGINES}
    packages = {"mxnet": mx.__version__, **{name: v for name, v in engines.items() if v}}
    files = sorted(entry["sha256"] for entry in sidecar["files"].values())
    return {
        "processor": known["processor"],
        "amx": known["amx"],
        "context": "{}:{}".format(*parse_device(ctx)),
        "threads": int(threads or default_threads()),
        "batch_size": int(batch_size),
        "packages": packages,
        "files": sha256_of_bytes("".join(files).encode()),
    }


def _announce(name: str, why: str) -> str:
    logger.info("backend %s (%s): %s", name, BACKENDS[name].precision, why)
    return name


def _find(records: Sequence[Record], key: Record) -> Record | None:
    same = (r for r in records if all(r.get(field) == value for field, value in key.items()))
    return next(same, None)


def _read_speeds(path: Path) -> list[Record]:
    """Return the records of a speed file; of one that is missing or unreadable, none."""
    if not path.exists():
        return []
    try:
        contents = read_json(path)
        if contents["format"] != FORMAT:
            raise ValueError(f"format {contents['format']!r}")
        records: list[Record] = contents["measured"]
        for record in records:
            speeds = record["images_per_s"]
            if not speeds or not set(speeds) <= set(BACKENDS) or not min(speeds.values()) > 0:
                raise ValueError(f"speeds {speeds}")
        return records
    # Whatever a damaged file looks like, an index or a type will not fit.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("%s ignored: not a file of speeds (%s)", path, first_line(error))
        return []


def _remember(path: Path, record: Record) -> None:
    key = {field: value for field, value in record.items() if field != "images_per_s"}
    others = [old for old in _read_speeds(path) if _find([old], key) is None]
    try:
        write_json(path, {"format": FORMAT, "measured": [*others, record][-KEPT:]})
    except OSError as error:
        logger.warning("the measured speeds are not remembered: %s", first_line(error))
