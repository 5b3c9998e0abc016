"""Keypoints: batches, validation, COCO's evaluation, exports and predictions.

A recipe's ``input_size`` is the height of the input; its width is three quarters of it. People are
cut out of their images by one affine map, so ``resize``, ``crop_*`` and ``eval_crop`` are not used;
``scale``, ``rotation`` and the other settings are options of the method ``simple_pose``. An export
is the graph from image to heat-maps; what is done around it (cutting out, flip test, reading of
places) is plain NumPy, and its settings stand in the sidecar under ``keypoints``.
"""

from __future__ import annotations

import collections
import functools
import logging
import os
from typing import Any, Dict, NamedTuple, Sequence

import mxnet as mx
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from gluon_attn.coco import exports
from gluon_attn.coco.keypoints import SimplePoseMethod, decode, flip_back, person_scores
from gluon_attn.coco.keypoints_batches import (
    STRIDE,
    People,
    PeopleLoader,
    PoseEvalTransform,
    PoseLoader,
    PoseTrainTransform,
    invert,
    region_of,
    transform,
)
from gluon_attn.coco.keypoints_boxes import boxes_of_images, detected_people
from gluon_attn.coco.metrics import SIGMAS, evaluate_keypoints, oks_suppression
from gluon_attn.coco.names import KEYPOINTS, mirror_pairs
from gluon_attn.core.batch import PADDING, Batch
from gluon_attn.core.files import finite, json_text
from gluon_attn.core.images import box_window, unit_doubt
from gluon_attn.core.recipe import Recipe
from gluon_attn.export.parity import ROWS, random_batch
from gluon_attn.export.sidecar import check_classes, input_entry
from gluon_attn.figures.detections import draw_boxes, draw_keypoints
from gluon_attn.metrics.tables import decimal
from gluon_attn.task import TASKS, Asked, Exported, Predicted, Result, Trained
from gluon_attn.tasks import images as files
from gluon_attn.tasks.data import in_epochs, one_behind

logger = logging.getLogger("gluon_attn.keypoints")

SCORES = {"mAP": "AP", "AP50": "AP50", "AP75": "AP75", "AR": "AR"}  # of a validation, for the log
THRESHOLD = 0.2  # height from which a keypoint is drawn; that of Simple Baselines' scores
Record = Dict[str, Any]


class Reading(NamedTuple):
    """How people are cut out for a net and places read from its heat-maps (SimplePoseMethod's
    options).
    """

    margin: float = 1.25
    refine: str = "dark"
    flip_test: bool = True
    flip_shift: str = "subpixel"
    suppression: float = 0.9

    @classmethod
    def of(cls, options: dict[str, Any]) -> Reading:
        options = dict(SimplePoseMethod.OPTIONS, **options)
        return cls(**{name: options[name] for name in cls._fields})

    @classmethod
    def of_net(cls, trained: Trained) -> Reading:
        recipe = trained.extra.get("recipe", {})
        known = recipe.get("method") == "simple_pose"
        return cls.of(recipe.get("options", {}) if known else {})


class Keypoints(exports.CocoTask):
    """Places of keypoints of people, by COCO's rules."""

    name = "keypoints"
    scores, measured = tuple(SCORES), SCORES
    class_names = tuple(KEYPOINTS)
    kinds = ("coco_keypoints",)
    columns = "keypoints"
    forms = ("onnx",)

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

    def stats(self, dataset: Any, records: Sequence[Record]) -> dict[str, float]:
        found: dict[str, float] = evaluate_keypoints(dataset.coco, records).stats
        return found

    def write(self, records: Sequence[Record], dataset: Any, stem: str) -> Result:
        return write_scores(records, dataset, stem)

    def find(self, recipe: Recipe, net: Any, dataset: Any, ctx: Any, workers: int) -> list[Record]:
        finder = PoseFinder(
            net, net.input_size, dataset.names, mean=recipe.mean, std=recipe.std,
            reading=Reading.of(recipe.options), ctx=ctx,
        )  # fmt: skip
        people = People.of(dataset)
        found = finder(people, recipe.batch_size, workers, progress=True)
        return finder.records(people, *found, dataset.category_id)

    def evaluate(self, source: Any, dataset: Any, asked: Asked) -> Result:
        if isinstance(source, Exported):
            finder = finder_of_export(source.directory, asked.ctx)
        else:
            values = source.preprocess
            finder = PoseFinder(
                source.net, values["size"], source.classes, mean=values["mean"],
                std=values["std"], reading=Reading.of_net(source), ctx=asked.ctx,
            )  # fmt: skip
        people = detected_people(dataset, asked.boxes) if asked.boxes else People.of(dataset)
        found = finder(people, asked.batch_size, asked.workers, progress=True)
        records = finder.records(people, *found, dataset.category_id)
        boxes = f"boxes of {asked.boxes}" if asked.boxes else "annotated boxes"
        done = write_scores(records, dataset, os.path.join(asked.out, asked.stem), boxes)
        lines = [f"skipped: image {number}: {why}" for number, why in people.skipped]
        return done._replace(text="\n".join([done.text, *lines]))

    def export(
        self, trained: Trained, directory: str, name: str, *, threshold: float = 0.5,
        with_maps: bool = False, overwrite: bool = False, variants: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        export_pose(
            trained.net, directory, name, trained.classes, preprocess=trained.preprocess,
            reading=Reading.of_net(trained), extra=trained.extra, overwrite=overwrite,
            variants=variants,
        )  # fmt: skip

    def predict(self, source: Exported, options: Any) -> Predicted:
        if options.heatmaps:
            raise ValueError(
                "--heatmaps: this export has no attention maps; draw keypoints: --draw"
            )
        exports.refuse_backend(options.backend, "keypoint nets")
        finder = finder_of_export(source.directory, exports.context_of(options.ctx))
        threshold = THRESHOLD if options.threshold is None else options.threshold
        found, boxes, scores = files.find_images(options.images), None, None
        if options.boxes:
            found, boxes, scores = boxes_of_images(found, options.boxes)
        records = find_in_files(
            finder, found, boxes, scores, threshold=threshold, draw=options.draw,
            on_bad_image=options.on_bad_image, batch_size=options.batch_size,
        )  # fmt: skip
        contents = {"export": source.sidecar["name"], "keypoints": source.sidecar["classes"]}
        contents.update(threshold=threshold, people=records)
        return Predicted(
            records, functools.partial(format_table, records, finder.names, threshold),
            functools.partial(json_text, contents),
            functools.partial(to_csv, records, finder.names),
        )  # fmt: skip


TASKS.register("keypoints")(Keypoints())


class PoseFinder:
    """Finds keypoints of people with a net.

    Args:
        net: Function from images ``(B, 3, H, W)`` to heat-maps ``(B, K, H / 4, W / 4)``.
        names: K keypoint names; a mirror exchanges those that differ in 'left' and 'right'.
        mean, std: Of the input, RGB, in grey levels.
    """

    def __init__(
        self, net: Any, size: Sequence[int], names: Sequence[str], *, mean: Sequence[float],
        std: Sequence[float], reading: Reading | None = None, ctx: Any = None,
    ) -> None:  # fmt: skip
        self.net, self.names, self.reading = net, tuple(names), reading or Reading()
        self.transform = PoseEvalTransform(size, self.reading.margin, mean, std)
        self.pairs, self.ctx = mirror_pairs(self.names), ctx or mx.cpu()

    def __call__(
        self, people: People, batch_size: int = 32, workers: int = 2, progress: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return places ``(N, K, 2)`` in pixels of the images and heights ``(N, K)``.

        Rows of people whose image cannot be read are NaN and 0.
        """
        count, joints = len(people), len(self.names)
        places, heights = np.full((count, joints, 2), np.nan), np.zeros((count, joints))
        if not count:
            return places, heights
        loader = PeopleLoader(people, self.transform, batch_size, workers=workers)
        for outputs, batch in one_behind(loader, self._run, "keypoints", progress):
            rows = (batch.index != PADDING) & (batch.mask.asnumpy()[:, 0] > 0)
            found = self.read([out.asnumpy()[rows] for out in outputs])
            for i, place, height in zip(batch.index[rows], *found):
                matrix = invert(self.transform.matrix(people.boxes[i]))
                places[i], heights[i] = transform(place * STRIDE, matrix), height
        return places, heights

    def _run(self, batch: Batch) -> list[Any]:
        return self.heatmaps(batch.image.as_in_context(self.ctx))

    def heatmaps(self, images: Any) -> list[Any]:
        """Return the heat-maps of images and, for the flip test, of the mirrored ones."""
        outputs = [self.net(images)]
        if self.reading.flip_test:
            outputs.append(self.net(mx.nd.flip(images, axis=3)))
        return [out[0] if isinstance(out, (list, tuple)) else out for out in outputs]

    def read(self, heatmaps: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return places in pixels of the heat-map, and heights, of what :meth:`heatmaps` gave."""
        maps = heatmaps[0]
        if len(heatmaps) > 1:
            maps = (maps + flip_back(heatmaps[1], self.pairs, self.reading.flip_shift)) / 2
        places, heights = decode(maps, self.reading.refine)
        return places, heights

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
            widths = [region_of(people.boxes[i], size, self.reading.margin).width for i in rows]
            areas = np.square(widths) * size[0] / size[1]
            if len(self.names) == len(SIGMAS):
                kept = oks_suppression(places[rows], scores[rows], areas, self.reading.suppression)
                rows = rows[kept]
            for i in rows:
                table = np.column_stack([places[i], heights[i]])
                found.append({
                    "image_id": number, "category_id": category_id,
                    "keypoints": [round(float(v), 4) for v in table.ravel()],
                    "score": float(scores[i]),
                })  # fmt: skip
        return found


def write_scores(
    records: Sequence[Record], dataset: Any, stem: str, source: str = "annotated boxes"
) -> Result:
    """Evaluate records; ``source`` says where the boxes of the people come from."""
    found = evaluate_keypoints(dataset.coco, records)
    values = {
        "stats": finite(found.stats), "images": found.images, "people": found.records,
        "boxes": source,
    }  # fmt: skip
    lines = [f"# Keypoints on {dataset.split}, {found.images} pictures, {source}", ""]
    lines += [line for note in found.notes for line in (note, "")]
    lines += exports.table_lines("number", "value", found.stats)
    paths = exports.write_tables(stem, values, lines, records, kind="keypoints")
    logger.info(
        "%s: AP %s, AP50 %s over %d pictures (%s); tables in %s.{md,json}", dataset.split,
        *(decimal(found.stats[name]) for name in ("AP", "AP50")), found.images, source, stem,
    )  # fmt: skip
    return Result("\n".join([found.text, f"({source})", *found.notes]), values, paths)


def export_pose(
    net: Any, directory: str, name: str, names: Sequence[str], *, preprocess: dict[str, Any],
    reading: Reading | None = None, extra: Any = None, overwrite: bool = False,
    variants: Sequence[Any] = (),
) -> dict[str, Any]:  # fmt: skip
    """Write a keypoint net as an export directory; return the sidecar.

    ``names`` of the keypoints are in the order of the heat-maps; a ValueError for another number of
    them. Of ``preprocess``, ``mean`` and ``std`` count; ``reading`` is what users of the export
    get. Errors as of :func:`gluon_attn.coco.exports.write_export`.
    """
    names = check_classes(names)
    if len(names) != net.classes:
        raise ValueError(f"{len(names)} keypoint names for {net.classes} heat-maps")
    entry = input_entry(net.input_size, {key: preprocess[key] for key in ("mean", "std")})
    images = random_batch(entry)
    sidecar = exports.start_sidecar(
        "keypoints", name, names, entry, threshold=THRESHOLD, extra=extra
    )
    sidecar["keypoints"] = (reading or Reading())._asdict()
    return exports.write_export(
        net, directory, sidecar, {key: images[rows] for key, rows in ROWS.items()},
        kind="heatmaps", fixed=True, overwrite=overwrite, variants=variants,
    )  # fmt: skip


def finder_of_export(directory: str, ctx: Any = None) -> PoseFinder:
    """Return the PoseFinder of an export directory."""
    block, sidecar = exports.open_export(directory, "keypoints", "keypoint net", ctx)
    entry = sidecar["input"]
    return PoseFinder(
        block, tuple(entry["shape"][2:]), sidecar["classes"], mean=entry["mean"],
        std=entry["std"], reading=Reading(**sidecar["keypoints"]), ctx=ctx,
    )  # fmt: skip


def find_in_files(
    finder: PoseFinder, images: Sequence[files.ImageFile], boxes: Sequence[Any] | None = None,
    scores: Sequence[Any] | None = None, *, threshold: float = THRESHOLD,
    on_bad_image: str = "error", draw: str | None = None, batch_size: int = 32,
) -> list[Record]:  # fmt: skip
    """Return one record per person.

    Args:
        boxes: For each image a list of ``[x, y, w, h]`` in pixels of the upright image; None: the
            whole image is one person. ``scores``: those of its boxes, or None.
        threshold: Height from which a keypoint is drawn.
        on_bad_image: 'error' (OSError; ValueError for a box that shows nothing of its image), or
            'skip', which keeps the record of such an image or box with its ``error``.
        draw: Folder for images with keypoints, and boxes if given, drawn in; or None.

    Returns dicts: ``image``, ``box`` or None, ``score``, ``error``, and ``keypoints``, a list of
    ``[x, y, height]`` in pixels of the image.
    """
    records: list[Record] = []
    _warn_of_units(images, boxes)
    for number, file in enumerate(tqdm(images, unit="img", disable=None)):
        image, fault = files.open_image(file, on_bad_image)
        if image is None:
            records.append(_record(file.path, error=fault))
            continue
        given: Sequence[Any] = [None] if boxes is None else boxes[number]
        weights = [1.0] * len(given) if scores is None else scores[number]
        faults = [None if box is None else _fault(box, image, file.path) for box in given]
        if any(faults) and on_bad_image == "error":
            raise ValueError(next(filter(None, faults)))
        records += [_record(file.path, box, error=why) for box, why in zip(given, faults) if why]
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
            records.append(_record(file.path, box, round(float(total), 6), points))
        if draw:
            if boxes is not None:
                image = draw_boxes(
                    image, corners, [0] * len(corners), totals, class_names=["person"]
                )
            drawn = draw_keypoints(image, tables, threshold=threshold)
            files.write_png(draw, number, file.path, drawn)
    return records


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


def _warn_of_units(images: Sequence[files.ImageFile], boxes: Sequence[Any] | None) -> None:
    doubts = (
        unit_doubt(box, file.path) for file, given in zip(images, boxes or ()) for box in given
    )
    first = next(filter(None, doubts), None)
    if first:
        logger.warning("%s", first)


def format_table(
    records: Sequence[Record], names: Sequence[str], threshold: float = THRESHOLD
) -> str:
    """Return a line per person: image, box, score, number of clear keypoints."""
    rows, shown = [], files.short_names(records)
    for record in records:
        if record["error"]:
            continue
        box = "" if record["box"] is None else ",".join(f"{v:g}" for v in record["box"])
        clear = sum(height > threshold for _, _, height in record["keypoints"])
        count = f"{clear} of {len(names)}"
        rows.append([shown[record["image"]], box, f"{record['score']:.3f}", count])
    head = ["image", "box", "score", f"keypoints above {threshold:g}"]
    table = [tabulate(rows, head, "simple", disable_numparse=True)] if rows else []
    return "\n".join([*table, *files.skipped_lines(records)])


def to_csv(records: Sequence[Record], names: Sequence[str]) -> str:
    """Return the records as CSV text: image, x, y, w, h, score, three columns per keypoint."""
    columns = [f"{name}_{what}" for name in names for what in ("x", "y", "height")]
    rows = []
    for record in records:
        values = [f"{v:.3f}" for row in record["keypoints"] for v in row] or [""] * len(columns)
        score = "" if record["error"] else f"{record['score']:.6f}"
        start = [record["image"], *files.box_cells(record), score]
        rows.append([*start, *values, record["error"] or ""])
    return files.csv_text(["image", "x", "y", "w", "h", "score", *columns, "error"], rows)
