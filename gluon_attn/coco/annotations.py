"""Reading one COCO annotation file: everything in it is checked before anything is used.

pycocotools believes what it reads; a wrong id or a short keypoint list then surfaces hours later as
a KeyError, and an annotation with the id 0 counts as not found. Here every record is brought to the
official form: a value that can only mean one thing is taken (ids and numbers written as text, a
missing ``iscrowd`` or ``area``, a box that only the outline tells). Annotations that cannot be used
are left out and counted; what makes the whole file doubtful is an error that names file, record and
remedy.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Sequence, Tuple

from gluon_attn.core.text import read_json
from gluon_attn.data.images import BadImageError

Record = Dict[str, Any]  # one JSON object
Box = Sequence[float]  # x, y, width, height in pixels
Key = Callable[[Any], Any]  # makes one kind of key of ids and of references to them
SizeOf = Callable[[str], Tuple[int, int]]  # from a ``file_name`` to width and height

ARCHIVE = "https://images.cocodataset.org/annotations/annotations_trainval2017.zip"
# A larger share of unusable annotations means that the file holds something else than it seems.
MAX_LEFT_OUT = 0.5
NEEDED = {"images": ("id", "file_name"), "annotations": (), "categories": ("id", "name")}


class Tally:
    """Counts findings by kind, each with its first example."""

    def __init__(self) -> None:
        self.found: dict[str, list] = {}

    def add(self, kind: str, example: object) -> None:
        self.found.setdefault(kind, [0, str(example)])[0] += 1

    @property
    def total(self) -> int:
        return sum(count for count, _ in self.found.values())

    def __str__(self) -> str:
        return "; ".join(
            f"{count:,} {kind} (the first: {example})"
            for kind, (count, example) in self.found.items()
        )


def from_pycocotools(module: str, name: str) -> Any:
    """Return a class of pycocotools; an ImportError says what to install."""
    try:
        return getattr(importlib.import_module(f"pycocotools.{module}"), name)
    except Exception as error:  # built for another NumPy, it raises other errors as well
        raise ImportError(
            f"COCO data and scores need pycocotools: pip install pycocotools ({error})"
        ) from error


def load_coco(
    path: str | Path, keypoints: bool, size_of: SizeOf, skip_unreadable: bool = False
) -> tuple[Any, Annotations]:
    """Return pycocotools' COCO object of the usable records, whose ``path`` is the file, and what
    is to be said of the others; the file may be an export of a labelling tool.

    Args:
        keypoints: Keep only categories that have names of keypoints, and their annotations.
        size_of: For images whose size the file does not give.
        skip_unreadable: Leave out images whose size cannot be found, with a warning.

    Raises ImportError without pycocotools; FileNotFoundError; BadImageError: an image without a
    size in the file cannot be read; ValueError: no COCO annotation, or its records do not fit
    together.
    """
    COCO = from_pycocotools("coco", "COCO")
    content = read_json(
        path,
        f"unpack {ARCHIVE} beside the folders of images, so that ROOT/annotations/*.json and "
        "ROOT/train2017/*.jpg exist",
    )
    check_structure(content, path)
    images, image_key, warnings = _images(content, path, size_of, skip_unreadable)
    categories, category_key = _categories(content, path, keypoints)
    joints = {n: len(c["keypoints"]) for n, c in categories.items()} if keypoints else None
    found = Annotations(images, categories, joints)
    found.read(content["annotations"], image_key, category_key)
    found.check(path)
    chosen = [c for n, c in categories.items() if joints is None or joints[n]]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        coco = COCO()
        coco.dataset = dict(content, images=list(images.values()), annotations=found.kept)
        coco.dataset.update(categories=chosen, info=content.get("info") or {})
        coco.dataset["licenses"] = content.get("licenses") or []
        coco.createIndex()
    coco.path = str(path)
    found.warnings[:0] = warnings
    return coco, found


def check_structure(content: Any, path: str | Path) -> None:
    """Check that the lists are there and complete; missing ``annotations`` become an empty one."""
    if isinstance(content, dict) and content.get("annotations") is None:
        content["annotations"] = []
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in NEEDED):
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
    content: Record, path: str | Path, size_of: SizeOf, skip_unreadable: bool
) -> tuple[dict[Any, Record], Key, list[str]]:
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
        sides = [whole_number(record.get(side)) or 0 for side in ("width", "height")]
        try:
            record["width"], record["height"] = sides if min(sides) > 0 else size_of(name)
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


def _categories(
    content: Record, path: str | Path, keypoints: bool
) -> tuple[dict[Any, Record], Key]:
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


class Annotations:
    """The annotations of a file, one by one: kept, or left out with a reason.

    ``images`` and ``categories`` are ``{id: record}``; ``joints`` is ``{category id: number of
    keypoints}``, None if boxes are wanted.

    Attributes:
        total, clipped: Annotations in the file, and boxes that reach beyond their image.
        left_out: ``[(annotation id, reason), ...]``.
        warnings: About what was left out or looks wrong; ``notes``: about values that were taken
            because the file has none.
    """

    def __init__(
        self, images: dict[Any, Record], categories: dict[Any, Record], joints: dict | None
    ) -> None:
        self._images, self._categories, self._joints = images, categories, joints
        self.kept: list[Record] = []
        self.left_out: list[tuple[Any, str]] = []
        self.total, self.clipped = 0, 0
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self._left, self._unknown = Tally(), Tally()
        self._taken: Counter = Counter()
        self._passed, self._renumbered, self._largest = 0, False, 0.0

    def read(self, records: list[Record], image_key: Key, category_key: Key) -> None:
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
            image = self._images.get(image_key(record.get("image_id")))
            self._read(name, record, image, category_key(record.get("category_id")))
        if not numbered or not distinct:  # pycocotools takes an annotation 0 for none
            self._renumbered = True
            for number, record in enumerate(self.kept, 1):
                record["id"] = number

    def _read(self, name: Any, record: Record, image: Record | None, category: Any) -> None:
        if image is None:
            reason = "of images that are not in the list of images"
            return self._leave(name, reason, record, "image_id")
        if category not in self._categories:
            self._unknown.add(f"of category {record.get('category_id')}", f"annotation {name}")
            return
        if self._joints is not None and not self._joints[category]:
            self._passed += 1
            return
        box, reason = box_of(record, image)
        if box is None:
            return self._leave(name, reason, record)
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
        self._tell()

    def _tell(self) -> None:
        left = self._left
        if left.total:
            self.warnings.append(f"{left.total:,} of {self.total:,} annotations left out: {left}")
        if self.clipped > len(self.kept) / 2:
            self.warnings.append(
                f"{self.clipped:,} of {len(self.kept):,} boxes reach beyond their image; a box is "
                "[x, y, width, height], not two corners"
            )
        if self._taken:
            counts = ", ".join(f"{what} ({n:,} times)" for what, n in self._taken.items())
            self.notes.append(f"taken for missing values: {counts}")
        if self._renumbered:
            self.notes.append("annotations numbered from 1: their ids are not distinct and above 0")
        if self._passed:
            passed = f"{self._passed:,} annotations of categories without keypoints"
            self.notes.append(f"{passed} passed over")


def whole_number(value: Any) -> int | None:
    """Return an integer that is written as such, as 3.0 or as text, else None."""
    if value.__class__ is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d+\s*", value):
        return int(value)
    return None


def key_function(ids: Sequence[Any]) -> Key:
    """Return the function that makes one kind of key of ids and of references to them.

    VIA and others write ``"id": 0`` but ``"image_id": "0"``. Keys are numbers if all of ``ids``
    can be, else texts: mixed kinds cannot be sorted, and pycocotools would mix them up.
    """
    numbers = [whole_number(value) for value in ids]
    if None not in numbers and len(set(numbers)) == len({str(value) for value in ids}):
        return whole_number
    return lambda value: str(value).strip()


def numbers_of(value: Any, count: int) -> Sequence[float] | None:
    """Return ``count`` finite numbers out of a list (as it is) or a text, else None."""
    if isinstance(value, str):
        value = re.split(r"[\s,;]+", value.strip(" []()"))
    if not isinstance(value, (list, tuple)) or len(value) != count:
        return None
    try:
        if any(v.__class__ not in (int, float) for v in value):
            value = [float(v) for v in value if v.__class__ is not bool]
    except (TypeError, ValueError):
        return None
    return value if len(value) == count and all(map(math.isfinite, value)) else None


def box_of(record: Record, image: Record) -> tuple[Box | None, str]:
    """Return an annotation's box, or that of its ``segmentation``; else None and why."""
    given = record.get("bbox")
    if given is None or given == []:
        box = outline_box(record.get("segmentation"))
        if box is None:
            return None, "without a box and without an outline"
    else:
        box = numbers_of(given, 4)
        if box is None:
            return None, "whose box is not four finite numbers [x, y, width, height]"
        if min(box[2:]) < 0:
            return None, "whose box has a negative side"
        if min(box[2:]) == 0:
            return None, "whose box has no area"
    x, y, w, h = box
    if min(x + w, image["width"]) <= max(x, 0) or min(y + h, image["height"]) <= max(y, 0):
        return None, "whose box lies outside its image"
    return box, ""


def outline_box(segmentation: Any) -> Box | None:
    """Return the box around polygons or a run-length mask; None if there is no usable one."""
    if isinstance(segmentation, dict):
        return _mask_box(segmentation)
    if not isinstance(segmentation, (list, tuple)) or not segmentation:
        return None
    parts = segmentation
    if not isinstance(parts[0], (list, tuple)):
        parts = [parts]  # one polygon without the outer list
    found = (numbers_of(part, len(part)) for part in parts if isinstance(part, (list, tuple)))
    points = [p for p in found if p and len(p) >= 6 and len(p) % 2 == 0]
    xs = [x for part in points for x in part[::2]]
    ys = [y for part in points for y in part[1::2]]
    if not xs or min(xs) == max(xs) or min(ys) == max(ys):
        return None
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _mask_box(mask: Record) -> Box | None:
    try:
        from pycocotools import mask as masks

        height, width = mask["size"]
        if isinstance(mask["counts"], list):
            mask = masks.frPyObjects(mask, height, width)
        box = [float(v) for v in masks.toBbox(mask)]
    except Exception:  # the library fails in many ways on a malformed mask
        return None
    return box if box[2] > 0 and box[3] > 0 else None


def set_crowd_and_area(record: Record, taken: Counter) -> None:
    """Give an annotation ``iscrowd`` 0 or 1 and a positive ``area``; its box must be set.

    Missing, empty and impossible values become 0 and width x height.
    """
    crowd = record.get("iscrowd")
    if crowd.__class__ is not int or crowd not in (0, 1):
        number = numbers_of([crowd if crowd.__class__ is not bool else int(crowd)], 1)
        record["iscrowd"] = int(bool(number and number[0]))
        if crowd is None:
            taken["iscrowd = 0"] += 1
    area = record.get("area")
    if area.__class__ not in (int, float) or not (math.isfinite(area) and area > 0):
        number = numbers_of([area], 1)
        if not number or number[0] <= 0:
            number = [record["bbox"][2] * record["bbox"][3]]
            taken["area = width x height"] += 1
        record["area"] = number[0]


def set_keypoints(record: Record, joints: int, taken: Counter) -> str | None:
    """Give an annotation ``3 * joints`` keypoint numbers and ``num_keypoints``; return what is
    wrong.

    One without keypoints (nothing wrong) or with unusable ones becomes one without labelled
    keypoints: no sample, and passed over by the evaluation.
    """
    given, wrong = record.get("keypoints"), None
    values = numbers_of(given, 3 * joints)
    if values is None and given:
        wrong = f"whose keypoints are not {3 * joints} finite numbers (x, y, visibility of each)"
    elif values is None:
        taken["no labelled keypoints"] += 1
    elif any(v not in (0, 1, 2) for v in values[2::3]):
        values, wrong = None, "with a visibility that is not 0, 1 or 2"
    record["keypoints"] = [0] * (3 * joints) if values is None else values
    labelled = sum(v > 0 for v in record["keypoints"][2::3])
    if record.get("num_keypoints") != labelled:
        if values is not None:
            taken["num_keypoints counted"] += 1
        record["num_keypoints"] = labelled
    return wrong
