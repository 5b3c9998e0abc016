"""COCO's evaluation of boxes and keypoints, computed by pycocotools and given back as numbers.

Nothing is printed. Records are checked first: pycocotools passes over a category or keypoint list
it does not know, or fails on an empty list.

Reference: the evaluation code of the COCO challenges (pycocotools.cocoeval); measures in Lin et
al., "Microsoft COCO: Common Objects in Context", ECCV 2014, and on cocodataset.org.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
from dataclasses import dataclass, field
from typing import Any, Iterable

import numpy as np

from gluon_attn.coco.oks import SIGMAS
from gluon_attn.core.errors import NotFiniteError

BOX_STATS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
KEYPOINT_STATS = (
    "AP", "AP50", "AP75", "AP_medium", "AP_large", "AR", "AR50", "AR75", "AR_medium", "AR_large",
)  # fmt: skip
FIELDS = {"bbox": ("bbox", 4), "keypoints": ("keypoints", None)}


@dataclass
class CocoResult:
    """What an evaluation found.

    Attributes:
        kind: 'bbox' or 'keypoints'.
        stats: ``{name: value}`` of the 12 (boxes) or 10 (keypoints) numbers of the challenge, in
            [0, 1]; NaN where no annotation has that size.
        per_class: ``{category name: AP}`` over all sizes; NaN without annotations.
        text: Table of pycocotools, one line per number.
        images: Number of pictures evaluated.
        records: Number of results evaluated.
        notes: Lines that belong below the numbers.
    """

    kind: str
    stats: dict
    per_class: dict
    text: str
    images: int = 0
    records: int = 0
    notes: list = field(default_factory=list)


def evaluate_detections(coco, records, image_ids=None):
    """Return average precision and recall of boxes.

    Args:
        coco: pycocotools' COCO object with the truth (``CocoDetection.coco``).
        records: Official result dicts: ``image_id``, ``category_id``, ``bbox`` ``[x, y, width,
            height]`` in pixels, ``score``. They are not changed.
        image_ids: Ids of the pictures to evaluate; None means all of the truth.

    Returns:
        CocoResult with the 12 numbers ``BOX_STATS``.

    Raises:
        ImportError: pycocotools is not installed.
        ValueError: A record names an unknown picture or category or is incomplete, or pycocotools
            fails; the message names the annotation file.
    """
    return _evaluate(coco, records, "bbox", BOX_STATS, image_ids)


def evaluate_keypoints(coco, records, image_ids=None):
    """Return average precision and recall by object keypoint similarity.

    Args:
        coco: pycocotools' COCO object of a person_keypoints file (``CocoKeypoints.coco``).
        records: Official result dicts: ``image_id``, ``category_id``, ``keypoints`` (x, y and
            anything third for each of the 17), ``score``. They are not changed.
        image_ids: Ids of the pictures to evaluate; None means all of the truth.

    Returns:
        CocoResult with the 10 numbers ``KEYPOINT_STATS``.

    Raises:
        ImportError: pycocotools is not installed.
        ValueError: A record names an unknown picture or category or is incomplete, or pycocotools
            fails; the message names the annotation file.
    """
    return _evaluate(coco, records, "keypoints", KEYPOINT_STATS, image_ids)


def check_records(coco, records, kind):
    """Check results against the truth.

    Args:
        coco: pycocotools' COCO object.
        records: Result dicts.
        kind: 'bbox' or 'keypoints'.

    Raises:
        ValueError: The message names the record's position and what is valid.
    """
    name, length = FIELDS[kind]
    lengths = {c: length or 3 * len(r.get("keypoints", ())) for c, r in coco.cats.items()}
    for number, record in enumerate(records):
        where = f"result {number}"
        missing = [k for k in ("image_id", "category_id", name, "score") if k not in record]
        if missing:
            raise ValueError(f"{where} lacks {', '.join(missing)}: {record}")
        if record["image_id"] not in coco.imgs:
            raise ValueError(f"{where}: image {record['image_id']} is not in the annotation")
        if record["category_id"] not in coco.cats:
            raise ValueError(
                f"{where}: category {record['category_id']} is not in the annotation; COCO's ids "
                f"are {', '.join(map(str, sorted(coco.cats)))} (not the positions of the classes)"
            )
        needed, values = lengths[record["category_id"]], record[name]
        numbers = [*values, record["score"]]
        if len(values) != needed or not all(math.isfinite(v) for v in numbers):
            kind = ValueError if len(values) != needed else NotFiniteError
            raise kind(
                f"{where}: {name} must be {needed} finite numbers with a finite score, got "
                f"{len(values)}: {list(values)}, score {record['score']}"
            )


def _evaluate(
    coco: Any, records: Iterable[dict], kind: str, names: tuple[str, ...], image_ids: Any
) -> CocoResult:
    try:
        from pycocotools.cocoeval import COCOeval
    except Exception as error:  # built for another NumPy, it raises other errors as well
        raise ImportError(f"COCO's evaluation needs pycocotools: pip install pycocotools "
                          f"({error})") from error  # fmt: skip
    records = list(records)
    check_records(coco, records, kind)
    printed, notes = io.StringIO(), []
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            run = COCOeval(coco, _load_results(coco, records), kind)
            if image_ids is not None:
                run.params.imgIds = sorted(image_ids)
            if kind == "keypoints":
                notes = _set_sigmas(run.params, coco)
            run.evaluate()
            run.accumulate()
        with contextlib.redirect_stdout(printed):
            run.summarize()
    except Exception as error:  # records are checked, but the library may still trip over them
        path = getattr(coco, "path", "the annotation")
        raise ValueError(
            f"{path}: COCO's evaluation failed in pycocotools "
            f"({type(error).__name__}: {error}); check the annotation, or try another version of "
            "pycocotools"
        ) from error
    values = np.asarray(run.stats, float)
    stats = {name: float(v) if v >= 0 else math.nan for name, v in zip(names, values)}
    per_class = {}
    for k, category in enumerate(run.params.catIds):
        precision = run.eval["precision"][:, :, k, 0, -1]  # all sizes, most detections
        precision = precision[precision > -1]
        mean = float(precision.mean()) if precision.size else math.nan
        per_class[coco.cats[category]["name"]] = mean
    text, images = printed.getvalue().rstrip("\n"), len(run.params.imgIds)
    return CocoResult(kind, stats, per_class, text, images, len(records), notes)


def _set_sigmas(params: Any, coco: Any) -> list[str]:
    """Set the tolerances of the keypoints, and return what must be said of them.

    COCO publishes them for its 17 keypoints; others get their mean (an assumption).
    """
    (count,) = {len(category["keypoints"]) for category in coco.cats.values()}
    if count == len(SIGMAS):
        return []
    mean = float(SIGMAS.mean())
    params.kpt_oks_sigmas = np.full(count, mean)
    return [
        f"{count} keypoints are not COCO's {len(SIGMAS)}: each has the tolerance {mean:.4f}, the "
        "mean of COCO's; such scores compare with no published one"
    ]


def _load_results(coco, records):
    """Return the results as a COCO object; pycocotools fails on none and changes what it gets."""
    if records:
        return coco.loadRes(copy.deepcopy(records))
    empty = type(coco)()
    keep = {key: coco.dataset.get(key, []) for key in ("images", "categories")}
    empty.dataset = dict(keep, annotations=[])
    empty.createIndex()
    return empty
