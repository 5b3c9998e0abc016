"""Evaluate a trained net or an export on one split: tables, files and figures."""

from __future__ import annotations

import logging
import os
from typing import Any, NamedTuple, Sequence

import numpy as np

from gluon_attn.core.recipe import Recipe
from gluon_attn.core.schema import Schema
from gluon_attn.data.images import resize
from gluon_attn.data.views import ChosenAttributes, Subset
from gluon_attn.export import Predictor
from gluon_attn.figures.bars import attribute_bars
from gluon_attn.figures.curves import pr_curves
from gluon_attn.figures.heatmaps import heatmap_grid
from gluon_attn.metrics.attribute_tables import write_accuracy
from gluon_attn.metrics.attributes import evaluate_attributes
from gluon_attn.metrics.classification import evaluate_classification
from gluon_attn.metrics.classification_tables import write_classification
from gluon_attn.metrics.multilabel import evaluate_multilabel
from gluon_attn.metrics.report import write_report
from gluon_attn.nets import name_outputs
from gluon_attn.tasks import scores
from gluon_attn.train import Predictions, predict
from gluon_attn.train.build import READING, eval_loader, open_split, reading_of

logger = logging.getLogger("gluon_attn.evaluate")

GRID_IMAGES = 4  # rows of the heat-map figure


class Evaluation(NamedTuple):
    """Result of :func:`evaluate`.

    Attributes:
        result: What ``evaluate_multilabel`` returned, or ``evaluate_classification`` for
            single-label data.
        predictions: Probabilities, labels and mask of every sample.
        files: Paths written.
        accuracy: What ``evaluate_attributes`` returned, or None if it was not asked for.
    """

    result: dict
    predictions: Predictions
    files: list
    accuracy: dict = None


def open_for_evaluation(
    data_dir: str, split: str | None, classes: Sequence[str], on_bad_image: str = "error",
    unspecified: str = "masked", *, recipe: Recipe | dict | None = None,
) -> Any:  # fmt: skip
    """Open a split as a net's recipe reads it, refusing one with other attributes than the net's.

    Args:
        data_dir: Folder of the data.
        split: Its name; None: the one that the recipe's runs are tested on.
        classes: Names of the net's logits.
        on_bad_image: See :class:`gluon_attn.data.AttributeDataset`.
        unspecified: What unspecified labels are: ``masked`` or ``negative``.
        recipe: See :func:`gluon_attn.train.build.reading_of`.

    Raises:
        FileNotFoundError, ValueError: See :func:`gluon_attn.train.build.open_split`; names or
            their order differ.
    """
    reading = reading_of(recipe)
    dataset = open_split(
        reading, data_dir, split or reading.splits[2], on_bad_image, unspecified=unspecified
    )
    trained_on = _attributes_of(dataset, classes)
    if trained_on:
        dataset = ChosenAttributes(dataset, trained_on)
    if tuple(dataset.names) != tuple(classes):
        raise ValueError(
            f"{data_dir} has the attributes {', '.join(dataset.names)}; the model was made for "
            f"{', '.join(classes)}"
        )
    return dataset


def check_same_data(models: dict, dataset: Any, data_dir: str, reading: Recipe) -> None:
    """Refuse to compare nets on data that the recipe of one of them reads otherwise.

    Args:
        models: ``{title: Trained}``.
        dataset: The split that they are compared on.
        data_dir: Folder of the data.
        reading: How it was read; see :func:`gluon_attn.train.build.reading_of`.

    Raises:
        ValueError: Another recipe gives other samples or labels; the message names both.
    """
    for title, trained in models.items():
        own = reading_of(trained.extra.get("recipe"))
        told = [f"{key}={getattr(r, key)}" for r in (own, reading) for key in READING[:2]]
        if told[:2] == told[2:] or "recipe" not in trained.extra:
            continue
        other = open_for_evaluation(data_dir, dataset.split, trained.classes, recipe=own)
        if other.fingerprint() != dataset.fingerprint():
            raise ValueError(
                f"{data_dir}, split '{dataset.split}': with {', '.join(told[:2])}, as {title} was "
                f"trained, these are other data than with {', '.join(told[2:])}: compare nets on "
                "the same"
            )


def tell_other_data(trained: Any, dataset: Any, data_dir: str) -> None:
    """Warn if a split is not what it was when the net was trained.

    Args:
        trained: :class:`gluon_attn.train.trained.Trained`.
        dataset: The split.
        data_dir: Named in the warning.
    """
    recipe, noted = trained.extra.get("recipe", {}), trained.extra.get("data", {})
    names = dict(zip(recipe.get("splits", ()), ("train", "val")))
    noted = noted.get("sha256", noted)  # of published weights
    known = noted.get(names.get(dataset.split, dataset.split))
    if known and known != dataset.fingerprint():
        logger.warning(
            "%s, split '%s', holds other samples or labels than when the net was trained",
            data_dir, dataset.split,
        )  # fmt: skip


def _attributes_of(dataset, classes):
    """Return the attributes that a net was trained on, if these are some but not all."""
    chosen = [a for a in dataset.schema.attributes if set(a.columns) <= set(classes)]
    same = [column for a in chosen for column in a.columns] == list(classes)
    return [a.name for a in chosen] if same and len(chosen) < len(dataset.schema) else []


def predict_dataset(trained, dataset, ctx, batch_size=32, workers=2):
    """Return the :class:`Predictions` of a :class:`gluon_attn.train.trained.Trained` net."""
    loader = eval_loader(trained.preprocess, dataset, batch_size, workers)
    activation = scores.activation_of(dataset.schema)
    return predict(trained.net, loader, len(dataset), ctx, True, activation)


def predict_export(directory, dataset, ctx=None, batch_size=32):
    """Return the :class:`Predictions` of an export directory, through its Predictor."""
    predictor = Predictor(directory, ctx=ctx, batch_size=batch_size)
    probs = np.full(dataset.label.shape, np.nan, np.float32)
    mask = dataset.mask.copy()
    for start in range(0, len(dataset), batch_size):
        rows = range(start, min(start + batch_size, len(dataset)))
        items = [dataset[i] for i in rows]
        probs[rows.start : rows.stop] = predictor([image for image, _, _, _ in items])
        mask[rows.start : rows.stop] = [known for _, _, known, _ in items]
    return Predictions(probs, np.asarray(dataset.label), mask)


def evaluate(
    predictions, names, out_dir, stem="test", threshold=0.5, figures=True, schema=None
):  # fmt: skip
    """Compute all metrics and write table, CSV, JSON, Markdown, predictions and PR curves.

    With a ``schema`` also the accuracy per attribute, as ``<stem>_accuracy.*``; that of
    single-label data gives top-k accuracy and confusions instead, and no curves.
    """
    if schema is not None and scores.is_classification(schema):
        result = evaluate_classification(*predictions, names=scores.class_names(schema))
        files = list(write_classification(result, out_dir, stem).values())
        files.append(scores.save_predictions(predictions, schema, out_dir, stem,
                                             names=np.array(names)))  # fmt: skip
        return Evaluation(result, predictions, files)
    result = evaluate_multilabel(*predictions, names=names, threshold=threshold)
    files = list(write_report(result, out_dir, stem).values())
    accuracy = None
    if schema is not None:
        accuracy = evaluate_attributes(*predictions, schema=schema, threshold=threshold)
        files += write_accuracy(accuracy, out_dir, f"{stem}_accuracy").values()
    everything = schema or Schema.binary(names)
    files.append(
        scores.save_predictions(predictions, everything, out_dir, stem, names=np.array(names))
    )
    if figures:
        files.append(pr_curves(*predictions, names, os.path.join(out_dir, f"{stem}_pr_curves.png")))
        files.append(attribute_bars({stem: result}, os.path.join(out_dir, f"{stem}_ap.png")))
    return Evaluation(result, predictions, files, accuracy)


def result_of(predictions, dataset, threshold=0.5):
    """Return the metrics of predictions on a data set: classification or attributes."""
    if scores.is_classification(dataset.schema):
        return evaluate_classification(*predictions, names=scores.class_names(dataset.schema))
    return evaluate_multilabel(*predictions, names=dataset.names, threshold=threshold)


def choose_samples(predictions, count=GRID_IMAGES):
    """Return ids of samples worth looking at: they show as many rare positives as possible."""
    positive = predictions.label * predictions.mask
    rarity = 1 / np.maximum(positive.sum(axis=0), 1)
    chosen, left = [], positive.astype(bool)
    for _ in range(min(count, len(positive))):
        score = (left * rarity).sum(axis=1)
        score[chosen] = -1
        chosen.append(int(score.argmax()))
        left = left & ~left[chosen[-1]]
    return chosen


def draw_attention(trained, dataset, predictions, path, ctx, samples=None):
    """Draw the attention maps of some samples; return the path, or None without maps."""
    names = getattr(trained.net, "attention_outputs", ())
    if not names:
        return None
    samples = choose_samples(predictions) if samples is None else samples
    loader = eval_loader(trained.preprocess, Subset(dataset, samples), len(samples), 0)
    (batch,) = list(loader)
    outputs = name_outputs(trained.net, trained.net(batch.image.as_in_context(ctx)))
    maps = {n.replace("attention_", ""): outputs[n].asnumpy() for n in names}
    images = [_view(dataset.read(i), trained.preprocess) for i in samples]
    return heatmap_grid(
        images, maps, dataset.names, predictions.probs[samples], predictions.label[samples], path,
        mask=predictions.mask[samples],
    )  # fmt: skip


def _view(image, preprocess):
    """Return the part of an image that the net sees, uint8, for drawing maps over it."""
    side, crop = preprocess["resize"], preprocess["crop"] or preprocess["resize"]
    image = resize(image, side, side)
    start = (side - crop) // 2
    return np.ascontiguousarray(image[start : start + crop, start : start + crop])
