"""WIDER-Attribute, from its official files or as the SRN crop lists.

The official files, a JSON annotation and an ``Image/`` tree (:class:`WiderAttribute`)::

    wider_attribute_trainval.json, wider_attribute_test.json:
        {"images": [{"file_name": "train/0--Parade/x.jpg", "scene_id": 0,
                     "targets": [{"attribute": [14 of 1 | -1 | 0], "bbox": [x, y, w, h]}, ...]}],
         "attribute_id_map": {"0": "Male", ...}, "scene_id_map": {...}}

Labels: 1 positive, -1 negative, 0 unspecified. Some loaders in circulation document it as
"0 negative, -1 unspecified", which is wrong for these files.

Opening a split validates its JSON and reads the header (not the pixels) of every image, because
some boxes lie partly or wholly outside: the first are cut at the border and counted, the second
and boxes without area are left out and listed. So positions, counts and fingerprints are final
from the start. Boxes are in pixels of the **upright** image; the files do not tell.

SRN's crops, which VAA and most later papers used (:class:`WiderCrops`)::

    wider_att/wider_att_{train,test}_imglist.txt   one crop per line, quoted or otherwise decorated
    wider_att/wider_att_{train,test}_label.txt     14 labels per line, separated by blanks
    Image_cropped/                                 the crops

Validation rows are those of the train list whose path has a folder ``val``.

Published numbers: the paper's page and, of the crop lists, a user's log (VAA repository, issue 11);
the split into 5,509 / 1,362 / 6,918 images and 28,345 / 29,179 boxes is repeated in many papers.

Reference: Li, Huang, Loy, Tang, "Human Attribute Recognition by Deep Hierarchical Contexts",
ECCV 2016.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Iterator, NamedTuple, Sequence

import numpy as np
from tqdm import tqdm

from gluon_attn.core.images import Header, clip_box
from gluon_attn.core.schema import Schema
from gluon_attn.core.text import read_json, read_lines
from gluon_attn.data.base import DATASETS, ClassificationDataset, Reader, Samples, class_schema
from gluon_attn.data.images import BadImageError, NoOverlapError, image_header, read_image
from gluon_attn.data.layout import Found, Part, PathLike, file_part, folder_part
from gluon_attn.data.protocol import SPLITS, parts_of
from gluon_attn.data.published_sizes import SplitCount, rate_note, split_counts
from gluon_attn.data.scan import stored_name

logger = logging.getLogger(__name__)

ATTRIBUTES = tuple(
    "Male longHair sunglass Hat Tshirt longSleeve formal shorts jeans longPants skirt faceMask "
    "logo stripe".split()
)
# Class weights in VAA's released code: (1 - rate) / rate of the training split, or 1 from 50 % on.
VAA_WEIGHTS = dict(
    longHair=3.4595959, sunglass=18.472435, Hat=3.3854823, Tshirt=3.5971165, longSleeve=1.1370194,
    formal=12.584616, shorts=5.7822747, jeans=10.827924, longPants=1.7478157, skirt=8.8111115,
    faceMask=28.433332, logo=2.7568319, stripe=18.020712,
)  # fmt: skip
FOLDERS = ("Annotations", "Anno", "wider_attribute_annotation", ".")
DECORATION = "'\"`[](){},; \t\r\n"


class Box(NamedTuple):
    """A person of the annotation; ``number`` counts those of an image from 0."""

    image: str
    number: int
    box: list[float]  # x, y, w, h
    labels: list[int]

    @property
    def id(self) -> str:
        return f"{self.image}#{self.number}"


class _Wider(Reader):
    title = "WIDER-Attribute"
    valid = SPLITS

    def remarks(self, source: str | None) -> list[str]:
        compared = source == "published" and self.split == "train"
        return [rate_note(self, VAA_WEIGHTS)] if compared else []


@DATASETS.register("wider")
class WiderAttribute(_Wider):
    """Person crops of WIDER-Attribute, cut out of the official images as they are read.

    ``boxes`` are ``(N, 4)`` float64, annotated ``x, y, w, h``. With ``on_bad_image='error'`` a
    missing image raises when the split is opened; with 'skip' its samples stay in the list and are
    skipped when read.
    """

    looks_for = (
        "wider_attribute_{trainval,test}.json in Annotations/, Anno/, wider_attribute_annotation/ "
        "or the folder itself, beside Image/"
    )
    detection = 10
    published = {
        "train": {"images": 5509},
        "val": {"images": 1362},
        "trainval": {"images": 6871, "boxes": 28345},
        "test": {"images": 6918, "boxes": 29179},
    }

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        name = f"wider_attribute_{'test' if split == 'test' else 'trainval'}.json"
        annotation = file_part(name, *(f"{folder}/{name}" for folder in FOLDERS))
        return annotation, folder_part("Image", apart=True, images=True)

    def samples(self, found: Found, split: str, progress: bool = True) -> Samples:
        path, self._folder = found.each()
        document = load_annotation(path)
        columns = attribute_columns(document, path)
        prefixes = tuple(f"{part}/" for part in parts_of(split))
        records = list(read_records(document, path, prefixes))
        if not records:
            told = f"no box in an image whose file_name begins with {' or '.join(prefixes)}"
            raise ValueError(f"{path}: split '{split}' is empty: {told}")
        headers = self._headers(records, progress)
        kept, count = check_boxes(split, records, headers)
        files = {image["file_name"] for image in document["images"]}  # some have no box
        count.images = sum(name.startswith(prefixes) for name in files)
        self._files = [record.image for record in kept]
        self.boxes = np.array([record.box for record in kept], np.float64).reshape(-1, 4)
        raw = np.array([record.labels for record in kept], np.int8).reshape(-1, len(columns))
        turned = sum(header is not None and header.orientation > 1 for header in headers.values())
        notes = [
            f"{split}: an EXIF orientation turns {turned:,} images; boxes are read as of the "
            "upright image (if yours are of the stored pixels, remove the tags first)"
        ]
        self._last = threading.local()
        ids, notes = [record.id for record in kept], notes if turned else []
        schema = Schema.binary(ATTRIBUTES)
        return Samples(schema, raw[:, columns], ids, notes=notes, counts=[count])

    def path(self, i: int) -> Path:
        return self._folder / self._files[i]

    def read(self, i: int) -> np.ndarray:
        # An image's boxes are neighbours: reading in order decodes every image only once.
        path, sample = self.path(i), self.sample_ids[i]
        if getattr(self._last, "path", None) != path:
            self._last.image = read_image(path, sample)
            self._last.path = path
        image = self._last.image
        window = clip_box(self.boxes[i], image.shape[1], image.shape[0])
        if window is None:
            raise NoOverlapError(path, sample, f"box {self.boxes[i].tolist()} shows nothing of it")
        x0, y0, x1, y1 = window
        return image[y0:y1, x0:x1]

    def _headers(self, records: list[Box], progress: bool) -> dict[str, Header | None]:
        """Return ``{file name: Header or None}``, in parallel: it is mostly waiting."""
        first: dict[str, str] = {}
        for record in records:
            first.setdefault(record.image, record.id)

        def header(name: str) -> Header | None:
            try:
                return image_header(self._folder / name, first[name])
            except BadImageError:
                if self.on_bad_image == "error":
                    raise
                return None

        hidden = None if progress and len(first) > 500 else True
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(header, first)
            headers = list(tqdm(found, "headers", len(first), disable=hidden, unit="img"))
        return dict(zip(first, headers))


def load_annotation(path: Path) -> dict[str, Any]:
    """Return the parsed JSON with the keys 'images' (a list) and 'attribute_id_map' (a dict)."""
    document = read_json(path)
    for key, kind in (("images", list), ("attribute_id_map", dict)):
        if not isinstance(document, dict) or not isinstance(document.get(key), kind):
            raise ValueError(f"{path}: key '{key}' is missing or no {kind.__name__}")
    for image in document["images"]:  # a list that was made on Windows
        if isinstance(image, dict) and isinstance(image.get("file_name"), str):
            image["file_name"] = image["file_name"].replace("\\", "/")
    return document


def attribute_columns(document: dict[str, Any], path: Path) -> list[int]:
    """Return for each of ``ATTRIBUTES`` its position in the file's label lists.

    The map may be ``{"0": "Male"}`` or ``{"Male": 0}``; upper and lower case do not matter.
    """
    table = document["attribute_id_map"]
    try:
        by_id = {int(k): str(v) for k, v in table.items()}
    except ValueError:
        try:
            by_id = {int(v): str(k) for k, v in table.items()}
        except (TypeError, ValueError):
            raise ValueError(f"{path}: attribute_id_map is no map of numbers to names") from None
    place = {re.sub("[^a-z]", "", name.lower()): i for i, name in by_id.items()}
    missing = [name for name in ATTRIBUTES if name.lower() not in place]
    unknown = sorted(set(place) - {name.lower() for name in ATTRIBUTES})
    if missing or unknown or sorted(by_id) != list(range(len(ATTRIBUTES))):
        raise ValueError(
            f"{path}: attribute_id_map has {len(by_id)} entries numbered {sorted(by_id)}; "
            f"missing: {', '.join(missing) or '-'}; unknown: {', '.join(unknown) or '-'}; "
            f"valid are 0 to {len(ATTRIBUTES) - 1}: {', '.join(ATTRIBUTES)}"
        )
    columns = [place[name.lower()] for name in ATTRIBUTES]
    if columns != sorted(columns):
        order = ", ".join(by_id[i] for i in sorted(by_id))
        logger.warning("%s: attributes come as %s; put into the official order", path, order)
    return columns


def read_records(document: dict[str, Any], path: Path, prefixes: tuple[str, ...]) -> Iterator[Box]:
    """Yield every box of the images whose names begin with ``prefixes``, validated.

    Boxes are counted on through repeated entries of an image. Images of the file's other splits are
    validated too: a fault is found whichever is opened.
    """
    valid = ("test/",) if "test/" in prefixes else ("train/", "val/")
    numbers: dict[str, int] = {}
    for i, image in enumerate(document["images"]):
        where = f"{path}: images[{i}]"
        if not isinstance(image, dict):
            raise ValueError(f"{where} is no object")
        name, targets = image.get("file_name"), image.get("targets")
        if not isinstance(name, str) or not name.startswith(valid):
            raise ValueError(f"{where}: file_name {name!r} must begin with {' or '.join(valid)}")
        if not isinstance(targets, list):
            raise ValueError(f"{where} ({name}): key 'targets' is missing or no list")
        for j, target in enumerate(targets):
            box, labels = _target(target, f"{where}.targets[{j}] ({name})")
            if name.startswith(prefixes):
                numbers[name] = numbers.get(name, -1) + 1
                yield Box(name, numbers[name], box, labels)


def _target(target: Any, where: str) -> tuple[list[float], list[int]]:
    if not isinstance(target, dict):
        raise ValueError(f"{where} is no object")
    for key in ("attribute", "bbox"):
        if not isinstance(target.get(key), list):
            raise ValueError(f"{where}: key '{key}' is missing or no list")
    labels, box = target["attribute"], target["bbox"]
    if len(labels) != len(ATTRIBUTES):
        raise ValueError(f"{where}: {len(labels)} attribute labels, expected {len(ATTRIBUTES)}")
    for k, value in enumerate(labels):
        if isinstance(value, bool) or value not in (1, -1, 0):
            raise ValueError(f"{where}: attribute[{k}] is {value!r}; valid are 1, -1 and 0")
    numbers = [v for v in box if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(box) != 4 or len(numbers) != 4 or not all(math.isfinite(v) for v in numbers):
        raise ValueError(f"{where}: bbox {box!r} must be four finite numbers x, y, w, h")
    return box, labels


def check_boxes(
    split: str, records: list[Box], headers: dict[str, Header | None]
) -> tuple[list[Box], SplitCount]:
    """Return the records that show something, and the count of them all."""
    count = SplitCount(split, len({record.image for record in records}), len(records))
    kept = []
    for record in records:
        header, (x, y, w, h) = headers[record.image], record.box
        if header is not None:
            width, height = header.size()
            if clip_box((x, y, w, h), width, height) is None:
                reason = f"box {[x, y, w, h]} shows nothing of the {width} x {height} image"
                count.dropped.append((record.id, reason))
                continue
            count.clipped += x < 0 or y < 0 or x + w > width or y + h > height
        kept.append(record)
    return kept, count


@DATASETS.register("wider_srn")
class WiderCrops(_Wider):
    """Person crops of WIDER-Attribute as SRN cut them."""

    looks_for = "wider_att/wider_att_{train,test}_{imglist,label}.txt beside Image_cropped/"
    detection = 20
    published = split_counts("boxes", train=22958, val=5382, trainval=28340, test=29177)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        stem = f"wider_att_{'test' if split == 'test' else 'train'}"
        names = (f"{stem}_imglist.txt", f"{stem}_label.txt")
        lists = (file_part(f"wider_att/{name}") for name in names)
        return (*lists, folder_part("Image_cropped", apart=True, images=True))

    def samples(self, found: Found, split: str) -> Samples:
        image_list, label_list, folder = found.each()
        names, rows = _read_names(image_list, folder), _read_rows(label_list)
        if len(names) != len(rows):
            raise ValueError(f"{image_list} has {len(names)} crops, {label_list} {len(rows)} rows")
        pairs = list(zip(names, rows))
        if split in ("train", "val"):
            parents = [PurePosixPath(name).parts[:-1] for name in names]
            pairs = [p for p, above in zip(pairs, parents) if ("val" in above) == (split == "val")]
        if not pairs:
            raise ValueError(f"{image_list}: split '{split}' is empty: no row belongs to it")
        self._folder = folder
        ids, raw = zip(*pairs)
        count = SplitCount(split, None, len(ids))
        return Samples(Schema.binary(ATTRIBUTES), raw, ids, counts=[count])

    def path(self, i: int) -> Path:
        return self._folder / self.sample_ids[i]


def _read_names(path: Path, folder: Path) -> list[str]:
    """Return the paths below ``Image_cropped/`` that a list names."""
    seen: dict[str, int] = {}
    for number, line in _lines(path):
        name = line.strip(DECORATION).replace("\\", "/").lstrip("/.")
        name = name.split("Image_cropped/", 1)[-1]
        if "." not in PurePosixPath(name).name:
            raise ValueError(f"{path}:{number}: {line!r} names no image")
        name = stored_name(folder, name)
        if name in seen:
            raise ValueError(f"{path}:{number}: '{name}' is in line {seen[name]} already")
        seen[name] = number
    return list(seen)


def _read_rows(path: Path) -> list[list[int]]:
    rows = []
    for number, line in _lines(path):
        words = line.replace(",", " ").split()
        if len(words) != len(ATTRIBUTES):
            raise ValueError(f"{path}:{number}: {len(words)} labels, expected {len(ATTRIBUTES)}")
        for name, word in zip(ATTRIBUTES, words):
            if word not in ("1", "+1", "-1", "0"):
                given = f"label {word!r} (about {name})"
                raise ValueError(f"{path}:{number}: {given}; valid are 1, -1 and 0")
        rows.append([int(word) for word in words])
    if rows and not any(-1 in row for row in rows):
        # Without a single -1 the zeros cannot mean "unspecified": nothing would be negative.
        logger.warning("%s: no label is -1; its zeros are read as negative", path)
        rows = [[value or -1 for value in row] for row in rows]
    return rows


def _lines(path: Path) -> list[tuple[int, str]]:
    lines = read_lines(path, f"looked for {WiderCrops.looks_for}")
    return [(number, line) for number, line in lines if line.strip(DECORATION)]


GARMENTS = ("shorts", "skirt", "jeans", "trousers")


@DATASETS.register("garments")
class Garments(_Wider, ClassificationDataset):
    """People of a WIDER-Attribute tree by their lower garment: single-label data.

    The 14 attributes are not exclusive, but four of them nearly settle one question: ``shorts``,
    ``skirt`` and ``jeans`` where the attribute of that name is positive, ``trousers`` where
    ``longPants`` is positive and ``jeans`` negative. People of whom none or several of these hold,
    or whose labels do not tell, are left out and counted in ``left_out``. A folder is never
    recognised as this kind: ask for it by name.
    """

    looks_for, compared = WiderAttribute.looks_for, False

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        return WiderAttribute.parts(split)

    @classmethod
    def detect(cls, root: PathLike, depth: int = 0) -> bool:
        return False

    def samples(self, found: Found, split: str) -> Samples:
        self._people = WiderAttribute(found.root, split, None, self.on_bad_image)
        self._chosen, targets = choose_garments(self._people.raw, self._people.names)
        self.left_out = len(self._people) - len(self._chosen)
        ids = [self._people.sample_ids[k] for k in self._chosen]
        notes = [f"{split}: {self.left_out:,} people left out"]
        return Samples(class_schema(GARMENTS), targets, ids, notes=notes)

    def remarks(self, source: str | None) -> list[str]:
        return [self.class_note()]

    def path(self, i: int) -> Path:
        return self._people.path(self._chosen[i])

    def read(self, i: int) -> np.ndarray:
        return self._people.read(self._chosen[i])


def choose_garments(raw: Any, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(positions, class numbers)`` of the people that have exactly one garment.

    ``raw`` is ``(N, A)`` labels of ``names``: 1 positive, -1 negative, 0 unspecified.
    """
    lacking = [n for n in ("shorts", "skirt", "jeans", "longPants") if n not in names]
    if lacking:
        raise ValueError(f"the data have no attribute {', '.join(lacking)}")
    label = {name: np.asarray(raw)[:, names.index(name)] for name in names}
    wears = [label[name] == 1 for name in GARMENTS[:3]]
    wears.append((label["longPants"] == 1) & (label["jeans"] == -1))
    table = np.stack(wears, axis=1)
    chosen = np.flatnonzero(table.sum(1) == 1)
    return chosen, table[chosen].argmax(1)
