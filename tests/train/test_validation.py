"""Scores that cannot be defined, undefined ones while training, validations that fail."""

from __future__ import annotations

import io
import json
import logging
import math
import re
import sys
from functools import partial
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from coco_helpers import write_data as write_coco
from training_helpers import checkpoint_arrays, recipe, same, write_data, write_recipe

from gluon_attn import workers
from gluon_attn.amp import MixedPrecision
from gluon_attn.cli import common as cli
from gluon_attn.cli.train import train_from_flags, training_flags
from gluon_attn.core.batch import Batch, LabelPolicy
from gluon_attn.core.errors import DivergedError, NotFiniteError
from gluon_attn.core.recipe import Recipe
from gluon_attn.data import AttributeDataset, ClassificationDataset
from gluon_attn.metrics.attributes import evaluate_attributes
from gluon_attn.metrics.classification import top_accuracies
from gluon_attn.metrics.multilabel import evaluate_multilabel
from gluon_attn.metrics.retrieval import Images, evaluate_retrieval
from gluon_attn.task import TASKS, task_of
from gluon_attn.tasks import data as data_of
from gluon_attn.tasks.attributes import Attributes
from gluon_attn.train import (
    SCHEDULES,
    Run,
    fit,
    load_checkpoint,
    log_to,
    read_json_lines,
    search,
)
from gluon_attn.train import run as training
from gluon_attn.train.run import Settings, check_validation, train, validator

PLAIN = {"method": "baseline", "model": "resnet18_w16_synthetic", "options": {}, "epochs": 1}


def assert_json_everywhere(folder):
    """Read every JSON file of a run, and the record in its checkpoint, as other programs do."""
    strict = partial(json.loads, parse_constant=pytest.fail)  # they refuse NaN and Infinity
    files = [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]
    for path in files:
        lines = path.read_text(encoding="utf-8").splitlines()
        for text in lines if path.suffix == ".jsonl" else ["\n".join(lines)]:
            strict(text)
    with np.load(folder / "last.ckpt") as archive:
        strict(archive["meta"].tobytes().decode())
    return {path.name for path in files}


# ------------------------------------------------------------- what the labels allow
class Labels(AttributeDataset):
    """Raw labels without images: 1 positive, -1 negative, 0 unspecified."""

    def __init__(self, raw):
        raw = np.asarray(raw)
        names = [f"a{k}" for k in range(raw.shape[1])]
        super().__init__(names, "val", raw, [f"{k}.png" for k in range(len(raw))],
                         policy=LabelPolicy())  # fmt: skip


def test_what_is_refused_is_what_every_net_scores_alike():
    """The best possible and the worst possible predictions have the same score, or none."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        raw = rng.choice([-1, 0, 1], p=rng.dirichlet(np.full(3, 0.3)), size=(3, 4))
        data = Labels(raw)
        best, worst = (
            evaluate_multilabel(probs, data.label, data.mask, data.names)
            for probs in (data.label, 1 - data.label)
        )
        for score, own in (("mAP", "ap"), ("mA", "ma")):
            alike = [r["overall"][score] for r in (best, worst)]
            problem, left_out = judge(score, data)
            assert bool(problem) == (math.isnan(alike[0]) or alike[0] == alike[1]), (score, raw)
            undefined = [] if problem else list(best["undefined"].get(own, []))
            assert [name for name in data.names if name in left_out] == undefined


def test_accuracy_needs_both_answers_of_one_attribute():
    assert "no positive label of a0, a1" in judge("accuracy", Labels([[-1, -1], [-1, 0]]))[0]
    data = Labels([[-1, 0], [1, 0]])
    assert judge("accuracy", data) == ("", "a1 (no known label)")
    found = evaluate_attributes(data.label, data.label, data.mask, data.schema)
    assert found["undefined"] == ["a1"]
    assert judge("mAP", Labels(-np.ones((2, 40))))[0].endswith("a10, a11 and 28 more")


def test_one_class_alone_is_no_validation():
    one, two = (ClassificationDataset(("cat", "dog", "ant"), "val", classes, ["0.png", "1.png"])
                for classes in ([1, 1], [1, 0]))  # fmt: skip
    for score in ("top1", "accuracy", "mAP"):
        assert "class=dog" in judge(score, one)[0]
        assert judge(score, two) == ("", "class=ant (no positive label)" if score == "mAP" else "")


def test_queries_without_their_person_in_another_camera_are_no_validation():
    def found(*arrays):
        fields = dict(zip(("query", "gallery", "identities", "cameras"), map(np.array, arrays)))
        return TASKS.get("reid").judge("mAP", SimpleNamespace(**fields))

    assert found([], [0], [1], [1])[0] == "it has no queries"
    assert found([0, 1], [2, 3, 4], [1, 2, 1, 3, -1], [1, 1, 1, 2, 2])[0] == (
        "all of its 2 queries have no image of their person in another camera"
    )
    problem, left_out = found([0, 1], [2, 3], [1, 2, 1, 3], [1, 1, 2, 2])
    assert problem == "" and left_out.startswith("1 of its 2 queries")


@pytest.mark.parametrize("change", [lambda a: [], lambda a: [dict(x, iscrowd=1) for x in a]])
def test_coco_without_a_box_that_counts_is_no_validation(tmp_path, change):
    from coco_helpers import recipe as coco_recipe

    root = write_coco(tmp_path / "data")
    asked = Recipe.from_dict(coco_recipe(keep="best"))
    dataset = data_of.open_split(asked, str(root), "val2017")
    other = Recipe.from_dict(coco_recipe(score="accuracy"))
    with pytest.raises(ValueError, match="score=accuracy: of these data there are mAP, AP50, AP75"):
        check_validation(other, dataset, str(root))
    shown = {dataset.coco.cats[a["category_id"]]["name"]
             for a in dataset.coco.anns.values() if not a.get("iscrowd")}  # fmt: skip
    problem, left_out = judge("mAP", dataset)
    assert problem == "" and all(n in left_out for n in dataset.names if n not in shown)
    dataset.coco.anns = {a["id"]: a for a in change(list(dataset.coco.anns.values()))}
    with pytest.raises(ValueError, match=r"instances_val2017.json, split 'val2017'.*no box that"):
        check_validation(asked, dataset, str(root))


# ------------------------------------------------------------- refused before training
def relabel(root, split, change):
    """Rewrite the labels of a split of the tiny data."""
    path = root / f"{split}.txt"
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    lines = [f"{name}\t{','.join(change(labels.split(',')))}" for name, labels in rows]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data", 16, 8, 8)


@pytest.mark.parametrize("start", [train, search.search])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda labels: ["0" for _ in labels], "no positive label of square, disc, stripe"),
        (lambda labels: ["-1" for _ in labels], "no known label of square, disc, stripe"),
        (lambda labels: ["1", "0", "-1"],
         "no known label of stripe; no positive label of disc; no negative label of square"),
    ],
    ids=["negative", "unspecified", "mixed"],
)  # fmt: skip
def test_labels_that_give_no_score_are_refused_before_training(
    data, tmp_path, monkeypatch, start, change, why
):
    relabel(data, "val", change)
    monkeypatch.setattr(training, "build_net", lambda *_: pytest.fail("a net was built"))
    method = {"method": "autola", "options": {}} if start is search.search else {}
    with pytest.raises(ValueError) as caught:
        start(Recipe.from_dict(recipe(**method)), settings(data, tmp_path / "run"))
    text = str(caught.value)
    assert f"{data}, split 'val': {why}, so validation mAP cannot" in text and "keep=last" in text
    assert not (tmp_path / "run" / "last.ckpt").exists()


def settings(data, folder, **changes):
    return Settings(str(data), str(folder), workers=0, console=False, **changes)


def test_a_run_that_needs_no_score_is_told(data, caplog):
    relabel(data, "val", lambda labels: ["0", "0", "0"])
    chosen = Recipe.from_dict(recipe(keep="last", schedule="cosine"))
    dataset = data_of.open_split(chosen, str(data), "val")
    check_validation(chosen, dataset, str(data))
    assert "keep=last and schedule=cosine need none" in caplog.text
    with pytest.raises(ValueError, match="cannot tell one net from another"):
        check_validation(Recipe.from_dict(recipe(keep="last")), dataset, str(data))  # plateau


def test_attributes_that_a_score_leaves_out_are_named_once(data, caplog):
    relabel(data, "val", lambda labels: [*labels[:2], "0"])
    chosen = Recipe.from_dict(recipe())
    check_validation(chosen, data_of.open_split(chosen, str(data), "val"), str(data))
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{data}, split 'val': validation mAP leaves out stripe (no positive label)"
    )


# ------------------------------------------------------------- undefined while training
def _nothing(*_):
    pass


class Steps(SimpleNamespace):
    """A method that adds one to its only weight in every step, and says how many it made."""

    def __init__(self):
        net, ctx = mx.gluon.nn.Dense(1, in_units=1, use_bias=False), [mx.cpu()]
        net.initialize(mx.init.Zero())
        super().__init__(
            net=net, ctx=ctx, trainers={}, phase="joint", steps=0, spoil=None, state=dict,
            precision=MixedPrecision("none", ctx), report=lambda: {"steps": self.steps},
            begin_epoch=_nothing, begin_phase=_nothing, set_learning_rate=_nothing,
            load_state=_nothing, end_epoch=dict, phase_of=_nothing, is_complete=_nothing,
            workers=workers.current(), rows=lambda batch: len(batch.index),
        )  # fmt: skip

    def train_step(self, batch):
        self.steps += 1
        added = self.spoil if self.steps == 2 and self.spoil else 1
        self.net.weight.set_data(self.net.weight.data() + added)
        return {"loss": mx.nd.array([1.0])}


class Batches(list):
    def set_epoch(self, epoch):
        pass


def run_of(folder, validate, epochs, **changes):
    batch = Batch(mx.nd.zeros((1, 1)), mx.nd.zeros((1, 1)), mx.nd.ones((1, 1)), np.zeros(1, int))
    chosen = Recipe("m", "n", lr=0.1, epochs=epochs, lr_patience=0, lr_min=0)
    return Run(
        method=Steps(), loader=Batches([batch]), validate=validate,
        schedule=SCHEDULES.get("plateau")(chosen), epochs=epochs, folder=str(folder), **changes,
    )  # fmt: skip


def validation(data, chosen=PLAIN):
    """Return what a run of these values validates with."""
    chosen = Recipe.from_dict(recipe(**chosen))
    dataset = data_of.open_split(chosen, str(data), "val")
    return validator(
        training.Prepared(chosen, settings(data, ""), [mx.cpu()], {"val": dataset}, None, {})
    )


def by_epoch(values):
    """Return a validation with one score or exception after another."""
    left = iter(values)

    def validate(net):
        value = next(left)
        if isinstance(value, BaseException):
            raise value
        return {"mAP": value, "mA": math.nan}

    return validate


nan = math.nan


def judge(score, dataset):
    return task_of(dataset).judge(score, dataset)


def best_weight(folder):
    (weight,) = mx.nd.load(str(folder / "best.params")).values()
    return weight.asscalar()


@pytest.mark.parametrize(
    ("found", "best", "lr"),
    [
        ([0.5, nan, 0.4], 0, 0.01),  # only 0.4 is waited for
        ([nan, 0.1, nan], 1, 0.1),
        ([nan, nan, nan], 2, 0.1),  # none is defined: the last one
        ([0.1, nan, 0.2], 2, 0.1),
    ],
)
def test_undefined_scores_replace_no_defined_one(tmp_path, caplog, found, best, lr):
    run = run_of(tmp_path, by_epoch(found), 3)
    result = fit(run)
    assert result["epoch"] == best and best_weight(tmp_path) == best + 1
    assert result["mAP"] == pytest.approx(found[best], nan_ok=True)
    assert run.schedule.lr(3) == pytest.approx(lr)
    assert ("stays the best" in caplog.text) == (not math.isnan(found[0]) or found[1:2] == [0.1])
    assert {"best.json", "log.jsonl"} <= assert_json_everywhere(tmp_path)
    values = [r["val_mAP"] for r in read_json_lines(str(tmp_path / "log.jsonl"))]
    assert values == [None if math.isnan(v) else v for v in found]
    again = fit(run._replace(method=Steps()), resume=True)  # nothing is left to do
    assert again == pytest.approx(result, nan_ok=True)


def test_an_undefined_score_survives_a_resumed_run(tmp_path):
    fit(run_of(tmp_path, by_epoch([nan]), 1))
    result = fit(run_of(tmp_path, by_epoch([0.2]), 2), resume=True)
    assert result["epoch"] == 1 and best_weight(tmp_path) == 2
    result = fit(run_of(tmp_path, by_epoch([nan]), 3), resume=True)
    assert result["epoch"] == 1 and result["mAP"] == 0.2


# ------------------------------------------------------------- validations that fail
@pytest.mark.parametrize("when", [0, 1])
def test_what_was_trained_survives_a_validation_that_fails(tmp_path, when):
    found, folders = [0.1, 0.3, 0.2], (tmp_path / "whole", tmp_path / "cut")
    expected = fit(run_of(folders[0], by_epoch(found), 3))
    broken = run_of(folders[1], by_epoch([*found[:when], KeyError("iscrowd")]), 3)
    with pytest.raises(ValueError) as caught:
        fit(broken)
    text = str(caught.value)
    assert text.startswith(f"validation of epoch {when} failed: KeyError: 'iscrowd'; ")
    assert f"{folders[1] / 'last.ckpt'}: --resume validates it" in text
    assert load_checkpoint(folders[1] / "last.ckpt")[1]["format"] == 2  # older releases refuse it
    resumed = run_of(folders[1], by_epoch(found[when:]), 3)
    assert fit(resumed, resume=True) == expected
    assert resumed.method.steps == 2 - when  # the epoch that was trained is not trained again
    same(*(checkpoint_arrays(folder / "last.ckpt") for folder in reversed(folders)))
    logs = [read_json_lines(str(folder / "log.jsonl")) for folder in folders]
    for one, other in zip(*logs):
        assert list(one) == list(other)
        assert all(one[key] == other[key] for key in ("epoch", "val_mAP", "lr"))
    meta = load_checkpoint(folders[1] / "last.ckpt")[1]
    assert "pending" not in meta and meta["format"] == 1


def test_ctrl_c_in_a_validation_costs_no_epoch(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(KeyboardInterrupt):
        fit(run_of(tmp_path, by_epoch([0.1, KeyboardInterrupt()]), 2))
    assert "Validation of epoch 1 was interrupted" in caplog.text
    resumed = run_of(tmp_path, by_epoch([0.2]), 2)
    assert fit(resumed, resume=True)["epoch"] == 1 and resumed.method.steps == 0


def test_a_full_disk_does_not_hide_why_a_validation_failed(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules[fit.__module__], "save_checkpoint", full)
    with pytest.raises(KeyError, match="iscrowd"):
        fit(run_of(tmp_path, by_epoch([KeyError("iscrowd")]), 1))
    assert "What epoch 0 trained is lost: [Errno 28] No space left" in caplog.text


def test_a_score_that_the_validation_does_not_give_costs_no_epoch(tmp_path):
    run = run_of(tmp_path, by_epoch([0.1]), 1, score_name="top9")
    with pytest.raises(ValueError, match="no score 'top9'; there are mAP, mA"):
        fit(run)
    assert fit(run_of(tmp_path, by_epoch([0.1]), 1), resume=True)["mAP"] == 0.1


@pytest.mark.parametrize("spoilt", [nan, math.inf])
def test_spoilt_weights_do_not_replace_good_ones(tmp_path, spoilt):
    """The loss of the last batch is still finite: only the weights tell."""
    run = run_of(tmp_path, by_epoch([0.1, 0.9]), 2)
    run.method.spoil = spoilt
    with pytest.raises(DivergedError) as caught:
        fit(run)
    text = str(caught.value)
    assert "epoch 1 ends with NaN or infinite values in weight: training has diverged" in text
    assert text.endswith(f"from the weights of its epoch 0: --init-from {tmp_path}")
    assert load_checkpoint(tmp_path / "last.ckpt")[1]["epoch"] == 0
    assert best_weight(tmp_path) == 1


# ------------------------------------------------------------- whole runs
def test_a_net_whose_output_is_not_finite_has_no_score(data, caplog):
    found = validation(data)(lambda images: mx.nd.full((len(images), 3), nan))
    assert math.isnan(found["mAP"]) and "Validation is undefined: " in caplog.text
    assert f"{data}, split 'val'" in caplog.text


@pytest.mark.parametrize(
    "call",
    [
        lambda: top_accuracies(np.array([[nan, 1]]), np.array([[1, 0]])),
        lambda: evaluate_retrieval(
            Images(np.full((1, 2), nan), np.ones(1, int), np.ones(1, int)),
            Images(np.ones((1, 2)), np.ones(1, int), np.ones(1, int) + 1),
        ),
        lambda: evaluate_multilabel(np.array([[nan]]), np.array([[1]])),
    ],
)
def test_metrics_tell_what_is_not_finite_from_what_is_wrong(call):
    with pytest.raises(NotFiniteError):
        call()


def test_an_exception_of_a_library_names_the_data(data):
    def net(images):
        raise KeyError("iscrowd")

    with pytest.raises(ValueError, match=r"data, split 'val': KeyError: 'iscrowd'"):
        validation(data)(net)


def flags(tmp_path, data, **changes):
    """Return the arguments of a run of these values, as the command reads them."""
    file = write_recipe(tmp_path / "tiny.json", **{**PLAIN, **changes})
    words = ["--recipe", file, "--data-dir", data, "--save-dir", tmp_path / "run", "-j", 0]
    return cli.parse(training_flags(""), list(map(str, words)))


def test_a_run_without_any_score_ends_with_status_1_and_whole_files(
    data, tmp_path, monkeypatch, capsys
):
    relabel(data, "test", lambda labels: ["0", "0", "0"])  # allowed: its tables show "-"
    monkeypatch.setattr(Attributes, "scores_of", lambda *_: {"mAP": nan, "mA": nan})
    assert train_from_flags(flags(tmp_path, data)) == 1
    text = capsys.readouterr().out
    assert "No epoch has a defined validation mAP" in text and "epoch 0, are kept" in text
    names = assert_json_everywhere(tmp_path / "run")
    assert {"recipe.json", "best.json", "log.jsonl", "test.json"} <= names
    table = (tmp_path / "run" / "test.md").read_text(encoding="utf-8")
    assert re.search(r"\| +- ", table) and not re.search(r"\bnan\b", table)
    assert "Test mAP -;" in text
    # One that keeps the last epoch needs none.
    found = {"best": {"epoch": 0, "mAP": nan}, "test": None}
    monkeypatch.setattr(training, "train", lambda *_: found)
    assert train_from_flags(flags(tmp_path, data, keep="last")) == 0


def test_what_fails_behind_the_training_costs_neither_weights_nor_words(
    data, tmp_path, monkeypatch, caplog
):
    (data / "images" / "test3.png").unlink()
    monkeypatch.setattr(training, "training_curves", lambda *_: 1 // 0)
    chosen, asked = Recipe.from_dict(recipe(**PLAIN)), settings(data, tmp_path / "run")
    with pytest.raises(ValueError) as caught:
        train(chosen, asked)
    text = str(caught.value)
    assert f"training is finished, and its weights are in {tmp_path / 'run'}" in text
    assert "on split 'test' failed: " in text and "test3.png" in text and "--resume" in text
    assert "could not be drawn: ZeroDivisionError" in caplog.text
    result = train(chosen, asked._replace(resume=True, on_bad_image="skip"))
    assert 0 <= result["test"].values["overall"]["mAP"] <= 1 and result["best"]["epoch"] == 0


def test_a_log_line_that_the_console_cannot_show_stops_no_training(monkeypatch, tmp_path):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    stop = log_to(str(tmp_path))
    logging.getLogger("gluon_attn.test").info("帽")
    stream.close()
    logging.getLogger("gluon_attn.test").info("closed")
    stop()
    assert (tmp_path / "train.log").read_text(encoding="utf-8") == "帽\nclosed\n"
