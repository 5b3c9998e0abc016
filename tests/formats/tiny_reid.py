"""Market-1501 and DukeMTMC-reID trees of synthetic people, in the exact official format.

Folders, file names, query and gallery, junk (-1) and distractors (0000) are as published. Every
identity is one of the synthetic pedestrians (:mod:`gluon_attn.data.synthetic.pedestrian`) with its
own clothes, colours and build, in another pose and place in every image. Each camera has its own
background, light, colours and sharpness. **No person is real, and no number on these images says
anything about the real data sets.**
"""

from __future__ import annotations

import copy
from functools import partial

import cv2
import numpy as np

from formats.tiny import TINY, write_photo
from gluon_attn.data.synthetic.pedestrian import Population, draw_person, sample_look
from gluon_attn.data.synthetic.scenery import paint_background

SIZE = (128, 64)  # height and width, those of Market-1501
CAMERAS, EACH = 4, 3  # images of an identity: EACH per camera that has seen it
POSE = ("arms", "legs", "knees", "yaw", "lean", "light", "grain")  # what differs between images
SCENE = (256, 320)  # of a camera's background, from which images are cut


NAMES = {  # of files, from identity, camera, frame and box
    "market": "{identity}_c{camera}s1_{frame:06d}_{box:02d}.jpg",
    "duke": "{identity}_c{camera}_f{frame:07d}.jpg",
}


class _Camera:
    """What all images of a camera share."""

    def __init__(self, rng):
        canvas, _, _ = paint_background(rng, *SCENE)
        self.scene = canvas.image().astype(np.float32)
        self.cast = rng.uniform(0.85, 1.15, 3).astype(np.float32)
        self.light = float(rng.uniform(0.6, 1.1))
        self.blur = float(rng.uniform(0.3, 1.0))
        self.grain = float(rng.uniform(1, 6))

    def take(self, outfit, look, rng):
        """Return an image of a person, uint8 ``(128, 64, 3)``."""
        height, width = SIZE
        top, left = (int(rng.integers(s - k + 1)) for s, k in zip(SCENE, SIZE))
        image = self.scene[top : top + height, left : left + width].copy()
        if outfit is not None:
            _lay_on(image, outfit, look, rng)
        image *= self.light * self.cast * np.float32(rng.uniform(0.9, 1.1))
        image = cv2.GaussianBlur(image, (0, 0), self.blur)
        image += rng.standard_normal((height, width, 1), np.float32) * np.float32(self.grain)
        return np.clip(image, 0, 255).astype(np.uint8)


class _Person:
    """An identity: what is the same in all its images."""

    def __init__(self, population, rng):
        self.outfit, self.look = population.sample(rng), sample_look(rng)

    def appearance(self, rng):
        """Return the look of one image: another pose, perhaps from behind."""
        look, other = copy.copy(self.look), sample_look(rng, back=rng.random() < 0.3)
        vars(look).update({key: getattr(other, key) for key in POSE})
        look.back = other.back
        return look


def _lay_on(image, outfit, look, rng):
    """Draw a person on ``image``, feet near its lower border, as a detector would cut it out."""
    height, width = SIZE
    tall = height * rng.uniform(0.78, 0.9)
    rgb, alpha, _ = draw_person(outfit, look, tall)
    patch = np.dstack([rgb, alpha]).astype(np.float32)
    middle = patch.shape[1] / 2 + rng.uniform(-4, 4)
    bottom = patch.shape[0] + rng.uniform(-3, 6)  # the feet end a little above
    shift = np.float32([[1, 0, width / 2 - middle], [0, 1, height - bottom]])
    patch = cv2.warpAffine(patch, shift, (width, height))
    image *= 1 - patch[..., 3:]
    image += patch[..., :3]


def write_reid(layout, root, images, rng, *, cameras=CAMERAS, each=EACH):
    """Write the three folders; return the expected counts.

    Identities are seen by two cameras or more, ``each`` times by each of them; in the test part the
    first image of a camera is the query and the others are in the gallery. ``images`` are about
    those per split: identities come whole. Those of 'train' and 'val' together make the training
    part, those of 'test' the queries and the gallery. ``layout`` is 'market' or 'duke'.
    """
    if not 2 <= cameras <= 6 or each < 2:
        raise ValueError(f"cameras={cameras}: valid are 2 to 6; each={each}: at least 2")
    names, population = NAMES[layout], Population()
    studio = [_Camera(rng) for _ in range(cameras)]
    numbers = {"train": images["train"] + images["val"], "test": images["test"]}
    expected, frame = {}, 0
    for part, count in numbers.items():
        people = max(4, round(count / (each * (cameras + 2) / 2)))
        counts = {"query": 0, "bounding_box_test": 0, "bounding_box_train": 0}
        for number in range(people):
            person, identity = _Person(population, rng), 2 * number + 2 - (part == "test")
            seen = rng.permutation(cameras)[: rng.integers(2, cameras + 1)]
            for camera in np.sort(seen):
                for box in range(each):
                    folder = f"bounding_box_{part}"
                    folder = "query" if part == "test" and box == 0 else folder
                    frame += int(rng.integers(20, 60))
                    name = names.format(
                        identity=f"{identity:04d}", camera=camera + 1, frame=frame, box=box
                    )
                    rgb = studio[camera].take(person.outfit, person.appearance(rng), rng)
                    write_photo(root / folder / name, rgb)
                    counts[folder] += 1
        if part == "train":
            expected["trainval"] = {"images": counts["bounding_box_train"], "identities": people}
            continue
        others = (
            0 if layout == "duke" else _write_others(names, root, people, population, studio, rng)
        )
        expected["query"] = {"images": counts["query"], "identities": people}
        gallery = counts["bounding_box_test"] + others
        expected["gallery"] = {"images": gallery, "identities": people}
    return expected


def _write_others(names, root, count, population, studio, rng):
    """Write distractors (other people) and junk (cut-off people); return how many."""
    for identity in ("0000", "-1"):
        for number in range(count):
            camera = int(rng.integers(len(studio)))
            person = _Person(population, rng)
            rgb = studio[camera].take(person.outfit, person.appearance(rng), rng)
            if identity == "-1":
                rgb = cv2.resize(rgb[: SIZE[0] // 3], SIZE[::-1])
            name = names.format(identity=identity, camera=camera + 1, frame=number + 1, box=1)
            write_photo(root / "bounding_box_test" / name, rgb)
    return 2 * count


REID_FOLDERS = ("bounding_box_train", "bounding_box_test", "query")
for name in NAMES:
    TINY.register(f"reid_{name}")((partial(write_reid, name), REID_FOLDERS))
