"""Accuracy of single-label classification: top-k, per class, and which classes are confused.

``scores`` are ``(N, K)``: logits or probabilities, only their order counts. ``labels`` are one-hot
rows ``(N, K)`` or class numbers ``(N,)``; ``mask`` is ``(N, K)`` or ``(N,)`` in {0, 1}, None means
that all is known. Of equal scores the one of the lower class number counts as higher, as for
``argmax``, so a net that says the same of every class gets no credit beyond chance. Rows without a
known class count nowhere; one with several positive labels is right if any of them is.
"""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

from gluon_attn.core.errors import NotFiniteError
from gluon_attn.metrics.checks import (
    Array,
    Arrays,
    Names,
    as_array,
    checked_names,
    mean_of_defined,
)

TOP = (1, 5)
PAIRS = 20  # confused pairs that a result lists


def true_rank(scores: Arrays, labels: Arrays, mask: Arrays = None) -> Array:
    """Return how many classes precede the right one, ``(N,)`` int64; -1 for rows left out."""
    scores, labels = _checked(scores, labels, mask)
    ranks = np.full(len(scores), -1, np.int64)
    single = labels.sum(1) == 1
    targets = labels.argmax(1)
    ranks[single] = _rank(scores[single], targets[single])
    for i in np.flatnonzero(labels.sum(1) > 1):
        right = np.flatnonzero(labels[i])
        ranks[i] = _rank(np.repeat(scores[i : i + 1], len(right), 0), right).min()
    return ranks


def top_k_accuracy(scores: Arrays, labels: Arrays, k: int = 1, mask: Arrays = None) -> float:
    """Return the share of rows whose right class is among the ``k`` highest; nan if none counts."""
    if k < 1:
        raise ValueError(f"k={k}: must be at least 1")
    return _share(true_rank(scores, labels, mask), k)


def top_accuracies(
    scores: Arrays, labels: Arrays, mask: Arrays = None, top: Sequence[int] = TOP
) -> dict[str, float]:
    """Return ``{"top1": share, "top1_error": share, "top5": …}``, nan if no row counts.

    A k of ``top`` that is not below K says nothing and is left out.
    """
    return _top(true_rank(scores, labels, mask), np.shape(scores)[1], top)


def confusion_matrix(scores: Arrays, labels: Arrays, mask: Arrays = None) -> Array:
    """Return ``(K, K)`` int64: rows are true classes, columns the predicted ones.

    A row of several positive labels counts for the predicted one if that is right, otherwise for
    its first.
    """
    scores, labels = _checked(scores, labels, mask)
    count = scores.shape[1]
    kept = labels.any(1)
    predicted = scores[kept].argmax(1)
    labels = labels[kept]
    right = labels[np.arange(len(labels)), predicted]
    true = np.where(right, predicted, labels.argmax(1))
    return np.bincount(true * count + predicted, minlength=count**2).reshape(count, count)


def true_class_margin(scores: Arrays, labels: Arrays, mask: Arrays = None) -> dict[str, float]:
    """Return how far the scores of the right class stand apart from the highest wrong ones.

    The Kolmogorov-Smirnov distance between the two distributions over the samples, and where it is
    reached: at that score the share of right classes below is smallest beside the share of wrong
    ones below. ICASC (ICCV 2019) gives it for probabilities on CUB-200-2011.
    ``{"distance": in [-1, 1], "at": score}``: the distance is negative where wrong classes have the
    higher scores, and both are nan if no sample counts.
    """
    scores, labels = _checked(scores, labels, mask)
    kept = labels.any(1) & ~labels.all(1)
    scores, labels = scores[kept], labels[kept]
    if not len(scores):
        return {"distance": float("nan"), "at": float("nan")}
    right = np.sort(np.where(labels, scores, -np.inf).max(1))
    wrong = np.sort(np.where(labels, -np.inf, scores).max(1))
    places = np.unique(np.concatenate([right, wrong]))
    # Of each kind as many as there are samples: the difference of the distributions' values.
    apart = np.searchsorted(wrong, places, "right") - np.searchsorted(right, places, "right")
    largest = np.abs(apart).argmax()
    return {"distance": float(apart[largest] / len(right)), "at": float(places[largest])}


def evaluate_classification(
    scores: Arrays,
    labels: Arrays,
    mask: Arrays = None,
    names: Names = None,
    *,
    top: Sequence[int] = TOP,
) -> dict[str, Any]:
    """Return accuracy over all, per class and the most confused pairs, as one plain dict.

    ``names`` are those of the K classes, None makes them up; ``top`` as in :func:`top_accuracies`.
    Fractions are in [0, 1], undefined is nan:

    * ``overall``: ``top1``, ``top5``, ``top1_error``, ``top5_error``, ``balanced`` (mean recall
      over the classes that occur) and ``majority`` (always predicting the commonest class);
    * ``classes``, one dict each: ``name``, ``images``, ``correct``, ``predicted``, ``recall``,
      ``precision``, ``f1``, ``confused_with`` (the commonest wrong class, or None) and
      ``confused`` (how often);
    * ``confusions``: up to 20 dicts ``true``, ``predicted``, ``images``, commonest first;
    * ``margin``: see :func:`true_class_margin`;
    * ``samples`` and ``left_out`` (those of them without a known class).
    """
    ranks = true_rank(scores, labels, mask)
    matrix = confusion_matrix(scores, labels, mask)
    names = checked_names(names, len(matrix))
    overall = _top(ranks, len(matrix), top)
    classes = [_class_row(matrix, k, names) for k in range(len(matrix))]
    recalls = [row["recall"] for row in classes if row["images"]]
    overall["balanced"] = mean_of_defined(recalls)
    overall["majority"] = _ratio(matrix.sum(1).max(), matrix.sum())
    return {
        "overall": overall,
        "classes": classes,
        "confusions": _pairs(matrix, names),
        "margin": true_class_margin(scores, labels, mask),
        "samples": len(ranks),
        "left_out": int((ranks < 0).sum()),
    }


def _top(ranks: Array, classes: int, top: Sequence[int]) -> dict[str, float]:
    found = {}
    for k in top:
        if k < classes or k == 1:
            found[f"top{k}"] = _share(ranks, k)
            found[f"top{k}_error"] = 1 - found[f"top{k}"]
    return found


def _class_row(matrix: Array, k: int, names: Sequence[str]) -> dict[str, Any]:
    images, predicted, correct = matrix[k].sum(), matrix[:, k].sum(), matrix[k, k]
    wrong = matrix[k].copy()
    wrong[k] = 0
    worst = int(wrong.argmax())
    return {
        "name": names[k], "images": int(images), "correct": int(correct),
        "predicted": int(predicted), "recall": _ratio(correct, images),
        "precision": _ratio(correct, predicted), "f1": _ratio(2 * correct, images + predicted),
        "confused_with": names[worst] if wrong[worst] else None, "confused": int(wrong[worst]),
    }  # fmt: skip


def _pairs(matrix: Array, names: Sequence[str]) -> list[dict[str, Any]]:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [divmod(int(at), len(matrix)) for at in order]
    return [
        {"true": names[a], "predicted": names[b], "images": int(wrong[a, b])}
        for a, b in pairs
        if wrong[a, b]
    ]


def _rank(scores: Array, targets: Array) -> Array:
    """Return how many classes precede the target of each row."""
    if not len(scores):
        return np.zeros(0, np.int64)
    own = scores[np.arange(len(scores)), targets][:, None]
    before = np.arange(scores.shape[1]) < targets[:, None]
    return np.asarray((scores > own).sum(1) + ((scores == own) & before).sum(1))


def _share(ranks: Array, k: int) -> float:
    return mean_of_defined(ranks[ranks >= 0] < k)


def _ratio(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else float("nan")


def _checked(scores: Arrays, labels: Arrays, mask: Arrays) -> tuple[Array, Array]:
    """Return ``(N, K)`` scores and boolean labels, all False in rows that are left out."""
    scores, labels = as_array(scores), as_array(labels)
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(f"scores {scores.shape}: must be (N, K) with at least two classes")
    if labels.ndim == 1 and labels.shape == scores.shape[:1]:
        labels = _one_hot(labels, scores.shape[1])
    if labels.shape != scores.shape:
        raise ValueError(
            f"labels {labels.shape}: must be class numbers ({len(scores)},) or one-hot rows "
            f"{scores.shape}"
        )
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("one-hot labels must be 0 or 1")
    positive = labels == 1
    if mask is not None:
        mask = as_array(mask)
        mask = mask[:, None] if mask.ndim == 1 else mask
        positive = positive & (np.broadcast_to(mask, scores.shape) == 1)
    bad = positive.any(1) & ~np.isfinite(scores).all(1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise NotFiniteError(
            f"scores of row {row} are not finite; {int(bad.sum())} such rows in all"
        )
    return scores, positive


def _one_hot(targets: Array, count: int) -> Array:
    wrong = ~np.isin(targets, np.arange(count))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"class number of row {row} is {targets[row]}; valid are 0 to {count - 1}")
    labels = np.zeros((len(targets), count), bool)
    labels[np.arange(len(targets)), targets.astype(np.int64)] = True
    return labels
