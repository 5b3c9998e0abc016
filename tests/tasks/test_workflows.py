"""What commands compose: building from a recipe, loading what was trained, evaluating it."""

from __future__ import annotations

import json
import os
import re
import shutil

import cv2
import mxnet as mx
import numpy as np
import pytest
from training_helpers import NAMES, recipe, same, values, write_data

from gluon_attn.core.files import save_parameters
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.recipe import names as recipe_names
from gluon_attn.export import export_model
from gluon_attn.runtime import seed_everything
from gluon_attn.task import Asked, Exported, Trained, task_of
from gluon_attn.tasks import attributes
from gluon_attn.tasks import data as data_of
from gluon_attn.tasks.data import Predictions
from gluon_attn.train import build
from gluon_attn.train import trained as load
from gluon_attn.train.run import Settings, train
from model_zoo import get_model

CPU = mx.cpu()
COCO = ("ssd", "faster_rcnn", "simple_pose")  # whose nets have tests of their own


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_data(tmp_path_factory.mktemp("data") / "shapes"))


@pytest.fixture(scope="module")
def trained_run(data, tmp_path_factory):
    """A run of one epoch; tests that damage it take a copy."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = Settings(data, str(folder), workers=1, console=False, test=False)
    train(Recipe.from_dict(recipe(epochs=1, options={"phase1_epochs": 0})), settings)
    return folder


@pytest.fixture(scope="module")
def trained(trained_run):
    return load.from_run(str(trained_run), [CPU])


@pytest.fixture(scope="module")
def found(trained, data):
    """The test split, and what the net says of it."""
    dataset = data_of.open_for(trained, data)
    return dataset, data_of.predict_dataset(trained, dataset, CPU, 8, workers=1)


@pytest.fixture(scope="module")
def export(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "tiny"
    export_model(
        trained.net, folder, "tiny", trained.classes, input_size=trained.input_size,
        preprocess=trained.export_preprocess, check=False,
    )  # fmt: skip
    return str(folder)


# ------------------------------------------------------------------------------ build
def test_recipes_of_the_package_build():
    built = set()  # nets that differ in depth alone are built by test_zoo
    for name in recipe_names():
        found = build.load_recipe(name)
        same = (re.sub(r"\d+", "", found.model), repr(found.model_options), found.input_size)
        if not found.model.startswith(COCO) and same not in built:
            built.add(same)
            net = build.build_net(found, 14)
            assert net.output_names[0] == "logits"
            assert net.input_size[0] == found.input_size  # people are half as wide
        unknown = set(found.options) - set(build.METHODS.get(found.method).OPTIONS)
        assert not unknown, (name, unknown)


def test_overrides_reach_recipe_method_and_model():
    pairs = ["lr=0.5", "gamma=1", "model_options.width=8", "epochs=2"]
    found = build.load_recipe("vaa_synthetic_resnet18", pairs)
    assert (found.lr, found.epochs) == (0.5, 2)
    assert found.options["gamma"] == 1 and found.model_options["width"] == 8
    assert found.model_options["taps"] == ["stage2_activation1", "stage3_activation1"]
    with pytest.raises(ValueError, match="unknown recipe key 'gama'; did you mean 'gamma'"):
        build.load_recipe("vaa_synthetic_resnet18", ["gama=1"])
    with pytest.raises(ValueError, match="unknown method 'va'"):
        build.load_recipe("vaa_synthetic_resnet18", ["method=va"])


def test_initial_weights_depend_on_the_seed_alone():
    def weights(seed):
        np.random.rand(7), mx.nd.random.uniform(shape=(5,))  # draws that must not matter
        return initial(Recipe.from_dict(recipe(seed=seed)))

    seed_everything(11)
    first = weights(3)
    seed_everything(12)
    again, other = weights(3), weights(4)
    same(again, first)
    assert any(not np.array_equal(array, other[name]) for name, array in first.items())


def initial(chosen, *base):
    return values(build.initialize_net(chosen, build.build_net(chosen, 3), [CPU], *base))


def test_base_params_fill_the_backbone_and_nothing_else(tmp_path):
    source = get_model("resnet18_w16_synthetic", classes=9, width=8, input_size=32)
    source.initialize(mx.init.Normal(0.7))
    save_parameters(source, str(tmp_path / "backbone.params"))
    plain, source = Recipe.from_dict(recipe()), values(source)
    without, given = initial(plain), initial(plain, str(tmp_path / "backbone.params"))
    for name, array in given.items():
        backbone = name.startswith("backbone.features.")  # else heads, and a classifier of 3
        expected = source[name[len("backbone.") :]] if backbone else without[name]
        np.testing.assert_array_equal(array, expected, err_msg=name)


def test_weights_of_the_plain_net_will_do_for_one_with_attention(tmp_path):
    source = get_model("cifar_resnet20_cifar10", depth=8, width=8)
    source.initialize(mx.init.Normal(0.7))
    save_parameters(source, str(tmp_path / "plain.params"))
    options = {"model": "se_resnet20_cifar10", "model_options": {"depth": 8, "width": 8}}
    chosen = Recipe.from_dict(recipe(method="baseline", options={}, **options))
    source = values(source)
    given, without = initial(chosen, str(tmp_path / "plain.params")), initial(chosen)
    new = {name for name in given if name not in source}
    assert new and all("channel" in name for name in new)
    for name in new:
        np.testing.assert_array_equal(given[name], without[name], err_msg=name)
    for name in source.keys() - {"output.weight", "output.bias"}:  # of 10 classes, here 3
        np.testing.assert_array_equal(given[name], source[name], err_msg=name)


def test_optimizers_get_the_arguments_they_take(data):
    dataset = data_of.open_split(Recipe.from_dict(recipe()), data, "train")
    for optimizer, momentum in (("sgd", 0.9), ("nag", 0.9), ("adam", None)):
        chosen = Recipe.from_dict(recipe(optimizer=optimizer))
        net = build.initialize_net(chosen, build.build_net(chosen, 3), [CPU])
        method = build.build_method(chosen, net, [CPU], dataset)
        params = method.optimization.params
        assert params.get("momentum") == momentum and params["wd"] == 5e-4
        assert "learning_rate" not in params, "the schedule's, epoch by epoch"
        assert method.options["phase1_epochs"] == 1 and method.options["gamma"] == 2.0
        method.begin_epoch(0)
        assert type(method.trainer.optimizer).__name__.lower() == optimizer


def test_unspecified_labels_follow_the_recipe(data):
    for choice, all_known in (("negative", True), ("masked", False)):
        chosen = Recipe.from_dict(recipe(unspecified=choice))
        assert bool(data_of.open_split(chosen, data, "train").mask.all()) == all_known
        # validation leaves them out either way
        assert data_of.open_split(chosen, data, "val").mask.mean() < 1


def test_loaders_drop_or_pad_the_last_batch(data):
    chosen = Recipe.from_dict(recipe(batch_size=7))
    dataset = data_of.open_split(chosen, data, "val")
    batches = list(task_of(dataset).train_loader(chosen, dataset, None, 1))
    assert [len(b.index) for b in batches] == [7, 7, 7]
    padded = list(data_of.eval_loader(data_of.eval_preprocess(chosen), dataset, 7, 1))
    assert [b.image.shape for b in padded] == [(7, 3, 32, 32)] * 4
    index = np.concatenate([b.index for b in padded])
    assert index[:24].tolist() == list(range(24)) and (index[24:] == -1).all()


# ------------------------------------------------------------------------------ load
def test_a_run_comes_back_as_it_was_saved(trained_run, trained):
    best = json.loads((trained_run / "best.json").read_text())
    saved = mx.nd.load(str(trained_run / "best.params"))
    same(values(trained.net), {name: array.asnumpy() for name, array in saved.items()})
    assert trained.classes == NAMES and trained.input_size == 32
    assert trained.preprocess["resize"] == 40 and trained.preprocess["crop"] == 36
    assert set(trained.export_preprocess) == {"resize", "crop", "mean", "std"}
    assert trained.extra["epoch"] == best["epoch"] and trained.extra["recipe"] == best["recipe"]
    assert trained.net(mx.nd.zeros((2, 3, 32, 32)))[0].shape == (2, 3)


@pytest.mark.parametrize(
    "name, damage, message",
    [
        *(("best.params", damage, "best.params is damaged or was replaced") for damage in (
            lambda whole: whole[:999] + bytes([whole[999] ^ 1]) + whole[1000:],
            lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: whole + b"\0",
        )),
        ("best.params", None, "best.params"), ("best.json", None, "best.json"),
        *(("best.json", lambda whole, text=text: text, "best.json|best.params")
          for text in (b"", b'{"epoch": 0', b"[]", b"{}", b'{"sha256": "00"}')),
    ],
)  # fmt: skip
def test_damaged_and_missing_files_of_a_run_are_named(trained_run, tmp_path, name, damage, message):
    path = shutil.copytree(trained_run, tmp_path / "run") / name
    whole = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(damage(whole))
    with pytest.raises(ValueError if damage else FileNotFoundError, match=message):
        load.from_run(str(path.parent), [CPU])


def test_a_zoo_model_with_weights_from_a_file(tmp_path):
    name, path = "vaa_resnet18_w16_synthetic", str(tmp_path / "two.params")
    net = get_model(name, classes=2)
    net.initialize(mx.init.Xavier())
    save_parameters(net, path)
    pixels = {"mean": (1, 2, 3), "std": (4, 5, 6), "resize": 128, "crop": 112}
    found = load.from_zoo(name, path, [CPU], ["hat", "bag"], pixels=pixels)
    same(values(found.net), values(net))
    assert found.classes == ("hat", "bag")
    assert found.preprocess == {**pixels, "size": 112}
    with pytest.raises(ValueError, match="does not fit VAA; nothing was loaded"):
        load.from_zoo(name, path, [CPU], tuple("abcdefghijklmn"), pixels=pixels)
    with pytest.raises(ValueError, match="--params FILE or --pretrained"):
        load.from_zoo(name, None, [CPU])


# ------------------------------------------------------------------------------ evaluate
def predictions(label, mask=None):
    label = np.array(label, np.float32)
    mask = np.ones_like(label) if mask is None else np.array(mask, np.float32)
    return Predictions(np.full(label.shape, 0.5, np.float32), label, mask)


def test_chosen_samples_show_the_rare_attributes_first():
    label = np.zeros((6, 3))
    label[:, 0] = 1  # everywhere
    label[4, 1] = 1  # once
    label[2, 2] = label[5, 2] = 1  # twice
    assert attributes.choose_samples(predictions(label), 2) == [4, 2]
    mask = np.ones_like(label)  # unspecified positives are none: 4 has nothing special any more
    mask[4, 1] = 0
    assert attributes.choose_samples(predictions(label, mask), 1) == [2]
    rng = np.random.default_rng(0)
    for count in (1, 3, 5, 9):
        chosen = attributes.choose_samples(predictions(rng.random((5, 4)) < 0.4), count)
        assert len(set(chosen)) == len(chosen) == min(count, 5) and set(chosen) <= set(range(5))
    assert sorted(attributes.choose_samples(predictions(np.zeros((3, 2))), 3)) == [0, 1, 2]


def opened(data, names, **options):
    return data_of.open_for(Exported("", {"classes": names}), data, "test", **options)


def test_attributes_are_those_of_the_net_or_refused(data):
    whole = opened(data, NAMES)
    assert whole.names == NAMES and whole.mask.mean() < 1
    assert opened(data, NAMES, unspecified="negative").mask.mean() == 1
    for names in (("square", "disc", "ring"), ("disc", "square", "stripe"), ("disc", "square")):
        with pytest.raises(ValueError, match="attributes square, disc, stripe; the model was made"):
            opened(data, names)
    some = opened(data, ("square", "stripe"))
    assert some.names == ("square", "stripe") and len(some) == len(whole)
    np.testing.assert_array_equal(some.label, whole.label[:, [0, 2]])
    np.testing.assert_array_equal(some.mask, whole.mask[:, [0, 2]])


def test_evaluation_does_not_depend_on_batches_threads_or_export(trained, found, export):
    dataset, first = found
    assert first.probs.shape == (24, 3) and np.isfinite(first.probs).all()
    np.testing.assert_array_equal(first.label, dataset.label)
    for other in (
        data_of.predict_dataset(trained, dataset, CPU, 5, workers=2),
        data_of.predict_dataset(trained, dataset, CPU, 24, workers=0),
        data_of.predict_export(export, dataset, "cpu", 7),
    ):
        np.testing.assert_allclose(other.probs, first.probs, atol=1e-5)
        np.testing.assert_array_equal(other.label, first.label)
        np.testing.assert_array_equal(other.mask, dataset.mask)


def test_skipped_images_count_in_neither_evaluation(data, trained, export, tmp_path):
    broken = shutil.copytree(data, str(tmp_path / "broken"))
    os.remove(f"{broken}/images/test3.png")
    masks = []
    for source in (trained, Exported.open(export)):
        dataset = data_of.open_for(source, broken, on_bad_image="skip")
        asked = Asked(str(tmp_path), "test", CPU, batch_size=8)
        masks.append(data_of.predictions_of(source, dataset, asked).mask)
        assert masks[-1][3].tolist() == [0, 0, 0]
        assert dataset.skipped[0][0] == "images/test3.png"
    np.testing.assert_array_equal(*masks)


def test_reports_and_figures_are_written(trained, found, tmp_path):
    dataset, predicted = found
    done = trained.task.evaluate(trained, dataset, Asked(str(tmp_path / "out"), "test", CPU))
    written = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert written == sorted(os.path.basename(f) for f in done.files)
    chosen = cv2.imread(str(tmp_path / "out" / "test_attention.png"))
    path = str(tmp_path / "maps.png")
    attributes.draw_attention(trained, dataset, predicted, path, ctx=CPU, samples=[5])
    assert cv2.imread(path).shape[0] < chosen.shape[0]  # fewer rows
    plain = Asked(str(tmp_path / "plain"), "test", CPU, figures=False)
    trained.task.report(predicted, dataset, plain)
    assert not list((tmp_path / "plain").glob("*.png"))
    net = get_model("resnet18_w16_synthetic", classes=3, width=8, input_size=32)
    plain = Trained("plain", net, NAMES, {"resize": 40, "crop": 36, "size": 32}, {})
    path = str(tmp_path / "none.png")  # a net without maps
    assert attributes.draw_attention(plain, None, predictions(np.eye(3)), path, ctx=CPU) is None
    assert not os.path.exists(path)


def test_a_full_disk_leaves_no_half_predictions(trained, found, tmp_path, monkeypatch):
    def full(file, array, **kwargs):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.lib.format.write_array", full)
    dataset, predicted = found
    with pytest.raises(OSError, match="No space left"):
        trained.task.report(predicted, dataset, Asked(str(tmp_path), "test", CPU, figures=False))
    assert [p.name for p in tmp_path.iterdir() if p.suffix in (".npz", ".tmp")] == []
