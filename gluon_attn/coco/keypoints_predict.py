"""Keypoints of people in picture files, with an export: table, JSON, CSV, and drawn skeletons."""

from __future__ import annotations

import csv
import io
import logging
import os
from pathlib import Path
from typing import Sequence

import mxnet as mx
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from gluon_attn.coco.detection_predict import write_png
from gluon_attn.coco.keypoints import person_scores
from gluon_attn.coco.keypoints_batches import People
from gluon_attn.coco.keypoints_boxes import boxes_of_pictures
from gluon_attn.coco.keypoints_export import finder_of_export
from gluon_attn.core.files import json_text
from gluon_attn.core.images import box_window, unit_doubt
from gluon_attn.data.images import BadImageError, read_image
from gluon_attn.figures.detections import draw_boxes, draw_keypoints
from gluon_attn.tasks.predict import find_pictures, write_results

logger = logging.getLogger(__name__)

THRESHOLD = 0.2  # height from which a keypoint is drawn; that of Simple Baselines' scores


def predict_from_flags(options, sidecar):
    """Find keypoints, write what was asked for, and print the rest.

    Args:
        options: Flags of ``tools/predict.py``.
        sidecar: Of the export.

    Raises:
        ValueError: A flag that says nothing about keypoints.
    """
    if options.heatmaps:
        raise ValueError("--heatmaps: this export has no attention maps; draw keypoints: --draw")
    if options.backend not in ("mxnet", "auto"):
        raise ValueError(f"--backend {options.backend}: keypoint nets run on mxnet only")
    kind, _, number = options.ctx.partition(":")
    finder = finder_of_export(options.export, mx.Context(kind, int(number or 0)))
    threshold = THRESHOLD if options.threshold is None else options.threshold
    pictures, boxes, scores = find_pictures(options.images), None, None
    if options.boxes:
        pictures, boxes, scores = boxes_of_pictures(pictures, options.boxes)
    records = find_in_files(
        finder, pictures, boxes, scores, threshold, options.on_bad_image, options.draw,
        options.batch_size,
    )  # fmt: skip
    texts = [
        (options.json, lambda: to_json(sidecar, records, threshold)),
        (options.csv, lambda: to_csv(records, finder.names)),
    ]
    write_results(texts, lambda: format_table(records, finder.names, threshold))


def find_in_files(
    finder, pictures, boxes=None, scores=None, threshold=THRESHOLD, on_bad_image="error", draw=None,
    batch_size=32,
):  # fmt: skip
    """Return one record per person.

    Args:
        finder: :class:`gluon_attn.coco.keypoints_task.PoseFinder`.
        pictures: Of :func:`gluon_attn.tasks.predict.find_pictures`.
        boxes: For each picture a list of ``[x, y, w, h]`` in pixels of the upright image; None: the
            whole image is one person.
        scores: For each picture the scores of its boxes, or None.
        threshold: Height from which a keypoint is drawn.
        on_bad_image: 'error', or 'skip', which keeps the record of an image that cannot be read, or
            of a box that is not valid, with its ``error``.
        draw: Folder for pictures with keypoints, and boxes if given, drawn in; or None.
        batch_size: People in one run of the net.

    Returns:
        List of dicts: ``image``, ``box`` or None, ``score``, ``error``, and ``keypoints``, a list
        of ``[x, y, height]`` in pixels of the picture.

    Raises:
        OSError: A picture that cannot be read.
        ValueError: A box that is not valid or shows nothing of its image.
    """
    records = []
    _warn_of_units(pictures, boxes)
    for number, picture in enumerate(tqdm(pictures, unit="img", disable=None)):
        try:
            image = read_image(picture.path, picture.key)
        except BadImageError as error:
            if on_bad_image == "error":
                raise
            records.append(_record(picture.path, None, None, None, str(error)))
            continue
        given, weights = None, None if scores is None else scores[number]
        if boxes is not None:
            faults = [_fault(box, image, picture.path) for box in boxes[number]]
            if any(faults) and on_bad_image == "error":
                raise ValueError(next(filter(None, faults)))
            bad = [(box, fault) for box, fault in zip(boxes[number], faults) if fault]
            records += [_record(picture.path, box, None, None, fault) for box, fault in bad]
            given = [box for box, fault in zip(boxes[number], faults) if not fault]
            weights = weights and [w for w, fault in zip(weights, faults) if not fault]
            if not given:
                continue
        whole = [[0, 0, image.shape[1], image.shape[0]]]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (whole if given is None else given)]
        people = People(lambda _, image=image: image, [0] * len(corners), corners, weights)
        places, heights = finder(people, min(batch_size, max(1, len(corners))), workers=0)
        totals = person_scores(heights, people.scores)
        tables = np.concatenate([places, heights[..., None]], -1)
        for k, table in enumerate(tables):
            box = None if given is None else given[k]
            records.append(_record(picture.path, box, totals[k], table, None))
        if draw:
            if given is not None:
                image = draw_boxes(image, corners, [0] * len(corners), totals, ["person"])
            drawn = draw_keypoints(image, tables, threshold=threshold)
            write_png(Path(draw) / f"{number:05d}_{Path(picture.path).stem}.png", drawn)
    return records


def format_table(records, names, threshold=THRESHOLD):
    """Return a line per person: picture, box, score, number of clear keypoints."""
    rows = []
    for record in records:
        if record["error"]:
            continue
        box = "" if record["box"] is None else ",".join(f"{v:g}" for v in record["box"])
        clear = sum(height > threshold for _, _, height in record["keypoints"])
        name = os.path.basename(record["image"])
        rows.append([name, box, f"{record['score']:.3f}", f"{clear} of {len(names)}"])
    head = ["image", "box", "score", f"keypoints above {threshold:g}"]
    lines = [tabulate(rows, head, "simple", disable_numparse=True)] if rows else []
    lines += [f"skipped: {r['error']}" for r in records if r["error"]]
    return "\n".join(lines)


def to_json(sidecar, records, threshold):
    """Return the records as JSON text."""
    contents = {"export": sidecar["name"], "keypoints": sidecar["classes"]}
    contents.update(threshold=threshold, people=records)
    return json_text(contents)


def to_csv(records, names):
    """Return the records as CSV text: image, x, y, w, h, score, three columns per keypoint."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{name}_{what}" for name in names for what in ("x", "y", "height")]
    writer.writerow(["image", "x", "y", "w", "h", "score", *columns, "error"])
    for record in records:
        box = record["box"] if record["box"] is not None else [""] * 4
        if record["error"]:
            empty = [""] * (1 + len(columns))
            writer.writerow([record["image"], *box, *empty, record["error"]])
            continue
        values = [f"{v:.3f}" for row in record["keypoints"] for v in row]
        writer.writerow([record["image"], *box, f"{record['score']:.6f}", *values, ""])
    return text.getvalue()


def _record(path, box, score, table, error):
    points = [] if table is None else [[round(float(v), 3) for v in row] for row in table]
    score = None if score is None else round(float(score), 6)
    return {"image": path, "box": box, "score": score, "keypoints": points, "error": error}


def _fault(box: Sequence[float], image: np.ndarray, path: str) -> str | None:
    """Return why a box cannot be used, or None."""
    try:
        box_window(box, image.shape[1], image.shape[0])
    except ValueError as error:
        return f"{path}: {error}"
    return None


def _warn_of_units(pictures: Sequence, boxes: Sequence | None) -> None:
    """Warn of the first box that is so small that it may be in fractions."""
    for picture, given in zip(pictures, boxes or ()):
        for box in given:
            doubt = unit_doubt(box, picture.path)
            if doubt:
                logger.warning("%s", doubt)
                return
