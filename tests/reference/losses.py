"""NumPy versions of VAA's losses, written from the paper's formulas, entry by entry."""

from __future__ import annotations

import math


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def focal_prior(z, y, m, prior, gamma):
    """Per sample: mean over attributes of exp(-a) [(1-p)^g log p y + p^g log(1-p) (1-y)] (-1)."""
    out = []
    for row in range(len(z)):
        total = 0.0
        for c in range(len(prior)):
            p = sigmoid(z[row][c])
            term = (1 - p) ** gamma * math.log(p) * y[row][c]
            term += p**gamma * math.log(1 - p) * (1 - y[row][c])
            total -= math.exp(-prior[c]) * term * m[row][c]
        out.append(total / len(prior))
    return out


def focal_released(z, y, m, prior, gamma):
    """As the authors' code weights it: exp(y + (1 - 2y) / cl_weight)."""
    out = []
    for row in range(len(z)):
        total = 0.0
        for c in range(len(prior)):
            cl_weight = (1 - prior[c]) / prior[c] if prior[c] <= 0.5 else 1.0
            weight = math.exp(y[row][c] + (1 - 2 * y[row][c]) / cl_weight)
            p = sigmoid(z[row][c])
            term = (1 - p) ** gamma * math.log(p) * y[row][c]
            term += p**gamma * math.log(1 - p) * (1 - y[row][c])
            total -= weight * term * m[row][c]
        out.append(total / len(prior))
    return out


def std_weight(history):
    """std_s(H) for one sample and attribute from its list of probabilities, newest last."""
    n = len(history)
    if n < 2:
        return 0.0
    mean = sum(history) / n
    var = sum((p - mean) ** 2 for p in history) / n
    return math.sqrt(var + var**2 / (n - 1))
