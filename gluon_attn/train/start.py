"""How a run begins: a folder of its own, and the weights that it starts from."""

from __future__ import annotations

import logging
import os
from typing import Any, Sequence

from gluon_attn.core.errors import naming
from gluon_attn.core.files import sha256_of
from gluon_attn.tasks.scores import some
from gluon_attn.train import load_checkpoint, load_net
from gluon_attn.train.trained import weights_of_run
from model_zoo import MODELS, store
from model_zoo.adapters.read import is_checkpoint
from model_zoo.params_io import load_into

logger = logging.getLogger("gluon_attn.start")


def claim(settings: Any) -> None:
    """Refuse a folder with another run in it, and settings that exclude one another.

    Args:
        settings: :class:`gluon_attn.train.run.Settings`.

    Raises:
        FileExistsError: The folder holds a run, and it is not to be continued.
        ValueError: ``init_from`` beside ``resume`` or ``base_params``.
    """
    for name in ("resume", "base_params"):
        if settings.init_from and getattr(settings, name):
            flag = name.replace("_", "-")
            raise ValueError(
                f"--init-from {settings.init_from} and --{flag}: give one of the two. --init-from "
                "starts a new run from all weights of another, --resume continues one, "
                "--base-params takes a backbone"
            )
    if os.path.exists(os.path.join(settings.save_dir, "last.ckpt")) and not settings.resume:
        raise FileExistsError(
            f"{settings.save_dir} holds a run already; add --resume to continue it, or choose "
            "another --save-dir"
        )


def take_weights(net: Any, source: str | None, classes: Sequence[str]) -> dict:
    """Give a net all weights of a run, heads included, and nothing else of it.

    Args:
        net: Initialised net.
        source: Folder of a run, whose best epoch (``best.params``) is taken; a checkpoint
            (``last.ckpt``); a weight file; or the zoo name of published weights. None: no weights
            are taken.
        classes: Names of the net's logits.

    Returns:
        What the record of the run says of it: ``{"init_from": {…}}``, empty without a source.

    Raises:
        FileNotFoundError: There is nothing of that name.
        ValueError: The weights are those of another net or of other classes, or damaged.
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
    if is_checkpoint(path):
        arrays, meta = load_checkpoint(path)
        known, epoch = meta["record"].get("classes"), meta["epoch"]
        _check_classes(source, path, known, classes)
        with naming(path):
            load_net(net, arrays, path)
    else:
        _check_classes(source, path, known, classes)
        with naming(path):
            load_into(net, path)
    logger.info("All weights from %s%s", path, "" if epoch is None else f", epoch {epoch}")
    note = {"source": source, "file": path, "sha256": sha256_of(path), "epoch": epoch}
    return {"init_from": note}


def _check_classes(
    source: str, path: str, known: Sequence[str] | None, classes: Sequence[str]
) -> None:
    """Refuse weights whose logits stand for other classes than the data have."""
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
