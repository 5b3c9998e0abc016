"""Scenes of real handwriting with multi-label truth, as a generic list data set.

The pixels are the 1,797 digits of ``sklearn.datasets.load_digits`` (8x8, 17 grey levels). They
are the test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak,
1998). The samples come in blocks by writer, so the splits take *contiguous* runs: the first 60 %
for train, the next 15 % for val, the last 25 % for test. No sample is in two splits, and at most
the writers at the two cuts are.

Class frequencies are long-tailed: digit ``k`` (the order is shuffled by ``seed``) is drawn with
odds ``RATIO ** (-rank / 9)``, the exponential law usual for long-tailed versions of balanced sets
(Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019).

``write_digits`` writes several digits a scene as a generic list, ``write_digits_single`` exactly
one handwritten digit, of a class chosen evenly, among two to five distractors (wavy lines,
hatching, crossed strokes, printed letters) as one folder per class: ``train/three/00012.jpg``, with
``classes.txt`` (zero to nine).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gluon_attn.core.files import write_bytes
from gluon_attn.data.synthetic.drawing import (
    SPLITS,
    Canvas,
    check_images,
    draw_all,
    ellipse,
    generated,
    random_colour,
    rect,
    stripes,
    write_image,
)

VERSION = 1
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CUTS = {"train": (0.0, 0.6), "val": (0.6, 0.75), "test": (0.75, 1.0)}
IMAGES = dict.fromkeys(("digits", "digits_single"), {"train": 2000, "val": 400, "test": 600})
RATIO = 20.0
SIDE = 128
_digits = None


def write_digits(
    root: Any,
    images: Any = None,
    seed: int = 0,
    overwrite: bool = False,
    *,
    workers: int | None = 1,
    progress: bool = True,
    unspecified: float = 0.0,
) -> dict[str, Any]:
    """Draw the data set and write it in the format of :mod:`gluon_attn.data.lists`, lists last.

    Beside ``images/<split>_<number>.jpg`` (128x128) and the lists there is ``DIGITS.json``
    (generator, version, seed, numbers of images, class odds).

    Args:
        images: Scenes per split.
        workers: Processes; see ``draw_all``.
        unspecified: Share of labels in 0..1 that are hidden (written as -1).

    Returns a report: ``expected`` images per split, ``positive_rate`` per name, ``seconds``.
    FileExistsError: ``root`` holds something that may not be replaced.
    """
    images = check_images(images or IMAGES["digits"], seed)
    if not 0.0 <= unspecified < 1.0:
        raise ValueError(f"unspecified={unspecified!r}: a share in [0, 1) is needed")
    load_samples()
    outputs = ["images", "names.txt"] + [f"{s}.txt" for s in SPLITS]
    jobs = [(str(root), seed, s, n, unspecified) for s in SPLITS for n in range(images[s])]
    with generated(root, "digits", outputs, "DIGITS.json", overwrite=overwrite) as summary:
        records = list(draw_all(_write_scene, jobs, workers, progress, title="composing digits"))
        write_bytes(Path(root) / "names.txt", ("\n".join(NAMES) + "\n").encode())
        for split in SPLITS:
            lines = [line for name, line, _ in records if name == split]
            write_bytes(Path(root) / f"{split}.txt", "".join(lines).encode())
        expected = {split: {"images": images[split]} for split in SPLITS}
        odds = dict(zip(NAMES, class_odds(seed).round(5).tolist()))
        summary.update(version=VERSION, seed=seed, expected=expected, odds=odds)
    labels = np.array([row for _, _, row in records])
    return dict(summary, positive_rate=dict(zip(NAMES, (labels == 1).mean(0).tolist())))


def class_odds(seed: int) -> np.ndarray:
    """Return the ``(10,)`` probabilities with which a written digit is of each class."""
    rank = np.random.default_rng([seed, 99]).permutation(10)
    odds = RATIO ** (-rank / 9.0)
    return odds / odds.sum()


def split_samples(split: str) -> np.ndarray:
    """Return the indices into ``load_digits`` that ``split`` may use."""
    total = len(load_samples()[1])
    first, last = (int(round(share * total)) for share in CUTS[split])
    return np.arange(first, last)


def load_samples() -> tuple[np.ndarray, np.ndarray]:
    """Return all handwritten samples: ``(1797, 8, 8)`` float32 in [0, 1], and their classes."""
    global _digits
    if _digits is None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            hint = "the digits come with scikit-learn: pip install scikit-learn"
            raise ImportError(hint) from error
        bunch = load_digits()
        _digits = bunch.images.astype(np.float32) / 16.0, bunch.target
    return _digits


def _write_scene(job: Any) -> Any:
    root, seed, split, number, unspecified = job
    rng = np.random.default_rng([seed, 10 + SPLITS.index(split), number])
    image, present = draw_scene(rng, split_samples(split), class_odds(seed))
    label = present.astype(int)
    label[rng.random(10) < unspecified] = -1
    name = f"images/{split}_{number:05d}.jpg"
    write_image(Path(root) / name, image, rng.integers(70, 95))
    return split, f"{name}\t{','.join(map(str, label))}\n", label.tolist()


def draw_scene(rng: np.random.Generator, samples: np.ndarray, odds: Any) -> Any:
    """Return a scene, ``(128, 128, 3)`` uint8 RGB, and which digits it shows, ``(10,)`` bool."""
    digits, targets = load_samples()
    canvas = _page(rng, 1, 4)
    present = np.zeros(10, bool)
    taken: list[Any] = []
    for _ in range(rng.integers(1, 6)):
        digit = rng.choice(10, p=odds)
        size = rng.uniform(26, 50)
        place = _free_place(rng, size, taken)
        if place is None:
            continue
        taken.append((*place, size))
        sample = rng.choice(samples[targets[samples] == digit])
        write_digit(canvas, rng, digits[sample], place, size=size, ink=random_ink(rng))
        present[digit] = True
    return scan(canvas.image(), rng), present


def _page(rng: np.random.Generator, fewest: int, most: int) -> Canvas:
    """Return a page with ``fewest`` to ``most`` scribbles, and no digit yet."""
    canvas, paper = Canvas(SIDE, SIDE), random_colour(rng, 165, 250, 0.5)
    draw_paper(canvas, rng, paper)
    for _ in range(rng.integers(fewest, most + 1)):
        draw_scribble(canvas, rng, random_ink(rng))
    return canvas


def random_ink(rng: np.random.Generator) -> np.ndarray:
    """Return a dark ink: black, blue, red, green or pencil grey."""
    inks = [(25, 25, 30), (30, 45, 130), (140, 30, 35), (30, 95, 55), (90, 90, 95)]
    return np.array(inks[rng.integers(5)]) + rng.uniform(-15, 20, 3)


def draw_paper(canvas: Canvas, rng: np.random.Generator, paper: np.ndarray) -> None:
    """Paint a page of colour ``paper``: plain, ruled, squared or stained."""
    canvas.rgb[:] = paper[:, None, None]
    canvas.alpha[:] = 1.0
    kind = rng.integers(4)
    if kind == 0:  # ruled
        lines = stripes(rng.uniform(10, 20), np.pi / 2 + rng.normal(0, 0.03), paper * 0.8, 0.08)
        canvas.paint([rect(0, 0, SIDE, SIDE)], paper, texture=lines)
    elif kind == 1:  # squared
        for angle in (0.0, np.pi / 2):
            for at in np.arange(rng.uniform(0, 12), SIDE, 12):
                ends = [(at, 0), (at, SIDE)] if angle == 0.0 else [(0, at), (SIDE, at)]
                canvas.stroke(ends, paper * 0.82, 1)
    elif kind == 2:  # stains
        for x, y, r in rng.uniform((0, 0, 8), (SIDE, SIDE, 30), (4, 3)):
            canvas.paint([ellipse(x, y, r, r * 0.8)], paper * rng.uniform(0.82, 0.97), opacity=0.7)


def draw_scribble(canvas: Canvas, rng: np.random.Generator, ink: Any) -> None:
    """Paint something pen-like that is no digit: a wavy line, hatching, crossed strokes."""
    x, y = rng.uniform(10, SIDE - 10, 2)
    kind, size, width = rng.integers(4), rng.uniform(8, 22), rng.uniform(1.5, 4)
    if kind == 0:
        t = np.linspace(0, 1, 24)
        wave = np.sin(t * rng.uniform(12, 26)) * size * 0.3
        canvas.stroke(np.stack([x + (t - 0.5) * size * 2.5, y + wave], 1), ink, width)
    elif kind == 1:
        for i in range(4):
            canvas.stroke([(x + i * 5, y), (x + i * 5 - size * 0.4, y + size)], ink, width * 0.7)
    elif kind == 2:  # strokes like those of letters: X, K, H, E ...
        joints = rng.integers(0, 3, (4, 2, 2)) * size * 0.5 + (x - size / 2, y - size / 2)
        for ends in joints:
            canvas.stroke(ends, ink, width)
    else:
        canvas.text((x, y), "AEFHKMNRTUVWXY"[rng.integers(14)], size * 0.9, ink)


def _free_place(rng: np.random.Generator, size: Any, taken: list) -> Any:
    """Return a centre where a digit overlaps no other by much, or None."""
    for _ in range(12):
        x, y = rng.uniform(size * 0.45, SIDE - size * 0.45, 2)
        if all(np.hypot(x - a, y - b) > 0.42 * (size + s) for a, b, s in taken):
            return x, y
    return None


def write_digit(
    canvas: Canvas, rng: np.random.Generator, grey: np.ndarray, place: Any, *, size: Any, ink: Any
) -> None:
    """Lay one handwritten sample ``(8, 8)`` on the paper, enlarged, turned and slanted."""
    side = 96
    large = cv2.resize(np.pad(grey, 1), (side, side), interpolation=cv2.INTER_CUBIC)
    large = cv2.GaussianBlur(large, (0, 0), 3.0)
    stroke = np.clip((large - rng.uniform(0.44, 0.56)) * 6 + 0.5, 0, 1)  # pen edge, not blur
    angle, slant, scale = rng.normal(0, 0.16), rng.normal(0, 0.15), size * 1.25 / side
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[rng.uniform(0.85, 1.15), slant], [0, 1]]) * scale
    shift = np.array(place) - matrix @ (side / 2, side / 2)
    shrink = cv2.GaussianBlur(stroke, (0, 0), max(0.3, 0.35 / scale))
    mask = cv2.warpAffine(shrink, np.hstack([matrix, shift[:, None]]), (SIDE, SIDE))
    mask = np.clip(mask * rng.uniform(0.75, 1.0), 0, 1)
    canvas.rgb *= 1.0 - mask
    canvas.rgb += np.asarray(ink, np.float32)[:, None, None] * mask


def scan(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the page as scanned: uneven light, blur, grain."""
    t = np.linspace(-1, 1, SIDE, dtype=np.float32)
    slope = rng.uniform(-0.18, 0.18, 2)
    image = rgb * (1 + slope[0] * t[None, :, None] + slope[1] * t[:, None, None])
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.9))
    grain = rng.normal(0, rng.uniform(1, 8), (SIDE, SIDE, 1)).astype(np.float32)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


SIZES = (26.0, 50.0)  # of the digit, in pixels of a page of 128
SMALL_SIZES = (64.0, 88.0)  # the same where the page shrinks to fewer than 64 pixels
DISTRACTORS = (2, 5)


def write_digits_single(
    root: Any,
    images: Any = None,
    seed: int = 0,
    overwrite: bool = False,
    *,
    workers: int | None = 1,
    progress: bool = True,
    side: Any = SIDE,
) -> dict[str, Any]:
    """Draw the data set and write it, one folder per class; lists of classes are written last.

    ``side`` is that of the images, 16 to 128 pixels. Below 64 the digit fills half to two thirds of
    the page, so that 32 pixels still show it. Otherwise as :func:`write_digits`.
    """
    images = check_images(dict(IMAGES["digits_single"], **(images or {})), seed)
    if not isinstance(side, int) or not 16 <= side <= SIDE:
        raise ValueError(f"side={side!r}: a whole number from 16 to {SIDE} is needed")
    load_samples()
    jobs = [(str(root), seed, s, n, side) for s in SPLITS for n in range(images[s])]
    outputs, note = (*SPLITS, "classes.txt"), "SYNTHETIC.json"
    with generated(root, "digits_single", outputs, note, overwrite=overwrite) as summary:
        for _ in draw_all(_write_single, jobs, workers, progress, title="composing digits"):
            pass
        write_bytes(Path(root) / "classes.txt", ("\n".join(NAMES) + "\n").encode())
        expected = {split: {"images": images[split]} for split in SPLITS}
        summary.update(version=VERSION, seed=seed, side=side, expected=expected)
    return summary


def _write_single(job: Any) -> None:
    root, seed, split, number, side = job
    rng = np.random.default_rng([seed, 20 + SPLITS.index(split), number])
    # Classes in turn, in an order of their own: as even as a number of images allows.
    order = np.random.default_rng([seed, 30 + SPLITS.index(split), number // 10]).permutation(10)
    digit = int(order[number % 10])
    image, _ = draw_single(rng, split_samples(split), digit, side)
    write_image(Path(root) / split / NAMES[digit] / f"{number:05d}.jpg", image,
                rng.integers(80, 96))  # fmt: skip


def draw_single(rng: np.random.Generator, samples: np.ndarray, digit: int, side: Any = SIDE) -> Any:
    """Return a scene, ``(side, side, 3)`` uint8 RGB, and the digit's centre and size, in pixels."""
    digits, targets = load_samples()
    canvas = _page(rng, *DISTRACTORS)
    size = rng.uniform(*(SIZES if side >= SIDE // 2 else SMALL_SIZES))
    place = rng.uniform(size * 0.5, SIDE - size * 0.5, 2)
    sample = rng.choice(samples[targets[samples] == digit])
    write_digit(canvas, rng, digits[sample], place, size=size, ink=random_ink(rng))
    image = scan(canvas.image(), rng)
    if side != SIDE:
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    scale = side / SIDE
    return image, (place[0] * scale, place[1] * scale, size * scale)
