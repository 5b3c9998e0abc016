"""DREAL's formulas as docs/dreal.md states them, in NumPy with loops, for one sample at a time."""

from __future__ import annotations

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def single_label_reward(logits, without, truth, penalty, form):
    """Reward of one module for one image; ``truth`` is the number of its class."""
    if np.argmax(logits) != truth:
        return -penalty
    p, replaced = softmax(logits)[truth], softmax(without)[truth]
    return 1 - replaced / p if form == "ratio" else np.sign(p - replaced)


def multi_label_reward(logits, without, label, mask, penalty, form):
    """Reward of one module for one image with several binary attributes."""
    rewards = []
    for z, replaced, y, known in zip(logits, without, label, mask):
        if not known:
            continue
        if (z > 0) != (y == 1):
            rewards.append(-penalty)
            continue
        p, q = (sigmoid(v) if y == 1 else 1 - sigmoid(v) for v in (z, replaced))
        rewards.append(1 - q / p if form == "ratio" else np.sign(p - q))
    return np.mean(rewards) if rewards else 0.0


def critic(vectors, weights):
    """Critiques of all modules for one image.

    Args:
        vectors: For each module its state and action.
        weights: ``cell_input``, ``cell_state``, ``cell_bias``, ``output_weight``, ``output_bias``
            and, for each module, ``embed0_weight`` and ``embed0_bias``.
    """
    hidden = len(weights["output_weight"][0])
    h, c, found = np.zeros(hidden), np.zeros(hidden), []
    for module, vector in enumerate(vectors):
        e = weights[f"embed{module}_weight"] @ vector + weights[f"embed{module}_bias"]
        e = np.maximum(e, 0)
        gates = weights["cell_input"] @ e + weights["cell_state"] @ h + weights["cell_bias"]
        i, f, g, o = np.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        found.append(weights["output_weight"][0] @ h + weights["output_bias"][0])
    return np.array(found)


def vector(state, actions, grid):
    """What the critic sees of a module.

    Args:
        state: ``(C, H, W)``, the input of its first gate.
        actions: Maps ``(C, 1, 1)`` or ``(1, H, W)``.
        grid: Cells per side for spatial maps; H and W are multiples of it, or it of them.
    """
    parts = [state.mean(axis=(1, 2))]
    for action in actions:
        if action.shape[1:] == (1, 1) and len(action) > 1:
            parts.append(action.ravel())
            continue
        side = action.shape[1]
        cells = np.empty((grid, grid))
        for row in range(grid):
            for column in range(grid):
                top, left = row * side // grid, column * side // grid
                bottom, right = -(-(row + 1) * side // grid), -(-(column + 1) * side // grid)
                cells[row, column] = action[0, top:bottom, left:right].mean()
        parts.append(cells.ravel())
    return np.concatenate(parts)
