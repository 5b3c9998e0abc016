"""Analyses of feature maps and of gates: class selectivity, t-SNE, channel attention."""

from __future__ import annotations

import logging
import sys

import numpy as np
from tqdm import tqdm

from gluon_attn.core.batch import PADDING
from gluon_attn.core.files import write_json
from gluon_attn.figures.distribution import channel_attention, selectivity_distributions
from gluon_attn.figures.embedding import MOST_CLASSES, embeddings
from gluon_attn.metrics.diversity import ChannelStatistics
from gluon_attn.metrics.selectivity import ClassMeans, selectivity_index, summarize_selectivity
from gluon_attn.nets.attention import attention_blocks, attention_view
from gluon_attn.nets.graph import GraphBlock, record
from gluon_attn.nets.taps import TappedStage
from gluon_attn.tasks.scores import is_classification
from gluon_attn.train.build import eval_loader

logger = logging.getLogger("gluon_attn.analysis")

TSNE_SAMPLES = 5000  # at most; Barnes-Hut takes about a minute for as many
TSNE_STAGE = 3  # "feature maps from layer3"; supplement of AutoLA, section 3
PERPLEXITY = 30


def stage_view(net):
    """Return a block that computes the feature map at the end of every stage of a net.

    It shares the net's parameters and leaves the net as it is.

    Args:
        net: HybridBlock of one input with stages of type
            :class:`~gluon_attn.nets.taps.TappedStage`.

    Returns:
        A :class:`~gluon_attn.nets.graph.GraphBlock` from ``data`` to ``stage1``, ``stage2``, …

    Raises:
        ValueError: The net has no such stage.
    """
    stages = []
    net.apply(lambda block: stages.append(block) if isinstance(block, TappedStage) else None)
    if not stages:
        raise ValueError(f"{type(net).__name__} has no stage of type TappedStage to look at")
    graph, _, calls = record(net, stages)
    gives = {f"stage{k + 1}": call.gave for k, call in enumerate(calls)}
    return GraphBlock(graph, ["data"], gives, net.collect_params())


def batches(trained, dataset, settings, title):
    """Yield ``(batch, rows)`` of a split, ``rows`` telling samples from padding, ``(B,)`` bool."""
    loader = eval_loader(trained.preprocess, dataset, settings.batch_size, settings.workers)
    bar = tqdm(loader, total=len(loader), desc=title, unit="batch", leave=False,
               disable=not sys.stderr.isatty())  # fmt: skip
    for batch in bar:
        yield batch, batch.index != PADDING


def pooled_stages(trained, dataset, settings, title, stages=None):
    """Yield ``(batch, rows, {stage: (B, C)})``: the mean of every channel at the ends of stages."""
    view = stage_view(trained.net)
    for stage in stages or ():
        if stage not in view.gives:
            raise ValueError(f"'{stage}': {trained.name} has {', '.join(view.gives)}")
    for batch, rows in batches(trained, dataset, settings, title):
        maps = view.run({"data": batch.image.as_in_context(settings.ctx)})
        pooled = {name: maps[name].mean(axis=(2, 3)) for name in stages or view.gives}
        yield batch, rows, {name: array.asnumpy()[rows] for name, array in pooled.items()}


def analyse_selectivity(models, dataset, settings):
    """Compute the class selectivity index of every channel at the end of every stage.

    Returns:
        Text, files and values of :class:`gluon_attn.cli.analysis.Analysis`.
    """
    index, values = {}, {}
    for name, trained in models.items():
        means = {}
        for batch, rows, pooled in pooled_stages(trained, dataset, settings, f"{name}: features"):
            label, mask = batch.label.asnumpy()[rows], batch.mask.asnumpy()[rows]
            for stage, activity in pooled.items():
                if stage not in means:
                    means[stage] = ClassMeans(label.shape[1], activity.shape[1])
                means[stage].update(activity, label, mask)
        found = {stage: m.means() for stage, m in means.items()}
        index[name] = {stage: selectivity_index(m) for stage, m in found.items()}
        values[name] = {stage: summarize_selectivity(m) for stage, m in found.items()}
    figure = selectivity_distributions(index, settings.path("selectivity.png"))
    path = settings.path("selectivity.json")
    write_json(path, {
        name: {s: dict(values[name][s], index=i.round(6).tolist()) for s, i in found.items()}
        for name, found in index.items()
    })  # fmt: skip
    lines = ["class selectivity index: mean, median, channels that never fire"]
    for name, found in values.items():
        for stage, v in found.items():
            lines.append(f"  {name:<24} {stage:<8} {v['mean']:.3f} {v['median']:.3f} "
                         f"{v['dead']} of {v['channels']}")  # fmt: skip
    return "\n".join(lines), [str(figure), path], values


def embed(features, seed=0, perplexity=PERPLEXITY):
    """Embed features into the plane by Barnes-Hut t-SNE.

    Accelerating t-SNE using Tree-Based Algorithms, van der Maaten, JMLR 2014. Features of more than
    50 dimensions are first reduced to their 50 principal components, as there.

    Args:
        features: ``(N, C)``, N of 4 or more.
        seed: Of the start.
        perplexity: Effective number of neighbours; reduced where N is small.

    Returns:
        ``(N, 2)`` float32.

    Raises:
        ValueError: Fewer than 4 samples.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    features = np.asarray(features, np.float64)
    if len(features) < 4:
        raise ValueError(f"{len(features)} samples: t-SNE needs 4 or more")
    if min(features.shape) > 50:
        features = PCA(50, random_state=seed).fit_transform(features)
    perplexity = min(perplexity, (len(features) - 1) / 3)
    method = TSNE(2, perplexity=perplexity, method="barnes_hut", init="pca", random_state=seed,
                  learning_rate="auto")  # fmt: skip
    return method.fit_transform(features).astype(np.float32)


def analyse_tsne(models, dataset, settings):
    """Embed the pooled features of one stage, and draw them coloured by class.

    Samples with several classes count for the rarest, those with none are left out; of more than
    20 classes the 20 with most samples are shown, and of more than ``TSNE_SAMPLES`` samples as many
    as that.

    Returns:
        Text, files and values of :class:`gluon_attn.cli.analysis.Analysis`.
    """
    stage = f"stage{settings.choice or TSNE_STAGE}"
    targets, classes = _targets(dataset)
    kept = np.flatnonzero(np.isin(targets, classes))
    if len(kept) > TSNE_SAMPLES:
        kept = np.sort(np.random.default_rng(0).choice(kept, TSNE_SAMPLES, replace=False))
    points = {}
    for name, trained in models.items():
        found = {}
        wanted = pooled_stages(trained, dataset, settings, f"{name}: features", [stage])
        for batch, rows, pooled in wanted:
            found.update(zip(batch.index[rows].tolist(), pooled[stage]))
        logger.info("t-SNE of %d features of %s, %s", len(kept), name, stage)
        points[name] = embed(np.stack([found[i] for i in kept.tolist()]))
    places = np.searchsorted(classes, targets[kept])
    names = [shown_name(dataset, k) for k in classes]
    figure = embeddings(points, places, names, settings.path(f"tsne_{stage}.png"))
    values = {n: {"samples": len(kept), "purity": _purity(p, places)} for n, p in points.items()}
    path = settings.path(f"tsne_{stage}.json")
    write_json(path, {
        "stage": stage, "classes": names, "index": kept.tolist(), "target": places.tolist(),
        "nets": {n: dict(values[n], points=p.round(3).tolist()) for n, p in points.items()},
    })  # fmt: skip
    lines = [f"t-SNE of {stage}: share of points whose nearest neighbour is of their class"]
    lines += [f"  {name:<24} {value['purity']:.3f}" for name, value in values.items()]
    return "\n".join(lines), [str(figure), path], values


def _targets(dataset):
    """Return the class of every sample, -1 for none, ``(N,)``, and the classes to show, sorted."""
    count, total = len(dataset), np.zeros(len(dataset.names))
    targets = np.full(count, -1)
    blocks = [np.arange(start, min(start + 4096, count)) for start in range(0, count, 4096)]
    for rows in blocks:
        total += (np.asarray(dataset.label[rows]) * np.asarray(dataset.mask[rows])).sum(axis=0)
    for rows in blocks:
        positive = np.asarray(dataset.label[rows]) * np.asarray(dataset.mask[rows])
        rarest = (positive / np.maximum(total, 1)).argmax(axis=1)
        targets[rows] = np.where(positive.any(axis=1), rarest, -1)
    present = np.bincount(targets[targets >= 0], minlength=len(dataset.names))
    most = np.argsort(-present, kind="stable")[:MOST_CLASSES]
    return targets, np.sort(most[present[most] > 0])


def _purity(points, targets):
    """Return the share of points whose nearest neighbour has their class."""
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=1).fit(points).kneighbors(return_distance=False)
    return float((targets[nearest[:, 0]] == targets).mean())


def shown_name(dataset, column):
    """Return a class's name for a figure: ``tench`` for the column ``class=tench``."""
    name = dataset.names[column]
    return name.partition("=")[2] if is_classification(dataset.schema) else name


def channel_statistics(trained, dataset, settings):
    """Return the statistics of every channel gate's attention over a data set.

    Args:
        trained: :class:`gluon_attn.train.trained.Trained`.
        dataset: The split.
        settings: :class:`gluon_attn.cli.analysis.Settings`.

    Returns:
        ``{gate: ChannelStatistics}`` in network order, such as ``stage3_unit0_channel``; empty for
        a net without channel gates.
    """
    gates = [f"{block_name}_{kind}" for block_name, block in attention_blocks(trained.net)
             for kind, _ in block.gates if kind == "channel"]  # fmt: skip
    if not gates:
        return {}
    view, found = attention_view(trained.net), {}
    for batch, rows in batches(trained, dataset, settings, f"{trained.name}: gates"):
        outputs = dict(zip(view.output_names, view(batch.image.as_in_context(settings.ctx))))
        for gate in gates:
            attention = outputs[gate].asnumpy()[rows]
            if gate not in found:
                found[gate] = ChannelStatistics(attention.shape[1])
            found[gate].update(attention)
    return found


def analyse_gates(models, dataset, settings):
    """Compute and draw the attention vectors of all channel gates.

    Returns:
        Text, files and values of :class:`gluon_attn.cli.analysis.Analysis`.

    Raises:
        ValueError: None of the nets has a channel gate.
    """
    drawn, values = {}, {}
    for name, trained in models.items():
        found = channel_statistics(trained, dataset, settings)
        if not found:
            logger.warning("%s has no channel gate; it is left out", name)
            continue
        values[name] = {gate: s.summary() for gate, s in found.items()}
        drawn[name] = {
            gate: (s.mean, s.deviation, values[name][gate]["diversity"])
            for gate, s in found.items()
        }  # fmt: skip
    if not drawn:
        raise ValueError("none of the nets has a channel gate; gates needs one such as se_resnet50")
    figure, path = settings.path("gates.png"), settings.path("gates.json")
    channel_attention(drawn, figure)
    write_json(path, {
        name: {
            gate: dict(values[name][gate], attention=m.round(5).tolist(),
                       deviation=d.round(5).tolist())
            for gate, (m, d, _) in found.items()
        }
        for name, found in drawn.items()
    })  # fmt: skip
    lines = ["channel attention: mean, diversity over channels, deviation over images"]
    for name, found in values.items():
        for gate, v in found.items():
            lines.append(f"  {name:<24} {gate:<24} {v['mean']:.3f} {v['diversity']:.4f} "
                         f"{v['image_deviation']:.4f}")  # fmt: skip
    return "\n".join(lines), [figure, path], values
