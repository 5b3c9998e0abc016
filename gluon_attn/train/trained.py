"""Trained nets with all that is needed to feed and to read them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import mxnet as mx

from gluon_attn.core.errors import naming
from gluon_attn.core.files import finite, sha256_of
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.schema import Schema
from gluon_attn.core.text import read_json
from gluon_attn.data.lists import read_names
from gluon_attn.tasks import reid
from gluon_attn.tasks.base import default_names, task_of
from gluon_attn.tasks.scores import activation_of
from gluon_attn.train import use_static_graph
from gluon_attn.train.build import build_net, eval_preprocess
from model_zoo import MODELS, WIDER_ATTRIBUTES, get_model, store
from model_zoo.params_io import load_into
from model_zoo.registry import trained_options

logger = logging.getLogger("gluon_attn.load")

_NEEDED = ("recipe", "epoch", "data", "versions")  # what of best.json stays with the net
_KEPT = (*_NEEDED, "mAP", "top1", "accuracy", "schema")  # and this where it is there


class Trained(NamedTuple):
    """A trained net.

    Attributes:
        name: For file names and table heads.
        net: Hybridized net with its parameters.
        classes: Names of the logits, in order.
        preprocess: ``resize``, ``crop``, ``size``, ``mean``, ``std`` of evaluation.
        extra: JSON-able record of where it comes from.
    """

    name: str
    net: Any
    classes: tuple
    preprocess: dict
    extra: dict

    @property
    def input_size(self):
        """Side of the net's input in pixels."""
        return self.preprocess["size"]

    @property
    def activation(self):
        """What makes probabilities of logits: 'softmax' for single-label data, else 'sigmoid'."""
        schema = self.extra.get("schema")
        return activation_of(Schema.from_json(schema)) if schema else "sigmoid"

    @property
    def export_preprocess(self):
        """``preprocess`` without the input size, as the export layer takes it."""
        return {key: value for key, value in self.preprocess.items() if key != "size"}


def from_flags(args, ctx):
    """Load what the flags ``--run`` or ``--model`` of a tool name; None without either.

    Args:
        args: Parsed flags, with ``run``, ``model``, ``params``, ``pretrained`` and ``names``.
        ctx: List of contexts.

    Raises:
        ValueError, FileNotFoundError, OSError: See :func:`from_run` and :func:`from_zoo`.
    """
    if args.run:
        return from_run(args.run, ctx)
    if not args.model:
        return None
    classes = read_names(Path(args.names)) if args.names else None
    return from_zoo(args.model, args.params, ctx, classes, args.pretrained)


def from_run(folder, ctx):
    """Load the best epoch of a training run.

    Raises:
        FileNotFoundError: ``folder`` holds no finished epoch.
        ValueError: The weights are not those that ``best.json`` describes.
    """
    path, best = weights_of_run(folder)
    recipe = Recipe.from_dict(best["recipe"], os.path.join(folder, "best.json"))
    net = build_net(recipe, len(best["classes"]))
    # best.json of older releases may hold nan, which an export cannot keep
    extra = finite({key: best[key] for key in _KEPT if key in best})
    return _finish(recipe.model, net, path, best["classes"], eval_preprocess(recipe), extra, ctx)


def weights_of_run(folder: str) -> tuple[str, dict]:
    """Return the path of a run's best weights and the contents of its ``best.json``.

    Raises:
        FileNotFoundError: ``folder`` holds no finished epoch.
        ValueError: The weights are not those that ``best.json`` describes.
    """
    path = os.path.join(folder, "best.params")
    best = _read_record(folder)
    if sha256_of(path) != best["sha256"]:
        raise ValueError(
            f"{path} is damaged or was replaced: its sha256 is not that in best.json (if the run "
            "was killed while it wrote them, resuming it repairs that)"
        )
    return path, best


def from_zoo(name, params, ctx, classes=None, pretrained=False, root=None):
    """Load a zoo model with its published weights or with weights from a file.

    Published weights, and files that are recognised as such, are fed as in the run that made them.
    Of any other file this is not known: it gets the paper's proportions and ImageNet's mean, and a
    warning says so.

    Args:
        name: Zoo name, in any case.
        params: Weight file of the whole net, or None with ``pretrained``.
        ctx: List of contexts.
        classes: Names of the logits, in order; by default those of the weights, else those of the
            model's data.
        pretrained: Whether to take the published weights.
        root: Folder of weight files, see :func:`model_zoo.store.directories`.

    Returns:
        :class:`Trained`.

    Raises:
        ValueError: Neither weights nor ``pretrained``, or both; weights that do not fit or are not
            known; names that are not those of the weights, or not as many as the net has logits.
        FileNotFoundError: The weights are not at hand.
        OSError: They could not be fetched.
    """
    if params and pretrained:
        raise ValueError(f"--params {params} and --pretrained: give one of the two")
    if not params and not pretrained:
        raise ValueError("give --params FILE or --pretrained")
    MODELS.get(name.lower())  # an unknown model is told so, not that it has no weights
    if pretrained:
        path, entry = store.find(name.lower(), root)
    else:
        path, entry = params, store.entry_of_file(params, root)
    if entry is None:
        return _from_file(name, params, classes, ctx)
    return _from_entry(name, path, entry, classes, ctx, params or "pretrained")


def _from_entry(name, path, entry, classes, ctx, params):
    """Return a net with weights of which all is known, fed as in the run that made them."""
    try:
        net = get_model(name, **trained_options(name, entry))
    except ValueError as error:
        if entry.name == name.lower():
            raise
        raise ValueError(f"{path} holds the weights of {entry.name}, not of {name}") from error
    extra, schema = {"params": params}, None
    if entry.recipe:
        recipe = _recipe_of(entry)
        extra.update(recipe=recipe.to_dict(), data=entry.data, score=entry.score)
        schema = entry.schema
    else:
        recipe = _assumed_recipe(name, net)
    wanted = classes if classes or entry.classes else default_names(name)
    names = _names(name, net, wanted, entry.classes)
    if schema and Schema.from_json(schema).columns != names:
        raise ValueError(f"{entry.where}: the schema has other columns than the classes")
    extra.update({"schema": schema} if schema else {})
    found = _finish(name, net, path, names, eval_preprocess(recipe), extra, ctx)
    if not entry.recipe:
        _warn_assumed(found, path)
    return found


def _recipe_of(entry):
    """Return the recipe of published weights; what it leaves out has its default."""
    try:
        return Recipe.from_dict(entry.recipe, "recipe")
    except ValueError as error:
        raise ValueError(f"{entry.where}: {error}") from error


def _from_file(name, params, classes, ctx):
    """Return a net with weights of unknown origin, with a warning on how it is fed."""
    published = store.builtin(name.lower())
    known = published.classes if published else None
    names = classes or known or default_names(name)
    net = get_model(name, **({"classes": len(names)} if names else {}))
    names, extra = _names(name, net, names), {"params": params}
    if published and published.schema and names == known:
        extra["schema"] = published.schema
    recipe = _assumed_recipe(name, net)
    try:
        found = _finish(name, net, params, names, eval_preprocess(recipe), extra, ctx)
    except ValueError as error:
        if classes:
            raise
        raise ValueError(
            f"{error} (no names were given: the net has its {len(names)} classes; --names FILE "
            "gives others)"
        ) from error
    _warn_assumed(found, params)
    return found


def _assumed_recipe(name, net):
    """Return the recipe by which a net is fed of which nothing else is known."""
    return Recipe(method="baseline", model=name, **_pixels(net.input_size[0]))


def _names(name, net, given, known=None):
    """Return the names of the logits.

    Args:
        name: Zoo name, for messages.
        net: The net.
        given: Those asked for, or None.
        known: Those of the weights, or None.

    Raises:
        ValueError: ``given`` are others than ``known``, or not as many as there are logits.
    """
    count = net.classes
    given, known = tuple(given or ()), tuple(known or ())
    if given and known and given != known:
        raise ValueError(
            f"the weights of {name} were made for {', '.join(known)}; the names given are "
            f"{', '.join(given)}: leave them out"
        )
    names = given or known
    if not names and count == len(WIDER_ATTRIBUTES):
        return WIDER_ATTRIBUTES
    names = names or tuple(f"class{number}" for number in range(count))
    if len(names) != count:
        raise ValueError(f"{len(names)} names for the {count} logits of {name}")
    return names


def _warn_assumed(trained, path):
    pixels = ", ".join(f"{key} {value}" for key, value in trained.preprocess.items())
    logger.warning(
        "%s does not say how its net was fed in training. Assumed: %s; %s of the logits. A run "
        "folder (--run) and published weights know theirs", path, pixels, trained.activation,
    )  # fmt: skip


def _read_record(folder):
    """Return the contents of ``best.json``."""
    path = os.path.join(folder, "best.json")
    try:
        best = read_json(path)
        missing = [key for key in ("sha256", "classes", *_NEEDED) if key not in best]
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} holds no trained weights (best.json)") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if missing:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(missing)}")
    return best


def _finish(name, net, path, classes, preprocess, extra, ctx):
    if path:
        net.initialize(mx.init.Zero(), ctx=ctx)
        with naming(path):
            load_into(net, path)
    use_static_graph(net)
    if reid.gives_embedding(net):
        preprocess = reid.whole_pictures(net, preprocess)
    task = task_of(net)
    if task:
        preprocess = task.preprocess(net, preprocess)
    return Trained(name, net, tuple(classes), preprocess, extra)


def _pixels(size):
    """Return the recipe's pixel sizes for another input size, in the paper's proportions."""
    return {
        "input_size": size, "resize": size * 256 // 224, "crop_min": size * 128 // 224,
        "crop_max": size, "eval_crop": size,
    }  # fmt: skip
