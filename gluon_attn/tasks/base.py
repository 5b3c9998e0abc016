"""Which workflow a data set, a net or an export belongs to, where it is not classification.

A downstream task is a module of this package, ``detection`` or ``keypoints``. Its data sets and
nets carry its name as ``task``, its exports in their sidecar. Each module has

* ``open_split(recipe, data_dir, split, on_bad_image)``: a data set with ``names``, ``schema``,
  ``prior``, ``skipped``, ``fingerprint()``;
* ``train_loader(recipe, dataset, method, workers)`` and ``validator(recipe, dataset, ctx,
  workers)``, a function ``net -> scores``, whose names are ``SCORES``;
* ``judge(dataset)``: why a split cannot be validated on, and what its scores leave out, two texts;
* ``final_scores(recipe, net, dataset, ctx, workers, folder)``: a dict with the text for the console
  under ``console``;
* ``CLASS_NAMES``: those of the published nets;
* ``FORMS``: further forms of an export that its nets have, of ``int8``, ``bf16``, ``onnx``;
* ``preprocess(net, values)``: ``Trained.preprocess`` of a net;
* ``run_evaluate(args, trained, ctx, out, reading=…)`` (a Recipe that says how the data
  are read), ``run_export(args, trained)`` and ``run_predict(options, sidecar)``, what the tools
  call; the former two return text for the console, the last prints.
"""

from __future__ import annotations

import dataclasses
import importlib
import os

from gluon_attn.core.recipe import Recipe

OF_DATASET = {"coco": "detection", "coco_keypoints": "keypoints"}
OF_MODEL = {"ssd": "detection", "faster_rcnn": "detection", "simple_pose": "keypoints"}


def task_of(thing):
    """Return the module of a data set's or a net's task, or None for classification."""
    return _module(getattr(thing, "task", None))


def task_of_dataset(kind):
    """Return the module for a recipe's ``dataset``, or None."""
    return _module(OF_DATASET.get(kind))


def task_of_export(directory):
    """Return ``(module or None, sidecar)`` of an export directory.

    Raises:
        FileNotFoundError, ValueError: It is no export, or a damaged one.
    """
    from gluon_attn.export.sidecar import read_sidecar

    sidecar = read_sidecar(directory)
    return _module(sidecar.get("task")), sidecar


def reading_for(kind: str, reading: Recipe | None) -> Recipe:
    """Return how the data of a task are read: as a recipe says, else as this kind of data."""
    reading = reading or Recipe("", "")
    auto = reading.dataset == "auto"
    return dataclasses.replace(reading, dataset=kind) if auto else reading


def default_names(model):
    """Return the class names of a zoo model of a downstream task, or None for another model."""
    tasks = [task for start, task in OF_MODEL.items() if model.lower().startswith(start)]
    return _module(tasks[0]).CLASS_NAMES if tasks else None


def refuse_forms(args, valid=()):
    """Refuse forms of an export that a task does not have.

    Args:
        args: Parsed flags of ``tools/export.py``, or :class:`gluon_attn.tasks.export_run.Forms`.
        valid: Those of ``int8``, ``bf16``, ``onnx``, ``with_maps`` that it does have.

    Raises:
        ValueError: Another one is asked for.
    """
    asked = [name for name in ("int8", "bf16", "onnx", "with_maps") if getattr(args, name, False)]
    wrong = [f"--{name.replace('_', '-')}" for name in asked if name not in valid]
    if wrong:
        also = "".join(f" and with --{name}" for name in valid)
        raise ValueError(
            f"{', '.join(wrong)}: this net is exported in float32{also}, without maps, only"
        )


def output_stem(out, split):
    """Return ``out/split`` and make the folder."""
    os.makedirs(out, exist_ok=True)
    return os.path.join(out, split)


def _module(name):
    return importlib.import_module(f"gluon_attn.coco.{name}_task") if name else None
