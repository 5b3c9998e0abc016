"""A whole search: two halves of the training set, super-network, alternating steps, genotype."""

from __future__ import annotations

import logging
import os

import numpy as np

from gluon_attn import runtime
from gluon_attn.core.files import or_nan
from gluon_attn.data import Loader
from gluon_attn.data.views import CachedDataset, Subset
from gluon_attn.figures.curves import training_curves
from gluon_attn.figures.genotype import draw_genotype
from gluon_attn.figures.search import search_curves
from gluon_attn.papers.autola.genotype import find_genotype, save_genotype
from gluon_attn.train import SCHEDULES, Run, TensorBoard, build, fit, log_to, read_json_lines, start
from gluon_attn.train.run import describe_run
from gluon_attn.train.validation import check_validation, validator

logger = logging.getLogger("gluon_attn.search")


def halves(count, seed):
    """Return the positions of the weights' and of the architecture's half, each ``(n,)`` int64.

    Args:
        count: Samples of the training set; of an odd number one is left out.
        seed: Seed of the choice.
    """
    order = np.random.default_rng([seed, 50]).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 : count // 2 * 2])


def search(recipe, settings):
    """Search a genotype; return ``{"genotype": Genotype, "file": path, "best": scores}``.

    Writes into ``save_dir``: ``genotype.json`` and ``.png``, ``search.png`` (entropy and strength
    of the edges), ``curves.png``, ``recipe.json``, ``train.log``, ``log.jsonl``, ``last.ckpt`` and
    the super-network's ``best.params``.

    Args:
        recipe: Recipe of method ``autola`` with a super-network as model.
        settings: :class:`gluon_attn.train.run.Settings`.

    Raises:
        FileExistsError: ``save_dir`` holds a run already and ``resume`` is off.
        DivergedError: A loss or a weight is not finite.
        ValueError, FileNotFoundError, OSError: Bad data or recipe, or a full disk.
    """
    start.claim(settings)
    if recipe.method != "autola":
        raise ValueError(f"method={recipe.method}: tools/search.py needs a recipe of autola")
    ctx = runtime.contexts(settings.devices)
    stop_logging = log_to(settings.save_dir, settings.console)
    try:
        return _search(recipe, settings, ctx)
    finally:
        stop_logging()


def _search(recipe, settings, ctx):
    train, val = (
        build.open_split(recipe, settings.data_dir, split, settings.on_bad_image)
        for split in recipe.splits[:2]
    )
    check_validation(recipe, val, settings.data_dir)
    net = build.build_net(recipe, len(train.names))
    build.initialize_net(recipe, net, ctx, settings.base_params)
    origin = start.take_weights(net, settings.init_from, train.names)
    method = build.build_method(recipe, net, ctx, train)
    record = {
        "recipe": recipe.to_dict(), "classes": list(train.names),
        "schema": train.schema.to_json(),
        "data": {"train": train.fingerprint(), "val": val.fingerprint()},
        "versions": runtime.versions(), **origin,
    }  # fmt: skip
    schedule = SCHEDULES.get(recipe.schedule)(
        recipe.lr, recipe.epochs, recipe.warmup_epochs, recipe.lr_factor, recipe.lr_patience,
        recipe.lr_epochs, recipe.lr_min,
    )  # fmt: skip
    loaders = half_loaders(recipe, train, settings)
    logger.info(
        "Searching on %d + %d images, validating on %d, into %s",
        *(len(loader.dataset) for loader in loaders), len(val), settings.save_dir,
    )  # fmt: skip
    validate = validator(recipe, val, ctx[0], settings.workers, data_dir=settings.data_dir)
    writers = (TensorBoard(settings.save_dir),) if settings.tensorboard else ()
    run = Run(
        method, loaders[0], validate, schedule, recipe.epochs, settings.save_dir, recipe.seed,
        record, recipe.score, recipe.log_interval, writers, loaders[1], "last",
    )  # fmt: skip
    best = fit(run, settings.resume)
    describe_run(os.path.join(settings.save_dir, "recipe.json"), record)
    return dict(write_result(recipe, settings.save_dir), best=best)


def half_loaders(recipe, dataset, settings):
    """Return the loaders of the weights' and of the architecture's half, equally long."""
    transform = build.train_transform(recipe)
    source = CachedDataset(dataset, transform.resize) if settings.cache else dataset
    return [
        Loader(
            Subset(source, positions), transform, recipe.batch_size, shuffle=True,
            seed=recipe.seed + number, workers=settings.workers, last="discard",
        )
        for number, positions in enumerate(halves(len(dataset), recipe.seed))
    ]  # fmt: skip


def write_result(recipe, folder):
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
