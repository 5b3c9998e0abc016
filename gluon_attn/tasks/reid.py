"""Person re-identification: batches of identities, and the official query/gallery evaluation.

A recipe's sizes are heights; widths are half. ``resize`` is what images are brought to before a
rectangle of ``input_size`` is cut for training; evaluation takes whole images.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Callable, Sequence

import mxnet as mx
import numpy as np

from gluon_attn.core.batch import PADDING, Batch
from gluon_attn.core.recipe import Recipe
from gluon_attn.data.loader import IdentityLoader, Loader
from gluon_attn.data.reid import JUNK
from gluon_attn.data.transforms import ReidEvalTransform, ReidTrainTransform
from gluon_attn.metrics.reports import RETRIEVAL
from gluon_attn.metrics.retrieval import Images, answerable, evaluate_retrieval
from gluon_attn.nets import name_outputs
from gluon_attn.task import TASKS, Asked, Result, Task
from gluon_attn.tasks.classification import Classification
from gluon_attn.tasks.data import Array, in_epochs, one_behind, share_out

logger = logging.getLogger("gluon_attn.reid")


class Reid(Classification):
    """The training split gives every image one identity; others are searched, not classified."""

    name = "reid"
    title = "person re-identification"
    scores = ("mAP", "mAP_rectangle", "rank1", "rank5")
    kinds = ("reid_market", "reid_duke")
    explained = False

    def fit(self, dataset: Any, classes: Sequence[str], data_dir: str) -> Any:
        return dataset  # its people are others than those that the net has learnt

    def check_splits(self, train: Any, val: Any) -> None:
        pass  # for the same reason

    def check_score(self, score: str, dataset: Any) -> None:
        if score not in self.scores:
            raise ValueError(f"score={score}: of these data there are {', '.join(self.scores)}")

    def train_loader(
        self, recipe: Recipe, dataset: Any, method: Any, workers: int, *,
        cache: bool = False, parts: int = 1,
    ) -> Any:  # fmt: skip
        """Return batches of whole identities, P K images; every part gets whole identities."""
        images = method.options.get("images_per_identity", 4)
        identities, rest = divmod(recipe.batch_size, images)
        if rest or identities % parts or identities // parts < 2:
            raise ValueError(
                f"batch_size={recipe.batch_size}: must be a multiple of {images * parts} "
                f"(images_per_identity={images} x {parts} parts) with two identities or more in "
                "each part"
            )
        _check_sizes(recipe)
        transform = ReidTrainTransform(
            rectangle(recipe.input_size), rectangle(recipe.resize), recipe.mirror,
            method.options.get("erase", 0.0), mean=recipe.mean, std=recipe.std,
        )  # fmt: skip
        loader = IdentityLoader(
            dataset, transform, identities, images, seed=recipe.seed, workers=workers
        )
        return in_epochs(loader, recipe)

    def judge(self, score: str, dataset: Any) -> tuple[str, str]:
        if dataset.query is None or not len(dataset.query):
            return "it has no queries", ""
        query, gallery = (
            Images(np.empty(0), dataset.identities[rows], dataset.cameras[rows])
            for rows in (dataset.query, dataset.gallery)
        )
        without = int((~answerable(query, gallery)).sum())
        count = len(dataset.query)
        text = f"of its {count} queries have no image of their person in another camera"
        if without == count:
            return f"all {text}", ""
        return "", f"{without} {text}" if without else ""

    def validator(
        self, recipe: Recipe, dataset: Any, ctx: Any, workers: int
    ) -> Callable[[Any], dict[str, float]]:
        loader = eval_loader(recipe_view(recipe), dataset, recipe.batch_size, workers)

        def validate(net: Any) -> dict[str, float]:
            result = retrieve(net, dataset, loader, ctx, progress=True)
            return {name: result[name] for name in self.scores}

        return validate

    def final_scores(self, recipe: Recipe, net: Any, dataset: Any, asked: Asked) -> Result:
        loader = eval_loader(recipe_view(recipe), dataset, recipe.batch_size, asked.workers)
        return _write(retrieve(net, dataset, loader, asked.ctx, progress=True), dataset, asked)

    def evaluate(self, source: Any, dataset: Any, asked: Asked) -> Result:
        loader = eval_loader(source.preprocess, dataset, asked.batch_size, asked.workers)
        found = retrieve(source.net, dataset, loader, asked.ctx, progress=True)
        return _write(found, dataset, asked)

    def preprocess(self, recipe: Recipe, net: Any) -> dict[str, Any]:
        return Task.preprocess(self, recipe, net)


TASKS.register("reid")(Reid())


def recipe_view(recipe: Recipe) -> dict[str, Any]:
    """Return the pre-processing of evaluation that a recipe means."""
    return {"size": rectangle(recipe.input_size), "mean": recipe.mean, "std": recipe.std}


def eval_loader(preprocess: dict[str, Any], dataset: Any, batch_size: int, workers: int) -> Loader:
    """Return batches of whole images in order, the last one padded."""
    transform = ReidEvalTransform(*(preprocess[key] for key in ("size", "mean", "std")))
    return Loader(dataset, transform, batch_size, workers=workers, last="pad")


def embed(
    net: Any, loader: Any, count: int, ctx: Any, *, flip: bool = False, progress: bool = False
) -> tuple[Array, Array]:
    """Return the embedding of every image, ``(N, D)`` float32, and which could be read.

    With ``flip`` the embedding of the mirrored image is added. Raises a ValueError if the net has
    no output called 'embedding'.
    """
    if "embedding" not in getattr(net, "output_names", ()):
        raise ValueError(
            f"{type(net).__name__} gives no embedding to compare images by; use a zoo model "
            "named reid_..."
        )

    def run(batch: Batch) -> Any:
        image = batch.image.as_in_context(ctx)
        found = name_outputs(net, net(image))["embedding"]
        if flip:
            found = found + name_outputs(net, net(mx.nd.flip(image, axis=3)))["embedding"]
        return found

    group = share_out(loader)
    features: Array | None = None
    mine = np.zeros(count, np.float32)
    seen = np.zeros(count, bool)
    for found, batch in one_behind(loader, run, "embedding", progress):
        if features is None:
            features = np.zeros((count, found.shape[1]), np.float32)
        rows = batch.index != PADDING
        features[batch.index[rows]] = found.asnumpy()[rows]
        seen[batch.index[rows]] = batch.mask.asnumpy()[rows].any(axis=1)
        mine[batch.index[rows]] = 1
    if features is None:
        raise ValueError("nothing to compare: the data set is empty")
    features, seen = group.merge("embedding", (features, seen), mine)
    return features, seen.astype(bool)


def retrieve(
    net: Any, dataset: Any, loader: Any, ctx: Any, *,
    metric: str = "euclidean", flip: bool = False, progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Return the retrieval result of a split with queries and a gallery, 'test' or 'val'.

    Images that cannot be read are left out; ``metric`` is 'euclidean' or 'cosine'.
    """
    if dataset.query is None or not len(dataset.query) or not len(dataset.gallery):
        raise ValueError(
            f"split '{dataset.split}' has not both queries and a gallery; use test or val"
        )
    features, seen = embed(net, loader, len(dataset), ctx, flip=flip, progress=progress)
    identities = np.where(seen, dataset.identities, JUNK)
    query = dataset.query[seen[dataset.query]]
    asking, answering = (
        Images(features[rows], identities[rows], dataset.cameras[rows])
        for rows in (query, dataset.gallery)
    )
    result = evaluate_retrieval(asking, answering, metric=metric, progress=progress)
    return dict(result, names=[dataset.sample_ids[i] for i in query])


def _write(result: dict[str, Any], dataset: Any, asked: Asked) -> Result:
    paths = RETRIEVAL.write(result, asked.out, asked.stem).values()
    files: list[str] = [str(path) for path in paths]
    logger.info(
        "%s: mAP %.4f, rank-1 %.4f over %d queries; tables in %s.{md,csv,json}", dataset.split,
        result["mAP"], result["rank1"], result["queries"], os.path.join(asked.out, asked.stem),
    )  # fmt: skip
    return Result(RETRIEVAL.text(result), result, files)


def _check_sizes(recipe: Recipe) -> None:
    """Refuse settings of squares that would have no effect on rectangles."""
    cuts = recipe.crop_min == recipe.crop_max == recipe.input_size <= recipe.resize
    if not cuts or recipe.eval_crop != recipe.resize or recipe.augment != "crop":
        raise ValueError(
            f"person re-identification cuts rectangles of the input size for training and sees "
            f"whole images in evaluation: crop_min={recipe.crop_min} and crop_max="
            f"{recipe.crop_max} must equal input_size={recipe.input_size}, eval_crop="
            f"{recipe.eval_crop} must equal resize={recipe.resize}, which must not be smaller than "
            f"input_size, and augment={recipe.augment} must be crop"
        )


def rectangle(height: int) -> tuple[int, int]:
    """Return ``(height, width)`` of a person's image."""
    return height, height // 2
