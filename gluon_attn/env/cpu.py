"""What the processor can do, what of it oneDNN may use, and how many threads MXNet takes.

**AMX**, oneDNN's fastest int8 and bf16 kernels, is handed out by the kernel only on request. MXNet
1.9.1 bundles oneDNN 2.4.4, whose AMX kernels are off by default. They need two things, both
*before* MXNet is imported: permission from Linux to use the tile registers (``arch_prctl``, kernel
5.16 or newer) and ``DNNL_MAX_CPU_ISA=AVX512_CORE_AMX``. The variable without the permission kills
the process at the first such kernel, which decides two details here:

* the variable is set only if the kernel has said yes;
* it is there only from the start of MXNet's import to the first oneDNN operator, run right after
  it, which is when oneDNN reads the variable. The permission ends at ``exec``, so a child process
  running plain MXNet would die of a variable that it inherited.

Opt out with ``GLUON_ATTN_AMX=0``, or by setting ``DNNL_MAX_CPU_ISA`` yourself.

One of these kernels is wrong, in bf16 and in int8: see `overruns_with_amx`.

**Threads**: on x86, MXNet 1.9.1 takes half of the processors it sees because it supposes that every
core counts twice (hyper-threading). Where it does not, in most virtual machines, half of the
machine stays idle. Setting ``OMP_NUM_THREADS`` to the number of cores before MXNet loads repairs
it: on two cores without hyper-threading a VAA training step went from 1.1 to 2.2 images a second.
"""

from __future__ import annotations

import ast
import ctypes
import importlib.util
import math
import os
import platform
import sys
import warnings
from typing import Any, Callable, Iterable, Mapping, MutableMapping, NamedTuple, Sequence, Tuple

Environ = MutableMapping[str, str]
Request = Callable[[], Tuple[bool, str]]  # whether it was granted, and why

AVX512 = {"avx512bw", "avx512dq", "avx512vl"}  # what oneDNN's AVX-512 kernels ask for
AMX = {"amx_tile", "amx_int8", "amx_bf16"}
ISA_VARIABLE = "DNNL_MAX_CPU_ISA"
AMX_ISA = "AVX512_CORE_AMX"
OPT_OUT = "GLUON_ATTN_AMX"
THREADS = "OMP_NUM_THREADS"
# Beginnings of the flags that oneDNN leaves unused below a DNNL_MAX_CPU_ISA; no other hides any.
_HIDDEN = {
    **dict.fromkeys(("SSE41", "AVX", "AVX2"), ("avx512", "avx_vnni")),
    "AVX2_VNNI": ("avx512",),
    "AVX512_CORE": ("avx512_vnni", "avx512_bf16"),
    "AVX512_CORE_VNNI": ("avx512_bf16",),
}
# Positions of a map that make exactly three tiles: three times the largest divisor up to 16, if
# that is above 8.
_THREE_TILES = frozenset(3 * rows for rows in (9, 11, 12, 13, 14, 15, 16))
# Linux x86-64: arch_prctl is system call 158; arch/x86/include/uapi/asm/prctl.h has the request;
# 18 is the state component XTILEDATA.
_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA = 158, 0x1023, 18


class AmxState(NamedTuple):
    """Whether AMX is ``'on'``, ``'off'`` (it could be on) or ``'not available'``, and why."""

    status: str
    reason: str
    remedy: str = ""


_remembered: list[AmxState] = []


def read_cpuinfo(field: str, cpuinfo: str = "/proc/cpuinfo") -> str:
    """Return the first value of a field such as ``flags``; empty where Linux lists none."""
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as lines:
            line = next((line for line in lines if line.startswith(field)), "")
    except OSError:
        return ""
    return line.partition(":")[2].strip()


def read_flags(cpuinfo: str = "/proc/cpuinfo") -> set[str]:
    """Return the processor's instruction flags; empty where Linux lists none."""
    return set(read_cpuinfo("flags", cpuinfo).split())


def cpu_flags(cpuinfo: str = "/proc/cpuinfo") -> set[str]:
    """Return the instruction flags that oneDNN may use; empty where none are listed."""
    hidden = _HIDDEN.get(os.environ.get(ISA_VARIABLE, "ALL").upper(), ())
    return {flag for flag in read_flags(cpuinfo) if not flag.startswith(hidden)}


def has_avx512() -> bool:
    """Return whether oneDNN's AVX-512 kernels, which bfloat16 needs, can run here."""
    return AVX512 <= cpu_flags()


def has_vnni() -> bool:
    """Return whether the processor sums products of 8-bit numbers in 32 bits, thus exactly.

    Without VNNI instructions oneDNN sums two products in 16 bits first, which can saturate.
    """
    return bool(cpu_flags() & {"avx512_vnni", "avx_vnni"})


def overruns_with_amx(attrs: Mapping[str, str], output: Sequence[int]) -> bool:
    """Return whether oneDNN's AMX kernel for a convolution would leave its memory.

    The kernel of oneDNN 2.4.4 for plain 1×1 convolutions, bf16 and int8, takes four tiles of up to
    16 positions of a map at a time. Of a map of exactly three, such as 6×6, or the 8×6 in which
    images of 256×192 pixels end, it computes a fourth one, so behind the last image of a batch it
    reads, and overwrites, what happens to lie there (``jit_avx512_core_amx_1x1_convolution.cpp``,
    where a single chunk is taken for a whole one). oneDNN's other kernels are right.

    Args:
        attrs: The attributes of a Convolution, as in a graph.
        output: Shape of what it makes, ``(B, C, H, W)`` or with another number of axes.
    """
    plain = all(
        set(ast.literal_eval(attrs.get(name) or "()")) <= {1}
        for name in ("kernel", "stride", "dilate")
    )
    return plain and attrs.get("num_group", "1") == "1" and math.prod(output[2:]) in _THREE_TILES


def request_permission() -> tuple[bool, str]:
    """Ask the kernel for the AMX tile registers; return ``(granted, reason)``.

    The permission belongs to this process and to what it forks; it cannot be given back.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False, f"{platform.system()} on {platform.machine()} has no such request"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA) == 0:
        return True, "the kernel granted the tile registers"
    return False, f"the kernel refused: {os.strerror(ctypes.get_errno())}"


def enable_amx(
    environ: Environ | None = None,
    cpuinfo: str = "/proc/cpuinfo",
    request: Request = request_permission,
    loaded: bool | None = None,
) -> AmxState:
    """Switch AMX on for the coming ``import mxnet`` if that is possible and wanted.

    ``environ`` is read, and written during that import (``os.environ``); ``request`` replaces
    `request_permission`; ``loaded``: whether MXNet has been imported already.
    """
    environ = os.environ if environ is None else environ
    loaded = "mxnet" in sys.modules if loaded is None else loaded
    result = _decide(environ, cpuinfo, request, loaded)
    if result.status == "on" and ISA_VARIABLE not in environ:
        sys.meta_path.insert(0, _AroundImport(environ))
    _remembered[:] = [result]
    return result


def amx_state() -> AmxState | None:
    """Return what the last `enable_amx` came to, or ``None`` if it has not been called."""
    return _remembered[0] if _remembered else None


def amx_is_on() -> bool:
    """Return whether oneDNN may use its AMX kernels in this process."""
    return any(state.status == "on" for state in _remembered)


def _decide(environ: Environ, cpuinfo: str, request: Request, loaded: bool) -> AmxState:
    choice = environ.get(ISA_VARIABLE)
    if choice is not None and "AMX" not in choice.upper():
        reason = f"left to your own {ISA_VARIABLE}={choice}"
        return AmxState("off", reason, f"unset {ISA_VARIABLE}")
    if not read_flags(cpuinfo) >= AMX:
        return AmxState("not available", "the processor lists no AMX flags")
    if choice is None and environ.get(OPT_OUT, "1").strip().lower() in ("0", "off", "false", "no"):
        reason = f"switched off by {OPT_OUT}={environ[OPT_OUT]}"
        return AmxState("off", reason, f"unset {OPT_OUT}")
    if loaded:
        reason = "mxnet was imported before gluon_attn"
        warnings.warn(
            f"{reason}, so its AMX kernels stay off (int8 and bf16 run several times slower); "
            "import gluon_attn first",
            RuntimeWarning,
            stacklevel=2,
        )
        return AmxState("off", reason, "import gluon_attn before mxnet")
    granted, reason = request()
    if granted:
        return AmxState("on", reason)
    return AmxState("not available", reason, "Linux 5.16 or newer; a virtual machine must allow it")


class _AroundImport:
    """Finder that has MXNet found by the others and sets the variable around its execution."""

    def __init__(self, environ: Environ) -> None:
        self._environ = environ
        self._searching = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "mxnet" or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._searching = False
        if spec is not None and hasattr(spec.loader, "exec_module"):
            self._wrap(spec.loader)
        return spec

    def _wrap(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: Any) -> None:
            sys.meta_path.remove(self)
            self._environ[ISA_VARIABLE] = AMX_ISA
            try:
                execute(module)
                module.nd.softmax(module.nd.ones((1, 2))).wait_to_read()  # has oneDNN read it
            finally:
                self._environ.pop(ISA_VARIABLE, None)

        loader.exec_module = exec_module


def count_cores(
    folder: str = "/sys/devices/system/cpu", usable: Iterable[int] | None = None
) -> int:
    """Return how many cores this process may use, counting the threads of one core once.

    ``folder`` is where Linux describes the processors, ``usable`` the numbers of those to count.
    """
    if usable is None:
        has_affinity = hasattr(os, "sched_getaffinity")
        usable = os.sched_getaffinity(0) if has_affinity else range(os.cpu_count() or 1)
    cores: set[object] = set()
    for number in usable:
        try:
            path = os.path.join(folder, f"cpu{number}", "topology", "thread_siblings_list")
            with open(path, encoding="ascii") as file:
                cores.add(file.read().strip())
        except OSError:
            cores.add(number)
    return max(len(cores), 1)


def set_threads(
    environ: Environ | None = None, loaded: bool | None = None, cores: int | None = None
) -> bool:
    """Set ``OMP_NUM_THREADS`` unless the user has, or MXNet is loaded; return whether it was."""
    environ = os.environ if environ is None else environ
    loaded = "mxnet" in sys.modules if loaded is None else loaded
    if loaded or environ.get(THREADS):
        return False
    environ[THREADS] = str(count_cores() if cores is None else cores)
    return True
