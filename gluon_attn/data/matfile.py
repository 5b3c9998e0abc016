"""MATLAB files as a tree of nodes that know where they are, so that an error names file and field.

A MATLAB file wraps every struct and cell in arrays of one element; peers' readers are rows of
``[0][0][3][0]`` that fail with an IndexError on any other file. Here a place is written as in
MATLAB: ``PETA.mat: peta.partition{1}.train`` is field ``train`` of the first cell of a field.
"""

from __future__ import annotations

import numpy as np

from gluon_attn.data.mat_reader import Unread, read_mat


class Node:
    """A value inside a MATLAB file.

    Args:
        value: What :func:`gluon_attn.data.mat_reader.read_mat` returned for it.
        place: Where it is, for messages.

    Every method raises ValueError, naming the place, if the value is of another kind.
    """

    def __init__(self, value, place):
        self.value, self.place = value, place

    def error(self, message):
        """Return the ValueError that says ``message`` about this place."""
        return ValueError(f"{self.place}: {message}")

    @property
    def is_cell(self):
        """Whether it is a cell array."""
        return isinstance(self.value, np.ndarray) and self.value.dtype == object

    @property
    def fields(self):
        """The field names of a struct, a tuple; empty for anything else."""
        return getattr(getattr(self.value, "dtype", None), "names", None) or ()

    def field(self, key):
        """Return a field of a 1 x 1 struct, by name or, from 0, by position."""
        names = self.fields
        if not names or np.size(self.value) != 1:
            raise self.error(f"expected a 1 x 1 struct, found {self.kind()}")
        if isinstance(key, int):
            if key >= len(names):
                raise self.error(f"needs a field number {key + 1}; has {', '.join(names)}")
            key = names[key]
        if key not in names:
            raise self.error(f"field '{key}' is missing; has {', '.join(names)}")
        return Node(np.ravel(self.value)[0][key], f"{self.place}.{key}")

    def cells(self):
        """Return the elements of a cell array (or of an array of structs), column by column."""
        if not self.is_cell and not (self.fields and isinstance(self.value, np.ndarray)):
            raise self.error(f"expected a cell array, found {self.kind()}")
        return [
            Node(item, f"{self.place}{{{k}}}") for k, item in enumerate(self.value.ravel("F"), 1)
        ]

    def strings(self):
        """Return the texts of a cell array of texts, or the rows of a char array, a list."""
        if isinstance(self.value, np.ndarray) and self.value.dtype.kind == "U":
            return [str(text).strip() for text in self.value.ravel("F")]
        return [cell.text() for cell in self.cells()]

    def text(self):
        """Return a single text."""
        if np.size(self.value) == 1 and getattr(self.value, "dtype", np.dtype("O")).kind == "U":
            return str(np.ravel(self.value)[0]).strip()
        raise self.error(f"expected a text, found {self.kind()}")

    def matrix(self):
        """Return a two-dimensional array of whole numbers, int64."""
        value = self.value
        numeric = isinstance(value, np.ndarray) and value.dtype.kind in "buif"
        if not numeric or value.ndim != 2:
            raise self.error(f"expected a matrix of numbers, found {self.kind()}")
        with np.errstate(invalid="ignore"):  # NaN becomes some number, and differs from it
            whole = value.astype(np.int64)
        if (whole != value).any():
            row, column = np.argwhere(whole != value)[0]
            raise self.error(
                f"row {row + 1}, column {column + 1} is {value[row, column]}, no whole number"
            )
        return whole

    def vector(self):
        """Return the numbers of a row or a column, int64 ``(N,)``."""
        matrix = self.matrix()
        if 1 not in matrix.shape and matrix.size:
            raise self.error(f"expected a row or a column of numbers, found {self.kind()}")
        return matrix.ravel()

    def kind(self):
        """Return what the value is, in words."""
        shape = " x ".join(str(n) for n in np.shape(self.value))
        if self.fields:
            return f"a {shape} struct"
        if self.is_cell:
            return f"a {shape} cell array"
        if isinstance(self.value, Unread):
            return f"a {self.value.kind}"
        kind = getattr(self.value, "dtype", np.dtype("O")).kind
        names = {"U": "char array", "b": "logical array"}
        return f"a {shape} {names.get(kind, 'array')}" if shape else type(self.value).__name__


def load_mat(path, variable=None):
    """Return the Node of a variable in a MATLAB file.

    Args:
        path: The file, of version 4 to 7.
        variable: Its name; None returns a dict of Nodes of all.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none of these, truncated, or without the variable.
    """
    nodes = {name: Node(value, f"{path}: {name}") for name, value in read_mat(path).items()}
    if variable is None:
        return nodes
    return take(nodes, variable, path)


def take(nodes, variable, path):
    """Return a variable out of :func:`load_mat`'s dict.

    Raises:
        ValueError: If it is not there.
    """
    if variable not in nodes:
        raise ValueError(
            f"{path}: variable '{variable}' is missing; has {', '.join(nodes) or '(none)'}"
        )
    return nodes[variable]
