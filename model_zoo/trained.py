"""Zoo models with weights: published ones, known files, and files of unknown origin."""

from __future__ import annotations

import logging
from typing import Any, Optional, Sequence

import mxnet as mx

from gluon_attn.core.errors import naming
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.schema import Schema
from gluon_attn.task import Trained, task_of
from model_zoo import store
from model_zoo.params_io import load_into
from model_zoo.registry import MODELS, WIDER_ATTRIBUTES, get_model, trained_options

logger = logging.getLogger("gluon_attn.load")

Names = Optional[Sequence[str]]


def from_zoo(
    name: str, params: str | None, ctx: list[Any], classes: Names = None, *,
    pretrained: bool = False, root: str | None = None,
) -> Trained:  # fmt: skip
    """Load a zoo model with its published weights or with weights from a file.

    Published weights, and files that are recognised as such, are fed as in the run that made them.
    Of any other file this is not known: it gets the paper's proportions and ImageNet's mean, and a
    warning says so. ``params`` is a weight file of the whole net, or None with ``pretrained``;
    ``classes`` names the logits, in order, by default as the weights or else the model's data do.

    Raises a ValueError for neither weights nor ``pretrained``, or both; for weights that do not fit
    or are not known; for names that are not those of the weights, or not as many as logits.
    """
    if params and pretrained:
        raise ValueError(f"--params {params} and --pretrained: give one of the two")
    if not params and not pretrained:
        raise ValueError("give --params FILE or --pretrained")
    MODELS.get(name.lower())  # an unknown model is told so, not that it has no weights
    if params:
        path, entry = params, store.entry_of_file(params, root)
    else:
        path, entry = store.find(name.lower(), root)
    if entry is None:
        return _from_file(name, path, classes, ctx)
    return _from_entry(name, path, entry, classes, ctx=ctx, params=params or "pretrained")


def _from_entry(
    name: str, path: str, entry: Any, classes: Names, *, ctx: list[Any], params: str
) -> Trained:
    try:
        net = get_model(name, **trained_options(name, entry))
    except ValueError as error:
        if entry.name == name.lower():
            raise
        raise ValueError(f"{path} holds the weights of {entry.name}, not of {name}") from error
    extra: dict[str, Any] = {"params": params}
    recipe = _assumed_recipe(name, net)
    if entry.recipe:
        try:  # what it leaves out has its default
            recipe = Recipe.from_dict(entry.recipe, "recipe")
        except ValueError as error:
            raise ValueError(f"{entry.where}: {error}") from error
        extra.update(recipe=recipe.to_dict(), data=entry.data, score=entry.score)
        extra.update({"schema": entry.schema} if entry.schema else {})
    names = _names(name, net, classes, entry.classes)
    if "schema" in extra and Schema.from_json(entry.schema).columns != names:
        raise ValueError(f"{entry.where}: the schema has other columns than the classes")
    found = with_weights(Trained(name, net, names, {}, extra), recipe, path, ctx)
    if not entry.recipe:
        _warn_assumed(found, path)
    return found


def _from_file(name: str, path: str, classes: Names, ctx: list[Any]) -> Trained:
    published = store.builtin(name.lower())
    known = published.classes if published else None
    wanted = classes or known
    net = get_model(name, classes=len(wanted) if wanted else None)
    names = _names(name, net, wanted)
    extra: dict[str, Any] = {"params": path}
    if published and published.schema and names == known:
        extra["schema"] = published.schema
    recipe = _assumed_recipe(name, net)
    try:
        found = with_weights(Trained(name, net, names, {}, extra), recipe, path, ctx)
    except ValueError as error:
        if classes:
            raise
        raise ValueError(
            f"{error} (no names were given: the net has its {len(names)} classes; --names FILE "
            "gives others)"
        ) from error
    _warn_assumed(found, path)
    return found


def _assumed_recipe(name: str, net: Any) -> Recipe:
    """Return the recipe, in the paper's proportions, of a net of which nothing else is known."""
    size = net.input_size[0]
    return Recipe(
        method="baseline", model=name, input_size=size, resize=size * 256 // 224,
        crop_min=size * 128 // 224, crop_max=size, eval_crop=size,
    )  # fmt: skip


def _names(name: str, net: Any, given: Names, known: Names = None) -> tuple[str, ...]:
    count = net.classes
    given, known = tuple(given or ()), tuple(known or ())
    if given and known and given != known:
        raise ValueError(
            f"the weights of {name} were made for {', '.join(known)}; the names given are "
            f"{', '.join(given)}: leave them out"
        )
    names = given or known or tuple(task_of(net).class_names)
    if not names and count == len(WIDER_ATTRIBUTES):
        return tuple(WIDER_ATTRIBUTES)
    names = names or tuple(f"class{number}" for number in range(count))
    if len(names) != count:
        raise ValueError(f"{len(names)} names for the {count} logits of {name}")
    return names


def _warn_assumed(trained: Trained, path: str) -> None:
    pixels = ", ".join(f"{key} {value}" for key, value in trained.preprocess.items())
    logger.warning(
        "%s does not say how its net was fed in training. Assumed: %s; %s of the logits. A run "
        "folder (--run) and published weights know theirs", path, pixels, trained.activation,
    )  # fmt: skip


def with_weights(empty: Trained, recipe: Recipe, path: str, ctx: list[Any]) -> Trained:
    """Return a net with the weights of a file, fed as its task feeds it by a recipe."""
    empty.net.initialize(mx.init.Zero(), ctx=ctx)
    with naming(path):
        load_into(empty.net, path)
    empty.net.hybridize(static_alloc=True, static_shape=True)
    mx.nd.waitall()
    return empty._replace(preprocess=empty.task.preprocess(recipe, empty.net))
