"""Labels of single-label classification as an ``(N, K)`` matrix that is never built.

ImageNet's would have 1.28 million rows of 1000 columns, 5 GB as float32; the class numbers take
5 MB. Rows are made when they are asked for.
"""

from __future__ import annotations

import numpy as np


class Rows:
    """What readers, loaders and methods use of an ``(N, K)`` NumPy matrix, made row by row.

    ``rows[i]`` is ``(K,)``, ``rows[indices]`` or a slice ``(n, K)``, each a new array;
    ``rows.copy()`` and ``np.asarray(rows)`` build the whole matrix.

    Args:
        shape: ``(N, K)``.
        dtype: Of the rows.
    """

    ndim = 2

    def __init__(self, shape, dtype):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)

    def __len__(self):
        return self.shape[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype=None):
        return self[:] if dtype is None else self[:].astype(dtype)

    def copy(self):
        """Return the whole matrix as a NumPy array."""
        return self[:]


class OneHot(Rows):
    """One value in the column of a row's class, another elsewhere.

    Args:
        targets: ``(N,)`` class numbers, whole, 0 to K - 1.
        classes: K.
        positive, negative: The two values; the default is the code of raw labels.
        dtype: Of the rows.

    Attributes:
        targets: ``(N,)`` int32.

    Raises:
        ValueError: If a class number is impossible; the message names the first such sample.
    """

    def __init__(self, targets, classes, positive=1, negative=-1, dtype=np.int8):
        self.targets = _checked(targets, classes)
        super().__init__((len(self.targets), int(classes)), dtype)
        self.positive, self.negative = positive, negative

    def __getitem__(self, key):
        targets = self.targets[key]
        rows = np.full(np.shape(targets) + self.shape[1:], self.negative, self.dtype)
        if rows.ndim == 1:
            rows[targets] = self.positive
        else:
            rows[np.arange(len(rows)), targets] = self.positive
        return rows

    def encode(self):
        """Return ``(label, mask)`` of raw labels: one-hot rows in {0, 1}, all of them known."""
        return OneHot(self.targets, self.shape[1], 1, 0, np.float32), Known(self.shape)

    def class_counts(self):
        """Return how many rows each class has, ``(K,)`` int64."""
        return np.bincount(self.targets, minlength=self.shape[1]).astype(np.int64)


class Known(Rows):
    """The mask of labels that are all known: ones.

    Args:
        shape: ``(N, K)``.
    """

    def __init__(self, shape):
        super().__init__(shape, np.float32)

    def __getitem__(self, key):
        return np.array(np.broadcast_to(np.float32(1), self.shape)[key])


def _checked(targets, classes):
    """Return class numbers as int32, refusing impossible ones."""
    targets = np.asarray(targets)
    if targets.ndim != 1 or (targets.size and targets.dtype.kind not in "iu"):
        raise ValueError(
            f"class numbers must be a vector of whole numbers, got shape {targets.shape} of "
            f"{targets.dtype}"
        )
    wrong = np.flatnonzero((targets < 0) | (targets >= classes))
    if wrong.size:
        raise ValueError(
            f"sample {wrong[0]} has class number {targets[wrong[0]]}; valid are 0 to {classes - 1}"
        )
    return targets.astype(np.int32)
