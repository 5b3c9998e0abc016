"""From a recipe to the parts of a run: data, net, method."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import logging
from typing import Any, Iterator

import mxnet as mx

import gluon_attn.coco  # noqa: F401  (registers its training methods)
from gluon_attn.core.batch import LabelPolicy
from gluon_attn.core.errors import naming
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.registry import unknown_name
from gluon_attn.data import (
    DATASETS,
    EvalTransform,
    Loader,
    TrainTransform,
    detect_kind,
    open_dataset,
)
from gluon_attn.data.transforms import PadCropTransform, ResizedCropTransform
from gluon_attn.data.views import ChosenAttributes
from gluon_attn.method import METHODS, Optimization, Task
from gluon_attn.nets.init import xavier
from gluon_attn.runtime import seed_everything
from gluon_attn.tasks.base import task_of_dataset
from gluon_attn.train import Stream, use_static_graph
from model_zoo import get_model, store
from model_zoo.params_io import load_backbone

logger = logging.getLogger("gluon_attn.build")

READING = ("dataset", "data_options", "attributes", "splits")  # of a recipe: how data are read


def load_recipe(name, overrides=(), folder=None):
    """Load a recipe and apply ``key=value`` overrides, including the method's own settings.

    Where they name another method, settings of the recipe's that it does not know are left out, so
    that ``method=baseline`` is enough for the baseline of any recipe.

    Raises:
        FileNotFoundError: No such recipe.
        ValueError: Unknown key, wrong type, unknown method.
    """
    recipe = Recipe.load(name)
    method = dict(pair.partition("=")[::2] for pair in overrides).get("method", recipe.method)
    known = METHODS.get(method).OPTIONS
    if method != recipe.method:
        options = {key: value for key, value in recipe.options.items() if key in known}
        recipe = dataclasses.replace(recipe, options=options)
    return recipe.override(overrides, known)


def reading_of(recipe: Recipe | dict | None, dataset: str | None = None) -> Recipe:
    """Return how data are to be read: as the recipe of a net says, which decides over the folder.

    Args:
        recipe: Of the net, or what an export or published weights keep of it; None: not known.
        dataset: Another kind of data, asked for by name; with the recipe's settings of its reader
            only where it is the recipe's.

    Returns:
        A Recipe of which ``dataset``, ``data_options``, ``splits`` and ``attributes`` count.
    """
    known = recipe.to_dict() if isinstance(recipe, Recipe) else dict(recipe or {})
    reading = Recipe("", "", **{key: known[key] for key in READING if key in known})
    if dataset and dataset != reading.dataset:
        reading = dataclasses.replace(reading, dataset=dataset, data_options={})
    return reading


def open_split(
    recipe: Recipe, data_dir: str, split: str, on_bad_image: str = "error", *,
    unspecified: str | None = None,
) -> Any:  # fmt: skip
    """Open one split of the recipe's data set, with its label policy and its attributes.

    Args:
        recipe: ``dataset``, ``data_options``, ``attributes`` and ``unspecified`` count.
        data_dir: Folder of the data.
        split: Name of the split.
        on_bad_image: See :class:`gluon_attn.data.AttributeDataset`.
        unspecified: What unspecified labels are, whatever the split; None: the recipe's in
            training, masked elsewhere.

    Raises:
        FileNotFoundError, ValueError: What the recipe says is not there, or malformed; if the
            folder holds data of another kind, the message names both.
    """
    with naming(data_dir), _own_kind(recipe, data_dir):
        task = task_of_dataset(recipe.dataset)
        if task:
            return task.open_split(recipe, data_dir, split, on_bad_image)
        kind = detect_kind(data_dir) if recipe.dataset == "auto" else recipe.dataset
        # What was packed is what these settings chose when it was packed.
        options = {} if kind == "packed" else recipe.data_options
        valid = list(inspect.signature(DATASETS.get(kind)).parameters)[4:]
        for name in options:
            if name not in valid:
                raise ValueError(unknown_name(f"data option of dataset={kind}", name, valid))
        policy = LabelPolicy(train=unspecified or recipe.unspecified)
        if unspecified:
            policy = LabelPolicy(train=unspecified, evaluate=unspecified)
        dataset = open_dataset(data_dir, split, policy, on_bad_image, kind=kind, **options)
        return ChosenAttributes(dataset, recipe.attributes) if recipe.attributes else dataset


@contextlib.contextmanager
def _own_kind(recipe: Recipe, data_dir: str) -> Iterator[None]:
    """Let an error name the kind that was asked for and what the folder looks like, if another."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        others = [] if recipe.dataset == "auto" else _kinds_of(data_dir)
        if not others or recipe.dataset in others:
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(
            f"{error}. It was read as dataset={recipe.dataset}, as the recipe says; {data_dir} "
            f"looks like dataset={' or '.join(others)} (evaluate.py --dataset KIND reads another)"
        ) from error


def _kinds_of(data_dir: str) -> list[str]:
    """Return the names of all kinds of data that a folder looks like."""
    found = []
    for kind in DATASETS.names():
        with contextlib.suppress(Exception):  # the error that is being told matters more
            found += [kind] if DATASETS.get(kind).detect(data_dir) else []
    return found


def train_loader(recipe, dataset, workers, cache=False):
    """Return shuffled, augmented training batches, in epochs as long as the recipe says."""
    loader = Loader(
        dataset, train_transform(recipe), recipe.batch_size, shuffle=True, seed=recipe.seed,
        workers=workers, last="discard", cache=cache,
    )  # fmt: skip
    return Stream(loader, recipe.iterations_per_epoch) if recipe.iterations_per_epoch else loader


def train_transform(recipe):
    """Return the recipe's augmentation."""
    common = {"size": recipe.input_size, "mirror": recipe.mirror, "mean": recipe.mean,
              "std": recipe.std}  # fmt: skip
    if recipe.augment == "pad":
        return PadCropTransform(pad=recipe.pad, **common)
    if recipe.augment == "inception":
        return ResizedCropTransform(recipe.resize, area=(recipe.area_min, 1.0), **common)
    return TrainTransform(recipe.resize, (recipe.crop_min, recipe.crop_max), **common)


def held_out_loader(recipe, dataset, method, length, workers, cache=False):
    """Return the validation images that a method wants to see while it trains, or None.

    They come shuffled, pass after pass, without augmentation.

    Args:
        dataset: The validation split.
        method: The method; ``held_out_size`` says how many images a step.
        length: Steps of an epoch.
    """
    if not method.held_out_size:
        return None
    loader = Loader(
        dataset, EvalTransform(**eval_preprocess(recipe)), method.held_out_size, shuffle=True,
        seed=recipe.seed + 1, workers=workers, last="discard", cache=cache,
    )  # fmt: skip
    return Stream(loader, length)


def eval_loader(preprocess, dataset, batch_size, workers):
    """Return batches for evaluation, in order, the last one padded.

    Args:
        preprocess: Dict with ``resize``, ``crop``, ``size``, ``mean``, ``std`` and perhaps
            ``keep_aspect``.
    """
    transform = EvalTransform(**preprocess)
    return Loader(dataset, transform, batch_size, workers=workers, last="pad")


def eval_preprocess(recipe):
    """Return the evaluation pre-processing of a recipe."""
    values = {
        "resize": recipe.resize, "crop": recipe.eval_crop, "size": recipe.input_size,
        "mean": tuple(recipe.mean), "std": tuple(recipe.std),
    }  # fmt: skip
    return dict(values, keep_aspect=True) if recipe.keep_aspect else values


def build_net(recipe, num_attributes):
    """Return the recipe's net, not initialised."""
    for key, source in (("input_size", "input_size=N"), ("classes", "the data set")):
        if key in recipe.model_options:
            raise ValueError(f"model_options.{key}: not to be given here; {source} decides it")
    options = {"input_size": recipe.input_size, **recipe.model_options}
    return get_model(recipe.model, classes=num_attributes, **options)


def initialize_net(recipe, net, ctx, base_params=None):
    """Initialise ``net`` from the recipe's seed and, if given, its backbone from a file.

    Raises:
        ValueError: ``base_params`` does not fit the backbone.
    """
    seed_everything(recipe.seed)
    msra = mx.init.MSRAPrelu("in", 0)
    net.initialize(msra if recipe.init == "msra" else xavier(), ctx=ctx)
    if recipe.backbone and not base_params:
        base_params = store.get_model_file(recipe.backbone)
    if base_params:
        skipped = load_backbone(getattr(net, "backbone", net), base_params)
        logger.info("Backbone from %s%s", base_params, f"; not taken: {skipped}" if skipped else "")
    if recipe.hybridize:
        use_static_graph(net)
    return net


def build_method(recipe, net, ctx, dataset):
    """Return the recipe's training method for ``net``."""
    known = mx.optimizer.Optimizer.opt_registry
    if recipe.optimizer not in known:
        raise ValueError(unknown_name("optimizer", recipe.optimizer, known))
    params = {"wd": recipe.wd, "learning_rate": recipe.lr}
    if recipe.optimizer in ("sgd", "nag"):
        params["momentum"] = recipe.momentum
    optimization = Optimization(recipe.optimizer, params, recipe.accumulate, recipe.amp)
    task = Task(dataset.names, len(dataset), dataset.prior, dataset.schema)
    return METHODS.get(recipe.method)(net, ctx, task, optimization, options=recipe.options)


def reports_accuracy(recipe, schema):
    """Return whether accuracy per attribute belongs into the results.

    Args:
        recipe: Recipe as a dict; may be empty where none is known.
        schema: Of the data set.
    """
    asked = recipe.get("score") == "accuracy" or recipe.get("method") == "awmt"
    return asked or not schema.is_binary
