"""Detection: batches, validation, COCO's evaluation, exports and predictions.

A recipe's ``input_size`` is the side of SSD's square input, or for nets that keep proportions the
shorter side of the image; ``model_options.long_size`` then bounds the longer one. An export is the
whole graph, suppression included; its outputs are classes, scores and boxes after suppression, and
for SSD the candidates before it.
"""

from __future__ import annotations

import functools
import logging
import os
from typing import Any, Dict, Sequence

import mxnet as mx
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from gluon_attn.coco import exports
from gluon_attn.coco.detection_batches import (
    DetectionLoader,
    FitTransform,
    SsdTransform,
    StretchTransform,
)
from gluon_attn.coco.metrics import evaluate_detections
from gluon_attn.coco.names import CATEGORIES
from gluon_attn.core.batch import PADDING, Batch
from gluon_attn.core.files import finite, json_text
from gluon_attn.core.recipe import Recipe
from gluon_attn.export.parity import random_batch
from gluon_attn.export.sidecar import input_entry
from gluon_attn.figures.detections import draw_boxes
from gluon_attn.metrics.tables import decimal
from gluon_attn.task import TASKS, Asked, Exported, Predicted, Result, Trained
from gluon_attn.tasks import images as files
from gluon_attn.tasks.attributes import some
from gluon_attn.tasks.data import one_behind

logger = logging.getLogger("gluon_attn.detection")

SCORES = {"mAP": "AP", "AP50": "AP50", "AP75": "AP75"}  # of a validation, for the log
BATCHES = (1, 2)  # sizes in which an export is compared with its net
Record = Dict[str, Any]


class Detection(exports.CocoTask):
    """Boxes of classes, by COCO's rules."""

    name = "detection"
    scores, measured = tuple(SCORES), SCORES
    class_names = tuple(CATEGORIES.values())
    kinds = ("coco",)
    parity = "plain MXNet, suppression included"

    def train_loader(
        self, recipe: Recipe, dataset: Any, method: Any, workers: int, *,
        cache: bool = False, parts: int = 1,
    ) -> Any:  # fmt: skip
        mean, std, net = recipe.mean, recipe.std, method.net
        transform: Any
        if net.fit == "stretch":
            chosen = {name: method.options[name] for name in ("expand", "crop", "colour")}
            transform = SsdTransform(net.input_size[0], mean, std, mirror=recipe.mirror, **chosen)
        else:
            short, long = net.sides
            transform = FitTransform(short, long, mirror=recipe.mirror, mean=mean, std=std)
        return DetectionLoader(
            dataset, transform, recipe.batch_size, shuffle=True, seed=recipe.seed,
            workers=workers, last="discard",
        )  # fmt: skip

    def judge(self, score: str, dataset: Any) -> tuple[str, str]:
        images = set(dataset.image_ids)
        shown = {
            a["category_id"] for a in dataset.coco.anns.values()
            if a["image_id"] in images and not a.get("iscrowd")
        }  # fmt: skip
        missing = [n for n, c in zip(dataset.class_names, dataset.category_ids) if c not in shown]
        if not shown:
            return f"{dataset.annotation} has no box that counts (crowds do not)", ""
        return "", f"{some(missing)} (no box)" if missing else ""

    def stats(self, dataset: Any, records: Sequence[Record]) -> dict[str, float]:
        found: dict[str, float] = evaluate_detections(
            dataset.coco, records, dataset.image_ids
        ).stats
        return found

    def write(self, records: Sequence[Record], dataset: Any, stem: str) -> Result:
        return write_scores(records, dataset, stem)

    def find(self, recipe: Recipe, net: Any, dataset: Any, ctx: Any, workers: int) -> list[Record]:
        transform = eval_transform(net, recipe.mean, recipe.std)
        return detect(
            net, dataset, transform, ctx, batch_size=recipe.batch_size, workers=workers,
            progress=True,
        )  # fmt: skip

    def evaluate(self, source: Any, dataset: Any, asked: Asked) -> Result:
        if isinstance(source, Exported):
            net = ExportedDetector(source.directory, asked.ctx)
            mean, std = net.entry["mean"], net.entry["std"]
        else:
            net, mean, std = source.net, source.preprocess["mean"], source.preprocess["std"]
        found = detect(
            net, dataset, eval_transform(net, mean, std), asked.ctx, batch_size=asked.batch_size,
            workers=asked.workers, progress=True,
        )  # fmt: skip
        return write_scores(found, dataset, os.path.join(asked.out, asked.stem))

    def export(
        self, trained: Trained, directory: str, name: str, *, threshold: float = 0.5,
        with_maps: bool = False, overwrite: bool = False, variants: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        export_detector(
            trained.net, directory, name, trained.classes, preprocess=trained.preprocess,
            extra=trained.extra, overwrite=overwrite,
        )  # fmt: skip

    def predict(self, source: Exported, options: Any) -> Predicted:
        for name in ("boxes", "heatmaps"):
            if getattr(options, name):
                raise ValueError(
                    f"--{name}: this export finds boxes itself; draw them with --draw DIR"
                )
        exports.refuse_backend(options.backend, "detectors")
        threshold = 0.5 if options.threshold is None else options.threshold
        detector = ExportedDetector(source.directory, exports.context_of(options.ctx))
        records = detect_files(
            detector, files.find_images(options.images), threshold, options.on_bad_image,
            draw=options.draw,
        )  # fmt: skip
        contents = {"export": detector.name, "classes": list(detector.class_names)}
        contents.update(threshold=threshold, pictures=records)
        return Predicted(
            records, functools.partial(format_table, records),
            functools.partial(json_text, contents), functools.partial(to_csv, records),
        )  # fmt: skip


TASKS.register("detection")(Detection())


def eval_transform(net: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Return the transform of evaluation for a net or an export's description of one."""
    if net.fit == "stretch":
        return StretchTransform(net.input_size[0], mean, std)
    short, long = net.sides
    return FitTransform(short, long, mean=mean, std=std)


def detect(
    net: Any, dataset: Any, transform: Any, ctx: Any, *,
    batch_size: int = 32, workers: int = 2, progress: bool = False,
) -> list[Record]:  # fmt: skip
    """Return official result records of every image of a CocoDetection.

    ``net`` is a detector, or any function from images to classes, scores and boxes.
    """
    loader = DetectionLoader(dataset, transform, batch_size, workers=workers, last="pad")

    def run(batch: Batch) -> Any:
        return net(batch.image.as_in_context(ctx))[:3]

    records = []
    for outputs, batch in one_behind(loader, run, "detecting", progress):
        classes, scores, boxes = (array.asnumpy() for array in outputs)
        for row, i in enumerate(batch.index.tolist()):
            if i == PADDING:
                continue
            known = classes[row] >= 0
            width, height = dataset.size(i)
            corners = to_image(boxes[row][known], width, height, transform)
            for number, score, box in zip(classes[row][known], scores[row][known], corners):
                records.append({
                    "image_id": dataset.image_ids[i],
                    "category_id": dataset.category_ids[int(number)],
                    "bbox": xywh(box), "score": float(score),
                })  # fmt: skip
    return records


def to_image(boxes: np.ndarray, width: float, height: float, transform: Any) -> np.ndarray:
    """Return boxes ``(N, 4)``, corners in the net's input, in pixels of the image, cut at its
    border.
    """
    x, y = transform.scale(width, height)
    boxes = np.asarray(boxes, np.float64) / (x, y, x, y)
    return np.clip(boxes, 0, (width, height, width, height))


def xywh(box: np.ndarray) -> list[float]:
    """Return corners as x, y, width, height."""
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]


def write_scores(records: Sequence[Record], dataset: Any, stem: str) -> Result:
    """Evaluate records; ``stem.md`` has the table and AP per class."""
    found = evaluate_detections(dataset.coco, records, dataset.image_ids)
    values = finite({"stats": found.stats, "per_class": found.per_class})
    values.update(images=found.images, detections=found.records)
    lines = [f"# Boxes on {dataset.split}, {found.images} pictures", ""]
    lines += [*exports.table_lines("number", "value", found.stats), ""]
    lines += exports.table_lines("class", "AP", found.per_class)
    paths = exports.write_tables(stem, values, lines, records, kind="detections")
    logger.info(
        "%s: AP %s, AP50 %s over %d pictures; tables in %s.{md,json}", dataset.split,
        *(decimal(found.stats[name]) for name in ("AP", "AP50")), found.images, stem,
    )  # fmt: skip
    return Result(found.text, values, paths)


def export_detector(
    net: Any, directory: str, name: str, classes: Sequence[str], *, preprocess: dict[str, Any],
    extra: Any = None, overwrite: bool = False, images: np.ndarray | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write a detector as an export directory; return the sidecar.

    Of ``preprocess``, ``mean`` and ``std`` count; ``images`` ``(2, 3, H, W)`` float32 are compared,
    random ones by default. Errors as of :func:`gluon_attn.coco.exports.write_export`.
    """
    view = net.with_candidates() if hasattr(net, "with_candidates") else net
    entry = input_entry(net.input_size, {key: preprocess[key] for key in ("mean", "std")})
    entry["fit"] = net.fit  # stretch: to the shape; pad: proportions kept, upper left corner
    if net.fit != "stretch":
        entry["sides"] = list(net.sides)
    images = random_batch(entry) if images is None else images
    sidecar = exports.start_sidecar("detection", name, classes, entry, threshold=0.5, extra=extra)
    return exports.write_export(
        view, directory, sidecar, {f"batch{n}": images[:n] for n in BATCHES}, kind="detections",
        fixed=False, overwrite=overwrite,
    )  # fmt: skip


class ExportedDetector:
    """A detector from an export directory; called with ``(B, 3, H, W)`` float32, it returns all
    outputs.
    """

    def __init__(self, directory: str, ctx: Any = None) -> None:
        self._block, sidecar = exports.open_export(directory, "detection", "detector", ctx)
        self.entry, self.class_names = sidecar["input"], tuple(sidecar["classes"])
        self.name, self.fit = sidecar["name"], self.entry["fit"]
        self.input_size = tuple(self.entry["shape"][2:])
        self.sides = tuple(self.entry.get("sides", ()))
        self.output_names = tuple(out["name"] for out in sidecar["outputs"])

    def __call__(self, images: Any) -> Any:
        return self._block(images)


def detect_files(
    detector: ExportedDetector, images: Sequence[files.ImageFile], threshold: float = 0.5,
    on_bad_image: str = "error", *, draw: str | None = None,
) -> list[Record]:  # fmt: skip
    """Return one record per image: ``image``, ``detections``, ``error``.

    A detection of at least the score ``threshold`` is ``{"class", "score", "box": [x, y, w, h]}``
    in pixels. An image that cannot be read is an OSError, or with ``on_bad_image`` 'skip' a record
    with its ``error``. ``draw``: folder for images with boxes, or None.
    """
    transform = eval_transform(detector, detector.entry["mean"], detector.entry["std"])
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    names = detector.class_names
    records: list[Record] = []
    for number, file in enumerate(tqdm(images, unit="img", disable=None)):
        image, fault = files.open_image(file, on_bad_image)
        if image is None:
            records.append({"image": file.path, "detections": [], "error": fault})
            continue
        outputs = detector(mx.nd.array(transform(image, *nothing).image[None]))[:3]
        classes, scores, boxes = (out.asnumpy()[0] for out in outputs)
        rows = (classes >= 0) & (scores >= threshold)
        boxes = to_image(boxes[rows], image.shape[1], image.shape[0], transform)
        labels, scores = classes[rows].astype(int), scores[rows]
        found = [
            {"class": names[k], "score": round(float(s), 6),
             "box": [round(value, 3) for value in xywh(b)]}
            for b, k, s in zip(boxes, labels, scores)
        ]  # fmt: skip
        records.append({"image": file.path, "detections": found, "error": None})
        if draw:
            drawn = draw_boxes(image, boxes, labels, scores, class_names=names)
            files.write_png(draw, number, file.path, drawn)
    return records


def format_table(records: Sequence[Record]) -> str:
    """Return the detections as text, a line each."""
    shown = files.short_names(records)
    rows = [
        [shown[record["image"]], found["class"], f"{found['score']:.3f}",
         *(f"{v:.0f}" for v in found["box"])]
        for record in records for found in record["detections"]
    ]  # fmt: skip
    head = ["image", "class", "score", "x", "y", "w", "h"]
    table = tabulate(rows, head, "simple", disable_numparse=True)
    return "\n".join([table, *files.skipped_lines(records)])


def to_csv(records: Sequence[Record]) -> str:
    """Return the records as CSV text: image, class, score, x, y, w, h, error."""
    rows: list[list[Any]] = []
    for record in records:
        for found in record["detections"]:
            box = [f"{v:.2f}" for v in found["box"]]
            rows.append([record["image"], found["class"], f"{found['score']:.6f}", *box, ""])
        if record["error"]:
            rows.append([record["image"], *[""] * 6, record["error"]])
    return files.csv_text(["image", "class", "score", "x", "y", "w", "h", "error"], rows)
