"""Write an export directory, and compare its numbers with the net's in a separate process.

The other process runs ``_parity.py`` with an isolated Python in which this package cannot be
imported, so a passed check means that plain MXNet gives the net's numbers from the files alone.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet import autograd

from gluon_attn.core.errors import first_line
from gluon_attn.core.files import save_parameters, write_text
from gluon_attn.export import sidecar as sidecar_file
from gluon_attn.export.sidecar import ExportError
from gluon_attn.export.symbol import check_shapes, output_names, select_outputs, trace
from gluon_attn.export.variants import write_variants
from gluon_attn.runtime import versions

TOLERANCE = 1e-5  # of max(1, |output|)
# Parts of a batch of three that are compared, and their sizes
ROWS = {"batch3": slice(0, 3), "batch1": slice(0, 1), "batch2": slice(1, 3)}
BATCHES = (1, 2, 3)
PARITY_TIMEOUT = 900  # seconds, for the other process

logger = logging.getLogger(__name__)


def export_model(
    net,
    directory,
    name,
    classes,
    input_size,
    preprocess,
    thresholds=0.5,
    with_maps=False,
    extra=None,
    overwrite=False,
    check=True,
    activation="sigmoid",
    variants=(),
    schema=None,
):
    """Write a net as an export directory that plain MXNet can run, and check its numbers.

    The directory appears when everything is written and checked, or not at all. The net is run in
    inference mode on one random batch of 3, otherwise left alone.

    Args:
        net: HybridBlock, ``(B, 3, H, W)`` float32 to the outputs in ``net.output_names``, logits
            first; ``net.attention_outputs`` names the maps, ``net.embedding_outputs`` the vectors
            by which pictures are compared. Without these, one output: the logits.
        directory: Where to write; must not exist.
        name: What the files are called; letters, digits and ``_ . -``.
        classes: Names of the logits, in order.
        input_size: Side of the input in pixels, or ``(H, W)``.
        preprocess: See :func:`gluon_attn.export.sidecar.input_entry`.
        thresholds: Probability from which a class counts as positive; one for all or one each.
        with_maps: Export the attention maps as well.
        extra: Anything that JSON can hold, kept under ``extra`` (recipe, score, …).
        overwrite: Replace an export that is there; anything else is never replaced.
        check: Compare numbers in a separate process that cannot import this package.
        activation: What turns logits into probabilities: sigmoid, softmax or none.
        variants: Further forms of the graph (:mod:`gluon_attn.export.variants`); if one cannot be
            made, nothing is written.
        schema: :class:`gluon_attn.core.schema.Schema` of the classes, or its JSON form; None: every
            class is a binary attribute.

    Returns:
        ``directory`` as a Path.

    Raises:
        FileExistsError: ``directory`` exists.
        ValueError: An argument is not valid.
        ExportError: The net cannot be exported, or its export gives other numbers.
        OSError: The disk is full, for instance.
    """
    directory = Path(directory)
    sidecar_file.refuse_existing(directory, overwrite)
    names = select_outputs(net, with_maps)
    sidecar = _start_sidecar(name, classes, input_size, preprocess, thresholds, activation)
    sidecar["schema"] = sidecar_file.check_schema(schema, sidecar["classes"]).to_json()
    sidecar["extra"] = _check_extra(extra)
    mx.nd.waitall()  # running statistics read right after a static training step can be stale
    batch = random_batch(sidecar["input"])
    reference, ctx = _run_net(net, batch, names)
    if reference[0].shape[1:] != (len(sidecar["classes"]),):
        raise ValueError(f"{len(sidecar['classes'])} classes for logits {reference[0].shape}")
    sidecar["outputs"] = _describe_outputs(
        names, reference, activation, tuple(getattr(net, "embedding_outputs", ()))
    )
    symbol, arrays = trace(net, names)
    check_shapes(symbol, arrays, sidecar, type(net).__name__)
    with sidecar_file.new_directory(directory, overwrite) as partial:
        sidecar["files"] = write_files(partial, name, symbol, arrays)
        if check:
            paths = [partial / entry["file"] for entry in sidecar["files"].values()]
            sidecar["parity"] = check_parity(
                paths, {key: batch[part] for key, part in ROWS.items()},
                {key: [value[part] for value in reference] for key, part in ROWS.items()},
                BATCHES, f"{ctx.device_type}:{ctx.device_id}",
            )  # fmt: skip
        write_variants(partial, sidecar, variants)
        sidecar_file.write_sidecar(partial, sidecar)
    logger.info("exported %s to %s, parity %s", name, directory, sidecar.get("parity"))
    return directory


def _start_sidecar(name, classes, input_size, preprocess, thresholds, activation):
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*(?<!-symbol)", name):
        raise ValueError(f"export name {name!r}: letters, digits and _ . - only")
    if activation not in sidecar_file.ACTIVATIONS:
        valid = ", ".join(sidecar_file.ACTIVATIONS)
        raise ValueError(f"activation {activation!r}: valid are {valid}")
    classes = sidecar_file.check_classes(classes)
    return {
        "format": sidecar_file.FORMAT,
        "format_version": sidecar_file.FORMAT_VERSION,
        "name": name,
        "classes": classes,
        "thresholds": sidecar_file.check_thresholds(thresholds, classes),
        "activation": activation,
        "input": sidecar_file.input_entry(input_size, preprocess),
        "created_with": versions(),
    }


def _check_extra(extra):
    """Return ``extra``; what JSON cannot hold is found before the work, not after it."""
    try:
        return json.loads(json.dumps({} if extra is None else extra, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"extra cannot be kept as JSON: {error}; give plain values, None for NaN"
        ) from error


def _describe_outputs(names, reference, activation, embeddings):
    outputs = []
    for name, value in zip(names, reference):
        logits = name == "logits"
        entry = {"name": name, "shape": ["batch", *value.shape[1:]]}
        entry["kind"] = "logits" if logits else "embedding" if name in embeddings else "attention"
        entry["activation"] = activation if logits else "none"
        outputs.append(entry)
    return outputs


def random_batch(entry):
    """Return 3 random images on the scale of real ones; draws on no global random state."""
    shape = (3, *entry["shape"][1:])
    pixels = np.random.RandomState(0).randint(0, 256, shape).astype(np.float32)
    scale = np.array([entry["mean"], entry["std"]], np.float32).reshape(2, 3, 1, 1)
    return (pixels - scale[0]) / scale[1]


def _run_net(net, batch, names):
    """Return the net's own outputs as NumPy arrays, and the context that it ran on."""
    parameters = list(net.collect_params().values())
    try:
        ctx = parameters[0].list_ctx()[0] if parameters else mx.cpu()
        with autograd.pause(train_mode=False):
            outputs = net(mx.nd.array(batch, ctx=ctx))
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"{type(net).__name__} does not run on input {batch.shape}: {first_line(error)}"
        ) from error
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    known = output_names(net)
    if len(outputs) != len(known):
        raise ExportError(
            f"{type(net).__name__} names {len(known)} outputs, returned {len(outputs)}"
        )
    values = [outputs[known.index(name)].asnumpy() for name in names]
    for name, value in zip(names, values):
        if not np.isfinite(value).all():
            raise ExportError(f"{type(net).__name__}: output '{name}' is not finite")
    return values, ctx


def write_files(directory, name, symbol, arrays):
    """Write graph and parameters and return their sidecar entries."""
    graph, params = directory / f"{name}-symbol.json", directory / f"{name}-0000.params"
    write_text(graph, symbol.tojson())
    save_parameters(arrays, params)
    describe = sidecar_file.describe_file
    return {"symbol": describe(graph), "params": describe(params)}


def check_parity(paths, inputs, expected, batches, context="cpu:0"):
    """Run an export in another process; return the sidecar's ``parity`` entry.

    Args:
        paths: Of the symbol and the params.
        inputs: ``{key: (B, 3, H, W) float32}``, run one after the other.
        expected: ``{key: [the net's own outputs]}``.
        batches: The batch sizes among them, for the record.
        context: Device, such as ``'gpu:0'``.

    Raises:
        ExportError: A number differs by more than the tolerance.
    """
    with tempfile.TemporaryDirectory(prefix="parity-") as work:
        given, outputs = os.path.join(work, "inputs.npz"), os.path.join(work, "outputs.npz")
        np.savez(given, **inputs)
        report = run_elsewhere([*map(str, paths), given, outputs, context])
        worst = 0.0
        with np.load(outputs) as results:
            for key, values in expected.items():
                for number, value in enumerate(values):
                    difference = np.abs(results[f"{key}:{number}"] - value)
                    scaled = difference / np.maximum(1.0, np.abs(value))
                    worst = max(worst, float(scaled.max()))
    if not worst <= TOLERANCE:  # so that NaN fails as well
        raise ExportError(
            f"the export differs from the net by {worst:.3g} of max(1, |output|); at most "
            f"{TOLERANCE:g} is allowed. Nothing was written"
        )
    kind, number = context.split(":")
    return {
        "max_abs_diff": worst, "tolerance": TOLERANCE, "batch": list(batches),
        "mxnet": report["mxnet"], "context": f"{kind}({number})",
    }  # fmt: skip


def run_elsewhere(arguments):
    """Run ``_parity.py`` in an isolated Python and return its report."""
    script = str(Path(__file__).with_name("_parity.py"))
    site = str(Path(mx.__file__).parent.parent)
    # Without our runtime there is no AMX permission, and oneDNN told to use AMX would be killed.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DNNL_", "ONEDNN_"))}
    # CUDA libraries from PyPI, which our runtime preloads, have to be found without it as well.
    libraries = [*glob.glob(os.path.join(site, "nvidia", "*", "lib")), env.get("LD_LIBRARY_PATH")]
    if any(libraries):
        env["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in libraries if path)
    extra = [site, str(Path(np.__file__).parent.parent)]
    try:
        done = subprocess.run(
            [sys.executable, "-I", script, *arguments, *extra],
            env=env,
            capture_output=True,
            text=True,
            timeout=PARITY_TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"the parity check took over {PARITY_TIMEOUT} s") from error
    if done.returncode != 0:
        tail = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise ExportError(f"the parity check failed with code {done.returncode}: {tail}")
    report = json.loads(done.stdout.strip().splitlines()[-1])
    if report["leaked"]:
        raise ExportError(f"the parity check imported {report['leaked']}")
    return report
