"""Multi-label attribute metrics: AP and mAP, mA, instance and pooled precision / recall / F1.

Everything is NumPy: ``probs (N, A)``, ``labels (N, A)`` in {0, 1} and ``mask (N, A)`` in {0, 1},
N samples, A attributes. Where the mask is 0 the label is unspecified: that entry counts nowhere,
neither as truth nor as prediction; a mask of None means that all is known. Positive is predicted
where ``probs >= threshold``, a number or ``(A,)``. What cannot be computed is nan and left out of
every mean; ``evaluate_multilabel`` lists which attributes that touched. All functions raise a
ValueError that names the place if shapes differ, a score is not finite, or a label or mask value is
not 0 or 1.

Sources of the definitions:

* interpolated AP: the evaluation released with VAA (Sarafianos et al., ECCV 2018), that is PASCAL
  VOC's all-point interpolation (Everingham et al., IJCV 2015);
* mA and instance metrics: the RAP protocol (Li et al., arXiv 1603.07054), also used for PETA;
* OP, OR, OF1, CP, CR, CF1: Zhu et al., SRN (CVPR 2017).

Deviation: the released VAA code walks down the samples in ``argsort`` order, so samples with equal
scores are counted in an arbitrary order and the AP depends on the order of the file. Here, as in
scikit-learn, samples with equal scores share one threshold. Without ties the results are equal.
"""

from __future__ import annotations

from typing import Any, Sequence, Union

import numpy as np
from sklearn.metrics import precision_recall_curve

from gluon_attn.core.batch import PADDING
from gluon_attn.metrics.checks import (
    Array,
    Arrays,
    Names,
    as_array,
    checked,
    checked_names,
    mean_of_defined,
    require_probabilities,
)

Threshold = Union[float, Sequence[float], Array]  # a number, or one per attribute

EMPTY_RULES = ("leave-out", "zero")
# Of what per_attribute returns: the measures that can be undefined (nan), in the order of tables.
MEASURES = ("ap", "ap_sklearn", "accuracy", "precision", "recall", "f1", "ma")


def average_precision(
    scores: Arrays, labels: Arrays, mask: Arrays = None, interpolated: bool = True
) -> float:
    """Return the average precision of one attribute in [0, 1]; nan without a positive sample.

    With ``interpolated`` the area under the precision envelope over recall,
    ``sum_k (r_k - r_(k-1)) * max_(r >= r_k) p(r)``; otherwise ``sum_k (r_k - r_(k-1)) * p_k``,
    which is ``sklearn.metrics.average_precision_score``. k runs over the distinct scores, from the
    highest down. Arrays are ``(N,)``; any increasing function of the scores gives the same result.
    """
    scores, labels, known = checked(scores, labels, mask, dimensions=1)
    return _average_precisions(scores[known], labels[known])[0 if interpolated else 1]


def mean_accuracy(
    probs: Arrays, labels: Arrays, mask: Arrays = None, threshold: Threshold = 0.5
) -> float:
    """Return mA in [0, 1]: the mean over attributes of ``(TPR + TNR) / 2``; nan if none is left.

    Attributes that lack positives or negatives have no such value and are left out of the mean.
    """
    return mean_of_defined(mean_accuracy_per_attribute(probs, labels, mask, threshold))


def mean_accuracy_per_attribute(
    probs: Arrays, labels: Arrays, mask: Arrays = None, threshold: Threshold = 0.5
) -> Array:
    """Return ``(TPR + TNR) / 2`` of each attribute, ``(A,)``; nan where either class is absent."""
    probs, labels, known = checked(probs, labels, mask, dimensions=2)
    return _balanced_accuracy(*_confusion(probs, labels, known, threshold))


def instance_metrics(
    probs: Arrays,
    labels: Arrays,
    mask: Arrays = None,
    threshold: Threshold = 0.5,
    *,
    empty: str = "leave-out",
) -> dict[str, float]:
    """Return accuracy, precision, recall and F1 of the RAP / PETA instance protocol.

    With the set of true attributes Y and of predicted ones Z of a sample, accuracy is the mean over
    samples of ``|Y & Z| / |Y | Z|``, precision of ``|Y & Z| / |Z|``, recall of ``|Y & Z| / |Y|``.
    F1 is ``2 P R / (P + R)`` of the *mean* precision P and *mean* recall R, not a mean of F1.

    A sample with true attributes but no predicted one has precision 0. For samples without any true
    attribute, publications differ:

    * ``empty='leave-out'``, the default, removes them from the count. Recall has no meaning for
      them, and the widely used RAP evaluation and its descendants do so.
    * ``empty='zero'`` counts them with 0 in all three, which is what adding a small epsilon to each
      denominator does ("Rethinking of Pedestrian Attribute Recognition"); a correctly empty
      prediction then costs as much as a wrong one. Use it to compare with numbers made that way.

    Samples without any known label are left out by both; nan if no sample is left.
    """
    probs, labels, known = checked(probs, labels, mask, dimensions=2)
    predicted = _decide(probs, known, threshold)
    if empty not in EMPTY_RULES:
        raise ValueError(f"empty={empty!r}: valid are {', '.join(EMPTY_RULES)}")
    rows = labels.any(axis=1) if empty == "leave-out" else known.any(axis=1)
    labels, predicted = labels[rows], predicted[rows]
    both = (labels & predicted).sum(axis=1)
    denominators = (labels | predicted).sum(axis=1), predicted.sum(axis=1), labels.sum(axis=1)
    # 0 / 0 is 0: `both` is 0 wherever a denominator is.
    accuracy, precision, recall = (mean_of_defined(both / np.maximum(d, 1)) for d in denominators)
    f1 = _harmonic(precision, recall)
    return {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1}


def per_attribute(
    probs: Arrays, labels: Arrays, mask: Arrays = None, threshold: Threshold = 0.5
) -> dict[str, Array]:
    """Return every per-attribute number, each as an ``(A,)`` array.

    ``positives``, ``negatives``, ``unspecified`` (counts), ``ap`` (interpolated), ``ap_sklearn``,
    ``accuracy``, ``precision`` (nan if never predicted), ``recall`` (nan without positives), ``f1``
    (``2 TP / (2 TP + FP + FN)``) and ``ma`` (nan unless both classes occur).
    """
    probs, labels, known = checked(probs, labels, mask, dimensions=2)
    tp, fp, fn, tn = counts = _confusion(probs, labels, known, threshold)
    areas = [
        _average_precisions(probs[known[:, a], a], labels[known[:, a], a])
        for a in range(probs.shape[1])
    ]
    interpolated, plain = np.array(areas, dtype=np.float64).reshape(-1, 2).T
    return {
        "positives": (tp + fn).astype(np.int64),
        "negatives": (tn + fp).astype(np.int64),
        "unspecified": (~known).sum(axis=0),
        "ap": interpolated,
        "ap_sklearn": plain,
        "accuracy": _ratio(tp + tn, tp + fp + fn + tn),
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "ma": _balanced_accuracy(*counts),
    }


def evaluate_multilabel(
    probs: Arrays,
    labels: Arrays,
    mask: Arrays = None,
    names: Names = None,
    *,
    threshold: Threshold = 0.5,
    empty: str = "leave-out",
) -> dict[str, Any]:
    """Return all multi-label metrics of a data set as one plain dict.

    ``names`` are by default ``attribute0`` …; ``empty`` says what to do with samples without
    a positive label, see :func:`instance_metrics`. Raises a ValueError also if a probability is
    outside [0, 1] (logits handed in by mistake). Fractions are in [0, 1], undefined is nan:

    * ``attributes``: one dict per attribute, in order: ``name`` and what
      :func:`per_attribute` returns;
    * ``overall``: ``mAP`` (interpolated), ``mAP_sklearn``, ``mA``, ``accuracy`` (mean over
      attributes), ``instance_accuracy``, ``instance_precision``, ``instance_recall``,
      ``instance_f1``, ``OP``, ``OR``, ``OF1`` (pooled over all entries), ``CP``, ``CR``,
      ``CF1`` (means over the attributes that have positives; one that is never predicted has
      precision 0 there, as peers count it; CF1 is made from CP and CR);
    * ``undefined``: for each measure that is undefined somewhere, the names of the attributes;
    * ``samples``, ``samples_without_positives``, ``threshold``, ``empty``: the protocol.
    """
    probs, labels, known = checked(probs, labels, mask, dimensions=2)
    require_probabilities(probs, known)
    names = checked_names(names, probs.shape[1])
    columns = per_attribute(probs, labels, known, threshold)
    rows = [
        {"name": name, **{key: column[a].item() for key, column in columns.items()}}
        for a, name in enumerate(names)
    ]
    overall = {
        "mAP": mean_of_defined(columns["ap"]),
        "mAP_sklearn": mean_of_defined(columns["ap_sklearn"]),
        "mA": mean_of_defined(columns["ma"]),
        "accuracy": mean_of_defined(columns["accuracy"]),
    }
    instance = instance_metrics(probs, labels, known, threshold, empty=empty)
    overall.update({f"instance_{key}": value for key, value in instance.items()})
    overall.update(_pooled(*_confusion(probs, labels, known, threshold)))
    missing = {m: [row["name"] for row in rows if np.isnan(row[m])] for m in MEASURES}
    return {
        "attributes": rows,
        "overall": overall,
        "undefined": {measure: where for measure, where in missing.items() if where},
        "samples": int(probs.shape[0]),
        "samples_without_positives": int((~labels.any(axis=1)).sum()),
        "threshold": np.asarray(threshold, dtype=float).tolist(),
        "empty": empty,
    }


class MultiLabelMeter:
    """Collect predictions batch by batch, then compute :func:`evaluate_multilabel` on all of them.

    AP is no mean over batches, so everything is kept: ``6 N A`` bytes for float32 probabilities
    (14 MB for 60,000 samples with 40 attributes). Rows with a negative index (``PADDING``) are
    ignored. The result does not depend on the order in which the samples come.
    """

    def __init__(
        self, names: Names = None, threshold: Threshold = 0.5, empty: str = "leave-out"
    ) -> None:
        self.names, self.threshold, self.empty = names, threshold, empty
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self._parts: list[tuple[Array, ...]] = []
        self._seen: set[int] = set()

    def __len__(self) -> int:
        return len(self._seen)

    def update(self, index: Arrays, probs: Arrays, label: Arrays, mask: Arrays = None) -> None:
        """Add one batch; ``index`` ``(B,)`` are the samples' positions in their data set.

        Raises a ValueError if a sample comes a second time: counting it twice would shift every
        metric, and a loader that fills up the last batch with real samples has to mark those as
        padding.
        """
        probs, label = as_array(probs), as_array(label)
        mask = np.ones(label.shape) if mask is None else as_array(mask)
        index = as_array(index).astype(np.int64).ravel()
        if not len(index) == len(probs) == len(label) == len(mask):
            lengths = f"{len(probs)}, {len(label)} and {len(mask)}"
            raise ValueError(f"{len(index)} indices for {lengths} rows of probs, label and mask")
        real = index >= 0
        index, probs = index[real], probs[real]
        _, label, known = checked(probs, label[real], mask[real], dimensions=2)
        if self._parts and self._parts[0][1].shape[1] != probs.shape[1]:
            width = self._parts[0][1].shape[1]
            raise ValueError(f"{probs.shape[1]} attributes after batches with {width}")
        values, counts = np.unique(index, return_counts=True)
        again = sorted(set(values[counts > 1].tolist()) | (set(values.tolist()) & self._seen))
        if again:
            raise ValueError(
                f"samples seen twice: {again[:5]}{' ...' if len(again) > 5 else ''}; "
                f"rows that only fill up a batch need index {PADDING}"
            )
        self._seen.update(values.tolist())
        self._parts.append((index, probs.copy(), label, known))

    def arrays(self) -> tuple[Array, Array, Array, Array]:
        """Return ``(index, probs, labels, mask)`` of all samples, sorted by index."""
        if not self._seen:
            raise ValueError("no samples to evaluate: the split is empty or all rows were padding")
        index, probs, labels, mask = (np.concatenate(part) for part in zip(*self._parts))
        order = np.argsort(index)
        return index[order], probs[order], labels[order], mask[order]

    def compute(self) -> dict[str, Any]:
        """Return :func:`evaluate_multilabel` of all samples added since the last reset."""
        _, probs, labels, mask = self.arrays()
        return evaluate_multilabel(
            probs, labels, mask, self.names, threshold=self.threshold, empty=self.empty
        )


def _average_precisions(scores: Array, labels: Array) -> tuple[float, float]:
    if not labels.any():
        return float("nan"), float("nan")
    # From the lowest threshold to the highest, so recall falls; the last point is not a threshold.
    precision, recall, _ = precision_recall_curve(labels, scores)
    step = -np.diff(recall)
    envelope = np.maximum.accumulate(precision[:-1])
    return float(step @ envelope), float(step @ precision[:-1])


def _decide(probs: Array, known: Array, threshold: Threshold) -> Array:
    threshold = np.asarray(threshold, dtype=np.float64)
    if threshold.shape not in ((), probs.shape[1:]) or not np.isfinite(threshold).all():
        raise ValueError(
            f"threshold {threshold.tolist()}: must be a finite number or {probs.shape[1]} of them"
        )
    return np.asarray((probs >= threshold) & known)


def _confusion(
    probs: Array, labels: Array, known: Array, threshold: Threshold
) -> tuple[Array, ...]:
    """Return the counts TP, FP, FN, TN of each attribute, float64 ``(A,)``."""
    predicted = _decide(probs, known, threshold)
    cells = (
        labels & predicted,
        predicted & ~labels,
        labels & ~predicted,
        known & ~labels & ~predicted,
    )
    return tuple(cell.sum(axis=0).astype(np.float64) for cell in cells)


def _balanced_accuracy(tp: Array, fp: Array, fn: Array, tn: Array) -> Array:
    return (_ratio(tp, tp + fn) + _ratio(tn, tn + fp)) / 2


def _pooled(tp: Array, fp: Array, fn: Array, tn: Array) -> dict[str, float]:
    """Return OP, OR, OF1 over all entries and CP, CR, CF1 over attributes with positives."""
    present = tp + fn > 0
    class_precision = mean_of_defined((tp / np.maximum(tp + fp, 1))[present])
    class_recall = mean_of_defined(_ratio(tp, tp + fn)[present])
    return {
        "OP": _ratio(tp.sum(), (tp + fp).sum()).item(),
        "OR": _ratio(tp.sum(), (tp + fn).sum()).item(),
        "OF1": _ratio(2 * tp.sum(), (2 * tp + fp + fn).sum()).item(),
        "CP": class_precision,
        "CR": class_recall,
        "CF1": _harmonic(class_precision, class_recall),
    }


def _ratio(part: Arrays, whole: Arrays) -> Array:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b != 0 else 0.0
