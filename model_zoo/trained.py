"""Zoo models with weights: published ones, known files, and files from outside."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Optional, Sequence, Union

import mxnet as mx

from gluon_attn.core.errors import naming
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.schema import MULTICLASS, Attribute, Schema
from gluon_attn.task import CLASS, Trained, task_of
from model_zoo import outside, store
from model_zoo.params_io import load_into
from model_zoo.registry import MODELS, WIDER_ATTRIBUTES, get_model, trained_options
from model_zoo.transfer import WeightEntry

Names = Optional[Union[Sequence[str], Schema]]
IMAGENET = 1000


def from_zoo(
    name: str, params: str | None, ctx: list[Any], classes: Names = None, *,
    pretrained: bool = False, root: str | None = None, pixels: outside.Pixels | None = None,
) -> Trained:  # fmt: skip
    """Load a zoo model with its published weights or with weights from a file.

    Published weights, files that are recognised as such, and files with a record beside them
    (:mod:`model_zoo.outside`) are fed as that says; ``pixels`` go before it. ``params`` is a weight
    file of the whole net, or None with ``pretrained``; ``classes`` names the logits, in order, or
    is their schema, by default as the weights or else the model's data do.

    Raises a ValueError for neither weights nor ``pretrained``, or both; for weights that do not fit
    or are not known; for names that are not those of the weights, or not as many as logits; and if
    nothing says how images are prepared or what the logits are called.
    """
    if params and pretrained:
        raise ValueError(f"--params {params} and --pretrained: give one of the two")
    if not params and not pretrained:
        raise ValueError("give --params FILE or --pretrained")
    name = MODELS.own_name(name)  # an unknown model is told so, not that it has no weights
    if params:
        path = params
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path}: no such parameter file")
        entry = store.entry_of_file(params, root) or outside.described(params)
    else:
        path, entry = store.find(name, root)
    if entry is not None and entry.options and entry.name != name:
        entry = dataclasses.replace(entry, name=name, options={})  # it may fit as well
    schema = _schema_of(name, classes, entry)
    imagenet = entry is not None and entry.pixels and entry == store.builtin(entry.name)
    if imagenet and schema and schema.is_binary:
        raise ValueError(f"{name}: every image of ImageNet is of one class: add --single-label")
    net = _net(name, path, entry, schema)
    schema = schema or default_schema(name, net, entry)
    if schema is None:
        fed = pixels or entry is not None and (entry.recipe or entry.pixels)
        raise ValueError(
            f"{path}: nothing says what the {net.classes} outputs of {name} are: give --classes "
            "FILE, a name a line in their order, and --single-label if every image is of one class"
            + ("" if fed else f". Nor how images are prepared: {outside.HELP}")
        )
    if len(schema.columns) != net.classes:
        raise ValueError(f"{len(schema.columns)} names for the {net.classes} logits of {name}")
    extra: dict[str, Any] = {"params": params or "pretrained", "model": name}
    recipe = outside.recipe_of(entry)
    if entry is not None and recipe is not None:
        extra.update(recipe=recipe.to_dict(), data=entry.data or {}, score=entry.score)
    elif imagenet:
        extra["data"] = {"name": "ImageNet (ILSVRC2012)"}
    if not schema.is_binary or entry is not None and entry.schema:
        extra["schema"] = schema.to_json()
    found = Trained(name, net, schema.columns, {}, extra)
    try:
        _fill(found, path, ctx)
    except ValueError as error:
        if entry is not None:
            raise
        if classes:
            raise ValueError(f"{error} (--classes has {len(schema.columns)} names)") from error
        raise ValueError(
            f"{error} (no names were given: the net has its {net.classes} classes; --classes FILE "
            "gives others)"
        ) from error
    known = outside.merged(outside.known_pixels(entry, found.task, net), pixels or {})
    return found._replace(preprocess=outside.preprocess(name, net, found.task, known, path))


def _net(name: str, path: str, entry: WeightEntry | None, schema: Schema | None) -> Any:
    if entry is None:
        return get_model(name, classes=len(schema.columns) if schema else None)
    try:
        own = entry.options is None  # published: as many classes as it has
        given = None if own or not schema else {"classes": len(schema.columns)}
        return get_model(name, **trained_options(name, entry, given))
    except ValueError as error:
        if entry.name == name:
            raise
        raise ValueError(f"{path} holds the weights of {entry.name}, not of {name}") from error


def _schema_of(name: str, classes: Names, entry: WeightEntry | None) -> Schema | None:
    """Return what the logits mean, as the user says or else the weights do; None: neither does."""
    given = known = None
    if classes:
        given = classes if isinstance(classes, Schema) else Schema.binary(classes)
    if entry is not None and entry.schema:
        known = Schema.from_json(entry.schema)
        if entry.classes and known.columns != entry.classes:
            raise ValueError(f"{entry.where}: the schema has other columns than the classes")
    elif entry is not None and entry.classes:
        known = Schema.binary(entry.classes)
    if given and known and given.columns != known.columns:
        bare = [[name.rpartition("=")[2] for name in schema.columns] for schema in (given, known)]
        same = bare[0] == bare[1]
        if same and known.is_single_label:  # the weights know better
            return known
        if entry is not None and entry.options is not None and not entry.recipe:
            return given  # a flag goes before the record that `convert` wrote
        raise ValueError(
            f"the weights of {name} were made for {', '.join(known.columns)}; the names given are "
            f"{', '.join(given.columns)}: leave them out"
        )
    return known or given


def default_schema(name: str, net: Any, entry: WeightEntry | None) -> Schema | None:
    """Return what the logits of a net mean by its task or by the official data of its name."""
    if getattr(net, "task", None):  # people or boxes: what is shown of them has its own names
        names = task_of(net).class_names or [f"class{number}" for number in range(net.classes)]
        return Schema.binary(names)
    if name.endswith("_wider") and net.classes == len(WIDER_ATTRIBUTES):
        return Schema.binary(WIDER_ATTRIBUTES)
    if entry is not None and entry == store.builtin(name) and net.classes == IMAGENET:
        numbers = tuple(map(str, range(IMAGENET)))
        return Schema([Attribute(CLASS, MULTICLASS, numbers)])
    return None


def with_weights(empty: Trained, recipe: Recipe, path: str, ctx: list[Any]) -> Trained:
    """Return a net with the weights of a file, fed as its task feeds it by a recipe."""
    _fill(empty, path, ctx)
    return empty._replace(preprocess=empty.task.preprocess(recipe, empty.net))


def _fill(empty: Trained, path: str, ctx: list[Any]) -> None:
    empty.net.initialize(mx.init.Zero(), ctx=ctx)
    with naming(path):
        load_into(empty.net, path)
    empty.net.hybridize(static_alloc=True, static_shape=True)
    mx.nd.waitall()
