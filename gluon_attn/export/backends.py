"""Engines that can run an export directory, behind one small interface.

A backend is a class with ``run(batch (B, 3, H, W) float32) -> [output, ...]`` in the order of the
sidecar's ``outputs``, as NumPy arrays, safe to be called from several threads.
"""

from __future__ import annotations

import ctypes
import threading

import mxnet as mx

from gluon_attn.export.symbol import load_exported
from gluon_attn.runtime import contexts


class MXNetBackend:
    """Runs an export's float32 graph on MXNet.

    Args:
        directory: The export directory.
        ctx: Context, or its name (``'cpu'``, ``'gpu:0'``).
        threads: Compute threads; they belong to the process, not to this object.
    """

    def __init__(self, directory, ctx=None, threads=None):
        if threads is not None:
            mx.base.check_call(mx.base._LIB.MXSetNumOMPThreads(ctypes.c_int(threads)))
        self.ctx = parse_context(ctx)
        self._block, _ = load_exported(directory, self.ctx)
        self._block.hybridize(static_alloc=True, static_shape=True)
        # A static graph has one set of buffers: one caller at a time, and outputs are copied out.
        self._lock = threading.Lock()

    def run(self, batch):
        """Return the outputs of ``batch (B, 3, H, W)`` float32, as NumPy arrays."""
        with self._lock:
            outputs = self._block(mx.nd.array(batch, ctx=self.ctx))
            outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
            return [out.asnumpy() for out in outputs]


def parse_context(ctx):
    """Return an MXNet context from a context, a name such as ``'gpu:0'``, or None for the CPU.

    Raises:
        ValueError: Not one context, or a GPU that cannot be used.
    """
    if isinstance(ctx, mx.Context):
        return ctx
    found = contexts("cpu" if ctx is None else ctx)
    if len(found) != 1:
        raise ValueError(f"ctx '{ctx}': a predictor runs on one device, cpu or gpu:N")
    return found[0]


BACKENDS = {"mxnet": MXNetBackend}
