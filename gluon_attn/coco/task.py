"""What detection and keypoints share: records are found, scored by COCO's rules, exported, shown.

What a net is fed with and how it is read stands in the sidecar of its export; a net that is not
exported is described in the same way. Export and net therefore go through the same code.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Callable, Dict, Iterable, Sequence

import mxnet as mx

from gluon_attn.coco.metrics import CocoResult
from gluon_attn.core.files import finite, write_json, write_text
from gluon_attn.core.recipe import Recipe
from gluon_attn.export import load_exported, writer
from gluon_attn.export import sidecar as sidecar_file
from gluon_attn.export.graph import trace
from gluon_attn.export.parity import ROWS, random_batch
from gluon_attn.export.sidecar import ExportError
from gluon_attn.metrics.tables import decimal
from gluon_attn.task import Asked, Exported, Predicting, Result, Task, Trained

Record = Dict[str, Any]  # plain JSON values
Sidecar = Dict[str, Any]


class CocoTask(Task):
    """Records are found with a net, then scored and shown.

    Attributes:
        measured: COCO's number of each score of a validation.
        heading: What is scored, in the title of a table.
        found, counted: What records are, in the name of their file and in files of scores.
        boxes_given: Whether the boxes are annotated, or from a file.
        threshold: Score or height from which something is shown, if nothing else is asked for.
        rows: Parts of a batch that an export is compared on. Part by part: the suppression of one
            batch says nothing about that of another, whose convolutions may differ in the last bit.
        output, fixed: What the outputs are, and whether their shapes are known before a run.
        refused: Flags of a prediction that its exports do not take, and why.
    """

    measured: dict[str, str] = {}
    heading, found, counted, boxes_given = "", "", "", False
    threshold = 0.5
    rows, output, fixed = ROWS, "", True
    refused: dict[str, str] = {}

    def finder(self, net: Any, sidecar: Sidecar, ctx: Any) -> Any:
        """Return what finds records with a net that a sidecar describes."""
        raise NotImplementedError

    def find(self, finder: Any, dataset: Any, asked: Asked) -> tuple[list[Record], list[str]]:
        """Return official result records of a split, and lines about what was left out."""
        raise NotImplementedError

    def measure(self, dataset: Any, records: Sequence[Record]) -> CocoResult:
        raise NotImplementedError

    def find_in_files(
        self, finder: Any, options: Any, threshold: float
    ) -> tuple[list[str], Any, Callable[[range], Iterable[Record]]]:
        """Return image files, their boxes or None, and what finds the records of some of them."""
        raise NotImplementedError

    def input_of(self, net: Any) -> dict[str, Any]:
        """Return what an ``input`` entry has beside shape, mean and deviation."""
        return {}

    def settings_of(self, trained: Trained) -> dict[str, Any]:
        """Return what a sidecar has beside what all have."""
        return {}

    def split(self, name: str) -> str:
        return "val2017" if name == "test" else name  # COCO's test labels are not public

    # -- validation and evaluation -------------------------------------------------------------
    def validator(
        self, recipe: Recipe, dataset: Any, ctx: Any, workers: int
    ) -> Callable[[Any], dict[str, float]]:
        asked = Asked("", "", ctx, recipe.batch_size, workers)

        def validate(net: Any) -> dict[str, float]:
            finder = self.open(self._trained(recipe, net, dataset), ctx)
            stats = self.measure(dataset, self.find(finder, dataset, asked)[0]).stats
            return {name: stats[source] for name, source in self.measured.items()}

        return validate

    def final_scores(self, recipe: Recipe, net: Any, dataset: Any, asked: Asked) -> Result:
        source = self._trained(recipe, net, dataset)
        return self.evaluate(source, dataset, asked._replace(batch_size=recipe.batch_size))

    def evaluate(self, source: Any, dataset: Any, asked: Asked) -> Result:
        """Score a split; write ``stem.json`` (numbers), ``.md`` and a file of the records."""
        records, skipped = self.find(self.open(source, asked.ctx), dataset, asked)
        found, stem = self.measure(dataset, records), os.path.join(asked.out, asked.stem)
        boxes = f"boxes of {asked.boxes}" if asked.boxes else "annotated boxes"
        boxes = boxes if self.boxes_given else ""
        values = {"stats": finite(found.stats), "images": found.images}
        values[self.counted] = found.records
        heading = f"# {self.heading} on {dataset.split}, {found.images} images"
        lines = [f"{heading}, {boxes}" if boxes else heading, ""]
        lines += [line for note in found.notes for line in (note, "")]
        lines += _table("number", "value", found.stats)
        if boxes:
            values["boxes"] = boxes
        else:
            values["per_class"] = finite(found.per_class)
            lines += ["", *_table("class", "AP", found.per_class)]
        os.makedirs(asked.out or ".", exist_ok=True)
        paths = [f"{stem}.json", f"{stem}.md", f"{stem}_{self.found}.json"]
        write_json(paths[0], values)
        write_text(paths[1], "\n".join(lines) + "\n")
        write_json(paths[2], records, indent=None)
        logging.getLogger(f"gluon_attn.{self.name}").info(
            "%s: AP %s, AP50 %s over %d images%s; tables in %s.{md,json}", dataset.split,
            *(decimal(found.stats[name]) for name in ("AP", "AP50")), found.images,
            f" ({boxes})" if boxes else "", stem,
        )  # fmt: skip
        told = [f"({boxes})"] if boxes else []
        return Result("\n".join([found.text, *told, *found.notes, *skipped]), values, paths)

    def _trained(self, recipe: Recipe, net: Any, dataset: Any) -> Trained:
        extra = {"recipe": {"method": recipe.method, "options": recipe.options}}
        return Trained("net", net, dataset.names, self.preprocess(recipe, net), extra)

    # -- nets and exports ----------------------------------------------------------------------
    def describe_net(self, trained: Trained, name: str) -> Sidecar:
        """Return a sidecar without outputs and files; a ValueError for wrong names."""
        net, pixels = trained.net, {key: trained.preprocess[key] for key in ("mean", "std")}
        entry = {**sidecar_file.input_entry(net.input_size, pixels), **self.input_of(net)}
        sidecar = writer.start_sidecar(name, trained.classes, entry, trained.extra)
        count = len(sidecar["classes"])
        if count != net.classes:
            raise ValueError(f"{count} names of {self.columns} for a net with {net.classes}")
        sidecar.update(task=self.name, thresholds=[self.threshold] * count, activation="none")
        return {**sidecar, **self.settings_of(trained)}

    def open(self, source: Trained | Exported, ctx: Any = None) -> Any:
        """Return :meth:`finder` of a net, or of an export, which must be one of this task.

        Errors as of :func:`gluon_attn.export.load_exported`.
        """
        if isinstance(source, Trained):
            return self.finder(source.net, self.describe_net(source, "net"), ctx)
        task = source.sidecar.get("task", "classification")
        if task != self.name:
            raise ExportError(
                f"{source.directory} is no export for {self.name}; its task is {task}"
            )
        if source.backend not in ("mxnet", "auto"):
            raise ValueError(f"--backend {source.backend}: {self.name} runs on mxnet only")
        block, sidecar = load_exported(source.directory, ctx)
        block.hybridize(static_alloc=True, static_shape=True)
        return self.finder(block, sidecar, ctx)

    def export(
        self, trained: Trained, directory: str, name: str, *, threshold: float = 0.5,
        with_maps: bool = False, overwrite: bool = False, variants: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        sidecar_file.refuse_existing(directory, overwrite)
        sidecar, net = self.describe_net(trained, name), trained.net
        net = net.with_candidates() if hasattr(net, "with_candidates") else net
        mx.nd.waitall()  # running statistics read right after a static training step can be stale
        images, names = random_batch(sidecar["input"]), tuple(net.output_names)
        parts = {key: images[rows] for key, rows in self.rows.items()}
        expected = {key: writer.run_net(net, part, names)[0] for key, part in parts.items()}
        sidecar["outputs"] = [
            {"name": output, "shape": ["batch", *value.shape[1:]], "kind": self.output,
             "activation": "none"}
            for output, value in zip(names, next(iter(expected.values())))
        ]  # fmt: skip
        writer.write_export(
            directory, sidecar, trace(net, names), (parts, expected), variants=variants,
            overwrite=overwrite, batches=sorted(map(len, parts.values())), fixed=self.fixed,
        )  # fmt: skip

    # -- prediction ----------------------------------------------------------------------------
    def predict(self, source: Exported, options: Any) -> Predicting:
        for flag, why in self.refused.items():
            if getattr(options, flag):
                raise ValueError(f"--{flag}: this export {why}")
        kind, _, number = options.ctx.partition(":")
        finder = self.open(source, mx.Context(kind, int(number or 0)))
        threshold = self.threshold if options.threshold is None else options.threshold
        paths, boxes, find = self.find_in_files(finder, options, threshold)
        head = {"export": source.sidecar["name"], self.columns: list(source.classes)}
        head["threshold"] = threshold
        return Predicting(paths, boxes, lambda some, _: find(some), head)


def _table(left: str, right: str, values: dict[str, Any]) -> list[str]:
    rows = [f"| {name} | {decimal(value)} |" for name, value in values.items()]
    return [f"| {left} | {right} |", "|---|---|", *rows]
