"""A synthetic pedestrian data set in the official on-disk format of WIDER-Attribute.

Scenes of one to six people show all 14 attributes. Their rates and order are WIDER's
(``Population``); everything else about the images is invented.

Labels are 1 positive, -1 negative, 0 unspecified. A label becomes unspecified when the part that
shows it is hidden behind someone, behind an object or outside the image; "Male" also for some
people who are small or seen from behind. Hidden legs are recorded as negative half of
the time: real annotators do either (an assumption, as are the shares).

``write_tasks`` packs the same people with tasks of clearly different difficulty, data for AWMT:
real imbalance (rates as in WIDER-Attribute), small and large details, and labels of which a share
is wrong in the training and validation splits. The test split keeps its true labels.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Sequence

import cv2
import numpy as np

from gluon_attn.core.batch import LabelPolicy
from gluon_attn.core.files import write_json
from gluon_attn.data.base import DATASETS
from gluon_attn.data.packing import pack
from gluon_attn.data.synthetic import drawing
from gluon_attn.data.synthetic.pedestrian import ATTRIBUTES, Population, draw_person, sample_look
from gluon_attn.data.synthetic.scenery import paint_background, paint_occluder
from gluon_attn.data.views import ChosenAttributes

logger = logging.getLogger(__name__)

VERSION = 1
OUTPUTS = ("Anno", "Image", "SYNTHETIC.json")  # what the folder of a finished data set holds
IMAGES = {  # of each generator, by default
    "synthetic": {"train": 1000, "val": 200, "test": 300},
    "tasks": {"train": 500, "val": 150, "test": 300},
}
# The 30 scenes of WIDER-Attribute keep the numbers they have among the 61 events of WIDER
SCENES = {
    0: "Parade", 1: "Handshaking", 3: "Riot", 4: "Dancing", 6: "Funeral", 7: "Cheering",
    11: "Meeting", 15: "Stock_Market", 17: "Ceremony", 18: "Concerts", 19: "Couple",
    20: "Family_Group", 22: "Picnic", 25: "Soldier_Patrol", 27: "Spa", 28: "Sports_Fan",
    30: "Surgeons", 31: "Waiter_Waitress", 33: "Running", 35: "Basketball", 36: "Football",
    37: "Soccer", 39: "Ice_Skating", 43: "Row_Boat", 44: "Aerobics", 50: "Celebration_Or_Party",
    51: "Dresses", 54: "Rescue", 57: "Angler", 58: "Hockey",
}  # fmt: skip
PLACE_SCENES = {
    "street": (0, 3, 7, 6, 33, 25),
    "park": (22, 20, 57, 19),
    "indoor": (1, 11, 15, 17, 30, 31, 51),
    "stadium": (28, 35, 36, 37, 39, 44, 58),
    "shop": (31, 50, 51, 18),
    "beach": (27, 43, 54, 4),
}
# The part of the body that must be seen for a label to be given (a region of the pedestrian)
PART = {
    "Male": "face", "longHair": "head", "sunglass": "face", "Hat": "hat", "Tshirt": "chest",
    "longSleeve": "top", "formal": "chest", "shorts": "thighs", "jeans": "thighs",
    "longPants": "thighs", "skirt": "thighs", "faceMask": "face", "logo": "chest",
    "stripe": "chest",
}  # fmt: skip
LOWER = ("shorts", "jeans", "longPants", "skirt")
_population = None


def write_synthetic(
    root: Any,
    images: Any = None,
    seed: int = 0,
    workers: int | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Draw the data set and write it as WIDER-Attribute is published.

    Beside its files there is ``SYNTHETIC.json`` (generator, version, seed and the expected numbers
    of images and boxes). Annotations are written last: a run that was interrupted leaves none, and
    the next call starts it over. Every image has its own random stream, so the files do not depend
    on ``workers``.

    Args:
        images: Scenes per split, ``{"train": n, "val": n, "test": n}``; about three persons each.
        workers: Processes; ``None`` takes one per usable core. They are started by "spawn", so a
            script that asks for several needs the usual ``if __name__ == "__main__"``.
        overwrite: Whether to replace a finished synthetic data set; FileExistsError otherwise.

    Returns a report: ``expected`` (per split: images, boxes), ``positive_rate`` and
    ``unspecified_rate`` (per attribute, over all boxes), ``seconds``.
    """
    images = drawing.check_images(IMAGES["synthetic"] if images is None else images, seed)
    root = Path(root)
    jobs = [(str(root), seed, split, n) for split in drawing.SPLITS for n in range(images[split])]
    with drawing.generated(
        root, "synthetic", OUTPUTS[:2], OUTPUTS[2], overwrite=overwrite
    ) as summary:
        title = "drawing pedestrians"
        records = list(drawing.draw_all(_write_scene, jobs, workers, progress, title=title))
        parts = {s: [r for r in records if r["file_name"].startswith(f"{s}/")] for s in images}
        boxes = {s: sum(len(r["targets"]) for r in part) for s, part in parts.items()}
        expected = {s: {"images": len(part), "boxes": boxes[s]} for s, part in parts.items()}
        for name, found in ("trainval", parts["train"] + parts["val"]), ("test", parts["test"]):
            document = {
                "images": found,
                "attribute_id_map": {str(i): name for i, name in enumerate(ATTRIBUTES)},
                "scene_id_map": {str(i): name for i, name in SCENES.items()},
            }
            path = root / "Anno" / f"wider_attribute_{name}.json"
            write_json(path, document, indent=None)
        summary.update(version=VERSION, seed=seed, expected=expected)
    labels = np.array([t["attribute"] for r in records for t in r["targets"]])
    labels = labels.reshape(-1, len(ATTRIBUTES))
    for key, value in (("positive_rate", 1), ("unspecified_rate", 0)):
        summary[key] = dict(zip(ATTRIBUTES, (labels == value).mean(0).tolist()))
    logger.info("%s: %s in %.0f s", root, expected, summary["seconds"])
    return summary


def _write_scene(job: Any) -> Any:
    root, seed, split, number = job
    rng = np.random.default_rng([seed, drawing.SPLITS.index(split), number])
    image, targets, place = draw_scene(rng)
    scene = int(rng.choice(PLACE_SCENES[place]))
    name = SCENES[scene]
    file_name = f"{split}/{scene}--{name}/{scene}_{name}_{place}_{scene}_{number}.jpg"
    drawing.write_image(Path(root) / "Image" / file_name, image, rng.integers(45, 93))
    return {"file_name": file_name, "scene_id": scene, "targets": targets}


def draw_scene(rng: np.random.Generator) -> Any:
    """Return a scene ``(H, W, 3)`` uint8 RGB, its targets as in the annotation, and its place."""
    global _population
    _population = _population or Population()
    height, width = int(rng.integers(240, 401)), int(rng.integers(320, 481))
    canvas, horizon, place = paint_background(rng, height, width)
    scene = _Scene(canvas, rng)
    for x, feet, tall in _places(rng, height, width, horizon):
        scene.add(_population.sample(rng), x, feet, tall)
    scene.obstruct()
    targets = scene.targets()
    return _photograph(scene.canvas.image(), rng), targets, place


def _places(rng: np.random.Generator, height: int, width: float, horizon: float) -> Any:
    """Return ``(x, feet, size)`` of one to six people, far ones first."""
    count = 1 + rng.choice(6, p=[0.14, 0.26, 0.25, 0.17, 0.11, 0.07])
    base = rng.uniform(0.38, 0.84) * height
    taken: list[tuple[Any, float]] = []
    found: list[tuple[float, float, float]] = []
    for _ in range(count):
        tall = float(np.clip(base * rng.uniform(0.8, 1.2), 80, 260))
        near = tall / (0.9 * height)
        feet = horizon + (height - horizon) * np.clip(near + rng.uniform(-0.15, 0.1), 0.1, 0.97)
        if rng.random() < 0.11:  # cut by the lower border
            tall = float(np.clip(tall * 1.3, 120, 260))
            feet = height + tall * rng.uniform(0.32, 0.5)
        feet = max(feet, tall * rng.uniform(1.0, 1.08))
        spots = rng.uniform(0.09 * width, 0.91 * width, 4)
        if rng.random() < 0.07:  # cut by a side border
            spots = rng.choice([-0.03, 1.03], 1) * width + rng.uniform(-8, 8)
        gaps = [min([abs(s - x) / (t + tall) for x, t in taken], default=1) for s in spots]
        x = spots[int(np.argmax(gaps))]
        taken.append((x, tall))
        found.append((float(x), float(feet), tall))
    return sorted(found, key=lambda place: place[1])


class _Scene:
    """An image that remembers which pixel belongs to whom."""

    def __init__(self, canvas: drawing.Canvas, rng: np.random.Generator) -> None:
        self.canvas, self.rng = canvas, rng
        self.people: list[Any] = []
        self.owner = np.full(canvas.alpha.shape, -1, np.int16)

    def add(self, outfit: Any, x: float, feet: float, tall: float) -> None:
        """Draw a person whose feet stand at ``(x, feet)`` in front of everyone so far."""
        rng = self.rng
        plain = not (outfit.sunglass or outfit.mask or outfit.top == "suit" or outfit.logo)
        back = plain and rng.random() < 0.12
        rgb, alpha, regions = draw_person(outfit, sample_look(rng, back), tall)
        rgb = rgb * rng.uniform(0.7, 1.1)
        left, top = int(round(x - tall * 0.6)), int(round(feet - tall * 1.34))
        shade = drawing.ellipse(x + tall * 0.03, feet, tall * 0.2, tall * 0.03)
        self.canvas.paint([shade], (25, 25, 30), opacity=0.35)
        spot, part = _overlap(self.owner.shape, alpha.shape, left, top)
        under = self.canvas.rgb[(slice(None), spot[0], spot[1])]
        under *= 1.0 - alpha[part]
        under += rgb[part].transpose(2, 0, 1)
        self.owner[spot][alpha[part] > 0.5] = len(self.people)
        self.people.append((outfit, back, alpha > 0.5, (left, top), regions, tall))

    def obstruct(self) -> None:
        """Perhaps put an object in front of one of the people."""
        rng = self.rng
        if rng.random() > 0.28:
            return
        _, _, _, (left, top), regions, tall = self.people[rng.integers(len(self.people))]
        x0, y0, x1, _ = regions["legs"]
        middle, half = left + (x0 + x1) / 2, tall * rng.uniform(0.25, 0.5)
        edge = top + y0 + tall * rng.uniform(0.05, 0.3)
        height, width = self.owner.shape
        thing = paint_occluder(rng, height, width, edge, left=middle - half, right=middle + half)
        self.canvas.rgb *= 1.0 - thing.alpha
        self.canvas.rgb += thing.rgb
        self.owner[thing.alpha > 0.5] = -2

    def targets(self) -> list[dict[str, Any]]:
        """Return the annotation of everyone who can be seen well enough to have been noticed."""
        found = []
        for number, person in enumerate(self.people):
            box = self._box(person)
            seen = self._seen(number, person)
            if box and seen["body"] > 0.3 and max(seen["face"], seen["chest"]) >= 0.4:
                found.append({"attribute": self._labels(person, seen), "bbox": box})
        return found

    def _seen(self, number: int, person: Any) -> Any:
        """Return, per region, the part of the person's pixels that is in view."""
        _, _, mask, (left, top), regions, _ = person
        spot, part = _overlap(self.owner.shape, mask.shape, left, top)
        visible = np.zeros_like(mask)
        visible[part] = self.owner[spot] == number
        seen = {}
        for name, box in regions.items():
            x0, y0, x1, y1 = (max(0, int(v)) for v in box)
            total = mask[y0:y1, x0:x1].sum()
            seen[name] = visible[y0:y1, x0:x1].sum() / total if total else 0.0
        return seen

    def _labels(self, person: Any, seen: dict) -> list[int]:
        outfit, back, _, _, _, tall = person
        rng = self.rng
        labels = [1 if true else -1 for true in outfit.attributes()]
        record_hidden = rng.random() < 0.5
        for i, name in enumerate(ATTRIBUTES):
            if seen[PART[name]] < 0.4:
                labels[i] = -1 if name in LOWER and record_hidden else 0
        if rng.random() < (0.4 if back else 0.15 if tall < 110 else 0.03):
            labels[0] = 0
        if back:  # what the face wears cannot be told
            labels[2], labels[11] = 0, 0
        return labels

    def _box(self, person: Any) -> list[int] | None:
        """Return ``[x, y, w, h]``; cut by the image, it may stick out a little."""
        _, _, mask, (left, top), _, tall = person
        rng, (height, width) = self.rng, self.owner.shape
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        loose = rng.uniform(0, 0.03) * np.array([-1, -1, 1, 1])
        sloppy = (rng.normal(0, 0.025, 4) + loose) * tall
        x0, x1, y0, y1 = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
        box = np.array([x0 + left, y0 + top, x1 + left, y1 + top]) + sloppy
        over = rng.uniform(-1, 7, 4)
        limit = np.array([width, height, width, height])
        box = np.clip(box, -over, limit + over) if rng.random() < 0.6 else np.clip(box, 0, limit)
        x0, y0, x1, y1 = (int(round(v)) for v in box)
        if min(x1, width) - max(x0, 0) < 12 or min(y1, height) - max(y0, 0) < 30:
            return None
        return [x0, y0, x1 - x0, y1 - y0]


def _overlap(size: Any, patch: Any, left: Any, top: Any) -> Any:
    """Return the slices of an image and of a patch laid on it at ``(left, top)``."""
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + patch[0], size[0]), min(left + patch[1], size[1])
    y1, x1 = max(y1, y0), max(x1, x0)
    spot = (slice(y0, y1), slice(x0, x1))
    return spot, (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def _photograph(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image as a camera would: uneven light, colour cast, blur, noise."""
    height, width = rgb.shape[:2]
    slope = rng.uniform(-0.25, 0.25, 2)
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    light = rng.uniform(0.55, 1.1) * (1 + slope[0] * x[None] + slope[1] * y[:, None])
    cast = rng.uniform(0.92, 1.08, 3).astype(np.float32)
    image = rgb * (light.astype(np.float32)[..., None] * cast)
    if rng.random() < 0.3:  # a cheap sensor
        share = rng.uniform(0.5, 0.8)
        small = cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.3))
    elif rng.random() < 0.15:  # camera shake
        image = cv2.blur(image, (int(rng.integers(2, 5)), 1))
    grain = rng.standard_normal((height, width, 1), np.float32)
    image += grain * np.float32(rng.uniform(0.5, 5))
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


# Task and share of flipped labels in train and val, in the data set's order. Positives: from 10 %
# (skirt) to 55 % (Male); a logo is a few pixels wide, a sleeve is not.
TASKS = {"Male": 0.2, "Hat": 0.1, "longSleeve": 0.0, "skirt": 0.0, "logo": 0.0}
TASK_SIZE = 56  # pixels of the packed people


def write_tasks(
    root: Any,
    images: Any = None,
    seed: int = 0,
    workers: int | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Draw people, choose their tasks, flip labels and pack; ``root`` is then a packed data set.

    The scenes stay in ``root/scenes``, with all attributes and true labels. Arguments, report and
    errors are those of :func:`write_synthetic`; missing splits take ``IMAGES["tasks"]``.
    """
    outputs = [f"{split}.{end}" for split in drawing.SPLITS for end in ("rec", "idx", "json")]
    outputs, scenes = ["scenes", *outputs], Path(root) / "scenes"
    images = dict(IMAGES["tasks"], **(images or {}))
    with drawing.generated(
        root, "tasks", outputs, "SYNTHETIC.json", overwrite=overwrite
    ) as summary:
        report = write_synthetic(scenes, images, seed, workers, progress=progress)
        for split in drawing.SPLITS:
            pack_split(scenes, split, root, seed, progress=progress)
        summary.update(version=VERSION, seed=seed, flipped=TASKS, size=TASK_SIZE)
        summary["expected"] = report["expected"]
    return summary


def pack_split(scenes: Any, split: str, root: Any, seed: int = 0, *, progress: bool = True) -> None:
    """Pack the tasks of the people of one split, their labels flipped but in the test split."""
    people = DATASETS.get("wider")(str(scenes), split, LabelPolicy("masked"))
    people = ChosenAttributes(people, list(TASKS))
    if split != "test":
        rng = np.random.default_rng([seed, drawing.SPLITS.index(split)])
        people.raw = flip_labels(people.raw, people.names, rng)
    pack(people, Path(root) / split, size=TASK_SIZE, train_size=TASK_SIZE - 2, progress=progress)


def flip_labels(raw: np.ndarray, names: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Return raw labels of which each attribute's share in ``TASKS`` has changed sign.

    ``raw`` is ``(n, len(names))``: 1, -1, or 0 where nothing is known, which stays.
    """
    share = np.array([TASKS[name] for name in names])
    return np.where(rng.random(raw.shape) < share, -raw, raw).astype(raw.dtype)
