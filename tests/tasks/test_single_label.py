"""Single-label classification from end to end: recipes, runs, resuming, evaluation, export."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from formats.tiny import write_tiny

from gluon_attn.core.recipe import Recipe
from gluon_attn.core.schema import MULTICLASS, Attribute, Schema
from gluon_attn.data import open_dataset
from gluon_attn.export import Predictor, export_model
from gluon_attn.task import TASKS, Asked, Trained, is_one_class, task_of
from gluon_attn.tasks import data as evaluation
from gluon_attn.tasks.data import Predictions, open_split
from gluon_attn.train import trained as load
from gluon_attn.train.build import load_recipe
from gluon_attn.train.run import Settings, _open_data, train


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    root = tmp_path_factory.mktemp("cifar")
    write_tiny("cifar10", root, {"train": 56, "val": 8, "test": 32})
    return str(root)


def recipe(**changes):
    values = {
        "method": "baseline", "model": "resnet18_w16_synthetic", "model_options": {"width": 8},
        "splits": ("trainval", "test", "test"), "keep": "last", "score": "top1", "input_size": 32,
        "resize": 32, "augment": "pad", "eval_crop": 32, "mean": (120, 120, 120),
        "std": (64, 64, 64), "epochs": 20, "batch_size": 8, "lr": 0.05, "wd": 5e-4,
        "schedule": "cyclic_cosine", "lr_min": 0.0, "init": "msra", "log_interval": 4,
    }  # fmt: skip
    return Recipe(**dict(values, **changes))


def settings(data, folder, **options):
    return Settings(data, str(folder), workers=0, console=False, **options)


# -- runs ----------------------------------------------------------------------------------------
def test_a_run(cifar, tmp_path):
    result = train(recipe(), settings(cifar, tmp_path / "run"))
    best, test = result["best"], result["test"].values
    assert best["epoch"] == 19, "the last, whatever its score"
    assert set(best) == {"epoch", "top1", "top5", "accuracy"} and best["accuracy"] == best["top1"]
    assert test["overall"]["top1"] == pytest.approx(best["top1"]), "the same split"
    assert test["overall"]["top1"] > 0.5, "chance is 0.1"
    lines = [json.loads(s) for s in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert "loss_ce" in lines[0] and "val_mAP" not in lines[0]
    assert lines[0]["loss"] > lines[-1]["loss"]
    with np.load(str(tmp_path / "run" / "test_predictions.npz")) as archive:
        np.testing.assert_allclose(archive["probs"].sum(1), 1, rtol=1e-5)
        assert (archive["probs"].argmax(1) == archive["target"]).mean() == pytest.approx(
            best["top1"]
        )
    text = (tmp_path / "run" / "test.md").read_text()
    assert "top5_error" in text and "kind_0" in text

    trained = load.from_run(str(tmp_path / "run"), [mx.cpu()])
    assert trained.activation == "softmax" and trained.extra["top1"] == best["top1"]
    dataset = evaluation.open_for(trained, cifar, "test")
    found = evaluation.predict_dataset(trained, dataset, mx.cpu(), 16, workers=0)
    done = trained.task.evaluate(trained, dataset, Asked(str(tmp_path / "out"), "test", mx.cpu()))
    assert done.values["overall"] == pytest.approx(test["overall"])
    assert "top1_error" in done.text
    assert not list((tmp_path / "out").glob("*.png")), "no curves of one-hot columns"

    export_model(
        trained.net, str(tmp_path / "export"), "net", trained.classes, trained.input_size,
        trained.export_preprocess, activation=trained.activation,
    )  # fmt: skip
    again = evaluation.predict_export(str(tmp_path / "export"), dataset)
    np.testing.assert_allclose(again.probs, found.probs, atol=1e-4)
    assert Predictor(str(tmp_path / "export")).sidecar["activation"] == "softmax"


def test_the_rate_falls_from_batch_to_batch(cifar, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    chosen = recipe(epochs=1, log_interval=1, score="mAP")
    best = train(chosen, settings(cifar, tmp_path, test=False))["best"]
    assert set(best) == {"epoch", "top1", "top5", "accuracy", "mAP", "mA"}  # else without the two
    lines = [r.getMessage() for r in caplog.records if "Batch [" in r.getMessage()]
    rates = [float(line.split("lr=")[1]) for line in lines]
    expected = [0.025 * (1 + np.cos(np.pi * b / 8)) for b in range(8)]
    np.testing.assert_allclose(rates, expected, atol=1e-6)


def test_keep_best_on_the_reported_split_is_called_optimistic(cifar, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    places = settings(cifar, tmp_path)
    _open_data(recipe(keep="best"), places)
    assert "the result is optimistic" in caplog.text
    caplog.clear()
    _open_data(recipe(), places)
    data = _open_data(recipe(keep="best", splits=("train", "val", "test")), places)
    assert "optimistic" not in caplog.text
    assert (len(data["train"]), len(data["val"])) == (54, 10)


# -- scores --------------------------------------------------------------------------------------
def schema_of(*names):
    return Schema([Attribute("class", MULTICLASS, names)])


def test_scores_that_do_not_exist_are_refused():
    def check(score, schema):
        dataset = SimpleNamespace(schema=schema)
        task_of(dataset).check_score(score, dataset)

    check("top5", schema_of(*"abcdef"))
    check("mAP", schema_of("a", "b"))
    with pytest.raises(ValueError, match="score=top5: these data have 5 classes; valid here are "):
        check("top5", schema_of(*"abcde"))
    with pytest.raises(ValueError, match="score=top1: these data have 2 attribute columns"):
        check("top1", Schema.binary(["hat", "bag"]))


def test_one_attribute_chosen_from_several_keeps_the_scores_of_attributes():
    age = Schema([Attribute("age", MULTICLASS, ("young", "old"))])
    assert age.is_single_label and not is_one_class(age)
    assert task_of({}, age).activation == "sigmoid"
    assert is_one_class(schema_of("a", "b")) and task_of({}, schema_of("a", "b")).name != "reid"
    assert not is_one_class(Schema.binary(["class"]))


def test_predictions_are_stored_as_class_numbers(tmp_path):
    label = np.eye(3, dtype=np.float32)[[2, 0]]
    found = Predictions(label * 0.5, label, np.array([[1, 1, 1], [0, 0, 0]], np.float32))
    schema = schema_of("a", "b", "c")
    dataset = SimpleNamespace(schema=schema, names=schema.columns)
    TASKS.get("classification").report(found, dataset, Asked(str(tmp_path), "x", None))
    with np.load(tmp_path / "x_predictions.npz") as archive:
        assert sorted(archive.files) == ["names", "probs", "target"]
        assert archive["target"].tolist() == [2, -1]


# -- recipes -------------------------------------------------------------------------------------
# Table 1 of the supplement: batch, weight decay, momentum, rate, epochs, input


@pytest.mark.parametrize("name, values, steps", [
    # Table 1 of the supplement: batch, weight decay, momentum, rate, epochs, input
    ("cifar100_resnet110", (128, 5e-4, 0.9, 0.1, 160, 32), (81, 122)),
    ("caltech256_resnet18", (16, 1e-3, 0.9, 0.01, 20, 299), ()),
    ("caltech256_vgg19", (16, 1e-3, 0.9, 0.01, 20, 299), ()),
    ("imagenet_resnet18", (256, 1e-4, 0.9, 0.1, 90, 224), (30, 60)),
    ("cub200_resnet50", (10, 1e-4, 0.9, 1e-3, 90, 448), (30, 60)),
    ("cub200_resnet101", (10, 1e-4, 0.9, 1e-3, 90, 448), (30, 60)),
    ("voc2012_resnet18", (16, 1e-3, 0.9, 0.01, 20, 299), ()),
])  # fmt: skip
def test_recipes_hold_the_supplements_table(name, values, steps):
    r = load_recipe(f"icasc_{name}", ())
    assert (r.batch_size, r.wd, r.momentum, r.lr, r.epochs, r.input_size) == values
    assert r.method == "icasc" and r.options == {} and r.optimizer == "sgd"
    assert r.score == ("mAP" if "voc" in name else "top1") and r.keep == "last"
    assert r.splits[1] == r.splits[2] and r.lr_min == 0
    assert r.lr_epochs == steps and r.schedule == ("step" if steps else "cyclic_cosine")
    plain = load_recipe(f"icasc_{name}", ["method=baseline"])
    assert plain == Recipe.from_dict(dict(r.to_dict(), method="baseline"))


SMALL = ("input_size=32", "resize=40", "crop_min=32", "crop_max=32", "eval_crop=32", "epochs=1",
         "iterations_per_epoch=2", "batch_size=8", "model_options.width=8")  # fmt: skip


@pytest.mark.parametrize("name, kind, changes", [
    ("cifar100_resnet110", "cifar100", ["model=cifar_resnet20_cifar10"]),
    ("caltech256_resnet18", "caltech256", []),
    ("caltech256_vgg19", "caltech256",
     ["model=vgg11", "model_options.hidden=16", "model_options.pool=1"]),
    ("imagenet_resnet18", "imagenet", []), ("cub200_resnet50", "cub200", ["model=resnet18_v1b"]),
    ("voc2012_resnet18", "voc", []),
])  # fmt: skip
def test_baselines_of_the_recipes_run_on_tiny_official_trees(tmp_path, name, kind, changes):
    write_tiny(kind, tmp_path / "data")
    short = load_recipe(f"icasc_{name}", ["method=baseline", *SMALL, *changes])
    result = train(short, settings(str(tmp_path / "data"), tmp_path / "run"))
    score = result["test"].values["overall"]["mAP" if kind == "voc" else "top1"]
    assert 0 <= score <= 1 and result["best"]["epoch"] == 0
    if kind == "voc":
        with pytest.raises(ValueError, match="score=top1: these data have 20 attribute columns"):
            changed = short.override(["score=top1"])
            train(changed, settings(str(tmp_path / "data"), tmp_path / "other"))


def test_settings_of_the_reader_reach_it_but_not_a_packed_folder(tmp_path):
    from gluon_attn.data import pack

    data, packed = str(tmp_path / "data"), tmp_path / "packed"
    write_tiny("caltech256", data)
    short = load_recipe(
        "icasc_caltech256_resnet18", ["method=baseline", *SMALL, "data_options.per_class=5"]
    )
    dataset = open_split(short, data, "trainval")
    assert len(dataset) == 5 * 4
    pack(dataset, packed / "trainval", 48, train_size=40, progress=False)
    assert len(open_split(short, str(packed), "trainval")) == 20
    assert len(open_dataset(data, "trainval")) == 120
    net = Trained("net", None, dataset.names, {}, {"recipe": short.to_dict()})
    opened = evaluation.open_for(net, data, "trainval")
    assert opened.fingerprint() == dataset.fingerprint()


@pytest.mark.parametrize("key, value, message", [
    ("keep", "worst", "unknown keep 'worst'"), ("init", "he", "unknown init 'he'"),
    ("augment", "padd", "unknown augment 'padd'; did you mean 'pad'"),
    ("splits", ("train", "val"), "three names are needed"), ("pad", -1, "pad=-1 must be >= 0"),
    ("area_min", -0.1, "area_min"), ("score", "top2", "unknown score 'top2'"),
])  # fmt: skip
def test_bad_values(key, value, message):
    with pytest.raises(ValueError, match=message):
        recipe(**{key: value})
