"""The weights of AWMT: from the trend of every task's validation loss (Algorithms 1 and 2).

Adaptively Weighted Multi-task Deep Network for Person Attribute Classification, He, Wang, Fu, Feng,
Jiang, Xue, ACM MM 2017.

Every k iterations the weights lambda are made from the validation loss of each attribute and from
how much that loss has changed since the k iterations before.

Legend: M tasks, k window, U updates.

Deviation, listed in docs/awmt.md: a guard against zeros.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

from gluon_attn.method import Array, State

EPS = 1e-8  # stands for a trend or a loss of 0, which Algorithm 2 would divide by


class ValidationLossTrend:
    """Weights of M tasks from the trend of their validation losses (Algorithms 1 and 2).

    ``window`` is k, the iterations between two updates; the first is in iteration 2 k. ``weights``
    are the current lambda, ``(M,)`` float64 with mean 1.
    """

    def __init__(self, num_tasks: int, window: int = 200) -> None:
        if num_tasks < 1 or window < 1:
            raise ValueError(f"num_tasks={num_tasks}, window={window}: both must be positive")
        self.num_tasks, self.window, self.count = int(num_tasks), int(window), 0
        self.weights: Array = np.ones(self.num_tasks)
        self._rows: list[Array] = []
        self._previous: Array | None = None
        self._history: list[tuple[int, Array, Array]] = []

    def step(self, val_losses: Sequence[float] | Array) -> Array:
        """Take the losses ``(M,)`` of one iteration; return the weights to use in it, ``(M,)``.

        Losses are finite and >= 0, or nan where a task was not measured.
        """
        losses = np.array(val_losses, np.float64)
        if losses.shape != (self.num_tasks,) or (losses < 0).any() or np.isinf(losses).any():
            raise ValueError(
                f"iteration {self.count + 1}: needs {self.num_tasks} finite losses >= 0 (nan: not "
                f"measured), got {losses.tolist()}; if they grow without bound, lower lr"
            )
        self._rows.append(losses)
        self.count += 1
        if self.count % self.window == 0:
            self._finish_window()
        return self.weights.copy()

    def _finish_window(self) -> None:
        rows = np.array(self._rows)
        known = ~np.isnan(rows)
        current = mean_of_known(np.where(known, rows, 0).sum(axis=0), known.sum(axis=0))
        if self._previous is not None:
            current = np.where(np.isnan(current), self._previous, current)
            self.weights = update_weights(current, self._previous)
        self._previous, self._rows = current, []
        self._history.append((self.count, self.weights, current))

    def history(self) -> dict[str, Array]:
        """Return ``iterations (U,)``, ``weights (U, M)`` and mean ``losses (U, M)`` of all windows.

        The weights are those that the end of the window led to; after the first they are 1.
        """
        iterations, weights, losses = zip(*self._history) if self._history else ((), (), ())
        shape = (-1, self.num_tasks)
        return {
            "iterations": np.array(iterations, np.int64),
            "weights": np.array(weights, np.float64).reshape(shape),
            "losses": np.array(losses, np.float64).reshape(shape),
        }

    def state(self) -> State:
        nothing = np.full(self.num_tasks, np.nan)
        return {
            **{f"history_{name}": array for name, array in self.history().items()},
            "count": np.array(self.count, np.int64),
            "weights": self.weights.copy(),
            "previous": nothing if self._previous is None else self._previous.copy(),
            "rows": np.array(self._rows, np.float64).reshape(-1, self.num_tasks),
        }

    def load_state(self, state: State) -> None:
        count, rows = int(state["count"]), np.asarray(state["rows"])
        if state["weights"].shape != (self.num_tasks,) or len(rows) != count % self.window:
            raise ValueError(
                f"a state of {len(state['weights'])} tasks with {len(rows)} of {count} iterations "
                f"in its window does not fit {self.num_tasks} tasks and window {self.window}"
            )
        self.count, self.weights = count, np.array(state["weights"], np.float64)
        self._rows = [np.array(row, np.float64) for row in rows]
        self._previous = None if count < self.window else np.array(state["previous"], np.float64)
        parts = (state[f"history_{n}"] for n in ("iterations", "weights", "losses"))
        self._history = [(int(i), np.array(w), np.array(x)) for i, w, x in zip(*parts)]


def update_weights(current: Array, previous: Array) -> Array:
    """Return the new weights, ``(M,)`` with mean 1 (Algorithm 2).

    Arguments are the mean validation losses ``(M,)`` of the last k iterations and of the k before.
    Tasks that are nan in either get weight 1.
    """
    known = ~(np.isnan(current) | np.isnan(previous))
    weights = np.ones(len(current))
    if not known.any():
        return weights
    loss = np.maximum(current[known], EPS)
    trend = np.maximum(np.abs(current[known] - previous[known]) / loss, EPS)
    product = (trend / trend.mean()) * (loss / loss.mean())
    weights[known] = product / product.mean()
    return weights


def mean_of_known(total: Array, count: Array) -> Array:
    """Return total / count of every task, nan where the count is 0."""
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
