"""Classification accuracy per attribute, binary and multi-class: the metric of AWMT and of the
official evaluation of Market-1501-attribute and DukeMTMC-attribute.

``probs``, ``labels`` and ``mask`` are ``(N, A)`` with the columns of a
:class:`gluon_attn.core.schema.Schema`: one per binary attribute, one per class of a multi-class
one. What is unknown (mask 0) counts nowhere; what cannot be computed is nan and left out of means.

* A binary attribute is predicted where its probability reaches the threshold; accuracy is the share
  of right decisions among the images whose label is known.
* Of a multi-class attribute the class with the highest probability is predicted (the first of
  equals). It is right if the image has that class; an image may have several (official evaluation:
  two colours, either counts). An image with none of the classes ("no colour") is always wrong, as
  in the official evaluation; ``accuracy_without_none`` leaves such images out.

Sources: He et al., ACM MM 2017 (AWMT), section 4.1; Lin et al., Improving Person Re-identification
by Attribute and Identity Learning (2017), whose evaluation code defines the Market and Duke rules.
"""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

from gluon_attn.core.schema import BINARY, Schema
from gluon_attn.metrics.checks import Array, Arrays, checked, mean_of_defined, require_probabilities

# Measures of an attribute that can be undefined (nan), in the order of tables.
MEASURES = ("accuracy", "accuracy_without_none", "balanced", "majority")


def evaluate_attributes(
    probs: Arrays, labels: Arrays, mask: Arrays, schema: Schema, threshold: float = 0.5
) -> dict[str, Any]:
    """Return the accuracy of every attribute, and their means, as one plain dict.

    The mask may be None: all known. A multi-class attribute is known in a row if all its columns
    are, or if a known one is positive. ``threshold`` is that of binary attributes; AWMT's tau = 0
    on logits is 0.5 here. Fractions are in [0, 1], undefined is nan:

    * ``attributes``, one dict each: ``name``, ``kind``, ``known`` (images that count), ``none``
      (those of them without any class; 0 for binary ones), ``accuracy``,
      ``accuracy_without_none``, ``balanced`` (mean recall over the classes that occur),
      ``majority`` (accuracy of always predicting the commonest class), and ``classes``: for
      each class of a multi-class attribute ``name``, ``positives``, ``predicted``,
      ``precision`` (nan if never predicted), ``recall`` (nan if it never occurs);
    * ``overall``: the means of ``MEASURES`` over attributes;
    * ``worst``: name of the attribute with the lowest accuracy, None if all are undefined;
    * ``undefined``: names of attributes without a known label;
    * ``samples``, ``threshold``.
    """
    probs, labels, known = checked(probs, labels, mask, dimensions=2)
    require_probabilities(probs, known)
    if probs.shape[1] != len(schema.columns):
        raise ValueError(f"{probs.shape[1]} columns for a schema of {len(schema.columns)}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}: must be a number in [0, 1]")
    rows = []
    for attribute, part in zip(schema.attributes, schema.slices()):
        columns = probs[:, part], labels[:, part], known[:, part]
        if attribute.kind == BINARY:
            values = _binary(*(c[:, 0] for c in columns), threshold=threshold)
        else:
            values = _multiclass(*columns, classes=attribute.classes)
        rows.append({"name": attribute.name, "kind": attribute.kind, **values})
    defined = [row for row in rows if row["known"]]
    return {
        "attributes": rows,
        "overall": {name: mean_of_defined([row[name] for row in rows]) for name in MEASURES},
        "worst": min(defined, key=lambda row: row["accuracy"])["name"] if defined else None,
        "undefined": [row["name"] for row in rows if not row["known"]],
        "samples": int(probs.shape[0]),
        "threshold": float(threshold),
    }


def _binary(probs: Array, label: Array, known: Array, *, threshold: float) -> dict[str, Any]:
    predicted, label = (probs >= threshold)[known], label[known]
    right = predicted == label
    share = label.mean() if len(label) else np.nan
    recalls = [right[label == value].mean() for value in (False, True) if (label == value).any()]
    accuracy = mean_of_defined(right)
    return {
        "known": int(known.sum()), "none": 0, "accuracy": accuracy,
        "accuracy_without_none": accuracy, "balanced": mean_of_defined(recalls),
        "majority": float(max(share, 1 - share)), "classes": [],
    }  # fmt: skip


def _multiclass(
    probs: Array, labels: Array, known: Array, *, classes: Sequence[str]
) -> dict[str, Any]:
    rows = known.all(axis=1) | labels.any(axis=1)
    # An unknown column must not win: its score is 0 already, and below every other this way.
    scores = np.where(known, probs, -1)[rows]
    labels = labels[rows]
    chosen = scores.argmax(axis=1) if len(scores) else np.zeros(0, int)
    right = labels[np.arange(len(labels)), chosen]
    some = labels.any(axis=1)
    found = []
    for number, name in enumerate(classes):
        predicted, positive = chosen == number, labels[:, number]
        found.append({
            "name": name, "positives": int(positive.sum()), "predicted": int(predicted.sum()),
            "precision": mean_of_defined(positive[predicted]),
            "recall": mean_of_defined(predicted[positive]),
        })  # fmt: skip
    counts = labels.sum(axis=0)
    return {
        "known": int(rows.sum()), "none": int((~some).sum()), "accuracy": mean_of_defined(right),
        "accuracy_without_none": mean_of_defined(right[some]),
        "balanced": mean_of_defined([c["recall"] for c in found]),
        "majority": float(counts.max() / len(labels)) if len(labels) else float("nan"),
        "classes": found,
    }  # fmt: skip
