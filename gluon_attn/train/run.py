"""A whole training run: data, net, phases, validation, the best epoch, one look at the test set."""

from __future__ import annotations

import collections
import contextlib
import gc
import logging
import math
import os
import tempfile
from typing import Any, Callable, NamedTuple

from gluon_attn import amp, runtime, workers
from gluon_attn.core.errors import NotFiniteError, describe, naming
from gluon_attn.core.files import sha256_of, write_json
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.text import read_json
from gluon_attn.figures.curves import training_curves, weight_curves
from gluon_attn.method import METHODS, Method
from gluon_attn.metrics.tables import decimal
from gluon_attn.task import Asked, Result, Task, task_of
from gluon_attn.tasks.data import open_split
from gluon_attn.train.build import build_method, build_net, initialize_net
from gluon_attn.train.fit import Run, fit
from gluon_attn.train.log import TensorBoard, log_to, read_json_lines
from gluon_attn.train.schedule import SCHEDULES
from gluon_attn.train.trained import take_weights
from model_zoo.params_io import load_into

logger = logging.getLogger("gluon_attn.train")


class Settings(NamedTuple):
    """What a run needs beside its recipe.

    Attributes:
        data_dir: Official tree, packed folder or list folder.
        devices: ``cpu``, ``cpu:2`` or GPU numbers such as ``0,1``.
        base_params: Weight file for the backbone.
        resume: Continue from ``last.ckpt``.
        workers: Data-loading threads.
        cache: Keep resized training images in memory.
        on_bad_image: ``error`` or ``skip``.
        test: Whether to evaluate the best epoch on the test split at the end.
        init_from: Where all weights, heads included, are taken from; see
            :func:`gluon_attn.train.trained.take_weights`.
        kvstore: How several workers train together, see :mod:`gluon_attn.workers`; None: alone.
    """

    data_dir: str
    save_dir: str
    devices: str = "cpu"
    base_params: str | None = None
    resume: bool = False
    workers: int = 2
    cache: bool = False
    on_bad_image: str = "error"
    tensorboard: bool = False
    test: bool = True
    console: bool = True
    init_from: str | None = None
    kvstore: str | None = None


class Prepared(NamedTuple):
    """A run that is ready to be trained; ``record`` describes it beside its weights."""

    recipe: Recipe
    settings: Settings
    ctx: list[Any]
    data: dict[str, Any]  # 'train' and 'val'
    method: Method
    record: dict[str, Any]

    @property
    def task(self) -> Task:
        """What is learnt."""
        return task_of(self.data["train"])

    def fit(self, loader: Any, held_out: Any, keep: str) -> dict[str, Any]:
        """Train, describe the run, and return the scores of the epoch that is kept."""
        recipe, settings, group = self.recipe, self.settings, self.method.workers
        for found in (loader, held_out):
            if found is not None and group.size > 1:
                found.set_share(group.rank, group.size)
        run = Run(
            method=self.method,
            loader=loader,
            validate=validator(self),
            schedule=SCHEDULES.get(recipe.schedule)(recipe),
            epochs=recipe.epochs,
            folder=settings.save_dir,
            seed=recipe.seed,
            record=self.record,
            score_name=recipe.score,
            log_interval=recipe.log_interval,
            writers=(TensorBoard(settings.save_dir),)
            if settings.tensorboard and group.is_first
            else (),
            held_out=held_out,
            keep=keep,
        )
        best = fit(run, settings.resume)
        if group.is_first:
            describe_run(os.path.join(settings.save_dir, "recipe.json"), self.record)
        return best


def train(recipe: Recipe, settings: Settings) -> dict[str, Any]:
    """Train ``recipe``; return ``{"best": scores of an epoch, "test": Result or None}``.

    Writes into ``save_dir``: ``recipe.json``, ``train.log``, ``log.jsonl``, ``curves.png`` (and
    ``weights.png`` if the method has weights of tasks), ``last.ckpt``, ``best.params`` (for
    ``net.load_parameters``), ``best.json`` and, after the one evaluation on the test split,
    ``test.*``. Raises a FileExistsError if ``save_dir`` holds a run already and ``resume`` is off,
    a DivergedError if a loss or a weight is not finite, and a ValueError for a validation score
    that no net can have.
    """
    gc.collect()  # nets of earlier runs in this process: only it frees the memory of their graphs
    with logged(recipe, settings) as ctx:
        ready = prepare(recipe, settings, ctx)
        described, group = os.path.join(settings.save_dir, "recipe.json"), ready.method.workers
        if group.is_first and not os.path.exists(os.path.join(settings.save_dir, "last.ckpt")):
            write_json(described, ready.record)  # a run that is there is not touched yet
        _log_start(ready)
        loader = ready.task.train_loader(
            recipe, ready.data["train"], ready.method, settings.workers, cache=settings.cache,
            parts=recipe.accumulate * len(ctx) * group.size,
        )  # fmt: skip
        held_out = ready.task.held_out_loader(
            recipe, ready.data["val"], ready.method, len(loader), workers=settings.workers,
            cache=settings.cache,
        )  # fmt: skip
        best = ready.fit(loader, held_out, recipe.keep)
        if group.is_first:
            _draw(ready.method, settings.save_dir)
        _list_skipped(ready.data)
        _tell_best(recipe, best)
        if not settings.test:
            return {"best": best, "test": None}
        try:
            return {"best": best, "test": _test(ready)}
        except Exception as error:
            raise ValueError(
                f"training is finished, and its weights are in {settings.save_dir}; their "
                f"evaluation on split '{recipe.splits[2]}' failed: {describe(error)}. --resume "
                "evaluates them again, without training"
            ) from error


@contextlib.contextmanager
def logged(recipe: Recipe, settings: Settings) -> Any:
    """Join the workers, claim the folder of a run, log into it, and yield the devices."""
    group = workers.join(settings.kvstore)
    claim(settings)
    ctx = runtime.contexts(settings.devices)
    amp.require(recipe.amp, ctx)  # before the data are read, which may take long
    stop = log_to(settings.save_dir, settings.console, silent=not group.is_first)
    try:
        yield ctx
    finally:
        stop()


def claim(settings: Settings) -> None:
    """Refuse a folder with another run in it, and settings that exclude one another."""
    for name in ("resume", "base_params"):
        if settings.init_from and getattr(settings, name):
            flag = name.replace("_", "-")
            raise ValueError(
                f"--init-from {settings.init_from} and --{flag}: give one of the two. --init-from "
                "starts a new run from all weights of another, --resume continues one, "
                "--base-params takes a backbone"
            )
    if os.path.exists(os.path.join(settings.save_dir, "last.ckpt")) and not settings.resume:
        raise FileExistsError(
            f"{settings.save_dir} holds a run already; add --resume to continue it, or choose "
            "another --save-dir"
        )


def prepare(recipe: Recipe, settings: Settings, ctx: list[Any]) -> Prepared:
    """Open the data, build the net with its first weights, and the method."""
    data = _open_data(recipe, settings)
    classes = data["train"].names
    net = build_net(recipe, len(classes))
    initialize_net(recipe, net, ctx, settings.base_params)
    origin = take_weights(net, settings.init_from, classes)
    method = build_method(recipe, net, ctx, data["train"])
    _check_shares(recipe, method)
    record = {
        "recipe": recipe.to_dict(),
        "classes": list(classes),
        "schema": data["train"].schema.to_json(),
        "data": {split: dataset.fingerprint() for split, dataset in data.items()},
        "versions": runtime.versions(),
        **origin,
    }
    os.makedirs(settings.save_dir, exist_ok=True)
    return Prepared(recipe, settings, ctx, data, method=method, record=record)


def _check_shares(recipe: Recipe, method: Method) -> None:
    """Refuse batches that cannot be divided evenly among the workers."""
    count = method.workers.size
    sizes = {"batch_size": recipe.batch_size, "val_batch_size": method.held_out_size}
    for name, size in sizes.items():
        if size % count:
            raise ValueError(f"{name}={size}: must be a multiple of the {count} workers")


def _open_data(recipe: Recipe, settings: Settings) -> dict[str, Any]:
    names = recipe.splits
    opened = {
        split: open_split(recipe, settings.data_dir, split, settings.on_bad_image)
        for split in names[:2]
    }
    data = {"train": opened[names[0]], "val": opened[names[1]]}
    task_of(data["val"]).check_splits(data["train"], data["val"])
    check_validation(recipe, data["val"], settings.data_dir)
    if names[1] == names[2] and recipe.keep == "best" and settings.test:
        logger.warning(
            "The best epoch is chosen on the split '%s' that is also reported: the result is "
            "optimistic (keep=last chooses nothing)", names[2],
        )  # fmt: skip
    return data


# -- validation --------------------------------------------------------------------------------
def check_validation(recipe: Recipe, dataset: Any, data_dir: str) -> None:
    """Refuse a run whose validation score is no score, before it is trained.

    A score that no net can have, or that every net has alike, chooses no epoch, and a schedule that
    watches it lowers the learning rate for nothing. That depends on the labels alone. A recipe that
    needs none, with ``keep=last`` and a schedule that watches none, gets a warning.
    """
    task = task_of(dataset)
    task.check_score(recipe.score, dataset)
    problem, left_out = task.judge(recipe.score, dataset)
    where = _place(dataset, data_dir)
    if not problem:
        if left_out:
            logger.warning("%s: validation %s leaves out %s", where, recipe.score, left_out)
        return
    text = f"{where}: {problem}, so validation {recipe.score} cannot tell one net from another"
    if recipe.keep != "last" or recipe.schedule == "plateau":
        raise ValueError(
            f"{text}. Validate on labelled data (splits={recipe.splits[0]},OTHER,"
            f"{recipe.splits[2]}), choose another score, or train without one: keep=last "
            "schedule=cosine"
        )
    logger.warning("%s; keep=last and schedule=%s need none", text, recipe.schedule)


def validator(ready: Prepared) -> Callable[[Any], dict[str, float]]:
    """Return the function ``net -> scores`` of a run; nan where the net's output is not finite."""
    recipe, dataset, settings = ready.recipe, ready.data["val"], ready.settings
    measure = task_of(dataset).validator(recipe, dataset, ready.ctx[0], settings.workers)

    def validate(net: Any) -> dict[str, float]:
        try:
            with naming(_place(dataset, settings.data_dir)):
                return measure(net)
        except NotFiniteError as error:
            logger.warning("Validation is undefined: %s", error)
            return {recipe.score: math.nan}

    return validate


def _place(dataset: Any, data_dir: str) -> str:
    """Return words for the data of a split: its annotation file where it has one."""
    return f"{getattr(dataset, 'annotation', None) or data_dir}, split '{dataset.split}'"


# -- what a run tells --------------------------------------------------------------------------
def _log_start(ready: Prepared) -> None:
    recipe, data, settings = ready.recipe, ready.data, ready.settings
    logger.info("Recipe: %s", recipe.to_dict())
    logger.info(
        "Training on %d samples, validating on %d, device %s, into %s",
        len(data["train"]), len(data["val"]), settings.devices, settings.save_dir,
    )  # fmt: skip
    phases = collections.Counter(ready.method.phase_of(epoch) for epoch in range(recipe.epochs))
    logger.info("Epochs: %s", ", ".join(f"{count} {phase}" for phase, count in phases.items()))
    if not ready.method.is_complete(recipe.epochs - 1):
        options = ready.method.options.items()
        starts = [f"{k}={v}" for k, v in options if k.endswith(("_epoch", "_epochs"))]
        logger.warning(
            "epochs=%d ends before all that %s trains has begun (%s): its weights are of an "
            "unfinished method. Give more epochs, or lower those", recipe.epochs, recipe.method,
            ", ".join(starts),
        )  # fmt: skip
    logger.info("%s", ready.task.describe(data["train"]))


def _tell_best(recipe: Recipe, best: dict[str, Any]) -> None:
    score = best[recipe.score]
    if math.isnan(score) and recipe.keep == "best":
        logger.warning(
            "No epoch has a defined validation %s, so none is best: the weights of the last one, "
            "epoch %d, are kept", recipe.score, best["epoch"],
        )  # fmt: skip
        return
    logger.info("%s epoch %d with validation %s %s", recipe.keep.capitalize(), best["epoch"],
                recipe.score, decimal(score))  # fmt: skip


def _draw(method: Method, folder: str) -> None:
    try:
        training_curves(os.path.join(folder, "log.jsonl"), os.path.join(folder, "curves.png"))
        history = method.task_history()
        if history and len(history["iterations"]):
            weight_curves(**history, path=os.path.join(folder, "weights.png"))
    except Exception as error:  # a figure is not worth the evaluation that follows
        logger.warning("The curves of %s could not be drawn: %s", folder, describe(error))


def _list_skipped(data: dict[str, Any]) -> None:
    for split, dataset in data.items():
        if dataset.skipped:
            logger.warning(
                "%d unreadable images of %s were skipped: %s", len(dataset.skipped), split,
                ", ".join(map(str, list(dataset.skipped)[:10])),
            )  # fmt: skip


def describe_run(path: str, record: dict[str, Any]) -> None:
    """Write ``recipe.json``; what earlier calls noted of start and test split stays."""
    known: dict[str, Any] = {}  # also where the file of a resumed run was removed or damaged
    data: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        known = dict(read_json(path))
        data = dict(known["data"])
    write_json(path, {**known, **record, "data": {**data, **record["data"]}})


def _test(ready: Prepared) -> Result | None:
    recipe, settings, net = ready.recipe, ready.settings, ready.method.net
    first = ready.method.workers.is_first
    best, scores = (os.path.join(settings.save_dir, n) for n in ("best.params", "test.json"))
    weights = sha256_of(best)
    if os.path.exists(scores):
        if read_json(scores).get("weights", weights) == weights:  # 0.1 did not note them
            logger.info("The test split has been evaluated already: %s", scores)
            return None
        logger.warning(
            "%s is of earlier weights of this run: the test split is evaluated again", scores
        )
    dataset = open_split(recipe, settings.data_dir, recipe.splits[2], settings.on_bad_image)
    data = {**ready.record["data"], recipe.splits[2]: dataset.fingerprint()}
    if first:
        path = os.path.join(settings.save_dir, "recipe.json")
        describe_run(path, dict(ready.record, data=data))
    load_into(net, best)
    with tempfile.TemporaryDirectory() as unwanted:  # the tables of all workers but the first
        out = settings.save_dir if first else unwanted
        asked = Asked(out, "test", ready.ctx[0], workers=settings.workers)
        result = task_of(dataset).final_scores(recipe, net, dataset, asked)
    if first:
        write_json(scores, {**read_json(scores), "weights": weights})
    return result


# -- runs of an experiment: trained once, never taken for those of other settings or data ------
def check_seeds(seeds: Any) -> None:
    """Raise ValueError for a seed that is given twice: its run would count as two."""
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {list(seeds)}: each counts once")


def train_once(
    recipe: Recipe, data_dir: str, folder: str, workers: int = 2, *, result: str = "test.json",
    run: Callable[[Recipe, Settings], Any] | None = None, base_params: str | None = None,
) -> float:  # fmt: skip
    """Train a recipe unless its finished run is there; continue an interrupted one.

    ``folder`` is of this run alone, ``result`` the file that a finished run has, ``base_params``
    the weights that a new run's backbone begins with, none for the recipe's. Returns the
    seconds of training, over all calls that it took. Raises a FileExistsError if the folder holds a
    finished run of another recipe or other data, a ValueError if it holds an unfinished one.
    """
    if os.path.exists(os.path.join(folder, result)):
        _check_same(recipe, data_dir, folder)
    else:
        settings = Settings(
            data_dir,
            folder,
            resume=True,
            workers=workers,
            cache=True,
            console=False,
            base_params=base_params,
        )
        (run or train)(recipe, settings)
    log = read_json_lines(os.path.join(folder, "log.jsonl"))
    return float(sum(record["seconds"] for record in log))


def _check_same(recipe: Recipe, data_dir: str, folder: str) -> None:
    """Refuse a finished run that is not the one asked for; here ``epochs`` counts, too."""
    path = os.path.join(folder, "recipe.json")
    try:
        record = read_json(path)
        known, splits = Recipe.from_dict(record["recipe"], path), record["data"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileExistsError(
            f"{folder} holds a finished run of which {path} does not say what it is ({error!r}); "
            "remove that folder to train it again"
        ) from error
    before, now = _complete(known), _complete(recipe)
    for key in now:
        if before[key] != now[key] and key != "log_interval":
            raise _other(folder, f"'{key}' was {before[key]!r}, now it is {now[key]!r}")
    # In the order of the recipe's; a search looks at two, and older runs did not note the third.
    for split, fingerprint in zip(recipe.splits, splits):
        if open_split(recipe, data_dir, split).fingerprint() != fingerprint:
            raise _other(folder, f"the data of its split '{split}' were others than {data_dir}")


def _complete(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as a dict in which options that it leaves open have their defaults."""
    values = recipe.to_dict()
    return {**values, "options": {**METHODS.get(recipe.method).OPTIONS, **values["options"]}}


def _other(folder: str, difference: str) -> FileExistsError:
    return FileExistsError(
        f"{folder} holds a finished run, not of these settings: {difference}; choose another "
        "--out, or remove that folder to train it again"
    )
