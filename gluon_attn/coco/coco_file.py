"""Reading one COCO annotation file: everything in it is checked before anything is used.

pycocotools believes what it reads; a wrong id or a short keypoint list then surfaces hours later as
a KeyError, and an annotation with the id 0 counts as not found. Here every record is brought to the
official form (:mod:`gluon_attn.coco.coco_records`). Annotations that cannot be used are left out
and counted; what makes the whole file doubtful is an error that names file, record and remedy.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from pathlib import Path
from typing import Any, Callable, NamedTuple

from gluon_attn.coco.coco_records import (
    Record,
    Tally,
    box_of,
    key_function,
    set_crowd_and_area,
    set_keypoints,
    whole_number,
)
from gluon_attn.core.text import read_json
from gluon_attn.data.images import BadImageError

HINT = "pip install pycocotools"
ARCHIVE = "https://images.cocodataset.org/annotations/annotations_trainval2017.zip"
# A larger share of unusable annotations means that the file holds something else than it seems.
MAX_LEFT_OUT = 0.5
NEEDED = {
    "images": ("id", "file_name"),
    "annotations": (),
    "categories": ("id", "name"),
}


class CocoContent(NamedTuple):
    """What an annotation file holds.

    Attributes:
        coco: pycocotools' COCO object of the usable records; ``coco.path`` is the file.
        total: Annotations in the file.
        clipped: Boxes that reach beyond their image.
        left_out: ``[(annotation id, reason), ...]``.
        warnings: Lines about what was left out or looks wrong.
        notes: Lines about values that were taken because the file has none.
    """

    coco: Any
    total: int
    clipped: int
    left_out: list[tuple[Any, str]]
    warnings: list[str]
    notes: list[str]


def load_coco(
    path: str | Path,
    keypoints: bool = False,
    size_of: Callable[[str], tuple[int, int]] | None = None,
    skip_unreadable: bool = False,
) -> CocoContent:
    """Read and check an annotation file.

    Args:
        path: ``instances_<split>.json``, ``person_keypoints_<split>.json``, or an export of a
            labelling tool.
        keypoints: Whether people with keypoints are wanted: only categories that have names of
            keypoints, and their annotations, are kept.
        size_of: Function from a ``file_name`` to ``(width, height)``, for images whose size the
            file does not give.
        skip_unreadable: Whether images whose size cannot be found are left out with a warning.

    Raises:
        ImportError: pycocotools is not installed.
        FileNotFoundError: There is no such file.
        BadImageError: An image without a size in the file cannot be read.
        ValueError: It is no COCO annotation, or its records do not fit together.
    """
    coco = quietly(_new_coco)
    content = read_json(path, f"unpack {ARCHIVE} beside the folders of images, so that "
                        "ROOT/annotations/*.json and ROOT/train2017/*.jpg exist")  # fmt: skip
    check_structure(content, path)
    images, image_key, warnings = _images(content, path, size_of, skip_unreadable)
    categories, category_key = _categories(content, path, keypoints)
    joints = {n: len(c["keypoints"]) for n, c in categories.items()} if keypoints else None
    annotations = _Annotations(images, image_key, categories, category_key, joints)
    annotations.read(content["annotations"])
    annotations.check(path)
    coco.dataset = dict(
        content, images=list(images.values()), annotations=annotations.kept,
        categories=[c for n, c in categories.items() if joints is None or joints[n]],
        info=content.get("info") or {}, licenses=content.get("licenses") or [],
    )  # fmt: skip
    coco.path = str(path)
    quietly(coco.createIndex)
    return CocoContent(
        coco, len(content["annotations"]), annotations.clipped, annotations.left_out,
        warnings + annotations.warnings(), annotations.notes(),
    )  # fmt: skip


class _Annotations:
    """The annotations of a file, one by one: kept, or left out with a reason.

    Args:
        images, categories: ``{id: record}``.
        image_key, category_key: Make these ids of what annotations refer to.
        joints: ``{category id: number of keypoints}``; None if boxes are wanted.
    """

    def __init__(
        self,
        images: dict,
        image_key: Callable[[Any], Any],
        categories: dict,
        category_key: Callable[[Any], Any],
        joints: dict | None,
    ) -> None:
        self._images, self._image_key = images, image_key
        self._categories, self._category_key, self._joints = categories, category_key, joints
        self.kept: list[Record] = []
        self.left_out: list[tuple[Any, str]] = []
        self.total, self.clipped, self.passed = 0, 0, 0
        self._left, self._unknown = Tally(), Tally()
        self._taken: Counter = Counter()
        self._renumbered = False
        self._largest = 0.0

    def read(self, records: list[Record]) -> None:
        """Take in all annotations of a file."""
        self.total = len(records)
        names = [record.get("id") for record in records]
        numbered = all(n.__class__ is int and n > 0 for n in names)
        distinct = len(set(map(str, names))) == len(names)
        whole: dict[str, Record] = {}  # as they stand in the file; only if ids come twice
        for position, (name, record) in enumerate(zip(names, records), 1):
            name = f"number {position}" if name is None else name
            if not distinct:
                if whole.get(str(name)) == record:
                    self._leave(name, "that are exact copies of another one", record)
                    continue
                whole.setdefault(str(name), dict(record))
            self._read(name, record)
        if not numbered or not distinct:  # pycocotools takes an annotation 0 for none
            self._renumbered = True
            for number, record in enumerate(self.kept, 1):
                record["id"] = number

    def _read(self, name: Any, record: Record) -> None:
        image = self._images.get(self._image_key(record.get("image_id")))
        if image is None:
            self._leave(name, "of images that are not in the list of images", record, "image_id")
            return
        category = self._category_key(record.get("category_id"))
        if category not in self._categories:
            self._unknown.add(f"of category {record.get('category_id')}", f"annotation {name}")
            return
        if self._joints is not None and not self._joints[category]:
            self.passed += 1
            return
        box, reason = box_of(record, image)
        if reason is not None:
            self._leave(name, reason, record)
            return
        record.update(bbox=box, image_id=image["id"], category_id=category)
        set_crowd_and_area(record, self._taken)
        if self._joints is not None:
            wrong = set_keypoints(record, self._joints[category], self._taken)
            if wrong is not None:  # kept, so that the evaluation passes over what is found there
                self._leave(name, wrong, record)
        x, y, w, h = box
        self.clipped += x < 0 or y < 0 or x + w > image["width"] or y + h > image["height"]
        self._largest = max(self._largest, x + w, y + h)
        self.kept.append(record)

    def _leave(self, name: Any, reason: str, record: Record, shown: str = "bbox") -> None:
        self._left.add(reason, f"annotation {name}, {shown} {record.get(shown)}")
        self.left_out.append((name, reason))

    def check(self, path: str | Path) -> None:
        """Refuse categories that are not listed, mostly unusable records, boxes in no pixels."""
        if self._unknown.total:
            known = ", ".join(map(str, list(self._categories)[:10]))
            raise ValueError(
                f"{path}: {self._unknown.total:,} annotations have a category_id that is not in "
                f"the file's list of {len(self._categories)} categories ({known}): "
                f"{self._unknown}; add it there, or correct or remove these annotations"
            )
        if self._left.total > MAX_LEFT_OUT * self.total:
            raise ValueError(
                f"{path}: {self._left.total:,} of {self.total:,} annotations cannot be used: "
                f"{self._left}. A box is [x, y, width, height] in pixels of its image; correct or "
                "remove these annotations"
            )
        if self.kept and self._largest <= 1:
            raise ValueError(
                f"{path}: all {len(self.kept):,} boxes lie between 0 and 1; COCO's are in pixels: "
                "multiply them by the width and height of their images"
            )

    def warnings(self) -> list[str]:
        """Return lines about what is left out or looks wrong."""
        lines = []
        if self._left.total:
            lines.append(
                f"{self._left.total:,} of {self.total:,} annotations left out: {self._left}"
            )
        if self.clipped > len(self.kept) / 2:
            lines.append(
                f"{self.clipped:,} of {len(self.kept):,} boxes reach beyond their image; a box is "
                "[x, y, width, height], not two corners"
            )
        return lines

    def notes(self) -> list[str]:
        """Return lines about what was taken for missing values, and passed over."""
        lines = []
        if self._taken:
            counts = ", ".join(f"{what} ({n:,} times)" for what, n in self._taken.items())
            lines.append(f"taken for missing values: {counts}")
        if self._renumbered:
            lines.append("annotations numbered from 1: their ids are not distinct and above 0")
        if self.passed:
            lines.append(f"{self.passed:,} annotations of categories without keypoints passed over")
        return lines


def quietly(function: Callable, *arguments: Any) -> Any:
    """Return ``function(*arguments)`` with what pycocotools prints thrown away."""
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


def check_structure(content: Any, path: str | Path) -> None:
    """Check that the three lists are there and their records have what is needed.

    A file of images and categories without ``annotations`` gets an empty list of them.

    Raises:
        ValueError: If not.
    """
    if isinstance(content, dict) and content.get("annotations") is None:
        content["annotations"] = []
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in NEEDED
    ):
        found = ", ".join(sorted(map(str, content))) if isinstance(content, dict) else "a list"
        raise ValueError(
            f"{path}: a COCO annotation has lists {', '.join(NEEDED)}; this file has "
            f"{found or 'nothing'} (result files are no annotation)"
        )
    for kind, keys in NEEDED.items():
        for number, record in enumerate(content[kind]):
            if not isinstance(record, dict):
                raise ValueError(f"{path}: {kind}[{number}] is {str(record)[:40]!r}, no record")
            missing = [key for key in keys if record.get(key) in (None, "")]
            if missing:
                name = record.get("id", "?")
                raise ValueError(f"{path}: {kind}[{number}] (id {name}) lacks {', '.join(missing)}")
    if not content["images"] or not content["categories"]:
        raise ValueError(f"{path}: lists no images or no categories")


def _images(
    content: Record, path: str | Path, size_of: Callable | None, skip_unreadable: bool
) -> tuple[dict, Callable[[Any], Any], list[str]]:
    """Return ``{id: record}``, the function that makes their ids, and lines of warning."""
    key = key_function([record["id"] for record in content["images"]])
    images: dict[Any, Record] = {}
    odd = Tally()
    for record in content["images"]:
        number, name = key(record["id"]), str(record["file_name"]).replace("\\", "/")
        if number in images:
            if images[number]["file_name"] != name:
                raise ValueError(
                    f"{path}: two images have the id {record['id']}, '{name}' and "
                    f"'{images[number]['file_name']}'; ids must be unique"
                )
            odd.add("images listed twice", name)
            continue
        record.update(id=number, file_name=name)
        try:
            record["width"], record["height"] = _size(record, path, size_of)
        except BadImageError as error:
            if not skip_unreadable:
                raise
            odd.add("images left out, without a size in the file and unreadable", error)
            continue
        images[number] = record
    if not images:
        raise ValueError(f"{path}: no image is left: {odd}")
    names = Counter(record["file_name"] for record in images.values())
    for name in (name for name, count in names.items() if count > 1):
        odd.add("images listed under several ids, each with a part of its annotations", name)
    return images, key, [str(odd)] if odd.total else []


def _size(record: Record, path: str | Path, size_of: Callable | None) -> tuple[int, int]:
    """Return an image's width and height, from its file if the annotation does not tell."""
    width, height = (whole_number(record.get(side)) for side in ("width", "height"))
    if width and height and min(width, height) > 0:
        return width, height
    if size_of is None:
        sides = (record.get("width"), record.get("height"))
        raise ValueError(f"{path}: image {record['id']}: width and height {sides}")
    return size_of(record["file_name"])


def _categories(
    content: Record, path: str | Path, keypoints: bool
) -> tuple[dict, Callable[[Any], Any]]:
    """Return ``{id: record}`` and the function that makes their ids."""
    key = key_function([record["id"] for record in content["categories"]])
    found: dict[Any, Record] = {}
    by_name: dict[str, Any] = {}
    for record in content["categories"]:
        number, name = key(record["id"]), str(record["name"])
        if found.get(number, {"name": name})["name"] != name or by_name.get(name, number) != number:
            raise ValueError(
                f"{path}: category {number} '{name}' has the id or the name of another one; both "
                "must be unique"
            )
        found[number], by_name[name] = dict(record, id=number, name=name), number
        if keypoints:
            names = record.get("keypoints")
            names = [str(n) for n in names] if isinstance(names, (list, tuple)) else []
            if len(set(names)) != len(names):
                raise ValueError(f"{path}: category '{name}' has a keypoint twice: {names}")
            found[number]["keypoints"] = names
    if keypoints and not any(record["keypoints"] for record in found.values()):
        first = next(iter(found.values()))
        raise ValueError(
            f"{path}: category {first['id']} ('{first['name']}') has no keypoint names; take "
            "person_keypoints_<split>.json, not instances_<split>.json"
        )
    return found, key


def _new_coco() -> Any:
    try:
        from pycocotools.coco import COCO
    except Exception as error:  # built for another NumPy, it raises other errors as well
        raise ImportError(f"COCO data needs pycocotools: {HINT} ({error})") from error
    return COCO()
