"""The whole way from training to predictions, and what stops it: one line, nothing half-written."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import resource
import shutil
import sys
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import process_helpers as processes
import pytest
from training_helpers import NAMES, write_data, write_recipe

from gluon_attn.core.files import save_parameters
from model_zoo import get_model

ROOT = Path(__file__).resolve().parents[2]
STEM = "vaa_resnet18_w16_synthetic"


def contents(folder):
    """Return the digest of every file of a folder, but for the log, which grows with each try."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != "train.log"
    }


def read_json(*parts):
    return json.loads(Path(*map(str, parts)).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny data set and recipe, weights for the backbone, and what the tests write."""
    folder = tmp_path_factory.mktemp("tools")
    write_data(folder / "data")
    write_recipe(folder / "tiny.json", epochs=3)
    for name, width in (("fits", 8), ("wide", 16)):
        net = get_model("resnet18_w16_synthetic", classes=5, width=width, input_size=32)
        net.initialize(mx.init.Xavier())
        save_parameters(net, str(folder / f"{name}.params"))
    cut = (folder / "fits.params").read_bytes()
    (folder / "cut.params").write_bytes(cut[: len(cut) // 2])
    return folder


@pytest.fixture(scope="module")
def flow(folder, succeed):
    """Train; evaluate and export; predict and evaluate the export: standard outputs by step."""
    data, run, export = folder / "data", folder / "run", folder / "export"
    common = ("--data-dir", data, "-j", 1)
    return {
        "train": succeed(
            "train.py", "--recipe", folder / "tiny.json", *common, "--save-dir", run,
            "--base-params", folder / "fits.params", "--lr", "0.01", "gamma=1.5",
        ),
        "evaluate": succeed("evaluate.py", "--run", run, "--out", folder / "eval", *common),
        "export": succeed("export.py", "--run", run, "--out", export, "--with-maps"),
        "predict": succeed(
            "predict.py", export, *(data / f"images/test{k}.png" for k in range(24)),
            "--json", folder / "predicted.json",
        ),
        "evaluate_export": succeed("evaluate.py", "--export", export, "--no-figures", *common),
    }  # fmt: skip


# ------------------------------------------------------------------------------ the whole way
def test_training_writes_a_run(flow, folder):
    names = {p.name for p in (folder / "run").iterdir()}
    wanted = "last.ckpt best.params best.json recipe.json log.jsonl train.log curves.png"
    wanted += " test.json test.csv test.md test_predictions.npz"
    assert set(wanted.split()) <= names and not [name for name in names if name.startswith(".")]
    record = read_json(folder / "run" / "recipe.json")
    recipe = record["recipe"]
    assert list(record["data"]) == ["train", "val", "test"]
    assert (recipe["lr"], recipe["options"]["gamma"]) == (0.01, 1.5)  # flag and key=value
    for text in ("Epoch[0] Batch [2]\tSpeed: ", "mean over attributes", "best.params",
                 "python tools/export.py --run"):  # fmt: skip
        assert text in flow["train"]
    assert "Backbone from" in (folder / "run" / "train.log").read_text()


def test_evaluation_repeats_the_runs_own_numbers(flow, folder):
    own, again = read_json(folder, "run/test.json"), read_json(folder, "eval/test.json")
    assert own["attributes"][0]["name"] == NAMES[0] and len(own["attributes"]) == len(NAMES)
    pairs = [*zip(own["attributes"], again["attributes"]), (own["overall"], again["overall"])]
    for one, other in pairs:
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert other[key] == (value if isinstance(value, str) else pytest.approx(value))
    shown = f"{100 * own['overall']['mAP']:.1f}"
    for text in (flow["train"], flow["evaluate"], (folder / "eval" / "test.md").read_text()):
        rows = [line.replace("|", " ").replace("*", " ").split() for line in text.splitlines()]
        (row,) = (row for row in rows if row[:3] == ["mean", "over", "attributes"])
        assert row[3] == shown
    with open(str(folder / "eval" / "test.csv"), newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    for row in own["attributes"]:
        assert float(rows[row["name"]]["ap"]) == pytest.approx(row["ap"])
    for name in ("test_pr_curves", "test_ap", "test_attention"):
        image = cv2.imread(str(folder / "eval" / f"{name}.png"))
        assert min(image.shape[:2]) > 100 and image.std() > 5 and f"{name}.png" in flow["evaluate"]


def test_export_tells_what_it_wrote_and_gives_the_same_scores(flow, folder):
    (line,) = (x for x in flow["export"].splitlines() if x.startswith("parity with plain MXNet"))
    assert float(line.split()[-1]) <= 1e-5
    assert "next: python tools/predict.py " in flow["export"]
    found = sorted(p.name for p in (folder / "export").iterdir())
    assert found == [f"{STEM}-0000.params", f"{STEM}-symbol.json", f"{STEM}.json"]
    assert all(name in flow["export"] for name in found[:2])
    sidecar = read_json(folder / "export" / f"{STEM}.json")
    assert tuple(sidecar["classes"]) == NAMES
    assert [out["kind"] for out in sidecar["outputs"]] == ["logits", "attention", "attention"]
    assert sidecar["extra"]["recipe"]["options"]["gamma"] == 1.5
    own = read_json(folder, "run/test.json")["overall"]
    again = read_json(folder, "export_evaluation/test.json")["overall"]
    for score in ("mAP", "mA"):
        assert again[score] == pytest.approx(own[score], abs=1e-6)
    assert "mean over attributes" in flow["evaluate_export"]


def test_predictions_from_the_export_are_those_of_the_evaluation(flow, folder):
    predicted = read_json(folder / "predicted.json")
    assert tuple(predicted["classes"]) == NAMES and all(name in flow["predict"] for name in NAMES)
    with np.load(str(folder / "eval" / "test_predictions.npz"), allow_pickle=False) as archive:
        expected = archive["probs"]
    people = predicted["people"]
    assert [Path(p["image"]).name for p in people] == [f"test{k}.png" for k in range(24)]
    found = [[p["probabilities"][name] for name in NAMES] for p in people]
    np.testing.assert_allclose(found, expected, atol=1e-5)


# ------------------------------------------------------------------------------ errors
@pytest.fixture
def train(call, error, folder, tmp_path):
    """A function that trains on the tiny data and returns the error line; later flags win.

    With ``fails=False`` it returns the output of a training that succeeds.
    """

    def run(*arguments, data=folder / "data", fails=True):
        words = ("train.py", "--recipe", folder / "tiny.json", "--data-dir", data, "--save-dir",
                 tmp_path / "run", "-j", 1, "--no-test", "--num-epochs", 1, *arguments)  # fmt: skip
        if not fails:
            code, out, err = call(*words)
            assert code == 0, err
            return out
        line = error(*words)
        found = {p.name for p in (tmp_path / "run").glob("*")}
        assert found <= {"train.log", "log.jsonl", "recipe.json"}, "half-written"
        if "recipe.json" in found:
            read_json(tmp_path / "run" / "recipe.json")
        return line

    return run


# What tests/core/test_recipe.py has of overrides stands here once.
@pytest.mark.parametrize(
    "words, expected",
    [
        ("--recipe vaa_wider_resnet10", "'vaa_wider_resnet10'; did you mean 'vaa_wider"),
        ("gama=2", "unknown recipe key 'gama'; did you mean 'gamma'"),
        ("--lr fast", "lr must be float, got 'fast'"),
        ("model=vaa_resnet18_w16", "unknown model 'vaa_resnet18_w16'; did you mean"),
        ("model_options.widht=4", "'widht'; did you mean 'width'"),
        ("model_options.taps=stage9_activation0,", "unknown tap 'stage9_activation0'"),
        ("model_options.taps=stage9_activation0", "unknown tap 'stage9_activation0'"),
        ("model_options.input_size=64", "input_size=N decides it"),
        ("model_options.classes=7", "the data set decides it"),
        ("model_options.width=0", "width"),
        ("model=resnet18_w16_synthetic", "vaa"),  # a plain net for a method that needs heads
        ("history_length=2.5", "history_length"), ("gamma=high", "gamma"),
        ("schedule=linear", "unknown schedule 'linear'"),
        ("--data-dir /no/such/data", "/no/such/data is no folder"),
        ("--amp float16", "float16 needs a GPU"),
        ("--batch-size 100", "48 samples do not fill one batch of 100; use a smaller"),
        ("--base-params /no/such.params", "/no/such.params: no such parameter file"),
        ("--base-params FOLDER/wide.params", "does not fit ResNet; nothing was loaded"),
        ("--base-params FOLDER/cut.params", "cut.params: truncated or damaged"),
        ("--tensorboard", "pip install tensorboardX"),
    ],
)  # fmt: skip
def test_impossible_settings_are_one_line(train, folder, monkeypatch, words, expected):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert expected in train(*words.replace("FOLDER", str(folder)).split())


@pytest.fixture
def data(folder, tmp_path):
    """A copy of the data, to spoil."""
    return Path(shutil.copytree(str(folder / "data"), str(tmp_path / "data")))


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_bad_images(train, data, tmp_path, damage):
    names = ("images/train7.png", "images/val2.png")
    for name in names:
        whole = (data / name).read_bytes()
        (data / name).unlink()
        if damage == "truncated":
            (data / name).write_bytes(whole[: len(whole) // 2])
    line = train(data=data)
    assert names[0] in line or names[1] in line
    out = train("--on-bad-image", "skip", data=data, fails=False)
    assert all(name in out for name in names) and (tmp_path / "run" / "best.params").exists()
    assert "1 unreadable images of train were skipped" in out


def test_a_run_that_is_there_is_not_touched(error, flow, folder, tmp_path):
    run = shutil.copytree(str(folder / "run"), str(tmp_path / "run"))
    before = contents(run)
    given = ("train.py", "--recipe", folder / "tiny.json", "--data-dir", folder / "data",
             "--save-dir", run, "-j", 1, "gamma=1.5")  # fmt: skip
    assert "holds a run already; add --resume" in error(*given, "--lr", "0.01")
    line = error(*given, "--lr", "0.5", "--resume")
    assert "'lr' was 0.01, now it is 0.5; use the same settings or another --save-dir" in line
    assert contents(run) == before


def test_folders_that_hold_something_else(error, flow, folder, tmp_path):
    image, evaluate = folder / "data" / "images" / "test0.png", ("--data-dir", folder / "data")
    for expected, *words in (
        ("holds no trained weights", "evaluate.py", *evaluate, "--run", tmp_path),
        ("holds no trained weights", "export.py", "--run", tmp_path, "--out", tmp_path / "out"),
        (": not an export directory", "evaluate.py", *evaluate, "--export", tmp_path),
        (": not an export directory", "predict.py", tmp_path, image),
        ("no such export directory", "predict.py", tmp_path / "none", image),
        (f"no data set recognised in {tmp_path}", "train_wider.py", "--data-dir", tmp_path,
         "--save-dir", tmp_path / "run"),
        ("did you mean 'gamma'", "train_wider.py", "--data-dir", tmp_path,  # a VAA recipe
         "--save-dir", tmp_path / "run", "gama=1"),
    ):  # fmt: skip
        assert expected in error(*words)
    assert list(tmp_path.iterdir()) == []
    before, given = contents(folder / "export"), ("export.py", "--run", folder / "run", "--out")
    assert "export exists" in error(*given, folder / "export")
    assert contents(folder / "export") == before
    assert "is no export: it will not be" in error(*given, folder / "data", "--overwrite")


def test_data_with_other_attributes_or_without_the_split(error, flow, folder, data, tmp_path):
    (data / "names.txt").write_text("square\nring\nstripe\n")
    given = ("evaluate.py", "--run", folder / "run", "--out", tmp_path / "out", "-j", 1)
    line = error(*given, "--data-dir", data)
    assert "attributes square, ring, stripe; the model was made for square, disc, stripe" in line
    line = error(*given, "--data-dir", folder / "data", "--split", "tests")
    assert "tests.txt is missing; splits in this folder: test, train, val" in line
    assert not (tmp_path / "out").exists()


def test_a_zoo_model_needs_weights(error, folder, tmp_path, monkeypatch):
    given = ("evaluate.py", "--data-dir", folder / "data", "--model", "resnet20_w8_digits")
    assert "give --params FILE or --pretrained" in error(*given)
    line = error(*given, "--params", folder / "wide.params")  # of another net
    assert "what the 10 outputs of resnet20_w8_digits are: give --classes FILE" in line
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"))
    line = error(*given, "--params", folder / "wide.params", "--classes", tmp_path / "names.txt")
    assert "does not fit CifarResNet; nothing was loaded" in line
    for variable in ("HOME", "MXNET_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert "the model was made for class=zero, class=one" in error(*given, "--pretrained")
    others = (*given[:-1], "srm_resnet18_w16_digits", "--pretrained")
    assert "no weights are known for" in error(*others)


def test_a_zoo_model_evaluates_with_names_of_several_words(succeed, data, tmp_path):
    names = ["red square", "disc", "stripe"]
    (data / "names.txt").write_text("\n".join(names) + "\n")
    net = get_model("resnet18_w16_synthetic", classes=3)
    net.initialize(mx.init.Xavier())
    save_parameters(net, str(tmp_path / "three.params"))
    out = succeed(
        "evaluate.py", "--model", "resnet18_w16_synthetic", "--params", tmp_path / "three.params",
        "--names", data / "names.txt", "--data-dir", data, "-j", 1, "--no-figures",
        "--out", tmp_path / "out", "--mean", 127, "--std", 128, "--resize", "128x128",
    )  # fmt: skip
    assert "red square" in out
    assert [row["name"] for row in read_json(tmp_path, "out/test.json")["attributes"]] == names


def test_a_full_disk_leaves_the_run_as_it_was(flow, folder, tmp_path):
    run, export = tmp_path / "run", tmp_path / "export"
    shutil.copytree(str(folder / "run"), str(run))
    before = contents(run)
    sizes = {name: (run / name).stat().st_size for name in ("best.params", "last.ckpt")}
    between = sum(sizes.values()) // 2  # the weights still fit, the checkpoint does not
    assert sizes["best.params"] < between < sizes["last.ckpt"]

    def start(tool, *words, largest):
        command = [sys.executable, ROOT / "tools" / tool, *words]
        limits = (largest, largest)  # as on a full disk, a file that outgrows it fails
        return processes.start(
            command, env=dict(os.environ, OMP_NUM_THREADS="1"),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
        )  # fmt: skip

    train = start(
        "train.py", "--recipe", folder / "tiny.json", "--data-dir", folder / "data",
        "--save-dir", run, "-j", 1, "--lr", "0.01", "gamma=1.5", "--resume", "--num-epochs", 4,
        largest=between,
    )  # fmt: skip
    exporting = start("export.py", "--run", folder / "run", "--out", export,
                      largest=sizes["best.params"] // 2)  # fmt: skip
    for process, file in ((train, "last.ckpt"), (exporting, ".params")):
        code, out, err = processes.finish(process)
        assert code == 2 and file in err and "free some space" in err and "Traceback" not in err
    after = contents(run)
    assert after["last.ckpt"] == before["last.ckpt"] and after["test.json"] == before["test.json"]
    assert set(after) == set(before)  # nothing new, no temporary files
    assert read_json(run / "best.json")["sha256"] == after["best.params"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
