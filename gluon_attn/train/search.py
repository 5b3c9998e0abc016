"""A whole search: two halves of the training set, super-network, alternating steps, genotype."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np

from gluon_attn.core.files import or_nan
from gluon_attn.core.recipe import Recipe
from gluon_attn.data import Loader
from gluon_attn.data.views import CachedDataset, Subset
from gluon_attn.figures.curves import search_curves, training_curves
from gluon_attn.figures.genotype import draw_genotype
from gluon_attn.papers.autola.genotype import find_genotype, save_genotype
from gluon_attn.tasks.data import train_transform
from gluon_attn.train.log import read_json_lines
from gluon_attn.train.run import Settings, claim, logged, prepare

logger = logging.getLogger("gluon_attn.search")


def halves(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the weights' and of the architecture's half, each ``(n,)`` int64."""
    order = np.random.default_rng([seed, 50]).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 : count // 2 * 2])


def search(recipe: Recipe, settings: Settings) -> dict[str, Any]:
    """Search a genotype; return ``{"genotype": Genotype, "file": path, "best": scores}``.

    The recipe is of method ``autola``, with a super-network as model. Writes into ``save_dir``:
    ``genotype.json`` and ``.png``, ``search.png`` (entropy and strength of the edges),
    ``curves.png``, ``recipe.json``, ``train.log``, ``log.jsonl``, ``last.ckpt`` and the
    super-network's ``best.params``. Only the first of several workers writes, and returns a
    genotype. Errors are those of :func:`gluon_attn.train.run.train`.
    """
    claim(settings)
    if recipe.method != "autola":
        raise ValueError(f"method={recipe.method}: tools/search.py needs a recipe of autola")
    with logged(recipe, settings) as ctx:
        ready = prepare(recipe, settings, ctx)
        weights, architecture = half_loaders(recipe, ready.data["train"], settings)
        logger.info(
            "Searching on %d + %d images, validating on %d, into %s", len(weights.dataset),
            len(architecture.dataset), len(ready.data["val"]), settings.save_dir,
        )  # fmt: skip
        best = ready.fit(weights, architecture, "last")
        if not ready.method.workers.is_first:
            return {"best": best}
        return dict(write_result(recipe, settings.save_dir), best=best)


def half_loaders(recipe: Recipe, dataset: Any, settings: Settings) -> list[Loader]:
    """Return the loaders of the weights' and of the architecture's half, equally long."""
    transform = train_transform(recipe)
    source = CachedDataset(dataset, transform.resize) if settings.cache else dataset
    return [
        Loader(
            Subset(source, positions), transform, recipe.batch_size, shuffle=True,
            seed=recipe.seed + number, workers=settings.workers, last="discard",
        )
        for number, positions in enumerate(halves(len(dataset), recipe.seed))
    ]  # fmt: skip


def write_result(recipe: Recipe, folder: str) -> dict[str, Any]:
    """Derive the genotype of the last epoch in a folder's log; write and draw it."""
    records = read_json_lines(os.path.join(folder, "log.jsonl"))
    last = records[-1]
    found = find_genotype(last["genotype"])
    path = os.path.join(folder, "genotype.json")
    about = {
        "method": "second order" if recipe.options.get("second_order") else "first order",
        "model": recipe.model, "seed": recipe.seed, "epochs": recipe.epochs,
        "strength": list(map(or_nan, last["edge_strength"].values())),
        "seconds": sum(record["seconds"] for record in records),
    }  # fmt: skip
    save_genotype(path, found, about)
    draw_genotype(
        found.edges, path.replace(".json", ".png"), f"seed {recipe.seed}, {recipe.epochs} epochs",
        about["strength"],
    )  # fmt: skip
    search_curves(records, os.path.join(folder, "search.png"))
    training_curves(records, os.path.join(folder, "curves.png"))
    logger.info("Genotype: %s", found)
    return {"genotype": found, "file": path}
