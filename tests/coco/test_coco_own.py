"""Own COCO files: exports of labelling tools re-enacted in miniature, and what is wrong in them."""

from __future__ import annotations

import json
import logging
import math
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("pycocotools")

from gluon_attn.coco.annotations import box_of, key_function  # noqa: E402
from gluon_attn.coco.dataset import CocoDetection, CocoKeypoints  # noqa: E402
from gluon_attn.coco.metrics import evaluate_detections, evaluate_keypoints  # noqa: E402
from gluon_attn.coco.names import limbs_of  # noqa: E402
from gluon_attn.data.images import BadImageError  # noqa: E402

NAMES = ("a.jpg", "b.jpg", "c.jpg")
SIZE = (60, 40)  # width, height
BOXES = ([5, 5, 20, 10], [30, 8, 25, 30], [0, 0, 60, 40], [10.5, 2.25, 8, 9.5])


def write_images(folder: Path, names=NAMES) -> None:
    for k, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((SIZE[1], SIZE[0], 3), 30 + 60 * k, np.uint8))


def content(**changes):
    """Three images, two classes, four boxes; as little as a file can say, everything from 0."""
    found = {
        "images": [{"id": k, "file_name": name} for k, name in enumerate(NAMES)],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
        "annotations": [
            {"id": k, "image_id": k % 3, "category_id": k % 2, "bbox": list(box)}
            for k, box in enumerate(BOXES)
        ],
    }
    return {**found, **changes}


def write(root: Path, found, split="train", kind="instances", place=None) -> Path:
    path = root / (place or f"annotations/{kind}_{split}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path):
    write_images(tmp_path / "train")
    return tmp_path


def truth(data):
    """Return the annotated boxes as if a detector had found them."""
    keys = ("image_id", "category_id", "bbox")
    return [{**{key: a[key] for key in keys}, "score": 1.0} for a in data.coco.anns.values()]


def samples(data):
    """Return ``{file name: [(class name, box)]}``."""
    found = {}
    for i in range(len(data)):
        boxes, classes = data.boxes(i)
        name = data.path(i).name
        found[name] = [(data.class_names[c], b.tolist()) for c, b in zip(classes, boxes)]
    return found


EXPECTED = {
    "a.jpg": [("cat", [5, 5, 25, 15]), ("dog", [10.5, 2.25, 18.5, 11.75])],
    "b.jpg": [("dog", [30, 8, 55, 38])],
    "c.jpg": [("cat", [0, 0, 60, 40])],
}


# ------------------------------------------------------------------------- what a file may lack


def test_a_file_that_says_as_little_as_possible(root, caplog):
    """No area, no iscrowd, no sizes, no info; ids from 0, which pycocotools takes for "none"."""
    write(root, content())
    with caplog.at_level(logging.INFO):
        data = CocoDetection(root, "train")
    assert samples(data) == EXPECTED
    assert [data.size(i) for i in range(3)] == [SIZE] * 3 and data[1][0].shape == (40, 60, 3)
    assert [a["iscrowd"] for a in data.coco.anns.values()] == [0] * 4
    assert [a["area"] for a in data.coco.anns.values()] == [w * h for _, _, w, h in BOXES]
    result = evaluate_detections(data.coco, truth(data), data.image_ids)
    assert result.stats["AP"] == pytest.approx(1.0) and result.stats["AR_100"] == pytest.approx(1)
    lines = [r.getMessage() for r in caplog.records if "missing values" in r.getMessage()]
    assert len(lines) == 1 and "iscrowd = 0 (4 times), area = width x height (4 times)" in lines[0]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def as_text(found):
    for record in found["annotations"]:
        record.update(id=str(record["id"]), image_id=str(record["image_id"]),
                      category_id=str(record["category_id"]), bbox=list(map(str, record["bbox"])),
                      area=str(record["bbox"][2] * record["bbox"][3]), iscrowd="0")  # fmt: skip


def as_names(found):
    for key, word in (("images", "img"), ("categories", "class"), ("annotations", "x")):
        for record in found[key]:
            record["id"] = f"{word}-{record['id']}"
    for record in found["annotations"]:
        record["image_id"] = f"img-{record['image_id']}"
        record["category_id"] = f"class-{record['category_id']}"


def as_one_text(found):
    for record in found["annotations"]:
        record["bbox"] = str(record["bbox"])


def as_outlines(found):
    for record in found["annotations"]:
        x, y, w, h = record.pop("bbox")
        record["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    found["annotations"][0]["segmentation"] = found["annotations"][0]["segmentation"][0]
    found["annotations"][1]["bbox"] = []


def as_mask(found):
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[5:15, 5:25] = 1
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(np.r_[0, flat])).tolist() + [flat.size]
    found["annotations"][0].pop("bbox")
    counts = np.diff([0, *ends]).tolist()
    found["annotations"][0]["segmentation"] = {"counts": counts, "size": list(mask.shape)}


def with_folders(found):
    for k, place in enumerate(("images\\1\\", "/home/ann/photos/", "../upload/")):
        found["images"][k]["file_name"] = place + NAMES[k]


def with_nothing_set(found):
    for record in found["annotations"]:
        record.update(iscrowd=None, area=None, segmentation=None)
    for image in found["images"]:
        image.update(width=0, height=None)


def with_equal_ids(found):
    for record in found["annotations"]:
        record["id"] = 7


@pytest.mark.parametrize(
    "change",
    [as_text, as_names, as_one_text, as_outlines, as_mask, with_folders, with_nothing_set,
     with_equal_ids],
)  # fmt: skip
def test_what_can_only_mean_one_thing_is_taken(root, change):
    found = content()
    change(found)
    write(root, found)
    data = CocoDetection(root, "train")
    assert samples(data) == EXPECTED
    result = evaluate_detections(data.coco, truth(data), data.image_ids)
    assert result.stats["AP"] == pytest.approx(1.0)


# --------------------------------------------------------------- what is left out, in one line


LEFT_OUT = {
    "no width": ({"bbox": [5, 5, 0, 9]}, "1 whose box has no area"),
    "no height": ({"bbox": [5, 5, 9, 0]}, "1 whose box has no area"),
    "negative": ({"bbox": [5, 5, -3, 9]}, "1 whose box has a negative side"),
    "nan": ({"bbox": [5, math.nan, 3, 9]}, "1 whose box is not four finite numbers"),
    "infinite": ({"bbox": [5, 5, math.inf, 9]}, "1 whose box is not four finite numbers"),
    "three": ({"bbox": [5, 5, 9]}, "1 whose box is not four finite numbers"),
    "words": ({"bbox": ["5", "5", "9", "wide"]}, "1 whose box is not four finite numbers"),
    "truths": ({"bbox": [True, 5, 9, 9]}, "1 whose box is not four finite numbers"),
    "an object": ({"bbox": {"x": 5}}, "1 whose box is not four finite numbers"),
    "outside": ({"bbox": [60, 5, 9, 9]}, "1 whose box lies outside its image"),
    "above": ({"bbox": [5, -20, 9, 20]}, "1 whose box lies outside its image"),
    "no box": ({"bbox": None}, "1 without a box and without an outline"),
    "a line": ({"bbox": [], "segmentation": [[1, 1, 9, 1, 5, 1]]}, "1 without a box"),
    "bad mask": ({"bbox": [], "segmentation": {"counts": "?", "size": [1]}}, "1 without a box"),
    "image": ({"image_id": 17}, "1 of images that are not in the list of images"),
    "no image": ({"image_id": None}, "1 of images that are not in the list of images"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(LEFT_OUT))
def test_one_unusable_annotation_is_counted_in_one_line(root, caplog, case):
    changes, reason = LEFT_OUT[case]
    found = content()
    found["annotations"][1].update(changes)
    path = write(root, found)
    data = CocoDetection(root, "train")
    assert {**samples(data), "b.jpg": EXPECTED["b.jpg"]} == EXPECTED
    (line,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert line.startswith(f"{path}: 1 of 4 annotations left out: {reason}")
    assert "(the first: annotation 1," in line
    assert line.partition(": ")[2] in data.report.text() and "4" in data.report.table()


def test_repeated_records(root, caplog):
    found = content()
    found["annotations"].append(dict(found["annotations"][0]))
    found["images"].append(dict(found["images"][0]))
    found["categories"].append(dict(found["categories"][0]))
    write(root, found)
    data = CocoDetection(root, "train")
    assert samples(data) == EXPECTED and data.class_names == ("cat", "dog")
    text = caplog.text
    assert "1 of 5 annotations left out: 1 that are exact copies of another one" in text
    assert "1 images listed twice" in text
    found["images"].append({"id": 9, "file_name": "a.jpg"})
    write(root, found)
    CocoDetection(root, "train")
    assert "1 images listed under several ids" in caplog.text


def test_boxes_that_look_like_corners_are_named(root, caplog):
    found = content()
    for record in found["annotations"]:
        x, y, w, h = record["bbox"]
        record["bbox"] = [x, y, x + w, y + h]
    for k in (0, 3):
        found["annotations"][k]["bbox"] = [40, 20, 59, 39]
    write(root, found)
    CocoDetection(root, "train")
    assert (
        "reach beyond their image; a box is [x, y, width, height], not two corners" in caplog.text
    )


def test_sizes_come_from_the_files_and_missing_ones_are_named(root, caplog):
    write(root, content())
    (root / "train" / "b.jpg").unlink()
    with pytest.raises(BadImageError, match="b.jpg: does not exist"):
        CocoDetection(root, "train")
    data = CocoDetection(root, "train", on_bad_image="skip")
    assert samples(data) == {k: v for k, v in EXPECTED.items() if k != "b.jpg"}
    assert "1 images left out, without a size in the file and unreadable" in caplog.text
    assert "1 of images that are not in the list" in caplog.text


def test_one_file_is_never_taken_for_two_images(root):
    found = content()
    found["images"][0]["file_name"], found["images"][1]["file_name"] = "x/a.jpg", "y/a.jpg"
    for image in found["images"]:
        image.update(width=SIZE[0], height=SIZE[1])
    write(root, found)
    data = CocoDetection(root, "train")
    assert data[0][0].shape == (40, 60, 3)
    with pytest.raises(BadImageError, match="y/a.jpg: does not exist"):
        data[1]


# ------------------------------------------------------------------------ exports of the tools


def test_roboflow(tmp_path):
    """The file lies among the images; category 0 is a heading; ids of annotations from 0."""
    write_images(tmp_path / "valid")
    found = content(info={"year": "2024"}, licenses=[{"id": 1, "url": ""}])
    found["categories"] = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pets"},
        {"id": 2, "name": "dog", "supercategory": "pets"},
    ]
    for image in found["images"]:
        image.update(width=SIZE[0], height=SIZE[1], license=1)
    for record in found["annotations"]:
        record.update(category_id=1 + record["category_id"], iscrowd=0, segmentation=[], area=9)
    write(tmp_path, found, place="valid/_annotations.coco.json")
    data = CocoDetection(tmp_path, "valid")
    assert samples(data) == EXPECTED and data.class_names == ("pets", "cat", "dog")
    result = evaluate_detections(data.coco, truth(data), data.image_ids)
    assert result.stats["AP"] == pytest.approx(1.0) and math.isnan(result.per_class["pets"])


@pytest.mark.parametrize("folder", ["images", "images/default", "default"])
def test_cvat_boxes(tmp_path, folder):
    """``instances_default.json``, images in one of three places, sub-folders in their names."""
    names = tuple(f"day1/{name}" for name in NAMES)
    write_images(tmp_path / folder, names)
    found = content(licenses=[{"name": "", "id": 0, "url": ""}], info={"contributor": ""})
    for k, image in enumerate(found["images"]):
        image.update(id=k + 1, width=SIZE[0], height=SIZE[1], file_name=names[k], license=0)
    for record in found["annotations"]:
        record.update(id=record["id"] + 1, image_id=record["image_id"] + 1, iscrowd=0, area=20.0,
                      segmentation=[], attributes={"occluded": False})  # fmt: skip
    write(tmp_path, found, split="default")
    assert CocoDetection.has_split(tmp_path, "default") and CocoDetection.detect(tmp_path)
    assert samples(CocoDetection(tmp_path, "default")) == EXPECTED


POINTS = [6, 6, 2, 20, 6, 2, 20, 13, 1, 0, 0, 0]


def cvat_keypoints():
    """A skeleton of four points; a tracked shape that the export leaves empty; a box of another."""
    found = content()
    found["categories"] = [
        {"id": 1, "name": "plate", "supercategory": "", "keypoints": ["1", "2", "3", "4"],
         "skeleton": [[1, 2], [2, 3], [3, 0], "4-1"]},
        {"id": 2, "name": "car", "supercategory": "", "keypoints": [], "skeleton": []},
    ]  # fmt: skip
    for k, record in enumerate(found["annotations"]):
        record.update(id=k + 1, category_id=1, iscrowd=0, segmentation=[], keypoints=list(POINTS))
    found["annotations"][1].update(bbox=[0, 0, 0, 0], area=0, keypoints=[], num_keypoints=0)
    found["annotations"][2].update(keypoints=[], num_keypoints=0)
    found["annotations"].append({"id": 5, "image_id": 1, "category_id": 2, "bbox": [1, 1, 9, 9]})
    return found


def test_cvat_keypoints(root, caplog):
    write(root, cvat_keypoints(), kind="person_keypoints")
    with caplog.at_level(logging.INFO):
        data = CocoKeypoints(root, "train")
    assert data.keypoint_names == ("1", "2", "3", "4") and data.skeleton == ((0, 1), (1, 2))
    assert data.annotation_ids == [1, 4] and data.person(0)[1].tolist() == [
        [6, 6, 2], [20, 6, 2], [20, 13, 1], [0, 0, 0],
    ]  # fmt: skip
    assert data.coco.anns[1]["num_keypoints"] == 3 and list(data.coco.cats) == [1]
    text = caplog.text
    assert "1 of 5 annotations left out: 1 whose box has no area (the first: annotation 2" in text
    assert "1 annotations of categories without keypoints passed over" in text
    found = [
        {"image_id": data.image_ids[i], "category_id": 1, "score": 1.0,
         "keypoints": data.person(i)[1].ravel().tolist()}
        for i in range(len(data))
    ]  # fmt: skip
    result = evaluate_keypoints(data.coco, found)
    assert result.stats["AP"] == pytest.approx(1.0), "four keypoints, not COCO's seventeen"
    assert "4 keypoints are not COCO's 17: each has the tolerance 0.0" in result.notes[0]


@pytest.mark.parametrize("points, reason", [
    (POINTS[:-1], "whose keypoints are not 12 finite numbers"),
    ([math.nan] + POINTS[1:], "whose keypoints are not 12 finite numbers"),
    (POINTS[:-1] + [3], "with a visibility that is not 0, 1 or 2"),
])  # fmt: skip
def test_unusable_keypoints_are_no_sample_and_count_nowhere(root, caplog, points, reason):
    found = cvat_keypoints()
    found["annotations"] = [r for r in found["annotations"] if r["id"] != 2]
    found["annotations"][-2].update(keypoints=points)  # annotation 4
    write(root, found, kind="person_keypoints")
    data = CocoKeypoints(root, "train")
    assert data.annotation_ids == [1] and data.coco.anns[4]["num_keypoints"] == 0
    assert f"1 of 4 annotations left out: 1 {reason}" in caplog.text


def test_keypoints_as_text_and_a_wrong_count(root):
    found = cvat_keypoints()
    found["annotations"][0].update(keypoints=[str(v) for v in POINTS], num_keypoints=9)
    write(root, found, kind="person_keypoints")
    data = CocoKeypoints(root, "train")
    assert data.person(0)[1][:3].tolist() == [[6, 6, 2], [20, 6, 2], [20, 13, 1]]
    assert data.coco.anns[1]["num_keypoints"] == 3


def test_label_studio(tmp_path):
    """Numbers in front of the names, back-slashes of Windows, ``ignore``, everything from 0."""
    names = [f"0f1e2d-{name}" for name in NAMES]
    write_images(tmp_path / "images", names)
    found = content(info={"year": 2024, "contributor": "Label Studio"})
    for k, image in enumerate(found["images"]):
        image.update(width=SIZE[0], height=SIZE[1], file_name=f"images\\{names[k]}")
    for record in found["annotations"]:
        record.update(segmentation=[], ignore=0, iscrowd=0, area=1.5)
    write(tmp_path, found)
    data = CocoDetection(tmp_path, "train")
    assert samples(data) == {f"0f1e2d-{name}": boxes for name, boxes in EXPECTED.items()}


def test_coco_annotator(root, caplog):
    """Empty objects of an unfinished session, ``iscrowd`` as false."""
    found = content()
    empty = {"segmentation": [], "area": 0, "bbox": [0, 0, 0, 0], "iscrowd": False}
    for record in found["annotations"]:
        record.update(iscrowd=False)
    found["annotations"] += [dict(empty, id=9 + k, image_id=0, category_id=0) for k in range(3)]
    write(root, found)
    assert samples(CocoDetection(root, "train")) == EXPECTED
    assert "3 of 7 annotations left out: 3 whose box has no area" in caplog.text


def test_ids_are_numbers_only_if_all_are():
    assert [key_function([1, "2", 3.0])(v) for v in ("1", 2, "03", None)] == [1, 2, 3, None]
    assert [key_function([1, "b"])(v) for v in (1, "1", " b")] == ["1", "1", "b"]
    assert key_function(["7", "007"])("007") == "007", "both exist"
    assert key_function([True, 1])(1) == "1"


def test_limbs_and_corners_of_the_image():
    assert limbs_of([[1, 2], [2, 3], [0, 1], [1], "ab", [4, 1]], 3) == ((0, 1), (1, 2))
    assert limbs_of(None, 3) == ()
    image = {"width": 60, "height": 40}
    assert box_of({"bbox": [59, 39, 5, 5]}, image) == ([59, 39, 5, 5], "")
    assert box_of({"bbox": [-5, 0, 5, 5]}, image)[0] is None


# ---------------------------------------------------- before training, and when a library fails


def test_a_missing_file_names_those_that_are_there(root):
    write(root, content(), split="default")
    with pytest.raises(FileNotFoundError, match="has annotations/instances_default.json"):
        CocoDetection(root, "train")


@pytest.mark.parametrize("annotations", [[], None])
def test_images_without_annotations_can_be_read_and_say_so(root, annotations):
    """For detection; that nothing can be validated on them is said before training."""
    write(root, content(annotations=annotations), split="val")
    (root / "train").rename(root / "val")
    data = CocoDetection(root, "val")
    assert [data.boxes(i)[0].shape for i in range(len(data))] == [(0, 4)] * 3
    assert "val: no annotations: no score can be computed on it" in data.report.text()
    assert math.isnan(evaluate_detections(data.coco, []).stats["AP"])
    with pytest.raises(ValueError, match="no image has a usable box"):
        CocoDetection(root, "val", keep_empty=False)


@pytest.mark.parametrize("failure", [KeyError("info"), AssertionError(), ValueError("shapes")])
def test_a_failing_library_becomes_one_line_with_the_file(root, monkeypatch, failure):
    from pycocotools.cocoeval import COCOeval

    path = write(root, content())
    data = CocoDetection(root, "train")

    def fail(self):
        raise failure

    monkeypatch.setattr(COCOeval, "accumulate", fail)
    name = type(failure).__name__
    with pytest.raises(ValueError, match=f"evaluation failed in pycocotools .{name}") as error:
        evaluate_detections(data.coco, truth(data))
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_pycocotools_that_cannot_be_loaded_is_named(root, monkeypatch):
    write(root, content())
    data = CocoDetection(root, "train")

    class Broken(types.ModuleType):
        def __getattr__(self, name):
            raise ValueError("numpy.dtype size changed, may indicate binary incompatibility")

    for name in ("pycocotools.coco", "pycocotools.cocoeval"):
        monkeypatch.setitem(sys.modules, name, Broken(name))
    for call in (lambda: CocoDetection(root, "train"), lambda: evaluate_detections(data.coco, [])):
        with pytest.raises(ImportError, match="pip install pycocotools .numpy.dtype size changed"):
            call()
