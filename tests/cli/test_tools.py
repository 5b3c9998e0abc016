"""The command lines as a user types them: the whole way from training to predictions, and errors.

Training and prediction run in processes of their own, as does what a full disk ends. The rest runs
the scripts in this process, which is the same but for the seconds that a start of MXNet costs.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import resource
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import process_helpers as processes
import pytest
from process_helpers import finish
from training_helpers import NAMES, write_data, write_recipe

from gluon_attn.core.files import save_parameters
from model_zoo import get_model

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1")


def start(tool, *arguments, **options):
    """Start a tool in a process of its own, from a folder that is not the source tree."""
    command = [sys.executable, TOOLS / tool, *arguments]
    return processes.start(command, env=ENVIRONMENT, **options)


def succeed(process):
    code, out, err = finish(process)
    assert code == 0, out + err
    assert "Traceback" not in out + err
    return out


def here(tool, *arguments):
    """Run a tool in this process, where it must succeed; return its standard output."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(sys, "argv", [str(TOOLS / tool), *map(str, arguments)])
        patch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as end:
            runpy.run_path(sys.argv[0], run_name="__main__")
    assert not end.value.code, out.getvalue()
    return out.getvalue()


def error_line(code, out, err):
    """Return the one line with which a tool has failed, having checked that it is the only one."""
    lines = [line for line in err.strip().splitlines() if not line.startswith("[ WARN:")]  # OpenCV
    assert code == 2, out + err
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert "Traceback" not in out and "error: " not in out
    return lines[0]


def contents(folder):
    """Return the digest of every file of a folder, but for the log, which grows with each try."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != "train.log"
    }


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
def flow(folder):
    """Train; evaluate and export; predict and evaluate the export: standard outputs by step."""
    data, run, export = folder / "data", folder / "run", folder / "export"
    images = [data / f"images/test{k}.png" for k in range(24)]
    train = start(
        "train.py", "--recipe", folder / "tiny.json", "--data-dir", data, "--save-dir", run,
        "-j", 1, "--base-params", folder / "fits.params", "--lr", "0.01", "gamma=1.5",
    )  # fmt: skip
    outputs = {"train": succeed(train)}
    common = ("--data-dir", data, "-j", 1)
    outputs["evaluate"] = here("evaluate.py", "--run", run, "--out", folder / "eval", *common)
    outputs["export"] = here("export.py", "--run", run, "--out", export, "--with-maps")
    predict = start("predict.py", export, *images, "--json", folder / "predicted.json")
    outputs["predict"] = succeed(predict)
    outputs["evaluate_export"] = here("evaluate.py", "--export", export, "--no-figures", *common)
    return outputs


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------ the whole way


def test_training_writes_a_run(flow, folder):
    names = {p.name for p in (folder / "run").iterdir()}
    wanted = "last.ckpt best.params best.json recipe.json log.jsonl train.log curves.png"
    wanted += " test.json test.csv test.md test_predictions.npz"
    assert set(wanted.split()) <= names
    assert not [name for name in names if name.startswith(".")]
    record = read_json(folder / "run" / "recipe.json")
    recipe = record["recipe"]
    assert list(record["data"]) == ["train", "val", "test"]
    assert (recipe["lr"], recipe["options"]["gamma"]) == (0.01, 1.5)  # flag and key=value
    assert "Epoch[0] Batch [2]\tSpeed: " in flow["train"]
    assert "mean over attributes" in flow["train"] and "best.params" in flow["train"]
    assert "Backbone from" in (folder / "run" / "train.log").read_text()


def test_evaluation_repeats_the_runs_own_numbers(flow, folder):
    own, again = read_json(folder / "run" / "test.json"), read_json(folder / "eval" / "test.json")
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


def test_evaluation_draws(flow, folder):
    for name in ("test_pr_curves", "test_ap", "test_attention"):
        picture = cv2.imread(str(folder / "eval" / f"{name}.png"))
        assert picture is not None and min(picture.shape[:2]) > 100 and picture.std() > 5
        assert f"{name}.png" in flow["evaluate"]


def test_export_tells_what_it_wrote_and_its_parity(flow, folder):
    (line,) = (x for x in flow["export"].splitlines() if x.startswith("parity with plain MXNet"))
    assert float(line.split()[-1]) <= 1e-5
    found = sorted(p.name for p in (folder / "export").iterdir())
    stem = "vaa_resnet18_w16_synthetic"
    assert found == [f"{stem}-0000.params", f"{stem}-symbol.json", f"{stem}.json"]
    assert all(name in flow["export"] for name in found[:2])
    sidecar = read_json(folder / "export" / f"{stem}.json")
    assert tuple(sidecar["classes"]) == NAMES
    assert [out["kind"] for out in sidecar["outputs"]] == ["logits", "attention", "attention"]
    assert sidecar["extra"]["recipe"]["options"]["gamma"] == 1.5


def test_predictions_from_the_export_are_those_of_the_evaluation(flow, folder):
    predicted = read_json(folder / "predicted.json")
    assert tuple(predicted["classes"]) == NAMES
    with np.load(str(folder / "eval" / "test_predictions.npz"), allow_pickle=False) as archive:
        expected = archive["probs"]
    assert [Path(p["image"]).name for p in predicted["people"]] == [
        f"test{k}.png" for k in range(24)
    ]
    found = [[p["probabilities"][name] for name in NAMES] for p in predicted["people"]]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert all(name in flow["predict"] for name in NAMES)


def test_evaluation_of_the_export_gives_the_same_map(flow, folder):
    own = read_json(folder / "run" / "test.json")["overall"]
    again = read_json(folder / "export_evaluation" / "test.json")["overall"]
    assert again["mAP"] == pytest.approx(own["mAP"], abs=1e-6)
    assert again["mA"] == pytest.approx(own["mA"], abs=1e-6)
    assert "mean over attributes" in flow["evaluate_export"]
    assert sorted(p.suffix for p in (folder / "export").iterdir()) == [".json", ".json", ".params"]


# ------------------------------------------------------------------------------ errors


@pytest.fixture
def call(monkeypatch, capfd):
    """A function that runs a tool in this process and returns code, output and error output."""

    def run(tool, *arguments):
        path = str(TOOLS / tool)
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(path, run_name="__main__")
        return (end.value.code or 0, *capfd.readouterr())

    return run


@pytest.fixture
def train(call, folder, tmp_path):
    """A function that runs train.py on the tiny data; flags given later win."""

    def run(*arguments, data=folder / "data", recipe=folder / "tiny.json"):
        return call(
            "train.py", "--recipe", recipe, "--data-dir", data, "--save-dir", tmp_path / "run",
            "-j", 1, "--no-test", "--num-epochs", 1, *arguments,
        )  # fmt: skip

    return run


def assert_nothing_half_written(run):
    """A try that failed leaves at most its logs and the description of the run."""
    found = {p.name for p in run.iterdir()} if run.exists() else set()
    assert found <= {"train.log", "log.jsonl", "recipe.json"}
    if (run / "recipe.json").exists():
        read_json(run / "recipe.json")


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--recipe", "vaa_wider_resnet10"], "'vaa_wider_resnet10'; did you mean 'vaa_wider"),
        (["--recipe", "no/such/file.json"], "valid: awmt_celeba_resnet50"),
        (["gama=2"], "unknown recipe key 'gama'; did you mean 'gamma'"),
        (["options.gama=2"], "unknown method setting 'gama'; did you mean 'gamma'"),
        (["lr"], "override 'lr': write key=value"),
        (["--lr", "fast"], "lr must be float, got 'fast'"),
        (["epochs=0"], "epochs=0 must be >= 1"),
        (["method=vax"], "unknown method 'vax'; did you mean 'vaa'"),
        (["model=vaa_resnet18_w16"], "unknown model 'vaa_resnet18_w16'; did you mean"),
        (["model_options.widht=4"], "'widht'; did you mean 'width'"),
        (["model_options.taps=stage9_activation0,"], "unknown tap 'stage9_activation0'"),
        (["model_options.taps=stage9_activation0"], "unknown tap 'stage9_activation0'"),
        (["model_options.input_size=64"], "input_size=N decides it"),
        (["model_options.classes=7"], "the data set decides it"),
        (["model_options.width=0"], "width"),
        (["model=resnet18_w16_synthetic"], "vaa"),  # a plain net for a method that needs heads
        (["history_length=2.5"], "history_length"),
        (["gamma=high"], "gamma"),
        (["schedule=linear"], "unknown schedule 'linear'"),
        (["--data-dir", "/no/such/data"], "/no/such/data is no folder"),
        (["--amp", "float16"], "float16 needs a GPU"),
        (["--batch-size", "100"], "48 samples do not fill one batch of 100; use a smaller"),
        (["--base-params", "/no/such.params"], "/no/such.params: no such parameter file"),
    ],
    ids=lambda value: value[-1].replace("/", "_") if isinstance(value, list) else "",
)
def test_impossible_settings_are_one_line(train, tmp_path, arguments, expected):
    assert expected in error_line(*train(*arguments))
    assert_nothing_half_written(tmp_path / "run")


def test_a_device_that_is_not_there(train, tmp_path):
    if mx.runtime.Features().is_enabled("CUDA"):
        pytest.skip("this is the GPU wheel")
    line = error_line(*train("--gpus", "0"))
    assert "runs on the CPU only" in line and "requirements-cu112.txt" in line
    assert_nothing_half_written(tmp_path / "run")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("wide", "does not fit ResNet; nothing was loaded.*of another shape"),
        ("cut", "cut.params: truncated or damaged"),
    ],
)
def test_unfit_backbone_weights(train, folder, tmp_path, name, expected):
    line = error_line(*train("--base-params", folder / f"{name}.params"))
    with pytest.raises(ValueError, match=expected):
        raise ValueError(line)
    assert_nothing_half_written(tmp_path / "run")


def test_tensorboard_that_is_not_installed(train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert "pip install tensorboardX" in error_line(*train("--tensorboard"))
    assert_nothing_half_written(tmp_path / "run")


@pytest.mark.parametrize(
    "file, text, expected",
    [
        ("val.txt", "# nothing\n", "split 'val' is empty"),
        ("train.txt", "images/train0.png\t1,0\n", "train.txt:1: 2 labels for the 3 of names.txt"),
        ("train.txt", "images/train0.png\t1,0,2\n", "train.txt:1: label '2' of 'stripe'"),
        ("names.txt", "square\ndisc\nsquare\n", "names.txt:3: 'square' is in line 1 already"),
        ("val.txt", None, "val.txt is missing"),
    ],
)
def test_malformed_data(train, folder, tmp_path, file, text, expected):
    data = Path(shutil.copytree(str(folder / "data"), str(tmp_path / "data")))
    (data / file).unlink()
    if text is not None:
        (data / file).write_text(text)
    assert expected in error_line(*train(data=data))
    assert_nothing_half_written(tmp_path / "run")


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_bad_images(train, folder, tmp_path, damage):
    data = Path(shutil.copytree(str(folder / "data"), str(tmp_path / "data")))
    for bad in (data / "images" / "train7.png", data / "images" / "val2.png"):
        whole = bad.read_bytes()
        bad.unlink()
        if damage == "truncated":
            bad.write_bytes(whole[: len(whole) // 2])
    line = error_line(*train(data=data))
    assert "images/train7.png" in line or "images/val2.png" in line
    assert_nothing_half_written(tmp_path / "run")
    code, out, err = train("--on-bad-image", "skip", data=data)
    assert code == 0, err
    for name in ("images/train7.png", "images/val2.png"):
        assert name in out
    assert "1 unreadable images of train were skipped" in out
    assert (tmp_path / "run" / "best.params").exists()


def test_a_run_that_is_there_is_not_touched(call, flow, folder, tmp_path):
    run = shutil.copytree(str(folder / "run"), str(tmp_path / "run"))
    before = contents(run)
    given = ("train.py", "--recipe", folder / "tiny.json", "--data-dir", folder / "data",
             "--save-dir", run, "-j", 1, "gamma=1.5")  # fmt: skip
    assert "holds a run already; add --resume" in error_line(*call(*given, "--lr", "0.01"))
    assert contents(run) == before
    line = error_line(*call(*given, "--lr", "0.5", "--resume"))
    assert "'lr' was 0.01, now it is 0.5; use the same settings or another --save-dir" in line
    assert contents(run) == before


@pytest.mark.parametrize("tool", ["evaluate.py", "export.py"])
def test_a_folder_that_is_no_run(call, folder, tmp_path, tool):
    more = ("--data-dir", folder / "data") if tool == "evaluate.py" else ()
    line = error_line(*call(tool, "--run", tmp_path, "--out", tmp_path / "out", *more))
    assert f"{tmp_path} holds no trained weights" in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_export(call, folder, tmp_path):
    line = error_line(*call("evaluate.py", "--export", tmp_path, "--data-dir", folder / "data"))
    assert f"{tmp_path}: not an export directory" in line
    line = error_line(*call("predict.py", tmp_path, folder / "data" / "images" / "test0.png"))
    assert f"{tmp_path}: not an export directory" in line
    line = error_line(*call("predict.py", tmp_path / "none", folder / "data"))
    assert "no such export directory" in line
    assert list(tmp_path.iterdir()) == []


def test_data_with_other_attributes_or_without_the_split(call, flow, folder, tmp_path):
    data = Path(shutil.copytree(str(folder / "data"), str(tmp_path / "data")))
    (data / "names.txt").write_text("square\nring\nstripe\n")
    given = ("evaluate.py", "--run", folder / "run", "--out", tmp_path / "out", "-j", 1)
    line = error_line(*call(*given, "--data-dir", data))
    assert "attributes square, ring, stripe; the model was made for square, disc, stripe" in line
    line = error_line(*call(*given, "--data-dir", folder / "data", "--split", "tests"))
    assert "tests.txt is missing; splits in this folder: test, train, val" in line
    assert not (tmp_path / "out").exists()


def test_an_export_that_is_there_is_not_replaced(call, flow, folder):
    before = contents(folder / "export")
    given = ("export.py", "--run", folder / "run", "--out", folder / "export")
    assert "export exists" in error_line(*call(*given))
    assert contents(folder / "export") == before
    line = error_line(*call("export.py", "--run", folder / "run", "--out", folder / "data",
                            "--overwrite"))  # fmt: skip
    assert "is no export: it will not be replaced" in line


def test_a_zoo_model_needs_weights(call, folder, tmp_path, monkeypatch):
    given = ("evaluate.py", "--model", "resnet18_w16_synthetic", "--data-dir", folder / "data")
    assert "give --params FILE or --pretrained" in error_line(*call(*given))
    line = error_line(*call(*given, "--params", folder / "wide.params"))  # 5 classes, not 14
    assert "does not fit ResNet; nothing was loaded" in line
    for variable in ("HOME", "MXNET_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    line = error_line(*call(*given, "--pretrained"))  # those of other attributes come along
    assert "the model was made for Male, longHair" in line
    others = (*given[:2], "srm_resnet18_w16_digits", *given[3:], "--pretrained")
    assert "no weights are known for" in error_line(*call(*others))


def test_a_zoo_model_evaluates_with_names_of_several_words(call, folder, tmp_path):
    names = ["red square", "disc", "stripe"]
    data = Path(shutil.copytree(str(folder / "data"), str(tmp_path / "data")))
    (data / "names.txt").write_text("\n".join(names) + "\n")
    net = get_model("resnet18_w16_synthetic", classes=3)
    net.initialize(mx.init.Xavier())
    save_parameters(net, str(tmp_path / "three.params"))
    code, out, err = call(
        "evaluate.py", "--model", "resnet18_w16_synthetic", "--params", tmp_path / "three.params",
        "--names", data / "names.txt", "--data-dir", data, "-j", 1, "--no-figures",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    assert "red square" in out
    assert [row["name"] for row in read_json(tmp_path / "out" / "test.json")["attributes"]] == names


def test_train_wider_takes_its_own_recipe_and_asks_for_data(call, tmp_path):
    (tmp_path / "data").mkdir()
    line = error_line(
        *call("train_wider.py", "--data-dir", tmp_path / "data", "--save-dir", tmp_path / "run")
    )
    assert f"no data set recognised in {tmp_path / 'data'}" in line
    assert_nothing_half_written(tmp_path / "run")
    line = error_line(*call("train_wider.py", "--data-dir", tmp_path / "data", "--save-dir",
                            tmp_path / "run", "gama=1"))  # fmt: skip
    assert "did you mean 'gamma'" in line  # a VAA recipe: the default was found


# ------------------------------------------------------------------------------ in processes


def limit_files(size):
    """Return what makes a new process fail, as on a full disk, when a file outgrows ``size``."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_leaves_the_run_as_it_was(flow, folder, tmp_path):
    run, export = tmp_path / "run", tmp_path / "export"
    shutil.copytree(str(folder / "run"), str(run))
    before = contents(run)
    sizes = {name: (run / name).stat().st_size for name in ("best.params", "last.ckpt")}
    # The weights still fit, the checkpoint does not.
    between = sum(sizes.values()) // 2
    assert sizes["best.params"] < between < sizes["last.ckpt"]
    train = start(
        "train.py", "--recipe", folder / "tiny.json", "--data-dir", folder / "data",
        "--save-dir", run, "-j", 1, "--lr", "0.01", "gamma=1.5", "--resume", "--num-epochs", 4,
        preexec_fn=limit_files(between),
    )  # fmt: skip
    exporting = start(
        "export.py", "--run", folder / "run", "--out", export,
        preexec_fn=limit_files(sizes["best.params"] // 2),
    )  # fmt: skip
    code, out, err = finish(train)
    line = error_line(code, out, err)
    assert "last.ckpt" in line and "free some space" in line
    after = contents(run)
    assert after["last.ckpt"] == before["last.ckpt"] and after["test.json"] == before["test.json"]
    assert set(after) == set(before)  # nothing new, no temporary files
    best = read_json(run / "best.json")
    assert best["sha256"] == after["best.params"]
    line = error_line(*finish(exporting))
    assert ".params" in line and "free some space" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


TRAINING = (
    "--recipe --data-dir --save-dir --base-params --gpus --device --resume --tensorboard -j "
    "--batch-size --num-epochs --lr --momentum --wd --seed --log-interval --amp --on-bad-image "
    "--cache --no-test key=value"
).split()
FLAGS = {
    "train.py": TRAINING,
    "train_wider.py": TRAINING + ["vaa_wider_resnet101"],
    "evaluate.py": "--run --export --model --params --pretrained --names --data-dir --split --out "
    "--threshold --unspecified --batch-size --no-figures --gpus --device".split(),
    "export.py": "--run --model --params --pretrained --names --out --name --with-maps --threshold "
    "--overwrite".split(),
    "predict.py": "EXPORT IMG|DIR --boxes --json --csv --heatmaps --threshold --batch-size "
    "--on-bad-image".split(),
    "prepare_data.py": "wider list synthetic digits".split(),
    "benchmark.py": "train data".split(),
}


def test_help_of_every_tool(call):
    tools = sorted(path.name for path in TOOLS.glob("*.py"))
    assert set(FLAGS) <= set(tools)
    for name in (*tools, "prepare_data.py wider"):
        code, out, _ = call(*name.split(), "--help")
        assert code == 0 and out.startswith("usage: "), name
        missing = [flag for flag in FLAGS.get(name, ()) if flag not in out]
        assert not missing, (name, missing)
    for flag in ("--root", "--out", "--on-bad-image", "--overwrite", "--srn"):
        assert flag in out


def test_missing_arguments_are_told_by_argparse(call):
    with contextlib.suppress(KeyError):
        del os.environ["GLUON_ATTN_TRACEBACK"]
    code, out, err = call("train.py", "--data-dir", "somewhere")
    assert code == 2 and "--recipe" in err and "--save-dir" in err and "usage:" in err
    code, out, err = call("evaluate.py", "--data-dir", "somewhere")
    assert code == 2 and "one of the arguments --run --model --export is required" in err
