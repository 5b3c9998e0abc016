"""Person re-identification: loaders, validation and the official query/gallery evaluation.

A recipe's sizes are heights; widths are half. ``resize`` is what pictures are brought to before a
rectangle of ``input_size`` is cut for training; evaluation takes whole pictures.
"""

from __future__ import annotations

import collections
import logging
import os
import sys
from typing import NamedTuple

import mxnet as mx
import numpy as np
from tqdm import tqdm

from gluon_attn.core.batch import PADDING
from gluon_attn.data import DATASETS
from gluon_attn.data.loader import IdentityLoader, Loader
from gluon_attn.data.reid import JUNK, ReidDataset
from gluon_attn.data.transforms import ReidEvalTransform, ReidTrainTransform
from gluon_attn.metrics.retrieval import Pictures, answerable, evaluate_retrieval
from gluon_attn.metrics.retrieval_tables import retrieval_text, write_retrieval
from gluon_attn.nets import name_outputs
from gluon_attn.train import Stream
from gluon_attn.train.build import open_split, reading_of

logger = logging.getLogger("gluon_attn.reid")

KINDS = ("reid_market", "reid_duke")
SCORES = ("mAP", "mAP_rectangle", "rank1", "rank5")  # of a validation, for the log


class ReidEvaluation(NamedTuple):
    """Result of :func:`evaluate_reid`.

    Attributes:
        result: What ``evaluate_retrieval`` returned.
        text: Table and protocol for the console.
        files: Paths written.
        skipped: ``[(sample id, reason), ...]``: pictures that could not be read.
    """

    result: dict
    text: str
    files: list
    skipped: list


def is_reid(dataset):
    """Return whether a split is one of a person re-identification data set."""
    return isinstance(dataset, ReidDataset)


def gives_embedding(net):
    """Return whether a net returns an embedding, by which pictures can be compared."""
    return "embedding" in getattr(net, "output_names", ())


def whole_pictures(net, preprocess):
    """Return the pre-processing of whole pictures at the size of a net, for exports.

    Args:
        net: Zoo model with an ``input_size`` ``(H, W)``.
        preprocess: Dict with ``mean`` and ``std``.
    """
    sizes = {"resize": None, "crop": None, "size": tuple(net.input_size)}
    return dict(sizes, mean=preprocess["mean"], std=preprocess["std"])


def train_loader(recipe, dataset, method, workers, parts=1):
    """Return training batches of whole identities, in epochs as long as the recipe says.

    Args:
        recipe: Recipe; ``batch_size`` is P K.
        dataset: Training split.
        method: Its options ``images_per_identity`` (K) and ``erase`` decide.
        workers: Threads.
        parts: Devices times micro-batches that share a batch; each must get whole identities.

    Raises:
        ValueError: Sizes that do not fit; the message says what is valid.
    """
    images = method.options.get("images_per_identity", 4)
    identities, rest = divmod(recipe.batch_size, images)
    if rest or identities % parts or identities // parts < 2:
        raise ValueError(
            f"batch_size={recipe.batch_size}: must be a multiple of {images * parts} "
            f"(images_per_identity={images} x {parts} parts) with two identities or more in each "
            "part"
        )
    _check_sizes(recipe)
    transform = ReidTrainTransform(
        _rectangle(recipe.input_size), _rectangle(recipe.resize), recipe.mirror,
        method.options.get("erase", 0.0), mean=recipe.mean, std=recipe.std,
    )  # fmt: skip
    loader = IdentityLoader(
        dataset, transform, identities, images, seed=recipe.seed, workers=workers
    )
    return Stream(loader, recipe.iterations_per_epoch) if recipe.iterations_per_epoch else loader


def eval_loader(size, mean, std, dataset, batch_size, workers):
    """Return batches of whole pictures in order, the last one padded.

    Args:
        size: ``(H, W)`` of the net's input.
        mean, std: In 0-255 units, RGB.
    """
    transform = ReidEvalTransform(size, mean, std)
    return Loader(dataset, transform, batch_size, workers=workers, last="pad")


def embed(net, loader, count, ctx, flip=False, progress=False):
    """Return the embedding of every picture, and which could be read.

    Args:
        net: Net with an output called 'embedding'.
        loader: Batches of one data set.
        count: N, its size.
        ctx: Device of the net.
        flip: Whether to add the embedding of the mirrored picture.
        progress: Whether to show a bar on a terminal.

    Returns:
        ``(N, D)`` float32 and ``(N,)`` bool.

    Raises:
        ValueError: The net gives no embedding.
    """
    if not gives_embedding(net):
        raise ValueError(
            f"{type(net).__name__} gives no embedding to compare pictures by; use a zoo model "
            "named reid_..."
        )
    features, seen, queue = None, np.zeros(count, bool), collections.deque()
    bar = tqdm(
        loader, total=len(loader), desc="embedding", unit="batch", leave=False,
        disable=not (progress and sys.stderr.isatty()),
    )  # fmt: skip

    def store(found, batch):
        rows = batch.index != PADDING
        features[batch.index[rows]] = found.asnumpy()[rows]
        seen[batch.index[rows]] = batch.mask.asnumpy()[rows].any(axis=1)

    for batch in bar:
        image = batch.image.as_in_context(ctx)
        found = name_outputs(net, net(image))["embedding"]
        if flip:
            found = found + name_outputs(net, net(mx.nd.flip(image, axis=3)))["embedding"]
        if features is None:
            features = np.zeros((count, found.shape[1]), np.float32)
        queue.append((found, batch))
        if len(queue) > 1:  # read one batch behind, while the device works on the next
            store(*queue.popleft())
    while queue:
        store(*queue.popleft())
    return features, seen


def retrieve(net, dataset, loader, ctx, metric="euclidean", flip=False, progress=False):
    """Return the retrieval result of one split; pictures that cannot be read are left out.

    Args:
        dataset: ReidDataset with queries and a gallery: 'test' or 'val'.
        loader: Its pictures.
        net, ctx, flip, progress: See :func:`embed`.
        metric: 'euclidean' or 'cosine'.

    Raises:
        ValueError: The split has no queries or no gallery.
    """
    if dataset.query is None or not len(dataset.query) or not len(dataset.gallery):
        raise ValueError(
            f"split '{dataset.split}' has not both queries and a gallery; use test or val"
        )
    features, seen = embed(net, loader, len(dataset), ctx, flip, progress)
    identities = np.where(seen, dataset.identities, JUNK)
    query = dataset.query[seen[dataset.query]]
    parts = (
        Pictures(features[rows], identities[rows], dataset.cameras[rows])
        for rows in (query, dataset.gallery)
    )
    result = evaluate_retrieval(*parts, metric=metric, progress=progress)
    return dict(result, names=[dataset.sample_ids[i] for i in query])


def validator(recipe, dataset, ctx, workers):
    """Return a function ``net -> scores`` for the training loop; ``mAP`` is the official one."""
    loader = eval_loader(
        _rectangle(recipe.input_size), recipe.mean, recipe.std, dataset, recipe.batch_size, workers
    )

    def validate(net):
        result = retrieve(net, dataset, loader, ctx, progress=True)
        return {name: result[name] for name in SCORES}

    return validate


def judge(dataset: ReidDataset) -> tuple[str, str]:
    """Return why no net can be scored on a split, and what is left out; see ``scores.judge``."""
    if dataset.query is None or not len(dataset.query):
        return "it has no queries", ""
    query, gallery = (
        Pictures(None, dataset.identities[rows], dataset.cameras[rows])
        for rows in (dataset.query, dataset.gallery)
    )
    without = int((~answerable(query, gallery)).sum())
    text = f"of its {len(dataset.query)} queries have no picture of their person in another camera"
    if without == len(dataset.query):
        return f"all {text}", ""
    return "", f"{without} {text}" if without else ""


def write_scores(result, dataset, folder, stem):
    """Write the tables of a split as ``folder/stem.*``; return the paths."""
    files = list(write_retrieval(result, folder, stem, result["names"]).values())
    logger.info(
        "%s: mAP %.4f, rank-1 %.4f over %d queries; tables in %s.{md,csv,json}", dataset.split,
        result["mAP"], result["rank1"], result["queries"], os.path.join(folder, stem),
    )  # fmt: skip
    return files


def final_scores(recipe, net, dataset, ctx, workers, folder, stem="test"):
    """Evaluate queries against the gallery, write the tables, and return the result."""
    size = _rectangle(recipe.input_size)
    loader = eval_loader(size, recipe.mean, recipe.std, dataset, recipe.batch_size, workers)
    result = retrieve(net, dataset, loader, ctx, progress=True)
    write_scores(result, dataset, folder, stem)
    return result


def open_reid(data_dir, split="test", on_bad_image="error", **options):
    """Open a split for evaluation; names of pictures tell which data set it is.

    Args:
        data_dir: Folder of Market-1501 or DukeMTMC-reID.
        split: 'test' (the official queries and gallery) or 'val'.
        options: Of the reader.

    Raises:
        FileNotFoundError: None of the data sets is there.
    """
    for kind in KINDS:
        if DATASETS.get(kind).has_split(data_dir, split):
            return DATASETS.get(kind)(data_dir, split, None, on_bad_image, **options)
    wanted = "; ".join(f"{kind}: {DATASETS.get(kind).looks_for}" for kind in KINDS)
    raise FileNotFoundError(
        f"no person re-identification data with a split '{split}' in {data_dir}; looked for "
        f"{wanted}"
    )


def evaluate_reid(
    trained, data_dir, out_dir, split="test", ctx=None, batch_size=32, workers=2,
    metric="euclidean", flip=False, on_bad_image="error", *, reading=None,
):  # fmt: skip
    """Evaluate a trained net by the official protocol and write tables.

    Args:
        trained: :class:`gluon_attn.train.trained.Trained`; its net gives an embedding.
        data_dir: Folder of the data set.
        out_dir: Where ``<split>.txt``, ``.md``, ``.csv`` (one line per query) and ``.json`` go.
        split: 'test' or 'val'.
        ctx: Device of the net; the CPU by default.
        metric, flip: See :func:`retrieve`.
        reading: Recipe that says how the data are read; None: that of the net. One with another
            ``dataset`` evaluates on other data than the net was trained on.

    Returns:
        :class:`ReidEvaluation`.

    Raises:
        FileNotFoundError, ValueError: See :func:`open_reid`, :func:`retrieve`, :func:`embed`.
    """
    reading = reading or reading_of(trained.extra.get("recipe"))
    if reading.dataset == "auto":  # of weights of which no more is known
        dataset = open_reid(data_dir, split, on_bad_image)
    else:
        dataset = open_split(reading, data_dir, split, on_bad_image)
    loader = eval_loader(
        trained.net.input_size, trained.preprocess["mean"], trained.preprocess["std"], dataset,
        batch_size, workers,
    )  # fmt: skip
    result = retrieve(trained.net, dataset, loader, ctx or mx.cpu(), metric, flip, progress=True)
    files = write_scores(result, dataset, out_dir, split)
    return ReidEvaluation(result, retrieval_text(result), files, dataset.skipped)


def _check_sizes(recipe):
    """Refuse settings of squares that would have no effect on rectangles."""
    cuts = recipe.crop_min == recipe.crop_max == recipe.input_size <= recipe.resize
    if not cuts or recipe.eval_crop != recipe.resize or recipe.augment != "crop":
        raise ValueError(
            f"person re-identification cuts rectangles of the input size for training and sees "
            f"whole pictures in evaluation: crop_min={recipe.crop_min} and crop_max="
            f"{recipe.crop_max} must equal input_size={recipe.input_size}, eval_crop="
            f"{recipe.eval_crop} must equal resize={recipe.resize}, which must not be smaller than "
            f"input_size, and augment={recipe.augment} must be crop"
        )


def _rectangle(height):
    return height, height // 2
