"""Do the files of an export give the net's numbers where this package is not there?

One check for all forms. float32, int8 and bf16 run where ``gluon_attn`` cannot be imported, so a
passed check means that plain MXNet gives these numbers from the files alone; ONNX runs in ONNX
Runtime (:mod:`gluon_attn.export.onnx`). Differences are relative to the largest
magnitude of an output array, or to 1 if that is less: sums in another order are off by a share of
what is summed, which says nothing of the few that come out near 0.

This file is also the script of that other process, so it imports the standard library only:
``python -I parity.py SYMBOL PARAMS INPUTS.npz OUTPUTS.npz CTX [EXTRA_PATH…]``
"""

from __future__ import annotations

import glob
import importlib
import json
import os
import subprocess
import sys
import tempfile
from typing import Any, Dict, List, Sequence

Parts = Dict[str, Any]  # named batches
Results = Dict[str, List[Any]]  # for each of them the outputs, in order

TOLERANCE = 1e-5
# Without AMX other kernels run there. They round the last bit of a scaled sum otherwise, and where
# that crosses a level the next layers see one step of 8 (or of bfloat16's 8) bits.
TOLERANCE_OTHER_KERNELS = 0.05
# Parts of a batch of three that are compared, and their sizes
ROWS = {"batch3": slice(0, 3), "batch1": slice(0, 1), "batch2": slice(1, 3)}
BATCHES = (1, 2, 3)
TIMEOUT = 900  # seconds, for the other process
BLOCKED = ("gluon_attn", "model_zoo")


def random_batch(entry: dict[str, Any]) -> Any:
    """Return 3 random images for an ``input`` entry; draws on no global random state."""
    import numpy as np

    shape = (3, *entry["shape"][1:])
    pixels = np.random.RandomState(0).randint(0, 256, shape).astype(np.float32)
    scale = np.array([entry["mean"], entry["std"]], np.float32).reshape(2, 3, 1, 1)
    return (pixels - scale[0]) / scale[1]


def parts_of(batch: Any) -> Parts:
    """Return a batch of three, and its parts of one and two."""
    return {key: batch[rows] for key, rows in ROWS.items()}


def outputs_of(block: Any, parts: Parts, ctx: Any = None) -> Results:
    """Return what a Gluon block gives, as lists of NumPy arrays."""
    import mxnet as mx

    results = {}
    for key, batch in parts.items():
        found = block(mx.nd.array(batch, ctx=ctx))
        found = found if isinstance(found, (list, tuple)) else [found]
        results[key] = [array.asnumpy() for array in found]
    return results


def check_parity(
    paths: Sequence[Any],
    inputs: Parts,
    expected: Results,
    batches: Sequence[int] = BATCHES,
    *,
    context: str = "cpu:0",
    what: str = "the export differs from the net",
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """Run symbol and params in plain MXNet, elsewhere; return the sidecar's ``parity`` entry.

    ``batches`` are the batch sizes among the inputs, for the record; ``context`` is a device such
    as ``'gpu:0'``; ``what`` begins the message about a difference. An ExportError if a number
    differs by more than the tolerance, or the graph does not run.
    """
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="parity-") as work:
        given, outputs = os.path.join(work, "inputs.npz"), os.path.join(work, "outputs.npz")
        np.savez(given, **inputs)
        report = run_elsewhere([*map(str, paths), given, outputs, context])
        with np.load(outputs) as found:
            results = {
                key: [found[f"{key}:{number}"] for number in range(len(values))]
                for key, values in expected.items()
            }
    figures = compare(results, expected, batches, what, tolerance=tolerance)
    kind, number = context.split(":")
    return dict(figures, mxnet=report["mxnet"], context=f"{kind}({number})")


def compare(
    found: Results,
    expected: Results,
    batches: Sequence[int],
    what: str,
    *,
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """Return the largest difference for a sidecar; ExportError if it is above the tolerance."""
    import numpy as np

    from gluon_attn.export.sidecar import ExportError

    worst = 0.0
    for key, values in expected.items():
        for ours, theirs in zip(values, found[key]):
            scale = np.maximum(1.0, np.abs(ours).max())
            worst = float(np.maximum(worst, np.abs(theirs - ours).max() / scale))  # NaN stays
    if not worst <= tolerance:  # so that NaN fails
        raise ExportError(
            f"{what} by {worst:.3g} of the largest output (or of 1); at most {tolerance:g} is "
            "allowed. Nothing was written"
        )
    return {"max_abs_diff": worst, "tolerance": tolerance, "batch": list(batches)}


def run_elsewhere(arguments: Sequence[str]) -> dict[str, Any]:
    """Run this file in an isolated Python and return its report; ExportError if that fails."""
    import mxnet as mx
    import numpy as np

    from gluon_attn.export.sidecar import ExportError

    site, numpy_site = (os.path.dirname(os.path.dirname(str(m.__file__))) for m in (mx, np))
    # Without our runtime there is no AMX permission, and oneDNN told to use AMX would be killed.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DNNL_", "ONEDNN_"))}
    # CUDA libraries from PyPI, which our runtime preloads, have to be found without it as well.
    libraries = [*glob.glob(os.path.join(site, "nvidia", "*", "lib")), env.get("LD_LIBRARY_PATH")]
    if any(libraries):
        env["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in libraries if path)
    command = [sys.executable, "-I", os.path.abspath(__file__), *arguments, site, numpy_site]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"the parity check took over {TIMEOUT} s") from error
    if done.returncode != 0:
        tail = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise ExportError(f"the parity check failed with code {done.returncode}: {tail}")
    report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if report["leaked"]:
        raise ExportError(f"the parity check imported {report['leaked']}")
    return report


class Blocker:
    """Import finder that refuses our own packages, wherever they are installed."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked in the parity check")


def block_packages() -> None:
    """Make our packages unimportable, and make sure that they are."""
    sys.meta_path.insert(0, Blocker)
    for name in BLOCKED:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        sys.exit(f"{name} can be imported: the parity check would prove nothing")


def main(symbol: str, params: str, inputs: str, outputs: str, *context_and_paths: str) -> None:
    """Run every array of ``inputs`` through the exported graph and save what comes out."""
    context, *extra_path = context_and_paths
    sys.path.extend(extra_path)
    block_packages()
    import numpy as np

    vars(np).setdefault("bool", bool)  # which MXNet misses on numpy 1.24 to 1.26
    mx = importlib.import_module("mxnet")
    kind, _, number = context.partition(":")
    ctx = mx.Context(kind, int(number or 0))
    net = mx.gluon.SymbolBlock.imports(symbol, ["data"], params, ctx=ctx)
    with np.load(inputs) as arrays:
        results = outputs_of(net, dict(arrays), ctx)
    numbered = [(f"{k}:{n}", a) for k, found in results.items() for n, a in enumerate(found)]
    np.savez(outputs, **dict(numbered))
    leaked = [m for m in sys.modules if m.split(".")[0] in BLOCKED]
    print(json.dumps({"mxnet": mx.__version__, "numpy": np.__version__, "leaked": leaked}))


if __name__ == "__main__":
    main(*sys.argv[1:])
