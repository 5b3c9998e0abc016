"""Trained nets: as commands load them, and as a new run starts from them."""

from __future__ import annotations

import argparse
import logging
import os
from typing import Any, Optional, Sequence

from gluon_attn.core.errors import naming
from gluon_attn.core.files import finite, sha256_of
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.text import read_json
from gluon_attn.export.sidecar import check_classes, check_schema
from gluon_attn.task import Trained
from gluon_attn.tasks.attributes import some
from gluon_attn.train.build import build_net
from gluon_attn.train.checkpoint import load_checkpoint, load_net
from model_zoo import MODELS, outside, store
from model_zoo.adapters.read import is_checkpoint
from model_zoo.params_io import load_into
from model_zoo.trained import from_zoo, with_weights

logger = logging.getLogger("gluon_attn.load")

_NEEDED = ("recipe", "epoch", "data", "versions")  # what of best.json stays with the net
_KEPT = (*_NEEDED, "mAP", "top1", "accuracy", "schema")  # and this where it is there

Names = Optional[Sequence[str]]


def from_flags(args: argparse.Namespace, ctx: list[Any]) -> Trained | None:
    """Load what the flags ``--run`` or ``--model`` of a command name; None without either."""
    if args.run:
        return from_run(args.run, ctx)
    if not args.model:
        return None
    return from_zoo(
        args.model, args.params, ctx, outside.schema_of(args), pretrained=args.pretrained,
        pixels=outside.pixels_of(args),
    )  # fmt: skip


def from_run(folder: str, ctx: list[Any]) -> Trained:
    """Load the best epoch of a training run; errors as :func:`weights_of_run`."""
    path, best = weights_of_run(folder)
    with naming(os.path.join(folder, "best.json")):
        recipe = Recipe.from_dict(best["recipe"])
        net = build_net(recipe, len(best["classes"]))
        # best.json of older releases may hold nan, which an export cannot keep
        extra = finite({key: best[key] for key in _KEPT if key in best})
        empty = Trained(recipe.model, net, tuple(check_classes(best["classes"])), {}, extra)
        check_schema(extra.get("schema"), empty.classes)
    return with_weights(empty, recipe, path, ctx)


def from_run_or_zoo(source: str, ctx: list[Any]) -> Trained:
    """Load the best epoch of a run's folder, or the published weights of a zoo name."""
    if not os.path.isdir(source) and source.lower() in MODELS:
        return from_zoo(source, None, ctx, pretrained=True)
    return from_run(source, ctx)


def weights_of_run(folder: str) -> tuple[str, dict[str, Any]]:
    """Return the path of a run's best weights and the contents of its ``best.json``.

    Raises a FileNotFoundError if no epoch is finished, and a ValueError if the weights are not
    those that ``best.json`` describes.
    """
    path, best = os.path.join(folder, "best.params"), _read_record(folder)
    if sha256_of(path) != best["sha256"]:
        raise ValueError(
            f"{path} is damaged or was replaced: its sha256 is not that in best.json (if the run "
            "was killed while it wrote them, resuming it repairs that)"
        )
    return path, best


def _read_record(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, "best.json")
    try:
        best: dict[str, Any] = read_json(path)
        missing = [key for key in ("sha256", "classes", *_NEEDED) if key not in best]
    except FileNotFoundError:
        what = "holds no trained weights (best.json)" if os.path.isdir(folder) else "is no folder"
        raise FileNotFoundError(f"{folder} {what}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if missing:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(missing)}")
    return best


# -- the start of a new run --------------------------------------------------------------------
def take_weights(net: Any, source: str | None, classes: Sequence[str]) -> dict[str, Any]:
    """Give an initialised net all weights of a run, heads included, and nothing else of it.

    ``source`` is the folder of a run, whose best epoch (``best.params``) is taken; a checkpoint
    (``last.ckpt``); a weight file; or the zoo name of published weights. ``classes`` are the names
    of the net's logits. Returns what the record of the run says of it: ``{"init_from": {…}}``,
    empty without a source. Raises a ValueError for weights of another net or of other classes.
    """
    if not source:
        return {}
    known, epoch, path = None, None, source
    if os.path.isdir(source):
        path, best = weights_of_run(source)
        known, epoch = best["classes"], best["epoch"]
    elif not os.path.exists(source):
        if source.lower() not in MODELS:
            raise FileNotFoundError(
                f"--init-from {source}: there is no such run folder, checkpoint or weight file, "
                "nor a model of that name"
            )
        path, entry = store.find(source.lower())
        known = entry.classes
    arrays: dict[str, Any] | None = None
    if is_checkpoint(path):
        arrays, meta = load_checkpoint(path)
        known, epoch = meta["record"].get("classes"), meta["epoch"]
    _check_classes(source, path, known, classes)
    with naming(path):
        load_into(net, path) if arrays is None else load_net(net, arrays, path)
    logger.info("All weights from %s%s", path, "" if epoch is None else f", epoch {epoch}")
    note = {"source": source, "file": path, "sha256": sha256_of(path), "epoch": epoch}
    return {"init_from": note}


def _check_classes(source: str, path: str, known: Names, classes: Sequence[str]) -> None:
    known, classes = tuple(known or ()), tuple(classes)
    if not known or known == classes:
        return
    differ = [f"'{a}' and '{b}'" for a, b in zip(known, classes) if a != b]
    first = f"; the first that differ are {differ[0]}" if differ else ""
    raise ValueError(
        f"--init-from {source}: its net has the {len(known)} classes {some(known)}; these data "
        f"have the {len(classes)} classes {some(classes)}{first}. --init-from takes the heads, "
        f"too, so the classes must be the same; --base-params {path} takes the backbone alone"
    )
