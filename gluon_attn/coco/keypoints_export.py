"""Exports of keypoint nets: the graph from picture to heat-maps for plain MXNet, and its settings.

What is done around the graph (cutting out, flip test, reading of places) is plain NumPy; its
settings stand in the sidecar under ``keypoints``.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np
from mxnet import autograd

from gluon_attn.coco.keypoints_task import FORMS, PoseFinder, Reading, options_of
from gluon_attn.export import load_exported
from gluon_attn.export import sidecar as sidecar_file
from gluon_attn.export.graph import check_shapes, trace
from gluon_attn.export.parity import BATCHES, ROWS, check_parity, random_batch
from gluon_attn.export.sidecar import ExportError
from gluon_attn.export.writer import write_files, write_variants
from gluon_attn.runtime import versions
from gluon_attn.tasks.base import refuse_forms
from gluon_attn.tasks.export_run import Forms, make_variants, summary


def export_from_flags(args, trained):
    """Write an export and return its summary; see :func:`export_pose`.

    Args:
        args: Flags of ``tools/export.py``.
        trained: :class:`gluon_attn.train.trained.Trained`.
    """
    refuse_forms(args, FORMS)
    variants = make_variants(Forms(onnx=args.onnx), trained.classes, None)
    export_pose(
        trained.net, args.out, args.name or trained.name, trained.classes, trained.preprocess,
        Reading.of(options_of(trained)), trained.extra, args.overwrite, variants=variants,
    )  # fmt: skip
    return "\n".join(summary(args.out))


def export_pose(
    net, directory, name, names, preprocess, reading=None, extra=None, overwrite=False,
    *, variants=(),
):  # fmt: skip
    """Write a keypoint net as an export directory and check its numbers in a separate process.

    Args:
        net: Net with its parameters; left as it is.
        directory: Where to write.
        name: What the files are called.
        names: Keypoint names, in the order of the heat-maps.
        preprocess: Dict with ``mean`` and ``std``.
        reading: :class:`gluon_attn.coco.keypoints_task.Reading` that users of the export get.
        extra: Anything that JSON can hold.
        overwrite: Whether an export that is there is replaced.
        variants: Further forms of the graph, see :func:`gluon_attn.export.export_model`.

    Returns:
        The sidecar, a dict.

    Raises:
        FileExistsError: ``directory`` exists.
        ValueError: Another number of names than of heat-maps.
        ExportError: The numbers differ, or the net cannot be traced.
    """
    sidecar_file.refuse_existing(directory, overwrite)
    names = sidecar_file.check_classes(names)
    if len(names) != net.classes:
        raise ValueError(f"{len(names)} keypoint names for {net.classes} heat-maps")
    mx.nd.waitall()  # running statistics read right after a static training step can be stale
    values = {"mean": preprocess["mean"], "std": preprocess["std"]}
    entry = sidecar_file.input_entry(net.input_size, values)
    images = random_batch(entry)
    expected = _run(net, images)
    symbol, arrays = trace(net, net.output_names)
    sidecar = {
        "format": sidecar_file.FORMAT, "format_version": sidecar_file.FORMAT_VERSION,
        "task": "keypoints", "name": name, "classes": names, "thresholds": [0.2] * len(names),
        "activation": "none", "input": entry, "extra": extra or {}, "created_with": versions(),
        "keypoints": (reading or Reading())._asdict(),
    }  # fmt: skip
    sidecar["outputs"] = [{
        "name": "heatmaps", "shape": ["batch", *expected.shape[1:]], "kind": "heatmaps",
        "activation": "none",
    }]  # fmt: skip
    check_shapes(symbol, arrays, sidecar, type(net).__name__)
    with sidecar_file.new_directory(directory, overwrite) as partial:
        files = write_files(partial, name, symbol, arrays)
        paths = [partial / file for file in files.values()]
        sidecar["files"] = {k: sidecar_file.describe_file(partial / f) for k, f in files.items()}
        inputs = {key: images[rows] for key, rows in ROWS.items()}
        outputs = {key: [expected[rows]] for key, rows in ROWS.items()}
        sidecar["parity"] = check_parity(paths, inputs, outputs, BATCHES)
        write_variants(partial, sidecar, variants)
        sidecar_file.write_sidecar(partial, sidecar)
    return sidecar


def finder_of_export(directory, ctx=None):
    """Return the :class:`gluon_attn.coco.keypoints_task.PoseFinder` of an export directory.

    Raises:
        FileNotFoundError, ExportError: See :func:`gluon_attn.export.load_exported`; or it is no
            export of a keypoint net.
    """
    sidecar = sidecar_file.read_sidecar(directory)
    if sidecar.get("task") != "keypoints":
        raise ExportError(
            f"{directory} is no export of a keypoint net; its task is "
            f"{sidecar.get('task', 'classification')}"
        )
    block, _ = load_exported(directory, ctx)
    block.hybridize(static_alloc=True, static_shape=True)
    entry = sidecar["input"]
    return PoseFinder(
        block, tuple(entry["shape"][2:]), sidecar["classes"], entry["mean"], entry["std"],
        Reading(**sidecar["keypoints"]), ctx,
    )  # fmt: skip


def _run(net, images):
    ctx = next(iter(net.collect_params().values())).list_ctx()[0]
    with autograd.pause(train_mode=False):
        value = net(mx.nd.array(images, ctx=ctx)).asnumpy()
    if not np.isfinite(value).all():
        raise ExportError(f"{type(net).__name__}: the heat-maps are not finite")
    return value
