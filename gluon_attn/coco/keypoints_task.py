"""Keypoints: batches, what finds them on a split and in files, and how they are shown.

A recipe's ``input_size`` is the height of the input; its width is three quarters of it. People are
cut out of their images by one affine map, so ``resize``, ``crop_*`` and ``eval_crop`` are not used;
``scale``, ``rotation`` and the other settings are options of the method ``simple_pose``. An export
is the graph from image to heat-maps; what is done around it (cutting out, flip test, reading of
places) is plain NumPy, and its settings stand in the sidecar under ``keypoints``.
"""

from __future__ import annotations

import collections
import logging
from typing import Any, Callable, Iterable, Iterator, Sequence

import cv2
import mxnet as mx
import numpy as np
from tabulate import tabulate

from gluon_attn.coco.keypoints import SimplePoseMethod, decode, flip_back, person_scores
from gluon_attn.coco.keypoints_batches import (
    STRIDE,
    People,
    PeopleLoader,
    PoseEvalTransform,
    PoseLoader,
    PoseTrainTransform,
    region_of,
    transform,
)
from gluon_attn.coco.keypoints_boxes import boxes_of_images, detected_people
from gluon_attn.coco.metrics import SIGMAS, CocoResult, evaluate_keypoints, oks_suppression
from gluon_attn.coco.names import KEYPOINTS, mirror_pairs
from gluon_attn.coco.task import CocoTask, Record, Sidecar
from gluon_attn.core.batch import PADDING, Batch
from gluon_attn.core.images import box_window, unit_doubt
from gluon_attn.core.recipe import Recipe
from gluon_attn.figures.detections import draw_boxes, draw_keypoints
from gluon_attn.task import TASKS, Asked, Trained
from gluon_attn.tasks import images as files
from gluon_attn.tasks.data import in_epochs, one_behind, share_out

logger = logging.getLogger("gluon_attn.keypoints")

# How people are cut out for a net and places read from its heat-maps: options of SimplePoseMethod.
READING = ("margin", "refine", "flip_test", "flip_shift", "suppression")
THRESHOLD = 0.2  # height from which a keypoint is drawn; that of Simple Baselines' scores


class Keypoints(CocoTask):
    """Places of keypoints of people, by COCO's rules."""

    name = "keypoints"
    measured = {"mAP": "AP", "AP50": "AP50", "AP75": "AP75", "AR": "AR"}
    scores = tuple(measured)
    class_names = tuple(KEYPOINTS)
    kinds = ("coco_keypoints",)
    columns = "keypoints"
    forms = ("onnx",)
    heading, found, counted, listed = "Keypoints", "keypoints", "people", "people"
    boxes_given, threshold, output = True, THRESHOLD, "heatmaps"
    refused = {"heatmaps": "has no attention maps; draw keypoints: --draw"}

    def train_loader(
        self, recipe: Recipe, dataset: Any, method: Any, workers: int, *,
        cache: bool = False, parts: int = 1,
    ) -> Any:  # fmt: skip
        chosen = ("scale", "rotation", "rotated", "sigma", "encoding", "margin")
        cut = PoseTrainTransform(
            method.net.input_size, dataset.flip_pairs, recipe.mirror, mean=recipe.mean,
            std=recipe.std, **{name: method.options[name] for name in chosen},
        )  # fmt: skip
        loader = PoseLoader(
            dataset, cut, recipe.batch_size, shuffle=True, seed=recipe.seed, workers=workers,
            last="discard",
        )  # fmt: skip
        return in_epochs(loader, recipe)

    def settings_of(self, trained: Trained) -> dict[str, Any]:
        recipe = trained.extra.get("recipe", {})
        known = recipe.get("options", {}) if recipe.get("method") == "simple_pose" else {}
        options = {**SimplePoseMethod.OPTIONS, **known}
        return {"keypoints": {name: options[name] for name in READING}}

    def finder(self, net: Any, sidecar: Sidecar, ctx: Any) -> PoseFinder:
        return PoseFinder(net, sidecar, ctx)

    def find(self, finder: Any, dataset: Any, asked: Asked) -> tuple[list[Record], list[str]]:
        people = detected_people(dataset, asked.boxes) if asked.boxes else People.of(dataset)
        found = finder(people, asked.batch_size, asked.workers)
        skipped = [f"skipped: image {number}: {why}" for number, why in people.skipped]
        return finder.records(people, *found, dataset.category_id), skipped

    def measure(self, dataset: Any, records: Sequence[Record]) -> CocoResult:
        return evaluate_keypoints(dataset.coco, records)

    def find_in_files(
        self, finder: Any, options: Any, threshold: float
    ) -> tuple[list[str], Any, Callable[[range], Iterable[Record]]]:
        found, boxes, scores = files.find_images(options.images), None, None
        if options.boxes:
            found, boxes, scores = boxes_of_images(found, options.boxes)

        def find(some: range) -> Iterator[Record]:
            return find_in_files(
                finder, found, boxes, scores, threshold=threshold, draw=options.draw,
                on_bad_image=options.on_bad_image, batch_size=options.batch_size, some=some,
            )  # fmt: skip

        return [image.path for image in found], boxes and list(zip(boxes, scores or boxes)), find

    def table(self, head: Record, records: Sequence[Record]) -> str:
        rows, shown, threshold = [], files.short_names(records), head["threshold"]
        for record in (r for r in records if not r["error"]):
            box = "" if record["box"] is None else ",".join(f"{v:g}" for v in record["box"])
            clear = sum(height > threshold for _, _, height in record["keypoints"])
            count = f"{clear} of {len(head[self.columns])}"
            rows.append([shown[record["image"]], box, f"{record['score']:.3f}", count])
        columns = ["image", "box", "score", f"keypoints above {threshold:g}"]
        table = [tabulate(rows, columns, "simple", disable_numparse=True)] if rows else []
        return "\n".join([*table, *files.skipped_lines(records)])

    def csv(self, head: Record, records: Iterable[Record]) -> Iterator[Sequence[Any]]:
        names = head[self.columns]
        columns = [f"{name}_{what}" for name in names for what in ("x", "y", "height")]
        yield ["image", *files.BOX_COLUMNS[1:], "score", *columns, "error"]
        for record in records:
            values = [f"{v:.3f}" for row in record["keypoints"] for v in row] or [""] * len(columns)
            score = "" if record["error"] else f"{record['score']:.6f}"
            start = [record["image"], *files.box_cells(record), score]
            yield [*start, *values, record["error"] or ""]


TASKS.register("keypoints")(Keypoints())


class PoseFinder:
    """Finds keypoints of people with a net: images ``(B, 3, H, W)`` to ``(B, K, H / 4, W / 4)``.

    ``sidecar`` is that of an export, or what describes a net in its place. A mirror exchanges
    keypoints whose names differ only in 'left' and 'right'.
    """

    def __init__(self, net: Any, sidecar: Sidecar, ctx: Any = None) -> None:
        entry, self.names = sidecar["input"], tuple(sidecar["classes"])
        self.net, self.ctx = net, ctx or mx.cpu()
        self.reading = {**SimplePoseMethod.OPTIONS, **sidecar["keypoints"]}
        self.transform = PoseEvalTransform(
            entry["shape"][2:], self.reading["margin"], entry["mean"], entry["std"]
        )
        self.pairs = mirror_pairs(self.names)

    def __call__(
        self, people: People, batch_size: int = 32, workers: int = 2
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return places ``(N, K, 2)`` in pixels of the images and heights ``(N, K)``.

        Rows of people whose image cannot be read are NaN and 0. Of several workers each runs its
        rows of every batch, and all return the same.
        """
        count, joints = len(people), len(self.names)
        places, heights = np.full((count, joints, 2), np.nan), np.zeros((count, joints))
        if not count:
            return places, heights
        loader = PeopleLoader(people, self.transform, batch_size, workers=workers)
        group, seen = share_out(loader), np.zeros(count, np.float32)
        for outputs, batch in one_behind(loader, self._run, "keypoints"):
            rows = (batch.index != PADDING) & (batch.mask.asnumpy()[:, 0] > 0)
            found = self._read(*[out.asnumpy()[rows] for out in outputs])
            for i, place, height in zip(batch.index[rows], *found):
                matrix = cv2.invertAffineTransform(self.transform.matrix(people.boxes[i]))
                places[i], heights[i] = transform(place * STRIDE, matrix), height
            seen[batch.index[rows]] = 1
        places, heights = group.merge("keypoints", (places, heights), seen)
        return places, heights

    def _run(self, batch: Batch) -> list[Any]:
        images = batch.image.as_in_context(self.ctx)
        outputs = [self.net(images)]
        if self.reading["flip_test"]:
            outputs.append(self.net(mx.nd.flip(images, axis=3)))
        return [out[0] if isinstance(out, (list, tuple)) else out for out in outputs]

    def _read(self, maps: np.ndarray, *mirrored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return places in pixels of the heat-map, and heights."""
        for other in mirrored:
            maps = (maps + flip_back(other, self.pairs, self.reading["flip_shift"])) / 2
        return decode(maps, self.reading["refine"])

    def records(
        self, people: People, places: np.ndarray, heights: np.ndarray, category_id: Any = 1
    ) -> list[Record]:
        """Return official result records; people found twice in an image are left out."""
        scores, size = person_scores(heights, people.scores), self.transform.size
        found, of_image = [], collections.defaultdict(list)
        for i, number in enumerate(people.image_ids):
            if np.isfinite(places[i]).all():
                of_image[number].append(i)
        for number, numbers in of_image.items():
            rows = np.array(numbers)
            margin, threshold = self.reading["margin"], self.reading["suppression"]
            widths = [region_of(people.boxes[i], size, margin).width for i in rows]
            areas = np.square(widths) * size[0] / size[1]
            if len(self.names) == len(SIGMAS):
                rows = rows[oks_suppression(places[rows], scores[rows], areas, threshold)]
            for i in rows:
                table = np.column_stack([places[i], heights[i]])
                found.append({
                    "image_id": number, "category_id": category_id,
                    "keypoints": [round(float(v), 4) for v in table.ravel()],
                    "score": float(scores[i]),
                })  # fmt: skip
        return found


def find_in_files(
    finder: PoseFinder, images: Sequence[files.ImageFile], boxes: Sequence[Any] | None = None,
    scores: Sequence[Any] | None = None, *, threshold: float = THRESHOLD,
    on_bad_image: str = "error", draw: str | None = None, batch_size: int = 32,
    some: range | None = None,
) -> Iterator[Record]:  # fmt: skip
    """Yield one record per person.

    Args:
        boxes: For each image a list of ``[x, y, w, h]`` in pixels of the upright image; None: the
            whole image is one person. ``scores``: those of its boxes, or None.
        threshold: Height from which a keypoint is drawn.
        on_bad_image: 'error' (OSError; ValueError for a box that shows nothing of its image), or
            'skip', which keeps the record of such an image or box with its ``error``.
        draw: Folder for images with keypoints, and boxes if given, drawn in; or None.
        some: Positions of the images that are meant; None: all.

    Records are dicts: ``image``, ``box`` or None, ``score``, ``error``, and ``keypoints``, a list
    of ``[x, y, height]`` in pixels of the image.
    """
    some = range(len(images)) if some is None else some
    if not some.start:  # said once
        pairs = ((box, file.path) for file, given in zip(images, boxes or ()) for box in given)
        doubt = next(filter(None, (unit_doubt(*pair) for pair in pairs)), None)
        if doubt:
            logger.warning("%s", doubt)
    for number in some:
        file = images[number]
        image, fault = files.open_image(file, on_bad_image)
        if image is None:
            yield _record(file.path, error=fault)
            continue
        given: Sequence[Any] = [None] if boxes is None else boxes[number]
        weights = [1.0] * len(given) if scores is None else scores[number]
        faults = [None if box is None else _fault(box, image, file.path) for box in given]
        if any(faults) and on_bad_image == "error":
            raise ValueError(next(filter(None, faults)))
        yield from (_record(file.path, box, error=why) for box, why in zip(given, faults) if why)
        good = [(box, w) for box, w, why in zip(given, weights, faults) if not why]
        if not good:
            continue
        whole = [0, 0, image.shape[1], image.shape[0]]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (box or whole for box, _ in good)]
        seen = [image]  # image 0
        people = People(seen.__getitem__, [0] * len(good), corners, [w for _, w in good])
        places, heights = finder(people, min(batch_size, len(good)), workers=0)
        totals = person_scores(heights, people.scores)
        tables = np.concatenate([places, heights[..., None]], -1)
        for (box, _), total, table in zip(good, totals, tables):
            points = [[round(float(v), 3) for v in row] for row in table]
            yield _record(file.path, box, round(float(total), 6), points)
        if draw:
            if boxes is not None:
                image = draw_boxes(
                    image, corners, [0] * len(corners), totals, class_names=["person"]
                )
            drawn = draw_keypoints(image, tables, threshold=threshold)
            files.write_png(draw, number, file.path, drawn)


def _record(
    path: str, box: Any = None, score: float | None = None, points: Sequence[Any] = (), *,
    error: str | None = None,
) -> Record:  # fmt: skip
    return {"image": path, "box": box, "score": score, "keypoints": list(points), "error": error}


def _fault(box: Sequence[float], image: np.ndarray, path: str) -> str | None:
    try:
        box_window(box, image.shape[1], image.shape[0])
    except ValueError as error:
        return f"{path}: {error}"
    return None
