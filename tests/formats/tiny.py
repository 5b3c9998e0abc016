"""Tiny trees in the official formats of the data sets.

They let readers, training and export run from end to end without the real data. Every image is a
chequer that shows its labels, one cell per column (light positive, dark negative, grey
unspecified), so a mix-up of images and labels is visible, and a net can learn something. Labels
are random. **No number on them means anything.**
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from gluon_attn.core.registry import Registry
from gluon_attn.core.text import read_json
from gluon_attn.data.synthetic.drawing import generated, write_image

IMAGES = {"train": 24, "val": 8, "test": 16}
LEVELS = {1: 215, -1: 40, 0: 128}  # grey of a cell
VERSIONS = {"rap": ("1", "2"), "peta": ("mat", "folders"),
            **dict.fromkeys(("cifar10", "cifar100"), ("python", "binary"))}  # fmt: skip
TINY = Registry("tiny data set")


def write_tiny(name, root, images=None, seed=0, overwrite=False, *, version=None, **options):
    """Write a tiny data set in an official format; return its report, see :func:`generate`.

    ``images`` is ``{split: number of images}``; missing splits take ``IMAGES``. ``version`` is
    one of the format's in ``VERSIONS``, by default the first; ``options`` are the writer's others.
    """
    from formats import tiny_classes, tiny_coco, tiny_lists, tiny_mats, tiny_reid  # noqa: F401 (they fill the registry)

    images = dict(IMAGES, **(images or {}))
    wrong = {k: n for k, n in images.items() if k not in IMAGES or n < 4}
    if wrong:
        raise ValueError(f"images={wrong}: valid are train, val and test, at least 4 each")
    if version is not None:
        options["version"] = str(version)
        if str(version) not in VERSIONS.get(name, ()):
            valid = ", ".join(VERSIONS.get(name, ())) or "(none)"
            raise ValueError(f"--version {version}: valid for {name} are {valid}")
    write, outputs = TINY.get(name)
    return generate(
        root, f"tiny {name}", outputs, lambda root, rng: write(root, images, rng, **options),
        seed=seed, overwrite=overwrite,
    )  # fmt: skip


def generate(root, generator, outputs, write, *, seed, overwrite):
    """Let ``write(root, rng)`` fill a folder; return what ``SYNTHETIC.json`` says.

    That is ``{'generator', 'seed', 'expected'}``; the expected counts replace the published ones
    when the tree is checked. FileExistsError if something else is in the way.
    """
    note = "SYNTHETIC.json"
    with generated(root, generator, outputs, note, overwrite=overwrite) as summary:
        summary.update(seed=seed, expected=write(Path(root), np.random.default_rng(seed)))
    return read_json(Path(root) / note)


def sizes(images):
    """Return the expected counts of ``{split: number of images}``."""
    return {split: {"images": n} for split, n in images.items()}


def random_labels(rng, count, width):
    """Return ``(count, width)`` labels 1 and -1; every column has both if there are two rows."""
    rates = rng.uniform(0.2, 0.7, width)
    labels = np.where(rng.random((count, width)) < rates, 1, -1)
    for column in labels.T:
        if count > 1 and abs(column.sum()) == count:
            column[rng.integers(count)] *= -1
    return labels


def image(rng, labels, width, height):
    """Return the uint8 ``(height, width, 3)`` image that shows labels in {1, -1, 0}."""
    columns = int(np.ceil(np.sqrt(len(labels) / 2)))  # people are about twice as high as wide
    rows = -(-len(labels) // columns)
    cells = np.full(rows * columns, LEVELS[0], np.float32)
    cells[: len(labels)] = [LEVELS[int(v)] for v in labels]
    chequer = cv2.resize(
        cells.reshape(rows, columns), (width, height), interpolation=cv2.INTER_NEAREST
    )
    tint = rng.uniform(-12, 12, 3) + rng.normal(0, 6, (height, width, 1))
    return np.clip(chequer[..., None] + tint, 0, 255).astype(np.uint8)


def write_photo(path, rgb):
    """Write a PNG or, whatever else its name ends in, a JPEG of quality 95."""
    path = Path(path)
    if path.suffix != ".png":
        write_image(path, rgb, 95)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imencode(".png", rgb[..., ::-1])[1].tofile(str(path))


def write_lines(path, lines):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
