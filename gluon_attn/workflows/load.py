"""Trained nets with all that is needed to feed and to read them."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import mxnet as mx

from gluon_attn.engine import use_static_graph
from gluon_attn.files import sha256_of
from gluon_attn.recipe import Recipe
from gluon_attn.schema import Schema
from gluon_attn.workflows import reid
from gluon_attn.workflows.build import build_net, eval_preprocess
from gluon_attn.workflows.scores import activation_of
from gluon_attn.workflows.tasks import default_names, task_of
from model_zoo import WIDER_ATTRIBUTES, get_model
from model_zoo.params_io import load_into
from model_zoo.store import entries

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


def from_run(folder, ctx):
    """Load the best epoch of a training run.

    Raises:
        FileNotFoundError: ``folder`` holds no finished epoch.
        ValueError: The weights are not those that ``best.json`` describes.
    """
    path = os.path.join(folder, "best.params")
    best = _read_record(folder)
    if sha256_of(path) != best["sha256"]:
        raise ValueError(
            f"{path} is damaged or was replaced: its sha256 is not that in best.json (if the run "
            "was killed while it wrote them, resuming it mends that)"
        )
    recipe = Recipe.from_dict(best["recipe"], os.path.join(folder, "best.json"))
    net = build_net(recipe, len(best["classes"]))
    extra = {key: best[key] for key in _KEPT if key in best}
    return _finish(recipe.model, net, path, best["classes"], eval_preprocess(recipe), extra, ctx)


def from_zoo(name, params, ctx, classes=None, pretrained=False, root=None):
    """Load a zoo model with its published weights or with weights from a file.

    Args:
        name: Zoo name.
        params: Weight file of the whole net, or None with ``pretrained``.
        classes: Class or attribute names; those of the model's data by default.

    Raises:
        ValueError: Neither weights nor ``pretrained``, or weights that do not fit.
    """
    if not params and not pretrained:
        raise ValueError("give --params FILE or --pretrained")
    if pretrained:
        return _published(name, classes, ctx, root)
    classes = tuple(classes or default_names(name) or WIDER_ATTRIBUTES)
    net = get_model(name, classes=len(classes))
    recipe = Recipe(method="baseline", model=name, **_pixels(net.input_size[0]))
    return _finish(name, net, params, classes, eval_preprocess(recipe), {"params": params}, ctx)


def _published(name, classes, ctx, root):
    """Return a model with published weights, fed as in the run that made them."""
    net = get_model(name, pretrained=True, root=root, ctx=ctx)
    entry = entries(root)[name.lower()]
    classes = tuple(classes or entry.classes or default_names(name) or WIDER_ATTRIBUTES)
    extra = {"params": "pretrained"}
    if not entry.recipe:
        recipe = Recipe(method="baseline", model=name, **_pixels(net.input_size[0]))
    else:
        recipe = Recipe.from_dict(entry.recipe, f"weights of {name}")
        extra.update(recipe=entry.recipe, data=entry.data, score=entry.score)
        extra.update({"schema": entry.schema} if entry.schema else {})
    return _finish(name, net, None, classes, eval_preprocess(recipe), extra, ctx)


def _read_record(folder):
    """Return the contents of ``best.json``."""
    path = os.path.join(folder, "best.json")
    try:
        with open(path, encoding="utf-8") as file:
            best = json.load(file)
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
