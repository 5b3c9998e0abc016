r"""COCO's evaluation of boxes and keypoints by pycocotools, and object keypoint similarity.

Nothing is printed. Records are checked first: pycocotools passes over a category or keypoint list
it does not know, or fails on an empty list.

.. math:: OKS = \frac{1}{K} \sum_k \exp(-d_k^2 / 2 s^2 \kappa_k^2)

with d the distance of keypoint k, s^2 the object's area and kappa = 2 sigma COCO's constants.

References: the evaluation code of the COCO challenges (pycocotools.cocoeval) and cocodataset.org;
Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; Xiao, Wu, Wei, ECCV 2018 (OKS in
non-maximum suppression, threshold 0.9).
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
from typing import Any, Iterable, NamedTuple

import numpy as np

from gluon_attn.coco.annotations import from_pycocotools
from gluon_attn.core.errors import NotFiniteError

# COCO's constants for its 17 keypoints, nose to ankles.
SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
BOX_STATS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)
KEYPOINT_STATS = (
    *("AP", "AP50", "AP75", "AP_medium", "AP_large"),
    *("AR", "AR50", "AR75", "AR_medium", "AR_large"),
)


class CocoResult(NamedTuple):
    """What an evaluation found.

    Attributes:
        stats: The 12 (boxes) or 10 (keypoints) numbers of the challenge, in [0, 1]; NaN where no
            annotation has that size.
        per_class: ``{category name: AP}`` over all sizes; NaN without annotations.
        text: Table of pycocotools, one line per number; ``notes`` belong below it.
        images, records: Numbers of images and of results evaluated.
    """

    stats: dict[str, float]
    per_class: dict[str, float]
    text: str
    images: int
    records: int
    notes: list[str]


def evaluate_detections(
    coco: Any, records: Iterable[dict], image_ids: Iterable | None = None
) -> CocoResult:
    """Return average precision and recall of boxes: the 12 numbers ``BOX_STATS``.

    ``coco`` is pycocotools' COCO object with the truth. ``records`` are official result dicts,
    which are not changed: ``image_id``, ``category_id``, ``bbox`` ``[x, y, width, height]`` in
    pixels, ``score``. ``image_ids`` None: all images.

    Raises ImportError without pycocotools; ValueError: a record names an unknown image or category
    or is incomplete, or pycocotools fails; the message names the annotation file.
    """
    return _evaluate(coco, records, "bbox", image_ids)


def evaluate_keypoints(
    coco: Any, records: Iterable[dict], image_ids: Iterable | None = None
) -> CocoResult:
    """Return average precision and recall by OKS: the 10 numbers ``KEYPOINT_STATS``.

    ``records`` have ``keypoints`` (x, y and anything third for each of the 17) in place of
    ``bbox``; otherwise as :func:`evaluate_detections`.
    """
    return _evaluate(coco, records, "keypoints", image_ids)


def _evaluate(
    coco: Any, records: Iterable[dict], kind: str, image_ids: Iterable | None
) -> CocoResult:
    COCOeval = from_pycocotools("cocoeval", "COCOeval")
    records = list(records)
    for number, record in enumerate(records):
        _check(coco, record, kind, f"result {number}")
    notes: list[str] = []
    printed = io.StringIO()
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
    names = BOX_STATS if kind == "bbox" else KEYPOINT_STATS
    stats = {n: float(v) if v >= 0 else math.nan for n, v in zip(names, run.stats)}
    per_class = {}
    for k, category in enumerate(run.params.catIds):
        precision = run.eval["precision"][:, :, k, 0, -1]  # all sizes, most detections
        precision = precision[precision > -1]
        mean = float(precision.mean()) if precision.size else math.nan
        per_class[coco.cats[category]["name"]] = mean
    text, images = printed.getvalue().rstrip("\n"), len(run.params.imgIds)
    return CocoResult(stats, per_class, text, images, len(records), notes)


def _check(coco: Any, record: dict, kind: str, where: str) -> None:
    """Check a result against the truth; NotFiniteError for NaN and infinity, else ValueError."""
    missing = [k for k in ("image_id", "category_id", kind, "score") if k not in record]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}: {record}")
    if record["image_id"] not in coco.imgs:
        raise ValueError(f"{where}: image {record['image_id']} is not in the annotation")
    if record["category_id"] not in coco.cats:
        raise ValueError(
            f"{where}: category {record['category_id']} is not in the annotation; COCO's ids "
            f"are {', '.join(map(str, sorted(coco.cats)))} (not the positions of the classes)"
        )
    category, values, score = coco.cats[record["category_id"]], record[kind], record["score"]
    needed = 4 if kind == "bbox" else 3 * len(category.get("keypoints", ()))
    if len(values) != needed or not all(map(math.isfinite, (*values, score))):
        error = ValueError if len(values) != needed else NotFiniteError
        raise error(
            f"{where}: {kind} must be {needed} finite numbers with a finite score, got "
            f"{len(values)}: {list(values)}, score {score}"
        )


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


def _load_results(coco: Any, records: list[dict]) -> Any:
    """Return the results as a COCO object; pycocotools fails on none and changes what it gets."""
    if records:
        return coco.loadRes(copy.deepcopy(records))
    empty = type(coco)()
    keep = {key: coco.dataset.get(key, []) for key in ("images", "categories")}
    empty.dataset = dict(keep, annotations=[])
    empty.createIndex()
    return empty


def oks(points: np.ndarray, others: np.ndarray, area: float, other_areas: np.ndarray) -> np.ndarray:
    """Return the similarity of one person to N others, over all 17 keypoints, ``(N,)``.

    ``points`` are ``(17, 2)`` x, y in pixels, ``others`` ``(N, 17, 2)``, areas in square pixels;
    each pair is compared at the mean of its areas.
    """
    points, others = np.asarray(points, float), np.asarray(others, float)
    if points.shape != (len(SIGMAS), 2) or others.shape[1:] != points.shape:
        raise ValueError(
            f"points {points.shape}, others {others.shape}: {len(SIGMAS)} keypoints are needed"
        )
    squared = ((others - points) ** 2).sum(-1)
    mean_area = (area + np.asarray(other_areas, float)) / 2 + np.spacing(1)
    return np.exp(-squared / ((2 * SIGMAS) ** 2 * mean_area[:, None] * 2)).mean(-1)


def oks_suppression(
    points: np.ndarray, scores: np.ndarray, areas: np.ndarray, threshold: float = 0.9
) -> list[int]:
    """Return the positions of the people to keep in one image, best score first.

    ``points`` are ``(N, 17, 2)``; a person more similar than ``threshold`` to a better one is left
    out.
    """
    points, areas = np.asarray(points, float), np.asarray(areas, float)
    kept: list[int] = []
    order = np.argsort(-np.asarray(scores, float), kind="stable")
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        similar = oks(points[best], points[order], areas[best], areas[order])
        order = order[similar <= threshold]
    return kept
