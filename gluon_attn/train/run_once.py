"""Runs of an experiment: trained once, and never taken for those of other settings or data."""

from __future__ import annotations

import os

from gluon_attn.core.recipe import Recipe
from gluon_attn.core.text import read_json
from gluon_attn.method import METHODS
from gluon_attn.train import build, read_json_lines
from gluon_attn.train.run import Settings, train


def check_seeds(seeds):
    """Refuse a seed that is given twice: its run would count as two.

    Raises:
        ValueError: There is one.
    """
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {list(seeds)}: each counts once")


def train_once(recipe, data_dir, folder, workers=2, result="test.json", run=None):
    """Train a recipe unless its finished run is there; continue an interrupted one.

    Args:
        recipe: :class:`~gluon_attn.core.recipe.Recipe`.
        data_dir: The data set.
        folder: Of this run alone.
        workers: Data-loading threads.
        result: The file that a finished run has.
        run: Function ``(recipe, settings)``; :func:`~gluon_attn.train.run.train` if None.

    Returns:
        Seconds of training, over all calls that it took.

    Raises:
        FileExistsError: The folder holds a finished run of another recipe or other data.
        ValueError: It holds an unfinished one.
    """
    if os.path.exists(os.path.join(folder, result)):
        _check_same(recipe, data_dir, folder)
    else:
        settings = Settings(
            data_dir, folder, resume=True, workers=workers, cache=True, console=False
        )
        (run or train)(recipe, settings)
    return sum(record["seconds"] for record in read_json_lines(os.path.join(folder, "log.jsonl")))


def _check_same(recipe, data_dir, folder):
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
        if build.open_split(recipe, data_dir, split).fingerprint() != fingerprint:
            raise _other(folder, f"the data of its split '{split}' were others than {data_dir}")


def _complete(recipe):
    """Return a recipe as a dict in which options that it leaves open have their defaults."""
    values = recipe.to_dict()
    return {**values, "options": {**METHODS.get(recipe.method).OPTIONS, **values["options"]}}


def _other(folder, difference):
    return FileExistsError(
        f"{folder} holds a finished run, not of these settings: {difference}; choose another "
        "--out, or remove that folder to train it again"
    )
