"""What every data set is: labels, masks and stable sample ids around one ``read``.

To everything behind the data layer a :class:`ClassificationDataset` is an attribute data set whose
schema is one multi-class attribute called ``class``. A :class:`Reader` says what its format is: its
``parts``, how a split is read (``samples``), and what was published (``published``).
"""

from __future__ import annotations

import collections
import hashlib
import inspect
import json
import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, Sequence

import numpy as np
from mxnet.gluon.data import Dataset

from gluon_attn.core.batch import UNSPECIFIED, LabelPolicy
from gluon_attn.core.registry import Registry, unknown_name
from gluon_attn.core.schema import MULTICLASS, Attribute, Schema
from gluon_attn.data.images import BadImageError, check_policy, read_image
from gluon_attn.data.layout import Found, Located, PathLike
from gluon_attn.data.published_sizes import CountReport, SplitCount, expected_counts, label_note
from gluon_attn.data.scan import ImageFolder

logger = logging.getLogger(__name__)

DATASETS = Registry("data set")
TRAINING_SPLITS = ("train", "trainval")
ATTRIBUTE = "class"  # what single-label data are called in their schema


class Rows:
    """An ``(N, K)`` matrix that is never built: rows are made when they are asked for.

    ImageNet's labels would take 5 GB as float32, the class numbers 5 MB. ``rows[i]`` is ``(K,)``,
    ``rows[indices]`` or a slice ``(n, K)``, each a new array; ``rows.copy()`` and
    ``np.asarray(rows)`` build the whole matrix.
    """

    ndim = 2

    def __init__(self, shape: tuple[int, int], dtype: Any) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        raise NotImplementedError

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def copy(self) -> np.ndarray:
        return self[:]


class OneHot(Rows):
    """One value in the column of a row's class, another elsewhere; by default the raw codes.

    ``targets`` are ``(N,)`` class numbers, 0 to ``classes`` - 1; ValueError names the first that
    is not.
    """

    def __init__(
        self,
        targets: Any,
        classes: int,
        positive: float = 1,
        negative: float = -1,
        *,
        dtype: Any = np.int8,
    ) -> None:
        targets = np.asarray(targets)
        if targets.ndim != 1 or (targets.size and targets.dtype.kind not in "iu"):
            given = f"got shape {targets.shape} of {targets.dtype}"
            raise ValueError(f"class numbers must be a vector of whole numbers, {given}")
        wrong = np.flatnonzero((targets < 0) | (targets >= classes))
        if wrong.size:
            given = f"sample {wrong[0]} has class number {targets[wrong[0]]}"
            raise ValueError(f"{given}; valid are 0 to {classes - 1}")
        super().__init__((len(targets), int(classes)), dtype)
        self.targets = targets.astype(np.int32)
        self.positive, self.negative = positive, negative

    def __getitem__(self, key: Any) -> np.ndarray:
        targets = self.targets[key]
        rows = np.full(np.shape(targets) + self.shape[1:], self.negative, self.dtype)
        if rows.ndim == 1:
            rows[targets] = self.positive
        else:
            rows[np.arange(len(rows)), targets] = self.positive
        return rows

    def encode(self) -> tuple[OneHot, Known]:
        """Return ``(label, mask)`` of raw labels: one-hot rows in {0, 1}, all of them known."""
        return OneHot(self.targets, self.shape[1], 1, 0, dtype=np.float32), Known(self.shape)

    def class_counts(self) -> np.ndarray:
        """Return how many rows each class has, ``(K,)`` int64."""
        return np.bincount(self.targets, minlength=self.shape[1]).astype(np.int64)


class Known(Rows):
    """The mask of labels that are all known: ones."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__(shape, np.float32)

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.array(np.broadcast_to(np.float32(1), self.shape)[key])


class AttributeDataset(Located, Dataset):
    """Images with A attributes each.

    ``dataset[i]`` is ``(image, label, mask, i)``: uint8 ``(H, W, 3)`` RGB, float32 ``(A,)`` twice,
    and the position itself, which stays with the sample through shuffling. A sub-class defines
    ``path(i)``, or ``read(i)`` where a sample is not simply the image in one file.

    Args:
        names: The A column names: attributes, or ``'attribute=class'`` (see ``schema``).
        split: The label policy for training applies to 'train' and 'trainval'.
        raw: ``(N, A)`` integers: 1 positive, -1 negative, 0 unspecified; or a :class:`OneHot`,
            which stays unbuilt, and so do ``label`` and ``mask``, ``(N, A)`` float32 in {0, 1}.
        sample_ids: N distinct strings that name the samples in messages and fingerprints.
        on_bad_image: What ``dataset[i]`` does about an unreadable image: 'error' raises, 'skip'
            returns a black image with mask 0, so that it neither trains nor counts, and lists it in
            ``skipped``. (It still takes part in batch statistics; packing leaves it out.)
        schema: Its columns are ``names``; None: every column is a binary attribute.
    """

    def __init__(
        self,
        names: Iterable[str],
        split: str,
        raw: Any,
        sample_ids: Iterable[str],
        *,
        policy: LabelPolicy | None = None,
        on_bad_image: str = "error",
        schema: Schema | None = None,
    ) -> None:
        self.names = tuple(names)
        self.schema = Schema.binary(self.names) if schema is None else schema
        if self.schema.columns != self.names:
            columns, names = ", ".join(self.schema.columns), ", ".join(self.names)
            raise ValueError(f"the schema has the columns {columns}; the data set has {names}")
        self.split = split
        self._one_hot = isinstance(raw, OneHot)
        table: Any = raw if self._one_hot else np.asarray(raw, np.int8).reshape(-1, len(self.names))
        self.raw = table
        self.sample_ids = list(sample_ids)
        self.policy = LabelPolicy() if policy is None else policy
        self.on_bad_image = check_policy(on_bad_image)
        if not self.sample_ids:
            raise ValueError(f"split '{split}' is empty; looked for {self.looks_for}")
        if len(self.sample_ids) != len(self.raw):
            raise ValueError(f"{len(self.sample_ids)} sample ids but {len(self.raw)} label rows")
        if self.raw.shape[1] != len(self.names):
            raise ValueError(f"{self.raw.shape[1]} label columns for {len(self.names)} names")
        training = split in TRAINING_SPLITS
        encoded = self.raw.encode() if self._one_hot else self.policy.encode(self.raw, training)
        self.label: Any = encoded[0]
        self.mask: Any = encoded[1]
        self._skipped: dict[int, str] = {}
        self._lock = threading.Lock()

    with_regions: Sequence[int] = ()  # positions of the samples whose ``regions`` are known

    def regions(self, i: int) -> np.ndarray:
        """Return where the attributes are in sample ``i``, a mask each, ``(A, h, w)`` bool.

        Masks cover the image, at any size. They are known of the samples ``with_regions`` only.
        """
        raise ValueError(f"{self.sample_ids[i]} has no masks of where its attributes are")

    def path(self, i: int) -> Path:
        """Return the file that holds sample ``i``."""
        raise NotImplementedError

    def read(self, i: int) -> np.ndarray:
        """Return sample ``i``, uint8 ``(H, W, 3)`` RGB, upright; BadImageError if there is none."""
        return read_image(self.path(i), self.sample_ids[i])

    def __len__(self) -> int:
        return len(self.sample_ids)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        i = int(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)} in split '{self.split}'")
        i %= len(self)
        try:
            return self.read(i), self.label[i], self.mask[i], i
        except BadImageError as error:
            return self._replace(i, error)

    def _replace(
        self, i: int, error: BadImageError
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Return what stands for an unreadable sample, or raise ``error``."""
        if self.on_bad_image == "error":
            raise error
        with self._lock:
            if i not in self._skipped:
                self._skipped[i] = error.reason
                logger.warning("skipped: %s", error)
        return np.zeros((64, 64, 3), np.uint8), self.label[i], np.zeros_like(self.mask[i]), i

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Samples met so far whose image could not be read: ``[(sample id, reason), ...]``."""
        with self._lock:
            return [(self.sample_ids[i], why) for i, why in sorted(self._skipped.items())]

    @property
    def prior(self) -> np.ndarray:
        """Positive fraction of each attribute among its known labels, ``(A,)`` float64."""
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

    def counts(self) -> np.ndarray:
        """Return ``(A, 3)`` int64: positive, negative and unspecified labels per attribute."""
        if self._one_hot:
            positive = self.raw.class_counts()
            return np.stack([positive, len(self) - positive, 0 * positive], axis=1)
        return np.stack([(self.raw == v).sum(0) for v in (1, -1, UNSPECIFIED)], axis=1)

    def fingerprint(self, indices: Sequence[int] | None = None) -> str:
        """Return the sha256 of names, sample ids and raw labels, of some positions or of all.

        Saved beside runs and packed files, it tells whether two data sets hold the same samples in
        the same order with the same labels. It does not look at the images. The schema counts only
        if an attribute has several classes.
        """
        indices = list(range(len(self)) if indices is None else indices)
        ids = [self.sample_ids[i] for i in indices]
        parts: list[Any] = [self.names, ids]
        parts += [] if self.schema.is_binary else [self.schema.to_json()]
        text = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode())
        if self._one_hot:
            digest.update(self.raw.targets[indices].astype("<i4").tobytes())
        else:
            digest.update(np.ascontiguousarray(self.raw[indices], np.int8).tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        counts = f"samples={len(self)}, attributes={len(self.schema)}"
        columns = "" if self.schema.is_binary else f", columns={len(self.names)}"
        return f"{type(self).__name__}(split={self.split!r}, {counts}{columns})"


def class_schema(classes: Iterable[str]) -> Schema:
    """Return the schema of single-label classification; its columns are ``class=NAME``.

    ``classes`` are in the order of the logits, two or more. They need not differ (ImageNet has two
    kinds of "crane"): repeated ones get their number, ``crane (517)``.
    """
    names = [str(name) for name in classes]
    times = collections.Counter(names)
    names = [f"{n} ({k})" if times[n] > 1 else n for k, n in enumerate(names)]
    return Schema([Attribute(ATTRIBUTE, MULTICLASS, tuple(names))])


class ClassificationDataset(AttributeDataset):
    """Images with one class each: label is one-hot ``(K,)``, mask all ones (zeros if skipped).

    ``classes`` are K names in the order of the logits, ``targets`` ``(N,)`` class numbers from 0.
    """

    def __init__(
        self,
        classes: Iterable[str],
        split: str,
        targets: Any,
        sample_ids: Iterable[str],
        *,
        policy: LabelPolicy | None = None,
        on_bad_image: str = "error",
    ) -> None:
        schema = class_schema(classes)
        super().__init__(
            schema.columns,
            split,
            OneHot(targets, len(schema.columns)),
            sample_ids,
            policy=policy,
            on_bad_image=on_bad_image,
            schema=schema,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.schema.attributes[0].classes

    @property
    def targets(self) -> np.ndarray:
        """Class number of every sample, ``(N,)`` int32."""
        return self.raw.targets

    @property
    def class_counts(self) -> np.ndarray:
        """Images of each class, ``(K,)`` int64."""
        return self.raw.class_counts()

    def class_note(self) -> str:
        """Return a line about how many classes there are and how many images they have."""
        counts = self.class_counts
        least, most = int(counts.argmin()), int(counts.argmax())
        first = f"{counts[least]:,} ({self.classes[least]})"
        size = f"{first} to {counts[most]:,} ({self.classes[most]}) images"
        size = f"{counts[most]:,} images each" if counts[least] == counts[most] else size
        return f"\n{self.split}: {len(counts):,} classes of {size}"


@dataclass
class Samples:
    """What a reader found of a split.

    Attributes:
        raw: ``(N, A)`` integers 1, -1 and 0; of single-label data ``(N,)`` class numbers.
        ids: N sample ids: paths relative to ``folder``, unless the reader has its own ``path``.
        folder: None: the data set's folder.
        notes, faults: Further lines of the report.
        counts: What the report counts; empty: N images.
        published: Replaces the reader's published numbers where the copy decides which hold.
    """

    schema: Schema
    raw: Any
    ids: Sequence[str]
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    counts: list[SplitCount] = field(default_factory=list)
    published: Mapping[Any, Mapping[str, int]] | None = None


class Reader(AttributeDataset):
    """A split of a data set, from the files as they are published.

    A sub-class states what its format is: the class attributes here and of ``Located``, ``parts``,
    and ``samples``, whose keywords are the reader's settings. A reader of single-label data derives
    from :class:`ClassificationDataset` as well.

    ``root`` is the folder of the data set or one above it. FileNotFoundError: a part is missing;
    ValueError: something is malformed (file and line, field or record are named); BadImageError: a
    header that is needed cannot be read.
    """

    title = ""  # for messages
    published: Mapping[Any, Mapping[str, int]] = {}  # ``{split: {'images': n, 'boxes': n, ...}}``
    compared = True  # whether counts are compared with these or with SYNTHETIC.json
    train_policy = "negative"  # what unspecified labels are in training unless a policy is given

    def __init_subclass__(cls) -> None:
        """Let ``inspect.signature`` show the reader's settings."""
        super().__init_subclass__()
        own = list(inspect.signature(Reader.__init__).parameters.values())[1:5]
        settings = list(inspect.signature(cls.samples).parameters.values())[3:]
        settings = [p for p in settings if p.kind is not p.VAR_KEYWORD]
        cls.__signature__ = inspect.Signature([*own, *settings])

    def __init__(
        self,
        root: PathLike,
        split: str,
        policy: LabelPolicy | None = None,
        on_bad_image: str = "error",
        **settings: Any,
    ) -> None:
        if self.valid is not None and split not in self.valid:
            raise ValueError(f"{self.title}: {unknown_name('split', split, self.valid)}")
        self.on_bad_image = check_policy(on_bad_image)
        found = self.require(root, split, **settings)
        self.root = found.home
        samples = self.samples(found, split, **settings)
        single = isinstance(self, ClassificationDataset)
        AttributeDataset.__init__(
            self,
            samples.schema.columns,
            split,
            OneHot(samples.raw, len(samples.schema.columns)) if single else samples.raw,
            samples.ids,
            policy=LabelPolicy(train=self.train_policy) if policy is None else policy,
            on_bad_image=on_bad_image,
            schema=samples.schema,
        )
        self.images = ImageFolder(samples.folder or self.root, self.sample_ids[0])
        published = self.published if samples.published is None else samples.published
        expected, source = expected_counts(self.root, published) if self.compared else ({}, None)
        self.report = CountReport(
            samples.counts or [SplitCount(split, len(self))],
            expected,
            source,
            notes=[*self.remarks(source), *samples.notes],
            faults=samples.faults,
        )

    def samples(self, found: Found, split: str) -> Samples:
        """Read a split whose parts are there."""
        raise NotImplementedError

    def remarks(self, source: str | None) -> list[str]:
        """Return what the report says about the labels first."""
        if isinstance(self, ClassificationDataset):
            return [self.class_note()]
        return [label_note(self)] if self.split == "train" else []

    def path(self, i: int) -> Path:
        return self.images / self.sample_ids[i]
