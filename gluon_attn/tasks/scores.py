"""What is measured on a split: attributes, or the one class of every picture."""

from __future__ import annotations

import logging
import os
from typing import Any, Sequence

import numpy as np

from gluon_attn.core.files import save_arrays
from gluon_attn.data.base import ATTRIBUTE
from gluon_attn.metrics.attribute_tables import accuracy_text, write_accuracy
from gluon_attn.metrics.attributes import evaluate_attributes
from gluon_attn.metrics.classification import TOP, evaluate_classification, top_accuracies
from gluon_attn.metrics.classification_tables import classification_text, write_classification
from gluon_attn.metrics.layout import decimal
from gluon_attn.metrics.multilabel import evaluate_multilabel
from gluon_attn.metrics.report import to_console, write_report
from gluon_attn.metrics.retrieval_tables import retrieval_text

logger = logging.getLogger("gluon_attn.scores")

OF_CLASSES = tuple(f"top{k}" for k in TOP)


def is_classification(schema):
    """Return whether a data set gives every picture one class (attribute 'class', nothing else).

    One multi-class attribute chosen from several ("age") has unknown and missing values; its
    scores stay those of attributes.
    """
    return schema.is_single_label and schema.names[0] == ATTRIBUTE


def activation_of(schema):
    """Return what turns logits into probabilities: 'softmax' or 'sigmoid'."""
    return "softmax" if is_classification(schema) else "sigmoid"


def check_score(score, schema):
    """Raise ValueError if a recipe's score does not exist for the data.

    Raises:
        ValueError: top1/top5 of attributes, or top5 of five classes or fewer.
    """
    single = is_classification(schema)
    enough = not single or score != "top5" or len(schema.columns) > 5
    if (score in OF_CLASSES and not single) or not enough:
        valid = "accuracy, top1" if single else "accuracy, mA, mAP"
        raise ValueError(
            f"score={score}: these data have {len(schema.columns)} "
            f"{'classes' if single else 'attribute columns'}; valid here are {valid}"
        )


def judge(score: str, dataset: Any) -> tuple[str, str]:
    """Return what keeps a score from telling one net from another, and what it leaves out.

    A net can only be told from another by an attribute of which both values are among the known
    labels: without positives there is no average precision, and without negatives every net has
    the same.

    Args:
        score: The recipe's.
        dataset: A split.

    Returns:
        Two texts, '' where there is nothing of the kind.
    """
    names = np.array(dataset.names)
    if is_classification(dataset.schema):
        positives, negatives = dataset.counts().T[:2]
    else:
        known = dataset.mask.sum(0, dtype=np.int64)
        positives = (dataset.label * dataset.mask).sum(0, dtype=np.int64)
        negatives = known - positives
    unknown = (positives == 0) & (negatives == 0)
    groups = {
        "no known label": unknown,
        "no positive label": (positives == 0) & ~unknown,
        "no negative label": (negatives == 0) & ~unknown,
    }
    groups = {why: names[found] for why, found in groups.items() if found.any()}
    if not ((positives > 0) & (negatives > 0)).any():
        return "; ".join(f"{why} of {some(found)}" for why, found in groups.items()), ""
    if is_classification(dataset.schema) and (positives > 0).sum() == 1:
        return f"all images are of the class {names[positives > 0][0]}", ""
    undefined = {
        "mAP": ("no known label", "no positive label"), "mA": tuple(groups),
        "accuracy": ("no known label",),
    }.get("" if score in OF_CLASSES else score, ())  # fmt: skip
    if is_classification(dataset.schema) and score == "accuracy":
        undefined = ()
    left_out = [f"{some(groups[why])} ({why})" for why in undefined if why in groups]
    return "", ", ".join(left_out)


def some(names: Sequence[str], most: int = 12) -> str:
    """Return the first names, and how many there are more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def validation_scores(found, dataset, wanted):
    """Return the scores of one epoch by name.

    Args:
        found: Predictions of the whole split.
        dataset: The split.
        wanted: The recipe's score. mAP and mA over one-hot classes are computed only if one of
            them is wanted: with a thousand classes they take longer than the validation itself.
    """
    arrays = (found.probs, found.label, found.mask)
    if not is_classification(dataset.schema):
        accuracy = evaluate_attributes(*arrays, dataset.schema)
        return dict(_multilabel(arrays, dataset), accuracy=accuracy["overall"]["accuracy"])
    overall = top_accuracies(*arrays)
    scores = {name: overall[name] for name in OF_CLASSES if name in overall}
    scores["accuracy"] = overall["top1"]
    if wanted in ("mAP", "mA"):
        scores.update(_multilabel(arrays, dataset))
    return scores


def write_scores(found, dataset, folder, stem, with_accuracy):
    """Evaluate a split, write tables and predictions, and return the result.

    Args:
        found: Predictions.
        dataset: The split.
        folder: Where ``<stem>.*`` goes.
        stem: Start of the file names.
        with_accuracy: Whether attributes also get ``<stem>_accuracy.*``.
    """
    arrays = (found.probs, found.label, found.mask)
    if is_classification(dataset.schema):
        save_predictions(found, dataset.schema, folder, stem)
        result = evaluate_classification(*arrays, names=class_names(dataset.schema))
        write_classification(result, folder, stem)
        text = ", ".join(f"{name} {decimal(value)}" for name, value in result["overall"].items())
        logger.info("%s: %s; tables in %s.{md,csv,json}", dataset.split, text,
                    os.path.join(folder, stem))  # fmt: skip
        return result
    result = evaluate_multilabel(*arrays, dataset.names)
    save_predictions(found, dataset.schema, folder, stem)
    write_report(result, folder, stem)
    if with_accuracy:
        accuracy = evaluate_attributes(*arrays, dataset.schema)
        write_accuracy(accuracy, folder, f"{stem}_accuracy")
        shown = decimal(accuracy["overall"]["accuracy"])
        logger.info("Test accuracy %s, mean over attributes", shown)
    path = os.path.join(folder, stem)
    shown = decimal(result["overall"]["mAP"])
    logger.info("Test mAP %s; tables in %s.{md,csv,json}", shown, path)
    return result


def save_predictions(found, schema, folder, stem, **more):
    """Write ``<stem>_predictions.npz`` and return its path.

    One-hot labels are stored as ``target``, class numbers ``(N,)`` with -1 for samples left out.
    """
    arrays = dict(found._asdict(), **more)
    if is_classification(schema):
        label = arrays.pop("label") * arrays.pop("mask")
        arrays["target"] = np.where(label.any(1), label.argmax(1), -1).astype(np.int32)
    path = os.path.join(folder, f"{stem}_predictions.npz")
    save_arrays(path, arrays, compress=True)
    return path


def class_names(schema):
    """Return the names of the classes of single-label data."""
    return list(schema.attributes[0].classes)


def text_of(result, accuracy=None):
    """Return results as text for the console; a downstream task brings its own."""
    if "console" in result:
        return result["console"]
    if "cmc" in result:
        return retrieval_text(result)
    if "confusions" in result:
        return classification_text(result)
    text = to_console(result)
    return text if accuracy is None else f"{text}\n{accuracy_text(accuracy)}"


def _multilabel(arrays, dataset):
    result = evaluate_multilabel(*arrays, dataset.names)
    return {name: result["overall"][name] for name in ("mAP", "mA")}
