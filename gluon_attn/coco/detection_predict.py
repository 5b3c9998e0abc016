"""Detect in picture files with an export: records as table, JSON or CSV, and drawn boxes."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from gluon_attn.coco.detection_export import ExportedDetector
from gluon_attn.coco.detection_task import eval_transform, to_picture
from gluon_attn.core.files import json_text
from gluon_attn.data.images import BadImageError, read_image
from gluon_attn.figures.detections import draw_boxes
from gluon_attn.tasks.predict import find_pictures, write_results


def predict_from_flags(options, sidecar):
    """Detect, write what was asked for, and print the rest.

    Args:
        options: Flags of ``tools/predict.py``.
        sidecar: Of the export.

    Raises:
        ValueError: A flag that says nothing about detections.
    """
    for name in ("boxes", "heatmaps"):
        if getattr(options, name):
            raise ValueError(f"--{name}: this export finds boxes itself; draw them with --draw DIR")
    if options.backend not in ("mxnet", "auto"):
        raise ValueError(f"--backend {options.backend}: detectors run on mxnet only")
    kind, _, number = options.ctx.partition(":")
    threshold = 0.5 if options.threshold is None else options.threshold
    detector = ExportedDetector(options.export, mx.Context(kind, int(number or 0)))
    records = detect_files(
        detector, find_pictures(options.images), threshold, options.on_bad_image, options.draw
    )
    texts = [
        (options.json, lambda: to_json(detector, records, threshold)),
        (options.csv, lambda: to_csv(records)),
    ]
    write_results(texts, lambda: format_table(records))


def detect_files(detector, pictures, threshold=0.5, on_bad_image="error", draw=None):
    """Return one record per picture: ``image``, ``detections``, ``error``.

    Args:
        detector: :class:`ExportedDetector`.
        pictures: Of :func:`gluon_attn.tasks.predict.find_pictures`.
        threshold: Smallest score.
        on_bad_image: 'error', or 'skip', which keeps a record with its ``error``.
        draw: Folder for pictures with drawn boxes, or None.

    Returns:
        List of dicts; a detection is ``{"class", "score", "box": [x, y, w, h]}`` in pixels.

    Raises:
        OSError: A picture that cannot be read.
    """
    transform = eval_transform(detector, detector.entry["mean"], detector.entry["std"])
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    records = []
    for number, picture in enumerate(tqdm(pictures, unit="img", disable=None)):
        try:
            image = read_image(picture.path, picture.key)
        except BadImageError as error:
            if on_bad_image == "error":
                raise
            records.append({"image": picture.path, "detections": [], "error": str(error)})
            continue
        outputs = detector(mx.nd.array(transform(image, *nothing).image[None]))[:3]
        classes, scores, boxes = (out.asnumpy()[0] for out in outputs)
        rows = (classes >= 0) & (scores >= threshold)
        boxes = to_picture(boxes[rows], image.shape[1], image.shape[0], transform)
        labels, scores = classes[rows].astype(int), scores[rows]
        records.append(_record(picture.path, boxes, labels, scores, detector.class_names))
        if draw:
            drawn = draw_boxes(image, boxes, labels, scores, class_names=detector.class_names)
            write_png(Path(draw) / f"{number:05d}_{Path(picture.path).stem}.png", drawn)
    return records


def format_table(records):
    """Return the detections as text, a line each."""
    rows = []
    for record in records:
        for found in record["detections"]:
            box = [f"{v:.0f}" for v in found["box"]]
            score = f"{found['score']:.3f}"
            rows.append([os.path.basename(record["image"]), found["class"], score, *box])
    lines = [tabulate(rows, ["image", "class", "score", "x", "y", "w", "h"], "simple",
                      disable_numparse=True)]  # fmt: skip
    lines += [f"skipped: {r['error']}" for r in records if r["error"]]
    return "\n".join(lines)


def to_json(detector, records, threshold):
    """Return the records as JSON text."""
    contents = {"export": detector.name, "classes": list(detector.class_names)}
    contents.update(threshold=threshold, pictures=records)
    return json_text(contents)


def to_csv(records):
    """Return the records as CSV text: image, class, score, x, y, w, h, error."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "class", "score", "x", "y", "w", "h", "error"])
    for record in records:
        for found in record["detections"]:
            box = [f"{v:.2f}" for v in found["box"]]
            writer.writerow([record["image"], found["class"], f"{found['score']:.6f}", *box, ""])
        if record["error"]:
            writer.writerow([record["image"], *[""] * 6, record["error"]])
    return text.getvalue()


def _record(path, boxes, labels, scores, names):
    found = [
        {"class": names[k], "score": round(float(s), 6),
         "box": [round(float(v), 3) for v in (b[0], b[1], b[2] - b[0], b[3] - b[1])]}
        for b, k, s in zip(boxes, labels, scores)
    ]  # fmt: skip
    return {"image": path, "detections": found, "error": None}


def write_png(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    good, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not good:
        raise OSError(f"{path}: the picture could not be encoded")
    path.write_bytes(data.tobytes())
