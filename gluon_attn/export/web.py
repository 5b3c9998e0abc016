"""A page that runs the exported net in a browser: the folder ``web`` of an export.

The page is static: any server of files shows it, and nothing leaves the browser. Its engine is
onnxruntime-web as npm publishes it, of one version whose files are known by their checksums. The
page's description, ``export.json``, is the export's sidecar with an entry ``web``. What prepares an
image is in ``page/pixels.js``, which repeats :mod:`gluon_attn.export.images` to the bit.
"""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np
from scipy.special import expit

from gluon_attn.core.files import json_text, sha256_of, write_bytes, write_text
from gluon_attn.core.schema import MULTICLASS, Schema
from gluon_attn.core.text import PathLike, read_text
from gluon_attn.export.graph import INPUT
from gluon_attn.export.onnx import require_packages
from gluon_attn.export.onnx_half import halve_weights, quarter_weights
from gluon_attn.export.onnx_session import open_onnx_session
from gluon_attn.export.parity import random_batch
from gluon_attn.export.sidecar import (
    ExportError,
    Sidecar,
    check_schema,
    describe_file,
    read_verified,
)
from gluon_attn.export.writer import Variant

FOLDER = "web"
SOURCE = Path(__file__).parent / "page"
PAGE = ("app.js", "net.js", "pixels.js", "style.css")
VERSION = "1.30.0"  # of onnxruntime-web
# Of its dist folder: the engine for WASM, and the one for WebGPU.
RUNTIME = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs":
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm":
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
    "ort-wasm-simd-threaded.asyncify.mjs":
        "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
    "ort-wasm-simd-threaded.asyncify.wasm":
        "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}  # fmt: skip
# Nothing of another origin is loaded or called; WebAssembly is compiled, no text is run.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; worker-src 'self'; base-uri 'none'; "
    "form-action 'none'"
)
# How far a probability of the page's net may be from float32's, on random images. With int8 the
# numbers are no longer Predictor's, and the page says so; the limit is an assumption.
TOLERANCE = {"fp16": 1e-3, "int8": 5e-2}
NAMES = {"fp16": "half precision", "int8": "int8"}
SMALL = 1024  # values of a tensor up to which it stays in float32


class WebVariant(Variant):
    """Writes ``web/``: page, ONNX model with smaller weights, engine, samples.

    Args:
        runtime: The ``dist`` folder of onnxruntime-web; None: the page says that it is missing.
        samples: Images by file name.
        about: Paragraphs on what the net was trained on and must not be used for.
        weights: How they are stored: ``'fp16'``, or ``'int8'``, half as large and less exact.
    """

    name = FOLDER

    def __init__(
        self,
        runtime: PathLike | None,
        samples: Mapping[str, bytes],
        about: Sequence[str],
        weights: str = "fp16",
    ) -> None:
        self.runtime, self.samples, self.about, self.weights = runtime, samples, about, weights

    def write(self, directory: Path, sidecar: Sidecar) -> tuple[dict[str, str], dict[str, Any]]:
        """Write the folder; needs the ONNX form.

        The entry holds the model's ``file``, ``bytes`` and ``sha256``, ``weights``,
        ``max_abs_diff`` of probabilities, and the engine's version as ``runtime``, or None.
        ExportError: there is no ONNX file, or the weights' precision changes a probability by more
        than :data:`TOLERANCE`; FileNotFoundError, ValueError: see :func:`check_runtime`.
        """
        if "onnx" not in sidecar["files"]:
            raise ExportError(f"{sidecar['name']}: the page needs the ONNX form: give --onnx too")
        folder = directory / FOLDER
        folder.mkdir()
        raw = read_verified(directory, sidecar["files"]["onnx"])
        raw, difference = _shrink(raw, sidecar, self.weights)
        model = folder / f"{sidecar['name']}.onnx"
        write_bytes(model, raw)
        if self.runtime is not None:
            (folder / "runtime").mkdir()
            for path in check_runtime(self.runtime):
                shutil.copyfile(path, folder / "runtime" / path.name)
        note = ""
        if difference > TOLERANCE["fp16"]:
            note = f", which changed random images' probabilities by up to {difference:.3f}"
        entry = {
            "model": describe_file(model),
            "weights": f"{NAMES[self.weights]}, {len(raw) / 1e6:.1f} MB{note}",
            "max_abs_diff": difference,
            "runtime": None if self.runtime is None else VERSION,
        }
        for name, data in self.samples.items():
            write_bytes(folder / name, data)
        for name in PAGE:
            write_bytes(folder / name, (SOURCE / name).read_bytes())
        schema = check_schema(sidecar.get("schema"), sidecar["classes"])
        page = _fill(sidecar, schema, sorted(self.samples), self.about)
        write_text(folder / "index.html", page)
        own = {key: value for key, value in sidecar.items() if key not in ("files", "extra")}
        own.update({"schema": schema.to_json(), FOLDER: entry})
        write_text(folder / "export.json", json_text(own))
        return {}, entry


def check_runtime(folder: PathLike) -> list[Path]:
    """Return the engine's files in a ``dist`` folder of onnxruntime-web.

    FileNotFoundError: one is missing; ValueError: one is not that of the known version.
    """
    remedy = f"npm install --no-save onnxruntime-web@{VERSION}, then --runtime {_dist()}"
    paths = [Path(folder) / name for name in RUNTIME]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file of onnxruntime-web; {remedy}")
        if sha256_of(path) != RUNTIME[path.name]:
            raise ValueError(
                f"{path}: checksum mismatch: damaged or not onnxruntime-web {VERSION}; {remedy}"
            )
    return paths


def find_runtime() -> Path | None:
    """Return the engine's folder that npm installed in the working directory, if it is sound."""
    try:
        check_runtime(_dist())
    except (OSError, ValueError):
        return None
    return _dist()


def _dist() -> Path:
    return Path("node_modules") / "onnxruntime-web" / "dist"


def _shrink(raw: bytes, sidecar: Sidecar, weights: str) -> tuple[bytes, float]:
    """Return a model with smaller weights, and how far its probabilities are off."""
    onnx, _ = require_packages()
    model = onnx.load_from_string(raw)
    {"fp16": halve_weights, "int8": quarter_weights}[weights](onnx, model, SMALL)
    found = model.SerializeToString(deterministic=True)
    batch = {INPUT: random_batch(sidecar["input"])}
    outputs = [open_onnx_session(data).run(["logits"], batch)[0] for data in (raw, found)]
    if sidecar["activation"] != "none":  # softmax is no steeper than the sigmoid
        outputs = [expit(values) for values in outputs]
    difference = float(np.abs(outputs[0] - outputs[1]).max())
    if not difference <= TOLERANCE[weights]:
        raise ExportError(
            f"{sidecar['name']}: with weights in {NAMES[weights]} a probability changes by "
            f"{difference:.1e}; up to {TOLERANCE[weights]:g} is allowed, so there is no page"
        )
    return found, difference


def _fill(sidecar: Sidecar, schema: Schema, samples: Sequence[str], about: Sequence[str]) -> str:
    """Return ``index.html`` for an export."""
    taps = [out["name"] for out in sidecar["outputs"] if out["kind"] == "attention"]
    images = (
        f'<button type="button"><img src="{html.escape(file)}" alt="Sample {number}"></button>'
        for number, file in enumerate(samples, 1)
    )
    options = (f"<option{' selected' * (tap == taps[-1])}>{html.escape(tap)}" for tap in taps)
    parts = {
        "CSP": POLICY,
        "NAME": html.escape(sidecar["name"]),
        "TITLE": html.escape(sidecar["name"]).replace("_", "_<wbr>"),  # where a line may end
        "MAPS": "" if taps else "none",
        "TAPS": "".join(options),
        "SAMPLES": "".join(images),
        "ROWS": _rows(schema),
        "ABOUT": "".join(f"<p>{html.escape(text)}</p>" for text in about),
    }
    page = read_text(SOURCE / "index.html")
    return re.sub(r"{{(\w+)}}", lambda match: parts[match[1]], page)


def _rows(schema: Schema) -> str:
    """Return the attributes in their groups; those with several classes are groups of their own."""
    groups: dict[str, list[str]] = {}
    column = 0
    for attribute in schema.attributes:
        several = attribute.kind == MULTICLASS
        title = attribute.name if several else attribute.group
        for name in attribute.classes if several else [attribute.name]:
            text = html.escape(name)
            slider = (
                f'<input type="range" min="0" max="1" step="0.01" aria-label="Threshold of {text}">'
            )
            groups.setdefault(title, []).append(
                f'<li data-column="{column}"><button type="button">{text}</button>'
                f'<div class="bar" aria-hidden="true"><i></i>{"" if several else "<b></b>"}</div>'
                f"<output></output>{'' if several else slider}</li>"
            )
            column += 1
    return "".join(
        (f"<h3>{html.escape(title)}</h3>" if title else "") + f"<ul>{''.join(rows)}</ul>"
        for title, rows in groups.items()
    )
