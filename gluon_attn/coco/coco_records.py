"""Single COCO records: what labelling tools write is brought to the form of the official files.

A value that can only mean one thing is taken (ids and numbers written as text, a missing
``iscrowd`` or ``area``, a box that only the outline tells). A record that cannot be used is named
with its reason; :class:`Tally` counts such reasons, each with its first example.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any, Callable, Sequence

Record = dict  # one JSON object
Box = Sequence[float]  # x, y, width, height in pixels


class Tally:
    """Counts findings by kind, each with its first example.

    Attributes:
        found: ``{kind: [count, example]}`` in the order of the first examples.
    """

    def __init__(self) -> None:
        self.found: dict[str, list] = {}

    def add(self, kind: str, example: object) -> None:
        """Count one more finding of a kind."""
        self.found.setdefault(kind, [0, str(example)])[0] += 1

    @property
    def total(self) -> int:
        """Findings of all kinds."""
        return sum(count for count, _ in self.found.values())

    def __str__(self) -> str:
        return "; ".join(
            f"{count:,} {kind} (the first: {example})"
            for kind, (count, example) in self.found.items()
        )


def whole_number(value: Any) -> int | None:
    """Return an integer that is written as such, as 3.0 or as text, else None."""
    if value.__class__ is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d+\s*", value):
        return int(value)
    return None


def key_function(ids: Sequence[Any]) -> Callable[[Any], Any]:
    """Return the function that makes one kind of key of ids and of references to them.

    VIA and others write ``"id": 0`` but ``"image_id": "0"``. Keys are numbers if all of ``ids``
    can be, else texts: mixed kinds cannot be sorted, and pycocotools would mix them up.
    """
    numbers = [whole_number(value) for value in ids]
    if None not in numbers and len(set(numbers)) == len({str(value) for value in ids}):
        return whole_number
    return lambda value: str(value).strip()


def numbers_of(value: Any, count: int) -> Sequence[float] | None:
    """Return ``count`` finite numbers out of a list or a text, else None.

    A list of numbers is returned as it is.
    """
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


def box_of(record: Record, image: Record) -> tuple[Box | None, str | None]:
    """Return ``(box, None)`` or ``(None, why there is none)`` of an annotation.

    Args:
        record: The annotation; without a box, the extent of its ``segmentation`` is taken.
        image: With ``width`` and ``height``.
    """
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
    return box, None


def outline_box(segmentation: Any) -> Box | None:
    """Return the box around polygons or a run-length mask; None if there is no usable one."""
    if isinstance(segmentation, dict):
        return _mask_box(segmentation)
    if not isinstance(segmentation, (list, tuple)) or not segmentation:
        return None
    parts = segmentation
    if not isinstance(parts[0], (list, tuple)):
        parts = [parts]  # one polygon without the outer list
    found = [numbers_of(part, len(part)) for part in parts if isinstance(part, (list, tuple))]
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
    """Give an annotation ``3 * joints`` keypoint numbers and their count ``num_keypoints``.

    An annotation without keypoints, or with unusable ones, becomes one without labelled keypoints:
    no sample, and passed over by the evaluation.

    Returns:
        What is wrong with the keypoints, or None; their absence is nothing wrong.
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
