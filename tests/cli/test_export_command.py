"""tools/export.py: further forms of the graph, from the command line, on a trained run."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from training_helpers import NAMES, recipe, write_data

from gluon_attn.core.recipe import Recipe
from gluon_attn.data import EvalTransform, open_dataset
from gluon_attn.env import cpu as _cpu
from gluon_attn.export import int8, load_exported
from gluon_attn.export.graph import logits_of
from gluon_attn.export.sidecar import read_sidecar
from gluon_attn.metrics.multilabel import evaluate_multilabel
from gluon_attn.task import Exported
from gluon_attn.tasks.data import predict_export
from gluon_attn.tasks.forms import calibration_data
from gluon_attn.train.run import Settings, train

STEM = "vaa_resnet18_w16_synthetic"
KEYS = ("resize", "crop", "mean", "std")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``data``, a trained ``run``, and its plain ``export``."""
    folder = tmp_path_factory.mktemp("export_tool")
    data = write_data(folder / "data", train=64, val=40)
    settings = Settings(str(data), str(folder / "run"), workers=1, console=False, test=False)
    train(Recipe.from_dict(recipe(epochs=3, lr=0.01, options={"phase1_epochs": 0})), settings)
    return folder


@pytest.fixture(autouse=True, scope="module")
def coarse_histograms():
    """Calibration by entropy in a second, not in ten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "_BINS", 1001)
        yield


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.fixture(scope="module")
def made(folder, succeed):
    """An export with int8, as the tool makes it, and what it printed."""
    return folder / "export", succeed(
        "export.py", "--run", folder / "run", "--out", folder / "export", "--int8", "--calib",
        folder / "data", "--calib-num", 24, "--max-drop", 3,
    )  # fmt: skip


@pytest.fixture
def copy(made, tmp_path):
    """A copy of that export, to change."""
    return Path(shutil.copytree(str(made[0]), str(tmp_path / "x")))


# --- int8 ----------------------------------------------------------------------------------------
def test_int8_from_a_run(made, folder):
    directory, printed = made
    sidecar = read_sidecar(directory)
    entry = sidecar["int8"]
    assert entry["calibration"]["images"] == 24 and entry["drop"] <= entry["max_drop"] == 3
    ends = ("-symbol.json", "-0000.params", "-int8-symbol.json", "-int8-0000.params", ".json")
    assert set(contents(directory)) == {STEM + end for end in ends}
    assert all(file["file"] in printed for file in sidecar["files"].values())
    assert "parity with plain MXNet: largest difference" in printed
    assert f"drop {entry['drop']:.2f}, allowed 3" in printed
    assert f"calibration {entry['mode']} on 24 images" in printed and "of 35 layers int8" in printed
    modes = [record["mode"] for record in entry["tried"] if not record["excluded"]]
    assert modes == ["naive", "entropy", "percentile"]
    source = entry["calibration"]["source"]
    assert (source["split"], source["score_split"], source["score_samples"]) == ("train", "val", 40)
    # The score of float32 is that of the evaluation.
    found = predict_export(directory, open_dataset(folder / "data", "val"))
    expected = 100 * evaluate_multilabel(*found, names=NAMES)["overall"]["mAP"]
    assert entry["float32_score"] == pytest.approx(expected, abs=1e-6)


def test_calibration_images_are_prepared_as_in_evaluation_and_spread(folder, made):
    sidecar = read_sidecar(made[0])
    data = calibration_data(str(folder / "data"), Exported("", sidecar), count=5, workers=1)
    transform = EvalTransform(size=32, **{key: sidecar["input"][key] for key in KEYS})
    dataset = open_dataset(folder / "data", "train")
    for image, i in zip(data.images, (0, 16, 32, 47, 63)):
        np.testing.assert_array_equal(image, transform(dataset[i][0]))
    assert data.images.dtype == np.float32 and data.images.shape == (5, 3, 32, 32)


def test_score_is_one_of_constant_batches_without_the_padding(folder, made):
    sidecar = read_sidecar(made[0])
    data = calibration_data(str(folder / "data"), Exported("", sidecar), count=2, workers=1)
    label = open_dataset(folder / "data", "val").label
    seen = []

    def run(batch):  # the labels themselves, and what would spoil them in the rows of padding
        seen.append(batch.shape)
        start = 32 * (len(seen) - 1)
        rows = np.full((32, 3), 9.0, np.float32)
        rows[: len(label[start : start + 32])] = label[start : start + 32]
        return rows

    assert data.score(run) == pytest.approx(100)
    assert seen == [(32, 3, 32, 32)] * 2


def test_form_of_an_export_that_is_there_is_made_again(copy, folder, succeed):
    before = contents(copy)
    given = ("--export", copy, "--int8", "--calib", folder / "data", "--calib-num", 8)
    out = succeed("export.py", *given, "--max-drop", 4)
    assert "allowed 4" in out and "on 8 images" in out
    after = contents(copy)
    assert sorted(after) == sorted(before)
    for name in (f"{STEM}-symbol.json", f"{STEM}-0000.params"):
        assert after[name] == before[name]
    block, sidecar = load_exported(copy, precision="int8")
    assert json.loads(before[f"{STEM}.json"])["extra"] == sidecar["extra"]
    assert np.isfinite(logits_of(block, np.zeros((2, 3, 32, 32)))).all()


def test_int8_is_scored_on_its_own(made, folder, succeed, error):
    given = ("evaluate.py", "--data-dir", folder / "data", "--split", "val", "--no-figures")
    out = folder / "scores"
    printed = succeed(*given, "--export", made[0], "--backend", "mxnet-int8", "--out", out)
    assert "run by mxnet-int8" in printed
    found = predict_export(made[0], open_dataset(folder / "data", "val"), backend="mxnet-int8")
    expected = evaluate_multilabel(*found, names=NAMES)["overall"]["mAP"]
    assert json.loads((out / "val.json").read_text())["overall"]["mAP"] == pytest.approx(expected)
    assert 100 * expected == pytest.approx(read_sidecar(made[0])["int8"]["score"], abs=2)
    line = error(*given, "--run", folder / "run", "--backend", "mxnet-int8")
    assert "--backend mxnet-int8: only an --export has it" in line


# --- errors --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--export EXPORT --int8", "--int8 needs --calib DATA"),
        ("--export EXPORT --fp16", "--fp16 needs --onnx: it is the ONNX file in half"),
        ("--export EXPORT", "Give --int8, --bf16, --onnx or --web"),
        ("--export EXPORT --int8 --calib DATA --calib-num 24 --score-split train",
         "'train' and 'train' share 24"),
        ("--export EXPORT --int8 --calib DATA --score-split dev", "dev.txt is missing"),
        ("--export EXPORT --int8 --calib DATA --calib-num 0", "0 calibration images"),
        ("--export EXPORT --int8 --calib DATA --max-drop -1", "max_drop=-1.0"),
        ("--export EXPORT --int8 --calib OTHER",
         "attributes square, ring, stripe; the model was made for square, disc, stripe"),
        ("--export EXPORT --onnx --out elsewhere", "leave --out away"),
        ("--export EXPORT --bf16 --calib nowhere", "bf16 needs a processor with AVX-512"),
        ("--run RUN --out NEW --bf16", "bf16 needs a processor with AVX-512"),
        ("--run RUN", "give --out DIR"), ("--run RUN --out RUN --int8 --calib no", "run exists"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_change_nothing(made, folder, other, error, words, text):
    before = contents(made[0])
    for name in ("EXPORT", "DATA", "RUN", "NEW"):
        words = words.replace(name, str(folder / name.lower()))
    assert text in error("export.py", *words.replace("OTHER", other).split())
    assert contents(made[0]) == before and not (folder / "new").exists()


@pytest.fixture
def other(folder, tmp_path, monkeypatch):
    """Data of other attributes; the processor lacks AVX-512."""
    monkeypatch.setattr(_cpu, "read_flags", lambda path: set())
    data = Path(shutil.copytree(folder / "data", tmp_path / "data"))
    (data / "names.txt").write_text("square\nring\nstripe\n")
    return str(data)


@pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="onnx is not installed")
@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="no onnxruntime")
def test_onnx_is_added(copy, succeed):
    out = succeed("export.py", "--export", copy, "--onnx", "--fp16")
    assert f"{STEM}.onnx" in out and f"{STEM}-fp16.onnx" in out and "int8: mAP" in out
    assert "onnx: opset 13" in out and "; in float16 " in out
    assert set(read_sidecar(copy)["files"]) >= {"onnx", "onnx_fp16", "int8_symbol", "int8_params"}
