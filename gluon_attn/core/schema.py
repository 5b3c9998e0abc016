"""What the columns of a label matrix mean: binary attributes, and attributes with several classes.

Labels, masks and logits have one column per binary attribute and one per class of a multi-class
attribute (one of which is positive, or several where the data say so). So every loader, loss and
head works on columns alone; the schema says which columns belong together, for losses over groups,
accuracy by arg-max, tables, export sidecars and predictions.

Raw values of a multi-class attribute in one sample:

* one column 1 (or several: any of them counts as right), the others -1: known;
* all -1: none of the classes ("no colour");
* all 0: not known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BINARY, MULTICLASS = "binary", "multiclass"


class Attribute(NamedTuple):
    """One attribute.

    Attributes:
        name: Its name, unique in the schema.
        kind: ``'binary'`` or ``'multiclass'``.
        classes: Names of the classes, two or more; empty for a binary attribute.
        group: Free label under which tables may sort it, such as 'head'; '' for none.
    """

    name: str
    kind: str = BINARY
    classes: tuple = ()
    group: str = ""

    @property
    def width(self):
        """Number of columns."""
        return len(self.classes) if self.kind == MULTICLASS else 1

    @property
    def columns(self):
        """Names of its columns: the attribute's own, or ``'name=class'`` for each class."""
        if self.kind == BINARY:
            return (self.name,)
        return tuple(f"{self.name}={label}" for label in self.classes)


class Schema:
    """The attributes of a data set, in the order of its columns.

    Args:
        attributes: Attribute objects.

    Attributes:
        attributes: The M attributes, a tuple.
        columns: The A column names, a tuple: the ``names`` of a data set.

    Raises:
        ValueError: No attributes, repeated names, an unknown kind, or too few classes.
    """

    def __init__(self, attributes):
        self.attributes = tuple(Attribute(*a) for a in attributes)
        for attribute in self.attributes:
            _check(attribute)
        self.columns = tuple(c for a in self.attributes for c in a.columns)
        for what, names in (("attribute", self.names), ("column", self.columns)):
            repeated = sorted({n for n in names if names.count(n) > 1})
            if repeated:
                raise ValueError(f"repeated {what} name: {', '.join(repeated)}")
        if not self.attributes:
            raise ValueError("a schema needs at least one attribute")

    @classmethod
    def binary(cls, names):
        """Return the schema in which every column is a binary attribute."""
        return cls(Attribute(name) for name in names)

    @property
    def names(self):
        """The M attribute names, a tuple."""
        return tuple(a.name for a in self.attributes)

    @property
    def is_binary(self):
        """Whether every attribute is binary."""
        return all(a.kind == BINARY for a in self.attributes)

    @property
    def is_single_label(self):
        """Whether it is one multi-class attribute and nothing else: one class per sample."""
        return len(self.attributes) == 1 and self.attributes[0].kind == MULTICLASS

    def slices(self):
        """Return the columns of every attribute as slices, in order."""
        edges = np.cumsum([0] + [a.width for a in self.attributes]).tolist()
        return [slice(start, stop) for start, stop in zip(edges, edges[1:])]

    def membership(self):
        """Return ``(M, A)`` float32: 1 where a column belongs to an attribute."""
        result = np.zeros((len(self.attributes), len(self.columns)), np.float32)
        for row, columns in zip(result, self.slices()):
            row[columns] = 1
        return result

    def decide(self, probabilities, thresholds):
        """Return which columns are predicted to be positive, ``(B, A)`` bool.

        A binary attribute is from its threshold on; of a multi-class attribute it is the class
        of the highest probability, whatever the thresholds.

        Args:
            probabilities: ``(B, A)``; a row of NaN predicts nothing.
            thresholds: ``(A,)``.
        """
        positive = probabilities >= np.asarray(thresholds)
        for attribute, columns in zip(self.attributes, self.slices()):
            if attribute.kind == MULTICLASS:
                values = probabilities[:, columns]
                best = np.arange(values.shape[1]) == values.argmax(1)[:, None]
                positive[:, columns] = best & ~np.isnan(values)
        return positive

    def values(self, positive):
        """Return ``{attribute: bool, or name of the class}`` of one row of :meth:`decide`.

        Args:
            positive: ``(A,)`` bool.
        """
        found = {}
        for attribute, columns in zip(self.attributes, self.slices()):
            row = positive[columns]
            binary = attribute.kind == BINARY
            found[attribute.name] = bool(row[0]) if binary else attribute.classes[row.argmax()]
        return found

    def to_json(self):
        """Return a list of dicts that JSON can hold."""
        return [
            {"name": a.name, "kind": a.kind, "classes": list(a.classes), "group": a.group}
            for a in self.attributes
        ]

    @classmethod
    def from_json(cls, items):
        """Return the schema that :meth:`to_json` described.

        Raises:
            ValueError: Not such a list.
        """
        try:
            return cls(
                Attribute(i["name"], i["kind"], tuple(i["classes"]), i.get("group", ""))
                for i in items
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an attribute schema: {error!r} in {items!r}") from error

    def __eq__(self, other):
        return isinstance(other, Schema) and self.attributes == other.attributes

    def __hash__(self):
        return hash(self.attributes)

    def __len__(self):
        return len(self.attributes)

    def __repr__(self):
        return f"Schema({len(self)} attributes, {len(self.columns)} columns)"


def _check(attribute):
    if attribute.kind not in (BINARY, MULTICLASS):
        raise ValueError(
            f"attribute '{attribute.name}': kind {attribute.kind!r}; valid are binary, multiclass"
        )
    count = len(attribute.classes)
    if (attribute.kind == BINARY and count) or (attribute.kind == MULTICLASS and count < 2):
        raise ValueError(
            f"attribute '{attribute.name}' is {attribute.kind} and has {count} classes: a binary "
            "one has none, a multiclass one at least two"
        )
