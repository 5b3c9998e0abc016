"""From a recipe to the net and the method of a run."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, Sequence

import mxnet as mx

import gluon_attn.coco  # noqa: F401  (registers its training methods)
from gluon_attn import method
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.registry import unknown_name
from gluon_attn.method import METHODS, Method, Optimization
from gluon_attn.nets.attention import attention_blocks
from gluon_attn.nets.init import xavier
from gluon_attn.runtime import seed_everything
from gluon_attn.train.fit import use_static_graph
from model_zoo import get_model, store
from model_zoo.params_io import load_backbone

logger = logging.getLogger("gluon_attn.build")


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe and apply ``key=value`` overrides, including the method's own settings.

    Where they name another method, settings of the recipe's that it does not know are left out, so
    that ``method=baseline`` is enough for the baseline of any recipe.
    """
    recipe = Recipe.load(name)
    chosen = dict(pair.partition("=")[::2] for pair in overrides).get("method", recipe.method)
    known = METHODS.get(chosen).OPTIONS
    if chosen != recipe.method:
        options = {key: value for key, value in recipe.options.items() if key in known}
        recipe = dataclasses.replace(recipe, options=options)
    return recipe.override(overrides, known)


def build_net(recipe: Recipe, num_attributes: int) -> Any:
    """Return the recipe's net, not initialised."""
    for key, source in (("input_size", "input_size=N"), ("classes", "the data set")):
        if key in recipe.model_options:
            raise ValueError(f"model_options.{key}: not to be given here; {source} decides it")
    options = {"input_size": recipe.input_size, **recipe.model_options}
    return get_model(recipe.model, classes=num_attributes, **options)


def initialize_net(recipe: Recipe, net: Any, ctx: list[Any], base_params: Any = None) -> Any:
    """Initialise ``net`` from the recipe's seed and, if given, its backbone from a file."""
    seed_everything(recipe.seed)
    msra = mx.init.MSRAPrelu("in", 0)
    net.initialize(msra if recipe.init == "msra" else xavier(), ctx=ctx)
    if recipe.backbone and not base_params:
        base_params = store.get_model_file(recipe.backbone)
    if base_params:
        backbone = getattr(net, "backbone", net)
        blocks = [block for _, block in attention_blocks(backbone)]
        added = {id(p) for block in blocks for p in block.collect_params().values()}
        named = backbone._collect_params_with_prefix().items()
        # Weights of the plain net will do: its attention blocks start as initialised.
        new = [name for name, parameter in named if id(parameter) in added]
        skipped = load_backbone(backbone, base_params, allow_missing=new)
        logger.info("Backbone from %s%s", base_params, f"; not taken: {skipped}" if skipped else "")
    if recipe.hybridize:
        use_static_graph(net)
    return net


def build_method(recipe: Recipe, net: Any, ctx: list[Any], dataset: Any) -> Method:
    """Return the recipe's training method for ``net``; its learning rate is the schedule's."""
    known = mx.optimizer.Optimizer.opt_registry
    if recipe.optimizer not in known:
        raise ValueError(unknown_name("optimizer", recipe.optimizer, known))
    params = {"wd": recipe.wd}
    if recipe.optimizer in ("sgd", "nag"):
        params["momentum"] = recipe.momentum
    optimization = Optimization(recipe.optimizer, params, recipe.accumulate, recipe.amp)
    task = method.Task(dataset.names, len(dataset), dataset.prior, dataset.schema)
    return METHODS.get(recipe.method)(net, ctx, task, optimization, options=recipe.options)
