"""Reading one COCO annotation file: everything in it is checked before anything is used.

pycocotools believes what it reads; a wrong id or a short keypoint list then surfaces hours later as
a KeyError. Here every complaint names the file, the record and the remedy.
"""

from __future__ import annotations

import contextlib
import io
import math

from gluon_attn.text import read_json

HINT = "pip install pycocotools"
ARCHIVE = "https://images.cocodataset.org/annotations/annotations_trainval2017.zip"
# Two boxes of the official training file have no area (from memory); a share above this one means
# that the file's boxes are not [x, y, width, height] in pixels.
MAX_USELESS = 0.001
NEEDED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def load_coco(path, keypoints=False):
    """Read and check an annotation file.

    Args:
        path: ``instances_<split>.json`` or ``person_keypoints_<split>.json``.
        keypoints: Whether the annotations must have keypoints.

    Returns:
        ``(coco, clipped, useless)``: pycocotools' COCO object, the number of boxes that reach
        beyond their picture, and ``[(annotation id, reason), ...]`` of boxes without area in it.

    Raises:
        ImportError: pycocotools is not installed.
        FileNotFoundError: There is no such file.
        ValueError: It is no COCO annotation, or a record of it is wrong.
    """
    coco = quietly(_new_coco)
    content = read_json(path, f"unpack {ARCHIVE} beside the folders of images, so that "
                        "ROOT/annotations/*.json and ROOT/train2017/*.jpg exist")  # fmt: skip
    check_structure(content, path)
    images = _by_id(content, "images", path)
    categories = _by_id(content, "categories", path)
    _by_id(content, "annotations", path)
    joints = {}
    if keypoints:
        joints = {c["id"]: len(_keypoint_names(c, path)) for c in categories.values()}
    clipped, useless = 0, []
    for record in content["annotations"]:
        where = f"{path}: annotation {record['id']}"
        image = _look_up(images, record["image_id"], "image", where)
        category = _look_up(categories, record["category_id"], "category", where)
        overlap, reason = check_box(record["bbox"], image, where)
        clipped += overlap
        if reason:
            useless.append((record["id"], reason))
        if keypoints:
            check_keypoints(record, joints[category["id"]], where)
    if len(useless) > MAX_USELESS * len(content["annotations"]):
        first, reason = useless[0]
        raise ValueError(
            f"{path}: annotation {first}: {reason}; {len(useless)} of "
            f"{len(content['annotations'])} boxes are like that. A box is [x, y, width, height] in "
            "pixels of its picture; correct or remove these annotations"
        )
    coco.dataset = content
    quietly(coco.createIndex)
    return coco, clipped, useless


def quietly(function, *arguments):
    """Return ``function(*arguments)`` with what pycocotools prints thrown away."""
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


def check_structure(content, path):
    """Check that the three lists are there and their records have what is needed.

    Raises:
        ValueError: If not.
    """
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
            missing = [key for key in keys if not isinstance(record, dict) or key not in record]
            if missing:
                name = record.get("id", "?") if isinstance(record, dict) else "?"
                raise ValueError(f"{path}: {kind}[{number}] (id {name}) lacks {', '.join(missing)}")
    for record in content["images"]:
        sides = (record["width"], record["height"])
        if not all(isinstance(v, (int, float)) and v >= 1 for v in sides):
            raise ValueError(f"{path}: image {record['id']}: width and height {sides}")
    if not content["images"] or not content["categories"]:
        raise ValueError(f"{path}: lists no images or no categories")


def check_box(box, image, where):
    """Return ``(reaches beyond the picture, why it is useless or None)`` of ``[x, y, w, h]``.

    Raises:
        ValueError: If it is not four finite numbers or a side is negative.
    """
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"{where}: bbox {box!r} must be four numbers [x, y, width, height]")
    x, y, w, h = box
    if w < 0 or h < 0:
        raise ValueError(f"{where}: bbox {box} has a negative side; a box is [x, y, width, height]")
    width, height = image["width"], image["height"]
    inside_w = min(x + w, width) - max(x, 0)
    inside_h = min(y + h, height) - max(y, 0)
    beyond = x < 0 or y < 0 or x + w > width or y + h > height
    size = f"picture {image['id']} of {width} x {height}"
    if w == 0 or h == 0:
        return False, f"box {box} has no area"
    if inside_w <= 0 or inside_h <= 0:
        return False, f"box {box} lies outside its {size}"
    return beyond, None


def check_keypoints(record, joints, where):
    """Check length, visibilities and count of an annotation's keypoints.

    Raises:
        ValueError: If one of them is wrong.
    """
    values = record.get("keypoints")
    if not isinstance(values, list) or len(values) != 3 * joints:
        found = len(values) if isinstance(values, list) else repr(values)
        raise ValueError(
            f"{where}: keypoints has {found} numbers; {joints} keypoints need {3 * joints} "
            "(x, y, visibility each). Is this a person_keypoints file?"
        )
    bad = [v for v in values if not _is_number(v)]
    bad += [v for v in values[2::3] if v not in (0, 1, 2)]
    if bad:
        raise ValueError(
            f"{where}: keypoints hold {bad[0]!r}; places are finite numbers, visibilities 0 "
            "(unlabelled), 1 (hidden) or 2 (visible)"
        )
    visible = sum(v > 0 for v in values[2::3])
    if record.get("num_keypoints") != visible:
        raise ValueError(
            f"{where}: num_keypoints is {record.get('num_keypoints')}, but {visible} keypoints are "
            "labelled; the evaluation needs their number"
        )


def _keypoint_names(category, path):
    names = category.get("keypoints")
    if not isinstance(names, (list, tuple)) or not names:
        raise ValueError(
            f"{path}: category {category['id']} ('{category['name']}') has no keypoint names; take "
            "person_keypoints_<split>.json, not instances_<split>.json"
        )
    return names


def _new_coco():
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise ImportError(f"COCO data needs pycocotools: {HINT} ({error})") from error
    return COCO()


def _by_id(content, kind, path):
    """Return ``{id: record}``; two records of one id are an error."""
    records = {}
    for record in content[kind]:
        if record["id"] in records:
            raise ValueError(f"{path}: two {kind} have the id {record['id']}; ids must be unique")
        records[record["id"]] = record
    return records


def _look_up(records, number, kind, where):
    if number not in records:
        plural = "categories" if kind == "category" else "images"
        raise ValueError(
            f"{where}: {kind} {number!r} is not in the file's list of {len(records)} {plural}; add "
            "it there or remove the annotation"
        )
    return records[number]


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
