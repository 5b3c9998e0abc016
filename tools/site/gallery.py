"""A gallery of trained nets: what they score, where they look, how they were trained.

Static files: ``index.html`` beside its images, to be opened from the disk. Nets are compared on
one split of one data set; runs of AWMT and DREAL add their own curves. A search of AutoLA adds only
its curves and genotype: its super-network is no net to compare.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Iterable

import cv2
import mxnet as mx
import numpy as np

from gluon_attn.cli.analysis_features import Settings, analyse_critic
from gluon_attn.cli.analysis_maps import open_samples, varied_samples
from gluon_attn.core.files import write_bytes, write_json
from gluon_attn.core.text import read_json
from gluon_attn.figures.bars import attribute_bars
from gluon_attn.figures.curves import pr_curves, training_curves
from gluon_attn.figures.heatmaps import heatmap_overlay
from gluon_attn.metrics.tables import percent
from gluon_attn.task import Asked, task_of
from gluon_attn.task import is_one_class as is_classification
from gluon_attn.tasks import data as evaluation
from gluon_attn.tasks.classification import class_names
from gluon_attn.tasks.data import reading_of
from gluon_attn.tasks.page import offered
from gluon_attn.train import trained as load
from tools.site.pages import Contents, Image, Look, write_gallery

logger = logging.getLogger("gluon_attn.gallery")

IMAGES = 8
SIDE = 144  # pixels of a map
QUALITY = 88  # of its JPEG
LONGEST = 40  # part of a title in a file name, of which systems allow 255 bytes
LIST = "gallery.json"  # of the files that a gallery wrote
# Of the table, those that there are
SCORES = {"mAP": "mAP", "mA": "mA", "instance_f1": "instance F1", "top1": "top-1", "top5": "top-5"}
OWN_MAP, CLASS_MAP = "attention module", "Grad-CAM"
# Drawn by the runs of some methods; taken over as they are.
OWN_FIGURES = {
    "weights.png": "Weights of the tasks over training",
    "search.png": "Entropy and strength of the edges over the search",
    "genotype.png": "Genotype of the search",
}


def make_gallery(
    runs: dict[str, str],
    data_dir: str,
    out: str,
    split: str | None = None,
    *,
    images: int = IMAGES,
    ctx: mx.Context | None = None,
    workers: int = 2,
) -> str:
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
        results, found = _evaluate(models, dataset, files, ctx=ctx, workers=workers)
        folders = {title: run for title, run in runs.items() if os.path.isdir(run)}
        logs = {t: os.path.join(folders[t], "log.jsonl") for t in models if t in folders}
        figures = _figures(logs, results, found, dataset, files=files)
        for title, folder in folders.items():
            figures.update(_own_curves(title, folder, files))
        single = is_classification(dataset.schema)
        page = files.path("index.html")
        contents = Contents(
            split=split,
            samples=len(dataset),
            attributes=list(class_names(dataset.schema) if single else dataset.names),
            table=_table(models, results),
            images=_looks(models, dataset, images, files, ctx=ctx),
            figures={caption: os.path.basename(path) for caption, path in figures.items()},
            single=single,
            exports=_export(models, files),
        )
        write_gallery(page, contents)
    logger.info("gallery: %s", page)
    return page


def _open(runs: dict[str, str], ctx: mx.Context) -> dict[str, Any]:
    """Return the nets to compare, ``{title: Trained}``."""
    models = {}
    for title, folder in runs.items():
        trained = load.from_run_or_zoo(folder, [ctx])
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


def _export(models: dict[str, Any], files: Files) -> list[str]:
    """Export every net with a page to try it on, if its engine is there; return the paths."""
    made = []
    for title, trained in models.items():
        variants = offered(trained)
        if not variants:
            break
        folder = os.path.join(files.out, "exports", files.stem(title))
        maps = bool(getattr(trained.net, "attention_outputs", ()))
        trained.task.export(
            trained, folder, trained.name, with_maps=maps, overwrite=True, variants=variants
        )
        files.add(path for path in Path(folder).rglob("*") if path.is_file())
        made.append(folder)
    return made


def _evaluate(
    models: dict[str, Any], dataset: Any, files: Files, *, ctx: mx.Context, workers: int
) -> tuple[dict, dict]:
    """Return ``({title: metrics}, {title: Predictions})`` and write the tables."""
    results, found = {}, {}
    for title, trained in models.items():
        found[title] = evaluation.predict_dataset(trained, dataset, ctx, workers=workers)
        folder = os.path.join(files.out, "tables", files.stem(title))
        asked = Asked(folder, dataset.split, ctx, figures=False)
        done = task_of(dataset).report(found[title], dataset, asked)
        files.add(done.files)
        results[title] = done.values
    return results, found


def _figures(
    logs: dict[str, str], results: dict, found: dict, dataset: Any, *, files: Files
) -> dict[str, str]:
    """Draw what compares the nets; return ``{caption: path}``."""
    drawn: dict[str, str] = {}
    if not is_classification(dataset.schema):
        drawn["Average precision by attribute"] = attribute_bars(results, files.path("ap.png"))
        one, probs = next(iter(found.values())), {title: f.probs for title, f in found.items()}
        path = files.path("pr_curves.png")
        drawn["Precision and recall"] = pr_curves(
            probs, one.label, one.mask, dataset.names, path=path
        )
    if logs:
        drawn["Training"] = training_curves(logs, files.path("training.png"))
    return drawn


def _own_curves(title: str, folder: str, files: Files) -> dict[str, str]:
    """Return the curves that only runs of some methods have, ``{caption: path}``."""
    drawn = {}
    for name, caption in OWN_FIGURES.items():
        figure = os.path.join(folder, name)
        if os.path.exists(figure):
            path = files.path(name.replace(".", f"_{files.stem(title)}."))
            with open(figure, "rb") as file:
                write_bytes(path, file.read())
            drawn[f"{caption}: {title}"] = path
    stem = f"critic_{files.stem(title)}"
    settings = Settings(files.out, stem, mx.cpu(), batch_size=1, workers=0, runs={title: folder})
    try:
        made = analyse_critic({}, None, settings).files
    except ValueError:  # the method has no critic
        return drawn
    files.add(made)
    drawn[f"Critique and reward over training: {title}"] = made[0]
    return drawn


def _looks(
    models: dict[str, Any], dataset: Any, count: int, files: Files, *, ctx: mx.Context
) -> list[Image]:
    """Draw the maps of every chosen image, net and class; return the :class:`Image` list."""
    positions = varied_samples(dataset, count)
    label, mask = (np.asarray(a)[positions] for a in (dataset.label, dataset.mask))
    truth = np.where(mask == 1, label, -1).astype(int)
    ids = [str(dataset.sample_ids[p]) for p in positions]
    images = [Image(name, f"maps/{n}.jpg", truth[n], []) for n, name in enumerate(ids)]
    for number, (title, trained) in enumerate(models.items()):
        seen = open_samples(trained, dataset, positions, ctx)
        kind, maps = _maps(seen.look, len(dataset.names))
        logits = seen.look.run.logits
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


def _maps(look: Any, classes: int) -> tuple[str, np.ndarray]:
    """Return kind and maps ``(N, A, h, w)`` of a net on images.

    A net with attention modules shows those of its last one; any other net the gradients of each
    class's score.
    """
    if look.attention:
        return OWN_MAP, list(look.attention.values())[-1]
    columns = [np.full(len(look.image), k) for k in range(classes)]
    return CLASS_MAP, np.stack([look.maps("grad_cam", column) for column in columns], axis=1)


def _write(path: str, image: np.ndarray) -> None:
    large = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    ok, data = cv2.imencode(".jpg", large[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not ok:
        raise OSError(f"{path}: OpenCV could not encode the image")
    write_bytes(path, data.tobytes())


def _table(models: dict[str, Any], results: dict) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of models."""
    scores = {title: result["overall"] for title, result in results.items()}
    names = [name for name in SCORES if name in next(iter(scores.values()))]
    rows = []
    for title, trained in models.items():
        learnt = (p for p in trained.net.collect_params().values() if p.grad_req != "null")
        parameters = sum(int(np.prod(p.shape)) for p in learnt)
        recipe = trained.extra["recipe"]
        changes = _readable(recipe["model_options"])
        net = f"{trained.name} ({changes})" if changes else trained.name
        what = title, recipe["method"], net, f"{parameters / 1e6:.2f} M"
        rows.append([*what, *(percent(scores[title][n]) for n in names)])
    return ["", "method", "net", "parameters", *(f"{SCORES[n]} %" for n in names)], rows


def _readable(value: Any) -> str:
    """Return a model option as text without the marks of Python."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_readable(part)}" for key, part in value.items())
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


# --------------------------------------------------------------------------------- its files


class Files:
    """The files of a gallery in its folder, where a list of them is kept.

    As a context: when the body ends, files of an earlier gallery that were not written again are
    removed. Files that no gallery wrote are left alone.

    Args:
        out: The folder.
        titles: Titles of all runs.
    """

    def __init__(self, out: str, titles: Iterable[str]) -> None:
        self.out = out
        # Numbered, as titles may differ in nothing but what file names cannot hold.
        self._stems = {title: f"{n}_{file_name(title)}" for n, title in enumerate(titles)}
        self._earlier = _listed(out)
        self._written: set[str] = set()

    def stem(self, title: str) -> str:
        """Return what the names of a run's own files contain; every run has another."""
        return self._stems[title]

    def path(self, name: str) -> str:
        """Return the path of a file that is about to be written."""
        path = os.path.join(self.out, *name.split("/"))
        self.add([path])
        return path

    def add(self, paths: Iterable) -> None:
        """Note files that were written."""
        found = (os.path.relpath(path, self.out) for path in paths)
        self._written.update(path.replace(os.sep, "/") for path in found)

    def __enter__(self) -> Files:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        kept = self._written
        listed = os.path.join(self.out, LIST)
        if kind is None:
            for name in self._earlier - kept:
                _remove(self.out, name)
            write_json(listed, {"files": sorted(kept)})
            return
        with contextlib.suppress(OSError):  # what went wrong first is what is told
            # The next gallery replaces them.
            write_json(listed, {"files": sorted(kept | self._earlier)})


def _listed(out: str) -> set[str]:
    """Return the files of an earlier gallery, relative to ``out``."""
    path = os.path.join(out, LIST)
    try:
        names = [os.path.normpath(name) for name in read_json(path)["files"]]
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError):
        logger.warning("%s is damaged: files of the earlier gallery are not removed", path)
        return set()
    # The list may have been edited: nothing outside the folder is touched.
    inside = (n for n in names if not os.path.isabs(n) and n.split(os.sep)[0] != os.pardir)
    return {name.replace(os.sep, "/") for name in inside}


def _remove(out: str, name: str) -> None:
    """Remove a file, and its folders where it was the last."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(out, name))
    with contextlib.suppress(OSError):  # there is something else, or it is gone already
        folder = os.path.dirname(name)
        while folder:
            os.rmdir(os.path.join(out, folder))
            folder = os.path.dirname(folder)


def file_name(title: str) -> str:
    """Return a title as a part of a file name; two titles may have the same."""
    return "".join(c if c.isalnum() else "_" for c in title)[:LONGEST]
