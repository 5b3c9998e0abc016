"""What every registered task must be able to say, and that a wrong one is found."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import numpy as np
import pytest

from gluon_attn.core.schema import MULTICLASS, Attribute, Schema
from gluon_attn.task import FORMS, TASKS, Exported, Task, task_of

MUST = ("train_loader", "validator", "final_scores", "evaluate", "preprocess", "export", "predict")
ACTIVATIONS = ("sigmoid", "softmax", "none")


def check_task(name):
    """Raise AssertionError where a task breaks the contract."""
    task = TASKS.get(name)
    assert isinstance(task, Task) and task.name == name
    assert "mAP" in task.scores, "recipes ask for it by default"
    assert task.activation in ACTIVATIONS and set(task.forms) <= set(FORMS)
    for method in MUST:
        base, own = getattr(Task, method), getattr(type(task), method)
        raises = "NotImplementedError" in inspect.getsource(base)
        assert own is not base or not raises, f"{name} has no {method}"
        given, wanted = (list(inspect.signature(f).parameters) for f in (own, base))
        assert given == wanted, f"{name}.{method}({', '.join(given)})"
    for score in ("no such score", "top17"):
        labels = SimpleNamespace(schema=Schema.binary("ab"), names=("a", "b"))
        with pytest.raises(ValueError, match=f"score={score}: "):
            task.check_score(score, labels)
    refused = [form for form in FORMS if form not in task.forms]
    task.check_forms(SimpleNamespace(**dict.fromkeys(task.forms, True)))
    for form in refused:
        with pytest.raises(ValueError, match=f"--{form.replace('_', '-')}: this net is exported"):
            task.check_forms(SimpleNamespace(**{form: True}))


@pytest.mark.parametrize("name", TASKS.names())
def test_tasks(name):
    check_task(name)


class Mute(Task):
    """Has a name and a score, but no batches."""

    name, scores = "mute", ("mAP",)


class Swapped(type(TASKS.get("attributes"))):
    """Takes the arguments of its loader in another order."""

    name = "swapped"

    def train_loader(self, dataset, recipe, method, workers, *, cache=False, parts=1):
        return None


@pytest.mark.parametrize("toy, message", [(Mute, "has no train_loader"), (Swapped, "dataset, rec")])
def test_a_task_that_breaks_the_contract_is_found(monkeypatch, toy, message):
    monkeypatch.setitem(TASKS._entries, toy.name, toy())
    with pytest.raises(AssertionError, match=message):
        check_task(toy.name)


def test_who_names_the_task():
    one = Schema([Attribute("class", MULTICLASS, ("cat", "dog"))])
    several = Schema([Attribute("age", MULTICLASS, ("young", "old"))])
    assert task_of(SimpleNamespace(schema=one)).name == "classification"
    assert task_of({}, several).name == task_of({}).name == "attributes"
    assert task_of(SimpleNamespace(task="keypoints", schema=one)).name == "keypoints"
    # exports of the first edition: no task, and older ones no schema
    old = Exported("", {"classes": ["class=cat", "class=dog"], "activation": "softmax"})
    assert old.task.name == "attributes" and old.activation == "softmax" and old.extra == {}
    assert Exported("", dict(old.sidecar, schema=one.to_json())).task.name == "classification"
    assert Exported("", dict(old.sidecar, task="detection")).task.name == "detection"
    with pytest.raises(ValueError, match="unknown task 'segmentation'"):
        task_of({"task": "segmentation"})


def test_labels_of_columns():
    one = SimpleNamespace(schema=Schema([Attribute("class", MULTICLASS, ("cat", "dog"))]))
    assert task_of(one).label("class=cat") == "cat"
    assert task_of(np).label("colour=red") == "colour=red"
