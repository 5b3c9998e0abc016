"""The validation of a run: whether its score can be computed at all, and the function that does.

A score that no net can have, or that every net has alike, chooses no epoch, and a schedule that
watches it lowers the learning rate for nothing. That depends on the labels alone, so it is known
before training.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Callable

from gluon_attn.core.errors import NotFiniteError, naming
from gluon_attn.core.recipe import Recipe
from gluon_attn.tasks import reid, scores
from gluon_attn.tasks.base import task_of
from gluon_attn.train import build, predict

logger = logging.getLogger("gluon_attn.validation")


def check_validation(recipe: Recipe, dataset: Any, data_dir: str) -> None:
    """Refuse a run whose validation score is no score, before it is trained.

    A recipe that needs none, with ``keep=last`` and a schedule that watches none, gets a warning.

    Args:
        recipe: Of the run.
        dataset: Its validation split.
        data_dir: Named in the message.

    Raises:
        ValueError: The data have no such score, or it cannot be defined on this split.
    """
    owner = task_of(dataset) or (reid if reid.is_reid(dataset) else None)
    if owner is None:
        scores.check_score(recipe.score, dataset.schema)
        problem, left_out = scores.judge(recipe.score, dataset)
    else:
        if recipe.score not in owner.SCORES:
            valid = ", ".join(owner.SCORES)
            raise ValueError(f"score={recipe.score}: of these data there are {valid}")
        problem, left_out = owner.judge(dataset)
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


def validator(
    recipe: Recipe, dataset: Any, ctx: Any, workers: int, *, data_dir: str
) -> Callable[[Any], dict]:
    """Return the function ``net -> scores`` of a run; nan where the net's output is not finite.

    Args:
        recipe: Of the run.
        dataset: Its validation split.
        ctx: Device of the net.
        workers: Data-loading threads.
        data_dir: Named in messages.
    """
    owner = task_of(dataset) or (reid if reid.is_reid(dataset) else None)
    measure = (owner.validator if owner else _label_validator)(recipe, dataset, ctx, workers)

    def validate(net: Any) -> dict:
        try:
            with naming(_place(dataset, data_dir)):
                return measure(net)
        except NotFiniteError as error:
            logger.warning("Validation is undefined: %s", error)
            return {recipe.score: math.nan}

    return validate


def _place(dataset: Any, data_dir: str) -> str:
    """Return words for the data of a split: its annotation file where it has one."""
    annotation = getattr(getattr(dataset, "reader", dataset), "annotation", None)
    return f"{annotation or data_dir}, split '{dataset.split}'"


def _label_validator(recipe: Recipe, dataset: Any, ctx: Any, workers: int) -> Callable[[Any], dict]:
    loader = build.eval_loader(build.eval_preprocess(recipe), dataset, recipe.batch_size, workers)
    activation = scores.activation_of(dataset.schema)

    def validate(net: Any) -> dict:
        found = predict(net, loader, len(dataset), ctx, True, activation)
        return scores.validation_scores(found, dataset, recipe.score)

    return validate
