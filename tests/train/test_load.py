"""Nets with all that is needed to feed them: whose weights these are decides, or the user."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from process_helpers import run_tool

from gluon_attn.core.files import save_parameters
from gluon_attn.core.schema import Schema
from gluon_attn.tasks import attributes
from gluon_attn.train import trained as load
from model_zoo import WIDER_ATTRIBUTES, get_model, outside, store
from model_zoo import predictor as pretrained

NAME = "resnet20_w8_digits"
CPU = [mx.cpu()]
PIXELS = {"mean": (127,) * 3, "std": (128,) * 3, "resize": 32}


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """An empty home, no mirror, an empty folder of the user's in an own temporary directory."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MXNET_HOME", raising=False)
    monkeypatch.delenv(store.MIRROR_VARIABLE, raising=False)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(pretrained.tempfile, "tempdir", str(tmp_path / "tmp"))


@pytest.fixture(scope="module")
def published():
    return load.from_zoo(NAME, None, CPU, pretrained=True)


def weights_of(folder, name, **options):
    """Save random weights of a zoo model; return the path."""
    net = get_model(name, **options)
    net.initialize(mx.init.Xavier())
    path = str(folder / f"{name}.params")
    save_parameters(net, path)
    return path


# ------------------------------------------------------------------------------ zoo models
@pytest.mark.parametrize("name", [None, "mine.params"])
def test_a_published_file_is_fed_as_in_its_run_wherever_it_lies(tmp_path, published, name):
    path = store.get_model_file(NAME)
    path = str(shutil.copy(path, tmp_path / name) if name else path)
    for classes in (None, list(published.classes)):
        found = load.from_zoo(NAME, path, CPU, classes)
        assert found.preprocess == published.preprocess and found.preprocess["resize"] == 36
        assert found.classes == published.classes and found.activation == "softmax"
        assert found.extra == dict(published.extra, params=path)


def test_a_file_or_published_weights_not_both():
    with pytest.raises(ValueError, match="--params /no/such.params and --pretrained: give one"):
        load.from_zoo(NAME, "/no/such.params", CPU, pretrained=True)
    with pytest.raises(ValueError, match="did you mean 'resnet20_w8_digits'"):
        load.from_zoo("resnet20_w8_digitz", None, CPU, pretrained=True)


def test_names_are_those_of_the_weights():
    names = ("a", "b")
    for path in (None, store.get_model_file(NAME)):
        with pytest.raises(ValueError, match="were made for class=zero, .* given are a, b"):
            load.from_zoo(NAME, path, CPU, names, pretrained=path is None)
    with pytest.raises(ValueError, match="were made for class=zero, .* given are a, b"):
        load.from_zoo(NAME, None, CPU, tuple("abcdefghij"), pretrained=True)


def test_there_are_as_many_names_as_logits(monkeypatch):
    """Of weights whose classes are not written down, such as Gluon's."""
    path, entry = store.find(NAME)
    bare = type(entry)(NAME, entry.file, entry.digest)
    monkeypatch.setattr(store, "find", lambda name, root: (path, bare))
    with pytest.raises(ValueError, match="2 names for the 10 logits"):
        load.from_zoo(NAME, None, CPU, ("a", "b"), pretrained=True)


def test_files_of_which_nothing_is_known_are_not_guessed_at(tmp_path, monkeypatch):
    path = weights_of(tmp_path, NAME)
    both = r"what the 10 outputs .* are: give --classes FILE.* prepared: give --mean, --std"
    with pytest.raises(ValueError, match=both):
        load.from_zoo(NAME, path, CPU)
    digits = Schema.from_json(store.builtin(NAME).schema)
    found = load.from_zoo(NAME, path, CPU, digits, pixels=PIXELS)
    assert found.classes[0] == "class=zero"
    assert found.activation == "softmax" and found.preprocess["crop"] is None
    path = weights_of(tmp_path, "vgg11_w8_digits")
    with pytest.raises(ValueError, match="what the 10 outputs .* are: give --classes FILE"):
        load.from_zoo("vgg11_w8_digits", path, CPU, pixels=PIXELS)
    path = weights_of(tmp_path, NAME, classes=14)
    monkeypatch.setattr(store, "builtin", lambda name: None)
    found = load.from_zoo(NAME, path, CPU, WIDER_ATTRIBUTES, pixels=PIXELS)
    assert found.classes == WIDER_ATTRIBUTES
    with pytest.raises(ValueError, match="what the 10 outputs"):
        load.from_zoo(NAME, path, CPU, pixels=PIXELS)


def test_as_many_outputs_as_wider_has_attributes_do_not_make_them_its(tmp_path):
    """Garments have 14 classes, too: a net that is not called WIDER's is asked for its names."""
    for name in ("resnet18_w16_synthetic", "resnet18_w16_garments"):
        path = weights_of(tmp_path, name)
        with pytest.raises(ValueError, match="what the 14 outputs .* are: give --classes FILE"):
            load.from_zoo(name, path, CPU, pixels=PIXELS)
    path = weights_of(tmp_path, "resnet18_wider")
    pixels = {**PIXELS, "resize": 256}
    assert load.from_zoo("resnet18_wider", path, CPU, pixels=pixels).classes == WIDER_ATTRIBUTES


def test_names_that_are_given_go_before_the_record_of_convert(tmp_path):
    path, right = weights_of(tmp_path, NAME), tuple("abcdefghij")
    outside.write_record(path, NAME, {}, PIXELS, Schema.binary(right[::-1]))
    found = load.from_zoo(NAME, path, CPU, right)
    assert found.classes == right


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--run DIR --pretrained --names F --params F", "not allowed with"),
        ("--run DIR --names F --params F", "--params, --classes: only with --model"),
        ("--export DIR --pretrained", "--pretrained: only with --model"),
        ("--model NAME --pretrained --params F", "not allowed with argument --pretrained"),
    ],
)
def test_evaluate_refuses_flags_that_it_would_ignore(flags, message):
    code, _, err = run_tool("evaluate.py", *flags.split(), "--data-dir", "DATA")
    assert code == 2 and message in err


# ------------------------------------------------------------------------------ predictors
@pytest.fixture
def exports(monkeypatch):
    """Exports without the check in another process, which takes seconds; the folders made."""
    made, whole = [], attributes.export_model

    @functools.wraps(whole)
    def export(net, directory, *arguments, **options):
        made.append(str(directory))
        return whole(net, directory, *arguments, check=False, **options)

    monkeypatch.setattr(attributes, "export_model", export)
    return made


def test_an_export_is_made_once_for_each_release_and_again_if_damaged(
    tmp_path, monkeypatch, exports, caplog
):
    monkeypatch.chdir(tmp_path)
    first = pretrained.load_predictor(NAME, root="~/weights")
    folder = Path(exports[0])
    assert folder.parent == tmp_path / "home" / "weights" / "exports"
    assert not (tmp_path / "~").exists()
    pretrained.load_predictor(NAME, root="~/weights")
    assert len(exports) == 1 and "exported again" not in caplog.text
    weights = folder / f"{NAME}-0000.params"
    for damage in (lambda: os.truncate(weights, 100), (folder / f"{NAME}.json").unlink):
        caplog.clear()
        damage()
        again = pretrained.load_predictor(NAME, root="~/weights")
        assert "exported again" in caplog.text and again.classes == first.classes
    assert exports == [str(folder)] * 3
    monkeypatch.setattr(pretrained, "__version__", "9.9")
    pretrained.load_predictor(NAME, root="~/weights")
    assert exports[3] != exports[0] and exports[3].endswith("-9.9")


def test_two_processes_that_start_together_share_an_export(tmp_path, monkeypatch, exports):
    """The other one is faster: this one finds its export when its own is written."""
    slow = attributes.export_model

    def late(net, directory, *arguments, **options):
        slow(net, directory, *arguments, **options)
        return slow(net, directory, *arguments, **options)  # FileExistsError

    monkeypatch.setattr(attributes, "export_model", late)
    image = np.zeros((40, 40, 3), np.uint8)
    assert pretrained.load_predictor(NAME)([image]).shape == (1, 10)
    assert len(exports) == 2


def test_where_the_store_cannot_be_written_the_users_own_temporary_folder_is_used(
    tmp_path, exports
):
    (tmp_path / "file").write_text("x")
    for _ in range(2):
        pretrained.load_predictor(NAME, root=str(tmp_path / "file"))
    (folder,) = (tmp_path / "tmp").iterdir()
    assert len(exports) == 1 and Path(exports[0]).parent == folder
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)  # as if another user had put it there: nothing is read from it
    try:
        for _ in range(2):
            pretrained.load_predictor(NAME, root=str(tmp_path / "file"))
        assert len(exports) == 2 and Path(exports[1]).parent != folder
    finally:
        pretrained._until_exit.cache_clear()
