"""CMC and mAP: cases computed by hand, the official protocol as loops, limits, memory."""

from __future__ import annotations

import csv
import json
import tracemalloc

import numpy as np
import pytest

from gluon_attn.metrics.reports import RETRIEVAL
from gluon_attn.metrics.retrieval import (
    Images,
    average_precision,
    evaluate_retrieval,
    rank_of_matches,
)


def on_a_line(positions, identities, cameras):
    features = np.array(positions, np.float64)[:, None]
    return Images(features, np.array(identities), np.array(cameras))


def official(query, gallery):
    """Walk down the ranking of every query as Zheng et al. describe it; returns AP pairs, ranks.

    The area under the precision-recall curve is summed piece by piece, each piece a trapezoid
    between the precisions before and after it; the curve begins at recall 0, precision 1.
    """
    areas, means, ranks = [], [], []
    for q, identity, camera in zip(*query):
        order = sorted(
            range(len(gallery.features)),
            key=lambda g: (float(np.sum((gallery.features[g] - q) ** 2)), g),
        )
        good = [g for g in order
                if gallery.identities[g] == identity and gallery.cameras[g] != camera]  # fmt: skip
        if not good:
            continue
        seen = right = 0
        recall, precision, area, precisions, rank = 0.0, 1.0, 0.0, [], None
        for g in order:
            own_camera = gallery.identities[g] == identity and gallery.cameras[g] == camera
            if own_camera or gallery.identities[g] == -1:
                continue
            seen += 1
            if g in good:
                right += 1
                rank = rank or seen
                precisions.append(right / seen)
            now_recall, now_precision = right / len(good), right / seen
            area += (now_recall - recall) * (precision + now_precision) / 2
            recall, precision = now_recall, now_precision
        areas.append(area)
        means.append(np.mean(precisions))
        ranks.append(rank)
    return np.array(areas), np.array(means), np.array(ranks)


@pytest.mark.parametrize(
    "hits, rectangle, trapezoid",
    [
        ([0], 1, 1),
        ([0, 1, 2], 1, 1),
        ([1], 1 / 2, 1 / 4),  # right, after one wrong: precision from 0 to 1/2
        ([0, 2], (1 + 2 / 3) / 2, (1 + (1 / 2 + 2 / 3) / 2) / 2),
        ([3, 4], (1 / 4 + 2 / 5) / 2, ((0 + 1 / 4) / 2 + (1 / 4 + 2 / 5) / 2) / 2),
        ([9], 1 / 10, 1 / 20),
    ],
)
def test_average_precision_by_hand(hits, rectangle, trapezoid):
    assert average_precision(hits, "rectangle") == pytest.approx(rectangle, abs=1e-12)
    assert average_precision(hits, "trapezoid") == pytest.approx(trapezoid, abs=1e-12)
    assert average_precision(hits) == average_precision(hits, "trapezoid"), "the official one"


def test_a_ranking_by_hand():
    """The query is identity 7 in camera 1 at 0; junk and its own camera do not exist."""
    gallery = on_a_line(
        [0.0, 0.1, 0.2, 1.0, 2.0, 3.0, 4.0], [7, -1, 0, 7, 8, 7, 0], [1, 2, 2, 2, 1, 3, 1]
    )
    query = on_a_line([0.0], [7], [1])
    # left: distractor, right, wrong, right, distractor -> hits at 1 and 3 (from 0)
    result = evaluate_retrieval(query, gallery, ranks=(1, 2, 3), curve=4)
    assert result["mAP_rectangle"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result["mAP"] == pytest.approx(((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2)
    assert [result[f"rank{k}"] for k in (1, 2, 3)] == [0, 1, 1]
    assert result["cmc"].tolist() == [0, 1, 1, 1] and result["first"].tolist() == [2]
    assert (result["queries"], result["gallery"], result["unanswerable"]) == (1, 7, 0)


def test_the_ranking_of_equal_distances_is_that_of_the_gallery():
    distances = np.zeros(6)
    identities, cameras = np.array([3, 5, -1, 5, 4, 5]), np.array([2, 1, 1, 2, 2, 2])
    hits = rank_of_matches(distances, 5, 1, identities=identities, cameras=cameras)
    assert hits.tolist() == [1, 3], "rows 1 and 2 are passed over"


@pytest.mark.parametrize("metric", ("euclidean", "cosine"))
def test_agrees_with_the_protocol_as_loops(metric):
    rng = np.random.default_rng(3)

    def make_images(count, lowest):
        identities = rng.integers(lowest, 9, count)
        features = rng.normal(size=(count, 5)) + 0.5 * np.sin(identities[:, None] * np.arange(1, 6))
        return Images(features.astype(np.float32), identities, rng.integers(1, 4, count))

    query, gallery = make_images(40, 1), make_images(150, -1)
    result = evaluate_retrieval(query, gallery, metric, chunk=7)
    if metric == "cosine":
        query, gallery = (
            p._replace(features=p.features / np.linalg.norm(p.features, axis=1)[:, None])
            for p in (query, gallery)
        )
    areas, means, ranks = official(query, gallery)
    assert len(areas) == result["queries"] == 40
    np.testing.assert_allclose(result["ap"], areas, atol=1e-12)
    np.testing.assert_allclose(result["ap_rectangle"], means, atol=1e-12)
    assert result["first"].tolist() == ranks.tolist()
    assert result["mAP"] == pytest.approx(areas.mean())
    for k in (1, 5, 10, 20):
        assert result[f"rank{k}"] == pytest.approx((ranks <= k).mean())
    assert 0.1 < result["mAP"] < result["mAP_rectangle"] < 1


def test_a_perfect_and_a_reversed_ranking():
    identities, cameras = np.repeat(np.arange(1, 6), 2), np.tile([1, 2], 5)
    features = np.eye(5)[identities - 1]
    query = Images(features[::2], identities[::2], cameras[::2])
    gallery = Images(features[1::2], identities[1::2], cameras[1::2])
    best = evaluate_retrieval(query, gallery)
    assert best["mAP"] == best["mAP_rectangle"] == best["rank1"] == 1
    worst = evaluate_retrieval(query._replace(features=-query.features), gallery, ranks=(4, 5))
    assert (worst["rank4"], worst["rank5"], worst["mAP_rectangle"]) == (0, 1, pytest.approx(0.2))


def test_chunks_do_not_change_the_result_and_bound_the_memory():
    rng = np.random.default_rng(0)
    query = Images(rng.normal(size=(300, 4)), np.ones(300, int), np.ones(300, int))
    gallery = Images(rng.normal(size=(2000, 4)), rng.integers(0, 3, 2000), np.full(2000, 2))
    whole = evaluate_retrieval(query, gallery, chunk=300)
    tracemalloc.start()
    parts = evaluate_retrieval(query, gallery, chunk=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(parts["ap"], whole["ap"])
    assert peak < 300 * 2000 * 4 / 4, "a quarter of the full matrix of distances"


def test_queries_without_a_match_are_left_out_and_counted():
    gallery = on_a_line([1.0, 2.0, 3.0], [1, 2, 0], [2, 1, 1])
    query = on_a_line([1.0, 2.0, 5.0], [1, 2, 3], [1, 1, 1])
    result = evaluate_retrieval(query, gallery)
    assert (result["queries"], result["unanswerable"]) == (1, 2)
    assert result["first"].tolist() == [1, 0, 0] and np.isnan(result["ap"][1:]).all()
    assert result["mAP"] == result["rank1"] == 1
    with pytest.raises(ValueError, match="no query has an image"):
        evaluate_retrieval(query, gallery._replace(identities=np.array([8, 9, 0])))


def test_scale_matters_to_euclidean_and_not_to_cosine():
    gallery = Images(np.array([[10.0, 1.0], [1.0, 1.0]]), np.array([1, 2]), np.array([2, 2]))
    query = Images(np.array([[1.0, 0.0]]), np.array([1]), np.array([1]))
    assert evaluate_retrieval(query, gallery)["rank1"] == 0
    assert evaluate_retrieval(query, gallery, "cosine")["rank1"] == 1
    far = query._replace(features=1e4 * query.features)
    assert evaluate_retrieval(far, gallery, "cosine")["rank1"] == 1


def test_features_far_from_zero_keep_their_order():
    features = np.float32([[0.0], [1.0], [2.0], [3.0]]) + np.float32(3e5)
    gallery = Images(features, np.array([2, 1, 2, 2]), np.full(4, 2))
    query = Images(features[1:2], np.array([1]), np.array([1]))
    assert evaluate_retrieval(query, gallery)["rank1"] == 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"features": np.full((2, 3), np.nan)}, "2 images are not finite"),
        ({"features": np.zeros(2)}, "shape"),
        ({"features": np.zeros((2, 4))}, "queries have 4 features"),
        ({"identities": np.array([1])}, "identities must be 2 integers"),
        ({"cameras": np.array([1.0, 2.0])}, "cameras must be 2 integers"),
        ({"identities": np.array([1, -1])}, "identity -1"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    good = Images(np.ones((2, 3)), np.array([1, 2]), np.array([1, 2]))
    with pytest.raises(ValueError, match=message):
        evaluate_retrieval(good._replace(**change), good)


def test_bad_settings_are_refused():
    good = Images(np.ones((2, 3)), np.array([1, 2]), np.array([1, 2]))
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        evaluate_retrieval(good, good, "cosin")
    with pytest.raises(ValueError, match="chunk"):
        evaluate_retrieval(good, good, chunk=0)
    with pytest.raises(ValueError, match="rule"):
        average_precision([0], "mean")
    with pytest.raises(ValueError, match="at least one"):
        average_precision([])


def test_tables(tmp_path):
    gallery = on_a_line([1.0, 2.0, 3.0], [1, 2, 0], [2, 2, 1])
    query = on_a_line([1.1, 2.9, 5.0], [1, 2, 3], [1, 1, 1])
    result = evaluate_retrieval(query, gallery)
    text = RETRIEVAL.text(result)
    cells = dict(line.split() for line in text.split("\n\n")[0].splitlines())
    assert (cells["mAP"], cells["mAP_rectangle"], cells["rank1"]) == ("62.50", "75.00", "50.00")
    assert "2 single queries, 3 gallery images, euclidean" in text
    assert "1 queries without a match" in text
    paths = RETRIEVAL.write({**result, "names": ["a", "b", "c"]}, tmp_path, "test")
    rows = list(csv.reader(paths["csv"].open()))
    assert rows[1:] == [
        ["a", "1", "1.0", "1.0"], ["b", "2", "0.25", "0.5"], ["c", "", "", ""]
    ]  # fmt: skip
    stored = json.loads(paths["json"].read_text())
    assert stored["mAP"] == 0.625 and len(stored["cmc"]) == 50
    assert "| mAP" in paths["md"].read_text()
