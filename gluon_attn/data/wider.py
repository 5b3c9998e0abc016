"""WIDER-Attribute from its official files: JSON annotation and ``Image/`` tree.

    wider_attribute_trainval.json, wider_attribute_test.json:
        {"images": [{"file_name": "train/0--Parade/x.jpg", "scene_id": 0,
                     "targets": [{"attribute": [14 of 1 | -1 | 0], "bbox": [x, y, w, h]}, ...]}],
         "attribute_id_map": {"0": "Male", ...}, "scene_id_map": {...}}

Labels: 1 positive, -1 negative, 0 unspecified. Some loaders in circulation document it as
"0 negative, -1 unspecified", which is wrong for these files.

Opening a split validates its JSON and reads the header (not the pixels) of every picture, because
some boxes lie partly or wholly outside: the first are cut at the border and counted, the second
and boxes without area are left out and listed. So positions, counts and fingerprints are final
from the start, a missing picture is met at once, and a packed copy holds the same samples.

Boxes are in pixels of the **upright** image, as viewers and labelling tools show it; the files do
not tell. (The official images were re-encoded by their authors.) Images that an EXIF orientation
turns are counted in the report.

Reference: Li, Huang, Loy, Tang, "Human Attribute Recognition by Deep Hierarchical Contexts",
ECCV 2016.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from gluon_attn.core.images import Header, clip_box
from gluon_attn.core.text import read_json
from gluon_attn.data.base import DATASETS, AttributeDataset
from gluon_attn.data.counts import (
    PUBLISHED,
    CountReport,
    SplitCount,
    expected_counts,
    rate_note,
)
from gluon_attn.data.images import BadImageError, NoOverlapError, image_header, read_image
from gluon_attn.data.layout import Part, file_part, folder_part

logger = logging.getLogger(__name__)

ATTRIBUTES = (
    "Male", "longHair", "sunglass", "Hat", "Tshirt", "longSleeve", "formal",
    "shorts", "jeans", "longPants", "skirt", "faceMask", "logo", "stripe",
)  # fmt: skip
SPLITS = {
    "train": ("wider_attribute_trainval.json", ("train/",)),
    "val": ("wider_attribute_trainval.json", ("val/",)),
    "trainval": ("wider_attribute_trainval.json", ("train/", "val/")),
    "test": ("wider_attribute_test.json", ("test/",)),
}
FOLDERS = ("Annotations", "Anno", "wider_attribute_annotation", ".")


@DATASETS.register("wider")
class WiderAttribute(AttributeDataset):
    """Person crops of WIDER-Attribute, cut out of the official pictures as they are read.

    Args:
        root: Folder that holds ``Image/`` and the annotation (in ``Annotations/``, ``Anno/``,
            ``wider_attribute_annotation/`` or ``root`` itself).
        split: 'train', 'val', 'trainval' or 'test'.
        policy, on_bad_image: See :class:`AttributeDataset`. With 'error' a missing picture raises
            here; with 'skip' its samples stay in the list and are skipped when read.
        progress: Whether to show a progress bar on a terminal.

    Attributes:
        report: CountReport of this split.
        boxes: ``(N, 4)`` float64, annotated ``x, y, w, h``.

    Raises:
        FileNotFoundError: If the annotation is not there.
        ValueError: If it is malformed; the message names file, line or record.
        BadImageError: If a picture is missing or broken.
    """

    looks_for = (
        "wider_attribute_{trainval,test}.json in Annotations/, Anno/, wider_attribute_annotation/ "
        "or the folder itself, beside Image/"
    )
    valid = tuple(SPLITS)

    def __init__(self, root, split, policy=None, on_bad_image="error", progress=True):
        if split not in SPLITS:
            raise ValueError(
                f"unknown split '{split}' of WIDER-Attribute; valid: {', '.join(SPLITS)}"
            )
        found = self.require(root, split)
        self.root = found.home
        path, self._folder = (found.path(part) for part in self.parts(split))
        document = load_annotation(path)
        columns = attribute_columns(document, path)
        records = list(read_records(document, path, SPLITS[split][1]))
        if not records:
            raise ValueError(
                f"{path}: split '{split}' is empty: no box in a picture whose file_name begins "
                f"with {' or '.join(SPLITS[split][1])}"
            )
        headers = self._headers(records, on_bad_image, progress)
        sizes = {name: header and header.size() for name, header in headers.items()}
        kept, count = check_boxes(split, records, sizes)
        files = {image["file_name"] for image in document["images"]}  # some show nobody
        count.images = sum(name.startswith(SPLITS[split][1]) for name in files)
        self._files = [record[0] for record in kept]
        self.boxes = np.array([record[2] for record in kept], np.float64).reshape(-1, 4)
        raw = np.array([record[3] for record in kept], np.int8).reshape(-1, len(columns))
        ids = [f"{name}#{j}" for name, j, _, _ in kept]
        super().__init__(ATTRIBUTES, split, raw[:, columns], ids, policy, on_bad_image)
        expected, source = expected_counts(self.root, PUBLISHED)
        notes = [rate_note(self)] if source == "published" and split == "train" else []
        turned = sum(header is not None and header.orientation > 1 for header in headers.values())
        if turned:
            notes.append(
                f"{split}: an EXIF orientation turns {turned:,} images; boxes are read as of the "
                "upright image (if yours are of the stored pixels, remove the tags first)"
            )
        self.report = CountReport([count], expected, source, notes)
        self._last = threading.local()

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        name = SPLITS[split][0]
        annotation = file_part(name, *(f"{folder}/{name}" for folder in FOLDERS))
        return annotation, folder_part("Image", apart=True, images=True)

    def path(self, i):
        """Return the file that holds sample ``i``."""
        return self._folder / self._files[i]

    def read(self, i):
        # A picture's boxes are neighbours: reading in order decodes every picture only once.
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

    def _headers(
        self, records: list[tuple], on_bad_image: str, progress: bool
    ) -> dict[str, Header | None]:
        """Return ``{file name: Header or None}``, in parallel: it is mostly waiting."""
        first = {}
        for name, j, _, _ in records:
            first.setdefault(name, f"{name}#{j}")

        def header(item):
            name, sample = item
            try:
                return image_header(self._folder / name, sample)
            except BadImageError:
                if on_bad_image == "error":
                    raise
                return None

        bar = {"disable": None if progress and len(first) > 500 else True, "unit": "img"}
        with ThreadPoolExecutor(8) as pool:
            found = list(tqdm(pool.map(header, first.items()), "headers", len(first), **bar))
        return dict(zip(first, found))


def load_annotation(path):
    """Return the parsed JSON with the keys 'images' (a list) and 'attribute_id_map' (a dict).

    Raises:
        ValueError: If it is no JSON (with line and column) or lacks a key.
    """
    document = read_json(path)
    for key, kind in (("images", list), ("attribute_id_map", dict)):
        if not isinstance(document, dict) or not isinstance(document.get(key), kind):
            raise ValueError(f"{path}: key '{key}' is missing or no {kind.__name__}")
    for image in document["images"]:  # a list that was made on Windows
        if isinstance(image, dict) and isinstance(image.get("file_name"), str):
            image["file_name"] = image["file_name"].replace("\\", "/")
    return document


def attribute_columns(document, path):
    """Return for each of ``ATTRIBUTES`` its position in the file's label lists.

    The map may be ``{"0": "Male"}`` or ``{"Male": 0}``; upper and lower case do not matter.

    Raises:
        ValueError: If names are unknown, missing, or not numbered 0 to 13.
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


def read_records(document, path, prefixes):
    """Yield ``(file_name, number, [x, y, w, h], labels)`` of every box of a split, validated.

    ``number`` counts the boxes of a picture from 0, on through repeated entries. Pictures of the
    file's other splits are validated too: a fault is found whichever is opened.

    Raises:
        ValueError: Naming the file and ``images[i].targets[j]``.
    """
    valid = ("test/",) if "test/" in prefixes else ("train/", "val/")
    numbers = {}
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
            record = _target(target, f"{where}.targets[{j}] ({name})")
            if name.startswith(prefixes):
                numbers[name] = numbers.get(name, -1) + 1
                yield (name, numbers[name]) + record


def _target(target, where):
    """Return ``(bbox, labels)`` of one target, or raise naming ``where``."""
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


def check_boxes(split, records, sizes):
    """Return the records that show something, and the SplitCount of them all."""
    count = SplitCount(split, len({record[0] for record in records}), len(records))
    kept = []
    for record in records:
        name, j, (x, y, w, h), _ = record
        if sizes[name] is not None:
            width, height = sizes[name]
            if clip_box((x, y, w, h), width, height) is None:
                reason = f"box {[x, y, w, h]} shows nothing of the {width} x {height} picture"
                count.dropped.append((f"{name}#{j}", reason))
                continue
            count.clipped += x < 0 or y < 0 or x + w > width or y + h > height
        kept.append(record)
    return kept, count
