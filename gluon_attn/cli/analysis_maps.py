"""Analyses of attention maps: top classes, overlap with the confusing class, Grad-CAM."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import mxnet as mx
import numpy as np

from gluon_attn.cli.analysis_features import Analysis, Models, Settings, batches, shown_name
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
from gluon_attn.nets.guided_backprop import GuidedBackprop
from gluon_attn.papers.icasc.attention import MAPS, attention_separation, resize_like, soft_mask
from gluon_attn.papers.icasc.cut import Tail
from gluon_attn.papers.icasc.gradients import ScorePass, true_and_confusing
from gluon_attn.task import Trained, task_of

TOP = 5  # classes of an image whose maps are drawn; supplement of ICASC
GRID_IMAGES, PAIR_IMAGES = 4, 8  # images of a figure, as in the supplements
LAYERS = ("inner", "last")


class Samples(NamedTuple):
    """Images as a net sees them.

    ``image`` is an ``(N, 3, S, S)`` NDArray, normalised; ``views`` are N images ``(S, S, 3)``
    uint8; ``label`` is ``(N, A)`` in {0, 1}, 0 also where the label is not known.
    """

    image: Any
    views: list[np.ndarray]
    label: np.ndarray


def varied_samples(dataset: Any, count: int, seed: int = 0) -> list[int]:
    """Return the positions of samples that together show as many classes as possible.

    They are chosen without a look at any prediction, so that no net is flattered; samples without
    any class come last. There are fewer than ``count`` if the data set has not as many.
    """
    order = np.random.default_rng(seed).permutation(len(dataset))[: max(50 * count, 500)]
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
    planes = np.stack([transform(image) for image, *_ in items]).astype(np.float32)
    shown = planes.transpose(0, 2, 3, 1) * np.asarray(transform.std) + np.asarray(transform.mean)
    views = list(np.rint(np.clip(shown, 0, 255)).astype(np.uint8))
    label = np.stack([label * mask for _, label, mask, _ in items])
    return Samples(mx.nd.array(planes, ctx=ctx), views, label)


def score_pass(trained: Trained, image: Any) -> ScorePass:
    """Return a forward pass whose class scores can be differentiated, in inference."""
    return ScorePass(Tail(trained.net, [image.context], frozen=True), image)


def class_maps(run: ScorePass, columns: Sequence[int], kind: str) -> np.ndarray:
    """Return the maps of one class per image at the last feature layer, ``(N, h, w)`` NumPy.

    ``kind`` is ``'grad_cam'`` or ``'channel_weighted'``.
    """
    vector = _one_hot(columns, run.logits)
    gradients = run.gradients(vector, inner=False)
    return MAPS[kind](run.last.detach(), gradients["last"]).asnumpy()


def _one_hot(columns: Sequence[int], logits: Any) -> Any:
    return mx.nd.one_hot(mx.nd.array(columns, ctx=logits.context), logits.shape[1])


def probabilities(logits: Any, dataset: Any) -> np.ndarray:
    """Return what logits mean for a data set, ``(N, A)`` NumPy: softmax or sigmoid."""
    kinds = {"softmax": mx.nd.softmax, "sigmoid": mx.nd.sigmoid}
    return kinds[task_of(dataset).activation](logits).asnumpy()


def analyse_attention(models: Models, dataset: Any, settings: Settings) -> Analysis:
    """Draw the attention maps of every image's most probable classes, net under net."""
    positions = settings.samples or varied_samples(dataset, GRID_IMAGES)
    kind = settings.choice or "channel_weighted"
    rows: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for name, trained in models.items():
        seen = open_samples(trained, dataset, positions, settings.ctx)
        run = score_pass(trained, seen.image)
        probs = probabilities(run.logits, dataset)
        order = np.argsort(-probs, axis=1, kind="stable")[:, :TOP]
        maps = np.stack([class_maps(run, column, kind) for column in order.T], axis=1)
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
    return Analysis("\n".join(lines), [path], values)


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
    tail = Tail(trained.net, [settings.ctx], frozen=True)
    meters = {kind: {layer: OverlapMeter(threshold) for layer in LAYERS} for kind in MAPS}
    for batch, rows in batches(trained, dataset, settings, f"{trained.name}: overlap"):
        label, mask = (a.as_in_context(settings.ctx) for a in (batch.label, batch.mask))
        run = ScorePass(tail, batch.image.as_in_context(settings.ctx))
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
            for layer, separation in _separations(maps).items():
                true_map, other, apart = (array.asnumpy() for array in (*maps[layer], separation))
                meters[kind][layer].update(true_map, other, apart, right, valid=valid)
    return {
        kind: {layer: meter.summary() for layer, meter in found.items()}
        for kind, found in meters.items()
    }


def _separations(maps: dict[str, list[Any]]) -> dict[str, Any]:
    """Return L_AS (Eq. 3) of both layers, ``(B,)``, the mask being that of the last (Eq. 4)."""
    mask = soft_mask(maps["last"][0])
    large = resize_like(mask, maps["inner"][0])
    (inner, other), (last, confusing) = maps["inner"], maps["last"]
    return {"inner": attention_separation(inner, other, large),
            "last": attention_separation(last, confusing, mask)}  # fmt: skip


def analyse_overlap(models: Models, dataset: Any, settings: Settings) -> Analysis:
    """Compute :func:`attention_overlap` of every net and write it."""
    threshold = settings.choice or THRESHOLD
    values = {n: attention_overlap(t, dataset, settings, threshold) for n, t in models.items()}
    path = settings.path("overlap.json")
    write_json(path, values)
    first = next(iter(next(iter(values.values())).values()))["last"]
    lines = [
        f"overlap of true and confusing class, {first['images']} images, mean ± standard error",
        f"  {'net':<24} {'map':<18} {'layer':<6} IoU ≥ {threshold:g} max    L_AS            empty",
    ]
    for name, kinds in values.items():
        for kind, layers in kinds.items():
            for layer, v in layers.items():
                cells = "  ".join(_cell(v[key]) for key in ("iou", "separation"))
                lines.append(f"  {name:<24} {kind:<18} {layer:<6} {cells}  {v['empty']}")
    return Analysis("\n".join(lines), [path], values)


def _cell(found: dict[str, Any]) -> str:
    if found["mean"] is None:
        return f"{'-':<15}"
    error = found["standard_error"]
    return f"{found['mean']:.4f}" + (f" ± {error:.4f}" if error is not None else " " * 9)


def analyse_gradcam(models: Models, dataset: Any, settings: Settings) -> Analysis:
    """Draw Grad-CAM (or channel-weighted) maps and guided back-propagation of every net.

    Two figures: nets side by side, and Grad-CAM net under net. The class is the true one; of
    several the most probable for the net in the last place, of none the most probable class.
    """
    kind = settings.choice or "grad_cam"
    positions = settings.samples or varied_samples(dataset, PAIR_IMAGES)
    title = {"grad_cam": "Grad-CAM", "channel_weighted": "Channel-weighted attention"}[kind]
    passes = {}
    for name, trained in models.items():
        seen = open_samples(trained, dataset, positions, settings.ctx)
        passes[name] = seen, score_pass(trained, seen.image)
    seen, run = passes[name]
    logits = run.logits.asnumpy()
    known = np.where(seen.label.any(axis=1, keepdims=True), seen.label, 1)
    columns = np.where(known == 1, logits, -np.inf).argmax(axis=1)
    labels = [shown_name(dataset, k) for k in columns]
    pairs: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {title: {}, "Guided back-propagation": {}}
    for name, (own, run) in passes.items():
        maps = class_maps(run, columns, kind)
        guided = GuidedBackprop(models[name].net)(own.image, _one_hot(columns, run.logits))
        pairs[name] = list(zip(own.views, maps))
        groups[title][name] = [overlay(*pair) for pair in pairs[name]]
        groups["Guided back-propagation"][name] = [gradient_image(g) for g in guided.asnumpy()]
    files = [settings.path(f"{kind}_guided.png"), settings.path(f"{kind}_pairs.png")]
    few = slice(0, max(GRID_IMAGES, len(settings.samples or ())))
    groups = {t: {n: p[few] for n, p in nets.items()} for t, nets in groups.items()}
    side_by_side(seen.views[few], labels[few], groups, files[0])
    map_pairs(pairs, labels, files[1])
    values = {"samples": list(positions), "classes": labels}
    return Analysis(f"{title} of {', '.join(labels)}", files, values)
