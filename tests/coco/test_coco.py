"""COCO: names, readers on the tiny set, what they say about bad files, evaluation, drawing."""

from __future__ import annotations

import copy
import importlib.util
import json
import math

import cv2
import numpy as np
import pytest
from formats.tiny_coco import STANDING, write_tiny_coco

pytest.importorskip("pycocotools")

from gluon_attn.coco.dataset import CocoDetection, CocoKeypoints  # noqa: E402
from gluon_attn.coco.metrics import (  # noqa: E402
    BOX_STATS,
    KEYPOINT_STATS,
    SIGMAS,
    evaluate_detections,
    evaluate_keypoints,
    oks,
    oks_suppression,
)
from gluon_attn.coco.names import CATEGORIES, FLIP_PAIRS, KEYPOINTS, SKELETON  # noqa: E402
from gluon_attn.data import DATASETS  # noqa: E402
from gluon_attn.data.images import BadImageError  # noqa: E402
from gluon_attn.figures.detections import draw_boxes, draw_keypoints  # noqa: E402


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    write_tiny_coco(root, seed=3)
    return root


@pytest.fixture
def root(tmp_path):
    write_tiny_coco(tmp_path / "tiny", seed=3)
    return tmp_path / "tiny"


def content_of(root, kind="instances", split="train2017"):
    return json.loads((root / f"annotations/{kind}_{split}.json").read_text())


def edit(root, change, kind="instances", split="train2017"):
    """Apply ``change(content)`` to an annotation file; return its path."""
    content = content_of(root, kind, split)
    path = root / f"annotations/{kind}_{split}.json"
    path.write_text(json.dumps(change(content) or content))
    return path


# ------------------------------------------------------------------------ names and the tiny set


def test_official_names():
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert set(CATEGORIES) == set(range(1, 91)) - gaps and len(set(CATEGORIES.values())) == 80
    assert (CATEGORIES[1], CATEGORIES[13], CATEGORIES[90]) == ("person", "stop sign", "toothbrush")
    assert len(KEYPOINTS) == 17 == len(SIGMAS) and KEYPOINTS[:2] == ("nose", "left_eye")
    for a, b in FLIP_PAIRS:
        assert KEYPOINTS[a].replace("left", "right") == KEYPOINTS[b] != KEYPOINTS[a]
    assert sorted(k for pair in FLIP_PAIRS for k in pair) == list(range(1, 17))
    assert len(SKELETON) == 19 and {k for limb in SKELETON for k in limb} == set(range(1, 18))


def test_the_tiny_set_is_reproducible_and_shows_sides(tmp_path):
    """Left limbs are red, right ones blue, so a net (and this test) can tell them apart."""
    a = write_tiny_coco(tmp_path / "a", seed=1)
    b = write_tiny_coco(tmp_path / "b", {"train2017": 8}, seed=1)
    assert a == b and a["expected"]["train2017"]["images"] == 8
    for file in sorted(p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()
    content = content_of(tmp_path / "a", "person_keypoints")
    names = {i["id"]: i["file_name"] for i in content["images"]}
    for record in (r for r in content["annotations"] if not r["iscrowd"]):
        image = cv2.imread(str(tmp_path / "a/train2017" / names[record["image_id"]])).astype(int)
        points = np.array(record["keypoints"]).reshape(17, 3)
        for k in (13, 14):  # knees
            b, _, r = image[round(points[k][1]), round(points[k][0])]
            assert (r > b + 60) if k == 13 else (b > r + 60)
    assert STANDING[5][0] > STANDING[6][0], "left is on the right of the image"


# ---------------------------------------------------------------------------------- readers


def test_detection_samples(shared, capsys):
    assert DATASETS.get("coco") is CocoDetection
    data, content, total = CocoDetection(shared), content_of(shared), 0
    assert data.category_ids == (1, 13, 37, 38, 84) and len(data.class_names) == 5
    for i in range(len(data)):
        image, boxes, classes, index = data[i]
        assert index == i and image.dtype == np.uint8 and image.shape == (96, 128, 3)
        assert boxes.dtype == np.float32 and classes.dtype == np.int64
        assert data.size(i) == (128, 96)
        records = [a for a in content["annotations"] if a["image_id"] == data.image_ids[i]]
        records = [a for a in records if not a["iscrowd"]]
        assert [data.category_ids[c] for c in classes] == [a["category_id"] for a in records]
        for box, record in zip(boxes, records):
            x, y, w, h = record["bbox"]
            np.testing.assert_allclose(box, (x, y, x + w, y + h), atol=1e-3)
        total += len(boxes)
    crowds = sum(a["iscrowd"] for a in content["annotations"])
    assert crowds and total == len(content["annotations"]) - crowds
    assert len(data[-1][1]) == len(data[len(data) - 1][1])
    with pytest.raises(IndexError):
        data[len(data)]
    with_crowds = CocoDetection(shared, use_crowd=True)
    assert sum(len(with_crowds.boxes(i)[0]) for i in range(len(data))) == total + crowds
    large = CocoDetection(shared, min_area=700.0, keep_empty=True)
    assert sum(len(large.boxes(i)[0]) for i in range(len(large))) < total and len(large) == 8
    assert data.fingerprint() != large.fingerprint()
    shown = [set(data.boxes(i)[1].tolist()) for i in range(len(data))]
    np.testing.assert_allclose(data.prior, [np.mean([k in s for s in shown]) for k in range(5)])
    assert capsys.readouterr().out == "", "pycocotools would print"


def test_keypoint_samples(shared):
    data = CocoKeypoints(shared)
    assert data.keypoint_names == KEYPOINTS and data.flip_pairs == FLIP_PAIRS
    assert data.skeleton == tuple((a - 1, b - 1) for a, b in SKELETON) and data.category_id == 1
    for i in range(len(data)):
        image, box, keypoints, index = data[i]
        assert (index, box.shape, keypoints.shape) == (i, (4,), (17, 3))
        assert keypoints.dtype == np.float32 and set(keypoints[:, 2]) <= {0, 1, 2}
        shown = keypoints[keypoints[:, 2] > 0]
        assert (shown[:, :2] >= box[:2] - 1).all() and (shown[:, :2] <= box[2:] + 1).all()
    assert len(data) == len(set(data.annotation_ids)) and data.prior.shape == (17,)
    assert "persons with labelled keypoints" in data.report.text()


def test_images_without_boxes(root):
    def drop(content):
        first = content["images"][0]["id"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != first]

    edit(root, drop)
    edit(root, drop, split="val2017")
    assert len(CocoDetection(root)) == 7 and len(CocoDetection(root, "val2017")) == 4
    _, boxes, classes, _ = CocoDetection(root, "val2017")[0]
    assert boxes.shape == (0, 4) and classes.shape == (0,)


# --------------------------------------------------------------------------------- bad files


def half(content, **changes):
    """Change every second annotation and one more."""
    for record in [*content["annotations"][::2], content["annotations"][1]]:
        record.update(changes)


BAD = {
    "list": (lambda c: [1], "a COCO annotation has lists images, annotations, categories"),
    "results": (lambda c: {"annotations": []}, "this file has annotations"),
    "no record": (lambda c: c["annotations"].append(7), r"annotations\[22\] is '7', no record"),
    "no id": (lambda c: c["images"][0].pop("id") and None, r"images\[0\] \(id \?\) lacks id"),
    "no name": (lambda c: c["categories"][0].update(name=""), r"categories\[0\] .* lacks name"),
    "categories": (
        lambda c: half(c, category_id=12),
        r"12 annotations have a category_id that is not in the file's list of 5 categories \(1, "
        r"13.*\): 12 of category 12 \(the first: annotation 100000\)",
    ),
    "corners": (lambda c: half(c, bbox=[90, 80, -30, 4]), "12 whose box has a negative side"),
    "outside": (
        lambda c: half(c, bbox=[500, 2, 9, 9]),
        "12 of 22 annotations cannot be used: 12 whose box lies outside its image .*100000",
    ),
    "images": (lambda c: half(c, image_id=99), "12 of images that are not in the list"),
    "shares": (
        lambda c: [r.update(bbox=[0.1, 0.2, 0.3, 0.4]) for r in c["annotations"]] and None,
        "all 22 boxes lie between 0 and 1; COCO's are in pixels",
    ),
    "image twice": (
        lambda c: c["images"].append(dict(c["images"][0], file_name="b.jpg")),
        r"two images have the id \d+, 'b.jpg' and '0+\d+.jpg'",
    ),
    "category twice": (
        lambda c: c["categories"].append(dict(c["categories"][0], id=5)),
        "category 5 'person' has the id or the name of another one",
    ),
    "nothing": (lambda c: c.update(categories=[]), "no images or no categories"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_annotations(root, case):
    change, message = BAD[case]
    path = edit(root, change)
    with pytest.raises(ValueError, match=message) as error:
        CocoDetection(root)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_bad_keypoints(root):
    path = edit(root, lambda c: half(c, keypoints=[1.0] * 50), kind="person_keypoints")
    with pytest.raises(ValueError, match="whose keypoints are not 51 finite numbers") as error:
        CocoKeypoints(root)
    assert str(path) in str(error.value) and "annotation 100" in str(error.value)
    none = lambda c: [r.update(keypoints=[]) for r in c["annotations"]] and None  # noqa: E731
    edit(root, none, kind="person_keypoints")
    with pytest.raises(ValueError, match="no person has labelled keypoints"):
        CocoKeypoints(root)


def test_bad_files_and_images(root):
    with pytest.raises(FileNotFoundError, match="annotations_trainval2017.zip"):
        CocoDetection(root, "test2017")
    path = root / "annotations/instances_val2017.json"
    good = path.read_bytes()
    for raw, message in ((good[:-30], "val2017.json:1: not valid JSON"), (b"\xff\xfe\0", "UTF-16")):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=message):
            CocoDetection(root, "val2017")
    path.write_bytes(good)
    (root / "annotations/person_keypoints_val2017.json").write_bytes(good)
    with pytest.raises(ValueError, match="no keypoint names; take person_keypoints"):
        CocoKeypoints(root, "val2017")
    data = CocoDetection(root, "val2017")
    (root / "val2017").rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match="unpack val2017.zip"):
        CocoDetection(root, "val2017")
    with pytest.raises(BadImageError, match=r"does not exist \(sample 'val2017/.*image"):
        data[0]
    skipping = copy.copy(data)
    skipping.on_bad_image = "skip"
    image, boxes, _, _ = skipping[0]
    assert not image.any() and not len(boxes) and len(skipping.skipped) == 1
    (root / "elsewhere").rename(root / "val2017")
    cv2.imwrite(str(data.path(0)), np.zeros((50, 60, 3), np.uint8))
    with pytest.raises(BadImageError, match="is 60 x 50, the annotation says 128 x 96; its boxes"):
        data[0]


def test_prepare_data_checks_coco(repository, root, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("prepare", repository / "tools/prepare_data.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for kind in ("coco", "coco_keypoints"):
        assert tool.main([kind, "--check", str(root)]) == 0
        assert "images read, 0 cannot be read" in capsys.readouterr().out
    assert tool.main(["coco", "--root", str(root), "--out", str(tmp_path / "packed")]) == 2
    assert "not packed; --check it" in capsys.readouterr().err
    (root / "SYNTHETIC.json").unlink()
    image = sorted((root / "train2017").iterdir())[0]
    image.write_bytes(image.read_bytes()[:99])
    assert tool.main(["coco", "--check", str(root)]) == 1
    text = capsys.readouterr().out
    assert "118,287" in text and "from memory" in text and "is truncated" in text


# --------------------------------------------------------------------------------- evaluation


def detections(coco, seed=0):
    """Return imperfect result records: moved boxes, wrong classes, repeated boxes, no crowds."""
    rng, records = np.random.default_rng(seed), []
    for a in coco.anns.values():
        if a["iscrowd"]:
            continue
        box = np.array(a["bbox"]) + rng.normal(0, 2, 4) * (1, 1, 0.5, 0.5)
        category = a["category_id"] if rng.random() < 0.8 else 1
        record = {"image_id": a["image_id"], "category_id": category, "score": rng.random()}
        records += [dict(record, bbox=[float(v) for v in box])] * (1 + (rng.random() < 0.3))
    return records


def equals_official(result, coco, records, kind):
    """Compare with the numbers as the documentation of pycocotools says they are computed."""
    from pycocotools.cocoeval import COCOeval

    run = COCOeval(coco, coco.loadRes(copy.deepcopy(records)), kind)
    run.evaluate()
    run.accumulate()
    run.summarize()
    expected = np.where(run.stats < 0, np.nan, run.stats)
    np.testing.assert_array_equal(list(result.stats.values()), expected)
    assert 0.1 < result.stats["AP"] < 0.95


def test_evaluation_of_boxes_equals_pycocotools(shared):
    coco = CocoDetection(shared).coco
    records = detections(coco)
    before = copy.deepcopy(records)
    result = evaluate_detections(coco, records)
    assert records == before and tuple(result.stats) == BOX_STATS
    equals_official(result, coco, records, "bbox")
    assert math.isclose(np.nanmean(list(result.per_class.values())), result.stats["AP"])
    assert set(result.per_class) == {"person", "stop sign", "sports ball", "kite", "book"}
    empty = evaluate_detections(coco, [])
    assert empty.stats["AP"] == 0 and empty.records == 0
    assert evaluate_detections(coco, records, sorted(coco.imgs)[:1]).images == 1


def test_evaluation_of_keypoints_equals_pycocotools(shared):
    data, rng, records = CocoKeypoints(shared), np.random.default_rng(0), []
    for i, number in enumerate(data.image_ids):
        points = data.person(i)[1].astype(float)
        points[:, :2] += rng.normal(0, 1.5, (17, 2))
        record = {"image_id": number, "category_id": 1, "score": float(rng.random())}
        records.append(dict(record, keypoints=points.ravel().tolist()))
    result = evaluate_keypoints(data.coco, records)
    assert tuple(result.stats) == KEYPOINT_STATS
    equals_official(result, data.coco, records, "keypoints")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_id": 3}, "image 3 is not in the annotation"),
        ({"category_id": 2}, "category 2 is not in .* ids are 1, 13.*not the positions"),
        ({"bbox": [1, 2, 3]}, "must be 4 finite numbers"),
        ({"score": float("nan")}, "finite score"),
        ({"bbox": None}, "result 1 lacks bbox"),
    ],
)
def test_bad_results(shared, change, message):
    coco = CocoDetection(shared).coco
    records = detections(coco)[:2]
    records[1] = {k: v for k, v in dict(records[1], **change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        evaluate_detections(coco, records)


def test_similarity_and_suppression():
    rng = np.random.default_rng(1)
    a, others = rng.uniform(0, 50, (17, 2)), rng.uniform(0, 50, (3, 17, 2))
    areas = np.array([900.0, 400.0, 100.0])
    found = oks(a, others, 500.0, areas)
    for n in range(3):  # straight from the definition
        d2 = ((others[n] - a) ** 2).sum(1)
        values = np.exp(-d2 / (2 * (500 + areas[n]) / 2 * (2 * SIGMAS) ** 2))
        assert found[n] == pytest.approx(values.mean(), rel=1e-9)
    assert oks(a, a[None], 10, [10]) == 1
    people = np.stack([a, a + 0.1, a + 40])
    assert oks_suppression(people, [0.5, 0.9, 0.1], [2500] * 3) == [1, 2]
    assert oks_suppression(people, [0.5, 0.9, 0.1], [2500] * 3, threshold=1.0) == [1, 0, 2]
    with pytest.raises(ValueError, match="17 keypoints are needed"):
        oks(a[:5], others[:, :5], 1, areas)


# ----------------------------------------------------------------------------------- drawing


def test_boxes_are_drawn_where_they_are():
    image = np.full((60, 80, 3), 90, np.uint8)
    box = [[20, 25, 60, 50]]
    found = draw_boxes(image, box, [1], [0.9], class_names=["cat", "dog"])
    assert (image == 90).all() and found.shape == image.shape and found.dtype == np.uint8
    assert all((found[y, x] != 90).any() for y, x in ((38, 20), (38, 60), (50, 40)))
    assert (found[38, 40] == 90).all()
    np.testing.assert_array_equal(draw_boxes(image, box, [1], [0.2], threshold=0.5), image)
    np.testing.assert_array_equal(draw_boxes(image, np.zeros((0, 4)), []), image)
    draw_boxes(image, [[-9, -9, 900, 900]], [7])  # beyond the image
    with pytest.raises(TypeError):
        draw_boxes(image / 2, [], [])
    for labels, names in (([], None), ([2], ["cat", "dog"])):
        with pytest.raises(ValueError):
            draw_boxes(image, [[1, 2, 3, 4]], labels, class_names=names)


def test_keypoints_are_drawn_where_they_are():
    image = np.full((80, 80, 3), 90, np.uint8)
    points = np.zeros((17, 3))
    points[5], points[7], points[6] = (20, 20, 2), (20, 60, 2), (60, 20, 0)
    found = draw_keypoints(image, points)
    assert (found[20, 20] != 90).any() and (found[40, 20] != 90).any(), "joint and limb"
    assert (found[20, 60] == 90).all() and (found[0, 0] == 90).all(), "unlabelled"
    assert found[40, 20, 0] > found[40, 20, 2], "left is orange"
    np.testing.assert_array_equal(draw_keypoints(image, points[None]), found)
    np.testing.assert_array_equal(draw_keypoints(image, points, np.zeros((1, 17))), image)
    with pytest.raises(ValueError, match=r"\(N, K, 2\)"):
        draw_keypoints(image, np.zeros((17, 4)))
