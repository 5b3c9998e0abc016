"""A baseline that trains no net: logistic regression on what a pre-trained one sees.

Mean and maximum of every channel over the last map of the frozen net, standardised; one classifier
per attribute, all of one strength, which validates best. Whatever is fine-tuned should beat it.
"""

from __future__ import annotations

import os
import warnings
from typing import Any, Iterator, NamedTuple, Sequence

import mxnet as mx
import numpy as np

from gluon_attn import runtime
from gluon_attn.cli.analysis_features import stage_view
from gluon_attn.core.files import or_nan, write_json
from gluon_attn.core.images import resize
from gluon_attn.core.text import read_json
from gluon_attn.metrics.multilabel import evaluate_multilabel
from gluon_attn.metrics.tables import decimal
from gluon_attn.tasks.data import open_split
from model_zoo import get_model

WIDTH, HEIGHT = 160, 240  # pixels; whole people are about that upright
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # scikit-learn's C: less is smoother
STEPS = 300  # of the optimiser, at most
BATCH = 32


class Split(NamedTuple):
    """Features ``(N, F)``, labels and masks ``(N, A)`` of a split."""

    features: np.ndarray
    label: np.ndarray
    mask: np.ndarray


def probe(recipe: Any, data_dir: str, path: str, net: Any = None) -> dict[str, Any]:
    """Return the probe's test scores, or those that ``path`` holds of the same data.

    Args:
        recipe: Says how the data are read and what pixels the net wants; its score (``mAP``,
            ``mA``) chooses the strength.
        path: A JSON file.
        net: Whose features are taken; None: ``recipe.backbone`` with its published weights.

    Returns:
        ``{'score': {name: value}, 'strength', 'validation': {strength: score}, 'data'}``.
    """
    splits = [open_split(recipe, data_dir, name) for name in recipe.splits]
    data = [split.fingerprint() for split in splits]
    if os.path.exists(path) and (known := read_json(path))["data"] == data:
        return dict(known, score={k: or_nan(v) for k, v in known["score"].items()})
    net = get_model(recipe.backbone, pretrained=True) if net is None else net
    train, val, test = (features_of(net, split, recipe.mean, recipe.std) for split in splits)
    centre, spread = train.features.mean(axis=0), train.features.std(axis=0)
    train, val, test = (
        s._replace(features=(s.features - centre) / np.maximum(spread, 1e-6))
        for s in (train, val, test)
    )
    names, found, scores = splits[0].names, {}, {}
    for strength in STRENGTHS:
        models = fit(train, strength)
        found[strength] = models
        scores[strength] = _scores(models, val, names)[recipe.score]
    best = max(STRENGTHS, key=lambda c: np.nan_to_num(scores[c], nan=-1))
    result = {
        "score": _scores(found[best], test, names), "strength": best,
        "validation": {str(c): score for c, score in scores.items()}, "data": data,
    }  # fmt: skip
    write_json(path, result)
    return result


def features_of(net: Any, dataset: Any, mean: Sequence[float], std: Sequence[float]) -> Split:
    """Return the features of a data set: ``(N, 2 C)``, C channels of the net's last map."""
    view = stage_view(net)
    last, ctx = list(view.gives)[-1], runtime.contexts("cpu")[0]
    rows = []
    for images in _batches(dataset):
        planes = (images - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
        planes = mx.nd.array(planes.transpose(0, 3, 1, 2), ctx=ctx)
        maps = view.run({"data": planes})[last]
        rows.append(mx.nd.concat(maps.mean(axis=(2, 3)), maps.max(axis=(2, 3)), dim=1).asnumpy())
    return Split(np.concatenate(rows), np.asarray(dataset.label), np.asarray(dataset.mask))


def _batches(dataset: Any) -> Iterator[np.ndarray]:
    """Yield images ``(n, H, W, 3)`` float32, whole, in the data set's order."""
    for start in range(0, len(dataset), BATCH):
        rows = range(start, min(start + BATCH, len(dataset)))
        yield np.stack([resize(dataset[i][0], WIDTH, HEIGHT) for i in rows]).astype(np.float32)


def fit(split: Split, strength: float) -> list[Any]:
    """Return a classifier per attribute, or its only label where the split has no other."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    models: list[Any] = []
    for label, mask in zip(split.label.T, split.mask.T):
        rows = mask > 0
        if len(set(label[rows])) < 2:
            models.append(float(label[rows].max(initial=0)))
            continue
        model = LogisticRegression(C=strength, max_iter=STEPS)
        with warnings.catch_warnings():  # enough steps for scores, not for the last digit
            warnings.simplefilter("ignore", ConvergenceWarning)
            models.append(model.fit(split.features[rows], label[rows]))
    return models


def _scores(models: Sequence[Any], split: Split, names: Sequence[str]) -> dict[str, float]:
    probs = np.stack([
        np.full(len(split.label), m) if isinstance(m, float)
        else m.predict_proba(split.features)[:, 1]
        for m in models
    ], axis=1)  # fmt: skip
    overall = evaluate_multilabel(probs, split.label, split.mask, list(names))["overall"]
    return {name: float(overall[name]) for name in ("mAP", "mA")}


def describe(result: dict[str, Any], backbone: str) -> str:
    """Return the line below the tables of the arms."""
    found = ", ".join(f"{name} {decimal(100 * v, 1)} %" for name, v in result["score"].items())
    return (
        f"Baseline without training of a net: logistic regression on frozen features of {backbone} "
        f"(mean and maximum over the last map, {WIDTH} x {HEIGHT} px, "
        f"C = {result['strength']:g} by validation): test {found}.\n"
    )
