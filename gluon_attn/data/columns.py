"""Some attributes of a data set, for separate models and for runs on part of the labels."""

from __future__ import annotations

import numpy as np

from gluon_attn.core.registry import unknown_name
from gluon_attn.core.schema import Schema
from gluon_attn.data.base import AttributeDataset


class ChosenAttributes(AttributeDataset):
    """A data set with only some of its attributes, each with all its columns.

    Args:
        dataset: AttributeDataset.
        names: Attribute names, in any order; the data set's order stays.

    Raises:
        ValueError: No name, or an unknown one; the message lists the nearest.
    """

    def __init__(self, dataset, names):
        known = dataset.schema.names
        for name in names:
            if name not in known:
                raise ValueError(unknown_name("attribute", name, known))
        chosen = [(a, c) for a, c in zip(dataset.schema.attributes, dataset.schema.slices())
                  if a.name in names]  # fmt: skip
        schema = Schema(attribute for attribute, _ in chosen)
        raw = dataset.raw  # single-label rows stay unbuilt: nothing to choose from
        if len(chosen) < len(known):
            raw = np.concatenate([raw[:, columns] for _, columns in chosen], axis=1)
        super().__init__(
            schema.columns, dataset.split, raw, dataset.sample_ids, dataset.policy,
            dataset.on_bad_image, schema,
        )  # fmt: skip
        self._dataset = dataset

    def path(self, i):
        """Return the file that holds sample ``i``."""
        return self._dataset.path(i)

    def read(self, i):
        """Return the picture of sample ``i``."""
        return self._dataset.read(i)
