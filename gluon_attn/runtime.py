"""The machine and the stack: devices, seeds, versions, and a doctor for the environment.

``python -m gluon_attn.runtime`` prints a table of checks, each with its remedy, and exits with 0 if
the package can be used and 1 if not; ``--json`` prints the same for programs. It runs on broken
stacks too. ``--link-libraries`` repairs one of them: see `gluon_attn.env.libraries`.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
from typing import Any, Sequence

from gluon_attn.core import errors
from gluon_attn.env import cpu as _cpu
from gluon_attn.env import environment as _environment
from gluon_attn.env import gpu as _gpu
from gluon_attn.env import libraries as _libraries
from gluon_attn.env.cpu import cpu_flags, has_avx512, has_vnni, read_flags
from gluon_attn.env.doctor import checks, table
from gluon_attn.env.environment import FAIL, Check, UnsuitableEnvironment

__all__ = [
    "Check",
    "UnsuitableEnvironment",
    "checks",
    "contexts",
    "cpu_flags",
    "has_avx512",
    "has_vnni",
    "main",
    "read_flags",
    "seed_everything",
    "versions",
]


def contexts(spec: Any = "cpu") -> list[Any]:
    """Return the list of MXNet contexts that ``spec`` names; a ValueError for others says why.

    ``'cpu'``; ``'cpu:2'`` for two CPU contexts, which split a batch as two GPUs would; ``'gpu'``,
    ``'gpu:0,1'`` or ``'0,1'`` for GPUs by number.
    """
    import mxnet as mx

    kind, _, rest = str(spec).strip().lower().partition(":")
    if kind not in ("cpu", "gpu"):
        kind, rest = "gpu", str(spec).strip()
    rest = rest or ("1" if kind == "cpu" else "0")
    entries = [entry.strip() for entry in rest.split(",")]
    if not all(entry.isdigit() for entry in entries):
        raise ValueError(f"device {spec!r}: valid are cpu, cpu:N, gpu, gpu:0,1 and 0,1")
    numbers = [int(entry) for entry in entries]
    if kind == "cpu":
        if len(numbers) != 1 or numbers[0] < 1:
            raise ValueError(f"device {spec!r}: cpu:N takes one number of contexts, 1 or more")
        return [mx.cpu(index) for index in range(numbers[0])]
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"device {spec!r}: a GPU is named twice")
    _require_gpus(spec, numbers, mx)
    return [mx.gpu(number) for number in numbers]


def _require_gpus(spec: Any, numbers: list[int], mx: Any) -> None:
    found = _environment.backends()
    if not _environment.is_gpu_wheel(found) and not mx.runtime.Features().is_enabled("CUDA"):
        wheel = ", ".join(found)
        raise ValueError(
            f"device {spec!r}: the installed {wheel} runs on the CPU only; use 'cpu', or install "
            f"the GPU wheel: {_environment.SWAP_TO_GPU}"
        )
    try:
        count = mx.context.num_gpus()
    except mx.MXNetError as error:
        raise ValueError(f"device {spec!r}: CUDA reports {error}; use 'cpu'") from None
    if max(numbers) >= count:
        raise ValueError(f"device {spec!r}: MXNet sees {count} GPU(s), numbered from 0")
    visible = _gpu.visible(_gpu.list_gpus() or [])
    for number in numbers:
        if number < len(visible) and not visible[number].supported:
            detail = _environment.check_gpus([visible[number]]).detail
            raise ValueError(f"device {spec!r}: {detail}")


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, numpy and MXNet (all devices) with one in ``[0, 2**31)``.

    Bit-identical repeats need all three: Gluon's DataLoader shuffles with numpy.
    """
    import mxnet as mx
    import numpy as np

    if isinstance(seed, bool) or int(seed) != seed or not 0 <= seed < 2**31:
        raise ValueError(f"seed {seed!r}: must be an integer in [0, 2**31)")
    random.seed(int(seed))
    np.random.seed(int(seed))
    mx.random.seed(int(seed))


def versions() -> dict[str, str]:
    """Return what a run should keep beside its weights: a flat dict of strings."""
    import gluon_attn

    amx = _cpu.amx_state()
    known = {
        "gluon_attn": gluon_attn.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _cpu.read_cpuinfo("model name") or platform.processor() or "unknown",
        "amx": amx.status if amx else "off",
        "numpy": _environment.numpy_version() or "not installed",
    }
    known.update(_environment.backends())
    for distribution in ("opencv-python-headless", "scipy", "scikit-learn"):
        version = _environment.installed_version(distribution)
        if version is not None:
            known[distribution] = version
    return known


def _link_libraries() -> int:
    folder = _environment.mxnet_folder()
    if folder is None:
        print("no MXNet is installed, so there is nothing to link", file=sys.stderr)
        return 1
    linked = _libraries.link_system_libraries(folder)
    for soname, source in linked.items():
        print(f"{soname} -> {source or 'found in no installed wheel'}")
    return 1 if None in linked.values() else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the doctor; return its exit status: 0 if the package can be used, else 1."""
    parser = argparse.ArgumentParser(
        prog=_environment.DOCTOR, description="Check the environment that gluon_attn runs in."
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--quick", action="store_true", help="leave the trial run of MXNet out")
    parser.add_argument(
        "--link-libraries",
        action="store_true",
        help="give MXNet the system libraries it misses from other installed wheels, and exit",
    )
    options = parser.parse_args(arguments)
    if options.link_libraries:
        return _link_libraries()
    found = checks(trial=not options.quick)
    usable = all(check.status != FAIL for check in found)
    if options.json:
        print(json.dumps({"usable": usable, "checks": [c._asdict() for c in found]}, indent=2))
    else:
        print(table(found))
        print("usable" if usable else "NOT usable: see the lines marked 'fail'")
    return 0 if usable else 1


if __name__ == "__main__":
    errors.prepare_console()
    status = main()
    errors.flush_console()
    sys.exit(status)
