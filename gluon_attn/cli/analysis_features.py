"""Analyses of features, gates and logs: class selectivity, t-SNE, channel attention, critique."""

from __future__ import annotations

import logging
import os
from typing import Any, Dict, Iterator, NamedTuple, Sequence

import numpy as np

from gluon_attn.core.batch import PADDING, Batch
from gluon_attn.core.files import write_json
from gluon_attn.core.text import read_json_lines
from gluon_attn.figures.curves import critique_curves
from gluon_attn.figures.distribution import (
    MOST_CLASSES,
    channel_attention,
    embeddings,
    selectivity_distributions,
)
from gluon_attn.metrics.channels import (
    ChannelStatistics,
    ClassMeans,
    selectivity_index,
    summarize_selectivity,
)
from gluon_attn.nets.attention import attention_blocks, attention_view
from gluon_attn.nets.graph import GraphBlock, record
from gluon_attn.nets.taps import TappedStage
from gluon_attn.task import Result, Trained, task_of
from gluon_attn.tasks.data import bar, eval_loader

logger = logging.getLogger("gluon_attn.analysis")

TSNE_SAMPLES = 5000  # at most; Barnes-Hut takes about a minute for as many
TSNE_STAGE = 3  # "feature maps from layer3"; supplement of AutoLA, section 3
PERPLEXITY = 30
CRITIC = ("critique", "reward", "critic_error")
Models = Dict[str, Trained]


class Settings(NamedTuple):
    """What all kinds of analysis need.

    Attributes:
        out: Folder for the files, whose names begin with the name of the split.
        samples: Positions of the images in figures; None chooses them, see
            :func:`gluon_attn.cli.analysis_maps.varied_samples`.
        runs: Run folders of those nets that come from one, by name.
        choice: What stood behind the colon of ``KIND:CHOICE``, or None.
    """

    out: str
    split: str
    ctx: Any
    batch_size: int = 32
    workers: int = 2
    samples: Sequence[int] | None = None
    runs: dict[str, str] | None = None
    choice: Any = None

    def path(self, name: str) -> str:
        """Return the path of a file."""
        return os.path.join(self.out, f"{self.split}_{name}")


def stage_view(net: Any) -> GraphBlock:
    """Return a block that computes the feature map at the end of every stage of a net.

    It goes from ``data`` to ``stage1``, ``stage2``, …, shares the net's parameters and leaves the
    net as it is.
    """
    stages: list[Any] = []
    net.apply(lambda block: stages.append(block) if isinstance(block, TappedStage) else None)
    if not stages:
        raise ValueError(f"{type(net).__name__} has no stage of type TappedStage to look at")
    graph, _, calls = record(net, stages)
    gives = {f"stage{k + 1}": call.gave for k, call in enumerate(calls)}
    return GraphBlock(graph, ["data"], gives, net.collect_params())


def batches(
    trained: Trained, dataset: Any, settings: Settings, title: str
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yield ``(batch, rows)`` of a split, ``rows`` telling samples from padding, ``(B,)`` bool."""
    loader = eval_loader(trained.preprocess, dataset, settings.batch_size, settings.workers)
    for batch in bar(loader, title):
        yield batch, batch.index != PADDING


def pooled_stages(
    trained: Trained, dataset: Any, settings: Settings, title: str, *,
    stages: Sequence[str] | None = None,
) -> Iterator[tuple[Batch, np.ndarray, dict[str, np.ndarray]]]:  # fmt: skip
    """Yield ``(batch, rows, {stage: (B, C)})``: the mean of every channel at the ends of stages."""
    view = stage_view(trained.net)
    for stage in stages or ():
        if stage not in view.gives:
            raise ValueError(f"'{stage}': {trained.name} has {', '.join(view.gives)}")
    for batch, rows in batches(trained, dataset, settings, title):
        maps = view.run({"data": batch.image.as_in_context(settings.ctx)})
        pooled = {name: maps[name].mean(axis=(2, 3)) for name in stages or view.gives}
        yield batch, rows, {name: array.asnumpy()[rows] for name, array in pooled.items()}


def analyse_selectivity(models: Models, dataset: Any, settings: Settings) -> Result:
    """Compute the class selectivity index of every channel at the end of every stage."""
    index: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for name, trained in models.items():
        means: dict[str, ClassMeans] = {}
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
    return Result("\n".join(lines), values, [str(figure), path])


def embed(features: np.ndarray, seed: int = 0, perplexity: float = PERPLEXITY) -> np.ndarray:
    """Embed ``(N, C)`` features into the plane by Barnes-Hut t-SNE: ``(N, 2)`` float32.

    Accelerating t-SNE using Tree-Based Algorithms, van der Maaten, JMLR 2014. Features of more than
    50 dimensions are first reduced to their 50 principal components, as there. ``perplexity``, the
    effective number of neighbours, is reduced where N is small; N is at least 4.
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


def analyse_tsne(models: Models, dataset: Any, settings: Settings) -> Result:
    """Embed the pooled features of one stage, and draw them coloured by class.

    Samples with several classes count for the rarest, those with none are left out; of more than
    20 classes the 20 with most samples are shown, and of more than ``TSNE_SAMPLES`` samples as many
    as that.
    """
    stage = f"stage{settings.choice or TSNE_STAGE}"
    targets, classes = _targets(dataset)
    kept = np.flatnonzero(np.isin(targets, classes))
    if len(kept) > TSNE_SAMPLES:
        kept = np.sort(np.random.default_rng(0).choice(kept, TSNE_SAMPLES, replace=False))
    points = {}
    for name, trained in models.items():
        found: dict[int, np.ndarray] = {}
        wanted = pooled_stages(trained, dataset, settings, f"{name}: features", stages=[stage])
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
    return Result("\n".join(lines), values, [str(figure), path])


def _targets(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the class of every sample, -1 for none, ``(N,)``, and the classes to show, sorted."""
    total = np.maximum(dataset.counts()[:, 0], 1)
    targets = np.full(len(dataset), -1)
    for start in range(0, len(dataset), 4096):  # labels of classes are never built as a whole
        rows = slice(start, start + 4096)
        positive = np.asarray(dataset.label[rows]) * np.asarray(dataset.mask[rows])
        targets[rows] = np.where(positive.any(axis=1), (positive / total).argmax(axis=1), -1)
    present = np.bincount(targets[targets >= 0], minlength=len(dataset.names))
    most = np.argsort(-present, kind="stable")[:MOST_CLASSES]
    return targets, np.sort(most[present[most] > 0])


def _purity(points: np.ndarray, targets: np.ndarray) -> float:
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=1).fit(points).kneighbors(return_distance=False)
    return float((targets[nearest[:, 0]] == targets).mean())


def shown_name(dataset: Any, column: int) -> str:
    """Return the name of a column for a figure."""
    return task_of(dataset).label(dataset.names[column])


def channel_statistics(
    trained: Trained, dataset: Any, settings: Settings
) -> dict[str, ChannelStatistics]:
    """Return the statistics of every channel gate's attention over a data set.

    In network order, by names such as ``stage3_unit0_channel``; empty without channel gates.
    """
    gates = [f"{block_name}_{kind}" for block_name, block in attention_blocks(trained.net)
             for kind, _ in block.gates if kind == "channel"]  # fmt: skip
    if not gates:
        return {}
    view = attention_view(trained.net)
    found: dict[str, ChannelStatistics] = {}
    for batch, rows in batches(trained, dataset, settings, f"{trained.name}: gates"):
        outputs = dict(zip(view.output_names, view(batch.image.as_in_context(settings.ctx))))
        for gate in gates:
            attention = outputs[gate].asnumpy()[rows]
            if gate not in found:
                found[gate] = ChannelStatistics(attention.shape[1])
            found[gate].update(attention)
    return found


def analyse_gates(models: Models, dataset: Any, settings: Settings) -> Result:
    """Compute and draw the attention vectors of all channel gates."""
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
        }
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
    for name, gates in values.items():
        for gate, v in gates.items():
            lines.append(f"  {name:<24} {gate:<24} {v['mean']:.3f} {v['diversity']:.4f} "
                         f"{v['image_deviation']:.4f}")  # fmt: skip
    return Result("\n".join(lines), values, [figure, path])


def read_critic(folder: str) -> tuple[list[int], dict[str, dict[str, list[Any]]]]:
    """Return what the ``log.jsonl`` of a run of DREAL says of critique and reward.

    ``(epochs, {'critique' | 'reward' | 'critic_error': {module: [value per epoch]}})``; a module
    that was not sampled in an epoch has None there.
    """
    path = os.path.join(folder, "log.jsonl")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{folder} holds no training log (log.jsonl)")
    # A line that is no JSON is the one that a killed run was writing.
    records = [
        r
        for _, r in read_json_lines(path)
        if isinstance(r, dict) and all(key in r for key in CRITIC)
    ]
    if not records:
        raise ValueError(f"{path} holds no critique and reward: only runs of method=dreal do")
    names = list(dict.fromkeys(name for record in records for name in record["critique"]))
    series = {
        key: {name: [record[key].get(name) for record in records] for name in names}
        for key in CRITIC
    }
    return [record["epoch"] for record in records], series


def analyse_critic(models: Models, dataset: Any, settings: Settings) -> Result:
    """Draw critique and reward of every module over the epochs, a figure per run with any."""
    text: list[str] = []
    files: list[str] = []
    values: dict[str, Any] = {}
    problems = []
    for name, folder in (settings.runs or {}).items():
        try:
            epochs, series = read_critic(folder)
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error))
            continue
        path = settings.path(f"critic_{len(values)}.png" if values else "critic.png")
        files.append(str(critique_curves(
            epochs, series["critique"], series["reward"], path, error=series["critic_error"]
        )))  # fmt: skip
        values[name] = dict(epoch=epochs, **series)
        text.append(f"critic of {name}, epoch {epochs[-1]}: critique, reward, squared error")
        for module in series["critique"]:
            row = [series[key][module][-1] for key in CRITIC]
            cells = ("-" if v is None else f"{v:.4f}" for v in row)
            text.append(f"  {module:<18}" + "".join(f"{cell:>10}" for cell in cells))
    if not values:
        raise ValueError(
            "; ".join(problems) or "critic needs a training run (--run DIR), a model alone has none"
        )
    path = settings.path("critic.json")
    write_json(path, values)
    return Result("\n".join(text), values, [*files, path])
