"""A tiny data set in COCO's format: coloured shapes and stick people with their 17 keypoints.

Written are ``<split>/*.jpg``, ``annotations/instances_<split>.json`` and
``annotations/person_keypoints_<split>.json`` with the official fields and category ids (gaps
included): polygons, areas, a crowd in run-length code, occluded and unlabelled keypoints. The
class of a thing shows in its shape and colour, left and right of a person in the colours of the
limbs, so nets can learn them. **No number on these images says anything about COCO.**
"""

from __future__ import annotations

import cv2
import numpy as np

from formats.tiny import TINY, generate
from gluon_attn.coco.names import CATEGORIES, KEYPOINTS, SKELETON
from gluon_attn.core.files import write_json
from gluon_attn.data.synthetic.drawing import ellipse, rect, write_image

IMAGES = {"train2017": 8, "val2017": 4}
SIZE = (96, 128)  # height and width
FOLDERS = ("annotations", "train2017", "val2017")
# Category id -> (colour, outline of radius 1 around the origin).
SHAPES = {
    13: ((205, 40, 40), ellipse(0, 0, 1, 1, angle=np.pi / 8, points=9)[:8]),  # stop sign
    37: ((235, 150, 30), ellipse(0, 0, 1, 1)),  # sports ball
    38: ((60, 170, 70), np.array([[0, -1], [0.7, 0], [0, 1], [-0.7, 0]], np.float32)),  # kite
    84: ((70, 70, 200), rect(-1, -0.7, 1, 0.7)),  # book
}
PERSON = 1
# A standing person of height 1: the keypoints' places, x to the right, y down from the eyes.
STANDING = np.array(
    [(0, 0.04), (0.025, 0), (-0.025, 0), (0.055, 0.015), (-0.055, 0.015), (0.11, 0.16),
     (-0.11, 0.16), (0.15, 0.32), (-0.15, 0.32), (0.16, 0.47), (-0.16, 0.47), (0.075, 0.48),
     (-0.075, 0.48), (0.085, 0.70), (-0.085, 0.70), (0.09, 0.92), (-0.09, 0.92)], np.float32
)  # fmt: skip
LIMBS = ((5, 7, 9), (6, 8, 10), (11, 13, 15), (12, 14, 16))  # each turns about its first joint
LEFT, RIGHT, SKIN, SHIRT = (225, 60, 60), (50, 80, 230), (240, 200, 170), (250, 220, 60)


def write_tiny_coco(folder, images=None, seed=0, size=SIZE, overwrite=False, categories="few"):
    """Write a tiny data set in COCO's format; return its report, see :func:`formats.tiny.generate`.

    ``images`` is ``{split: number of images}``; missing splits take ``IMAGES``. ``size`` is height
    and width of the images, at least 64 each. The annotation lists 'few' ``categories`` (the five
    that are drawn) or 'all' 80.
    """
    images = dict(IMAGES, **(images or {}))
    wrong = {split: n for split, n in images.items() if split not in IMAGES or n < 1}
    if wrong or min(size) < 64 or categories not in ("few", "all"):
        raise ValueError(
            f"images={images}, size={size}, categories={categories!r}: valid are "
            f"{' and '.join(IMAGES)} with 1 image or more, 64 pixels or more, 'few' or 'all'"
        )
    return generate(
        folder, "tiny coco", FOLDERS,
        lambda root, rng: _write_splits(root, images, rng, size, categories),
        seed=seed, overwrite=overwrite,
    )  # fmt: skip


class _Writer:
    """One split: draws images and collects their records."""

    def __init__(self, root, split, number, categories):
        self.root, self.split, self.start = root, split, 1000 * (number + 1)
        shown = sorted(CATEGORIES if categories == "all" else {PERSON, *SHAPES})
        self.categories = [{"id": c, "name": CATEGORIES[c]} for c in shown]
        self.images, self.annotations = [], []

    def add_picture(self, rng, height, width):
        """Draw one image with two to four things in it, people in at least every other one."""
        number = self.start + 7 * len(self.images) + 5  # ids have gaps, as official ones do
        name = f"{number:012d}.jpg"
        image = np.full((height, width, 3), rng.uniform(110, 200, 3), np.float32)
        image += np.linspace(-25, 25, height, dtype=np.float32)[:, None, None] * rng.choice([-1, 1])
        people = 1 + int(rng.random() < 0.4) if len(self.images) % 4 != 3 else 0
        places = rng.permutation(3) * width / 3 + width / 6  # three columns: nothing overlaps much
        for column, centre in enumerate(places):
            centre = centre + rng.uniform(-0.03, 0.03) * width
            if column < people:
                self._add(number, _paint_person(rng, image, centre))
            elif column == people or rng.random() < 0.5:
                self._add(number, _paint_shape(rng, image, centre))
        if len(self.images) % 4 == 1:
            self._add(number, _paint_crowd(rng, image))
        image += rng.normal(0, 4, (height, width, 1))
        write_image(self.root / self.split / name, np.clip(image, 0, 255).astype(np.uint8), 95)
        self.images.append({"id": number, "file_name": name, "height": height, "width": width})

    def _add(self, image_id, record):
        number = self.start * 100 + len(self.annotations)
        self.annotations.append(dict(record, id=number, image_id=image_id))

    def save(self):
        """Write both annotation files; return the number of boxes."""
        head = {"info": {"description": "generated shapes, not COCO"}, "licenses": []}
        plain = [{k: v for k, v in record.items() if not k.endswith("keypoints")}
                 for record in self.annotations]  # fmt: skip
        people = [record for record in self.annotations if record["category_id"] == PERSON]
        person = dict(id=PERSON, name="person", keypoints=KEYPOINTS, skeleton=SKELETON)
        for kind, records, categories in (("instances", plain, self.categories),
                                          ("person_keypoints", people, [person])):  # fmt: skip
            content = dict(head, images=self.images, annotations=records, categories=categories)
            path = self.root / "annotations" / f"{kind}_{self.split}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, content, indent=None)
        return len(self.annotations)


def _paint_shape(rng, image, centre):
    height, width = image.shape[:2]
    category = int(rng.choice(sorted(SHAPES)))
    colour, outline = SHAPES[category]
    radius = rng.uniform(0.09, 0.15) * min(width, 1.3 * height)
    y = rng.uniform(radius + 1, height - radius - 2)
    points = outline * radius + (centre, y)
    points = np.clip(points, 0.5, (width - 1.5, height - 1.5)).astype(np.float32)
    shade = np.asarray(colour) + rng.uniform(-15, 15, 3)
    cv2.fillPoly(image, [_fixed(points)], shade.tolist(), cv2.LINE_AA, 4)
    return _record(category, [points])


def _record(category, outlines):
    """Return the fields of an annotation that follow from its outlines."""
    points = np.concatenate(outlines).astype(float)
    low, high = points.min(0), points.max(0)
    area = float(sum(cv2.contourArea(outline.astype(np.float32)) for outline in outlines))
    return {
        "category_id": category,
        "bbox": [round(v, 2) for v in (*low, *(high - low))],
        "area": round(area, 2),
        "iscrowd": 0,
        "segmentation": [[round(float(v), 2) for v in outline.ravel()] for outline in outlines],
    }


def _pose(rng):
    """Return keypoints ``(17, 2)`` of a person of height 1, arms and legs turned at random."""
    points = STANDING.copy()
    for limb in LIMBS:
        side = 1 if limb[0] % 2 else -1  # odd numbers are a person's left, the right of the image
        for k in range(len(limb) - 1):
            spread = (-0.3, 1.6) if limb[0] < 11 else (-0.1, 0.35)
            angle = -side * rng.uniform(*spread) if k == 0 else rng.uniform(-0.4, 0.4)
            c, s = np.cos(angle), np.sin(angle)
            rest, origin = list(limb[k + 1 :]), points[limb[k]].copy()
            points[rest] = (points[rest] - origin) @ np.array([[c, s], [-s, c]]) + origin
    return points


def _paint_person(rng, image, centre):
    """Draw a stick person and return its record, keypoints included."""
    height, width = image.shape[:2]
    tall = rng.uniform(0.62, 0.8) * height
    points = (_pose(rng) * tall).astype(np.float32)
    points += np.float32([centre, rng.uniform(0.12, 0.16) * height])
    points = np.clip(points, 2, (width - 3, height - 3)).astype(np.float32)
    thick = max(2, round(0.035 * tall))
    cv2.fillPoly(image, [_fixed(points[[5, 6, 12, 11, 5]])], SHIRT, cv2.LINE_AA, 4)
    for limb in LIMBS:
        colour = LEFT if limb[0] % 2 else RIGHT
        cv2.polylines(image, [_fixed(points[list(limb)])], False, colour, thick, cv2.LINE_AA, 4)
    middle, radius = points[0], 0.07 * tall
    cv2.circle(image, _fixed(middle).tolist(), round(radius * 16), SKIN, -1, cv2.LINE_AA, 4)
    for k in range(1, 5):
        cv2.circle(
            image, _fixed(points[k]).tolist(), 20, LEFT if k % 2 else RIGHT, -1, cv2.LINE_AA, 4
        )
    visible = np.full(len(points), 2)
    visible[3:5][rng.random(2) < 0.3] = 1  # an ear behind the head
    visible[[9, 10]] = np.where(rng.random(2) < 0.1, 0, 2)  # unlabelled
    low = np.maximum(points.min(0) - (thick, radius), 0.5)
    high = np.minimum(points.max(0) + thick, (width - 1, height - 1))
    record = _record(PERSON, [rect(*low, *high)])
    record["area"] = round(0.5 * record["area"], 2)  # people fill about half of their box
    placed = np.where(visible[:, None] > 0, points, 0)
    rows = [[round(float(x), 2), round(float(y), 2), int(v)] for (x, y), v in zip(placed, visible)]
    record.update(keypoints=sum(rows, []), num_keypoints=int((visible > 0).sum()))
    return record


def _paint_crowd(rng, image):
    """Draw a row of far heads along the upper border and return its record."""
    height, width = image.shape[:2]
    tall, mask = max(4, height // 16), np.zeros((height, width), np.uint8)
    start = int(rng.integers(0, width // 3))
    for x in range(start, start + width // 2, tall):
        for target, colour in ((image, SKIN), (mask, 1)):
            cv2.circle(target, (x, tall), tall // 2, colour, -1)
    ys, xs = np.nonzero(mask)
    box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
    flat = mask.T.ravel()  # column by column
    ends = np.flatnonzero(np.diff(np.r_[0, flat])).tolist() + [len(flat)]
    counts = np.diff([0] + ends).tolist()  # the first run is background
    return {
        "category_id": PERSON, "bbox": [float(v) for v in box], "area": int(mask.sum()),
        "iscrowd": 1, "segmentation": {"counts": counts, "size": [height, width]},
        "keypoints": [0] * (3 * len(KEYPOINTS)), "num_keypoints": 0,
    }  # fmt: skip


def _fixed(points):
    """Return points in OpenCV's fixed-point numbers of four binary places."""
    return np.round(points * 16).astype(np.int32)


def _write_splits(root, images, rng, size=SIZE, categories="few"):
    expected = {}
    for number, (split, count) in enumerate(sorted(images.items())):
        writer = _Writer(root, split, number, categories)
        for _ in range(count):
            writer.add_picture(rng, *size)
        expected[split] = {"images": count, "boxes": writer.save()}
    return expected


def _write_by_name(root, images, rng):
    """Write the tree for :func:`formats.tiny.write_tiny`, which has its own splits."""
    return _write_splits(root, {f"{split}2017": images[split] for split in ("train", "val")}, rng)


TINY.register("coco")((_write_by_name, FOLDERS))
