"""Detection: loaders, validation and COCO's evaluation; the functions that tasks.py lists.

A recipe's ``input_size`` is the side of SSD's square input, or for nets that keep proportions the
shorter side of the picture; ``model_options.long_size`` then bounds the longer one.
"""

from __future__ import annotations

import collections
import logging
import os
import sys

import numpy as np
from tqdm import tqdm

from gluon_attn.coco.detection_batches import (
    DetectionLoader,
    FitTransform,
    SsdTransform,
    StretchTransform,
)
from gluon_attn.coco.detection_data import DetectionData
from gluon_attn.coco.metrics import evaluate_detections
from gluon_attn.coco.names import CATEGORIES
from gluon_attn.core.batch import PADDING
from gluon_attn.core.files import finite, write_json, write_text
from gluon_attn.metrics.layout import decimal
from gluon_attn.tasks.base import reading_for
from gluon_attn.tasks.scores import some
from gluon_attn.train import build

logger = logging.getLogger("gluon_attn.detection")

CLASS_NAMES = tuple(CATEGORIES.values())
FORMS = ()
SCORES = {"mAP": "AP", "AP50": "AP50", "AP75": "AP75"}  # of a validation, for the log


def open_split(recipe, data_dir, split, on_bad_image="error"):
    """Open a split of the recipe's data set.

    Raises:
        FileNotFoundError, ValueError, ImportError: See :meth:`DetectionData.open`.
    """
    return DetectionData.open(data_dir, split, on_bad_image, **recipe.data_options)


def train_loader(recipe, dataset, method, workers):
    """Return shuffled training batches, augmented as the method's net was published with."""
    mean, std = recipe.mean, recipe.std
    if method.net.fit == "stretch":
        options = method.options
        transform = SsdTransform(
            method.net.input_size[0], mean, std, expand=options["expand"], crop=options["crop"],
            colour=options["colour"], mirror=recipe.mirror,
        )  # fmt: skip
    else:
        transform = FitTransform(*method.net.sides, recipe.mirror, mean=mean, std=std)
    return DetectionLoader(
        dataset, transform, recipe.batch_size, shuffle=True, seed=recipe.seed, workers=workers,
        last="discard",
    )  # fmt: skip


def eval_transform(net, mean, std):
    """Return the transform of evaluation for a net or an export's description of one."""
    if net.fit == "stretch":
        return StretchTransform(net.input_size[0], mean, std)
    return FitTransform(*net.sides, False, mean=mean, std=std)


def detect(net, dataset, transform, ctx, batch_size=32, workers=2, progress=False):
    """Return official result records of every picture.

    Args:
        net: Detector, or any function from images to classes, scores and boxes.
        dataset: :class:`DetectionData`.
        transform: Of :func:`eval_transform`.
        ctx: Device of the net.
        batch_size, workers: Of the loader.
        progress: Whether to show a bar on a terminal.
    """
    loader = DetectionLoader(dataset, transform, batch_size, workers=workers, last="pad")
    records, queue = [], collections.deque()
    bar = tqdm(
        loader, total=len(loader), desc="detecting", unit="batch", leave=False,
        disable=not (progress and sys.stderr.isatty()),
    )  # fmt: skip
    for batch in bar:
        queue.append((net(batch.image.as_in_context(ctx))[:3], batch.index))
        if len(queue) > 1:  # read one batch behind, while the device works on the next
            records += _records(*queue.popleft(), dataset, transform)
    while queue:
        records += _records(*queue.popleft(), dataset, transform)
    return records


def to_picture(boxes, width, height, transform):
    """Return boxes in pixels of the picture itself, cut at its border.

    Args:
        boxes: ``(N, 4)`` corners in pixels of the net's input.
        width, height: Of the picture.
        transform: That made the input.
    """
    x, y = transform.scale(width, height)
    boxes = np.asarray(boxes, np.float64) / (x, y, x, y)
    return np.clip(boxes, 0, (width, height, width, height))


def _records(outputs, index, dataset, transform):
    classes, scores, boxes = (array.asnumpy() for array in outputs)
    reader, found = dataset.reader, []
    for row, i in enumerate(index.tolist()):
        if i == PADDING:
            continue
        known = classes[row] >= 0
        corners = to_picture(boxes[row][known], *dataset.size(i), transform)
        for number, score, box in zip(classes[row][known], scores[row][known], corners.tolist()):
            found.append({
                "image_id": reader.image_ids[i], "category_id": reader.category_ids[int(number)],
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "score": float(score),
            })  # fmt: skip
    return found


def validator(recipe, dataset, ctx, workers):
    """Return a function ``net -> scores`` for the training loop; ``mAP`` is COCO's AP."""

    def validate(net):
        transform = eval_transform(net, recipe.mean, recipe.std)
        records = detect(net, dataset, transform, ctx, recipe.batch_size, workers, progress=True)
        stats = evaluate_detections(dataset.reader.coco, records, dataset.reader.image_ids).stats
        return {name: stats[source] for name, source in SCORES.items()}

    return validate


def judge(dataset: DetectionData) -> tuple[str, str]:
    """Return why no net can be scored on a split, and what is left out; see ``scores.judge``."""
    reader = dataset.reader
    images = set(reader.image_ids)
    shown = {
        a["category_id"] for a in reader.coco.anns.values()
        if a["image_id"] in images and not a.get("iscrowd")
    }  # fmt: skip
    missing = [n for n, c in zip(reader.class_names, reader.category_ids) if c not in shown]
    if not shown:
        return f"{reader.annotation} has no box that counts (crowds do not)", ""
    return "", f"{some(missing)} (no box)" if missing else ""


def final_scores(recipe, net, dataset, ctx, workers, folder, stem="test"):
    """Evaluate a split, write ``folder/stem.*`` and return the result as a dict."""
    transform = eval_transform(net, recipe.mean, recipe.std)
    records = detect(net, dataset, transform, ctx, recipe.batch_size, workers, progress=True)
    return write_scores(records, dataset, folder, stem)


def write_scores(records, dataset, folder, stem):
    """Evaluate records and write what was found.

    ``stem.json`` has all numbers, ``stem.md`` the table and AP per class, and
    ``stem_detections.json`` the records in COCO's result format.

    Returns:
        Dict with ``stats``, ``per_class``, ``console`` and ``files``.
    """
    reader = dataset.reader
    found = evaluate_detections(reader.coco, records, reader.image_ids)
    result = finite({"stats": found.stats, "per_class": found.per_class})
    result.update(images=found.images, detections=found.records)
    paths = {kind: os.path.join(folder, f"{stem}{end}") for kind, end in
             (("json", ".json"), ("md", ".md"), ("records", "_detections.json"))}  # fmt: skip
    os.makedirs(folder, exist_ok=True)
    write_json(paths["json"], result)
    write_text(paths["md"], _markdown(found, dataset.split))
    write_json(paths["records"], records, indent=None)
    logger.info(
        "%s: AP %s, AP50 %s over %d pictures; tables in %s.{md,json}", dataset.split,
        *(decimal(found.stats[name]) for name in ("AP", "AP50")), found.images,
        os.path.join(folder, stem),
    )  # fmt: skip
    return dict(result, console=found.text, files=list(paths.values()))


def _markdown(found, split):
    lines = [f"# Boxes on {split}, {found.images} pictures", "", "| number | value |", "|---|---|"]
    lines += [f"| {name} | {decimal(value)} |" for name, value in found.stats.items()]
    lines += ["", "| class | AP |", "|---|---|"]
    lines += [f"| {name} | {decimal(value)} |" for name, value in found.per_class.items()]
    return "\n".join(lines) + "\n"


def preprocess(net, values):
    """Return ``Trained.preprocess`` of a detector: the whole picture at the size of the net."""
    sizes = {"resize": None, "crop": None, "size": tuple(net.input_size)}
    return dict(sizes, mean=values["mean"], std=values["std"])


def run_evaluate(args, trained, ctx, out, *, reading=None):
    """Evaluate a trained net or an export; see :mod:`gluon_attn.tasks.base`."""
    split = "val2017" if args.split == "test" else args.split  # COCO's test labels are not public
    dataset = build.open_split(
        reading_for("coco", reading), args.data_dir, split, args.on_bad_image
    )
    if trained:
        net, classes, values = trained.net, trained.classes, trained.preprocess
    else:
        from gluon_attn.coco.detection_export import ExportedDetector

        net = ExportedDetector(args.export, ctx[0])
        classes, values = net.class_names, net.entry
    if tuple(classes) != dataset.names:
        raise ValueError(
            f"{args.data_dir} has the classes {', '.join(dataset.names)}; the model was made for "
            f"{', '.join(classes)}"
        )
    transform = eval_transform(net, values["mean"], values["std"])
    records = detect(net, dataset, transform, ctx[0], args.batch_size, args.num_workers, True)
    result = write_scores(records, dataset, out, split)
    lines = [result["console"], *(f"wrote {path}" for path in result["files"])]
    return "\n".join(lines)


def run_export(args, trained):
    """Export a detector; see :mod:`gluon_attn.tasks.base`."""
    from gluon_attn.coco.detection_export import export_from_flags

    return export_from_flags(args, trained)


def run_predict(options, sidecar):
    """Detect in pictures with an export; see :mod:`gluon_attn.tasks.base`."""
    from gluon_attn.coco.detection_predict import predict_from_flags

    return predict_from_flags(options, sidecar)
