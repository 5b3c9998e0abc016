"""A gallery of trained nets: what they score, where they look, how they were trained.

Static files: ``index.html`` beside its pictures, to be opened from the disk. Nets are compared on
one split of one data set; runs of AWMT, DREAL and of the search of AutoLA add their own curves.
"""

from __future__ import annotations

import logging
import os
from typing import Any, NamedTuple

import cv2
import mxnet as mx
import numpy as np

from gluon_attn.figures.bars import attribute_bars
from gluon_attn.figures.curves import pr_curves, training_curves
from gluon_attn.figures.heatmaps import heatmap_overlay
from gluon_attn.files import write_bytes
from gluon_attn.nets import name_outputs
from gluon_attn.workflows import evaluate as evaluation
from gluon_attn.workflows import gallery_page, load
from gluon_attn.workflows.analysis import Settings
from gluon_attn.workflows.analysis_log import analyse_critic
from gluon_attn.workflows.analysis_maps import (
    class_maps,
    open_samples,
    score_pass,
    varied_samples,
)
from gluon_attn.workflows.scores import class_names, is_classification

logger = logging.getLogger("gluon_attn.gallery")

IMAGES = 8
SIDE = 144  # pixels of a map's picture
QUALITY = 88  # of its JPEG
# Of the table, those that there are
SCORES = {"mAP": "mAP", "mA": "mA", "instance_f1": "instance F1", "top1": "top-1", "top5": "top-5"}
OWN_MAP, CLASS_MAP = "attention module", "Grad-CAM"


class Look(NamedTuple):
    """Where one net looks in one image, class by class.

    Attributes:
        net: Name of the net.
        kind: What the maps are.
        probabilities: ``(A,)``.
        files: Paths of the A pictures, relative to the page.
    """

    net: str
    kind: str
    probabilities: Any
    files: list


class Image(NamedTuple):
    """One chosen test image.

    Attributes:
        sample: Its id in the data set.
        file: Picture, relative to the page.
        truth: ``(A,)``: 1 positive, 0 negative, -1 not known.
        looks: :class:`Look` of every net.
    """

    sample: str
    file: str
    truth: Any
    looks: list


def make_gallery(runs, data_dir, out, split="test", images=IMAGES, ctx=None, workers=2):
    """Write a gallery of training runs; return the path of its page.

    Args:
        runs: ``{title: run folder}``, the baseline first.
        data_dir: Data set with the attributes of all runs.
        out: Folder; files of an earlier gallery there are replaced.
        split: Split that is shown.
        images: How many images to show maps of; chosen without a look at any prediction.
        ctx: MXNet context; the CPU by default.
        workers: Data-loading threads.

    Raises:
        ValueError: The runs have different classes, or none is given.
        FileNotFoundError: A run has no trained weights.
    """
    if not runs:
        raise ValueError("a gallery needs at least one training run")
    ctx = ctx or mx.cpu()
    models = {title: load.from_run(folder, [ctx]) for title, folder in runs.items()}
    first = next(iter(models.values()))
    for title, trained in models.items():
        if trained.classes != first.classes:
            raise ValueError(f"{title} has other classes than {next(iter(models))}")
    options = first.extra["recipe"].get("data_options")
    dataset = evaluation.open_for_evaluation(data_dir, split, first.classes, data_options=options)
    os.makedirs(os.path.join(out, "maps"), exist_ok=True)
    results, found = _evaluate(models, dataset, out, split, ctx, workers)
    pictures = _figures(runs, results, found, dataset, out)
    shown = _looks(models, dataset, images, out, ctx)
    page = os.path.join(out, "index.html")
    gallery_page.write(page, gallery_page.Contents(
        split, len(dataset), _short_names(dataset), _table(models, results), shown, pictures,
        is_classification(dataset.schema),
    ))  # fmt: skip
    logger.info("gallery: %s", page)
    return page


def _evaluate(models, dataset, out, split, ctx, workers):
    """Return ``({title: metrics}, {title: Predictions})`` and write the tables."""
    results, found = {}, {}
    for title, trained in models.items():
        found[title] = evaluation.predict_dataset(trained, dataset, ctx, workers=workers)
        schema = dataset.schema if is_classification(dataset.schema) else None
        folder = os.path.join(out, "tables", file_name(title))
        results[title] = evaluation.evaluate(
            found[title], dataset.names, folder, split, figures=False, schema=schema
        ).result
    return results, found


def _figures(runs, results, found, dataset, out):
    """Draw what compares the nets; return ``{caption: file name}``."""
    drawn = {}
    if not is_classification(dataset.schema):
        drawn["Average precision by attribute"] = attribute_bars(
            results, os.path.join(out, "ap.png")
        )
        one = next(iter(found.values()))
        drawn["Precision and recall"] = pr_curves(
            {title: f.probs for title, f in found.items()}, one.label, one.mask, dataset.names,
            os.path.join(out, "pr_curves.png"),
        )  # fmt: skip
    logs = {title: os.path.join(folder, "log.jsonl") for title, folder in runs.items()}
    drawn["Training"] = training_curves(logs, os.path.join(out, "training.png"))
    for title, folder in runs.items():
        drawn.update(_own_curves(title, folder, out))
    return {caption: os.path.basename(path) for caption, path in drawn.items()}


def _own_curves(title, folder, out):
    """Return the curves that only runs of some methods have, ``{caption: path}``."""
    drawn = {}
    weights = os.path.join(folder, "weights.png")
    if os.path.exists(weights):
        path = os.path.join(out, f"weights_{file_name(title)}.png")
        with open(weights, "rb") as file:
            write_bytes(path, file.read())
        drawn[f"Weights of the tasks over training: {title}"] = path
    settings = Settings(out, f"critic_{file_name(title)}", mx.cpu(), 1, 0, runs={title: folder})
    try:
        _, files, _ = analyse_critic({}, None, settings)
        drawn[f"Critique and reward over training: {title}"] = files[0]
    except ValueError:  # the method has no critic
        pass
    return drawn


def _looks(models, dataset, count, out, ctx):
    """Draw the maps of every chosen image, net and class; return the :class:`Image` list."""
    positions = varied_samples(dataset, count)
    label, mask = (np.asarray(a)[positions] for a in (dataset.label, dataset.mask))
    truth = np.where(mask == 1, label, -1).astype(int)
    images = [Image(str(dataset.sample_ids[p]), f"maps/{n}.jpg", truth[n], [])
              for n, p in enumerate(positions)]  # fmt: skip
    for number, (title, trained) in enumerate(models.items()):
        seen = open_samples(trained, dataset, positions, ctx)
        kind, maps, logits = _maps(trained, seen.image, len(dataset.names))
        probabilities = logits.softmax() if is_classification(dataset.schema) else logits.sigmoid()
        probabilities = probabilities.asnumpy()
        for n, (image, view) in enumerate(zip(images, seen.views)):
            if number == 0:
                _write(os.path.join(out, image.file), view)
            files = [f"maps/{n}_{number}_{k}.jpg" for k in range(len(dataset.names))]
            for file, attention in zip(files, maps[n]):
                _write(os.path.join(out, file), heatmap_overlay(view, attention))
            image.looks.append(Look(title, kind, probabilities[n], files))
    return images


def _maps(trained, image, classes):
    """Return kind, maps ``(N, A, h, w)`` and logits of a net on images.

    A net with attention modules shows those of its last one; any other net the gradients of each
    class's score.
    """
    names = getattr(trained.net, "attention_outputs", ())
    if names:
        outputs = name_outputs(trained.net, trained.net(image))
        return OWN_MAP, outputs[names[-1]].asnumpy(), outputs["logits"]
    run = score_pass(trained, image)
    maps = [class_maps(run, np.full(len(image), k), "grad_cam") for k in range(classes)]
    return CLASS_MAP, np.stack(maps, axis=1), run.logits


def _write(path, image):
    large = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    ok, data = cv2.imencode(".jpg", large[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not ok:
        raise OSError(f"{path}: OpenCV could not encode the picture")
    write_bytes(path, data.tobytes())


def _table(models, results):
    """Return head and rows of the table of models."""
    scores = {title: result["overall"] for title, result in results.items()}
    names = [name for name in SCORES if name in next(iter(scores.values()))]
    rows = []
    for title, trained in models.items():
        parameters = sum(int(np.prod(p.shape)) for p in trained.net.collect_params().values()
                         if p.grad_req != "null")  # fmt: skip
        recipe = trained.extra["recipe"]
        changes = ", ".join(f"{k} {v}" for k, v in recipe["model_options"].items())
        net = f"{trained.name} ({changes})" if changes else trained.name
        rows.append([title, recipe["method"], net, f"{parameters / 1e6:.2f} M",
                     *(f"{100 * scores[title][n]:.1f}" for n in names)])  # fmt: skip
    return ["", "method", "net", "parameters", *(f"{SCORES[n]} %" for n in names)], rows


def _short_names(dataset):
    single = is_classification(dataset.schema)
    return list(class_names(dataset.schema) if single else dataset.names)


def file_name(title):
    """Return a title as a part of a file name."""
    return "".join(c if c.isalnum() else "_" for c in title)
