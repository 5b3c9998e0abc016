"""The shared libraries that MXNet's wheels expect to find: who has them, and how to hand them over.

The CPU wheel leaves ``libgomp.so.1`` and ``libquadmath.so.0`` to the system. A bare Debian (or an
official ``python:3.x-slim`` image) has neither, but the wheels of scikit-learn and numpy bring
both, under other names; `link_system_libraries` links them beside MXNet, where its loader looks
first. The GPU wheel additionally needs CUDA 11 and cuDNN 8, which NVIDIA publishes as PyPI
packages; `preload_cuda` loads them so that MXNet's own loading finds them in place.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Sequence

# What `readelf -d libmxnet.so` (and its own libgfortran.so.3) names beyond what every Debian has:
# soname -> (name in other wheels' *.libs folders, Debian package).
SYSTEM_LIBRARIES = {
    "libgomp.so.1": ("libgomp-", "libgomp1"),
    "libquadmath.so.0": ("libquadmath-", "libquadmath0"),
}

# What `readelf -d` names for mxnet-cu112 1.9.1, plus cuBLASLt and cuSPARSE, which cuBLAS and
# cuSOLVER need; in an order in which each finds its own needs loaded.
# soname -> (folder under nvidia/, PyPI package).
CUDA_LIBRARIES = {
    "libcudart.so.11.0": ("cuda_runtime", "nvidia-cuda-runtime-cu11"),
    "libnvrtc.so.11.2": ("cuda_nvrtc", "nvidia-cuda-nvrtc-cu11"),
    "libnvToolsExt.so.1": ("nvtx", "nvidia-nvtx-cu11"),
    "libcublasLt.so.11": ("cublas", "nvidia-cublas-cu11"),
    "libcublas.so.11": ("cublas", "nvidia-cublas-cu11"),
    "libcufft.so.10": ("cufft", "nvidia-cufft-cu11"),
    "libcurand.so.10": ("curand", "nvidia-curand-cu11"),
    "libcusparse.so.11": ("cusparse", "nvidia-cusparse-cu11"),
    "libcusolver.so.11": ("cusolver", "nvidia-cusolver-cu11"),
    "libcudnn.so.8": ("cudnn", "nvidia-cudnn-cu11"),
    "libnccl.so.2": ("nccl", "nvidia-nccl-cu11"),
}

DRIVER = "libcuda.so.1"


def loads(name: str) -> bool:
    """Return whether the dynamic loader finds ``name``."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def missing_system_libraries(mxnet_folder: str) -> list[str]:
    """Return the sonames that neither the system nor MXNet's own folder provides."""
    paths = {name: os.path.join(mxnet_folder, name) for name in SYSTEM_LIBRARIES}
    return [name for name, path in paths.items() if not os.path.exists(path) and not loads(name)]


def link_system_libraries(
    mxnet_folder: str, missing: Sequence[str] | None = None
) -> dict[str, str | None]:
    """Link what the system lacks from other installed wheels into MXNet's folder.

    Works because ``libmxnet.so`` carries the run path ``$ORIGIN``: its own folder comes first.
    Returns a dict of soname to the file linked, or to ``None`` where no wheel has it. An OSError if
    the folder is read-only.
    """
    missing = missing_system_libraries(mxnet_folder) if missing is None else missing
    linked: dict[str, str | None] = {}
    for soname in missing:
        source = _bundled(os.path.dirname(mxnet_folder), SYSTEM_LIBRARIES[soname][0])
        linked[soname] = source
        if source is not None:
            link = os.path.join(mxnet_folder, soname)
            if os.path.islink(link):  # a dangling one, left by a wheel that was since replaced
                os.unlink(link)
            os.symlink(os.path.relpath(source, mxnet_folder), link)
    return linked


def _bundled(site_packages: str, prefix: str) -> str | None:
    """Return the path of a library in one of the ``*.libs`` folders of installed wheels."""
    for folder in sorted(os.listdir(site_packages)):
        if folder.endswith(".libs"):
            for name in sorted(os.listdir(os.path.join(site_packages, folder))):
                if name.startswith(prefix) and ".so" in name:
                    return os.path.join(site_packages, folder, name)
    return None


def find_cuda(soname: str) -> str | None:
    """Return the path of a CUDA library inside NVIDIA's PyPI packages, or ``None``."""
    folder = CUDA_LIBRARIES[soname][0]
    for entry in sys.path:
        path = os.path.join(entry or ".", "nvidia", folder, "lib", soname)
        if os.path.isfile(path):
            return path
    return None


def missing_cuda_libraries() -> list[str]:
    """Return the sonames found neither in NVIDIA's PyPI packages nor by the system's loader."""
    return [name for name in CUDA_LIBRARIES if find_cuda(name) is None and not loads(name)]


def preload_cuda() -> None:
    """Load the CUDA libraries from NVIDIA's PyPI packages for all that is loaded afterwards.

    Libraries that only the system has are left to the loader; one that is there and does not load
    is an OSError. Not tried on a machine with a GPU.
    """
    for soname in CUDA_LIBRARIES:
        path = find_cuda(soname)
        if path is not None:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
