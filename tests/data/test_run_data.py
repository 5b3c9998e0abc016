"""A run's data are read as its recipe says, by every command, whatever else the folder holds."""

from __future__ import annotations

import json
import runpy
import shutil
import sys

import mxnet as mx
import pytest
from formats.tiny import write_lines, write_tiny
from kinds_helpers import annotate, image, target

from gluon_attn.core.recipe import Recipe
from gluon_attn.export import export_model
from gluon_attn.export.sidecar import read_sidecar
from gluon_attn.task import Exported, Trained
from gluon_attn.tasks import data as evaluate
from gluon_attn.tasks.forms import calibration_data
from gluon_attn.train import trained as load
from gluon_attn.train.run import Settings, train
from tools.site import gallery, publish

SMALL = {
    "method": "baseline", "model": "resnet18_w16_synthetic", "model_options": {"width": 8},
    "input_size": 32, "resize": 36, "crop_min": 28, "crop_max": 36, "eval_crop": 34, "epochs": 1,
    "batch_size": 4, "schedule": "constant",
}  # fmt: skip
BOXES, CROPS = {"train": 8, "val": 4, "test": 6}, {"train": 6, "val": 3, "test": 5}
LABELS = [[1, -1] * 7, [-1, 1] * 7]  # every attribute has both values


def write_both(root):
    """Write people of WIDER-Attribute as boxes and, fewer of them, as SRN's crops."""
    for part, listed, splits in (
        ("trainval", "train", ("train", "val")), ("test", "test", ("test",)),
    ):  # fmt: skip
        boxes, crops = {}, []
        for split in splits:
            for k in range(BOXES[split]):
                name = f"{split}/0--Parade/{k}.jpg"
                for folder in ("Image", "Image_cropped"):
                    image(root / folder / name, 20 * k, (40, 30))
                boxes[name] = [target([2, 2, 20, 30], LABELS[k % 2])]
                crops += [(name, LABELS[k % 2])] * (k < CROPS[split])
        annotate(root, boxes, part)
        stem = f"wider_att/wider_att_{listed}"
        write_lines(root / f"{stem}_imglist.txt", [name for name, _ in crops])
        write_lines(root / f"{stem}_label.txt", [" ".join(map(str, row)) for _, row in crops])
    return root


def trained(folder, data, **changes):
    chosen = Recipe.from_dict({**SMALL, **changes})
    train(chosen, Settings(str(data), str(folder), workers=0, console=False, test=False))
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return write_both(tmp_path_factory.mktemp("both"))


@pytest.fixture(scope="module")
def runs(both, tmp_path_factory):
    """Runs on the crops, and on what the folder is by itself: boxes."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "crops": trained(folder / "crops", both, dataset="wider_srn"),
        "boxes": trained(folder / "boxes", both),
    }


@pytest.fixture
def tool(repository, monkeypatch, capsys):
    """A function that runs a tool in this process; returns status and both outputs."""

    def call(name, *words):
        path = str(repository / "tools" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *map(str, words)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as end:
            runpy.run_path(path, run_name="__main__")
        return (end.value.code, *capsys.readouterr())

    return call


def samples(folder, split="test"):
    return json.loads((folder / f"{split}.json").read_text())["samples"]


@pytest.mark.parametrize("run", ["crops", "boxes"])
def test_evaluation_scores_the_samples_that_the_run_was_tested_on(tool, runs, both, tmp_path, run):
    words = ("--data-dir", both, "--out", tmp_path, "--no-figures", "-j", 0)
    status, out, err = tool("evaluate", "--run", runs[run], *words)
    assert status == 0 and not err, err
    assert samples(tmp_path) == (CROPS if run == "crops" else BOXES)["test"]


def test_another_kind_is_read_if_asked_for_by_name(tool, runs, both, tmp_path):
    words = ("--data-dir", both, "--out", tmp_path, "--no-figures", "-j", 0)
    status, _, err = tool("evaluate", "--run", runs["crops"], *words, "--dataset", "wider")
    assert (status, err, samples(tmp_path)) == (0, "", BOXES["test"])
    status, _, err = tool("evaluate", "--run", runs["crops"], *words, "--dataset", "widr")
    assert status == 2 and "unknown data set 'widr'; did you mean 'wider'" in err


def test_a_folder_of_another_kind_is_an_error_that_names_both(tool, runs, both, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(both, data)
    shutil.rmtree(data / "wider_att")
    status, _, err = tool("evaluate", "--run", runs["crops"], "--data-dir", data)
    assert status == 2 and err.count("\n") == 1
    assert "wider_att_test_imglist.txt is missing" in err
    assert f"read as dataset=wider_srn, as the recipe says; {data} looks like dataset=" in err
    assert "wider" in err.rpartition("dataset=")[2]
    assert err.endswith("(evaluate.py --dataset KIND reads another)\n")
    with pytest.raises(FileNotFoundError, match=r"dataset=.*wider.* \(dataset=KIND reads another"):
        evaluate.open_split(Recipe("", "", dataset="wider_srn"), str(data), "test")


def test_an_export_keeps_how_its_data_are_read(tool, runs, both, tmp_path):
    net = load.from_run(str(runs["crops"]), [mx.cpu()])
    export = export_model(
        net.net, tmp_path / "x", "x", net.classes, net.input_size, net.export_preprocess,
        extra=net.extra, check=False,
    )  # fmt: skip
    words = ("--data-dir", both, "--out", tmp_path / "out", "--no-figures")
    assert tool("evaluate", "--export", export, *words)[0] == 0
    assert samples(tmp_path / "out") == CROPS["test"]
    sidecar = read_sidecar(export)
    found = calibration_data(
        str(both), Exported(str(tmp_path / "export"), sidecar), count=9, workers=1
    )
    assert (len(found.images), found.fingerprint["score_samples"]) == (6, 3)
    assert (found.fingerprint["split"], found.fingerprint["score_split"]) == ("train", "val")


def test_a_gallery_compares_on_the_data_of_its_runs(runs, both, tmp_path):
    gallery.make_gallery({"a": str(runs["crops"])}, str(both), str(tmp_path), images=1, workers=0)
    assert samples(tmp_path / "tables" / "0_a") == CROPS["test"]
    pair = {"a": str(runs["crops"]), "b": str(runs["boxes"])}
    with pytest.raises(ValueError) as caught:
        gallery.make_gallery(pair, str(both), str(tmp_path / "out"), images=1, workers=0)
    text = str(caught.value)
    assert "dataset=auto, data_options={}, as b was trained" in text
    assert "dataset=wider_srn" in text and "compare nets on the same" in text
    assert not (tmp_path / "out").exists()


def test_an_analysis_compares_on_the_data_of_its_runs(tool, runs, both, tmp_path):
    words = ("--run", runs["crops"], "--data-dir", both, "--out", tmp_path, "-j", 0)
    more = ("--analyse", "selectivity", "--compare", runs["boxes"])
    status, _, err = tool("evaluate", *words, *more)
    assert status == 2 and "as boxes was trained, these are other data than with" in err
    status, out, err = tool("evaluate", *words, "--analyse", "selectivity")
    assert status == 0, err


def test_publishing_scores_the_samples_of_the_run(runs, both):
    net = load.from_run(str(runs["crops"]), [mx.cpu()])
    source = publish.Source(str(runs["crops"]), str(both), "prepare_data.py digits", "trained")
    entry = publish._entry("x", source, net, str(runs["crops"] / "best.params"), split=None)
    assert (entry["score"]["split"], entry["score"]["samples"]) == ("test", CROPS["test"])
    assert set(entry["data"]["sha256"]) == {"train", "val", "test"}


def test_other_samples_than_in_training_are_told(runs, both, tmp_path, caplog):
    """The folder is the run's, but the labels of a crop are others."""
    data = tmp_path / "data"
    shutil.copytree(both, data)
    path = data / "wider_att" / "wider_att_train_label.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[1]]) + "\n")
    net = load.from_run(str(runs["crops"]), [mx.cpu()])
    for folder, told in ((both, False), (data, True)):
        caplog.clear()
        dataset = evaluate.open_for(net, str(folder), "val")
        evaluate.tell_other_data(net, dataset, str(folder))
        assert ("holds other samples or labels" in caplog.text) == told


def test_settings_of_the_reader_that_it_does_not_have_are_named(both):
    recipe = Recipe.from_dict({**SMALL, "dataset": "rap", "data_options": {"partitoin": 2}})
    with pytest.raises(ValueError, match="data option of dataset=rap 'partitoin'; did you mean"):
        evaluate.open_split(recipe, str(both), "train")


def test_the_split_of_the_recipe_is_the_default(tool, both, tmp_path):
    run = trained(tmp_path / "run", both, splits=("trainval", "test", "val"))
    words = ("--data-dir", both, "--out", tmp_path, "--no-figures", "-j", 0)
    assert tool("evaluate", "--run", run, *words)[0] == 0
    assert samples(tmp_path, "val") == BOXES["val"]


@pytest.mark.parametrize("kind, changes, result", [
    ("garments", {"score": "top1"}, "test.json"),
    ("market", {"score": "accuracy", "unspecified": "masked"}, "test_accuracy.json"),
])  # fmt: skip
def test_other_kinds_train_and_are_evaluated(tool, trees, tmp_path, kind, changes, result):
    root = trees.copy(kind, tmp_path / "data")
    if kind == "market":  # images in one folder, their attributes in another
        file = (root / "market_attribute.mat").rename(tmp_path / "labels.mat")
        changes = {**changes, "data_options": {"attributes": str(file), "holdout": 0.4}}
    run = trained(tmp_path / "run", root, dataset=kind, **changes)
    words = ("--data-dir", root, "--out", tmp_path, "--no-figures", "-j", 0)
    status, out, err = tool("evaluate", "--run", run, *words)
    assert status == 0 and (tmp_path / result).exists(), err


def test_people_are_searched_in_the_data_of_the_run(tmp_path):
    write_tiny("reid_duke", tmp_path, {"train": 8, "val": 4, "test": 8})

    class Net:  # noqa: E301
        task, input_size, output_names = "reid", (32, 16), ("logits", "embedding")

    recipe = Recipe.from_dict({**SMALL, "dataset": "reid_market"})
    values = evaluate.eval_preprocess(recipe)
    found = Trained("reid", Net(), (), values, {"recipe": recipe.to_dict()})
    with pytest.raises(ValueError) as caught:
        evaluate.open_for(found, str(tmp_path))
    text = str(caught.value)
    assert "read as dataset=reid_market, as the recipe says" in text
    assert "reid_duke" in text.rpartition("looks like")[2]
