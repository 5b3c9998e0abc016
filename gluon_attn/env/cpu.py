"""What the processor says it can do, and what of that oneDNN may use."""

from __future__ import annotations

import os

AVX512 = {"avx512bw", "avx512dq", "avx512vl"}  # what oneDNN's AVX-512 kernels ask for
# Beginnings of the flags that oneDNN leaves unused below a DNNL_MAX_CPU_ISA; no other hides any.
_HIDDEN = {
    **dict.fromkeys(("SSE41", "AVX", "AVX2"), ("avx512", "avx_vnni")),
    "AVX2_VNNI": ("avx512",),
    "AVX512_CORE": ("avx512_vnni", "avx512_bf16"),
    "AVX512_CORE_VNNI": ("avx512_bf16",),
}


def read_flags(cpuinfo="/proc/cpuinfo"):
    """Return the set of the processor's instruction flags; empty where Linux lists none."""
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as lines:
            return set(next((line for line in lines if line.startswith("flags")), "").split())
    except OSError:
        return set()


def cpu_flags(cpuinfo: str = "/proc/cpuinfo") -> set:
    """Return the set of instruction flags that oneDNN may use; empty where none are listed."""
    ceiling = os.environ.get("DNNL_MAX_CPU_ISA", "ALL").upper()
    hidden = _HIDDEN.get(ceiling, ())
    return {flag for flag in read_flags(cpuinfo) if not flag.startswith(hidden)}


def has_avx512() -> bool:
    """Return whether oneDNN's AVX-512 kernels, which bfloat16 needs, can run here."""
    return AVX512 <= cpu_flags()


def has_vnni() -> bool:
    """Return whether the processor sums products of 8-bit numbers in 32 bits, thus exactly.

    Without VNNI instructions oneDNN sums two products in 16 bits first, which can saturate.
    """
    return bool(cpu_flags() & {"avx512_vnni", "avx_vnni"})
