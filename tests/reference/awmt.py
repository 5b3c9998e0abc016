"""AWMT's weights in plain Python, written from the description of Algorithms 1 and 2 alone.

Keeps every validation loss of the run in a list and looks windows up in it; no guard, no state.
"""

from __future__ import annotations


def weights_of_all_iterations(val_losses, k):
    """Return the weights used in every iteration, for ``val_losses``: one list of M per iteration.

    The weights are one until iteration 2 k (counted from 1); in that iteration and every k-th
    after it they are made anew, and used at once.
    """
    tasks = len(val_losses[0])
    weights, previous, used = [1.0] * tasks, None, []
    for count in range(1, len(val_losses) + 1):
        if count == k:
            previous = column_means(val_losses[0:k])
        if count >= 2 * k and count % k == 0:
            current = column_means(val_losses[count - k : count])
            weights = update_weights(current, previous)
            previous = current
        used.append(list(weights))
    return used


def update_weights(current, previous):
    """Return the new weights from the mean losses of this window and of the one before."""
    trend = [abs(c - p) / c for c, p in zip(current, previous)]
    mean_trend = sum(trend) / len(trend)
    mean_loss = sum(current) / len(current)
    product = [(t / mean_trend) * (c / mean_loss) for t, c in zip(trend, current)]
    mean_product = sum(product) / len(product)
    return [p / mean_product for p in product]


def column_means(rows):
    """Return the mean of every column."""
    return [sum(row[j] for row in rows) / len(rows) for j in range(len(rows[0]))]


def training_loss(outputs, labels, weights):
    """Return the loss and its gradient for a batch: nested lists, labels 1 or -1.

    The loss is the sum over images and outputs of weight * error^2 / (2 B); the gradient with
    respect to an output is weight * error / B.
    """
    batch = len(outputs)
    errors = [[z - t for z, t in zip(row, truth)] for row, truth in zip(outputs, labels)]
    loss = sum(w * e * e for row in errors for w, e in zip(weights, row)) / (2 * batch)
    return loss, [[w * e / batch for w, e in zip(weights, row)] for row in errors]
