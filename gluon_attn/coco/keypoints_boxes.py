"""Boxes of people for keypoint nets: COCO's result files of detectors, and files of one's own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Sequence

from gluon_attn.coco.annotations import Tally, numbers_of
from gluon_attn.coco.dataset import CocoKeypoints
from gluon_attn.coco.keypoints_batches import People
from gluon_attn.core.text import read_json
from gluon_attn.tasks.images import ImageFile, PathLike, match_boxes, read_boxes

logger = logging.getLogger("gluon_attn.keypoints")

PERSON = 1  # COCO's category id


def read_results(path: PathLike, category_id: Any = PERSON) -> list[tuple[Any, list[float], float]]:
    """Return the boxes of a category in a result file: image id, ``[x, y, w, h]``, score.

    The file is a JSON list of ``{'image_id', 'category_id', 'bbox', 'score'}``. Boxes without area
    are left out with a warning; a ValueError names the record that is wrong, or that no box is of
    the category.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise ValueError(f"{path}: a result file is a list of records, this is none")
    found: list[tuple[Any, list[float], float]] = []
    left, others = Tally(), set()
    for number, record in enumerate(records):
        where = f"{path}: record {number}"
        keys = ("image_id", "category_id", "bbox", "score")
        missing = [key for key in keys if not isinstance(record, dict) or key not in record]
        if missing:
            raise ValueError(f"{where} lacks {', '.join(missing)}")
        if str(record["category_id"]) != str(category_id):
            others.add(str(record["category_id"]))
            continue
        box, score = numbers_of(record["bbox"], 4), numbers_of([record["score"]], 1)
        if box is None or score is None:
            raise ValueError(
                f"{where}: bbox {record['bbox']!r} and score {record['score']!r} must be numbers"
            )
        if min(box[2:]) <= 0:
            left.add("without area", f"record {number}, {list(box)}")
            continue
        found.append((record["image_id"], [float(v) for v in box], float(score[0])))
    if left.total:
        logger.warning("%s: %d of %d boxes left out: %s", path, left.total, len(records), left)
    if others and not found:
        raise ValueError(
            f"{path}: no box of category {category_id} (people), but of {', '.join(sorted(others))}"
        )
    return found


def detected_people(dataset: CocoKeypoints, path: PathLike) -> People:
    """Return the people that a detector found in a split; a ValueError for an image it does not
    have.
    """
    found = read_results(path, dataset.category_id)
    known = {str(number): number for number in dataset.coco.imgs}
    for number, (image_id, _, _) in enumerate(found):
        if str(image_id) not in known:
            raise ValueError(
                f"{path}: person {number} is in image {image_id}, which {dataset.split} does not "
                "have; take the detections of this split"
            )
    boxes = [(x, y, x + w, y + h) for _, (x, y, w, h), _ in found]
    return People(
        dataset.read_image_id, [known[str(number)] for number, _, _ in found], boxes,
        [score for _, _, score in found], on_bad_image=dataset.on_bad_image,
    )  # fmt: skip


def boxes_of_images(
    images: Sequence[ImageFile], path: PathLike
) -> tuple[list[ImageFile], list[Any], list[Any]]:
    """Return the images that a file of boxes lists, and for each its boxes and their scores (or 1).

    ``path`` is a result file, whose image ids are the numbers that COCO's images are named after,
    or any file that :func:`gluon_attn.tasks.images.read_boxes` knows. A ValueError if it lists none
    of the images.
    """
    if not _is_list(path):
        matched, boxes = match_boxes(images, read_boxes(path), path)
        return matched, boxes, [[1.0] * len(b) for b in boxes]
    found: dict[Any, tuple[list[Any], list[float]]] = {}
    for image_id, box, score in read_results(path):
        own, scores = found.setdefault(image_id, ([], []))
        own.append(box)
        scores.append(score)
    kept = [(image, found[_number(image.path)]) for image in images if _number(image.path) in found]
    if not kept:
        raise ValueError(
            f"{path}: lists none of the {len(images)} images; its image ids are the numbers in "
            "names such as 000000000139.jpg"
        )
    return [p for p, _ in kept], [own for _, (own, _) in kept], [s for _, (_, s) in kept]


def _is_list(path: PathLike) -> bool:
    path = Path(path)
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \n\r\t").startswith(b"[")


def _number(path: str) -> int | None:
    stem = Path(path).stem.rpartition("_")[2]  # of 2014's names, too
    return int(stem) if stem.isdigit() else None
