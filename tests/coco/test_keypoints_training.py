"""Keypoint runs on the tiny COCO set: training, resume, evaluation, export, prediction."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys

import cv2
import mxnet as mx
import numpy as np
import pytest
from formats.tiny_coco import write_tiny_coco
from keypoints_helpers import TINY, recipe, tiny_net, write_recipe
from training_helpers import checkpoint_arrays

from gluon_attn.coco.keypoints_batches import People
from gluon_attn.coco.keypoints_boxes import boxes_of_images, read_results
from gluon_attn.coco.keypoints_task import PoseFinder, Reading, export_pose, finder_of_export
from gluon_attn.coco.names import KEYPOINTS
from gluon_attn.core.recipe import Recipe
from gluon_attn.export import Predictor
from gluon_attn.export.sidecar import ExportError
from gluon_attn.tasks.images import find_images

needs_coco = pytest.mark.skipif(
    importlib.util.find_spec("pycocotools") is None, reason="needs pycocotools"
)
MEAN, STD = (123.68, 116.779, 103.939), (58.393, 57.12, 57.375)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    write_tiny_coco(root, seed=3)
    return root


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A net and its export."""
    mx.random.seed(0)
    net, folder = tiny_net(), tmp_path_factory.mktemp("export") / "pose"
    sidecar = export_pose(net, folder, "pose", KEYPOINTS, preprocess={"mean": MEAN, "std": STD})
    return net, folder, sidecar


def run_training(data, folder, epochs=2, resume=False, **changes):
    from gluon_attn.train.run import Settings, train

    settings = Settings(str(data), str(folder), workers=1, resume=resume, console=False)
    return train(Recipe.from_dict(recipe(epochs=epochs, **changes)), settings)


@pytest.fixture
def tool(repository, monkeypatch, capsys):
    """A function that runs a script of tools/ in this process: ``(exit code, stdout, stderr)``."""

    def call(name, *arguments):
        path = repository / "tools" / name
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            module.cli.run(module.main)
        return (end.value.code or 0, *capsys.readouterr())

    return call


# ------------------------------------------------------------------------------ people, boxes


def square_people(count=5):
    """Return People in pictures of noise, and the pictures."""
    rng = np.random.default_rng(0)
    pictures = {k: rng.integers(0, 256, (90 + k, 70, 3)).astype(np.uint8) for k in range(3)}
    ids = [k % 3 for k in range(count)]
    boxes = np.array([(5 + k, 6, 45 + k, 70 + k) for k in range(count)])
    return People(pictures.__getitem__, ids, boxes, np.linspace(1, 0.5, count)), pictures


def finder_for(net, **options):
    reading = Reading(**options)
    return PoseFinder(net, net.input_size, KEYPOINTS, mean=MEAN, std=STD, reading=reading)


def test_found_places_do_not_depend_on_batches(exported):
    net = exported[0]
    people, _ = square_people()
    finder = finder_for(net)
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
    """Heat-maps drawn at known places of the input come back in pixels of the picture."""
    from gluon_attn.coco.keypoints import heatmap_targets
    from gluon_attn.coco.keypoints_batches import transform

    people, _ = square_people(3)
    rng = np.random.default_rng(1)
    truth = people.boxes[:, None, :2] + rng.uniform(5, 35, (3, 17, 2))
    finder = finder_for(tiny_net(), flip_test=False)
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


def result(**changes):
    values = {"image_id": 139, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}
    values.update(changes)
    return {k: v for k, v in values.items() if v is not None}


def test_official_files_of_boxes(tmp_path, caplog):
    path = tmp_path / "boxes.json"
    for name in ("000000000139.jpg", "COCO_val2014_000000000139.png", "own.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((50, 40, 3), np.uint8))
    pictures = find_images([tmp_path])
    path.write_text(json.dumps([result(), result(category_id=3), result(image_id=7)]))
    assert read_results(path) == [(139, [1, 2, 30, 40], 0.5), (7, [1, 2, 30, 40], 0.5)]
    found, boxes, scores = boxes_of_images(pictures, path)
    assert len(found) == 2 and boxes == [[[1, 2, 30, 40]]] * 2 and scores == [[0.5]] * 2
    path.write_text(json.dumps({"own.png": [[1, 2, 3, 4], [5, 6, 7, 8]]}))
    found, boxes, scores = boxes_of_images(pictures, path)
    assert [p.key for p in found] == ["own.png"] and scores == [[1.0, 1.0]]
    for record, message in (
        (result(bbox=None), "record 0 lacks bbox"),
        (result(bbox=[1, 2, 3]), "must be numbers"),
        (result(category_id=3), r"no box of category 1 .people., but of 3"),
        (result(score="high"), "must be numbers"),
    ):
        path.write_text(json.dumps([record]))
        with pytest.raises(ValueError, match=message):
            read_results(path)
    path.write_text(json.dumps([result(), result(bbox=[1, 2, 0, 4]), result(bbox=[1, 2, 3, -4])]))
    assert read_results(path) == [(139, [1, 2, 30, 40], 0.5)]
    assert "2 of 3 boxes left out: 2 without area (the first: record 1, [1" in caplog.text
    assert read_results(path, "1") == read_results(path), "ids as numbers or as text"
    path.write_text(json.dumps([result(image_id=8)]))
    with pytest.raises(ValueError, match="lists none of the 3 images"):
        boxes_of_images(pictures, path)
    path.write_text("[{")
    with pytest.raises(ValueError, match="boxes.json:1: not valid JSON"):
        read_results(path)
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "none.json")


# ---------------------------------------------------------------------------------- export


def test_an_export_gives_the_net_s_heat_maps(exported):
    net, folder, sidecar = exported
    assert sidecar["parity"]["max_abs_diff"] <= 1e-5 and sidecar["task"] == "keypoints"
    image = mx.nd.random.normal(shape=(3, 3, 128, 96))
    finder = finder_of_export(folder)
    np.testing.assert_allclose(finder.net(image).asnumpy(), net(image).asnumpy(), atol=1e-4)
    assert finder.names == KEYPOINTS and finder.reading == Reading()
    with pytest.raises(ValueError, match="an export for keypoints"):
        Predictor(folder)
    people, _ = square_people(2)
    own = finder_for(net)(people, workers=0)
    for a, b in zip(finder(people, workers=0), own):
        np.testing.assert_allclose(a, b, atol=1e-2)
    with pytest.raises(FileExistsError):
        export_pose(net, folder, "pose", KEYPOINTS, preprocess={"mean": MEAN, "std": STD})
    with pytest.raises(ValueError, match="2 keypoint names for 17 heat-maps"):
        pixels = {"mean": MEAN, "std": STD}
        export_pose(net, folder.with_name("b"), "pose", ("a", "b"), preprocess=pixels)


def test_a_damaged_export_is_refused(exported, tmp_path):
    import shutil

    shutil.copytree(exported[1], tmp_path / "copy")
    path = next((tmp_path / "copy").glob("*.params"))
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(ExportError, match="checksum mismatch"):
        finder_of_export(tmp_path / "copy")


def test_predicting_files(exported, tool, tmp_path):
    """tools/predict.py: table, JSON, CSV, drawn keypoints, boxes, bad pictures and flags."""
    folder, pictures = exported[1], tmp_path / "pictures"
    pictures.mkdir()
    for k in range(2):
        image = np.random.default_rng(k).integers(0, 256, (80, 60, 3)).astype(np.uint8)
        cv2.imwrite(str(pictures / f"{k}.png"), image)
    (tmp_path / "boxes.json").write_text(json.dumps({"0.png": [[5, 6, 30, 40], [20, 6, 30, 70]]}))
    code, text, error = tool(
        "predict.py", folder, pictures, "--json", tmp_path / "a.json", "--csv",
        tmp_path / "a.csv", "--draw", tmp_path / "drawn", "--boxes", tmp_path / "boxes.json",
        "--threshold", 0.0,
    )  # fmt: skip
    assert code == 0, error
    assert "0.png" in text and "of 17" in text
    content = json.loads((tmp_path / "a.json").read_text())
    assert len(content["people"]) == 2 and content["keypoints"] == list(KEYPOINTS)
    assert content["people"][0]["box"] == [5, 6, 30, 40]
    assert np.array(content["people"][0]["keypoints"]).shape == (17, 3)
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 3
    drawn = cv2.imread(str(next((tmp_path / "drawn").iterdir())))
    assert (drawn != cv2.imread(str(pictures / "0.png"))).any()
    (pictures / "1.png").write_bytes(b"no picture")
    code, text, error = tool("predict.py", folder, pictures, "--on-bad-image", "skip", "--csv", "-")
    assert code == 0 and "is a text file, no image" in text
    for flags in (["--heatmaps", tmp_path / "x"], ["--backend", "onnxruntime"], []):
        code, text, error = tool("predict.py", folder, pictures, *flags)
        assert code == 2 and error.startswith("error:")


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="no onnxruntime")
@pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="onnx is not installed")
def test_onnx_is_the_one_further_form(exported, tool, tmp_path, monkeypatch):
    from onnx_helpers import agree

    from gluon_attn.export import onnx as onnx_model

    monkeypatch.setattr(onnx_model, "TOLERANCE", 1e-4)  # maps of this untrained net reach 50
    folder = tmp_path / "pose"
    shutil.copytree(str(exported[1]), str(folder))
    code, text, error = tool("export.py", "--export", folder, "--onnx")
    assert code == 0 and "onnx: opset 13" in text, error
    images = np.random.RandomState(0).normal(size=(2, *exported[2]["input"]["shape"][1:]))
    expected = exported[0](mx.nd.array(images)).asnumpy()
    raw = (folder / "pose.onnx").read_bytes()
    agree(raw, [images.astype("float32")], [{"heatmaps": expected}], tolerance=2e-4)
    code, _, error = tool("export.py", "--export", folder, "--int8", "--calib", tmp_path)
    assert code == 2 and "--int8: this net is exported in float32 and with --onnx, " in error


# -------------------------------------------------------------------------------- training


@needs_coco
def test_a_resumed_run_ends_with_the_same_bits(data, tmp_path):
    whole = run_training(data, tmp_path / "whole")
    run_training(data, tmp_path / "part", epochs=1)
    (tmp_path / "part" / "test.json").unlink()
    again = run_training(data, tmp_path / "part", resume=True)
    assert whole["best"] == again["best"]
    a, b = (checkpoint_arrays(tmp_path / name / "last.ckpt") for name in ("whole", "part"))
    assert set(a) == set(b) and len(a) > 50
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name], err_msg=name)
    record = json.loads((tmp_path / "whole" / "best.json").read_text())
    assert record["classes"] == list(KEYPOINTS) and {"AP50", "AP75", "AR", "mAP"} <= set(record)
    stats = json.loads((tmp_path / "whole" / "test.json").read_text())["stats"]
    assert stats["AP"] == whole["best"]["mAP"] and stats["AP_large"] is None


@needs_coco
def test_from_training_to_evaluation_by_the_tools(data, tool, tmp_path):
    path = write_recipe(tmp_path / "tiny.json", epochs=1, options={"flip_test": False})
    run, out = tmp_path / "run", tmp_path / "export"
    code, text, error = tool("train.py", "--recipe", path, "--data-dir", data, "--save-dir", run,
                "-j", 1, "--no-test")  # fmt: skip
    assert code == 0, error
    code, text, error = tool("export.py", "--run", run, "--out", out)
    assert code == 0 and "parity with plain MXNet" in text, error
    assert not finder_of_export(out).reading.flip_test, "settings of the run go with it"
    common = ("--data-dir", data, "-j", 1, "--split", "val2017")
    scores = {}
    for name, source in (("run", ("--run", run)), ("export", ("--export", out))):
        folder = tmp_path / f"of_{name}"
        code, text, error = tool("evaluate.py", *source, *common, "--out", folder)
        assert code == 0 and "OKS" not in error, error
        assert "Average Precision" in text and "annotated boxes" in text
        scores[name] = json.loads((folder / "val2017.json").read_text())["stats"]
    assert scores["run"] == pytest.approx(scores["export"], nan_ok=True)
    content = json.loads((data / "annotations/instances_val2017.json").read_text())
    boxes = [{k: a[k] for k in ("image_id", "category_id", "bbox")} for a in content["annotations"]]
    (tmp_path / "found.json").write_text(json.dumps([dict(b, score=0.7) for b in boxes]))
    code, text, error = tool("evaluate.py", "--run", run, *common, "--out", tmp_path / "detected",
                "--boxes", tmp_path / "found.json")  # fmt: skip
    assert code == 0 and "boxes of" in text, error
    code, text, error = tool("export.py", "--run", run, "--out", tmp_path / "b", "--with-maps")
    assert code == 2 and "--with-maps" in error


@needs_coco
@pytest.mark.nightly
@pytest.mark.parametrize("block", [None, "se", "cbam", "hoga"])
def test_eight_people_are_learnt_by_heart(data, tmp_path, block):
    """AP over 0.95 on the people it was trained on, without augmentation and flip test."""
    options = {"scale": 0.0, "rotation": 0.0, "encoding": "unbiased", "flip_test": False}
    changes = {"model_options": {"width": 16}, "splits": ("train2017",) * 3, "mirror": False}
    if block:
        changes["model_options"]["attention"] = {"stage4": block}
    best = run_training(
        data, tmp_path / "run", epochs=5, batch_size=8, iterations_per_epoch=40, options=options,
        lr_epochs=(4,), **changes,
    )["best"]  # fmt: skip
    assert best["mAP"] > 0.95, best


@needs_coco
def test_training_needs_a_keypoint_net_and_keypoint_data(data, tmp_path):
    with pytest.raises(ValueError, match="simple_pose"):
        run_training(data, tmp_path / "a", model="resnet18_w16_synthetic")
    with pytest.raises(FileNotFoundError, match="person_keypoints_nowhere.json"):
        run_training(data, tmp_path / "b", splits=("nowhere", "val2017", "val2017"))
    assert TINY in recipe()["model"]
