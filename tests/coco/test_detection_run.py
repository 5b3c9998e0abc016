"""A detector from the recipe to the drawn picture: training, resuming, COCO's scores, export."""

from __future__ import annotations

import importlib.util
import json

import mxnet as mx
import numpy as np
import pytest
from gluoncv_helpers import gluoncv_or_skip

gluoncv_or_skip()
pytest.importorskip("pycocotools")

from detection_helpers import (  # noqa: E402
    BLOCKS,
    SIZE,
    open_data,
    overfit,
    recipe,
    tiny_net,
    write_data,
)
from formats.tiny_coco import write_tiny_coco  # noqa: E402
from training_helpers import checkpoint_arrays  # noqa: E402

from gluon_attn.coco import detection_task as detection  # noqa: E402
from gluon_attn.coco.detection_batches import StretchTransform  # noqa: E402
from gluon_attn.coco.detection_task import (  # noqa: E402
    ExportedDetector,
    detect_files,
    export_detector,
)
from gluon_attn.core.recipe import Recipe  # noqa: E402
from gluon_attn.export import ExportError  # noqa: E402
from gluon_attn.task import TASKS, Exported  # noqa: E402
from gluon_attn.tasks.data import open_for  # noqa: E402
from gluon_attn.tasks.images import find_images  # noqa: E402
from gluon_attn.train import trained as load  # noqa: E402
from gluon_attn.train import use_static_graph  # noqa: E402
from gluon_attn.train.run import Settings, train  # noqa: E402

RUNS = ("ssd", pytest.param("faster_rcnn", marks=pytest.mark.nightly))
PIXELS = {"mean": (123.68, 116.779, 103.939), "std": (58.393, 57.12, 57.375)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module", params=RUNS)
def run(request, data, tmp_path_factory):
    """A finished run of two epochs."""
    folder = tmp_path_factory.mktemp(request.param)
    result = train_tiny(folder, data, request.param)
    return request.param, folder, result


def train_tiny(folder, data, method, resume=False, **changes):
    settings = Settings(str(data), str(folder), resume=resume, workers=0, console=False)
    return train(Recipe.from_dict(recipe(method, **changes)), settings)


def test_a_run_leaves_weights_scores_and_detections(run, data):
    method, folder, result = run
    assert result["best"]["epoch"] == 1 and set(result["best"]) == {"epoch", "mAP", "AP50", "AP75"}
    test = json.loads((folder / "test.json").read_text())
    assert test["stats"]["AP"] == pytest.approx(result["best"]["mAP"])
    assert set(test["per_class"]) == set(open_data(data).names)
    records = json.loads((folder / "test_detections.json").read_text())
    assert len(records) == test["detections"]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    names = ("class", "box") if method == "ssd" else ("rpn_class", "rpn_box", "class", "box")
    assert all(np.isfinite(line[f"loss_{name}"]) for line in lines for name in names)


def test_scores_equal_pycocotools_on_the_files_own_records(run, data):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    records = data / "own.json"
    _, folder, result = run
    records.write_text((folder / "test_detections.json").read_text())
    truth = COCO(str(data / "annotations" / "instances_val2017.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(records)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = [np.nan if v is None else v for v in result["test"].values["stats"].values()]
    expected = np.where(np.array(evaluation.stats) < 0, np.nan, evaluation.stats)
    np.testing.assert_allclose(ours, expected, rtol=1e-9)


def test_perfect_detections_score_one(data):
    """Boxes of the truth, sent through the transform of evaluation and back."""
    dataset, transform = open_data(data, "val2017"), StretchTransform(96)

    def oracle(images):
        # A picture is recognised by its pixels: the loader keeps the order of the data set.
        rows = np.full((len(images), 20, 6), -1.0)
        for row in rows:
            image, boxes, classes, _ = dataset[oracle.next]
            framed = transform(image, boxes, classes)
            row[: len(boxes)] = np.c_[classes, np.ones(len(boxes)), framed.boxes]
            oracle.next += 1
        return [mx.nd.array(part) for part in (rows[..., 0], rows[..., 1], rows[..., 2:])]

    oracle.next = 0
    records = detection.detect(oracle, dataset, transform, mx.cpu(), batch_size=2, workers=0)
    stats = detection.evaluate_detections(dataset.coco, records).stats
    assert stats["AP"] == pytest.approx(1.0)


def test_a_resumed_run_ends_with_the_same_bits(run, data, tmp_path):
    method, whole, _ = run
    train_tiny(tmp_path, data, method, epochs=1)
    train_tiny(tmp_path, data, method, resume=True)
    one, other = (checkpoint_arrays(folder / "last.ckpt") for folder in (whole, tmp_path))
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


# ------------------------------------------------------------------------------ export and tools


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The export of a run, and the net that it was made from."""
    method, folder, _ = run
    trained = load.from_run(str(folder), [mx.cpu()])
    directory = tmp_path_factory.mktemp("export") / method
    sidecar = export_detector(
        trained.net,
        directory,
        "tiny",
        trained.classes,
        preprocess=trained.preprocess,
        extra=trained.extra,
    )
    return directory, trained, sidecar


def test_a_run_is_exported_with_parity_and_evaluated_alike(exported, data):
    directory, trained, sidecar = exported
    assert sidecar["parity"]["max_abs_diff"] <= 1e-5 and sidecar["task"] == "detection"
    assert len(sidecar["outputs"]) == {"ssd": 5, "faster_rcnn": 3}[trained.net.method]
    dataset, records = open_data(data, "val2017"), []
    for net in (trained.net, ExportedDetector(directory)):
        transform = detection.eval_transform(net, **PIXELS)
        records.append(detection.detect(net, dataset, transform, mx.cpu(), batch_size=3, workers=0))
    assert records[0] == records[1] and records[0]


def test_suppression_of_two_stages_is_exported(tmp_path):
    """Plain MXNet proposes and keeps what the net does, for high pictures as for wide ones."""
    net = tiny_net("faster_rcnn", score_threshold=0.0)
    use_static_graph(net)
    export_detector(net, tmp_path / "export", "tiny", list("abcde"), preprocess=PIXELS)
    again = ExportedDetector(tmp_path / "export")
    assert again.output_names == net.output_names and again.sides == (96, 128)
    for shape in ((2, 3, 96, 128), (1, 3, 128, 96)):
        images = mx.nd.random.normal(shape=shape)
        found = [out.asnumpy() for out in again(images)]
        for one, other in zip(found, net(images)):
            np.testing.assert_allclose(one, other.asnumpy(), rtol=1e-5, atol=1e-5)
        assert (found[0] >= 0).any()


def tool(repository, name):
    """Return a script of tools/ as a module."""
    path = repository / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"tool_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_predict_writes_records_and_drawn_boxes(repository, exported, data, tmp_path):
    arguments = [
        exported[0], data / "val2017", "--threshold", 0.0, "--json", tmp_path / "all.json",
        "--draw", tmp_path / "drawn", "--csv", tmp_path / "all.csv",
    ]  # fmt: skip
    tool(repository, "predict").main([str(a) for a in arguments])
    contents = json.loads((tmp_path / "all.json").read_text())
    assert len(contents["pictures"]) == 4 == len(list((tmp_path / "drawn").iterdir()))
    boxes = [d for p in contents["pictures"] for d in p["detections"]]
    assert boxes and all(d["class"] in contents["classes"] for d in boxes)
    assert all(d["box"][0] >= 0 and d["box"][0] + d["box"][2] <= 128.001 for d in boxes)
    rows = (tmp_path / "all.csv").read_text().splitlines()
    assert len(rows) == 1 + len(boxes)
    best = max(d["score"] for d in boxes)
    pictures = find_images([str(data / "val2017")])
    few = detect_files(ExportedDetector(exported[0]), pictures, best - 1e-6)
    assert 1 <= sum(len(p["detections"]) for p in few) < len(boxes)


def test_predict_says_what_detectors_cannot_do(repository, exported, data):
    arguments = [str(exported[0]), str(data / "val2017"), "--heatmaps", "maps"]
    with pytest.raises(ValueError, match="--draw DIR"):
        tool(repository, "predict").main(arguments)


def test_evaluate_of_an_export_writes_cocos_table(
    repository, exported, data, tmp_path, monkeypatch, capsys
):  # fmt: skip
    arguments = ["--export", exported[0], "--data-dir", data, "--out", tmp_path / "scores", "-j", 0]
    monkeypatch.setattr("sys.argv", ["evaluate.py", *map(str, arguments)])
    tool(repository, "evaluate").main()
    assert "Average Precision" in capsys.readouterr().out
    assert (tmp_path / "scores" / "val2017.json").is_file()


def test_an_export_with_other_classes_is_refused(exported, tmp_path):
    write_tiny_coco(tmp_path, {"train2017": 1, "val2017": 1}, size=SIZE, categories="all")
    with pytest.raises(ValueError, match="has the classes person, bicycle.*made for person, stop"):
        open_for(Exported.open(exported[0]), str(tmp_path), "test")


def test_forms_that_do_not_exist_are_refused(tmp_path):
    args = type("Args", (), {"int8": True, "onnx": True, "bf16": False, "with_maps": False})
    with pytest.raises(ValueError, match="--int8, --onnx: this net"):
        TASKS.get("detection").check_forms(args)


def test_a_classifiers_export_is_no_detector(tmp_path):
    from gluon_attn.export import export_model
    from model_zoo import get_model

    net = get_model("resnet18_w16_digits", width=8)
    net.initialize()
    names = [str(k) for k in range(10)]
    export_model(net, tmp_path / "digits", "digits", names, 64, PIXELS, check=False)
    with pytest.raises(ExportError, match="its task is classification"):
        ExportedDetector(tmp_path / "digits")


# ------------------------------------------------------------------------------ overfitting


@pytest.mark.nightly
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("method, epochs, least", [("ssd", 100, 0.95), ("faster_rcnn", 120, 0.8)])
def test_eight_pictures_are_learnt_by_heart(method, epochs, least, block, data, tmp_path):
    options = {
        "ssd": {"warmup_epochs": 5.0, "expand": 1.0, "crop": False, "colour": False},
        "faster_rcnn": {"warmup_updates": 20, "samples": 64},
    }[method]  # fmt: skip
    changes = {"ssd": {"batch_size": 8}, "faster_rcnn": {"batch_size": 2, "lr": 0.01,
                                                         "lr_epochs": (100,)}}  # fmt: skip
    found = overfit(tmp_path / "run", data, method, block, epochs=epochs, options=options,
                    **changes[method])  # fmt: skip
    print(method, block, {key: round(found[key], 3) for key in ("AP", "AP50", "AP75")})
    assert found["AP"] >= least and found["AP50"] > 0.99 and found["AP75"] > 0.95
