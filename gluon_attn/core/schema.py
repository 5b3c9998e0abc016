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

from typing import Any, Iterable, NamedTuple

import numpy as np
from numpy.typing import NDArray

BINARY, MULTICLASS = "binary", "multiclass"


class Attribute(NamedTuple):
    """One attribute."""

    name: str  # unique in the schema
    kind: str = BINARY
    classes: tuple[str, ...] = ()  # two or more; empty for a binary attribute
    group: str = ""  # under which tables may sort it, such as 'head'

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns: the attribute's own, or ``'name=class'`` for each class."""
        if self.kind == BINARY:
            return (self.name,)
        return tuple(f"{self.name}={label}" for label in self.classes)

    def check(self) -> None:
        """Raise ValueError for an unknown kind or a number of classes that does not go with it."""
        if self.kind not in (BINARY, MULTICLASS):
            raise ValueError(
                f"attribute '{self.name}': kind {self.kind!r}; valid are binary, multiclass"
            )
        count = len(self.classes)
        if count if self.kind == BINARY else count < 2:
            raise ValueError(
                f"attribute '{self.name}' is {self.kind} and has {count} classes: a binary one has "
                "none, a multiclass one at least two"
            )


class Schema:
    """The M attributes of a data set, in the order of its A columns."""

    def __init__(self, attributes: Iterable[Any]) -> None:
        self.attributes = tuple(Attribute(*a) for a in attributes)
        for attribute in self.attributes:
            attribute.check()
        self.names = tuple(a.name for a in self.attributes)
        self.columns = tuple(c for a in self.attributes for c in a.columns)
        for what, names in (("attribute", self.names), ("column", self.columns)):
            repeated = sorted({n for n in names if names.count(n) > 1})
            if repeated:
                raise ValueError(f"repeated {what} name: {', '.join(repeated)}")
        if not self.attributes:
            raise ValueError("a schema needs at least one attribute")

    @classmethod
    def binary(cls, names: Iterable[str]) -> Schema:
        """Return the schema in which every column is a binary attribute."""
        return cls(Attribute(name) for name in names)

    @property
    def is_binary(self) -> bool:
        """Whether every attribute is binary."""
        return all(a.kind == BINARY for a in self.attributes)

    @property
    def is_single_label(self) -> bool:
        """Whether it is one multi-class attribute and nothing else: one class per sample."""
        return len(self.attributes) == 1 and self.attributes[0].kind == MULTICLASS

    def slices(self) -> list[slice]:
        """Return the columns of every attribute, in order."""
        edges = np.cumsum([0] + [a.width for a in self.attributes]).tolist()
        return [slice(start, stop) for start, stop in zip(edges, edges[1:])]

    def membership(self) -> NDArray[Any]:
        """Return ``(M, A)`` float32: 1 where a column belongs to an attribute."""
        result = np.zeros((len(self.attributes), len(self.columns)), np.float32)
        for row, columns in zip(result, self.slices()):
            row[columns] = 1
        return result

    def decide(self, probabilities: NDArray[Any], thresholds: Any) -> NDArray[Any]:
        """Return which columns of ``(B, A)`` probabilities are predicted to be positive.

        A binary attribute is from its threshold on; of a multi-class attribute it is the class of
        the highest probability, whatever the thresholds. A row of NaN predicts nothing.
        """
        positive = probabilities >= np.asarray(thresholds)
        for attribute, columns in zip(self.attributes, self.slices()):
            if attribute.kind == MULTICLASS:
                values = probabilities[:, columns]
                best = np.arange(values.shape[1]) == values.argmax(1)[:, None]
                positive[:, columns] = best & ~np.isnan(values)
        return positive

    def values(self, positive: NDArray[Any]) -> dict[str, Any]:
        """Return ``{attribute: bool, or name of the class}`` of one row of :meth:`decide`."""
        found: dict[str, Any] = {}
        for attribute, columns in zip(self.attributes, self.slices()):
            row = positive[columns]
            binary = attribute.kind == BINARY
            found[attribute.name] = bool(row[0]) if binary else attribute.classes[row.argmax()]
        return found

    def to_json(self) -> list[dict[str, Any]]:
        """Return a list of dicts that JSON can hold."""
        return [dict(a._asdict(), classes=list(a.classes)) for a in self.attributes]

    @classmethod
    def from_json(cls, items: Any) -> Schema:
        """Return the schema that :meth:`to_json` described; ValueError if it is no such list."""
        try:
            return cls(
                Attribute(i["name"], i["kind"], tuple(i["classes"]), i.get("group", ""))
                for i in items
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an attribute schema: {error!r} in {items!r}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.attributes == other.attributes

    def __hash__(self) -> int:
        return hash(self.attributes)

    def __len__(self) -> int:
        return len(self.attributes)

    def __repr__(self) -> str:
        return f"Schema({len(self)} attributes, {len(self.columns)} columns)"
