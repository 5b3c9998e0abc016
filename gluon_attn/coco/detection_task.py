"""Detection: batches, what finds boxes on a split and in files, and how they are shown.

A recipe's ``input_size`` is the side of SSD's square input, or for nets that keep proportions the
shorter side of the image; ``model_options.long_size`` then bounds the longer one. An export is the
whole graph, suppression included; its outputs are classes, scores and boxes after suppression, and
for SSD the candidates before it.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator, Sequence

import mxnet as mx
import numpy as np
from tabulate import tabulate

from gluon_attn.coco.detection_batches import (
    DetectionLoader,
    FitTransform,
    SsdTransform,
    StretchTransform,
)
from gluon_attn.coco.metrics import CocoResult, evaluate_detections
from gluon_attn.coco.names import CATEGORIES
from gluon_attn.coco.task import CocoTask, Record, Sidecar
from gluon_attn.core.batch import PADDING, Batch
from gluon_attn.core.recipe import Recipe
from gluon_attn.figures.detections import draw_boxes
from gluon_attn.task import TASKS, Asked
from gluon_attn.tasks import images as files
from gluon_attn.tasks.attributes import some
from gluon_attn.tasks.data import one_behind, share_out

DRAWN = "finds boxes itself; draw them with --draw DIR"


class Detector:
    """Finds boxes with a net: image ``(B, 3, H, W)`` to classes, scores, boxes, and what follows.

    ``sidecar`` is that of an export, or what describes a net in its place.
    """

    def __init__(self, net: Any, sidecar: Sidecar, ctx: Any = None) -> None:
        entry, self.names = sidecar["input"], tuple(sidecar["classes"])
        pixels: dict[str, Any] = {key: entry[key] for key in ("mean", "std")}
        self.net, self.ctx = net, ctx or mx.cpu()
        self.transform: Any
        if entry["fit"] == "stretch":
            self.transform = StretchTransform(entry["shape"][2], **pixels)
        else:
            self.transform = FitTransform(*entry["sides"], **pixels)

    def __call__(self, dataset: Any, batch_size: int = 32, workers: int = 2) -> list[Record]:
        """Return official result records of every image of a CocoDetection.

        Of several workers each runs its rows of every batch, and all return the same.
        """
        loader = DetectionLoader(dataset, self.transform, batch_size, workers=workers, last="pad")
        group, seen = share_out(loader), np.zeros(len(dataset), np.float32)
        whole: list[np.ndarray] = []
        for outputs, batch in one_behind(loader, self._run, "detecting"):
            rows = batch.index != PADDING
            for k, array in enumerate(out.asnumpy() for out in outputs):
                if k == len(whole):
                    whole.append(np.full((len(dataset), *array.shape[1:]), -1, array.dtype))
                whole[k][batch.index[rows]] = array[rows]
            seen[batch.index[rows]] = 1
        records = []
        for i, arrays in enumerate(zip(*group.merge("detections", whole, seen))):
            found = self._boxes(arrays, *dataset.size(i))
            records += [
                {"image_id": dataset.image_ids[i],
                 "category_id": dataset.category_ids[int(number)],
                 "bbox": xywh(box), "score": float(score)}
                for number, score, box in zip(*found)
            ]  # fmt: skip
        return records

    def in_image(self, image: np.ndarray, threshold: float) -> tuple[np.ndarray, ...]:
        """Return classes, scores and boxes, corners in pixels, of scores from ``threshold`` on."""
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        outputs = self.net(mx.nd.array(self.transform(image, *nothing).image[None]))[:3]
        arrays = [out.asnumpy()[0] for out in outputs]
        return self._boxes(arrays, image.shape[1], image.shape[0], threshold)

    def _run(self, batch: Batch) -> Any:
        return self.net(batch.image.as_in_context(self.ctx))[:3]

    def _boxes(
        self, arrays: Sequence[np.ndarray], width: int, height: int, threshold: float = -np.inf
    ) -> tuple[np.ndarray, ...]:
        classes, scores, boxes = arrays
        rows = (classes >= 0) & (scores >= threshold)
        x, y = self.transform.scale(width, height)
        boxes = np.asarray(boxes[rows], np.float64) / (x, y, x, y)
        boxes = np.clip(boxes, 0, (width, height, width, height))
        return classes[rows].astype(int), scores[rows], boxes


class Detection(CocoTask):
    """Boxes of classes, by COCO's rules."""

    name = "detection"
    measured = {"mAP": "AP", "AP50": "AP50", "AP75": "AP75"}
    scores = tuple(measured)
    class_names = tuple(CATEGORIES.values())
    kinds = ("coco",)
    parity = "plain MXNet, suppression included"
    heading, found, counted, listed = "Boxes", "detections", "detections", "pictures"
    rows, output, fixed = {f"batch{n}": slice(n) for n in (1, 2)}, "detections", False
    refused = {"boxes": DRAWN, "heatmaps": DRAWN}

    def train_loader(
        self, recipe: Recipe, dataset: Any, method: Any, workers: int, *,
        cache: bool = False, parts: int = 1,
    ) -> Any:  # fmt: skip
        net = method.net
        common: dict[str, Any] = {
            "mirror": recipe.mirror, "mean": recipe.mean, "std": recipe.std
        }  # fmt: skip
        transform: Any
        if net.fit == "stretch":
            chosen = {name: method.options[name] for name in ("expand", "crop", "colour")}
            transform = SsdTransform(net.input_size[0], **common, **chosen)
        else:
            transform = FitTransform(*net.sides, **common)
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

    def input_of(self, net: Any) -> dict[str, Any]:
        # stretch: to the shape; pad: proportions kept, upper left corner
        return {"fit": net.fit} if net.fit == "stretch" else {"fit": net.fit, "sides": [*net.sides]}

    def finder(self, net: Any, sidecar: Sidecar, ctx: Any) -> Detector:
        return Detector(net, sidecar, ctx)

    def find(self, finder: Any, dataset: Any, asked: Asked) -> tuple[list[Record], list[str]]:
        return finder(dataset, asked.batch_size, asked.workers), []

    def measure(self, dataset: Any, records: Sequence[Record]) -> CocoResult:
        return evaluate_detections(dataset.coco, records, dataset.image_ids)

    def find_in_files(
        self, finder: Any, options: Any, threshold: float
    ) -> tuple[list[str], Any, Callable[[range], Iterable[Record]]]:
        images = files.find_images(options.images)

        def find(some: range) -> Iterator[Record]:
            return detect_files(
                finder, images, threshold, options.on_bad_image, draw=options.draw, some=some
            )

        return [image.path for image in images], None, find

    def table(self, head: Record, records: Sequence[Record]) -> str:
        shown = files.short_names(records)
        rows = [
            [shown[record["image"]], found["class"], f"{found['score']:.3f}",
             *(f"{v:.0f}" for v in found["box"])]
            for record in records for found in record["detections"]
        ]  # fmt: skip
        columns = ["image", "class", "score", *files.BOX_COLUMNS[1:]]
        table = tabulate(rows, columns, "simple", disable_numparse=True)
        return "\n".join([table, *files.skipped_lines(records)])

    def csv(self, head: Record, records: Iterable[Record]) -> Iterator[Sequence[Any]]:
        yield ["image", "class", "score", *files.BOX_COLUMNS[1:], "error"]
        for record in records:
            for found in record["detections"]:
                box = [f"{v:.2f}" for v in found["box"]]
                yield [record["image"], found["class"], f"{found['score']:.6f}", *box, ""]
            if record["error"]:
                yield [record["image"], *[""] * 6, record["error"]]


TASKS.register("detection")(Detection())


def xywh(box: np.ndarray) -> list[float]:
    """Return corners as x, y, width, height."""
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]


def detect_files(
    detector: Detector, images: Sequence[files.ImageFile], threshold: float = 0.5,
    on_bad_image: str = "error", *, draw: str | None = None, some: range | None = None,
) -> Iterator[Record]:  # fmt: skip
    """Yield one record per image, or of ``some``: ``image``, ``detections``, ``error``.

    A detection of at least the score ``threshold`` is ``{"class", "score", "box": [x, y, w, h]}``
    in pixels. An image that cannot be read is an OSError, or with ``on_bad_image`` 'skip' a record
    with its ``error``. ``draw``: folder for images with boxes, or None.
    """
    for number in range(len(images)) if some is None else some:
        file = images[number]
        image, fault = files.open_image(file, on_bad_image)
        record: Record = {"image": file.path, "detections": [], "error": fault}
        if image is None:
            yield record
            continue
        labels, scores, boxes = detector.in_image(image, threshold)
        record["detections"] = [
            {"class": detector.names[k], "score": round(float(s), 6),
             "box": [round(value, 3) for value in xywh(b)]}
            for k, s, b in zip(labels, scores, boxes)
        ]  # fmt: skip
        if draw:
            drawn = draw_boxes(image, boxes, labels, scores, class_names=detector.names)
            files.write_png(draw, number, file.path, drawn)
        yield record
