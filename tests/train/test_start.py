"""Runs that start from all weights of another, and the way back from divergence."""

from __future__ import annotations

import json
import shlex
import shutil

import mxnet as mx
import numpy as np
import pytest
from training_helpers import NAMES, recipe, same, values, write_data, write_recipe

from gluon_attn.cli import common as cli
from gluon_attn.cli.train import train_from_flags, training_flags
from gluon_attn.core.files import save_parameters
from gluon_attn.core.recipe import Recipe
from gluon_attn.train import build, load_checkpoint, search
from gluon_attn.train import run as training
from gluon_attn.train.run import Settings, train
from gluon_attn.train.trained import take_weights
from model_zoo import get_model, store
from model_zoo.adapters.read import read_arrays

VALUES = {"options": {"phase1_epochs": 0, "history_start": 0, "history_weights": 2}, "epochs": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "shapes", 16, 8, 8)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A VAA run of one epoch, which has a history of predictions."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(Recipe.from_dict(recipe(**VALUES)), settings(data, folder))
    return folder


def settings(data, folder, **changes):
    return Settings(str(data), str(folder), workers=0, console=False, test=False, **changes)


class Started(Exception):
    """Raised in the place of the first epoch."""


@pytest.fixture
def begin(data, tmp_path, monkeypatch):
    """A function that starts a run and returns what the training loop was handed."""

    def call(source, way=train, **changes):
        seen = []

        def stop(run, resume=False):
            seen.append(run)
            raise Started

        monkeypatch.setattr(training, "fit", stop)
        chosen = Recipe.from_dict(recipe(**{**VALUES, "lr": 1e-4, "seed": 9, **changes}))
        with pytest.raises(Started):
            way(chosen, settings(data, tmp_path / "new", init_from=str(source)))
        return seen[0]

    return call


@pytest.mark.parametrize("name", ["", "best.params", "last.ckpt"])
def test_all_weights_are_those_of_the_run_to_the_bit(run, begin, tmp_path, name):
    source = str(run / name if name else run)
    started = begin(source)
    expected = {n: a.asnumpy() for n, a in mx.nd.load(str(run / "best.params")).items()}
    same(values(started.method.net), expected)
    assert any(n.startswith("heads.") for n in expected)
    note = json.loads((tmp_path / "new" / "recipe.json").read_text())["init_from"]
    assert note["source"] == source and len(note["sha256"]) == 64
    assert note["epoch"] == (None if name == "best.params" else 0)


def test_nothing_else_of_the_run_is_taken(run, begin):
    """The history of predictions, momentum and schedule begin again."""
    arrays, _ = load_checkpoint(run / "last.ckpt")
    assert any(name.startswith("trainer/") for name in arrays)
    history = [n for n in arrays if n.startswith("method/history")]
    fresh = begin(run / "last.ckpt")
    assert history and not fresh.method.trainers and fresh.schedule.lr(0) == 1e-4
    state = fresh.method.state()
    for name in history:
        assert not np.array_equal(arrays[name], state.get(name[len("method/") :])), name


def test_where_a_run_started_stays_known(run, data, tmp_path):
    folder = tmp_path / "new"
    changes = dict(VALUES, seed=5)
    train(Recipe.from_dict(recipe(**changes)), settings(data, folder, init_from=str(run)))
    (folder / "recipe.json").unlink()
    changes["epochs"] = 2
    train(Recipe.from_dict(recipe(**changes)), settings(data, folder, resume=True))
    note = {"source": str(run), "file": str(run / "best.params"), "epoch": 0}
    assert load_checkpoint(folder / "last.ckpt")[1]["record"]["init_from"].items() >= note.items()


def test_published_weights_have_a_name():
    path, entry = store.find("resnet20_w8_cifar10")
    net = get_model("resnet20_w8_cifar10")
    net.initialize()
    note = take_weights(net, "resnet20_w8_cifar10", entry.classes)
    assert note["init_from"]["file"] == str(path)
    same(values(net), {n: array.asnumpy() for n, array in read_arrays(str(path)).items()})
    assert take_weights(None, None, ()) == {}


@pytest.mark.parametrize("name", ["", "last.ckpt"])
def test_other_classes_are_refused_by_name(run, name):
    source = str(run / name if name else run)
    for classes, differ in (
        (("square", "disc"), ""),
        (("square", "ring", "stripe"), "; the first that differ are 'disc' and 'ring'"),
    ):
        with pytest.raises(ValueError) as caught:
            take_weights(None, source, classes)
        text = str(caught.value)
        assert f"--init-from {source}: its net has the 3 classes square, disc, stripe" in text
        assert f"the {len(classes)} classes {', '.join(classes)}{differ}. " in text
        assert "--base-params" in text


def test_another_net_is_refused_and_left_alone(run):
    chosen = Recipe.from_dict(recipe(**VALUES, model_options={"width": 16}))
    net = build.initialize_net(chosen, build.build_net(chosen, 3), [mx.cpu()])
    before = values(net)
    for source, text in (
        (run, "does not fit VAA; nothing was loaded"),
        (run / "last.ckpt", r"checkpoint .*last.ckpt is of another net: "),
    ):
        with pytest.raises(ValueError, match=text):
            take_weights(net, str(source), NAMES)
    same(values(net), before)


def test_what_is_not_there_or_damaged_is_named(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="--init-from no/such/run: there is no such run"):
        take_weights(None, "no/such/run", NAMES)
    with pytest.raises(FileNotFoundError, match="holds no trained weights"):
        take_weights(None, str(tmp_path), NAMES)
    copy = tmp_path / "last.ckpt"
    whole = (run / "last.ckpt").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"PK\x03\x04"):
        copy.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"last.ckpt is damaged"):
            take_weights(None, str(copy), NAMES)


@pytest.mark.parametrize("beside", [{"resume": True}, {"base_params": "x.params"}])
@pytest.mark.parametrize("way", [train, search.search])
def test_a_start_is_one_of_three(run, data, tmp_path, beside, way):
    flag = "--" + next(iter(beside)).replace("_", "-")
    with pytest.raises(ValueError, match=f"--init-from .* and {flag}: give one of the two"):
        way(Recipe.from_dict(recipe()),
            settings(data, tmp_path / "new", init_from=str(run), **beside))  # fmt: skip
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_in_the_place_of_weights_says_what_to_give(run, data, tmp_path):
    path = run / "last.ckpt"
    for call in (
        lambda: read_arrays(str(path)),
        lambda: train(Recipe.from_dict(recipe()),
                      settings(data, tmp_path / "new", base_params=str(path))),
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            call()
        text = str(caught.value)
        assert f"--init-from {path} starts a run from all" in text and "--resume" in text
        assert str(run / "best.params") in text


def test_a_search_starts_from_the_weights_of_a_search(begin, tmp_path):
    options = {
        "method": "autola", "model": "autola_search_resnet20", "options": {}, "keep": "last",
        "schedule": "cosine", "model_options": {"depth": 8, "width": 8}, "batch_size": 4,
    }  # fmt: skip
    first = begin("", way=search.search, **options).method.net
    first.alpha.set_data(mx.nd.random.normal(shape=first.alpha.shape))
    mx.nd.waitall()
    save_parameters(first, str(tmp_path / "super.params"))
    expected = values(first)
    found = begin(tmp_path / "super.params", way=search.search, **options).method.net
    same(values(found), expected)


# ------------------------------------------------------------- the way back
@pytest.fixture
def main(repository, monkeypatch, capsys):
    """A function that runs a training tool with these words; returns status and both outputs."""

    def call(*words):
        monkeypatch.setattr("sys.argv", [str(repository / "tools" / "train.py"), *map(str, words)])
        args = cli.parse(training_flags("train"))
        status = cli.status_of(lambda: train_from_flags(args))
        return (status, *capsys.readouterr())

    return call


def test_the_command_that_a_diverged_run_names_trains(main, data, tmp_path, repository):
    folder = tmp_path / "a run"
    shutil.copytree(data, tmp_path / "data")
    file = write_recipe(tmp_path / "tiny.json", **dict(VALUES, epochs=3))
    common = ("--recipe", file, "--data-dir", tmp_path / "data", "-j", 0, "--no-test")
    # The first epoch is a good one; the second has a learning rate of 2e10.
    status, out, err = main(
        *common, "--save-dir", folder, "schedule=step", "lr_epochs=1,", "lr_factor=1e12"
    )
    assert status == 2 and err.count("\n") == 1, err
    assert "has diverged; lower lr, or use amp=none. A new run can start from the weights" in err
    assert f"epoch 0: --init-from {folder}. For example: python " in err
    words = shlex.split(err.partition("For example: ")[2])
    assert words[1] == str(repository / "tools" / "train.py")
    assert words[-1] == "lr=0.002" and words[-2] == "lr_factor=1e12"
    status, out, err = main(*words[2:], "lr_factor=0.1")
    assert status == 0, err
    best = json.loads((tmp_path / "a run-2" / "best.json").read_text())
    assert best["recipe"]["lr"] == 0.002 and best["init_from"]["source"] == str(folder)
    # Whose --base-params and --resume are not repeated.
    status, out, err = main(*words[2:], "lr_factor=0.1", "--resume")
    assert status == 2 and "--init-from" in err and "--resume: give one of the two" in err


def test_a_run_that_diverges_at_once_names_no_weights(main, data, tmp_path):
    file = write_recipe(tmp_path / "tiny.json", **VALUES)
    status, _, err = main(
        "--recipe", file, "--data-dir", data, "--save-dir", tmp_path / "run", "-j", 0,
        "--lr", "1e12", "--device", "cpu", "--cache",
    )  # fmt: skip
    assert status == 2 and "It has finished no epoch: start it again. For example" in err
    words = shlex.split(err.partition("For example: ")[2])
    assert "--init-from" not in words and "--cache" in words and words[-1] == "lr=1e+11"
    assert words[words.index("--save-dir") + 1] == f"{tmp_path / 'run'}-2"
