"""Splits as a recipe reads them, their batches, and a net run over them."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import inspect
import itertools
import logging
import sys
from typing import Any, Callable, Iterable, Iterator, NamedTuple

import mxnet as mx
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gluon_attn import workers as groups
from gluon_attn.core.batch import PADDING, Batch, LabelPolicy
from gluon_attn.core.errors import naming
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.registry import unknown_name
from gluon_attn.data import (
    DATASETS,
    EvalTransform,
    Loader,
    TrainTransform,
    detect_kind,
    open_dataset,
)
from gluon_attn.data.transforms import PadCropTransform, ResizedCropTransform
from gluon_attn.data.views import ChosenAttributes, altered
from gluon_attn.export import Predictor
from gluon_attn.task import Asked, Exported, Trained

logger = logging.getLogger("gluon_attn.evaluate")

Array = NDArray[Any]
ALTERED = ("images_per_class", "label_noise")  # data options of any data set
READING = ("dataset", "data_options", "attributes", "splits")  # of a recipe: how data are read


# -- splits ------------------------------------------------------------------------------------
def reading_of(recipe: Recipe | dict[str, Any] | None, dataset: str | None = None) -> Recipe:
    """Return how data are to be read: as the recipe of a net says, which decides over the folder.

    Of the Recipe only ``READING`` counts. Another kind of data, asked for by name as ``dataset``,
    is read with the recipe's settings only where it is the recipe's.
    """
    known = recipe.to_dict() if isinstance(recipe, Recipe) else dict(recipe or {})
    reading = Recipe("", "", **{key: known[key] for key in READING if key in known})
    if dataset and dataset != reading.dataset:
        reading = dataclasses.replace(reading, dataset=dataset, data_options={})
    return reading


def open_split(
    recipe: Recipe, data_dir: str, split: str, on_bad_image: str = "error", *,
    unspecified: str | None = None, remedy: str = "dataset=KIND",
) -> Any:  # fmt: skip
    """Open one split of the recipe's data set, with its label policy and its attributes.

    ``unspecified`` says what unspecified labels are, whatever the split; None: the recipe's in
    training, masked elsewhere. If the folder holds data of another kind, the error names both, and
    ``remedy``, what the caller's user writes to read that.
    """
    with naming(data_dir), _own_kind(recipe, data_dir, remedy):
        kind = detect_kind(data_dir) if recipe.dataset == "auto" else recipe.dataset
        ours = {key: recipe.data_options[key] for key in ALTERED if key in recipe.data_options}
        # What was packed is what these settings chose when it was packed.
        options = {} if kind == "packed" else recipe.data_options
        options = {key: value for key, value in options.items() if key not in ours}
        valid = list(inspect.signature(DATASETS.get(kind)).parameters)[4:]
        if ours and "seed" not in valid:  # it chooses for ours alone
            options.pop("seed", None)
        for name in options:
            if name not in valid:
                told = unknown_name(f"data option of dataset={kind}", name, [*valid, *ALTERED])
                raise ValueError(f"{told}. data_options={{}} drops those of the recipe")
        policy = LabelPolicy(train=unspecified or recipe.unspecified)
        if unspecified:
            policy = LabelPolicy(train=unspecified, evaluate=unspecified)
        dataset = open_dataset(data_dir, split, policy, on_bad_image, kind=kind, **options)
        if ours:
            dataset = altered(dataset, **ours, seed=recipe.data_options.get("seed", 0))
        return ChosenAttributes(dataset, recipe.attributes) if recipe.attributes else dataset


@contextlib.contextmanager
def _own_kind(recipe: Recipe, data_dir: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        others = [] if recipe.dataset == "auto" else _kinds_of(data_dir)
        if not others or recipe.dataset in others:
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(
            f"{error}. It was read as dataset={recipe.dataset}, as the recipe says; {data_dir} "
            f"looks like dataset={' or '.join(others)} ({remedy} reads another)"
        ) from error


def _kinds_of(data_dir: str) -> list[str]:
    found: list[str] = []
    for kind in DATASETS.names():
        with contextlib.suppress(Exception):  # the error that is being told matters more
            found += [kind] if DATASETS.get(kind).detect(data_dir) else []
    return found


def open_for(
    source: Trained | Exported, data_dir: str, split: str | None = None, *,
    reading: Recipe | None = None, on_bad_image: str = "error", unspecified: str = "masked",
) -> Any:  # fmt: skip
    """Open a split for a net or an export, as its recipe reads it.

    Without ``split``, it is the one that the recipe's runs are tested on; without ``reading``
    (:func:`reading_of`), the source's recipe counts. With ``dataset=auto`` the kind is one of the
    task's. Raises a ValueError if names or their order differ.
    """
    task, reading = source.task, reading or reading_of(source.extra.get("recipe"))
    split = task.split(split or reading.splits[2])
    if reading.dataset == "auto" and task.kinds:
        kinds = [k for k in task.kinds if DATASETS.get(k).has_split(data_dir, split)]
        if not kinds and len(task.kinds) > 1:
            wanted = "; ".join(f"{kind}: {DATASETS.get(kind).looks_for}" for kind in task.kinds)
            raise FileNotFoundError(
                f"no {task.title} data with a split '{split}' in {data_dir}; looked for {wanted}"
            )
        reading = dataclasses.replace(reading, dataset=(*kinds, *task.kinds)[0])
    dataset = open_split(
        reading, data_dir, split, on_bad_image, unspecified=unspecified,
        remedy="evaluate.py --dataset KIND",
    )  # fmt: skip
    return task.fit(dataset, source.classes, data_dir)


def check_same_data(
    models: dict[str, Trained], dataset: Any, data_dir: str, reading: Recipe
) -> None:
    """Raise a ValueError if the recipe of a net reads other samples or labels from the data.

    ``models`` are nets by title, ``dataset`` the split that they are compared on.
    """
    for title, trained in models.items():
        own = reading_of(trained.extra.get("recipe"))
        told = [f"{key}={getattr(r, key)}" for r in (own, reading) for key in READING[:2]]
        if told[:2] == told[2:] or "recipe" not in trained.extra:
            continue
        other = open_for(trained, data_dir, dataset.split)
        if other.fingerprint() != dataset.fingerprint():
            raise ValueError(
                f"{data_dir}, split '{dataset.split}': with {', '.join(told[:2])}, as {title} was "
                f"trained, these are other data than with {', '.join(told[2:])}: compare nets on "
                "the same"
            )


def tell_other_data(source: Any, dataset: Any, data_dir: str) -> None:
    """Warn if a split is not what it was when the net was trained."""
    recipe, noted = source.extra.get("recipe", {}), source.extra.get("data", {})
    names = dict(zip(recipe.get("splits", ()), ("train", "val")))
    noted = noted.get("sha256", noted)  # of published weights
    known = noted.get(names.get(dataset.split, dataset.split))
    if known and known != dataset.fingerprint():
        logger.warning(
            "%s, split '%s', holds other samples or labels than when the net was trained",
            data_dir, dataset.split,
        )  # fmt: skip


# -- batches -----------------------------------------------------------------------------------
class Stream:
    """An endless stream of batches, cut into epochs of ``batches`` each.

    Papers that count iterations need epochs of a fixed length, and a second loader beside the
    training one has to last as long as that. Epoch ``e`` begins with batch ``e * batches`` of the
    stream, so an epoch that is repeated after a resume has the same batches. Between two passes
    nothing is left out but what the loader itself leaves out.
    """

    def __init__(self, loader: Any, batches: int) -> None:
        if batches < 1:
            raise ValueError(f"batches={batches}: an epoch needs at least one")
        self.loader, self.batches, self.epoch = loader, int(batches), 0

    def set_epoch(self, epoch: int) -> None:
        """Choose which epoch the next iteration is."""
        self.epoch = int(epoch)

    def set_share(self, number: int, count: int) -> None:
        """Choose the rows of every batch; see :meth:`Loader.set_share`."""
        self.loader.set_share(number, count)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        current, start = divmod(self.epoch * self.batches, len(self.loader))
        left = self.batches
        while left:
            self.loader.set_epoch(current, start)
            part = min(left, len(self.loader) - start)
            yield from itertools.islice(iter(self.loader), part)
            left, current, start = left - part, current + 1, 0


def in_epochs(loader: Any, recipe: Recipe) -> Any:
    """Return the loader, in epochs as long as the recipe says."""
    return Stream(loader, recipe.iterations_per_epoch) if recipe.iterations_per_epoch else loader


def train_transform(recipe: Recipe) -> Any:
    """Return the recipe's augmentation of square images."""
    common: dict[str, Any] = {
        "size": recipe.input_size, "mirror": recipe.mirror, "mean": recipe.mean, "std": recipe.std
    }  # fmt: skip
    if recipe.augment == "pad":
        return PadCropTransform(pad=recipe.pad, **common)
    if recipe.augment == "inception":
        return ResizedCropTransform(recipe.resize, area=(recipe.area_min, 1.0), **common)
    return TrainTransform(recipe.resize, (recipe.crop_min, recipe.crop_max), **common)


def eval_preprocess(recipe: Recipe) -> dict[str, Any]:
    """Return the evaluation pre-processing of a recipe."""
    if recipe.eval_crop > recipe.resize:
        raise ValueError(
            f"eval_crop={recipe.eval_crop} is larger than resize={recipe.resize}, the side that "
            "images have then; eval_crop=0 keeps all of an image"
        )
    values = {
        "resize": recipe.resize, "crop": recipe.eval_crop or None, "size": recipe.input_size,
        "mean": tuple(recipe.mean), "std": tuple(recipe.std),
    }  # fmt: skip
    return dict(values, keep_aspect=True) if recipe.keep_aspect else values


def eval_loader(preprocess: dict[str, Any], dataset: Any, batch_size: int, workers: int) -> Loader:
    """Return batches for evaluation, in order, the last one padded."""
    transform = EvalTransform(**preprocess)
    return Loader(dataset, transform, batch_size, workers=workers, last="pad")


# -- nets over batches -------------------------------------------------------------------------
def one_behind(
    loader: Any, run: Callable[[Batch], Any], title: str, progress: bool = True
) -> Iterator[tuple[Any, Batch]]:
    """Yield ``(run(batch), batch)`` one batch late, while the device works on the next."""
    queue: collections.deque[tuple[Any, Batch]] = collections.deque()
    for batch in bar(loader, title, progress):
        queue.append((run(batch), batch))
        if len(queue) > 1:
            yield queue.popleft()
    yield from queue


def bar(loader: Any, title: str, progress: bool = True, unit: str = "batch") -> Iterable[Any]:
    """Return what iterates a loader under a progress bar, on a terminal only."""
    quiet = not (progress and sys.stderr.isatty())
    return tqdm(loader, total=len(loader), desc=title, unit=unit, leave=False, disable=quiet)


def share_out(loader: Any) -> groups.Workers:
    """Give every worker of the current group its rows of each batch; return the group."""
    group = groups.current()
    if group.size > 1:
        loader.set_share(group.rank, group.size)
    return group


class Predictions(NamedTuple):
    """Predictions of a whole data set, in the data set's order, each ``(N, A)``.

    ``probs`` are nan where a sample was never seen; ``mask`` is 0 where a label is unspecified.
    """

    probs: Array
    label: Array
    mask: Array


def predict(
    net: Any, loader: Any, num_samples: int, ctx: Any, *,
    progress: bool = False, activation: str = "sigmoid",
) -> Predictions:  # fmt: skip
    """Return the probabilities that the first output stands for, for every sample of ``loader``.

    ``activation`` is ``sigmoid``, or ``softmax`` over all columns. Padding rows are left out. Of
    several workers each runs its rows of every batch, and all return the same.
    """
    probabilities = {"sigmoid": mx.nd.sigmoid, "softmax": mx.nd.softmax}[activation]
    group = share_out(loader)

    def run(batch: Batch) -> Any:
        outputs = net(batch.image.as_in_context(ctx))
        return probabilities(outputs[0] if isinstance(outputs, (list, tuple)) else outputs)

    found, seen = None, np.zeros(num_samples, np.float32)
    for probs, batch in one_behind(loader, run, "evaluating", progress):
        if found is None:
            shape = (num_samples, probs.shape[1])
            known = [np.zeros(shape, np.float32) for _ in range(2)]
            found = Predictions(np.full(shape, np.nan, np.float32), *known)
        rows = batch.index != PADDING
        for target, values in zip(found, (probs, batch.label, batch.mask)):
            target[batch.index[rows]] = values.asnumpy()[rows]
        seen[batch.index[rows]] = 1
    if found is None:
        raise ValueError("nothing to evaluate: the data set is empty")
    return Predictions(*group.merge("predictions", found, seen))


def predict_dataset(
    trained: Trained, dataset: Any, ctx: Any, batch_size: int = 32, *, workers: int = 2
) -> Predictions:
    """Return the predictions of a trained net on a data set."""
    loader = eval_loader(trained.preprocess, dataset, batch_size, workers)
    activation = trained.task.activation
    return predict(trained.net, loader, len(dataset), ctx, progress=True, activation=activation)


def predict_export(
    directory: str, dataset: Any, ctx: Any = None, batch_size: int = 32, *,
    backend: str = "mxnet",
) -> Predictions:  # fmt: skip
    """Return the predictions of an export directory, through its Predictor."""
    predictor = Predictor(directory, ctx=ctx, batch_size=batch_size, backend=backend)
    probs = np.full(dataset.label.shape, np.nan, np.float32)
    mask = dataset.mask.copy()
    for start in range(0, len(dataset), batch_size):
        rows = range(start, min(start + batch_size, len(dataset)))
        items = [dataset[i] for i in rows]
        probs[rows.start : rows.stop] = predictor([image for image, _, _, _ in items])
        mask[rows.start : rows.stop] = [known for _, _, known, _ in items]
    return Predictions(probs, np.asarray(dataset.label), mask)


def predictions_of(source: Trained | Exported, dataset: Any, asked: Asked) -> Predictions:
    """Return the predictions of a net or an export on a split."""
    if isinstance(source, Exported):
        return predict_export(
            source.directory, dataset, asked.ctx, asked.batch_size, backend=source.backend
        )
    return predict_dataset(source, dataset, asked.ctx, asked.batch_size, workers=asked.workers)
