"""Write an export directory: the float32 graph, and further forms of it beside it.

Forms (int8, bf16, ONNX) are made from the files of an export alone, so they can be added while
exporting or later. Their files get names of their own in the sidecar's ``files``, with checksums,
and what is to be known about them (calibration, measured drop, opset, …) stands in the sidecar
under the form's name. Every number is compared before anything is seen; see
:mod:`gluon_attn.export.parity`.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd

from gluon_attn.core.errors import first_line
from gluon_attn.core.files import save_parameters, write_text
from gluon_attn.core.text import PathLike
from gluon_attn.export import sidecar as sidecar_file
from gluon_attn.export.graph import Arrays, Symbol, check_shapes, select, select_outputs, trace
from gluon_attn.export.parity import BATCHES, Parts, Results, check_parity, parts_of, random_batch
from gluon_attn.export.sidecar import ExportError, Sidecar
from gluon_attn.runtime import versions

logger = logging.getLogger(__name__)


class Variant:
    """Contract of a further form of an export."""

    name: str  # key of its entry in the sidecar, and prefix of its keys in ``files``

    def write(self, directory: Path, sidecar: Sidecar) -> tuple[dict[str, str], dict[str, Any]]:
        """Write the form's files into an export directory that holds the float32 ones.

        The sidecar is not written yet, and not to be changed. Return ``{key: file name}`` and the
        sidecar entry, plain JSON values; an ExportError if the form cannot be made or is not good
        enough.
        """
        raise NotImplementedError


def export_model(
    net: Any,
    directory: PathLike,
    name: str,
    classes: Sequence[str],
    input_size: Any,
    preprocess: dict[str, Any],
    thresholds: Any = 0.5,
    with_maps: bool = False,
    extra: Any = None,
    overwrite: bool = False,
    check: bool = True,
    activation: str = "sigmoid",
    variants: Sequence[Variant] = (),
    schema: Any = None,
) -> Path:
    """Write a net as an export directory that plain MXNet can run, and check its numbers.

    The directory appears when everything is written and checked, or not at all. The net is run in
    inference mode on one random batch of 3, otherwise left alone.

    Args:
        net: HybridBlock, ``(B, 3, H, W)`` float32 to the outputs in ``net.output_names``, logits
            first; ``net.attention_outputs`` names the maps, ``net.embedding_outputs`` the vectors
            by which images are compared. Without these, one output: the logits.
        name: What the files are called; letters, digits and ``_ . -``.
        classes: Names of the logits, in order.
        input_size: Side of the input in pixels, or ``(H, W)``.
        preprocess: See :func:`gluon_attn.export.sidecar.input_entry`.
        thresholds: Probability from which a class counts as positive; one for all or one each.
        extra: Anything that JSON can hold, kept under ``extra`` (recipe, score, …).
        overwrite: Replace an export that is there; anything else is never replaced.
        check: Compare numbers in a separate process that cannot import this package.
        activation: What turns logits into probabilities: sigmoid, softmax or none.
        variants: Further forms; if one cannot be made, nothing is written.
        schema: :class:`gluon_attn.core.schema.Schema` of the classes, or its JSON form; None: every
            class is a binary attribute.

    Raises FileExistsError; ValueError: an argument is not valid; ExportError: the net cannot be
    exported, or its export gives other numbers; OSError: the disk is full, for instance.
    """
    sidecar_file.refuse_existing(directory, overwrite)
    names = select_outputs(net, with_maps)
    if activation not in sidecar_file.ACTIVATIONS:
        valid = ", ".join(sidecar_file.ACTIVATIONS)
        raise ValueError(f"activation {activation!r}: valid are {valid}")
    sidecar = start_sidecar(
        name, classes, sidecar_file.input_entry(input_size, preprocess), extra=extra
    )
    sidecar["thresholds"] = sidecar_file.check_thresholds(thresholds, sidecar["classes"])
    sidecar["activation"] = activation
    sidecar["schema"] = sidecar_file.check_schema(schema, sidecar["classes"]).to_json()
    mx.nd.waitall()  # running statistics read right after a static training step can be stale
    parts = parts_of(random_batch(sidecar["input"]))
    outputs, context = run_net(net, parts["batch3"], names)
    if outputs[0].shape[1:] != (len(sidecar["classes"]),):
        raise ValueError(f"{len(sidecar['classes'])} classes for logits {outputs[0].shape}")
    embeddings = tuple(getattr(net, "embedding_outputs", ()))
    sidecar["outputs"] = []
    for output, value in zip(names, outputs):
        kind = "embedding" if output in embeddings else "attention"
        kind, after = ("logits", activation) if output == "logits" else (kind, "none")
        shape = ["batch", *value.shape[1:]]
        sidecar["outputs"].append(dict(name=output, shape=shape, kind=kind, activation=after))
    by_part = [parts_of(value) for value in outputs]
    expected = {key: [value[key] for value in by_part] for key in parts}
    return write_export(
        directory, sidecar, trace(net, names), (parts, expected) if check else None,
        variants=variants, overwrite=overwrite, context=context,
    )  # fmt: skip


def start_sidecar(name: str, classes: Any, entry: dict[str, Any], extra: Any = None) -> Sidecar:
    """Return the part of a sidecar that every task has; ``entry`` is that of the input."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*(?<!-symbol)", name):
        raise ValueError(f"export name {name!r}: letters, digits and _ . - only")
    try:  # what JSON cannot hold is found before the work, not after it
        extra = json.loads(json.dumps({} if extra is None else extra, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"extra cannot be kept as JSON: {error}; give plain values, None for NaN"
        ) from error
    return {
        "format": sidecar_file.FORMAT,
        "format_version": sidecar_file.version_of(entry),
        "name": name,
        "classes": sidecar_file.check_classes(classes),
        "input": entry,
        "extra": extra,
        "created_with": versions(),
    }


def write_export(
    directory: PathLike,
    sidecar: Sidecar,
    graph: tuple[Symbol, Arrays],
    checked: tuple[Parts, Results] | None,
    *,
    variants: Sequence[Variant] = (),
    overwrite: bool = False,
    context: str = "cpu:0",
    batches: Sequence[int] = BATCHES,
    fixed: bool = True,
) -> Path:
    """Write graph, parameters, forms and sidecar, all or nothing; return the directory.

    ``sidecar`` gets its ``files``, ``parity`` and the forms. ``graph`` is what
    :func:`gluon_attn.export.graph.trace` returned; ``checked`` are inputs and the net's outputs for
    :func:`gluon_attn.export.parity.check_parity`, None: no check. ``fixed``: the shapes of all
    outputs are known. Errors as of :func:`export_model`.
    """
    directory, name = Path(directory), sidecar["name"]
    if fixed:
        check_shapes(*graph, sidecar, name)
    with sidecar_file.new_directory(directory, overwrite) as partial:
        files = write_files(partial, name, *graph)
        sidecar["files"] = {k: sidecar_file.describe_file(partial / f) for k, f in files.items()}
        if checked is not None:
            paths = [partial / file for file in files.values()]
            sidecar["parity"] = check_parity(paths, *checked, batches, context=context)
        write_variants(partial, sidecar, variants)
        sidecar_file.write_sidecar(partial, sidecar)
    logger.info("exported %s to %s, parity %s", name, directory, sidecar.get("parity"))
    return directory


def write_files(
    directory: Path, stem: str, symbol: Symbol, arrays: Arrays, *, prefix: str = ""
) -> dict[str, str]:
    """Write a graph and its parameters; return ``{key of the sidecar's files: file name}``."""
    graph, params = f"{stem}-symbol.json", f"{stem}-0000.params"
    write_text(directory / graph, symbol.tojson(remove_amp_cast=False))
    save_parameters(arrays, directory / params)
    return {f"{prefix}symbol": graph, f"{prefix}params": params}


def write_variants(directory: Path, sidecar: Sidecar, variants: Sequence[Variant]) -> None:
    """Let forms write their files, and enter them in ``sidecar``."""
    for variant in variants:
        logger.info("making %s", variant.name)
        files, entry = variant.write(directory, sidecar)
        for key, file in files.items():
            sidecar["files"][key] = sidecar_file.describe_file(directory / file)
        sidecar[variant.name] = entry


def add_variants(directory: PathLike, variants: Sequence[Variant]) -> Path:
    """Add forms to an export that is there, or replace those of the same name.

    The directory is replaced by a finished copy, or stays as it is. Raises FileNotFoundError, or an
    ExportError if the export is damaged or a form cannot be made.
    """
    directory = Path(directory)
    sidecar = sidecar_file.read_sidecar(directory)
    old = {key for v in variants for key in sidecar["files"] if key.split("_")[0] == v.name}
    for variant in variants:
        sidecar.pop(variant.name, None)
    sidecar["files"] = {k: entry for k, entry in sidecar["files"].items() if k not in old}
    for entry in sidecar["files"].values():
        sidecar_file.read_verified(directory, entry)
    with sidecar_file.new_directory(directory, overwrite=True) as partial:
        for entry in sidecar["files"].values():
            shutil.copy2(directory / entry["file"], partial / entry["file"])
        if "web" in sidecar:  # a folder of its own, whose files are not among the export's
            shutil.copytree(directory / "web", partial / "web")
        write_variants(partial, sidecar, variants)
        sidecar_file.write_sidecar(partial, sidecar)
    return directory


def run_net(net: Any, batch: np.ndarray, names: Sequence[str]) -> tuple[list[np.ndarray], str]:
    """Return the net's own outputs as NumPy arrays, and the device that it ran on."""
    kind = type(net).__name__
    parameters = list(net.collect_params().values())
    try:
        ctx = parameters[0].list_ctx()[0] if parameters else mx.cpu()
        with autograd.pause(train_mode=False):
            outputs = net(mx.nd.array(batch, ctx=ctx))
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"{kind} does not run on input {batch.shape}: {first_line(error)}"
        ) from error
    values = [value.asnumpy() for value in select(net, outputs, names)]
    for name, value in zip(names, values):
        if not np.isfinite(value).all():
            raise ExportError(f"{kind}: output '{name}' is not finite")
    return values, f"{ctx.device_type}:{ctx.device_id}"
