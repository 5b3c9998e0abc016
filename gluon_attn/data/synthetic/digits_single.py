"""Scenes of real handwriting with one label each: one digit among distractors.

The counterpart of ``digits`` for single-label classification, from the same 1,797 samples of
``sklearn.datasets.load_digits`` and with the same splits, which share no sample and hardly a writer
(see there). Every scene has exactly one handwritten digit, of a class drawn evenly, and two to five
distractors: wavy lines, hatching, crossed strokes, printed letters. Where the digit is, is not
said; a classifier has to find it.

Written as one folder per class: ``train/three/00012.jpg``, with ``classes.txt`` (zero to nine).
"""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np

from gluon_attn.core.files import write_bytes, write_json
from gluon_attn.data.synthetic import digits
from gluon_attn.data.synthetic.digits import NAMES, SPLITS
from gluon_attn.data.synthetic.drawing import Canvas, random_colour
from gluon_attn.data.synthetic.generate import (
    claim_folder,
    draw_all,
    release_folder,
    write_image,
)  # fmt: skip

VERSION = 1
IMAGES = {"train": 2000, "val": 400, "test": 600}
SIDE = 128
SIZES = (26.0, 50.0)  # of the digit, in pixels of a page of 128
SMALL_SIZES = (64.0, 88.0)  # the same where the page shrinks to fewer than 64 pixels
DISTRACTORS = (2, 5)


def write_digits_single(
    root, images=None, seed=0, overwrite=False, workers=1, progress=True, side=SIDE
):
    """Draw the data set and write it, one folder per class; lists of classes are written last.

    Args:
        root: Folder to write to.
        images: Number of images per split; missing splits take ``IMAGES``.
        seed: Integer >= 0.
        overwrite: Whether to replace a finished data set of this generator.
        workers: Processes; see ``draw_all``.
        progress: Whether to show a progress bar on a terminal.
        side: Side of the pictures, 16 to 128 pixels. Below 64 the digit fills half to two thirds
            of the page, so that 32 pixels still show it.

    Returns:
        A report: ``expected`` images per split, ``seconds``.

    Raises:
        FileExistsError: If ``root`` holds a data set and ``overwrite`` is false, or holds files
            that this generator did not write.
        ValueError: If ``images``, ``seed`` or ``side`` is invalid.
        ImportError: If scikit-learn is missing.
    """
    images, started = dict(IMAGES, **(images or {})), time.perf_counter()
    images = digits.check_images(images, seed, 0.0)
    if not isinstance(side, int) or not 16 <= side <= SIDE:
        raise ValueError(f"side={side!r}: a whole number from 16 to {SIDE} is needed")
    digits.load_samples()
    root = Path(root)
    outputs = (*SPLITS, "classes.txt", "SYNTHETIC.json")
    claim_folder(root, "digits_single", outputs, "SYNTHETIC.json", overwrite)
    jobs = [(str(root), seed, s, n, side) for s in SPLITS for n in range(images[s])]
    for _ in draw_all(_write_scene, jobs, workers, progress, "composing digits"):
        pass
    write_bytes(root / "classes.txt", ("\n".join(NAMES) + "\n").encode())
    summary = {
        "generator": "digits_single", "version": VERSION, "seed": seed, "side": side,
        "expected": {split: {"images": images[split]} for split in SPLITS},
    }  # fmt: skip
    write_json(root / "SYNTHETIC.json", summary, indent=2)
    release_folder(root)
    return dict(summary, root=str(root), seconds=time.perf_counter() - started)


def _write_scene(job):
    root, seed, split, number, side = job
    rng = np.random.default_rng([seed, 20 + SPLITS.index(split), number])
    # Classes in turn, in an order of their own: as even as a number of pictures allows.
    order = np.random.default_rng([seed, 30 + SPLITS.index(split), number // 10]).permutation(10)
    digit = int(order[number % 10])
    picture, _ = draw_scene(rng, digits.split_samples(split), digit, side)
    write_image(Path(root) / split / NAMES[digit] / f"{number:05d}.jpg", picture,
                rng.integers(80, 96))  # fmt: skip


def draw_scene(rng, samples, digit, side=SIDE):
    """Compose one scene.

    Args:
        rng: NumPy Generator.
        samples: Indices of the handwritten samples that may be used.
        digit: Its class, 0 to 9.
        side: Side of the picture in pixels.

    Returns:
        ``picture`` ``(side, side, 3)`` uint8 RGB, and ``place``, the digit's centre and size
        ``(x, y, size)`` in pixels of the picture.
    """
    pictures, targets = digits.load_samples()
    paper = random_colour(rng, 165, 250, 0.5)
    canvas = Canvas(SIDE, SIDE)
    digits.draw_paper(canvas, rng, paper)
    for _ in range(rng.integers(DISTRACTORS[0], DISTRACTORS[1] + 1)):
        digits.draw_scribble(canvas, rng, digits.random_ink(rng))
    size = rng.uniform(*(SIZES if side >= SIDE // 2 else SMALL_SIZES))
    place = rng.uniform(size * 0.5, SIDE - size * 0.5, 2)
    sample = rng.choice(samples[targets[samples] == digit])
    digits.write_digit(canvas, rng, pictures[sample], place, size, digits.random_ink(rng))
    picture = digits.scan(canvas.image(), rng)
    if side != SIDE:
        picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    scale = side / SIDE
    return picture, (place[0] * scale, place[1] * scale, size * scale)
