"""Keypoints: loaders, validation and COCO's evaluation; the functions that tasks.py lists.

A recipe's ``input_size`` is the height of the input; its width is three quarters of it. People are
cut out of their pictures by one affine map, so ``resize``, ``crop_*`` and ``eval_crop`` are not
used; ``scale``, ``rotation`` and the other settings are options of the method ``simple_pose``.
"""

from __future__ import annotations

import collections
import logging
import sys
from typing import NamedTuple

import mxnet as mx
import numpy as np
from tqdm import tqdm

from gluon_attn.coco.dataset import CocoKeypoints
from gluon_attn.coco.keypoints import SimplePoseMethod, decode, flip_back, person_scores
from gluon_attn.coco.keypoints_batches import (
    STRIDE,
    People,
    PeopleLoader,
    PoseEvalTransform,
    PoseLoader,
    PoseTrainTransform,
    invert,
    region_of,
    transform,
)
from gluon_attn.coco.keypoints_scores import write_scores
from gluon_attn.coco.metrics import SIGMAS, evaluate_keypoints, oks_suppression
from gluon_attn.coco.names import KEYPOINTS, mirror_pairs
from gluon_attn.core.batch import PADDING
from gluon_attn.tasks.base import reading_for
from gluon_attn.train import Stream, build

logger = logging.getLogger("gluon_attn.keypoints")

CLASS_NAMES = KEYPOINTS
FORMS = ("onnx",)
SCORES = {"mAP": "AP", "AP50": "AP50", "AP75": "AP75", "AR": "AR"}  # of a validation, for the log


class Reading(NamedTuple):
    """How people are cut out for a net and places read from its heat-maps.

    Attributes:
        margin: Of the region around a box.
        refine, flip_shift: See :mod:`gluon_attn.coco.keypoints`.
        flip_test: Whether heat-maps of the mirrored picture are averaged in.
        suppression: OKS from which the worse of two people of a picture is left out.
    """

    margin: float = 1.25
    refine: str = "dark"
    flip_test: bool = True
    flip_shift: str = "subpixel"
    suppression: float = 0.9

    @classmethod
    def of(cls, options):
        """Return the Reading that options of the method stand for; others keep their defaults."""
        options = dict(SimplePoseMethod.OPTIONS, **options)
        return cls(**{name: options[name] for name in cls._fields})


class PoseFinder:
    """Finds keypoints of people with a net.

    Args:
        net: Function from images ``(B, 3, H, W)`` to heat-maps ``(B, K, H / 4, W / 4)``.
        size: ``(H, W)``.
        names: K keypoint names; a mirror exchanges those that differ in 'left' and 'right'.
        mean, std: Of the input, RGB, in grey levels.
        reading: :class:`Reading`.
        ctx: Device of the net; the CPU by default.
    """

    def __init__(self, net, size, names, mean, std, reading=None, ctx=None):
        self.net, self.names, self.reading = net, tuple(names), reading or Reading()
        self.transform = PoseEvalTransform(size, self.reading.margin, mean, std)
        self.pairs, self.ctx = mirror_pairs(self.names), ctx or mx.cpu()

    def __call__(self, people, batch_size=32, workers=2, progress=False):
        """Return places ``(N, K, 2)`` in pixels of the pictures and heights ``(N, K)``.

        Rows of people whose picture cannot be read are NaN and 0.

        Args:
            people: :class:`gluon_attn.coco.keypoints_batches.People`.
            batch_size, workers: Of the loader.
            progress: Whether to show a bar on a terminal.
        """
        count, joints = len(people), len(self.names)
        places, heights = np.full((count, joints, 2), np.nan), np.zeros((count, joints))
        if not count:
            return places, heights
        loader = PeopleLoader(people, self.transform, batch_size, workers=workers)
        queue = collections.deque()

        def store(outputs, batch):
            rows = (batch.index != PADDING) & (batch.mask.asnumpy()[:, 0] > 0)
            found = self.read([out.asnumpy()[rows] for out in outputs])
            for i, place, height in zip(batch.index[rows], *found):
                matrix = invert(self.transform.matrix(people.boxes[i]))
                places[i], heights[i] = transform(place * STRIDE, matrix), height

        bar = tqdm(
            loader, total=len(loader), desc="keypoints", unit="batch", leave=False,
            disable=not (progress and sys.stderr.isatty()),
        )  # fmt: skip
        for batch in bar:
            queue.append((self.heatmaps(batch.image.as_in_context(self.ctx)), batch))
            if len(queue) > 1:  # read one batch behind, while the device works on the next
                store(*queue.popleft())
        while queue:
            store(*queue.popleft())
        return places, heights

    def heatmaps(self, images):
        """Return the heat-maps of images and, for the flip test, of the mirrored ones."""
        outputs = [self.net(images)]
        if self.reading.flip_test:
            outputs.append(self.net(mx.nd.flip(images, axis=3)))
        return [out[0] if isinstance(out, (list, tuple)) else out for out in outputs]

    def read(self, heatmaps):
        """Return places in pixels of the heat-map, and heights, of what :meth:`heatmaps` gave."""
        maps = heatmaps[0]
        if len(heatmaps) > 1:
            maps = (maps + flip_back(heatmaps[1], self.pairs, self.reading.flip_shift)) / 2
        return decode(maps, self.reading.refine)

    def records(self, people, places, heights, category_id=1):
        """Return official result records; people found twice in a picture are left out.

        Args:
            people: :class:`gluon_attn.coco.keypoints_batches.People`.
            places, heights: What a call returned.
            category_id: COCO id of the category.
        """
        scores, size = person_scores(heights, people.scores), self.transform.size
        found, of_image = [], collections.defaultdict(list)
        for i, number in enumerate(people.image_ids):
            if np.isfinite(places[i]).all():
                of_image[number].append(i)
        for number, rows in of_image.items():
            rows = np.array(rows)
            widths = [region_of(people.boxes[i], size, self.reading.margin).width for i in rows]
            areas = np.square(widths) * size[0] / size[1]
            if len(self.names) == len(SIGMAS):
                kept = oks_suppression(places[rows], scores[rows], areas, self.reading.suppression)
                rows = rows[kept]
            for i in rows:
                table = np.column_stack([places[i], heights[i]])
                found.append({
                    "image_id": number, "category_id": category_id,
                    "keypoints": [round(float(v), 4) for v in table.ravel()],
                    "score": float(scores[i]),
                })  # fmt: skip
        return found


def open_split(recipe, data_dir, split, on_bad_image="error"):
    """Open a split of the recipe's data set.

    Raises:
        FileNotFoundError, ValueError, ImportError: See
            :class:`gluon_attn.coco.dataset.CocoKeypoints`.
    """
    return CocoKeypoints(data_dir, split, on_bad_image=on_bad_image, **recipe.data_options)


def train_loader(recipe, dataset, method, workers):
    """Return shuffled, augmented batches with heat-maps, in epochs as long as the recipe says."""
    chosen = ("scale", "rotation", "rotated", "sigma", "encoding", "margin")
    cut = PoseTrainTransform(
        method.net.input_size, dataset.flip_pairs, recipe.mirror, mean=recipe.mean, std=recipe.std,
        **{name: method.options[name] for name in chosen},
    )  # fmt: skip
    loader = PoseLoader(
        dataset, cut, recipe.batch_size, shuffle=True, seed=recipe.seed, workers=workers,
        last="discard",
    )  # fmt: skip
    return Stream(loader, recipe.iterations_per_epoch) if recipe.iterations_per_epoch else loader


def find(recipe, net, dataset, ctx, workers):
    """Return the records of a split's annotated people."""
    finder = PoseFinder(
        net, net.input_size, dataset.names, recipe.mean, recipe.std, Reading.of(recipe.options), ctx
    )
    people = People.of(dataset)
    found = finder(people, recipe.batch_size, workers, progress=True)
    return finder.records(people, *found, dataset.category_id)


def validator(recipe, dataset, ctx, workers):
    """Return a function ``net -> scores``; ``mAP`` is COCO's AP by OKS, on the annotated boxes."""

    def validate(net):
        stats = evaluate_keypoints(dataset.coco, find(recipe, net, dataset, ctx, workers)).stats
        return {name: stats[source] for name, source in SCORES.items()}

    return validate


def judge(dataset: CocoKeypoints) -> tuple[str, str]:
    """Return what keeps nets from being scored: nothing, as the reader refuses such a split."""
    return "", ""


def final_scores(recipe, net, dataset, ctx, workers, folder, stem="test"):
    """Evaluate a split on its annotated boxes, write ``folder/stem.*``, return a dict."""
    return write_scores(find(recipe, net, dataset, ctx, workers), dataset, folder, stem)


def preprocess(net, values):
    """Return ``Trained.preprocess`` of a keypoint net: mean, std and the size of its input."""
    sizes = {"resize": None, "crop": None, "size": tuple(net.input_size)}
    return dict(sizes, mean=values["mean"], std=values["std"])


def options_of(trained):
    """Return the method's options that a trained net was made with, {} where none are known."""
    recipe = trained.extra.get("recipe", {})
    return recipe.get("options", {}) if recipe.get("method") == "simple_pose" else {}


def run_evaluate(args, trained, ctx, out, *, reading=None):
    """Evaluate a trained net or an export; see :mod:`gluon_attn.tasks.base`."""
    from gluon_attn.coco.keypoints_boxes import detected_people

    split = "val2017" if args.split == "test" else args.split  # COCO's test labels are not public
    dataset = build.open_split(
        reading_for("coco_keypoints", reading), args.data_dir, split, args.on_bad_image
    )
    if trained:
        values, reading = trained.preprocess, Reading.of(options_of(trained))
        finder = PoseFinder(
            trained.net, values["size"], trained.classes, values["mean"], values["std"], reading,
            ctx[0],
        )  # fmt: skip
    else:
        from gluon_attn.coco.keypoints_export import finder_of_export

        finder = finder_of_export(args.export, ctx[0])
    if finder.names != dataset.names:
        raise ValueError(
            f"{args.data_dir} has the keypoints {', '.join(dataset.names)}; the model was made for "
            f"{', '.join(finder.names)}"
        )
    boxes = getattr(args, "boxes", None)
    people = detected_people(dataset, boxes) if boxes else People.of(dataset)
    found = finder(people, args.batch_size, args.num_workers, progress=True)
    records = finder.records(people, *found, dataset.category_id)
    source = f"boxes of {boxes}" if boxes else "annotated boxes"
    result = write_scores(records, dataset, out, split, source)
    lines = [result["console"], *(f"wrote {path}" for path in result["files"])]
    lines += [f"skipped: image {number}: {why}" for number, why in people.skipped]
    return "\n".join(lines)


def run_export(args, trained):
    """Export a keypoint net; see :mod:`gluon_attn.tasks.base`."""
    from gluon_attn.coco.keypoints_export import export_from_flags

    return export_from_flags(args, trained)


def run_predict(options, sidecar):
    """Find keypoints in pictures with an export; see :mod:`gluon_attn.tasks.base`."""
    from gluon_attn.coco.keypoints_predict import predict_from_flags

    return predict_from_flags(options, sidecar)
