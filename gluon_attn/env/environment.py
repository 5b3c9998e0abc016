"""Can MXNet 1.9.1 run here, and what must be done before ``import mxnet``?

Importing MXNet on a stack that it does not fit ends in a traceback from its inside, in a missing
library, or in a crash at the first operator. So the package asks first, from installed metadata
alone, and raises one message that names what is wrong and what to do (`require`). Then it does
what has to happen before the import (`prepare`): the numpy alias, the CUDA libraries, AMX.

Only the standard library is imported here; numpy is touched only where its alias is put back.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

from gluon_attn.env import cpu as _cpu
from gluon_attn.env import gpu as _gpu
from gluon_attn.env import libraries as _libraries

OK, WARN, FAIL = "ok", "warn", "fail"

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MXNET_VERSION = "1.9.1"
CPU_WHEEL = f"mxnet=={MXNET_VERSION}"


def what_to_install(extra: str, root: str = os.path.dirname(PACKAGE)) -> str:
    """Return pip's arguments for all of ``cpu`` or ``cu112``: a wheel has extras, no such files."""
    file = f"requirements{'' if extra == 'cpu' else f'-{extra}'}.txt"
    return f"-r {file}" if os.path.isfile(os.path.join(root, file)) else f'"gluon_attn[{extra}]"'


CPU, GPU = what_to_install("cpu"), what_to_install("cu112")
INSTALL_BACKEND = f"pip install {CPU} (CPU) or {GPU} (NVIDIA GPU)"
SWAP_TO_CPU = f"pip uninstall -y mxnet-cu112; pip install {CPU_WHEEL}"
SWAP_TO_GPU = f"pip uninstall -y mxnet; pip install {GPU}"
USE_PYTHON = "use CPython 3.8 to 3.12"
DOCTOR_MODULE = "gluon_attn.runtime"
DOCTOR = f"python -m {DOCTOR_MODULE}"
PROGRAMS = ("gluon-attn", "gluon_attn")  # the command, and the module that does the same

_BACKEND = re.compile(
    r"(mxnet(?:[_-](?:mkl|native|cu\d+\w*))?)-([^-]+?)(?:-py[\d.]+)?\.(?:dist|egg)-info$"
)


class UnsuitableEnvironment(ImportError):
    """MXNet cannot run on this stack; the message names every reason with its remedy."""


class Check(NamedTuple):
    """One finding: ``status`` is ``'ok'``, ``'warn'`` or ``'fail'``; a failure has a remedy."""

    name: str
    status: str
    detail: str
    remedy: str = ""


def installed_version(name: str) -> str | None:
    """Return the version of a distribution, from its metadata, or ``None``."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: ``'1.23.5rc1'`` gives ``(1, 23, 5)``."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def numpy_version() -> str | None:
    """Return the version of the numpy that is loaded, else of the one that would be."""
    loaded = sys.modules.get("numpy")
    return getattr(loaded, "__version__", None) or installed_version("numpy")


def backends() -> dict[str, str]:
    """Return the installed MXNet wheels, name to version.

    Found by their metadata folders, because the GPU wheels go by many names. An MXNet without
    metadata (built from source and put on the path) is ``{'mxnet (custom build)': '?'}``.
    """
    found: dict[str, str] = {}
    for entry in dict.fromkeys(sys.path):
        try:
            names = os.listdir(entry or ".")
        except OSError:
            continue
        for match in filter(None, map(_BACKEND.match, names)):
            found.setdefault(match.group(1).replace("_", "-"), match.group(2))
    if not found and mxnet_folder() is not None:
        return {"mxnet (custom build)": "?"}
    return found


def mxnet_folder() -> str | None:
    """Return the folder of the package ``mxnet`` without importing it, or ``None``."""
    file = getattr(sys.modules.get("mxnet"), "__file__", None)
    if file:
        return os.path.dirname(file)
    spec = importlib.util.find_spec("mxnet")
    if spec is None or not spec.origin:
        return None
    return os.path.dirname(spec.origin)


def is_gpu_wheel(found: Iterable[str]) -> bool:
    """Return whether one of the wheels in ``found`` (see `backends`) is built for CUDA."""
    return any(name.startswith("mxnet-cu") for name in found)


def check_python(version: Sequence[Any] | None = None) -> Check:
    """Check the interpreter: CPython 3.8 to 3.12."""
    found = tuple((version or sys.version_info)[:3])
    text = ".".join(str(number) for number in found)
    if found < (3, 8):
        return Check("Python", FAIL, f"{text} is too old", USE_PYTHON)
    if found >= (3, 13):
        return Check("Python", WARN, f"{text} has no wheels of numpy < 2", USE_PYTHON)
    return Check("Python", OK, text)


def check_numpy(version: str | None, python: Sequence[Any] | None = None) -> Check:
    """Check numpy: 1.23 as it is, 1.24 to 1.26 with the alias put back, 2 never."""
    new = tuple((python or sys.version_info)[:2]) >= (3, 12)
    wanted = "numpy==1.26.4" if new else "numpy==1.23.5"
    remedy = f"pip install {wanted}"
    if version is None:
        return Check("numpy", FAIL, "not installed", remedy)
    if release(version) >= (1, 27):
        return Check("numpy", FAIL, f"{version}: MXNet {MXNET_VERSION} needs numpy < 2", remedy)
    if release(version) >= (1, 24):
        return Check("numpy", OK, f"{version}, with numpy.bool put back before MXNet is imported")
    if release(version) < (1, 20):
        return Check("numpy", WARN, f"{version}: older than anything tried", remedy)
    return Check("numpy", OK, version)


def check_backend(found: Mapping[str, str], folder: str | None) -> Check:
    """Check that exactly one MXNet is installed, whole, and of the right version."""
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    if not found:
        return Check("MXNet", FAIL, "no MXNet is installed", INSTALL_BACKEND)
    if len(found) > 1:
        detail = f"{text} are both installed and overwrite each other's files"
        remedy = f"pip uninstall -y {' '.join(found)}; then {INSTALL_BACKEND}"
        return Check("MXNet", FAIL, detail, remedy)
    ((name, version),) = found.items()
    if folder is None:
        detail = f"{text} is recorded as installed, but its files are gone"
        remedy = f"pip install --force-reinstall --no-deps {name}=={version}"
        return Check("MXNet", FAIL, detail, remedy)
    if version == "?":
        return Check("MXNet", WARN, f"{text} in {folder}", f"tried with {CPU_WHEEL} only")
    if release(version) >= (2,):
        return Check("MXNet", FAIL, f"{text}: version 2 has no Gluon 1 API", INSTALL_BACKEND)
    if version != MXNET_VERSION:
        return Check("MXNet", WARN, text, f"tried with {MXNET_VERSION} only: {INSTALL_BACKEND}")
    return Check("MXNet", OK, f"{text} ({'GPU' if is_gpu_wheel(found) else 'CPU'} wheel)")


def check_system_libraries(folder: str) -> Check:
    """Check the libraries that MXNet's wheels leave to the system."""
    missing = _libraries.missing_system_libraries(folder)
    if not missing:
        return Check("System libraries", OK, ", ".join(_libraries.SYSTEM_LIBRARIES))
    packages = " ".join(_libraries.SYSTEM_LIBRARIES[name][1] for name in missing)
    remedy = f"apt-get install {packages}; or, without root, {DOCTOR} --link-libraries"
    return Check("System libraries", FAIL, f"missing: {', '.join(missing)}", remedy)


def check_cuda_libraries() -> Check:
    """Check the CUDA 11 and cuDNN 8 libraries that the GPU wheel needs, each by name."""
    missing = _libraries.missing_cuda_libraries()
    if not missing:
        return Check("CUDA libraries", OK, f"all {len(_libraries.CUDA_LIBRARIES)} found")
    remedy = f"pip install {GPU} (they come from PyPI packages)"
    return Check("CUDA libraries", FAIL, f"missing: {', '.join(missing)}", remedy)


def check_driver() -> Check:
    """Check that NVIDIA's driver is there: without it the GPU wheel does not even import."""
    if _libraries.loads(_libraries.DRIVER):
        return Check("NVIDIA driver", OK, f"{_libraries.DRIVER} found")
    detail = f"{_libraries.DRIVER} not found: without it the GPU wheel cannot be imported"
    remedy = f"install NVIDIA's driver, or the CPU wheel: {SWAP_TO_CPU}"
    return Check("NVIDIA driver", FAIL, detail, remedy)


def check_gpus(gpus: Sequence[_gpu.Gpu] | None) -> Check:
    """Check that the wheel holds machine code for a visible GPU; ``None``: they are unknown."""
    if not gpus:
        why = "neither nvidia-smi nor the driver answers" if gpus is None else "no GPU is visible"
        return Check("GPU", WARN, f"{why}; only the CPU can be used", "see nvidia-smi")
    bad = [gpu for gpu in gpus if not gpu.supported]
    text = "; ".join(f"{gpu}{'' if gpu.supported else ' NOT supported'}" for gpu in gpus)
    if not bad:
        return Check("GPU", OK, text)
    why = "the wheel holds code for compute capability 5.0 to 8.9 and nothing newer can run it"
    if len(bad) < len(gpus):
        good = ",".join(str(gpu.index) for gpu in gpus if gpu.supported)
        return Check("GPU", WARN, f"{text}: {why}", f"CUDA_VISIBLE_DEVICES={good}")
    return Check("GPU", FAIL, f"{text}: {why}", f"use the CPU wheel: {SWAP_TO_CPU}")


def stack_checks() -> list[Check]:
    """Return the checks that decide whether MXNet can be imported and run at all."""
    found, folder = backends(), mxnet_folder()
    checks = [check_python(), check_numpy(numpy_version()), check_backend(found, folder)]
    if folder is None or checks[-1].status == FAIL:
        return checks
    checks.append(check_system_libraries(folder))
    if is_gpu_wheel(found):
        checks += [check_driver(), check_cuda_libraries()]
        if checks[-2].status != FAIL:
            gpus = _gpu.list_gpus()
            checks.append(check_gpus(None if gpus is None else _gpu.visible(gpus)))
    return checks


def require() -> None:
    """Raise one UnsuitableEnvironment if MXNet cannot run here; if it is loaded, do nothing."""
    if "mxnet" in sys.modules:
        return
    failed = [check for check in stack_checks() if check.status == FAIL]
    if failed:
        lines = [f"  {check.name}: {check.detail}\n    -> {check.remedy}" for check in failed]
        raise UnsuitableEnvironment(
            "gluon_attn cannot run in this environment:\n"
            + "\n".join(lines)
            + f"\n  For all findings: {DOCTOR}"
        )


def restore_numpy_aliases(names: Sequence[str] = ("bool",)) -> None:
    """Put built-in names back into numpy 1.24 to 1.26, which MXNet and its time still use.

    MXNet needs ``bool`` only; gluoncv also ``int``, ``float``.
    """
    version = numpy_version()
    if version is None or not (1, 24) <= release(version) < (1, 27):
        return
    import numpy

    for name in names:
        if name not in vars(numpy):
            setattr(numpy, name, getattr(__import__("builtins"), name))


def prepare() -> None:
    """Do what must happen before ``import mxnet``. Call it after `require`; again does no harm."""
    restore_numpy_aliases()
    if "mxnet" not in sys.modules and is_gpu_wheel(backends()):
        _libraries.preload_cuda()
    _cpu.set_threads()
    # From 8 summands on MXNet adds gradients up in place, which in static graphs gives wrong sums
    # (measured, 1.9.1: an activation or a parameter that is used in eight places).
    os.environ.setdefault("MXNET_EXEC_INPLACE_GRAD_SUM_CAP", "1000000")
    # MXNet copies large arrays to and from NumPy with OpenMP, on the thread that asks. That starts
    # a helper of this thread; libgomp then counts more threads than processors, and lets those that
    # compute sleep between operators: 30 us at each, a quarter of the time of an image in bfloat16.
    # So copies of any size take one thread.
    os.environ.setdefault("MXNET_CPU_PARALLEL_SIZE", str(2**31 - 1))
    # As Pillow has it, which sees most headers first; read when OpenCV is first imported.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "178956970")
    if _cpu.amx_state() is None:
        _cpu.enable_amx()


def is_doctor() -> bool:
    """Return whether this process was started as the doctor: a module of ours, or a command.

    Running a module of a package imports the package first, so without this exception the doctor
    could not be called in just the environments it is for. ``sys.argv`` does not tell which module
    is on its way; ``sys.orig_argv`` (Python 3.10) does, and on Linux the kernel as well.
    """
    arguments = list(getattr(sys, "orig_argv", ()))
    if not arguments:
        try:
            with open("/proc/self/cmdline", encoding="utf-8", errors="replace") as line:
                arguments = line.read().split("\0")
        except OSError:
            return False
    # `gluon-attn doctor` and `python -m gluon_attn doctor`
    commands = (os.path.basename(before) for before, word in zip(arguments, arguments[1:])
                if word == "doctor")  # fmt: skip
    return module_run(arguments) == DOCTOR_MODULE or next(commands, "") in PROGRAMS


def module_run(arguments: Sequence[str]) -> str | None:
    """Return the module that a Python command line runs by ``-m``, or ``None``."""
    words = iter(arguments[1:])
    for argument in words:
        if argument == "-m":
            return next(words, None)
        if argument.startswith("-m"):
            return argument[2:]
        if argument in ("-W", "-X"):
            next(words, None)
        elif not argument.startswith("-") or argument in ("-", "-c"):
            return None
    return None
