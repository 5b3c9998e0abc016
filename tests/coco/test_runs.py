"""Detectors and keypoint nets from the recipe to the image: runs, COCO's scores, exports, tools."""

from __future__ import annotations

import importlib.util
import json
import shutil

import cv2
import mxnet as mx
import numpy as np
import pytest
from gluoncv_helpers import gluoncv_or_skip

gluoncv_or_skip()
pytest.importorskip("pycocotools")

from coco_helpers import (  # noqa: E402
    BLOCKS,
    KINDS,
    PIXELS,
    model_of,
    run,
    tiny_net,
    tool,  # noqa: F401  (a fixture)
    trained,
    write_data,
    write_recipe,
)
from formats.tiny_coco import write_tiny_coco  # noqa: E402
from training_helpers import checkpoint_arrays  # noqa: E402

from gluon_attn import workers  # noqa: E402
from gluon_attn.coco.dataset import CocoDetection, CocoKeypoints  # noqa: E402
from gluon_attn.coco.detection_task import Detector, detect_files  # noqa: E402
from gluon_attn.coco.keypoints import SimplePoseMethod, heatmap_targets  # noqa: E402
from gluon_attn.coco.keypoints_batches import People, transform  # noqa: E402
from gluon_attn.coco.keypoints_boxes import boxes_of_images, read_results  # noqa: E402
from gluon_attn.coco.metrics import evaluate_detections  # noqa: E402
from gluon_attn.coco.names import KEYPOINTS  # noqa: E402
from gluon_attn.export import ExportError, Predictor, export_model  # noqa: E402
from gluon_attn.export.sidecar import read_sidecar  # noqa: E402
from gluon_attn.task import TASKS, Asked, Exported  # noqa: E402
from gluon_attn.tasks.data import open_for  # noqa: E402
from gluon_attn.tasks.images import find_images  # noqa: E402
from gluon_attn.train import trained as load  # noqa: E402
from gluon_attn.train import use_static_graph  # noqa: E402
from gluon_attn.workers import Workers  # noqa: E402
from model_zoo import get_model  # noqa: E402

DETECTION, POSE = TASKS.get("detection"), TASKS.get("keypoints")
RECORDS = {"ssd": "detections", "faster_rcnn": "detections", "simple_pose": "keypoints"}
LOSSES = {
    "ssd": ("class", "box"), "faster_rcnn": ("rpn_class", "rpn_box", "class", "box"),
    "simple_pose": ("heatmap",),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module", params=[
    pytest.param(kind, marks=pytest.mark.nightly if kind == "faster_rcnn" else ())
    for kind in KINDS
])  # fmt: skip
def finished(request, data, tmp_path_factory):
    """A run of two epochs: its method, folder and result."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, run(folder, data, request.param)


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """The export of a run, and the net that it was made from."""
    method, folder, _ = finished
    found = load.from_run(str(folder), [mx.cpu()])
    directory = tmp_path_factory.mktemp("export") / method
    found.task.export(found, directory, "tiny")
    return Exported.open(directory), found


# ------------------------------------------------------------------------------ training


def test_a_run_leaves_weights_scores_and_records(finished):
    method, folder, result = finished
    scores = {"epoch", "mAP", "AP50", "AP75"} | ({"AR"} if method == "simple_pose" else set())
    assert result["best"]["epoch"] == 1 and set(result["best"]) == scores
    test = json.loads((folder / "test.json").read_text())
    assert test["stats"]["AP"] == pytest.approx(result["best"]["mAP"])
    best = json.loads((folder / "best.json").read_text())
    assert method == "simple_pose" or set(test["per_class"]) == set(best["classes"])
    assert method != "simple_pose" or best["classes"] == list(KEYPOINTS)
    records = json.loads((folder / f"test_{RECORDS[method]}.json").read_text())
    assert len(records) == test["people" if method == "simple_pose" else "detections"] > 0
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line[f"loss_{name}"]) for line in lines for name in LOSSES[method])


def test_scores_equal_pycocotools_on_the_files_own_records(finished, data):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    method, folder, result = finished
    name, kind = ("person_keypoints", "keypoints") if method == "simple_pose" else (
        "instances", "bbox")  # fmt: skip
    truth = COCO(str(data / "annotations" / f"{name}_val2017.json"))
    records = folder / f"test_{RECORDS[method]}.json"
    evaluation = COCOeval(truth, truth.loadRes(str(records)), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = [np.nan if v is None else v for v in result["test"].values["stats"].values()]
    expected = np.where(np.array(evaluation.stats) < 0, np.nan, evaluation.stats)
    np.testing.assert_allclose(ours, expected, rtol=1e-9)


def test_a_resumed_run_ends_with_the_same_bits(finished, data, tmp_path):
    method, whole, result = finished
    run(tmp_path, data, method, epochs=1)
    (tmp_path / "test.json").unlink()
    assert run(tmp_path, data, method, resume=True)["best"] == result["best"]
    one, other = (checkpoint_arrays(folder / "last.ckpt") for folder in (whole, tmp_path))
    assert one.keys() == other.keys() and len(one) > 50
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_training_needs_a_net_and_data_of_its_kind(data, tmp_path):
    with pytest.raises(ValueError, match="simple_pose"):
        run(tmp_path / "a", data, "simple_pose", model="resnet18_w16_synthetic")
    with pytest.raises(FileNotFoundError, match="person_keypoints_nowhere.json"):
        splits = ("nowhere", "val2017", "val2017")
        run(tmp_path / "b", data, "simple_pose", splits=splits)


_PLAIN = {
    "ssd": {"epochs": 100, "batch_size": 8,
            "options": {"warmup_epochs": 5.0, "expand": 1.0, "crop": False, "colour": False}},
    "faster_rcnn": {"epochs": 120, "batch_size": 2, "lr": 0.01,
                    "options": {"warmup_updates": 20, "samples": 64}},
    "simple_pose": {"epochs": 5, "batch_size": 8, "iterations_per_epoch": 40, "lr_epochs": (4,),
                    "options": {"scale": 0.0, "rotation": 0.0, "encoding": "unbiased",
                                "flip_test": False}},
}  # fmt: skip


@pytest.mark.nightly
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    "method, least", [("ssd", 0.95), ("faster_rcnn", 0.8), ("simple_pose", 0.95)]
)
def test_nets_overfit_eight_images(method, least, block, data, tmp_path):
    """Without augmentation, scored on the images of the training."""
    name, options = model_of(method, block)
    options.update({"width": 16} if method == "simple_pose" else {"score_threshold": 0.0})
    result = run(
        tmp_path / "run", data, method, model=name, model_options=options, mirror=False, wd=0.0,
        splits=("train2017",) * 3, **_PLAIN[method],
    )  # fmt: skip
    found = result["test"].values["stats"]
    print(method, block, {key: round(found[key], 3) for key in ("AP", "AP50", "AP75")})
    assert found["AP"] >= least and found["AP50"] > 0.99 and found["AP75"] > 0.95


# ------------------------------------------------------------------------------ export


def test_a_run_is_exported_with_parity_and_evaluated_alike(exported, data, tmp_path, tool):  # noqa: F811
    source, net = exported
    assert source.sidecar["parity"]["max_abs_diff"] <= 1e-5 and source.task is net.task
    outputs = {"ssd": 5, "faster_rcnn": 3}.get(getattr(net.net, "method", ""), 1)
    assert len(source.sidecar["outputs"]) == outputs
    code, text, error = tool("evaluate.py", "--export", source.directory, "--data-dir", data,
                             "--out", tmp_path, "-j", 0)  # fmt: skip
    assert code == 0 and "Average Precision" in text and "OKS" not in error, error
    assert ("(annotated boxes)" in text) == (net.task is POSE)
    stats = json.loads((tmp_path / "val2017.json").read_text())["stats"]
    dataset = open_for(net, str(data), "val2017")
    asked = Asked("", "", mx.cpu(), 3, 0)
    records, skipped = net.task.find(net.task.open(net), dataset, asked)
    expected = net.task.measure(dataset, records).stats
    assert skipped == [] and records
    np.testing.assert_allclose([np.nan if v is None else v for v in stats.values()],
                               list(expected.values()), atol=1e-6)  # fmt: skip


def test_suppression_of_two_stages_is_exported(tmp_path):
    """Plain MXNet proposes and keeps what the net does, for high images as for wide ones."""
    net = tiny_net("faster_rcnn", score_threshold=0.0)
    use_static_graph(net)
    DETECTION.export(trained(net, "abcde"), tmp_path / "export", "tiny")
    sidecar = read_sidecar(tmp_path / "export")
    assert tuple(out["name"] for out in sidecar["outputs"]) == net.output_names
    assert sidecar["input"]["sides"] == [96, 128] and sidecar["input"]["fit"] == "pad"
    again = DETECTION.open(Exported.open(tmp_path / "export"))
    for shape in ((2, 3, 96, 128), (1, 3, 128, 96)):
        images = mx.nd.random.normal(shape=shape)
        found = [out.asnumpy() for out in again.net(images)]
        for one, other in zip(found, net(images)):
            np.testing.assert_allclose(one, other.asnumpy(), rtol=1e-5, atol=1e-5)
        assert (found[0] >= 0).any()


@pytest.fixture(scope="module")
def pose(tmp_path_factory):
    """A keypoint net and its export."""
    mx.random.seed(0)
    net, folder = tiny_net("simple_pose"), tmp_path_factory.mktemp("export") / "pose"
    POSE.export(trained(net), folder, "pose")
    return net, folder


def test_an_export_gives_the_net_s_heat_maps(pose):
    net, folder = pose
    image = mx.nd.random.normal(shape=(3, 3, 128, 96))
    finder = POSE.open(Exported.open(folder))
    np.testing.assert_allclose(finder.net(image).asnumpy(), net(image).asnumpy(), atol=1e-4)
    assert finder.names == KEYPOINTS and finder.reading == SimplePoseMethod.OPTIONS
    people, _ = square_people(2)
    for a, b in zip(finder(people, workers=0), finder_for(net)(people, workers=0)):
        np.testing.assert_allclose(a, b, atol=1e-2)
    with pytest.raises(ValueError, match="an export for keypoints"):
        Predictor(folder)
    with pytest.raises(FileExistsError):
        POSE.export(trained(net), folder, "pose")
    with pytest.raises(ValueError, match="2 names of keypoints for a net with 17"):
        POSE.export(trained(net, "ab"), folder.with_name("b"), "pose")


def test_damaged_and_other_exports_are_refused(pose, exported, tmp_path):
    shutil.copytree(pose[1], tmp_path / "copy")
    path = next((tmp_path / "copy").glob("*.params"))
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(ExportError, match="checksum mismatch"):
        POSE.open(Exported.open(tmp_path / "copy"))
    net = get_model("resnet18_w16_digits", width=8)
    net.initialize()
    names = [str(k) for k in range(10)]
    export_model(net, tmp_path / "digits", "digits", names, 64, PIXELS, check=False)
    for task in (DETECTION, POSE):
        with pytest.raises(ExportError, match="its task is classification"):
            task.open(Exported.open(tmp_path / "digits"))
    if exported[1].task is DETECTION:
        write_tiny_coco(tmp_path / "all", {"train2017": 1, "val2017": 1}, categories="all")
        message = "has the classes person, bicycle.*made for person, stop"
        with pytest.raises(ValueError, match=message):
            open_for(exported[0], str(tmp_path / "all"), "test")


def test_forms_that_do_not_exist_are_refused(pose, tool, tmp_path):  # noqa: F811
    args = type("Args", (), {"int8": True, "onnx": True, "bf16": False, "with_maps": False})
    with pytest.raises(ValueError, match="--int8, --onnx: this net"):
        DETECTION.check_forms(args)
    code, _, error = tool("export.py", "--export", pose[1], "--int8", "--calib", tmp_path)
    assert code == 2 and "--int8: this net is exported in float32 and with --onnx, " in error


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="no onnxruntime")
@pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="onnx is not installed")
def test_onnx_is_the_one_further_form(pose, tool, tmp_path, monkeypatch):  # noqa: F811
    from onnx_helpers import agree

    from gluon_attn.export import onnx as onnx_model

    monkeypatch.setattr(onnx_model, "TOLERANCE", 1e-4)  # maps of this untrained net reach 50
    folder = tmp_path / "pose"
    shutil.copytree(str(pose[1]), str(folder))
    code, text, error = tool("export.py", "--export", folder, "--onnx")
    assert code == 0 and "onnx: opset 13" in text, error
    images = np.random.RandomState(0).normal(size=(2, 3, 128, 96))
    expected = pose[0](mx.nd.array(images)).asnumpy()
    raw = (folder / "pose.onnx").read_bytes()
    agree(raw, [images.astype("float32")], [{"heatmaps": expected}], tolerance=2e-4)


# ------------------------------------------------------------------------------ the tools


def test_predict_writes_records_and_boxes(exported, data, tmp_path, tool):  # noqa: F811
    source, net = exported
    if net.task is POSE:
        pytest.skip("keypoints: test_predict_writes_people")
    code, text, error = tool(
        "predict.py", source.directory, data / "val2017", "--threshold", 0.0, "--json",
        tmp_path / "all.json", "--draw", tmp_path / "drawn", "--csv", tmp_path / "all.csv",
    )  # fmt: skip
    assert code == 0 and "score" in text, error
    contents = json.loads((tmp_path / "all.json").read_text())
    assert len(contents["pictures"]) == 4 == len(list((tmp_path / "drawn").iterdir()))
    boxes = [d for p in contents["pictures"] for d in p["detections"]]
    assert boxes and all(d["class"] in contents["classes"] for d in boxes)
    assert all(d["box"][0] >= 0 and d["box"][0] + d["box"][2] <= 128.001 for d in boxes)
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 1 + len(boxes)
    best, images = max(d["score"] for d in boxes), find_images([str(data / "val2017")])
    few = detect_files(DETECTION.open(source), images, best - 1e-6)
    assert 1 <= sum(len(p["detections"]) for p in few) < len(boxes)
    (tmp_path / "bad.png").write_bytes(b"no image")
    code, text, _ = tool("predict.py", source.directory, tmp_path / "bad.png", "--on-bad-image",
                         "skip", "--csv", "-")  # fmt: skip
    assert code == 0 and "is a text file, no image" in text
    code, _, error = tool("predict.py", source.directory, data / "val2017", "--heatmaps", "maps")
    assert code == 2 and "--draw DIR" in error


def test_predict_writes_people(pose, tool, tmp_path):  # noqa: F811
    """Table, JSON, CSV, keypoints over the image, boxes, bad images and flags."""
    folder, images = pose[1], tmp_path / "images"
    images.mkdir()
    for k in range(2):
        image = np.random.default_rng(k).integers(0, 256, (80, 60, 3)).astype(np.uint8)
        cv2.imwrite(str(images / f"{k}.png"), image)
    (tmp_path / "boxes.json").write_text(json.dumps({"0.png": [[5, 6, 30, 40], [20, 6, 30, 70]]}))
    code, text, error = tool(
        "predict.py", folder, images, "--json", tmp_path / "a.json", "--csv",
        tmp_path / "a.csv", "--draw", tmp_path / "drawn", "--boxes", tmp_path / "boxes.json",
        "--threshold", 0.0,
    )  # fmt: skip
    assert code == 0 and "0.png" in text and "of 17" in text, error
    content = json.loads((tmp_path / "a.json").read_text())
    assert len(content["people"]) == 2 and content["keypoints"] == list(KEYPOINTS)
    assert content["people"][0]["box"] == [5, 6, 30, 40]
    assert np.array(content["people"][0]["keypoints"]).shape == (17, 3)
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 3
    drawn = cv2.imread(str(next((tmp_path / "drawn").iterdir())))
    assert (drawn != cv2.imread(str(images / "0.png"))).any()
    (images / "1.png").write_bytes(b"no image")
    code, text, _ = tool("predict.py", folder, images, "--on-bad-image", "skip", "--csv", "-")
    assert code == 0 and "is a text file, no image" in text
    for flags in (["--heatmaps", tmp_path / "x"], ["--backend", "onnxruntime"], []):
        code, _, error = tool("predict.py", folder, images, *flags)
        assert code == 2 and error.startswith("error:")


def test_settings_of_a_run_go_with_its_export(data, tool, tmp_path):  # noqa: F811
    """By the tools, from training to scores, with annotated boxes and those of a detector."""
    path = write_recipe(tmp_path / "tiny.json", "simple_pose", epochs=1,
                        options={"flip_test": False})  # fmt: skip
    folder, out = tmp_path / "run", tmp_path / "export"
    for command in (
        ("train.py", "--recipe", path, "--data-dir", data, "--save-dir", folder, "-j", 1,
         "--no-test"),
        ("export.py", "--run", folder, "--out", out),
    ):  # fmt: skip
        code, text, error = tool(*command)
        assert code == 0, error
    assert "parity with plain MXNet" in text
    assert not POSE.open(Exported.open(out)).reading["flip_test"]
    content = json.loads((data / "annotations/instances_val2017.json").read_text())
    boxes = [{k: a[k] for k in ("image_id", "category_id", "bbox")} for a in content["annotations"]]
    (tmp_path / "found.json").write_text(json.dumps([dict(b, score=0.7) for b in boxes]))
    code, text, error = tool(
        "evaluate.py", "--run", folder, "--data-dir", data, "-j", 1, "--split", "val2017",
        "--out", tmp_path / "detected", "--boxes", tmp_path / "found.json",
    )  # fmt: skip
    assert code == 0 and "boxes of" in text, error
    code, _, error = tool("export.py", "--run", folder, "--out", tmp_path / "b", "--with-maps")
    assert code == 2 and "--with-maps" in error


# ------------------------------------------------------------------------------ perfect nets


def test_perfect_detections_score_one(data):
    """Boxes of the truth, sent through the transform of evaluation and back."""
    dataset, place = CocoDetection(data, "val2017"), iter(range(4))
    entry = {"shape": ["batch", 3, 96, 96], "fit": "stretch", **PIXELS}
    detector = Detector(None, {"input": entry, "classes": dataset.names})

    def oracle(images):
        rows = np.full((len(images), 20, 6), -1.0)
        for row in rows:
            image, boxes, classes, _ = dataset[next(place)]
            framed = detector.transform(image, boxes, classes)
            row[: len(boxes)] = np.c_[classes, np.ones(len(boxes)), framed.boxes]
        return [mx.nd.array(part) for part in (rows[..., 0], rows[..., 1], rows[..., 2:])]

    detector.net = oracle
    stats = evaluate_detections(dataset.coco, detector(dataset, 2, 0)).stats
    assert stats["AP"] == pytest.approx(1.0)


class OneOfTwo:
    """A worker that is given, when its rows are there, what the other one has found."""

    size = 2

    def __init__(self, rank, other=None):
        self.rank, self.other = rank, other

    def merge(self, name, arrays, mine):
        self.found = [np.where(mine.reshape(-1, *[1] * (a.ndim - 1)), a, 0) for a in arrays], mine
        if self.other is None:
            return arrays
        theirs, seen = self.other.found
        assert (mine + seen == 1).all() and 0 < mine.sum() < len(mine)
        return [one + two for one, two in zip(self.found[0], theirs)]


@pytest.mark.parametrize("kind", ["detection", "keypoints"])
def test_workers_divide_an_evaluation(kind, data, pose, monkeypatch):
    def detections(images):
        brightest = images.reshape((0, -1)).topk(k=5, ret_typ="value")
        boxes = mx.nd.broadcast_to(mx.nd.array([[[5, 6, 50, 60]]]), (len(images), 5, 4))
        return [mx.nd.zeros_like(brightest), brightest, boxes]

    def maps(images):
        rows = [images[:, k % 3, ::4, k % 4 :: 4] for k in range(len(KEYPOINTS))]
        return mx.nd.stack(*rows, axis=1)

    if kind == "detection":
        task, dataset = DETECTION, CocoDetection(data, "train2017")
        entry = {"shape": ["batch", 3, 96, 96], "fit": "stretch", **PIXELS}
        finder = Detector(detections, {"input": entry, "classes": dataset.names})
    else:
        task, dataset, finder = POSE, CocoKeypoints(data, "train2017"), finder_for(pose[0])
        finder.net = maps
    asked, found, first = Asked("", "", mx.cpu(), 3, 0), [], OneOfTwo(0)
    for group in (Workers(), first, OneOfTwo(1, first)):
        monkeypatch.setattr(workers, "current", lambda group=group: group)
        found.append(task.find(finder, dataset, asked)[0])
    assert found[0] and found[0] == found[2] != found[1]


def square_people(count=5):
    """Return People in images of noise, and the images."""
    rng = np.random.default_rng(0)
    images = {k: rng.integers(0, 256, (90 + k, 70, 3)).astype(np.uint8) for k in range(3)}
    boxes = np.array([(5 + k, 6, 45 + k, 70 + k) for k in range(count)])
    ids = [k % 3 for k in range(count)]
    return People(images.__getitem__, ids, boxes, np.linspace(1, 0.5, count)), images


def finder_for(net, **options):
    recipe = {"method": "simple_pose", "options": options}
    return POSE.open(trained(net, recipe=recipe))


def test_places_do_not_depend_on_batches(pose):
    people, _ = square_people()
    finder = finder_for(pose[0])
    places, heights = finder(people, batch_size=2, workers=0)
    assert places.shape == (5, 17, 2) and heights.shape == (5, 17)
    others = finder(people, batch_size=5, workers=2)
    np.testing.assert_allclose(others[0], places, atol=1e-3)
    np.testing.assert_allclose(others[1], heights, atol=1e-4)
    empty = People(None, [], np.zeros((0, 4)))
    assert finder(empty)[0].shape == (0, 17, 2) and finder.records(empty, *finder(empty)) == []
    with pytest.raises(ValueError, match="2 images, 1 boxes"):
        People(None, [1, 2], [[0, 0, 1, 1]])


def test_a_perfect_net_finds_the_places_again():
    """Heat-maps made at known places of the input come back in pixels of the image."""
    people, _ = square_people(3)
    rng = np.random.default_rng(1)
    truth = people.boxes[:, None, :2] + rng.uniform(5, 35, (3, 17, 2))
    finder = finder_for(tiny_net("simple_pose"), flip_test=False)
    maps = []
    for box, points in zip(people.boxes, truth):
        inside = transform(points, finder.transform.matrix(box)) / 4
        maps.append(heatmap_targets(inside, np.ones(17), (32, 24), encoding="unbiased")[0])
    finder.net = lambda images: mx.nd.array(np.stack(maps))
    places, heights = finder(people, batch_size=3, workers=0)
    np.testing.assert_allclose(places, truth, atol=0.02)
    records = finder.records(people, places, heights)
    assert [r["image_id"] for r in records] == [0, 1, 2] and len(records[0]["keypoints"]) == 51
    assert records[2]["score"] == pytest.approx(heights[2].mean() * 0.5)
    twice = People(people.read, [0, 0, 1], people.boxes, [0.4, 0.9, 0.5])
    same = np.stack([truth[0], truth[0] + 0.01, truth[1]])
    kept = finder.records(twice, same, np.ones((3, 17)))
    assert [(r["image_id"], r["score"]) for r in kept] == [(0, 0.9), (1, 0.5)]


# ------------------------------------------------------------------------------ files of boxes


def result(**changes):
    values = {"image_id": 139, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5, **changes}
    return {k: v for k, v in values.items() if v is not None}


def test_official_files_of_boxes(tmp_path, caplog):
    path = tmp_path / "boxes.json"
    for name in ("000000000139.jpg", "COCO_val2014_000000000139.png", "own.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((50, 40, 3), np.uint8))
    images = find_images([tmp_path])
    path.write_text(json.dumps([result(), result(category_id=3), result(image_id=7)]))
    assert read_results(path) == [(139, [1, 2, 30, 40], 0.5), (7, [1, 2, 30, 40], 0.5)]
    found, boxes, scores = boxes_of_images(images, path)
    assert len(found) == 2 and boxes == [[[1, 2, 30, 40]]] * 2 and scores == [[0.5]] * 2
    path.write_text(json.dumps({"own.png": [[1, 2, 3, 4], [5, 6, 7, 8]]}))
    found, boxes, scores = boxes_of_images(images, path)
    assert [p.key for p in found] == ["own.png"] and scores == [[1.0, 1.0]]
    path.write_text(json.dumps([result(), result(bbox=[1, 2, 0, 4]), result(bbox=[1, 2, 3, -4])]))
    assert read_results(path) == [(139, [1, 2, 30, 40], 0.5)]
    assert "2 of 3 boxes left out: 2 without area (the first: record 1, [1" in caplog.text
    assert read_results(path, "1") == read_results(path), "ids as numbers or as text"
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "none.json")
    for record, message in (
        (result(bbox=None), "record 0 lacks bbox"),
        (result(bbox=[1, 2, 3]), "must be numbers"),
        (result(category_id=3), r"no box of category 1 .people., but of 3"),
        (result(score="high"), "must be numbers"),
        (result(image_id=8), "lists none of the 3 images"),
        ("[{", "boxes.json:1: not valid JSON"),
    ):
        path.write_text(record if isinstance(record, str) else json.dumps([record]))
        with pytest.raises(ValueError, match=message):
            boxes_of_images(images, path)
