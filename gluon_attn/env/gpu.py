"""Which NVIDIA GPUs the machine has, and which of them MXNet's GPU wheel can run on.

``mxnet-cu112`` 1.9.1 holds machine code for sm_50, 60, 70, 80 and 86 and **no PTX** that a driver
could translate for newer ones. Machine code runs on its own architecture and on later minor
versions of the same major one, so compute capability 5.x to 8.x (Maxwell to Ada, 8.9 included)
runs and 9.0 (Hopper) and newer cannot. This follows from the wheel's contents and CUDA's rules for
binary compatibility; it has not been tried on the GPUs themselves.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from typing import Any, Mapping, NamedTuple, Sequence

# (major, minor) of the machine code in the wheel.
WHEEL_CODE = ((5, 0), (6, 0), (7, 0), (8, 0), (8, 6))

_QUERY = ("nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader")
# CUdevice_attribute, from cuda.h.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


class Gpu(NamedTuple):
    """One GPU: its position, name and compute capability ``(major, minor)``."""

    index: int  # type: ignore[assignment]  # tuple has a method of that name
    name: str
    capability: tuple[int, ...]

    def __str__(self) -> str:
        return f"GPU {self.index} {self.name} (compute capability {self.capability_text})"

    @property
    def capability_text(self) -> str:
        return ".".join(str(number) for number in self.capability)

    @property
    def supported(self) -> bool:
        """Whether the wheel holds machine code that runs on this GPU."""
        major, minor = self.capability[:2]
        return any(major == code[0] and minor >= code[1] for code in WHEEL_CODE)


def list_gpus() -> list[Gpu] | None:
    """Return the `Gpu` list, or ``None`` if neither ``nvidia-smi`` nor the driver answers."""
    gpus = _from_nvidia_smi()
    return _from_driver() if gpus is None else gpus


def visible(gpus: Sequence[Gpu], environ: Mapping[str, str] | None = None) -> list[Gpu]:
    """Return the GPUs that ``CUDA_VISIBLE_DEVICES`` leaves visible (numbers only; else all)."""
    chosen = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return list(gpus)
    entries = [entry.strip() for entry in chosen.split(",") if entry.strip()]
    if not all(entry.lstrip("-").isdigit() for entry in entries):
        return list(gpus)  # UUIDs: which is which cannot be told from here
    numbers = {int(entry) for entry in entries}
    return [gpu for gpu in gpus if gpu.index in numbers]


def _from_nvidia_smi() -> list[Gpu] | None:
    try:
        done = subprocess.run(
            _QUERY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=True
        )
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
        return [_parse(index, line) for index, line in enumerate(lines)]
    except (OSError, ValueError, subprocess.SubprocessError):
        return None  # no such program, no driver, or one too old to know compute_cap


def _parse(index: int, line: str) -> Gpu:
    name, capability = line.rsplit(",", 1)
    major, minor = capability.strip().split(".")
    return Gpu(index, name.strip(), (int(major), int(minor)))


def _from_driver() -> list[Gpu] | None:
    """Ask ``libcuda.so.1``, for machines whose driver comes without ``nvidia-smi``."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int()
        if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return None
        return [_describe(cuda, index) for index in range(count.value)]
    except (OSError, AttributeError):
        return None


def _describe(cuda: Any, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    return Gpu(index, name.value.decode("utf-8", "replace"), (major.value, minor.value))
