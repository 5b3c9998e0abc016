"""Tiny CelebA, VOC 2012 and VOC 2007 trees, see ``tiny``."""

from __future__ import annotations

from functools import partial

import numpy as np

from formats.tiny import TINY, image, random_labels, sizes, write_lines, write_photo
from gluon_attn.data import voc

CELEBA_NAMES = [f"Attribute_{number}" for number in range(1, 41)]


def write_celeba(root, images, rng):
    """Write ``Anno/``, ``Eval/`` and ``Img/img_align_celeba/``; return the expected counts."""
    splits = np.repeat([0, 1, 2], [images[s] for s in ("train", "val", "test")])
    labels = random_labels(rng, len(splits), len(CELEBA_NAMES))
    names = [f"{k:06d}.jpg" for k in range(1, len(splits) + 1)]
    for name, row in zip(names, labels):
        rgb = image(rng, row, 89, 109)
        write_photo(root / "Img" / "img_align_celeba" / name, rgb)
    rows = [f"{name} {' '.join(f'{v:2d}' for v in row)}" for name, row in zip(names, labels)]
    heading = [str(len(names)), " ".join(CELEBA_NAMES) + " "]
    write_lines(root / "Anno" / "list_attr_celeba.txt", heading + rows)
    lines = [f"{name} {split}" for name, split in zip(names, splits)]
    write_lines(root / "Eval" / "list_eval_partition.txt", lines)
    return sizes(images)


def write_voc(year, pattern, splits, root, images, rng):
    """Write ``VOCdevkit/VOC<year>`` with some splits; return the expected counts."""
    images = {split: images[split] for split in splits}
    folder = root / "VOCdevkit" / f"VOC{year}"
    total = sum(images.values())
    labels = random_labels(rng, total, len(voc.CLASSES))
    labels[rng.random(labels.shape) < 0.03] = 0
    ids = [pattern.format(k) for k in sorted(rng.choice(9999, total, replace=False))]
    for name, row in zip(ids, labels):
        write_photo(folder / "JPEGImages" / f"{name}.jpg", image(rng, row, 100, 75))
    where = np.repeat(list(images), list(images.values()))
    for split, wanted in {**{s: [s] for s in images}, "trainval": ["train", "val"]}.items():
        chosen = np.flatnonzero(np.isin(where, wanted))
        sets = folder / "ImageSets" / "Main"
        write_lines(sets / f"{split}.txt", [ids[k] for k in chosen])
        for column, name in enumerate(voc.CLASSES):
            lines = [f"{ids[k]} {labels[k, column]:2d}" for k in chosen]
            write_lines(sets / f"{name}_{split}.txt", lines)
    return sizes(dict(images, trainval=images["train"] + images["val"]))


TINY.register("celeba")((write_celeba, ("Anno", "Eval", "Img")))
for name, *form in (("voc", 2012, "2008_{:06d}", ("train", "val")),
                    ("voc2007", 2007, "{:06d}", ("train", "val", "test"))):  # fmt: skip
    TINY.register(name)((partial(write_voc, *form), ("VOCdevkit",)))
