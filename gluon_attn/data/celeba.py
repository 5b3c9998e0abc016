"""CelebA from its official text files, or from the CSV copies that circulate.

    list_attr_celeba.txt       line 1: number of images; line 2: the 40 attributes;
                               then ``000001.jpg -1  1 ...`` with uneven blanks; 1 yes, -1 no
    list_eval_partition.txt    ``000001.jpg 0``: 0 training, 1 validation, 2 test
    img_align_celeba/          aligned images, 178 x 218

in ``root`` or in ``Anno/``, ``Eval/`` and ``Img/`` as published. The images may be the PNG files of
``img_align_celeba_png/``, though the lists say ``.jpg``. The CSV copies have a heading line
``image_id,5_o_Clock_Shadow,...`` (``image_id,partition``, also ``id,partition``) instead of the
first one or two, some quotes, and perhaps a column of row numbers in front.

The two files are joined by name, not by line. 162,770 / 19,867 / 19,962 images; papers round to
160k / 20k / 20k.

Reference: Liu, Luo, Wang, Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.
"""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path
from typing import Iterator

from gluon_attn.core.schema import Schema
from gluon_attn.core.text import read_lines, rows_of_csv
from gluon_attn.data.base import DATASETS, Reader, Samples
from gluon_attn.data.layout import Found, Part, file_part, folder_part
from gluon_attn.data.protocol import SPLITS, parts_of
from gluon_attn.data.published_sizes import split_counts

logger = logging.getLogger(__name__)

COUNT = 40
HEADINGS = ("image_id", "id", "image", "image_name", "file_name", "filename", "name")
CODES = {"train": "0", "val": "1", "test": "2"}
PLACES = (".", "Anno", "Eval", "anno", "eval")
LABELS, PARTITION = "list_attr_celeba", "list_eval_partition"
FOLDERS = tuple(
    f"{place}{name}"
    for name in ("img_align_celeba", "img_align_celeba_png")
    for place in (f"{name}/", "Img/", f"Img/{name}/", f"Img/{name}.7z/", "")
)  # the archives unpack into folders of their own


@DATASETS.register("celeba")
class CelebA(Reader):
    """Aligned faces of CelebA, 40 attributes, the standard split."""

    title = "CelebA"
    looks_for = (
        "list_attr_celeba.txt and list_eval_partition.txt (or .csv) in the folder itself, Anno/ "
        "or Eval/, beside img_align_celeba/ or Img/img_align_celeba/"
    )
    detection = 50
    valid = SPLITS
    published = split_counts("images", train=162770, val=19867, trainval=182637, test=19962)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        lists = (
            file_part(f"{stem}.txt", *(f"{p}/{stem}{s}" for p in PLACES for s in (".txt", ".csv")))
            for stem in (LABELS, PARTITION)
        )
        return (*lists, folder_part("img_align_celeba", *FOLDERS, apart=True, images=True))

    def samples(self, found: Found, split: str) -> Samples:
        labels, partition, folder = found.each()
        names, rows = _read_labels(labels)
        codes = [CODES[part] for part in parts_of(split)]
        parts = _read_partition(partition, rows, labels)
        ids = [image for image, code in parts.items() if code in codes]
        return Samples(Schema.binary(names), [rows[image] for image in ids], ids, folder)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield ``(line number, words)`` of the lines that are not blank."""
    numbered = False
    for number, line in read_lines(path):
        words = line.split()
        if "," in line:
            words = [word.strip() for _, row in rows_of_csv([line], path, number) for word in row]
            numbered |= number == 1 and not words[0]  # a table was saved with its index
        yield number, words[1:] if numbered else words


def _is_heading(words: list[str]) -> bool:
    """Return whether a line of a CSV names columns: no image, and words in every column."""
    return len(words) > 1 and words[0].lower() in HEADINGS and not set(words[1:]) & {"1", "-1"}


def _read_labels(path: Path) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """Return the attribute names and ``{image: labels}``, in the order of the file."""
    lines = _lines(path)
    names, announced = _read_heading(path, lines)
    codes, rows = {"1": 1, "-1": -1}, {}
    for number, (image, *values) in lines:
        if len(values) != len(names):
            raise ValueError(f"{path}:{number}: {len(values)} labels for {len(names)} attributes")
        if image in rows:
            raise ValueError(f"{path}:{number}: '{image}' comes twice")
        odd = [(name, value) for name, value in zip(names, values) if value not in codes]
        if odd:
            name, value = odd[0]
            raise ValueError(f"{path}:{number}: label {value!r} of '{name}'; valid are 1 and -1")
        rows[image] = [codes[value] for value in values]
    if announced is not None and announced != len(rows):
        found = f"announces {announced:,} images; {len(rows):,} follow"
        raise ValueError(f"{path}:1: {found} (the file was not copied completely?)")
    return names, rows


def _read_heading(
    path: Path, lines: Iterator[tuple[int, list[str]]]
) -> tuple[tuple[str, ...], int | None]:
    """Return the attribute names and the number of images announced (None in a CSV)."""
    heading = [words for _, words in islice(lines, 1 if path.suffix == ".csv" else 2)]
    announced = None
    if path.suffix == ".csv":
        if not heading or not _is_heading(heading[0]):
            raise ValueError(f"{path}:1: expected the heading image_id,<attribute>,...")
        names = tuple(heading[0][1:])
    else:
        if len(heading) < 2 or len(heading[0]) != 1 or not heading[0][0].isdigit():
            raise ValueError(f"{path}:1: expected the number of images, then a line of names")
        names, announced = tuple(heading[1]), int(heading[0][0])
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        raise ValueError(f"{path}: no attribute names, or repeated ones: {', '.join(repeated)}")
    if len(names) != COUNT:
        logger.warning("%s: %d attributes; CelebA has %d", path, len(names), COUNT)
    return names, announced


def _read_partition(path: Path, rows: dict[str, list[int]], labels: Path) -> dict[str, str]:
    """Return ``{image: code of its part}``, in the order of the file."""
    found: dict[str, str] = {}
    for number, words in _lines(path):
        if number == 1 and _is_heading(words):
            continue
        if len(words) != 2 or words[1] not in CODES.values():
            raise ValueError(f"{path}:{number}: expected an image and 0, 1 or 2, found {words}")
        image, code = words
        if image in found:
            raise ValueError(f"{path}:{number}: '{image}' comes twice")
        if image not in rows:
            raise ValueError(f"{path}:{number}: '{image}' has no labels in {labels}")
        found[image] = code
    if len(found) != len(rows):
        missing = next(image for image in rows if image not in found)
        lost = f"{len(rows) - len(found):,} images of {labels}"
        raise ValueError(f"{path}: {lost} are in no split, such as '{missing}'")
    return found
