"""COCO 2017 as published: boxes of 80 categories, and persons with 17 keypoints.

    annotations/instances_train2017.json          boxes
    annotations/person_keypoints_train2017.json   persons with keypoints
    train2017/000000000009.jpg                    images

Own files are read in the same layout under any split name, and as Roboflow
(``train/_annotations.coco.json`` beside the images) and CVAT (``images/`` or ``images/<split>/``)
export them. A ``file_name`` may have folders, back-slashes, or the path of another machine, whose
last part then counts.

Files are read through pycocotools, whose object (``dataset.coco``) the evaluation needs as well,
after every record has been checked (:mod:`gluon_attn.coco.annotations`; GluonCV's data sets check
nothing). Crowds are left out of the samples; the evaluation sees them.

Where an EXIF orientation lays an image on its side, ``width`` and ``height`` of the annotation tell
whether boxes were made on the upright image, as labelling tools show it, or on the stored pixels.

Reference: Lin, Maire, Belongie, Hays, Perona, Ramanan, Dollar, Zitnick, "Microsoft COCO: Common
Objects in Context", ECCV 2014.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from mxnet.gluon.data import Dataset

from gluon_attn.coco.annotations import ARCHIVE, Record, load_coco
from gluon_attn.coco.names import limbs_of, mirror_pairs
from gluon_attn.core.schema import Schema
from gluon_attn.data.base import DATASETS
from gluon_attn.data.images import BadImageError, check_policy, image_size, read_annotated
from gluon_attn.data.layout import Located, Part, PathLike, file_part, folder_part
from gluon_attn.data.published_sizes import CountReport, SplitCount, expected_counts
from gluon_attn.data.scan import files, stored_name, subfolders

logger = logging.getLogger(__name__)

# From memory, not verified here; boxes, and persons with labelled keypoints.
PUBLISHED = {
    "train2017": {"images": 118287, "boxes": 860001},
    "val2017": {"images": 5000, "boxes": 36781},
}
PUBLISHED_PERSONS = {"train2017": 149813, "val2017": 6352}
NOTE = "published counts of COCO 2017: from memory"

ROBOFLOW = "_annotations.coco.json"
ANNOTATIONS = ("annotations/{kind}_{split}.json", "{split}/" + ROBOFLOW)
IMAGES = ("{split}", "images/{split}", "images")  # the second and the third as CVAT exports them


class ImageFinder:
    """Finds the images that a file names, also under the path of another machine."""

    def __init__(self, root: Path, split: str) -> None:
        folders = [root / name.format(split=split) for name in IMAGES]
        self._folders = [folder for folder in folders if folder.is_dir()]
        if not self._folders:
            raise FileNotFoundError(
                f"{root / split} does not exist; unpack {split}.zip there, so that "
                f"{root / split}/*.jpg exist"
            )
        self._folders.append(root)
        self._owners: dict[str, str] = {}  # of file names that were found without their folders

    def __call__(self, name: str) -> Path:
        """Return the file of a ``file_name``; if there is none, the place it should be at."""
        for folder in self._folders:
            path = folder / stored_name(folder, name)
            if path.is_file():
                return path
        last = PurePosixPath(name).name
        for folder in self._folders:
            path = folder / stored_name(folder, last)
            if path.is_file() and self._owners.setdefault(last, name) == name:
                return path
        return self._folders[0] / name


class CocoDataset(Located, Dataset):
    """What both views of COCO share; the sub-classes say what a sample is.

    Args:
        split: 'train2017', 'val2017', or any other name of which annotation and folder exist.
        on_bad_image: 'error' raises where an image cannot be read; 'skip' gives a black image
            without boxes or labelled keypoints and lists it in ``skipped``.

    Attributes:
        coco: pycocotools' COCO object of the whole annotation file.
        names: Classes or keypoints; ``schema`` says that each is binary.
        report: CountReport of this split.
        sample_ids: Names of the samples for messages; ``image_ids``: COCO ids of their images.

    Raises ImportError without pycocotools; FileNotFoundError; ValueError naming file, record and
    remedy.
    """

    kind = ""  # the annotation file's first word
    task = ""  # what is learnt from it: 'detection' or 'keypoints'
    # Names under which tools look for splits; any other works if it is asked for.
    splits = (
        "train2017", "val2017", "train2014", "val2014", "train", "val", "valid", "test", "default",
    )  # fmt: skip
    names: tuple[str, ...]
    sample_ids: list[str]
    image_ids: list

    def __init__(self, root: str | Path, split: str, on_bad_image: str) -> None:
        found = self.locate(root, split)
        self.root, self.split = found.home, split
        self.on_bad_image = check_policy(on_bad_image)
        self.annotation = found.path(self.parts(split)[0])
        if self.annotation.is_file():
            self._find = ImageFinder(self.root, split)
        else:
            there = [f"annotations/{p.name}" for p in files(self.root / "annotations", ".json")]
            there += [f"{n}/{ROBOFLOW}" for n in _roboflow_splits(self.root)]
            if there:
                raise FileNotFoundError(
                    f"{self.annotation} does not exist; {self.root} has {', '.join(there[:8])}. "
                    f"Official ones: unpack {ARCHIVE}"
                )
        keypoints, skip = self.kind == "person_keypoints", on_bad_image == "skip"
        self.coco, self._content = load_coco(
            self.annotation, keypoints, lambda name: image_size(self._find(name), name), skip
        )
        for line in self._content.warnings:
            logger.warning("%s: %s", self.annotation, line)
        for line in self._content.notes:
            logger.info("%s: %s", self.annotation, line)
        self._skipped: dict[int, str] = {}
        self._lock = threading.Lock()
        self._warned = False

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        places = [name.format(kind=cls.kind, split=split) for name in ANNOTATIONS]
        folders = [name.format(split=split) for name in IMAGES]
        return file_part(places[0], *places), folder_part(split, *folders, images=True)

    @classmethod
    def is_home(cls, folder: Path, *others: str) -> bool:
        named = (p.name.startswith(f"{cls.kind}_") for p in files(folder / "annotations"))
        return any(named) or bool(_roboflow_splits(folder))

    @classmethod
    def expected_splits(cls, root: PathLike) -> tuple[str, ...]:
        """Return the official splits if one of them is there, else those that are there."""
        there = [split for split in cls.splits if cls.has_split(root, split)]
        official = cls.splits[:2]
        return official if not there or set(official) & set(there) else tuple(there)

    def annotations(self, i: int) -> list[Record]:
        raise NotImplementedError

    def path(self, i: int) -> Path:
        return self._find(self.coco.imgs[self.image_ids[i]]["file_name"])

    def size(self, i: int) -> tuple[int, int]:
        """Return ``(width, height)`` of sample ``i``'s image, as the annotation has it."""
        record = self.coco.imgs[self.image_ids[i]]
        return int(record["width"]), int(record["height"])

    def read(self, i: int) -> np.ndarray:
        return self.read_image_id(self.image_ids[i], self.sample_ids[i])

    def read_image_id(self, image_id: Any, sample_id: str | None = None) -> np.ndarray:
        """Return the image of a COCO image id, uint8 ``(H, W, 3)`` RGB.

        It is upright, unless only the stored pixels have the width and height of the annotation; a
        BadImageError if there is none, or its size is not the annotation's.
        """
        record = self.coco.imgs[image_id]
        path, sample_id = self._find(record["file_name"]), sample_id or f"{image_id}"
        image, upright = read_annotated(path, sample_id, record["width"], record["height"])
        if not upright:
            with self._lock:
                first, self._warned = not self._warned, True
            if first:
                logger.warning(
                    "%s: has its annotated size, %d x %d, only if its EXIF orientation is "
                    "overlooked; so it is read lying, and others like it. If the boxes are of the "
                    "upright image, exchange width and height in %s",
                    *(path, record["width"], record["height"], self.annotation),
                )
        return image

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def schema(self) -> Schema:
        return Schema.binary(self.names)

    def fingerprint(self) -> str:
        """Return the sha256 of names, images, boxes and keypoints, as 64 hexadecimal digits."""
        keys = ("id", "category_id", "bbox", "keypoints")
        digest = hashlib.sha256(json.dumps(self.names).encode())
        for i in range(len(self)):
            records = [[a.get(key) for key in keys] for a in self.annotations(i)]
            digest.update(json.dumps([self.sample_ids[i], records]).encode())
        return digest.hexdigest()

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Samples met so far whose image could not be read: ``[(sample id, reason), ...]``."""
        with self._lock:
            return [(self.sample_ids[i], why) for i, why in sorted(self._skipped.items())]

    def _open(self, i: int) -> tuple[int, np.ndarray, bool]:
        """Return the position from 0, the image, and whether it is the sample's."""
        i = int(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)} in split '{self.split}'")
        i %= len(self)
        try:
            return i, self.read(i), True
        except BadImageError as error:
            if self.on_bad_image == "error":
                raise
            with self._lock:
                if i not in self._skipped:
                    self._skipped[i] = error.reason
                    logger.warning("skipped: %s", error)
            width, height = self.size(i)
            return i, np.zeros((int(height), int(width), 3), np.uint8), False

    def _box(self, annotation: Record) -> np.ndarray:
        """Return a box cut at the image's border, float32 ``(4,)`` xyxy."""
        x, y, w, h = annotation["bbox"]
        image = self.coco.imgs[annotation["image_id"]]
        box = (max(x, 0), max(y, 0), min(x + w, image["width"]), min(y + h, image["height"]))
        return np.array(box, np.float32)

    def _count(self, boxes: int, published: dict, unit: str) -> CountReport:
        found = self._content
        dropped = [(f"annotation {number}", reason) for number, reason in found.left_out]
        images = len(self.coco.imgs)
        count = SplitCount(self.split, images, boxes=boxes, clipped=found.clipped, dropped=dropped)
        known = published if self.split in published else None
        expected, source = expected_counts(self.root, known)
        notes = [f"{self.split}: boxes are {unit}; samples: {len(self):,}"]
        if not found.total:
            notes.append(f"{self.split}: no annotations: no score can be computed on it")
        notes += [f"{self.split}: {line}" for line in found.warnings + found.notes]
        notes += [NOTE] if source == "published" else []
        return CountReport([count], expected, source, notes=notes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(split={self.split!r}, samples={len(self)})"


def _roboflow_splits(folder: Path) -> list[str]:
    return [name for name in subfolders(folder) if (folder / name / ROBOFLOW).is_file()]


@DATASETS.register("coco")
class CocoDetection(CocoDataset):
    """COCO 2017's boxes of 80 categories.

    ``dataset[i]`` is ``(image, boxes, classes, i)``: uint8 ``(H, W, 3)`` RGB; float32 ``(N, 4)``
    corners x1, y1, x2, y2 in pixels, cut at the border; int64 ``(N,)`` classes counted from 0 in
    the order of the category ids (``category_ids``, named in ``class_names``); the position itself.

    Args:
        policy: Part of the readers' common signature; nothing is unspecified here.
        min_area: Smallest area in pixels of an object that becomes a sample's box (of its mask
            where the annotation tells it).
        use_crowd: Whether boxes around crowds become boxes, too.
        keep_empty: Whether images without boxes are samples; by default in every split whose name
            does not begin with 'train'.
    """

    kind, task = "instances", "detection"
    looks_for = "annotations/instances_<split>.json and <split>/*.jpg"

    def __init__(
        self,
        root: str | Path,
        split: str = "train2017",
        policy: Any = None,
        on_bad_image: str = "error",
        *,
        min_area: float = 0.0,
        use_crowd: bool = False,
        keep_empty: bool | None = None,
    ) -> None:
        super().__init__(root, split, on_bad_image)
        self.min_area, self.use_crowd = float(min_area), bool(use_crowd)
        self.category_ids = tuple(sorted(self.coco.cats))
        self.names = self.class_names = tuple(self.coco.cats[c]["name"] for c in self.category_ids)
        self._class_of = {c: k for k, c in enumerate(self.category_ids)}
        keep_empty = not split.startswith("train") if keep_empty is None else keep_empty
        self.image_ids = [i for i in sorted(self.coco.imgs) if keep_empty or self._usable(i)]
        if not self.image_ids:
            raise ValueError(f"{self.annotation}: no image has a usable box")
        self.sample_ids = [
            f"{split}/{self.coco.imgs[i]['file_name']} (image {i})" for i in self.image_ids
        ]
        self.report = self._count(self._content.total, PUBLISHED, "annotations, crowds included")

    def annotations(self, i: int) -> list[Record]:
        return self._usable(self.image_ids[i])

    @property
    def prior(self) -> np.ndarray:
        """Share of the images that show each class, ``(C,)`` float64."""
        shown = np.zeros(len(self.names))
        for i in range(len(self)):
            shown[np.unique(self.boxes(i)[1])] += 1
        return shown / len(self)

    def boxes(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(boxes, classes)`` of sample ``i`` without reading its image."""
        annotations = self.annotations(i)
        boxes = [self._box(a) for a in annotations]
        classes = [self._class_of[a["category_id"]] for a in annotations]
        return np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        i, image, readable = self._open(i)
        boxes, classes = self.boxes(i)
        return (image, boxes, classes, i) if readable else (image, boxes[:0], classes[:0], i)

    def fingerprint(self) -> str:
        """Return the sha256 of class names, sample ids and boxes, as 64 hexadecimal digits."""
        text = json.dumps([self.names, list(self.sample_ids)], separators=(",", ":"))
        digest = hashlib.sha256(text.encode())
        for i in range(len(self)):
            boxes, classes = self.boxes(i)
            digest.update(np.ascontiguousarray(boxes, "<f4").tobytes())
            digest.update(np.ascontiguousarray(classes, "<i8").tobytes())
        return digest.hexdigest()

    def _usable(self, image_id: Any) -> list[Record]:
        return [
            a
            for a in self.coco.imgToAnns.get(image_id, ())
            if (self.use_crowd or not a["iscrowd"]) and a["area"] >= self.min_area
        ]


@DATASETS.register("coco_keypoints")
class CocoKeypoints(CocoDataset):
    """COCO 2017's persons with labelled keypoints; one sample per person.

    ``dataset[i]`` is ``(image, box, keypoints, i)``: uint8 ``(H, W, 3)`` RGB, the whole image;
    float32 ``(4,)`` corners x1, y1, x2, y2 in pixels; float32 ``(K, 3)`` x, y in pixels and
    visibility (0 unlabelled, 1 hidden, 2 visible); the position itself.

    Attributes:
        keypoint_names: K names in the file's order.
        skeleton: Pairs of keypoints, from 0, that are joined by a limb.
        flip_pairs: Those that a mirror exchanges: their names differ only in 'left' and 'right'.
        annotation_ids: COCO ids of each sample's person.
        category_id: COCO id of the category that the keypoints belong to.
    """

    kind, task = "person_keypoints", "keypoints"
    looks_for = "annotations/person_keypoints_<split>.json and <split>/*.jpg"

    def __init__(
        self,
        root: str | Path,
        split: str = "train2017",
        policy: Any = None,
        on_bad_image: str = "error",
    ) -> None:
        super().__init__(root, split, on_bad_image)
        if len(self.coco.cats) != 1:
            names = ", ".join(c["name"] for c in self.coco.cats.values())
            raise ValueError(f"{self.annotation}: one category is expected, found {names}")
        (category,) = self.coco.cats.values()
        self.category_id = category["id"]
        self.names = self.keypoint_names = tuple(category["keypoints"])
        self.skeleton = limbs_of(category.get("skeleton"), len(self.names))
        self.flip_pairs = mirror_pairs(self.keypoint_names)
        persons = [self.coco.anns[number] for number in sorted(self.coco.anns)]
        persons = [a for a in persons if a["num_keypoints"] and not a["iscrowd"]]
        if not persons:
            raise ValueError(f"{self.annotation}: no person has labelled keypoints")
        self.image_ids = [a["image_id"] for a in persons]
        self.annotation_ids = [a["id"] for a in persons]
        self.sample_ids = [
            f"{split}/{self.coco.imgs[a['image_id']]['file_name']} (annotation {a['id']})"
            for a in persons
        ]
        published = {s: dict(PUBLISHED[s], boxes=n) for s, n in PUBLISHED_PERSONS.items()}
        self.report = self._count(len(self), published, "persons with labelled keypoints")
        if self.report.source == "generated":  # whose counts are those of all boxes
            known, self.report.expected = self.report.expected, {}
            for name, found in known.items():
                self.report.expected[name] = {k: n for k, n in found.items() if k != "boxes"}

    def annotations(self, i: int) -> list[Record]:
        return [self.coco.anns[self.annotation_ids[i]]]

    @property
    def prior(self) -> np.ndarray:
        """Share of the persons of whom each keypoint is labelled, ``(K,)`` float64."""
        return np.mean([self.person(i)[1][:, 2] > 0 for i in range(len(self))], axis=0)

    def person(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(box, keypoints)`` of sample ``i`` without reading its image."""
        (annotation,) = self.annotations(i)
        keypoints = np.array(annotation["keypoints"], np.float32).reshape(-1, 3)
        return self._box(annotation), keypoints

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        i, image, readable = self._open(i)
        box, keypoints = self.person(i)
        return image, box, keypoints if readable else np.zeros_like(keypoints), i
