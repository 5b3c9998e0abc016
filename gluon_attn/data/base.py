"""What every attribute data set is: labels, masks and stable sample ids around one ``read``."""

from __future__ import annotations

import hashlib
import json
import logging
import threading

import numpy as np
from mxnet.gluon.data import Dataset

from gluon_attn.core.batch import UNSPECIFIED, LabelPolicy
from gluon_attn.core.registry import Registry
from gluon_attn.core.schema import Schema
from gluon_attn.data.images import BadImageError, check_policy, read_image
from gluon_attn.data.layout import Located
from gluon_attn.data.one_hot import OneHot

logger = logging.getLogger(__name__)

DATASETS = Registry("data set")
TRAINING_SPLITS = ("train", "trainval")


class AttributeDataset(Located, Dataset):
    """Pictures with A attributes each; the base of every reader.

    A sub-class says in ``parts(split)`` what it reads (see ``layout``), fills the constructor's
    arguments from it and defines ``path(i)``, or ``read(i)`` where a sample is not simply the
    picture in one file.
    ``dataset[i]`` is ``(image, label, mask, i)``: uint8 ``(H, W, 3)`` RGB, float32 ``(A,)`` twice,
    and the position itself, which stays with the sample through shuffling.

    Args:
        names: The A column names: attributes, or ``'attribute=class'`` (see ``schema``).
        split: 'train', 'val', 'test', ... The label policy for training applies to 'train' and
            'trainval'.
        raw: ``(N, A)`` integers: 1 positive, -1 negative, 0 unspecified; or a
            :class:`gluon_attn.data.one_hot.OneHot` (single-label classification), which then stays
            unbuilt, and so do ``label`` and ``mask``.
        sample_ids: N distinct strings that name the samples in messages, reports and fingerprints.
        policy: LabelPolicy; None means the default one.
        on_bad_image: What ``dataset[i]`` does about an unreadable picture: 'error' raises, 'skip'
            returns a black picture with mask 0, so that it neither trains nor counts, and lists it
            in ``skipped``. (A black picture still takes part in batch statistics; packing leaves
            such samples out altogether.)
        schema: Schema whose columns are ``names``; None means that every column is a binary
            attribute of its own.

    Attributes:
        names, split, raw, sample_ids, policy, on_bad_image, schema: As above.
        label: ``(N, A)`` float32 in {0, 1}.
        mask: ``(N, A)`` float32 in {0, 1}; 0 where the label is not known.

    Raises:
        ValueError: If the split is empty or the pieces do not fit together.
    """

    def __init__(
        self, names, split, raw, sample_ids, policy=None, on_bad_image="error", schema=None
    ):
        self.names = tuple(names)
        self.schema = Schema.binary(self.names) if schema is None else schema
        if self.schema.columns != self.names:
            raise ValueError(
                f"the schema has the columns {', '.join(self.schema.columns)}; the data set has "
                f"{', '.join(self.names)}"
            )
        self.split = split
        self._one_hot = isinstance(raw, OneHot)
        self.raw = raw if self._one_hot else np.asarray(raw, np.int8).reshape(-1, len(self.names))
        self.sample_ids = list(sample_ids)
        self.policy = LabelPolicy() if policy is None else policy
        self.on_bad_image = check_policy(on_bad_image)
        if not self.sample_ids:
            raise ValueError(f"split '{split}' is empty; looked for {self.looks_for}")
        if len(self.sample_ids) != len(self.raw):
            raise ValueError(f"{len(self.sample_ids)} sample ids but {len(self.raw)} label rows")
        if self.raw.shape[1] != len(self.names):
            raise ValueError(f"{self.raw.shape[1]} label columns for {len(self.names)} names")
        self.label, self.mask = (
            self.raw.encode() if self._one_hot
            else self.policy.encode(self.raw, split in TRAINING_SPLITS)
        )  # fmt: skip
        self._skipped = {}
        self._lock = threading.Lock()

    def path(self, i):
        """Return the file that holds sample ``i``."""
        raise NotImplementedError

    def read(self, i):
        """Return the image of sample ``i``, uint8 ``(H, W, 3)`` RGB, upright.

        Raises:
            BadImageError: If there is none; the message names the file and the sample.
        """
        return read_image(self.path(i), self.sample_ids[i])

    def __len__(self):
        return len(self.sample_ids)

    def __getitem__(self, i):
        i = int(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)} in split '{self.split}'")
        i %= len(self)
        try:
            return self.read(i), self.label[i], self.mask[i], i
        except BadImageError as error:
            return self._replace(i, error)

    def _replace(self, i, error):
        """Return what stands for an unreadable sample, or raise ``error``."""
        if self.on_bad_image == "error":
            raise error
        with self._lock:
            if i not in self._skipped:
                self._skipped[i] = error.reason
                logger.warning("skipped: %s", error)
        return np.zeros((64, 64, 3), np.uint8), self.label[i], np.zeros_like(self.mask[i]), i

    @property
    def skipped(self):
        """Samples met so far whose picture could not be read: ``[(sample id, reason), ...]``."""
        with self._lock:
            return [(self.sample_ids[i], why) for i, why in sorted(self._skipped.items())]

    @property
    def prior(self):
        """Positive fraction of each attribute among its known labels, ``(A,)`` float64.

        Raises:
            ValueError: If an attribute has no known label in this split, so that its fraction
                would be 0/0.
        """
        if self._one_hot:
            return self.raw.class_counts() / len(self)
        known = self.mask.sum(0, dtype=np.float64)
        if not known.all():
            lost = [name for name, count in zip(self.names, known) if not count]
            raise ValueError(
                f"split '{self.split}' has no known label for {', '.join(lost)}: no prior exists; "
                "leave the attribute out, or count unspecified labels as negative "
                "(LabelPolicy(train='negative'))"
            )
        return (self.label * self.mask).sum(0, dtype=np.float64) / known

    def counts(self):
        """Return ``(A, 3)`` int64: positive, negative and unspecified labels per attribute."""
        if self._one_hot:
            positive = self.raw.class_counts()
            return np.stack([positive, len(self) - positive, 0 * positive], axis=1)
        return np.stack([(self.raw == v).sum(0) for v in (1, -1, UNSPECIFIED)], axis=1)

    def fingerprint(self, indices=None):
        """Return the sha256 of names, sample ids and raw labels, as 64 hexadecimal digits.

        Args:
            indices: Positions to which it is restricted; None means all samples.

        Saved beside runs and packed files, it tells whether two data sets hold the same samples
        in the same order with the same labels. It does not look at the pictures. A schema with
        multi-class attributes counts too; that of binary ones adds nothing to the names.
        """
        indices = list(range(len(self)) if indices is None else indices)
        ids = [self.sample_ids[i] for i in indices]
        parts = [self.names, ids] + ([] if self.schema.is_binary else [self.schema.to_json()])
        text = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode())
        if self._one_hot:
            digest.update(self.raw.targets[indices].astype("<i4").tobytes())
        else:
            digest.update(np.ascontiguousarray(self.raw[indices], np.int8).tobytes())
        return digest.hexdigest()

    def __repr__(self):
        kind = type(self).__name__
        counts = f"samples={len(self)}, attributes={len(self.schema)}"
        columns = "" if self.schema.is_binary else f", columns={len(self.names)}"
        return f"{kind}(split={self.split!r}, {counts}{columns})"
