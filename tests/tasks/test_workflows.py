"""The compositions behind the tools: building from a recipe, loading what was trained, evaluating.

In-process, on the tiny data; the command lines themselves are in tests/cli.
"""

from __future__ import annotations

import json
import os
import re
import shutil

import cv2
import mxnet as mx
import numpy as np
import pytest
from training_helpers import NAMES, recipe, write_data

from gluon_attn.core.files import save_parameters
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.recipe import names as recipe_names
from gluon_attn.export import export_model
from gluon_attn.runtime import seed_everything
from gluon_attn.tasks import evaluate_run as evaluate
from gluon_attn.tasks.base import OF_MODEL
from gluon_attn.train import Predictions, build
from gluon_attn.train import trained as load
from gluon_attn.train.run import Settings, train
from model_zoo import WIDER_ATTRIBUTES, get_model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def trained_run(data, tmp_path_factory):
    """A run of one epoch; tests that damage it take a copy."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = Settings(str(data), str(folder), workers=1, console=False, test=False)
    train(Recipe.from_dict(recipe(epochs=1, options={"phase1_epochs": 0})), settings)
    return folder


@pytest.fixture(scope="module")
def trained(trained_run):
    return load.from_run(str(trained_run), [mx.cpu()])


@pytest.fixture
def copy(trained_run, tmp_path):
    return shutil.copytree(str(trained_run), str(tmp_path / "run"))


def values(net):
    """Return all parameters as NumPy arrays by structural name."""
    params = net._collect_params_with_prefix()
    return {name: parameter.data().asnumpy() for name, parameter in params.items()}


# ------------------------------------------------------------------------------ build


def test_recipes_of_the_package_build():
    built = set()  # nets that differ in depth alone are built by test_zoo
    for name in recipe_names():
        found = build.load_recipe(name)
        same = (re.sub(r"\d+", "", found.model), repr(found.model_options), found.input_size)
        # Nets of detection and keypoints have tests of their own.
        if not found.model.startswith(tuple(OF_MODEL)) and same not in built:
            built.add(same)
            net = build.build_net(found, 14)
            assert net.output_names[0] == "logits"
            assert net.input_size[0] == found.input_size  # people are half as wide
        unknown = set(found.options) - set(build.METHODS.get(found.method).OPTIONS)
        assert not unknown, (name, unknown)


def test_overrides_reach_recipe_method_and_model():
    found = build.load_recipe(
        "vaa_synthetic_resnet18",
        ["lr=0.5", "gamma=1", "model_options.width=8", "epochs=2"],
    )
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
        net = build.build_net(Recipe.from_dict(recipe(seed=seed)), 3)
        build.initialize_net(Recipe.from_dict(recipe(seed=seed)), net, [mx.cpu()])
        return values(net)

    seed_everything(11)
    first = weights(3)
    seed_everything(12)
    again, other = weights(3), weights(4)
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name], err_msg=name)
    assert any(not np.array_equal(array, other[name]) for name, array in first.items())


def test_base_params_fill_the_backbone_and_nothing_else(tmp_path):
    source = get_model("resnet18_w16_synthetic", classes=9, width=8, input_size=32)
    source.initialize(mx.init.Normal(0.7))
    save_parameters(source, str(tmp_path / "backbone.params"))
    plain = Recipe.from_dict(recipe())
    nets = []
    for base in (None, str(tmp_path / "backbone.params")):
        net = build.build_net(plain, 3)
        nets.append(values(build.initialize_net(plain, net, [mx.cpu()], base)))
    given = values(source)
    for name, array in nets[1].items():
        if name.startswith("backbone.features."):
            np.testing.assert_array_equal(array, given[name[len("backbone.") :]], err_msg=name)
        else:  # heads, and the classifier of 3 instead of 9 outputs
            np.testing.assert_array_equal(array, nets[0][name], err_msg=name)


def test_optimizers_get_the_arguments_they_take(data):
    dataset = build.open_split(Recipe.from_dict(recipe()), str(data), "train")
    for optimizer, momentum in (("sgd", 0.9), ("nag", 0.9), ("adam", None)):
        chosen = Recipe.from_dict(recipe(optimizer=optimizer))
        net = build.initialize_net(chosen, build.build_net(chosen, 3), [mx.cpu()])
        method = build.build_method(chosen, net, [mx.cpu()], dataset)
        assert method.optimization.params.get("momentum") == momentum
        assert method.optimization.params["wd"] == 5e-4
        assert method.options["phase1_epochs"] == 1 and method.options["gamma"] == 2.0
        method.begin_epoch(0)
        assert type(method.trainer.optimizer).__name__.lower() == optimizer


def test_unspecified_labels_follow_the_recipe(data):
    for choice, all_known in (("negative", True), ("masked", False)):
        dataset = build.open_split(Recipe.from_dict(recipe(unspecified=choice)), str(data), "train")
        assert bool(dataset.mask.all()) == all_known
        # validation leaves them out either way
        held_out = build.open_split(Recipe.from_dict(recipe(unspecified=choice)), str(data), "val")
        assert held_out.mask.mean() < 1


def test_loaders_drop_or_pad_the_last_batch(data):
    chosen = Recipe.from_dict(recipe(batch_size=7))
    dataset = build.open_split(chosen, str(data), "val")
    batches = list(build.train_loader(chosen, dataset, 1))
    assert [len(b.index) for b in batches] == [7, 7, 7]
    padded = list(build.eval_loader(build.eval_preprocess(chosen), dataset, 7, 1))
    assert [b.image.shape for b in padded] == [(7, 3, 32, 32)] * 4
    index = np.concatenate([b.index for b in padded])
    assert index[:24].tolist() == list(range(24)) and (index[24:] == -1).all()


# ------------------------------------------------------------------------------ load


def test_a_run_comes_back_as_it_was_saved(trained_run, trained):
    best = json.loads((trained_run / "best.json").read_text())
    saved = mx.nd.load(str(trained_run / "best.params"))
    for name, array in values(trained.net).items():
        np.testing.assert_array_equal(array, saved[name].asnumpy(), err_msg=name)
    assert trained.classes == NAMES and trained.input_size == 32
    assert trained.preprocess["resize"] == 40 and trained.preprocess["crop"] == 36
    assert set(trained.export_preprocess) == {"resize", "crop", "mean", "std"}
    assert trained.extra["epoch"] == best["epoch"] and trained.extra["recipe"] == best["recipe"]
    assert trained.net(mx.nd.zeros((2, 3, 32, 32)))[0].shape == (2, 3)


@pytest.mark.parametrize("damage", ["byte", "cut", "empty", "other"])
def test_damaged_weights_are_refused(copy, damage):
    path = f"{copy}/best.params"
    with open(path, "rb") as file:
        good = file.read()
    middle = len(good) // 2
    changed = {
        "byte": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "cut": good[:middle], "empty": b"", "other": good + b"\0",
    }  # fmt: skip
    with open(path, "wb") as file:
        file.write(changed[damage])
    with pytest.raises(ValueError, match="best.params is damaged or was replaced"):
        load.from_run(copy, [mx.cpu()])


@pytest.mark.parametrize("name", ["best.json", "best.params"])
def test_a_run_without_weights_says_so(copy, name):
    os.remove(f"{copy}/{name}")
    with pytest.raises(FileNotFoundError, match=name):
        load.from_run(copy, [mx.cpu()])


@pytest.mark.parametrize("text", ["", '{"epoch": 0', "[]", "{}", '{"sha256": "00"}'])
def test_a_damaged_record_names_its_file(copy, text):
    with open(f"{copy}/best.json", "w") as file:
        file.write(text)
    with pytest.raises(ValueError, match="best.json|best.params"):
        load.from_run(copy, [mx.cpu()])


def test_a_zoo_model_with_weights_from_a_file(tmp_path):
    net = get_model("vaa_resnet18_w16_synthetic", classes=2)
    net.initialize(mx.init.Xavier())
    save_parameters(net, str(tmp_path / "two.params"))
    name, path, ctx = "vaa_resnet18_w16_synthetic", str(tmp_path / "two.params"), [mx.cpu()]
    found = load.from_zoo(name, path, ctx, ["hat", "bag"])
    image = mx.nd.random.normal(shape=(2, 3, 112, 112))
    np.testing.assert_allclose(
        found.net(image)[0].asnumpy(), net(image)[0].asnumpy(), rtol=1e-5, atol=1e-5
    )
    assert found.classes == ("hat", "bag")
    # the paper's proportions: 256 and 224 at 224 px
    assert found.preprocess["resize"] == 128 and found.preprocess["crop"] == 112
    with pytest.raises(ValueError, match="does not fit VAA; nothing was loaded"):
        load.from_zoo(name, path, ctx)  # the 14 of WIDER-Attribute
    with pytest.raises(ValueError, match="--params FILE or --pretrained"):
        load.from_zoo(name, None, ctx)


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
    assert evaluate.choose_samples(predictions(label), 2) == [4, 2]
    # unspecified positives are none: sample 4 has nothing special any more
    mask = np.ones_like(label)
    mask[4, 1] = 0
    assert evaluate.choose_samples(predictions(label, mask), 1) == [2]


def test_chosen_samples_are_distinct_and_no_more_than_there_are():
    rng = np.random.default_rng(0)
    for count in (1, 3, 5, 9):
        label = rng.random((5, 4)) < 0.4
        chosen = evaluate.choose_samples(predictions(label), count)
        assert len(set(chosen)) == len(chosen) == min(count, 5)
        assert all(0 <= k < 5 for k in chosen)
    assert sorted(evaluate.choose_samples(predictions(np.zeros((3, 2))), 3)) == [0, 1, 2]


def test_other_attributes_are_refused(data):
    dataset = evaluate.open_for_evaluation(str(data), "test", NAMES)
    assert dataset.names == NAMES and dataset.mask.mean() < 1
    counted = evaluate.open_for_evaluation(str(data), "test", NAMES, unspecified="negative")
    assert counted.mask.mean() == 1
    for names in (("square", "disc", "ring"), ("disc", "square", "stripe"), ("disc", "square")):
        with pytest.raises(ValueError, match="attributes square, disc, stripe; the model was made"):
            evaluate.open_for_evaluation(str(data), "test", names)


def test_a_net_of_some_attributes_is_evaluated_on_those(data):
    whole = evaluate.open_for_evaluation(str(data), "test", NAMES)
    some = evaluate.open_for_evaluation(str(data), "test", ("square", "stripe"))
    assert some.names == ("square", "stripe") and len(some) == len(whole)
    np.testing.assert_array_equal(some.label, whole.label[:, [0, 2]])
    np.testing.assert_array_equal(some.mask, whole.mask[:, [0, 2]])


def test_evaluation_does_not_depend_on_batches_or_threads(data, trained):
    dataset = evaluate.open_for_evaluation(str(data), "test", NAMES)
    first = evaluate.predict_dataset(trained, dataset, mx.cpu(), 8, 1)
    assert first.probs.shape == (24, 3) and np.isfinite(first.probs).all()
    np.testing.assert_array_equal(first.label, dataset.label)
    np.testing.assert_array_equal(first.mask, dataset.mask)
    for batch, workers in ((5, 2), (24, 0), (32, 1)):
        other = evaluate.predict_dataset(trained, dataset, mx.cpu(), batch, workers)
        np.testing.assert_allclose(other.probs, first.probs, atol=1e-5)
        np.testing.assert_array_equal(other.mask, first.mask)


def test_an_export_predicts_what_the_net_does(data, trained, tmp_path):
    export = export_model(
        trained.net, tmp_path / "export", "tiny", trained.classes, trained.input_size,
        trained.export_preprocess, check=False,
    )  # fmt: skip
    dataset = evaluate.open_for_evaluation(str(data), "test", NAMES)
    ours = evaluate.predict_dataset(trained, dataset, mx.cpu(), 8, 1)
    theirs = evaluate.predict_export(str(export), dataset, "cpu", 7)
    np.testing.assert_allclose(theirs.probs, ours.probs, atol=1e-5)
    np.testing.assert_array_equal(theirs.label, ours.label)
    np.testing.assert_array_equal(theirs.mask, ours.mask)


def test_skipped_images_count_in_neither_evaluation(data, trained, tmp_path):
    broken = shutil.copytree(str(data), str(tmp_path / "broken"))
    os.remove(f"{broken}/images/test3.png")
    export = export_model(
        trained.net, tmp_path / "export", "tiny", trained.classes, trained.input_size,
        trained.export_preprocess, check=False,
    )  # fmt: skip
    found = []
    for predict in (
        lambda d: evaluate.predict_dataset(trained, d, mx.cpu(), 8, 1),
        lambda d: evaluate.predict_export(str(export), d, "cpu", 8),
    ):
        dataset = evaluate.open_for_evaluation(broken, "test", NAMES, "skip")
        found.append(predict(dataset))
        assert found[-1].mask[3].tolist() == [0, 0, 0]
        assert dataset.skipped[0][0] == "images/test3.png"
    np.testing.assert_array_equal(found[0].mask, found[1].mask)


def test_reports_and_figures_are_written(data, trained, tmp_path):
    dataset = evaluate.open_for_evaluation(str(data), "test", NAMES)
    found = evaluate.predict_dataset(trained, dataset, mx.cpu(), 24, 0)
    done = evaluate.evaluate(found, NAMES, str(tmp_path / "out"), "test", figures=True)
    written = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert written == sorted(os.path.basename(f) for f in done.files)
    assert {"test.csv", "test.json", "test.md", "test_pr_curves.png"} <= set(written)
    stored = json.loads((tmp_path / "out" / "test.json").read_text())
    assert stored["overall"]["mAP"] == pytest.approx(done.result["overall"]["mAP"], abs=1e-12)
    with np.load(str(tmp_path / "out" / "test_predictions.npz"), allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["probs"], found.probs)
        assert tuple(archive["names"]) == NAMES
    evaluate.evaluate(found, NAMES, str(tmp_path / "plain"), "test", figures=False)
    assert not list((tmp_path / "plain").glob("*.png"))


def test_a_full_disk_leaves_no_half_predictions(data, trained, tmp_path, monkeypatch):
    def full(file, array, **kwargs):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.lib.format.write_array", full)
    with pytest.raises(OSError, match="No space left"):
        evaluate.evaluate(predictions(np.eye(3)), NAMES, str(tmp_path), figures=False)
    assert [p.name for p in tmp_path.iterdir() if p.suffix in (".npz", ".tmp")] == []


def test_attention_is_drawn(data, trained, tmp_path):
    dataset = evaluate.open_for_evaluation(str(data), "test", NAMES)
    found = evaluate.predict_dataset(trained, dataset, mx.cpu(), 24, 0)
    path = str(tmp_path / "maps.png")
    assert str(evaluate.draw_attention(trained, dataset, found, path, mx.cpu())) == path
    chosen = cv2.imread(path)
    assert min(chosen.shape[:2]) > 200 and chosen.std() > 10  # a picture, not a blank sheet
    evaluate.draw_attention(trained, dataset, found, path, mx.cpu(), samples=[5])
    assert cv2.imread(path).shape[0] < chosen.shape[0]  # fewer rows


def test_a_net_without_maps_draws_nothing(data, tmp_path):
    net = get_model("resnet18_w16_synthetic", classes=3, width=8, input_size=32)
    net.initialize()
    plain = load.Trained("plain", net, NAMES, {"resize": 40, "crop": 36, "size": 32}, {})
    path = tmp_path / "maps.png"
    assert evaluate.draw_attention(plain, None, predictions(np.eye(3)), str(path), mx.cpu()) is None
    assert not path.exists()


def test_wider_names_are_the_default():
    assert len(WIDER_ATTRIBUTES) == len(set(WIDER_ATTRIBUTES)) == 14
