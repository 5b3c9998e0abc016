"""The environment doctor's findings: what ``python -m gluon_attn.runtime`` prints.

It runs on broken stacks, so nothing here imports MXNet in this process: the trial run, which finds
what loads but does not work, has a process of its own that may crash.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from typing import Sequence

from gluon_attn.env import cpu as _cpu
from gluon_attn.env import environment as _environment
from gluon_attn.env import gpu as _gpu
from gluon_attn.env.environment import FAIL, OK, WARN, Check

# Import name to distribution; gluon_attn itself requires all of them.
_REQUIRED = {
    **{"cv2": "opencv-python-headless", "sklearn": "scikit-learn", "PIL": "pillow"},
    **{name: name for name in ("scipy", "matplotlib", "tqdm", "tabulate", "requests", "filelock")},
}
_OPTIONAL = (
    ("onnx", "onnx", "export to ONNX", "pip install 'onnx>=1.13,<1.19'"),
    ("onnxruntime", "onnxruntime", "running ONNX exports", "pip install onnxruntime"),
    ("gluoncv", "gluoncv", "detection and keypoints", "pip install gluoncv==0.10.5.post0"),
    ("tensorboardX", "tensorboardX", "TensorBoard logs", "pip install tensorboardX"),
)

# A step of training and one of inference: what loads but does not run is found here.
_TRIAL = """
import gluon_attn, mxnet as mx
ctx = mx.gpu(0) if {gpu} else mx.cpu()
net = mx.gluon.nn.HybridSequential()
net.add(mx.gluon.nn.Conv2D(4, 3), mx.gluon.nn.BatchNorm(), mx.gluon.nn.Dense(2))
net.initialize(ctx=ctx)
net.hybridize(static_alloc=True, static_shape=True)
x = mx.nd.ones((2, 3, 8, 8), ctx=ctx)
with mx.autograd.record():
    loss = net(x).sum()
loss.backward()
assert loss.shape == (1,) and float(net(x).sum().asscalar()) == float(net(x).sum().asscalar())
print(mx.__version__, ctx)
"""


def checks(trial: bool = True) -> list[Check]:
    """Return the findings; ``trial``: also of a training step in a process of its own."""
    found = _environment.stack_checks()
    usable = all(check.status != FAIL for check in found)
    if not _environment.is_gpu_wheel(_environment.backends()):
        found += _gpu_outlook(_gpu.list_gpus())
    found += [_check_threads(), _check_amx()]
    found += [_check_required(*names) for names in _REQUIRED.items()]
    found += [_check_optional(*names) for names in _OPTIONAL]
    if trial and usable:
        found.append(_check_trial(found))
    return found


def _gpu_outlook(gpus: Sequence[_gpu.Gpu] | None) -> list[Check]:
    libraries = Check("CUDA libraries", OK, "not needed: the GPU wheel is not installed")
    if not gpus:
        return [libraries, Check("GPU", OK, "none found")]
    names = "; ".join(str(gpu) for gpu in gpus)
    if any(gpu.supported for gpu in gpus):
        remedy = f"to use it: {_environment.SWAP_TO_GPU}"
        detail = f"{names}: supported, not used by the CPU wheel"
        return [libraries, Check("GPU", OK, detail, remedy)]
    return [libraries, Check("GPU", OK, f"{names}: NOT supported by MXNet's GPU wheel")]


def _check_threads() -> Check:
    cores, chosen = _cpu.count_cores(), os.environ.get(_cpu.THREADS)
    if not chosen or chosen == str(cores):
        return Check("CPU threads", OK, f"{cores}, one per core")
    remedy = f"unset {_cpu.THREADS} to use one thread per core"
    return Check("CPU threads", WARN, f"{_cpu.THREADS}={chosen} on {cores} core(s)", remedy)


def _check_amx() -> Check:
    state = _cpu.amx_state() or _cpu.enable_amx()
    return Check("AMX", OK, f"{state.status}: {state.reason}", state.remedy)


def _check_required(module: str, distribution: str) -> Check:
    remedy = f"pip install {distribution} (or {_environment.CPU})"
    if importlib.util.find_spec(module) is None:
        return Check(distribution, FAIL, "not installed", remedy)
    if module == "cv2":
        return _check_opencv()
    return Check(distribution, OK, _environment.installed_version(distribution) or "?")


def _check_opencv() -> Check:
    """Import it: the wheel with windows needs libGL, which servers and containers lack."""
    try:
        return Check("opencv", OK, importlib.import_module("cv2").__version__)
    except Exception as error:  # a numpy that it was not built for raises other errors
        remedy = "pip uninstall -y opencv-python opencv-python-headless; "
        remedy += "pip install opencv-python-headless==4.11.0.86"
        return Check("opencv", FAIL, f"does not import: {error}", remedy)


def _check_optional(module: str, distribution: str, purpose: str, install: str) -> Check:
    version = _environment.installed_version(distribution)
    if version is None or importlib.util.find_spec(module) is None:
        return Check(distribution, OK, f"not installed (optional: {purpose})", install)
    if module == "onnx" and _environment.release(version) >= (1, 19):
        detail = f"{version}: MXNet's exporter needs onnx.mapping, which 1.19 removed"
        return Check(distribution, WARN, detail, install)
    return Check(distribution, OK, version)


def _check_trial(found: Sequence[Check]) -> Check:
    gpu = any(check.name == "GPU" and check.status == OK for check in found)
    gpu = gpu and _environment.is_gpu_wheel(_environment.backends())
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command, env = [sys.executable, "-c", _TRIAL.format(gpu=gpu)], dict(os.environ, PYTHONPATH=path)
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, env=env
        )
    except subprocess.TimeoutExpired:
        return Check("Trial run", FAIL, "a small training step took over 120 s", "see above")
    last = done.stdout.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
    if done.returncode == 0:
        return Check("Trial run", OK, f"a training step ran on MXNet {last[0]}")
    detail = f"a training step failed (exit status {done.returncode}): {last[0]}"
    return Check(
        "Trial run",
        FAIL,
        detail,
        f"try {_cpu.OPT_OUT}=0; pip install --force-reinstall {_environment.CPU}",
    )


def table(found: Sequence[Check]) -> str:
    """Return the findings as text, one line each, its remedy below it."""
    width = max(len(check.name) for check in found)
    lines = []
    for check in found:
        lines.append(f"{check.status:4}  {check.name:{width}}  {check.detail}")
        if check.remedy:
            lines.append(f"{'':4}  {'':{width}}  -> {check.remedy}")
    return "\n".join(lines)
