"""Multi-label metrics by slow loops, written from their definitions; nan where undefined."""

from __future__ import annotations

import math

NAN = float("nan")


def known_pairs(scores, labels, mask=None):
    mask = [1] * len(scores) if mask is None else mask
    return [(float(s), int(y)) for s, y, m in zip(scores, labels, mask) if m]


def interpolated_ap(scores, labels, mask=None):
    """Every positive contributes the best precision at any threshold that finds as many of them.

    With P positives, recall takes the values k / P; the interpolated precision at k / P is the
    largest precision over all thresholds whose recall is at least k / P.
    """
    pairs = known_pairs(scores, labels, mask)
    positives = sum(y for _, y in pairs)
    if not positives:
        return NAN
    points = []
    for threshold in {s for s, _ in pairs}:
        found = [y for s, y in pairs if s >= threshold]
        points.append((sum(found), sum(found) / len(found)))
    best = [max(p for tp, p in points if tp >= k) for k in range(1, positives + 1)]
    return math.fsum(best) / positives


def counts(probs, labels, mask, threshold):
    """Return TP, FP, FN, TN of one attribute."""
    tp = fp = fn = tn = 0
    for p, y in known_pairs(probs, labels, mask):
        predicted = p >= threshold
        tp += predicted and y == 1
        fp += predicted and y == 0
        fn += not predicted and y == 1
        tn += not predicted and y == 0
    return tp, fp, fn, tn


def balanced_accuracy(tp, fp, fn, tn):
    return NAN if tp + fn == 0 or tn + fp == 0 else (tp / (tp + fn) + tn / (tn + fp)) / 2


def instance_metrics(probs, labels, mask, threshold, count_empty):
    """Return accuracy, precision, recall, F1 by comparing sets of attributes, sample by sample."""
    accuracy, precision, recall = [], [], []
    for p_row, y_row, m_row in zip(probs, labels, mask):
        known = [a for a in range(len(p_row)) if m_row[a]]
        truth = {a for a in known if y_row[a] == 1}
        predicted = {a for a in known if p_row[a] >= threshold[a]}
        if not known or not (truth or count_empty):
            continue
        both = len(truth & predicted)
        accuracy.append(both / len(truth | predicted) if truth | predicted else 0)
        precision.append(both / len(predicted) if predicted else 0)
        recall.append(both / len(truth) if truth else 0)
    if not accuracy:
        return NAN, NAN, NAN, NAN
    a, p, r = (math.fsum(v) / len(v) for v in (accuracy, precision, recall))
    return a, p, r, 2 * p * r / (p + r) if p + r else 0.0
