"""``gluon-attn`` finds commands lazily and speaks to users in the words that they typed."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path

import pytest
from process_helpers import run, run_python

from gluon_attn.cli import common
from gluon_attn.cli import main as entry
from gluon_attn.env.environment import is_doctor

ROOT = Path(__file__).resolve().parents[2]
TRAINING = (
    "--recipe --data-dir --save-dir --base-params --gpus --device --resume --tensorboard -j "
    "--batch-size --num-epochs --lr --momentum --wd --seed --log-interval --amp --on-bad-image "
    "--cache --no-test key=value"
)
FLAGS = {
    "train": TRAINING,
    "train_wider": TRAINING + " vaa_wider_resnet101",
    "launch": "-n --workers -s --servers --hosts --port -- train",
    "search": TRAINING + " hoga_search_cifar10",
    "evaluate": "--run --export --backend --model --params --pretrained --names --data-dir --split "
    "--out --threshold --unspecified --batch-size --no-figures --gpus --device --analyse --compare",
    "export": "--run --model --params --pretrained --names --out --name --with-maps --threshold "
    "--overwrite --int8 --bf16 --onnx --web --runtime --calib",
    "serve": "EXPORT --port",
    "predict": "EXPORT IMG|DIR --boxes --json --csv --heatmaps --draw --threshold --batch-size "
    "--on-bad-image --backend --threads --shard --overwrite",
    "prepare": "wider list synthetic digits",
    "prepare wider": "--root --out --on-bad-image --overwrite --srn --shard",
    "merge": "DIR|NAME --out --overwrite",
    "convert": "--out --model --scheme --key --to key=value",
    "models": "--pretrained", "recipes": "NAME|FILE", "doctor": "--json --quick",
    "benchmark": "train data",
}  # fmt: skip


def gluon_attn(monkeypatch, *words, program="/usr/bin/gluon-attn"):
    """Run the command in this process; return its exit code, standard output and error output."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "argv", [program, *map(str, words)])
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with pytest.raises(SystemExit) as end:
            entry.main()
    return end.value.code or 0, out.getvalue(), err.getvalue()


def test_help_of_every_command(monkeypatch):
    assert set(common.COMMANDS) <= set(FLAGS)
    code, out, _ = gluon_attn(monkeypatch)
    assert code == 0 and all(f"\n  {name}" in out for name in common.COMMANDS)
    for name in [*common.COMMANDS, "prepare wider"]:
        code, out, _ = gluon_attn(monkeypatch, *name.split(), "--help")
        assert code == 0 and not [flag for flag in FLAGS[name].split() if flag not in out], name
        assert "tools/" not in out and ":`" not in out and "``" not in out, name
        if name != "doctor":
            assert out.startswith(f"usage: gluon-attn {name} "), name


def test_help_of_every_script(call):
    for path in (ROOT / "tools").glob("*.py"):
        code, out, _ = call(path.name, "--help")
        flags = FLAGS.get(path.stem.replace("prepare_data", "prepare"), "").split()
        assert code == 0 and out.startswith(f"usage: {path.name} "), path
        assert not [flag for flag in flags if flag not in out], path
        assert "gluon-attn" not in out.replace("gluon-attn recipes", ""), path


def test_nothing_heavy_is_imported_for_the_list_of_commands():
    code, out, err = run_python(
        "import sys; from gluon_attn.cli.main import run; sys.argv = ['gluon-attn']\n"
        "run([]); run(['--version']); run(['recipes']); assert 'mxnet' not in sys.modules"
    )
    assert code == 0 and "vaa_wider_resnet101 " in out, err


def test_as_a_module_from_elsewhere():
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code, out, err = run([sys.executable, "-m", "gluon_attn", "trian"], env=environment)
    assert (code, out) == (2, "") and "unknown command 'trian'; did you mean 'train'?" in err


def test_recipes_and_models_are_listed(monkeypatch):
    code, out, _ = gluon_attn(monkeypatch, "models")
    assert code == 0 and "vaa_resnet101_wider" in out.split()
    code, few, _ = gluon_attn(monkeypatch, "models", "--pretrained")
    assert code == 0 and "vaa_resnet18_w16_clothing" in few.split() and len(few) < len(out)
    code, out, _ = gluon_attn(monkeypatch, "recipes", "vaa_peta_resnet101")
    assert code == 0 and "Paper      84.59 mA" in out and "\noptimizer = 'adam'\n" in out


def test_missing_arguments_are_told_by_argparse(monkeypatch):
    code, _, err = gluon_attn(monkeypatch, "train", "--data-dir", "somewhere")
    assert code == 2 and "--recipe" in err and "--save-dir" in err and "usage: gluon-attn" in err
    code, _, err = gluon_attn(monkeypatch, "evaluate", "--data-dir", "somewhere")
    assert code == 2 and "one of the arguments --run --model --export is required" in err
    assert gluon_attn(monkeypatch, "prepare", "tiny", "wider")[0] == 2  # in a checkout only


@pytest.mark.parametrize(
    "program, words",
    [
        ("gluon-attn train", "gluon-attn export --export DIR, gluon-attn prepare"),
        ("python -m gluon_attn train", "python -m gluon_attn export --export DIR, "
                                       "python -m gluon_attn prepare"),
        ("/a folder/tools/train.py", "tools/export.py --export DIR, python tools/prepare_data.py"),
    ],
)  # fmt: skip
def test_other_commands_are_named_as_the_user_calls_them(monkeypatch, program, words):
    monkeypatch.setattr(sys, "argv", [program])
    text = "tools/export.py --export DIR, python tools/prepare_data.py"
    assert common.as_called(text) == words
    assert common.as_called("see tools/benchmark.py") == "see tools/benchmark.py"
    assert common.called("export") in (words.split(" --")[0], "python tools/export.py")


def test_errors_name_the_command(monkeypatch, tmp_path):
    code, _, err = gluon_attn(monkeypatch, "export", "--run", tmp_path, program="__main__.py")
    assert code == 2 and re.match("error: give --out DIR", err)


@pytest.mark.parametrize(
    "words, told",
    [
        ("epochs=1 --num-epochs 2", "--num-epochs 2 and epochs=1 give two values for epochs"),
        ("--epochs 1 --num-epochs 2", "--num-epochs 2 and --epochs 1 give two values for epochs"),
        ("--batch-size 8 batch_size=9", "--batch-size 8 and batch_size=9 give two values for bat"),
        ("lr=x lr=0.2 epochs=1 --epochs 1", "none is no folder"),  # of pairs, the last
        ("seed=1 --seed 1", "none is no folder"),
        ("lr=0.1 --lr 1e-1", "none is no folder"),
    ],
)
def test_two_values_for_one_key_are_refused(monkeypatch, words, told, tmp_path):
    common = ("--recipe", "vaa_synthetic_resnet18", "--data-dir", "none", "--save-dir", tmp_path)
    code, _, err = gluon_attn(monkeypatch, "train", *common, *words.split())
    assert code == 2 and told in err


@pytest.mark.parametrize(
    "line, doctor",
    [
        ("python -m gluon_attn doctor", True), ("python -m gluon_attn.runtime", True),
        ("python /usr/bin/gluon-attn doctor --json", True), ("python -m gluon_attn train", False),
        ("python /usr/bin/gluon-attn recipes doctor", False), ("python doctor", False),
    ],
)  # fmt: skip
def test_the_doctor_runs_where_nothing_else_does(monkeypatch, line, doctor):
    monkeypatch.setattr(sys, "orig_argv", line.split(), raising=False)
    assert is_doctor() is doctor
