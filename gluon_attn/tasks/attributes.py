"""Attributes of a person or a thing: average precision, mean accuracy, curves, maps."""

from __future__ import annotations

import logging
import os
from typing import Any, Callable, Iterable, Iterator, Sequence

import numpy as np

from gluon_attn.core.files import save_arrays
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.schema import Schema
from gluon_attn.data import EvalTransform, Loader
from gluon_attn.data.views import ChosenAttributes, Subset
from gluon_attn.export import Predictor, export_model
from gluon_attn.figures.bars import attribute_bars
from gluon_attn.figures.curves import pr_curves
from gluon_attn.figures.heatmaps import heatmap_grid
from gluon_attn.metrics.attributes import evaluate_attributes
from gluon_attn.metrics.multilabel import evaluate_multilabel
from gluon_attn.metrics.reports import ACCURACY, MULTILABEL
from gluon_attn.metrics.tables import decimal
from gluon_attn.nets import name_outputs
from gluon_attn.task import FORMS, TASKS, Asked, Exported, Predicting, Result, Task, Trained
from gluon_attn.tasks import images
from gluon_attn.tasks.data import (
    Array,
    Predictions,
    Stream,
    eval_loader,
    eval_preprocess,
    in_epochs,
    predict,
    predictions_of,
    train_transform,
)

logger = logging.getLogger("gluon_attn.scores")

GRID_IMAGES = 4  # rows of the heat-map figure


class LabelTask(Task):
    """What attributes and classes share: squares as input, a logit per column of the labels."""

    columns = "attributes"
    forms = FORMS
    explained = True

    def fit(self, dataset: Any, classes: Sequence[str], data_dir: str) -> Any:
        chosen = [a for a in dataset.schema.attributes if set(a.columns) <= set(classes)]
        same = [column for a in chosen for column in a.columns] == list(classes)
        if same and 0 < len(chosen) < len(dataset.schema):  # it was trained on some but not all
            dataset = ChosenAttributes(dataset, [a.name for a in chosen])
        return super().fit(dataset, classes, data_dir)

    def train_loader(
        self, recipe: Recipe, dataset: Any, method: Any, workers: int, *,
        cache: bool = False, parts: int = 1,
    ) -> Any:  # fmt: skip
        loader = Loader(
            dataset, train_transform(recipe), recipe.batch_size, shuffle=True, seed=recipe.seed,
            workers=workers, last="discard", cache=cache,
        )  # fmt: skip
        return in_epochs(loader, recipe)

    def held_out_loader(
        self, recipe: Recipe, dataset: Any, method: Any, length: int, *,
        workers: int = 0, cache: bool = False,
    ) -> Any:  # fmt: skip
        """They come shuffled, pass after pass, without augmentation."""
        if not method.held_out_size:
            return None
        loader = Loader(
            dataset, EvalTransform(**eval_preprocess(recipe)), method.held_out_size, shuffle=True,
            seed=recipe.seed + 1, workers=workers, last="discard", cache=cache,
        )  # fmt: skip
        return Stream(loader, length)

    def validator(
        self, recipe: Recipe, dataset: Any, ctx: Any, workers: int
    ) -> Callable[[Any], dict[str, float]]:
        loader = eval_loader(eval_preprocess(recipe), dataset, recipe.batch_size, workers)

        def validate(net: Any) -> dict[str, float]:
            found = predict(
                net, loader, len(dataset), ctx, progress=True, activation=self.activation
            )
            return self.scores_of(found, dataset, recipe.score)

        return validate

    def scores_of(self, found: Predictions, dataset: Any, wanted: str) -> dict[str, float]:
        """Return the scores of one epoch by name, ``wanted`` (the recipe's) among them."""
        raise NotImplementedError

    def final_scores(self, recipe: Recipe, net: Any, dataset: Any, asked: Asked) -> Result:
        loader = eval_loader(eval_preprocess(recipe), dataset, recipe.batch_size, asked.workers)
        found = predict(
            net, loader, len(dataset), asked.ctx, progress=True, activation=self.activation
        )
        done = self.report(
            found, dataset, asked._replace(figures=False, final=True), recipe.to_dict()
        )
        logger.info("%s; tables in %s.{md,csv,json}", self.headline(done, dataset),
                    os.path.join(asked.out, asked.stem))  # fmt: skip
        return done

    def evaluate(self, source: Any, dataset: Any, asked: Asked) -> Result:
        found = predictions_of(source, dataset, asked)
        if isinstance(source, Exported):
            return self.report(found, dataset, asked)
        done = self.report(found, dataset, asked, source.extra.get("recipe"))
        path = os.path.join(asked.out, f"{asked.stem}_attention.png")
        drawn = asked.figures and draw_attention(source, dataset, found, path, ctx=asked.ctx)
        return done._replace(files=done.files + [drawn]) if drawn else done

    def measure(self, found: Predictions, dataset: Any, threshold: float = 0.5) -> dict[str, Any]:
        """Return all numbers of predictions on a split."""
        raise NotImplementedError

    def report(
        self, found: Predictions, dataset: Any, asked: Asked, recipe: dict[str, Any] | None = None
    ) -> Result:
        """Measure predictions; write tables, predictions and, if asked for, figures of scores."""
        raise NotImplementedError

    def headline(self, done: Result, dataset: Any) -> str:
        """Return the line of a run's log that says what a report found."""
        raise NotImplementedError

    def preprocess(self, recipe: Recipe, net: Any) -> dict[str, Any]:
        return eval_preprocess(recipe)

    def export(
        self, trained: Trained, directory: str, name: str, *, threshold: float = 0.5,
        with_maps: bool = False, overwrite: bool = False, variants: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        export_model(
            trained.net, directory, name, trained.classes, input_size=trained.input_size,
            preprocess=trained.export_preprocess, thresholds=threshold, with_maps=with_maps,
            extra=trained.extra, overwrite=overwrite, activation=self.activation,
            schema=trained.extra.get("schema"), variants=variants,
        )  # fmt: skip

    def predict(self, source: Exported, options: Any) -> Predicting:
        if options.draw:
            raise ValueError(
                "--draw: this export finds no boxes; its maps are drawn by --heatmaps DIR"
            )
        predictor = Predictor(
            source.directory, ctx=options.ctx, batch_size=options.batch_size,
            threads=options.threads, backend=source.backend,
        )  # fmt: skip
        if options.threshold is not None:
            predictor.set_thresholds(options.threshold)
        if options.heatmaps:
            predictor.require_maps()
        found, boxes = images.find_images(options.images), None
        if options.boxes:
            found, boxes = images.match_boxes(
                found, images.read_boxes(options.boxes), options.boxes
            )
        paths = [image.path for image in found]

        def find(some: range, before: int) -> Iterator[images.Record]:
            part = slice(some.start, some.stop)
            return images.predict_people(
                predictor, paths[part], boxes[part] if boxes else None, options.on_bad_image,
                heatmaps=options.heatmaps, before=before,
            )  # fmt: skip

        return Predicting(paths, boxes, find, images.head_of(predictor))

    def table(self, head: images.Record, records: Sequence[images.Record]) -> str:
        return images.format_table(records, head["classes"])

    def csv(self, head: images.Record, records: Iterable[images.Record]) -> Iterator[Sequence[Any]]:
        return images.csv_rows(records, head["classes"])


class Attributes(LabelTask):
    """Binary attributes, and attributes with several classes."""

    name = "attributes"
    scores = ("accuracy", "mA", "mAP")
    activation = "sigmoid"

    def check_score(self, score: str, dataset: Any) -> None:
        if score not in self.scores:
            raise ValueError(
                f"score={score}: these data have {len(dataset.schema.columns)} attribute columns; "
                f"valid here are {', '.join(self.scores)}"
            )

    def judge(self, score: str, dataset: Any) -> tuple[str, str]:
        """A net can only be told from another by an attribute with both values among the labels.

        Without positives there is no average precision; without negatives every net has the same.
        """
        known = dataset.mask.sum(0, dtype=np.int64)
        positives = (dataset.label * dataset.mask).sum(0, dtype=np.int64)
        return judge_columns(score, dataset.names, positives, known - positives)

    def scores_of(self, found: Predictions, dataset: Any, wanted: str) -> dict[str, float]:
        accuracy = evaluate_attributes(*found, dataset.schema)
        return dict(ranking_scores(found, dataset), accuracy=accuracy["overall"]["accuracy"])

    def measure(self, found: Predictions, dataset: Any, threshold: float = 0.5) -> dict[str, Any]:
        result = evaluate_multilabel(*found, names=dataset.names, threshold=threshold)
        return result if dataset.schema.is_binary else dict(result, classes=True)

    def report(
        self, found: Predictions, dataset: Any, asked: Asked, recipe: dict[str, Any] | None = None
    ) -> Result:
        """Accuracy per attribute goes into ``<stem>_accuracy.*`` (:func:`reports_accuracy`)."""
        result = self.measure(found, dataset, asked.threshold)
        text = [MULTILABEL.text(result)]
        files = list(map(str, MULTILABEL.write(result, asked.out, asked.stem).values()))
        if reports_accuracy(recipe or {}, dataset.schema):
            accuracy = evaluate_attributes(*found, dataset.schema, threshold=asked.threshold)
            paths = ACCURACY.write(accuracy, asked.out, f"{asked.stem}_accuracy").values()
            files += map(str, paths)
            text.append(ACCURACY.text(accuracy))
            result = dict(result, accuracy=accuracy)
        files.append(save_predictions(found._asdict(), dataset, asked))
        if asked.figures:
            start = os.path.join(asked.out, asked.stem)
            curves = pr_curves(*found, dataset.names, path=f"{start}_pr_curves.png")
            bars = attribute_bars({asked.stem: result}, f"{start}_ap.png")
            files += map(str, (curves, bars))
        return Result("\n".join(text), result, files)

    def headline(self, done: Result, dataset: Any) -> str:
        if "accuracy" in done.values:
            shown = decimal(done.values["accuracy"]["overall"]["accuracy"])
            logger.info("Test accuracy %s, mean over attributes", shown)
        return f"Test mAP {decimal(done.values['overall']['mAP'])}"


TASKS.register("attributes")(Attributes())


def reports_accuracy(recipe: dict[str, Any], schema: Schema) -> bool:
    """Return whether accuracy per attribute belongs into the results; ``recipe`` may be empty."""
    asked = recipe.get("score") == "accuracy" or recipe.get("method") == "awmt"
    return asked or not schema.is_binary


def save_predictions(arrays: dict[str, Array], dataset: Any, asked: Asked) -> str:
    """Write ``<stem>_predictions.npz`` and return its path."""
    path = os.path.join(asked.out, f"{asked.stem}_predictions.npz")
    names = {} if asked.final else {"names": np.array(dataset.names)}
    save_arrays(path, {**arrays, **names}, compress=True)
    return path


def ranking_scores(found: Predictions, dataset: Any) -> dict[str, float]:
    """Return mAP and mA over all columns."""
    overall = evaluate_multilabel(*found, names=dataset.names)["overall"]
    return {name: overall[name] for name in ("mAP", "mA")}


def judge_columns(
    score: str, names: Sequence[str], positives: Array, negatives: Array,
    lacking: tuple[str, ...] | None = None,
) -> tuple[str, str]:  # fmt: skip
    """Return why no net can be scored on these labels, and which columns a score leaves out.

    Positives and negatives are ``(A,)`` numbers of known labels; ``lacking`` is what a column must
    not lack for the score, None: those of mAP, mA and accuracy.
    """
    unknown = (positives == 0) & (negatives == 0)
    groups = {
        "no known label": unknown,
        "no positive label": (positives == 0) & ~unknown,
        "no negative label": (negatives == 0) & ~unknown,
    }
    of = {why: np.array(names)[found] for why, found in groups.items() if found.any()}
    if not ((positives > 0) & (negatives > 0)).any():
        return "; ".join(f"{why} of {some(found)}" for why, found in of.items()), ""
    if lacking is None:
        lacking = {
            "mAP": ("no known label", "no positive label"), "mA": tuple(of),
            "accuracy": ("no known label",),
        }.get(score, ())  # fmt: skip
    return "", ", ".join(f"{some(of[why])} ({why})" for why in lacking if why in of)


def some(names: Sequence[Any], most: int = 12) -> str:
    """Return the first names, and how many there are more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def choose_samples(found: Predictions, count: int = GRID_IMAGES) -> list[int]:
    """Return ids of samples worth looking at: they show as many rare positives as possible."""
    positive = found.label * found.mask
    rarity = 1 / np.maximum(positive.sum(axis=0), 1)
    chosen: list[int] = []
    left = positive.astype(bool)
    for _ in range(min(count, len(positive))):
        score = (left * rarity).sum(axis=1)
        score[chosen] = -1
        chosen.append(int(score.argmax()))
        left = left & ~left[chosen[-1]]
    return chosen


def draw_attention(
    trained: Trained, dataset: Any, found: Predictions, path: str, *, ctx: Any,
    samples: Sequence[int] | None = None,
) -> str | None:  # fmt: skip
    """Draw the attention maps of some samples; return the path, or None without maps."""
    names = getattr(trained.net, "attention_outputs", ())
    if not names:
        return None
    rows = list(choose_samples(found) if samples is None else samples)
    loader = eval_loader(trained.preprocess, Subset(dataset, rows), len(rows), 0)
    (batch,) = list(loader)
    outputs = name_outputs(trained.net, trained.net(batch.image.as_in_context(ctx)))
    maps = {n.replace("attention_", ""): outputs[n].asnumpy() for n in names}
    view = EvalTransform(**trained.preprocess).view
    shown = [view(dataset.read(i)) for i in rows]
    return str(heatmap_grid(
        shown, maps, dataset.names, found.probs[rows], labels=found.label[rows], path=path,
        mask=found.mask[rows],
    ))  # fmt: skip
