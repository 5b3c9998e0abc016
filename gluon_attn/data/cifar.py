"""CIFAR-10 and CIFAR-100 from the official files: the Python version or the binary version.

Their folders, archives and files are in ``CIFAR10`` and ``CIFAR100``. They may lie in the folder
itself or in that of the official archive (``cifar-100-python`` and so on); or there is the archive
(``cifar-100-python.tar.gz``), unopened. The Python version consists of pickles; they are read
without executing anything, see ``safe_pickle``. An image is 3072 bytes, 32x32 red, then green, then
blue; in the binary version the label goes before it, in CIFAR-100 behind the superclass.

The authors give 50,000 training images ('trainval') and 10,000 test images ('test').

Some browser demonstrations publish CIFAR-10 as images: ``cifar10_batch_0.png``, a batch of 1,000 as
one PNG of 1024 x 1000 pixels whose rows are images of 32 x 32, row by row; batches 0 to 49 are the
training part, 50 to 59 the test part; ``cifar10_labels.js`` holds the labels of all as one array,
``var labels=[6, 9, …]``. :func:`convert_png` writes the binary version of those that are there.

Reference: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import contextlib
import re
import tarfile
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Sequence

import numpy as np

from gluon_attn.core.files import write_bytes, write_text
from gluon_attn.core.text import read_text, text_of
from gluon_attn.data.base import DATASETS, ClassificationDataset, Reader, Samples, class_schema
from gluon_attn.data.images import read_image
from gluon_attn.data.layout import DEPTH, Found, Part, PathLike, file_part
from gluon_attn.data.protocol import HOLDOUT, SPLITS, official_split
from gluon_attn.data.published_sizes import split_counts
from gluon_attn.data.safe_pickle import load_pickle
from gluon_attn.data.scan import files

SIDE = 32
PIXELS = 3 * SIDE * SIDE


class Form(NamedTuple):
    """The files of one version.

    Attributes:
        training, test: Names of the files with images.
        names: The file with the names of the classes.
        labels: Python version: the key of the labels; binary version: the bytes before an image
            and which of them is the label.
        key: Python version: the key of the class names.
    """

    folder: str
    archive: str
    training: tuple[str, ...]
    test: str
    names: str
    labels: Any
    key: str | None = None


BATCHES = tuple(f"data_batch_{k}" for k in range(1, 6))
CIFAR10 = (
    Form("cifar-10-batches-py", "cifar-10-python.tar.gz", BATCHES, "test_batch", "batches.meta",
         "labels", "label_names"),
    Form("cifar-10-batches-bin", "cifar-10-binary.tar.gz", tuple(f"{b}.bin" for b in BATCHES),
         "test_batch.bin", "batches.meta.txt", (1, 0)),
)  # fmt: skip
CIFAR100 = (
    Form("cifar-100-python", "cifar-100-python.tar.gz", ("train",), "test", "meta", "fine_labels",
         "fine_label_names"),
    Form("cifar-100-binary", "cifar-100-binary.tar.gz", ("train.bin",), "test.bin",
         "fine_label_names.txt", (2, 1)),
)  # fmt: skip
COARSE = (
    CIFAR100[0]._replace(labels="coarse_labels", key="coarse_label_names"),
    CIFAR100[1]._replace(names="coarse_label_names.txt", labels=(2, 0)),
)


class Cifar(Reader, ClassificationDataset):
    """What CIFAR-10 and CIFAR-100 share; images stay in memory (150 MB)."""

    forms: tuple[Form, ...] = ()
    count = 0  # classes
    valid = SPLITS
    published = split_counts("images", trainval=50000, test=10000)

    @classmethod
    def is_home(cls, folder: Path, *others: str) -> bool:
        return _find(folder, cls.forms) is not None

    @classmethod
    def parts(cls, split: str, form: Form | None = None) -> tuple[Part, ...]:
        form = form or cls.forms[0]
        batches = (form.test,) if split == "test" else form.training
        return tuple(map(file_part, (form.names, *batches)))

    @classmethod
    def locate(cls, root: PathLike, split: str, depth: int = DEPTH, **options: Any) -> Found:
        home = cls.home(root) if depth else Path(root)
        form, place = _find(home, cls.forms) or (cls.forms[0], home)
        parts = cls.parts(split, form)
        # What an archive holds shows when it is read.
        there = [p for p in parts if place.is_file() or (place / p.name).is_file()]
        paths = {part.name: place / part.name for part in there}
        missing = [part for part in parts if part not in there]
        return Found(home, paths, missing, parts, root=Path(root))

    def samples(self, found: Found, split: str, holdout: float = HOLDOUT, seed: int = 0) -> Samples:
        self.form, place = _find(self.root, self.forms) or (self.forms[0], self.root)
        form = self.form
        with _opened(place, form.folder) as read:
            names = _names(read(form.names), place / form.names, form)
            if len(names) != self.count:
                path = place / form.names
                raise ValueError(f"{path}: {len(names)} class names, not {self.count}")
            batches = (form.test,) if split == "test" else form.training
            contents = (_batch(read(b), place / b, form, self.count) for b in batches)
            pixels, targets = map(np.concatenate, zip(*contents))
        every = np.arange(len(targets))
        parts = dict.fromkeys(("trainval", "test"), every)
        chosen = official_split(split, parts, targets, holdout, seed=seed)
        self._pixels = pixels if len(chosen) == len(pixels) else pixels[chosen]
        ids = [f"{'test' if split == 'test' else 'train'}/{k:05d}" for k in chosen]
        return Samples(class_schema(names), targets[chosen], ids)

    def path(self, i: int) -> Path:
        raise NotImplementedError  # many images are in one file

    def read(self, i: int) -> np.ndarray:
        planes = self._pixels[i].reshape(3, SIDE, SIDE)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))


@DATASETS.register("cifar10")
class Cifar10(Cifar):
    """CIFAR-10: 32x32, 10 classes; ``holdout`` is the share of 'val', chosen by ``seed``."""

    title, forms, count = "CIFAR-10", CIFAR10, 10
    looks_for = (
        "cifar-10-batches-py/ or cifar-10-batches-bin/ (or their files, or the .tar.gz of either)"
    )
    detection = 110
    settings = ("holdout", "seed")


@DATASETS.register("cifar100")
class Cifar100(Cifar):
    """CIFAR-100: 32x32 images of 100 classes, or, if ``coarse``, of the 20 superclasses."""

    title, forms, count = "CIFAR-100", CIFAR100, 100
    looks_for = "cifar-100-python/ or cifar-100-binary/ (or their files, or the .tar.gz of either)"
    detection = 120
    settings = ("holdout", "seed", "coarse")

    def samples(
        self,
        found: Found,
        split: str,
        holdout: float = HOLDOUT,
        seed: int = 0,
        *,
        coarse: bool = False,
    ) -> Samples:
        if coarse:
            self.forms, self.count = COARSE, 20
        return super().samples(found, split, holdout, seed)


@contextlib.contextmanager
def _opened(place: Path, folder: str) -> Iterator[Callable[[str], bytes]]:
    """Yield a function that reads a file of a version, from its folder or its archive."""
    if place.is_dir():
        yield lambda name: (place / name).read_bytes()
        return
    try:
        archive = tarfile.open(place)  # noqa: SIM115 (closed below)
    except tarfile.TarError as error:
        raise ValueError(f"{place}: no tar archive: {error}") from error

    def read(name: str) -> bytes:
        try:
            member = archive.extractfile(f"{folder}/{name}")
            return member.read() if member else b""
        except KeyError:
            raise FileNotFoundError(f"{place / name}: not in the archive") from None
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{place}: damaged archive: {error}") from error

    with archive:
        yield read


def _find(root: Path, forms: tuple[Form, ...]) -> tuple[Form, Path] | None:
    """Return ``(form, its folder or archive)`` of the first version that is there, or None.

    Two files of a version tell it, so that one may be missing.
    """
    for form in forms:
        for folder in (root, root / form.folder):
            names = (form.names, form.test, *form.training)
            if sum((folder / name).is_file() for name in names) > 1:
                return form, folder
    archives = ((form, root / form.archive) for form in forms)
    return next(((form, path) for form, path in archives if path.is_file()), None)


def _names(data: bytes, place: Path, form: Form) -> list[str]:
    if form.key is None:
        return text_of(data, place).split()
    meta = load_pickle(data, place)
    names = meta.get(form.key) if isinstance(meta, dict) else None
    if not isinstance(names, list):
        raise ValueError(f"{place}: no list '{form.key}'")
    return names


def _batch(data: bytes, place: Path, form: Form, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(N, 3072)`` uint8 and ``(N,)`` class numbers of one file."""
    pixels: Any
    targets: Any
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
            keys = ", ".join(sorted(map(str, content))) or "(none)"
            wanted = f"'data' (N, {PIXELS}) and as many '{form.labels}'"
            raise ValueError(f"{place}: needs {wanted}; found the keys {keys}")
        if not all(isinstance(t, int) for t in targets):
            raise ValueError(f"{place}: '{form.labels}' must be whole numbers")
    targets = np.asarray(targets, np.int64)
    wrong = np.flatnonzero((targets < 0) | (targets >= classes))
    if wrong.size:
        found = f"image {wrong[0]} has class {targets[wrong[0]]}"
        raise ValueError(f"{place}: {found}; valid are 0 to {classes - 1}")
    return pixels, targets


PNG_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
PNG_SIZE, FIRST_TEST = 1000, 50  # images of a batch; the first batch of the test part
PNG_LABELS = "cifar10_labels.js"
WRITTEN = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin", "batches.meta.txt")


def convert_png(
    root: PathLike, out: PathLike, test: Sequence[int] = (), *, overwrite: bool = False
) -> dict[str, int]:
    """Write the binary version of a folder of PNG batches; return ``{'trainval': n, 'test': n}``.

    ``test`` numbers training batches that are to be test images too, beside 50 to 59; they are left
    out of the training part. The last file of ``WRITTEN`` is written last: what lacks it is begun
    again. FileNotFoundError: no batches, no labels, or none of a batch of ``test``;
    FileExistsError: ``out`` is finished, and not to be replaced; ValueError: a batch of another
    size, too few labels, under five training batches.
    """
    root, out = Path(root), Path(out)
    *parts, last = (out / name for name in WRITTEN)
    if last.exists() and not overwrite:
        raise FileExistsError(f"{last} exists; use --overwrite to replace the files, or choose "
                              "another folder")  # fmt: skip
    names = (path.name for path in files(root, ".png"))
    found = (re.fullmatch(r"cifar10_batch_(\d+)\.png", name) for name in names)
    batches = sorted(int(match.group(1)) for match in found if match)
    if not batches:
        raise FileNotFoundError(f"{root}: no cifar10_batch_0.png, …")
    lacking = sorted(set(test) - set(batches))
    if lacking:
        raise FileNotFoundError(f"{root / f'cifar10_batch_{lacking[0]}.png'} is missing")
    labels = _png_labels(root / PNG_LABELS, max(batches))
    tests = [k for k in batches if k >= FIRST_TEST or k in test]
    training = [k for k in batches if k not in tests]
    if len(training) < 5 or not tests:
        raise ValueError(
            f"{root}: {len(training)} training and {len(tests)} test batches; at least 5 and 1 "
            "are needed, since the binary version has five training files"
        )
    last.unlink(missing_ok=True)
    for path, chosen in zip(parts, [*np.array_split(training, 5), np.array(tests)]):
        write_bytes(path, _records(root, chosen.tolist(), labels))
    write_text(last, "\n".join(PNG_CLASSES) + "\n")
    return {"trainval": PNG_SIZE * len(training), "test": PNG_SIZE * len(tests)}


def _png_labels(path: Path, last: int) -> np.ndarray:
    """Return the class numbers of a label file, ``(N,)`` uint8, up to batch ``last`` or more."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it holds the labels of all batches")
    found = re.search(r"labels\s*=\s*\[([\d,\s]*)\]", read_text(path))
    if found is None:
        raise ValueError(f"{path}: expected var labels=[6, 9, …]")
    labels = np.array([int(word) for word in found.group(1).split(",") if word.strip()])
    needed = PNG_SIZE * (last + 1)
    if len(labels) < needed or labels.max() >= len(PNG_CLASSES):
        wanted = f"batch {last} needs {needed:,}, from 0 to {len(PNG_CLASSES) - 1}"
        highest = labels.max(initial=0)
        raise ValueError(f"{path}: {len(labels):,} labels up to {highest}; {wanted}")
    return labels.astype(np.uint8)


def _records(root: Path, batches: Sequence[int], labels: np.ndarray) -> bytes:
    """Return the records of some batches: a label byte, then the planes red, green, blue."""
    parts = []
    for k in batches:
        path = root / f"cifar10_batch_{k}.png"
        image = read_image(path, f"batch {k}")
        if image.shape != (PNG_SIZE, SIDE * SIDE, 3):
            rows, columns = image.shape[:2]
            found = f"{columns} x {rows} pixels"
            raise ValueError(f"{path}: {found}; a batch has {SIDE**2} x {PNG_SIZE}")
        planes = image.transpose(0, 2, 1).reshape(PNG_SIZE, -1)  # pixels are in row order
        own = labels[PNG_SIZE * k : PNG_SIZE * (k + 1), None]
        parts.append(np.concatenate([own, planes], axis=1).tobytes())
    return b"".join(parts)
