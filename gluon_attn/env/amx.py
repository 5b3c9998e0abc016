"""Intel AMX: oneDNN's fastest int8 and bf16 kernels, which the kernel hands out only on request.

MXNet 1.9.1 bundles oneDNN 2.4.4, whose AMX kernels are off by default. They need two things, both
*before* MXNet is imported: permission from Linux to use the tile registers (``arch_prctl``, kernel
5.16 or newer) and ``DNNL_MAX_CPU_ISA=AVX512_CORE_AMX``. The variable without the permission kills
the process at the first such kernel, which decides two details here:

* the variable is set only if the kernel has said yes;
* it is there only from the start of MXNet's import to the first oneDNN operator, run right after
  it, which is when oneDNN reads the variable. The permission ends at ``exec``, so a child process
  running plain MXNet would die of a variable that it inherited.

Opt out with ``GLUON_ATTN_AMX=0``, or by setting ``DNNL_MAX_CPU_ISA`` yourself.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import sys
import warnings
from typing import NamedTuple

from gluon_attn.env.cpu import read_flags

ISA_VARIABLE = "DNNL_MAX_CPU_ISA"
AMX_ISA = "AVX512_CORE_AMX"
OPT_OUT = "GLUON_ATTN_AMX"
CPU_FLAGS = {"amx_tile", "amx_int8", "amx_bf16"}

# Linux x86-64: arch_prctl is system call 158; arch/x86/include/uapi/asm/prctl.h has the request;
# 18 is the state component XTILEDATA.
_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA = 158, 0x1023, 18


class AmxState(NamedTuple):
    """Whether AMX is ``'on'``, ``'off'`` (it could be on) or ``'not available'``, and why."""

    status: str
    reason: str
    remedy: str = ""


def cpu_has_amx(cpuinfo="/proc/cpuinfo"):
    """Return whether the processor lists every AMX flag that oneDNN 2.4.4 asks for."""
    return read_flags(cpuinfo) >= CPU_FLAGS


def request_permission():
    """Ask the kernel for the AMX tile registers; return ``(granted, reason)``.

    The permission belongs to this process and to what it forks; it cannot be given back.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False, f"{platform.system()} on {platform.machine()} has no such request"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA) == 0:
        return True, "the kernel granted the tile registers"
    return False, f"the kernel refused: {os.strerror(ctypes.get_errno())}"


def enable(environ=None, cpuinfo="/proc/cpuinfo", request=request_permission, loaded=None):
    """Switch AMX on for the coming ``import mxnet`` if that is possible and wanted.

    Args:
        environ: The environment to read, and to write during that import; default ``os.environ``.
        cpuinfo: The file that lists the processor's flags.
        request: Replacement for `request_permission` (used by tests).
        loaded: Whether MXNet has been imported already; default: look.

    Returns:
        The `AmxState`; remembered as well, see `state`.
    """
    environ = os.environ if environ is None else environ
    loaded = "mxnet" in sys.modules if loaded is None else loaded
    result = _decide(environ, cpuinfo, request, loaded)
    if result.status == "on" and ISA_VARIABLE not in environ:
        sys.meta_path.insert(0, _AroundImport(environ))
    _remembered[:] = [result]
    return result


def state():
    """Return what the last `enable` came to, or ``None`` if it has not been called."""
    return _remembered[0] if _remembered else None


_remembered = []


def _decide(environ, cpuinfo, request, loaded):
    choice = environ.get(ISA_VARIABLE)
    if choice is not None and "AMX" not in choice.upper():
        reason = f"left to your own {ISA_VARIABLE}={choice}"
        return AmxState("off", reason, f"unset {ISA_VARIABLE}")
    if not cpu_has_amx(cpuinfo):
        return AmxState("not available", "the processor lists no AMX flags")
    if choice is None and environ.get(OPT_OUT, "1").strip().lower() in ("0", "off", "false", "no"):
        reason = f"switched off by {OPT_OUT}={environ[OPT_OUT]}"
        return AmxState("off", reason, f"unset {OPT_OUT}")
    if loaded:
        warnings.warn(
            "mxnet was imported before gluon_attn, so its AMX kernels stay off (int8 and bf16 run "
            "several times slower); import gluon_attn first",
            RuntimeWarning,
            stacklevel=2,
        )
        reason = "mxnet was imported before gluon_attn"
        return AmxState("off", reason, "import gluon_attn before mxnet")
    granted, reason = request()
    if granted:
        return AmxState("on", reason)
    return AmxState("not available", reason, "Linux 5.16 or newer; a virtual machine must allow it")


class _AroundImport:
    """Finder that has MXNet found by the others and sets the variable around its execution."""

    def __init__(self, environ):
        self._environ = environ
        self._searching = False

    def find_spec(self, name, path=None, target=None):
        """Return MXNet's spec with a loader that sets the variable; ``None`` for other modules."""
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

    def _wrap(self, loader):
        execute = loader.exec_module

        def exec_module(module):
            sys.meta_path.remove(self)
            self._environ[ISA_VARIABLE] = AMX_ISA
            try:
                execute(module)
                module.nd.softmax(module.nd.ones((1, 2))).wait_to_read()  # has oneDNN read it
            finally:
                self._environ.pop(ISA_VARIABLE, None)

        loader.exec_module = exec_module
