"""Person re-identification by retrieval: cumulative match curve and mean average precision.

Protocol of Market-1501, which DukeMTMC-reID uses too (Zheng, Shen, Tian, Wang, Wang, Tian,
"Scalable Person Re-identification: A Benchmark", ICCV 2015, and its released evaluation code),
single query. For each query the gallery is sorted by distance. Of the gallery's images

* **good** ones show the query's identity in another camera;
* **junk** does not exist for the ranking: images of identity -1 (badly detected) and those of the
  query's identity in the query's own camera, which would be too easy;
* all others are wrong, distractors (0000 of Market-1501) among them.

CMC at rank k is the share of queries with a good image among the first k.

Average precision comes in two definitions. The released code of Market-1501 takes the area under
the precision-recall curve by the **trapezoid** rule; most later code takes the mean of the
precisions at the good images (**rectangle**), which is never smaller.

Legend: Q queries, G gallery images, D features, n good images of a query.
"""

from __future__ import annotations

import collections
import sys
from typing import Any, Iterator, NamedTuple, Sequence

import numpy as np

from gluon_attn.core.errors import NotFiniteError
from gluon_attn.core.registry import unknown_name
from gluon_attn.metrics.checks import Array, Arrays

JUNK = -1
METRICS = ("euclidean", "cosine")
AP_RULES = ("trapezoid", "rectangle")
RANKS = (1, 5, 10, 20)


class Images(NamedTuple):
    """Images: ``(N, D)`` features, ``(N,)`` integer identities (-1 is junk) and cameras."""

    features: Array
    identities: Array
    cameras: Array


def evaluate_retrieval(
    query: Images,
    gallery: Images,
    metric: str = "euclidean",
    ranks: Sequence[int] = RANKS,
    *,
    chunk: int = 128,
    curve: int = 50,
    progress: bool = False,
) -> dict[str, Any]:
    """Return CMC and mean average precision of Q single queries in a gallery of G images.

    ``metric`` is 'euclidean', or 'cosine': features are scaled to length 1 first, as the released
    code of Market-1501 does. The distances of ``chunk`` queries to the whole gallery are held at a
    time: 4 ``chunk`` G bytes. ``curve`` is the length of the reported CMC curve.

    Returns ``mAP``: by the trapezoid rule, the official one; ``mAP_rectangle``: the other;
    ``rank1``, ``rank5``, ...; ``cmc`` ``(curve,)`` from rank 1 on; ``queries``: how many count;
    ``unanswerable``: queries without any good image, which are left out; ``ap``,
    ``ap_rectangle`` ``(Q,)`` and ``first`` ``(Q,)``, the rank from 1 of the first good image,
    per query: nan and 0 where it is left out; ``gallery``: G; ``metric``. All shares are in [0, 1].

    Raises a ValueError for features that are not finite, a query of identity -1, or no query that
    has a good image.
    """
    query, gallery = _checked(query, "query"), _checked(gallery, "gallery")
    _check_pair(query, gallery, metric, ranks, chunk=chunk)
    first = np.zeros(len(query.features), np.int64)
    found = {rule: np.full(len(first), np.nan) for rule in AP_RULES}
    each = _each_query(query.features, gallery.features, metric, chunk, progress=progress)
    for number, distances in each:
        hits = rank_of_matches(
            distances,
            query.identities[number],
            query.cameras[number],
            identities=gallery.identities,
            cameras=gallery.cameras,
        )
        if len(hits):
            first[number] = hits[0] + 1
            for rule in AP_RULES:
                found[rule][number] = average_precision(hits, rule)
    return dict(_summary(first, found, ranks, curve), gallery=len(gallery.features), metric=metric)


def rank_of_matches(
    distances: Array, identity: int, camera: int, *, identities: Array, cameras: Array
) -> Array:
    """Return the positions ``(n,)`` of the good images in a query's ranking, from 0, ascending.

    ``distances`` are ``(G,)`` from the query to the gallery; of equal ones the first comes first.
    """
    same = identities == identity
    junk = (identities == JUNK) | (same & (cameras == camera))
    kept = np.flatnonzero(~junk)
    order = np.argsort(distances[kept], kind="stable")
    return np.flatnonzero(same[kept][order])


def answerable(query: Images, gallery: Images) -> Array:
    """Return which queries have a good image, ``(Q,)`` bool; features are not looked at."""
    cameras: collections.defaultdict[int, set[int]] = collections.defaultdict(set)
    for identity, camera in zip(gallery.identities.tolist(), gallery.cameras.tolist()):
        cameras[identity].add(camera)
    pairs = zip(query.identities.tolist(), query.cameras.tolist())
    return np.array([bool(cameras[identity] - {camera}) for identity, camera in pairs], bool)


def average_precision(hits: Arrays, rule: str = "trapezoid") -> float:
    """Return the average precision of one ranking with n >= 1 good images.

    With the good images at positions r_1 < r_2 < ... (from 1) and precision p_i = i / r_i:

    * rectangle: the mean of p_i;
    * trapezoid: the mean of (p_i + q_i) / 2, where q_i = (i - 1) / (r_i - 1) is the precision one
      image earlier, and 1 if there is none.

    ``hits`` are the ``(n,)`` positions *from 0*, ascending.
    """
    if rule not in AP_RULES:
        raise ValueError(unknown_name("rule of average precision", rule, AP_RULES))
    hits = np.asarray(hits, np.float64)
    if not len(hits):
        raise ValueError("average precision needs at least one good image")
    count = np.arange(1, len(hits) + 1)
    precision = count / (hits + 1)
    if rule == "rectangle":
        return float(precision.mean())
    before = np.divide(count - 1, hits, out=np.ones(len(hits)), where=hits > 0)
    return float((precision + before).mean() / 2)


def _checked(images: Images, what: str) -> Images:
    features = np.asarray(images.features, np.float32)
    identities, cameras = np.asarray(images.identities), np.asarray(images.cameras)
    if features.ndim != 2 or not len(features):
        raise ValueError(f"{what}: features need the shape (N, D), got {features.shape}")
    for name, values in (("identities", identities), ("cameras", cameras)):
        if values.shape != features.shape[:1] or values.dtype.kind not in "iu":
            raise ValueError(
                f"{what}: {name} must be {len(features)} integers, got shape {values.shape} of "
                f"{values.dtype}"
            )
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise NotFiniteError(
            f"{what}: the features of {len(bad)} images are not finite, the first is number "
            f"{bad[0]}: the net has diverged"
        )
    return Images(features, identities, cameras)


def _check_pair(
    query: Images, gallery: Images, metric: str, ranks: Sequence[int], *, chunk: int
) -> None:
    if metric not in METRICS:
        raise ValueError(unknown_name("metric", metric, METRICS))
    if query.features.shape[1] != gallery.features.shape[1]:
        raise ValueError(
            f"queries have {query.features.shape[1]} features, the gallery has "
            f"{gallery.features.shape[1]}"
        )
    if (query.identities == JUNK).any():
        raise ValueError("a query of identity -1 (junk) can have no match; leave it out")
    if chunk < 1 or min(ranks) < 1:
        raise ValueError(f"chunk={chunk}, ranks={ranks}: all must be positive")


def _each_query(
    query: Array, gallery: Array, metric: str, chunk: int, *, progress: bool
) -> Iterator[tuple[int, Array]]:
    """Yield ``(number, distances (G,))`` of every query; the distances are squared."""
    from tqdm import tqdm

    if metric == "cosine":
        query, gallery = (x / np.maximum(_length(x)[:, None], 1e-12) for x in (query, gallery))
    centre = gallery.mean(axis=0)  # distances do not change, rounding errors shrink
    query, gallery = query - centre, gallery - centre
    norms = _length(gallery) ** 2
    bar = tqdm(
        total=len(query), desc="ranking", unit="query", leave=False,
        disable=not (progress and sys.stderr.isatty()),
    )  # fmt: skip
    with bar:
        for start in range(0, len(query), chunk):
            part = query[start : start + chunk]
            # |q|^2 is the same for a whole row, so it does not matter to the order.
            distances = norms - 2 * (part @ gallery.T)
            yield from enumerate(distances, start)
            bar.update(len(part))


def _length(features: Array) -> Array:
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", features, features)))


def _summary(
    first: Array, found: dict[str, Array], ranks: Sequence[int], curve: int
) -> dict[str, Any]:
    answered = first > 0
    if not answered.any():
        raise ValueError(
            "no query has an image of its identity in another camera: identities or cameras of "
            "query and gallery do not belong together"
        )
    ranks_found = first[answered]
    result: dict[str, Any] = {
        "mAP": float(found["trapezoid"][answered].mean()),
        "mAP_rectangle": float(found["rectangle"][answered].mean()),
    }
    result.update({f"rank{rank}": float((ranks_found <= rank).mean()) for rank in ranks})
    result.update(
        cmc=np.array([(ranks_found <= k).mean() for k in range(1, curve + 1)]),
        queries=int(answered.sum()), unanswerable=int((~answered).sum()),
        ap=found["trapezoid"], ap_rectangle=found["rectangle"], first=first,
    )  # fmt: skip
    return result
