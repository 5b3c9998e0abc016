"""A whole training run: data, net, phases, validation, the best epoch, one look at the test set."""

from __future__ import annotations

import collections
import contextlib
import logging
import math
import os
from typing import NamedTuple

from gluon_attn import amp, runtime
from gluon_attn.core.errors import describe
from gluon_attn.core.files import write_json
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.text import read_json
from gluon_attn.figures.curves import training_curves, weight_curves
from gluon_attn.metrics.tables import decimal
from gluon_attn.tasks import reid, scores
from gluon_attn.tasks.base import task_of
from gluon_attn.train import SCHEDULES, Run, TensorBoard, build, fit, log_to, predict, start
from gluon_attn.train.validation import check_validation, validator
from model_zoo.params_io import load_into

logger = logging.getLogger("gluon_attn.train")


class Settings(NamedTuple):
    """What a run needs beside its recipe.

    Attributes:
        data_dir: Official tree, packed folder or list folder.
        save_dir: Where everything goes.
        devices: ``cpu``, ``cpu:2`` or GPU numbers such as ``0,1``.
        base_params: Weight file for the backbone.
        resume: Continue from ``last.ckpt``.
        workers: Data-loading threads.
        cache: Keep resized training images in memory.
        on_bad_image: ``error`` or ``skip``.
        tensorboard: Also write TensorBoard events.
        test: Whether to evaluate the best epoch on the test split at the end.
        console: Whether to log to the console.
        init_from: Where all weights, heads included, are taken from; see
            :func:`gluon_attn.train.start.take_weights`.
    """

    data_dir: str
    save_dir: str
    devices: str = "cpu"
    base_params: str = None
    resume: bool = False
    workers: int = 2
    cache: bool = False
    on_bad_image: str = "error"
    tensorboard: bool = False
    test: bool = True
    console: bool = True
    init_from: str = None


def train(recipe, settings):
    """Train ``recipe``; return ``{"best": …, "test": result or None}``.

    Writes into ``save_dir``: ``recipe.json``, ``train.log``, ``log.jsonl``, ``curves.png`` (and
    ``weights.png`` if the method has weights of tasks), ``last.ckpt``, ``best.params`` (for
    ``net.load_parameters``), ``best.json`` and, after the one evaluation on the test split,
    ``test.*`` (and ``test_accuracy.*``, see :func:`gluon_attn.train.build.reports_accuracy`).

    Raises:
        FileExistsError: ``save_dir`` holds a run already and ``resume`` is off.
        DivergedError: A loss or a weight is not finite.
        ValueError, FileNotFoundError, OSError: Bad data, recipe, weights or a full disk; a
            validation score that no net can have.
    """
    start.claim(settings)
    ctx = runtime.contexts(settings.devices)
    amp.require(recipe.amp, ctx)  # before the data are read, which may take long
    stop_logging = log_to(settings.save_dir, settings.console)
    try:
        return _train(recipe, settings, ctx)
    finally:
        stop_logging()


def _train(recipe, settings, ctx):
    data = _open_data(recipe, settings)
    net = build.build_net(recipe, len(data["train"].names))
    build.initialize_net(recipe, net, ctx, settings.base_params)
    origin = start.take_weights(net, settings.init_from, data["train"].names)
    method = build.build_method(recipe, net, ctx, data["train"])
    record = {
        "recipe": recipe.to_dict(),
        "classes": list(data["train"].names),
        "schema": data["train"].schema.to_json(),
        "data": {split: dataset.fingerprint() for split, dataset in data.items()},
        "versions": runtime.versions(),
        **origin,
    }
    described = os.path.join(settings.save_dir, "recipe.json")
    if not os.path.exists(os.path.join(settings.save_dir, "last.ckpt")):
        write_json(described, record)  # a run that is there is not touched before it may go on
    schedule = SCHEDULES.get(recipe.schedule)(
        recipe.lr, recipe.epochs, recipe.warmup_epochs, recipe.lr_factor, recipe.lr_patience,
        recipe.lr_epochs, recipe.lr_min,
    )  # fmt: skip
    _log_start(recipe, settings, data, method)
    task = task_of(data["train"])
    if task:
        loader = task.train_loader(recipe, data["train"], method, settings.workers)
    elif reid.is_reid(data["train"]):
        parts = recipe.accumulate * len(ctx)
        loader = reid.train_loader(recipe, data["train"], method, settings.workers, parts)
    else:
        loader = build.train_loader(recipe, data["train"], settings.workers, settings.cache)
    held_out = build.held_out_loader(
        recipe, data["val"], method, len(loader), settings.workers, settings.cache
    )
    validate = validator(recipe, data["val"], ctx[0], settings.workers, data_dir=settings.data_dir)
    run = Run(
        method, loader, validate, schedule, recipe.epochs, settings.save_dir, recipe.seed,
        record, recipe.score, recipe.log_interval, _writers(settings), held_out, recipe.keep,
    )  # fmt: skip
    best = fit(run, settings.resume)
    describe_run(described, record)
    _draw(method, settings.save_dir)
    _list_skipped(data)
    _tell_best(recipe, best)
    if not settings.test:
        return {"best": best, "test": None}
    try:
        return {"best": best, "test": _test(recipe, settings, net, ctx, record)}
    except Exception as error:
        raise ValueError(
            f"training is finished, and its weights are in {settings.save_dir}; their evaluation "
            f"on split '{recipe.splits[2]}' failed: {describe(error)}. --resume evaluates them "
            "again, without training"
        ) from error


def _open_data(recipe, settings):
    """Return the training and the validation split, as the recipe names them."""
    names = recipe.splits
    opened = {
        split: build.open_split(recipe, settings.data_dir, split, settings.on_bad_image)
        for split in names[:2]
    }
    data = {"train": opened[names[0]], "val": opened[names[1]]}
    if not reid.is_reid(data["val"]):  # whose people are others than those of the training part
        _check_names(data)
    check_validation(recipe, data["val"], settings.data_dir)
    if names[1] == names[2] and recipe.keep == "best" and settings.test:
        logger.warning(
            "The best epoch is chosen on the split '%s' that is also reported: the result is "
            "optimistic (keep=last chooses nothing)", names[2],
        )  # fmt: skip
    return data


def _tell_best(recipe: Recipe, best: dict) -> None:
    """Say which epoch's weights are kept, and if they are only the last ones."""
    score = best[recipe.score]
    if math.isnan(score) and recipe.keep == "best":
        logger.warning(
            "No epoch has a defined validation %s, so none is best: the weights of the last one, "
            "epoch %d, are kept", recipe.score, best["epoch"],
        )  # fmt: skip
        return
    logger.info("%s epoch %d with validation %s %s", recipe.keep.capitalize(), best["epoch"],
                recipe.score, decimal(score))  # fmt: skip


def _draw(method, folder):
    """Draw how the run went, and how the weights of the tasks did if the method has such."""
    try:
        training_curves(os.path.join(folder, "log.jsonl"), os.path.join(folder, "curves.png"))
        history = method.task_history()
        if history and len(history["iterations"]):
            weight_curves(**history, path=os.path.join(folder, "weights.png"))
    except Exception as error:  # a figure is not worth the evaluation that follows
        logger.warning("The curves of %s could not be drawn: %s", folder, describe(error))


def describe_run(path: str, record: dict) -> None:
    """Write ``recipe.json``; what earlier calls noted of start and test split stays."""
    known, data = {}, {}  # also where the file of a resumed run was removed or damaged
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        known = dict(read_json(path))
        data = dict(known["data"])
    write_json(path, {**known, **record, "data": {**data, **record["data"]}})


def _test(recipe, settings, net, ctx, record):
    """Evaluate the best epoch on the test split, once per run."""
    stem = os.path.join(settings.save_dir, "test")
    if os.path.exists(stem + ".json"):
        logger.info("The test split has been evaluated already: %s.json", stem)
        return None
    dataset = build.open_split(recipe, settings.data_dir, recipe.splits[2], settings.on_bad_image)
    record = dict(record, data={**record["data"], recipe.splits[2]: dataset.fingerprint()})
    describe_run(os.path.join(settings.save_dir, "recipe.json"), record)
    load_into(net, os.path.join(settings.save_dir, "best.params"))
    task, folder = task_of(dataset), settings.save_dir
    if task:
        return task.final_scores(recipe, net, dataset, ctx[0], settings.workers, folder)
    if reid.is_reid(dataset):
        return reid.final_scores(recipe, net, dataset, ctx[0], settings.workers, folder)
    loader = build.eval_loader(
        build.eval_preprocess(recipe), dataset, recipe.batch_size, settings.workers
    )
    found = predict(
        net, loader, len(dataset), ctx[0], True, scores.activation_of(dataset.schema)
    )  # fmt: skip
    with_accuracy = build.reports_accuracy(recipe.to_dict(), dataset.schema)
    return scores.write_scores(found, dataset, settings.save_dir, "test", with_accuracy)


def _check_names(data):
    if data["train"].names != data["val"].names:
        raise ValueError(
            f"train and val have different attributes: {data['train'].names} and "
            f"{data['val'].names}"
        )


def _log_start(recipe, settings, data, method):
    logger.info("Recipe: %s", recipe.to_dict())
    logger.info(
        "Training on %d samples, validating on %d, device %s, into %s",
        len(data["train"]), len(data["val"]), settings.devices, settings.save_dir,
    )  # fmt: skip
    phases = collections.Counter(method.phase_of(epoch) for epoch in range(recipe.epochs))
    logger.info("Epochs: %s", ", ".join(f"{count} {phase}" for phase, count in phases.items()))
    if scores.is_classification(data["train"].schema):
        found = data["train"].prior * len(data["train"])
        logger.info("%d classes of %d to %d training images", len(found), found.min(), found.max())
        return
    priors = ", ".join(f"{n} {p:.3f}" for n, p in zip(data["train"].names, data["train"].prior))
    logger.info("Positive fraction in training: %s", priors)


def _writers(settings):
    return (TensorBoard(settings.save_dir),) if settings.tensorboard else ()


def _list_skipped(data):
    for split, dataset in data.items():
        if dataset.skipped:
            logger.warning(
                "%d unreadable images of %s were skipped: %s", len(dataset.skipped), split,
                ", ".join(map(str, list(dataset.skipped)[:10])),
            )  # fmt: skip
