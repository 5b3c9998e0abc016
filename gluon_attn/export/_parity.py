"""Run an exported graph where ``gluon_attn`` cannot be imported. A script, not a module.

``python -I _parity.py SYMBOL PARAMS INPUTS.npz OUTPUTS.npz CTX [EXTRA_PATH…]``

Started by ``export_model`` in a process of its own: what it computes is what any user of plain
MXNet gets. Writes ``<input name>:<output number>`` arrays and prints one JSON line.
"""

from __future__ import annotations

import importlib
import json
import sys

BLOCKED = ("gluon_attn", "model_zoo")


class Blocker:
    """Import finder that refuses our own packages, wherever they are installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Raise for a blocked package, decline anything else."""
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked in the parity check")


def block_packages():
    """Make our packages unimportable, and make sure that they are."""
    sys.meta_path.insert(0, Blocker)
    for name in BLOCKED:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        sys.exit(f"{name} can be imported: the parity check would prove nothing")


def import_mxnet():
    """Import plain MXNet; on numpy 1.24 to 1.26 it needs the removed alias ``numpy.bool``."""
    import numpy

    vars(numpy).setdefault("bool", bool)  # hasattr would warn
    return importlib.import_module("mxnet"), numpy


def main(symbol, params, inputs, outputs, ctx, *extra_path):
    """Run every array of ``inputs`` through the exported graph and save what comes out."""
    sys.path.extend(extra_path)
    block_packages()
    mx, np = import_mxnet()
    kind, _, number = ctx.partition(":")
    ctx = mx.Context(kind, int(number or 0))
    net = mx.gluon.SymbolBlock.imports(symbol, ["data"], params, ctx=ctx)
    results = {}
    with np.load(inputs) as arrays:
        for name in arrays.files:
            out = net(mx.nd.array(arrays[name], ctx=ctx))
            out = out if isinstance(out, (list, tuple)) else [out]
            results.update({f"{name}:{k}": array.asnumpy() for k, array in enumerate(out)})
    np.savez(outputs, **results)
    leaked = [m for m in sys.modules if m.split(".")[0] in BLOCKED]
    print(json.dumps({"mxnet": mx.__version__, "numpy": np.__version__, "leaked": leaked}))


if __name__ == "__main__":
    main(*sys.argv[1:])
