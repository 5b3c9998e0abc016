"""One class per image: top-k accuracy and confusions."""

from __future__ import annotations

from typing import Any

import numpy as np

from gluon_attn.core.schema import Schema
from gluon_attn.metrics.classification import TOP, evaluate_classification, top_accuracies
from gluon_attn.metrics.reports import CLASSIFICATION
from gluon_attn.metrics.tables import decimal
from gluon_attn.task import TASKS, Asked, Result
from gluon_attn.tasks.attributes import LabelTask, judge_columns, ranking_scores, save_predictions
from gluon_attn.tasks.data import Predictions


class Classification(LabelTask):
    """Labels are one-hot over the classes of the attribute 'class'."""

    name = "classification"
    scores = ("accuracy", "top1", "mA", "mAP", *(f"top{k}" for k in TOP if k != 1))
    activation = "softmax"

    def label(self, column: str) -> str:
        """Return ``tench`` for the column ``class=tench``."""
        return column.partition("=")[2]

    def describe(self, dataset: Any) -> str:
        found = dataset.prior * len(dataset)
        least, most = f"{found.min():.0f}", f"{found.max():.0f}"
        size = f"{least} to {most} training images"
        size = f"{most} training images each" if least == most else size
        return f"{len(found)} classes of {size}"

    def check_score(self, score: str, dataset: Any) -> None:
        classes = len(dataset.schema.columns)
        if score not in self.scores or (score == "top5" and classes <= 5):
            raise ValueError(
                f"score={score}: these data have {classes} classes; valid here are accuracy, top1"
            )

    def judge(self, score: str, dataset: Any) -> tuple[str, str]:
        positives, negatives = dataset.counts().T[:2]
        lacking = None if score in ("mAP", "mA") else ()
        problem, left_out = judge_columns(
            score, dataset.names, positives, negatives, lacking=lacking
        )
        if not problem and (positives > 0).sum() == 1:
            name = np.array(dataset.names)[positives > 0][0]
            return f"all images are of the class {name}", ""
        return problem, left_out

    def scores_of(self, found: Predictions, dataset: Any, wanted: str) -> dict[str, float]:
        """mAP and mA over one-hot classes are computed only if one of them is wanted.

        With a thousand classes they take longer than the validation itself.
        """
        overall = top_accuracies(*found)
        scores = {f"top{k}": overall[f"top{k}"] for k in TOP if f"top{k}" in overall}
        scores["accuracy"] = overall["top1"]
        return dict(scores, **(ranking_scores(found, dataset) if wanted in ("mAP", "mA") else {}))

    def measure(self, found: Predictions, dataset: Any, threshold: float = 0.5) -> dict[str, Any]:
        return evaluate_classification(*found, names=class_names(dataset.schema))

    def report(
        self, found: Predictions, dataset: Any, asked: Asked, recipe: dict[str, Any] | None = None
    ) -> Result:
        """Labels are stored as ``target``, class numbers, -1 where a sample was left out."""
        result = self.measure(found, dataset)
        files = list(map(str, CLASSIFICATION.write(result, asked.out, asked.stem).values()))
        label = found.label * found.mask
        target = np.where(label.any(1), label.argmax(1), -1).astype(np.int32)
        files.append(save_predictions({"probs": found.probs, "target": target}, dataset, asked))
        return Result(CLASSIFICATION.text(result), result, files)

    def headline(self, done: Result, dataset: Any) -> str:
        overall = done.values["overall"].items()
        text = ", ".join(f"{name} {decimal(value)}" for name, value in overall)
        return f"{dataset.split}: {text}"


TASKS.register("classification")(Classification())


def class_names(schema: Schema) -> list[str]:
    """Return the names of the classes of single-label data."""
    return list(schema.attributes[0].classes)
