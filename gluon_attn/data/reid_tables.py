"""Attributes of Market-1501 and DukeMTMC-reID: which fields of the ``.mat`` files mean what.

    market_attribute.mat, duke_attribute.mat, a struct of ``train`` and ``test``, each of
        one field per attribute: 1 x N numbers, one per identity; 0 = not annotated
        image_index: the N identities, texts such as '0002'

The order of the fields differs between ``train`` and ``test``, so they are taken by name. Colours
are taken from lists of names: ``up`` and ``down`` are fields about lengths, and share the prefix
of the colours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gluon_attn.core.schema import Attribute, Schema


class Task(NamedTuple):
    """An attribute and the fields it is made of.

    Attributes:
        name: Of the attribute; for a binary one also of its field.
        classes: Of a multi-class attribute: class names.
        fields: One field per class, 1 no, 2 yes; or a single one whose value k is class k.
    """

    name: str
    classes: tuple = ()
    fields: tuple = ()


class Layout(NamedTuple):
    """One of the two annotations.

    Attributes:
        title: For messages.
        variable: Name of the struct; the file is called ``<variable>.mat``.
        tasks: Its attributes, in the order of the official evaluation code (Market) or of the
            annotation's description (Duke).
        published: Expected counts per split.
        repairs: ``{field: {identity: value}}`` for values that are missing in the file.
    """

    title: str
    variable: str
    tasks: tuple
    published: dict
    repairs: dict

    @property
    def schema(self):
        """The Schema of its tasks."""
        return Schema(
            Attribute(t.name, "multiclass", t.classes) if t.classes else Attribute(t.name)
            for t in self.tasks
        )


def colours(part, names):
    """Return the task of a garment's colour, ``part`` being 'up' or 'down'."""
    classes = tuple(names.split())
    return Task(f"{part}colour", classes, tuple(part + name for name in classes))


# Colours in the order of the official codes 1, 2, ...
MARKET = Layout(
    "Market-1501-attribute",
    "market_attribute",
    (
        Task("gender"), Task("hair"),
        Task("age", ("young", "teenager", "adult", "old"), ("age",)),
        Task("up"), Task("down"), Task("clothes"), Task("hat"), Task("backpack"), Task("bag"),
        Task("handbag"),
        colours("up", "black white red purple gray blue green yellow"),
        colours("down", "black white pink gray blue green brown yellow purple"),
    ),
    {
        "trainval": {"images": 12936, "identities": 751},
        "test": {"images": 13115, "identities": 750},
        "query": {"images": 3368, "identities": 750},
    },
    {},
)  # fmt: skip
DUKE = Layout(
    "DukeMTMC-attribute",
    "duke_attribute",
    (
        Task("gender"), Task("top"), Task("boots"), Task("hat"), Task("backpack"), Task("bag"),
        Task("handbag"), Task("shoes"),
        colours("up", "black white red purple gray blue green brown"),
        colours("down", "black white red gray blue green brown"),
    ),
    {
        "trainval": {"images": 16522, "identities": 702},
        "test": {"images": 17661, "identities": 1110},
        "query": {"images": 2228, "identities": 702},
    },
    {"top": {"0370": 1, "0679": 2}},
)  # fmt: skip
# What the positive label (value 2) of a binary attribute means.
POSITIVE = {
    "gender": "female", "hair": "long", "up": "short sleeves", "down": "short", "clothes": "pants",
    "hat": "yes", "backpack": "yes", "bag": "yes", "handbag": "yes", "boots": "yes",
    "top": "long upper-body clothing", "shoes": "light",
}  # fmt: skip


def read_identities(part):
    """Return the identities of a part, a tuple of texts.

    Args:
        part: Node of ``train`` or ``test``.

    Raises:
        ValueError: If the field is missing or malformed, or one comes twice.
    """
    node = part.field("image_index")
    found = node.strings()
    repeated = sorted({name for name in found if found.count(name) > 1})
    if repeated:
        raise node.error(f"identity '{repeated[0]}' comes twice")
    for name in found:
        if len(name) != 4 or not name.isdigit():
            raise node.error(f"{name!r} is no identity of four digits")
    return tuple(found)


def read_labels(part, layout, repair=False):
    """Return the identities of a part and their labels ``(N, A)`` int8 in {1, -1, 0}.

    Args:
        part: Node of ``train`` or ``test``.
        layout: MARKET or DUKE.
        repair: Whether missing values are filled in from ``layout.repairs``.

    Raises:
        ValueError: Naming file, field and identity.
    """
    identities = read_identities(part)
    columns = []
    for task in layout.tasks:
        fields = task.fields or (task.name,)
        largest = len(task.classes) if len(fields) == 1 and task.classes else 2
        repairs = [layout.repairs.get(name, {}) if repair else {} for name in fields]
        values = np.stack(
            [_values(part, name, identities, largest, r) for name, r in zip(fields, repairs)], 1
        )
        columns.append(_encode(values, task))
    return identities, np.concatenate(columns, 1)


def _values(part, name, identities, largest, repairs):
    """Return a field's values, one per identity."""
    node = part.field(name)
    values = node.vector()
    if len(values) != len(identities):
        raise node.error(f"{len(values)} values for {len(identities)} identities of image_index")
    for identity, value in repairs.items():
        if identity in identities and values[identities.index(identity)] == 0:
            values[identities.index(identity)] = value
    wrong = np.flatnonzero((values < 0) | (values > largest))
    if wrong.size:
        valid = ", ".join(str(k) for k in range(1, largest + 1))
        raise node.error(
            f"identity '{identities[wrong[0]]}' has value {values[wrong[0]]}; valid are {valid}, "
            "and 0 = missing"
        )
    return values


def _encode(values, task):
    """Return int8 columns {1, -1, 0} of a task from its fields' values ``(N, F)``."""
    if not task.classes:
        return np.array([0, -1, 1], np.int8)[values]
    if values.shape[1] == 1:
        labels = np.where(values == np.arange(1, len(task.classes) + 1), 1, -1)
        return np.where(values == 0, 0, labels).astype(np.int8)
    labels = np.where(values == 2, 1, -1)
    unknown = (values == 0).any(1)  # "none of the classes" cannot be told from what is missing
    labels[unknown] = 0
    return labels.astype(np.int8)
