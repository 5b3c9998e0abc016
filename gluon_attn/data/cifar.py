"""CIFAR-10 and CIFAR-100 from the official files: the Python version or the binary version.

===================  ==================================  =======================================
set                  Python version                      binary version
===================  ==================================  =======================================
CIFAR-10             ``data_batch_1`` to ``_5``,         ``data_batch_1.bin`` to ``_5``,
                     ``test_batch``, ``batches.meta``    ``test_batch.bin``,
                                                         ``batches.meta.txt``
CIFAR-100            ``train``, ``test``, ``meta``       ``train.bin``, ``test.bin``,
                                                         ``fine_label_names.txt``,
                                                         ``coarse_label_names.txt``
===================  ==================================  =======================================

in the folder itself or in the folder of the official archive (``cifar-100-python`` and so on); or
the archive (``cifar-100-python.tar.gz``), unopened. The Python version consists of pickles; they
are read without executing anything, see ``safe_pickle``. A picture is 3072 bytes, 32x32 red, then
green, then blue.

Splits: the authors give 50,000 training pictures ('trainval') and 10,000 test pictures ('test').
'val' is a share of every class of the training part, chosen by a seed, and 'train' the rest.

Reference: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gluon_attn.core.text import text_of
from gluon_attn.data.base import DATASETS
from gluon_attn.data.classification import HELD_OUT, ClassificationDataset, official_split
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts
from gluon_attn.data.layout import DEPTH, Found, Part, PathLike, file_part
from gluon_attn.data.protocol import HOLDOUT
from gluon_attn.data.safe_pickle import load_pickle

PIXELS = 3 * 32 * 32
PUBLISHED = {"trainval": {"images": 50000}, "test": {"images": 10000}}


class Form(NamedTuple):
    """The files of one version.

    Attributes:
        folder: Of the official archive, which is called ``<folder>`` + an ending.
        training, test: Names of the files with pictures.
        names: The file with the names of the classes.
        labels: Python version: the key of the labels; binary version: the bytes before a picture
            and which of them is the label.
        key: Python version: the key of the class names.
    """

    folder: str
    training: tuple
    test: str
    names: str
    labels: object
    key: str = None


BATCHES = tuple(f"data_batch_{k}" for k in range(1, 6))
CIFAR10 = (
    Form("cifar-10-batches-py", BATCHES, "test_batch", "batches.meta", "labels", "label_names"),
    Form("cifar-10-batches-bin", tuple(f"{b}.bin" for b in BATCHES), "test_batch.bin",
         "batches.meta.txt", (1, 0)),
)  # fmt: skip
CIFAR100 = (
    Form("cifar-100-python", ("train",), "test", "meta", "fine_labels", "fine_label_names"),
    Form("cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", (2, 1)),
)
COARSE = (
    CIFAR100[0]._replace(labels="coarse_labels", key="coarse_label_names"),
    CIFAR100[1]._replace(names="coarse_label_names.txt", labels=(2, 0)),
)
ARCHIVES = {
    "cifar-10-batches-py": "cifar-10-python.tar.gz",
    "cifar-10-batches-bin": "cifar-10-binary.tar.gz",
    "cifar-100-python": "cifar-100-python.tar.gz",
    "cifar-100-binary": "cifar-100-binary.tar.gz",
}


class Cifar(ClassificationDataset):
    """What CIFAR-10 and CIFAR-100 share; pictures stay in memory (150 MB).

    Attributes:
        report: CountReport of this split.
        form: The :class:`Form` that was found.
    """

    forms = ()
    count = 0  # classes
    valid = HELD_OUT

    def __init__(
        self, root, split, policy=None, on_bad_image="error", holdout=HOLDOUT, seed=0
    ):  # fmt: skip
        home = self.home(root)
        found = _find(home, self.forms)
        if found is None:
            raise FileNotFoundError(f"{root}: {type(self).__name__}: looked for {self.looks_for}")
        self.form, place = found
        with _Folder(place) if place.is_dir() else _Archive(place, self.form.folder) as source:
            names = _names(source, self.form)
            if len(names) != self.count:
                raise ValueError(
                    f"{source.place(self.form.names)}: {len(names)} class names, not {self.count}"
                )
            part = (self.form.test,) if split == "test" else self.form.training
            pixels, targets = zip(*(_read(source, self.form, n, self.count) for n in part))
        pixels, targets = np.concatenate(pixels), np.concatenate(targets)
        everything = np.arange(len(targets))
        chosen = official_split(split, everything, everything, targets, holdout, seed)
        part = "test" if split == "test" else "train"
        ids = [f"{part}/{k:05d}" for k in chosen]
        super().__init__(names, split, targets[chosen], ids, policy, on_bad_image)
        self._pixels = pixels if len(chosen) == len(pixels) else pixels[chosen]
        expected, where = expected_counts(home, PUBLISHED)
        self.report = CountReport(
            [SplitCount(split, len(self))], expected, where, [self.class_note()]
        )

    @classmethod
    def is_home(cls, folder: Path, *others: str) -> bool:
        return _find(folder, cls.forms) is not None

    @classmethod
    def parts(cls, split: str, form: Form | None = None) -> tuple[Part, ...]:
        form = form or cls.forms[0]
        pictures = (form.test,) if split == "test" else form.training
        return tuple(file_part(name) for name in (form.names, *pictures))

    @classmethod
    def locate(cls, root: PathLike, split: str, depth: int = DEPTH, **options: Any) -> Found:
        home = cls.home(root) if depth else Path(root)
        form, place = _find(home, cls.forms) or (cls.forms[0], home)
        parts = cls.parts(split, form)
        # What an archive holds shows when it is read.
        here = {p.name: place / p.name for p in parts
                if place.is_file() or (place / p.name).is_file()}  # fmt: skip
        return Found(place, here, [part for part in parts if part.name not in here])

    def read(self, i):
        return np.ascontiguousarray(self._pixels[i].reshape(3, 32, 32).transpose(1, 2, 0))


@DATASETS.register("cifar10")
class Cifar10(Cifar):
    """CIFAR-10: 32x32 pictures of 10 classes.

    Args:
        root: Folder that holds the files, the official folder or the official archive.
        split: 'train', 'val', 'trainval' or 'test'.
        policy, on_bad_image: See :class:`gluon_attn.data.classification.ClassificationDataset`.
        holdout: Share of the training part that is the validation split.
        seed: Seed of that choice.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If one is malformed; the message names it.
    """

    looks_for = (
        "cifar-10-batches-py/ or cifar-10-batches-bin/ (or their files, or the .tar.gz of either)"
    )
    forms, count = CIFAR10, 10


@DATASETS.register("cifar100")
class Cifar100(Cifar):
    """CIFAR-100: 32x32 pictures of 100 classes.

    Args:
        root, split, policy, on_bad_image, holdout, seed: See :class:`Cifar10`.
        coarse: Whether the 20 superclasses are the labels.

    Raises:
        FileNotFoundError, ValueError: See :class:`Cifar10`.
    """

    looks_for = "cifar-100-python/ or cifar-100-binary/ (or their files, or the .tar.gz of either)"
    forms, count = CIFAR100, 100

    def __init__(
        self, root, split, policy=None, on_bad_image="error", holdout=HOLDOUT, seed=0, coarse=False
    ):
        if coarse:
            self.forms, self.count = COARSE, 20
        super().__init__(root, split, policy, on_bad_image, holdout, seed)


class _Folder:
    """The files of a version in a folder."""

    def __init__(self, path):
        self._path = path

    def place(self, name):
        """Return where a file is, for messages."""
        return str(self._path / name)

    def read(self, name):
        """Return the contents of a file."""
        return (self._path / name).read_bytes()

    def close(self):
        """Close nothing: a folder has nothing open."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class _Archive(_Folder):
    """The files of a version in its archive."""

    def __init__(self, path, folder):
        super().__init__(path)
        self._prefix = folder
        try:
            self._tar = tarfile.open(path)  # noqa: SIM115 (closed by close)
        except tarfile.TarError as error:
            raise ValueError(f"{path}: no tar archive: {error}") from error

    def read(self, name):
        try:
            return self._tar.extractfile(f"{self._prefix}/{name}").read()
        except KeyError:
            raise FileNotFoundError(f"{self.place(name)}: not in the archive") from None
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{self._path}: damaged archive: {error}") from error

    def close(self):
        self._tar.close()


def _find(root: Path, forms: tuple[Form, ...]) -> tuple[Form, Path] | None:
    """Return ``(form, its folder or archive)`` of the first version that is there, or None.

    Two files of a version tell it, so that one may be missing.
    """
    for form in forms:
        for folder in (root, root / form.folder):
            names = (form.names, form.test, *form.training)
            if sum((folder / name).is_file() for name in names) > 1:
                return form, folder
    for form in forms:
        archive = root / ARCHIVES[form.folder]
        if archive.is_file():
            return form, archive
    return None


def _names(source, form):
    """Return the names of the classes."""
    data, place = source.read(form.names), source.place(form.names)
    if form.key is None:
        return text_of(data, place).split()
    meta = load_pickle(data, place)
    names = meta.get(form.key) if isinstance(meta, dict) else None
    if not isinstance(names, list):
        raise ValueError(f"{place}: no list '{form.key}'")
    return names


def _read(source, form, name, classes):
    """Return ``(N, 3072)`` uint8 and ``(N,)`` class numbers of one file."""
    data, place = source.read(name), source.place(name)
    if form.key is None:
        before, column = form.labels
        width = before + PIXELS
        if not data or len(data) % width:
            raise ValueError(f"{place}: {len(data):,} bytes, not a multiple of {width}; truncated?")
        rows = np.frombuffer(data, np.uint8).reshape(-1, width)
        pixels, targets = rows[:, before:], rows[:, column]
    else:
        content = load_pickle(data, place)
        content = content if isinstance(content, dict) else {}
        pixels, targets = content.get("data"), content.get(form.labels)
        whole = isinstance(pixels, np.ndarray) and pixels.ndim == 2 and pixels.shape[1] == PIXELS
        if not whole or not isinstance(targets, list) or len(targets) != len(pixels):
            raise ValueError(
                f"{place}: needs 'data' (N, {PIXELS}) and as many '{form.labels}'; found the keys "
                f"{', '.join(sorted(map(str, content))) or '(none)'}"
            )
    if form.key and not all(isinstance(t, int) for t in targets):
        raise ValueError(f"{place}: '{form.labels}' must be whole numbers")
    targets = np.asarray(targets, np.int64)
    if targets.size and not (0 <= targets.min() and targets.max() < classes):
        wrong = int(np.flatnonzero((targets < 0) | (targets >= classes))[0])
        raise ValueError(
            f"{place}: picture {wrong} has class {targets[wrong]}; valid are 0 to {classes - 1}"
        )
    return pixels, targets
