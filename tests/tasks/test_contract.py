"""What every registered task must be able to say, and that a wrong one is found."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from contracts.suites import check_task

from gluon_attn.core.schema import MULTICLASS, Attribute, Schema
from gluon_attn.task import TASKS, Exported, Task, task_of


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
