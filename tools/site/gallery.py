"""A gallery of trained nets: what they score, where they look, how they were trained.

Static files: ``index.html`` beside its pictures, to be opened from the disk. Nets are compared on
one split of one data set; runs of AWMT and DREAL add their own curves. A search of AutoLA adds only
its curves and genotype: its super-network is no net to compare.
"""

from __future__ import annotations

import logging
import os
from typing import Any, NamedTuple

import cv2
import mxnet as mx
import numpy as np

from gluon_attn.cli.analysis_features import Settings, analyse_critic
from gluon_attn.cli.analysis_maps import (
    class_maps,
    open_samples,
    score_pass,
    varied_samples,
)
from gluon_attn.core.files import write_bytes
from gluon_attn.figures.bars import attribute_bars
from gluon_attn.figures.curves import pr_curves, training_curves
from gluon_attn.figures.heatmaps import heatmap_overlay
from gluon_attn.metrics.tables import percent
from gluon_attn.nets import name_outputs
from gluon_attn.task import Asked, task_of
from gluon_attn.task import is_one_class as is_classification
from gluon_attn.tasks import data as evaluation
from gluon_attn.tasks.classification import class_names
from gluon_attn.tasks.data import reading_of
from gluon_attn.train import trained as load
from tools.site import gallery_page
from tools.site.gallery_files import Files

logger = logging.getLogger("gluon_attn.gallery")

IMAGES = 8
SIDE = 144  # pixels of a map's picture
QUALITY = 88  # of its JPEG
# Of the table, those that there are
SCORES = {"mAP": "mAP", "mA": "mA", "instance_f1": "instance F1", "top1": "top-1", "top5": "top-5"}
OWN_MAP, CLASS_MAP = "attention module", "Grad-CAM"
# Drawn by the runs of some methods; taken over as they are.
OWN_PICTURES = {
    "weights.png": "Weights of the tasks over training",
    "search.png": "Entropy and strength of the edges over the search",
    "genotype.png": "Genotype of the search",
}


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


def make_gallery(runs, data_dir, out, split=None, images=IMAGES, ctx=None, workers=2):
    """Write a gallery of training runs; return the path of its page.

    Args:
        runs: ``{title: run folder, or zoo name of a net with published weights}``, the baseline
            first; searches of AutoLA anywhere.
        data_dir: Data set with the attributes of all runs, read as their recipes say.
        out: Folder; what an earlier gallery wrote there is replaced.
        split: Split that is shown; None: the one that the first run is tested on.
        images: How many images to show maps of; chosen without a look at any prediction.
        ctx: MXNet context; the CPU by default.
        workers: Data-loading threads.

    Raises:
        ValueError: The runs have different classes, or were trained on data that are read
            otherwise; none is given, or no image is to be shown.
            A name is neither a folder nor that of a model with weights.
        FileNotFoundError: A run has no trained weights, or a search is not finished.
    """
    if images < 1:
        raise ValueError(f"images={images}: a gallery shows at least one image")
    ctx = ctx or mx.cpu()
    models = _open(runs, ctx)
    first = next(iter(models.values()))
    reading = reading_of(first.extra["recipe"])
    dataset = evaluation.open_for(first, data_dir, split, reading=reading)
    split = dataset.split
    evaluation.check_same_data(models, dataset, data_dir, reading)
    for trained in models.values():
        evaluation.tell_other_data(trained, dataset, data_dir)
    with Files(out, runs) as files:
        results, found = _evaluate(models, dataset, files, split, ctx, workers)
        folders = {title: run for title, run in runs.items() if os.path.isdir(run)}
        logs = {t: os.path.join(folders[t], "log.jsonl") for t in models if t in folders}
        pictures = _figures(logs, results, found, dataset, files)
        for title, folder in folders.items():
            pictures.update(_own_curves(title, folder, files))
        pictures = {caption: os.path.basename(path) for caption, path in pictures.items()}
        shown = _looks(models, dataset, images, files, ctx)
        page = files.path("index.html")
        gallery_page.write(page, gallery_page.Contents(
            split, len(dataset), _short_names(dataset), _table(models, results), shown, pictures,
            is_classification(dataset.schema),
        ))  # fmt: skip
    logger.info("gallery: %s", page)
    return page


def _open(runs, ctx):
    """Return the nets to compare, ``{title: Trained}``."""
    models = {}
    for title, folder in runs.items():
        if os.path.isdir(folder):
            trained = load.from_run(folder, [ctx])
        else:
            trained = load.from_zoo(folder, None, [ctx], pretrained=True)
        if "recipe" not in trained.extra:
            raise ValueError(f"{title}: nothing is recorded of how {folder} was trained")
        if trained.extra["recipe"]["method"] != "autola":
            models[title] = trained
        elif not os.path.exists(os.path.join(folder, "search.png")):
            raise FileNotFoundError(
                f"{folder} is a search without search.png; finish it: tools/search.py --resume"
            )
    if not models:
        raise ValueError("a gallery needs at least one training run; a search is none")
    baseline, first = next(iter(models.items()))
    for title, trained in models.items():
        if trained.classes != first.classes:
            raise ValueError(f"{title} has other classes than {baseline}")
    return models


def _evaluate(models, dataset, files, split, ctx, workers):
    """Return ``({title: metrics}, {title: Predictions})`` and write the tables."""
    results, found = {}, {}
    for title, trained in models.items():
        found[title] = evaluation.predict_dataset(trained, dataset, ctx, workers=workers)
        folder = os.path.join(files.out, "tables", files.stem(title))
        asked = Asked(folder, split, ctx, figures=False)
        done = task_of(dataset).report(found[title], dataset, asked)
        files.add(done.files)
        results[title] = done.values
    return results, found


def _figures(logs, results, found, dataset, files):
    """Draw what compares the nets; return ``{caption: path}``."""
    drawn = {}
    if not is_classification(dataset.schema):
        drawn["Average precision by attribute"] = attribute_bars(results, files.path("ap.png"))
        one = next(iter(found.values()))
        drawn["Precision and recall"] = pr_curves(
            {title: f.probs for title, f in found.items()}, one.label, one.mask, dataset.names,
            path=files.path("pr_curves.png"),
        )  # fmt: skip
    if logs:
        drawn["Training"] = training_curves(logs, files.path("training.png"))
    return drawn


def _own_curves(title, folder, files):
    """Return the curves that only runs of some methods have, ``{caption: path}``."""
    drawn = {}
    for name, caption in OWN_PICTURES.items():
        picture = os.path.join(folder, name)
        if os.path.exists(picture):
            path = files.path(name.replace(".", f"_{files.stem(title)}."))
            with open(picture, "rb") as file:
                write_bytes(path, file.read())
            drawn[f"{caption}: {title}"] = path
    stem = f"critic_{files.stem(title)}"
    settings = Settings(files.out, stem, mx.cpu(), 1, 0, runs={title: folder})
    try:
        _, made, _ = analyse_critic({}, None, settings)
    except ValueError:  # the method has no critic
        return drawn
    files.add(made)
    drawn[f"Critique and reward over training: {title}"] = made[0]
    return drawn


def _looks(models, dataset, count, files, ctx):
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
                _write(files.path(image.file), view)
            names = [f"maps/{n}_{number}_{k}.jpg" for k in range(len(dataset.names))]
            for name, attention in zip(names, maps[n]):
                _write(files.path(name), heatmap_overlay(view, attention))
            image.looks.append(Look(title, kind, probabilities[n], names))
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
        changes = _readable(recipe["model_options"])
        net = f"{trained.name} ({changes})" if changes else trained.name
        rows.append([title, recipe["method"], net, f"{parameters / 1e6:.2f} M",
                     *(percent(scores[title][n]) for n in names)])  # fmt: skip
    return ["", "method", "net", "parameters", *(f"{SCORES[n]} %" for n in names)], rows


def _readable(value):
    """Return a model option as text without the marks of Python."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_readable(part)}" for key, part in value.items())
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _short_names(dataset):
    single = is_classification(dataset.schema)
    return list(class_names(dataset.schema) if single else dataset.names)
