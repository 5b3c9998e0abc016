"""CelebA from its official text files, or from the CSV copies that circulate.

    list_attr_celeba.txt       line 1: number of pictures; line 2: the 40 attributes;
                               then ``000001.jpg -1  1 ...`` with uneven blanks; 1 yes, -1 no
    list_eval_partition.txt    ``000001.jpg 0``: 0 training, 1 validation, 2 test
    img_align_celeba/          aligned images, 178 x 218

in ``root`` or in ``Anno/``, ``Eval/`` and ``Img/`` as published. The images may be the PNG files of
``img_align_celeba_png/``, though the lists say ``.jpg``. The CSV copies have a heading line
``image_id,5_o_Clock_Shadow,...`` (``image_id,partition``, also ``id,partition``) instead of the
first one or two, some quotes, and perhaps a column of row numbers in front.

The two files are joined by name, not by line. 162,770 / 19,867 / 19,962 pictures; papers round to
160k / 20k / 20k.

Reference: Liu, Luo, Wang, Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.
"""

from __future__ import annotations

import csv
import logging
from itertools import islice
from pathlib import Path
from typing import Iterator

import numpy as np

from gluon_attn.core.text import read_lines
from gluon_attn.data.base import DATASETS, AttributeDataset
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts, label_note
from gluon_attn.data.layout import Part, file_part, folder_part
from gluon_attn.data.protocol import SPLITS, check_split
from gluon_attn.data.scan import ImageFolder

logger = logging.getLogger(__name__)

COUNT = 40
HEADINGS = ("image_id", "id", "image", "image_name", "file_name", "filename", "name")
PUBLISHED = {
    "train": {"images": 162770},
    "val": {"images": 19867},
    "trainval": {"images": 182637},
    "test": {"images": 19962},
}
CODES = {"train": ("0",), "val": ("1",), "trainval": ("0", "1"), "test": ("2",)}
PLACES = (".", "Anno", "Eval", "anno", "eval")
LABELS, PARTITION = "list_attr_celeba", "list_eval_partition"
FOLDERS = tuple(
    f"{place}{name}"
    for name in ("img_align_celeba", "img_align_celeba_png")
    for place in (f"{name}/", "Img/", f"Img/{name}/", f"Img/{name}.7z/", "")
)  # the archives unpack into folders of their own


@DATASETS.register("celeba")
class CelebA(AttributeDataset):
    """Aligned faces of CelebA, 40 attributes, the standard split.

    Args:
        root: Folder that holds the lists and ``img_align_celeba/``.
        split: 'train', 'val', 'trainval' or 'test'.
        policy, on_bad_image: See :class:`AttributeDataset`.

    Attributes:
        report: CountReport of this split.

    Raises:
        FileNotFoundError: If a list is not there.
        ValueError: If one is malformed; the message names file and line.
    """

    looks_for = (
        "list_attr_celeba.txt and list_eval_partition.txt (or .csv) in the folder itself, Anno/ "
        "or Eval/, beside img_align_celeba/ or Img/img_align_celeba/"
    )
    valid = SPLITS

    def __init__(self, root, split, policy=None, on_bad_image="error"):
        check_split(split, "CelebA")
        found = self.require(root, split)
        self.root = found.home
        labels, partition, images = (found.path(part) for part in self.parts(split))
        names, rows = _read_labels(labels)
        chosen = _read_split(partition, split, rows, labels)
        raw = np.array([rows[name] for name in chosen], np.int8)
        super().__init__(names, split, raw, chosen, policy, on_bad_image)
        self.images = ImageFolder(images, chosen[0])
        expected, source = expected_counts(self.root, PUBLISHED)
        notes = [label_note(self)] if split == "train" else []
        self.report = CountReport([SplitCount(split, len(self))], expected, source, notes)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        lists = (
            file_part(f"{stem}.txt", *(f"{p}/{stem}{s}" for p in PLACES for s in (".txt", ".csv")))
            for stem in (LABELS, PARTITION)
        )
        return (*lists, folder_part("img_align_celeba", *FOLDERS, apart=True, images=True))

    def path(self, i):
        return self.images / self.sample_ids[i]


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield ``(line number, words)`` of the lines that are not blank."""
    numbered = False
    for number, line in read_lines(path):
        words = line.split()
        if "," in line:
            words = [word.strip() for word in next(csv.reader([line]))]
            numbered |= number == 1 and not words[0]  # a table was saved with its index
        yield number, words[1:] if numbered else words


def _is_heading(words: list[str]) -> bool:
    """Return whether a line of a CSV names columns: no image, and words in every column."""
    return len(words) > 1 and words[0].lower() in HEADINGS and not set(words[1:]) & {"1", "-1"}


def _read_labels(path):
    """Return the attribute names and ``{picture: labels}``, in the order of the file."""
    lines = _lines(path)
    names, announced = _read_heading(path, lines)
    codes, rows = {"1": 1, "-1": -1}, {}
    for number, words in lines:
        picture, values = words[0], words[1:]
        if len(values) != len(names):
            raise ValueError(f"{path}:{number}: {len(values)} labels for {len(names)} attributes")
        if picture in rows:
            raise ValueError(f"{path}:{number}: '{picture}' comes twice")
        try:
            rows[picture] = [codes[value] for value in values]
        except KeyError as error:
            name = next(n for n, v in zip(names, values) if v not in codes)
            raise ValueError(
                f"{path}:{number}: label {error.args[0]!r} of '{name}'; valid are 1 and -1"
            ) from None
    if announced is not None and announced != len(rows):
        raise ValueError(
            f"{path}:1: announces {announced:,} pictures; {len(rows):,} follow (the file was not "
            "copied completely?)"
        )
    return names, rows


def _read_heading(path, lines):
    """Return the attribute names and the number of pictures announced (None in a CSV)."""
    heading = [words for _, words in islice(lines, 1 if path.suffix == ".csv" else 2)]
    if path.suffix == ".csv":
        if not heading or not _is_heading(heading[0]):
            raise ValueError(f"{path}:1: expected the heading image_id,<attribute>,...")
        names, announced = tuple(heading[0][1:]), None
    else:
        if len(heading) < 2 or len(heading[0]) != 1 or not heading[0][0].isdigit():
            raise ValueError(f"{path}:1: expected the number of pictures, then a line of names")
        names, announced = tuple(heading[1]), int(heading[0][0])
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        raise ValueError(f"{path}: no attribute names, or repeated ones: {', '.join(repeated)}")
    if len(names) != COUNT:
        logger.warning("%s: %d attributes; CelebA has %d", path, len(names), COUNT)
    return names, announced


def _read_split(path, split, rows, labels_path):
    """Return the pictures of a split, in the order of the partition file."""
    chosen, seen = [], set()
    for number, words in _lines(path):
        if number == 1 and _is_heading(words):
            continue
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            raise ValueError(f"{path}:{number}: expected a picture and 0, 1 or 2, found {words}")
        picture, code = words
        if picture in seen:
            raise ValueError(f"{path}:{number}: '{picture}' comes twice")
        if picture not in rows:
            raise ValueError(f"{path}:{number}: '{picture}' has no labels in {labels_path}")
        seen.add(picture)
        if code in CODES[split]:
            chosen.append(picture)
    if len(seen) != len(rows):
        missing = next(picture for picture in rows if picture not in seen)
        raise ValueError(
            f"{path}: {len(rows) - len(seen):,} pictures of {labels_path} are in no split, such "
            f"as '{missing}'"
        )
    return chosen
