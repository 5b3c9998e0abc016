"""Exports of detectors: the whole graph, suppression included, as a symbol for plain MXNet.

Outputs are classes, scores and boxes after suppression, and for SSD the candidates before it. They
are compared in another process with the net's own, batch size by batch size: the suppression of one
batch says nothing about that of another, whose convolutions may differ in the last bit.
"""

from __future__ import annotations

from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet import autograd

from gluon_attn.export import load_exported
from gluon_attn.export import sidecar as sidecar_file
from gluon_attn.export.graph import trace
from gluon_attn.export.parity import check_parity, random_batch
from gluon_attn.export.sidecar import ExportError
from gluon_attn.export.writer import write_files
from gluon_attn.runtime import versions
from gluon_attn.tasks.base import refuse_forms

BATCHES = (1, 2)


def export_from_flags(args, trained):
    """Write an export and return its summary; see :func:`export_detector`.

    Args:
        args: Flags of ``tools/export.py``.
        trained: :class:`gluon_attn.train.trained.Trained`.
    """
    refuse_forms(args)
    sidecar = export_detector(
        trained.net, args.out, args.name or trained.name, trained.classes, trained.preprocess,
        trained.extra, args.overwrite,
    )  # fmt: skip
    lines = [f"{entry['bytes'] / 1e6:9.2f} MB  {Path(args.out) / entry['file']}"
             for entry in sidecar["files"].values()]  # fmt: skip
    lines.append(
        f"parity with plain MXNet, suppression included: largest difference "
        f"{sidecar['parity']['max_abs_diff']:.2e}"
    )
    return "\n".join(lines)


def export_detector(
    net, directory, name, classes, preprocess, extra=None, overwrite=False, images=None
):
    """Write a detector as an export directory and check its numbers in a separate process.

    Args:
        net: Detector with its parameters; left as it is.
        directory: Where to write.
        name: What the files are called.
        classes: Class names, in order.
        preprocess: Dict with ``mean`` and ``std``.
        extra: Anything that JSON can hold.
        overwrite: Whether an export that is there is replaced.
        images: ``(2, 3, H, W)`` float32 to compare with; random ones by default.

    Returns:
        The sidecar, a dict.

    Raises:
        FileExistsError: ``directory`` exists.
        ExportError: The numbers differ, or the net cannot be traced.
    """
    sidecar_file.refuse_existing(directory, overwrite)
    view = net.with_candidates() if hasattr(net, "with_candidates") else net
    mx.nd.waitall()  # running statistics read right after a static training step can be stale
    sidecar = _start_sidecar(net, name, classes, preprocess, extra)
    images = random_batch(sidecar["input"])[: max(BATCHES)] if images is None else images
    expected = {f"batch{n}": _run(view, images[:n]) for n in BATCHES}
    common = {"kind": "detections", "activation": "none"}
    sidecar["outputs"] = [
        dict(common, name=output, shape=["batch", *value.shape[1:]])
        for output, value in zip(view.output_names, expected["batch1"])
    ]
    symbol, arrays = trace(view, view.output_names)
    with sidecar_file.new_directory(directory, overwrite) as partial:
        files = write_files(partial, name, symbol, arrays)
        paths = [partial / file for file in files.values()]
        sidecar["files"] = {k: sidecar_file.describe_file(partial / f) for k, f in files.items()}
        inputs = {f"batch{n}": images[:n] for n in BATCHES}
        sidecar["parity"] = check_parity(paths, inputs, expected, BATCHES)
        sidecar_file.write_sidecar(partial, sidecar)
    return sidecar


def _start_sidecar(net, name, classes, preprocess, extra):
    entry = sidecar_file.input_entry(
        net.input_size, {"mean": preprocess["mean"], "std": preprocess["std"]}
    )
    entry["fit"] = net.fit  # stretch: to the shape; pad: proportions kept, upper left corner
    if net.fit != "stretch":
        entry["sides"] = list(net.sides)
    return {
        "format": sidecar_file.FORMAT, "format_version": sidecar_file.FORMAT_VERSION,
        "task": "detection", "name": name, "classes": sidecar_file.check_classes(classes),
        "thresholds": [0.5] * len(classes), "activation": "none", "input": entry,
        "extra": extra or {}, "created_with": versions(),
    }  # fmt: skip


class ExportedDetector:
    """A detector from an export directory; called with images it returns the first three outputs.

    Args:
        directory: The export directory.
        ctx: Device.

    Raises:
        FileNotFoundError, ExportError: See :func:`gluon_attn.export.load_exported`; or it is no
            export of a detector.
    """

    def __init__(self, directory, ctx=None):
        self._block, sidecar = load_exported(directory, ctx)
        if sidecar.get("task") != "detection":
            raise ExportError(f"{directory} is no export of a detector; its task is classification")
        self._block.hybridize(static_alloc=True, static_shape=True)
        self.entry, self.class_names = sidecar["input"], tuple(sidecar["classes"])
        self.name, self.fit = sidecar["name"], self.entry["fit"]
        self.input_size = tuple(self.entry["shape"][2:])
        self.sides = tuple(self.entry.get("sides", ()))
        self.output_names = tuple(out["name"] for out in sidecar["outputs"])

    def __call__(self, images):
        """Return all outputs for a batch ``(B, 3, H, W)`` float32."""
        return self._block(images)


def _run(view, images):
    ctx = next(iter(view.collect_params().values())).list_ctx()[0]
    with autograd.pause(train_mode=False):
        outputs = [out.asnumpy() for out in view(mx.nd.array(images, ctx=ctx))]
    for name, value in zip(view.output_names, outputs):
        if not np.isfinite(value).all():
            raise ExportError(f"{type(view).__name__}: output '{name}' is not finite")
    return outputs
