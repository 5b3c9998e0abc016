"""Analyses of attention maps: top classes, overlap with the confusing class, Grad-CAM."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import mxnet as mx
import numpy as np

from gluon_attn.cli.analysis_features import Models, Settings, batches, shown_name
from gluon_attn.cli.maps import GUIDED, TITLES, Explained, Look
from gluon_attn.core.files import write_json
from gluon_attn.data import EvalTransform
from gluon_attn.figures.heatmaps import (
    gradient_image,
    map_pairs,
    overlay,
    side_by_side,
    top_class_grid,
)
from gluon_attn.metrics.overlap import THRESHOLD, OverlapMeter
from gluon_attn.papers.icasc.attention import (
    MAPS,
    attention_consistency,
    attention_separation,
    resize_like,
    soft_mask,
)
from gluon_attn.papers.icasc.gradients import true_and_confusing
from gluon_attn.task import Result, Trained, task_of

TOP = 5  # classes of an image whose maps are drawn; supplement of ICASC
GRID_IMAGES, PAIR_IMAGES = 4, 8  # images of a figure, as in the supplements
LAYERS = ("inner", "last")


class Samples(NamedTuple):
    """Images as a net sees them.

    ``views`` are N images ``(S, S, 3)`` uint8; ``label`` is ``(N, A)`` in {0, 1}, 0 also where the
    label is not known.
    """

    look: Look
    views: list[np.ndarray]
    label: np.ndarray


def varied_samples(
    dataset: Any, count: int, seed: int = 0, among: Sequence[int] | None = None
) -> list[int]:
    """Return the positions of samples that together show as many classes as possible.

    They are chosen without a look at any prediction, so that no net is flattered; samples without
    any class come last. There are fewer than ``count`` if the data set has not as many. ``among``
    are the positions to choose from, None: all.
    """
    order = np.random.default_rng(seed).permutation(len(dataset) if among is None else among)
    order = order[: max(50 * count, 500)]
    positive = np.asarray(dataset.label[order]) * np.asarray(dataset.mask[order])
    weights = positive / np.maximum(positive.sum(axis=0), 1)
    chosen: list[int] = []
    left = np.ones(positive.shape[1])
    for _ in range(min(count, len(order))):
        scores = weights @ left + 1e-3 * positive.any(axis=1)
        scores[chosen] = -1
        chosen.append(int(scores.argmax()))
        left = left * np.where(positive[chosen[-1]] > 0, 1e-3, 1)
    return [int(i) for i in order[chosen]]


def open_samples(trained: Trained, dataset: Any, positions: Sequence[int], ctx: Any) -> Samples:
    """Return the :class:`Samples` at ``positions`` of a data set."""
    transform = EvalTransform(**trained.preprocess)
    items = [dataset[i] for i in positions]
    views = [transform.view(image) for image, *_ in items]
    planes = np.stack([transform(image) for image, *_ in items])
    label = np.stack([label * mask for _, label, mask, _ in items])
    return Samples(Explained(trained.net, ctx).look(mx.nd.array(planes)), views, label)


def probabilities(logits: Any, dataset: Any) -> np.ndarray:
    """Return what logits mean for a data set, ``(N, A)`` NumPy: softmax or sigmoid."""
    kinds = {"softmax": mx.nd.softmax, "sigmoid": mx.nd.sigmoid}
    return kinds[task_of(dataset).activation](logits).asnumpy()


def analyse_attention(models: Models, dataset: Any, settings: Settings) -> Result:
    """Draw the attention maps of every image's most probable classes, net under net."""
    positions = settings.samples or varied_samples(dataset, GRID_IMAGES)
    kind = settings.choice or "channel_weighted"
    rows: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for name, trained in models.items():
        seen = open_samples(trained, dataset, positions, settings.ctx)
        probs = probabilities(seen.look.run.logits, dataset)
        order = np.argsort(-probs, axis=1, kind="stable")[:, :TOP]
        maps = np.stack([seen.look.maps(kind, column) for column in order.T], axis=1)
        rows[name] = [
            (view, [(shown_name(dataset, k), probs[n, k], maps[n, rank], seen.label[n, k] == 1)
                    for rank, k in enumerate(order[n])])
            for n, view in enumerate(seen.views)
        ]  # fmt: skip
        values[name] = [[shown_name(dataset, k) for k in row] for row in order]
    truths = [
        ", ".join(shown_name(dataset, k) for k in np.flatnonzero(label)) or "(none known)"
        for label in seen.label
    ]
    path = settings.path(f"top_classes_{kind}.png")
    top_class_grid(rows, truths, path)
    lines = [f"most probable classes of samples {positions}"]
    for name, found in values.items():
        lines += [f"  {name:<24} {', '.join(row)}" for row in found]
    return Result("\n".join(lines), values, [path])


def attention_overlap(
    trained: Trained, dataset: Any, settings: Settings, threshold: float = THRESHOLD
) -> dict[str, Any]:
    """Return how much the maps of true and confusing class overlap over a data set.

    The true map is that of all classes an image is known to have, the confusing one that of the
    most probable class it is known not to have (ICASC). An image is predicted rightly where one of
    its true classes is more probable than the confusing one. ``threshold`` is that of the high
    regions, see :func:`gluon_attn.metrics.overlap.attention_iou`. Returns ``{map kind: {'inner' |
    'last': summary}}``; see :meth:`gluon_attn.metrics.overlap.OverlapMeter.summary`.
    """
    explained = Explained(trained.net, settings.ctx)
    meters = {kind: {layer: OverlapMeter(threshold) for layer in LAYERS} for kind in MAPS}
    for batch, rows in batches(trained, dataset, settings, f"{trained.name}: overlap"):
        label, mask = (a.as_in_context(settings.ctx) for a in (batch.label, batch.mask))
        run = explained.look(batch.image).run
        true, confusing, _ = true_and_confusing(run.logits, label, mask)
        valid = rows & (true.asnumpy().any(axis=1)) & (confusing.asnumpy().any(axis=1))
        best = (run.logits - 1e30 * (1 - true)).max(axis=1)
        right = (best > (run.logits - 1e30 * (1 - confusing)).max(axis=1)).asnumpy()
        gradients = [run.gradients(vector) for vector in (true, confusing)]
        features = {"inner": run.inner.detach(), "last": run.last.detach()}
        for kind, attention in MAPS.items():
            maps = {
                layer: [attention(features[layer], g[layer]) for g in gradients] for layer in LAYERS
            }
            for layer, losses in _losses(maps).items():
                true_map, other = (array.asnumpy() for array in maps[layer])
                found = {name: loss.asnumpy() for name, loss in losses.items()}
                meters[kind][layer].update(true_map, other, found, right, valid=valid)
    return {
        kind: {layer: meter.summary() for layer, meter in found.items()}
        for kind, found in meters.items()
    }


def _losses(maps: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """Return L_AS (Eq. 3) as ``separation`` and L_AC (Eq. 5) as ``consistency``, each ``(B,)``.

    The mask is that of the last layer (Eq. 4); L_AC is of the inner layer alone.
    """
    mask = soft_mask(maps["last"][0])
    large = resize_like(mask, maps["inner"][0])
    (inner, other), (last, confusing) = maps["inner"], maps["last"]
    return {
        "inner": {
            "separation": attention_separation(inner, other, large),
            "consistency": attention_consistency(inner, large),
        },
        "last": {"separation": attention_separation(last, confusing, mask)},
    }


def analyse_overlap(models: Models, dataset: Any, settings: Settings) -> Result:
    """Compute :func:`attention_overlap` of every net and write it."""
    threshold = settings.choice or THRESHOLD
    values = {n: attention_overlap(t, dataset, settings, threshold) for n, t in models.items()}
    path = settings.path("overlap.json")
    write_json(path, values)
    first = next(iter(next(iter(values.values())).values()))["last"]
    lines = [
        f"overlap of true and confusing class, {first['images']} images, mean ± standard error",
        f"  {'net':<24} {'map':<18} {'layer':<6} IoU ≥ {threshold:g} max    L_AS             "
        "common           high region      empty",
    ]
    for name, kinds in values.items():
        for kind, layers in kinds.items():
            for layer, v in layers.items():
                shown = ("iou", "separation", "shared", "high")
                cells = "  ".join(_cell(v[key]) for key in shown)
                lines.append(f"  {name:<24} {kind:<18} {layer:<6} {cells}  {v['empty']}")
    return Result("\n".join(lines), values, [path])


def _cell(found: dict[str, Any]) -> str:
    if found["mean"] is None:
        return f"{'-':<15}"
    error = found["standard_error"]
    return f"{found['mean']:.4f}" + (f" ± {error:.4f}" if error is not None else " " * 9)


def analyse_gradcam(models: Models, dataset: Any, settings: Settings) -> Result:
    """Draw Grad-CAM (or channel-weighted) maps and guided back-propagation of every net.

    Two figures: nets side by side, and Grad-CAM net under net. The class is the true one; of
    several the most probable for the net in the last place, of none the most probable class.
    """
    kind = settings.choice or "grad_cam"
    positions = settings.samples or varied_samples(dataset, PAIR_IMAGES)
    seen = {n: open_samples(t, dataset, positions, settings.ctx) for n, t in models.items()}
    last = list(seen.values())[-1]
    known = np.where(last.label.any(axis=1, keepdims=True), last.label, 1)
    columns = np.where(known == 1, last.look.run.logits.asnumpy(), -np.inf).argmax(axis=1)
    labels = [shown_name(dataset, k) for k in columns]
    pairs = {n: list(zip(s.views, s.look.maps(kind, columns))) for n, s in seen.items()}
    groups = {
        TITLES[kind]: {n: [overlay(*pair) for pair in found] for n, found in pairs.items()},
        TITLES[GUIDED]: {
            n: [gradient_image(g) for g in s.look.gradient(columns)] for n, s in seen.items()
        },
    }
    files = [settings.path(f"{kind}_guided.png"), settings.path(f"{kind}_pairs.png")]
    few = slice(0, max(GRID_IMAGES, len(settings.samples or ())))
    groups = {t: {n: p[few] for n, p in nets.items()} for t, nets in groups.items()}
    side_by_side(last.views[few], labels[few], groups, files[0])
    map_pairs(pairs, labels, files[1])
    values = {"samples": list(positions), "classes": labels}
    return Result(f"{TITLES[kind]} of {', '.join(labels)}", values, files)
