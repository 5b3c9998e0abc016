"""Exports of detectors and keypoint nets: graphs whose outputs are no logits, and their tables."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, Sequence

import mxnet as mx
import numpy as np

from gluon_attn.core.files import write_json, write_text
from gluon_attn.core.recipe import Recipe
from gluon_attn.export import load_exported, writer
from gluon_attn.export import sidecar as sidecar_file
from gluon_attn.export.graph import trace
from gluon_attn.export.sidecar import ExportError
from gluon_attn.metrics.tables import decimal
from gluon_attn.runtime import versions
from gluon_attn.task import Asked, Result, Task

Sidecar = Dict[str, Any]


class CocoTask(Task):
    """What detection and keypoints share: records are found, then scored by COCO's rules.

    Attributes:
        measured: COCO's number of each score of a validation.
    """

    measured: dict[str, str] = {}

    def split(self, name: str) -> str:
        return "val2017" if name == "test" else name  # COCO's test labels are not public

    def find(
        self, recipe: Recipe, net: Any, dataset: Any, ctx: Any, workers: int
    ) -> list[dict[str, Any]]:
        """Return official result records of every image of a split."""
        raise NotImplementedError

    def stats(self, dataset: Any, records: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Return COCO's numbers by name."""
        raise NotImplementedError

    def write(self, records: Sequence[dict[str, Any]], dataset: Any, stem: str) -> Result:
        """Score records and write what was found."""
        raise NotImplementedError

    def validator(
        self, recipe: Recipe, dataset: Any, ctx: Any, workers: int
    ) -> Callable[[Any], dict[str, float]]:
        def validate(net: Any) -> dict[str, float]:
            stats = self.stats(dataset, self.find(recipe, net, dataset, ctx, workers))
            return {name: stats[source] for name, source in self.measured.items()}

        return validate

    def final_scores(self, recipe: Recipe, net: Any, dataset: Any, asked: Asked) -> Result:
        records = self.find(recipe, net, dataset, asked.ctx, asked.workers)
        return self.write(records, dataset, os.path.join(asked.out, asked.stem))


def start_sidecar(
    task: str, name: str, classes: Sequence[str], entry: dict[str, Any], *, threshold: float,
    extra: Any,
) -> Sidecar:  # fmt: skip
    """Return a sidecar without outputs and files; a ValueError for empty or repeated names."""
    names = sidecar_file.check_classes(classes)
    return {
        "format": sidecar_file.FORMAT, "format_version": sidecar_file.version_of(entry),
        "task": task, "name": name, "classes": names, "thresholds": [threshold] * len(names),
        "activation": "none", "input": entry, "extra": extra or {}, "created_with": versions(),
    }  # fmt: skip


def write_export(
    net: Any, directory: str, sidecar: Sidecar, parts: dict[str, np.ndarray], *,
    kind: str, fixed: bool, overwrite: bool = False, variants: Sequence[Any] = (),
) -> Sidecar:  # fmt: skip
    """Write a net as an export directory, check its numbers in a separate process; return the
    sidecar.

    Numbers are compared batch size by batch size: the suppression of one batch says nothing about
    that of another, whose convolutions may differ in the last bit.

    Args:
        parts: Images ``(B, 3, H, W)`` float32 to compare with, by name.
        kind: What the outputs are.
        fixed: Whether the shapes of all outputs are known before it runs.
        variants: Further forms of the graph, see :func:`gluon_attn.export.export_model`.

    Raises FileExistsError: ``directory`` exists; ExportError: the numbers differ, or the net cannot
    be traced.
    """
    sidecar_file.refuse_existing(directory, overwrite)
    mx.nd.waitall()  # running statistics read right after a static training step can be stale
    names = tuple(net.output_names)
    expected = {key: writer.run_net(net, images, names)[0] for key, images in parts.items()}
    sidecar["outputs"] = [
        {"name": name, "shape": ["batch", *value.shape[1:]], "kind": kind, "activation": "none"}
        for name, value in zip(names, next(iter(expected.values())))
    ]
    graph, sizes = trace(net, names), sorted({len(images) for images in parts.values()})
    writer.write_export(
        directory, sidecar, graph, (parts, expected), variants=variants, overwrite=overwrite,
        batches=sizes, fixed=fixed,
    )  # fmt: skip
    return sidecar


def open_export(directory: str, task: str, what: str, ctx: Any = None) -> tuple[Any, Sidecar]:
    """Return the net of an export and its sidecar; ``what`` names, in a message, what it must
    export.

    Errors as of :func:`gluon_attn.export.load_exported`; an ExportError for one of another task.
    """
    sidecar = sidecar_file.read_sidecar(directory)
    found = sidecar.get("task", "classification")
    if found != task:
        raise ExportError(f"{directory} is no export of a {what}; its task is {found}")
    block, _ = load_exported(directory, ctx)
    block.hybridize(static_alloc=True, static_shape=True)
    return block, sidecar


def context_of(text: str) -> Any:
    """Return the MXNet context of ``cpu`` or ``gpu:0``."""
    kind, _, number = text.partition(":")
    return mx.Context(kind, int(number or 0))


def refuse_backend(backend: str, what: str) -> None:
    """Raise ValueError for a backend that such exports do not have."""
    if backend not in ("mxnet", "auto"):
        raise ValueError(f"--backend {backend}: {what} run on mxnet only")


def write_tables(
    stem: str, values: dict[str, Any], lines: Sequence[str], records: Sequence[Any], *, kind: str
) -> list[str]:
    """Write ``stem.json`` (numbers), ``stem.md`` (lines) and ``stem_<kind>.json`` (results)."""
    os.makedirs(os.path.dirname(stem) or ".", exist_ok=True)
    paths = [f"{stem}{end}" for end in (".json", ".md", f"_{kind}.json")]
    write_json(paths[0], values)
    write_text(paths[1], "\n".join(lines) + "\n")
    write_json(paths[2], records, indent=None)
    return paths


def table_lines(left: str, right: str, values: dict[str, Any]) -> list[str]:
    """Return the lines of a Markdown table of two columns."""
    rows = [f"| {name} | {decimal(value)} |" for name, value in values.items()]
    return [f"| {left} | {right} |", "|---|---|", *rows]
